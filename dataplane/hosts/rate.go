package hosts

import "sync/atomic"

// bucket lets rate events per second pass, and burst at once.
type bucket struct {
	rate, burst int64
	next        atomic.Int64
}

func (b *bucket) take(now int64) bool {
	const second = int64(1e9)
	for {
		old := b.next.Load()
		next := max(old, now) + second/b.rate
		if next-now > second/b.rate*b.burst {
			return false
		}
		if b.next.CompareAndSwap(old, next) {
			return true
		}
	}
}
