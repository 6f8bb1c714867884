package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
func lookOut(h *hostnet.Host, c Config) *outlook {
	o := &outlook{devices: map[int]hostnet.Link{}}
	o.addresses, o.addressesErr = h.Addresses(0)
	if c.Device != "" {
		o.named, o.namedErr = h.LinkByName(c.Device)
		if errors.Is(o.namedErr, hostnet.ErrNotFound) {
			o.namedErr = fmt.Errorf("there is no device %s, which is configured", c.Device)
		}
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
func (o *outlook) choose(fam underlay.Family, cfg *Config, four int) choice {
	c := choice{group: cfg.groupOf(fam)}
	link, source, err := o.chooseDevice(fam, cfg, four, &c)
	if err != nil {
		c.problem = err.Error()
		return c
	}
	c.index, c.device, c.mtu = link.Index, link.Name, link.MTU
	switch {
	case link.Flags&netLoopback != 0:
		c.problem = fmt.Sprintf("the route to the group %s is by %s", c.group, link.Name)
	case !link.Up():
		c.problem = fmt.Sprintf("device %s is down", link.Name)
	}
	if id, ours := port.Owner(link); ours {
		c.problem = fmt.Sprintf("device %s is vnet %s's own, and leads to its domains; name the device towards other hosts in vnet.toml (device = \"…\")",
			link.Name, id)
	}
	if c.problem != "" {
		return c
	}
	if c.addr, err = o.chooseAddress(fam, link, source); err != nil {
		c.problem = err.Error()
	}
	return c
}

// chooseDevice finds the underlay device, and the source address that the routing table prefers, if any.
func (o *outlook) chooseDevice(fam underlay.Family, cfg *Config, four int, c *choice) (hostnet.Link, netip.Addr, error) {
	if cfg.Device != "" {
		c.device, c.reason = cfg.Device, "configured"
		return o.named, netip.Addr{}, o.namedErr
	}
	if o.routesErr != nil {
		return hostnet.Link{}, netip.Addr{}, o.routesErr
	}
	// A route to the group itself, however general, is there because the administrator wants it.
	toGroup := slices.ContainsFunc(o.routes, func(r hostnet.Route) bool {
		return !r.Default() && r.To.Contains(c.group)
	})
	r, err := o.groups[fam].route, o.groups[fam].err
	if err == nil && r.Index != 0 && (toGroup || fam == underlay.IPv4) {
		c.reason = "default route"
		if toGroup {
			c.reason = fmt.Sprintf("route to the group %s", c.group)
		}
	} else if r, err = o.defaultRoute(fam, four); err == nil {
		// IPv6 has a route to every group on every device.
		c.reason = "default route"
	} else {
		return hostnet.Link{}, netip.Addr{}, fmt.Errorf(
			"no route to the group %s and no default route; name the device in vnet.toml (device = \"…\")", c.group)
	}
	l, ok := o.devices[r.Index]
	if !ok {
		return hostnet.Link{}, netip.Addr{}, fmt.Errorf("the device of the route to the group %s is gone", c.group)
	}
	return l, r.Source, nil
}

// defaultRoute is the default route of a family; of IPv6, else the device of IPv4's.
func (o *outlook) defaultRoute(fam underlay.Family, four int) (hostnet.Route, error) {
	var best hostnet.Route
	for _, r := range o.routes {
		if r.Default() && r.Index != 0 && underlay.Of(r.To.Addr()) == fam && (best.Index == 0 || r.Metric < best.Metric) {
			best = r
		}
	}
	if best.Index != 0 {
		return best, nil
	}
	if fam == underlay.IPv6 && four != 0 {
		return hostnet.Route{Index: four}, nil
	}
	return best, hostnet.ErrNotFound
}

// chooseAddress finds this host's address on a device: the one that the routing table prefers if it is
// there, else the first that others can reach.
func (o *outlook) chooseAddress(fam underlay.Family, l hostnet.Link, preferred netip.Addr) (netip.Addr, error) {
	if o.addressesErr != nil {
		return netip.Addr{}, o.addressesErr
	}
	const global = 0 // RT_SCOPE_UNIVERSE
	var first netip.Addr
	for _, a := range o.addresses {
		addr := a.Prefix.Addr()
		if a.Index != l.Index || underlay.Of(addr) != fam || !a.Usable() || addr.IsLinkLocalUnicast() && fam == underlay.IPv6 {
			continue
		}
		if addr == preferred {
			return addr, nil
		}
		if !first.IsValid() && a.Scope == global {
			first = addr
		}
	}
	for _, a := range o.addresses { // an address of link scope is better than none
		addr := a.Prefix.Addr()
		if a.Index == l.Index && !first.IsValid() && fam == underlay.IPv4 && underlay.Of(addr) == fam && !addr.IsLoopback() {
			first = addr
		}
	}
	if !first.IsValid() {
		name := "IPv4"
		if fam == underlay.IPv6 {
			name = "global IPv6"
		}
		return first, fmt.Errorf("device %s has no %s address", l.Name, name)
	}
	return first, nil
}
