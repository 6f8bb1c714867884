package dataplane

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// notice is what a worker tells the cold side.
type notice struct {
	kind    noticeKind
	network *network
	mac     wire.MAC
	addr    netip.Addr
	other   netip.Addr
	vnet    vnet.ID
	change  varp.Change
	index   int
	nonce   [16]byte
	err     error
	payload []byte
}

type noticeKind uint8

const (
	noticeMoved noticeKind = iota
	noticeFlapping
	noticeLoop
	noticeSpeech
	noticeSendError
	noticeLevel
	noticeCrossed
	noticeAnswer
	noticeGroupWanted
	noticeStranger
	noticeMember
	noticeWhole
)

const (
	// noticeQueue is how many notices wait; more are lost.
	noticeQueue = 256
	// tellEvery is how often the operator is told of one and the same thing.
	tellEvery = int64(time.Minute)
	// maxLimits bounds what is remembered for that.
	maxLimits = 1024
	// settle is the time that changes of the network are given to finish, since they come in bursts.
	settle = 20 * time.Millisecond
	// maxPause bounds the time from one look at the network to the next: a look that had to wait, on a busy machine, must not keep the
	// host from its network.
	maxPause = 2 * time.Second
	// tickEvery is the longest time between two looks at the clock.
	tickEvery = 5 * time.Second
)

// notify tells the cold side something; it never blocks.
func (e *Engine) notify(n notice) {
	select {
	case e.notices <- n:
	default:
	}
}

// cold is the cold side's loop: changes of the network, notices of the workers, time.
func (e *Engine) cold(ctx context.Context, watch <-chan hostnet.Event) error {
	ticker := time.NewTicker(e.tick())
	defer ticker.Stop()
	changed := time.NewTimer(0)
	defer changed.Stop()
	security := time.NewTimer(time.Hour)
	defer security.Stop()
	waiting, pause := true, time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-watch:
			if !ok {
				return nil // ctx ended
			}
			// Not later for each: where routes change all the time, they never settle.
			if e.networkEvent(ev) && !waiting {
				changed.Reset(max(settle, pause))
				waiting = true
			}
		case <-changed.C:
			waiting = false
			start := time.Now()
			e.refresh()
			pause = min(10*time.Since(start), maxPause) // a look at many routes takes time
		case n := <-e.notices:
			e.act(n)
		case <-e.securityKick:
			security.Reset(0)
		case <-security.C:
			e.mu.Lock()
			security.Reset(e.securityLocked())
			e.mu.Unlock()
		case <-ticker.C:
			e.mu.Lock()
			e.tickLocked()
			e.mu.Unlock()
			ticker.Reset(e.tick())
		}
	}
}

// tick is the time to the next look at the clock.
func (e *Engine) tick() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := min(tickEvery, e.config.SweepInterval)
	if e.config.GroupSilence > 0 {
		d = min(d, e.config.GroupSilence/4)
	}
	return max(d, 10*time.Millisecond)
}

// tickLocked does what is due.
func (e *Engine) tickLocked() {
	now := e.now()
	if now >= e.nextSweep {
		e.nextSweep = now + int64(e.config.SweepInterval)
		e.table.Sweep(now)
		e.pending.Sweep(now)
		e.tellDoubledLocked(now)
	}
	e.sweepHostsLocked(now)
	for _, f := range e.underlays {
		e.obligeLocked(f, now)
		e.listenLocked(f, now)
	}
	e.queueDropsLocked()
}

// tellDoubledLocked tells of MACs that a script put on this host, and has not taken off it, while another host has
// had them for longer than a migration takes. Their own domain may be silent, so that nothing moves to and fro.
func (e *Engine) tellDoubledLocked(now int64) {
	for _, d := range e.table.RemoteIf(now, (&Filter{Doubled: true}).fits) {
		a := e.networks[d.Vnet]
		if a == nil || !e.tellLocked("doubled "+d.Vnet.String()+d.MAC.String()) {
			continue
		}
		e.log.Warn("a domain on this host has a MAC that another host has, too: two domains with one MAC, or a vif that was left behind",
			"vnet", a.config.ID.Short(), "mac", d.MAC, "host", d.Addr)
	}
}

