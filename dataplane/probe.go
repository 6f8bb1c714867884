package dataplane

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/vnet"
)

const (
	// answerRate bounds the probes that are answered per second, and askerRate those of one asker.
	answerRate = 200
	askerRate  = 10
	// maxAskers bounds the askers that are remembered for that: more than can be answered within a second.
	maxAskers = 256
	// groupQuestions is how often it is asked whether a silent group is dead before the operator is told, once each
	// time that the cold side looks at the clock.
	groupQuestions = 3
	// maxAsked is how many hosts are asked by unicast each time.
	maxAsked = 3
	// maxSigns is how many hosts are asked for a sign of life at once.
	maxSigns = 64
)

// answerer bounds the answers to probes. Any goroutine may use it.
type answerer struct {
	all *bucket
	mu  sync.Mutex
	of  map[netip.Addr]*bucket
}

func newAnswerer() *answerer {
	return &answerer{all: newBucket(answerRate, answerRate), of: map[netip.Addr]*bucket{}}
}

// may reports whether an asker gets an answer.
func (a *answerer) may(asker netip.Addr, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.of[asker]
	if b == nil {
		if len(a.of) >= maxAskers {
			for addr, other := range a.of {
				if other.next.Load() <= now {
					delete(a.of, addr) // it may ask as much as a new one
				}
			}
		}
		if len(a.of) >= maxAskers {
			return false
		}
		b = newBucket(askerRate, askerRate)
		a.of[asker] = b
	}
	return b.take(now, 1) && a.all.take(now, 1)
}

// probe handles a VARP message that is a probe.
func (w *worker) probe(b []byte, a arrival) {
	inquiry := w.engine.inquiring.Load()
	if wire.IsAnswer(b) && !w.engine.asks(b) && !inquiry.asks(b) {
		w.drop(DropAnswer)
		return
	}
	p, err := wire.DecodeProbe(b)
	if err != nil {
		w.refuse(err)
		return
	}
	if p.Answer { // nobody else knows the nonce: the host is there
		if h := w.engine.hosts.See(a.from, w.now); h != nil {
			h.HeardByUnicast(w.now)
			h.AnsweredProbe(w.now)
			if p.Unsummed {
				h.TakesUnsummed(w.now)
			}
		}
	}
	if p.Answer && inquiry.asks(b) {
		inquiry.tell(heardAnswer{probe: p, from: a.from, size: len(b), at: time.Now()})
		return
	}
	if p.Answer {
		w.engine.notify(notice{kind: noticeAnswer, addr: a.from})
		return
	}
	if a.host != nil && a.outer == a.from {
		a.host.SentProbe(w.now)
	}
	if a.by == dedup.Group {
		inquiry.spoke(a.from)
	}
	if p.WantsGroup && a.by == dedup.Group {
		w.engine.notify(notice{kind: noticeGroupWanted, addr: a.from})
	}
	l := w.view.uplinks[underlay.Of(a.from)]
	if p.NoAnswer || l == nil {
		return
	}
	if !w.engine.answers.may(a.from, w.now) {
		w.drop(DropReply)
		return
	}
	answer := wire.Probe{
		Answer: true, Nonce: p.Nonce, CareOf: l.path.Source, Received: len(b), Group: a.by != dedup.Unicast,
		Version: "xend " + version.Version, Clock: time.Now().UnixNano(), Replicates: len(w.view.replicas) > 0,
		Unsummed:   true, // see underlay.Open
		HearsGroup: l.heard.group.Load() > 0 && w.now-l.heard.group.Load() <= w.view.groupSilence,
	}
	for _, l := range w.view.uplinks {
		if l != nil {
			answer.Addrs = append(answer.Addrs, l.path.Source)
		}
	}
	for id, n := range w.view.vnets {
		if n.config.Security == vnet.None {
			answer.VnetCount++
			if len(answer.Vnets) < len(b)/len(id) {
				answer.Vnets = append(answer.Vnets, id)
			}
		}
	}
	if p.Whole {
		answer.Whole = true
		w.engine.notify(notice{kind: noticeWhole, addr: a.from, other: l.path.Source, payload: answer.Append(nil)})
		return
	}
	at := len(w.arena)
	w.arena = answer.Append(w.arena)
	w.queue = append(w.queue, spoken{uplink: l, to: netip.AddrPortFrom(a.from, w.view.port), parts: [2][]byte{w.arena[at:]}})
}

// asks reports whether an answer is to this host's last question.
func (e *Engine) asks(answer []byte) bool {
	nonce := e.nonce.Load()
	return nonce != nil && wire.ProbeNonce(answer) == *nonce
}

// probe sends a probe to addresses that an uplink reaches.
func (s *speaker) probe(p wire.Probe, l *uplink, to ...netip.Addr) {
	p.CareOf = l.path.Source
	at := len(s.arena)
	s.arena = p.Append(s.arena)
	for _, addr := range to {
		s.queue = append(s.queue, spoken{uplink: l, to: netip.AddrPortFrom(addr, s.view.port), parts: [2][]byte{s.arena[at:]}})
	}
}

