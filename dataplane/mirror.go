package dataplane

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// kernelTables are what the kernel knows; fastpath.Tables in earnest.
type kernelTables interface {
	SetTimes(fastpath.Times) error
	Alive(until uint64) error
	SetUnderlay(fastpath.Underlay) error
	ClearUnderlay(netip.Addr) error
	AddVnet(id vnet.ID, vnif, mtu int) error
	RemoveVnet(vnet.ID)
	SetHost(netip.Addr, fastpath.Host) error
	Heard(addr netip.Addr, at uint64) error
	RemoveHost(netip.Addr)
	PutRemote(id vnet.ID, mac wire.MAC, at netip.Addr, seen uint64) error
	PutLocal(id vnet.ID, mac wire.MAC, seen uint64) error
	Delete(vnet.ID, wire.MAC)
	MACs(func(fastpath.MAC)) error
	Vnets() []vnet.ID
	Hosts() []netip.Addr
	VnetCounters(vnet.ID) (fastpath.Counters, bool)
	HostCounters(netip.Addr) (fastpath.Counters, bool)
	Left() (fastpath.Left, error)
	Stop(counted func(vnet.ID, fastpath.Counters))
	Close()
}

var _ kernelTables = (*fastpath.Tables)(nil)

// mirror keeps the kernel's tables like the engine's: vnets, hosts, and where MACs are. The VARP table tells it which keys
// have changed; one goroutine writes the kernel's tables, and lets the VARP table know what the kernel has seen.
//
//	VARP table ──mark──> dirty ──run──> kernel      view ──look──> vnets, hosts, underlays
//	VARP table <──Touch── compare <─── kernel       hosts.Store ──hear──> kernel
//
// A MAC that moves is evicted by whoever learned that, before the frame that told so has any effect: an answer
// to it does not go where the MAC was before.
type mirror struct {
	engine *Engine
	wake   chan struct{}
	// open says that there are tables.
	open atomic.Bool
	// clock is that of the kernel's tables.
	clock func() uint64

	mu    sync.Mutex
	dirty map[varp.Key]struct{}
	// whole: every MAC is to be looked at; changed: the view is; network: the underlays and routes are.
	whole, changed, network bool

	// writing serialises what is written of MACs, so that none that was evicted comes back.
	writing sync.Mutex
	tables  kernelTables
	vnets   map[vnet.ID]struct{}
	put     mirroredMACs
	behind  map[netip.Addr]int
	barred  map[vnet.ID]struct{} // vnets that the kernel must not carry

	// What follows is the goroutine's own.
	hosts map[netip.Addr]mirroredHost
	// touched are devices of which something else may have changed what is at their hooks.
	touched map[int]struct{}
	// later are MACs that the kernel may not know yet, and when to look at them again.
	later map[varp.Key]int64
	// adopting is until when what an earlier run left is kept, though nothing is known of it yet.
	adopting int64
	full     bool // the operator knows that a table is
	asked    int64
	// refused is what the kernel refused last; nil: nothing.
	refused atomic.Pointer[refusal]

	// counted is what the kernel carried of what it carries no more.
	counting sync.Mutex
	counted  map[vnet.ID]fastpath.Counters
}

// mirroredMACs are where the MACs of each vnet are; the zero Addr: on this host.
type mirroredMACs map[vnet.ID]map[wire.MAC]netip.Addr

func (p mirroredMACs) of(k varp.Key) (netip.Addr, bool) {
	at, ok := p[k.Vnet][k.MAC]
	return at, ok
}

func (p mirroredMACs) set(k varp.Key, at netip.Addr) {
	if p[k.Vnet] == nil {
		p[k.Vnet] = map[wire.MAC]netip.Addr{}
	}
	p[k.Vnet][k.MAC] = at
}

func (p mirroredMACs) forget(k varp.Key) {
	if delete(p[k.Vnet], k.MAC); len(p[k.Vnet]) == 0 {
		delete(p, k.Vnet)
	}
}

// mirroredHost is a host that the kernel knows.
type mirroredHost struct {
	fastpath.Host
	heard int64 // what the kernel was told last
}

// refusal is when the kernel took something no more, and why.
type refusal struct {
	at  int64
	why string
}

