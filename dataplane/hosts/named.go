package hosts

import (
	"net/netip"
	"slices"
)

// Named is a host that somebody named: the configuration, a command, a membership engine.
type Named struct {
	// Name is what it was called; "" where it was an address.
	Name string
	Addr netip.Addr
	// Port is its UDP port.
	Port uint16
	// Peer hosts get by VFWD what is multicast here, Replica hosts a unicast copy of what is flooded.
	Peer, Replica bool
}

// source is somebody who names hosts.
type source struct {
	name string
	list []Named
}

// SetHosts replaces the hosts that a source names. They have a record as long as any source names them, whatever is
// heard of them. Entries without an address are left out.
func (s *Store) SetHosts(name string, list []Named) {
	list = slices.DeleteFunc(slices.Clone(list), func(n Named) bool { return !n.Addr.IsValid() })
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.sources, func(x source) bool { return x.name == name })
	if i < 0 {
		i = len(s.sources)
		s.sources = append(s.sources, source{name: name})
	}
	before := s.sources[i].list
	s.sources[i].list = list
	for _, n := range list {
		if h := s.addLocked(n.Addr, 0); !h.named {
			h.named = true
			s.unnamed--
		}
	}
	for _, n := range before {
		if h := s.Find(n.Addr); h != nil && h.named && !s.namedLocked(n.Addr) {
			h.named = false
			s.unnamed++ // the next sweep forgets it, if nothing was heard
		}
	}
}

func (s *Store) namedLocked(addr netip.Addr) bool {
	return slices.ContainsFunc(s.sources, func(x source) bool {
		return slices.ContainsFunc(x.list, func(n Named) bool { return n.Addr == addr })
	})
}

// Peer is a host that gets VFWD.
type Peer struct {
	*Host
	Name string
	Port uint16
}

// Peers returns the peers in order of their addresses, each once; of two sources that name one, the later counts.
func (s *Store) Peers(own map[netip.Addr]struct{}) []Peer {
	var out []Peer
	s.each(own, func(n Named) {
		if !n.Peer {
			return
		}
		p := Peer{Host: s.Find(n.Addr), Name: n.Name, Port: n.Port}
		if i := slices.IndexFunc(out, func(o Peer) bool { return o.addr == n.Addr }); i >= 0 {
			out[i] = p
		} else {
			out = append(out, p)
		}
	})
	slices.SortFunc(out, func(a, b Peer) int { return a.addr.Compare(b.addr) })
	return out
}

// Replicas returns who gets copies of what is flooded, in the order in which they were named, each once.
func (s *Store) Replicas(own map[netip.Addr]struct{}) []netip.AddrPort {
	var out []netip.AddrPort
	s.each(own, func(n Named) {
		if to := netip.AddrPortFrom(n.Addr, n.Port); n.Replica && !slices.Contains(out, to) {
			out = append(out, to)
		}
	})
	return out
}

// each calls f for what is named, but for this host's own addresses: a name may stand for all hosts.
func (s *Store) each(own map[netip.Addr]struct{}, f func(Named)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sources {
		for _, n := range x.list {
			if _, isOwn := own[n.Addr]; !isOwn {
				f(n)
			}
		}
	}
}
