package offload

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/xenvnet/xend/dataplane/wire"
)

// packet describes an inner frame; build makes it, step by step and in no hurry. It is what the fast
// code is compared with.
type packet struct {
	dst, src wire.MAC
	tags     []uint16 // TPIDs, outermost first
	v6       bool
	tos, ttl uint8
	id       uint16
	df       bool
	ipOpts   []byte // IPv4 options, a multiple of four bytes
	exts     []ext  // IPv6 extension headers
	tcp      bool
	flags    uint8 // TCP
	seq, ack uint32
	win      uint16
	tcpOpts  []byte // a multiple of four bytes
	noSum    bool   // UDP without checksum
	sport    uint16
	dport    uint16
	from, to byte // last byte of the addresses
	payload  []byte
}

type ext struct {
	proto uint8
	body  []byte // all but the first two bytes: 6, 14, ... bytes
}

// addresses returns the addresses of the packet.
func (p *packet) addresses() (src, dst []byte) {
	if p.v6 {
		src, dst = make([]byte, 16), make([]byte, 16)
		src[0], src[1], dst[0], dst[1] = 0x20, 0x01, 0x20, 0x01
		src[15], dst[15] = p.from, p.to
		return src, dst
	}
	return []byte{10, 1, 0, p.from}, []byte{10, 1, 0, p.to}
}

// build returns the frame; where partial is set its checksum is left for hardware.
func (p *packet) build(partial bool) []byte {
	var f []byte
	f = append(f, p.dst[:]...)
	f = append(f, p.src[:]...)
	for i, t := range p.tags {
		f = binary.BigEndian.AppendUint16(f, t)
		f = binary.BigEndian.AppendUint16(f, uint16(100+i))
	}
	l4 := p.transport(partial)
	src, dst := p.addresses()
	proto := uint8(17)
	if p.tcp {
		proto = 6
	}
	if p.v6 {
		f = binary.BigEndian.AppendUint16(f, 0x86dd)
		var exts []byte
		first := proto
		for i := range p.exts {
			next := proto
			if i+1 < len(p.exts) {
				next = p.exts[i+1].proto
			}
			if i == 0 {
				first = p.exts[0].proto
			}
			exts = append(exts, next, byte((len(p.exts[i].body)+2)/8-1))
			exts = append(exts, p.exts[i].body...)
		}
		f = append(f, 0x60|p.tos>>4, p.tos<<4, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(len(exts)+len(l4)))
		f = append(f, first, p.ttl)
		f = append(append(f, src...), dst...)
		f = append(f, exts...)
		return append(f, l4...)
	}
	f = binary.BigEndian.AppendUint16(f, 0x0800)
	var h []byte
	h = append(h, 0x40|byte(5+len(p.ipOpts)/4), p.tos)
	h = binary.BigEndian.AppendUint16(h, uint16(20+len(p.ipOpts)+len(l4)))
	h = binary.BigEndian.AppendUint16(h, p.id)
	if p.df {
		h = append(h, 0x40, 0)
	} else {
		h = append(h, 0, 0)
	}
	h = append(h, p.ttl, proto, 0, 0)
	h = append(append(h, src...), dst...)
	h = append(h, p.ipOpts...)
	binary.BigEndian.PutUint16(h[10:], ^slowSum(h))
	f = append(f, h...)
	return append(f, l4...)
}

// transport returns the TCP or UDP header and payload.
func (p *packet) transport(partial bool) []byte {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, p.sport)
	b = binary.BigEndian.AppendUint16(b, p.dport)
	at, proto := 6, byte(17)
	if p.tcp {
		at, proto = 16, 6
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, byte(5+len(p.tcpOpts)/4)<<4, p.flags)
		b = binary.BigEndian.AppendUint16(b, p.win)
		b = append(b, 0, 0, 0, 0)
		b = append(b, p.tcpOpts...)
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
	}
	b = append(b, p.payload...)
	src, dst := p.addresses()
	pseudo := append(append([]byte(nil), src...), dst...)
	pseudo = append(pseudo, 0, proto, byte(len(b)>>8), byte(len(b)))
	switch {
	case p.noSum:
	case partial:
		binary.BigEndian.PutUint16(b[at:], slowSum(pseudo))
	default:
		sum := ^slowSum(append(pseudo, b...))
		if sum == 0 && !p.tcp {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(b[at:], sum)
	}
	return b
}

// headers returns where the IP header, the transport header and the payload begin.
func (p *packet) headers() (l3, l4, hl int) {
	l3 = 14 + 4*len(p.tags)
	l4 = l3 + 20 + len(p.ipOpts)
	if p.v6 {
		l4 = l3 + 40
		for _, e := range p.exts {
			l4 += 2 + len(e.body)
		}
	}
	if p.tcp {
		return l3, l4, l4 + 20 + len(p.tcpOpts)
	}
	return l3, l4, l4 + 8
}

