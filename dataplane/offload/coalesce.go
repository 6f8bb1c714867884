package offload

import (
	"encoding/binary"
	"math/bits"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Limits of a coalesced frame.
const (
	// maxCoalesced is its length in bytes: one more and the kernel cuts it before the bridge (gso_max_size).
	maxCoalesced = 65535
	// maxPieces keeps its pieces well below IOV_MAX.
	maxPieces = 256
	// minFrame is what shorter untagged frames are padded to, in bytes (IEEE 802.3); the padding of joined
	// frames is lost.
	minFrame = 60
	// maxUDPPieces is what a UDP socket with UDP_GRO gets at most in one read (UDP_GRO_CNT_MAX).
	maxUDPPieces = 64
	// maxFlows is how many flows are joined at a time; a bit of Coalescer.open for each.
	maxFlows = 64
)

// Coalescer joins consecutive TCP segments and equal UDP datagrams of a flow into GSO frames for one
// vnif. The frames of one flow keep their order, and frames that are no flow's keep theirs towards all
// frames between the same two MACs. It belongs to one worker. The zero value is ready.
type Coalescer struct {
	// NoUDP leaves UDP as it is, for kernels whose packet sockets know no UDP GSO (before 6.2).
	NoUDP bool

	frames []wire.Frame // len: the result; what is behind keeps its memory for later
	done   bool         // Flush returned frames
	flows  [maxFlows]flow
	open   uint64 // which of flows are being joined
}

// flow is a frame that may still grow.
type flow struct {
	layout
	frame    int    // index in frames
	first    []byte // the first inner frame, as it came
	hl       int    // where its payload begins
	size     int    // bytes of payload of every segment but the last
	payload  int    // bytes of payload together
	count    int    // segments
	seq      uint32 // TCP: what comes next
	id       uint16 // IPv4: the id of the last segment
	verified bool   // the first segment's checksum was found right
	psh      bool   // the last segment pushed
}

// Add takes an inner frame. It is borrowed until Flush's result has been used, and the headers in it
// may be changed.
func (c *Coalescer) Add(frame []byte) {
	if c.done {
		c.frames, c.done = c.frames[:0], false
	}
	l, ok := parse(frame)
	if !ok || l.fragment || l.proto != protoTCP && l.proto != protoUDP {
		c.barrier(frame)
		c.pass(frame)
		return
	}
	hl, ok := l.transport(frame)
	if !ok {
		c.barrier(frame)
		c.pass(frame)
		return
	}
	if l.partial(frame) {
		l.complete(frame)
	}
	slot, same := c.find(&l, frame)
	fl := &c.flows[slot]
	if same && hl == fl.hl && c.join(fl, &l, hl, frame) {
		if fl.psh || l.end-hl < fl.size {
			c.finish(slot)
		}
		return
	}
	grows := c.candidate(&l, hl, frame) && !pushes(&l, frame)
	if same || grows && c.open>>slot&1 != 0 {
		c.finish(slot)
	}
	i := c.pass(frame)
	if !grows {
		return
	}
	c.open |= 1 << slot
	*fl = flow{layout: l, frame: i, first: frame, hl: hl, size: l.end - hl, payload: l.end - hl, count: 1}
	if !l.v6 {
		fl.id = binary.BigEndian.Uint16(frame[l.l3+4:])
	}
	if l.proto == protoTCP {
		fl.seq = binary.BigEndian.Uint32(frame[l.l4+tcpSeq:]) + uint32(fl.size)
	}
}

// Flush returns the frames, which are valid until the next Add.
func (c *Coalescer) Flush() []wire.Frame {
	for c.open != 0 {
		c.finish(uint(bits.TrailingZeros64(c.open)))
	}
	if c.done {
		return nil
	}
	c.done = true
	return c.frames
}

// pass adds a frame as it is to the result and returns its index.
func (c *Coalescer) pass(frame []byte) int {
	i := len(c.frames)
	if i < cap(c.frames) {
		c.frames = c.frames[:i+1]
	} else {
		c.frames = append(c.frames, wire.Frame{})
	}
	f := &c.frames[i]
	f.Hdr = wire.VnetHdr{}
	f.Bufs = append(f.Bufs[:0], frame)
	return i
}

// barrier ends the joining of all flows between the MACs of a frame, so that none overtakes it.
func (c *Coalescer) barrier(frame []byte) {
	if len(frame) < 12 {
		return
	}
	for left := c.open; left != 0; left &= left - 1 {
		slot := uint(bits.TrailingZeros64(left))
		if string(c.flows[slot].first[:12]) == string(frame[:12]) {
			c.finish(slot)
		}
	}
}

// find returns the slot of a packet's flow and true, or a slot that it may have: of the two in question
// the free or the older one.
func (c *Coalescer) find(l *layout, f []byte) (uint, bool) {
	a := l.slot(f)
	b := a ^ 1
	for _, slot := range [...]uint{a, b} {
		if c.open>>slot&1 != 0 && c.flows[slot].same(l, f) {
			return slot, true
		}
	}
	if c.open>>a&1 != 0 && (c.open>>b&1 == 0 || c.flows[b].frame < c.flows[a].frame) {
		return b, false
	}
	return a, false
}

// slot chooses a slot by addresses, ports and protocol.
func (l *layout) slot(f []byte) uint {
	at := l.l3 + 12 // the IPv4 addresses
	if l.v6 {
		at = l.l3 + 32 // the end of the destination; the source's is added below
	}
	h := binary.NativeEndian.Uint64(f[at:])
	if l.v6 {
		h += binary.NativeEndian.Uint64(f[l.l3+16:])
	}
	h = (h ^ uint64(binary.NativeEndian.Uint32(f[l.l4:]))<<16 ^ uint64(l.proto)) * 0x9e3779b97f4a7c15
	return uint(h >> 58)
}

// same reports whether a packet is of the flow: MACs, VLAN tags, addresses, protocol and ports.
func (fl *flow) same(l *layout, f []byte) bool {
	if fl.l3 != l.l3 || fl.v6 != l.v6 || fl.proto != l.proto || string(fl.first[:l.l3]) != string(f[:l.l3]) {
		return false
	}
	from, to := l.l3+12, l.l3+20
	if l.v6 {
		from, to = l.l3+8, l.l3+40
	}
	return string(fl.first[from:to]) == string(f[from:to]) &&
		string(fl.first[fl.l4:fl.l4+4]) == string(f[l.l4:l.l4+4])
}

// candidate reports whether a packet may be a segment of a joined frame.
func (c *Coalescer) candidate(l *layout, hl int, f []byte) bool {
	if hl == l.end {
		return false // nothing to join
	}
	if len(f) > max(l.end, minFrame+l.l3-wire.FrameLen) {
		return false // bytes behind the packet that are no padding: somebody's trailer
	}
	if l.v6 {
		if l.l4 != l.l3+wire.IPv6Len {
			return false // extension headers
		}
	} else if l.l4 != l.l3+wire.IPv4Len || f[l.l3+6]&0x80 != 0 {
		return false // options; the reserved flag
	}
	if l.proto == protoTCP {
		// ECE is a state and stays; CWR is an event of one segment.
		return f[l.l4+tcpFlags]&^(tcpPSH|tcpECE) == tcpACK
	}
	// Without a checksum there is nothing to verify (IPv4), or it is wrong (IPv6).
	return !c.NoUDP && f[l.l4+udpCsum]|f[l.l4+udpCsum+1] != 0 && udpLength(l, f) == l.end-l.l4
}

func udpLength(l *layout, f []byte) int {
	return int(binary.BigEndian.Uint16(f[l.l4+udpLen:]))
}

// pushes reports whether a segment asks for delivery: the last of a joined frame.
func pushes(l *layout, f []byte) bool {
	return l.proto == protoTCP && f[l.l4+tcpFlags]&tcpPSH != 0
}

// join appends a packet of the flow to its frame, if it is the next segment of it.
func (c *Coalescer) join(fl *flow, l *layout, hl int, f []byte) bool {
	n := l.end - hl
	out := &c.frames[fl.frame]
	limit := maxPieces
	if l.proto == protoUDP {
		limit = maxUDPPieces
	}
	if n > fl.size || fl.hl+fl.payload+n > maxCoalesced || fl.count == limit || !c.candidate(l, hl, f) {
		return false
	}
	a, b := fl.first, f
	ip, l4 := l.l3, l.l4
	var id uint16
	if l.v6 {
		// Version, traffic class and flow label; hop limit.
		if string(a[ip:ip+4]) != string(b[ip:ip+4]) || a[ip+7] != b[ip+7] {
			return false
		}
	} else {
		// TOS; flags; TTL. Ids count up, unless nobody may look at them (RFC 6864: DF).
		if a[ip+1] != b[ip+1] || a[ip+6] != b[ip+6] || a[ip+8] != b[ip+8] {
			return false
		}
		id = binary.BigEndian.Uint16(b[ip+4:])
		if b[ip+6]&0x40 == 0 && id != fl.id+1 {
			return false
		}
	}
	if l.proto == protoTCP {
		// The sequence; acknowledgement; header length and flags; window, urgent pointer and options.
		if binary.BigEndian.Uint32(b[l4+tcpSeq:]) != fl.seq ||
			string(a[l4+8:l4+tcpFlags]) != string(b[l4+8:l4+tcpFlags]) ||
			(a[l4+tcpFlags]^b[l4+tcpFlags])&^tcpPSH != 0 ||
			string(a[l4+tcpWin:l4+tcpCsum]) != string(b[l4+tcpWin:l4+tcpCsum]) ||
			string(a[l4+tcpCsum+2:hl]) != string(b[l4+tcpCsum+2:hl]) {
			return false
		}
	}
	// A wrong checksum must arrive wrong: such a packet is passed, never joined.
	fl.verified = fl.verified || fl.layout.verified(a)
	if !fl.verified || !l.verified(f) {
		return false
	}
	if fl.count == 1 {
		out.Bufs[0] = a[:fl.end] // no padding in the middle
	}
	out.Bufs = append(out.Bufs, f[hl:l.end])
	fl.count++
	fl.payload += n
	fl.seq += uint32(n)
	fl.id = id
	fl.psh = pushes(l, f)
	return true
}

// finish ends the joining of a flow and writes the headers of a frame that has several segments.
func (c *Coalescer) finish(slot uint) {
	c.open &^= 1 << slot
	fl := &c.flows[slot]
	if fl.count == 1 {
		return
	}
	f := fl.first
	length := fl.hl - fl.l4 + fl.payload // of the transport header and payload
	if fl.v6 {
		binary.BigEndian.PutUint16(f[fl.l3+4:], uint16(length))
	} else {
		ip := f[fl.l3:fl.l4]
		binary.BigEndian.PutUint16(ip[2:], uint16(fl.l4-fl.l3+length))
		wire.PutSum(ip[10:], 0)
		wire.PutSum(ip[10:], ^wire.Fold(wire.Sum(ip, 0)))
	}
	h := wire.VnetHdr{
		Flags:     wire.FlagNeedsCsum,
		HdrLen:    uint16(fl.hl),
		GSOSize:   uint16(fl.size),
		CsumStart: uint16(fl.l4),
	}
	partial := wire.Fold(uint64(wire.Fold(fl.pseudo(f))) + wire.Word(uint16(length)))
	if fl.proto == protoTCP {
		h.GSOType, h.CsumOffset = wire.GSOTCPv4, tcpCsum
		if fl.v6 {
			h.GSOType = wire.GSOTCPv6
		}
		if fl.psh {
			f[fl.l4+tcpFlags] |= tcpPSH
		}
	} else {
		h.GSOType, h.CsumOffset = wire.GSOUDPL4, udpCsum
		binary.BigEndian.PutUint16(f[fl.l4+udpLen:], uint16(length))
	}
	wire.PutSum(f[fl.l4+int(h.CsumOffset):], partial)
	c.frames[fl.frame].Hdr = h
}
