package port

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/mmsg"
)

// Why a port could not receive or send.
var (
	// ErrGone means that the partner does not exist any more: the port is of no further use.
	ErrGone = errors.New("port: device is gone")
	// ErrDown means that the partner is down; the port works again when it is up.
	ErrDown = errors.New("port: device is down")
	// ErrFull means that the kernel had no room for a frame.
	ErrFull = errors.New("port: no buffer space")
	// ErrTooLong means that a frame is longer than the vnif's MTU allows.
	ErrTooLong = errors.New("port: frame exceeds the MTU")
	// ErrInvalid means that the kernel refused a frame or its VnetHdr.
	ErrInvalid = errors.New("port: frame or offload metadata refused")
	// ErrUnreadable means that a frame was lost on receipt: truncated, shorter than an Ethernet header,
	// or with an offload that a VnetHdr can't express.
	ErrUnreadable = errors.New("port: frame can't be received whole")
)

// Options of a port.
type Options struct {
	// ReceiveBuffer and SendBuffer are the socket's buffers in bytes; 0: DefaultBuffer.
	ReceiveBuffer, SendBuffer int

	// join makes the socket one of several that share the frames, before it gets any; nil: it gets all.
	join func(fd int) error
}

// DefaultBuffer holds about a hundred super-frames of 64 KiB; memory is taken only while frames wait.
const DefaultBuffer = 8 << 20

// Port moves frames between the daemon and a vnif through a packet socket on the vnif's partner. Recv and Send
// may each be called from several goroutines, with a Batch of their own; none of them blocks.
type Port struct {
	fd     atomic.Int64 // -1 once closed
	number int
	index  int // of the partner

	direct atomic.Bool  // PACKET_QDISC_BYPASS is on
	detour atomic.Int32 // while it is off: the Sends until it is tried again
	mu     sync.Mutex   // to switch it
}

// retryDirect is the number of Sends after which a port tries again to bypass the queue. A vain try costs
// one frame that the kernel takes twice.
const retryDirect = 256

// dropAll is a filter that keeps everything out of a socket until its options are set.
var dropAll = []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K, K: 0}}

// Open opens the port of a vnet's devices. Frames that reach the vnif from now on are received.
func Open(d Devices, o Options) (*Port, error) {
	p := &Port{index: d.PartnerIndex}
	err := inNamespace(d.host, func() error {
		conn, err := packet.Listen(&net.Interface{Index: d.PartnerIndex, Name: d.PartnerName}, packet.Raw, unix.ETH_P_ALL,
			&packet.Config{Filter: dropAll})
		if err != nil {
			return err
		}
		// Only a duplicate of the descriptor stays. The first one is known to the Go runtime's poller,
		// which would wake up a thread for every frame; the workers have pollers of their own.
		defer func() { _ = conn.Close() }()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		errDup := raw.Control(func(fd uintptr) {
			p.number, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		})
		return errors.Join(errDup, err)
	})
	if err != nil {
		return nil, fmt.Errorf("open port on %s: %w", d.PartnerName, err)
	}
	p.fd.Store(int64(p.number))
	if err := p.configure(o); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("open port on %s: %w", d.PartnerName, err)
	}
	return p, nil
}

func inNamespace(h *hostnet.Host, fn func() error) error {
	if h == nil {
		return fn()
	}
	return h.Do(fn)
}

