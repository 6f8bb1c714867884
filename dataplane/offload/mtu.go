package offload

import "github.com/xenvnet/xend/dataplane/wire"

// Overhead is how many bytes stand in front of an inner Ethernet frame in an outer IP packet. All
// arithmetic about sizes begins here:
//
//	                    IP   UDP  message  EtherIP  overhead   inner MTU at 1500   at 9000
//	VUDP on IPv4        20     8        4       18        50                1436      8936
//	VUDP on IPv6        40     8        4       18        70                1416      8916
//	EtherIP on IPv4     20     -        -       18        38                1448      8948
//	EtherIP on IPv6     40     -        -       18        58                1428      8928
//
//	largest inner frame = path MTU - overhead        (wire.FrameLen and tags included)
//	inner MTU           = largest inner frame - 14   (4 less per VLAN tag)
//	inner TCP MSS       = inner MTU - 40 on IPv4, - 60 on IPv6
type Overhead int

// The overheads of our encapsulations.
const (
	VUDPv4    Overhead = wire.IPv4Len + wire.UDPLen + wire.VUDPLen
	VUDPv6    Overhead = wire.IPv6Len + wire.UDPLen + wire.VUDPLen
	EtherIPv4 Overhead = wire.IPv4Len + wire.EtherIPLen
	EtherIPv6 Overhead = wire.IPv6Len + wire.EtherIPLen
)

// MaxFrame is the length of the largest inner frame whose outer packet fits the path MTU.
func (o Overhead) MaxFrame(pathMTU int) int { return pathMTU - int(o) }

// InnerMTU is the largest inner IP packet, untagged, whose outer packet fits the path MTU.
func (o Overhead) InnerMTU(pathMTU int) int { return o.MaxFrame(pathMTU) - wire.FrameLen }

// innerMSS is the largest TCP payload, without options, of a frame of maxFrame bytes whose IP header
// begins at l3.
func innerMSS(maxFrame, l3 int, v6 bool) int {
	if v6 {
		return maxFrame - l3 - wire.IPv6Len - tcpLen
	}
	return maxFrame - l3 - wire.IPv4Len - tcpLen
}

// Frames is how many frames a frame becomes on a cable, as its sender wants it; 1 if its headers contradict
// themselves.
func Frames(frame []byte, h wire.VnetHdr) int {
	if h.GSOType == wire.GSONone || h.GSOSize == 0 {
		return 1
	}
	l, ok := parse(frame)
	if !ok {
		return 1
	}
	header, ok := l.transport(frame)
	if !ok {
		return 1
	}
	return max(1, (len(frame)-header+int(h.GSOSize)-1)/int(h.GSOSize))
}

// LongestUDP is the length in bytes of the longest frame that a super-frame of UDP becomes, whose datagrams keep
// their boundaries. The headers are measured: hdr_len of a header from the kernel tells something else. A frame
// whose headers contradict themselves counts as a whole.
func LongestUDP(frame []byte, h wire.VnetHdr) int {
	l, ok := parse(frame)
	if !ok || l.proto != protoUDP || l.fragment {
		return len(frame)
	}
	return min(len(frame), l.l4+wire.UDPLen+int(h.GSOSize))
}
