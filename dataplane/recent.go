package dataplane

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/xenvnet/xend/vnet"
)

const (
	// duplicateWindow is how long copies of a flooded frame that come by another way are recognised.
	duplicateWindow = int64(time.Second)
	// twinWindow is how soon the copies of a frame come that one host sends over both address families.
	twinWindow = int64(50 * time.Millisecond)
	// loopWindow is how soon an own frame must come back to be called a loop. A loop takes milliseconds;
	// a domain that migrates may well repeat a frame from its new host, but not that fast.
	loopWindow = int64(200 * time.Millisecond)
	// loopAlarm is for how long after an own frame came back a vnet is suspected of having a loop.
	loopAlarm = int64(10 * time.Second)
	// loopRepeats is how often a suspected vnet may flood one and the same frame per second.
	loopRepeats = 8

	recentShards = 16
	recentSlots  = 256 // per shard
	recentWays   = 8   // of a set
	recentPaths  = 4
)

// recent remembers the flooded frames of the last moment, by hash: which arrived and by which ways, so
// that a copy is told from a repetition, and which this host sent, so that a loop is. Flooded frames come
// here, and unicast of hosts that replicate; other unicast does not. A full table forgets the oldest: a
// duplicate may pass then, but what this host has just sent stays.
type recent struct {
	seed   maphash.Seed
	shards [recentShards]recentShard
}

type recentShard struct {
	mu    sync.Mutex
	slots [recentSlots]recentFrame
	_     [64]byte
}

type recentFrame struct {
	hash uint64
	// first is when the first copy arrived; 0: none did.
	first     int64
	from      netip.Addr // of the first copy
	delivered uint8
	paths     [recentPaths]struct {
		way   uint32 // 0: free
		count uint8
	}
	// sent is when this host last sent the frame; 0: it did not. repeats counts since sentFirst.
	sent, sentFirst int64
	repeats         uint16
}

func newRecent() *recent { return &recent{seed: maphash.MakeSeed()} }

// salt makes equal frames of two vnets differ.
func (r *recent) salt(id vnet.ID) uint64 { return maphash.Comparable(r.seed, id) }

// hash names a frame, or a message, of the vnet whose salt it is.
func (r *recent) hash(salt uint64, frame []byte) uint64 {
	return maphash.Bytes(r.seed, frame) ^ salt
}

// way names how a packet came: kind tells the group, VFWD and so on apart, from and to are the outer addresses.
func (r *recent) way(kind byte, from, to netip.Addr) uint32 {
	h := maphash.Comparable(r.seed, [2]netip.Addr{from, to})
	return uint32(h>>8)<<3 | uint32(kind)&3 | 4 // never 0
}

// frameLocked finds or makes the entry of a hash. The slot that was used longest ago makes room, those last that
// tell loops.
func (s *recentShard) frameLocked(hash uint64, now int64) *recentFrame {
	base := int(hash>>8) % (recentSlots / recentWays) * recentWays
	ways := s.slots[base : base+recentWays]
	var oldest *recentFrame
	var since int64
	for i := range ways {
		f := &ways[i]
		if f.hash == hash {
			return f
		}
		at := max(f.first, f.sent)
		if f.sent != 0 && now-f.sent <= loopWindow {
			at = f.sent + loopWindow + duplicateWindow // behind all others
		}
		if oldest == nil || at < since {
			oldest, since = f, at
		}
	}
	*oldest = recentFrame{hash: hash}
	return oldest
}

func (r *recent) shard(hash uint64) *recentShard { return &r.shards[hash%recentShards] }

// arrived notes a copy of a frame and reports whether it is one too many. A sender that repeats a frame
// k times over m ways has k of the k·m copies delivered, in whatever order they come. twin is the host
// that sent the first copy, if this is the second at once: the same host by another address.
func (r *recent) arrived(hash uint64, way uint32, from netip.Addr, now int64) (duplicate bool, twin netip.Addr) {
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.frameLocked(hash, now)
	// Copies bear their sender's address, or that of its other family, whatever way they come: from
	// another host it is no copy, but a domain that has moved.
	another := f.from != from && f.from.Is4() == from.Is4()
	if f.first == 0 || now-f.first > duplicateWindow || another {
		f.first, f.from, f.delivered = max(now, 1), from, 0
		clear(f.paths[:])
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
		if f.from != from && now-f.first <= twinWindow {
			twin = f.from
		}
		// Beyond what can be counted, deliver: better a duplicate than a frame lost.
		return count < 255, twin
	}
	f.delivered = count
	return false, twin
}

// sent notes that this host floods a frame, and returns how often it did so within the last second.
func (r *recent) sent(hash uint64, now int64) int {
	s := r.shard(hash)
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

// returned reports whether this host sent a frame so recently that its arrival from another host is a
// loop.
func (r *recent) returned(hash uint64, now int64) bool {
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.frameLocked(hash, now)
	return f.sent != 0 && now-f.sent <= loopWindow
}
