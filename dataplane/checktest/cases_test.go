package checktest

import (
	"encoding/binary"
	"fmt"

	"github.com/xenvnet/xend/dataplane/wire"
)

// The destinations that are not the other domain.
var (
	group4  = wire.MAC{0x01, 0x00, 0x5e, 0x0a, 0x0b, 0x0c}
	group6  = wire.MAC{0x33, 0x33, 0x00, 0x0a, 0x0b, 0x0c}
	cdp     = wire.MAC{0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc}
	unknown = wire.MAC{0x00, 0x16, 0x3e, 0x77, 0x77, 0x77}
)

// sizes are the lengths of untagged frames that are worth a look: the smallest, those around the
// limits of the code, those around what fits the underlay, and the largest.
func (s *setup) sizes() []int {
	largest := s.inner + 14
	out := []int{60, 61, 64, 128, 255, 256, 257, 590, 1000, 1280, largest - 1, largest}
	for _, n := range []int{s.limit() - 1, s.limit(), s.limit() + 1} {
		if n < largest-1 {
			out = append(out, n)
		}
	}
	if largest > 1514 {
		out = append(out, 1514, 4096)
	}
	return out
}

// singles are frames of all protocols and sizes, one by one.
func (m *maker) singles(s *setup) (out []shot) {
	kinds := []struct {
		name string
		p    packet
	}{
		{"TCP", packet{proto: protoTCP, flags: ack | psh, opts: timestamps, df: true, seq: 7}},
		{"TCP to be summed", packet{proto: protoTCP, flags: ack, df: true, sum: partial}},
		{"TCP to be summed, with its own id", packet{proto: protoTCP, flags: ack, sum: partial, id: 5}},
		{"TCP with a wrong sum", packet{proto: protoTCP, flags: ack, df: true, sum: wrong}},
		{"TCP, six", packet{v6: true, proto: protoTCP, flags: ack | fin, opts: timestamps}},
		{"TCP, six, to be summed", packet{v6: true, proto: protoTCP, flags: ack, opts: timestamps, sum: partial}},
		{"UDP", packet{proto: protoUDP, id: 77}},
		{"UDP to be summed", packet{proto: protoUDP, id: 78, sum: partial, df: true}},
		{"UDP without sum", packet{proto: protoUDP, id: 79, sum: none}},
		{"UDP, six", packet{v6: true, proto: protoUDP}},
		{"UDP, six, to be summed", packet{v6: true, proto: protoUDP, sum: partial}},
		{"ICMP", packet{proto: protoICMP, id: 80, df: true}},
		{"ICMPv6", packet{v6: true, proto: protoICMPv6}},
		{"SCTP", packet{proto: protoSCTP, id: 81}},
		{"SCTP, six", packet{v6: true, proto: protoSCTP}},
		{"unknown IP protocol", packet{proto: 253, id: 82}},
		{"unknown IP protocol, six", packet{v6: true, proto: 253}},
		{"UDP to a group", packet{proto: protoUDP, dst: &group4}},
		{"UDP to a group, six", packet{v6: true, proto: protoUDP, dst: &group6}},
		{"UDP broadcast", packet{proto: protoUDP, dst: &broadcast}},
		{"UDP broadcast to be summed", packet{proto: protoUDP, dst: &broadcast, sum: partial}},
		{"UDP to an unknown MAC", packet{proto: protoUDP, dst: &unknown}},
	}
	for _, tags := range [][]tag{untagged, vlan, priority, vlanAD, qinq, doubleTag} {
		for _, size := range s.sizes() {
			size += 4 * min(1, len(tags)) // a pair of devices has room for one tag beyond the MTU
			for _, k := range kinds {
				p := k.p
				p.tags = tags
				m.next()
				out = append(out, m.sized(fmt.Sprintf("%s, %d bytes, tags %04x", k.name, size, tags), p, size))
			}
			for _, typ := range []uint16{0x88b5, 0x9000, 0x8847, 0x8864, 0x888e} {
				out = append(out, m.plain(fmt.Sprintf("type %04x, %d bytes, tags %04x", typ, size, tags), nil, tags, typ, size))
			}
			out = append(out, m.plain(fmt.Sprintf("broadcast of type 88b5, %d bytes, tags %04x", size, tags), &broadcast, tags, 0x88b5, size))
			out = append(out, m.plain(fmt.Sprintf("type 88b5 to an unknown MAC, %d bytes, tags %04x", size, tags), &unknown, tags, 0x88b5, size))
		}
	}
	return out
}

