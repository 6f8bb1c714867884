package checktest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// tap is a packet socket that sends and receives frames with what is left to do on them
// (PACKET_VNET_HDR).
type tap struct {
	what string
	file *os.File
	done chan struct{}
	once sync.Once
	err  error // of the reader; read after done
}

// tapBuffer holds what comes while the test waits for a processor.
const tapBuffer = 64 << 20

// openTap opens a tap on a device and gives every frame to handle, one at a time; the frame is only valid
// meanwhile. Frames that leave by the device are handled only if outgoing is set.
func openTap(t testing.TB, n *lab.Node, index int, what string, outgoing bool, handle func(frame []byte, h wire.VnetHdr, out bool)) *tap {
	t.Helper()
	p := &tap{what: what, done: make(chan struct{})}
	require.NoError(t, n.Do(func() error { return p.open(index, outgoing) }))
	go p.run(handle)
	t.Cleanup(func() { p.close(t) })
	return p
}

func (p *tap) open(index int, outgoing bool) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	p.file = os.NewFile(uintptr(fd), p.what)
	options := []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tapBuffer},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, tapBuffer},
	}
	if !outgoing {
		options = append(options, struct{ level, name, value int }{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	promiscuous := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network byte order
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
}

func (p *tap) run(handle func([]byte, wire.VnetHdr, bool)) {
	defer close(p.done)
	raw, err := p.file.SyscallConn()
	const room = 64
	buf, ctl := make([]byte, room+256<<10), make([]byte, 256)
	for err == nil {
		var n, ctln int
		var from unix.Sockaddr
		var errRecv error
		err = raw.Read(func(fd uintptr) bool {
			n, ctln, _, from, errRecv = unix.Recvmsg(int(fd), buf[room:], ctl, 0)
			return errRecv != unix.EAGAIN
		})
		switch {
		case err != nil:
		case errRecv != nil:
			err = errRecv
		case n < wire.VnetHdrLen:
			err = fmt.Errorf("message of %d bytes", n)
		default:
			var h wire.VnetHdr
			h.Decode(buf[room:])
			ll, ok := from.(*unix.SockaddrLinklayer)
			frame := putTag(buf, room+wire.VnetHdrLen, room+n, ctl[:ctln], &h)
			handle(frame, h, ok && ll.Pkttype == unix.PACKET_OUTGOING)
		}
	}
	p.err = err
}

// putTag puts back the tag that the kernel tells of apart: PACKET_AUXDATA; packet(7).
func putTag(buf []byte, from, to int, ctl []byte, h *wire.VnetHdr) []byte {
	msgs, _ := unix.ParseSocketControlMessage(ctl)
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 || to-from < 12 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		tpid := uint16(unix.ETH_P_8021Q)
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[18:])
		}
		copy(buf[from-4:], buf[from:from+12])
		from -= 4
		binary.BigEndian.PutUint16(buf[from+12:], tpid)
		binary.BigEndian.PutUint16(buf[from+14:], binary.NativeEndian.Uint16(m.Data[16:]))
		if h.Flags&wire.FlagNeedsCsum != 0 {
			h.CsumStart += 4
		}
	}
	return buf[from:to]
}

// send sends a frame out of the device.
func (p *tap) send(s shot) error {
	b := make([]byte, wire.VnetHdrLen, wire.VnetHdrLen+len(s.frame))
	s.hdr.Encode(b)
	_, err := p.file.Write(append(b, s.frame...))
	return err
}

// close ends the tap, and fails the test if it missed something.
func (p *tap) close(t testing.TB) {
	p.once.Do(func() {
		conn, err := p.file.SyscallConn()
		require.NoError(t, err)
		var stats *unix.TpacketStats
		require.NoError(t, conn.Control(func(fd uintptr) {
			stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		}))
		if err != nil || stats.Drops > 0 {
			t.Errorf("tap on %s: %v, statistics %+v", p.what, err, stats)
		}
		select {
		case <-p.done:
			t.Errorf("tap on %s: %v", p.what, p.err)
		default:
		}
		p.file.Close()
		<-p.done
	})
}

// caught is a frame as it would be on a cable.
type caught struct {
	frame  []byte
	super  bool // it came in a super-frame
	behind bool // and not as the first
}

// inbox is what a tap has caught.
type inbox struct {
	mu     sync.Mutex
	frames []caught
	weight int // of frames
	supers int // since ever
	err    error
	more   chan struct{}
}

func newInbox() *inbox { return &inbox{more: make(chan struct{})} }

// put adds what a frame becomes on a cable.
func (q *inbox) put(frame []byte, h wire.VnetHdr) {
	list, err := pieces(frame, h, 0)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil && q.err == nil {
		q.err = fmt.Errorf("%w; %+v, frame of %d bytes: %x…", err, h, len(frame), frame[:min(64, len(frame))])
	}
	super := h.GSOType != wire.GSONone
	if super {
		q.supers++
	}
	for i, f := range list {
		q.frames = append(q.frames, caught{f, super, i > 0})
		q.weight += weight(f)
	}
	close(q.more)
	q.more = make(chan struct{})
}

// weight is what a frame counts: what remains the same however TCP is cut.
func weight(f []byte) int {
	if !isTCP(f) {
		return 1
	}
	l, _ := look(f)
	return max(1, l.end-l.l4-int(f[l.l4+12]>>4)*4)
}

// weights is the weight of frames together.
func weights(frames [][]byte) (sum int) {
	for _, f := range frames {
		sum += weight(f)
	}
	return sum
}

// take takes frames of some weight or more, and waits for them; what came until ctx ended if it does.
func (q *inbox) take(ctx context.Context, weight int) ([]caught, error) {
	for {
		q.mu.Lock()
		frames, more, err := q.frames, q.more, q.err
		enough := q.weight >= weight || err != nil || ctx.Err() != nil
		if enough {
			q.frames, q.weight, q.err = nil, 0, nil
		}
		q.mu.Unlock()
		if enough {
			return frames, errors.Join(err, ctx.Err())
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}

// changed is closed when there is something to take.
func (q *inbox) changed() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) > 0 {
		now := make(chan struct{})
		close(now)
		return now
	}
	return q.more
}

// count is the number of super-frames that came.
func (q *inbox) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.supers
}
