package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// Three hosts of one segment that have each other as peers: what one of them floods ends, and the operator is told
// what to do.
func TestMutualPeersOnOneSegment(t *testing.T) {
	_, s, hosts := newLab(t, 3, testConfig())
	add(t, "97", hosts...)
	for _, a := range hosts {
		for _, b := range hosts {
			if a != b {
				require.NoError(t, a.AddPeer(soon(t), b.Addr(), 0))
			}
		}
	}
	var domains []*lab.Domain
	for i, h := range hosts {
		domains = append(domains, h.domain(i+1, "97"))
	}
	heard := capture(t, domains[2])
	ours := func(f lab.Frame) bool {
		_, frame, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):])
		return err == nil && len(frame) >= 14 && frame[12] == 0x88 && frame[13] == 0xb5
	}
	wireTap, err := s.Capture(ours)
	require.NoError(t, err)
	const frames = 200
	for i := range frames {
		f := testFrame(broadcastMAC, domainMAC(1), "storm "+strings.Repeat("x", i))
		require.NoError(t, domains[0].Send("eth0", f))
		expect(t, heard, f)
	}
	// All of it is there when nothing comes for a while.
	seen := 0
	for quiet := false; !quiet; {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := wireTap.Next(ctx)
		cancel()
		if quiet = err != nil; !quiet {
			seen++
		}
		require.Less(t, seen, 50*frames, "it does not end")
	}
	eventually(t, "an alarm", func() bool {
		return slices.ContainsFunc(hosts, func(h *testHost) bool {
			return h.log.Count("let one host of each segment have peers") > 0
		})
	})
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
	cfg.Peers = []NamedHost{{Addr: peer.Addr().String()}}
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
