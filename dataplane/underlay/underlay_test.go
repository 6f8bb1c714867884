package underlay

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var soon = nettest.Soon

// end is a host with an underlay.
type end struct {
	*lab.Host
	*Underlay
	path  *Path
	batch *Batch
	send  *Sender
	group netip.AddrPort
	// listener gets the group's packets.
	listener *Socket
}

var groups = [2]netip.Addr{IPv4: wire.Group, IPv6: netip.MustParseAddr("ff05::706")}

func newEnds(t testing.TB, f Family, mtu, sockets int) (*lab.Switch, *end, *end) {
	t.Helper()
	l := lab.New(t)
	s, err := l.Switch("lan", mtu)
	require.NoError(t, err)
	a, b := newEnd(t, s, "A", f, sockets), newEnd(t, s, "B", f, sockets)
	// The switch forwards a moment after the links are up.
	_, err = a.Ping(soon(t), b.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	return s, a, b
}

func newEnd(t testing.TB, s *lab.Switch, name string, f Family, sockets int) *end {
	t.Helper()
	h, err := s.Host(name)
	require.NoError(t, err)
	e := &end{Host: h, batch: NewBatch(), send: new(Sender), group: netip.AddrPortFrom(groups[f], wire.Port)}
	require.NoError(t, h.Do(func() (err error) {
		if e.Underlay, err = Open(Options{Family: f, Port: wire.Port, TTL: 64, Sockets: sockets}); err != nil {
			return err
		}
		e.listener, _, err = e.Listen(e.group.Addr())
		return err
	}))
	t.Cleanup(e.Underlay.Close)
	dev, err := h.Uplink().Link()
	require.NoError(t, err)
	e.path = &Path{Source: h.Addr(), Index: dev.Index, MTU: dev.MTU}
	if f == IPv6 {
		e.path.Source = h.Addr6()
	}
	require.NoError(t, e.Join(dev.Index, e.group.Addr()))
	return e
}

func (e *end) addr() netip.AddrPort { return netip.AddrPortFrom(e.path.Source, wire.Port) }

// receive collects packets, runs cut, until there are n.
func (e *end) receive(t testing.TB, s *Socket, n int) (out []Packet) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for len(out) < n {
		fds := []unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}
		_, _ = unix.Poll(fds, 100)
		k, err := s.Recv(e.batch)
		require.NoError(t, err)
		for i := range k {
			p := *e.batch.Packet(i)
			for data := p.Data; len(data) > 0; {
				m := min(p.SegSize, len(data))
				one := p
				one.Data = bytes.Clone(data[:m])
				out = append(out, one)
				data = data[m:]
			}
		}
		require.False(t, time.Now().After(deadline), "%d of %d packets", len(out), n)
	}
	if len(out) != n {
		t.Fatalf("%d packets, not %d", len(out), n)
	}
	return out
}

func payload(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + seed
	}
	return b
}

