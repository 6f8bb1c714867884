package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Facts are what the choice of the underlay device asks about a host.
type Facts interface {
	LinkByName(name string) (hostnet.Link, error)
	LinkByIndex(index int) (hostnet.Link, error)
	// Routes are those of both families; 0 means of all devices.
	Routes(index int) ([]hostnet.Route, error)
	// RouteTo is the route that the kernel would take.
	RouteTo(to netip.Addr) (hostnet.Route, error)
	Addresses(index int) ([]hostnet.Address, error)
}

var _ Facts = (*hostnet.Host)(nil)

// Wish is what the device is chosen for.
type Wish struct {
	Family Family
	// Device is the configured one; "": the one by which the group is routed, else that of the default route.
	Device string
	Group  netip.Addr
	// Fallback is the device of the other family, for IPv6 without a default route of its own; 0: none.
	Fallback int
	// Refuse says why a device must not be chosen; "": it may be.
	Refuse func(hostnet.Link) string
}

// Choice is an underlay device with this host's address on it, or why there is none. Choices are comparable.
type Choice struct {
	Index  int
	Device string
	MTU    int
	Addr   netip.Addr
	Group  netip.Addr
	// Reason is why it was this device, for a person.
	Reason string
	// Problem is why it cannot be used; "": it can.
	Problem string
}

// Choose finds the underlay device of a family, and this host's address on it.
func Choose(facts Facts, w Wish) Choice {
	c := Choice{Group: w.Group}
	link, source, err := chooseDevice(facts, &w, &c)
	if err != nil {
		c.Problem = err.Error()
		return c
	}
	c.Index, c.Device, c.MTU = link.Index, link.Name, link.MTU
	switch {
	case link.Flags&net.FlagLoopback != 0:
		c.Problem = fmt.Sprintf("the route to the group %s is by %s", c.Group, link.Name)
	case !link.Up():
		c.Problem = fmt.Sprintf("device %s is down", link.Name)
	}
	if w.Refuse != nil {
		if why := w.Refuse(link); why != "" {
			c.Problem = why
		}
	}
	if c.Problem != "" {
		return c
	}
	if c.Addr, err = chooseAddress(facts, w.Family, link, source); err != nil {
		c.Problem = err.Error()
	}
	return c
}

// chooseDevice finds the underlay device, and the source address that the routing table prefers, if any.
func chooseDevice(facts Facts, w *Wish, c *Choice) (hostnet.Link, netip.Addr, error) {
	if w.Device != "" {
		c.Device, c.Reason = w.Device, "configured"
		l, err := facts.LinkByName(w.Device)
		if errors.Is(err, hostnet.ErrNotFound) {
			err = fmt.Errorf("there is no device %s, which is configured", w.Device)
		}
		return l, netip.Addr{}, err
	}
	routes, err := facts.Routes(0)
	if err != nil {
		return hostnet.Link{}, netip.Addr{}, err
	}
	// A route to the group itself, however general, is what the administrator wants.
	toGroup := slices.ContainsFunc(routes, func(r hostnet.Route) bool {
		return !r.Default() && r.To.Contains(w.Group)
	})
	r, err := facts.RouteTo(w.Group)
	if err == nil && r.Index != 0 && (toGroup || w.Family == IPv4) {
		c.Reason = "default route"
		if toGroup {
			c.Reason = fmt.Sprintf("route to the group %s", w.Group)
		}
	} else if r = defaultRoute(routes, w); r.Index != 0 {
		// IPv6 has a route to every group on every device.
		c.Reason = "default route"
	} else {
		return hostnet.Link{}, netip.Addr{}, fmt.Errorf(
			"no route to the group %s and no default route; name the device in vnet.toml (device = \"…\")", w.Group)
	}
	l, err := facts.LinkByIndex(r.Index)
	if errors.Is(err, hostnet.ErrNotFound) {
		err = fmt.Errorf("the device of the route to the group %s is gone", w.Group)
	}
	return l, r.Source, err
}

// defaultRoute is the default route of a family; of IPv6, else by the device of the other. Its Index is 0 if there is
// none.
func defaultRoute(routes []hostnet.Route, w *Wish) hostnet.Route {
	var best hostnet.Route
	for _, r := range routes {
		if r.Default() && r.Index != 0 && Of(r.To.Addr()) == w.Family && (best.Index == 0 || r.Metric < best.Metric) {
			best = r
		}
	}
	if best.Index == 0 && w.Family == IPv6 {
		best.Index = w.Fallback
	}
	return best
}

// chooseAddress finds this host's address on a device: the one that the routing table prefers if it is
// there, else the first that others can reach.
func chooseAddress(facts Facts, f Family, l hostnet.Link, preferred netip.Addr) (netip.Addr, error) {
	list, err := facts.Addresses(l.Index)
	if err != nil {
		return netip.Addr{}, err
	}
	const global = 0 // RT_SCOPE_UNIVERSE
	var first netip.Addr
	for _, a := range list {
		addr := a.Prefix.Addr()
		if Of(addr) != f || !a.Usable() || addr.IsLinkLocalUnicast() && f == IPv6 {
			continue
		}
		if addr == preferred {
			return addr, nil
		}
		if !first.IsValid() && a.Scope == global {
			first = addr
		}
	}
	for _, a := range list { // an address of link scope is better than none
		if addr := a.Prefix.Addr(); !first.IsValid() && f == IPv4 && Of(addr) == f && !addr.IsLoopback() {
			first = addr
		}
	}
	if !first.IsValid() {
		name := "IPv4"
		if f == IPv6 {
			name = "global IPv6"
		}
		return first, fmt.Errorf("device %s has no %s address", l.Name, name)
	}
	return first, nil
}
