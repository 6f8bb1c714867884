package varp

import (
	"net/netip"
	"time"
)

// LearnLocal notes that a frame from k was heard on this host's own bridge: k lives here, whatever
// was known before.
func (t *Table) LearnLocal(k Key, now int64) Change {
	e := t.find(&k)
	if e != nil {
		if e.place == local && now >= e.hold {
			e.touch(now)
			return Change{}
		}
		if e.place == remote && now < e.damp {
			t.stats.ignored.Add(1)
			return Change{Kind: Ignored}
		}
	} else if !learnable(&k) {
		t.stats.ignored.Add(1)
		return Change{Kind: Ignored}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.placeLocked(&k, local, netip.Addr{}, Frame, now)
}

// Claim notes that k was seen on this host by other evidence than a frame, such as the kernel's
// report that a bridge port with this MAC appeared. It is refused (Held) while another host that took
// k from here is held to be right.
func (t *Table) Claim(k Key, now int64) Change {
	if e := t.find(&k); e != nil {
		if e.place == local && now >= e.hold {
			e.touch(now)
			return Change{}
		}
		if now < e.hold {
			t.stats.held.Add(1)
			return Change{Kind: Held}
		}
		if now < e.damp {
			t.stats.ignored.Add(1)
			return Change{Kind: Ignored}
		}
	} else if !learnable(&k) {
		t.stats.ignored.Add(1)
		return Change{Kind: Ignored}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.placeLocked(&k, local, netip.Addr{}, Announce, now)
}

// LearnRemote notes that k is behind the host addr, told by a frame or an announce. addr is unicast
// and not one of this host's own, which the caller has made sure of; an address that no host can
// have is ignored.
func (t *Table) LearnRemote(k Key, addr netip.Addr, by Source, now int64) Change {
	e := t.find(&k)
	if e != nil {
		if e.place == remote && e.addr == addr {
			e.touch(now)
			return Change{}
		}
		if now < e.damp {
			t.stats.ignored.Add(1)
			return Change{Kind: Ignored}
		}
	}
	if !learnable(&k) || !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == broadcast {
		t.stats.ignored.Add(1)
		return Change{Kind: Ignored}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.placeLocked(&k, remote, addr, by, now)
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// learnable reports whether a MAC can be an interface's.
func learnable(k *Key) bool { return !k.MAC.Multicast() && !k.MAC.IsZero() }

// AddVif notes the operator's word that k lives here: it is never forgotten, only suspended while
// another host has it. The change is Known if it was local already.
func (t *Table) AddVif(k Key, now int64) Change {
	if !learnable(&k) {
		return Change{Kind: Ignored}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.find(&k)
	if e == nil {
		return t.placeLocked(&k, local, netip.Addr{}, Hand, now)
	}
	n := e.with(e.seen.Load())
	n.byHand, n.place, n.source, n.addr, n.hold, n.damp = true, local, Hand, netip.Addr{}, 0, 0
	c := Change{}
	if e.place == remote {
		if !t.roomLocked(local, now) {
			return Change{Kind: Full}
		}
		c = Change{Kind: MovedHere, From: e.addr}
		t.stats.moves.Add(1)
	}
	t.replaceLocked(e, n)
	return c
}

// RemoveVif takes k off this host: it forgets a local entry, and that a remote one was put in by hand.
// It reports whether there was something to take off.
func (t *Table) RemoveVif(k Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.find(&k)
	switch {
	case e == nil:
		return false
	case e.place == local:
		t.deleteLocked(e)
		return true
	case e.byHand:
		n := e.with(e.seen.Load())
		n.byHand = false
		t.replaceLocked(e, n)
		return true
	}
	return false
}

// placeLocked puts k at a place: the slow half of learning.
func (t *Table) placeLocked(k *Key, where place, addr netip.Addr, by Source, now int64) Change {
	e := t.find(k) // another worker may have been faster
	if e == nil {
		if !t.roomLocked(where, now) {
			return Change{Kind: Full}
		}
		e = &entry{key: *k, place: where, source: by, byHand: by == Hand, addr: addr, window: now}
		e.seen.Store(now)
		t.insertLocked(e)
		return Change{Kind: Added}
	}
	if e.place == where && e.addr == addr {
		if e.hold == 0 {
			e.touch(now)
			return Change{}
		}
		// Heard on the own bridge while held down: here it is after all.
		n := e.with(now)
		n.hold = 0
		t.replaceLocked(e, n)
		return Change{Kind: Added}
	}
	if now < e.damp {
		t.stats.ignored.Add(1)
		return Change{Kind: Ignored}
	}

	n := e.with(now)
	n.moves++
	if now-n.window > int64(t.opt.FlapWindow) {
		n.window, n.moves = now, 1
	}
	c := Change{From: e.addr, Moves: int(n.moves), Idle: time.Duration(max(0, now-e.seen.Load()))}
	if t.opt.FlapMoves > 0 && int(n.moves) > t.opt.FlapMoves {
		n.window, n.moves, n.damp = now, 0, now+int64(t.opt.FlapDamp)
		t.replaceLocked(e, n)
		t.stats.damped.Add(1)
		c.Kind = Damped
		return c
	}
	if e.place != where && !t.roomLocked(where, now) {
		return Change{Kind: Full}
	}
	n.place, n.source, n.addr = where, by, addr
	switch {
	case where == local:
		c.Kind, n.hold = MovedHere, 0
	case e.place == local:
		c.Kind = MovedAway
		n.hold = now + max(0, int64(t.opt.HoldDown))
	default:
		c.Kind = MovedThere
	}
	t.replaceLocked(e, n)
	t.stats.moves.Add(1)
	return c
}
