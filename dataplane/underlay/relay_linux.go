package underlay

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Relay is the scratch memory to multicast packets of other hosts with their own source address kept. It
// belongs to one goroutine.
type Relay struct {
	packet, fragment []byte
	id               uint16
	name             [unix.SizeofSockaddrInet6]byte
	ancillary        [sendAncillaryLen]byte
}

// NewRelay returns a Relay.
func NewRelay() *Relay { return &Relay{id: uint16(rand.Uint32())} }

// Send multicasts a UDP payload by the path's device as if from had sent it. IPv4 only. What exceeds the
// path's MTU is fragmented here, for the kernel does not fragment packets that come with their own
// header; raw(7). The headers are written by package wire into this memory: ipv4.Header.Marshal of golang.org/x/net
// allocates one for each packet.
func (r *Relay) Send(u *Underlay, p *Path, from, group netip.AddrPort, ttl uint8, payload []byte) error {
	if r.id++; r.id == 0 {
		r.id = 1 // the kernel would choose one, for each fragment another
	}
	var err error
	if r.packet, err = wire.AppendDatagram(r.packet[:0], from, group, ttl, r.id, payload); err != nil {
		return err
	}
	r.packet = append(r.packet, payload...)
	for offset := 0; ; {
		if r.fragment, offset, err = wire.AppendFragment(r.fragment[:0], r.packet, p.MTU, offset); err != nil {
			return err
		}
		if err := r.write(u.relay, p, group, r.fragment); err != nil || offset == 0 {
			return err
		}
	}
}

func (r *Relay) write(fd int, p *Path, group netip.AddrPort, packet []byte) error {
	iov := unix.Iovec{Base: &packet[0]}
	iov.SetLen(len(packet))
	h := unix.Msghdr{Name: &r.name[0], Namelen: putName(&r.name, IPv4, group), Iov: &iov, Iovlen: 1, Control: &r.ancillary[0]}
	h.SetControllen(putSource(&r.ancillary, IPv4, p, group.Addr()))
	// The port of a raw socket's destination is a protocol number; raw(7): zero.
	binary.BigEndian.PutUint16(r.name[2:], 0)
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("sendmsg", errno)
		}
	}
}
