package esp

import (
	"net/netip"
	"slices"
	"time"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Status is the state of a vnet with security at one moment, for a person.
type Status struct {
	ID    vnet.ID
	Level vnet.Security
	// Keys are those that open; one of them sends.
	Keys []KeyStatus
	// Epoch counts the keys that this host has sealed with since it started, Age is how long the current one has been in
	// use, and Packets how many were sealed with it.
	Epoch   uint32
	Age     time.Duration
	Packets uint64
	// Senders are the other hosts that have proved to live, in order of their addresses.
	Senders []SenderStatus
	// Refused counts what was not taken, by reason.
	Refused [Refusals]uint64
}

// KeyStatus is a key by its public name.
type KeyStatus struct {
	KID   wire.KID
	Sends bool
}

// SenderStatus is another host.
type SenderStatus struct {
	// KID names the key that it sends with.
	KID       wire.KID
	Addresses Addresses
	// Epoch is the highest that it has announced, Age how long that has been known, Echo how long ago it last proved to
	// live, and Packets how many of its packets were taken in the epochs that are open.
	Epoch     uint32
	Age, Echo time.Duration
	Packets   uint64
}

// Hosts returns how many other hosts have proved to live: one that restarted or took another key counts once.
func (v *Vnet) Hosts() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen := map[netip.Addr]struct{}{}
	for _, s := range v.senders {
		seen[s.addresses.Load().Host(true)] = struct{}{}
	}
	return len(seen)
}

// sealsLocked returns which of the keys seals: the configured one, once everybody was told.
func (v *Vnet) sealsLocked() int {
	if c := v.sending.Load(); c != nil {
		if i := slices.Index(v.keys, c.key); i >= 0 {
			return i
		}
	}
	return v.send
}

// Keys returns the public names of the keys, first that of the one that seals.
func (v *Vnet) Keys() []wire.KID {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []wire.KID
	seals := v.sealsLocked()
	for i, k := range v.keys {
		if i == seals {
			list = slices.Insert(list, 0, k.kid)
		} else {
			list = append(list, k.kid)
		}
	}
	return list
}

// Status returns the state of the vnet.
func (v *Vnet) Status(now int64) Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	now = max(now, v.now)
	s := Status{ID: v.id, Level: v.level}
	seals := v.sealsLocked()
	for i, k := range v.keys {
		s.Keys = append(s.Keys, KeyStatus{k.kid, i == seals})
	}
	if c := v.sending.Load(); c != nil {
		s.Epoch, s.Age = c.epoch, time.Duration(now-c.created)
		for i := range c.lanes {
			s.Packets += c.lanes[i].next.Load() - 1
		}
	}
	for _, x := range v.senders {
		t := SenderStatus{KID: x.id.kid, Addresses: *x.addresses.Load(), Epoch: x.epoch, Echo: time.Duration(now - x.echoed)}
		for _, sa := range x.sas {
			t.Packets += sa.packetCount()
			if sa.epoch == x.epoch {
				t.Age = time.Duration(now - sa.created)
			}
		}
		s.Senders = append(s.Senders, t)
	}
	slices.SortFunc(s.Senders, func(a, b SenderStatus) int {
		return a.Addresses.Of(true).Compare(b.Addresses.Of(true))
	})
	s.Refused = v.Refused()
	return s
}

// Refused returns how many of the vnet's packets and messages were refused, by reason.
func (v *Vnet) Refused() (out [Refusals]uint64) {
	for i := range out {
		out[i] = v.refused[i].Load()
	}
	return out
}
