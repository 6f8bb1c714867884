package dataplane

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// The way of a frame through learning, flooding, duplicate suppression, flapping and old hosts, without a kernel.

func frames(list ...[]byte) [][]byte { return list }

// An unknown MAC is flooded, and the answer teaches.
func TestFloodThenUnicast(t *testing.T) {
	m := newMemory(t, 3, testConfig())
	hello := testFrame(broadcastMAC, domainMAC(1), "who is there?")
	m.send(0, hello)
	m.requireGot(nil, frames(hello), frames(hello))
	for _, p := range m.net.Take() { // an announce of the new MAC, and the frame
		require.Equal(t, netip.AddrPortFrom(m.group, 1798), p.To)
	}
	answer := testFrame(domainMAC(1), domainMAC(2), "I am")
	m.send(1, answer)
	m.requireGot(frames(answer), nil, nil)
	sent := m.net.Take()
	last := sent[len(sent)-1]
	require.Equal(t, m.hosts[0].addr, last.To.Addr())
	require.Equal(t, append(wire.AppendVUDP(nil, idOf(t, "97")), answer...), last.Payload)
	unknown := testFrame(domainMAC(3), domainMAC(2), "and you?")
	m.send(1, unknown)
	m.requireGot(frames(unknown), nil, frames(unknown))
	m.advance(2 * time.Minute)
	for _, h := range m.hosts {
		h.table.Sweep(h.now())
	}
	m.send(1, answer)
	m.requireGot(frames(answer), nil, frames(answer))
}

// Of vnets that a host does not have it is told which, and who sends.
func TestUnknownVnets(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	other := configOf(t, "98")
	m.hosts[0].attach(other)
	for i := range 3 {
		m.hosts[0].vnifs[other.ID].Put(testFrame(broadcastMAC, domainMAC(1), "hello "+string(rune('a'+i))), wire.VnetHdr{})
		m.settle()
	}
	unknown := m.hosts[1].Counters().Unknown
	require.NotEmpty(t, unknown)
	require.Equal(t, other.ID, unknown[0].Vnet)
	require.Equal(t, m.hosts[0].addr, unknown[0].From)
	require.EqualValues(t, m.hosts[1].drop(DropUnknownVnet), unknown[0].Packets)
	require.Empty(t, m.hosts[0].Counters().Unknown)
}

// Everything comes once, by however many ways.
func TestCopiesByAllWays(t *testing.T) {
	cfg := testConfig()
	cfg.IPv6 = true
	cfg.Replicate = []NamedHost{{Addr: "10.9.1.1"}, {Addr: "10.9.1.2"}, {Addr: "2001:db8::2"}}
	m := newMemory(t, 3, cfg)
	m.mutualPeers()
	for i := range 20 {
		f := testFrame(broadcastMAC, domainMAC(1), "copy "+string(rune('a'+i)))
		m.send(0, f)
		m.requireGot(nil, frames(f), frames(f))
		m.advance(10 * time.Millisecond)
	}
	require.NotZero(t, m.hosts[1].drop(DropDuplicate))
	at, _ := m.hosts[1].table.Lookup(varp.Key{Vnet: idOf(t, "97"), MAC: wire.MAC(domainMAC(1))})
	require.Equal(t, m.hosts[0].addr, at, "known by its IPv4 address")
}

// Peers on one segment pass nothing on without end, in whatever order packets come.
func TestMutualPeersInMemory(t *testing.T) {
	for _, n := range []int{3, 5} {
		m := newMemory(t, n, testConfig())
		m.mutualPeers()
		// The group's packets of the first host get lost now and then: what the peers forward comes first.
		lost := 0
		m.net.Lost = func(p underlaytest.Packet, to netip.Addr) bool {
			lost++
			return p.To.Addr().IsMulticast() && !p.Relayed && lost%3 == 0
		}
		for i := range 50 {
			m.net.Take()
			m.send(0, testFrame(broadcastMAC, domainMAC(1), "round "+string(rune('a'+i))))
			require.Less(t, len(m.net.Sent), 60*n*n)
			m.advance(10 * time.Millisecond)
		}
		told := 0
		for _, h := range m.hosts {
			told += h.log.Count("let one host of each segment have peers")
		}
		require.NotZero(t, told)
	}
}

