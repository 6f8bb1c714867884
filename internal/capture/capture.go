// Package capture tells what became of a vnet's frames, for `vn capture`: it takes what was captured on the vnif and on
// the underlay device, finds which packet carries which frame, opens what is sealed, and writes pcapng with comments.
package capture

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Place is where something was captured.
type Place uint8

// The places, which are the numbers of the interfaces in a file.
const (
	Vnif     Place = iota
	Underlay       // as it is on the wire
	Opened         // what was sealed, put into a packet without ESP
)

// Packet is an Ethernet frame that was captured.
type Packet struct {
	Time     time.Time
	Place    Place
	Outgoing bool // the host sends it by that device: from the bridge on the vnif, to other hosts on the underlay
	Data     []byte
	Comments []string
}

// Options say what is captured.
type Options struct {
	Vnet         vnet.ID
	Vnif, Device string
	Port         uint16 // UDP
	SecurityPort uint16
	// Reader opens what is sealed; nil: the vnet has no security, or there is no key.
	Reader *esp.Reader
	// Secured says that the vnet has security.
	Secured bool
	// Kernel says that the kernel's fast path carries the vnet: what it carries does not come by Vnif.
	Kernel bool
	// Recorded says that the packets come from a file that another program captured on an underlay device, of a vnet whose
	// level may be any: nothing is known of a vnif and of directions, and Device is the file.
	Recorded bool
}

const (
	// Hold is for how long packets are held until it is known what became of them.
	Hold = 200 * time.Millisecond
	// maxHeld bounds them; older ones go first. maxFragments bounds the packets whose later fragments are taken.
	maxHeld, maxFragments = 16384, 1024
	// maxSame bounds the equal frames and their packets that are compared.
	maxSame = 64
	// superFrame is from how many bytes on a frame leaves in pieces: no device has such an MTU.
	superFrame = 9100
)

// Correlator holds packets for a while. It belongs to one goroutine. Use New.
type Correlator struct {
	o         Options
	seed      maphash.Seed
	held      []*held
	byFrame   map[uint64][]*held
	fragments map[fragment]struct{}
	drops     string
	dropsAt   time.Time
	closed    int
}

type held struct {
	Packet
	frame   uint64 // hash of the vnet's frame; 0: there is none
	way     string // of a packet on the underlay: "from 192.0.2.2 by unicast"
	matched bool
	big     bool
}

// fragment names the packet that a fragment is of.
type fragment struct {
	from, to netip.Addr
	id       uint16
}

// New returns a Correlator.
func New(o Options) *Correlator {
	return &Correlator{o: o, seed: maphash.MakeSeed(), byFrame: map[uint64][]*held{}, fragments: map[fragment]struct{}{}}
}

// Learn takes the keys that a KEY message tells of. Who reads a file does so with all packets first, so that it matters
// not where in the file the messages are.
func (c *Correlator) Learn(p Packet) {
	h, ok := parseIP(p.Data)
	if !ok || c.o.Reader == nil || h.offset > 0 || h.more || h.protocol != wire.ProtocolUDP || len(h.payload) < wire.UDPLen {
		return
	}
	if b := h.payload[wire.UDPLen:]; wire.DecodeSecured(b) == wire.SecuredMessage {
		c.o.Reader.Learn(b[wire.MarkerLen:])
	}
}

// Closed is how many ESP packets of a file were not opened, of whatever vnet they are.
func (c *Correlator) Closed() int { return c.closed }

// Dropped tells what the daemon has dropped lately, as "duplicate 3": what was seen since then and went nowhere may be of
// that.
func (c *Correlator) Dropped(what string, at time.Time) { c.drops, c.dropsAt = what, at }

// Add takes a packet, if it is of the vnet.
func (c *Correlator) Add(p Packet) {
	h := &held{Packet: p}
	if p.Place == Vnif {
		if len(p.Data) < 14 {
			return
		}
		h.frame, h.big = c.hash(p.Data), len(p.Data) > superFrame
	} else if !c.underlay(h) {
		return
	}
	c.match(h)
	c.held = append(c.held, h)
	if h.frame != 0 && len(c.byFrame[h.frame]) < maxSame {
		c.byFrame[h.frame] = append(c.byFrame[h.frame], h)
	}
}

