package service

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// Events returns what an operator must know of, from number seq on; see events.Ring.Since.
func (s *Service) Events(seq uint64, limit int) events.Log { return s.o.Events.Since(seq, limit) }

// Topology is what this host knows of its vnets and of other hosts.
func (s *Service) Topology(ctx context.Context) topology.Topology {
	view := drawing{
		status: s.Dataplane().Status(), macs: s.Dataplane().MACs(), places: s.Dataplane().Places(),
		domains: s.o.Domains.RunningNames(ctx), now: time.Now(),
	}
	s.mu.RLock()
	view.wanted = s.all()
	s.mu.RUnlock()
	view.survey, _ = s.o.Devices.Look() // without, ports are missing
	view.name, _ = os.Hostname()
	return view.draw()
}

// vifName is a device that leads to a domain, with the domain's id: vif3.0, or tap3.0 of one with emulated devices.
var vifName = regexp.MustCompile(`^(?:vif|tap)(\d+)\.\d+(?:-emu)?$`)

// DomainOf is the id of the domain that a device leads to by its name; false if it says none.
func DomainOf(device string) (id int, ok bool) {
	m := vifName.FindStringSubmatch(device)
	if m == nil {
		return 0, false
	}
	id, err := strconv.Atoi(m[1])
	return id, err == nil
}

// drawing is what a topology is made of.
type drawing struct {
	status  dataplane.Status
	macs    map[vnet.ID]dataplane.MACs
	places  map[dataplane.Place]int
	wanted  []Vnet
	survey  *port.Survey
	domains map[int]string
	name    string
	now     time.Time
}

func (d *drawing) draw() topology.Topology {
	t := topology.Topology{Time: d.now}
	self := topology.Host{Name: d.name, State: topology.Self, Addresses: []netip.Addr{}}
	for _, u := range d.status.Underlays {
		if !u.Up {
			continue
		}
		self.Addresses = append(self.Addresses, u.Address)
		self.Device, self.MTU = cmp.Or(self.Device, u.Device), cmp.Or(self.MTU, u.MTU)
		t.Group = cmp.Or(t.Group, netip.AddrPortFrom(u.Group, u.Port).String())
	}
	names := map[vnet.ID]string{}
	self.Vnets = d.vnets(names)
	behind := d.behind(names)
	secured := map[netip.Addr]bool{}
	for _, k := range d.status.Keys {
		for _, s := range k.Senders {
			for _, a := range []netip.Addr{s.Addresses.Addr4, s.Addresses.Addr6} {
				secured[a] = true
			}
		}
	}
	var others []topology.Host
	for _, h := range d.status.Hosts {
		heard, way := lastHeard(h)
		other := topology.Host{Addresses: slices.Concat([]netip.Addr{h.Addr}, h.Aliases), State: topology.StateOf(heard), Vnets: behind[h.Addr]}
		others = append(others, other)
		l := topology.Link{
			To: h.Addr, Way: way, Heard: heard,
			TxPackets: h.TxPackets, TxBytes: h.TxBytes, RxPackets: h.RxPackets, RxBytes: h.RxBytes,
			Secured: slices.ContainsFunc(other.Addresses, func(a netip.Addr) bool { return secured[a] }),
		}
		if h.EtherIPOnly {
			l.Note = "EtherIP only"
		}
		self.Links = append(self.Links, l)
	}
	t.Hosts = append([]topology.Host{self}, others...)
	return t
}

// lastHeard is when a host was last heard, and by what way it speaks.
func lastHeard(h dataplane.Host) (time.Duration, topology.Way) {
	switch {
	case h.Unicast >= 0:
		return h.Heard(), topology.ByUnicast
	case h.Group >= 0:
		return h.Heard(), topology.ByGroup
	}
	return h.Heard(), topology.ByNone
}

// vnets are this host's, with what is on their bridges; it fills in their names.
func (d *drawing) vnets(names map[vnet.ID]string) []topology.Vnet {
	carried := map[vnet.ID]dataplane.Vnet{}
	for _, v := range d.status.Vnets {
		carried[v.ID] = v
	}
	var on map[int][]hostnet.Link
	if d.survey != nil {
		on = d.survey.ByMaster()
	}
	wanted := slices.SortedFunc(slices.Values(d.wanted), func(a, b Vnet) int { return a.ID.Compare(b.ID) })
	var out []topology.Vnet
	for _, v := range wanted {
		names[v.ID] = v.ID.Short()
		c := carried[v.ID]
		x := topology.Vnet{
			ID: names[v.ID], Bridge: v.Bridge, Vnetif: v.Vnetif, Security: v.Security.String(),
			Up: c.Up, Problem: c.Problem, MACs: d.macs[v.ID].Here,
		}
		if _, ok := carried[v.ID]; !ok {
			x.Problem = "it could not be brought up"
		}
		var ports []hostnet.Link
		if v.Bridge != "" && d.survey != nil {
			if b, ok := d.survey.Link(v.Bridge); ok {
				ports = on[b.Index]
			}
		}
		for _, l := range ports {
			if l.Name == v.Vnetif {
				continue
			}
			p := topology.Port{Device: l.Name}
			if id, ok := DomainOf(l.Name); ok {
				p.Domain = d.domains[id]
			}
			x.Ports = append(x.Ports, p)
		}
		if v.Lifetime == Default && x.MACs == 0 && len(x.Ports) == 0 {
			continue // every host has them, and nobody uses this one
		}
		out = append(out, x)
	}
	return out
}

// behind are the vnets in which other hosts have MACs, by address.
func (d *drawing) behind(names map[vnet.ID]string) map[netip.Addr][]topology.Vnet {
	places := slices.SortedFunc(maps.Keys(d.places), func(a, b dataplane.Place) int {
		return cmp.Or(a.Addr.Compare(b.Addr), a.Vnet.Compare(b.Vnet))
	})
	out := map[netip.Addr][]topology.Vnet{}
	for _, p := range places {
		out[p.Addr] = append(out[p.Addr], topology.Vnet{ID: cmp.Or(names[p.Vnet], p.Vnet.Short()), Up: true, MACs: d.places[p]})
	}
	return out
}