func TestUnicastAndGroup(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			_, a, b := newEnds(t, f, 0, 1)
			full := 1500 - f.HeaderLen()
			// The kernel keeps what is for a host whose MAC it still has to ask for, and the group's would overtake it.
			_, err := a.send.Send(a.UDP()[0], a.path, []Msg{{To: b.addr(), Bufs: [][]byte{{0}}}})
			require.NoError(t, err)
			b.receive(t, b.UDP()[0], 1)
			msgs := []Msg{
				{To: b.addr(), Bufs: [][]byte{payload(3, 0), payload(97, 1)}},
				{To: b.addr(), Bufs: [][]byte{payload(2*full, 2), nil, payload(full+10, 3)}, SegSize: full}, // a train
				{To: b.addr(), Bufs: [][]byte{payload(20000, 4)}},                                           // fragments
				{To: b.addr(), Bufs: [][]byte{payload(1, 5)}},
				{To: b.group, Bufs: [][]byte{payload(50, 6)}},
				{To: b.group, Bufs: [][]byte{payload(3*40, 7)}, SegSize: 40},
				{To: b.group, Bufs: [][]byte{payload(3000, 8)}},
				{To: b.group, Bufs: [][]byte{payload(2, 9)}},
			}
			undo := nettest.OneProcessor(t)
			failed, err := a.send.Send(a.UDP()[0], a.path, msgs)
			undo()
			require.NoError(t, err)
			require.Zero(t, failed)
			var got []Packet
			if f == IPv4 {
				got = b.receive(t, b.UDP()[0], 1+4+1+1)
				got = append(got, b.receive(t, b.listener, 1+3+1+1)...)
			} else {
				got = b.receive(t, b.listener, 1+4+1+1+1+3+1+1)
			}
			sizes := []int{100, full, full, full, 10, 20000, 1, 50, 40, 40, 40, 3000, 2}
			var sent, received []byte
			for _, m := range msgs {
				for _, x := range m.Bufs {
					sent = append(sent, x...)
				}
			}
			for i, p := range got {
				require.Len(t, p.Data, sizes[i], i)
				require.Equal(t, a.addr(), p.From)
				toGroup := i >= 7
				require.Equal(t, toGroup, p.Multicast)
				if toGroup {
					require.Equal(t, b.group.Addr(), p.To)
				} else {
					require.Equal(t, b.path.Source, p.To)
				}
				require.False(t, p.Misdirected || p.Truncated)
				received = append(received, p.Data...)
			}
			require.Equal(t, sent, received)
			// Nothing of it came back.
			for _, s := range []*Socket{a.UDP()[0], a.listener} {
				n, err := s.Recv(a.batch)
				require.NoError(t, err)
				require.Zero(t, n)
			}
		})
	}
}

// What is larger than the MTU of the route is refused as a train, and goes packet by packet.
func TestRefusedTrain(t *testing.T) {
	_, a, b := newEnds(t, IPv4, 0, 1)
	require.NoError(t, a.Net.SetMTU(a.path.Index, 1000)) // the path still says 1500
	msgs := []Msg{
		{To: b.addr(), Bufs: [][]byte{payload(10, 0)}},
		{To: b.addr(), Bufs: [][]byte{payload(1200, 1), payload(1201, 2), payload(99, 3)}, SegSize: 1200},
		{To: b.addr(), Bufs: [][]byte{payload(10, 4)}},
	}
	failed, err := a.send.Send(a.UDP()[0], a.path, msgs)
	require.NoError(t, err)
	require.Zero(t, failed)
	got := b.receive(t, b.UDP()[0], 5)
	require.Len(t, got[1].Data, 1200)
	require.Len(t, got[3].Data, 100)
	require.False(t, a.path.refusing.Load())

	// A path whose device takes none at all.
	a.path.refusing.Store(true)
	failed, err = a.send.Send(a.UDP()[0], a.path, msgs)
	require.NoError(t, err)
	require.Zero(t, failed)
	again := b.receive(t, b.UDP()[0], 5)
	for i := range got {
		require.Equal(t, got[i].Data, again[i].Data)
	}
}

func TestSendErrors(t *testing.T) {
	_, a, b := newEnds(t, IPv4, 0, 1)
	_, err := a.Run(soon(t), "ip", "route", "add", "unreachable", "192.0.2.0/24")
	require.NoError(t, err)
	msgs := []Msg{
		{To: netip.MustParseAddrPort("192.0.2.1:1798"), Bufs: [][]byte{payload(30, 0)}, SegSize: 10},
		{To: b.addr(), Bufs: [][]byte{payload(10, 0)}},
		{To: b.addr(), Bufs: [][]byte{make([]byte, 65508)}}, // more than a datagram carries
		{To: b.addr(), Bufs: [][]byte{payload(11, 0)}},
	}
	failed, err := a.send.Send(a.UDP()[0], a.path, msgs)
	require.Error(t, err)
	require.Equal(t, 4, failed)
	got := b.receive(t, b.UDP()[0], 2)
	require.Len(t, got[1].Data, 11)
}

