package dataplane

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// What is dropped is counted for its vnet and for the host that it came from, where they are known, and once in all; vnets and
// hosts of which nothing was dropped take no memory for it.
func TestDropsByVnetAndHost(t *testing.T) {
	m, w, n := handDriven(t, testConfig())
	h := m.hosts[0]
	other := h.attach(configOf(t, "98"))
	w.view = h.view.Load()
	from := netip.MustParseAddr("10.9.1.2")
	require.NotNil(t, h.Engine.hosts.See(from, w.now))
	a := arrival{uplink: w.view.uplinks[underlay.IPv4], from: from, outer: from, by: dedup.Unicast}
	w.from = from
	bad := make([]byte, 60)
	bad[6] = 1 // a group's MAC as the source
	for range 3 {
		w.fromHost(append(wire.AppendVUDP(nil, n.config.ID), bad...), a)
	}
	w.fromHost(append(wire.AppendVUDP(nil, vnet.ID{1}), bad...), a) // of no vnet here
	w.from = netip.Addr{}
	w.outward(n, bad[:5], wire.VnetHdr{})

	c := h.Counters()
	require.Equal(t, []Drop{{DropSource, 3}, {DropFrame, 1}}, c.Vnets[0].Drops)
	require.Empty(t, c.Vnets[1].Drops)
	require.Nil(t, other.shares[0].drops.Load(), "no memory")
	s := h.Status()
	require.Equal(t, c.Vnets[0].Drops, s.Vnets[0].Drops)
	require.Len(t, s.Hosts, 1)
	require.Equal(t, []Drop{{DropUnknownVnet, 1}, {DropSource, 3}}, s.Hosts[0].Dropped)
	for reason, want := range map[Reason]uint64{DropSource: 3, DropFrame: 1, DropUnknownVnet: 1} {
		require.Equal(t, want, c.Drops[reason].Count, reason)
	}
	// It costs nothing once it was counted.
	require.Zero(t, testing.AllocsPerRun(100, func() { w.outward(n, bad[:5], wire.VnetHdr{}) }))
}
