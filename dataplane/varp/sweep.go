package varp

import (
	"bytes"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/vnet"
)

// sweepChunk is how many slots are looked at under one hold of the lock, so that learning waits
// microseconds for a sweep of a large table.
const sweepChunk = 2048

// each calls f, under the lock, for every entry; f may delete or replace that entry. What comes
// meanwhile may be missed, and an entry may be met twice.
func (t *Table) each(f func(e *entry)) {
	var s slots
	for start := 0; ; start += sweepChunk {
		t.mu.Lock()
		if now := *t.slots.Load(); len(s) == 0 || &now[0] != &s[0] {
			s, start = now, 0 // rebuilt: everything is in another slot
		}
		for i := start; i < min(start+sweepChunk, len(s)); i++ {
			if e := s[i].Load(); e != nil && e != tombstone {
				f(e)
			}
		}
		t.mu.Unlock()
		if start+sweepChunk >= len(s) {
			return
		}
	}
}

// Sweep forgets the entries that had no news for the TTL and returns how many. What was put in by hand
// and is elsewhere comes back.
func (t *Table) Sweep(now int64) int {
	n := 0
	t.each(func(e *entry) {
		switch {
		case !t.expired(e, now):
		case !e.byHand:
			t.deleteLocked(e)
			n++
		case e.place == remote:
			t.returnLocked(e, now)
			n++
		}
	})
	t.stats.sweeps.Add(1)
	t.stats.expired.Add(uint64(n))
	return n
}

// returnLocked makes a MAC that was put in by hand local again; a hold-down goes on.
func (t *Table) returnLocked(e *entry, now int64) {
	n := e.with(now)
	n.put(local, netip.Addr{}, Hand, now)
	t.replaceLocked(e, n)
}

// forget takes the remote entries out for which f holds.
func (t *Table) forget(f func(e *entry) bool) int {
	n := 0
	t.each(func(e *entry) {
		if e.place != remote || !f(e) {
			return
		}
		if e.byHand {
			t.returnLocked(e, e.seen.Load())
		} else {
			t.deleteLocked(e)
		}
		n++
	})
	return n
}

// FlushRemote empties the VARP cache and returns how many entries it had.
func (t *Table) FlushRemote() int {
	return t.forget(func(*entry) bool { return true })
}

// ForgetAddr takes every MAC behind the host addr out of the VARP cache and returns how many.
func (t *Table) ForgetAddr(addr netip.Addr) int {
	return t.forget(func(e *entry) bool { return e.addr == addr })
}

// ForgetVnet takes everything about a vnet out, what was put in by hand too, and returns how many
// entries that were.
func (t *Table) ForgetVnet(id vnet.ID) int {
	n := 0
	t.each(func(e *entry) {
		if e.key.Vnet == id {
			t.deleteLocked(e)
			n++
		}
	})
	return n
}

// Entry is what a table knows of a key at one moment.
type Entry struct {
	Key
	// Addr is the care-of address; the zero Addr of a MAC on this host.
	Addr netip.Addr
	// Source is how the place became known.
	Source Source
	// ByHand: the operator added it as a vif of this host.
	ByHand bool
	// Age is the time since the last news, exact to 10 ms; a MAC put in by hand ages too.
	Age time.Duration
	// Framed is the time since a frame came from there, exact to 10 ms; negative: none did since it is there.
	Framed time.Duration
	// HoldDown is for how long this host will not claim the MAC without a frame from it, if positive.
	HoldDown time.Duration
	// Damped is for how long moves will be ignored, if positive.
	Damped time.Duration
	// Moves counts the moves in the last FlapWindow that had any.
	Moves int
}

// Remote returns the VARP cache, sorted by vnet and MAC.
func (t *Table) Remote(now int64) []Entry {
	return t.list(now, func(e *entry) bool { return e.place == remote })
}

// RemoteIf returns the entries of the VARP cache that fit, sorted by vnet and MAC.
func (t *Table) RemoteIf(now int64, fits func(*Entry) bool) []Entry {
	return t.list(now, func(e *entry) bool {
		if e.place != remote {
			return false
		}
		x := e.at(now)
		return fits(&x)
	})
}

