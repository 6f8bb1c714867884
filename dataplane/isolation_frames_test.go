package dataplane

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// What a domain sends whose frames the kernel encapsulates at its vif.

// liar makes frames of a domain, each with a number.
type liar struct {
	*attack
	own   net.HardwareAddr
	count int
}

// marked is in all frames of a liar.
const marked = "hostile "

// next is what the next frame is marked with.
func (l *liar) next() string {
	l.count++
	return fmt.Sprintf("%s%06d", marked, l.count)
}

// packets are IP packets that want to be taken for another host's, or by a host's own sockets.
func (l *liar) packets() (out [][]byte) {
	inner := func(id vnet.ID) []byte { return vudp(id, testFrame(domainMAC(11), domainMAC(12), l.next())) } // B's, for A's
	datagram := func(from, to netip.Addr, port uint16, payload []byte) []byte {
		p, err := wire.AppendDatagram(nil, netip.AddrPortFrom(from, port), netip.AddrPortFrom(to, port), 64, 7, payload)
		require.NoError(l.t, err)
		return append(p, payload...)
	}
	packet := func(from, to netip.Addr, protocol uint8, payload []byte) []byte {
		p, err := wire.AppendIPv4(nil, wire.IPv4{Source: from, Destination: to, Protocol: protocol, TTL: 64}, len(payload))
		require.NoError(l.t, err)
		return append(p, payload...)
	}
	for from, to := range map[netip.Addr]netip.Addr{l.a.Addr(): l.b.Addr(), l.b.Addr(): l.a.Addr(), l.c.Addr(): wire.Group} {
		unsummed := datagram(from, to, wire.Port, inner(l.id98))
		copy(unsummed[26:28], []byte{0, 0}) // as the kernel's own packets are
		forwarded, err := wire.AppendVFWD(nil, netip.AddrPortFrom(from, wire.Port), netip.AddrPortFrom(wire.Group, wire.Port), 64, inner(l.id98))
		require.NoError(l.t, err)
		out = append(out, unsummed,
			datagram(from, to, wire.Port, inner(l.id98)),
			datagram(from, to, wire.Port, inner(l.id97)),
			datagram(from, to, wire.Port, append(forwarded, inner(l.id98)...)),
			datagram(from, to, wire.Port, append(varpMessage(wire.Announce, l.id98, domainMAC(66), from), l.next()...)),
			datagram(from, to, wire.SecurityPort, []byte(l.next())),
			datagram(from, to, 7, []byte(l.next())),
			packet(from, to, wire.ProtocolEtherIP, append(wire.AppendEtherIP(nil, l.id98), testFrame(broadcastMAC, domainMAC(66), l.next())...)),
			packet(from, to, wire.ProtocolESP, []byte(l.next())),
			packet(from, to, 6, l.tcp(0)), packet(from, to, 6, l.tcp(300)), // bulk, for XDP; and long enough to be joined
		)
	}
	return out
}

// tcp is a segment, padded with n bytes.
func (l *liar) tcp(n int) []byte {
	return fmt.Append([]byte{0, 9, 0, 10, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0}, l.next(), strings.Repeat(".", n))
}

// frames are all frames with two addresses.
func (l *liar) frames(to, from net.HardwareAddr) (out [][]byte) {
	head := func(rest ...byte) []byte { return append(slices.Concat(to, from), rest...) }
	out = append(out, testFrame(to, from, l.next()))
	for _, tags := range [][]byte{{0x81, 0, 0, 98}, {0x88, 0xa8, 0, 98}, {0x88, 0xa8, 0, 97, 0x81, 0, 0, 98}} {
		tagged := head(tags...)
		out = append(out, append(tagged, testFrame(to, from, l.next())[12:]...))
	}
	for _, p := range l.packets() {
		out = append(out, append(head(8, 0), p...))
	}
	return out
}

// TestFramesStayInTheirVnet: whatever frames a domain sends while the kernel encapsulates them at its vif, with whatever addresses, tags
// and packets inside: they come to domains of its vnet, as they were sent, or to nobody; on the wire they are in its vnet alone; and
// nothing is decapsulated a second time.
func TestFramesStayInTheirVnet(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(x *attack)
		way     fastpath.Way // of the neighbour
		tap     bool
	}{
		"TC": {func(*attack) {}, fastpath.WayPeer, false},
		"XDP": {func(x *attack) {
			makePlain(x.t, x.b.Host)
			cfg := testConfig()
			cfg.Bypass, cfg.XDP = BypassAuto, fastpath.XDPOn
			require.NoError(x.t, x.b.Reload(cfg))
			x.b.awaitXDP()
		}, fastpath.WayPeer, false},
		"joined": {func(x *attack) { makePlain(x.t, x.b.Host); x.b.awaitJoined() }, fastpath.WayPeer, false},
		"egress": {func(x *attack) { shape(x.b, x.neighbour) }, fastpath.WayEgress, false},
		"tap":    {func(*attack) {}, fastpath.WayPeer, true},
	} {
		t.Run(name, func(t *testing.T) { framesStay(t, c.prepare, c.way, c.tap) })
	}
}

