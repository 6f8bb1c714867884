package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// data filters our test frames.
func data(f lab.Frame) bool { return f.EtherType() == 0x88b5 }

// capture captures test frames at a domain.
func capture(t testing.TB, d *lab.Domain) *lab.Capture {
	t.Helper()
	c, err := d.Capture("eth0", func(f lab.Frame) bool { return data(f) && !f.Outgoing })
	require.NoError(t, err)
	return c
}

// expect waits for a frame.
func expect(t testing.TB, c *lab.Capture, frame []byte) {
	t.Helper()
	_, err := c.WaitFor(soon(t), isData(frame))
	require.NoError(t, err)
}

// Unicast goes to the right host only, broadcast to all.
func TestThreeHosts(t *testing.T) {
	_, _, hosts := newLab(t, 3, testConfig())
	add(t, "97", hosts...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97")
	c2, c3 := capture(t, d2), capture(t, d3)
	underlay3, err := hosts[2].Capture("eth0", nil)
	require.NoError(t, err)

	toAll := testFrame(broadcastMAC, domainMAC(1), "to all")
	require.NoError(t, d1.Send("eth0", toAll))
	expect(t, c2, toAll)
	expect(t, c3, toAll)

	// d2 speaks, so d1's host knows where it is.
	ping(t, d2, d1.Addr())
	toTwo := testFrame(domainMAC(2), domainMAC(1), "to two")
	require.NoError(t, d1.Send("eth0", toTwo))
	expect(t, c2, toTwo)
	// A later broadcast has overtaken nothing: nothing else came.
	require.NoError(t, d1.Send("eth0", toAll))
	f, err := c3.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, toAll, f.Data)
	for _, f := range underlay3.Take() {
		if _, inner, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):]); err == nil {
			require.NotEqual(t, toTwo, inner)
		}
	}
}

func TestSixteenHosts(t *testing.T) {
	const count = 16
	cfg := testConfig()
	cfg.Workers = 1
	_, _, hosts := newLab(t, count, cfg)
	add(t, "97", hosts...)
	var domains []*lab.Domain
	var captures []*lab.Capture
	for i, h := range hosts {
		domains = append(domains, h.domain(i+1, "97"))
		captures = append(captures, capture(t, domains[i]))
	}
	for i, d := range domains {
		toAll := testFrame(broadcastMAC, domainMAC(i+1), fmt.Sprint("from ", i))
		require.NoError(t, d.Send("eth0", toAll))
		for j, c := range captures {
			if j != i {
				expect(t, c, toAll)
			}
		}
	}
	for i := range domains {
		ping(t, domains[i], domains[(i+5)%count].Addr())
	}
	for _, h := range hosts {
		require.Zero(t, h.drops(DropDuplicate))
		require.Zero(t, h.drops(DropLoop))
	}
}

// Vnets do not see each other, nor the physical network.
func TestIsolation(t *testing.T) {
	_, s, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	add(t, "98", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	e1, e2 := a.domain(11, "98"), b.domain(12, "98")
	c2, ce1, ce2 := capture(t, d2), capture(t, e1), capture(t, e2)
	physical, err := s.Capture(data)
	require.NoError(t, err)
	for i := range 20 {
		f := testFrame(broadcastMAC, domainMAC(1), fmt.Sprint(i))
		require.NoError(t, d1.Send("eth0", f))
		expect(t, c2, f)
	}
	last := testFrame(broadcastMAC, domainMAC(11), "last")
	require.NoError(t, e1.Send("eth0", last))
	f, err := ce2.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, last, f.Data)
	require.Empty(t, ce1.Take())
	require.Empty(t, c2.Take())
	require.Empty(t, physical.Take())
	// Two vnets may have the same MACs.
	ping(t, d1, d2.Addr())
	ping(t, e1, e2.Addr())
}