const (
	// tryAgain is when what did not fit is tried again, refusedFor for how long after a refusal a table counts as full.
	tryAgain, refusedFor = int64(5 * time.Second), int64(15 * time.Second)
	// maxDirty bounds what is remembered key by key.
	maxDirty = 1 << 14
	// maxLater bounds mirror.later.
	maxLater = 1 << 14
	// hearEvery is how often the kernel is told which hosts were heard.
	hearEvery = 250 * time.Millisecond
	// checkEvery is how often it is looked whether others have come to our hooks, of which nothing tells.
	checkEvery = time.Second
	// compareEvery is how often ages are compared, if MACs live long enough.
	compareEvery = 5 * time.Second
	// adoptFor is how long vnets may take to be attached after a start.
	adoptFor = int64(15 * time.Second)
	// renewAfter is the silence, in nanoseconds, after which a host is asked for a sign of life, so that the kernel need not
	// leave packets to the sockets; renewEvery how often.
	renewAfter, renewEvery = int64(8 * time.Second), int64(2 * time.Second)
)

func newMirror(e *Engine) *mirror {
	m := &mirror{
		engine: e, wake: make(chan struct{}, 1), clock: fastpath.Now, dirty: map[varp.Key]struct{}{},
		counted: map[vnet.ID]fastpath.Counters{}, barred: map[vnet.ID]struct{}{}, touched: map[int]struct{}{},
	}
	m.clear()
	return m
}

// clear forgets what the kernel knows.
func (m *mirror) clear() {
	m.vnets, m.put, m.behind = map[vnet.ID]struct{}{}, mirroredMACs{}, map[netip.Addr]int{}
	m.hosts, m.later = map[netip.Addr]mirroredHost{}, map[varp.Key]int64{}
}

// kernelTime is a time of the engine's clock on the kernel's, and engineTime the reverse.
func (m *mirror) kernelTime(t int64) uint64 {
	now := m.clock()
	return now - min(now, uint64(max(0, m.engine.now()-t)))
}

func (m *mirror) engineTime(t uint64) int64 {
	return max(1, m.engine.now()-max(0, int64(m.clock()-t)))
}

func (m *mirror) kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// mark has the goroutine look at a MAC soon.
func (m *mirror) mark(k varp.Key) {
	if !m.open.Load() {
		return
	}
	m.mu.Lock()
	if len(m.dirty) < maxDirty {
		m.dirty[k] = struct{}{}
	} else {
		m.whole = true
	}
	m.mu.Unlock()
	m.kick()
}

// look has the goroutine look at the view soon.
func (m *mirror) look() {
	m.mu.Lock()
	m.changed = true
	m.mu.Unlock()
	m.kick()
}

// lookAtNetwork has the goroutine look at the underlays and the routes, too.
func (m *mirror) lookAtNetwork() {
	m.mu.Lock()
	m.changed, m.network = true, true
	m.mu.Unlock()
	m.kick()
}

// observer marks what the VARP table tells: no more, since that has its lock.
type observer struct{ *mirror }

var _ varp.Observer = observer{}

// Inserted, Moved and Deleted are varp.Observer's.
func (o observer) Inserted(k varp.Key, _ netip.Addr) { o.mark(k) }

// Moved is varp.Observer's.
func (o observer) Moved(k varp.Key, _, _ netip.Addr) { o.mark(k) }

// Deleted is varp.Observer's.
func (o observer) Deleted(k varp.Key, _ netip.Addr) { o.mark(k) }

// evict takes a MAC that moved, or moves to and fro, out of the kernel at once: its frames are user space's until the
// goroutine has looked at it. Any goroutine may call it, without a lock of the VARP table.
func (m *mirror) evict(k varp.Key) {
	if !m.open.Load() {
		return
	}
	m.writing.Lock()
	m.removeLocked(k)
	m.writing.Unlock()
	m.mark(k)
}

// moved reports whether a change of a MAC's place must be known to the kernel before it has any effect.
func moved(c varp.Change) bool {
	switch c.Kind {
	case varp.MovedHere, varp.MovedAway, varp.MovedThere, varp.Damped:
		return true
	}
	return false
}

// removeLocked takes a MAC out of the kernel. writing is held.
func (m *mirror) removeLocked(k varp.Key) {
	at, ok := m.put.of(k)
	if !ok || m.tables == nil {
		return
	}
	m.tables.Delete(k.Vnet, k.MAC)
	m.put.forget(k)
	m.leaveLocked(at)
}

func (m *mirror) leaveLocked(at netip.Addr) {
	if at.IsValid() {
		if m.behind[at]--; m.behind[at] <= 0 {
			delete(m.behind, at)
		}
	}
}

