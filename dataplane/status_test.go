package dataplane

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Numbers are read while the engine's lock is held: nobody who asks for them waits for a cold operation.
func TestCountersWaitForNobody(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	m.send(0, testFrame(broadcastMAC, domainMAC(1), "hello"))
	h := m.hosts[1]
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.Counters()
	require.Len(t, c.Drops, int(reasons))
	require.Len(t, c.Vnets, 1)
	require.Equal(t, idOf(t, "97"), c.Vnets[0].ID)
	require.Equal(t, Traffic{Packets: 1, Frames: 1, Bytes: 60}, c.Vnets[0].Rx)
	require.Zero(t, c.Vnets[0].Tx)
	require.Equal(t, 1, c.Tables.Entries)
	require.Len(t, h.Entries(Filter{}), 1)
	require.Empty(t, h.Vifs(Filter{}))
}

func TestFilters(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	h := m.hosts[0]
	now := h.now()
	key := func(id string, n int) varp.Key { return varp.Key{Vnet: idOf(t, id), MAC: wire.MAC(domainMAC(n))} }
	a, b := netip.MustParseAddr("10.9.1.2"), netip.MustParseAddr("10.9.1.3")
	h.table.LearnRemote(key("97", 1), a, varp.Frame, now)
	h.table.LearnRemote(key("97", 2), b, varp.Frame, now)
	h.table.LearnRemote(key("98", 3), a, varp.Frame, now)
	h.table.LearnLocal(key("97", 4), now)
	h.pending.Ask(key("97", 5), now)
	for i := range 12 {
		h.table.LearnRemote(key("98", 3), netip.AddrFrom4([4]byte{10, 8, 0, byte(i)}), varp.Frame, now)
	}
	macs := func(f Filter) (out []wire.MAC) {
		for _, e := range h.Entries(f) {
			out = append(out, e.MAC)
		}
		return out
	}
	of := func(list ...int) (out []wire.MAC) {
		for _, n := range list {
			out = append(out, wire.MAC(domainMAC(n)))
		}
		return out
	}
	require.Equal(t, of(1, 2, 5, 3), macs(Filter{}), "by vnet, then by MAC")
	require.Equal(t, of(1, 2, 5), macs(Filter{Vnet: idOf(t, "97")}))
	require.Equal(t, of(1, 3), macs(Filter{Addr: a}))
	require.Equal(t, of(3), macs(Filter{Damped: true}))
	require.Empty(t, macs(Filter{Vnet: vnet.ID{15: 0x99}}))
	require.Len(t, h.Vifs(Filter{Vnet: idOf(t, "97")}), 1)
	require.Empty(t, h.Vifs(Filter{Vnet: idOf(t, "98")}))
	require.Equal(t, map[netip.Addr]int{a: 2, b: 1}, h.table.Behind())
}
