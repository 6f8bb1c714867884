// Package hosts keeps what is known of other hosts: one record for each, with what it speaks, whether it replicates,
// when it was last heard, what went to and fro, and who named it.
//
// Any number of goroutines may use a Store. Find, and what a record notes, take no lock and allocate nothing. The package
// does no I/O and reads no clock: now is nanoseconds on any monotonic clock of the caller's, greater than 0.
package hosts

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

const (
	// MaxHosts bounds the records of hosts that nobody named. Where one more comes, those go that were heard longest ago.
	MaxHosts = 4096
	// MaxEtherIP bounds the hosts that are held to speak only EtherIP: each gets a copy of its own of what is flooded.
	MaxEtherIP = 16
	// TTL is after what silence, in nanoseconds, a host that nobody named is forgotten, is no longer held to replicate,
	// and is asked again whether it speaks only EtherIP, though it once spoke VUDP.
	TTL = int64(10 * time.Minute)
	// aliasTTL is how long it is believed that two addresses are one host's.
	aliasTTL = int64(60 * time.Second)

	// maxFresh is how many records are added until the index is made anew.
	maxFresh = 64
	// newRate bounds the new records per second, and newBurst those at once: sources can be invented.
	newRate, newBurst = 1000, 1000

	// Whether a host speaks only EtherIP is asked askTries times, askInterval apart, then again after TTL; and of all hosts
	// together at most askRate times a second, since sources of EtherIP can be invented.
	askTries    = 5
	askInterval = int64(3 * time.Second)
	askRate     = 20

	// step is how stale, in nanoseconds, a noted time may be: a store per packet would be wasted.
	step = int64(100 * time.Millisecond)
)

// Counter counts packets and bytes one way.
type Counter struct{ packets, bytes atomic.Uint64 }

// Add counts packets with their bytes.
func (c *Counter) Add(packets, bytes int) {
	c.packets.Add(uint64(packets))
	c.bytes.Add(uint64(bytes))
}

// Load returns the packets and bytes counted.
func (c *Counter) Load() (packets, bytes uint64) { return c.packets.Load(), c.bytes.Load() }

// Host is the record of one host, by one of its addresses.
type Host struct {
	addr netip.Addr
	// Tx and Rx count packets on the wire to and from the host by unicast, their bytes without IP and UDP headers;
	// ForwardedTx and ForwardedRx those of them that are VFWD.
	Tx, Rx                   Counter
	ForwardedTx, ForwardedRx Counter
	// Drops counts what came from the host and was not passed on, by reason.
	Drops Tally

	group, unicast, replicated, vudp, unsummed atomic.Int64 // when last; 0: never
	answered, probed                           atomic.Int64
	alias                                      atomic.Pointer[alias]
	etherIP                                    atomic.Bool // it speaks only that
	asked                                      atomic.Pointer[question]
	named                                      bool // guarded by the store's lock
}

// alias is another address of a host.
type alias struct {
	addr  netip.Addr
	heard atomic.Int64
}

// question is a VARP request that a host was sent to find out whether it speaks only EtherIP.
type question struct {
	vnet  vnet.ID
	mac   wire.MAC
	tries int
	at    int64
}

func note(at *atomic.Int64, now int64) {
	if now-at.Load() > step {
		at.Store(now)
	}
}

// Addr is the address that the record is about.
func (h *Host) Addr() netip.Addr { return h.addr }

// HeardByGroup notes that a packet came from the host by the group.
func (h *Host) HeardByGroup(now int64) { note(&h.group, now) }

// HeardByUnicast notes that a packet came from the host by unicast.
func (h *Host) HeardByUnicast(now int64) { note(&h.unicast, now) }

// UnicastHeard is when a packet last came from the host by unicast, exact to 100 ms; 0: never.
func (h *Host) UnicastHeard() int64 { return h.unicast.Load() }

// AnsweredProbe notes that the host answered a probe of this host's.
func (h *Host) AnsweredProbe(now int64) { note(&h.answered, now) }

// SentProbe notes that the host sent a probe, which original ones don't.
func (h *Host) SentProbe(now int64) { note(&h.probed, now) }

// TakesUnsummed notes that the host told that it takes UDP over IPv6 without a checksum.
func (h *Host) TakesUnsummed(now int64) { note(&h.unsummed, now) }

// Unsummed reports whether the host has told that lately.
func (h *Host) Unsummed(now int64) bool {
	at := h.unsummed.Load()
	return at > 0 && now-at <= TTL
}

// Replicates reports whether the host sends by unicast what is for everybody.
func (h *Host) Replicates(now int64) bool {
	at := h.replicated.Load()
	return at > 0 && now-at <= TTL
}

// EtherIPOnly reports whether the host is held to speak EtherIP without UDP and nothing else.
func (h *Host) EtherIPOnly() bool { return h.etherIP.Load() }

// last is when the host was last heard.
func (h *Host) last() int64 { return max(h.group.Load(), h.unicast.Load()) }

// Store is what is known of other hosts. Use New.
type Store struct {
	index      atomic.Pointer[index]
	replicated atomic.Int64 // when any host last did
	fresh, ask bucket

	mu      sync.Mutex
	sources []source
	unnamed int
	etherIP int
}