// super returns the packet as the kernel hands over a frame that is to be cut into segments of size
// bytes of payload.
func (p *packet) super(size int) ([]byte, wire.VnetHdr) {
	_, l4, hl := p.headers()
	h := wire.VnetHdr{
		Flags: wire.FlagNeedsCsum, GSOType: wire.GSOUDPL4,
		HdrLen: uint16(hl), GSOSize: uint16(size), CsumStart: uint16(l4), CsumOffset: 6,
	}
	if p.tcp {
		h.GSOType, h.CsumOffset = wire.GSOTCPv4, 16
		if p.v6 {
			h.GSOType = wire.GSOTCPv6
		}
		if p.flags&tcpCWR != 0 {
			h.GSOType |= wire.GSOECN
		}
	}
	return p.build(true), h
}

// segments returns the frames into which the packet falls when it is cut into size bytes of payload.
func (p *packet) segments(size int) [][]byte {
	var out [][]byte
	for off := 0; off == 0 || off < len(p.payload); off += size {
		q := *p
		q.payload = p.payload[off:min(off+size, len(p.payload))]
		q.id += uint16(off / size)
		if p.tcp {
			q.seq += uint32(off)
			if off > 0 {
				q.flags &^= tcpCWR
			}
			if off+size < len(p.payload) {
				q.flags &^= tcpPSH | tcpFIN
			}
		}
		out = append(out, q.build(false))
	}
	return out
}

// slowSum is the Internet checksum as RFC 1071 explains it.
func slowSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		sum += w
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
	}
	return uint16(sum)
}

// slowVerify reports whether lengths and checksums of a TCP or UDP frame made by build are right.
func slowVerify(f []byte, l layout) bool {
	ip := f[l.l3:]
	proto := l.proto
	var pseudo []byte
	if l.v6 {
		if int(binary.BigEndian.Uint16(ip[4:]))+40 != len(ip) {
			return false
		}
		pseudo = append(pseudo, ip[8:40]...)
	} else {
		if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || slowSum(f[l.l3:l.l4]) != 0xffff {
			return false
		}
		pseudo = append(pseudo, ip[12:20]...)
	}
	l4 := f[l.l4:]
	if proto == 17 {
		if int(binary.BigEndian.Uint16(l4[4:])) != len(l4) {
			return false
		}
		if !l.v6 && l4[6]|l4[7] == 0 {
			return true
		}
	}
	pseudo = append(pseudo, 0, proto, byte(len(l4)>>8), byte(len(l4)))
	return slowSum(append(pseudo, l4...)) == 0xffff
}

var (
	macA = wire.MAC{0x00, 0x16, 0x3e, 0, 0, 1}
	macB = wire.MAC{0x00, 0x16, 0x3e, 0, 0, 2}
)

// bytesOf returns n bytes that look like nothing.
func bytesOf(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// timestamps are the options of nearly every TCP segment.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// tcpPacket and udpPacket are ordinary packets with n bytes of payload.
func tcpPacket(r *rand.Rand, n int) packet {
	return packet{
		dst: macB, src: macA, ttl: 64, id: uint16(r.Uint32()), df: true, tcp: true, flags: tcpACK,
		seq: r.Uint32(), ack: r.Uint32(), win: 501, tcpOpts: timestamps,
		sport: 40000, dport: 5201, from: 1, to: 2, payload: bytesOf(r, n),
	}
}

func udpPacket(r *rand.Rand, n int) packet {
	p := tcpPacket(r, n)
	p.tcp, p.flags, p.tcpOpts = false, 0, nil
	return p
}

// randomPacket varies everything.
func randomPacket(r *rand.Rand, n int) packet {
	p := packet{
		dst: macB, src: macA, ttl: uint8(1 + r.IntN(255)), tos: uint8(r.Uint32()), id: uint16(r.Uint32()),
		df: r.IntN(2) == 0, v6: r.IntN(2) == 0, tcp: r.IntN(2) == 0,
		sport: uint16(r.Uint32()), dport: uint16(r.Uint32()), from: 1, to: 2, payload: bytesOf(r, n),
	}
	for range r.IntN(4) {
		p.tags = append(p.tags, []uint16{0x8100, 0x88a8, 0x9100}[r.IntN(3)])
	}
	if p.v6 {
		for range r.IntN(4) {
			e := ext{proto: []uint8{0, 60, 43}[r.IntN(3)], body: bytesOf(r, 6+8*r.IntN(3))}
			if e.proto == 43 {
				e.body[1] = 0 // no segments left
			}
			p.exts = append(p.exts, e)
		}
	} else {
		p.ipOpts = bytesOf(r, 4*r.IntN(11))
	}
	if p.tcp {
		p.flags = tcpACK | uint8(r.Uint32())&(tcpPSH|tcpFIN|tcpCWR|tcpECE)
		p.seq, p.ack, p.win = r.Uint32(), r.Uint32(), uint16(r.Uint32())
		p.tcpOpts = bytesOf(r, 4*r.IntN(11))
	}
	return p
}
