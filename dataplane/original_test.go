package dataplane

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"

	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// original plays a host that runs the original software: it has sockets on the protocol's port, in the
// group, and for EtherIP, and nothing else.
type original struct {
	*lab.Host
	t       testing.TB
	udp     net.PacketConn
	etherip net.PacketConn
	got     chan heardPacket
}

// heardPacket is what an original heard.
type heardPacket struct {
	data    []byte
	from    netip.AddrPort // port 0: EtherIP
	to      netip.Addr
	etherip bool
}

func newOriginal(t testing.TB, s *lab.Switch, name string) *original {
	t.Helper()
	h, err := s.Host(name)
	require.NoError(t, err)
	o := &original{Host: h, t: t, got: make(chan heardPacket, 4096)}
	require.NoError(t, h.Do(func() (err error) {
		var lc net.ListenConfig
		if o.udp, err = lc.ListenPacket(t.Context(), "udp4", "0.0.0.0:1798"); err != nil {
			return err
		}
		o.etherip, err = lc.ListenPacket(t.Context(), "ip4:97", "0.0.0.0")
		return err
	}))
	dev, err := h.Uplink().Link()
	require.NoError(t, err)
	for _, c := range []net.PacketConn{o.udp, o.etherip} {
		p := ipv4.NewPacketConn(c)
		require.NoError(t, p.JoinGroup(&net.Interface{Index: dev.Index}, &net.UDPAddr{IP: net.IPv4(224, 10, 0, 1)}))
		require.NoError(t, p.SetMulticastInterface(&net.Interface{Index: dev.Index}))
		require.NoError(t, p.SetMulticastLoopback(false))
		require.NoError(t, p.SetControlMessage(ipv4.FlagDst, true))
		go o.receive(p, c == o.etherip)
	}
	t.Cleanup(func() {
		o.udp.Close()
		o.etherip.Close()
	})
	return o
}

func (o *original) receive(p *ipv4.PacketConn, etherip bool) {
	for {
		b := make([]byte, 65536)
		n, cm, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		h := heardPacket{data: b[:n], etherip: etherip}
		switch a := from.(type) {
		case *net.UDPAddr:
			h.from = a.AddrPort()
			h.from = netip.AddrPortFrom(h.from.Addr().Unmap(), h.from.Port())
		case *net.IPAddr:
			addr, _ := netip.AddrFromSlice(a.IP.To4())
			h.from = netip.AddrPortFrom(addr, 0)
		}
		if cm != nil {
			h.to, _ = netip.AddrFromSlice(cm.Dst.To4())
		}
		select {
		case o.got <- h:
		default:
		}
	}
}

// send sends a UDP payload to an address, port 1798.
func (o *original) send(to netip.Addr, payload []byte) {
	o.t.Helper()
	_, err := o.udp.WriteTo(payload, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, wire.Port)))
	require.NoError(o.t, err)
}

// sendEtherIP sends the payload of an IP packet of protocol 97.
func (o *original) sendEtherIP(to netip.Addr, payload []byte) {
	o.t.Helper()
	_, err := o.etherip.WriteTo(payload, &net.IPAddr{IP: to.AsSlice()})
	require.NoError(o.t, err)
}

// wait waits for a packet that fits.
func (o *original) wait(what string, fits func(heardPacket) bool) heardPacket {
	o.t.Helper()
	ctx := soon(o.t)
	others := ""
	for {
		select {
		case p := <-o.got:
			if fits(p) {
				return p
			}
			others += fmt.Sprintf("\n%s>%s %s", p.from, p.to, hex.EncodeToString(p.data[:min(len(p.data), 60)]))
		case <-ctx.Done():
			o.t.Fatalf("%s did not hear %s, but:%s", o.Name, what, others)
		}
	}
}

// drain forgets what was heard.
func (o *original) drain() {
	for {
		select {
		case <-o.got:
		default:
			return
		}
	}
}

// isVARP matches a VARP message.
func isVARP(op wire.Opcode, mac net.HardwareAddr) func(heardPacket) bool {
	return func(p heardPacket) bool {
		m, err := wire.DecodeVARP(p.data)
		return !p.etherip && err == nil && m.Opcode == op && m.MAC == wire.MAC(mac)
	}
}

