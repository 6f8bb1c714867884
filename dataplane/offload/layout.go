package offload

import (
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
)

// EtherTypes.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100 // 802.1Q
	typeQinQ = 0x88a8 // 802.1ad
	typeQ9   = 0x9100 // QinQ before it was standardised
)

// IP protocols and IPv6 extension headers.
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = wire.ProtocolUDP
	protoICMPv6   = 58
	protoSCTP     = 132
	extHopByHop   = 0
	extRouting    = 43
	extFragment   = 44
	extDestOption = 60
)

const (
	tcpLen  = 20  // TCP header without options
	maxTags = 3   // VLAN tags that we look behind
	maxExts = 8   // IPv6 extension headers that we look behind
	maxHead = 512 // headers up to the payload of a frame that is cut
)

// TCP flags, in the 14th byte of the header.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpURG = 0x20
	tcpECE = 0x40
	tcpCWR = 0x80
)

// Offsets in TCP and UDP headers.
const (
	tcpSeq   = 4
	tcpDoff  = 12
	tcpFlags = 13
	tcpWin   = 14
	tcpCsum  = 16
	udpLen   = 4
	udpCsum  = 6
)

// layout says where the parts of an IP frame are, in bytes from the start of the frame.
type layout struct {
	l3, l4   int   // the IP header; the header behind IP and its options or extension headers
	end      int   // of the IP packet, as its own length field says; the frame may be longer
	proto    uint8 // of l4
	v6       bool
	fragment bool // only a part of an IP packet: there may be no header at l4
	routed   bool // a routing header hides the final destination
}

// parse finds the layout of an IPv4 or IPv6 frame behind any VLAN tags. It is false for what is not IP
// or contradicts itself; every offset of a true result lies within the frame, l4 <= end.
func parse(f []byte) (l layout, ok bool) {
	if len(f) < wire.FrameLen {
		return l, false
	}
	var typ uint16
	l.l3, typ = NetworkHeader(f)
	ip := f[l.l3:]
	switch typ {
	case typeIPv4:
		if len(ip) < wire.IPv4Len || ip[0]>>4 != 4 {
			return l, false
		}
		hl, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if hl < wire.IPv4Len || total < hl || total > len(ip) {
			return l, false
		}
		l.l4, l.end, l.proto = l.l3+hl, l.l3+total, ip[9]
		l.fragment = binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
		return l, true
	case typeIPv6:
		if len(ip) < wire.IPv6Len || ip[0]>>4 != 6 {
			return l, false
		}
		l.v6 = true
		l.end = l.l3 + wire.IPv6Len + int(binary.BigEndian.Uint16(ip[4:]))
		if l.end > len(f) {
			return l, false
		}
		l.l4, l.proto = l.l3+wire.IPv6Len, ip[6]
		return l, l.extensions(f[:l.end])
	}
	return l, false
}

// NetworkHeader is where the header behind MACs, VLAN tags and type begins in a frame of at least
// wire.FrameLen bytes, and its type: that of a tag behind the third one or in a frame that ends there.
func NetworkHeader(f []byte) (at int, typ uint16) {
	at, typ = wire.FrameLen, binary.BigEndian.Uint16(f[wire.FrameLen-2:])
	for tags := 0; tags < maxTags && len(f) >= at+4 && (typ == typeVLAN || typ == typeQinQ || typ == typeQ9); tags++ {
		typ = binary.BigEndian.Uint16(f[at+2:])
		at += 4
	}
	return at, typ
}

// extensions walks over IPv6 extension headers. The first that is none of those that may precede a
// transport header is what l4 points at.
func (l *layout) extensions(f []byte) bool {
	for range maxExts {
		switch l.proto {
		case extHopByHop, extRouting, extDestOption:
			if len(f) < l.l4+8 {
				return false
			}
			if l.proto == extRouting && f[l.l4+3] != 0 {
				l.routed = true // RFC 8200, section 4.4: segments left
			}
			n := (int(f[l.l4+1]) + 1) * 8
			if len(f) < l.l4+n {
				return false
			}
			l.proto = f[l.l4]
			l.l4 += n
		case extFragment:
			if len(f) < l.l4+8 {
				return false
			}
			l.fragment = true
			l.proto = f[l.l4]
			l.l4 += 8
			return true
		default:
			return true
		}
	}
	return false
}

// transport returns the end of the TCP or UDP header, or false if the packet does not hold one.
func (l *layout) transport(f []byte) (int, bool) {
	switch l.proto {
	case protoTCP:
		if l.end < l.l4+tcpLen {
			return 0, false
		}
		hl := l.l4 + int(f[l.l4+tcpDoff]>>4)*4
		return hl, hl >= l.l4+tcpLen && hl <= l.end
	case protoUDP:
		return l.l4 + wire.UDPLen, l.l4+wire.UDPLen <= l.end
	}
	return 0, false
}

// pseudo is the sum of the pseudo header without its length: addresses and protocol.
func (l *layout) pseudo(f []byte) uint64 {
	if l.v6 {
		return wire.Sum(f[l.l3+8:l.l3+40], wire.Word(uint16(l.proto)))
	}
	return wire.Sum(f[l.l3+12:l.l3+20], wire.Word(uint16(l.proto)))
}

// verified reports whether the checksums of a TCP or UDP packet are right.
func (l *layout) verified(f []byte) bool {
	if !l.v6 && wire.Fold(wire.Sum(f[l.l3:l.l4], 0)) != 0xffff {
		return false
	}
	sum := wire.Sum(f[l.l4:l.end], 0)
	return wire.Fold(uint64(wire.Fold(sum))+uint64(wire.Fold(l.pseudo(f)))+wire.Word(uint16(l.end-l.l4))) == 0xffff
}
