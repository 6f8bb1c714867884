package underlay

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/mmsg"
)

const (
	// sendMsgs and sendIovs are the size of a Sender's scratch memory.
	sendMsgs = 64
	sendIovs = 2048
	// maxMsgIovs is UIO_MAXIOV of the kernel.
	maxMsgIovs = 1024
	// sendAncillaryLen holds IPV6_PKTINFO and UDP_SEGMENT.
	sendAncillaryLen = unix.SizeofCmsghdr + 24 + unix.SizeofCmsghdr + 8
	// sendWait is how long a full send buffer is waited for: backpressure towards the vnif, which queues
	// and then drops, but never a worker stuck behind a dead device.
	sendWait = 5 * time.Millisecond
)

// Sender is the scratch memory to send with. It belongs to one goroutine and serves any Socket.
type Sender struct {
	msgs      [sendMsgs]mmsg.Hdr
	names     [sendMsgs][unix.SizeofSockaddrInet6]byte
	ancillary [sendMsgs][sendAncillaryLen]byte
	iovs      [sendIovs]unix.Iovec
	n, niov   int
	failed    int
	err       error
}

// Send sends messages in order. It returns how many packets the kernel did not take, and the last
// reason; the others are sent nevertheless.
func (x *Sender) Send(s *Socket, p *Path, msgs []Msg) (failed int, err error) {
	x.failed, x.err = 0, nil
	for first := 0; first < len(msgs); {
		n := x.load(s, p, msgs[first:])
		x.flush(s, p, msgs[first:first+n])
		first += n
	}
	return x.failed, x.err
}

// load prepares as many messages as there is room for, at least one.
func (x *Sender) load(s *Socket, p *Path, msgs []Msg) int {
	x.n, x.niov = 0, 0
	for i := range msgs {
		m := &msgs[i]
		if i > 0 && (i == sendMsgs || x.niov+len(m.Bufs) > sendIovs) {
			return i
		}
		first := x.niov
		for _, b := range m.Bufs[:min(len(m.Bufs), maxMsgIovs)] {
			if len(b) == 0 {
				continue
			}
			v := &x.iovs[x.niov]
			v.Base = &b[0]
			v.SetLen(len(b))
			x.niov++
		}
		h := &x.msgs[i].Hdr
		h.Name = &x.names[i][0]
		h.Namelen = putName(&x.names[i], s.family, m.To)
		h.Iov = &x.iovs[min(first, sendIovs-1)]
		h.SetIovlen(x.niov - first)
		n := putSource(&x.ancillary[i], s.family, p, m.To.Addr())
		if m.SegSize > 0 {
			n = putSegment(&x.ancillary[i], n, m.SegSize)
		}
		h.Control = &x.ancillary[i][0]
		h.SetControllen(n)
		x.n++
	}
	return x.n
}

// flush gives the loaded messages to the kernel.
func (x *Sender) flush(s *Socket, p *Path, msgs []Msg) {
	waited := false
	for i := 0; i < x.n; {
		m := &msgs[i]
		end := x.n
		if p.refusing.Load() {
			if m.SegSize > 0 {
				x.single(s, i, m)
				i++
				continue
			}
			// Up to the next train.
			for end = i + 1; end < x.n && msgs[end].SegSize == 0; end++ {
			}
		}
		n, errno := mmsg.Send(s.fd, x.msgs[i:end])
		switch {
		case errno == 0:
			i += n
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && !waited:
			waited = true
			s.waitWritable()
		case m.SegSize > 0 && (errno == unix.EIO || errno == unix.EOPNOTSUPP):
			p.refusing.Store(true)
		case m.SegSize > 0 && (errno == unix.EINVAL || errno == unix.EMSGSIZE):
			// The route's MTU is smaller than the device's; udp(7).
			x.single(s, i, m)
			i++
		default:
			x.fail(m.Packets(), errno)
			i++
		}
	}
	clear(x.iovs[:x.niov]) // not to keep frames alive
}