// index finds records. Both maps are replaced, never changed; fresh is small, so that adding is cheap.
type index struct{ base, fresh map[netip.Addr]*Host }

func (x *index) find(addr netip.Addr) *Host {
	if len(x.fresh) > 0 {
		if h := x.fresh[addr]; h != nil {
			return h
		}
	}
	return x.base[addr]
}

func (x *index) all(yield func(*Host) bool) {
	for _, m := range []map[netip.Addr]*Host{x.base, x.fresh} {
		for _, h := range m {
			if !yield(h) {
				return
			}
		}
	}
}

// New returns an empty store.
func New() *Store {
	s := &Store{fresh: bucket{rate: newRate, burst: newBurst}, ask: bucket{rate: askRate, burst: askRate}}
	s.index.Store(&index{})
	return s
}

// Find returns a host's record; nil if there is none.
func (s *Store) Find(addr netip.Addr) *Host { return s.index.Load().find(addr) }

// See returns the record of a host that was heard, and makes one if there is none. It returns nil where too many hosts
// are new at once.
func (s *Store) See(addr netip.Addr, now int64) *Host {
	if h := s.Find(addr); h != nil {
		return h
	}
	if !s.fresh.take(now) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.addLocked(addr, now)
	h.unicast.CompareAndSwap(0, now) // so that it is not the oldest
	return h
}

// addLocked returns a host's record and makes it if need be.
func (s *Store) addLocked(addr netip.Addr, now int64) *Host {
	if h := s.Find(addr); h != nil {
		return h
	}
	if s.unnamed >= MaxHosts {
		s.evictLocked()
	}
	x := s.index.Load()
	h := &Host{addr: addr}
	s.unnamed++
	next := &index{base: x.base}
	if len(x.fresh) >= maxFresh {
		next.base = make(map[netip.Addr]*Host, len(x.base)+len(x.fresh))
		maps.Copy(next.base, x.base)
		maps.Copy(next.base, x.fresh)
		next.fresh = map[netip.Addr]*Host{addr: h}
	} else {
		next.fresh = make(map[netip.Addr]*Host, len(x.fresh)+1)
		maps.Copy(next.fresh, x.fresh)
		next.fresh[addr] = h
	}
	s.index.Store(next)
	return h
}

// evictLocked forgets an eighth of the hosts that nobody named and that do not speak only EtherIP.
func (s *Store) evictLocked() {
	var old []*Host
	for h := range s.index.Load().all {
		if !h.named && !h.EtherIPOnly() {
			old = append(old, h)
		}
	}
	slices.SortFunc(old, func(a, b *Host) int { return cmp.Compare(a.last(), b.last()) })
	s.removeLocked(old[:min(len(old), MaxHosts/8)])
}

func (s *Store) removeLocked(list []*Host) {
	if len(list) == 0 {
		return
	}
	base := map[netip.Addr]*Host{}
	for h := range s.index.Load().all {
		base[h.addr] = h
	}
	for _, h := range list {
		delete(base, h.addr)
		s.unnamed--
		if h.etherIP.Swap(false) {
			s.etherIP--
		}
	}
	s.index.Store(&index{base: base})
}

// Sweep forgets hosts that nobody named and that were not heard for TTL. It reports whether one of them was held to
// speak only EtherIP, or is so no more.
func (s *Store) Sweep(now int64) (etherIPChanged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var silent []*Host
	for h := range s.index.Load().all {
		if now-h.last() <= TTL {
			continue
		}
		if h.etherIP.Load() {
			etherIPChanged = true
			if h.named && h.etherIP.Swap(false) {
				s.etherIP--
			}
		}
		if !h.named {
			silent = append(silent, h)
		}
	}
	s.removeLocked(silent)
	return etherIPChanged
}

// Replicated notes that a host sends by unicast what is for everybody. It holds from now on.
func (s *Store) Replicated(h *Host, now int64) {
	note(&h.replicated, now)
	note(&s.replicated, now)
}

// AnyReplicates reports whether any host does.
func (s *Store) AnyReplicates(now int64) bool {
	at := s.replicated.Load()
	return at > 0 && now-at <= TTL
}

// SetAlias notes that addr is one host's with known, by which it is known from now on. It reports whether that is new.
func (s *Store) SetAlias(addr, known netip.Addr, now int64) bool {
	h := s.See(addr, now)
	if h == nil {
		return false
	}
	if a := h.alias.Load(); a != nil && a.addr == known {
		isNew := now-a.heard.Load() > aliasTTL
		note(&a.heard, now)
		return isNew
	}
	a := &alias{addr: known}
	a.heard.Store(now)
	h.alias.Store(a)
	return true
}

// Canonical is the address by which the host with addr is known.
func (s *Store) Canonical(addr netip.Addr, now int64) netip.Addr {
	if h := s.Find(addr); h != nil {
		if a := h.alias.Load(); a != nil && now-a.heard.Load() <= aliasTTL {
			return a.addr
		}
	}
	return addr
}