// sweepHostsLocked forgets hosts that were not heard for long, and what the operator was told long ago.
func (e *Engine) sweepHostsLocked(now int64) {
	for key, at := range e.limits {
		if now-at > tellEvery {
			delete(e.limits, key)
		}
	}
	if e.hosts.Sweep(now) {
		e.publishLocked()
	}
}

// tellLocked reports whether it is time to tell the operator of something again.
func (e *Engine) tellLocked(key string) bool {
	now := e.now()
	if at, ok := e.limits[key]; ok && now-at < tellEvery {
		return false
	}
	if len(e.limits) >= maxLimits {
		return false
	}
	e.limits[key] = now
	return true
}

// moveLog keeps moving MACs from filling the log: a domain can make as many as it likes.
type moveLog struct {
	since int64 // when the second began that is counted
	told  int   // lines of it
	more  int   // moves that got none
}

// movesTold is how many moves a second get a line.
const movesTold = 10

// tell tells whether a move gets a line of the log. How many got none is told once the second is over.
func (m *moveLog) tell(now int64, log *slog.Logger) bool {
	if now-m.since >= int64(time.Second) {
		if m.more > 0 {
			log.Info("more MACs moved", "moves", m.more)
		}
		*m = moveLog{since: now}
	}
	if m.told++; m.told > movesTold {
		m.more++
		return false
	}
	return true
}

// act does what a notice asks for.
func (e *Engine) act(n notice) {
	if n.kind == noticeWhole { // not under the lock; one that is too long for the device is not missed
		_ = e.sendWhole(n.other, netip.AddrPortFrom(n.addr, e.view.Load().port), n.payload)
		return
	}
	e.mu.Lock()
	e.noticeLocked(n)
	e.mu.Unlock()
	if n.kind == noticeMoved && !n.addr.IsValid() {
		e.notBehindVnif(n.network, n.mac)
	}
}

// noticeLocked is act with the lock held, but for what asks the kernel.
func (e *Engine) noticeLocked(n notice) {
	switch n.kind {
	case noticeMoved:
		if !e.moveLog.tell(e.now(), e.log) {
			return
		}
		from, to := n.change.From.String(), n.addr.String()
		if !n.change.From.IsValid() {
			from = "this host"
		}
		if !n.addr.IsValid() {
			to = "this host"
		}
		level := e.log.Info
		if n.change.Moves > 1 || n.addr.Is4() != n.change.From.Is4() && n.addr.IsValid() && n.change.From.IsValid() {
			// The first move is a migration; more are flapping, of which more is said. From one address family
			// to the other it is most often the same host.
			level = e.log.Debug
		}
		level("MAC moved", "vnet", n.network.config.ID.Short(), "mac", n.mac, "from", from, "to", to)
	case noticeFlapping:
		if e.tellLocked("flapping " + n.network.config.IDText + n.mac.String()) {
			e.log.Warn("MAC moves to and fro: two domains with one MAC, or a loop; it stays where it was before for a while",
				"vnet", n.network.config.ID.Short(), "mac", n.mac, "other", n.addr, "moves", n.change.Moves)
		}
	case noticeLoop:
		if e.tellLocked("loop " + n.network.config.IDText) {
			e.log.Warn("loop: a frame that this host sent came back; the vnet's bridges are joined by another way, too",
				"vnet", n.network.config.ID.Short(), "mac", n.mac, "from", n.addr)
		}
	case noticeSpeech:
		e.publishLocked()
		if _, old := e.view.Load().old[n.addr]; old {
			e.log.Info("host speaks EtherIP without UDP, as Xen up to 3.0.1: it is answered so", "host", n.addr)
		} else {
			e.log.Info("host speaks VUDP after all", "host", n.addr)
		}
	case noticeAnswer:
		for _, f := range e.underlays {
			if f.family == underlay.Of(n.addr) {
				f.watch.answered = e.now()
			}
		}
	case noticeGroupWanted:
		e.groupWantedLocked(n.addr)
		for _, f := range e.underlays {
			e.obligeLocked(f, e.now())
		}
	case noticeCrossed:
		if e.tellLocked("crossed") {
			e.log.Warn("more than one host forwards for one segment: let one host of each segment have peers, and delete those of the others",
				"sender", n.addr, "by", n.other)
		}
	case noticeStranger:
		device := e.deviceNames.name(n.index)
		if e.tellLocked("stranger " + device) {
			e.log.Warn("packets for vnets come by a device that does not lead to other hosts, and are dropped: a domain attacks, "+
				"or other hosts are routed by another device than answers to them (name it in vnet.toml: devices)",
				"device", device, "from", n.addr)
		}
	case noticeMember:
		e.tellMemberLocked(n.network.config.ID, n.addr, n.nonce, n.index)
	case noticeLevel:
		if e.tellLocked("level " + n.vnet.String() + n.addr.String()) {
			e.log.Warn("a host has the vnet at another security level; nothing of it is taken", "vnet", n.vnet.Short(), "host", n.addr)
		}
	case noticeSendError:
		if e.tellLocked("send") {
			e.log.Warn("packets cannot be sent", "err", n.err)
		}
	}
}

