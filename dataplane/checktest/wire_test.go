package checktest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// wireCheck looks at every packet between the hosts.
type wireCheck struct {
	setup *setup
	id    vnet.ID

	mu      sync.Mutex
	hosts   []netip.Addr
	phase   string // what is being done, for the messages
	errs    []string
	parts   map[string]*fragments
	count   map[string]int
	broken  map[string]bool // frames that are wrong on purpose
	split   []string        // inner TCP frames whose outer packet was fragmented
	waiting []byte          // a frame that is waited for
	seen    chan struct{}
}

// fragments of one packet.
type fragments struct {
	pieces map[int][]byte // by offset
	end    int            // 0: the last one has not come
	proto  uint8
	header []byte // of the first
}

func newWireCheck(s *setup, id vnet.ID) *wireCheck {
	return &wireCheck{setup: s, id: id, parts: map[string]*fragments{}, count: map[string]int{}, broken: map[string]bool{}}
}

// frame handles a frame of the switch's tap.
func (c *wireCheck) frame(f []byte, h wire.VnetHdr, _ bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list [][]byte
	var err error
	switch l, errLook := look(f); {
	case h.GSOType == wire.GSONone:
		list, err = pieces(f, h, 0)
	case errLook == nil && l.proto == protoUDP && h.GSOType != wire.GSOUDPL4:
		c.count["super-frames in a tunnel"]++
		list, err = tunnelPieces(f, h, l)
	default:
		c.count["trains"]++
		list, err = pieces(f, h, 0)
	}
	if err != nil {
		c.fail(f, "train: %v", err)
		return
	}
	for _, p := range list {
		if err := c.packet(p); err != nil {
			c.fail(p, "%v", err)
		}
	}
}

// tunnelPieces are the packets that a card makes of one with a super-frame in it, which it cuts with all that is in front.
func tunnelPieces(f []byte, h wire.VnetHdr, l layout) (out [][]byte, err error) {
	front := l.l4 + 8 + 22
	if len(f) <= front+14 || l.fragment || l.end != len(f) || int(h.CsumStart) <= front ||
		int(binary.BigEndian.Uint16(f[l.l4+4:])) != l.end-l.l4 || !bytes.Equal(f[l.l4+6:l.l4+8], []byte{0, 0}) {
		return nil, fmt.Errorf("tunnel's super-frame of %d bytes with %+v", len(f), h)
	}
	if !l.v6 && sum16(f[l.l3:l.l4]) != 0xffff {
		return nil, errors.New("tunnel's super-frame with a wrong IPv4 header checksum")
	}
	h.CsumStart -= uint16(front)
	inner, err := pieces(f[front:], h, 0)
	for n, p := range inner {
		p = append(bytes.Clone(f[:front]), p...)
		ip := p[l.l3:l.l4]
		if l.v6 {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(p)-l.l4))
		} else {
			binary.BigEndian.PutUint16(ip[2:], uint16(len(p)-l.l3))
			binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(n))
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
		}
		binary.BigEndian.PutUint16(p[l.l4+4:], uint16(len(p)-l.l4))
		out = append(out, p)
	}
	return out, err
}

func (c *wireCheck) fail(f []byte, format string, args ...any) {
	if len(c.errs) < 20 {
		c.errs = append(c.errs, fmt.Sprintf("%s: %s\n\tframe of %d bytes: %x", c.phase, fmt.Sprintf(format, args...), len(f), f[:min(len(f), 140)]))
	}
}

// packet checks an outer packet.
func (c *wireCheck) packet(f []byte) error {
	l, err := look(f)
	if errors.Is(err, errNoIP) {
		c.count["not IP"]++
		return nil // ARP of the hosts
	}
	if err != nil {
		return err
	}
	if l.end-l.l3 > c.setup.underlay {
		return fmt.Errorf("IP packet of %d bytes on a network of MTU %d", l.end-l.l3, c.setup.underlay)
	}
	if l.v6 && l.proto == protoICMPv6 || !l.v6 && l.proto == protoIGMP {
		c.count["not ours"]++
		return nil
	}
	if !l.fragment {
		return c.whole(f, l, false)
	}
	return c.fragment(f, l)
}

