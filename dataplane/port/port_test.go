package port

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
)

// bench is a host with vnet 97 and a domain on it.
type bench struct {
	host    *lab.Host
	devices Devices
	port    *Port
	domain  *lab.Domain
}

// number n makes the domain's addresses 10.97.0.n and fd97::n.
func newBench(t testing.TB, l *lab.Lab, name string, n byte) *bench {
	t.Helper()
	b := &bench{}
	var err error
	b.host, err = l.Host(name)
	require.NoError(t, err)
	b.devices, err = Ensure(b.host.Net, spec97(t))
	require.NoError(t, err)
	b.port, err = Open(b.devices, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.port.Close() })
	v4, v6 := netip.AddrFrom4([4]byte{10, 97, 0, n}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x97, 15: n})
	b.domain, err = b.host.Domain(lab.DomainSpec{
		Name: "domain" + name, Vif: "vif1.0", Bridge: "vnet97",
		Addrs: []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)},
	})
	require.NoError(t, err)
	require.NoError(t, b.host.AwaitForwarding(soon(t), "vnet97"))
	return b
}

var soon = nettest.Soon

// wait blocks until a port is readable, or the time is over.
func wait(t testing.TB, p *Port) bool {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.FD()), Events: unix.POLLIN}}, 10000)
		if err != unix.EINTR {
			require.NoError(t, err)
			return n == 1
		}
	}
}

// recvUntil receives until a frame fits, and returns a copy of it.
func recvUntil(t testing.TB, p *Port, fits func(f []byte, h wire.VnetHdr) bool) ([]byte, wire.VnetHdr) {
	t.Helper()
	b := NewBatch()
	for wait(t, p) {
		n, err := p.Recv(b)
		require.NoError(t, err)
		require.Equal(t, n, b.Len())
		for i := range n {
			if fits(b.Frame(i), b.Hdr(i)) {
				return bytes.Clone(b.Frame(i)), b.Hdr(i)
			}
		}
	}
	require.FailNow(t, "the awaited frame did not come")
	return nil, wire.VnetHdr{}
}

const testType = 0x88b5 // IEEE 802 local experimental EtherType 1

var broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// testFrame is an Ethernet frame of n bytes.
func testFrame(src byte, n int, tags ...uint16) []byte {
	f := append(append([]byte{}, broadcast...), 2, 0, 0, 0, 0, src)
	for _, tci := range tags {
		f = append(f, 0x81, 0)
		f = binary.BigEndian.AppendUint16(f, tci)
	}
	f = append(f, testType>>8, testType&0xff)
	for i := len(f); i < n; i++ {
		f = append(f, byte(i))
	}
	return f
}

func frameOf(f []byte) wire.Frame { return wire.Frame{Bufs: [][]byte{f}} }

func isTest(f []byte, _ wire.VnetHdr) bool {
	at := 12
	for at+4 < len(f) && binary.BigEndian.Uint16(f[at:]) == 0x8100 {
		at += 4
	}
	return binary.BigEndian.Uint16(f[at:]) == testType
}

func TestRecv(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	for name, f := range map[string][]byte{
		"short":             testFrame(1, 60),
		"full":              testFrame(1, 1514),
		"tagged":            testFrame(1, 100, 0x2005),
		"full and tagged":   testFrame(1, 1518, 5),
		"tagged twice":      testFrame(1, 100, 0x2005, 7),
		"priority tag only": testFrame(1, 100, 0xe000),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, b.domain.Send("eth0", f))
			got, h := recvUntil(t, b.port, isTest)
			require.Equal(t, f, got)
			require.Zero(t, h.GSOType)
		})
	}
	n, err := b.port.Recv(NewBatch())
	for n > 0 { // what the domain's IPv6 says
		n, err = b.port.Recv(NewBatch())
	}
	require.NoError(t, err)
}