func (c *Correlator) hash(frame []byte) uint64 { return max(1, maphash.Bytes(c.seed, frame)) }

// match finds the frame that a packet carries, or the packets that carry a frame.
func (c *Correlator) match(h *held) {
	if h.frame == 0 {
		return
	}
	for _, o := range slices.Backward(c.byFrame[h.frame]) {
		if o.Place == h.Place || o.Outgoing != h.Outgoing || h.Time.Sub(o.Time).Abs() > Hold {
			continue
		}
		frame, packet := h, o
		if h.Place != Vnif {
			frame, packet = o, h
		}
		frame.matched, packet.matched = true, true
		if frame.Outgoing {
			frame.Comments = append(frame.Comments, "left by "+c.o.Device+" "+packet.way)
			packet.Comments = append(packet.Comments, "from "+c.o.Vnif)
		} else {
			frame.Comments = append(frame.Comments, "came by "+c.o.Device+" "+packet.way)
			packet.Comments = append(packet.Comments, fmt.Sprintf("delivered on %s after %s", c.o.Vnif, frame.Time.Sub(packet.Time).Abs().Round(time.Microsecond)))
		}
		if h.Place == Vnif && !h.Outgoing {
			return // one packet carries it; a frame may leave in several
		}
	}
}

// Flush returns what was held long enough, in the order of time.
func (c *Correlator) Flush(now time.Time) (out []Packet) {
	slices.SortStableFunc(c.held, func(a, b *held) int { return a.Time.Compare(b.Time) })
	n := 0
	for ; n < len(c.held); n++ {
		h := c.held[n]
		if now.Sub(h.Time) < Hold && len(c.held)-n <= maxHeld {
			break
		}
		if !h.matched && !c.o.Recorded {
			c.lost(h)
		}
		out = append(out, h.Packet)
		delete(c.byFrame, h.frame) // what is equal is as old, or has found its own
	}
	c.held = slices.Delete(c.held, 0, n)
	return out
}

// lost says what may have become of what was not matched.
func (c *Correlator) lost(h *held) {
	if h.frame == 0 {
		return
	}
	var text string
	switch {
	case h.Place == Vnif && h.big:
		text = "larger than any packet: it goes in pieces, or is put together from them"
	case h.Place == Vnif && h.Outgoing:
		text = "was not seen leaving by " + c.o.Device + " in one piece"
	case h.Place == Vnif:
		text = "was not seen coming by " + c.o.Device + " in one piece"
	case c.o.Kernel && h.Outgoing:
		text = "its frame was not seen on " + c.o.Vnif + ", which the kernel's fast path passes by, or not in one piece"
	case c.o.Kernel:
		text = "was not seen on " + c.o.Vnif + ", which the kernel's fast path passes by, or not in one piece"
	case h.Outgoing:
		text = "its frame was not seen on " + c.o.Vnif + " in one piece"
	default:
		text = "was not seen on " + c.o.Vnif + " in one piece"
	}
	if !h.big && c.drops != "" && c.dropsAt.Sub(h.Time).Abs() < 2*Hold {
		text += "; dropped meanwhile: " + c.drops
	}
	h.Comments = append(h.Comments, text)
}

// underlay reads a packet of the underlay, and reports whether it is of the vnet.
func (c *Correlator) underlay(h *held) bool {
	p, ok := parseIP(h.Data)
	if !ok {
		return false
	}
	f := fragment{p.from, p.to, p.id}
	if p.offset > 0 {
		_, known := c.fragments[f]
		if known {
			h.Comments = append(h.Comments, "a later fragment of a packet of this vnet")
		}
		return known
	}
	how := "by unicast"
	if p.to.IsMulticast() {
		how = "by the group"
	}
	h.way = fmt.Sprintf("to %s %s", p.to, how)
	switch {
	case c.o.Recorded:
		h.way = fmt.Sprintf("from %s to %s %s", p.from, p.to, how)
	case !h.Outgoing:
		h.way = fmt.Sprintf("from %s %s", p.from, how)
	}
	if !c.content(h, p) {
		return false
	}
	if p.more {
		if len(c.fragments) >= maxFragments {
			clear(c.fragments)
		}
		c.fragments[f] = struct{}{}
		h.frame = 0 // only its beginning is here
		h.Comments = append(h.Comments, "the first fragment")
	}
	return true
}