// isFrame matches a VUDP packet with that very frame.
func isFrame(frame []byte) func(heardPacket) bool {
	return func(p heardPacket) bool {
		_, f, err := wire.DecodeVUDP(p.data)
		return !p.etherip && err == nil && string(f) == string(frame)
	}
}

// vudp is a VUDP message.
func vudp(id vnet.ID, frame []byte) []byte { return append(wire.AppendVUDP(nil, id), frame...) }

// varpMessage is a VARP message.
func varpMessage(op wire.Opcode, id vnet.ID, mac net.HardwareAddr, careOf netip.Addr) []byte {
	return wire.VARP{Opcode: op, Vnet: id, MAC: wire.MAC(mac), CareOf: careOf}.Append(nil)
}

var broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// testFrame is a frame of an experimental EtherType with a text.
func testFrame(to, from net.HardwareAddr, text string) []byte {
	f := append(append(append([]byte{}, to...), from...), 0x88, 0xb5)
	f = append(f, text...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// isData matches a captured frame with that very content.
func isData(frame []byte) func(lab.Frame) bool {
	return func(f lab.Frame) bool { return string(f.Data) == string(frame) }
}

// The bytes on the wire, as the original host sees them.
func TestWireToOriginal(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	d := a.domain(1, "97")

	// A broadcast goes to the group: VUDP, EtherIP field 00 40, the vnet's id, the frame as it is.
	frame := testFrame(broadcastMAC, domainMAC(1), "to all")
	require.NoError(t, d.Send("eth0", frame))
	p := o.wait("the broadcast", isFrame(frame))
	require.Equal(t, "000200000040"+"00000000000000000000000000000097"+hex.EncodeToString(frame), hex.EncodeToString(p.data))
	require.Equal(t, wire.Group, p.to)
	require.Equal(t, netip.AddrPortFrom(a.Addr(), 1798), p.from)

	// A request to the group is answered by a unicast announce of 43 bytes.
	o.drain()
	o.send(wire.Group, varpMessage(wire.Request, id, domainMAC(1), o.Addr()))
	p = o.wait("the announce", isVARP(wire.Announce, domainMAC(1)))
	require.Equal(t, o.Addr(), p.to)
	addr := a.Addr().As4()
	require.Equal(t, "00010002"+"00000000000000000000000000000097"+"00163e000001"+"02"+hex.EncodeToString(addr[:])+
		"000000000000000000000000", hex.EncodeToString(p.data))

	// An announce that comes unasked is acted on; so are frames.
	far, farther := domainMAC(100), domainMAC(101)
	toFar := testFrame(far, domainMAC(1), "to far")
	o.send(wire.Group, varpMessage(wire.Announce, id, far, o.Addr()))
	eventually(t, "announce learned", func() bool { return len(a.Snapshot().Entries) == 1 })
	require.NoError(t, d.Send("eth0", toFar))
	require.Equal(t, o.Addr(), o.wait("the unicast", isFrame(toFar)).to)

	at, err := d.Capture("eth0", nil)
	require.NoError(t, err)
	fromFarther := testFrame(domainMAC(1), farther, "from farther")
	o.send(a.Addr(), vudp(id, fromFarther))
	_, err = at.WaitFor(soon(t), isData(fromFarther))
	require.NoError(t, err)
	toFarther := testFrame(farther, domainMAC(1), "to farther")
	require.NoError(t, d.Send("eth0", toFarther))
	require.Equal(t, o.Addr(), o.wait("the unicast", isFrame(toFarther)).to)

	// Unknown unicast is flooded like broadcast.
	toNobody := testFrame(domainMAC(102), domainMAC(1), "to nobody")
	require.NoError(t, d.Send("eth0", toNobody))
	require.Equal(t, wire.Group, o.wait("the flooded frame", isFrame(toNobody)).to)

	// The other byte order and uncleared bits of the EtherIP field, and any opcode.
	for i, head := range []string{"000200004000", "00020007ff4f", "0002000041ff"} {
		b, err := hex.DecodeString(head)
		require.NoError(t, err)
		f := testFrame(domainMAC(1), far, fmt.Sprint("variant ", i))
		o.send(a.Addr(), append(append(b, id[:]...), f...))
		_, err = at.WaitFor(soon(t), isData(f))
		require.NoError(t, err)
	}
}

// What must not pass, and under which reason it is counted.
func TestDrops(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	d := a.domain(1, "97")
	at, err := d.Capture("eth0", func(f lab.Frame) bool { return f.EtherType() == 0x88b5 })
	require.NoError(t, err)
	good := testFrame(domainMAC(1), domainMAC(9), "x")
	vfwd, err := wire.AppendVFWD(nil, netip.AddrPortFrom(o.Addr(), 1798), netip.AddrPortFrom(wire.Group, 1798), 64, vudp(id, good))
	require.NoError(t, err)
	otherGroup := netip.MustParseAddr("224.10.0.2")
	dev, err := a.Uplink().Link()
	require.NoError(t, err)
	// Somebody else on the host joined another group.
	var joined net.PacketConn
	require.NoError(t, a.Do(func() error {
		joined, err = net.ListenPacket("udp4", "0.0.0.0:9")
		return err
	}))
	defer joined.Close()
	require.NoError(t, ipv4.NewPacketConn(joined).JoinGroup(&net.Interface{Index: dev.Index}, &net.UDPAddr{IP: otherGroup.AsSlice()}))

	long := append(testFrame(domainMAC(1), domainMAC(9), ""), make([]byte, 1515-60)...)
	for _, c := range []struct {
		reason  Reason
		to      netip.Addr
		payload []byte
	}{
		{DropMalformed, a.Addr(), []byte{0, 2}},
		{DropMalformed, a.Addr(), vudp(id, good[:13])},
		{DropMalformed, a.Addr(), varpMessage(wire.Request, id, domainMAC(1), o.Addr())[:42]},
		{DropMalformed, a.Addr(), varpMessage(wire.Announce, id, domainMAC(9), a.Addr())},
		{DropMalformed, a.Addr(), varpMessage(wire.Announce, id, domainMAC(9), netip.MustParseAddr("255.255.255.255"))},
		{DropMessage, a.Addr(), []byte{0, 4, 0, 0, 1, 2, 3, 4}},
		{DropMessage, a.Addr(), append([]byte{0, 1, 0, 3}, varpMessage(wire.Request, id, domainMAC(1), o.Addr())[4:]...)},
		{DropVersion, a.Addr(), append([]byte{0, 2, 0, 0, 0x03, 0x30}, vudp(id, good)[6:]...)},
		{DropUnknownVnet, wire.Group, vudp(idOf(t, "98"), good)},
		{DropUnknownVnet, wire.Group, varpMessage(wire.Request, idOf(t, "98"), domainMAC(1), o.Addr())},
		{DropNotPeer, a.Addr(), append(vfwd, vudp(id, good)...)},
		{DropMessage, wire.Group, append(vfwd, vudp(id, good)...)},
		{DropSource, a.Addr(), vudp(id, testFrame(domainMAC(1), broadcastMAC, "from all"))},
		{DropSource, a.Addr(), vudp(id, testFrame(domainMAC(1), net.HardwareAddr{0, 0, 0, 0, 0, 0}, "from none"))},
		{DropTooLong, a.Addr(), vudp(id, long)},
	} {
		before := a.drops(c.reason)
		o.send(c.to, c.payload)
		eventually(t, fmt.Sprint(c.reason, " counted"), func() bool { return a.drops(c.reason) > before })
		require.Equal(t, before+1, a.drops(c.reason), c.reason)
	}
	// Not ours at all: nothing is counted, nothing is done.
	o.send(otherGroup, vudp(id, good))

	before := a.drops(DropDestination)
	o.send(netip.MustParseAddr("10.9.1.255"), vudp(id, good)) // package net allows broadcasts
	eventually(t, "broadcast counted", func() bool { return a.drops(DropDestination) == before+1 })
	o.send(a.Addr(), vudp(id, testFrame(domainMAC(1), domainMAC(9), "last")))
	f, err := at.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, testFrame(domainMAC(1), domainMAC(9), "last"), f.Data)
}

// Hosts up to Xen 3.0.1.
func TestEtherIPOnlyHost(t *testing.T) {
	_, s, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	o := newOriginal(t, s, "old")
	add(t, "97", a, b)
	id := idOf(t, "97")
	d, d2 := a.domain(1, "97"), b.domain(2, "97")
	at, err := d.Capture("eth0", nil)
	require.NoError(t, err)
	old := domainMAC(50)
	etherip := func(frame []byte) []byte { return append(wire.AppendEtherIP(nil, id), frame...) }
	isOld := func(frame []byte) func(heardPacket) bool {
		return func(p heardPacket) bool { return p.etherip && string(p.data) == string(etherip(frame)) }
	}

	// It resolves by VARP, and sends EtherIP; its broadcasts go to the group.
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "here I am")))
	eventually(t, "vif learned", func() bool { return hasVif(a.Engine, domainMAC(1)) })
	o.send(wire.Group, varpMessage(wire.Request, id, domainMAC(1), o.Addr()))
	o.wait("the announce", func(p heardPacket) bool { return isVARP(wire.Announce, domainMAC(1))(p) && p.to == o.Addr() })
	first := testFrame(domainMAC(1), old, "first")
	o.sendEtherIP(a.Addr(), etherip(first))
	_, err = at.WaitFor(soon(t), isData(first))
	require.NoError(t, err)
	toAll := testFrame(broadcastMAC, old, "to all")
	o.sendEtherIP(wire.Group, etherip(toAll))
	_, err = at.WaitFor(soon(t), isData(toAll))
	require.NoError(t, err)
	// It is taken for one that knows nothing else when it has answered a question.
	require.Empty(t, a.Snapshot().Underlays[0].EtherIPHosts)
	o.wait("the question", func(p heardPacket) bool { return isVARP(wire.Request, old)(p) && p.to == o.Addr() })
	o.send(a.Addr(), varpMessage(wire.Announce, id, old, o.Addr()))
	o.wait("the question of B", func(p heardPacket) bool { return isVARP(wire.Request, old)(p) && p.from.Addr() == b.Addr() })
	eventually(t, "old host noticed", func() bool {
		u := a.Snapshot().Underlays[0]
		return len(u.EtherIPHosts) == 1 && u.EtherIPHosts[0] == o.Addr()
	})

	// It gets unicast and broadcast as EtherIP; the others get the broadcast once.
	at2, err := d2.Capture("eth0", func(f lab.Frame) bool { return f.EtherType() == 0x88b5 })
	require.NoError(t, err)
	reply, again := testFrame(old, domainMAC(1), "reply"), testFrame(broadcastMAC, domainMAC(1), "again to all")
	require.NoError(t, d.Send("eth0", reply))
	require.Equal(t, o.Addr(), o.wait("EtherIP unicast", isOld(reply)).to)
	require.NoError(t, d.Send("eth0", again))
	o.wait("EtherIP broadcast", isOld(again))
	_, err = at2.WaitFor(soon(t), isData(again))
	require.NoError(t, err)

	// An unknown MAC is asked for, since it may be behind such a host.
	o.drain()
	other := domainMAC(51)
	toOther := testFrame(other, domainMAC(1), "to other")
	require.NoError(t, d.Send("eth0", toOther))
	o.wait("a VARP request", isVARP(wire.Request, other))
	o.send(a.Addr(), varpMessage(wire.Announce, id, other, o.Addr()))
	eventually(t, "answer learned", func() bool {
		for _, e := range a.Snapshot().Entries {
			if e.MAC == wire.MAC(other) && e.State == Reachable {
				return true
			}
		}
		return false
	})
	require.NoError(t, d.Send("eth0", toOther))
	o.wait("EtherIP unicast", func(p heardPacket) bool { return isOld(toOther)(p) && p.to == o.Addr() })

	// A host that speaks VUDP after all is taken for a modern one.
	o.send(a.Addr(), vudp(id, first))
	eventually(t, "modern host noticed", func() bool { return len(a.Snapshot().Underlays[0].EtherIPHosts) == 0 })
	require.NoError(t, d.Send("eth0", reply))
	o.wait("VUDP", isFrame(reply))
	for _, f := range at2.Take() {
		require.NotEqual(t, again, f.Data, "a broadcast came twice")
	}
}

