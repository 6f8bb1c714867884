package dataplane

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// An inquiry asks all hosts that are known, and all that answer, by UDP 1798 itself: whether they are reached by the
// group and by unicast, what fits into one packet on the way there and back, and which vnets they have. It says what it saw; what to think of that is package check's.

// Inquiry is what was found out.
type Inquiry struct {
	// Hosts are those that were asked, in order of their addresses.
	Hosts []Inquired
	// More is how many known hosts were not asked, since there are too many.
	More int
	Took time.Duration
}

// Inquired is what was found out about one host, by one of its addresses.
type Inquired struct {
	hosts.Info
	// Device and DeviceMTU are those of the underlay by which it is asked.
	Device    string
	DeviceMTU int
	// NotAsked says why it was not asked; "" if it was.
	NotAsked string
	// Group and Unicast say whether a question that went that way was answered.
	ByGroup, ByUnicast bool
	// RTT is the shortest time until an answer came, 0 if none did; Tries is how often it was asked by unicast.
	RTT   time.Duration
	Tries int
	// HeardByGroup: something came from it by the group since it was asked to say something there.
	HeardByGroup bool
	// MTUTo and MTUFrom are how long an IP packet may be, in bytes, that nobody on the way fragments, at most DeviceMTU;
	// 0: not found out. MTUUnsure: the time was up before that was known to the byte, and it may be longer. Fragments says whether
	// a packet of more than DeviceMTU arrives in fragments; FragmentsAsked that it was tried.
	MTUTo, MTUFrom            int
	MTUUnsure                 bool
	Fragments, FragmentsAsked bool
	// VARP tells of the protocol's own questions, which are put to a host that answers no probe: original hosts and older ones
	// answer these.
	VARP AskedByVARP
	// Answer is what it said of itself; the zero Probe if it answered nothing.
	Answer wire.Probe
	// Clock is by how much its clock is ahead of this one's, as far as half of RTT lets one say; ClockKnown: it told.
	Clock      time.Duration
	ClockKnown bool
}

// AskedByVARP tells how a host was asked, by unicast, for MACs that are held to be behind it.
type AskedByVARP struct {
	// MACs is for how many it was asked, and Sure for how many of them it must answer if it heard the question, since a frame
	// came from them by this host just now: an original host knows its own MACs for 60 s.
	MACs, Sure int
	// Answered: it answered for one of them.
	Answered bool
}

// Answers reports whether the host answered anything.
func (h *Inquired) Answers() bool { return h.ByGroup || h.ByUnicast }

const (
	// maxInquired bounds the hosts that are asked at once.
	maxInquired = 256
	// askTries is how often a host is asked that does not answer, firstWait and maxWait how long an answer is waited for;
	// once a host has answered, a few times its RTT.
	askTries           = 3
	firstWait, maxWait = 400 * time.Millisecond, 600 * time.Millisecond
	minWait            = 60 * time.Millisecond
	// hostsWait bounds the questions to hosts by unicast. All are asked at once.
	hostsWait = 5 * time.Second
	// groupWait is how long answers are waited for after each of the questions to the group.
	groupWait = 250 * time.Millisecond
	// spokenWait is how long hosts may take to say something by the group, which is every second at most, and spokenSoon
	// that where some were heard already.
	spokenWait, spokenSoon = 3 * time.Second, 2 * time.Second
	// listenPause is the time between two looks at who spoke, and every listenRounds of them they are asked again.
	listenPause, listenRounds = 50 * time.Millisecond, 6
	// answersASecond and answersAtOnce keep within what a host answers to one asker (askerRate), of which the group's questions
	// have taken some.
	answersASecond, answersAtOnce = askerRate - 1, askerRate / 2
	// pacePause is the time between two looks at whether a host may be asked again.
	pacePause = 10 * time.Millisecond
	// sizeTries is how often a packet is sent before it is held to be too long.
	sizeTries = 2
	// beyond is by how much, in bytes, a packet exceeds the device's MTU that must come in fragments: as a full frame's.
	beyond = 64
	// maxVARP bounds the MACs that a host which answers no probe is asked for; frameSure is how old a frame may be so that its MAC must
	// be known there still, half of what original hosts keep them for.
	maxVARP   = 4
	frameSure = 30 * time.Second
)

// heardAnswer is an answer to an inquiry.
type heardAnswer struct {
	probe wire.Probe
	from  netip.Addr
	size  int
	at    time.Time
}

