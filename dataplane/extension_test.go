package dataplane

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// The extensions: what originals do not have.

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
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
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

// An operator is told when a group goes silent, and when it is heard again.
func TestGroupSilence(t *testing.T) {
	cfg := testConfig()
	cfg.GroupSilence = 200 * time.Millisecond
	_, s, hosts := newLab(t, 1, cfg)
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	require.Negative(t, a.Snapshot().Underlays[0].Heard)
	say := vudp(id, testFrame(broadcastMAC, domainMAC(9), "still here"))
	o.send(wire.Group, say)
	wait := func(kind EventKind) {
		t.Helper()
		for {
			select {
			case ev := <-a.Events():
				if ev.Kind == kind {
					return
				}
			case <-soon(t).Done():
				t.Fatal("no event")
			}
		}
	}
	wait(GroupSilent)
	require.True(t, a.Snapshot().Underlays[0].Silent)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				o.send(wire.Group, say)
			}
		}
	}()
	wait(GroupHeard)
	close(stop)
	<-done
	require.False(t, a.Snapshot().Underlays[0].Silent)
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
