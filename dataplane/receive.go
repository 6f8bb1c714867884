package dataplane

import (
	"errors"
	"net/netip"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// From the underlay to the vnif.

// arrival is where a packet came from.
type arrival struct {
	uplink *uplink
	// from is the host that sent it; of VFWD, the original sender.
	from netip.Addr
	// outer is the host that it came from last, and to the address that it was sent to.
	outer, to netip.Addr
	by        dedup.Kind
	// host is what is known of outer; nil if nothing is.
	host *hosts.Host
	// opened is the vnet whose seal was on the packet; nil in the clear.
	opened *network
}

// inbound is a frame for a vnif, and the next one for the same.
type inbound struct {
	frame  []byte
	uplink *uplink // that it came by
	next   int     // index, -1 for none
}

// target is a vnif that frames are for.
type target struct {
	network     *network
	first, last int // index in inbound
	packets     int
	bytes       int
}

// fromUDP moves a batch of packets from other hosts to vnifs.
func (w *worker) fromUDP(l *uplink, s *underlay.Socket) {
	count, err := w.carrier.Recv(s, w.received)
	if err != nil {
		return // an error of the moment: a device that went down
	}
	for i := range count {
		p := w.received.Packet(i)
		if p.Misdirected && s != l.UDP()[0] {
			continue // all sockets get a copy of a broadcast
		}
		a, ok := w.arrival(l, p)
		if !ok {
			continue
		}
		w.heard(&a, (len(p.Data)+p.SegSize-1)/p.SegSize, len(p.Data))
		for data := p.Data; len(data) > 0; {
			n := min(p.SegSize, len(data))
			w.fromHost(data[:n:n], a)
			data = data[n:]
		}
	}
	w.flush()
	w.deliver()
}

// fromEtherIP moves a batch of EtherIP packets to vnifs.
func (w *worker) fromEtherIP(l *uplink, s *underlay.Socket) {
	count, err := w.carrier.Recv(s, w.received)
	if err != nil {
		return
	}
	for i := range count {
		p := w.received.Packet(i)
		a, ok := w.arrival(l, p)
		if !ok {
			continue
		}
		if w.view.deaf {
			w.drop(DropEtherIP)
			continue
		}
		w.heard(&a, (len(p.Data)+p.SegSize-1)/p.SegSize, len(p.Data))
		id, frame, err := wire.DecodeEtherIP(p.Data)
		if err != nil {
			w.refuse(err)
			continue
		}
		w.frameIn(id, frame, a)
		w.heardEtherIP(id, frame, a)
	}
	w.flush()
	w.deliver()
}

// heardEtherIP notes that a host sent EtherIP without UDP. Before it is held to speak nothing else it is asked something.
func (w *worker) heardEtherIP(id vnet.ID, frame []byte, a arrival) {
	n := w.view.vnets[id]
	if n == nil || !n.takes(a) {
		return
	}
	h := w.engine.hosts.See(a.from, w.now)
	if h != nil && w.engine.hosts.HeardEtherIP(h, id, wire.Source(frame), w.now) {
		w.ask(n, wire.Source(frame), a.uplink, a.from)
	}
}

// arrival looks at the outer addresses of a packet.
func (w *worker) arrival(l *uplink, p *underlay.Packet) (arrival, bool) {
	a := arrival{uplink: l, from: p.From.Addr(), outer: p.From.Addr(), to: p.To}
	reason := reasons
	w.from = a.from
	_, own := w.view.own[a.from]
	switch {
	case p.Truncated:
		reason = DropTruncated
	case own:
		reason = DropOwn
	case !w.view.fromUnderlay(p.Index):
		reason = DropNotUnderlay
		w.strange(p)
	case p.Misdirected, p.Multicast && p.To != l.group.Addr():
		reason = DropDestination
	case !usableHost(a.from):
		reason = DropMalformed
	}
	if reason != reasons {
		w.dropMany(reason, packets(p))
		return a, false
	}
	if p.Multicast {
		a.by = dedup.Group
	}
	return a, true
}

// heard notes from whom something came, and by what way.
func (w *worker) heard(a *arrival, packets, bytes int) {
	if a.host = w.lastHost; a.host == nil || a.host.Addr() != a.from {
		a.host = w.engine.hosts.Find(a.from)
		w.lastHost = a.host
	}
	if a.by == dedup.Group {
		note(&a.uplink.heard.group, w.now)
	} else {
		note(&a.uplink.heard.unicast, w.now)
	}
	switch {
	case a.host == nil:
	case a.by == dedup.Group:
		a.host.HeardByGroup(w.now)
	default:
		a.host.HeardByUnicast(w.now)
		a.host.Rx.Add(packets, bytes)
	}
}

// fromHost handles a UDP payload.
func (w *worker) fromHost(b []byte, a arrival) {
	id, _, err := wire.DecodeMessage(b)
	if err != nil {
		w.refuse(err)
		return
	}
	pass := false
	switch {
	case id != wire.MessageVFWD:
		pass = w.payload(id, b, a)
	case a.by == dedup.Unicast && a.uplink.Family() == underlay.IPv4:
		w.forwarded(b, a)
	default:
		w.drop(DropMessage) // VFWD is unicast over IPv4
	}
	if pass && a.by == dedup.Group && len(w.view.peers) > 0 && a.uplink.Family() == underlay.IPv4 {
		w.forward(a.uplink, netip.AddrPortFrom(a.from, w.view.port), b)
	}
}

// payload handles a VUDP or VARP message. It reports whether other segments should get it, too.
func (w *worker) payload(id wire.MessageID, b []byte, a arrival) bool {
	if id == wire.MessageVARP {
		m, err := wire.DecodeVARP(b)
		if err != nil {
			w.refuse(err)
			return false
		}
		return w.varp(m, b, a)
	}
	vid, frame, err := wire.DecodeVUDP(b)
	if err != nil {
		w.refuse(err)
		return false
	}
	if h := w.origin(a); h != nil && w.engine.hosts.HeardVUDP(h, w.now) {
		w.engine.notify(notice{kind: noticeSpeech, addr: a.from})
	}
	return w.frameIn(vid, frame, a)
}

// refuse counts a packet that could not be decoded.
func (w *worker) refuse(err error) {
	switch {
	case errors.Is(err, wire.ErrVersion):
		w.drop(DropVersion)
	case errors.Is(err, wire.ErrMessage), errors.Is(err, wire.ErrOpcode):
		w.drop(DropMessage)
	default:
		w.drop(DropMalformed)
	}
}

// forwarded handles a VFWD message: what a peer heard on its segment.
func (w *worker) forwarded(b []byte, a arrival) {
	p := w.view.peer[a.outer]
	if p == nil {
		w.drop(DropNotPeer)
		return
	}
	f, err := wire.DecodeVFWD(b)
	if err != nil {
		w.refuse(err)
		return
	}
	p.ForwardedRx.Add(1, len(b))
	a.by = dedup.Forwarded
	if !f.Source.IsUnspecified() {
		a.from = f.Source
	}
	if _, own := w.view.own[a.from]; own {
		w.drop(DropOwn)
		return
	}
	if f.Port == w.view.secure && w.view.secure != w.view.port {
		w.protectedForward(b, f, a)
		return
	}
	id, _, err := wire.DecodeMessage(f.Payload)
	if err == nil && id == wire.MessageVFWD {
		err = wire.ErrMessage
	}
	if err == nil && !usableHost(a.from) {
		err = wire.ErrFamily
	}
	if err != nil {
		w.refuse(err)
		return
	}
	if !w.payload(id, f.Payload, a) || !f.Destination.IsMulticast() {
		return
	}
	if !w.relays.take(w.now, 1) {
		w.drop(DropRelay)
		return
	}
	from := netip.AddrPortFrom(a.from, w.view.port)
	if err := w.carrier.Relay(a.uplink.Underlay, a.uplink.path, from, a.uplink.group, w.view.ttl, f.Payload); err != nil {
		w.sendFailed(1, err)
	}
}

// frameIn takes a frame of another host. It reports whether other segments should get it, too: also
// where this host does not have the vnet.
func (w *worker) frameIn(id vnet.ID, frame []byte, a arrival) bool {
	n := a.opened
	if n == nil || n.config.ID != id {
		n = w.view.vnets[id]
	}
	source := wire.Source(frame)
	switch {
	case n == nil:
		w.dropUnknown(id, a)
		pass, _ := w.passes(w.engine.recent.Salt(id), frame, a)
		return pass
	case !n.takes(a):
		w.dropOf(n, DropSecurity)
		return false
	case len(frame) > n.longest(frame) && !offload.Whole(frame):
		w.dropOf(n, DropTooLong)
		return false
	case source.Multicast() || source.IsZero():
		w.dropOf(n, DropSource)
		return false
	}
	pass := false
	if a.host == nil {
		a.host = w.engine.hosts.See(a.outer, w.now)
	}
	if a.by == dedup.Unicast && frame[0]&1 != 0 && a.host != nil {
		w.engine.hosts.Replicated(a.host, w.now)
	}
	if a.by != dedup.Unicast || frame[0]&1 != 0 || a.host != nil && a.host.Replicates(w.now) {
		hash := w.engine.recent.Hash(n.salt, frame)
		if w.engine.recent.Returned(hash, w.now) {
			w.dropOf(n, DropLoop)
			n.suspect.Store(w.now + loopAlarm)
			w.engine.notify(notice{kind: noticeLoop, network: n, mac: source, addr: a.from})
			return false
		}
		v := w.judge(hash, a)
		pass = v.Pass
		if v.Duplicate {
			w.dropOf(n, DropDuplicate)
			if a.by == dedup.Group && v.Twin.IsValid() && v.Twin.Is4() != a.from.Is4() {
				w.noteTwins(v.Twin, a.from)
			}
			return false
		}
	}
	if !w.learnRemote(n, source, a.from, varp.Frame) {
		w.dropOf(n, DropFlapping)
		return false
	}
	w.collect(n, a.uplink, frame)
	return pass
}

// judge says what is to be done with a copy of a flooded frame or message.
func (w *worker) judge(hash uint64, a arrival) dedup.Verdict {
	v := w.engine.recent.Arrived(hash, dedup.Copy{Kind: a.by, From: a.from, Outer: a.outer, To: a.to}, w.now)
	if v.Crossed {
		w.engine.notify(notice{kind: noticeCrossed, addr: a.from, other: a.outer})
	}
	return v
}

// passes reports whether other segments should get a message that this host has no vnet for, and that it is no
// duplicate.
func (w *worker) passes(salt uint64, b []byte, a arrival) (pass, duplicate bool) {
	if len(w.view.peers) == 0 || a.by == dedup.Unicast {
		return false, false
	}
	v := w.judge(w.engine.recent.Hash(salt, b), a)
	return v.Pass, v.Duplicate
}

// origin is what is known of the host that sent a packet first; nil if nothing is.
func (w *worker) origin(a arrival) *hosts.Host {
	if a.from == a.outer {
		return a.host
	}
	return w.engine.hosts.Find(a.from)
}

// noteTwins notes that two addresses are one host's.
func (w *worker) noteTwins(a, b netip.Addr) {
	if a.Is4() {
		a, b = b, a
	}
	w.engine.hosts.SetAlias(a, b, w.now)
}

// canonical is the address by which a host that has both families is known: its IPv4 address, as long as
// we have IPv4, too. Otherwise its MACs would move to and fro between its addresses.
func (w *worker) canonical(addr netip.Addr) netip.Addr {
	if addr.Is4() || w.view.uplinks[underlay.IPv4] == nil {
		return addr
	}
	return w.engine.hosts.Canonical(addr, w.now)
}

// learnRemote notes that a MAC is behind a host. It is false if the MAC flaps and is held to live here.
func (w *worker) learnRemote(n *network, mac wire.MAC, from netip.Addr, by varp.Source) bool {
	key := varp.Key{Vnet: n.config.ID, MAC: mac}
	from = w.canonical(from)
	if from.Is6() && from.IsLinkLocalUnicast() {
		return true // no address without its link
	}
	if w.now < w.remoteCache.until && w.remoteCache.from == from && w.remoteCache.key == key {
		return true
	}
	c := w.engine.table.LearnRemote(key, from, by, w.now)
	if moved(c) {
		w.engine.mirror.evict(key)
	}
	switch c.Kind {
	case varp.Known:
		w.remoteCache = learned{key: key, from: from, until: w.now + cacheFor}
	case varp.Added:
		w.engine.pending.Done(key)
	case varp.MovedAway, varp.MovedThere:
		w.localCache.until = 0
		w.engine.notify(notice{kind: noticeMoved, network: n, mac: mac, addr: from, change: c})
	case varp.Damped:
		w.engine.notify(notice{kind: noticeFlapping, network: n, mac: mac, addr: from, change: c})
		return !w.engine.table.Local(key, w.now)
	case varp.Ignored:
		return !w.engine.table.Local(key, w.now)
	}
	return true
}

// varp handles a VARP message; b is the whole of it. It reports whether other segments should get it, too.
func (w *worker) varp(m wire.VARP, b []byte, a arrival) bool {
	pass, duplicate := w.passes(0, b, a)
	if duplicate {
		w.drop(DropDuplicate)
		return false
	}
	if m.IsProbe(b) {
		w.probe(b, a)
		return pass
	}
	n := w.view.vnets[m.Vnet]
	if n == nil {
		w.dropUnknown(m.Vnet, a)
		return pass
	}
	if !n.takes(a) {
		w.dropOf(n, DropSecurity)
		return false
	}
	if n.secured() && m.IsSealedProbe(b) {
		w.sealedProbe(n, b, a)
		return pass
	}
	if a.by == dedup.Unicast && w.unasked(m, a) {
		if h := w.engine.hosts.See(a.from, w.now); h != nil {
			w.engine.hosts.Replicated(h, w.now) // others say by the group what is no answer
		}
	}
	if m.Opcode == wire.Request {
		if w.engine.table.Local(varp.Key{Vnet: m.Vnet, MAC: m.MAC}, w.now) {
			w.reply(n, m.MAC, a.from)
		}
		return pass
	}
	if m.CareOf.IsUnspecified() {
		// A user-space original that did not find its device does not know its own address, but it is the
		// sender.
		m.CareOf = a.from
	}
	if _, own := w.view.own[m.CareOf]; own || !usableHost(m.CareOf) {
		w.dropOf(n, DropMalformed)
		return false
	}
	if key := (varp.Key{Vnet: m.Vnet, MAC: m.MAC}); w.engine.locating.waits(key) {
		w.engine.locating.claim(key, w.canonical(m.CareOf))
		if a.by == dedup.Unicast {
			w.engine.locating.reply(key, w.canonical(a.from))
		}
	}
	if !w.learnRemote(n, m.MAC, m.CareOf, varp.Announce) {
		w.dropOf(n, DropFlapping)
	}
	return pass
}

// unasked reports whether a VARP message that came by unicast is no answer. What answers the question whether its
// sender speaks only EtherIP is noted.
func (w *worker) unasked(m wire.VARP, a arrival) bool {
	if m.Opcode == wire.Request {
		return true
	}
	if a.host != nil && a.host.Asked(m.Vnet, m.MAC) {
		if (m.CareOf == a.from || m.CareOf.IsUnspecified()) && w.engine.hosts.Answered(a.host, m.Vnet, m.MAC) {
			w.engine.notify(notice{kind: noticeSpeech, addr: a.from})
		}
		return false
	}
	key := varp.Key{Vnet: m.Vnet, MAC: m.MAC}
	return !w.engine.pending.Waits(key) && !w.engine.locating.waits(key)
}

// collect keeps a frame for its vnif until deliver.
func (w *worker) collect(n *network, l *uplink, frame []byte) {
	i := len(w.inbound)
	w.inbound = append(w.inbound, inbound{frame, l, -1})
	s := &n.shares[w.number]
	if s.slot == 0 {
		w.targets = append(w.targets, target{network: n, first: i, last: i})
		s.slot = len(w.targets)
	}
	t := &w.targets[s.slot-1]
	if t.last != i {
		w.inbound[t.last].next = i
		t.last = i
	}
	t.packets++
	t.bytes += len(frame)
}

// deliver gives the collected frames to their vnifs. It changes them: what is forwarded must have been sent.
func (w *worker) deliver() {
	for i := range w.targets {
		t := &w.targets[i]
		var by *uplink
		limit := 0
		for at := t.first; at >= 0; at = w.inbound[at].next {
			in := &w.inbound[at]
			if w.view.clamp {
				if in.uplink != by {
					e := w.view.wrap(t.network, in.uplink, w.view.formFor(t.network, in.uplink, netip.Addr{}))
					by, limit = in.uplink, e.maxFrame
				}
				offload.ClampMSS(in.frame, wire.VnetHdr{}, limit)
			}
			if longest := t.network.longest(in.frame); len(in.frame) <= longest || !w.coalesce.AddWhole(in.frame, longest) {
				w.coalesce.Add(in.frame)
			}
		}
		frames := w.coalesce.Flush()
		sent, err := t.network.sender(w.number).Send(frames)
		if err != nil {
			w.from = netip.Addr{} // of several hosts
			w.dropManyOf(t.network, DropPort, uint64(len(frames)-sent))
		}
		s := &t.network.shares[w.number]
		s.slot = 0
		s.rxPackets.Add(uint64(t.packets))
		s.rxBytes.Add(uint64(t.bytes))
		s.rxFrames.Add(uint64(sent))
	}
	w.targets, w.inbound = w.targets[:0], w.inbound[:0]
}
