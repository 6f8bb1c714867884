package offload

import (
	"encoding/binary"
	"math/bits"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Flow is a number that all frames of one flow have in common, and others seldom: of the addresses and ports of
// TCP, UDP and SCTP in IP, of the addresses alone in fragments and other IP, else of the MACs. What is one flow for
// the receiver stays one, so that it stays in order. Frames too short to have MACs give 0.
func Flow(frame []byte) uint32 {
	if len(frame) < wire.FrameLen {
		return 0
	}
	const odd1, odd2 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	l, ok := parse(frame)
	if !ok {
		return mix(binary.NativeEndian.Uint64(frame)^odd1, uint64(binary.NativeEndian.Uint32(frame[8:]))^odd2)
	}
	var a, b uint64 = odd1, odd2
	if l.v6 {
		ip := frame[l.l3+8 : l.l3+40]
		a ^= binary.NativeEndian.Uint64(ip) ^ bits.RotateLeft64(binary.NativeEndian.Uint64(ip[16:]), 17)
		b ^= binary.NativeEndian.Uint64(ip[8:]) ^ bits.RotateLeft64(binary.NativeEndian.Uint64(ip[24:]), 17)
	} else {
		a ^= binary.NativeEndian.Uint64(frame[l.l3+12:])
	}
	switch {
	case l.fragment || l.end < l.l4+4:
	case l.proto == protoTCP, l.proto == protoUDP, l.proto == protoSCTP:
		b ^= uint64(binary.NativeEndian.Uint32(frame[l.l4:]))<<8 ^ uint64(l.proto)
	}
	return mix(a, b)
}

func mix(a, b uint64) uint32 {
	hi, lo := bits.Mul64(a, b)
	return uint32((hi ^ lo) >> 32)
}