func TestTagged(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	c2 := capture(t, d2)
	for _, tags := range [][]byte{
		{0x81, 0, 0, 5},                   // 802.1Q
		{0x88, 0xa8, 0, 7},                // 802.1ad
		{0x88, 0xa8, 0, 7, 0x81, 0, 0, 5}, // both
		{0x81, 0, 0x60, 0},                // priority only
	} {
		for _, to := range [][]byte{broadcastMAC, domainMAC(2)} {
			for _, size := range []int{60, 1514} {
				f := testFrame(to, domainMAC(1), fmt.Sprintf("tagged %x %d", tags, size))
				f = append(f, make([]byte, size-len(f))...)
				f = append(f[:12:12], append(tags, f[12:]...)...)
				if tags[0] != 0x81 && size == 1514 {
					continue // the test's packet socket allows one 802.1Q tag beyond the MTU
				}
				require.NoError(t, d1.Send("eth0", f))
				expect(t, c2, f)
			}
		}
	}
}

// A domain migrates; the newest information wins everywhere.
func TestMove(t *testing.T) {
	_, s, hosts := newLab(t, 3, testConfig())
	a, b, c := hosts[0], hosts[1], hosts[2]
	add(t, "97", a, b, c)
	d1, d3 := a.domain(1, "97"), c.domain(3, "97")
	p, err := d3.StartPing(d1.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	announced, err := s.Capture(func(f lab.Frame) bool {
		m, err := wire.DecodeVARP(f.Data[min(42, len(f.Data)):])
		return err == nil && m.Opcode == wire.Announce && m.MAC == wire.MAC(domainMAC(1)) && m.CareOf == b.Addr()
	})
	require.NoError(t, err)

	require.NoError(t, d1.MoveTo(b.Host, "vif1.0", "vnet97"))
	require.NoError(t, d1.Announce())
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	_, err = announced.Next(soon(t))
	require.NoError(t, err)
	for _, h := range []*testHost{a, c} {
		eventually(t, "MAC known behind b", func() bool {
			for _, e := range h.Snapshot().Entries {
				if e.MAC == wire.MAC(domainMAC(1)) {
					return e.Addr == b.Addr()
				}
			}
			return false
		})
	}
	// And back, without a word of the guest's: the vif script's announce is enough.
	require.NoError(t, d1.MoveTo(a.Host, "vif1.0", "vnet97"))
	require.NoError(t, a.AddVif(idOf(t, "97"), domainMAC(1)))
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	require.Zero(t, a.drops(DropFlapping)+b.drops(DropFlapping)+c.drops(DropFlapping))
}

// After a remote announce the old host does not claim the MAC back, but by a frame.
func TestHoldDown(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	d := a.domain(1, "97")
	// A guest that says nothing of its own accord.
	eth, err := d.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, d.Net.DisableIPv6(eth.Index))
	frame := testFrame(broadcastMAC, domainMAC(1), "mine")
	require.NoError(t, d.Send("eth0", frame))
	here := func() bool { return hasVif(a, domainMAC(1)) }
	eventually(t, "learned", here)

	o.send(wire.Group, varpMessage(wire.Announce, id, domainMAC(1), o.Addr()))
	eventually(t, "moved away", func() bool { return !here() })
	// The kernel learns it behind another port of the bridge: not a frame that we saw.
	vif, err := a.Net.LinkByName("vif1.0")
	require.NoError(t, err)
	require.NoError(t, a.Net.EnsureFDB(hostnet.FDBEntry{MAC: [6]byte(domainMAC(1)), Port: vif.Index, Static: true}))
	eventually(t, "claim held", func() bool { return a.Snapshot().Tables.Held > 0 })
	require.False(t, here())
	// But a frame counts.
	o.drain()
	require.NoError(t, d.Send("eth0", frame))
	o.wait("our announce", isVARP(wire.Announce, domainMAC(1)))
	require.True(t, here())
}

