package dataplane

import (
	"net/netip"
	"sync/atomic"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
)

const (
	// replyRate and announceRate bound, per second and speaker, the answers to VARP requests and the
	// announces of MACs that appear; tooBigRate the answers to frames that do not fit (RFC 4443, section 2.4 f).
	replyRate    = 5000
	announceRate = 500
	tooBigRate   = 1000
	// relayRate bounds the packets of peers that are multicast again, per second and worker: no more than a fifth of
	// what three peers in a circle make in one.
	relayRate = 10_000
	// copyRate bounds the copies of flooded packets for hosts that speak only EtherIP, per second and worker.
	copyRate = 4000
)

// speaker sends what this host itself has to say: VARP messages, and packets forwarded to peers. Each
// worker is one, and the engine's cold side is another. It belongs to one goroutine, but for drops.
type speaker struct {
	engine *Engine
	number int // of the sockets to use
	lane   int // of the seals'
	view   *view
	now    int64

	carrier carrier
	msgs    []underlay.Msg
	// queue waits for flush; what it holds may be in arena.
	queue []spoken
	arena []byte
	// clear is a message before it is sealed.
	clear    [1][]byte
	clearBuf [wire.VARPLen]byte

	replies, announces, tooBigs, relays, copies *bucket

	drops [reasons]atomic.Uint64 // read by others
}

// spoken is a packet of our own.
type spoken struct {
	uplink *uplink
	form   form
	to     netip.AddrPort
	parts  [2][]byte
}

func newSpeaker(e *Engine, number, lane int) speaker {
	return speaker{
		engine: e, number: number, lane: lane,
		carrier:   underlay.NewThread(),
		replies:   newBucket(replyRate, replyRate),
		announces: newBucket(announceRate, 2*announceRate),
		tooBigs:   newBucket(tooBigRate, tooBigRate),
		relays:    newBucket(relayRate, relayRate/4),
		copies:    newBucket(copyRate, copyRate),
	}
}

// drop counts a drop.
func (s *speaker) drop(r Reason) { s.drops[r].Add(1) }

// dropOf counts one of a vnet.
func (s *speaker) dropOf(n *network, r Reason) {
	s.drop(r)
	n.dropped(s.number, r, 1)
}

// sendFailed counts packets that the kernel refused.
func (s *speaker) sendFailed(packets int, err error) {
	s.drops[DropSend].Add(uint64(packets))
	s.engine.notify(notice{kind: noticeSendError, err: err})
}

// message queues a VARP message of a vnet for one address.
func (s *speaker) message(n *network, m wire.VARP, l *uplink, to netip.Addr) {
	if payload, ok := s.pack(n, m, Lane{Sender: s.lane, Now: s.now}); ok {
		s.single(n, payload, l, to)
	}
}

// single queues a packed message of a vnet for one address.
func (s *speaker) single(n *network, payload []byte, l *uplink, to netip.Addr) {
	q := spoken{uplink: l, form: s.view.usualForm(n), parts: [2][]byte{payload}}
	q.to = s.place(n, q.form, to)
	if h, ok := n.hidden(to); ok {
		q.form, q.to = sealedHome, h
	}
	s.queue = append(s.queue, q)
}

// place is where packets of a vnet and form go, to a host or group.
func (s *speaker) place(n *network, f form, to netip.Addr) netip.AddrPort {
	if n.seal != nil {
		return n.sealedTo(f, to)
	}
	return netip.AddrPortFrom(to, s.view.port)
}

// pack writes a VARP message of a vnet, sealed if the vnet's packets must be. It is false if there is no key.
func (s *speaker) pack(n *network, m wire.VARP, lane Lane) (payload []byte, ok bool) {
	if n.seal != nil && s.view.nat {
		m.CareOf = netip.Addr{} // it is not known
	}
	return s.protect(n, m.Append(s.clearBuf[:0]), lane)
}

// protect seals a message, if a vnet's must be. It is false if there is no key.
func (s *speaker) protect(n *network, message []byte, lane Lane) (payload []byte, ok bool) {
	if !n.sends() {
		s.dropOf(n, DropUnprotected)
		return nil, false
	}
	if n.seal == nil {
		at := len(s.arena)
		s.arena = append(s.arena, message...)
		return s.arena[at:], true
	}
	s.arena = append(s.arena, make([]byte, esp.Headroom)...)
	at := len(s.arena)
	s.clear[0] = message
	s.arena, ok = n.seal.Seal(s.arena[:at], lane, s.clear[:])
	if !ok {
		s.dropOf(n, DropUnprotected)
	}
	return s.arena[at:], ok
}

// reply answers a VARP request for a MAC that lives here.
func (s *speaker) reply(n *network, mac wire.MAC, to netip.Addr) {
	l := s.view.uplinks[underlay.Of(to)]
	if l == nil {
		s.dropOf(n, DropNoUnderlay)
		return
	}
	if !s.replies.take(s.now, 1) {
		s.dropOf(n, DropReply)
		return
	}
	s.message(n, wire.VARP{Opcode: wire.Announce, Vnet: n.config.ID, MAC: mac, CareOf: l.path.Source}, l, to)
}

