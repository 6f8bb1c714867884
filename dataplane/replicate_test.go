package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// Head-end replication: no group at all between some, a unicast copy to each host, and no duplicates where there is a
// group after all.
func TestReplicate(t *testing.T) {
	cfg := testConfig()
	cfg.Replicate = []NamedHost{{Addr: "10.9.1.1"}, {Addr: "10.9.1.2"}, {Addr: "10.9.1.3"}} // itself included: one file for all
	m := newMemory(t, 3, cfg)
	far := m.hosts[2].addr
	m.net.Lost = func(p underlaytest.Packet, to netip.Addr) bool {
		return p.To.Addr().IsMulticast() && (to == far) != (p.From.Addr() == far) // another segment
	}
	for round := range 3 {
		for i := range m.hosts {
			for _, to := range [][]byte{broadcastMAC, domainMAC(77)} {
				f := testFrame(to, domainMAC(i+1), fmt.Sprint("round ", round))
				m.send(i, f)
				want := [][][]byte{frames(f), frames(f), frames(f)}
				want[i] = nil
				m.requireGot(want...)
				m.advance(time.Second)
			}
		}
	}
	require.NotZero(t, m.hosts[0].drop(DropDuplicate))
	for i := range m.hosts {
		f := testFrame(domainMAC((i+1)%3+1), domainMAC(i+1), "to one")
		m.send(i, f)
		want := make([][][]byte, 3)
		want[(i+1)%3] = frames(f)
		m.requireGot(want...)
	}
}

// Copies are told from repetitions whether or not the receiver replicates, too.
func TestOneSideReplicates(t *testing.T) {
	cfg := testConfig()
	m := &memory{t: t, net: &underlaytest.Net{}, group: cfg.Group}
	cfg.Replicate = []NamedHost{{Addr: "10.9.1.2"}}
	m.host(cfg)
	b := m.host(testConfig())
	for round := range 3 {
		for i := range 20 {
			for _, to := range []net.HardwareAddr{broadcastMAC, domainMAC(77)} {
				f := testFrame(to, domainMAC(1), fmt.Sprint(round, " ", i))
				m.send(0, f)
				m.requireGot(nil, frames(f))
			}
		}
		m.advance(time.Second)
	}
	require.NotZero(t, b.drop(DropDuplicate))
}

// A host that is named twice gets one copy.
func TestReplicaTwice(t *testing.T) {
	cfg := testConfig()
	cfg.Replicate = []NamedHost{{Addr: "10.9.1.2"}, {Addr: "10.9.1.2", Port: wire.Port}}
	a := newMemory(t, 1, cfg).hosts[0]
	require.Len(t, a.view.Load().replicas, 1)
	require.Len(t, a.Snapshot().Replicate, 2)
}

// A domain may send one and the same frame to everybody, and then to the host that its MAC is known to be on.
func TestSameFrameFloodedAndUnicast(t *testing.T) {
	cfg := testConfig()
	cfg.Replicate = []NamedHost{{Addr: "10.9.1.77"}}
	_, w, n := handDriven(t, cfg)
	other := netip.MustParseAddr("10.9.1.2")
	from := arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, to: w.view.uplinks[underlay.IPv4].path.Source}
	flooded := from
	flooded.by, flooded.to = dedup.Group, wire.Group
	b := vudp(n.config.ID, testFrame(domainMAC(2), domainMAC(1), "again and again"))
	share := &n.shares[0]
	for range 20 {
		w.fromHost(b, flooded)
	}
	for range 20 {
		w.fromHost(b, from)
	}
	w.deliver()
	require.EqualValues(t, 40, share.rxPackets.Load())

	// An answer is by unicast.
	key := varp.Key{Vnet: n.config.ID, MAC: wire.MAC(domainMAC(3))}
	require.True(t, w.engine.pending.Ask(key, w.now))
	announce := varpMessage(wire.Announce, n.config.ID, domainMAC(3), other)
	w.fromHost(announce, from)
	require.False(t, w.engine.hosts.See(other, w.now).Replicates(w.now))

	w.fromHost(announce, from) // over the other family, or from another interface
	require.False(t, w.engine.hosts.See(other, w.now).Replicates(w.now))
	w.engine.pending.Sweep(w.now + int64(time.Minute) + 1)
	require.False(t, w.engine.pending.Waits(key))

	// But a host that says so unasked floods by unicast as well: the same would be copies. So does who asks.
	w.fromHost(varpMessage(wire.Announce, n.config.ID, domainMAC(4), other), from)
	require.True(t, w.engine.hosts.See(other, w.now).Replicates(w.now))
	asks := from
	asks.from = other.Next()
	w.fromHost(varpMessage(wire.Request, n.config.ID, domainMAC(4), asks.from), asks)
	require.True(t, w.engine.hosts.See(asks.from, w.now).Replicates(w.now))
	b = vudp(n.config.ID, testFrame(domainMAC(2), domainMAC(1), "once by each way"))
	for range 20 {
		w.fromHost(b, from)
		w.fromHost(b, flooded)
	}
	w.deliver()
	require.EqualValues(t, 60, share.rxPackets.Load())
	require.EqualValues(t, 20, w.drops[DropDuplicate].Load())
}

// A MAC is announced before its first frame goes, so that a replica knows of copies when they come.
func TestAnnounceFirst(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	o := m.stranger()
	frame := testFrame(domainMAC(77), domainMAC(5), "nobody knows me")
	m.send(0, frame)
	got := o.heard(func(heardPacket) bool { return true })
	require.Len(t, got, 2)
	require.Equal(t, varpMessage(wire.Announce, idOf(t, "97"), domainMAC(5), m.hosts[0].addr), got[0].Payload)
	require.Equal(t, vudp(idOf(t, "97"), frame), got[1].Payload)
}
