package varp

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/xenvnet/xend/vnet"
)

// Check verifies what must hold between calls.
func (t *Table) Check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := *t.slots.Load()
	used, locals, remotes := 0, 0, 0
	seen := make(map[Key]bool)
	byVnet, byAddr := map[vnet.ID]Count{}, map[netip.Addr]Count{}
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
		v, a := byVnet[e.key.Vnet], byAddr[e.addr]
		if e.place == local {
			v.Local++
		} else {
			v.Remote++
			a.Remote++
			byAddr[e.addr] = a
		}
		byVnet[e.key.Vnet] = v
		if (e.place == remote) != e.addr.IsValid() {
			return fmt.Errorf("key %v: place %d, address %v", e.key, e.place, e.addr)
		}
	}
	if used != t.used || locals != t.local || remotes != t.remote {
		return fmt.Errorf("counted %d used, %d local, %d remote; noted %d, %d, %d",
			used, locals, remotes, t.used, t.local, t.remote)
	}
	if err := t.byVnet.check(byVnet); err != nil {
		return fmt.Errorf("by vnet: %w", err)
	}
	if err := t.byAddr.check(byAddr); err != nil {
		return fmt.Errorf("by address: %w", err)
	}
	if 2*used > len(s) {
		return fmt.Errorf("%d of %d slots are used", used, len(s))
	}
	return nil
}

// check verifies that what is tallied was counted.
func (t *tally[K]) check(counted map[K]Count) error {
	got := map[K]Count{}
	for i, x := range t.counts {
		if at, ok := t.at[x.key]; !ok || at != i {
			return fmt.Errorf("%v is at %d and noted at %d", x.key, i, at)
		}
		got[x.key] = x.Count
	}
	if len(t.at) != len(t.counts) || !maps.Equal(got, counted) {
		return fmt.Errorf("counted %v, tallied %v", counted, got)
	}
	return nil
}