// odds are frames that are special in some way.
func (m *maker) odds(s *setup) (out []shot) {
	add := func(x ...shot) { out = append(out, x...) }
	ip := func(name string, p packet) { m.next(); add(m.ip(name, p)) }

	for _, tags := range [][]tag{untagged, vlan, qinq} {
		add(m.arp("ARP request", &broadcast, tags, 1, 18), m.arp("ARP reply", nil, tags, 2, 18), m.arp("ARP without padding", nil, tags, 2, 0))
		add(m.discovery("neighbour solicitation", tags, 135, &wire.MAC{0x33, 0x33, 0xff, 0, 0, 9}), m.discovery("neighbour advertisement", tags, 136, nil))
		add(m.llc("LLC", nil, tags, 38), m.llc("LLC without padding", nil, tags, 3), m.llc("LLC, long", nil, tags, min(s.inner, 1500)-10), m.llc("CDP", &cdp, tags, 200))
		for _, p := range []packet{
			{proto: protoTCP, flags: syn, opts: []byte{2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0}, sum: partial},
			{proto: protoTCP, flags: syn | ack, opts: []byte{1, 2, 4, 5, 0xb4, 0, 0, 0}},
			{proto: protoTCP, flags: rst},
			{proto: protoTCP, flags: ack | urg | ece, payload: m.bytes(100)},
			{proto: protoTCP, flags: ack | cwr, payload: m.bytes(100), opts: []byte{5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1}},
			{v6: true, proto: protoTCP, flags: syn, opts: []byte{2, 4, 5, 0xa0, 1, 3, 3, 7}},
			{proto: protoUDP, ipv4: []byte{0x94, 4, 0, 0}, payload: m.bytes(300)}, // router alert
			{proto: protoTCP, flags: ack, ipv4: []byte{7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}, payload: m.bytes(300), sum: partial},
			{v6: true, proto: protoUDP, ext0: 0, exts: []byte{0, 0, 1, 4, 0, 0, 0, 0}, payload: m.bytes(300)},                                 // hop-by-hop
			{v6: true, proto: protoTCP, flags: ack, ext0: 60, exts: []byte{0, 0, 1, 4, 0, 0, 0, 0}, payload: m.bytes(300), sum: partial},      // destination options
			{v6: true, proto: protoUDP, ext0: 0, exts: append([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 0, 0, 1, 4, 0, 0, 0, 0), payload: m.bytes(99)}, // both
			{proto: protoUDP, tos: 0xfd, ttl: 1, payload: m.bytes(33)},
			{proto: protoUDP, payload: m.bytes(1), trail: m.bytes(17)}, // padded with what a bad driver leaves
			{proto: protoTCP, flags: ack, payload: m.bytes(5), trail: make([]byte, 1)},
			{v6: true, proto: protoUDP, payload: m.bytes(200), trail: m.bytes(100)},
			{proto: protoUDP, payload: m.bytes(200), sum: wrong},
			{proto: protoTCP, flags: ack, payload: m.bytes(200), sum: wrong},
			{v6: true, proto: protoTCP, flags: ack, payload: m.bytes(200), sum: wrong},
			{v6: true, proto: protoUDP, payload: m.bytes(200), sum: wrong},
			{proto: protoICMP, payload: m.bytes(56), sum: wrong},
			{proto: protoSCTP, payload: m.bytes(56), sum: wrong},
		} {
			p.tags = tags
			ip(fmt.Sprintf("special packet, protocol %d", p.proto), p)
		}
		// A datagram in fragments.
		whole := m.bytes(3000)
		m.next()
		size := (min(s.inner, 1500) - 28) &^ 7
		for off := 0; off < len(whole); off += size {
			end := min(off+size, len(whole))
			add(m.ip("IP fragment", packet{tags: tags, proto: protoUDP, id: 999, off: off, more: end < len(whole)}.body(whole[off:end])))
		}
		m.next()
		size -= 32
		for off := 0; off < len(whole); off += size {
			end := min(off+size, len(whole))
			field := uint16(off)
			if end < len(whole) {
				field |= 1
			}
			ext := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{0, 0}, field), 4711)
			add(m.ip("IPv6 fragment", packet{tags: tags, v6: true, proto: protoUDP, ext0: protoFragment, exts: ext}.body(whole[off:end])))
		}
		// Headers that contradict themselves pass as they are: a switch looks at MACs.
		for i := range 6 {
			m.next()
			x := m.ip("nonsense", packet{tags: tags, v6: i >= 4, proto: protoTCP, flags: ack, opts: timestamps, payload: m.bytes(300)})
			l3 := 14 + 4*len(tags)
			switch i {
			case 0:
				x.frame[l3] = 0x4f // longer header
			case 1:
				x.frame[l3+2]++ // longer packet
			case 2:
				x.frame[l3+20+12] = 0xf0 // longer TCP header
			case 3:
				x.frame[l3+11]++ // header checksum
			case 4:
				x.frame[l3+4]++ // longer packet
			case 5:
				x.frame[l3+6] = protoFragment
			}
			x.broken = true
			add(x)
		}
	}
	m.next()
	add(m.raw("headers only", nil, untagged, 0x88b5, nil), m.plain("a byte", nil, untagged, 0x88b5, 15))
	return out
}

