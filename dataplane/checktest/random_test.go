package checktest

import "fmt"

// randoms are n packets of all kinds, as the dice have it; the same ones in every run.
func (m *maker) randoms(s *setup, n int) (out []shot) {
	r := m.rnd
	for i := range n {
		m.next()
		p := packet{
			v6: r.IntN(2) == 0, tags: [][]tag{untagged, untagged, vlan, priority, vlanAD, qinq, doubleTag}[r.IntN(7)],
			proto: []uint8{protoTCP, protoTCP, protoUDP, protoUDP, protoSCTP, 89}[r.IntN(6)],
			sum:   []checksum{done, partial, wrong, none}[r.IntN(4)],
			flags: uint8(r.Uint32()) | ack, seq: r.Uint32(), port: uint16(r.Uint32()), tos: uint8(r.Uint32()), ttl: uint8(1 + r.IntN(255)),
			id: uint16(r.Uint32()), df: r.IntN(2) == 0,
		}
		if p.proto == protoTCP {
			p.opts = m.options(r.IntN(11) * 4)
		}
		if !p.v6 && r.IntN(4) == 0 {
			p.ipv4 = m.options(r.IntN(11) * 4)
		}
		if p.v6 && r.IntN(4) == 0 {
			p.ext0, p.exts = 60, []byte{0, 0, 1, 4, 0, 0, 0, 0}
		}
		switch {
		case p.proto != protoTCP && p.proto != protoUDP:
			p.sum = done
		case p.proto == protoTCP && p.sum == none, p.v6 && p.sum == none:
			p.sum = done
		}
		switch r.IntN(8) {
		case 0:
			p.dst = &unknown
		case 1:
			if p.proto != protoTCP {
				p.dst = &group4
				if p.v6 {
					p.dst = &group6
				}
			}
		}
		largest := s.inner + 14 + 4*min(1, len(p.tags)) - p.headers()
		if (p.proto == protoTCP || p.proto == protoUDP) && r.IntN(3) == 0 {
			p.sum, p.flags = partial, p.flags&^(syn|rst|urg)
			p.mss = 40 + r.IntN(largest-39)
			p.payload = m.bytes(min(p.mss+1+r.IntN(60*p.mss), 64_000))
		} else {
			p.payload = m.bytes(r.IntN(largest + 1))
		}
		if len(p.payload) == 0 && p.sum == partial {
			p.payload = m.bytes(1)
		}
		out = append(out, m.ip(fmt.Sprintf("random packet %d, protocol %d, six %t", i, p.proto, p.v6), p))
	}
	return out
}

// options are n bytes of options of an unknown kind, which look alike in IPv4 and TCP.
func (m *maker) options(n int) []byte {
	b := m.bytes(n)
	for at := 0; at < n; {
		size := min(n-at, 2+m.rnd.IntN(10))
		if n-at-size == 1 || size == 1 {
			b[at] = 1 // no operation
			at++
			continue
		}
		b[at], b[at+1] = 222, byte(size)
		at += size
	}
	return b
}