// groupWatch is what is done to find out whether a silent group is dead. It is guarded by the engine's lock.
type groupWatch struct {
	// silent says that the operator was told that the group is.
	silent bool
	since  int64 // when the group was joined, or the last doubt cleared up
	asked  int   // questions since it fell silent
	// answered is when a question was last answered, and firstAsked when it was first asked.
	answered, firstAsked int64
	// wanted is who wants to hear something by the group; the zero Addr: nobody. said is when this host obliged.
	wanted netip.Addr
	said   int64
}

// askLocked asks whether other hosts are there: by the group, and by unicast those that were heard last. Whoever gets it
// by the group says something there.
func (e *Engine) askLocked(f *family) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	e.nonce.Store(&nonce)
	now := e.now()
	known := e.hosts.List(now)
	known = slices.DeleteFunc(known, func(h hosts.Info) bool {
		return underlay.Of(h.Addr) != f.family || !e.isOther(h.Addr) || h.Unicast < 0
	})
	slices.SortFunc(known, func(a, b hosts.Info) int { return int(a.Unicast - b.Unicast) })
	p := wire.Probe{Nonce: nonce, Size: wire.MinProbe}
	e.sayLocked(func(s *speaker) {
		for _, h := range known[:min(len(known), maxAsked)] {
			s.probe(p, f.uplink, h.Addr)
		}
		p.WantsGroup = true
		s.probe(p, f.uplink, f.uplink.group.Addr())
	})
}

// askHosts asks hosts by unicast for a sign of life.
func (e *Engine) askHosts(hosts []netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	nonce := e.nonce.Load()
	if nonce == nil {
		nonce = new([16]byte)
		_, _ = rand.Read(nonce[:]) // never fails
		e.nonce.Store(nonce)
	}
	e.sayLocked(func(s *speaker) {
		for _, addr := range hosts[:min(len(hosts), maxSigns)] {
			if l := s.view.uplinks[underlay.Of(addr)]; l != nil {
				s.probe(wire.Probe{Nonce: *nonce, Size: wire.MinProbe}, l, addr)
			}
		}
	})
}

// groupWantedLocked notes that a host wants to hear something by the group. If two do, they hear each other.
func (e *Engine) groupWantedLocked(from netip.Addr) {
	for _, f := range e.underlays {
		if f.family != underlay.Of(from) {
			continue
		}
		if f.watch.wanted.IsValid() && f.watch.wanted != from {
			from = netip.Addr{}
		}
		f.watch.wanted = from
	}
}

// obligeLocked says something by the group, if a host wants to hear that.
func (e *Engine) obligeLocked(f *family, now int64) {
	if f.uplink == nil || !f.watch.wanted.IsValid() {
		return
	}
	if f.watch.said > 0 && now-f.watch.said < min(int64(time.Second), int64(e.config.GroupSilence)/10) {
		return // the next look at the clock obliges
	}
	f.watch.wanted = netip.Addr{}
	f.watch.said = now
	e.sayLocked(func(s *speaker) {
		s.probe(wire.Probe{Size: wire.MinProbe, NoAnswer: true}, f.uplink, f.uplink.group.Addr())
	})
}

// listenLocked notices that a group has gone silent. A silent network is none to wonder at: before the operator is
// told, the others are asked, and something must come from them by unicast that does not come by the group.
func (e *Engine) listenLocked(f *family, now int64) {
	limit := int64(e.config.GroupSilence)
	if f.uplink == nil || limit == 0 {
		return
	}
	w := &f.watch
	last, unicast := f.heard.group.Load(), f.heard.unicast.Load()
	silentFor := now - max(last, w.since)
	if silentFor <= limit {
		if w.silent && last > w.since {
			w.silent = false
			e.log.Info("the group is heard again", "group", f.choice.Group, "device", f.choice.Device)
		}
		w.asked = 0
		return
	}
	if w.asked == 0 {
		w.firstAsked = now
	}
	if w.asked < groupQuestions {
		w.asked++
		e.askLocked(f)
		return
	}
	there := w.answered >= w.firstAsked || unicast > 0 && now-unicast < limit
	// With replication, what others send comes by unicast in any case.
	if !w.silent && there && (last > 0 || len(e.replicas) == 0 && !e.hosts.AnyReplicates(now)) {
		w.silent = true
		e.log.Warn("nothing comes from the group any more, though other hosts are there: look at multicast between them: "+
			"IGMP snooping without a querier, a firewall, a router",
			"group", f.choice.Group, "device", f.choice.Device, "silent", time.Duration(silentFor).Round(time.Second),
			"answered", w.answered >= w.firstAsked)
	}
	if now-w.firstAsked > limit {
		w.asked = 0 // ask anew
	}
}