// A domain that migrates is found at once.
func TestMigration(t *testing.T) {
	m := newMemory(t, 3, testConfig())
	here, there := testFrame(broadcastMAC, domainMAC(1), "I am here"), testFrame(broadcastMAC, domainMAC(1), "I am there")
	m.send(0, here)
	m.requireGot(nil, frames(here), frames(here))
	m.advance(time.Second)
	m.send(1, there)
	m.requireGot(frames(there), nil, frames(there))
	toIt := testFrame(domainMAC(1), domainMAC(3), "where?")
	m.send(2, toIt)
	m.requireGot(nil, frames(toIt), nil)
	toIt = testFrame(domainMAC(1), domainMAC(4), "still a neighbour?")
	m.send(0, toIt)
	m.requireGot(nil, frames(toIt), nil)
}

// A MAC that a script put on this host, and another host uses: told, unless the domain migrates, which takes the vif off.
func TestDoubledMACIsTold(t *testing.T) {
	const told = "a domain on this host has a MAC that another host has, too"
	m := newMemory(t, 2, testConfig())
	quiet, gone := domainMAC(1), domainMAC(2)
	victim := m.hosts[0]
	for _, mac := range []net.HardwareAddr{quiet, gone} {
		victim.table.AddVif(varp.Key{Vnet: idOf(t, "97"), MAC: wire.MAC(mac)}, victim.now()) // without a bridge's table
	}
	m.settle()
	m.send(1, testFrame(broadcastMAC, quiet, "it is mine"))
	m.send(1, testFrame(broadcastMAC, gone, "arrived"))
	require.NoError(t, victim.RemoveVif(idOf(t, "97"), gone))
	look := func() {
		victim.mu.Lock()
		defer victim.mu.Unlock()
		victim.tellDoubledLocked(victim.now())
	}
	look()
	require.Zero(t, victim.log.Count(told), "a migration takes some seconds")
	m.advance(11 * time.Second)
	m.send(1, testFrame(broadcastMAC, quiet, "it is mine"))
	look()
	look()
	require.Equal(t, 1, victim.log.Count(told))
	require.Equal(t, 1, victim.log.Count("mac="+quiet.String()+" host="))
}

// Announces of an attacker cut nobody off for longer than they take.
func TestAnnouncesDoNotCutOff(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	m.send(0, testFrame(broadcastMAC, domainMAC(1), "the victim"))
	m.advance(time.Minute / 2)
	attacker := netip.MustParseAddr("10.9.1.66")
	for i := range 24 {
		care := attacker
		for range i % 12 {
			care = care.Next()
		}
		for _, h := range m.hosts {
			m.net.Put(underlaytest.Packet{
				From: netip.AddrPortFrom(attacker, 1798), To: netip.AddrPortFrom(h.addr, 1798),
				Payload: varpMessage(wire.Announce, idOf(t, "97"), domainMAC(1), care),
			})
		}
		m.settle()
		m.advance(100 * time.Millisecond)
	}
	for i := range m.hosts {
		m.got(i)
	}
	m.net.Take()
	to := testFrame(domainMAC(1), domainMAC(2), "are you there?")
	m.send(1, to)
	m.requireGot(frames(to), nil)
	require.NotZero(t, m.hosts[1].log.Count("MAC moves to and fro"))
}