// A domain that migrates without a word is reached by its neighbours once the vif script has told of it: the bridge,
// too, forgets that it was behind the tunnel.
func TestSilentMove(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	for _, d := range []*lab.Domain{d1, d2} {
		require.NoError(t, d.Net.DisableIPv6(deviceOf(t, &lab.Host{Node: d.Node}, "eth0").Index)) // says nothing of its own accord
	}
	vnif, bridge := deviceOf(t, a.Host, "vnif97"), deviceOf(t, a.Host, "vnet97")
	behindVnif := func() bool {
		list, err := a.Net.FDB(bridge.Index)
		require.NoError(t, err)
		return slices.ContainsFunc(list, func(e hostnet.FDBEntry) bool {
			return wire.MAC(e.MAC) == wire.MAC(domainMAC(2)) && e.Port == vnif.Index
		})
	}
	ping(t, d1, d2.Addr())
	require.True(t, behindVnif())
	require.NoError(t, d2.MoveTo(a.Host, "vif2.0", "vnet97"))
	a.forwarding("vnet97")
	require.True(t, behindVnif(), "the domain is silent")
	require.NoError(t, a.AddVif(idOf(t, "97"), domainMAC(2)))
	require.False(t, behindVnif())
	// The first one arrives: nothing but the bridge's table stood between.
	got := capture(t, d2)
	frame := testFrame(domainMAC(2), domainMAC(1), "to the silent one")
	require.NoError(t, d1.Send("eth0", frame))
	expect(t, got, frame)
}

// hasVif reports whether a host holds a MAC for its own.
func hasVif(h *testHost, mac net.HardwareAddr) bool {
	return slices.ContainsFunc(h.Snapshot().Vifs, func(v Vif) bool { return v.MAC == wire.MAC(mac) })
}

// Segments without multicast between them, joined by peers.
func TestPeers(t *testing.T) {
	l := lab.New(t)
	one, err := l.Switch("one", 0)
	require.NoError(t, err)
	two, err := l.Switch("two", 0)
	require.NoError(t, err)
	_, err = l.Router("router", one, two)
	require.NoError(t, err)
	left, right := addHosts(t, one, 2, testConfig()), addHosts(t, two, 2, testConfig())
	add(t, "97", append(left, right...)...)
	var domains []*lab.Domain
	var captures []*lab.Capture
	for i, h := range append(left, right...) {
		domains = append(domains, h.domain(i+1, "97"))
		captures = append(captures, capture(t, domains[i]))
	}
	// One host per segment forwards.
	require.NoError(t, left[0].AddPeer(soon(t), right[0].Addr(), 0))
	require.NoError(t, right[0].AddPeer(soon(t), left[0].Addr(), 0))
	allHear := func(text string) {
		for i, d := range domains {
			f := testFrame(broadcastMAC, domainMAC(i+1), text)
			require.NoError(t, d.Send("eth0", f))
			for j, c := range captures {
				if j != i {
					expect(t, c, f)
				}
			}
		}
	}
	allHear("one forwarder")
	for _, d := range domains {
		for _, to := range domains {
			if d != to {
				ping(t, d, to.Addr())
			}
		}
	}
	// Unicast goes straight to the host, which was learned through the peer.
	for _, e := range left[1].Snapshot().Entries {
		if e.MAC == wire.MAC(domainMAC(4)) {
			require.Equal(t, right[1].Addr(), e.Addr)
		}
	}
	p := left[0].Peers()
	require.Len(t, p, 1)
	require.NotZero(t, p[0].TxPackets)
	require.NotZero(t, p[0].RxPackets)

	// Everybody forwards to everybody: the same frames arrive, once, and nothing goes round.
	for _, a := range left {
		for _, b := range right {
			require.NoError(t, a.AddPeer(soon(t), b.Addr(), 0))
			require.NoError(t, b.AddPeer(soon(t), a.Addr(), 0))
		}
	}
	require.NoError(t, left[0].AddPeer(soon(t), left[1].Addr(), 0))
	require.NoError(t, left[1].AddPeer(soon(t), left[0].Addr(), 0))
	for _, c := range captures {
		c.Take()
	}
	allHear("all forward")
	wireTap, err := one.Capture(nil)
	require.NoError(t, err)
	var tapped int
	eventually(t, "silence", func() bool {
		wireTap.Take()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := wireTap.WaitFor(ctx, func(f lab.Frame) bool {
			_, frame, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):])
			return err == nil && len(frame) >= 14 && frame[12] == 0x88 && frame[13] == 0xb5
		})
		tapped++
		return err != nil
	})
	require.Less(t, tapped, 5)

	require.NoError(t, left[0].RemovePeer(soon(t), right[0].Addr()))
	require.ErrorIs(t, left[0].RemovePeer(soon(t), right[0].Addr()), ErrUnknownPeer)
	require.Error(t, left[0].AddPeer(soon(t), left[0].Addr(), 0))
}

