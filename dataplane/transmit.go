package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// From the vnif to the underlay.

// fromVnif moves a batch of frames from a vnif to other hosts.
func (w *worker) fromVnif(n *network, p vnif) {
	w.from = netip.Addr{}
	count, err := p.Recv(w.frames)
	if errors.Is(err, port.ErrUnreadable) {
		w.dropOf(n, DropFrame)
	} else if err != nil {
		return // the device went down or away, which the watcher is told as well
	}
	bytes := 0
	for i := range count {
		frame := w.frames.Frame(i)
		bytes += len(frame)
		w.outward(n, frame, w.frames.Hdr(i))
		if w.unicast.Full() || w.flood.Full() {
			w.transmit(n)
		}
	}
	w.transmit(n)
	s := &n.shares[w.number]
	s.txFrames.Add(uint64(count))
	s.txBytes.Add(uint64(bytes))
}

// outward decides where a frame from the local bridge goes.
func (w *worker) outward(n *network, frame []byte, h wire.VnetHdr) {
	if len(frame) < wire.FrameLen {
		w.dropOf(n, DropFrame)
		return
	}
	source, destination := wire.Source(frame), wire.Destination(frame)
	if source.Multicast() || source.IsZero() {
		w.dropOf(n, DropSource)
		return
	}
	if !n.sends() {
		w.dropOf(n, DropUnprotected)
		return
	}
	if !w.learnLocal(n, source) {
		w.dropOf(n, DropFlapping)
		return
	}
	if destination.Multicast() {
		w.floodOut(n, frame, h)
		return
	}
	careOf, known := w.engine.table.Lookup(varp.Key{Vnet: n.config.ID, MAC: destination})
	if !known {
		// Nobody is told what fits: the MAC may be on this bridge, which has forgotten it. Who gets the frame
		// clamps the MSS.
		w.resolve(n, destination)
		w.floodOut(n, frame, h)
		return
	}
	w.unicastOut(n, frame, h, careOf)
}

// unicastOut sends a frame to one host.
func (w *worker) unicastOut(n *network, frame []byte, h wire.VnetHdr, to netip.Addr) {
	e, ok := w.view.encap(n, to)
	if !ok {
		// The host announced an address of a family that there is no way to from here; it may hear the group.
		w.floodOut(n, frame, h)
		return
	}
	if w.view.clamp {
		offload.ClampMSS(frame, h, e.maxFrame)
	}
	if w.view.pmtu && !w.fitPath(n, e.maxFrame, frame, h) {
		return
	}
	if places := e.places(w.number); w.view.flows && places > 0 {
		e.place = uint8(1 + offload.Flow(frame)%uint32(places))
	}
	w.segment(n, &w.unicast, &e, e.maxFrame, frame, h, e.to)
}

// segment cuts a frame into packets of one encapsulation, of inner frames of limit bytes where it can be cut.
func (w *worker) segment(n *network, s *offload.Segmenter, e *encap, limit int, frame []byte, h wire.VnetHdr, to netip.AddrPort) bool {
	p := e.path(to, limit)
	if err := s.Segment(frame, h, &p); err != nil {
		w.dropOf(n, DropFrame)
		return false
	}
	return true
}

const (
	// loopAlarm is for how long, in nanoseconds, a vnet is suspected of having a loop after an own frame came back, and
	// loopRepeats how often such a vnet may flood one and the same frame per second.
	loopAlarm   = int64(10 * time.Second)
	loopRepeats = 8
)