// fragment collects the fragments of a packet.
func (c *wireCheck) fragment(f []byte, l layout) error {
	if !l.v6 && sum16(f[l.l3:l.l4]) != 0xffff {
		return errors.New("fragment's IPv4 header checksum")
	}
	src, dst := l.addresses(f)
	var off int
	var more bool
	var id []byte
	if l.v6 {
		ext := f[l.l4-8 : l.l4]
		field := binary.BigEndian.Uint16(ext[2:])
		off, more, id = int(field&^7), field&1 != 0, ext[4:8]
	} else {
		field := binary.BigEndian.Uint16(f[l.l3+6:])
		if field&0x4000 != 0 {
			return errors.New("fragment with DF")
		}
		off, more, id = int(field&0x1fff)*8, field&0x2000 != 0, f[l.l3+4:l.l3+6]
	}
	key := fmt.Sprintf("%x %x %x %d", src, dst, id, l.proto)
	p := c.parts[key]
	if p == nil {
		p = &fragments{pieces: map[int][]byte{}, proto: l.proto}
		c.parts[key] = p
	}
	c.count["fragments"]++
	data := bytes.Clone(f[l.l4:l.end])
	p.pieces[off] = data
	if off == 0 {
		p.header = bytes.Clone(f[:l.l4])
	}
	if !more {
		p.end = off + len(data)
	}
	var b []byte
	for p.end > 0 && len(b) < p.end {
		next, ok := p.pieces[len(b)]
		if !ok {
			return nil // not yet complete
		}
		b = append(b, next...)
	}
	if p.end == 0 {
		return nil
	}
	delete(c.parts, key)
	// As it would have been in one piece.
	whole := append(p.header, b...)
	ip := whole[l.l3:]
	if l.v6 {
		whole = slices.Delete(whole, l.l3+40, l.l3+48)
		ip = whole[l.l3:]
		ip[6] = l.proto
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[6], ip[7], ip[10], ip[11] = 0, 0, 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
	}
	lw, err := look(whole)
	if err != nil {
		return fmt.Errorf("reassembled: %w", err)
	}
	if lw.end-lw.l3 <= c.setup.underlay {
		return fmt.Errorf("packet of %d bytes was fragmented on a network of MTU %d", lw.end-lw.l3, c.setup.underlay)
	}
	c.count["fragmented packets"]++
	return c.whole(whole, lw, true)
}

// whole checks a whole outer packet.
func (c *wireCheck) whole(f []byte, l layout, fragmented bool) error {
	unsummed := c.setup.fast() && l.proto == protoUDP // RFC 6935
	if err := unfinished(f); err != nil && !(unsummed && errors.Is(err, errUnsummed)) {
		return fmt.Errorf("outer packet: %w", err)
	}
	if len(f) != l.end && len(f) > 60 {
		return fmt.Errorf("outer packet ends at %d of %d", l.end, len(f))
	}
	if !l.v6 && f[l.l3+6]&0x40 != 0 {
		return errors.New("outer packet with DF")
	}
	if l.v6 != c.setup.v6 && !c.setup.both {
		return errors.New("packet of the other family")
	}
	a, b := l.addresses(f)
	src, _ := netip.AddrFromSlice(a)
	dst, _ := netip.AddrFromSlice(b)
	if !slices.Contains(c.hosts, src) || src == dst || !slices.Contains(c.hosts, dst) && !slices.Contains(groups, dst) {
		return fmt.Errorf("packet from %s to %s", src, dst)
	}
	body := f[l.l4:l.end]
	switch l.proto {
	case protoUDP:
		// Frames for one host come from a port that tells flows apart.
		from, to := binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
		body = body[8:]
		flow := slices.Contains(c.hosts, dst) && len(body) > 1 && body[1] == 2
		if to != wire.Port || from != wire.Port && !flow {
			return fmt.Errorf("UDP from port %d to %d", from, to)
		}
		if from != wire.Port {
			c.count["packets from ports of flows"]++
		}
	case protoEtherIP:
		if !c.setup.etherip {
			return errors.New("EtherIP without UDP")
		}
		c.count["EtherIP"]++
		return c.etherIP(body, 20, fragmented)
	default:
		return fmt.Errorf("packet of protocol %d", l.proto)
	}
	front := l.l4 - l.l3 + 8
	if len(body) > 32 && body[1] == 3 && c.setup.peers {
		if err := forwarded(body, c.hosts); err != nil {
			return fmt.Errorf("VFWD: %w", err)
		}
		c.count["VFWD"]++
		front += 32
		body = body[32:]
	}
	return c.message(body, front, fragmented)
}