// configure sets the options, and then lets frames in.
func (p *Port) configure(o Options) error {
	for _, opt := range []struct {
		name  string
		value int
		since string
	}{
		// Frames as large as the bridge has them, checksums left open, each after a VnetHdr.
		{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR, "2.6.27"},
		// The VLAN tag, which the kernel takes out of the frame.
		{"PACKET_AUXDATA", unix.PACKET_AUXDATA, "2.6.21"},
		// Not what Send has sent: the kernel need not copy it.
		{"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING, "4.20"},
		// A veth has no queue to wait in.
		{"PACKET_QDISC_BYPASS", unix.PACKET_QDISC_BYPASS, "3.14"},
	} {
		if err := unix.SetsockoptInt(p.number, unix.SOL_PACKET, opt.value, 1); err != nil {
			return &hostnet.UnsupportedError{What: "socket option " + opt.name, Needs: "Linux " + opt.since, Err: err}
		}
	}
	p.direct.Store(true)
	for _, buf := range []struct{ size, forced, limited int }{
		{o.ReceiveBuffer, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		{o.SendBuffer, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		if buf.size == 0 {
			buf.size = DefaultBuffer
		}
		if unix.SetsockoptInt(p.number, unix.SOL_SOCKET, buf.forced, buf.size) != nil {
			// Without CAP_NET_ADMIN in the first user namespace: up to net.core.*mem_max.
			_ = unix.SetsockoptInt(p.number, unix.SOL_SOCKET, buf.limited, buf.size)
		}
	}
	if o.join != nil {
		if err := o.join(p.number); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(p.number, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
		return fmt.Errorf("detach filter: %w", err)
	}
	return nil
}

// FD is the socket, to be waited for by epoll(7): readable when Recv will bring frames, in error when Recv
// will say why. It is valid until Close.
func (p *Port) FD() int { return p.number }

// Close closes the socket; the devices stay. Nobody may be in Recv or Send. Idempotent.
func (p *Port) Close() error {
	if fd := p.fd.Swap(-1); fd >= 0 {
		return unix.Close(int(fd))
	}
	return nil
}

// Drops returns how many frames the kernel dropped since the last call because the receive buffer was
// full.
func (p *Port) Drops() (uint32, error) {
	s, err := unix.GetsockoptTpacketStats(p.number, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("port statistics: %w", err)
	}
	return s.Drops, nil
}

// Recv receives the frames that wait, at most BatchSize: 0 and no error if there are none. ErrUnreadable may
// come along with frames; it means that at least one was lost. After ErrDown, frames will come again
// when the device is up; after ErrGone, none will.
func (p *Port) Recv(b *Batch) (int, error) {
	var lost error
	for range BatchSize {
		b.prepare()
		n, errno := mmsg.Recv(p.number, b.msgs[:])
		switch errno {
		case 0:
			if b.take(n) > 0 {
				lost = ErrUnreadable
			}
			return b.n, lost
		case unix.EAGAIN:
			return 0, lost
		case unix.EINTR:
		case unix.EINVAL:
			// A frame whose offload has no place in a VnetHdr; the kernel dropped it.
			lost = ErrUnreadable
		default:
			return 0, p.failure(errno)
		}
	}
	return 0, lost
}

// failure gives the kernel's error number a name.
func (p *Port) failure(errno unix.Errno) error {
	switch errno {
	case unix.EMSGSIZE:
		return ErrTooLong
	case unix.EINVAL:
		return ErrInvalid
	case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
		return ErrFull
	case unix.ENXIO, unix.ENODEV, unix.EBADF:
		return ErrGone
	case unix.ENETDOWN:
		if p.exists() {
			return ErrDown
		}
		return ErrGone
	}
	return errno
}

// exists says whether the socket is still bound to a device: the kernel sets the index to -1 when the
// device is unregistered.
func (p *Port) exists() bool {
	sa, err := unix.Getsockname(p.number)
	if err != nil {
		return false
	}
	ll, ok := sa.(*unix.SockaddrLinklayer)
	return ok && ll.Ifindex > 0 && ll.Halen != 0
}

// Send sends frames out of the vnif, and returns how many went; the error is the first one's that did not. A
// frame that the kernel refuses does not keep back those after it; after ErrGone, ErrDown, or when the
// socket's buffer is full, the rest is not tried.
func (p *Port) Send(fs []wire.Frame) (n int, err error) {
	// While the vnif is down, the kernel refuses what bypasses the queue; what does not is lost in the veth,
	// and reported as sent.
	if !p.direct.Load() && (p.detour.Add(-1) <= 0 || !p.running()) {
		p.bypass(true)
	}
	s := senders.Get().(*sender)
	for len(fs) > 0 {
		count := s.gather(fs)
		if count == 0 { // more pieces than the kernel takes
			fs = fs[1:]
			err = first(err, ErrTooLong)
			continue
		}
		sent, ended, errSend := p.flush(s.msgs[:count])
		n += sent
		err = first(err, errSend)
		if ended {
			break
		}
		fs = fs[count:]
	}
	s.release()
	senders.Put(s)
	return n, err
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// flush sends messages; ended means that no more can be sent now.
func (p *Port) flush(msgs []mmsg.Hdr) (sent int, ended bool, err error) {
	for len(msgs) > 0 {
		direct := p.direct.Load()
		n, errno := mmsg.Send(p.number, msgs)
		switch errno {
		case 0:
			sent += n
			msgs = msgs[n:]
			continue
		case unix.EINTR:
			continue
		case unix.ENOBUFS:
			// Either the vnif is down, or segmentation was switched off on the partner. Then the kernel does it
			// instead, but not for frames that go straight to the device: __dev_direct_xmit.
			if direct && super(&msgs[0]) && p.running() && p.bypass(false) {
				continue
			}
		}
		failed := p.failure(errno)
		err = first(err, failed)
		switch errno {
		case unix.ENETDOWN, unix.ENXIO, unix.ENODEV, unix.EBADF, unix.EAGAIN:
			return sent, true, err
		}
		msgs = msgs[1:] // the error is the first message's
	}
	return sent, false, err
}

// bypass switches PACKET_QDISC_BYPASS, and reports whether it is as wanted.
func (p *Port) bypass(on bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.direct.Load() == on {
		return true // another Send was faster
	}
	value := 0
	if on {
		value = 1
	}
	if unix.SetsockoptInt(p.number, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, value) != nil {
		return false
	}
	p.detour.Store(retryDirect)
	p.direct.Store(on)
	return true
}

// running reports whether the partner is up and has carrier, which it has while the vnif is up; netdevice(7). The
// kernel tells it a little after the fact. The requests go to the socket's network namespace.
func (p *Port) running() bool {
	var r unix.Ifreq
	r.SetUint32(uint32(p.index))
	// By index, since anybody may rename the partner.
	if unix.IoctlIfreq(p.number, unix.SIOCGIFNAME, &r) != nil || unix.IoctlIfreq(p.number, unix.SIOCGIFFLAGS, &r) != nil {
		return false
	}
	return r.Uint16()&unix.IFF_RUNNING != 0
}

// super reports whether a message made by gather is a super-frame.
func super(m *mmsg.Hdr) bool {
	var h wire.VnetHdr
	h.Decode(unsafe.Slice(m.Hdr.Iov.Base, wire.VnetHdrLen))
	return h.GSOType != wire.GSONone
}

// sender is the scratch memory of one Send.
type sender struct {
	msgs [2 * BatchSize]mmsg.Hdr
	hdrs [2 * BatchSize][wire.VnetHdrLen]byte
	iovs [1024]unix.Iovec // UIO_MAXIOV: a single message may use them all
	used int              // of iovs, by the messages gathered last
	high int              // of iovs, since the last release
}

var senders = sync.Pool{New: func() any { return new(sender) }}

// gather makes messages of as many frames as there is room for.
func (s *sender) gather(fs []wire.Frame) int {
	s.used = 0
	for i := range fs {
		f := &fs[i]
		if i == len(s.msgs) || s.used+1+len(f.Bufs) > len(s.iovs) {
			return i
		}
		f.Hdr.Encode(s.hdrs[i][:])
		start := s.used
		s.add(s.hdrs[i][:])
		for _, b := range f.Bufs {
			if len(b) > 0 {
				s.add(b)
			}
		}
		s.msgs[i].Hdr.Iov = &s.iovs[start]
		s.msgs[i].Hdr.SetIovlen(s.used - start)
	}
	return len(fs)
}

func (s *sender) add(b []byte) {
	v := &s.iovs[s.used]
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
	s.used++
	s.high = max(s.high, s.used)
}

// release lets the garbage collector have the frames' memory.
func (s *sender) release() {
	clear(s.iovs[:s.high])
	s.high = 0
}