// tcpFrame is a frame with a TCP segment of n bytes, tagged if tci is not 0, whose checksum is left open, as
// what is left to do says.
func tcpFrame(n int, tci uint16, v6 bool) ([]byte, wire.VnetHdr) {
	f := append(append([]byte{}, broadcast...), 2, 0, 0, 0, 0, 1)
	if tci != 0 {
		f = append(f, 0x81, 0)
		f = binary.BigEndian.AppendUint16(f, tci)
	}
	h := wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumOffset: 16}
	if v6 {
		h.GSOType = wire.GSOTCPv6
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(20+n))
		f = append(f, 6, 64)
		f = append(f, make([]byte, 32)...)
	} else {
		h.GSOType = wire.GSOTCPv4
		f = append(f, 8, 0, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(40+n))
		f = append(f, 0, 1, 0, 0, 64, 6, 0, 0, 10, 97, 0, 9, 10, 97, 0, 10)
	}
	h.CsumStart = uint16(len(f))
	f = append(f, 0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0) // data offset 5, ACK
	h.HdrLen = uint16(len(f))
	if h.GSOSize = 1400; n <= 1400 {
		h.GSOType, h.GSOSize, h.HdrLen = wire.GSONone, 0, 0
	}
	for i := range n {
		f = append(f, byte(i))
	}
	return f, h
}

// What is left to do on a frame goes through both ends of a tunnel unchanged, and counts the tag in.
func TestOffloadMetadata(t *testing.T) {
	l := lab.New(t)
	a, b := newBench(t, l, "A", 1), newBench(t, l, "B", 2)
	eth := link(t, a.domain.Net, "eth0")
	guest, err := Open(Devices{PartnerIndex: eth.Index, PartnerName: eth.Name, host: a.domain.Net}, Options{})
	require.NoError(t, err)
	defer func() { _ = guest.Close() }()
	c, err := b.domain.Capture("eth0", func(f lab.Frame) bool { return bytes.HasPrefix(f.Data, broadcast) && f.Data[11] == 1 })
	require.NoError(t, err)
	for _, n := range []int{100, 60000} {
		for _, tci := range []uint16{0, 0x2005} {
			for _, v6 := range []bool{false, true} {
				f, h := tcpFrame(n, tci, v6)
				sent, err := guest.Send([]wire.Frame{{Hdr: h, Bufs: [][]byte{f}}})
				require.NoError(t, err)
				require.Equal(t, 1, sent)
				got, gotHdr := recvUntil(t, a.port, func(g []byte, _ wire.VnetHdr) bool { return g[11] == 1 })
				require.Equal(t, f, got)
				if h.GSOType != wire.GSONone {
					require.NotZero(t, gotHdr.HdrLen)
				}
				gotHdr.HdrLen = h.HdrLen // the kernel tells how much of the frame lies together
				require.Equal(t, h, gotHdr)

				sent, err = b.port.Send([]wire.Frame{{Hdr: gotHdr, Bufs: [][]byte{got}}})
				require.NoError(t, err)
				require.Equal(t, 1, sent)
				arrived, err := c.Next(soon(t))
				require.NoError(t, err)
				require.Equal(t, f, arrived.Data)
			}
		}
	}
}

func TestSend(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	c, err := b.domain.Capture("eth0", func(f lab.Frame) bool { return isTest(f.Data, wire.VnetHdr{}) && !f.Outgoing })
	require.NoError(t, err)
	for name, f := range map[string][]byte{
		"short": testFrame(1, 60), "full": testFrame(1, 1514), "tagged": testFrame(1, 100, 0x2005), "full and tagged": testFrame(1, 1518, 5),
	} {
		t.Run(name, func(t *testing.T) {
			// In pieces, one of them empty.
			n, err := b.port.Send([]wire.Frame{{Bufs: [][]byte{f[:3], nil, f[3:20], f[20:]}}})
			require.NoError(t, err)
			require.Equal(t, 1, n)
			got, err := c.Next(soon(t))
			require.NoError(t, err)
			require.Equal(t, f, got.Data)
		})
	}
	n, err := b.port.Send(nil)
	require.NoError(t, err)
	require.Zero(t, n)
}

