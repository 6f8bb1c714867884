package lab

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Frame is a captured Ethernet frame.
type Frame struct {
	Time     time.Time
	Data     []byte // with its VLAN tag; a super-frame where the device's offloads are on
	Outgoing bool   // sent by the host, not received
}

// EtherType is the type after any VLAN tags; 0 for a frame that is too short.
func (f Frame) EtherType() uint16 {
	for at := 12; at+2 <= len(f.Data); at += 4 {
		t := binary.BigEndian.Uint16(f.Data[at:])
		if t != unix.ETH_P_8021Q && t != unix.ETH_P_8021AD {
			return t
		}
	}
	return 0
}

// Capture collects the frames that pass a device, in order.
type Capture struct {
	what   string
	filter func(Frame) bool
	file   *os.File
	done   chan struct{}
	closed atomic.Bool
	raw    syscall.RawConn

	// reading orders those who read: run, which waits for frames, and whoever asks.
	reading  sync.Mutex
	buf, ctl []byte

	mu     sync.Mutex
	frames []Frame       // that nobody has asked for yet
	more   chan struct{} // closed when frames come, or the end
	err    error
}

// captureBuffer holds what comes while the process waits for a processor.
const captureBuffer = 64 << 20

// capture collects what filter accepts; nil accepts all. The filter is called one frame at a time.
func capture(n *Node, index int, what string, filter func(Frame) bool) (*Capture, error) {
	c := &Capture{what: what, filter: filter, done: make(chan struct{}), more: make(chan struct{}), buf: make([]byte, 256<<10), ctl: make([]byte, 256)}
	if err := n.Do(func() error { return c.open(index) }); err != nil {
		return nil, fmt.Errorf("lab: %s: capture: %w", what, err)
	}
	go c.run()
	n.lab.atClose(c.Close)
	return c, nil
}

func (c *Capture) open(index int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			unix.Close(fd)
			return os.NewSyscallError("setsockopt", err)
		}
	}
	promiscuous := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("setsockopt", err)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("bind", err)
	}
	c.file = os.NewFile(uintptr(fd), "packet")
	c.raw, err = c.file.SyscallConn()
	return err
}

// run reads until the socket is closed or its device is gone.
func (c *Capture) run() {
	defer close(c.done)
	var errRead error
	err := c.raw.Read(func(fd uintptr) bool {
		errRead = c.readAll(int(fd))
		return errRead != nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = cmp.Or(err, errRead)
	if c.closed.Load() {
		c.err = os.ErrClosed
	}
	close(c.more)
}

// readAll adds all frames that the socket has by now. It returns nil when these are read.
func (c *Capture) readAll(fd int) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		n, ctln, _, from, err := unix.Recvmsg(fd, c.buf, c.ctl, 0)
		switch err {
		case nil:
		case unix.EAGAIN:
			return nil
		case unix.ENETDOWN, unix.EINTR: // the device may come up again
			continue
		default:
			return os.NewSyscallError("recvmsg", err)
		}
		f := Frame{Time: time.Now(), Data: withTag(c.buf[:n], c.ctl[:ctln])}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			f.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		}
		if c.filter == nil || c.filter(f) {
			c.add(f)
		}
	}
}

func (c *Capture) add(f Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, f)
	close(c.more)
	c.more = make(chan struct{})
}

// withTag copies a frame, with the tag that the kernel tells of apart: PACKET_AUXDATA; packet(7).
func withTag(b, ctl []byte) []byte {
	msgs, _ := unix.ParseSocketControlMessage(ctl)
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 || len(b) < 12 {
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
		out := append(make([]byte, 0, len(b)+4), b[:12]...)
		out = binary.BigEndian.AppendUint16(out, tpid)
		out = binary.BigEndian.AppendUint16(out, binary.NativeEndian.Uint16(m.Data[16:]))
		return append(out, b[12:]...)
	}
	return append([]byte(nil), b...)
}

// Next returns the next frame, and waits for it.
func (c *Capture) Next(ctx context.Context) (Frame, error) {
	return c.WaitFor(ctx, func(Frame) bool { return true })
}

// WaitFor takes frames until one fits, and waits for it.
func (c *Capture) WaitFor(ctx context.Context, fits func(Frame) bool) (Frame, error) {
	for passed := 0; ; {
		c.mu.Lock()
		frames, more, err := c.frames, c.more, c.err
		for i, f := range frames {
			if fits(f) {
				c.frames = frames[i+1:]
				c.mu.Unlock()
				return f, nil
			}
		}
		passed += len(frames)
		c.frames = nil
		c.mu.Unlock()
		if err != nil {
			return Frame{}, fmt.Errorf("lab: %s: capture ended, %d other frames: %w", c.what, passed, err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("lab: %s: the awaited frame did not come, %d others did: %w", c.what, passed, ctx.Err())
		}
	}
}

// Take returns the frames that have passed since the last call, and does not wait: what has come where it was sent to has passed.
func (c *Capture) Take() []Frame {
	// The socket has it, although run may not have had a processor since; an error is run's.
	_ = c.raw.Control(func(fd uintptr) { _ = c.readAll(int(fd)) })
	c.mu.Lock()
	defer c.mu.Unlock()
	frames := c.frames
	c.frames = nil
	return frames
}

// Close ends the capture. Idempotent.
func (c *Capture) Close() {
	c.closed.Store(true)
	c.file.Close()
	<-c.done
}
