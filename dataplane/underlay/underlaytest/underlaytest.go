// Package underlaytest has a network between hosts without a kernel.
package underlaytest

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
)

// Packet is a packet that was sent.
type Packet struct {
	// From is the source, To the destination; EtherIP has ports of 0.
	From, To netip.AddrPort
	EtherIP  bool
	// Broadcast packets come to every host, whatever To is.
	Broadcast bool
	// Relayed packets were multicast by another than their source.
	Relayed bool
	Payload []byte
}

// Net is a segment: what is sent to an address comes to that host, and what is sent to a group to all but who sent it.
// Any goroutine may send and receive; its fields are the test's.
type Net struct {
	mu    sync.Mutex // engines send from goroutines of their own
	hosts []*Host
	// Sent is all that was sent, in order.
	Sent []Packet
	// Lost tells what does not arrive; nil: nothing is lost.
	Lost func(p Packet, to netip.Addr) bool
}

// Host is a host's end of a Net. It has the methods that a worker moves packets with. Only what is sent to the
// protocol's port, or by EtherIP, is ever read.
type Host struct {
	net   *Net
	Addrs []netip.Addr
	index int // of the device
	queue []Packet
}

// Join adds a host with its addresses, one of each family.
func (n *Net) Join(index int, addrs ...netip.Addr) *Host {
	h := &Host{net: n, Addrs: addrs, index: index}
	n.hosts = append(n.hosts, h)
	return h
}

// Take returns what was sent since the last Take.
func (n *Net) Take() []Packet {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.Sent
	n.Sent = nil
	return out
}

// Put sends a packet as a host that is not there.
func (n *Net) Put(p Packet) { n.send(nil, p) }

func (n *Net) send(from *Host, p Packet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Sent = append(n.Sent, p)
	for _, h := range n.hosts {
		to := p.To.Addr()
		if h == from || n.Lost != nil && n.Lost(p, h.Addrs[0]) {
			continue
		}
		if p.Broadcast || to.IsMulticast() || slices.Contains(h.Addrs, to) {
			h.queue = append(h.queue, p)
		}
	}
}

// Put sends a packet as this host.
func (h *Host) Put(p Packet) { h.net.send(h, p) }

// Take returns what came since the last Take, for a host that nothing else reads.
func (h *Host) Take() []Packet {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	out := h.queue
	h.queue = nil
	return out
}

// Waiting reports whether packets of the socket's kind were not read yet.
func (h *Host) Waiting(s *underlay.Socket) bool {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return slices.ContainsFunc(h.queue, func(p Packet) bool { return fits(s, p) })
}

func fits(s *underlay.Socket, p Packet) bool {
	return s.EtherIP() == p.EtherIP && s.Family() == underlay.Of(p.To.Addr()) && (p.EtherIP || p.To.Port() == wire.Port)
}

// Recv brings what waits for a socket, at most a batch.
func (h *Host) Recv(s *underlay.Socket, b *underlay.Batch) (int, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	n, rest := 0, h.queue[:0:0]
	for _, p := range h.queue {
		if n == underlay.BatchLen || !fits(s, p) {
			rest = append(rest, p)
			continue
		}
		*b.Packet(n) = underlay.Packet{
			Data: slices.Clone(p.Payload), SegSize: max(1, len(p.Payload)), From: p.From, To: p.To.Addr(),
			Multicast: p.To.Addr().IsMulticast(), Index: h.index, Misdirected: p.Broadcast,
		}
		n++
	}
	h.queue = rest
	return n, nil
}

// Send sends messages, trains as the packets that they are.
func (h *Host) Send(s *underlay.Socket, p *underlay.Path, msgs []underlay.Msg) (int, error) {
	for _, m := range msgs {
		payload := slices.Concat(m.Bufs...)
		size := m.SegSize
		if size <= 0 {
			size = max(1, len(payload))
		}
		for first := true; first || len(payload) > 0; first = false {
			n := min(size, len(payload))
			out := Packet{From: netip.AddrPortFrom(p.Source, m.To.Port()), To: m.To, EtherIP: s.EtherIP(), Payload: payload[:n]}
			payload = payload[n:]
			h.net.send(h, out)
		}
	}
	return 0, nil
}

// Relay multicasts a packet with another host's source address; that host hears it as well.
func (h *Host) Relay(_ *underlay.Underlay, _ *underlay.Path, from, group netip.AddrPort, _ uint8, payload []byte) error {
	h.net.send(h, Packet{From: from, To: group, Payload: slices.Clone(payload), Relayed: true})
	return nil
}

// Groups are the memberships of an underlay without a kernel: one socket hears all groups.
type Groups struct {
	Socket *underlay.Socket
	// Busy is called by each Listen and Join before it does anything, as the kernel may keep them waiting.
	Busy func()
	// Refused is what Join fails with.
	Refused error
	// Listening is the group that is listened to, Group that of the membership on device Index; 0: none.
	Listening, Group netip.Addr
	Index            int
}

// Listen notes the group.
func (g *Groups) Listen(group netip.Addr) (now, before *underlay.Socket, err error) {
	g.busy()
	g.Listening = group
	return g.Socket, nil, nil
}

// Join notes group and device.
func (g *Groups) Join(index int, group netip.Addr) error {
	g.busy()
	g.Index, g.Group = 0, netip.Addr{}
	if index == 0 || g.Refused != nil {
		return g.Refused
	}
	g.Index, g.Group = index, group
	return nil
}

func (g *Groups) busy() {
	if g.Busy != nil {
		g.Busy()
	}
}
