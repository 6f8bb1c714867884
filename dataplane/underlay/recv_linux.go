package underlay

import (
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/mmsg"
)

const (
	// BatchLen is how many packets (with UDP_GRO: runs of packets) one call receives.
	BatchLen = 32
	// bufferLen holds the largest IP packet, and roomLen is free in front of it: see Packet.Buf.
	bufferLen = 65536
	roomLen   = 64
	// ancillaryLen holds the ancillary data that we ask for: packet info and the GRO segment size.
	ancillaryLen = 96
)

// Batch is the memory that packets are received into. It belongs to one goroutine.
type Batch struct {
	packets   [BatchLen]Packet
	msgs      [BatchLen]mmsg.Hdr
	iovs      [BatchLen]unix.Iovec
	names     [BatchLen][unix.SizeofSockaddrInet6]byte
	ancillary [BatchLen][ancillaryLen]byte
	bufs      [BatchLen][]byte
}

// NewBatch allocates a batch, of about 2 MiB.
func NewBatch() *Batch {
	b := new(Batch)
	const stride = roomLen + bufferLen
	memory := make([]byte, BatchLen*stride)
	for i := range b.msgs {
		b.bufs[i] = memory[i*stride : (i+1)*stride : (i+1)*stride]
		b.iovs[i].Base = &b.bufs[i][roomLen]
		b.iovs[i].SetLen(bufferLen)
		h := &b.msgs[i].Hdr
		h.Name = &b.names[i][0]
		h.Iov, h.Iovlen = &b.iovs[i], 1
		h.Control = &b.ancillary[i][0]
	}
	return b
}

// Packet returns the i-th packet of the last Recv.
func (b *Batch) Packet(i int) *Packet { return &b.packets[i] }

// Recv receives what is there, at most a batch, and returns the number of packets: 0 and no error if
// there is nothing. Errors that concern one moment, such as a device that went down, are returned and
// leave the socket usable.
func (s *Socket) Recv(b *Batch) (int, error) {
	for i := range b.msgs {
		h := &b.msgs[i].Hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(ancillaryLen)
	}
	for {
		n, errno := mmsg.Recv(s.fd, b.msgs[:])
		switch errno {
		case 0:
			k := 0
			for i := range n {
				if s.parse(b, i, &b.packets[k]) {
					k++
				}
			}
			return k, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		case unix.EBADF:
			return 0, ErrClosed
		default:
			return 0, os.NewSyscallError("recvmmsg", errno)
		}
	}
}

// parse makes p of the i-th message. It reports false for what is no packet.
func (s *Socket) parse(b *Batch, i int, p *Packet) bool {
	m := &b.msgs[i]
	*p = Packet{
		Data: b.bufs[i][roomLen : roomLen+m.Len], Buf: b.bufs[i][:roomLen+m.Len], SegSize: int(m.Len),
		Truncated: m.Hdr.Flags&unix.MSG_TRUNC != 0,
	}
	name := &b.names[i]
	port := binary.BigEndian.Uint16(name[2:])
	if s.family == IPv4 {
		p.From = netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	} else {
		p.From = netip.AddrPortFrom(netip.AddrFrom16([16]byte(name[8:24])), port)
	}
	readAncillary(b.ancillary[i][:m.Hdr.Controllen], p)
	if s.raw {
		// raw(7): the IPv4 header comes along.
		if len(p.Data) < 20 {
			return false
		}
		hl := int(p.Data[0]&15) * 4
		if hl < 20 || hl > len(p.Data) {
			return false
		}
		p.Data = p.Data[hl:]
		p.SegSize = len(p.Data)
	}
	p.SegSize = max(1, p.SegSize)
	return true
}

// readAncillary reads the ancillary data; cmsg(3), ip(7), ipv6(7), udp(7).
func readAncillary(c []byte, p *Packet) {
	const head = unix.SizeofCmsghdr
	for len(c) >= head {
		n := int(binary.NativeEndian.Uint64(c))
		if n < head || n > len(c) {
			return
		}
		level, kind, data := int32(binary.NativeEndian.Uint32(c[8:])), int32(binary.NativeEndian.Uint32(c[12:])), c[head:n]
		switch {
		case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 4:
			if size := int(int32(binary.NativeEndian.Uint32(data))); size > 0 && size < len(p.Data) {
				p.SegSize = size
			}
		case level == unix.SOL_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			p.Index = int(int32(binary.NativeEndian.Uint32(data)))
			p.To = netip.AddrFrom4([4]byte(data[8:12]))
			p.Multicast = p.To.IsMulticast()
			// ipi_spec_dst is the local address: another one than the destination means broadcast.
			p.Misdirected = !p.Multicast && [4]byte(data[4:8]) != [4]byte(data[8:12])
		case level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			p.Index = int(int32(binary.NativeEndian.Uint32(data[16:])))
			p.To = netip.AddrFrom16([16]byte(data[0:16]))
			p.Multicast = p.To.IsMulticast()
		}
		c = c[min(len(c), (n+7)&^7):]
	}
}
