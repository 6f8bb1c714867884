package wire

import (
	"encoding/binary"
	"net/netip"
)

// Bits of the IPv4 fragment field.
const (
	ipDF     = 0x4000
	ipMF     = 0x2000
	ipOffset = 0x1fff
)

// maxIPv4 is the largest IPv4 packet, in bytes.
const maxIPv4 = 65535

// IPv4 is what we need of an IPv4 header.
type IPv4 struct {
	Source, Destination netip.Addr
	Protocol            uint8
	TTL                 uint8
	TOS                 uint8
	ID                  uint16
	DontFragment        bool
	// Fragment is true of a received packet that is only a part of one.
	Fragment bool
}

// AppendIPv4 appends a 20-byte IPv4 header, checksum included, for a payload of payloadLen bytes.
// Fragment is not looked at.
func AppendIPv4(dst []byte, h IPv4, payloadLen int) ([]byte, error) {
	if !h.Source.Is4() || !h.Destination.Is4() {
		return dst, ErrFamily
	}
	if payloadLen < 0 || payloadLen > maxIPv4-IPv4Len {
		return dst, ErrLength
	}
	var b [IPv4Len]byte
	b[0], b[1] = 0x45, h.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(IPv4Len+payloadLen))
	binary.BigEndian.PutUint16(b[4:], h.ID)
	if h.DontFragment {
		binary.BigEndian.PutUint16(b[6:], ipDF)
	}
	b[8], b[9] = h.TTL, h.Protocol
	src, to := h.Source.As4(), h.Destination.As4()
	copy(b[12:], src[:])
	copy(b[16:], to[:])
	PutSum(b[10:], ^Fold(Sum(b[:], 0)))
	return append(dst, b[:]...), nil
}

// DecodeIPv4 reads an IPv4 packet as a raw socket delivers it and returns a view of its payload,
// cut at the total length. Options are skipped. The header checksum is not verified: the kernel has.
func DecodeIPv4(b []byte) (h IPv4, payload []byte, err error) {
	if len(b) < IPv4Len {
		return h, nil, ErrShort
	}
	if b[0]>>4 != 4 {
		return h, nil, ErrVersion
	}
	hl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hl < IPv4Len || total < hl || total > len(b) {
		return h, nil, ErrLength
	}
	frag := binary.BigEndian.Uint16(b[6:])
	return IPv4{
		Source:       netip.AddrFrom4([4]byte(b[12:16])),
		Destination:  netip.AddrFrom4([4]byte(b[16:20])),
		Protocol:     b[9],
		TTL:          b[8],
		TOS:          b[1],
		ID:           binary.BigEndian.Uint16(b[4:]),
		DontFragment: frag&ipDF != 0,
		Fragment:     frag&(ipMF|ipOffset) != 0,
	}, b[hl:total], nil
}

// AppendUDP appends an 8-byte UDP header, checksum included, for the payload in pieces. Both
// addresses are of one family.
func AppendUDP(dst []byte, from, to netip.AddrPort, payload ...[]byte) ([]byte, error) {
	length := UDPLen
	for _, p := range payload {
		length += len(p)
	}
	if length > maxIPv4-IPv4Len {
		return dst, ErrLength
	}
	sum := Word(ProtocolUDP) + Word(uint16(length))
	switch f, t := from.Addr(), to.Addr(); {
	case f.Is4() && t.Is4():
		f4, t4 := f.As4(), t.As4()
		sum = Sum(t4[:], Sum(f4[:], sum))
	case f.Is6() && t.Is6():
		f16, t16 := f.As16(), t.As16()
		sum = Sum(t16[:], Sum(f16[:], sum))
	default:
		return dst, ErrFamily
	}
	var b [UDPLen]byte
	binary.BigEndian.PutUint16(b[0:], from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	check := ^Fold(sumPieces(Sum(b[:], sum), payload))
	if check == 0 {
		check = 0xffff // RFC 768: zero would mean that there is no checksum
	}
	PutSum(b[6:], check)
	return append(dst, b[:]...), nil
}

// AppendDatagram appends the 28 bytes of IPv4 and UDP headers, checksums included, of a datagram
// whose payload follows in pieces: what a raw socket needs to multicast with another host's source
// address, and what VFWD carries. id 0 lets the kernel choose one; for fragments it must not be 0.
func AppendDatagram(dst []byte, from, to netip.AddrPort, ttl uint8, id uint16, payload ...[]byte) ([]byte, error) {
	n := UDPLen
	for _, p := range payload {
		n += len(p)
	}
	out, err := AppendIPv4(dst, IPv4{Source: from.Addr(), Destination: to.Addr(), Protocol: ProtocolUDP, TTL: ttl, ID: id}, n)
	if err != nil {
		return dst, err
	}
	if out, err = AppendUDP(out, from, to, payload...); err != nil {
		return dst, err
	}
	return out, nil
}

// DecodeUDP reads a UDP datagram: the ports and a view of the payload, cut at the UDP length. The
// checksum is not verified.
func DecodeUDP(b []byte) (source, destination uint16, payload []byte, err error) {
	if len(b) < UDPLen {
		return 0, 0, nil, ErrShort
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < UDPLen || n > len(b) {
		return 0, 0, nil, ErrLength
	}
	return binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[UDPLen:n], nil
}

// AppendFragment appends one fragment of packet, a whole IPv4 packet with a 20-byte header, such
// that it fits mtu bytes: the one whose payload begins at offset (0 for the first). It returns the
// offset of the next fragment, or 0 after the last one. Raw sockets that write their own headers
// need it, for the kernel does not fragment for them. The packet's id must not be zero, since the
// kernel gives each fragment another one then.
func AppendFragment(dst, packet []byte, mtu, offset int) (out []byte, next int, err error) {
	if len(packet) < IPv4Len {
		return dst, 0, ErrShort
	}
	if packet[0] != 0x45 {
		return dst, 0, ErrVersion
	}
	payload := packet[IPv4Len:]
	room := (mtu - IPv4Len) &^ 7
	if room <= 0 || offset < 0 || offset&7 != 0 || offset > len(payload) || len(packet) > maxIPv4 {
		return dst, 0, ErrLength
	}
	n, field := len(payload)-offset, uint16(offset/8)
	if n > mtu-IPv4Len {
		n, field, next = room, field|ipMF, offset+room
	}
	start := len(dst)
	dst = append(dst, packet[:IPv4Len]...)
	dst = append(dst, payload[offset:offset+n]...)
	h := dst[start : start+IPv4Len]
	binary.BigEndian.PutUint16(h[2:], uint16(IPv4Len+n))
	if next == 0 && offset == 0 {
		field |= binary.BigEndian.Uint16(h[6:]) & ipDF // whole: nothing changes
	}
	binary.BigEndian.PutUint16(h[6:], field)
	PutSum(h[10:], 0)
	PutSum(h[10:], ^Fold(Sum(h, 0)))
	return dst, next, nil
}