// start takes tables over. What they hold of an earlier run is learned, with its age, and kept until the vnets are here.
func (m *mirror) start(t kernelTables) {
	e := m.engine
	m.writing.Lock()
	m.clear()
	m.tables = t
	m.writing.Unlock()
	now := e.now()
	if vnets := t.Vnets(); len(vnets) > 0 {
		m.adopting = now + adoptFor
		m.writing.Lock()
		for _, id := range vnets {
			m.vnets[id] = struct{}{}
		}
		m.writing.Unlock()
	}
	for _, addr := range t.Hosts() {
		m.hosts[addr] = mirroredHost{Host: fastpath.Host{Send: true, Receive: true}}
	}
	err := t.MACs(func(x fastpath.MAC) {
		k, seen := varp.Key{Vnet: x.Vnet, MAC: x.MAC}, m.engineTime(x.Seen)
		if now-seen >= int64(e.table.Options().TTL) {
			return // compare deletes it
		}
		m.writing.Lock() // vnets may be barred meanwhile
		m.put.set(k, x.Addr)
		if x.Addr.IsValid() {
			m.behind[x.Addr]++
		}
		m.writing.Unlock()
		if x.Addr.IsValid() {
			e.table.LearnRemote(k, x.Addr, varp.Frame, seen)
			e.hosts.See(x.Addr, seen)
		} else {
			e.table.LearnLocal(k, seen)
		}
	})
	if err != nil {
		e.log.Warn("what the kernel carried before is not known", "err", err)
	}
	m.open.Store(true)
	m.mu.Lock()
	m.whole, m.changed = true, true
	m.mu.Unlock()
	m.kick()
}

// stop gives the tables back. Programs that are attached go on with them.
func (m *mirror) stop() {
	m.open.Store(false)
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.tables == nil {
		return
	}
	t := m.tables
	m.tables = nil
	t.Close()
	m.clear()
}

// flush writes what was marked.
func (m *mirror) flush() {
	m.mu.Lock()
	dirty, whole := m.dirty, m.whole
	m.dirty, m.whole = map[varp.Key]struct{}{}, false
	m.mu.Unlock()
	now := m.engine.now()
	for k, at := range m.later {
		if now >= at {
			delete(m.later, k)
			dirty[k] = struct{}{}
		}
	}
	if whole {
		for _, list := range [][]varp.Entry{m.engine.table.Remote(now), m.engine.table.Vifs(now)} {
			for i := range list {
				dirty[list[i].Key] = struct{}{}
			}
		}
		m.writing.Lock()
		for id, macs := range m.put {
			for mac := range macs {
				dirty[varp.Key{Vnet: id, MAC: mac}] = struct{}{}
			}
		}
		m.writing.Unlock()
	}
	for k := range dirty {
		m.set(k)
	}
}

// set makes the kernel know of a MAC what the VARP table knows, if it may.
func (m *mirror) set(k varp.Key) {
	e := m.engine
	if entry, ok := e.table.Entry(k, e.now()); ok && entry.Addr.IsValid() && m.carries(k.Vnet) {
		m.setHost(entry.Addr)
	}
	m.writing.Lock()
	defer m.writing.Unlock()
	now := e.now()
	entry, ok := e.table.Entry(k, now)
	_, carried := m.vnets[k.Vnet]
	if !ok || !carried {
		m.removeLocked(k)
		return
	}
	wait := int64(entry.Damped)
	if !entry.Addr.IsValid() {
		wait = max(wait, int64(entry.HoldDown)) // a frame of it must be heard first
	}
	if wait > 0 {
		m.removeLocked(k)
		m.postpone(k, now+wait)
		return
	}
	at, known := m.put.of(k)
	if known && at == entry.Addr {
		return
	}
	if _, set := m.hosts[entry.Addr]; entry.Addr.IsValid() && !set {
		m.removeLocked(k)
		m.postpone(k, now+tryAgain)
		return
	}
	m.writeLocked(k, entry.Addr, now-int64(entry.Age))
}

// writeLocked puts a MAC into the kernel. writing is held.
func (m *mirror) writeLocked(k varp.Key, at netip.Addr, seen int64) {
	if m.tables == nil {
		return
	}
	var err error
	if at.IsValid() {
		err = m.tables.PutRemote(k.Vnet, k.MAC, at, m.kernelTime(seen))
	} else {
		err = m.tables.PutLocal(k.Vnet, k.MAC, m.kernelTime(seen))
	}
	before, known := m.put.of(k)
	if err != nil {
		m.removeLocked(k)
		m.tell(err)
		m.postpone(k, m.engine.now()+tryAgain)
		return
	}
	if known {
		m.leaveLocked(before)
	}
	m.put.set(k, at)
	if at.IsValid() {
		m.behind[at]++
	}
}