// floodOut sends a frame to everybody: to the groups, to the replicas, to the hosts that speak only EtherIP, and
// by VFWD to the peers (view.everybody).
func (w *worker) floodOut(n *network, frame []byte, h wire.VnetHdr) {
	if n.limit != nil && !exempt(frame) {
		frames := offload.Frames(frame, h)
		if frames > offload.MaxCuts {
			w.dropOf(n, DropFrame) // it could not be sent, and is not paid for
			return
		}
		if !n.limit.take(w.now, frames) {
			w.dropManyOf(n, DropRate, uint64(frames))
			return
		}
	}
	if h.GSOType == wire.GSONone {
		// Once, since more than one packet may be made of it.
		if err := offload.Complete(frame, h); err != nil {
			w.dropOf(n, DropFrame)
			return
		}
		h = wire.VnetHdr{}
	}
	// A frame that goes round in a bridge loop comes by here again and again. Repetition alone proves nothing,
	// but in a vnet whose frames come back from other hosts it is a storm.
	if w.engine.recent.Sent(w.engine.recent.Hash(n.salt, frame), w.now) > loopRepeats && w.now < n.suspect.Load() {
		w.dropOf(n, DropLoop)
		return
	}
	v := w.view
	if v.uplinks[underlay.IPv4] == nil && v.uplinks[underlay.IPv6] == nil {
		w.dropOf(n, DropNoUnderlay)
		return
	}
	limit := v.floodFrame(n)
	for f, wanted := range v.audience(n).wants {
		if !wanted {
			continue
		}
		// Cut once, whoever gets it: what differs between destinations is their address.
		e := v.wrap(n, v.anyUplink(), form(f))
		if !w.segment(n, &w.flood, &e, limit, frame, h, netip.AddrPort{}) {
			return
		}
	}
}

// transmit sends what the frames became.
func (w *worker) transmit(n *network) {
	w.flush() // an announce goes before the frame: it tells replicas that frames come more than once
	flooded := w.sendFlood(n)
	packets := flooded + w.sendUnicast(n)
	n.shares[w.number].txPackets.Add(uint64(packets))
	if flooded > 0 {
		n.shares[w.number].txFlooded.Add(uint64(flooded))
	}
	w.flush()
	w.flood.Reset()
	w.unicast.Reset()
}

// load makes messages of trains, without addresses: sealed if the vnet's packets must be. Those that could not be
// sealed are empty.
func (w *worker) load(n *network, trains []offload.Train, lane Lane) []underlay.Msg {
	w.loaded, w.sealedBufs = w.loaded[:0], w.sealedBufs[:0]
	w.sealedArena = append(w.sealedArena[:0], make([]byte, esp.Headroom)...)
	for i := range trains {
		t := &trains[i]
		m := underlay.Msg{To: t.To, Bufs: t.Bufs, SegSize: t.SegSize}
		if n.seal != nil {
			lane.Flow = flowOf(t.Way)
			w.sealing, w.sealingLane = n.seal, lane
			first, at, room := len(w.sealedBufs), len(w.sealedArena), cap(w.sealedArena)
			t.Each(w.sealOne)
			m.Bufs = w.sealedBufs[first:len(w.sealedBufs):len(w.sealedBufs)]
			if m.SegSize > 0 && len(m.Bufs) > 0 {
				m.SegSize = len(m.Bufs[0])
			}
			w.dropManyOf(n, DropUnprotected, uint64(t.Count-len(m.Bufs)))
			switch {
			case len(m.Bufs) == 1:
				m.SegSize = 0
			case len(m.Bufs) > 1 && !lane.Flooded && cap(w.sealedArena) == room:
				// They lie one behind the other, which leaves the kernel less to gather.
				m.Bufs[0], m.Bufs = w.sealedArena[at:len(w.sealedArena):len(w.sealedArena)], m.Bufs[:1]
			}
		}
		w.loaded = append(w.loaded, m)
	}
	return w.loaded
}

// sealDatagram is sealOne's function: made once, not for every train.
func (w *worker) sealDatagram(payload [][]byte) {
	at := len(w.sealedArena)
	arena, ok := w.sealing.Seal(w.sealedArena, w.sealingLane, payload)
	if w.sealedArena = arena; ok {
		w.sealedBufs = append(w.sealedBufs, arena[at:len(arena):len(arena)])
	}
}

// maxMsgs is how many messages are sent at once.
const maxMsgs = 256