// inquiry is one that is under way. Workers read it.
type inquiry struct {
	prefix  [8]byte // of its nonces
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan heardAnswer
	byGroup map[netip.Addr]struct{} // who said something by the group
}

// newInquiry has a prefix that nobody guesses.
func newInquiry() *inquiry {
	q := &inquiry{waiting: map[uint64]chan heardAnswer{}, byGroup: map[netip.Addr]struct{}{}}
	_, _ = rand.Read(q.prefix[:]) // never fails
	return q
}

// spoke notes that a host said something by the group.
func (q *inquiry) spoke(from netip.Addr) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.byGroup) < 4*maxInquired {
		q.byGroup[from] = struct{}{}
	}
}

// asks reports whether an answer is to one of its questions.
func (q *inquiry) asks(answer []byte) bool {
	if q == nil {
		return false
	}
	nonce := wire.ProbeNonce(answer)
	return [8]byte(nonce[:8]) == q.prefix
}

// tell hands an answer to who waits for it; nobody may.
func (q *inquiry) tell(h heardAnswer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case q.waiting[binary.BigEndian.Uint64(h.probe.Nonce[8:])] <- h:
	default: // answered already, or nobody waits any more
	}
}

// newQuestion makes a nonce, and a channel for its answers.
func (q *inquiry) newQuestion(answers int) (nonce [16]byte, ch chan heardAnswer, done func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	id := q.last
	copy(nonce[:], q.prefix[:])
	binary.BigEndian.PutUint64(nonce[8:], id)
	ch = make(chan heardAnswer, answers)
	q.waiting[id] = ch
	return nonce, ch, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.waiting, id)
	}
}

// ErrNotRunning means that the engine carries nothing at the moment.
var ErrNotRunning = errors.New("the data plane does not run")

// MaxInquiry is what an inquiry takes at most, however many hosts there are, and however late they answer; on a machine that
// keeps up.
const MaxInquiry = askTries*groupWait + max(hostsWait, spokenWait+listenPause)

// Inquire asks all hosts. only, if valid, is the one host that is asked. It takes some seconds, and waits for another
// inquiry to end.
func (e *Engine) Inquire(ctx context.Context, only netip.Addr) (*Inquiry, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	start := time.Now()
	q := newInquiry()
	r := &inquirer{Engine: e, inquiry: q, began: e.now(), found: map[netip.Addr]*Inquired{}}
	e.inquiring.Store(q)
	defer e.inquiring.Store(nil)
	if err := r.know(only); err != nil {
		return nil, err
	}
	r.askGroup(ctx, only)
	var wg sync.WaitGroup
	limited, cancel := context.WithTimeout(ctx, hostsWait)
	defer cancel()
	for _, h := range r.found {
		if h.NotAsked == "" {
			wg.Go(func() { r.askHost(limited, h) })
		}
	}
	wg.Go(func() { r.listen(ctx) })
	wg.Wait()
	r.whoSpoke()
	out := &Inquiry{More: r.more}
	for _, h := range r.found {
		out.Hosts = append(out.Hosts, *h)
	}
	slices.SortFunc(out.Hosts, func(a, b Inquired) int { return a.Addr.Compare(b.Addr) })
	out.Took = time.Since(start)
	return out, ctx.Err()
}

// inquirer does an inquiry.
type inquirer struct {
	*Engine
	*inquiry
	began int64
	more  int
	found map[netip.Addr]*Inquired
}

// isOther is Engine.isOther by the view, without the lock.
func (r *inquirer) isOther(addr netip.Addr) bool {
	_, own := r.view.Load().own[addr]
	return addr.IsValid() && !own
}

// know lists the hosts that are known.
func (r *inquirer) know(only netip.Addr) error {
	status := r.Status()
	known := status.Hosts
	named := func(addr netip.Addr) {
		if addr.IsValid() && r.isOther(addr) && !slices.ContainsFunc(known, func(h Host) bool { return h.Addr == addr }) {
			known = append(known, Host{Info: unheard(addr)})
		}
	}
	for _, p := range status.Peers {
		named(p.Addr)
	}
	for _, p := range status.Replicate {
		named(p.Addr)
	}
	if only.IsValid() {
		known = slices.DeleteFunc(known, func(h Host) bool { return h.Addr != only && !slices.Contains(h.Aliases, only) })
		if len(known) == 0 {
			named(only)
		}
	}
	for _, h := range known {
		if len(r.found) == maxInquired {
			r.more++
			continue
		}
		r.add(h.Info)
	}
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	if r.state != stateRunning {
		return ErrNotRunning
	}
	return nil
}

