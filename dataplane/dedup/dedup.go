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

	shards = 16
	slots  = 256 // per shard
	ways   = 8   // of a set
	paths  = 4
)

// Table remembers flooded frames. A full one forgets the oldest: a duplicate may pass then, but what this host has
// just sent stays.
type Table struct {
	seed    maphash.Seed
	crossed atomic.Int64 // until when forwarders are held to be in each other's way
	shards  [shards]shard
}

type shard struct {
	mu    sync.Mutex
	slots [slots]frame
	_     [64]byte
}

type frame struct {
	hash uint64
	// first is when the first copy arrived; 0: none did.
	first     int64
	from      netip.Addr // of the first copy
	delivered uint8
	way       uint32 // by which the first copy came
	passed    uint8  // how many went on to other segments
	paths     [paths]struct {
		way   uint32 // 0: free
		count uint8
	}
	// sent is when this host last sent the frame; 0: it did not. repeats counts since sentFirst.
	sent, sentFirst int64
	repeats         uint16
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

// frameLocked finds or makes the entry of a hash. The slot that was used longest ago makes room, those last that
// tell loops.
func (s *shard) frameLocked(hash uint64, now int64) *frame {
	base := int(hash>>8) % (slots / ways) * ways
	set := s.slots[base : base+ways]
	var oldest *frame
	var since int64
	for i := range set {
		f := &set[i]
		if f.hash == hash {
			return f
		}
		at := max(f.first, f.sent)
		if f.sent != 0 && now-f.sent <= LoopWindow {
			at = f.sent + LoopWindow + Window // behind all others
		}
		if oldest == nil || at < since {
			oldest, since = f, at
		}
	}
	*oldest = frame{hash: hash}
	return oldest
}

func (t *Table) shard(hash uint64) *shard { return &t.shards[hash%shards] }

// Arrived notes a copy of a frame, whose hash it is, and judges it.
func (t *Table) Arrived(hash uint64, c Copy, now int64) Verdict {
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.frameLocked(hash, now)
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
	f := s.frameLocked(hash, now)
	if f.sent == 0 || now-f.sentFirst > int64(time.Second) {
		f.sentFirst, f.repeats = now, 0
	}
	f.sent = max(now, 1)
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
	f := s.frameLocked(hash, now)
	return f.sent != 0 && now-f.sent <= LoopWindow
}
