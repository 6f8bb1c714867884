package checktest

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/xenvnet/xend/dataplane/wire"
)

// EtherTypes and IP protocols.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeIPv6 = 0x86dd

	protoICMP     = 1
	protoIGMP     = 2
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMPv6   = 58
	protoEtherIP  = 97
	protoSCTP     = 132
)

// TCP flags.
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10
	urg = 0x20
	ece = 0x40
	cwr = 0x80
)

// tag is a VLAN tag.
type tag struct{ tpid, tci uint16 }

// The tags that frames are sent with.
var (
	untagged  []tag
	vlan      = []tag{{typeVLAN, 0x6005}} // priority 3, VLAN 5
	priority  = []tag{{typeVLAN, 0xe000}} // priority only
	vlanAD    = []tag{{typeQinQ, 0x1007}} // with DEI
	qinq      = []tag{{typeQinQ, 100}, {typeVLAN, 200}}
	doubleTag = []tag{{typeVLAN, 300}, {typeVLAN, 400}}
)

// shot is a frame as it is sent, with what is left to do on it.
type shot struct {
	name  string
	frame []byte
	hdr   wire.VnetHdr
	// broken frames have lengths or checksums that are wrong on purpose, and must stay so.
	broken bool
}

// kinds of checksums.
type checksum int

const (
	done    checksum = iota
	partial          // left for hardware
	none             // UDP only
	wrong
)

// packet describes an IP packet.
type packet struct {
	v6      bool
	tags    []tag
	dst     *wire.MAC // nil: the other domain
	proto   uint8
	payload []byte // of TCP, UDP, ICMP, SCTP; all behind the IP header of others, or if bare
	bare    bool
	sum     checksum
	mss     int // payload of a segment, for frames that are to be cut; 0: no such

	flags uint8 // TCP
	seq   uint32
	opts  []byte // TCP
	port  uint16 // TCP, UDP: the source's is one less
	tos   uint8
	ttl   uint8 // 0: 64
	id    uint16
	df    bool
	more  bool // IPv4: more fragments
	off   int  // IPv4: fragment offset in bytes
	ipv4  []byte
	exts  []byte // IPv6 extension headers, ready made; the last one's next header is overwritten
	ext0  uint8  // protocol of the first
	trail []byte // behind the IP packet
}

// timestamps are the options of nearly every TCP segment.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// maker makes the frames of one direction. Every next gives other addresses, so that frames that come out
// can be told apart.
type maker struct {
	src, dst wire.MAC
	way      byte
	flow     uint16
	rnd      *rand.Rand
}

func newMaker(src, dst wire.MAC, way byte) *maker {
	return &maker{src: src, dst: dst, way: way, rnd: rand.New(rand.NewPCG(4, uint64(way)))}
}

func (m *maker) next() { m.flow++ }

// bytes returns n bytes that look like nothing.
func (m *maker) bytes(n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.BigEndian.PutUint64(b[i:], m.rnd.Uint64())
	}
	return b[:n:n]
}

// addresses are those of the current flow. Nobody has them.
func (m *maker) addresses(v6 bool) (src, dst []byte) {
	hi, lo := byte(m.flow>>8), byte(m.flow)
	if v6 {
		src = []byte{0x20, 0x01, 0x0d, 0xb8, 0, m.way, 0, 0, 0, 0, 0, 0, 0, 1, hi, lo}
		dst = []byte{0x20, 0x01, 0x0d, 0xb8, 0, m.way, 0, 0, 0, 0, 0, 0, 0, 2, hi, lo}
		return src, dst
	}
	return []byte{10, 100 + m.way, hi, lo}, []byte{10, 150 + m.way, hi, lo}
}