// What is forwarded is what came, although the vnif gets frames joined.
func TestForwardedAsTheyCame(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	peer, src := newOriginal(t, s, "peer"), newOriginal(t, s, "source")
	cfg := testConfig()
	cfg.Peers = []Peer{{Addr: peer.Addr().String()}}
	a := startEngine(t, h, cfg)
	add(t, "97", a)
	const rounds, frames = 20, 40
	// A slow machine takes each as it comes, and joins none, for a while.
	joined := false
	for round := 0; round < rounds || !joined; round++ {
		require.Less(t, round, 50*rounds, "nothing was joined")
		sent := map[string]bool{}
		for i := range frames {
			id := round*frames + i
			f := udpFrame(t, net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, uint16(id), fmt.Appendf(make([]byte, 300), "%06d", id))
			sent[string(f)] = true
			src.send(wire.Group, vudp(idOf(t, "97"), f))
		}
		for range frames {
			peer.wait("a forwarded frame", func(p heardPacket) bool {
				v, err := wire.DecodeVFWD(p.data)
				if err != nil {
					return false
				}
				_, f, err := wire.DecodeVUDP(v.Payload)
				if err != nil || wire.Source(f) != wire.MAC(domainMAC(9)) {
					return false
				}
				require.True(t, sent[string(f)], "%x", f)
				delete(sent, string(f))
				return true
			})
		}
		rx := a.Snapshot().Vnets[0].Rx
		joined = joined || rx.Frames < rx.Packets
	}
}

