package port

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/vnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newHost returns the host of a network namespace of the test's own.
func newHost(t testing.TB) *hostnet.Host { return nettest.Host(t) }

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
