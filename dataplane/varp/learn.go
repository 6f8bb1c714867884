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
			t.confirm(e, Frame, now)
			return Change{}
		}
		if e.place == remote && now < e.damp {
			return t.refuse(e, now)
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
			t.confirm(e, Announce, now)
			return Change{}
		}
		if now < e.hold {
			t.stats.held.Add(1)
			return Change{Kind: Held}
		}
		if now < e.damp {
			return t.refuse(e, now)
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
			t.confirm(e, by, now)
			return Change{}
		}
		if now < e.damp {
			return t.refuse(e, now)
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

// refuse notes that another place claims a frozen key.
func (t *Table) refuse(e *entry, now int64) Change {
	e.contrary.Store(now)
	t.stats.ignored.Add(1)
	return Change{Kind: Ignored}
}

// confirm notes that a key is where it is held to be. A frozen one is released if only its place has spoken for a
// while, by frames.
func (t *Table) confirm(e *entry, by Source, now int64) {
	e.hear(by, now)
	if now >= e.damp || by != Frame {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now-max(e.window, e.contrary.Load()) < int64(t.opt.FlapQuiet) || t.find(&e.key) != e {
		return
	}
	n := e.with(now)
	n.damp, n.moves, n.window = 0, 0, now
	n.home, n.homeAddr = n.place, n.addr
	t.replaceLocked(e, n)
}

// Touch notes that somebody else, who sees frames that do not come by here, saw a frame of k from where it is; addr is the
// host, the zero Addr this one. What is not in the table, or somewhere else by now, stays as it is.
func (t *Table) Touch(k Key, addr netip.Addr, now int64) {
	if e := t.find(&k); e != nil && e.addr == addr {
		t.confirm(e, Frame, now)
	}
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// learnable reports whether a MAC can be an interface's.
func learnable(k *Key) bool { return !k.MAC.Multicast() && !k.MAC.IsZero() }

// AddVif notes that k lives here because an operator or a script says so: it is never forgotten, only suspended while
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
	n.byHand, n.hold, n.damp = true, 0, 0
	n.put(local, netip.Addr{}, Hand, now)
	n.window, n.moves, n.home, n.homeAddr = now, 0, local, netip.Addr{}
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
		e = &entry{key: *k, byHand: by == Hand, window: now}
		e.put(where, addr, by, now)
		if by != Announce {
			e.home, e.homeAddr = where, addr
		}
		e.seen.Store(now)
		t.insertLocked(e)
		return Change{Kind: Added}
	}
	if e.place == where && e.addr == addr {
		if e.hold == 0 {
			e.hear(by, now)
			return Change{}
		}
		// Heard on the own bridge while held down: here it is after all.
		n := e.with(now)
		n.hold = 0
		t.replaceLocked(e, n)
		return Change{Kind: Added}
	}
	if now < e.damp {
		return t.refuse(e, now)
	}
	n := e.with(now)
	if now-n.window > int64(t.opt.FlapWindow) {
		n.window, n.moves, n.home, n.homeAddr = now, 0, e.place, e.addr
	}
	n.moves++
	c := Change{From: e.addr, Moves: int(n.moves), Idle: time.Duration(max(0, now-e.seen.Load()))}
	framed := e.framed.Load()
	framedLately := framed > 0 && now-framed <= int64(t.opt.FlapWindow)
	switch {
	case t.opt.FlapMoves <= 0:
	case int(n.moves) > t.opt.FlapMoves:
		switch {
		case n.home != nowhere:
			where, addr = n.home, n.homeAddr
		case by == Announce || framedLately:
			where, addr = e.place, e.addr
		}
		t.freezeLocked(e, n, where, addr, by, now)
		c.Kind = Damped
		return c
	case by == Announce && framedLately && 2*int(n.moves) > t.opt.FlapMoves:
		n.seen.Store(e.seen.Load())
		t.replaceLocked(e, n)
		t.stats.ignored.Add(1)
		return Change{Kind: Ignored}
	}
	if e.place != where && !t.roomLocked(where, now) {
		return Change{Kind: Full}
	}
	n.put(where, addr, by, now)
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

// freezeLocked puts n in the place of e, where no move is heeded for a while.
func (t *Table) freezeLocked(e, n *entry, where place, addr netip.Addr, by Source, now int64) {
	if where != e.place && !t.roomLocked(where, now) {
		where, addr = e.place, e.addr
	}
	if where != e.place || addr != e.addr {
		n.put(where, addr, by, now)
		n.hold = 0
	}
	n.window, n.moves, n.damp = now, 0, now+int64(t.opt.FlapDamp)
	n.home, n.homeAddr = where, addr
	t.replaceLocked(e, n)
	t.stats.damped.Add(1)
}