// A host that is configured to send EtherIP is understood by one that is not, and the reverse.
func TestEtherIPConfigured(t *testing.T) {
	cfg := testConfig()
	m := newMemory(t, 1, cfg)
	cfg.Encapsulation = EtherIP
	e := m.host(cfg)
	hello := testFrame(broadcastMAC, domainMAC(2), "by EtherIP")
	m.send(1, hello)
	m.requireGot(frames(hello), nil)
	answer, reply := testFrame(domainMAC(2), domainMAC(1), "by VUDP"), testFrame(domainMAC(1), domainMAC(2), "by EtherIP")
	m.send(0, answer)
	m.requireGot(nil, frames(answer))
	m.send(1, reply)
	m.requireGot(frames(reply), nil)
	require.Equal(t, 52, e.Snapshot().Vnets[0].Header)
	for _, p := range m.net.Take() {
		_, _, err := wire.DecodeVUDP(p.Payload)
		require.False(t, p.From.Addr() == e.addr && !p.EtherIP && err == nil, "VUDP from a host that is to send EtherIP")
	}
}

// Every host answers echo to the group, from its own address, and not its own, from whichever address.
func TestMulticastEcho(t *testing.T) {
	_, _, hosts := newLab(t, 3, testConfig())
	a := hosts[0]
	second := netip.MustParseAddr("10.9.1.99")
	_, err := a.Host.Run(soon(t), "ip", "addr", "add", second.String()+"/24", "dev", "eth0")
	require.NoError(t, err)
	eventually(t, "second address noticed", func() bool {
		_, ok := a.view.Load().own[second]
		return ok
	})
	out, err := a.Host.Run(soon(t), "ping", "-c", "2", "-i", "0.2", "-I", second.String(), wire.Group.String())
	require.NoError(t, err)
	require.NotContains(t, out, "from "+a.Addr().String())

	p, err := a.StartPing(wire.Group, lab.PingOptions{Device: "eth0"})
	require.NoError(t, err)
	defer p.Close()
	seen := map[netip.Addr]bool{}
	for len(seen) < 2 {
		r, err := p.Next(soon(t))
		require.NoError(t, err)
		require.NotEqual(t, a.Addr(), r.From)
		seen[r.From] = true
	}
	// Where the kernel answers, we don't: no duplicates.
	b := hosts[1]
	require.NoError(t, b.Net.SetSysctl("0", "net", "ipv4", "icmp_echo_ignore_broadcasts"))
	at, err := b.Capture("eth0", func(f lab.Frame) bool {
		return f.Outgoing && f.EtherType() == 0x0800 && f.Data[23] == 1 && f.Data[34] == 0
	})
	require.NoError(t, err)
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	count := map[string]int{}
	for range 5 {
		f, err := at.Next(soon(t))
		require.NoError(t, err)
		count[string(f.Data[38:42])]++
	}
	require.Len(t, count, 5)
}

