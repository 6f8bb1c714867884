package dataplane

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// The extensions: what originals do not have.

// run runs an engine that was made by hand, until stop is called.
func run(t testing.TB, e *Engine) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// Hosts that have only IPv6 between them, with the group and with unicast only.
func TestIPv6Underlay(t *testing.T) {
	cfg := testConfig()
	cfg.IPv6 = true
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	hosts := addHosts(t, s, 3, cfg)
	for _, h := range hosts[:2] { // the third has both
		_, err := h.Host.Run(soon(t), "ip", "-4", "addr", "flush", "dev", "eth0")
		require.NoError(t, err)
		eventually(t, "IPv4 gone", func() bool { return !h.Snapshot().Underlays[0].Up })
	}
	add(t, "97", hosts...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97")
	for _, d := range []*lab.Domain{d2, d3} {
		ping(t, d1, d.Addr())
		_, err = lab.Transfer(soon(t), d1.Node, d.Node, d.Addr(), 16<<20)
		require.NoError(t, err)
		_, err = lab.Transfer(soon(t), d.Node, d1.Node, d1.Addr(), 16<<20)
		require.NoError(t, err)
	}
	_, err = d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
	for _, e := range hosts[0].Snapshot().Entries {
		require.True(t, e.Addr.Is6(), e.Addr)
	}
	u := hosts[0].Snapshot().Underlays[1]
	require.Equal(t, "ipv6", u.Family)
	require.Equal(t, hosts[0].Addr6(), u.Address)
	require.Equal(t, 1416, u.Inner)
}

// A host that has only IPv6 is not told that it is cut off.
func TestOnlyIPv6(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	dev, err := h.Uplink().Link()
	require.NoError(t, err)
	require.NoError(t, h.Net.DeleteAddress(hostnet.Address{Index: dev.Index, Prefix: h.Uplink().Addr4}))
	cfg := testConfig()
	cfg.IPv6 = true
	var log bytes.Buffer
	e, err := New(cfg, h.Net, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	stop := run(t, e)
	eventually(t, "IPv6 is up", func() bool {
		u := e.Snapshot().Underlays
		return len(u) == 2 && u[1].Up
	})
	stop()
	require.Contains(t, log.String(), "no underlay of this family")
	require.NotContains(t, log.String(), "cut off")
}

// Where every host has both families, each is known by one address, and nothing is taken for a move.
func TestBothFamilies(t *testing.T) {
	cfg := testConfig()
	cfg.IPv6 = true
	_, _, hosts := newLab(t, 3, cfg)
	add(t, "97", hosts...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97")
	c2, c3 := capture(t, d2), capture(t, d3)
	for i := range 30 {
		f := testFrame(broadcastMAC, domainMAC(1), fmt.Sprint(i))
		require.NoError(t, d1.Send("eth0", f))
		expect(t, c2, f)
		expect(t, c3, f)
		ping(t, d2, d3.Addr())
	}
	require.Empty(t, c2.Take())
	for _, h := range hosts {
		require.NotZero(t, h.drops(DropDuplicate))
		require.Zero(t, h.Snapshot().Tables.Damped)
	}
}

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
		cfg.Replicate = append(cfg.Replicate, Peer{Addr: h.Addr().String()})
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
func replicating(t *testing.T, to func(b *lab.Host) []Peer) (a, b *testHost, d1, d2 *lab.Domain) {
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
	_, b, d1, d2 := replicating(t, func(b *lab.Host) []Peer { return []Peer{{Addr: b.Addr().String()}} })
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
	a, _, _, _ := replicating(t, func(b *lab.Host) []Peer {
		return []Peer{{Addr: b.Addr().String()}, {Addr: b.Addr().String(), Port: wire.Port}}
	})
	require.Len(t, a.view.Load().replicas, 1)
	require.Len(t, a.Snapshot().Replicate, 2)
}

// A domain may send one and the same frame to everybody, and then to the host that its MAC is known to be on.
func TestSameFrameFloodedAndUnicast(t *testing.T) {
	cfg := testConfig()
	cfg.Replicate = []Peer{{Addr: "10.9.1.77"}}
	_, w, n := handDriven(t, cfg)
	other := netip.MustParseAddr("10.9.1.2")
	from := arrival{link: w.view.links[underlay.IPv4], from: other, outer: other, to: w.view.links[underlay.IPv4].path.Source}
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

// What is forwarded is not made to fit: that is for who gets it.
func TestForwardedUnclamped(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	cfg.Peers = []Peer{{Addr: "10.9.1.200"}}
	_, w, n := handDriven(t, cfg)
	syn := append(append(append([]byte{}, broadcastMAC...), domainMAC(9)...), 8, 0)
	mss := []byte{2, 4, 5, 0xb4}
	syn, err := wire.AppendIPv4(syn, wire.IPv4{
		Source: netip.MustParseAddr("10.97.0.9"), Destination: netip.MustParseAddr("10.97.0.1"), Protocol: 6, TTL: 64}, 20+len(mss))
	require.NoError(t, err)
	tcp := make([]byte, 20)
	tcp[12], tcp[13] = 6<<4, 2
	syn = append(append(syn, tcp...), mss...)
	b := vudp(n.config.ID, syn)
	came := string(b)
	other := netip.MustParseAddr("10.9.1.2")
	w.fromHost(b, arrival{link: w.view.links[underlay.IPv4], from: other, outer: other, to: wire.Group, by: dedup.Group})
	require.Len(t, w.queue, 1)
	require.Equal(t, came, string(w.queue[0].parts[1]))
	w.flush()
	w.deliver()
	require.Equal(t, []byte{2, 4, 0x05, 0x74}, b[len(b)-4:]) // 1396
}

// A MAC is announced before its first frame goes, so that a replica knows of copies when they come.
func TestAnnounceFirst(t *testing.T) {
	a, _, d1, _ := replicating(t, func(*lab.Host) []Peer { return nil })
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

// Names are looked up, and again when they change.
func TestNames(t *testing.T) {
	cfg := testConfig()
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	cfg.ResolveInterval = 20 * time.Millisecond
	cfg.Peers = []Peer{{Addr: "peer.example"}, {Addr: "192.0.2.1", Port: 1799}}
	cfg.Replicate = []Peer{{Addr: "replica.example"}, {Addr: "nowhere.example"}}
	var current atomic.Pointer[netip.Addr]
	first := netip.MustParseAddr("192.0.2.7")
	current.Store(&first)
	e, err := New(cfg, h.Net, logger(t, "A"))
	require.NoError(t, err)
	e.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		if name == "nowhere.example" {
			return nil, fmt.Errorf("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("2001:db8::1"), *current.Load()}, nil
	}
	defer run(t, e)()
	resolvedTo := func(a netip.Addr) func() bool {
		return func() bool {
			s := e.Snapshot()
			return len(s.Peers) == 2 && s.Peers[1].Addr == a && s.Peers[1].Name == "peer.example" &&
				s.Replicate[0].Addr == a && s.Replicate[1].Problem == "no such host"
		}
	}
	eventually(t, "resolved", resolvedTo(first))
	require.EqualValues(t, 1799, e.Snapshot().Peers[0].Port)
	second := netip.MustParseAddr("192.0.2.8")
	current.Store(&second)
	eventually(t, "resolved again", resolvedTo(second))
}

// One name may stand for all hosts; a peer that was removed stays so under another address.
func TestNamesOfManyHosts(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	cfg := testConfig()
	cfg.ResolveInterval = 20 * time.Millisecond
	cfg.Replicate = []Peer{{Addr: "hosts.example"}, {Addr: "me.example"}, {Addr: "link.example"}}
	cfg.Peers = []Peer{{Addr: "hosts.example"}}
	e, err := New(cfg, h.Net, logger(t, "A"))
	require.NoError(t, err)
	other, later := h.Addr().Next(), h.Addr().Next().Next()
	var current atomic.Pointer[netip.Addr]
	current.Store(&other)
	asked := make(chan struct{})
	e.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		switch name {
		case "me.example":
			return []netip.Addr{h.Addr()}, nil
		case "link.example":
			return []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}, nil
		}
		return []netip.Addr{h.Addr(), *current.Load()}, nil
	}
	defer run(t, e)()
	eventually(t, "resolved", func() bool {
		s := e.Snapshot()
		return len(s.Peers) == 1 && s.Replicate[1].Addr.IsValid() && s.Replicate[2].Problem == "it has no address that can be used"
	})
	require.Equal(t, other, e.Peers()[0].Addr)
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(other, wire.Port)}, e.view.Load().replicas)
	require.Len(t, e.Snapshot().Hosts, 1, "this host itself is no other")

	require.NoError(t, e.RemovePeer(soon(t), other))
	current.Store(&later)
	key := varp.Key{Vnet: idOf(t, "97"), MAC: wire.MAC(domainMAC(9))}
	e.table.LearnRemote(key, other, varp.Announce, e.now())
	eventually(t, "resolved again", func() bool { return e.Snapshot().Replicate[0].Addr == later })
	eventually(t, "MACs of the former address forgotten", func() bool {
		_, known := e.table.Lookup(key)
		return !known
	})
	for range 10 {
		<-asked // each of the names, more than once
	}
	require.Empty(t, e.Peers())
	require.NoError(t, e.AddPeer(soon(t), later, 0))
	require.Len(t, e.Peers(), 1)
}

// What cannot work is refused.
func TestValidate(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"replicate fe80::1%eth0 is not the address of a host":       func(c *Config) { c.IPv6 = true; c.Replicate = []Peer{{Addr: "fe80::1%eth0"}} },
		"replicate fe80::1 is not the address of a host":            func(c *Config) { c.IPv6 = true; c.Replicate = []Peer{{Addr: "fe80::1"}} },
		"replicate 2001:db8::7 is an IPv6 address, and ipv6 is off": func(c *Config) { c.Replicate = []Peer{{Addr: "2001:db8::7"}} },
		"replicate 192.0.2.1: port 1799 is not the port 1798":       func(c *Config) { c.Replicate = []Peer{{Addr: "192.0.2.1", Port: 1799}} },
		"peer 2001:db8::7: VFWD carries IPv4 only":                  func(c *Config) { c.Peers = []Peer{{Addr: "2001:db8::7"}} },
		"peer 224.10.0.1 is not the address of a host":              func(c *Config) { c.Peers = []Peer{{Addr: "224.10.0.1"}} },
		"group 192.0.2.1 is not an IPv4 multicast address":          func(c *Config) { c.Group = netip.MustParseAddr("192.0.2.1") },
		"bum_rate -1 is negative":                                   func(c *Config) { c.BUMRate = -1 },
	} {
		c := testConfig()
		change(&c)
		require.ErrorContains(t, c.Validate(), name)
	}
	c := testConfig()
	c.IPv6 = true
	c.Replicate = []Peer{{Addr: "2001:db8::7"}, {Addr: "192.0.2.1", Port: c.Port}, {Addr: "b.example"}}
	c.Peers = []Peer{{Addr: "192.0.2.2", Port: 1799}}
	require.NoError(t, c.Validate())
}

// The BUM rate limit holds back floods, but not what makes a network work.
func TestBUMRate(t *testing.T) {
	cfg := testConfig()
	cfg.BUMRate = 10
	_, _, hosts := newLab(t, 2, cfg)
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	c := capture(t, d2)
	for i := range 100 {
		require.NoError(t, d1.Send("eth0", testFrame(broadcastMAC, domainMAC(1), fmt.Sprint(i))))
	}
	eventually(t, "limited", func() bool { return hosts[0].drops(DropRate) >= 50 })
	ping(t, d1, d2.Addr()) // ARP
	require.Less(t, len(c.Take()), 50)
}

// A super-frame counts as the frames that it becomes.
func TestBUMRateOfSuperFrames(t *testing.T) {
	cfg := testConfig()
	cfg.BUMRate = 10
	_, w, n := handDriven(t, cfg)
	f := udpFrame(t, net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, 1, make([]byte, 42_000))
	gso := wire.VnetHdr{Flags: wire.FlagNeedsCsum, GSOType: wire.GSOUDPL4, HdrLen: 42, GSOSize: 1400, CsumStart: 34, CsumOffset: 6}
	second := func() (packets, drops uint64) {
		packets, drops = n.shares[0].txPackets.Load(), w.drops[DropRate].Load()
		for range 10 {
			w.outward(n, f, gso)
			w.transmit(n)
		}
		return n.shares[0].txPackets.Load() - packets, w.drops[DropRate].Load() - drops
	}
	packets, drops := second()
	require.EqualValues(t, 30, packets)
	require.EqualValues(t, 9*30, drops)
	for range 2 { // what was owed is paid
		w.now += int64(time.Second)
		packets, _ = second()
		require.Zero(t, packets)
	}
	w.now += int64(time.Second)
	packets, _ = second()
	require.EqualValues(t, 30, packets)

	// What cannot be sent is not paid for, and debts have a bound.
	w.now += int64(time.Minute)
	gso.GSOSize = 1
	packets, _ = second()
	require.Zero(t, packets)
	require.EqualValues(t, 10, w.drops[DropFrame].Load())
	gso.GSOSize = 42
	packets, _ = second()
	require.EqualValues(t, 1000, packets)
	w.now += int64(11 * time.Second)
	packets, _ = second()
	require.EqualValues(t, 1000, packets)
}

func TestExempt(t *testing.T) {
	eth := func(parts ...[]byte) []byte {
		f := append(append([]byte{}, broadcastMAC...), domainMAC(1)...)
		for _, p := range parts {
			f = append(f, p...)
		}
		return f
	}
	ipv4 := func(proto byte, payload ...byte) []byte {
		h := make([]byte, 20)
		h[0], h[9] = 0x45, proto
		return append(h, payload...)
	}
	ipv6 := func(next byte, payload ...byte) []byte {
		h := make([]byte, 40)
		h[0], h[6] = 0x60, next
		return append(h, payload...)
	}
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"ARP":               {eth([]byte{8, 6}, make([]byte, 28)), true},
		"tagged ARP":        {eth([]byte{0x81, 0, 0, 5, 8, 6}, make([]byte, 28)), true},
		"DHCP":              {eth([]byte{8, 0}, ipv4(17, 0, 68, 0, 67, 0, 8, 0, 0)), true},
		"other UDP":         {eth([]byte{8, 0}, ipv4(17, 0, 68, 0, 99, 0, 8, 0, 0)), false},
		"TCP":               {eth([]byte{8, 0}, ipv4(6, 0, 68, 0, 67, 0, 8, 0, 0)), false},
		"short IPv4":        {eth([]byte{8, 0}, []byte{0x45}), false},
		"IPv4, no header":   {eth([]byte{8, 0}, ipv4(17)), false},
		"neighbour":         {eth([]byte{0x86, 0xdd}, ipv6(58, 135, 0, 0, 0)), true},
		"router":            {eth([]byte{0x86, 0xdd}, ipv6(58, 134, 0, 0, 0)), true},
		"echo":              {eth([]byte{0x86, 0xdd}, ipv6(58, 128, 0, 0, 0)), false},
		"DHCPv6":            {eth([]byte{0x86, 0xdd}, ipv6(17, 2, 34, 2, 35, 0, 8, 0, 0)), true},
		"short IPv6":        {eth([]byte{0x86, 0xdd}, []byte{0x60}), false},
		"LLC":               {eth([]byte{0, 3}, []byte{1, 2, 3}), false},
		"tags to the end":   {eth([]byte{0x81, 0, 0, 5, 0x81, 0, 0, 5, 0x81, 0}), false},
		"nothing but MACs":  {eth(), false},
		"a tag's beginning": {eth([]byte{0x81, 0}), false},
	} {
		require.Equal(t, c.want, exempt(c.frame), name)
	}
}