// VFWD as original user-space hosts send it, and what we send to them.
func TestForwardingWithOriginal(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o, neighbour := newOriginal(t, s, "original"), newOriginal(t, s, "neighbour")
	add(t, "97", a)
	id := idOf(t, "97")
	d := a.domain(1, "97")
	c := capture(t, d)
	require.NoError(t, a.AddPeer(soon(t), o.Addr(), 0))

	// From us, as originator: a correct IPv4 packet from us to the group.
	frame := testFrame(broadcastMAC, domainMAC(1), "to all")
	require.NoError(t, d.Send("eth0", frame))
	isForward := func(source netip.Addr, payload []byte) func(heardPacket) bool {
		return func(p heardPacket) bool {
			f, err := wire.DecodeVFWD(p.data)
			return err == nil && f.Source == source && string(f.Payload) == string(payload)
		}
	}
	p := o.wait("VFWD", isForward(a.Addr(), vudp(id, frame)))
	h, udp, err := wire.DecodeIPv4(p.data[wire.MessageLen:])
	require.NoError(t, err)
	require.Equal(t, wire.Group, h.Destination)
	require.EqualValues(t, 64, h.TTL)
	require.EqualValues(t, 0xffff, wire.Fold(wire.Sum(p.data[4:24], 0)))
	src, dst, payload, err := wire.DecodeUDP(udp)
	require.NoError(t, err)
	require.Equal(t, [2]uint16{1798, 1798}, [2]uint16{src, dst})
	require.Equal(t, vudp(id, frame), payload)

	// As relay of what a neighbour multicasts, but never to the peer that sent it.
	far := testFrame(broadcastMAC, domainMAC(60), "neighbour's")
	neighbour.send(wire.Group, vudp(id, far))
	o.wait("VFWD of the neighbour's", isForward(neighbour.Addr(), vudp(id, far)))
	expect(t, c, far)
	own := testFrame(broadcastMAC, domainMAC(61), "peer's own")
	o.send(wire.Group, vudp(id, own))
	expect(t, c, own)
	// A relay's work has to do with no vnet.
	other := testFrame(broadcastMAC, domainMAC(62), "another vnet's")
	neighbour.send(wire.Group, vudp(idOf(t, "4711"), other))
	o.wait("VFWD of another vnet's", isForward(neighbour.Addr(), vudp(idOf(t, "4711"), other)))

	// To us, as originals write it: from the originator source 0.0.0.0, from a relay a header of zeros.
	for i, source := range []netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("10.9.77.1")} {
		f := testFrame(broadcastMAC, domainMAC(70+i), "from the other segment")
		header := make([]byte, wire.VFWDLen)
		header[1] = 3
		if i == 0 {
			header[4], header[12] = 0x45, 64
		}
		header[13] = wire.ProtocolUDP
		from, to := source.As4(), wire.Group.As4()
		copy(header[16:], from[:])
		copy(header[20:], to[:])
		o.send(a.Addr(), append(header, vudp(id, f)...))
		expect(t, c, f)
		want := source
		if i == 0 {
			want = o.Addr()
		}
		for _, e := range a.Snapshot().Entries {
			if e.MAC == wire.MAC(domainMAC(70+i)) {
				require.Equal(t, want, e.Addr)
			}
		}
		// The neighbour hears it from the original sender.
		p := neighbour.wait("the re-multicast", isFrame(f))
		require.Equal(t, want, p.from.Addr())
		require.Equal(t, wire.Group, p.to)
	}
	// A full frame is fragmented by us.
	full := append(testFrame(broadcastMAC, domainMAC(80), "full"), make([]byte, 1514-60)...)
	header, err := wire.AppendVFWD(nil, netip.MustParseAddrPort("10.9.77.2:1798"), netip.AddrPortFrom(wire.Group, 1798), 64, vudp(id, full))
	require.NoError(t, err)
	o.send(a.Addr(), append(header, vudp(id, full)...))
	neighbour.wait("the full frame", isFrame(full))
	expect(t, c, full)

	// Not from others than peers.
	before := a.drops(DropNotPeer)
	neighbour.send(a.Addr(), append(header, vudp(id, full)...))
	eventually(t, "counted", func() bool { return a.drops(DropNotPeer) == before+1 })
}

// A bridge loop between two hosts does not end in a storm.
func TestLoop(t *testing.T) {
	_, s, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1 := a.domain(1, "97")
	b.domain(2, "97")
	// The bridges are joined by a cable, too.
	_, err := a.Net.EnsureVeth(hostnet.Veth{Name: "cable", Peer: "cable", PeerHost: b.Net})
	require.NoError(t, err)
	for _, h := range hosts {
		require.NoError(t, join(h, "cable", "vnet97"))
	}
	c, err := s.Capture(func(f lab.Frame) bool { return f.EtherType() == 0x0800 })
	require.NoError(t, err)
	round := 0
	eventually(t, "loop noticed", func() bool {
		round++
		require.NoError(t, d1.Send("eth0", testFrame(broadcastMAC, domainMAC(1), fmt.Sprint("round ", round))))
		return a.drops(DropLoop)+b.drops(DropLoop) > 0
	})
	// What went round has died down after a moment.
	eventually(t, "silence", func() bool {
		c.Take()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := c.WaitFor(ctx, func(f lab.Frame) bool {
			_, frame, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):])
			return err == nil && len(frame) >= 14 && frame[12] == 0x88 && frame[13] == 0xb5
		})
		return err != nil
	})
	eventually(t, "an alarm", func() bool {
		for _, h := range []*testHost{a, b} {
			if h.log.Count("loop: a frame that this host sent came back")+h.log.Count("MAC moves to and fro") > 0 {
				return true
			}
		}
		return false
	})
}

// join puts a device on a bridge of a host.
func join(h *testHost, device, bridge string) error {
	l, err := h.Net.LinkByName(device)
	if err != nil {
		return err
	}
	b, err := h.Net.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := h.Net.SetMaster(l.Index, b.Index); err != nil {
		return err
	}
	return h.Net.SetUp(l.Index)
}