// unheard is a host of which nothing was heard.
func unheard(addr netip.Addr) hosts.Info {
	return hosts.Info{Addr: addr, Group: -1, Unicast: -1, Answered: -1, Probed: -1}
}

// add adds a host, with why it is not asked.
func (r *inquirer) add(i hosts.Info) *Inquired {
	h := &Inquired{Info: i}
	r.found[i.Addr] = h
	v := r.view.Load()
	u := v.uplinks[underlay.Of(i.Addr)]
	switch {
	case u == nil:
		h.NotAsked = "this host has no underlay for its address family"
	case i.EtherIPOnly:
		h.NotAsked = "it speaks only EtherIP without UDP, as Xen up to 3.0.1"
	default:
		h.DeviceMTU = u.path.MTU
		h.Device = r.deviceNames.name(u.path.Index)
	}
	return h
}

// askGroup asks by the group, which finds hosts that are not known, too.
func (r *inquirer) askGroup(ctx context.Context, only netip.Addr) {
	nonce, answers, done := r.inquiry.newQuestion(4 * maxInquired)
	defer done()
	asked := time.Now()
	for range askTries {
		sent := time.Now()
		r.say(func(s *speaker) {
			for _, u := range s.view.uplinks {
				if u != nil {
					s.probe(wire.Probe{Nonce: nonce, Size: 4 * wire.MinProbe, WantsGroup: true}, u, u.group.Addr())
				}
			}
		})
		timeout := time.NewTimer(groupWait)
		for waiting := true; waiting; {
			select {
			case a := <-answers:
				r.groupAnswer(a, only, asked)
			case <-timeout.C:
				waiting = false
			case <-ctx.Done():
				timeout.Stop()
				return
			}
		}
		if time.Since(sent) > 2*groupWait {
			continue // this thread did not run: give others the time that they should have had
		}
		missing := false
		for _, h := range r.found {
			missing = missing || h.NotAsked == "" && !h.ByGroup
		}
		if !missing && len(r.found) > 0 {
			return
		}
	}
}

// groupAnswer notes an answer to a question by the group.
func (r *inquirer) groupAnswer(a heardAnswer, only netip.Addr, asked time.Time) {
	addr := r.hosts.Canonical(a.from, r.now())
	h := r.found[addr]
	if h == nil {
		if only.IsValid() || !r.isOther(addr) {
			return
		}
		if len(r.found) == maxInquired {
			r.more++
			return
		}
		h = r.add(unheard(addr))
	}
	if a.probe.Group {
		h.ByGroup = true
	}
	h.note(a, asked)
}

// note keeps what an answer says.
func (h *Inquired) note(a heardAnswer, asked time.Time) {
	if rtt := max(a.at.Sub(asked), time.Microsecond); h.RTT == 0 || rtt < h.RTT {
		h.RTT = rtt
		if a.probe.Clock != 0 {
			h.Clock, h.ClockKnown = time.Unix(0, a.probe.Clock).Sub(asked.Round(0).Add(rtt/2)), true
		}
	}
	if h.Answer.Version == "" || len(a.probe.Vnets) >= len(h.Answer.Vnets) {
		h.Answer = a.probe
	}
}

// say has the cold side send something.
func (r *inquirer) say(f func(*speaker)) {
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	r.sayLocked(f)
}

// wait is how long an answer of a host is waited for, until it is asked again.
func (h *Inquired) wait() time.Duration {
	if !h.ByUnicast {
		return firstWait
	}
	return min(max(2*h.RTT, minWait), maxWait)
}

// askHost finds out all about one host by unicast.
func (r *inquirer) askHost(ctx context.Context, h *Inquired) {
	for range askTries {
		h.Tries++
		asked := time.Now()
		nonce, answers, done := r.inquiry.newQuestion(1)
		r.sayTo(h, wire.Probe{Nonce: nonce, Size: 1200}) // long enough for the ids of some 60 vnets
		a, ok := h.await(ctx, answers)
		done()
		if ok {
			h.ByUnicast = true
			h.note(a, asked)
			break
		}
		if ctx.Err() != nil {
			return
		}
	}
	if !h.ByUnicast {
		r.askVARP(ctx, h)
		return
	}
	// Both ways, and fragments, at once.
	pace := newBucket(answersASecond, answersAtOnce)
	var wg sync.WaitGroup
	var unsureTo, unsureFrom bool
	wg.Go(func() { h.MTUTo, unsureTo = r.pathMTU(ctx, h, pace, false) })
	wg.Go(func() { h.MTUFrom, unsureFrom = r.pathMTU(ctx, h, pace, true) })
	wg.Go(func() {
		_, h.Fragments = r.askSized(ctx, h, pace, wire.Probe{Size: h.DeviceMTU + beyond - h.headers()})
		h.FragmentsAsked = h.Fragments || ctx.Err() == nil
	})
	wg.Wait()
	h.MTUUnsure = unsureTo || unsureFrom
}

