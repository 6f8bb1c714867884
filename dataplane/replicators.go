package dataplane

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxReplicators bounds the hosts that are known to replicate, and replicatorTTL is after what silence they
	// are forgotten.
	maxReplicators = 1024
	replicatorTTL  = int64(10 * time.Minute)
)

// replicators are the hosts that send by unicast what is for everybody: a frame to one domain that comes from
// them may be a copy of one that comes by the group. Frames of other hosts must not be compared, since a domain
// may well send one frame twice, before and after its host learned where it goes. Any goroutine may use it.
type replicators struct {
	mu sync.Mutex
	// known maps an address to when it last replicated; the map is replaced, never changed.
	known atomic.Pointer[map[netip.Addr]*atomic.Int64]
}

func newReplicators() *replicators {
	r := &replicators{}
	r.known.Store(&map[netip.Addr]*atomic.Int64{})
	return r
}

// none reports whether there is none.
func (r *replicators) none() bool { return len(*r.known.Load()) == 0 }

func (r *replicators) has(host netip.Addr) bool {
	known := *r.known.Load()
	return len(known) > 0 && known[host] != nil
}

// heard notes that a host has replicated. It holds from now on, not from when the cold side has time.
func (r *replicators) heard(host netip.Addr, now int64) {
	known := *r.known.Load()
	if at := known[host]; at != nil {
		note(at, now)
		return
	}
	if len(known) >= maxReplicators {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known = *r.known.Load(); known[host] != nil || len(known) >= maxReplicators {
		return
	}
	more := maps.Clone(known)
	at := new(atomic.Int64)
	at.Store(now)
	more[host] = at
	r.known.Store(&more)
}

// sweep forgets those that have not replicated for long.
func (r *replicators) sweep(now int64) {
	if r.none() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known := maps.Clone(*r.known.Load())
	maps.DeleteFunc(known, func(_ netip.Addr, at *atomic.Int64) bool { return now-at.Load() > replicatorTTL })
	r.known.Store(&known)
}
