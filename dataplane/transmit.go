package dataplane

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"

	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// From the vnif to the underlay.

// fromVnif moves a batch of frames from a vnif to other hosts.
func (w *worker) fromVnif(n *network, p *port.Port) {
	count, err := p.Recv(w.frames)
	if errors.Is(err, port.ErrUnreadable) {
		w.drop(DropFrame)
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
		w.drop(DropFrame)
		return
	}
	source, destination := wire.Source(frame), wire.Destination(frame)
	if source.Multicast() || source.IsZero() {
		w.drop(DropSource)
		return
	}
	if n.config.Security != vnet.None {
		w.drop(DropUnprotected)
		return
	}
	if !w.learnLocal(n, source) {
		w.drop(DropFlapping)
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
	l := w.view.links[underlay.Of(to)]
	if l == nil {
		// The host announced an address of a family that there is no way to from here; it may hear the group.
		w.floodOut(n, frame, h)
		return
	}
	etherip := l.EtherIP() != nil && (w.view.etherip || w.isOld(to))
	limit := l.maxFrame(etherip)
	if w.view.pmtu && !w.fitPath(n, limit, frame, h) {
		return
	}
	w.segment(&w.unicast, n, limit, frame, h, netip.AddrPortFrom(to, w.view.port), etherip)
}

// segment cuts a frame into packets for one host or group, of inner frames of limit bytes where it can be cut.
func (w *worker) segment(s *offload.Segmenter, n *network, limit int, frame []byte, h wire.VnetHdr, to netip.AddrPort, etherip bool) bool {
	p := offload.Path{To: to, Prefix: n.header, MaxFrame: limit}
	if etherip {
		// EtherIP has no ports: port 0 tells those packets apart until they are sent.
		p.To = netip.AddrPortFrom(to.Addr(), 0)
		p.Prefix = n.etherIPHeader()
		p.Alone = true
	}
	if err := s.Segment(frame, h, &p); err != nil {
		w.drop(DropFrame)
		return false
	}
	return true
}

// forPeers is the destination of packets that only VFWD carries; such packets are not sent as they are.
var forPeers = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)

// floodOut sends a frame to everybody: to the groups, to the replicas, to the hosts that know neither, and
// by VFWD to the peers.
func (w *worker) floodOut(n *network, frame []byte, h wire.VnetHdr) {
	if n.limit != nil && !exempt(frame) {
		frames := offload.Frames(frame, h)
		if frames > offload.MaxCuts {
			w.drop(DropFrame) // it could not be sent, and is not paid for
			return
		}
		if !n.limit.take(w.now, frames) {
			w.drops[DropRate].Add(uint64(frames))
			return
		}
	}
	if h.GSOType == wire.GSONone {
		// Once, since more than one packet may be made of it.
		if err := offload.Complete(frame, h); err != nil {
			w.drop(DropFrame)
			return
		}
		h = wire.VnetHdr{}
	}
	// A frame that goes round in a bridge loop comes by here again and again. To be repeated is no crime,
	// but in a vnet whose frames come back from other hosts it is a storm.
	if w.engine.recent.sent(w.engine.recent.hash(n.salt, frame), w.now) > loopRepeats && w.now < n.suspect.Load() {
		w.drop(DropLoop)
		return
	}
	v := w.view
	if v.links[underlay.IPv4] == nil && v.links[underlay.IPv6] == nil {
		w.drop(DropNoUnderlay)
		return
	}
	limit := v.floodFrame()
	for _, l := range v.links {
		if l != nil && !w.segment(&w.flood, n, limit, frame, h, l.group, v.etherip && l.EtherIP() != nil) {
			return
		}
	}
	if v.links[underlay.IPv4] != nil {
		if v.etherip && len(v.peers) > 0 {
			w.segment(&w.flood, n, limit, frame, h, forPeers, false)
		}
		if !v.etherip {
			for addr := range v.old {
				w.segment(&w.unicast, n, limit, frame, h, netip.AddrPortFrom(addr, 0), true)
			}
		}
	}
	for _, to := range v.replicas {
		if v.links[underlay.Of(to.Addr())] != nil {
			w.segment(&w.unicast, n, limit, frame, h, to, false)
		}
	}
}

// floodFrame is the largest frame whose packets fit all ways that flooded ones go. Super-frames must be cut
// alike for all, or else who gets them twice would not recognise the copies.
func (v *view) floodFrame() int {
	limit := math.MaxInt
	for _, l := range v.links {
		if l == nil {
			continue
		}
		limit = min(limit, l.maxFrame(v.etherip && l.EtherIP() != nil))
		if len(v.replicas) > 0 {
			limit = min(limit, l.maxFrame(false))
		}
		if len(v.peers) > 0 && l.Family() == underlay.IPv4 {
			limit = min(limit, l.maxFrame(false)-wire.VFWDLen)
		}
	}
	return limit
}

// transmit sends what the frames became.
func (w *worker) transmit(n *network) {
	w.flush() // an announce goes before the frame: it tells replicas that frames come more than once
	packets := w.sendTrains(w.flood.Trains()) + w.sendTrains(w.unicast.Trains())
	n.shares[w.number].txPackets.Add(uint64(packets))
	if len(w.view.peers) > 0 {
		w.forwardFlood()
	}
	w.flush()
	w.flood.Reset()
	w.unicast.Reset()
}

// forwardFlood sends to the peers what was multicast over IPv4.
func (w *worker) forwardFlood() {
	l := w.view.links[underlay.IPv4]
	if l == nil {
		return
	}
	trains := w.flood.Trains()
	for i := range trains {
		if to := trains[i].To; to == l.group || to == forPeers {
			trains[i].Each(w.forwardOwn)
		}
	}
}

// forwardOwnTo is forwardOwn's function: made once, not for every train.
func (w *worker) forwardOwnTo(payload [][]byte) {
	l := w.view.links[underlay.IPv4]
	w.forward(l, l.path.Source, payload...)
}

// sendTrains sends trains by the socket of their family and encapsulation and returns the number of
// packets in them.
func (w *worker) sendTrains(trains []offload.Train) int {
	packets := 0
	for i := 0; i < len(trains); {
		socket, l := w.socketFor(trains[i].To)
		first := i
		w.msgs = w.msgs[:0]
		for ; i < len(trains); i++ {
			t := &trains[i]
			if s, _ := w.socketFor(t.To); s != socket {
				break
			}
			w.msgs = append(w.msgs, underlay.Msg{To: t.To, Bufs: t.Bufs, SegSize: t.SegSize})
			packets += t.Count
		}
		if socket == nil {
			for ; first < i; first++ {
				packets -= trains[first].Count
			}
			continue // for peers only, or an underlay that went
		}
		failed, err := w.sender.Send(socket, l.path, w.msgs)
		if failed > 0 {
			packets -= failed
			w.sendFailed(failed, err)
		}
	}
	return packets
}

// learnLocal notes that a MAC was heard on the local bridge. It is false if the frame must not be sent:
// its source flaps, in a vnet that seems to have a loop.
func (w *worker) learnLocal(n *network, mac wire.MAC) bool {
	key := varp.Key{Vnet: n.config.ID, MAC: mac}
	if w.localCache.key == key && w.now < w.localCache.until {
		return true
	}
	c := w.engine.table.LearnLocal(key, w.now)
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

// isOld reports whether a host speaks only EtherIP.
func (w *worker) isOld(addr netip.Addr) bool {
	if len(w.view.old) == 0 {
		return false
	}
	return w.view.old[addr] != nil
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