// cardOf opens the card of a domain for frames to be sent.
func cardOf(t *testing.T, n *lab.Node) (card *packet.Conn) {
	t.Helper()
	l, err := n.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, n.Do(func() (err error) {
		card, err = packet.Listen(&net.Interface{Index: l.Index, Name: l.Name}, packet.Raw, 0, nil)
		return err
	}))
	t.Cleanup(func() { require.NoError(t, card.Close()) })
	return card
}

// shape gives a domain's vif a queueing discipline, which what goes to the domain's end at once would miss.
func shape(h *testHost, d *lab.Domain) {
	_, err := h.Host.Run(soon(h.t), "tc", "qdisc", "add", "dev", d.Spec.Vif, "root", "pfifo")
	require.NoError(h.t, err)
}

func framesStay(t *testing.T, prepare func(x *attack), way fastpath.Way, tap bool) {
	x := newAttack(t, BypassAuto, "0")
	// So that all is cut before the switch, as a network card would.
	makePlain(t, x.a.Host)
	for _, h := range []*testHost{x.a, x.b} {
		require.NoError(t, h.Net.SetFeatures(deviceOf(t, h.Host, "eth0").Index, map[string]bool{"tx-udp-segmentation": false}))
	}
	prepare(x)
	l := &liar{attack: x, own: domainMAC(1)}
	card := cardOf(t, x.domain.Node)
	send := func(f []byte) error {
		_, err := card.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(f[:6])})
		return err
	}
	domain := x.domain
	if tap {
		d := x.a.tapDomain(x.lab, 3, "97")
		domain, l.own = d.Domain, d.Spec.MAC
		send = func(f []byte) error { return d.inject(f, wire.VnetHdr{}) }
	}
	awaitFast(t, domain, x.neighbour, x.a, x.b)
	for h, d := range map[*testHost]*lab.Domain{x.a: domain, x.b: x.neighbour} {
		eventually(t, "the way of "+d.Spec.Vif, func() bool {
			return slices.ContainsFunc(h.Counters().FastPath.Ports, func(p fastpath.BypassedPort) bool {
				return p.Name == d.Spec.Vif && p.Way != fastpath.WayBridge && (h == x.a || p.Way == way)
			})
		})
		h.quiet(d.Spec.Vif)
	}
	ping(t, x.others[0], x.others[1].Addr())

	hostile := func(f lab.Frame) bool { return bytes.Contains(f.Data, []byte(marked)) }
	onWire, err := x.a.Uplink().Switch.Capture(hostile)
	require.NoError(t, err)
	var astray []*lab.Capture
	for _, d := range x.others {
		c, err := d.Capture("eth0", hostile)
		require.NoError(t, err)
		astray = append(astray, c)
	}
	arrived, err := x.neighbour.Capture("eth0", func(f lab.Frame) bool { return hostile(f) && !f.Outgoing })
	require.NoError(t, err)
	var joined *lab.Capture
	if x.b.joining() {
		joined, err = x.b.Capture(fastpath.JoinDevice, hostile)
		require.NoError(t, err)
	}
	var services []net.PacketConn
	for _, h := range []*testHost{x.a, x.b} {
		require.NoError(t, h.Do(func() error {
			s, err := net.ListenPacket("udp4", netip.AddrPortFrom(h.Addr(), 7).String())
			services = append(services, s)
			return err
		}))
	}
	defer services[0].Close()
	defer services[1].Close()

	mac := func(h *lab.Host, device string) net.HardwareAddr { return deviceOf(t, h, device).MAC }
	nobody := slices.Clone(mac(x.b.Host, "eth0")) // what XDP puts there until TC has the frame
	nobody[0], nobody[5] = nobody[0]|2, nobody[5]^0x5a
	neighbour := domainMAC(2)
	others := []net.HardwareAddr{
		domainMAC(11), domainMAC(12), mac(x.a.Host, "vnet97"), mac(x.a.Host, "vnet98"), mac(x.a.Host, "vnif98"), mac(x.b.Host, "vnet97"), mac(x.b.Host, "vnet98"),
		mac(x.a.Host, "eth0"), mac(x.b.Host, "eth0"), mac(x.c.Host, "eth0"),
	}
	frames := map[string]bool{}
	batch := func(list [][]byte) {
		t.Helper()
		for _, f := range list {
			frames[string(f)] = true
			require.NoError(t, send(f))
		}
	}
	// What comes last, by each way, has the others before it.
	got := map[string]int{}
	settle := func(to ...net.HardwareAddr) {
		t.Helper()
		var last [][]byte
		for _, mac := range to {
			f := testFrame(mac, l.own, l.next())
			last = append(last, f, slices.Concat(f[:12], []byte{0x81, 0, 0, 1}, f[12:]))
			p, err := wire.AppendIPv4(nil, wire.IPv4{Source: x.a.Addr(), Destination: x.b.Addr(), Protocol: 6, TTL: 64}, len(l.tcp(300)))
			require.NoError(t, err)
			last = append(last, slices.Concat(f[:12], []byte{8, 0}, p, l.tcp(300)))
		}
		batch(last)
		for ctx := soon(t); slices.ContainsFunc(last, func(f []byte) bool { return got[string(f)] == 0 }); {
			f, err := arrived.Next(ctx)
			require.NoError(t, err)
			got[string(f.Data)]++
		}
	}
	tx0, _ := x.a.carried()
	_, rx0 := x.b.carried()
	known := l.frames(neighbour, l.own)
	batch(known)
	settle(broadcastMAC, neighbour)
	for _, f := range known {
		require.Equal(t, 1, got[string(f)], "it is its vnet's: %x", f)
	}
	tx, _ := x.a.carried()
	_, rx := x.b.carried()
	require.GreaterOrEqual(t, tx.Packets-tx0.Packets, uint64(len(known)-4), "all but the tagged ones")
	require.GreaterOrEqual(t, rx.Packets-rx0.Packets, uint64(len(known)-4))
	for _, to := range append(others, neighbour, nobody, broadcastMAC, net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 1}, net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 3}) {
		batch(l.frames(to, l.own))
		settle(broadcastMAC, neighbour)
	}
	for _, from := range append(others, nobody, broadcastMAC, neighbour) {
		for _, to := range []net.HardwareAddr{neighbour, domainMAC(12), mac(x.b.Host, "vnet97")} {
			batch(l.frames(to, from))
			if &from[0] == &neighbour[0] {
				settle(broadcastMAC) // the neighbour has moved here, as it seems
			} else {
				settle(broadcastMAC, neighbour)
			}
		}
	}

	if joined != nil {
		require.Greater(t, len(joined.Take()), 30, "by the pair")
	}
	x.nothing("what a domain sends")
	for i, c := range astray {
		require.Empty(t, c.Take(), "in vnet 98: %d", i)
	}
	for i, s := range services {
		c, err := dialFrom(x.c.Host, []*testHost{x.a, x.b}[i].Addr(), 7)
		require.NoError(t, err)
		_, err = c.Write([]byte("genuine"))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		b := make([]byte, 64)
		n, _, err := s.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, "genuine", string(b[:n]))
	}
	for f := range got {
		require.True(t, frames[f], "it was not sent like this: %x", f)
	}
	for _, h := range []*testHost{x.a, x.b} {
		require.Zero(t, h.drops(DropNotUnderlay))
	}
	wired := onWire.Take()
	require.Greater(t, len(wired), len(known))
	for _, f := range wired {
		d, ok := datagramIn(f.Data)
		require.True(t, ok, "%x", f.Data)
		id, inner, err := wire.DecodeVUDP(d.payload)
		require.NoError(t, err, "%x", f.Data)
		require.Equal(t, x.id97, id)
		require.True(t, frames[string(inner)] || d.from.Addr() == x.b.Addr(), "it was not sent like this: %x", inner)
	}
	// Vnet 98 knows where its domains are.
	entries := map[wire.MAC]netip.Addr{}
	for _, e := range x.a.Entries(Filter{Vnet: x.id98}) {
		entries[e.MAC] = e.Addr
	}
	require.Equal(t, x.b.Addr(), entries[wire.MAC(domainMAC(12))], "%v", slices.Collect(maps.Keys(entries)))
	ping(t, x.others[0], x.others[1].Addr())
}
