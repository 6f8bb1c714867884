package offload

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Why a frame was refused. The functions of this package return these very values.
var (
	// ErrShort: less than an Ethernet header.
	ErrShort = errors.New("frame too short")
	// ErrLong: more than a UDP datagram carries.
	ErrLong = errors.New("frame too long")
	// ErrChecksum: checksum metadata that points outside the frame, or elsewhere than the headers say.
	ErrChecksum = errors.New("checksum metadata contradicts the frame")
	// ErrHeaders: a frame that is to be cut, but its headers are missing, truncated or not those of its GSO type.
	ErrHeaders = errors.New("headers contradict the GSO type")
	// ErrGSO: a GSO type that we do not know, or a segment size that makes more segments of a frame than MaxCuts.
	ErrGSO = errors.New("GSO type or size not supported")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Complete computes, in place, the checksum of a frame that its sender left for hardware. Frames
// without FlagNeedsCsum are left as they are.
func Complete(frame []byte, h wire.VnetHdr) error {
	if h.Flags&wire.FlagNeedsCsum == 0 {
		return nil
	}
	start, at := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
	if start < wire.FrameLen || at+2 > len(frame) {
		return ErrChecksum
	}
	if h.CsumOffset == 8 { // no TCP or UDP: SCTP, whose checksum is another one
		if l, ok := parse(frame); ok && l.proto == protoSCTP && !l.fragment {
			return completeSCTP(frame, l, start)
		}
	}
	sum := ^wire.Fold(wire.Sum(frame[start:], 0)) // the field holds the pseudo header's sum
	if sum == 0 && h.CsumOffset == udpCsum {
		sum = 0xffff // RFC 768: zero would mean that there is none
	}
	wire.PutSum(frame[at:], sum)
	return nil
}

// completeSCTP computes the CRC32c of an SCTP packet (RFC 9260, appendix A).
func completeSCTP(frame []byte, l layout, start int) error {
	if start != l.l4 || l.end < l.l4+12 {
		return ErrChecksum
	}
	field := frame[l.l4+8 : l.l4+12]
	clear(field)
	binary.LittleEndian.PutUint32(field, crc32.Checksum(frame[l.l4:l.end], castagnoli))
	return nil
}