// askVARP asks a host for the MACs that are held to be behind it, in vnets without security.
func (r *inquirer) askVARP(ctx context.Context, h *Inquired) {
	known := slices.DeleteFunc(r.Entries(Filter{Addr: h.Addr}), func(e Entry) bool {
		n := r.view.Load().vnets[e.Vnet]
		return e.State != Reachable || n == nil || n.secured()
	})
	sure := func(e Entry) bool { return e.Framed >= 0 && e.Framed < frameSure }
	slices.SortStableFunc(known, func(a, b Entry) int {
		if sure(a) != sure(b) {
			return map[bool]int{true: -1, false: 1}[sure(a)]
		}
		return cmp.Compare(a.Age, b.Age)
	})
	for _, e := range known[:min(len(known), maxVARP)] {
		answered, err := r.answersVARP(ctx, h.Addr, varp.Key{Vnet: e.Vnet, MAC: e.MAC})
		if err != nil || ctx.Err() != nil {
			return // it could not be asked
		}
		h.VARP.MACs++
		if sure(e) {
			h.VARP.Sure++
		}
		if answered {
			h.VARP.Answered = true
			return
		}
	}
}

// answersVARP asks one host by unicast whether it has a MAC, and reports whether it says so.
func (r *inquirer) answersVARP(ctx context.Context, addr netip.Addr, key varp.Key) (bool, error) {
	q, err := r.locating.begin(key)
	if err != nil {
		return false, err
	}
	defer r.locating.end(key, q)
	for range askTries {
		var err error
		r.say(func(s *speaker) {
			n, l := s.view.vnets[key.Vnet], s.view.uplinks[underlay.Of(addr)]
			if n == nil || l == nil {
				err = ErrNotRunning
				return
			}
			s.ask(n, key.MAC, l, addr)
		})
		if err != nil {
			return false, err
		}
		timeout := time.NewTimer(firstWait)
		for waiting := true; waiting; {
			select {
			case <-q.came:
				if r.locating.repliedTo(q, addr) {
					timeout.Stop()
					return true, nil
				}
			case <-timeout.C:
				waiting = false
			case <-ctx.Done():
				timeout.Stop()
				return false, nil
			}
		}
	}
	return false, nil
}

func (h *Inquired) headers() int { return underlay.Of(h.Addr).HeaderLen() }

// sayTo has the cold side send a probe to a host, in fragments if need be.
func (r *inquirer) sayTo(h *Inquired, p wire.Probe) {
	r.say(func(s *speaker) {
		if u := s.view.uplinks[underlay.Of(h.Addr)]; u != nil {
			s.probe(p, u, h.Addr)
		}
	})
}

// sendTo sends a probe to a host in one piece.
func (r *inquirer) sendTo(h *Inquired, p wire.Probe) error {
	v := r.view.Load()
	u := v.uplinks[underlay.Of(h.Addr)]
	if u == nil {
		return ErrNotRunning
	}
	p.CareOf = u.path.Source
	return r.sendWhole(u.path.Source, netip.AddrPortFrom(h.Addr, v.port), p.Append(nil))
}

// await waits for an answer to a question.
func (h *Inquired) await(ctx context.Context, answers <-chan heardAnswer) (heardAnswer, bool) {
	timeout := time.NewTimer(h.wait())
	defer timeout.Stop()
	select {
	case a := <-answers:
		return a, true
	case <-timeout.C:
	case <-ctx.Done():
	}
	return heardAnswer{}, false
}

// askSized asks so often that one loss is not taken for a packet that is too long. An answer to any of the questions counts.
func (r *inquirer) askSized(ctx context.Context, h *Inquired, pace *bucket, p wire.Probe) (heardAnswer, bool) {
	nonce, answers, done := r.inquiry.newQuestion(1)
	defer done()
	p.Nonce = nonce
	for range sizeTries {
		if !r.keepPace(ctx, pace) {
			break
		}
		r.sayTo(h, p)
		if a, ok := h.await(ctx, answers); ok {
			return a, true
		}
	}
	return heardAnswer{}, false
}