// mtu_mode pmtu: senders are told what fits, and nothing is fragmented.
func TestPathMTU(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	_, s, hosts := newLab(t, 2, cfg)
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	ping(t, d1, d2.Spec.Addrs[1].Addr())
	fragments, err := s.Capture(func(f lab.Frame) bool {
		return f.EtherType() == 0x0800 && binary.BigEndian.Uint16(f.Data[20:])&0x3fff != 0
	})
	require.NoError(t, err)
	for _, to := range d2.Spec.Addrs {
		_, err = lab.Transfer(soon(t), d1.Node, d2.Node, to.Addr(), 8<<20)
		require.NoError(t, err)
	}
	// A large DF ping draws an ICMP error; after it the kernel knows.
	told, err := d1.Capture("eth0", func(f lab.Frame) bool {
		return !f.Outgoing && f.EtherType() == 0x0800 && f.Data[23] == 1 && f.Data[34] == 3 && f.Data[35] == 4
	})
	require.NoError(t, err)
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
	f, err := told.Next(soon(t))
	require.NoError(t, err)
	p.Close()
	require.EqualValues(t, 1436, binary.BigEndian.Uint16(f.Data[40:]))
	_, err = d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1408, DontFragment: true})
	require.NoError(t, err)
	require.NotZero(t, hosts[0].drops(DropTooBig))
	require.Empty(t, fragments.Take())
}

