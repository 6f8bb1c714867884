package checktest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/xenvnet/xend/dataplane/wire"
)

// sum16 is the Internet checksum of the concatenation, not inverted (RFC 1071). Only the last piece may
// have an odd length.
func sum16(pieces ...[]byte) uint16 {
	var sum uint64
	for _, b := range pieces {
		for len(b) >= 8 {
			w := binary.BigEndian.Uint64(b)
			sum += w>>48 + w>>32&0xffff + w>>16&0xffff + w&0xffff
			b = b[8:]
		}
		for len(b) >= 2 {
			sum += uint64(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) == 1 {
			sum += uint64(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// pseudo is the pseudo header of both IPs, but for zeros that do not count.
func pseudo(src, dst []byte, proto uint8, n int) []byte {
	b := append(append([]byte(nil), src...), dst...)
	return append(b, 0, proto, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// crc32c is the checksum of SCTP (RFC 9260, appendix A), with the field itself as zero.
func crc32c(b []byte) uint32 {
	crc := ^uint32(0)
	for i, x := range b {
		if i >= 8 && i < 12 {
			x = 0
		}
		crc ^= uint32(x)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0x82f63b78
			} else {
				crc >>= 1
			}
		}
	}
	return ^crc
}

// layout says where the parts of a frame with an IP packet are.
type layout struct {
	l3, l4, end int
	proto       uint8
	v6          bool
	fragment    bool
}

var errNoIP = errors.New("no IP packet")

// look finds the parts; errNoIP for other frames.
func look(f []byte) (l layout, err error) {
	if len(f) < 14 {
		return l, errors.New("no Ethernet frame")
	}
	l.l3 = 14
	typ := binary.BigEndian.Uint16(f[12:])
	for typ == typeVLAN || typ == typeQinQ {
		if len(f) < l.l3+4 {
			return l, errNoIP
		}
		typ = binary.BigEndian.Uint16(f[l.l3+2:])
		l.l3 += 4
	}
	return l, l.ip(f, typ)
}

func (l *layout) ip(f []byte, typ uint16) error {
	ip := f[l.l3:]
	switch typ {
	case typeIPv4:
		if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 {
			return errors.New("bad IPv4 header")
		}
		l.l4 = l.l3 + int(ip[0]&15)*4
		l.end = l.l3 + int(binary.BigEndian.Uint16(ip[2:]))
		l.proto = ip[9]
		l.fragment = binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
	case typeIPv6:
		if len(ip) < 40 || ip[0]>>4 != 6 {
			return errors.New("bad IPv6 header")
		}
		l.v6 = true
		l.l4 = l.l3 + 40
		l.end = l.l4 + int(binary.BigEndian.Uint16(ip[4:]))
		l.proto = ip[6]
	default:
		return errNoIP
	}
	if l.end > len(f) || l.l4 > l.end {
		return fmt.Errorf("IP length %d in a frame of %d", l.end-l.l3, len(f))
	}
	if l.v6 {
		for l.proto == 0 || l.proto == 43 || l.proto == 60 || l.proto == protoFragment {
			if l.l4+8 > l.end {
				return errors.New("IPv6 extension headers beyond the packet")
			}
			n := (int(f[l.l4+1]) + 1) * 8
			if l.proto == protoFragment {
				l.fragment = true
				n = 8
			}
			l.proto = f[l.l4]
			l.l4 += n
			if l.fragment {
				break
			}
		}
	}
	return nil
}

// addresses are those of the IP header.
func (l *layout) addresses(f []byte) (src, dst []byte) {
	if l.v6 {
		return f[l.l3+8 : l.l3+24], f[l.l3+24 : l.l3+40]
	}
	return f[l.l3+12 : l.l3+16], f[l.l3+16 : l.l3+20]
}

var errUnsummed = errors.New("UDP without checksum on IPv6")

// unfinished reports what is wrong with the lengths and checksums of a frame; nil for a frame that is
// complete.
func unfinished(f []byte) error {
	l, err := look(f)
	if errors.Is(err, errNoIP) {
		return nil
	}
	if err != nil {
		return err
	}
	if !l.v6 && sum16(f[l.l3:min(l.l4, l.l3+60)]) != 0xffff {
		return errors.New("IPv4 header checksum")
	}
	if l.fragment {
		return nil
	}
	b := f[l.l4:l.end]
	least := map[uint8]int{protoTCP: 20, protoUDP: 8, protoICMP: 4, protoICMPv6: 4, protoSCTP: 12, protoIGMP: 8}[l.proto]
	if len(b) < least {
		return fmt.Errorf("%d bytes of protocol %d", len(b), l.proto)
	}
	src, dst := l.addresses(f)
	front := pseudo(src, dst, l.proto, len(b))
	switch l.proto {
	case protoUDP:
		if n := int(binary.BigEndian.Uint16(b[4:])); n != len(b) {
			return fmt.Errorf("UDP length %d instead of %d", n, len(b))
		}
		if b[6] == 0 && b[7] == 0 {
			if l.v6 {
				return errUnsummed
			}
			return nil
		}
	case protoTCP, protoICMPv6:
	case protoICMP, protoIGMP:
		front = nil
	case protoSCTP:
		if got, want := binary.LittleEndian.Uint32(b[8:]), crc32c(b); got != want {
			return fmt.Errorf("SCTP checksum %08x instead of %08x", got, want)
		}
		return nil
	default:
		return nil
	}
	if sum16(front, b) != 0xffff {
		return fmt.Errorf("checksum of protocol %d", l.proto)
	}
	return nil
}

// finish does what hardware does with a frame: it sums from where the header says and stores there.
func finish(f []byte, h wire.VnetHdr) ([]byte, error) {
	f = append([]byte(nil), f...)
	if h.Flags&wire.FlagNeedsCsum == 0 {
		return f, nil
	}
	start, at := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
	if start < 14 || at+2 > len(f) {
		return nil, fmt.Errorf("checksum at %d+%d of a frame of %d", h.CsumStart, h.CsumOffset, len(f))
	}
	sum := ^sum16(f[start:])
	if sum == 0 && h.CsumOffset == 6 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(f[at:], sum)
	return f, nil
}

// divided returns a header that says how to cut a TCP segment that is longer than limit, into equal parts: if its
// sender left the checksum to hardware, IPv4 may not fragment it, and it is one like all others.
func divided(f []byte, h wire.VnetHdr, limit int) (wire.VnetHdr, bool) {
	l, err := look(f)
	if err != nil || limit <= 0 || len(f) <= limit || !isTCP(f) || h.Flags&wire.FlagNeedsCsum == 0 ||
		f[0]&1 != 0 || !l.v6 && f[l.l3+6]&0x40 == 0 || f[l.l4+13]&(syn|rst|urg) != 0 {
		return h, false
	}
	hl := l.l4 + int(f[l.l4+12]>>4)*4
	n := l.end - hl
	count := (n + limit - hl - 1) / (limit - hl)
	h.GSOType, h.GSOSize = wire.GSOTCPv4, uint16((n+count-1)/count)
	if l.v6 {
		h.GSOType = wire.GSOTCPv6
	}
	return h, count > 1
}

// pieces are the frames that a frame becomes on a cable: itself, or what is cut from a super-frame. A
// limit above 0 is the length that frames with TCP may have.
func pieces(f []byte, h wire.VnetHdr, limit int) ([][]byte, error) {
	if h.GSOType == wire.GSONone {
		var ok bool
		if h, ok = divided(f, h, limit); !ok {
			one, err := finish(f, h)
			return [][]byte{one}, err
		}
	}
	l, err := look(f)
	if err != nil {
		return nil, err
	}
	if l.end != len(f) {
		return nil, fmt.Errorf("super-frame of %d bytes whose packet ends at %d", len(f), l.end)
	}
	size, kind, proto := int(h.GSOSize), h.GSOType&^wire.GSOECN, uint8(protoTCP)
	hl := l.l4 + 8
	if kind == wire.GSOUDPL4 {
		proto = protoUDP
	} else {
		hl = l.l4 + int(f[l.l4+12]>>4)*4
		if l.v6 != (kind == wire.GSOTCPv6) {
			return nil, fmt.Errorf("GSO type %d with the other IP", kind)
		}
		if limit > 0 {
			size = min(size, limit-hl)
		}
	}
	if l.proto != proto || hl >= l.end || size <= 0 || l.fragment {
		return nil, fmt.Errorf("GSO type %d size %d: protocol %d, headers of %d in %d bytes", h.GSOType, h.GSOSize, l.proto, hl, len(f))
	}
	at := int(sumOffset(proto))
	src, dst := l.addresses(f)
	want := wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: uint16(l.l4), CsumOffset: uint16(at)}
	if h.Flags&wire.FlagNeedsCsum == 0 || h.CsumStart != want.CsumStart || h.CsumOffset != want.CsumOffset {
		return nil, fmt.Errorf("super-frame with checksum flags %d, start %d, offset %d", h.Flags, h.CsumStart, h.CsumOffset)
	}
	if got, want := binary.BigEndian.Uint16(f[l.l4+at:]), sum16(pseudo(src, dst, proto, l.end-l.l4)); got != want {
		return nil, fmt.Errorf("super-frame with %04x in place of the pseudo header's sum %04x", got, want)
	}
	if !l.v6 && sum16(f[l.l3:l.l4]) != 0xffff {
		return nil, errors.New("super-frame with a wrong IPv4 header checksum")
	}
	if proto == protoUDP && int(binary.BigEndian.Uint16(f[l.l4+4:])) != l.end-l.l4 {
		return nil, errors.New("super-frame with a wrong UDP length")
	}
	var out [][]byte
	for n, off := 0, hl; off < l.end; n, off = n+1, off+size {
		data := f[off:min(off+size, l.end)]
		p := append(append(make([]byte, 0, hl+len(data)), f[:hl]...), data...)
		ip, l4 := p[l.l3:], p[l.l4:]
		if l.v6 {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		} else {
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
			binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(f[l.l3+4:])+uint16(n))
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:l.l4-l.l3]))
		}
		if proto == protoTCP {
			binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(f[l.l4+4:])+uint32(off-hl))
			if off > hl {
				l4[13] &^= cwr
			}
			if off+size < l.end {
				l4[13] &^= psh | fin
			}
		} else {
			binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		}
		l4[at], l4[at+1] = 0, 0
		sum := ^sum16(pseudo(src, dst, proto, len(l4)), l4)
		if sum == 0 && proto == protoUDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(l4[at:], sum)
		out = append(out, p)
	}
	return out, nil
}