// The underlay device goes and comes, in all the ways in which devices do.
func TestUnderlayFlaps(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	// The daemon starts before there is a network.
	bare, err := l.Host("A")
	require.NoError(t, err)
	a := startEngine(t, bare, testConfig())
	b := addHosts(t, s, 1, testConfig())[0]
	add(t, "97", a, b)
	require.False(t, a.Snapshot().Underlays[0].Up)
	require.Contains(t, a.Snapshot().Underlays[0].Problem, "no default route")
	_, err = bare.Attach(s, "eth0")
	require.NoError(t, err)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	p, err := d2.StartPing(d1.Addr(), lab.PingOptions{Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	works := func(what string) {
		t.Helper()
		// Broadcast too: the group is joined.
		a.FlushVARP()
		b.FlushVARP()
		for _, c := range []struct{ from, to *lab.Domain }{{d1, d2}, {d2, d1}} {
			at := capture(t, c.to)
			f := testFrame(broadcastMAC, c.from.Spec.MAC, what)
			eventually(t, what, func() bool {
				require.NoError(t, c.from.Send("eth0", f))
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := at.WaitFor(ctx, isData(f))
				return err == nil
			})
			at.Close()
		}
		_, err := p.Fresh(soon(t))
		require.NoError(t, err, what)
	}
	works("late appearance")

	u := bare.Uplink()
	require.NoError(t, u.Down())
	eventually(t, "down noticed", func() bool { return !a.Snapshot().Underlays[0].Up })
	require.NoError(t, u.Up())
	works("down and up")

	require.NoError(t, u.Delete())
	eventually(t, "deletion noticed", func() bool { return !a.Snapshot().Underlays[0].Up })
	require.NoError(t, u.Create())
	works("deleted and made again")

	o := newOriginal(t, s, "original")
	require.NoError(t, u.SetAddr(netip.MustParsePrefix("10.9.1.77/24")))
	m, err := wire.DecodeVARP(o.wait("announce", isVARP(wire.Announce, d1.Spec.MAC)).data)
	require.NoError(t, err)
	require.Equal(t, "10.9.1.77", m.CareOf.String())
	works("another address")
	require.Equal(t, "10.9.1.77", a.Snapshot().Underlays[0].Address.String())

	require.NoError(t, u.Rename("lan0"))
	works("renamed")
	eventually(t, "name", func() bool { return a.Snapshot().Underlays[0].Device == "lan0" })

	require.NoError(t, u.Unplug())
	require.NoError(t, u.Plug())
	works("cable pulled and put back")
}

// An engine stops and another one goes on with the devices that it left.
func TestRestart(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	before, err := a.Net.Links()
	require.NoError(t, err)
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	a.stop()
	require.ErrorIs(t, attach(a.Engine, configOf(t, "97")), ErrClosed)
	after, err := a.Net.Links()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))

	again := startEngine(t, a.Host, testConfig())
	add(t, "97", again)
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	after, err = a.Net.Links()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))
}

// names lists devices with their indices.
func names(links []hostnet.Link) (out []string) {
	for _, l := range links {
		out = append(out, fmt.Sprint(l.Index, " ", l.Name, " ", l.MAC))
	}
	return out
}

// The bridge is deleted under the engine; adding the vnet again repairs it.
func TestRepair(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	_, err := a.Host.Run(soon(t), "ip", "link", "del", "vnet97")
	require.NoError(t, err)
	eventually(t, "loss noticed", func() bool { return !a.Snapshot().Vnets[0].Up })
	add(t, "97", a)
	require.True(t, a.Snapshot().Vnets[0].Up)
	require.NoError(t, join(a, "vif1.0", "vnet97"))
	ping(t, d1, d2.Addr())

	_, err = a.Host.Run(soon(t), "ip", "link", "del", "vnif97")
	require.NoError(t, err)
	eventually(t, "loss noticed", func() bool { return !a.Snapshot().Vnets[0].Up })
	require.Contains(t, a.Snapshot().Vnets[0].Problem, "vanished")
	add(t, "97", a)
	ping(t, d1, d2.Addr())
	// Run twice it changes nothing.
	before, err := a.Net.Links()
	require.NoError(t, err)
	add(t, "97", a)
	after, err := a.Net.Links()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))
}