// ask asks one host whether it has a MAC.
func (s *speaker) ask(n *network, mac wire.MAC, l *uplink, host netip.Addr) {
	s.message(n, wire.VARP{Opcode: wire.Request, Vnet: n.config.ID, MAC: mac, CareOf: l.path.Source}, l, host)
}

// announce tells everybody that a MAC lives here.
func (s *speaker) announce(n *network, mac wire.MAC) {
	if !s.announces.take(s.now, 1) {
		s.dropOf(n, DropAnnounce)
		return
	}
	s.everybody(n, wire.VARP{Opcode: wire.Announce, Vnet: n.config.ID, MAC: mac})
}

// request asks everybody who has a MAC.
func (s *speaker) request(n *network, mac wire.MAC) {
	s.everybody(n, wire.VARP{Opcode: wire.Request, Vnet: n.config.ID, MAC: mac})
}

// everybody queues a VARP message to the groups, the replicas and the peers. The care-of address is this
// host's, of the family that carries the message.
func (s *speaker) everybody(n *network, m wire.VARP) {
	// IPv6 first: of a host with both families, what came last counts, and that shall be IPv4.
	for _, l := range [...]*uplink{s.view.uplinks[underlay.IPv6], s.view.uplinks[underlay.IPv4]} {
		if l == nil {
			continue
		}
		m.CareOf = l.path.Source
		payload, ok := s.pack(n, m, Lane{Sender: s.lane, Now: s.now, Flooded: true})
		if !ok {
			return
		}
		s.flooded(n, l, s.view.usualForm(n), payload)
	}
}

// flooded queues a packet of a vnet to everybody that an uplink reaches.
func (s *speaker) flooded(n *network, l *uplink, f form, payload []byte) {
	q := spoken{uplink: l, form: f, to: s.place(n, f, l.group.Addr()), parts: [2][]byte{payload}}
	s.queue = append(s.queue, q)
	for _, to := range s.view.replicas {
		if underlay.Of(to.Addr()) == l.Family() {
			q.to = s.place(n, f, to.Addr())
			s.queue = append(s.queue, q)
		}
	}
	port := s.view.port
	if n.seal != nil {
		port, q.form = n.seal.Port(), sealedHome
		for _, h := range n.seal.Hidden() {
			if underlay.Of(h.At.Addr()) == l.Family() {
				q.to = h.At
				s.queue = append(s.queue, q)
			}
		}
	}
	if l.Family() == underlay.IPv4 && len(s.view.peers) > 0 {
		s.forward(l, netip.AddrPortFrom(l.path.Source, port), payload)
	}
}

// forward queues a packet that was multicast by from, to the group and from's port, for all peers but from itself.
func (s *speaker) forward(l *uplink, from netip.AddrPort, payload ...[]byte) {
	var header, whole []byte
	for i := range s.view.peers {
		p := &s.view.peers[i]
		if p.Addr() == from.Addr() {
			continue
		}
		if header == nil {
			if whole = payload[0]; len(payload) > 1 {
				at := len(s.arena)
				for _, b := range payload {
					s.arena = append(s.arena, b...)
				}
				whole = s.arena[at:]
			}
			at := len(s.arena)
			var err error
			s.arena, err = wire.AppendVFWD(s.arena, from, netip.AddrPortFrom(l.group.Addr(), from.Port()), s.view.ttl, whole)
			if err != nil {
				s.drop(DropMalformed)
				return
			}
			header = s.arena[at:]
		}
		p.ForwardedTx.Add(1, len(header)+len(whole))
		p.Tx.Add(1, len(header)+len(whole))
		s.queue = append(s.queue, spoken{uplink: l, to: netip.AddrPortFrom(p.Addr(), p.Port), parts: [2][]byte{header, whole}})
	}
	if len(s.queue) >= maxQueue {
		s.flush()
	}
}

// maxQueue bounds what waits for flush.
const maxQueue = 256

// flush sends what is queued.
func (s *speaker) flush() {
	for i := 0; i < len(s.queue); {
		first := &s.queue[i]
		s.msgs = s.msgs[:0]
		for ; i < len(s.queue) && s.queue[i].uplink == first.uplink && s.queue[i].form == first.form; i++ {
			q := &s.queue[i]
			s.msgs = append(s.msgs, underlay.Msg{To: q.to, Bufs: q.parts[:]})
		}
		l := first.uplink
		if failed, err := s.carrier.Send(l.socket(first.form, s.number), l.path, s.msgs); failed > 0 {
			s.sendFailed(failed, err)
		}
	}
	s.queue, s.arena, s.msgs = s.queue[:0], s.arena[:0], s.msgs[:0]
}