// sameBut reports whether a frame came out as it went in. Of one that was joined with others its padding may
// be gone, and, behind the first, the id of a packet that may not be fragmented may be another, since nobody
// may look at it (RFC 6864). Of a TCP checksum, 0 and 0xffff are one number, and the kernel writes the latter.
func sameBut(want []byte, got caught) bool {
	if bytes.Equal(want, got.frame) {
		return true
	}
	l, err := look(want)
	if err == nil && isTCP(want) && len(want) == len(got.frame) {
		if sum := want[l.l4+16 : l.l4+18]; binary.BigEndian.Uint16(sum) == 0 && binary.BigEndian.Uint16(got.frame[l.l4+16:]) == 0xffff {
			want = bytes.Clone(want)
			want[l.l4+16], want[l.l4+17] = 0xff, 0xff
			return sameBut(want, got)
		}
	}
	if err != nil || l.fragment || !got.super {
		return false
	}
	if len(want) <= 60+l.l3-14 {
		want = want[:l.end]
	}
	if len(want) != len(got.frame) || unfinished(got.frame) != nil {
		return false
	}
	a, b := bytes.Clone(want), bytes.Clone(got.frame)
	if got.behind && !l.v6 && a[l.l3+6]&0x40 != 0 {
		for _, at := range []int{4, 5, 10, 11} {
			a[l.l3+at], b[l.l3+at] = 0, 0
		}
	}
	return bytes.Equal(a, b)
}

