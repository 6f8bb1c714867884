package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/internal/hostnet"
)

// outlook is what the kernel said of addresses, routes and devices at one moment. It is asked without the engine's
// lock: a routing table may be long, and the kernel busy. The choice of underlay devices is made from it alone.
type outlook struct {
	addresses    []hostnet.Address
	addressesErr error
	routes       []hostnet.Route
	routesErr    error
	// groups are the routes to the groups that the configuration names, by family.
	groups [2]routeAnswer
	// named is the device that the configuration names, if it does, and devices are those of the routes above.
	named    hostnet.Link
	namedErr error
	devices  map[int]hostnet.Link
	// reach is nil where nobody asked.
	reach *reach
}

type routeAnswer struct {
	route hostnet.Route
	err   error
}

// groupOf is the configured group of a family.
func (c *Config) groupOf(f underlay.Family) netip.Addr {
	if f == underlay.IPv6 {
		return c.Group6
	}
	return c.Group
}

// lookOut asks the kernel what a configuration needs to know. looking is held, and the lock is not.
func lookOut(h underlay.Facts, c Config) *outlook {
	o := &outlook{devices: map[int]hostnet.Link{}}
	o.addresses, o.addressesErr = h.Addresses(0)
	if c.Device != "" {
		o.named, o.namedErr = h.LinkByName(c.Device)
		return o
	}
	if o.routes, o.routesErr = h.Routes(0); o.routesErr != nil {
		return o
	}
	var indices []int
	for _, r := range o.routes {
		if r.Default() {
			indices = append(indices, r.Index)
		}
	}
	for f := range o.groups {
		if f == int(underlay.IPv6) && !c.IPv6 {
			continue
		}
		a := &o.groups[f]
		a.route, a.err = h.RouteTo(c.groupOf(underlay.Family(f)))
		indices = append(indices, a.route.Index)
	}
	for _, index := range indices {
		if _, known := o.devices[index]; known || index == 0 {
			continue
		}
		if l, err := h.LinkByIndex(index); err == nil {
			o.devices[index] = l
		}
	}
	return o
}

// own are this host's addresses.
func (o *outlook) own() map[netip.Addr]struct{} {
	own := make(map[netip.Addr]struct{}, len(o.addresses))
	for _, a := range o.addresses {
		own[a.Prefix.Addr()] = struct{}{}
	}
	return own
}

// choose finds a family's underlay device and this host's address on it; four is the device that was chosen for IPv4,
// 0 for none.
func (o *outlook) choose(fam underlay.Family, cfg *Config, four int) underlay.Choice {
	return underlay.Choose(o, underlay.Wish{
		Family: fam, Device: cfg.Device, Group: cfg.groupOf(fam), Fallback: four, Refuse: refuseOwn,
	})
}

// refuseOwn keeps a vnet's own devices from being chosen.
func refuseOwn(l hostnet.Link) string {
	id, ours := port.Owner(l)
	if !ours {
		return ""
	}
	return fmt.Sprintf("device %s is vnet %s's own, and leads to its domains; name the device towards other hosts in vnet.toml (device = \"…\")",
		l.Name, id)
}

var _ underlay.Facts = (*outlook)(nil)

// LinkByName is of the device that the configuration names.
func (o *outlook) LinkByName(string) (hostnet.Link, error) { return o.named, o.namedErr }

// LinkByIndex is of devices of routes.
func (o *outlook) LinkByIndex(index int) (hostnet.Link, error) {
	if l, ok := o.devices[index]; ok {
		return l, nil
	}
	return hostnet.Link{}, hostnet.ErrNotFound
}

// Routes are all routes.
func (o *outlook) Routes(int) ([]hostnet.Route, error) { return o.routes, o.routesErr }

// RouteTo is the route to a group.
func (o *outlook) RouteTo(group netip.Addr) (hostnet.Route, error) {
	a := &o.groups[underlay.Of(group)]
	return a.route, a.err
}

// Addresses are those of one device.
func (o *outlook) Addresses(index int) ([]hostnet.Address, error) {
	var out []hostnet.Address
	for _, a := range o.addresses {
		if a.Index == index {
			out = append(out, a)
		}
	}
	return out, o.addressesErr
}
