// Package varp keeps who is where: the VARP cache (MACs behind other hosts, with their care-of
// addresses) and the vif table (MACs that live on this host). Both are views of one table, because
// a MAC of a vnet is at one place at a time and the newest information decides which.
//
// Any number of goroutines may use a Table. Lookups, and learning what is known already, take no
// lock and allocate nothing. The package does no I/O and reads no clock: now is nanoseconds on any
// monotonic clock of the caller's, never negative.
//
// A key's life:
//
//	        frame on own bridge, claim, by hand            frame or announce of a host
//	unknown ---------------------------------> local    unknown ---------------------> remote
//
//	              frame or announce of another host: held down for HoldDown
//	local  ------------------------------------------------------------------------->  remote
//	       <-------------------------------------------------------------------------
//	              frame on own bridge; or a claim, unless held down
//
//	More than FlapMoves such moves (or remote to remote) within FlapWindow: the key goes back to
//	where it was before that window, and stays there for FlapDamp, or until for FlapQuiet frames came from
//	there and nobody else has claimed it. Frames count for more than announces: in the second half of the
//	moves, an announce no longer moves what a frame has placed; and where the key was nowhere before, frames say
//	where it stays. Without news for TTL the next Sweep forgets it; a MAC that was put in by hand goes back to
//	local instead.
package varp

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Key names a virtual interface: a MAC in a vnet.
type Key struct {
	Vnet vnet.ID
	MAC  wire.MAC
}

// Source says how a table came to know an entry.
type Source uint8

// The sources.
const (
	Frame    Source = iota // the MAC was the source of a frame
	Announce               // a VARP announce, or for a local MAC what the kernel reports
	Hand                   // the operator
)

// String gives the source's name for a person.
func (s Source) String() string {
	switch s {
	case Announce:
		return "announce"
	case Hand:
		return "hand"
	}
	return "frame"
}

// Options bound a Table and set its times. Zero fields mean the values of DefaultOptions, negative
// durations and FlapMoves none.
type Options struct {
	// MaxRemote and MaxLocal bound the entries of either kind. When one more is learned, an old one
	// goes.
	MaxRemote, MaxLocal int
	// TTL is the age at which a sweep forgets an entry.
	TTL time.Duration
	// HoldDown is the time for which a MAC that another host took is not claimed back, unless a
	// frame from it is heard on the own bridge.
	HoldDown time.Duration
	// More than FlapMoves moves of one key within FlapWindow freeze it for FlapDamp.
	FlapMoves            int
	FlapWindow, FlapDamp time.Duration
	// FlapQuiet is how long only the place that holds a frozen key must have spoken for it to be released early.
	FlapQuiet time.Duration
}

// DefaultOptions are the times of the wire protocol and bounds for a large host.
func DefaultOptions() Options {
	return Options{
		MaxRemote:  100_000,
		MaxLocal:   100_000,
		TTL:        60 * time.Second,
		HoldDown:   10 * time.Second,
		FlapMoves:  10,
		FlapWindow: 10 * time.Second,
		FlapDamp:   30 * time.Second,
		FlapQuiet:  5 * time.Second,
	}
}

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	d := DefaultOptions()
	for _, p := range []struct{ v, def *int }{
		{&o.MaxRemote, &d.MaxRemote}, {&o.MaxLocal, &d.MaxLocal}, {&o.FlapMoves, &d.FlapMoves},
	} {
		if *p.v == 0 {
			*p.v = *p.def
		}
	}
	for _, p := range []struct{ v, def *time.Duration }{
		{&o.TTL, &d.TTL}, {&o.HoldDown, &d.HoldDown}, {&o.FlapWindow, &d.FlapWindow}, {&o.FlapDamp, &d.FlapDamp},
		{&o.FlapQuiet, &d.FlapQuiet},
	} {
		if *p.v == 0 {
			*p.v = *p.def
		}
	}
	return o
}

// Kind says what a learning call did.
type Kind uint8

// The kinds of change.
const (
	// Known: nothing new; the age was reset.
	Known Kind = iota
	// Added: the key was unknown.
	Added
	// MovedHere: the MAC was behind the host Change.From and is now on this host.
	MovedHere
	// MovedAway: the MAC was on this host and is now behind another.
	MovedAway
	// MovedThere: the MAC was behind the host Change.From and is now behind another.
	MovedThere
	// Damped: the key flaps; it is where it was before that, and moves are ignored for FlapDamp from now on.
	// Told once per damping, so that the operator can be told.
	Damped
	// Held: a claim was refused, because another host took the MAC a moment ago.
	Held
	// Ignored: the key is being damped, or the MAC or address is none that can be learned.
	Ignored
	// Full: the table is full of entries that were put in by hand.
	Full
)

// Change is what a learning call did.
type Change struct {
	Kind Kind
	// From is the care-of address before a MovedHere, MovedThere or Damped; the zero Addr if the
	// MAC was on this host.
	From netip.Addr
	// Moves counts the moves of this key in the running FlapWindow, this one included.
	Moves int
	// Idle is how long ago the MAC was last heard of at the place that it left: a move after silence
	// is a migration, moves without silence are a loop or a MAC that two hosts use.
	Idle time.Duration
}