// careOf is where a host takes a MAC to be.
func careOf(e *Engine, mac net.HardwareAddr) netip.Addr {
	for _, x := range e.Snapshot().Entries {
		if x.MAC == wire.MAC(mac) {
			return x.Addr
		}
	}
	return netip.Addr{}
}

// The very same broadcast from another host is no copy: the domain has moved.
func TestSameFrameFromAnotherHost(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	a, first, second := m.hosts[0], m.stranger(), m.stranger()
	same := testFrame(broadcastMAC, domainMAC(9), "same")
	for _, o := range []*stranger{first, second, first} {
		o.send(m.group, vudp(idOf(t, "97"), same))
		require.Equal(t, o.addr, careOf(a.Engine, domainMAC(9)))
		m.requireGot(frames(same))
	}
	require.Zero(t, a.drop(DropDuplicate))
}

// A user-space original whose device does not exist announces the address 0.0.0.0; forwarded by a peer, it is the
// original sender's.
func TestAnnounceWithoutAddress(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	a, o, behind, id := m.hosts[0], m.stranger(), m.stranger(), idOf(t, "97")
	o.send(a.addr, varpMessage(wire.Announce, id, domainMAC(9), netip.IPv4Unspecified()))
	require.Equal(t, o.addr, careOf(a.Engine, domainMAC(9)))
	require.NoError(t, a.AddPeer(t.Context(), o.addr, 0))
	announce := varpMessage(wire.Announce, id, domainMAC(10), netip.IPv4Unspecified())
	header, err := wire.AppendVFWD(nil, netip.AddrPortFrom(behind.addr, wire.Port), netip.AddrPortFrom(m.group, wire.Port), 64, announce)
	require.NoError(t, err)
	o.send(a.addr, append(header, announce...))
	require.Equal(t, behind.addr, careOf(a.Engine, domainMAC(10)))
}

