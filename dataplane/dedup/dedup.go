// Package dedup remembers the flooded frames of the last moment, by hash: which arrived and by which ways, so that a
// copy is told from a repetition, and which this host sent, so that a loop is.
//
// A frame that its sender repeats k times and that comes by m ways is delivered k times, in whatever order the k·m
// copies come. What goes on to other segments is judged more strictly, since what two forwarders pass to each other
// never ends: copies go on only if they come as the first did, and not often.
//
// Any number of goroutines may use a Table. It reads no clock: now is nanoseconds on any monotonic clock of the
// caller's.
package dedup

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/vnet"
)

// Kind is how a packet came.
type Kind uint8

// The kinds.
const (
	Unicast   Kind = iota
	Group          // multicast, also by another host that kept its sender's address
	Forwarded      // VFWD
)

// Copy is one arrival of a frame.
type Copy struct {
	Kind Kind
	// From is the host that sent the frame first, Outer that from which the packet came, and To the address that it
	// was sent to.
	From, Outer, To netip.Addr
}

// Verdict says what is to be done with a copy.
type Verdict struct {
	// Duplicate copies are not delivered.
	Duplicate bool
	// Pass says that other segments should get it, too.
	Pass bool
	// Twin is the host that sent the first copy, if this is the second at once: the same host by another address.
	Twin netip.Addr
	// Crossed says that one frame came by the group and by VFWD: more than one host forwards for the segment of its
	// sender, or for this one.
	Crossed bool
}

const (
	// Window is how long copies of a flooded frame that come by another way are recognised.
	Window = int64(time.Second)
	// twinWindow is how soon the copies of a frame come that one host sends over both address families.
	twinWindow = int64(50 * time.Millisecond)
	// LoopWindow is how soon an own frame must come back to be called a loop. A loop takes milliseconds;
	// a domain that migrates may well repeat a frame from its new host, but not that fast.
	LoopWindow = int64(200 * time.Millisecond)
	// maxPasses is how often one and the same frame goes on to other segments within a Window, and maxCrossed the same
	// for as long as frames came by the group and by VFWD within crossedFor.
	maxPasses  = 64
	maxCrossed = 1
	crossedFor = int64(10 * time.Second)

	shards   = 16
	arrivals = 1024 // per shard: what a replicating host sends is all noted, at its full rate
	sendings = 256  // per shard: own frames are noted only where they are flooded
	ways     = 8    // of a set
	paths    = 4
)

// Table remembers flooded frames. A full one forgets the oldest: a duplicate may pass then. What this host has sent
// and what it got do not displace each other.
type Table struct {
	seed    maphash.Seed
	crossed atomic.Int64 // until when forwarders are held to be in each other's way
	shards  [shards]shard
}

type shard struct {
	mu      sync.Mutex
	arrived [arrivals]arrival
	sent    [sendings]sending
	_       [64]byte
}

// arrival is a frame of which copies have arrived.
type arrival struct {
	hash uint64
	// first is when the first copy did; 0: the slot is free.
	first     int64
	from      netip.Addr // of the first copy
	delivered uint8
	way       uint32 // by which the first copy came
	passed    uint8  // how many went on to other segments
	paths     [paths]struct {
		way   uint32 // 0: free
		count uint8
	}
}

// sending is a frame that this host has flooded.
type sending struct {
	hash uint64
	// last is when it last did; 0: the slot is free. repeats counts since first.
	first, last int64
	repeats     uint16
}

// New returns an empty table.
func New() *Table { return &Table{seed: maphash.MakeSeed()} }

// Salt makes equal frames of two vnets differ.
func (t *Table) Salt(id vnet.ID) uint64 { return maphash.Comparable(t.seed, id) }

// Hash names a frame, or a message, of the vnet whose salt it is.
func (t *Table) Hash(salt uint64, b []byte) uint64 {
	return maphash.Bytes(t.seed, b) ^ salt
}

// way names how a copy came.
func (t *Table) way(c Copy) uint32 {
	h := maphash.Comparable(t.seed, [2]netip.Addr{c.Outer, c.To})
	return uint32(h>>8)<<3 | uint32(c.Kind)&3 | 4 // never 0
}

// set is where a frame of a hash can be in a table of n slots.
func set(hash uint64, n int) (from, to int) {
	from = int(hash>>8) % (n / ways) * ways
	return from, from + ways
}

// arrivalLocked finds the arrivals of a frame, or makes room for them where the longest known are.
func (s *shard) arrivalLocked(hash uint64) *arrival {
	from, to := set(hash, arrivals)
	oldest := &s.arrived[from]
	for i := from; i < to; i++ {
		f := &s.arrived[i]
		if f.first != 0 && f.hash == hash {
			return f
		}
		if f.first < oldest.first {
			oldest = f
		}
	}
	*oldest = arrival{hash: hash}
	return oldest
}

// sendingLocked finds a frame that was sent, and where to note it if it was not: where it is longest ago.
func (s *shard) sendingLocked(hash uint64) (f *sending, found bool) {
	from, to := set(hash, sendings)
	oldest := &s.sent[from]
	for i := from; i < to; i++ {
		f := &s.sent[i]
		if f.last != 0 && f.hash == hash {
			return f, true
		}
		if f.last < oldest.last {
			oldest = f
		}
	}
	return oldest, false
}

func (t *Table) shard(hash uint64) *shard { return &t.shards[hash%shards] }

// Arrived notes a copy of a frame, whose hash it is, and judges it.
func (t *Table) Arrived(hash uint64, c Copy, now int64) Verdict {
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.arrivalLocked(hash)
	way := t.way(c)
	// Copies bear their sender's address, or that of its other family, whatever way they come: from
	// another host it is no copy, but a domain that has moved.
	another := f.from != c.From && f.from.Is4() == c.From.Is4()
	if f.first == 0 || now-f.first > Window || another {
		f.first, f.from, f.delivered, f.way, f.passed = max(now, 1), c.From, 0, way, 0
		clear(f.paths[:])
	}
	var v Verdict
	if first := Kind(f.way & 3); first != c.Kind && first != Unicast && c.Kind != Unicast && f.from == c.From {
		v.Crossed = true
		t.crossed.Store(now + crossedFor)
	}
	count := uint8(1)
	for i := range f.paths {
		p := &f.paths[i]
		if p.way == 0 {
			p.way = way
		}
		if p.way == way {
			if p.count < 255 {
				p.count++
			}
			count = p.count
			break
		}
	}
	if count <= f.delivered {
		if f.from != c.From && now-f.first <= twinWindow {
			v.Twin = f.from
		}
		// Beyond what can be counted, deliver: better a duplicate than a frame lost.
		v.Duplicate = count < 255
		return v
	}
	f.delivered = count
	limit := uint8(maxPasses)
	if now < t.crossed.Load() {
		limit = maxCrossed
	}
	if f.way == way && f.passed < limit {
		f.passed++
		v.Pass = true
	}
	return v
}

// Sent notes that this host floods a frame, and returns how often it did so within the last second.
func (t *Table) Sent(hash uint64, now int64) int {
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	f, found := s.sendingLocked(hash)
	if !found || now-f.first > int64(time.Second) {
		*f = sending{hash: hash, first: now}
	}
	f.last = max(now, 1)
	if f.repeats < 1<<15 {
		f.repeats++
	}
	return int(f.repeats)
}

// Returned reports whether this host sent a frame so recently that its arrival from another host is a
// loop.
func (t *Table) Returned(hash uint64, now int64) bool {
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	f, found := s.sendingLocked(hash)
	return found && now-f.last <= LoopWindow
}