// More than fits the scratch memory at once.
func TestManyMessages(t *testing.T) {
	_, a, b := newEnds(t, IPv4, 0, 1)
	var msgs []Msg
	for i := range 500 {
		var bufs [][]byte
		for j := range 20 {
			bufs = append(bufs, payload(50, byte(i+j)))
		}
		msgs = append(msgs, Msg{To: b.addr(), Bufs: bufs})
	}
	failed, err := a.send.Send(a.UDP()[0], a.path, msgs)
	require.NoError(t, err)
	require.Zero(t, failed)
	for i, p := range b.receive(t, b.UDP()[0], 500) {
		require.Equal(t, payload(50, byte(i)), p.Data[:50], i)
	}
}

// Several sockets share the port: each host's packets all come to one; the group's come to the listener.
func TestSharedPort(t *testing.T) {
	s, a, b := newEnds(t, IPv4, 0, 4)
	_ = s
	require.Len(t, b.UDP(), 4)
	const count = 20
	for i := range count {
		_, err := a.send.Send(a.UDP()[i%4], a.path, []Msg{{To: b.addr(), Bufs: [][]byte{payload(100, byte(i))}}, {To: b.group, Bufs: [][]byte{payload(7, 0)}}})
		require.NoError(t, err)
	}
	b.receiveAll(t, count, count)
	// The port is taken for others.
	require.Error(t, b.Do(func() error {
		u, err := Open(Options{Family: IPv4, Port: wire.Port, TTL: 1, Sockets: 1})
		if err == nil {
			u.Close()
		}
		return err
	}))
}

func (e *end) receiveAll(t *testing.T, unicast, group int) {
	t.Helper()
	perSocket := make([]int, len(e.UDP()))
	deadline := time.Now().Add(10 * time.Second)
	for unicast > 0 || group > 0 {
		require.False(t, time.Now().After(deadline))
		for i, s := range append(e.UDP(), e.listener) {
			n, err := s.Recv(e.batch)
			require.NoError(t, err)
			for j := range n {
				p := e.batch.Packet(j)
				require.Equal(t, i == len(e.UDP()), p.Multicast)
				if p.Multicast {
					group -= len(p.Data) / p.SegSize
				} else {
					perSocket[i] += len(p.Data) / p.SegSize
					unicast -= len(p.Data) / p.SegSize
				}
			}
		}
	}
	used := 0
	for _, n := range perSocket {
		if n > 0 {
			used++
		}
	}
	require.Equal(t, 1, used)
	require.Zero(t, unicast)
	require.Zero(t, group)
}

func TestMembership(t *testing.T) {
	s, a, b := newEnds(t, IPv4, 0, 1)
	hello := []Msg{{To: a.group, Bufs: [][]byte{payload(10, 0)}}}
	send := func() {
		t.Helper()
		_, err := a.send.Send(a.UDP()[0], a.path, hello)
		require.NoError(t, err)
	}
	send()
	b.receive(t, b.listener, 1)
	// Left: not received, though another socket on the host is a member.
	var other net.PacketConn
	require.NoError(t, b.Do(func() (err error) {
		other, err = net.ListenMulticastUDP("udp4", &net.Interface{Index: b.path.Index}, &net.UDPAddr{IP: b.group.Addr().AsSlice(), Port: 9})
		return err
	}))
	defer other.Close()
	require.NoError(t, b.Join(0, netip.Addr{}))
	seen, err := b.Capture("eth0", func(f lab.Frame) bool { return len(f.Data) >= 34 && f.Data[23] == 17 })
	require.NoError(t, err)
	send()
	_, err = seen.Next(soon(t))
	require.NoError(t, err)
	n, err := b.listener.Recv(b.batch)
	require.NoError(t, err)
	require.Zero(t, n)
	// The device goes and comes back under another index, more often than a socket has memberships.
	for range 25 {
		require.NoError(t, b.Join(b.path.Index, b.group.Addr()))
		require.NoError(t, b.Uplink().Delete())
		require.NoError(t, b.Uplink().Create())
		dev, err := b.Uplink().Link()
		require.NoError(t, err)
		b.path = &Path{Source: b.Addr(), Index: dev.Index, MTU: dev.MTU}
	}
	require.NoError(t, b.Join(b.path.Index, b.group.Addr()))
	require.NoError(t, b.Join(b.path.Index, b.group.Addr()))
	send()
	b.receive(t, b.listener, 1)
	// Another group, and its packets only.
	other2 := netip.MustParseAddrPort("224.10.0.9:1798")
	require.NoError(t, b.Do(func() error {
		now, before, err := b.Listen(other2.Addr())
		if err == nil {
			require.Equal(t, b.listener, before)
			before.Close()
			b.listener = now
		}
		return err
	}))
	require.NoError(t, b.Join(b.path.Index, other2.Addr()))
	send()
	hello[0].To = other2
	send()
	require.Equal(t, other2.Addr(), b.receive(t, b.listener, 1)[0].To)
	require.Error(t, b.Join(4711, b.group.Addr()))
	require.NoError(t, b.SetTTL(7))
	_ = s
}

