package dataplane

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/underlay"
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
	require.Equal(t, map[vnet.ID]MACs{idOf(t, "97"): {Elsewhere: 1}}, h.MACs())
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

// Who sent what was dropped is known for each reason, and nobody for what the own bridge brought.
func TestDropSources(t *testing.T) {
	m, w, n := handDriven(t, testConfig())
	e := m.hosts[0]
	for i, addr := range []string{"10.9.1.2", "10.9.1.3", "10.9.1.4", "10.9.1.5"} {
		for range i + 1 {
			p := underlay.Packet{Data: []byte{0, 9}, SegSize: 2, From: netip.AddrPortFrom(netip.MustParseAddr(addr), 1798), To: e.addr, Index: underlayIndex}
			a, ok := w.arrival(w.view.uplinks[underlay.IPv4], &p)
			require.True(t, ok)
			w.fromHost(p.Data, a)
		}
	}
	sources := e.Counters().Sources
	require.Len(t, sources, shownSources)
	reason := sources[0].Reason
	require.Equal(t, []Sender{
		{reason, netip.MustParseAddr("10.9.1.5"), 4}, {reason, netip.MustParseAddr("10.9.1.4"), 3}, {reason, netip.MustParseAddr("10.9.1.3"), 2},
	}, sources)
	m.send(0, []byte{1, 2, 3})
	require.EqualValues(t, 1, w.drops[DropFrame].Load())
	require.Len(t, e.Counters().Sources, shownSources)
	_ = n
}

// Packets to everybody and those to one host are told apart.
func TestFlooded(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	m.send(0, testFrame(broadcastMAC, domainMAC(1), "all"))
	m.send(1, testFrame(domainMAC(1), domainMAC(2), "one"))
	m.send(0, testFrame(domainMAC(2), domainMAC(1), "one"))
	c := m.hosts[0].Counters().Vnets[0]
	require.EqualValues(t, 2, c.Tx.Packets)
	require.EqualValues(t, 1, c.Flooded)
	require.EqualValues(t, 1, m.hosts[0].Status().Vnets[0].Flooded)
}