// body is the packet with a payload that is not to be given a header: a fragment.
func (p packet) body(b []byte) packet {
	p.payload, p.bare = b, true
	return p
}

func (m *maker) arp(name string, dst *wire.MAC, tags []tag, op byte, padding int) shot {
	m.next()
	src, target := m.addresses(false)
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, m.src[:]...)
	b = append(append(append(append(b, src...), 0, 0, 0, 0, 0, 0), target...), make([]byte, padding)...)
	return m.raw(name, dst, tags, typeARP, b)
}

func (m *maker) discovery(name string, tags []tag, kind byte, dst *wire.MAC) shot {
	m.next()
	src, target := m.addresses(true)
	to := target
	if dst != nil {
		to = []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 9}
	}
	b := append(append([]byte{kind, 0, 0, 0, 0x60, 0, 0, 0}, target...), 2, 1)
	b = append(b, m.src[:]...)
	binary.BigEndian.PutUint16(b[2:], ^sum16(pseudo(src, to, protoICMPv6, len(b)), b))
	h := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(b)))
	h = append(append(append(h, protoICMPv6, 255), src...), to...)
	return m.raw(name, dst, tags, typeIPv6, append(h, b...))
}

// llc is an 802.3 frame: a length in place of the type.
func (m *maker) llc(name string, dst *wire.MAC, tags []tag, n int) shot {
	m.next()
	b := append([]byte{0x42, 0x42, 0x03}, m.bytes(n)...)
	x := m.raw(name, dst, tags, uint16(len(b)), b)
	for n > 3 && len(x.frame) < 60 {
		x.frame = append(x.frame, 0)
	}
	return x
}

// runs are packets that follow each other, to be joined or not.
func (m *maker) runs(s *setup) (out []shot) {
	mtu := s.inner
	for _, tags := range [][]tag{untagged, vlan} {
		for _, v6 := range []bool{false, true} {
			// run makes n segments, each changed by f.
			run := func(name string, proto uint8, n, size int, f func(i int, p *packet)) {
				m.next()
				seq := uint32(0xffff0000) // wraps
				for i := range n {
					p := packet{v6: v6, tags: tags, proto: proto, flags: ack, opts: timestamps, seq: seq, id: uint16(0xfffa + i), payload: m.bytes(size)}
					if proto == protoUDP {
						p.opts = nil
					}
					if f != nil {
						f(i, &p)
					}
					seq += uint32(len(p.payload))
					out = append(out, m.ip(name, p))
				}
			}
			header := 20
			if v6 {
				header = 40
			}
			full := mtu - header - 32
			fits := s.limit() - 14 - 4*len(tags) - header - 32
			run("TCP run of full frames", protoTCP, 60, min(full, 1448), nil)
			run("TCP run that fits", protoTCP, 60, min(fits, full, 1400), nil)
			run("TCP run, short", protoTCP, 70, 10, nil)
			run("TCP run with pushes", protoTCP, 20, 1000, func(i int, p *packet) {
				if i%7 == 6 {
					p.flags |= psh
				}
			})
			run("TCP run with a short one", protoTCP, 20, 1000, func(i int, p *packet) {
				if i%5 == 4 {
					p.payload = p.payload[:500]
				}
			})
			run("TCP run with a gap", protoTCP, 20, 800, func(i int, p *packet) {
				if i > 10 {
					p.seq += 800
				}
			})
			run("TCP run with don't fragment and one id", protoTCP, 20, 800, func(i int, p *packet) { p.df, p.id = true, 0 })
			run("TCP run with odd ids", protoTCP, 20, 800, func(i int, p *packet) { p.id = uint16(i * i) })
			run("TCP run with other TTLs", protoTCP, 20, 800, func(i int, p *packet) { p.ttl = uint8(60 + i/3) })
			run("TCP run with ECN", protoTCP, 20, 800, func(i int, p *packet) {
				p.tos = uint8(2 + i/8)
				if i > 4 {
					p.flags |= ece
				}
				if i == 9 {
					p.flags |= cwr
				}
			})
			run("TCP run to be summed", protoTCP, 20, 800, func(i int, p *packet) { p.sum = partial })
			run("TCP run with a wrong sum", protoTCP, 20, 800, func(i int, p *packet) {
				if i == 5 {
					p.sum = wrong
				}
			})
			run("TCP run, acknowledgements between", protoTCP, 20, 800, func(i int, p *packet) {
				if i%4 == 3 {
					p.payload = nil
				}
			})
			run("TCP run to its end", protoTCP, 10, 800, func(i int, p *packet) {
				if i == 9 {
					p.flags |= fin | psh
				}
			})
			run("UDP run", protoUDP, 80, 1000, nil)
			run("UDP run, short", protoUDP, 150, 18, nil)
			run("UDP run of growing datagrams", protoUDP, 20, 100, func(i int, p *packet) { p.payload = m.bytes(100 + i) })
			run("UDP run of shrinking datagrams", protoUDP, 20, 100, func(i int, p *packet) { p.payload = m.bytes(100 - i) })
			run("UDP run with empty datagrams", protoUDP, 20, 100, func(i int, p *packet) {
				if i%3 == 2 {
					p.payload = nil
				}
			})
			run("UDP run with a wrong sum", protoUDP, 20, 300, func(i int, p *packet) {
				if i == 5 {
					p.sum = wrong
				}
			})
			run("UDP run with padding", protoUDP, 20, 300, func(i int, p *packet) {
				if i%2 == 1 {
					p.trail = []byte{1, 2, 3}
				}
			})
			if !v6 {
				run("UDP run without sums", protoUDP, 20, 300, func(i int, p *packet) { p.sum = none })
			}
			// Two flows in turn.
			for i := range 40 {
				out = append(out, m.ip("two flows in turn", packet{v6: v6, tags: tags, proto: protoTCP, flags: ack, port: uint16(6000 + i&1*2), seq: uint32(i / 2 * 700), payload: m.bytes(700), id: uint16(i / 2)}))
			}
		}
	}
	return out
}