func TestEtherIP(t *testing.T) {
	_, a, b := newEnds(t, IPv4, 0, 1)
	msgs := []Msg{
		{To: netip.AddrPortFrom(b.path.Source, 0), Bufs: [][]byte{payload(100, 0)}},
		{To: netip.AddrPortFrom(b.group.Addr(), 0), Bufs: [][]byte{payload(101, 0)}},
		{To: netip.AddrPortFrom(b.path.Source, 0), Bufs: [][]byte{payload(4000, 0)}},
	}
	failed, err := a.send.Send(a.EtherIP(), a.path, msgs)
	require.NoError(t, err)
	require.Zero(t, failed)
	got := b.receive(t, b.EtherIP(), 3)
	for i, n := range []int{100, 101, 4000} {
		require.Equal(t, payload(n, 0), got[i].Data)
		require.Equal(t, a.path.Source, got[i].From.Addr())
		require.Equal(t, i == 1, got[i].Multicast)
	}
}

// The source address of another host is kept, also in fragments.
func TestRelay(t *testing.T) {
	_, a, b := newEnds(t, IPv4, 0, 1)
	r := NewRelay()
	stranger := netip.MustParseAddrPort("10.9.1.77:1798")
	for _, n := range []int{1, 1472, 1473, 1536, 8000} {
		require.NoError(t, r.Send(a.Underlay, a.path, stranger, a.group, 5, payload(n, 1)))
		p := b.receive(t, b.listener, 1)[0]
		require.Equal(t, payload(n, 1), p.Data)
		require.Equal(t, stranger, p.From)
		require.Equal(t, b.group.Addr(), p.To)
	}
	require.Error(t, r.Send(a.Underlay, a.path, stranger, a.group, 5, make([]byte, 66000)))
	n, err := a.UDP()[0].Recv(a.batch)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestEchoReply(t *testing.T) {
	own, group, from := netip.MustParseAddr("192.0.2.1"), wire.Group, netip.MustParseAddr("192.0.2.9")
	request := func(to netip.Addr, icmp ...byte) []byte {
		b, err := wire.AppendIPv4(nil, wire.IPv4{Source: from, Destination: to, Protocol: 1, TTL: 1}, len(icmp))
		require.NoError(t, err)
		return append(b, icmp...)
	}
	good := []byte{8, 0, 0, 0, 1, 2, 3, 4, 5}
	wire.PutSum(good[2:], ^wire.Fold(wire.Sum(good, 0)))
	reply, ok := echoReply(request(group, good...), group)
	require.True(t, ok)
	require.EqualValues(t, 0, reply[0])
	require.EqualValues(t, 0xffff, wire.Fold(wire.Sum(reply, 0)))
	require.Equal(t, good[4:], reply[4:])
	for name, packet := range map[string][]byte{
		"to us":     request(own, good...),
		"an answer": request(group, append([]byte{0}, good[1:]...)...),
		"checksum":  request(group, append(good, 1)...),
		"short":     request(group, good[:7]...),
		"garbage":   {1, 2, 3},
	} {
		_, ok := echoReply(packet, group)
		require.False(t, ok, name)
	}
}

func TestFamily(t *testing.T) {
	require.Equal(t, "ipv4 ipv6", fmt.Sprint(IPv4, " ", IPv6))
	require.Equal(t, IPv4, Of(netip.MustParseAddr("::ffff:192.0.2.1")))
	require.Equal(t, []int{28, 48}, []int{IPv4.HeaderLen(), IPv6.HeaderLen()})
}