// A frame that is refused does not keep back the others, and is counted.
func TestSendBadFrames(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	c, err := b.domain.Capture("eth0", func(f lab.Frame) bool { return isTest(f.Data, wire.VnetHdr{}) && !f.Outgoing })
	require.NoError(t, err)
	bad := map[string]struct {
		frame wire.Frame
		err   error
	}{
		"too long":        {frameOf(testFrame(9, 3000)), ErrTooLong},
		"too many pieces": {wire.Frame{Bufs: make([][]byte, 2000)}, ErrTooLong},
		"bad gso": {wire.Frame{Hdr: wire.VnetHdr{Flags: wire.FlagNeedsCsum, GSOType: 77, GSOSize: 100, CsumStart: 34, CsumOffset: 16},
			Bufs: [][]byte{testFrame(9, 200)}}, ErrInvalid},
		"checksum outside": {wire.Frame{Hdr: wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: 5000, CsumOffset: 16},
			Bufs: [][]byte{testFrame(9, 200)}}, ErrInvalid},
	}
	for name, v := range bad {
		t.Run(name, func(t *testing.T) {
			var fs []wire.Frame
			const good = 150 // more than one system call takes
			for i := range good {
				if i == 0 || i == 70 || i == 71 || i == good-1 {
					fs = append(fs, v.frame)
				}
				f := testFrame(1, 100)
				binary.BigEndian.PutUint32(f[20:], uint32(i))
				fs = append(fs, frameOf(f))
			}
			n, err := b.port.Send(fs)
			require.ErrorIs(t, err, v.err)
			require.Equal(t, good, n)
			for i := range good {
				f, err := c.Next(soon(t))
				require.NoError(t, err)
				require.EqualValues(t, i, binary.BigEndian.Uint32(f.Data[20:]))
			}
		})
	}
}

// What Send has sent does not come back, and the host's stack sees nothing of what Recv receives.
func TestPortIsAlone(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	n, err := b.port.Send([]wire.Frame{frameOf(testFrame(7, 60))})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, b.domain.Send("eth0", testFrame(8, 60)))
	recvUntil(t, b.port, func(f []byte, h wire.VnetHdr) bool {
		require.False(t, isTest(f, h) && f[11] == 7, "own frame")
		return isTest(f, h)
	})

	// A broadcast datagram for the host's own socket, on an address that the partner has.
	partner := link(t, b.host.Net, "vnp97")
	require.NoError(t, b.host.Net.EnsureAddress(addressOn(partner.Index, "10.97.0.77/24")))
	var in, out, own net.PacketConn
	require.NoError(t, b.host.Do(func() (err error) { in, err = net.ListenPacket("udp4", "0.0.0.0:1798"); return err }))
	defer in.Close()
	in4 := ipv4.NewPacketConn(in)
	require.NoError(t, in4.SetControlMessage(ipv4.FlagInterface, true))
	require.NoError(t, b.host.Do(func() (err error) { own, err = net.ListenPacket("udp4", "127.0.0.1:0"); return err }))
	defer own.Close()
	require.NoError(t, b.domain.Do(func() (err error) { out, err = net.ListenPacket("udp4", "10.97.0.1:0"); return err }))
	defer out.Close()
	_, err = out.WriteTo([]byte("stray"), &net.UDPAddr{IP: net.IPv4bcast, Port: 1798})
	require.NoError(t, err)
	recvUntil(t, b.port, func(f []byte, _ wire.VnetHdr) bool { return bytes.HasSuffix(f, []byte("stray")) })
	_, err = own.WriteTo([]byte("own"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1798})
	require.NoError(t, err)
	for buf := make([]byte, 100); ; { // the bridge's own, too, which is the bridge's business
		k, cm, _, err := in4.ReadFrom(buf)
		require.NoError(t, err)
		require.NotEqual(t, partner.Index, cm.IfIndex)
		if string(buf[:k]) == "own" {
			break
		}
	}
}