// An own frame that comes back is told from a domain that has moved.
func TestOwnFrameComesBack(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	f := testFrame(broadcastMAC, domainMAC(1), "round")
	m.send(0, f)
	m.requireGot(nil, frames(f))
	m.advance(5 * time.Millisecond)
	m.send(1, f) // its bridge is joined with the other's
	m.requireGot(nil, nil)
	require.Equal(t, 1, m.hosts[0].drop(DropLoop))
	require.Equal(t, 1, m.hosts[0].log.Count("loop: a frame that this host sent came back"))
}

// Hosts that speak only EtherIP, as the worker sees them.
func TestOldHostsInMemory(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	id := idOf(t, "97")
	old := netip.MustParseAddr("10.9.1.200")
	etherip := func(to netip.Addr, frame []byte) {
		m.net.Put(underlaytest.Packet{
			From: netip.AddrPortFrom(old, 0), To: netip.AddrPortFrom(to, 0), EtherIP: true,
			Payload: append(wire.AppendEtherIP(nil, id), frame...),
		})
		m.settle()
	}
	// asked is whether one of the packets asks the old host for its MAC.
	asked := func() (n int) {
		for _, p := range m.net.Take() {
			v, err := wire.DecodeVARP(p.Payload)
			if err == nil && !p.EtherIP && p.To.Addr() == old && v.Opcode == wire.Request && v.MAC == wire.MAC(domainMAC(9)) {
				n++
			}
		}
		return n
	}
	broadcast := testFrame(broadcastMAC, domainMAC(1), "to all")
	copies := func() (n int) {
		m.net.Take()
		m.send(0, broadcast)
		for _, p := range m.net.Take() {
			if p.EtherIP && p.To.Addr() == old {
				n++
			}
		}
		return n
	}
	hello := testFrame(broadcastMAC, domainMAC(9), "I am old")
	etherip(m.group, hello)
	m.requireGot(frames(hello), frames(hello))
	require.Equal(t, 2, asked(), "by each host")
	require.Zero(t, copies(), "a source can be invented")
	m.net.Put(underlaytest.Packet{
		From: netip.AddrPortFrom(old, 1798), To: netip.AddrPortFrom(m.hosts[0].addr, 1798),
		Payload: varpMessage(wire.Announce, id, domainMAC(9), old),
	})
	m.settle()
	require.Equal(t, 1, copies())
	require.Equal(t, []netip.Addr{old}, m.hosts[0].hosts.EtherIPOnly())
	require.Empty(t, m.hosts[1].hosts.EtherIPOnly())
	m.net.Take()
	reply := testFrame(domainMAC(9), domainMAC(1), "reply")
	m.send(0, reply)
	sent := m.net.Take()
	require.True(t, sent[len(sent)-1].EtherIP)
	require.Equal(t, append(wire.AppendEtherIP(nil, id), reply...), sent[len(sent)-1].Payload)
	m.net.Put(underlaytest.Packet{
		From: netip.AddrPortFrom(old, 1798), To: netip.AddrPortFrom(m.hosts[0].addr, 1798), Payload: vudp(id, hello),
	})
	m.settle()
	require.Zero(t, copies(), "it speaks VUDP after all")
}

// 1,500 invented sources of EtherIP are no amplifier.
func TestInventedEtherIP(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	id, from := idOf(t, "97"), netip.MustParseAddr("10.8.0.1")
	for i := range 1500 {
		m.net.Put(underlaytest.Packet{
			From: netip.AddrPortFrom(from, 0), To: netip.AddrPortFrom(m.hosts[0].addr, 0), EtherIP: true,
			Payload: append(wire.AppendEtherIP(nil, id), testFrame(domainMAC(1), domainMAC(1000+i), "x")...),
		})
		from = from.Next()
		m.settle()
	}
	asked := 0
	for _, p := range m.net.Take() {
		if p.From.Addr() == m.hosts[0].addr {
			asked++
		}
	}
	require.LessOrEqual(t, asked, 100)
	m.send(0, testFrame(broadcastMAC, domainMAC(1), "to all"))
	for _, p := range m.net.Take() {
		require.False(t, p.EtherIP)
	}
}

