package dataplane

import (
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Bits of the 14th byte of a TCP header, and options that sign it (RFC 2385, RFC 5925).
const (
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpURG = 0x20

	tcpOptionMD5 = 19
	tcpOptionAO  = 29
)

// asSuperFrame makes a super-frame of a single TCP segment that does not fit the underlay: cut in two,
// like bulk TCP, it goes unfragmented. It is false for what must stay in one piece: other protocols,
// fragments, segments that open or end a connection in a special way, and signed ones.
func asSuperFrame(frame []byte, h wire.VnetHdr) (wire.VnetHdr, bool) {
	l3 := wire.FrameLen + tags(frame)*tagLen
	if len(frame) < l3+wire.IPv4Len {
		return h, false
	}
	ip := frame[l3:]
	var l4, end int
	switch binary.BigEndian.Uint16(frame[l3-2:]) {
	case 0x0800:
		if ip[9] != 6 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return h, false
		}
		h.GSOType, l4, end = wire.GSOTCPv4, l3+int(ip[0]&15)*4, l3+int(binary.BigEndian.Uint16(ip[2:]))
	case 0x86dd:
		if len(ip) < wire.IPv6Len || ip[6] != 6 {
			return h, false
		}
		h.GSOType, l4, end = wire.GSOTCPv6, l3+wire.IPv6Len, l3+wire.IPv6Len+int(binary.BigEndian.Uint16(ip[4:]))
	default:
		return h, false
	}
	if end > len(frame) || l4+20 > end {
		return h, false
	}
	tcp := frame[l4:end]
	head := int(tcp[12]>>4) * 4
	if head < 20 || head >= len(tcp) || tcp[13]&(tcpSYN|tcpRST|tcpURG) != 0 || signed(tcp[20:head]) {
		return h, false
	}
	h.HdrLen = uint16(l4 + head)
	h.GSOSize = uint16(len(tcp) - head)
	return h, true
}

// signed reports whether TCP options hold a signature of the whole segment.
func signed(options []byte) bool {
	for len(options) > 0 {
		switch {
		case options[0] == 0: // end
			return false
		case options[0] == 1: // no operation
			options = options[1:]
			continue
		case options[0] == tcpOptionMD5, options[0] == tcpOptionAO:
			return true
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			return true // whatever that is
		}
		options = options[options[1]:]
	}
	return false
}