// Behind counts the entries of the VARP cache by care-of address. It visits no entry.
func (t *Table) Behind() map[netip.Addr]int {
	counts := t.byAddr.read(&t.mu)
	out := make(map[netip.Addr]int, len(counts))
	for addr, c := range counts {
		out[addr] = c.Remote
	}
	return out
}

// Place is a host's part in a vnet.
type Place struct {
	Vnet vnet.ID
	Addr netip.Addr
}

// Places counts the entries of the VARP cache by vnet and care-of address. It visits all, and makes no list of them.
func (t *Table) Places() map[Place]int {
	out := map[Place]int{}
	s := *t.slots.Load()
	for i := range s {
		if e := s[i].Load(); e != nil && e.place == remote {
			out[Place{e.key.Vnet, e.addr}]++
		}
	}
	return out
}

// Count counts the entries by vnet: those on this host, and those behind others. It visits no entry.
func (t *Table) Count() map[vnet.ID]Count { return t.byVnet.read(&t.mu) }

// Count is how many MACs of a vnet are on this host, and how many behind others.
type Count struct{ Local, Remote int }

// Vifs returns the vif table, sorted by vnet and MAC.
func (t *Table) Vifs(now int64) []Entry {
	return t.list(now, func(e *entry) bool { return e.place == local })
}

// VifsOf returns the vif table of one vnet, sorted by MAC.
func (t *Table) VifsOf(id vnet.ID, now int64) []Entry {
	return t.list(now, func(e *entry) bool { return e.place == local && e.key.Vnet == id })
}

// Entry returns what is known of one key.
func (t *Table) Entry(k Key, now int64) (Entry, bool) {
	e := t.find(&k)
	if e == nil {
		return Entry{}, false
	}
	return e.at(now), true
}

func (e *entry) at(now int64) Entry {
	framed := time.Duration(-1)
	if at := e.framed.Load(); at > 0 {
		framed = time.Duration(max(0, now-at))
	}
	return Entry{
		Key: e.key, Addr: e.addr, Source: e.source, ByHand: e.byHand, Moves: int(e.moves),
		Age:      time.Duration(max(0, now-e.seen.Load())),
		Framed:   framed,
		HoldDown: time.Duration(max(0, e.hold-now)),
		Damped:   time.Duration(max(0, e.damp-now)),
	}
}

// list needs no lock: what changes meanwhile is seen as it was or as it is.
func (t *Table) list(now int64, want func(*entry) bool) []Entry {
	var out []Entry
	s := *t.slots.Load()
	for i := range s {
		if e := s[i].Load(); e != nil && want(e) {
			out = append(out, e.at(now))
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return compareKeys(&a.Key, &b.Key) })
	// A key that went and came back meanwhile may have been met in two slots.
	return slices.CompactFunc(out, func(a, b Entry) bool { return a.Key == b.Key })
}

func compareKeys(a, b *Key) int {
	if c := a.Vnet.Compare(b.Vnet); c != 0 {
		return c
	}
	return bytes.Compare(a.MAC[:], b.MAC[:])
}

type stats struct {
	moves, damped, held, ignored, evicted, expired, sweeps atomic.Uint64
}

// Stats are a table's sizes and what happened since it was made.
type Stats struct {
	Remote, Local int    // entries now
	Moves         uint64 // of MACs from one place to another
	Damped        uint64 // times that a flapping MAC was frozen
	Held          uint64 // claims refused by hold-down
	Ignored       uint64 // news refused: damped, or a MAC or address that cannot be learned
	Evicted       uint64 // entries that made room for others
	Expired       uint64 // entries that sweeps took out
	Sweeps        uint64
}

// Stats returns sizes and counters.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	s := Stats{Remote: t.remote, Local: t.local}
	t.mu.Unlock()
	s.Moves, s.Damped, s.Held = t.stats.moves.Load(), t.stats.damped.Load(), t.stats.held.Load()
	s.Ignored, s.Evicted = t.stats.ignored.Load(), t.stats.evicted.Load()
	s.Expired, s.Sweeps = t.stats.expired.Load(), t.stats.sweeps.Load()
	return s
}