// The source port says nothing: an answer goes to the protocol's port. What follows a VARP message, and the
// family of a request, say nothing either.
func TestOddRequests(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	a, o, id := m.hosts[0], m.stranger(), idOf(t, "97")
	require.NoError(t, a.AddVif(id, domainMAC(1)))
	o.Take()
	answer := func() underlaytest.Packet {
		t.Helper()
		got := o.heard(isVARP(wire.Announce, domainMAC(1)))
		require.Len(t, got, 1)
		require.Equal(t, netip.AddrPortFrom(o.addr, wire.Port), got[0].To)
		require.Len(t, got[0].Payload, wire.VARPLen)
		return got[0]
	}
	request := varpMessage(wire.Request, id, domainMAC(1), o.addr)
	frame := testFrame(domainMAC(1), domainMAC(20), "from another port")
	for _, payload := range [][]byte{append(request, 1, 2, 3), vudp(id, frame)} {
		o.Put(underlaytest.Packet{From: netip.AddrPortFrom(o.addr, 5555), To: netip.AddrPortFrom(a.addr, wire.Port), Payload: payload})
		m.settle()
	}
	answer()
	m.requireGot(frames(frame))

	odd := varpMessage(wire.Request, id, domainMAC(1), o.addr)
	odd[26] = 77
	o.send(m.group, odd)
	answer()

	// By VFWD from a peer that does not know its own address.
	require.NoError(t, a.AddPeer(t.Context(), o.addr, 0))
	header := make([]byte, wire.VFWDLen)
	header[1], header[13] = byte(wire.MessageVFWD), wire.ProtocolUDP
	group := m.group.As4()
	copy(header[20:], group[:])
	o.send(a.addr, append(header, varpMessage(wire.Request, id, domainMAC(1), netip.IPv4Unspecified())...))
	answer()
}

