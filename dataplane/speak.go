package dataplane

import (
	"net/netip"
	"sync/atomic"

	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
)

const (
	// replyRate and announceRate bound, per second and speaker, the answers to VARP requests and the
	// announces of MACs that appear; tooBigRate the answers to frames that do not fit (RFC 4443, section 2.4 f).
	replyRate    = 5000
	announceRate = 500
	tooBigRate   = 1000
)

// speaker sends what this host itself has to say: VARP messages, and packets forwarded to peers. Each
// worker is one, and the engine's cold side is another. It belongs to one goroutine, but for drops.
type speaker struct {
	engine *Engine
	number int // of the sockets to use
	view   *view
	now    int64

	sender *underlay.Sender
	msgs   []underlay.Msg
	// queue waits for flush; what it holds may be in arena.
	queue []spoken
	arena []byte

	replies, announces, tooBigs *bucket

	drops [reasons]atomic.Uint64 // read by others
}

// spoken is a packet of our own.
type spoken struct {
	to    netip.AddrPort
	parts [2][]byte
}

func newSpeaker(e *Engine, number int) speaker {
	return speaker{
		engine: e, number: number,
		sender:    underlay.NewSender(),
		replies:   newBucket(replyRate, replyRate),
		announces: newBucket(announceRate, 2*announceRate),
		tooBigs:   newBucket(tooBigRate, tooBigRate),
	}
}

// drop counts a drop.
func (s *speaker) drop(r Reason) { s.drops[r].Add(1) }

// socketFor returns the socket by which packets to an address go; nil for those that are for peers only.
func (s *speaker) socketFor(to netip.AddrPort) (*underlay.Socket, *link) {
	l := s.view.links[underlay.Of(to.Addr())]
	switch {
	case l == nil || to == forPeers:
		return nil, nil
	case to.Port() == 0:
		return l.EtherIP(), l
	}
	return l.UDP()[s.number], l
}

// sendFailed counts packets that the kernel refused.
func (s *speaker) sendFailed(packets int, err error) {
	s.drops[DropSend].Add(uint64(packets))
	s.engine.notify(notice{kind: noticeSendError, err: err})
}

// message queues a VARP message.
func (s *speaker) message(m wire.VARP, to netip.AddrPort) {
	at := len(s.arena)
	s.arena = m.Append(s.arena)
	s.queue = append(s.queue, spoken{to: to, parts: [2][]byte{s.arena[at:]}})
}

// reply answers a VARP request for a MAC that lives here.
func (s *speaker) reply(n *network, mac wire.MAC, to netip.Addr) {
	l := s.view.links[underlay.Of(to)]
	if l == nil {
		s.drop(DropNoUnderlay)
		return
	}
	if !s.replies.take(s.now, 1) {
		s.drop(DropReply)
		return
	}
	s.message(wire.VARP{Opcode: wire.Announce, Vnet: n.config.ID, MAC: mac, CareOf: l.path.Source},
		netip.AddrPortFrom(to, s.view.port))
}

// announce tells everybody that a MAC lives here.
func (s *speaker) announce(n *network, mac wire.MAC) {
	if !s.announces.take(s.now, 1) {
		s.drop(DropAnnounce)
		return
	}
	s.everybody(wire.VARP{Opcode: wire.Announce, Vnet: n.config.ID, MAC: mac})
}

// request asks everybody who has a MAC.
func (s *speaker) request(n *network, mac wire.MAC) {
	s.everybody(wire.VARP{Opcode: wire.Request, Vnet: n.config.ID, MAC: mac})
}

// everybody queues a VARP message to the groups, the replicas and the peers. The care-of address is this
// host's, of the family that carries the message.
func (s *speaker) everybody(m wire.VARP) {
	// IPv6 first: of a host with both families, the last word is IPv4.
	for _, l := range [...]*link{s.view.links[underlay.IPv6], s.view.links[underlay.IPv4]} {
		if l == nil {
			continue
		}
		m.CareOf = l.path.Source
		s.message(m, l.group)
		for _, to := range s.view.replicas {
			if underlay.Of(to.Addr()) == l.Family() {
				s.message(m, to)
			}
		}
	}
	if l := s.view.links[underlay.IPv4]; l != nil && len(s.view.peers) > 0 {
		m.CareOf = l.path.Source
		at := len(s.arena)
		s.arena = m.Append(s.arena)
		s.forward(l, l.path.Source, s.arena[at:])
	}
}

// forward queues a packet that was multicast by from for all peers but from itself.
func (s *speaker) forward(l *link, from netip.Addr, payload ...[]byte) {
	var header, whole []byte
	for _, p := range s.view.peers {
		if p.addr.Addr() == from {
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
			s.arena, err = wire.AppendVFWD(s.arena, netip.AddrPortFrom(from, s.view.port), l.group, s.view.ttl, whole)
			if err != nil {
				s.drop(DropMalformed)
				return
			}
			header = s.arena[at:]
		}
		p.tx.Add(1)
		s.queue = append(s.queue, spoken{to: p.addr, parts: [2][]byte{header, whole}})
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
		socket, l := s.socketFor(s.queue[i].to)
		s.msgs = s.msgs[:0]
		for ; i < len(s.queue); i++ {
			q := &s.queue[i]
			if other, _ := s.socketFor(q.to); other != socket {
				break
			}
			s.msgs = append(s.msgs, underlay.Msg{To: q.to, Bufs: q.parts[:]})
		}
		if socket == nil {
			s.drops[DropNoUnderlay].Add(uint64(len(s.msgs)))
			continue
		}
		if failed, err := s.sender.Send(socket, l.path, s.msgs); failed > 0 {
			s.sendFailed(failed, err)
		}
	}
	s.queue, s.arena = s.queue[:0], s.arena[:0]
}