func TestPortErrors(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	f := []wire.Frame{frameOf(testFrame(1, 60)), frameOf(testFrame(1, 60))}
	batch := NewBatch()

	require.NoError(t, b.host.Net.SetDown(b.devices.PartnerIndex))
	require.ErrorIs(t, recvError(t, b.port, batch), ErrDown)
	n, err := b.port.Send(f)
	require.ErrorIs(t, err, ErrDown)
	require.Zero(t, n)
	require.NoError(t, b.host.Net.SetUp(b.devices.PartnerIndex))
	require.NoError(t, b.host.Net.AwaitRunning(soon(t), b.devices.VnifIndex))
	require.NoError(t, b.domain.Send("eth0", testFrame(1, 60)))
	recvUntil(t, b.port, isTest)
	n, err = b.port.Send(f)
	require.NoError(t, err)
	require.Equal(t, 2, n)

	require.NoError(t, Remove(b.host.Net, spec97(t)))
	require.ErrorIs(t, recvError(t, b.port, batch), ErrGone)
	n, err = b.port.Send(f)
	require.ErrorIs(t, err, ErrGone)
	require.Zero(t, n)
	require.NoError(t, b.port.Close())
	require.NoError(t, b.port.Close())
	_, err = Open(b.devices, Options{})
	require.ErrorContains(t, err, "open port on vnp97")
}

// setVnif takes the vnif up or down, and returns when the partner has noticed.
func (b *bench) setVnif(t testing.TB, up bool) {
	t.Helper()
	ctx, stop := context.WithCancel(soon(t))
	defer stop()
	if up {
		require.NoError(t, b.host.Net.SetUp(b.devices.VnifIndex))
		require.NoError(t, b.host.Net.AwaitRunning(ctx, b.devices.PartnerIndex))
		return
	}
	events, err := b.host.Net.Watch(ctx)
	require.NoError(t, err)
	require.NoError(t, b.host.Net.SetDown(b.devices.VnifIndex))
	for link(t, b.host.Net, b.devices.PartnerName).Running() {
		_, open := <-events
		require.True(t, open, "the partner still has carrier")
	}
}

// What the vnif does not take is not reported as sent, whether it was down before segmentation was switched off
// on the partner, or is so afterwards; and the queue is bypassed again when it can be.
func TestBypass(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	f, h := tcpFrame(60000, 0, false)
	super := wire.Frame{Hdr: h, Bufs: [][]byte{f}}
	fs := []wire.Frame{super, frameOf(testFrame(1, 100)), super}
	send := func(want error) {
		t.Helper()
		n, err := b.port.Send(fs)
		for want == nil && errors.Is(err, ErrFull) { // a slow machine's backlog
			time.Sleep(time.Millisecond)
			var more int
			more, err = b.port.Send(fs[n:])
			n += more
		}
		require.ErrorIs(t, err, want)
		if want == nil {
			require.Equal(t, len(fs), n)
		} else {
			require.Zero(t, n)
		}
	}
	for _, segments := range []bool{true, false} {
		b.setSegmentation(t, segments)
		for range retryDirect + 1 {
			send(nil)
			require.Equal(t, segments, b.port.direct.Load())
		}
		b.setVnif(t, false)
		for range 2 {
			send(ErrFull)
			require.True(t, b.port.direct.Load())
		}
		b.setVnif(t, true)
	}
	send(nil)
	b.setSegmentation(t, true)
	for range retryDirect {
		require.False(t, b.port.direct.Load())
		send(nil)
	}
	require.True(t, b.port.direct.Load())
}

// recvError receives until there is an error.
func recvError(t *testing.T, p *Port, b *Batch) error {
	t.Helper()
	for wait(t, p) {
		if _, err := p.Recv(b); err != nil {
			return err
		}
	}
	require.FailNow(t, "no error")
	return nil
}

func TestDrops(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	require.NoError(t, b.port.Close())
	p, err := Open(b.devices, Options{ReceiveBuffer: 1})
	require.NoError(t, err)
	defer func() { _ = p.Close() }()
	for range 50 {
		require.NoError(t, b.domain.Send("eth0", testFrame(1, 1000)))
	}
	nettest.Eventually(t, "drops are counted", func() bool {
		n, err := p.Drops()
		require.NoError(t, err)
		return n > 0
	})
}

// No allocation per batch, in either direction.
func TestAllocations(t *testing.T) {
	b := newBench(t, lab.New(t), "A", 1)
	batch := NewBatch()
	f := testFrame(1, 200)
	fs := []wire.Frame{{Bufs: [][]byte{f[:50], f[50:]}}, frameOf(f)}
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := b.port.Send(fs); err != nil {
			panic(err)
		}
	}))
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := b.port.Recv(batch); err != nil {
			panic(err)
		}
	}))
}