// postpone has the goroutine look at a MAC again at a time.
func (m *mirror) postpone(k varp.Key, at int64) {
	if len(m.later) < maxLater {
		m.later[k] = at
	}
}

// lacks says what the kernel lately refused to take, which user space carries; "" for nothing.
func (m *mirror) lacks() string {
	if r := m.refused.Load(); r != nil && m.engine.now()-r.at < refusedFor {
		return r.why
	}
	return ""
}

// tell tells the operator once that a table is full: what does not fit goes by user space.
func (m *mirror) tell(err error) {
	m.refused.Store(&refusal{m.engine.now(), err.Error()})
	if m.full {
		return
	}
	m.full = true
	m.engine.log.Warn("the kernel carries only a part: user space carries the rest", "err", err)
}

func (m *mirror) carries(id vnet.ID) bool {
	m.writing.Lock()
	defer m.writing.Unlock()
	_, ok := m.vnets[id]
	return ok
}

// setHost makes the kernel know a host.
func (m *mirror) setHost(addr netip.Addr) {
	if _, known := m.hosts[addr]; known {
		return
	}
	h := m.judge(addr)
	if err := m.tables.SetHost(addr, h.Host); err != nil {
		m.tell(err)
		return
	}
	m.hosts[addr] = h
	m.hearHost(addr, h)
}

// judge says what the kernel may do with a host: send to it what travels in UDP, and take its frames if it does not flood
// them by unicast, since then user space must tell copies apart.
func (m *mirror) judge(addr netip.Addr) mirroredHost {
	e := m.engine
	v := e.view.Load()
	h := mirroredHost{}
	way, ok := v.encap(openVnet, addr)
	_, own := v.own[addr]
	rec := e.hosts.Find(addr)
	// The kernel's packets have no outer checksum, which other hosts may refuse over IPv6.
	taken := addr.Is4() || rec != nil && rec.Unsummed(e.now())
	if ok && way.form == inUDP && taken {
		to := e.programs.reaches(addr)
		h.Send, h.Via = to.ok, to.via
	}
	h.Receive = !own && (rec == nil || !rec.Replicates(e.now()))
	return h
}

// judgeAll judges the hosts that the kernel knows again.
func (m *mirror) judgeAll() {
	for addr, before := range m.hosts {
		m.judgeOne(addr, before)
	}
}

func (m *mirror) judgeOne(addr netip.Addr, before mirroredHost) {
	h := m.judge(addr)
	if h.Host == before.Host {
		return
	}
	if err := m.tables.SetHost(addr, h.Host); err != nil {
		m.tell(err)
		return
	}
	h.heard = before.heard
	m.hosts[addr] = h
}

// hear tells the kernel which hosts sockets have heard.
func (m *mirror) hear() {
	now := m.engine.now()
	_ = m.tables.Alive(m.kernelTime(now) + uint64(3*hearEvery))
	var silent []netip.Addr
	for addr, h := range m.hosts {
		h = m.hearHost(addr, h)
		rec := m.engine.hosts.Find(addr)
		if rec != nil && (rec.Replicates(now) == h.Receive || addr.Is6() && rec.Unsummed(now) != h.Send) {
			m.judgeOne(addr, h)
			h = m.hosts[addr]
		}
		if now-h.heard > renewAfter || addr.Is6() && (rec == nil || !rec.Unsummed(now)) {
			silent = append(silent, addr)
		}
	}
	if len(silent) > 0 && now-m.asked > renewEvery {
		m.asked = now
		m.engine.askHosts(silent)
	}
}

func (m *mirror) hearHost(addr netip.Addr, h mirroredHost) mirroredHost {
	rec := m.engine.hosts.Find(addr)
	if rec == nil {
		return h
	}
	if at := rec.UnicastHeard(); at > h.heard && m.tables.Heard(addr, m.kernelTime(at)) == nil {
		h.heard = at
		m.hosts[addr] = h
	}
	return h
}