// A MAC is announced when it appears behind a port that another program attached, though it never
// sends into the vnet; and forgotten when the port goes.
func TestPortByHand(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	d1 := a.domain(1, "97")
	d2, err := a.Domain(lab.DomainSpec{Name: "byhand", Vif: "tap7.0", MAC: domainMAC(7)})
	require.NoError(t, err)
	_, err = a.Host.Run(soon(t), "ip", "link", "set", "tap7.0", "master", "vnet97")
	require.NoError(t, err)
	ping(t, d1, d1.Addr())
	require.NoError(t, d1.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "here")))
	o.wait("announce of the neighbour", isVARP(wire.Announce, domainMAC(1)))

	// To a neighbour on the same bridge: the vnif does not see it.
	require.NoError(t, d2.Send("eth0", testFrame(domainMAC(1), domainMAC(7), "hello")))
	p := o.wait("announce", isVARP(wire.Announce, domainMAC(7)))
	require.Equal(t, wire.Group, p.to)
	m, err := wire.DecodeVARP(p.data)
	require.NoError(t, err)
	require.Equal(t, a.Addr(), m.CareOf)

	_, err = a.Host.Run(soon(t), "ip", "link", "set", "tap7.0", "nomaster")
	require.NoError(t, err)
	eventually(t, "MAC withdrawn", func() bool { return !hasVif(a, domainMAC(7)) })

	// What vif scripts do.
	require.ErrorIs(t, a.RemoveVif(id, domainMAC(8)), ErrUnknownVif)
	require.NoError(t, a.AddVif(id, domainMAC(9)))
	o.wait("announce", isVARP(wire.Announce, domainMAC(9)))
	o.drain()
	o.send(wire.Group, varpMessage(wire.Request, id, domainMAC(9), o.Addr()))
	o.wait("answer", isVARP(wire.Announce, domainMAC(9)))
	require.NoError(t, a.RemoveVif(id, domainMAC(9)))
	require.ErrorIs(t, a.AddVif(idOf(t, "99"), domainMAC(9)), ErrUnknownVnet)
	require.Error(t, a.AddVif(id, broadcastMAC))
}

// The vnets that exist without being created, used by giving them an address.
func TestDefaultVnets(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	addDefaults(t, hosts...)
	for i, h := range hosts {
		require.Len(t, h.Snapshot().Vnets, 3)
		for _, v := range h.Snapshot().Vnets {
			require.True(t, v.Up, v)
		}
		_, err := h.Host.Run(soon(t), "ip", "addr", "add", fmt.Sprintf("10.4.0.%d/24", i+1), "dev", "vnif0004")
		require.NoError(t, err)
	}
	_, err := hosts[0].Ping(soon(t), netip.MustParseAddr("10.4.0.2"), lab.PingOptions{})
	require.NoError(t, err)
	_, err = lab.Transfer(soon(t), hosts[0].Node, hosts[1].Node, netip.MustParseAddr("10.4.0.2"), 8<<20)
	require.NoError(t, err)
}

// Two daemons on one machine: the second says why it cannot run.
func TestPortTaken(t *testing.T) {
	_, _, hosts := newLab(t, 1, testConfig())
	e, err := New(testConfig(), hosts[0].Net, logger(t, "second"))
	require.NoError(t, err)
	err = e.Run(soon(t))
	require.ErrorContains(t, err, "does another xend or vnetd run")
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.ErrorIs(t, attach(e, configOf(t, "97")), ErrClosed)
}

