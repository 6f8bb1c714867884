package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// say sends a payload as a host that is not in memory.
func (m *memory) say(to netip.Addr, payload []byte) {
	m.t.Helper()
	m.net.Put(underlaytest.Packet{
		From: netip.MustParseAddrPort("10.9.1.200:1798"), To: netip.AddrPortFrom(to, 1798), Payload: payload,
	})
	m.settle()
}

// What is not to be taken is dropped for its reason, counted once, and teaches nothing.
func TestReasonsInMemory(t *testing.T) {
	id := idOf(t, "97")
	good := testFrame(broadcastMAC, domainMAC(9), "hello")
	own := netip.MustParseAddrPort("10.9.1.1:1798")
	for name, c := range map[string]struct {
		packet underlaytest.Packet
		reason Reason
	}{
		"another group":      {underlaytest.Packet{To: netip.MustParseAddrPort("224.10.0.9:1798"), Payload: vudp(id, good)}, DropDestination},
		"its own":            {underlaytest.Packet{From: own, Payload: vudp(id, good)}, DropOwn},
		"an unknown vnet":    {underlaytest.Packet{Payload: vudp(idOf(t, "55"), good)}, DropUnknownVnet},
		"a group's MAC":      {underlaytest.Packet{Payload: vudp(id, testFrame(broadcastMAC, broadcastMAC, "x"))}, DropSource},
		"a zero MAC":         {underlaytest.Packet{Payload: vudp(id, testFrame(broadcastMAC, make([]byte, 6), "x"))}, DropSource},
		"too long":           {underlaytest.Packet{Payload: vudp(id, append(append([]byte{}, good...), make([]byte, 1500)...))}, DropTooLong},
		"too short":          {underlaytest.Packet{Payload: vudp(id, good[:13])}, DropMalformed},
		"an unknown id":      {underlaytest.Packet{Payload: []byte{0, 9, 0, 0, 0, 0}}, DropMessage},
		"another version":    {underlaytest.Packet{Payload: append([]byte{0, 2, 0, 0, 0, 0x30}, vudp(id, good)[6:]...)}, DropVersion},
		"VFWD of no peer":    {underlaytest.Packet{To: own, Payload: make([]byte, 60)}, DropMessage},
		"care-of is here":    {underlaytest.Packet{Payload: varpMessage(wire.Announce, id, domainMAC(9), own.Addr())}, DropMalformed},
		"care-of a group":    {underlaytest.Packet{Payload: varpMessage(wire.Announce, id, domainMAC(9), wire.Group)}, DropMalformed},
		"half a VARP":        {underlaytest.Packet{Payload: varpMessage(wire.Announce, id, domainMAC(9), own.Addr())[:42]}, DropMalformed},
		"an odd probe":       {underlaytest.Packet{Payload: wire.Probe{Answer: true, Received: 200}.Append(nil)}, DropAnswer},
		"nothing":            {underlaytest.Packet{Payload: []byte{}}, reasons},
		"a tag is no longer": {underlaytest.Packet{Payload: vudp(id, append(append(append(append([]byte{}, good[:12]...), 0x81, 0, 0, 5), good[12:]...), make([]byte, 1454)...))}, reasons},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t, 1, testConfig())
			p := c.packet
			if !p.From.IsValid() {
				p.From = netip.MustParseAddrPort("10.9.1.200:1798")
			}
			if !p.To.IsValid() {
				p.To = netip.AddrPortFrom(m.group, 1798)
			}
			m.net.Put(p)
			m.settle()
			if c.reason == reasons {
				return
			}
			require.Equal(t, 1, m.hosts[0].drop(c.reason))
			all := 0
			for r := range reasons {
				all += m.hosts[0].drop(r)
			}
			require.Equal(t, 1, all, "once")
			require.Empty(t, m.got(0))
			require.Zero(t, m.hosts[0].table.Stats().Remote)
		})
	}
}

// Each reason for which packets of vnets with security are refused has a counter of that name. What a peer forwards of such vnets is
// dropped where there is none, and goes nowhere.
func TestReasonsOfSecurity(t *testing.T) {
	seen := map[Reason]bool{}
	for r := esp.Taken + 1; r < esp.Refusals; r++ {
		require.Equal(t, r.String(), refusals[r].String())
		require.False(t, seen[refusals[r]], r)
		seen[refusals[r]] = true
	}
	m := newMemory(t, 2, testConfig())
	m.mutualPeers()
	peer := m.hosts[1].addr
	packet := make([]byte, 80)
	packet[0] = 1
	forwarded, err := wire.AppendVFWD(nil, netip.MustParseAddrPort("10.9.9.9:4500"), netip.AddrPortFrom(m.group, wire.SecurityPort), 64, packet)
	require.NoError(t, err)
	m.net.Put(underlaytest.Packet{From: netip.AddrPortFrom(peer, 1798), To: netip.AddrPortFrom(m.hosts[0].addr, 1798), Payload: append(forwarded, packet...)})
	m.settle()
	require.Equal(t, 1, m.hosts[0].drop(DropForwardSecured))
	require.Len(t, m.net.Take(), 1, "the packet itself, and nothing that follows from it")
}