// sendFlood sends the flooded packets to everybody, and by VFWD to the peers, and returns how many went.
func (w *worker) sendFlood(n *network) int {
	trains := w.flood.Trains()
	if len(trains) == 0 {
		return 0
	}
	loaded := w.load(n, trains, Lane{Sender: w.lane, Now: w.now, Flooded: true})
	packets := 0
	for f, to := range w.view.audience(n).to {
		w.msgs = w.msgs[:0]
		for i, d := range to {
			if n.seal != nil {
				d.addr = n.sealedTo(form(f), d.addr.Addr())
			}
			copies := form(f) == etherIP && !w.view.etherip
			for j := range loaded {
				if trains[j].Way == uint32(f) && len(loaded[j].Bufs) > 0 {
					if copies && !w.copies.take(w.now, 1) {
						w.dropOf(n, DropCopy)
						continue
					}
					m := loaded[j]
					m.To = d.addr
					w.msgs = append(w.msgs, m)
				}
			}
			if i == len(to)-1 || to[i+1].uplink != d.uplink || len(w.msgs) >= maxMsgs {
				packets += w.sendMsgs(n, d.uplink, form(f))
			}
		}
	}
	packets += w.sendHidden(n, loaded)
	if len(w.view.peers) > 0 {
		w.forwardFlood(n, trains, loaded)
	}
	return packets
}

// sendHidden sends flooded packets to the hosts behind NAT, and returns how many went.
func (w *worker) sendHidden(n *network, loaded []underlay.Msg) int {
	if n.seal == nil {
		return 0
	}
	packets := 0
	for _, h := range n.seal.Hidden() {
		l := w.view.uplinks[underlay.Of(h.At.Addr())]
		if l == nil {
			continue
		}
		w.msgs = w.msgs[:0]
		for i := range loaded {
			if m := loaded[i]; len(m.Bufs) > 0 {
				m.To = h.At
				w.msgs = append(w.msgs, m)
			}
		}
		packets += w.sendMsgs(n, l, sealedHome)
	}
	return packets
}

// sealAtOnce is how many bytes are sealed before they are sent: what the kernel then copies is in the processor's cache still.
const sealAtOnce = 192 << 10

// sendUnicast sends the packets for single hosts and returns how many went.
func (w *worker) sendUnicast(n *network) int {
	trains := w.unicast.Trains()
	packets := 0
	for len(trains) > 0 {
		end := len(trains)
		if n.seal != nil {
			end = 0
			for bytes := 0; end < len(trains) && bytes < sealAtOnce; end++ {
				bytes += trains[end].Len
			}
		}
		packets += w.sendTrains(n, trains[:end])
		trains = trains[end:]
	}
	return packets
}

// sendTrains sends some of them.
func (w *worker) sendTrains(n *network, trains []offload.Train) int {
	loaded := w.load(n, trains, Lane{Sender: w.lane, Now: w.now})
	packets := 0
	// Those of one socket together: what has been taken has no buffers any more. Flows keep their order.
	for i := range loaded {
		if len(loaded[i].Bufs) == 0 {
			continue
		}
		w.msgs = w.msgs[:0]
		family := underlay.Of(trains[i].To.Addr())
		for j := i; j < len(loaded); j++ {
			if len(loaded[j].Bufs) > 0 && trains[j].Way == trains[i].Way && underlay.Of(trains[j].To.Addr()) == family {
				w.msgs = append(w.msgs, loaded[j])
				loaded[j].Bufs = nil
			}
		}
		l := w.view.uplinks[family]
		packets += w.sendBy(n, l, l.socketOf(trains[i].Way, w.number))
	}
	return packets
}

// sendMsgs sends the worker's messages by the socket of a form, and returns how many packets went.
func (w *worker) sendMsgs(n *network, l *uplink, f form) int {
	return w.sendBy(n, l, l.socket(f, w.number))
}

// sendBy sends the worker's messages by one socket, and returns how many packets went.
func (w *worker) sendBy(n *network, l *uplink, socket *underlay.Socket) int {
	if len(w.msgs) == 0 {
		return 0
	}
	packets := 0
	for i := range w.msgs {
		m := &w.msgs[i]
		count := m.Packets()
		packets += count
		if to := m.To.Addr(); !to.IsMulticast() {
			if h := w.engine.hosts.Find(to); h != nil {
				h.Tx.Add(count, m.Len())
			}
		}
	}
	failed, err := w.carrier.Send(socket, l.path, w.msgs)
	w.msgs = w.msgs[:0]
	if failed > 0 {
		w.sendFailed(failed, err)
		n.dropped(w.number, DropSend, uint64(failed))
	}
	return packets - failed
}

