package offload

import (
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
)

const (
	optEnd = 0
	optNop = 1
	optMSS = 2
	optMD5 = 19 // RFC 2385
	optAO  = 29 // RFC 5925
)

// ClampMSS lowers, in place, the MSS that a TCP SYN announces to what fits in frames of maxFrame bytes,
// and reports whether it did. Other frames, and SYNs without the option, are left as they are; so are those
// that TCP-AO signs, since its MAC covers the options unless the ends agreed otherwise (RFC 5925, section
// 3.1). That of MD5 does not (RFC 2385).
func ClampMSS(frame []byte, h wire.VnetHdr, maxFrame int) bool {
	if h.GSOType != wire.GSONone {
		return false
	}
	l, ok := parse(frame)
	if !ok || l.fragment || l.proto != protoTCP {
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

// mssOption finds the value of the first MSS option among the options from at to the end of b, if it may be
// changed.
func mssOption(b []byte, at int) (value int, ok bool) {
	for {
		kind, n := option(b, at)
		switch {
		case n == 0:
			return value, ok
		case kind == optAO:
			return 0, false
		case kind == optMSS && n == 4 && !ok:
			value, ok = at+2, true
		}
		at += n
	}
}

// signed reports whether TCP options sign their segment, which may not be changed then. Options that
// cannot be read may.
func signed(options []byte) bool {
	for at := 0; at < len(options) && options[at] != optEnd; {
		kind, n := option(options, at)
		if n == 0 || kind == optMD5 || kind == optAO {
			return true
		}
		at += n
	}
	return false
}

// option reads the TCP option at at: its kind and length; length 0 at the end, and if there is none.
func option(b []byte, at int) (kind, length int) {
	switch {
	case at >= len(b) || b[at] == optEnd:
		return optEnd, 0
	case b[at] == optNop:
		return optNop, 1
	case at+2 > len(b) || b[at+1] < 2 || at+int(b[at+1]) > len(b):
		return optEnd, 0
	}
	return int(b[at]), int(b[at+1])
}
