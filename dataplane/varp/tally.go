package varp

import "sync"

// tally counts entries by what they have in common, so that asking how many there are visits none of them. It is as long as
// there are different keys. The lock of the table is held by whoever changes it.
type tally[K comparable] struct {
	at     map[K]int // where in counts
	counts []counted[K]
}

type counted[K comparable] struct {
	key K
	Count
}

// add notes that so many entries of key came (or went, if negative).
func (t *tally[K]) add(key K, c Count) {
	i, ok := t.at[key]
	if !ok {
		if t.at == nil {
			t.at = map[K]int{}
		}
		i = len(t.counts)
		t.at[key] = i
		t.counts = append(t.counts, counted[K]{key: key})
	}
	x := &t.counts[i]
	x.Local += c.Local
	x.Remote += c.Remote
	if x.Count != (Count{}) {
		return
	}
	last := len(t.counts) - 1
	t.counts[i] = t.counts[last]
	t.at[t.counts[i].key] = i
	t.counts = t.counts[:last]
	delete(t.at, key)
}

// tallyChunk is how many counts are copied under one hold of the lock.
const tallyChunk = 512

// read returns the counts. It holds the lock for microseconds at a time. It goes from the end to the beginning: a count that takes
// the place of one that went comes from the end, so it has been met already, and is at most met twice.
func (t *tally[K]) read(mu *sync.Mutex) map[K]Count {
	mu.Lock()
	end := len(t.counts)
	mu.Unlock()
	out := make(map[K]Count, end)
	chunk := make([]counted[K], 0, min(end, tallyChunk))
	for end > 0 {
		mu.Lock()
		end = min(end, len(t.counts))
		start := max(0, end-tallyChunk)
		chunk = append(chunk[:0], t.counts[start:end]...)
		mu.Unlock()
		for _, x := range chunk {
			out[x.key] = x.Count
		}
		end = start
	}
	return out
}