func isTCP(f []byte) bool {
	l, err := look(f)
	if err != nil || l.proto != protoTCP || l.fragment || l.end < l.l4+20 {
		return false
	}
	n := int(f[l.l4+12]>>4) * 4
	return n >= 20 && l.l4+n <= l.end
}

// sameStream compares frames of one TCP flow that may have been joined and cut anew: each run of segments that
// follow each other and have the same headers counts as one.
func sameStream(in, out [][]byte) error {
	a, b := runs(in), runs(out)
	for i := range min(len(a), len(b)) {
		if !bytes.Equal(a[i], b[i]) {
			return fmt.Errorf("run %d of %d: went in as %d bytes, came out as %d\n\twent in  %x\n\tcame out %x",
				i+1, len(a), len(a[i]), len(b[i]), short(a[i]), short(b[i]))
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("%d runs went in, %d came out", len(a), len(b))
	}
	return nil
}

// sameBytes compares frames of one TCP flow of which some were sent again, and cut elsewhere then: by what each byte of the
// stream is, and by how much was sent in all.
func sameBytes(in, out [][]byte) error {
	stream := map[uint32]byte{}
	weight, again := 0, false
	for _, f := range in {
		if !isTCP(f) || unfinished(f) != nil {
			return errors.New("a segment that is broken went in")
		}
		seq, data := payload(f)
		for i, b := range data {
			_, known := stream[seq+uint32(i)]
			again = again || known
			stream[seq+uint32(i)] = b
		}
		weight += len(data)
	}
	if !again {
		return errors.New("nothing was sent again")
	}
	came := map[uint32]struct{}{}
	for _, f := range out {
		if err := unfinished(f); err != nil || !isTCP(f) {
			return fmt.Errorf("came out as no segment: %w", err)
		}
		seq, data := payload(f)
		for i, b := range data {
			if want, ok := stream[seq+uint32(i)]; !ok || want != b {
				return fmt.Errorf("byte %d came out as %02x, not as %02x", seq+uint32(i), b, want)
			}
			came[seq+uint32(i)] = struct{}{}
		}
		weight -= len(data)
	}
	if weight != 0 || len(came) != len(stream) {
		return fmt.Errorf("%d bytes of %d came out, and %d more went in", len(came), len(stream), weight)
	}
	return nil
}

// payload is that of a TCP segment, and its sequence number.
func payload(f []byte) (seq uint32, data []byte) {
	l, _ := look(f)
	return binary.BigEndian.Uint32(f[l.l4+4:]), f[l.l4+int(f[l.l4+12]>>4)*4 : l.end]
}

// runs joins the segments of each run, without regard to lengths, ids and checksums in the headers.
func runs(frames [][]byte) (out [][]byte) {
	var head []byte // of the run, with the sequence of what may follow
	for _, f := range frames {
		if !isTCP(f) {
			out, head = append(out, f), nil
			continue
		}
		l, _ := look(f)
		hl := l.l4 + int(f[l.l4+12]>>4)*4
		good := unfinished(f) == nil
		h := bytes.Clone(f[:hl])
		tcp := h[l.l4:]
		if good {
			if l.v6 {
				clear(h[l.l3+4 : l.l3+6])
			} else {
				clear(h[l.l3+2 : l.l3+6])
				clear(h[l.l3+10 : l.l3+12])
			}
			clear(tcp[16:18])
		}
		seq := binary.BigEndian.Uint32(tcp[4:])
		last := tcp[13]&(psh|fin) != 0
		again := bytes.Clone(h)
		again[l.l4+13] &^= psh | fin
		if good && head != nil && bytes.Equal(head, again) && l.end > hl {
			r := &out[len(out)-1]
			*r = append(*r, f[hl:l.end]...)
			(*r)[l.l4+13] |= tcp[13] & (psh | fin)
		} else {
			out = append(out, append(h, f[hl:l.end]...))
		}
		head = nil
		if good && !last && l.end > hl && tcp[13]&(syn|rst|urg) == 0 {
			head = again
			head[l.l4+13] &^= cwr
			binary.BigEndian.PutUint32(head[l.l4+4:], seq+uint32(l.end-hl))
		}
	}
	return out
}

// inOrder compares two frames of a flow by what a sender counts up: sequence and acknowledgement of TCP, relative
// to those of some frame of the flow; of other protocols by what their packets carry, since the ids of packets that were
// joined on the way are new.
func inOrder(some, a, b []byte) int {
	if !isTCP(some) || !isTCP(a) || !isTCP(b) {
		x, errX := look(a)
		y, errY := look(b)
		if errX != nil || errY != nil {
			return bytes.Compare(a, b)
		}
		return cmp.Or(bytes.Compare(a[x.l4:x.end], b[y.l4:y.end]), bytes.Compare(a, b))
	}
	field := func(f []byte, at int) int32 {
		l, _ := look(f)
		return int32(binary.BigEndian.Uint32(f[l.l4+at:]))
	}
	const seq, ack = 4, 8
	return cmp.Or(
		cmp.Compare(field(a, seq)-field(some, seq), field(b, seq)-field(some, seq)),
		cmp.Compare(field(a, ack)-field(some, ack), field(b, ack)-field(some, ack)),
		cmp.Compare(len(a), len(b)), bytes.Compare(a, b),
	)
}

// clamp lowers the MSS that a SYN announces, in place, to what fits into frames of limit bytes.
func clamp(f []byte, limit int) {
	const flags, checksum, options, signed = 13, 16, 20, 29
	l, err := look(f)
	if err != nil || l.fragment || l.proto != protoTCP || l.end < l.l4+options || f[l.l4+flags]&syn == 0 {
		return
	}
	fits := limit - l.l3 - 40
	if l.v6 {
		fits -= 20
	}
	end := min(l.l4+int(f[l.l4+12]>>4)*4, l.end)
	at := 0
	for o := l.l4 + options; o < end && f[o] != 0; {
		if f[o] == 1 {
			o++
			continue
		}
		if o+2 > end || f[o+1] < 2 || o+int(f[o+1]) > end {
			break
		}
		switch {
		case f[o] == signed:
			return
		case f[o] == 2 && f[o+1] == 4 && at == 0:
			at = o + 2
		}
		o += int(f[o+1])
	}
	if at == 0 || int(binary.BigEndian.Uint16(f[at:])) <= fits {
		return
	}
	sum := f[l.l4+checksum:]
	was := sum16(f[l.l4:end])
	old := binary.BigEndian.Uint16(sum)
	binary.BigEndian.PutUint16(f[at:], uint16(fits))
	now := sum16(f[l.l4:end])
	word := func(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }
	binary.BigEndian.PutUint16(sum, ^sum16(word(^old), word(^was), word(now)))
}
