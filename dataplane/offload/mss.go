package offload

import (
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
)

const (
	optEnd = 0
	optNop = 1
	optMSS = 2
)

// ClampMSS lowers, in place, the MSS that a TCP SYN announces to what fits in frames of maxFrame bytes,
// and reports whether it did. Other frames, and SYNs without the option, are left as they are.
func ClampMSS(frame []byte, h wire.VnetHdr, maxFrame int) bool {
	l, ok := parse(frame)
	if !ok || l.fragment || l.proto != protoTCP || h.GSOType != wire.GSONone {
		return false
	}
	hl, ok := l.transport(frame)
	if !ok || frame[l.l4+tcpFlags]&tcpSYN == 0 {
		return false
	}
	mss := innerMSS(maxFrame, l.l3, l.v6)
	if mss < 1 {
		return false
	}
	at, ok := mssOption(frame[:hl], l.l4+tcpLen)
	if !ok {
		return false
	}
	old := binary.BigEndian.Uint16(frame[at:])
	if int(old) <= mss {
		return false
	}
	binary.BigEndian.PutUint16(frame[at:], uint16(mss))
	if h.Flags&wire.FlagNeedsCsum != 0 {
		return true // the field holds the pseudo header's sum, which has not changed
	}
	// RFC 1624, equation 3: HC' = ~(~HC + ~m + m'). An option may lie across two words.
	from, to := wire.Word(old), wire.Word(uint16(mss))
	if (at-l.l4)&1 != 0 {
		from, to = swap(from), swap(to)
	}
	field := frame[l.l4+tcpCsum:]
	wire.PutSum(field, ^wire.Fold(uint64(^wire.GetSum(field))+uint64(^uint16(from))+to))
	return true
}

// swap exchanges the bytes of a 16-bit word.
func swap(w uint64) uint64 { return w>>8&0xff | w&0xff<<8 }

// mssOption finds the value of the MSS option among the options from at to the end of b.
func mssOption(b []byte, at int) (int, bool) {
	for at < len(b) && b[at] != optEnd {
		if b[at] == optNop {
			at++
			continue
		}
		if at+2 > len(b) {
			break
		}
		n := int(b[at+1])
		if n < 2 || at+n > len(b) {
			break
		}
		if b[at] == optMSS && n == 4 {
			return at + 2, true
		}
		at += n
	}
	return 0, false
}