// Table is the VARP cache and the vif table. Use New.
type Table struct {
	seed  [3]uint64
	slots atomic.Pointer[slots]
	stats stats

	mu     sync.Mutex // held by whoever changes slots, and guards what follows
	opt    Options
	watch  []Observer
	remote int // entries by place
	local  int
	byVnet tally[vnet.ID]
	byAddr tally[netip.Addr] // remote ones, by care-of address
	used   int               // slots that are not nil: entries and tombstones
	hand   int               // where the search for an entry to evict goes on
}

// slots is an open-addressing hash table with linear probing. Readers go without a lock: an entry is
// immutable but for its time, is replaced in its slot, and leaves a tombstone when it goes. At most
// half of the slots are in use, so every probe ends at a nil soon.
type slots []atomic.Pointer[entry]

// place is where a MAC is.
type place uint8

const (
	nowhere place = iota // a tombstone's
	local
	remote
)

type entry struct {
	key    Key
	place  place
	source Source // of the place
	byHand bool   // added with AddVif: never forgotten
	moves  uint16 // since window
	addr   netip.Addr
	window int64 // when counting moves began
	hold   int64 // until then no claim
	damp   int64 // until then no move
	// home and homeAddr are where the key was when window began; nowhere: it was unknown,
	// or known by announces only.
	home     place
	homeAddr netip.Addr
	seen     atomic.Int64
	// framed is when a frame last came from the place, and contrary when another place last claimed a frozen key.
	framed, contrary atomic.Int64
}

// tombstone marks a slot whose entry went while probes may pass through it.
var tombstone = new(entry)

// refreshEvery is how stale, in nanoseconds, an entry's time may be: a store per frame would make the
// workers fight for the cache line.
const refreshEvery = int64(10 * time.Millisecond)

// touch resets the age.
func (e *entry) touch(now int64) {
	if now-e.seen.Load() >= refreshEvery {
		e.seen.Store(now)
	}
}

// hear resets the age, for news from a source.
func (e *entry) hear(by Source, now int64) {
	e.touch(now)
	if by == Frame && now-e.framed.Load() >= refreshEvery {
		e.framed.Store(now)
	}
}

// with returns a copy of e with its own time.
func (e *entry) with(now int64) *entry {
	n := &entry{
		key: e.key, place: e.place, source: e.source, byHand: e.byHand, moves: e.moves,
		addr: e.addr, window: e.window, hold: e.hold, damp: e.damp, home: e.home, homeAddr: e.homeAddr,
	}
	n.seen.Store(now)
	n.framed.Store(e.framed.Load())
	n.contrary.Store(e.contrary.Load())
	return n
}

// put says where an entry that nobody else has yet is from now on.
func (e *entry) put(where place, addr netip.Addr, by Source, now int64) {
	e.place, e.source, e.addr = where, by, addr
	e.framed.Store(0)
	if by == Frame {
		e.framed.Store(now)
	}
}

const minSlots = 64

// New returns an empty table.
func New(o Options) *Table {
	t := &Table{opt: o.withDefaults()}
	for i := range t.seed {
		t.seed[i] = rand.Uint64() | 1
	}
	s := make(slots, minSlots)
	t.slots.Store(&s)
	return t
}

// SetOptions changes bounds and times. A table that is above a new bound shrinks as entries expire.
func (t *Table) SetOptions(o Options) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opt = o.withDefaults()
}

// Options returns the bounds and times in force.
func (t *Table) Options() Options {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.opt
}

// find returns k's entry or nil. It needs no lock.
func (t *Table) find(k *Key) *entry {
	s := *t.slots.Load()
	mask := uint64(len(s) - 1)
	for i := t.hash(k) & mask; ; i = (i + 1) & mask {
		e := s[i].Load()
		if e == nil {
			return nil
		}
		if e.key == *k {
			if e.place == nowhere {
				return nil // the zero key meets a tombstone
			}
			return e
		}
	}
}

// hash mixes a key with secret numbers, so that nobody can choose keys that all meet in one slot.
func (t *Table) hash(k *Key) uint64 {
	mac := uint64(binary.NativeEndian.Uint32(k.MAC[:])) | uint64(binary.NativeEndian.Uint16(k.MAC[4:]))<<32
	h := fold(binary.NativeEndian.Uint64(k.Vnet[:])^t.seed[0], binary.NativeEndian.Uint64(k.Vnet[8:])^t.seed[1])
	return fold(h^mac, t.seed[2])
}

// fold multiplies and adds up the halves of the product.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// Lookup returns the care-of address of the host behind which k is. An entry counts until it is swept.
func (t *Table) Lookup(k Key) (netip.Addr, bool) {
	if e := t.find(&k); e != nil && e.place == remote {
		return e.addr, true
	}
	return netip.Addr{}, false
}

// Local reports whether k lives on this host, so that it answers requests for it: not while another
// host's claim is held to be newer.
func (t *Table) Local(k Key, now int64) bool {
	e := t.find(&k)
	return e != nil && e.place == local && now >= e.hold
}
