package varp

import "fmt"

// Check verifies what must hold between calls.
func (t *Table) Check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := *t.slots.Load()
	used, locals, remotes := 0, 0, 0
	seen := make(map[Key]bool)
	for i := range s {
		e := s[i].Load()
		if e == nil {
			continue
		}
		used++
		if e == tombstone {
			continue
		}
		if seen[e.key] {
			return fmt.Errorf("key %v is in two slots", e.key)
		}
		seen[e.key] = true
		if t.find(&e.key) != e {
			return fmt.Errorf("key %v cannot be found", e.key)
		}
		switch e.place {
		case local:
			locals++
		case remote:
			remotes++
		default:
			return fmt.Errorf("key %v is nowhere", e.key)
		}
		if (e.place == remote) != e.addr.IsValid() {
			return fmt.Errorf("key %v: place %d, address %v", e.key, e.place, e.addr)
		}
	}
	if used != t.used || locals != t.local || remotes != t.remote {
		return fmt.Errorf("counted %d used, %d local, %d remote; noted %d, %d, %d",
			used, locals, remotes, t.used, t.local, t.remote)
	}
	if 2*used > len(s) {
		return fmt.Errorf("%d of %d slots are used", used, len(s))
	}
	return nil
}