// Packets is the number of packets in a message.
func (m *Msg) Packets() int {
	if m.SegSize <= 0 {
		return 1
	}
	return max(1, (m.Len()+m.SegSize-1)/m.SegSize)
}

// Len is the length in bytes of all packets in a message together.
func (m *Msg) Len() int {
	n := 0
	for _, b := range m.Bufs {
		n += len(b)
	}
	return n
}

// waitWritable waits for room in the send buffer.
func (s *Socket) waitWritable() {
	fds := [1]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	_, _ = unix.Poll(fds[:], int(sendWait/time.Millisecond))
}

// single sends the packets of the i-th message, a train that was refused, one by one.
func (x *Sender) single(s *Socket, i int, m *Msg) {
	const maxPieces = 64
	h := x.msgs[i].Hdr
	var piece [maxPieces]unix.Iovec
	// Without UDP_SEGMENT, which is the last ancillary datum.
	h.SetControllen(putSourceLen(s.family))
	next, off := 0, 0
	for left := m.Len(); left > 0; {
		want := min(m.SegSize, left)
		left -= want
		n := 0
		for want > 0 && n < maxPieces {
			b := m.Bufs[next][off:]
			if len(b) > want {
				b = b[:want]
				off += want
			} else {
				next, off = next+1, 0
			}
			if len(b) == 0 {
				continue
			}
			piece[n].Base = &b[0]
			piece[n].SetLen(len(b))
			n++
			want -= len(b)
		}
		if want > 0 {
			x.fail(m.Packets(), unix.EINVAL) // more pieces than a packet of ours ever has
			return
		}
		h.Iov = &piece[0]
		h.SetIovlen(n)
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		if errno == unix.EAGAIN {
			s.waitWritable()
			_, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		}
		if errno != 0 {
			x.fail(1, errno)
		}
	}
}

func (x *Sender) fail(packets int, errno syscall.Errno) {
	x.failed += packets
	x.err = os.NewSyscallError("sendmmsg", errno)
}

// putName writes the destination as sockaddr_in or sockaddr_in6 and returns its length.
func putName(b *[unix.SizeofSockaddrInet6]byte, f Family, to netip.AddrPort) uint32 {
	if f == IPv4 {
		a := to.Addr().As4()
		binary.NativeEndian.PutUint16(b[0:], unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], to.Port())
		copy(b[4:8], a[:])
		return unix.SizeofSockaddrInet4
	}
	a := to.Addr().As16()
	binary.NativeEndian.PutUint16(b[0:], unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.NativeEndian.PutUint32(b[4:], 0)
	copy(b[8:24], a[:])
	binary.NativeEndian.PutUint32(b[24:], 0)
	return unix.SizeofSockaddrInet6
}

// putSource writes the ancillary data that sets the source address, and for a group the device.
func putSource(b *[sendAncillaryLen]byte, f Family, p *Path, to netip.Addr) int {
	index := 0
	if to.IsMulticast() {
		index = p.Index
	}
	if f == IPv4 {
		putCmsg(b[:], unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		a := p.Source.As4()
		binary.NativeEndian.PutUint32(b[16:], uint32(index))
		copy(b[20:24], a[:])
		clear(b[24:32])
	} else {
		putCmsg(b[:], unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := p.Source.As16()
		copy(b[16:32], a[:])
		binary.NativeEndian.PutUint32(b[32:], uint32(index))
		clear(b[36:40])
	}
	return putSourceLen(f)
}

// putSourceLen is CMSG_SPACE of the message that putSource writes.
func putSourceLen(f Family) int {
	if f == IPv4 {
		return 32
	}
	return 40
}

// putSegment writes UDP_SEGMENT after n bytes of ancillary data; udp(7).
func putSegment(b *[sendAncillaryLen]byte, n, seg int) int {
	putCmsg(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(b[n+16:], uint16(seg))
	return n + 24
}

func putCmsg(b []byte, level, kind, length int) {
	binary.NativeEndian.PutUint64(b, uint64(unix.SizeofCmsghdr+length))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
}
