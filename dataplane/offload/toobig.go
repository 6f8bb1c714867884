package offload

import (
	"encoding/binary"
	"net/netip"

	"github.com/xenvnet/xend/dataplane/wire"
)

const (
	icmpLen           = 8
	icmpUnreachable   = 3
	icmpFragNeeded    = 4 // code of icmpUnreachable
	icmpv6TooBig      = 2
	maxUnreachable    = 576  // RFC 1812, section 4.3.2.3
	minIPv6MTU        = 1280 // RFC 8200, section 5
	maxTooBig         = 1280 // RFC 4443, section 3.2
	errorTTL          = 64
	icmpv6Errors      = 127 // and below (RFC 4443, section 2.1)
	icmpv6Redirect    = 137
	precedenceNetwork = 0xc0 // RFC 1812, section 4.3.2.5
)

// AppendTooBig appends the frame that tells the sender of an inner frame, the longest of which becomes longest
// bytes long, that frames above maxFrame bytes do not pass: ICMP "fragmentation needed" (RFC 1191), or ICMPv6
// "packet too big" (RFC 4443). It comes from the frame's destination MAC, since that is where the bridge expects
// it, with the frame's VLAN tags, and from source; the zero Addr means from the packet's destination. The result
// is dst, false where none may be sent: the packet is not IP, lets itself be fragmented, is an ICMP error, a
// later fragment, to or from no single host, or IPv6 of up to 1280 bytes, which a tunnel has to carry
// (RFC 2473, section 7.1).
func AppendTooBig(dst, frame []byte, longest, maxFrame int, source netip.Addr) ([]byte, bool) {
	l, ok := parse(frame)
	if !ok || wire.Destination(frame).Multicast() || wire.Source(frame).Multicast() {
		return dst, false
	}
	ip := frame[l.l3:l.end]
	mtu := maxFrame - l.l3
	if !l.v6 {
		return appendTooBig4(dst, frame, l, ip, mtu, source)
	}
	if mtu = max(mtu, minIPv6MTU); longest-l.l3 <= mtu {
		return dst, false
	}
	return appendTooBig6(dst, frame, l, ip, mtu, source)
}

// appendReverse appends the Ethernet header and tags of an answer to frame.
func appendReverse(dst, frame []byte, l layout) []byte {
	dst = append(dst, frame[6:12]...)
	dst = append(dst, frame[0:6]...)
	return append(dst, frame[12:l.l3]...)
}

func appendTooBig4(dst, frame []byte, l layout, ip []byte, mtu int, source netip.Addr) ([]byte, bool) {
	field := binary.BigEndian.Uint16(ip[6:])
	if field&0x4000 == 0 || field&0x1fff != 0 {
		return dst, false
	}
	from, to := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	if !single(from) || !single(to) || l.proto == protoICMP && !icmpQuery(frame[l.l4:l.end]) {
		return dst, false
	}
	if source.IsValid() {
		to = source
	}
	quote := ip[:min(len(ip), maxUnreachable-wire.IPv4Len-icmpLen)]
	out := appendReverse(dst, frame, l)
	out, err := wire.AppendIPv4(out, wire.IPv4{
		Source: to, Destination: from, Protocol: protoICMP, TTL: errorTTL, TOS: precedenceNetwork,
	}, icmpLen+len(quote))
	if err != nil {
		return dst, false
	}
	var icmp [icmpLen]byte
	icmp[0], icmp[1] = icmpUnreachable, icmpFragNeeded
	binary.BigEndian.PutUint16(icmp[6:], uint16(min(mtu, 65535)))
	wire.PutSum(icmp[2:], ^wire.Fold(wire.Sum(quote, wire.Sum(icmp[:], 0))))
	return append(append(out, icmp[:]...), quote...), true
}

// icmpQuery reports whether an ICMP message may be answered by an error: it is a query or an answer.
func icmpQuery(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch b[0] {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43: // RFC 1122, section 3.2.2; RFC 8335
		return true
	}
	return false
}

func appendTooBig6(dst, frame []byte, l layout, ip []byte, mtu int, source netip.Addr) ([]byte, bool) {
	from, to := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	if !single(from) || !single(to) {
		return dst, false
	}
	// RFC 4443, section 2.4 (e): never about an error or a redirect.
	if l.proto == protoICMPv6 && (l.l4 >= l.end || frame[l.l4] <= icmpv6Errors || frame[l.l4] == icmpv6Redirect) {
		return dst, false
	}
	if source.IsValid() {
		to = source
	}
	if !to.Is6() {
		return dst, false
	}
	quote := ip[:min(len(ip), maxTooBig-wire.IPv6Len-icmpLen)]
	out := appendReverse(dst, frame, l)
	var h [wire.IPv6Len]byte
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(icmpLen+len(quote)))
	h[6], h[7] = protoICMPv6, errorTTL
	src, dest := to.As16(), from.As16()
	copy(h[8:], src[:])
	copy(h[24:], dest[:])
	var icmp [icmpLen]byte
	icmp[0] = icmpv6TooBig
	binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	sum := wire.Sum(h[8:], wire.Word(protoICMPv6)+wire.Word(uint16(icmpLen+len(quote))))
	wire.PutSum(icmp[2:], ^wire.Fold(wire.Sum(quote, wire.Sum(icmp[:], sum))))
	return append(append(append(out, h[:]...), icmp[:]...), quote...), true
}

// single reports whether an address is one host's.
func single(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != limitedBroadcast
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