// askWhole does so with packets that nobody on the way may fragment. What is lost on the way there costs the host no answer.
func (r *inquirer) askWhole(ctx context.Context, h *Inquired, pace *bucket, p wire.Probe) bool {
	nonce, answers, done := r.inquiry.newQuestion(1)
	defer done()
	p.Nonce = nonce
	for range sizeTries {
		if ctx.Err() != nil || r.sendTo(h, p) != nil { // EMSGSIZE: the kernel knows that it is too long
			return false
		}
		if _, ok := h.await(ctx, answers); ok {
			r.keepPace(ctx, pace)
			return true
		}
	}
	return false
}

// keepPace waits until a host may be asked again; false if ctx ended first.
func (r *inquirer) keepPace(ctx context.Context, pace *bucket) bool {
	for ctx.Err() == nil {
		if pace.take(r.now(), 1) {
			return true
		}
		pause(ctx, pacePause)
	}
	return false
}

// pathMTU finds the length of the longest packet that goes to a host in one piece, or with back comes from there; 0: none did.
// It is unsure if the time was up before that was known to the byte.
func (r *inquirer) pathMTU(ctx context.Context, h *Inquired, pace *bucket, back bool) (mtu int, unsure bool) {
	fits := func(mtu int) bool {
		p := wire.Probe{Size: mtu - h.headers(), Whole: back}
		if !back {
			return r.askWhole(ctx, h, pace, p)
		}
		a, ok := r.askSized(ctx, h, pace, p)
		return ok && a.size >= mtu-h.headers()-3 // else it does not know what Whole means
	}
	low := 576 // every network of IPv4's carries that, RFC 791; and of IPv6's 1280, RFC 8200
	if !underlayIs4(h.Addr) {
		low = 1280
	}
	high := h.DeviceMTU
	if high > 65535 {
		high = 65535
	}
	switch {
	case high <= low || fits(high):
		return h.DeviceMTU, false
	case ctx.Err() != nil || !fits(low):
		return 0, false
	}
	for high-low > 1 {
		middle := (low + high) / 2
		ok := fits(middle)
		switch {
		case ok:
			low = middle
		case ctx.Err() != nil:
			return low, true
		default:
			high = middle
		}
	}
	return low, false
}

func underlayIs4(a netip.Addr) bool { return underlay.Of(a) == underlay.IPv4 }

// pause waits; it returns at once for nothing to wait for, and when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// listen finds out which hosts are heard by the group. Those that answered are asked again to say something there, and get
// the time that they need: each obliges once a second at most.
func (r *inquirer) listen(ctx context.Context) {
	since, nonce := time.Now(), [16]byte{}
	for round := 0; ; round++ {
		missing, heard := r.whoSpoke()
		wait := spokenWait
		if heard {
			wait = spokenSoon
		}
		if !missing || time.Since(since) > wait || ctx.Err() != nil {
			return
		}
		if round%listenRounds == 0 {
			r.say(func(s *speaker) {
				for _, u := range s.view.uplinks {
					if u != nil {
						s.probe(wire.Probe{Nonce: nonce, Size: wire.MinProbe, WantsGroup: true, NoAnswer: true}, u, u.group.Addr())
					}
				}
			})
		}
		pause(ctx, listenPause)
	}
}

// whoSpoke notes which hosts were heard by the group: whether one that answers is missing, and whether any was heard.
func (r *inquirer) whoSpoke() (missing, heard bool) {
	now := r.now()
	known := map[netip.Addr]hosts.Info{}
	for _, i := range r.hosts.List(now) {
		known[i.Addr] = i
	}
	r.inquiry.mu.Lock()
	spoke := map[netip.Addr]struct{}{}
	for addr := range r.byGroup {
		spoke[r.hosts.Canonical(addr, now)] = struct{}{}
	}
	r.inquiry.mu.Unlock()
	for addr, h := range r.found {
		_, h.HeardByGroup = spoke[addr]
		if i, ok := known[addr]; ok {
			h.Info.Group, h.Info.Unicast = i.Group, i.Unicast
			h.HeardByGroup = h.HeardByGroup || i.Group >= 0 && i.Group <= time.Duration(now-r.began)
		}
		heard = heard || h.HeardByGroup
		missing = missing || h.ByGroup && !h.HeardByGroup
	}
	return missing, heard
}