// What IPv6 must carry passes however little fits, in fragments of outer packets.
func TestPathMTUOfSmallUnderlay(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	l := lab.New(t)
	s, err := l.Switch("lan", 1300)
	require.NoError(t, err)
	hosts := addHosts(t, s, 2, cfg)
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	to := d2.Spec.Addrs[1].Addr()
	ping(t, d1, to)
	told, err := d1.Capture("eth0", func(f lab.Frame) bool {
		return !f.Outgoing && f.EtherType() == 0x86dd && f.Data[20] == 58 && f.Data[54] == 2
	})
	require.NoError(t, err)
	_, err = d1.Ping(soon(t), to, lab.PingOptions{Size: 1280 - 48})
	require.NoError(t, err)
	require.Empty(t, told.Take())
	p, err := d1.StartPing(to, lab.PingOptions{Size: 1281 - 48})
	require.NoError(t, err)
	f, err := told.Next(soon(t))
	require.NoError(t, err)
	p.Close()
	require.EqualValues(t, 1280, binary.BigEndian.Uint32(f.Data[58:]))
}

// Answers to frames that do not fit have a limit.
func TestTooBigRate(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	m, w, n := handDriven(t, cfg)
	m.hosts[0].table.LearnRemote(varp.Key{Vnet: n.config.ID, MAC: wire.MAC(domainMAC(1))}, netip.MustParseAddr("10.9.1.2"), varp.Announce, w.now)
	large := udpFrame(t, domainMAC(1), 0, make([]byte, 1472))
	large[20] |= 0x40 // DF
	const frames = 5 * tooBigRate
	for range frames {
		w.outward(n, large, wire.VnetHdr{})
	}
	require.Empty(t, w.unicast.Trains())
	require.EqualValues(t, frames, w.drops[DropTooBig].Load())
	told := m.got(0)
	require.Len(t, told, tooBigRate)
	for _, f := range told {
		require.EqualValues(t, 1436, binary.BigEndian.Uint16(f[40:]))
	}
	require.Zero(t, w.drops[DropPort].Load())
	require.False(t, w.tooBigs.take(w.now, 1))
}

