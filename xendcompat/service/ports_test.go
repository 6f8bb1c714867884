package service

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/nettest"
)

// TestPorts: the vnif first, then what others put on the bridge; and what was restored is counted.
func TestPorts(t *testing.T) {
	h := &porttest.Devices{}
	d := startDaemon(t, h, t.TempDir(), options{})
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
	bridge, err := h.LinkByName("vnet97")
	require.NoError(t, err)
	for _, name := range []string{"vif7.0", "eth5"} {
		require.NoError(t, h.CreateVeth(hostnet.Veth{Name: name, Partner: "p-" + name}))
		l, err := h.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, h.SetMaster(l.Index, bridge.Index))
	}
	ports, err := d.Ports(t.Context())
	require.NoError(t, err)
	require.Len(t, ports, 1)
	var names []string
	for _, p := range ports["vnet97"] {
		names = append(names, p.Device)
	}
	require.Equal(t, []string{"vnif97", "eth5", "vif7.0"}, names)
	require.True(t, ports["vnet97"][0].Vnif)
	require.Len(t, d.All(), 1)

	restored, failed := d.Reconciled()
	require.Zero(t, restored+failed)
	vnif, err := h.LinkByName("vnif97")
	require.NoError(t, err)
	require.NoError(t, h.Delete(vnif.Index))
	nettest.Eventually(t, "the vnif is back", func() bool {
		restored, _ := d.Reconciled()
		return restored == 1
	})
}
