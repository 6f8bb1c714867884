package hostnet

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNeighbours(t *testing.T) {
	h := newHost(t)
	require.NoError(t, h.CreateVeth(Veth{Name: "a", Partner: "b"}))
	a, err := h.LinkByName("a")
	require.NoError(t, err)
	b, err := h.LinkByName("b")
	require.NoError(t, err)
	require.NoError(t, h.SetUp(a.Index))
	require.NoError(t, h.SetUp(b.Index))
	require.NoError(t, h.AwaitRunning(t.Context(), a.Index))
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	want := []Neighbour{
		{Index: a.Index, Addr: netip.MustParseAddr("192.0.2.9"), MAC: mac},
		{Index: a.Index, Addr: netip.MustParseAddr("192.0.2.10"), MAC: mac, Permanent: true},
		{Index: a.Index, Addr: netip.MustParseAddr("2001:db8::9"), MAC: mac},
	}
	for _, n := range want {
		require.NoError(t, h.EnsureNeighbour(n))
		require.NoError(t, h.EnsureNeighbour(n), "again")
	}
	got, err := h.Neighbours(a.Index)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
	got, err = h.Neighbours(b.Index)
	require.NoError(t, err)
	require.Empty(t, got)
	require.Error(t, h.EnsureNeighbour(Neighbour{Index: 1 << 20, Addr: want[0].Addr, MAC: mac}))
}

func FuzzParseNeighbour(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 1, 8, 0, 1, 0, 192, 0, 2, 9, 10, 0, 2, 0, 2, 0, 0, 0, 0, 9, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, ok := parseNeighbour(b); ok {
			require.True(t, n.Addr.IsValid())
			require.Len(t, n.MAC, 6)
		}
	})
}
