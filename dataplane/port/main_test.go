package port

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newHost returns the host of a network namespace of the test's own.
func newHost(t testing.TB) *hostnet.Host {
	t.Helper()
	h, err := hostnet.Unshare()
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("needs the privilege to make network namespaces")
	}
	require.NoError(t, err)
	t.Cleanup(h.Close)
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
		// Where br_netfilter is there at all.
		if err := h.SetSysctl("0", "net", "bridge", name); !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
		}
	}
	return h
}

func id(t testing.TB, text string) vnet.ID {
	t.Helper()
	v, err := vnet.ParseID(text)
	require.NoError(t, err)
	return v
}

func spec97(t testing.TB) Spec {
	t.Helper()
	return Spec{ID: id(t, "97"), Bridge: "vnet97", Vnetif: "vnif97"}
}

func link(t testing.TB, h *hostnet.Host, name string) hostnet.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l
}

func requireNone(t testing.TB, h *hostnet.Host, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := h.LinkByName(name)
		require.ErrorIs(t, err, hostnet.ErrNotFound, name)
	}
}

// deviceNames lists all devices.
func deviceNames(t testing.TB, h *hostnet.Host) (names []string) {
	t.Helper()
	links, err := h.Links()
	require.NoError(t, err)
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

func addressOn(index int, prefix string) hostnet.Address {
	return hostnet.Address{Index: index, Prefix: netip.MustParsePrefix(prefix)}
}
