package varp

// roomLocked makes room for one more entry at a place.
func (t *Table) roomLocked(where place, now int64) bool {
	if where == local {
		return t.local < t.opt.MaxLocal || t.evictLocked(local, now)
	}
	return t.remote < t.opt.MaxRemote || t.evictLocked(remote, now)
}

// countLocked notes that n entries came to where e is (or went, if negative).
func (t *Table) countLocked(e *entry, n int) {
	if e.place == local {
		t.local += n
		t.byVnet.add(e.key.Vnet, Count{Local: n})
		return
	}
	t.remote += n
	t.byVnet.add(e.key.Vnet, Count{Remote: n})
	t.byAddr.add(e.addr, Count{Remote: n})
}

// insertLocked puts in an entry whose key is not in the table.
func (t *Table) insertLocked(e *entry) {
	s := *t.slots.Load()
	if 2*(t.used+1) > len(s) {
		s = t.rebuildLocked()
	}
	if i := t.freeSlot(s, e); s[i].Swap(e) == nil {
		t.used++
	}
	t.countLocked(e, 1)
	for _, o := range t.watch {
		o.Inserted(e.key, e.addr)
	}
}

// freeSlot returns the first slot in e's probe that holds no entry.
func (t *Table) freeSlot(s slots, e *entry) uint64 {
	mask := uint64(len(s) - 1)
	i := t.hash(&e.key) & mask
	for {
		if x := s[i].Load(); x == nil || x == tombstone {
			return i
		}
		i = (i + 1) & mask
	}
}

// rebuildLocked makes a table without tombstones, of a size for twice the entries. Readers that are
// under way finish in the old one.
func (t *Table) rebuildLocked() slots {
	n := minSlots
	for n < 4*(t.local+t.remote+1) {
		n *= 2
	}
	old, s := *t.slots.Load(), make(slots, n)
	t.used = 0
	for i := range old {
		if e := old[i].Load(); e != nil && e != tombstone {
			s[t.freeSlot(s, e)].Store(e)
			t.used++
		}
	}
	t.hand = 0
	t.slots.Store(&s)
	return s
}

// slotLocked returns the slot of an entry that is in the table.
func (t *Table) slotLocked(e *entry) (slots, uint64) {
	s := *t.slots.Load()
	mask := uint64(len(s) - 1)
	i := t.hash(&e.key) & mask
	for s[i].Load() != e {
		i = (i + 1) & mask
	}
	return s, i
}

// replaceLocked puts n in the place of e, which has the same key.
func (t *Table) replaceLocked(e, n *entry) {
	s, i := t.slotLocked(e)
	s[i].Store(n)
	if e.place == n.place && e.addr == n.addr {
		return
	}
	t.countLocked(n, 1)
	t.countLocked(e, -1)
	for _, o := range t.watch {
		o.Moved(n.key, e.addr, n.addr)
	}
}

// deleteLocked takes an entry out.
func (t *Table) deleteLocked(e *entry) {
	s, i := t.slotLocked(e)
	t.clearLocked(s, i)
	t.countLocked(e, -1)
	for _, o := range t.watch {
		o.Deleted(e.key, e.addr)
	}
}

// clearLocked empties a slot: for good if no probe passes through it, else by a tombstone.
func (t *Table) clearLocked(s slots, i uint64) {
	mask := uint64(len(s) - 1)
	if s[(i+1)&mask].Load() != nil {
		s[i].Store(tombstone)
		return
	}
	s[i].Store(nil)
	t.used--
	for i = (i - 1) & mask; s[i].Load() == tombstone; i = (i - 1) & mask {
		s[i].Store(nil)
		t.used--
	}
}

// evictSamples is how many entries are compared to find an old one to evict.
const evictSamples = 16

// evictLocked makes room at a place by taking out an expired entry or the oldest of a sample. What was
// put in by hand stays; the result is false if there is nothing else.
func (t *Table) evictLocked(where place, now int64) bool {
	s := *t.slots.Load()
	var oldest *entry
	found := 0
	for range s {
		e := s[t.hand].Load()
		t.hand = (t.hand + 1) & (len(s) - 1)
		if e == nil || e.place != where || e.byHand {
			continue
		}
		if oldest == nil || e.seen.Load() < oldest.seen.Load() {
			oldest = e
		}
		if found++; found == evictSamples || t.expired(e, now) {
			break
		}
	}
	if oldest == nil {
		return false
	}
	t.deleteLocked(oldest)
	t.stats.evicted.Add(1)
	return true
}

// expired reports whether e had no news for the TTL.
func (t *Table) expired(e *entry, now int64) bool {
	return t.opt.TTL > 0 && now-e.seen.Load() >= int64(t.opt.TTL)
}
