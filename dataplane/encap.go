package dataplane

import (
	"net/netip"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// form is what stands between the outer IP header and the inner frame.
type form uint8

// The forms.
const (
	inUDP      form = iota // EtherIP in UDP (VUDP): what hosts since Xen 3.0.2 speak
	etherIP                // EtherIP without UDP, IPv4 only
	sealed                 // VUDP in ESP in UDP: vnets with security auth or conf, and nothing else of them
	sealedHome             // the same from the security port itself: to hosts behind NAT
	inESP                  // VUDP in ESP without UDP
	forms
)

// Seal protects the packets of one vnet with security auth or conf. Workers use it at once, each with lanes of its
// own; it takes no lock that is held for long.
type Seal interface {
	// Seal appends to dst the sealed form of one UDP payload (VUDP or VARP), given in pieces: what follows the outer
	// UDP header. It is false, and dst as it was, while there is no key to seal with. Payloads of equal length get
	// sealed forms of equal length, since they travel as trains. payload and dst do not overlap.
	Seal(dst []byte, lane Lane, payload [][]byte) ([]byte, bool)
	// Growth is how many bytes longer than a payload its sealed form is, at most.
	Growth() int
	// Fit is the length of the longest payload whose sealed form has at most room bytes.
	Fit(room int) int
	// Port is the UDP port that sealed packets go to.
	Port() uint16
	// Flows is how many lanes for unicast each worker has.
	Flows() int
	// Hidden are the hosts behind NAT, which get everything at a port of their own, and what is flooded by unicast.
	Hidden() []esp.Hidden
}

// Lane is one sequence of sealed packets: of one sending thread, flooded ones apart from the others, so that
// copies of one flooded packet are alike wherever they go.
type Lane struct {
	// Sender numbers the threads: the workers from 0, after them the cold side.
	Sender int
	// Flooded packets are sealed once and sent to everybody.
	Flooded bool
	// Now is the time on the engine's clock: what is too old is not sealed with.
	Now int64
	// Flow numbers the lanes of a worker's unicast from 0, below Seal.Flows.
	Flow int
}

// encap is how a vnet's frames travel to one host or group. It is made by view.encap and by nothing else.
type encap struct {
	form   form
	uplink *uplink
	// seal is nil in the clear.
	seal Seal
	// place is one more than the number of the socket, of those that are only sent by, and of the seal's lane; 0: the
	// one with the port of vnets, and the first lane.
	place uint8
	// prefix stands in front of each frame, before it is sealed.
	prefix []byte
	// port is the UDP port that packets go to; 0 in EtherIP, which has none. to is where they go, of encap.
	port uint16
	to   netip.AddrPort
	// overhead is what a packet has beyond the inner frame, at most, its IP header included.
	overhead offload.Overhead
	// maxFrame is the largest inner frame whose packet fits the path.
	maxFrame int
}

// secured reports whether a vnet's packets must be sealed.
func (n *network) secured() bool { return n.config.Security != vnet.None }

// usualForm is the form that every host of a vnet takes.
func (v *view) usualForm(n *network) form {
	switch {
	case n.secured() && v.esp:
		return inESP
	case n.secured():
		return sealed
	}
	return inUDP
}

// sealedTo is where sealed packets of a form go, to a host or group.
func (n *network) sealedTo(f form, addr netip.Addr) netip.AddrPort {
	if f == inESP {
		return netip.AddrPortFrom(addr, 0)
	}
	return netip.AddrPortFrom(addr, n.seal.Port())
}

// hidden is where a host behind NAT is reached.
func (n *network) hidden(host netip.Addr) (netip.AddrPort, bool) {
	if n.seal != nil && host.Zone() != "" {
		for _, h := range n.seal.Hidden() {
			if h.Host == host {
				return h.At, true
			}
		}
	}
	return netip.AddrPort{}, false
}

// sends reports whether frames of a vnet may leave: in the clear if its security is none, else under its seal.
func (n *network) sends() bool { return !n.secured() || n.seal != nil }

// takes reports whether a packet that names a vnet may be the vnet's: in the clear if its security is none, else only
// what its own seal has opened.
func (n *network) takes(a arrival) bool {
	if n.secured() {
		return a.opened == n
	}
	return a.opened == nil
}

// formFor chooses how a vnet speaks by an uplink to a host or group.
func (v *view) formFor(n *network, l *uplink, to netip.Addr) form {
	switch {
	case n.secured():
		return v.usualForm(n)
	case l.EtherIP() == nil:
		return inUDP
	case v.etherip:
		return etherIP
	case len(v.old) > 0:
		if _, old := v.old[to]; old {
			return etherIP
		}
	}
	return inUDP
}

// encap chooses how a vnet speaks to a host or group. It is false where it cannot: no underlay of the address's
// family, or no key.
func (v *view) encap(n *network, to netip.Addr) (encap, bool) {
	l := v.uplinks[underlay.Of(to)]
	if l == nil || !n.sends() {
		return encap{}, false
	}
	if h, ok := n.hidden(to); ok {
		e := v.wrap(n, l, sealedHome)
		e.to = h
		return e, true
	}
	if to.Zone() != "" {
		return encap{}, false // it is not behind that port any more
	}
	e := v.wrap(n, l, v.formFor(n, l, to))
	e.to = netip.AddrPortFrom(to, e.port)
	return e, true
}

// wrap is encap, once the form is chosen.
func (v *view) wrap(n *network, l *uplink, f form) encap {
	e := encap{form: f, uplink: l, prefix: n.header, port: v.port, overhead: offload.VUDPv4}
	if l.Family() == underlay.IPv6 {
		e.overhead = offload.VUDPv6
	}
	switch f {
	case etherIP:
		e.prefix, e.port, e.overhead = n.header[wire.MessageLen:], 0, offload.EtherIPv4
	case sealed, sealedHome, inESP:
		e.seal, e.port = n.seal, n.seal.Port()
		room := l.path.MTU - l.Family().HeaderLen()
		e.overhead += offload.Overhead(n.seal.Growth())
		if f == inESP {
			e.port, room, e.overhead = 0, room+wire.UDPLen, e.overhead-wire.UDPLen
		}
		e.maxFrame = n.seal.Fit(room) - len(e.prefix)
		return e
	}
	e.maxFrame = e.overhead.MaxFrame(l.path.MTU)
	return e
}

// way tells trains apart that go by different sockets: the form in its lower eight bits, the place in the next.
func (e *encap) way() uint32 { return uint32(e.form) | uint32(e.place)<<8 }

// socketOf is the socket by which a thread sends what goes a way.
func (l *uplink) socketOf(way uint32, number int) *underlay.Socket {
	place, f := uint8(way>>8), form(way)
	switch {
	case place > 0 && f == inUDP:
		return l.Spread(number)[place-1]
	case place > 0 && f == sealed && !l.home:
		return l.secure.Spread(number)[place-1]
	}
	return l.socket(f, number)
}

// flowOf is the lane of a seal in which packets go that go a way.
func flowOf(way uint32) int { return max(0, int(uint8(way>>8))-1) }

// socket is the socket by which a thread sends packets of a form.
func (l *uplink) socket(f form, number int) *underlay.Socket {
	switch f {
	case etherIP:
		return l.EtherIP()
	case inESP:
		return l.secure.ESP()
	case sealedHome:
		return l.secure.UDP()[number]
	case sealed:
		if l.home {
			return l.secure.UDP()[number]
		}
		return l.secure.Spread(number)[0]
	}
	return l.UDP()[number]
}

// places is how many ways a thread has from which that of a flow is chosen; 0: there is one way.
func (e *encap) places(number int) int {
	switch e.form {
	case inUDP:
		return len(e.uplink.Spread(number))
	case sealed, inESP:
		return e.seal.Flows()
	}
	return 0
}

// udpLen is the length of the outer UDP header.
func (e *encap) udpLen() int {
	if e.form == etherIP || e.form == inESP {
		return 0
	}
	return wire.UDPLen
}

// path is offload's view of an encapsulation: frames of at most limit bytes, to an address.
func (e *encap) path(to netip.AddrPort, limit int) offload.Path {
	p := offload.Path{To: to, Way: e.way(), Prefix: e.prefix, MaxFrame: limit, Alone: e.form == etherIP || e.form == inESP}
	if e.seal != nil {
		p.Growth = e.seal.Growth()
	}
	return p
}

// destination is where a flooded frame goes.
type destination struct {
	uplink *uplink
	addr   netip.AddrPort
}

// audience is who gets what is for everybody, by form, those of one uplink together.
type audience struct {
	to [forms][]destination
	// wants are the forms that are needed, if only for VFWD.
	wants [forms]bool
}

// openVnet stands for all vnets without security where what is asked for is the same for all of them.
var openVnet = &network{header: wire.AppendVUDP(nil, vnet.ID{})}

// securedVnet stands for all vnets with security.
var securedVnet = &network{config: vnet.Config{Security: vnet.Conf}}

// everybody lists who gets what is flooded in vnets without security, or (their ports replaced by the seal's) in those
// with.
func (v *view) everybody(secured bool) *audience {
	a := new(audience)
	add := func(f form, l *uplink, addr netip.AddrPort) {
		a.to[f] = append(a.to[f], destination{l, addr})
		a.wants[f] = true
	}
	udp := inUDP
	if secured {
		udp = v.usualForm(securedVnet)
	}
	for _, l := range v.uplinks {
		if l == nil {
			continue
		}
		f := udp
		if !secured {
			f = v.formFor(openVnet, l, l.group.Addr())
		}
		add(f, l, l.group)
		for _, to := range v.replicas {
			if underlay.Of(to.Addr()) == l.Family() {
				add(udp, l, to)
			}
		}
		if l.Family() != underlay.IPv4 {
			continue
		}
		a.wants[udp] = a.wants[udp] || len(v.peers) > 0
		if !secured && f == inUDP {
			for addr := range v.old {
				add(etherIP, l, netip.AddrPortFrom(addr, v.port))
			}
		}
	}
	return a
}

// audience is who gets what a vnet floods.
func (v *view) audience(n *network) *audience {
	if n.secured() {
		return v.floodSealed
	}
	return v.floodOpen
}

// floodFrame is the largest frame whose packets fit all ways that flooded ones of a vnet go. Super-frames must be cut
// alike for all, or else who gets them twice would not recognise the copies.
func (v *view) floodFrame(n *network) int {
	limit := maxFlood
	a := v.audience(n)
	for f := range forms {
		if !a.wants[f] {
			continue
		}
		for _, l := range v.uplinks {
			if l == nil || f == etherIP && l.EtherIP() == nil {
				continue
			}
			e := v.wrap(n, l, f)
			limit = min(limit, e.maxFrame)
			if f != etherIP && len(v.peers) > 0 && l.Family() == underlay.IPv4 {
				limit = min(limit, e.maxFrame-wire.VFWDLen)
			}
		}
	}
	return limit
}

// anyUplink is a usable underlay; nil if there is none.
func (v *view) anyUplink() *uplink {
	for _, l := range v.uplinks {
		if l != nil {
			return l
		}
	}
	return nil
}

// maxFlood is more than any path carries.
const maxFlood = 1 << 16
