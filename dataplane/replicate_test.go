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
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// Head-end replication: no group at all, a unicast copy to each host, and no duplicates where there is a
// group after all.
func TestReplicate(t *testing.T) {
	l := lab.New(t)
	one, err := l.Switch("one", 0)
	require.NoError(t, err)
	two, err := l.Switch("two", 0)
	require.NoError(t, err)
	_, err = l.Router("router", one, two)
	require.NoError(t, err)
	left, right := addHosts(t, one, 2, testConfig()), addHosts(t, two, 1, testConfig())
	all := append(left, right...)
	add(t, "97", all...)
	var domains []*lab.Domain
	var captures []*lab.Capture
	for i, h := range all {
		domains = append(domains, h.domain(i+1, "97"))
		captures = append(captures, capture(t, domains[i]))
	}
	cfg := testConfig()
	for _, h := range all { // itself included: one file for all
		cfg.Replicate = append(cfg.Replicate, NamedHost{Addr: h.Addr().String()})
	}
	for _, h := range all {
		require.NoError(t, h.Reload(cfg))
	}
	for round := range 3 {
		for i, d := range domains {
			for _, to := range [][]byte{broadcastMAC, domainMAC(77)} {
				f := testFrame(to, domainMAC(i+1), fmt.Sprint("round ", round))
				require.NoError(t, d.Send("eth0", f))
				for j, c := range captures {
					if j != i {
						expect(t, c, f)
					}
				}
			}
		}
	}
	for i, d := range domains {
		ping(t, d, domains[(i+1)%len(domains)].Addr())
	}
	for _, c := range captures {
		require.Empty(t, c.Take(), "duplicates")
	}
	require.NotZero(t, left[0].drops(DropDuplicate))
}

// replicating is one vnet on two hosts of one segment, with a domain on each, where the first host replicates to
// the second.
func replicating(t *testing.T, to func(b *lab.Host) []NamedHost) (a, b *testHost, d1, d2 *lab.Domain) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	ha, err := s.Host("A")
	require.NoError(t, err)
	hb, err := s.Host("B")
	require.NoError(t, err)
	cfg := testConfig()
	cfg.Replicate = to(hb)
	a, b = startEngine(t, ha, cfg), startEngine(t, hb, testConfig())
	add(t, "97", a, b)
	return a, b, a.domain(1, "97"), b.domain(2, "97")
}

// deliveries counts what arrives of frames from one domain at another one's capture, up to a frame that is sent
// last.
func deliveries(t *testing.T, from *lab.Domain, c *lab.Capture, send func()) map[string]int {
	t.Helper()
	send()
	last := testFrame(broadcastMAC, domainMAC(1), "the last one")
	require.NoError(t, from.Send("eth0", last))
	got := map[string]int{}
	for {
		f, err := c.Next(soon(t))
		require.NoError(t, err)
		if isData(last)(f) {
			return got
		}
		got[string(f.Data)]++
	}
}

// Copies are told from repetitions whether or not the receiver replicates, too.
func TestOneSideReplicates(t *testing.T) {
	_, b, d1, d2 := replicating(t, func(b *lab.Host) []NamedHost { return []NamedHost{{Addr: b.Addr().String()}} })
	c := capture(t, d2)
	for round := range 3 {
		got := deliveries(t, d1, c, func() {
			for i := range 20 {
				for _, to := range []net.HardwareAddr{broadcastMAC, domainMAC(77)} {
					require.NoError(t, d1.Send("eth0", testFrame(to, domainMAC(1), fmt.Sprint(round, " ", i))))
				}
			}
		})
		require.Len(t, got, 40)
		for f, n := range got {
			require.Equal(t, 1, n, "%x", f)
		}
	}
	require.NotZero(t, b.drops(DropDuplicate))
}

// A host that is named twice gets one copy.
func TestReplicaTwice(t *testing.T) {
	a, _, _, _ := replicating(t, func(b *lab.Host) []NamedHost {
		return []NamedHost{{Addr: b.Addr().String()}, {Addr: b.Addr().String(), Port: wire.Port}}
	})
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
	a, _, d1, _ := replicating(t, func(*lab.Host) []NamedHost { return nil })
	c, err := a.Capture("eth0", func(f lab.Frame) bool { return f.Outgoing && f.EtherType() == 0x0800 && len(f.Data) > 42 })
	require.NoError(t, err)
	frame := testFrame(domainMAC(77), domainMAC(5), "nobody knows me")
	require.NoError(t, d1.Send("eth0", frame))
	announced := false
	_, err = c.WaitFor(soon(t), func(f lab.Frame) bool {
		payload := f.Data[42:]
		if m, err := wire.DecodeVARP(payload); err == nil && m.Opcode == wire.Announce && m.MAC == wire.MAC(domainMAC(5)) {
			announced = true
		}
		_, inner, err := wire.DecodeVUDP(payload)
		return err == nil && string(inner) == string(frame)
	})
	require.NoError(t, err)
	require.True(t, announced)
}
