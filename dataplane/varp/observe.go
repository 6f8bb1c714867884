package varp

import "net/netip"

// Observer is told of every change of places, in order, before the call that made it returns: whoever keeps a copy of the
// table elsewhere. It is called under the table's lock; it must be quick and must not call the table. The zero Addr is
// this host. What only makes an entry younger is not told.
type Observer interface {
	// Inserted: k was unknown and is at addr.
	Inserted(k Key, addr netip.Addr)
	// Moved: k was at from and is at to.
	Moved(k Key, from, to netip.Addr)
	// Deleted: k was at addr and is forgotten.
	Deleted(k Key, addr netip.Addr)
}

// Observe adds an observer; what is in the table already is told as inserted.
func (t *Table) Observe(o Observer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := *t.slots.Load()
	for i := range s {
		if e := s[i].Load(); e != nil && e != tombstone {
			o.Inserted(e.key, e.addr)
		}
	}
	t.watch = append(t.watch, o)
}