// Copies for old hosts have a limit, and how many of these there are, too.
func TestCopiesForOldHostsAreLimited(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	h := m.hosts[0]
	for i := range 2 * hosts.MaxEtherIP {
		m.advance(time.Second)
		r := h.hosts.See(netip.AddrFrom4([4]byte{10, 8, 0, byte(i)}), h.now())
		require.True(t, h.hosts.HeardEtherIP(r, idOf(t, "97"), wire.MAC(domainMAC(9)), h.now()))
		h.hosts.Answered(r, idOf(t, "97"), wire.MAC(domainMAC(9)))
	}
	h.publishLocked()
	require.Len(t, h.view.Load().old, hosts.MaxEtherIP)
	p := h.vnifs[idOf(t, "97")]
	const sent = 1000
	for range sent {
		p.Put(testFrame(broadcastMAC, domainMAC(1), "flood"), wire.VnetHdr{})
	}
	m.settle()
	copies := 0
	for _, p := range m.net.Take() {
		if p.EtherIP {
			copies++
		}
	}
	require.InDelta(t, copyRate, copies, copyRate/5)
	require.Equal(t, sent*hosts.MaxEtherIP-copies, h.drop(DropCopy))
}

// With etherip = "off" nothing is taken that comes so.
func TestEtherIPOff(t *testing.T) {
	cfg := testConfig()
	cfg.EtherIPHosts = EtherIPOff
	m := newMemory(t, 1, cfg)
	m.net.Put(underlaytest.Packet{
		From: netip.MustParseAddrPort("10.9.1.200:0"), To: netip.AddrPortFrom(m.group, 0), EtherIP: true,
		Payload: append(wire.AppendEtherIP(nil, idOf(t, "97")), testFrame(broadcastMAC, domainMAC(9), "old")...),
	})
	m.settle()
	m.requireGot(nil)
	require.Equal(t, 1, m.hosts[0].drop(DropEtherIP))
	require.Zero(t, m.hosts[0].table.Stats().Remote)
}

// A vnet with security says nothing without a key, and hears nothing in the clear; with one, all of it is sealed.
func TestSecuredInMemory(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	for _, h := range m.hosts {
		c := configOf(t, "98")
		c.Security = vnet.Conf
		h.attach(c)
	}
	id := idOf(t, "98")
	a, b := m.hosts[0], m.hosts[1]
	f := testFrame(broadcastMAC, domainMAC(1), "secret")
	a.vnifs[id].Put(f, wire.VnetHdr{})
	m.settle()
	require.Empty(t, m.net.Take())
	require.Equal(t, 1, a.drop(DropUnprotected))
	for _, clear := range [][]byte{
		vudp(id, f), varpMessage(wire.Announce, id, domainMAC(1), a.addr), varpMessage(wire.Request, id, domainMAC(1), a.addr),
	} {
		m.net.Put(underlaytest.Packet{From: netip.AddrPortFrom(a.addr, 1798), To: netip.AddrPortFrom(b.addr, 1798), Payload: clear})
	}
	m.settle()
	require.Equal(t, 3, b.drop(DropSecurity))
	require.Empty(t, b.vnifs[id].Take())
	require.Zero(t, b.table.Stats().Remote)

	a.networks[id].seal = &fakeSeal{port: 4500}
	a.publishLocked()
	m.net.Take()
	a.vnifs[id].Put(f, wire.VnetHdr{})
	m.settle()
	sent := m.net.Take()
	require.Len(t, sent, 2, "an announce and the frame")
	for _, p := range sent {
		require.Equal(t, netip.AddrPortFrom(m.group, 4500), p.To)
		require.Equal(t, []byte{0, 1}, p.Payload[:2], "the lane of what is flooded")
		require.Contains(t, string(p.Payload), sealMark)
	}
}