// content reads what stands behind the IP header.
func (c *Correlator) content(h *held, p ip) bool {
	switch {
	case p.protocol == wire.ProtocolEtherIP && (!c.o.Secured || c.o.Recorded):
		id, frame, err := wire.DecodeEtherIP(p.payload)
		if err != nil || id != c.o.Vnet {
			return false
		}
		h.frame = c.hash(frame)
		h.Comments = append(h.Comments, "EtherIP without UDP, "+h.way)
		return true
	case p.protocol == wire.ProtocolESP:
		return c.sealed(h, p, p.payload)
	case p.protocol != wire.ProtocolUDP || len(p.payload) < wire.UDPLen:
		return false
	}
	from, to := uint16(p.payload[0])<<8|uint16(p.payload[1]), uint16(p.payload[2])<<8|uint16(p.payload[3])
	b := p.payload[wire.UDPLen:]
	switch {
	case to == c.o.Port:
		return (!c.o.Secured || c.o.Recorded) && c.message(h, b, "")
	case to == c.o.SecurityPort || from == c.o.SecurityPort:
		switch wire.DecodeSecured(b) {
		case wire.SecuredESP:
			return c.sealed(h, p, b)
		case wire.SecuredMessage:
			if c.o.Reader == nil || !c.o.Reader.Learn(b[wire.MarkerLen:]) {
				return false
			}
			h.Comments = append(h.Comments, "KEY or ASK message of this vnet, "+h.way)
			return true
		case wire.SecuredKeepalive:
		}
	}
	return false
}

// message reads a message of the protocol.
func (c *Correlator) message(h *held, b []byte, prefix string) bool {
	id, _, err := wire.DecodeMessage(b)
	if err != nil {
		return false
	}
	switch id {
	case wire.MessageVUDP:
		v, frame, err := wire.DecodeVUDP(b)
		if err != nil || v != c.o.Vnet {
			return false
		}
		h.frame = c.hash(frame)
		h.Comments = append(h.Comments, prefix+"VUDP "+h.way)
	case wire.MessageVARP:
		m, err := wire.DecodeVARP(b)
		if err != nil || m.Vnet != c.o.Vnet {
			return false
		}
		text := fmt.Sprintf("VARP %s: who has %s?", h.way, m.MAC)
		if m.Opcode == wire.Announce {
			text = fmt.Sprintf("VARP %s: %s is at %s", h.way, m.MAC, m.CareOf)
		}
		h.Comments = append(h.Comments, prefix+text)
	case wire.MessageVFWD:
		f, err := wire.DecodeVFWD(b)
		if err != nil {
			return false
		}
		return c.message(h, f.Payload, fmt.Sprintf("%sVFWD, first sent by %s: ", prefix, f.Source))
	default:
		return false
	}
	return true
}

// sealed reads an ESP packet. One that can't be opened may be of any vnet with security: it is shown where this one is.
func (c *Correlator) sealed(h *held, p ip, b []byte) bool {
	if !c.o.Secured {
		c.closed++
		return false
	}
	if c.o.Reader == nil {
		h.Comments = append(h.Comments, "ESP "+h.way+"; there is no key to open it with")
		return true
	}
	message, ok := c.o.Reader.Open(b)
	if !ok {
		c.closed++
		if c.o.Recorded {
			return false // of another vnet, as likely as not
		}
		h.Comments = append(h.Comments, "ESP "+h.way+"; not opened: its sender's KEY message has not come yet, it is of another vnet, or was damaged")
		return true
	}
	if !c.message(h, message, "inside of ESP: ") {
		return false
	}
	c.open(h, p, message)
	return true
}