// udpFrame is a UDP datagram from MAC 9 that lets itself be fragmented.
func udpFrame(t testing.TB, to net.HardwareAddr, id uint16, payload []byte) []byte {
	t.Helper()
	src, dst := netip.MustParseAddrPort("10.97.0.9:1000"), netip.MustParseAddrPort("10.97.0.1:2000")
	f := append(append(append([]byte{}, to...), domainMAC(9)...), 8, 0)
	f, err := wire.AppendIPv4(f, wire.IPv4{Source: src.Addr(), Destination: dst.Addr(), Protocol: wire.ProtocolUDP, TTL: 64, ID: id}, 8+len(payload))
	require.NoError(t, err)
	f, err = wire.AppendUDP(f, src, dst, payload)
	require.NoError(t, err)
	return append(f, payload...)
}

// The count of what the kernel dropped does not fall when the group changes.
func TestDropsOfFormerGroup(t *testing.T) {
	e, _, n, _, s := handDrivenLab(t, testConfig())
	o := newOriginal(t, s, "original")
	dropped := func() uint64 { return e.Snapshot().Drops[DropSocketQueue].Count }
	f := vudp(n.config.ID, tcpFrame(1400))
	eventually(t, "the queue is full", func() bool { // nobody reads it
		for range 1000 {
			o.send(wire.Group, f)
		}
		return dropped() > 0
	})
	before := dropped()
	require.NoError(t, e.SetGroup(soon(t), netip.MustParseAddr("224.10.0.9")))
	require.GreaterOrEqual(t, dropped(), before)
	require.ErrorContains(t, e.SetGroup(soon(t), netip.MustParseAddr("ff05::99")), "ipv6 is off")
}