// ethernet puts MACs, tags and type in front of a payload.
func (m *maker) ethernet(dst *wire.MAC, tags []tag, typ uint16, payload []byte) []byte {
	to := m.dst
	if dst != nil {
		to = *dst
	}
	f := make([]byte, 0, 14+4*len(tags)+len(payload))
	f = append(append(f, to[:]...), m.src[:]...)
	for _, t := range tags {
		f = binary.BigEndian.AppendUint16(f, t.tpid)
		f = binary.BigEndian.AppendUint16(f, t.tci)
	}
	f = binary.BigEndian.AppendUint16(f, typ)
	return append(f, payload...)
}

// plain is a frame that is not IP; size is its length with MACs, tags and type.
func (m *maker) plain(name string, dst *wire.MAC, tags []tag, typ uint16, size int) shot {
	m.next()
	return shot{name: name, frame: m.ethernet(dst, tags, typ, m.bytes(size-14-4*len(tags)))}
}

// raw is a frame with a given payload.
func (m *maker) raw(name string, dst *wire.MAC, tags []tag, typ uint16, payload []byte) shot {
	return shot{name: name, frame: m.ethernet(dst, tags, typ, payload)}
}

// headers is the length of everything in front of a packet's payload.
func (p *packet) headers() int {
	n := 14 + 4*len(p.tags) + 20 + len(p.ipv4)
	if p.v6 {
		n = 14 + 4*len(p.tags) + 40 + len(p.exts)
	}
	switch p.proto {
	case protoTCP:
		return n + 20 + len(p.opts)
	case protoUDP, protoICMP, protoICMPv6:
		return n + 8
	case protoSCTP:
		return n + 12 + 16 // DATA chunk
	}
	return n
}

// sized makes the frame size bytes long.
func (m *maker) sized(name string, p packet, size int) shot {
	n := size - p.headers()
	if n < 0 { // shorter than its headers: padded behind the packet
		p.payload = nil
		s := m.ip(name, p)
		return s
	}
	p.payload = m.bytes(n)
	return m.ip(name, p)
}

// ip makes a frame of a packet in the current flow.
func (m *maker) ip(name string, p packet) shot {
	if p.ttl == 0 {
		p.ttl = 64
	}
	if p.port == 0 {
		p.port = 5001
	}
	src, dst := m.addresses(p.v6)
	if p.dst != nil && p.dst[0]&1 != 0 {
		dst = groupAddress(p.v6, *p.dst)
	}
	s := shot{name: name, broken: p.sum == wrong}
	l4 := p.transport(src, dst)
	start := 14 + 4*len(p.tags)
	if p.v6 {
		first, exts := p.proto, append([]byte(nil), p.exts...)
		if len(exts) > 0 {
			first = p.ext0
			setLast(exts, first, p.proto)
		}
		h := []byte{0x60 | p.tos>>4, p.tos<<4 | 1, 2, 3}
		h = binary.BigEndian.AppendUint16(h, uint16(len(exts)+len(l4)))
		h = append(h, first, p.ttl)
		h = append(append(append(h, src...), dst...), exts...)
		start += len(h)
		s.frame = m.ethernet(p.dst, p.tags, typeIPv6, append(h, l4...))
	} else {
		h := []byte{0x40 | byte(5+len(p.ipv4)/4), p.tos}
		h = binary.BigEndian.AppendUint16(h, uint16(20+len(p.ipv4)+len(l4)))
		h = binary.BigEndian.AppendUint16(h, p.id)
		field := uint16(p.off / 8)
		if p.df {
			field |= 0x4000
		}
		if p.more {
			field |= 0x2000
		}
		h = binary.BigEndian.AppendUint16(h, field)
		h = append(h, p.ttl, p.proto, 0, 0)
		h = append(append(append(h, src...), dst...), p.ipv4...)
		binary.BigEndian.PutUint16(h[10:], ^sum16(h))
		start += len(h)
		s.frame = m.ethernet(p.dst, p.tags, typeIPv4, append(h, l4...))
	}
	s.frame = append(s.frame, p.trail...)
	if p.sum == partial {
		s.hdr = wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: uint16(start), CsumOffset: sumOffset(p.proto)}
	}
	if p.mss > 0 {
		s.hdr.GSOSize, s.hdr.HdrLen = uint16(p.mss), uint16(p.headers())
		switch {
		case p.proto == protoUDP:
			s.hdr.GSOType = wire.GSOUDPL4
		case p.v6:
			s.hdr.GSOType = wire.GSOTCPv6
		default:
			s.hdr.GSOType = wire.GSOTCPv4
		}
		if p.proto == protoTCP && p.flags&cwr != 0 {
			s.hdr.GSOType |= wire.GSOECN
		}
	}
	return s
}