// open adds a packet with what was sealed.
func (c *Correlator) open(h *held, p ip, message []byte) {
	from, to := netip.AddrPortFrom(p.from, c.o.Port), netip.AddrPortFrom(p.to, c.o.Port)
	data := append([]byte(nil), h.Data[:14]...)
	var err error
	if p.from.Is4() {
		data, err = wire.AppendDatagram(data, from, to, 64, 0, message)
	} else {
		// Version 6, no traffic class and flow label (RFC 8200, section 3).
		data = append(data, 0x60, 0, 0, 0)
		data = append(binary.BigEndian.AppendUint16(data, uint16(wire.UDPLen+len(message))), wire.ProtocolUDP, 64)
		data = append(append(data, p.from.AsSlice()...), p.to.AsSlice()...)
		data, err = wire.AppendUDP(data, from, to, message)
	}
	if err != nil {
		return
	}
	opened := &held{Packet: Packet{
		Time: h.Time.Add(1), Place: Opened, Outgoing: h.Outgoing, Data: append(data, message...), Comments: []string{"what the ESP packet before this one holds"},
	}, matched: true}
	c.held = append(c.held, opened)
}

// ip is what matters of an IP packet.
type ip struct {
	from, to netip.Addr
	protocol uint8
	id       uint16
	offset   int  // of a fragment
	more     bool // fragments follow
	payload  []byte
}

// parseIP reads the IPv4 or IPv6 packet in an Ethernet frame.
func parseIP(frame []byte) (p ip, ok bool) {
	if len(frame) < 14 {
		return p, false
	}
	b := frame[14:]
	switch kind := uint16(frame[12])<<8 | uint16(frame[13]); {
	case kind == 0x0800 && len(b) >= 20:
		h := int(b[0]&15) * 4
		total := int(b[2])<<8 | int(b[3])
		if total == 0 || total > len(b) { // a super-frame, or cut by the snapshot's length
			total = len(b)
		}
		if b[0]>>4 != 4 || h < 20 || h > total {
			return p, false
		}
		flags := uint16(b[6])<<8 | uint16(b[7])
		return ip{
			from: netip.AddrFrom4([4]byte(b[12:16])), to: netip.AddrFrom4([4]byte(b[16:20])), protocol: b[9], id: uint16(b[4])<<8 | uint16(b[5]),
			offset: int(flags&0x1fff) * 8, more: flags&0x2000 != 0, payload: b[h:total],
		}, true
	case kind == 0x86dd && len(b) >= 40 && b[0]>>4 == 6:
		p = ip{from: netip.AddrFrom16([16]byte(b[8:24])), to: netip.AddrFrom16([16]byte(b[24:40])), protocol: b[6], payload: b[40:]}
		const fragmentHeader = 44
		if p.protocol == fragmentHeader {
			if len(p.payload) < 8 {
				return p, false
			}
			f := p.payload
			p.protocol, p.id = f[0], uint16(f[6])<<8|uint16(f[7])
			p.offset, p.more, p.payload = int(uint16(f[2])<<8|uint16(f[3]))&^7, f[3]&1 != 0, f[8:]
		}
		return p, true
	}
	return p, false
}

// Line describes a packet in a line, for a person at a terminal.
func (o Options) Line(p Packet) string {
	device := o.Vnif
	if p.Place != Vnif {
		device = o.Device
	}
	arrow := "<"
	switch {
	case o.Recorded:
		arrow = " "
	case p.Outgoing:
		arrow = ">"
	}
	text := fmt.Sprintf("%s %-10s %s %5d bytes", p.Time.Local().Format("15:04:05.000000"), device, arrow, len(p.Data))
	if p.Place == Vnif && len(p.Data) >= 14 {
		text += fmt.Sprintf("  %s → %s %s", wire.Source(p.Data), wire.Destination(p.Data), etherType(uint16(p.Data[12])<<8|uint16(p.Data[13])))
	}
	if len(p.Comments) > 0 {
		text += "  " + strings.Join(p.Comments, "; ")
	}
	return text
}

func etherType(t uint16) string {
	if name, ok := map[uint16]string{0x0800: "IPv4", 0x0806: "ARP", 0x86dd: "IPv6", 0x8100: "802.1Q"}[t]; ok {
		return name
	}
	return fmt.Sprintf("type %04x", t)
}