// forwardFlood sends to the peers what is multicast over IPv4.
func (w *worker) forwardFlood(n *network, trains []offload.Train, loaded []underlay.Msg) {
	if w.view.uplinks[underlay.IPv4] == nil {
		return
	}
	for i := range trains {
		if form(trains[i].Way) != w.view.usualForm(n) {
			continue
		}
		if n.seal == nil {
			w.forwardPort = w.view.port
			trains[i].Each(w.forwardOwn)
			continue
		}
		w.forwardPort = n.seal.Port()
		for j := range loaded[i].Bufs {
			w.forwardOwnTo(loaded[i].Bufs[j : j+1])
		}
	}
}

// forwardOwnTo is forwardOwn's function: made once, not for every train.
func (w *worker) forwardOwnTo(payload [][]byte) {
	l := w.view.uplinks[underlay.IPv4]
	w.forward(l, netip.AddrPortFrom(l.path.Source, w.forwardPort), payload...)
}

// learnLocal notes that a MAC was heard on the local bridge. It is false if the frame must not be sent:
// its source flaps, in a vnet that seems to have a loop.
func (w *worker) learnLocal(n *network, mac wire.MAC) bool {
	key := varp.Key{Vnet: n.config.ID, MAC: mac}
	if w.localCache.key == key && w.now < w.localCache.until {
		return true
	}
	c := w.engine.table.LearnLocal(key, w.now)
	if moved(c) {
		w.engine.mirror.evict(key)
	}
	switch c.Kind {
	case varp.Known:
		w.localCache = learned{key: key, until: w.now + cacheFor}
	case varp.Added, varp.MovedHere:
		w.announce(n, mac)
		if c.Kind == varp.MovedHere {
			w.engine.notify(notice{kind: noticeMoved, network: n, mac: mac, change: c})
		}
	case varp.Damped:
		w.engine.notify(notice{kind: noticeFlapping, network: n, mac: mac, change: c})
	case varp.Ignored:
		return w.now >= n.suspect.Load()
	}
	return true
}

// exempt reports whether a flooded frame is one without which nothing works: ARP, IPv6 neighbour
// discovery, DHCP.
func exempt(frame []byte) bool {
	if len(frame) < wire.FrameLen {
		return false
	}
	l3, typ := offload.NetworkHeader(frame)
	ip := frame[l3:]
	switch typ {
	case 0x0806: // ARP
		return true
	case 0x0800:
		hl := 0
		if len(ip) >= wire.IPv4Len {
			hl = int(ip[0]&15) * 4
		}
		// Ports 67 and 68 of an unfragmented UDP packet.
		return hl >= wire.IPv4Len && len(ip) >= hl+4 && ip[9] == wire.ProtocolUDP &&
			binary.BigEndian.Uint16(ip[6:])&0x1fff == 0 && isDHCP(ip[hl:], 67, 68)
	case 0x86dd:
		if len(ip) < wire.IPv6Len+4 {
			return false
		}
		body := ip[wire.IPv6Len:]
		const icmpv6 = 58
		return ip[6] == icmpv6 && body[0] >= 133 && body[0] <= 137 || // RFC 4861
			ip[6] == wire.ProtocolUDP && isDHCP(body, 546, 547)
	}
	return false
}

func isDHCP(udp []byte, client, server uint16) bool {
	from, to := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])
	return (from == client || from == server) && (to == client || to == server)
}

// resolve asks who has a MAC, where there may be hosts that flooded frames do not reach.
func (w *worker) resolve(n *network, mac wire.MAC) {
	if !w.view.etherip && len(w.view.old) == 0 {
		return
	}
	if w.engine.pending.Ask(varp.Key{Vnet: n.config.ID, MAC: mac}, w.now) {
		w.request(n, mac)
	}
}