// groupAddress is a group whose packets go to a MAC.
func groupAddress(v6 bool, mac wire.MAC) []byte {
	switch {
	case v6:
		return []byte{0xff, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mac[2], mac[3], mac[4], mac[5]}
	case mac == broadcast:
		return []byte{255, 255, 255, 255}
	}
	return []byte{239, mac[3], mac[4], mac[5]}
}

var broadcast = wire.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// setLast makes proto follow the last of the extension headers.
func setLast(exts []byte, first, proto uint8) {
	for at := 0; ; {
		n := 8
		if first != protoFragment {
			n = (int(exts[at+1]) + 1) * 8
		}
		if at+n >= len(exts) {
			exts[at] = proto
			return
		}
		first = exts[at]
		at += n
	}
}

// sumOffset is where in its header a protocol has its checksum.
func sumOffset(proto uint8) uint16 {
	switch proto {
	case protoTCP:
		return 16
	case protoUDP:
		return 6
	}
	return 2 // ICMP
}

// transport makes what follows IP.
func (p *packet) transport(src, dst []byte) []byte {
	if p.bare {
		return p.payload
	}
	var b []byte
	switch p.proto {
	case protoTCP:
		b = binary.BigEndian.AppendUint16(b, p.port-1)
		b = binary.BigEndian.AppendUint16(b, p.port)
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, 0xabcdef01)
		b = append(b, byte(5+len(p.opts)/4)<<4, p.flags, 1, 245, 0, 0, 0, 0)
		b = append(b, p.opts...)
	case protoUDP:
		b = binary.BigEndian.AppendUint16(b, p.port-1)
		b = binary.BigEndian.AppendUint16(b, p.port)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
	case protoICMP, protoICMPv6:
		request := byte(8)
		if p.proto == protoICMPv6 {
			request = 128
		}
		b = append(b, request, 0, 0, 0, 0x12, 0x34, 0, 1)
	case protoSCTP:
		b = binary.BigEndian.AppendUint16(b, p.port-1)
		b = binary.BigEndian.AppendUint16(b, p.port)
		b = append(b, 1, 2, 3, 4, 0, 0, 0, 0)
		b = append(b, 0, 3) // DATA, whole
		b = binary.BigEndian.AppendUint16(b, uint16(16+len(p.payload)))
		b = append(b, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0)
	default:
		return p.payload
	}
	b = append(b, p.payload...)
	at := int(sumOffset(p.proto))
	switch {
	case p.sum == none:
	case p.proto == protoSCTP:
		binary.LittleEndian.PutUint32(b[8:], crc32c(b))
		if p.sum == wrong {
			b[8] ^= 0x55
		}
	case p.sum == partial:
		binary.BigEndian.PutUint16(b[at:], sum16(pseudo(src, dst, p.proto, len(b))))
	default:
		var front []byte
		if p.proto != protoICMP {
			front = pseudo(src, dst, p.proto, len(b))
		}
		sum := ^sum16(front, b)
		if sum == 0 && p.proto == protoUDP {
			sum = 0xffff
		}
		if p.sum == wrong {
			sum ^= 0x5500
		}
		binary.BigEndian.PutUint16(b[at:], sum)
	}
	return b
}