// HeardVUDP notes that a host speaks VUDP. It reports whether that is news: the host was held to speak only EtherIP.
func (s *Store) HeardVUDP(h *Host, now int64) (changed bool) {
	note(&h.vudp, now)
	if !h.etherIP.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !h.etherIP.Swap(false) {
		return false
	}
	s.etherIP--
	h.asked.Store(nil)
	return true
}

// HeardEtherIP notes a frame of mac that a host sent by EtherIP. It reports whether the host should be asked, by a VARP
// request to it, for that MAC: only who answers is held to speak only EtherIP, since a source can be invented.
func (s *Store) HeardEtherIP(h *Host, id vnet.ID, mac wire.MAC, now int64) (ask bool) {
	note(&h.unicast, now)
	if h.etherIP.Load() {
		return false
	}
	if at := h.vudp.Load(); at > 0 && now-at <= TTL {
		return false
	}
	before := h.asked.Load()
	q := &question{vnet: id, mac: mac, tries: 1, at: now}
	if before != nil {
		wait := askInterval
		if before.tries >= askTries {
			wait = TTL
		}
		if now-before.at < wait {
			return false
		}
		if before.tries < askTries {
			q.tries = before.tries + 1
		}
	}
	return s.ask.take(now) && h.asked.CompareAndSwap(before, q)
}

// Asked reports whether the host was asked for a MAC, to find out what it speaks.
func (h *Host) Asked(id vnet.ID, mac wire.MAC) bool {
	q := h.asked.Load()
	return q != nil && q.vnet == id && q.mac == mac
}

// Answered notes that a host announced, by unicast, that it has a MAC. It reports whether the host is held to speak only
// EtherIP from now on, because it was asked for that.
func (s *Store) Answered(h *Host, id vnet.ID, mac wire.MAC) (changed bool) {
	q := h.asked.Load()
	if q == nil || q.vnet != id || q.mac != mac || h.etherIP.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etherIP >= MaxEtherIP || h.etherIP.Load() || s.Find(h.addr) != h {
		return false
	}
	h.etherIP.Store(true)
	s.etherIP++
	return true
}

// EtherIPOnly returns the hosts that are held to speak only EtherIP, in order of their addresses.
func (s *Store) EtherIPOnly() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etherIP == 0 {
		return nil
	}
	var out []netip.Addr
	for h := range s.index.Load().all {
		if h.etherIP.Load() {
			out = append(out, h.addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// Info is what is known of a host at one moment.
type Info struct {
	Addr netip.Addr
	// Aliases are other addresses of the host.
	Aliases []netip.Addr
	// EtherIPOnly: it speaks nothing else. Replicates: it sends by unicast what is for everybody.
	EtherIPOnly, Replicates bool
	// Group and Unicast are the times since it was last heard that way; negative: never.
	Group, Unicast time.Duration
	// Answered is the time since it last answered a probe of this host's, and Probed since it last sent one, as anybody with its
	// address may have; negative: never.
	Answered, Probed time.Duration
	// Sources name the host, in the order in which they were first set.
	Sources []string
	// Packets and bytes by unicast.
	TxPackets, TxBytes, RxPackets, RxBytes uint64
	// Drops counts what came from it and was not passed on, by reason; nil: nothing.
	Drops *[MaxKinds]uint64
}

// Heard is the time since the host was last heard by any way; negative: never.
func (i Info) Heard() time.Duration {
	if i.Group < 0 || i.Unicast >= 0 && i.Unicast < i.Group {
		return i.Unicast
	}
	return i.Group
}

// List returns all hosts in order of their addresses. An address that is another's alias has no entry of its own, unless
// somebody named it.
func (s *Store) List(now int64) []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := func(at *atomic.Int64) time.Duration {
		if t := at.Load(); t > 0 {
			return time.Duration(max(0, now-t))
		}
		return -1
	}
	aliases := map[netip.Addr][]netip.Addr{}
	out := []Info{}
	for h := range s.index.Load().all {
		if known := s.Canonical(h.addr, now); known != h.addr {
			aliases[known] = append(aliases[known], h.addr)
			if !h.named {
				continue
			}
		}
		i := Info{
			Addr: h.addr, EtherIPOnly: h.EtherIPOnly(), Replicates: h.Replicates(now),
			Group: age(&h.group), Unicast: age(&h.unicast), Answered: age(&h.answered), Probed: age(&h.probed),
		}
		i.TxPackets, i.TxBytes = h.Tx.Load()
		i.RxPackets, i.RxBytes = h.Rx.Load()
		i.Drops = h.Drops.Load()
		for _, src := range s.sources {
			if slices.ContainsFunc(src.list, func(n Named) bool { return n.Addr == h.addr }) {
				i.Sources = append(i.Sources, src.name)
			}
		}
		out = append(out, i)
	}
	for i := range out {
		out[i].Aliases = aliases[out[i].Addr]
		slices.SortFunc(out[i].Aliases, netip.Addr.Compare)
	}
	slices.SortFunc(out, func(a, b Info) int { return a.Addr.Compare(b.Addr) })
	return out
}