// compare lets either side know what the other has seen, and removes what nothing is known of.
func (m *mirror) compare() {
	e := m.engine
	now := e.now()
	stale := int64(e.table.Options().TTL) / 8
	var strays, young []varp.Key
	err := m.tables.MACs(func(x fastpath.MAC) {
		k := varp.Key{Vnet: x.Vnet, MAC: x.MAC}
		m.writing.Lock()
		at, known := m.put.of(k)
		m.writing.Unlock()
		if !known || at != x.Addr {
			strays = append(strays, k)
			return
		}
		entry, ok := e.table.Entry(k, now)
		if !ok || entry.Addr != at {
			m.mark(k)
			return
		}
		seen, last := m.engineTime(x.Seen), now-int64(entry.Age)
		switch {
		case seen > last:
			e.table.Touch(k, at, seen)
		case last-seen > stale:
			young = append(young, k)
		}
	})
	if err != nil {
		e.log.Debug("what the kernel has seen is not known", "err", err)
		return
	}
	// One by one: a worker that moves a MAC waits for the lock.
	for _, k := range strays {
		m.writing.Lock()
		if _, known := m.put.of(k); !known {
			m.tables.Delete(k.Vnet, k.MAC)
		}
		m.writing.Unlock()
	}
	for _, k := range young {
		m.writing.Lock()
		if entry, ok := e.table.Entry(k, now); ok && entry.Damped <= 0 {
			if at, known := m.put.of(k); known && at == entry.Addr {
				m.writeLocked(k, at, now-int64(entry.Age))
			}
		}
		m.writing.Unlock()
	}
	m.writing.Lock()
	var idle []netip.Addr
	if now >= m.adopting {
		for addr := range m.hosts {
			if m.behind[addr] == 0 {
				idle = append(idle, addr)
			}
		}
	}
	m.writing.Unlock()
	for _, addr := range idle {
		m.removeHost(addr)
	}
}

// removeHost takes a host out of the kernel, and keeps what was counted.
func (m *mirror) removeHost(addr netip.Addr) {
	m.counting.Lock()
	c, ok := m.tables.HostCounters(addr)
	m.tables.RemoveHost(addr)
	if rec := m.engine.hosts.Find(addr); ok && rec != nil {
		rec.Tx.Add(int(c.TxFrames), int(onWire(c.TxFrames, c.TxBytes)))
		rec.Rx.Add(int(c.RxFrames), int(onWire(c.RxFrames, c.RxBytes)))
	}
	m.counting.Unlock()
	delete(m.hosts, addr)
}

// onWire is how many bytes frames have with our headers, without IP and UDP.
func onWire(frames, bytes uint64) uint64 { return bytes + frames*uint64(len(openVnet.header)) }

// addVnet lets the kernel carry a vnet.
func (m *mirror) addVnet(id vnet.ID, vnif, mtu int) error {
	m.writing.Lock()
	if _, barred := m.barred[id]; barred {
		m.writing.Unlock()
		return nil // of which the view does not know yet
	}
	err := m.tables.AddVnet(id, vnif, mtu)
	_, known := m.vnets[id]
	if err == nil {
		m.vnets[id] = struct{}{}
	}
	m.writing.Unlock()
	if err != nil {
		return err
	}
	if !known {
		m.mu.Lock()
		m.whole = true
		m.mu.Unlock()
	}
	return nil
}

// bar takes a vnet out of the kernel before its packets must be sealed or it is carried no more, until unbar.
func (m *mirror) bar(id vnet.ID) {
	m.writing.Lock()
	m.barred[id] = struct{}{}
	m.writing.Unlock()
	m.removeVnet(id)
}

// unbar lets the kernel carry a vnet again.
func (m *mirror) unbar(id vnet.ID) {
	m.writing.Lock()
	delete(m.barred, id)
	m.writing.Unlock()
}

// forgetBars forgets the bars of vnets that a view does not have, and what the kernel counted of them: it is not older than
// they are.
func (m *mirror) forgetBars(v *view) {
	m.writing.Lock()
	defer m.writing.Unlock()
	for id := range m.barred {
		if _, there := v.vnets[id]; !there {
			delete(m.barred, id)
		}
	}
	m.counting.Lock()
	defer m.counting.Unlock()
	maps.DeleteFunc(m.counted, func(id vnet.ID, _ fastpath.Counters) bool { return v.vnets[id] == nil })
}

// removeVnet takes a vnet out of the kernel, and keeps what was counted.
func (m *mirror) removeVnet(id vnet.ID) {
	m.writing.Lock()
	defer m.writing.Unlock()
	if _, known := m.vnets[id]; !known || m.tables == nil {
		return
	}
	m.counting.Lock()
	if c, ok := m.tables.VnetCounters(id); ok {
		m.countLocked(id, c)
	}
	m.tables.RemoveVnet(id)
	m.counting.Unlock()
	delete(m.vnets, id)
	for _, at := range m.put[id] {
		m.leaveLocked(at)
	}
	delete(m.put, id)
}