// A request is answered by unicast by the host that has the MAC, and by nobody else.
func TestRequestIsAnswered(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	m.send(0, testFrame(broadcastMAC, domainMAC(1), "here"))
	m.net.Take()
	asker := netip.MustParseAddr("10.9.1.200")
	m.say(m.group, varpMessage(wire.Request, idOf(t, "97"), domainMAC(1), asker))
	sent := m.net.Take()[1:]
	require.Len(t, sent, 1)
	require.Equal(t, netip.AddrPortFrom(asker, 1798), sent[0].To)
	require.Equal(t, varpMessage(wire.Announce, idOf(t, "97"), domainMAC(1), m.hosts[0].addr), sent[0].Payload)
	m.say(m.group, varpMessage(wire.Request, idOf(t, "97"), domainMAC(2), asker))
	require.Len(t, m.net.Take(), 1, "nobody has it")
}

// What is behind a host of a family that there is no way to is flooded.
func TestUnreachableFamilyIsFlooded(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	m.say(m.hosts[0].addr, varpMessage(wire.Announce, idOf(t, "97"), domainMAC(9), netip.MustParseAddr("2001:db8::9")))
	f := testFrame(domainMAC(9), domainMAC(1), "to IPv6")
	m.send(0, f)
	m.requireGot(nil, frames(f))
}

// A vnet's frames stay in it.
func TestVnetsAreApartInMemory(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	for _, h := range m.hosts {
		h.attach(configOf(t, "98"))
	}
	f := testFrame(broadcastMAC, domainMAC(1), "in 97")
	m.send(0, f)
	m.requireGot(nil, frames(f))
	require.Empty(t, m.hosts[1].vnifs[idOf(t, "98")].Take())
	_, known := m.hosts[1].table.Lookup(varp.Key{Vnet: idOf(t, "98"), MAC: wire.MAC(domainMAC(1))})
	require.False(t, known)
}

// Replicas get what is flooded where multicast does not work.
func TestReplicasWithoutMulticast(t *testing.T) {
	cfg := testConfig()
	cfg.Replicate = []NamedHost{{Addr: "10.9.1.1"}, {Addr: "10.9.1.2"}, {Addr: "10.9.1.3"}}
	m := newMemory(t, 3, cfg)
	m.net.Lost = func(p underlaytest.Packet, _ netip.Addr) bool { return p.To.Addr().IsMulticast() }
	f := testFrame(broadcastMAC, domainMAC(1), "to all")
	m.send(0, f)
	m.requireGot(nil, frames(f), frames(f))
	answer := testFrame(domainMAC(1), domainMAC(2), "to one")
	m.send(1, answer)
	m.requireGot(frames(answer), nil, nil)
}

// A frame that its sender repeats is delivered as often.
func TestRepetitionIsNoCopy(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	f := testFrame(broadcastMAC, domainMAC(1), "again")
	for range 5 {
		m.send(0, f)
		m.requireGot(nil, frames(f))
		m.advance(time.Millisecond)
	}
}

// A domain that bursts floods up to the limit, and what nothing works without goes beyond it.
func TestBUMRateInMemory(t *testing.T) {
	cfg := testConfig()
	cfg.BUMRate = 3
	m := newMemory(t, 2, cfg)
	p := m.hosts[0].vnifs[idOf(t, "97")]
	for i := range 20 {
		p.Put(testFrame(broadcastMAC, domainMAC(1), string(rune('a'+i))), wire.VnetHdr{})
	}
	arp := testFrame(broadcastMAC, domainMAC(1), "")
	arp[12], arp[13] = 8, 6
	p.Put(arp, wire.VnetHdr{})
	m.settle()
	got := m.got(1)
	require.Len(t, got, 4)
	require.Equal(t, arp, got[3])
	require.Equal(t, 17, m.hosts[0].drop(DropRate))
}

// Without an underlay nothing is sent, and that is counted.
func TestNoUnderlayInMemory(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	m.hosts[0].underlays[0].uplink = nil
	m.hosts[0].publishLocked()
	m.send(0, testFrame(broadcastMAC, domainMAC(1), "nowhere"))
	require.Empty(t, m.net.Take())
	require.Equal(t, 1, m.hosts[0].drop(DropNoUnderlay))
}
