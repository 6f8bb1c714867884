package wire

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/cpu"
)

// The Internet checksum (RFC 1071) is computed in the byte order of the machine, 64 bits at a time:
// sums of words do not care for byte order as long as words are loaded and the result is stored
// the same way.

// Every byte of a TCP stream is summed up once on each host, which is worth vector instructions: sumBlocks
// is four times as fast as the loop of Sum.
var haveBlocks = cpu.X86.HasAVX2

// blockLen is the length of a block of sumBlocks, in bytes.
const blockLen = 128

// Sum adds the 16-bit words of b to a running sum. An odd last byte is padded with zero, so only
// the last of several pieces may have an odd length.
func Sum(b []byte, sum uint64) uint64 {
	var c uint64
	if haveBlocks && len(b) >= 2*blockLen {
		n := len(b) - len(b)%blockLen
		sum, c = bits.Add64(sum, sumBlocks(&b[0], n), 0)
		sum += c
		b = b[n:]
	}
	for len(b) >= 64 {
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[0:8]), 0)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[8:16]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[16:24]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[24:32]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[32:40]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[40:48]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[48:56]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[56:64]), c)
		sum, c = bits.Add64(sum, 0, c)
		sum += c
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b), 0)
		sum, c = bits.Add64(sum, 0, c)
		sum += c
		b = b[8:]
	}
	// At most seven bytes are left; their words cannot overflow a second time.
	var rest uint64
	if len(b) >= 4 {
		rest += uint64(binary.NativeEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		rest += uint64(binary.NativeEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		rest += uint64(binary.NativeEndian.Uint16([]byte{b[0], 0}))
	}
	sum, c = bits.Add64(sum, rest, 0)
	return sum + c
}

// Word is the contribution of a 16-bit field of value v to a sum.
func Word(v uint16) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return uint64(binary.NativeEndian.Uint16(b[:]))
}

// Fold reduces a sum to 16 bits, in the byte order of the machine. A correct packet, checksum
// included, folds to 0xffff.
func Fold(sum uint64) uint16 {
	sum = sum&0xffffffff + sum>>32
	sum = sum&0xffffffff + sum>>32
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	return uint16(sum)
}

// PutSum stores a folded sum (or its complement) at b[0:2].
func PutSum(b []byte, v uint16) { binary.NativeEndian.PutUint16(b, v) }

// GetSum loads what PutSum stored.
func GetSum(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }

// sumPieces sums pieces that follow each other, of any lengths.
func sumPieces(sum uint64, pieces [][]byte) uint64 {
	odd := false
	for _, p := range pieces {
		s := Fold(Sum(p, 0))
		if odd {
			s = bits.ReverseBytes16(s) // RFC 1071, section 2 (B)
		}
		sum += uint64(s)
		odd = odd != (len(p)&1 != 0)
	}
	return sum
}