// end has the kernel carry nothing more, keeps what was counted, and gives the tables back. MACs are not taken out one by one: they
// go with the tables.
func (m *mirror) end() {
	m.counting.Lock() // whoever asks meanwhile counts nothing twice
	m.tables.Stop(m.countLocked)
	m.counting.Unlock()
	for addr := range maps.Clone(m.hosts) {
		m.removeHost(addr)
	}
	m.stop()
}

// countLocked keeps what the kernel has carried of a vnet, if that is not gone. counting is held.
func (m *mirror) countLocked(id vnet.ID, c fastpath.Counters) {
	if _, there := m.engine.view.Load().vnets[id]; there {
		m.counted[id] = sum(m.counted[id], c)
	} else {
		delete(m.counted, id)
	}
}

func sum(a, b fastpath.Counters) fastpath.Counters {
	return fastpath.Counters{
		TxFrames: a.TxFrames + b.TxFrames, TxBytes: a.TxBytes + b.TxBytes, RxFrames: a.RxFrames + b.RxFrames, RxBytes: a.RxBytes + b.RxBytes,
	}
}

// carriedOf is what the kernel has carried of a vnet.
func (m *mirror) carriedOf(id vnet.ID) fastpath.Counters {
	t := m.tablesNow()
	m.counting.Lock()
	defer m.counting.Unlock()
	c := m.counted[id]
	if t != nil {
		if now, ok := t.VnetCounters(id); ok {
			c = sum(c, now)
		}
	}
	return c
}

// carriedWith is what the kernel has carried to and from a host that it knows.
func (m *mirror) carriedWith(addr netip.Addr) fastpath.Counters {
	t := m.tablesNow()
	m.counting.Lock()
	defer m.counting.Unlock()
	if t == nil {
		return fastpath.Counters{}
	}
	c, _ := t.HostCounters(addr)
	return c
}

func (m *mirror) tablesNow() kernelTables {
	m.writing.Lock()
	defer m.writing.Unlock()
	return m.tables
}

// left is what the kernel left to user space.
func (m *mirror) left() fastpath.Left {
	if t := m.tablesNow(); t != nil {
		if l, err := t.Left(); err == nil {
			return l
		}
	}
	return fastpath.Left{}
}

// vnetsNow are the vnets that the kernel carries.
func (m *mirror) vnetsNow() []vnet.ID {
	m.writing.Lock()
	defer m.writing.Unlock()
	return slices.Collect(maps.Keys(m.vnets))
}

// run keeps the kernel's tables right until ctx ends. tc tells of changes of traffic control, rules of those of the firewall.
func (m *mirror) run(ctx context.Context, tc <-chan hostnet.Event, rules <-chan struct{}) error {
	defer m.stop()
	defer m.engine.programs.shortcuts.release()
	tick := time.NewTicker(hearEvery)
	defer tick.Stop()
	var compared, verified, checked time.Time
	hear := true // at the start and by the tick; a wake tells that something was learned, and that may be often
	again := false
	for {
		m.mu.Lock()
		changed, network := m.changed, m.network
		m.changed, m.network = false, false
		m.mu.Unlock()
		verify := time.Since(verified) > m.engine.programs.verifyEvery
		if hear && again { // others may do that as often as they like
			verify, again = true, false
		}
		if verify {
			verified = time.Now()
		}
		if hear && m.open.Load() && time.Since(checked) > checkEvery {
			checked = time.Now()
			m.engine.programs.disturbed(m.touched)
		}
		if touched := hear && len(m.touched) > 0; changed || verify || touched {
			m.engine.programs.sync(network, verify, m.touched)
			clear(m.touched)
		}
		var due <-chan time.Time // without tables nothing is
		if m.open.Load() {
			due = tick.C
			m.flush()
			if hear {
				hear = false
				m.hear()
			}
			if time.Since(compared) > min(compareEvery, m.engine.table.Options().TTL/4) {
				compared = time.Now()
				m.compare()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case _, ok := <-rules: // once a second at most
			if !ok {
				rules = nil
				continue
			}
			m.lookAtNetwork()
		case ev := <-tc:
			switch ev := ev.(type) {
			case hostnet.TCEvent:
				if m.open.Load() {
					m.touched[ev.Index] = struct{}{}
					again = again || ev.Index == 0
				}
			case hostnet.ResyncEvent:
				again = true
			}
		case <-due:
			hear = true
		}
	}
}