// supers are frames of up to 64 KiB that are to be cut.
func (m *maker) supers(s *setup) (out []shot) {
	for _, tags := range [][]tag{untagged, vlan, vlanAD, qinq} {
		for _, v6 := range []bool{false, true} {
			for _, proto := range []uint8{protoTCP, protoUDP} {
				p := packet{v6: v6, tags: tags, proto: proto, sum: partial, flags: ack | psh, opts: timestamps, seq: 0xfffff000, id: 0xffe0, df: true}
				if proto == protoUDP {
					p.opts, p.df = nil, false
				}
				hl := p.headers()
				full := s.inner + 14 + 4*min(1, len(tags)) - hl
				most := 65535 - hl
				for _, c := range []struct{ mss, payload int }{
					{full, full + 1}, {full, 2 * full}, {full, most}, {s.limit() - hl, 30_000}, {s.limit() - hl + 1, 20_000},
					{1000, 64 * 1000}, {1000, 64*1000 + 1}, {536, 20*536 + 7}, {200, 25_000}, {50, 50 * 50},
				} {
					if c.mss > full {
						continue // the underlay has room for more than the frame
					}
					q := p
					q.mss, q.payload = c.mss, m.bytes(min(c.payload, most))
					m.next()
					out = append(out, m.ip(fmt.Sprintf("super-frame, protocol %d, six %t, tags %04x, %d bytes in %d", proto, v6, tags, c.payload, c.mss), q))
				}
				// Whoever is not known yet, and groups, get it, too.
				q := p
				for _, mss := range []int{min(full, 1448), 700} {
					q.mss, q.payload, q.dst = mss, m.bytes(9000), &unknown
					m.next()
					out = append(out, m.ip("super-frame to an unknown MAC", q))
				}
				if proto == protoUDP {
					q.dst = &group4
					if v6 {
						q.dst = &group6
					}
					m.next()
					out = append(out, m.ip("super-frame to a group", q))
				} else {
					q.dst, q.flags = nil, ack|cwr|fin|psh
					m.next()
					out = append(out, m.ip("super-frame with flags", q))
					q.flags, q.ipv4, q.df = ack, []byte{0x94, 4, 0, 0}, false
					if v6 {
						q.ipv4, q.ext0, q.exts = nil, 60, []byte{0, 0, 1, 4, 0, 0, 0, 0}
					}
					m.next()
					out = append(out, m.ip("super-frame with options", q))
				}
			}
		}
	}
	return out
}
