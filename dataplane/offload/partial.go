package offload

import (
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
)

// What a kernel has encapsulated past user space (package fastpath) has checksums that a network card is to complete. On a
// virtual network, such as a veth pair, there is no card: the packet arrives with the sum of the pseudo header in the place
// of the checksum, and large sends arrive whole.

// partial reports whether a TCP or UDP packet's checksum field has the sum of the pseudo header only. Of 65,536 complete
// checksums one is the same by chance; completing it changes nothing then.
func (l *layout) partial(f []byte) bool {
	at := l.l4 + tcpCsum
	if l.proto == protoUDP {
		at = l.l4 + udpCsum
	}
	return binary.NativeEndian.Uint16(f[at:]) == wire.Fold(uint64(wire.Fold(l.pseudo(f)))+wire.Word(uint16(l.end-l.l4)))
}

// complete computes the checksum of a packet that has the pseudo header's sum in its place.
func (l *layout) complete(f []byte) {
	at := l.l4 + tcpCsum
	if l.proto == protoUDP {
		at = l.l4 + udpCsum
	}
	sum := ^wire.Fold(wire.Sum(f[l.l4:l.end], 0))
	if sum == 0 && l.proto == protoUDP {
		sum = 0xffff // RFC 768: zero would mean that there is none
	}
	wire.PutSum(f[at:], sum)
}

// Whole reports whether a frame is a large send that arrived whole: plain TCP that nobody has cut or completed.
func Whole(frame []byte) bool {
	_, _, ok := whole(frame)
	return ok
}

func whole(frame []byte) (l layout, hl int, ok bool) {
	l, ok = parse(frame)
	if !ok || l.fragment || l.routed || l.proto != protoTCP || l.end != len(frame) {
		return l, 0, false
	}
	if hl, ok = l.transport(frame); !ok || hl == l.end {
		return l, 0, false
	}
	flags := frame[l.l4+tcpFlags]
	return l, hl, flags&^(tcpPSH|tcpECE|tcpCWR|tcpFIN) == tcpACK && l.partial(frame)
}

// AddWhole takes a frame that is Whole, to be cut into frames of at most limit bytes by whoever needs them so. It is
// borrowed as by Add. It is false, and nothing is taken, if the frame is not whole or its headers alone fill the limit.
func (c *Coalescer) AddWhole(frame []byte, limit int) bool {
	l, hl, ok := whole(frame)
	if !ok || hl >= limit {
		return false
	}
	if c.done {
		c.frames, c.done = c.frames[:0], false
	}
	c.barrier(frame)
	i := c.pass(frame)
	h := wire.VnetHdr{
		Flags: wire.FlagNeedsCsum, GSOType: wire.GSOTCPv4, HdrLen: uint16(hl), GSOSize: uint16(min(limit-hl, 0xffff)),
		CsumStart: uint16(l.l4), CsumOffset: tcpCsum,
	}
	if l.v6 {
		h.GSOType = wire.GSOTCPv6
	}
	if frame[l.l4+tcpFlags]&tcpCWR != 0 {
		h.GSOType |= wire.GSOECN
	}
	c.frames[i].Hdr = h
	return true
}
