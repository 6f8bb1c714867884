// Package offload does in user space what network cards do: it finishes checksums, cuts frames of up to
// 64 KiB into wire packets that travel as trains (UDP_SEGMENT), and joins what arrives into such frames
// again. Pure functions on byte slices; payload is never copied, and nothing is allocated once the
// scratch memory has grown.
package offload

import (
	"encoding/binary"
	"net/netip"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Limits of a train (linux/udp.h: UDP_MAX_SEGMENTS before 6.9; an IP packet's size with room to spare).
const (
	MaxSegments = 64     // datagrams
	MaxTrain    = 65_000 // bytes
)

const (
	// maxDatagram is what UDP on IPv4 can carry; on IPv6 it is more.
	maxDatagram = 65535 - wire.IPv4Len - wire.UDPLen
	// MaxCuts bounds what one frame may become: the kernel's smallest TCP segments (48 bytes) pass.
	MaxCuts = 2048
	// copyUpTo is the length of frames that are copied into the train: for short ones this is cheaper than
	// two more pieces for the kernel to gather.
	copyUpTo = 256
)

// Path is where a frame goes, and how.
type Path struct {
	// To and Way tell paths apart: frames with the same share trains and keep their order. Way means something to
	// the caller only: how packets travel.
	To  netip.AddrPort
	Way uint32
	// Prefix goes in front of every inner frame: the VUDP (or EtherIP) header. At most 64 bytes.
	Prefix []byte
	// MaxFrame is the length in bytes of the largest inner frame whose outer packet fits the path
	// (Overhead.MaxFrame). TCP is cut to fit; what cannot be cut goes alone, for IP to fragment.
	MaxFrame int
	// Alone forbids trains, for sockets that know no UDP_SEGMENT.
	Alone bool
	// Growth is how many bytes are added to each datagram afterwards, at most (a seal).
	Growth int
}

// Train is one message for the underlay: one datagram, or several of equal size of which only the last
// may be shorter.
type Train struct {
	// To and Way are those of the path.
	To  netip.AddrPort
	Way uint32
	// Bufs are the bytes of the datagrams, one after the other, in pieces that do not end where datagrams do.
	Bufs [][]byte
	// SegSize is the length of the datagrams, for UDP_SEGMENT; 0 if there is only one.
	SegSize int
	// Count is the number of datagrams, Len their length together.
	Count, Len int

	first  int  // length of the first datagram
	closed bool // nothing may follow
	tail   int  // where in the current arena the last piece ends; -1 if it is elsewhere
	pieces [][]byte
}

// Each calls f with the pieces of every datagram in turn; they are valid during the call.
func (t *Train) Each(f func(datagram [][]byte)) {
	i, off := 0, 0
	for left := t.Len; left > 0; {
		n := min(left, t.first)
		left -= n
		t.pieces = t.pieces[:0]
		for n > 0 {
			p := t.Bufs[i][off:]
			if len(p) > n {
				p = p[:n]
				off += n
			} else {
				i, off = i+1, 0
			}
			n -= len(p)
			t.pieces = append(t.pieces, p)
		}
		f(t.pieces)
	}
}

// Segmenter builds trains. It belongs to one worker. The zero value is ready.
type Segmenter struct {
	trains []Train // len: in use; what is behind keeps its memory for later
	open   []int   // the last train of each To
	arena  []byte  // headers and short frames; len: in use
	head   [maxHead + maxPrefix]byte
}

const (
	maxPrefix  = 64
	arenaLen   = 1 << 18
	fullTrains = 512
)

// Trains returns what the frames since Reset became. Messages to one address are in order. The trains,
// and the frames that they point into, must stay as they are until they are sent.
func (s *Segmenter) Trains() []Train { return s.trains }

// Full reports that the trains should be sent, and Reset called, before the next frame, to keep the
// scratch memory small.
func (s *Segmenter) Full() bool { return len(s.trains) >= fullTrains || len(s.arena) >= arenaLen }

// Reset forgets the trains and uses their memory again.
func (s *Segmenter) Reset() {
	s.trains, s.open, s.arena = s.trains[:0], s.open[:0], s.arena[:0]
}

// Segment adds one frame as it came from a vnif, VLAN tags in place: checksums are completed (in place),
// and a GSO frame is cut. On an error, nothing was added.
func (s *Segmenter) Segment(frame []byte, h wire.VnetHdr, p *Path) error {
	if len(frame) < wire.FrameLen {
		return ErrShort
	}
	if h.GSOType != wire.GSONone {
		return s.cut(frame, h, p)
	}
	if len(frame)+len(p.Prefix)+p.Growth > maxDatagram || len(p.Prefix) > maxPrefix {
		return ErrLong
	}
	if len(frame) > p.MaxFrame {
		if gso, ok := divisible(frame, h, p.MaxFrame); ok {
			return s.cut(frame, gso, p)
		}
	}
	if err := Complete(frame, h); err != nil {
		return err
	}
	n := len(p.Prefix) + len(frame)
	t := s.datagram(p, n)
	if len(frame) <= copyUpTo {
		b := s.room(t, n)
		copy(b, p.Prefix)
		copy(b[len(p.Prefix):], frame)
		return nil
	}
	copy(s.room(t, len(p.Prefix)), p.Prefix)
	t.borrow(frame)
	return nil
}

// divisible returns how to cut a frame that is too long for the path though it is no super-frame: into equal
// segments, which the other side joins with those of the next frame. That is done with TCP only, where
// the sender counts on hardware, since it left the checksum to it: the end of what it had to send may be
// one segment. What is complete, signed, or may be fragmented and thus has an id of its own, stays whole.
func divisible(frame []byte, h wire.VnetHdr, maxFrame int) (gso wire.VnetHdr, ok bool) {
	if h.Flags&wire.FlagNeedsCsum == 0 || h.CsumOffset != tcpCsum {
		return h, false
	}
	l, ok := parse(frame)
	if !ok || l.fragment || l.proto != protoTCP || int(h.CsumStart) != l.l4 {
		return h, false
	}
	hl, ok := l.transport(frame)
	if !ok || frame[l.l4+tcpFlags]&(tcpSYN|tcpRST|tcpURG) != 0 || signed(frame[l.l4+tcpLen:hl]) {
		return h, false
	}
	h.GSOType = wire.GSOTCPv6
	if !l.v6 {
		if frame[l.l3+6]&0x40 == 0 {
			return h, false
		}
		h.GSOType = wire.GSOTCPv4
	}
	payload, fits := l.end-hl, maxFrame-hl
	if fits < minDivided || payload <= fits {
		return h, false
	}
	n := (payload + fits - 1) / fits
	h.GSOSize = uint16((payload + n - 1) / n)
	return h, true
}

// minDivided is the least payload of segments, in bytes, that a frame is divided into.
const minDivided = 256

// cut adds the segments of a GSO frame. TCP for IPv4 without DF that is cut smaller than its sender wanted takes
// more ids than the sender has reserved, so that consecutive super-frames share some, against RFC 6864, section
// 4.3. That matters only where a router behind the receiving host fragments them; the alternative is to let IP
// cut every outer packet in two.
func (s *Segmenter) cut(frame []byte, h wire.VnetHdr, p *Path) error {
	l, ok := parse(frame)
	if !ok || l.fragment {
		return ErrHeaders
	}
	var csum int
	switch h.GSOType &^ wire.GSOECN {
	case wire.GSOTCPv4, wire.GSOTCPv6:
		if l.proto != protoTCP || l.v6 != (h.GSOType&^wire.GSOECN == wire.GSOTCPv6) {
			return ErrHeaders
		}
		csum = tcpCsum
	case wire.GSOUDPL4:
		if l.proto != protoUDP {
			return ErrHeaders
		}
		csum = udpCsum
	default:
		return ErrGSO
	}
	hl, ok := l.transport(frame)
	if !ok || hl > maxHead {
		return ErrHeaders
	}
	partial := h.Flags&wire.FlagNeedsCsum != 0
	if partial && (int(h.CsumStart) != l.l4 || int(h.CsumOffset) != csum) {
		return ErrChecksum
	}
	size := int(h.GSOSize)
	if size == 0 {
		return ErrGSO
	}
	tcp := l.proto == protoTCP
	if fits := p.MaxFrame - hl; tcp && size > fits && fits > 0 {
		size = fits
	}
	payload := frame[hl:l.end]
	if (len(payload)+size-1)/size > MaxCuts {
		return ErrGSO
	}
	if len(p.Prefix) > maxPrefix || len(p.Prefix)+hl+min(size, len(payload))+p.Growth > maxDatagram {
		return ErrLong
	}

	// The headers that all segments have in common, with zeros where they differ, and their sums.
	pre := len(p.Prefix)
	head := s.head[:pre+hl]
	copy(head, p.Prefix)
	f := head[pre:]
	copy(f, frame[:hl])
	ip, l4 := f[l.l3:l.l4], f[l.l4:]
	pseudo := uint64(wire.Fold(l.pseudo(frame)))
	if partial && l.routed {
		// The sender knew the final destination; take its sum, less the length.
		pseudo = uint64(wire.GetSum(l4[csum:])) + uint64(^uint16(wire.Word(uint16(l.end-l.l4))))
	}
	noSum := !partial && !tcp && !l.v6 && l4[csum]|l4[csum+1] == 0 // RFC 768: none was asked for
	l4[csum], l4[csum+1] = 0, 0
	var seq uint32
	var flags uint8
	if tcp {
		seq, flags = binary.BigEndian.Uint32(l4[tcpSeq:]), l4[tcpFlags]
		clear(l4[tcpSeq : tcpSeq+4])
		l4[tcpFlags] = 0
	} else {
		l4[udpLen], l4[udpLen+1] = 0, 0
	}
	l4Sum := uint64(wire.Fold(wire.Sum(l4, 0))) + pseudo
	var id uint16
	var ipSum uint64
	if !l.v6 {
		id = binary.BigEndian.Uint16(ip[4:])
		clear(ip[2:6])
		clear(ip[10:12])
		ipSum = uint64(wire.Fold(wire.Sum(ip, 0)))
	}

	for first := true; first || len(payload) > 0; first = false {
		n := min(size, len(payload))
		data := payload[:n]
		payload = payload[n:]

		t := s.datagram(p, pre+hl+n)
		b := s.room(t, pre+hl)
		copy(b, head)
		f := b[pre:]
		ip, l4 := f[l.l3:l.l4], f[l.l4:]
		length := len(l4) + n
		if l.v6 {
			binary.BigEndian.PutUint16(ip[4:], uint16(hl-l.l3-wire.IPv6Len+n))
		} else {
			total := uint16(hl - l.l3 + n)
			binary.BigEndian.PutUint16(ip[2:], total)
			binary.BigEndian.PutUint16(ip[4:], id)
			wire.PutSum(ip[10:], ^wire.Fold(ipSum+wire.Word(total)+wire.Word(id)))
			id++
		}
		sum := l4Sum + wire.Word(uint16(length)) + uint64(wire.Fold(wire.Sum(data, 0)))
		if tcp {
			fl := flags
			if len(payload) > 0 {
				fl &^= tcpFIN | tcpPSH
			}
			if !first {
				fl &^= tcpCWR // RFC 3168, section 6.1.2: once
			}
			binary.BigEndian.PutUint32(l4[tcpSeq:], seq)
			l4[tcpFlags] = fl
			sum += wire.Word(uint16(seq>>16)) + wire.Word(uint16(seq)) + wire.Word(uint16(fl))
			seq += uint32(n)
		} else {
			binary.BigEndian.PutUint16(l4[udpLen:], uint16(length))
			sum += wire.Word(uint16(length))
		}
		check := ^wire.Fold(sum)
		if check == 0 && !tcp {
			check = 0xffff // RFC 768
		}
		if !noSum {
			wire.PutSum(l4[csum:], check)
		}
		if n > 0 {
			t.borrow(data)
		}
	}
	return nil
}

// datagram begins a datagram of n bytes and returns the train that takes it.
func (s *Segmenter) datagram(p *Path, n int) *Train {
	fits := !p.Alone && n-len(p.Prefix) <= p.MaxFrame
	slot := -1
	for i := len(s.open) - 1; i >= 0; i-- { // the latest are the likeliest
		if t := &s.trains[s.open[i]]; t.To == p.To && t.Way == p.Way {
			slot = i
			break
		}
	}
	if slot >= 0 {
		t := &s.trains[s.open[slot]]
		if fits && !t.closed && n <= t.first && t.Count < MaxSegments && t.Len+n+(t.Count+1)*p.Growth <= MaxTrain {
			t.SegSize = t.first
			t.closed = n < t.first
			t.Count++
			t.Len += n
			return t
		}
	}
	i := len(s.trains)
	if i < cap(s.trains) {
		s.trains = s.trains[:i+1]
	} else {
		s.trains = append(s.trains, Train{})
	}
	t := &s.trains[i]
	*t = Train{To: p.To, Way: p.Way, Bufs: t.Bufs[:0], pieces: t.pieces, Count: 1, Len: n, first: n, closed: !fits, tail: -1}
	if slot >= 0 {
		s.open[slot] = i
	} else {
		s.open = append(s.open, i)
	}
	return t
}

// room gives a train n more bytes of the arena.
func (s *Segmenter) room(t *Train, n int) []byte {
	at := len(s.arena)
	if cap(s.arena)-at < n {
		// What is in use stays with the trains that point to it.
		s.arena = make([]byte, 0, max(arenaLen, 2*cap(s.arena)))
		at = 0
		for i := range s.trains {
			s.trains[i].tail = -1
		}
	}
	s.arena = s.arena[:at+n]
	if t.tail == at {
		last := &t.Bufs[len(t.Bufs)-1]
		*last = (*last)[:len(*last)+n]
	} else {
		t.Bufs = append(t.Bufs, s.arena[at:])
	}
	t.tail = at + n
	return s.arena[at : at+n]
}

// borrow gives a train a piece of a frame.
func (t *Train) borrow(b []byte) {
	t.Bufs = append(t.Bufs, b)
	t.tail = -1
}