// forwarded checks the headers in front of a forwarded message.
func forwarded(b []byte, hosts []netip.Addr) error {
	f := append([]byte{12: 8, 13: 0}, b[4:]...) // as if in an Ethernet frame
	if err := unfinished(f); err != nil {
		return err
	}
	l, err := look(f)
	if err != nil {
		return err
	}
	src, dst := l.addresses(f)
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	if string(b[:4]) != "\x00\x03\x00\x00" || l.l4 != 34 || l.end != len(f) || l.proto != protoUDP || l.fragment ||
		!slices.Contains(hosts, from) || to != groups[0] {
		return fmt.Errorf("headers %x", b[:32])
	}
	return nil
}

// message checks a message behind so many bytes of outer headers.
func (c *wireCheck) message(body []byte, front int, fragmented bool) error {
	if len(body) < 4 {
		return errors.New("no message header")
	}
	switch binary.BigEndian.Uint32(body) {
	case 2 << 16: // VUDP, opcode 0
		if c.setup.etherip && !c.setup.peers {
			return errors.New("frame in UDP")
		}
		c.count["VUDP"]++
		return c.etherIP(body[4:], front+4, fragmented)
	case 1<<16 | 1, 1<<16 | 2:
		if m, err := wire.DecodeVARP(body); err == nil && m.IsProbe(body) {
			c.count["probes"]++ // signs of life that the kernel's fast path asks for
			return nil
		}
		c.count["VARP"]++
		if len(body) != 43 || fragmented {
			return fmt.Errorf("VARP of %d bytes", len(body))
		}
		return nil
	}
	return fmt.Errorf("message %x", body[:4])
}

// etherIP checks an EtherIP header and the frame behind it.
func (c *wireCheck) etherIP(b []byte, front int, fragmented bool) error {
	if len(b) < 18+14 {
		return fmt.Errorf("EtherIP packet of %d bytes", len(b))
	}
	if b[0] != 0x00 || b[1] != 0x40 || !bytes.Equal(b[2:18], c.id[:]) {
		return fmt.Errorf("EtherIP header %x", b[:18])
	}
	inner := b[18:]
	if c.waiting != nil && bytes.Equal(inner, c.waiting) {
		close(c.seen)
		c.waiting = nil
	}
	if c.setup.inner+14+8 < len(inner) {
		return fmt.Errorf("inner frame of %d bytes", len(inner))
	}
	if fits := c.setup.underlay - front - 18; fragmented != (len(inner) > fits) {
		return fmt.Errorf("inner frame of %d bytes: fragmented is %t, what fits is %d", len(inner), fragmented, fits)
	}
	if fragmented {
		if l, err := look(inner); err == nil && l.proto == protoTCP && !l.fragment {
			c.split = append(c.split, string(inner))
		}
	}
	if err := unfinished(inner); err != nil && !c.broken[string(inner)] {
		return fmt.Errorf("inner frame: %w", err)
	}
	return nil
}

// addHost allows packets from and to an address.
func (c *wireCheck) addHost(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosts = append(c.hosts, a)
}

// counts tells how much was seen.
func (c *wireCheck) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.count)
}

// during names what is being done.
func (c *wireCheck) during(phase string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = phase
}

// expectBroken tells of a frame that is wrong on purpose.
func (c *wireCheck) expectBroken(f []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken[string(f)] = true
}

// takeSplit returns the inner TCP frames since the last call whose outer packet was fragmented.
func (c *wireCheck) takeSplit() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.split
	c.split = nil
	return s
}

// await makes seen close when an inner frame passes.
func (c *wireCheck) await(inner []byte) (seen <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting, c.seen = inner, make(chan struct{})
	return c.seen
}

// report fails the test if something was wrong until now.
func (c *wireCheck) report(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.errs {
		t.Errorf("on the wire: %s", e)
	}
	c.errs = nil
	require.Empty(t, c.parts, "fragments without the rest")
}