// A vnet whose traffic must be protected sends and takes nothing in the clear, and does not come up without a key.
func TestProtected(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	c := configOf(t, "97")
	c.Security = vnet.Auth
	require.ErrorIs(t, attach(a.Engine, c), ErrNoKey)
	has := true
	a.SetKeySource(func(vnet.ID) (KeySet, error) {
		if !has {
			return KeySet{}, ErrNoKey
		}
		return KeySet{Secrets: []esp.Secret{testKey}}, nil
	})
	require.NoError(t, attach(a.Engine, c))
	d := a.domain(1, "97")
	at := capture(t, d)
	o.send(a.Addr(), vudp(c.ID, testFrame(domainMAC(1), domainMAC(9), "clear")))
	eventually(t, "counted", func() bool { return a.drops(DropSecurity) == 1 })
	o.send(a.Addr(), varpMessage(wire.Announce, c.ID, domainMAC(9), o.Addr()))
	eventually(t, "counted", func() bool { return a.drops(DropSecurity) == 2 })
	require.Empty(t, a.Snapshot().Entries)
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "clear")))
	eventually(t, "sealed", func() bool { return a.Snapshot().Vnets[0].Tx.Packets > 0 })
	// Without a key it falls silent.
	has = false
	require.ErrorIs(t, a.ReloadKeys(), ErrNoKey)
	sent := a.Snapshot().Vnets[0].Tx.Packets
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "clear")))
	eventually(t, "counted", func() bool { return a.drops(DropUnprotected) >= 1 })
	require.Equal(t, sent, a.Snapshot().Vnets[0].Tx.Packets)
	require.NotEmpty(t, a.Snapshot().Vnets[0].Problem)
	has = true
	require.NoError(t, a.ReloadKeys())
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "clear")))
	eventually(t, "sealed", func() bool { return a.Snapshot().Vnets[0].Tx.Packets > sent })
	require.Empty(t, a.Snapshot().Vnets[0].Problem)
	require.Empty(t, at.Take())
	for len(o.got) > 0 {
		p := <-o.got
		_, _, err := wire.DecodeVUDP(p.data)
		require.ErrorIs(t, err, wire.ErrMessage, "%x", p.data)
	}
}

// Established flows survive whatever is done to others.
func TestNothingInterrupts(t *testing.T) {
	cfg := testConfig()
	_, _, hosts := newLab(t, 2, cfg)
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	stream, err := lab.Connect(soon(t), d1.Node, d2.Node, d2.Addr())
	require.NoError(t, err)
	defer stream.Close()
	stream.Start(0)
	rounds := 5
	if os.Getenv("XEND_LONG_TESTS") != "" {
		rounds = 100
	}
	for i := range rounds {
		for _, h := range hosts {
			for _, id := range []string{"98", "99", "1:2:3:4:5:6:7:8"} {
				add(t, id, h)
			}
			require.NoError(t, h.AddPeer(soon(t), netip.MustParseAddr("192.0.2.9"), 0))
			c := cfg
			c.EntryTTL += time.Duration(i+1) * time.Second
			c.BUMRate = 1000 * (i + 1)
			c.TTL = 2 + i
			c.Replicate = []Peer{{Addr: "192.0.2.10"}}
			require.NoError(t, h.Reload(c))
			require.NoError(t, detach(h.Engine, configOf(t, "98")))
			require.NoError(t, detach(h.Engine, configOf(t, "99")))
			require.NoError(t, h.RemovePeer(soon(t), netip.MustParseAddr("192.0.2.9")))
			require.NoError(t, h.SetGroup(soon(t), netip.MustParseAddr(fmt.Sprintf("224.10.0.%d", i+2))))
		}
		require.NoError(t, stream.WaitMore(soon(t), 1<<20))
	}
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	// Those on their way arrive, and lost ones stay lost.
	eventually(t, "at most two pings lost", func() bool {
		st := p.Stats()
		return st.Sent-st.Received <= 2
	})
	require.Error(t, a.SetGroup(soon(t), netip.MustParseAddr("192.0.2.1")))
	cfg.Workers, cfg.Port = 1, 1799
	require.ErrorContains(t, a.Reload(cfg), "restart")
}
