package esp

import "hash/maphash"

// rate allows so many things a second.
type rate struct {
	since int64
	count int
}

func (r *rate) take(now int64, limit int) bool {
	if r.count == 0 || now-r.since >= second {
		r.since, r.count = now, 0
	}
	if r.count >= limit {
		return false
	}
	r.count++
	return true
}

// rates allow so many things a second to each of many, in memory of fixed size: who hashes to one slot with another makes it
// forget that one. What must hold whatever comes has a rate of its own beside it.
type rates struct {
	seed  maphash.Seed
	slots [256]struct {
		who uint64
		rate
	}
}

func newRates() *rates { return &rates{seed: maphash.MakeSeed()} }

// takeFor asks for one thing for who, limit of which are allowed a second.
func takeFor[K comparable](r *rates, who K, now int64, limit int) bool {
	h := maphash.Comparable(r.seed, who)
	s := &r.slots[h%uint64(len(r.slots))]
	if s.who != h {
		s.who, s.rate = h, rate{}
	}
	return s.take(now, limit)
}