// networkEvent acts on a change of the network and reports whether the underlay may be affected.
func (e *Engine) networkEvent(ev hostnet.Event) bool {
	e.guards.event(ev)
	switch ev := ev.(type) {
	case hostnet.LinkEvent:
		return e.linkEvent(ev)
	case hostnet.PortEvent:
		return false // that a port came or went is told of the device, too
	case hostnet.ResyncEvent:
		e.resync()
	}
	return true
}

// fdbEvent acts on a MAC that a bridge learned or forgot.
func (e *Engine) fdbEvent(ev hostnet.FDBEvent) {
	if ev.Entry.Local {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.networkOnLocked(ev.Entry.Bridge)
	if n == nil || ev.Entry.Port == n.devices.VnifIndex {
		return
	}
	key := varp.Key{Vnet: n.config.ID, MAC: ev.Entry.MAC}
	if ev.Gone {
		if entry, ok := e.table.Entry(key, e.now()); ok && !entry.ByHand && !entry.Addr.IsValid() {
			e.table.RemoveVif(key)
		}
		return
	}
	c := e.table.Claim(key, e.now())
	if moved(c) {
		e.mirror.evict(key)
	}
	switch c.Kind {
	case varp.Added, varp.MovedHere:
		e.sayLocked(func(s *speaker) { s.announce(n, key.MAC) })
		if c.Kind == varp.MovedHere {
			e.noticeLocked(notice{kind: noticeMoved, network: n, mac: key.MAC, change: c})
		}
	case varp.Damped:
		e.noticeLocked(notice{kind: noticeFlapping, network: n, mac: key.MAC, change: c})
	}
}

// networkOnLocked finds the vnet that is on a bridge.
func (e *Engine) networkOnLocked(bridge int) *network {
	if id, ok := e.placesLocked().bridges[bridge]; ok {
		return e.networks[id].network
	}
	return nil
}

// resync looks at everything again, since events were lost.
func (e *Engine) resync() {
	e.mu.Lock()
	before := map[vnet.ID]*attachment{} // of which the list must know
	for id, a := range e.networks {
		if len(a.ports) > 0 {
			before[id] = a
		}
	}
	e.mu.Unlock()
	links, err := e.host.Links()
	if err != nil {
		e.log.Warn("devices cannot be listed", "err", err)
		return
	}
	byIndex := make(map[int]hostnet.Link, len(links))
	for _, l := range links {
		byIndex[l.Index] = l
	}
	for id, a := range before {
		vnif, ok := byIndex[a.devices.VnifIndex]
		if !ok {
			e.lost(id, a.devices.PartnerIndex)
			continue
		}
		e.mu.Lock()
		if a := e.networks[id]; a != nil && a.devices.VnifIndex == vnif.Index {
			e.joinedLocked(a, vnif.Master)
		}
		e.mu.Unlock()
		e.learner.look(id)
	}
}
