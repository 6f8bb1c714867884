package service

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/registry"
)

// A reload makes bridges of earlier releases, whose MAC and MTU were those of their ports, keep both, and gives bridges
// what the configuration says now.
func TestReloadMendsBridges(t *testing.T) {
	h := newHost(t)
	log := nettest.Logger(t, "")
	reg, err := registry.Open(registry.Options{Dir: t.TempDir(), Log: log})
	require.NoError(t, err)
	defer reg.Close()
	// No reconciler runs: what is mended, the reload mends.
	s := New(Options{Registry: reg, Domains: domain.NewManager(domain.Options{}), Devices: &port.Maker{Host: h}, Log: log})
	require.NoError(t, s.CreateVnet(t.Context(), config(t, "(vnet (id 97) (bridge vnet97))")))
	vnif, err := h.LinkByName("vnif97")
	require.NoError(t, err)
	before, err := h.LinkByName("vnet97")
	require.NoError(t, err)
	require.NoError(t, h.Delete(before.Index))
	b, err := h.CreateBridge(hostnet.Bridge{Name: "vnet97", Group: port.Group})
	require.NoError(t, err)
	require.NoError(t, h.SetAlias(b.Index, before.Alias))
	require.NoError(t, h.SetMaster(vnif.Index, b.Index))
	require.NoError(t, h.SetUp(b.Index))
	joins := func(name string, mac byte, mtu int) hostnet.Link {
		t.Helper()
		require.NoError(t, h.CreateVeth(hostnet.Veth{Name: name, Partner: name + "p", MAC: net.HardwareAddr{0, 0, 0, 0, 0, mac}, MTU: mtu}))
		l, err := h.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, h.SetMaster(l.Index, b.Index))
		l, err = h.LinkByIndex(b.Index)
		require.NoError(t, err)
		return l
	}
	follows := joins("one", 9, 1400)
	require.Equal(t, "00:00:00:00:00:09", follows.MAC.String(), "it is one that follows its ports")
	require.Equal(t, 1400, follows.MTU)

	nothing := func() error { return nil }
	require.NoError(t, s.Reconfigure(t.Context(), Settings{ForwardMask: 0x4008}, nothing))
	mended := joins("two", 3, 1300)
	require.Equal(t, follows.MAC, mended.MAC, "it keeps the MAC that it has")
	require.Equal(t, port.DefaultMTU, mended.MTU)
	d, err := h.Detail(b.Index)
	require.NoError(t, err)
	require.EqualValues(t, 0x4008, d.ForwardMask)

	require.NoError(t, s.Reconfigure(t.Context(), Settings{MTU: 1450}, nothing))
	mended, err = h.LinkByIndex(b.Index)
	require.NoError(t, err)
	require.Equal(t, 1450, mended.MTU)
	d, err = h.Detail(b.Index)
	require.NoError(t, err)
	require.Zero(t, d.ForwardMask)
}