// Where the network changes all the time, it is looked at nevertheless.
func TestSteadyChanges(t *testing.T) {
	e, _, _, h, _ := handDrivenLab(t, testConfig())
	dev, err := h.Net.LinkByName("eth0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	watch, steady, ended := make(chan hostnet.Event), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case watch <- hostnet.RouteEvent{}:
			case <-ctx.Done():
				return
			}
			if i == 1000 { // the look at the start is over
				close(steady)
			}
		}
	}()
	done := make(chan error, 1)
	go func() { done <- e.control(ctx, watch) }()
	<-steady
	require.NoError(t, h.Net.SetMTU(dev.Index, 1400))
	eventually(t, "the underlay has another MTU", func() bool { return e.Snapshot().Underlays[0].MTU == 1400 })
	cancel()
	<-ended
	require.NoError(t, <-done)
}

// Entries age, and go.
func TestAgeing(t *testing.T) {
	cfg := testConfig()
	cfg.EntryTTL, cfg.SweepInterval = 100*time.Millisecond, 50*time.Millisecond
	_, s, hosts := newLab(t, 1, cfg)
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	require.NoError(t, a.AddVif(id, domainMAC(1)))
	a.table.LearnLocal(varp.Key{Vnet: id, MAC: wire.MAC(domainMAC(2))}, a.now())
	o.send(a.Addr(), varpMessage(wire.Announce, id, domainMAC(9), o.Addr()))
	eventually(t, "learned", func() bool { return len(a.Snapshot().Entries) > 0 })
	eventually(t, "expired", func() bool {
		s := a.Snapshot()
		return len(s.Entries) == 0 && len(s.Vifs) == 1 && s.Vifs[0].MAC == wire.MAC(domainMAC(1)) && s.Tables.Sweeps > 0
	})
	o.send(a.Addr(), varpMessage(wire.Announce, id, domainMAC(9), o.Addr()))
	eventually(t, "learned", func() bool { return len(a.Snapshot().Entries) > 0 })
	a.FlushVARP()
}
