package hosts

import "sync/atomic"

// MaxKinds bounds what a Tally tells apart.
const MaxKinds = 64

// Tally counts by kind, a number below MaxKinds. The zero Tally is ready, and takes no memory until something is counted. Any
// goroutine may use it; adding takes no lock, and allocates once in its life.
type Tally struct {
	counts atomic.Pointer[[MaxKinds]atomic.Uint64]
}

// Add counts n of a kind.
func (t *Tally) Add(kind uint8, n uint64) {
	c := t.counts.Load()
	if c == nil {
		t.counts.CompareAndSwap(nil, new([MaxKinds]atomic.Uint64))
		c = t.counts.Load()
	}
	c[kind].Add(n)
}

// Load returns what was counted, nil for nothing.
func (t *Tally) Load() *[MaxKinds]uint64 {
	if t.counts.Load() == nil {
		return nil
	}
	sum := new([MaxKinds]uint64)
	t.AddTo(sum)
	return sum
}

// AddTo adds what was counted to a sum.
func (t *Tally) AddTo(sum *[MaxKinds]uint64) {
	if c := t.counts.Load(); c != nil {
		for i := range c {
			sum[i] += c[i].Load()
		}
	}
}
