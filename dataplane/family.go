package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/internal/hostnet"
)

// family is an underlay and the choice of its device. It is guarded by the engine's lock.
type family struct {
	family  underlay.Family
	sockets *underlay.Underlay
	tokens  map[int32]*underlay.Socket
	heard   *heard
	// secure are the sockets of vnets with security, nil without such a vnet; secureGroup is what they listen to, and
	// secureIndex where they have joined it.
	secure       *underlay.Underlay
	secureTokens map[int32]*underlay.Socket
	secureGroup  netip.Addr
	secureIndex  int

	// listening is the group whose packets a socket gets.
	listening netip.Addr

	choice choice
	link   *link // nil while there is no usable device
	// known is the address under which other hosts know the MACs on this one.
	known netip.Addr
	// told says that the operator knows about the choice.
	told  bool
	watch groupWatch
	drops uint64
}

// choice is an underlay device with an address, or why there is none.
type choice struct {
	index   int
	device  string
	mtu     int
	addr    netip.Addr
	group   netip.Addr
	reason  string
	problem string
}

// openUnderlaysLocked opens the sockets of all families, and joins the groups where that is possible
// now.
func (e *Engine) openUnderlaysLocked() error {
	families := []underlay.Family{underlay.IPv4}
	if e.config.IPv6 {
		families = append(families, underlay.IPv6)
	}
	for _, fam := range families {
		f := &family{family: fam, tokens: map[int32]*underlay.Socket{}, heard: new(heard)}
		err := e.host.Do(func() (err error) {
			f.sockets, err = underlay.Open(underlay.Options{
				Family: fam, Port: e.config.Port, TTL: e.config.TTL, Sockets: len(e.workers), Spread: e.config.spread(),
			})
			return err
		})
		if fam == underlay.IPv6 && err != nil {
			e.log.Error("no IPv6 underlay: hosts are reached over IPv4 only", "err", err)
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%w: does another xend or vnetd run on this machine?", err)
		}
		if err != nil {
			return err
		}
		e.underlays = append(e.underlays, f)
		for i, s := range f.sockets.UDP() {
			if err := e.watchLocked(f, s, i); err != nil {
				return err
			}
		}
		if s := f.sockets.EtherIP(); s != nil {
			if err := e.watchLocked(f, s, 0); err != nil {
				return err
			}
		}
	}
	e.refreshLocked()
	return nil
}

// watchLocked gives a socket to a worker.
func (e *Engine) watchLocked(f *family, s *underlay.Socket, worker int) error {
	token := e.tokenLocked()
	f.tokens[token] = s
	return e.workers[worker].watch(s.FD(), token)
}

// refreshLocked looks at the network again: own addresses, underlay devices. Nothing changes for the
// workers if nothing changed there.
func (e *Engine) refreshLocked() {
	if e.state != stateRunning {
		return
	}
	changed := false
	if own, err := e.ownAddresses(); err != nil {
		e.log.Warn("own addresses cannot be listed", "err", err)
	} else if !equalSets(own, e.own) {
		e.own, changed = own, true
		for _, f := range e.underlays {
			if echo := f.sockets.Echo(); echo != nil {
				echo.SetOwn(own)
			}
		}
	}
	var retired []*underlay.Socket
	for _, f := range e.underlays {
		before, err := e.listenOnLocked(f)
		if err != nil {
			e.log.Error("the group cannot be listened to", "err", err)
		}
		if before != nil {
			retired = append(retired, before)
		}
		changed = e.chooseLocked(f) || before != nil || changed
	}
	retired = append(retired, e.followLocked()...)
	for _, f := range e.underlays {
		e.tellDownLocked(f)
	}
	changed = e.findDevicesLocked() || changed
	if changed || len(retired) > 0 {
		e.publishLocked()
		e.renumberLocked()
	}
	if len(retired) > 0 {
		e.quiesceLocked()
		for _, s := range retired {
			s.Close()
		}
	}
}

// renumberLocked announces the MACs on this host again where it has got another address: what others send
// to the one before is lost, until they forget it.
func (e *Engine) renumberLocked() {
	renumbered := false
	for _, f := range e.underlays {
		if f.link == nil {
			continue
		}
		source := f.link.path.Source
		renumbered = renumbered || f.known.IsValid() && f.known != source
		f.known = source
	}
	if !renumbered {
		return
	}
	e.sayLocked(func(s *speaker) {
		for _, v := range e.table.Vifs(e.now()) {
			if a := e.networks[v.Vnet]; a != nil && len(a.ports) > 0 {
				s.announce(a.network, v.MAC)
			}
		}
	})
}

// listenOnLocked opens the socket for a family's group, if that is another one than before. The socket of
// the one before is to be closed when no worker uses it.
func (e *Engine) listenOnLocked(f *family) (before *underlay.Socket, err error) {
	group := e.config.Group
	if f.family == underlay.IPv6 {
		group = e.config.Group6
	}
	if group == f.listening {
		return nil, nil
	}
	var now *underlay.Socket
	err = e.host.Do(func() (err error) {
		now, before, err = f.sockets.Listen(group)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.listening = group
	if slices.Contains(f.sockets.UDP(), now) {
		return nil, nil // watched already
	}
	for token, s := range f.tokens {
		if s == before {
			delete(f.tokens, token)
			e.workers[0].unwatch(s.FD())
		}
	}
	return before, e.watchLocked(f, now, 0)
}

func equalSets(a, b map[netip.Addr]struct{}) bool {
	if len(a) != len(b) {
		return false
	}
	for x := range a {
		if _, ok := b[x]; !ok {
			return false
		}
	}
	return true
}

func (e *Engine) ownAddresses() (map[netip.Addr]struct{}, error) {
	list, err := e.host.Addresses(0)
	if err != nil {
		return nil, err
	}
	own := make(map[netip.Addr]struct{}, len(list))
	for _, a := range list {
		own[a.Prefix.Addr()] = struct{}{}
	}
	return own, nil
}

// chooseLocked chooses a family's device and address, and joins the group there. It reports whether
// workers need another view.
func (e *Engine) chooseLocked(f *family) bool {
	c := e.choose(f.family)
	if c == f.choice && f.told {
		return false
	}
	before := f.choice
	f.choice = c
	if c.problem == "" && (f.link == nil || before.index != c.index || before.group != c.group) {
		if err := f.sockets.Join(c.index, c.group); err != nil {
			c.problem = err.Error()
			f.choice.problem = c.problem
		}
		f.watch = groupWatch{since: e.now()}
	}
	echo := f.sockets.Echo()
	if c.problem != "" {
		if f.link != nil {
			_ = f.sockets.Join(0, netip.Addr{})
		}
		if echo != nil {
			echo.SetPath(nil, c.group)
		}
		changed := f.link != nil
		f.link = nil
		f.told = f.told && before.problem == c.problem
		return changed
	}
	path := &underlay.Path{Source: c.addr, Index: c.index, MTU: c.mtu}
	f.link = &link{
		Underlay: f.sockets, secure: f.secure, home: e.config.Security.NAT, path: path, heard: f.heard, group: netip.AddrPortFrom(c.group, e.config.Port),
	}
	if echo != nil {
		echo.SetPath(path, c.group)
	}
	f.told = true
	e.log.Info("underlay", "family", f.family, "device", c.device, "reason", c.reason,
		"address", c.addr, "group", c.group, "mtu", c.mtu)
	return true
}

// tellDownLocked tells of a family that has no usable device, once all have chosen.
func (e *Engine) tellDownLocked(f *family) {
	if f.told || f.choice.problem == "" {
		return
	}
	f.told = true
	if slices.ContainsFunc(e.underlays, func(other *family) bool { return other.link != nil }) {
		e.log.Warn("no underlay of this family: hosts that have no other are not reached", "family", f.family, "reason", f.choice.problem)
	} else {
		e.log.Warn("no underlay: vnets are cut off from other hosts", "family", f.family, "reason", f.choice.problem)
	}
}

// choose finds the underlay device and this host's address on it.
func (e *Engine) choose(fam underlay.Family) choice {
	c := choice{group: e.config.Group}
	if fam == underlay.IPv6 {
		c.group = e.config.Group6
	}
	link, source, err := e.chooseDevice(fam, &c)
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
	if c.addr, err = e.chooseAddress(fam, link, source); err != nil {
		c.problem = err.Error()
	}
	return c
}

// chooseDevice finds the underlay device, and the source address that the routing table prefers, if any.
func (e *Engine) chooseDevice(fam underlay.Family, c *choice) (hostnet.Link, netip.Addr, error) {
	if name := e.config.Device; name != "" {
		c.device, c.reason = name, "configured"
		l, err := e.host.LinkByName(name)
		if errors.Is(err, hostnet.ErrNotFound) {
			err = fmt.Errorf("there is no device %s, which is configured", name)
		}
		return l, netip.Addr{}, err
	}
	routes, err := e.host.Routes(0)
	if err != nil {
		return hostnet.Link{}, netip.Addr{}, err
	}
	// A route to the group itself, however general, is a word of the administrator.
	toGroup := slices.ContainsFunc(routes, func(r hostnet.Route) bool {
		return !r.Default() && r.To.Contains(c.group)
	})
	r, err := e.host.RouteTo(c.group)
	if err == nil && r.Index != 0 && (toGroup || fam == underlay.IPv4) {
		c.reason = "default route"
		if toGroup {
			c.reason = fmt.Sprintf("route to the group %s", c.group)
		}
	} else if r, err = e.defaultRoute(fam, routes); err == nil {
		// IPv6 has a route to every group on every device.
		c.reason = "default route"
	} else {
		return hostnet.Link{}, netip.Addr{}, fmt.Errorf(
			"no route to the group %s and no default route; name the device in vnet.toml (device = \"…\")", c.group)
	}
	l, err := e.host.LinkByIndex(r.Index)
	return l, r.Source, err
}

// defaultRoute is the default route of a family; of IPv6, else the device of IPv4's.
func (e *Engine) defaultRoute(fam underlay.Family, routes []hostnet.Route) (hostnet.Route, error) {
	var best hostnet.Route
	for _, r := range routes {
		if r.Default() && r.Index != 0 && underlay.Of(r.To.Addr()) == fam && (best.Index == 0 || r.Metric < best.Metric) {
			best = r
		}
	}
	if best.Index != 0 {
		return best, nil
	}
	if fam == underlay.IPv6 {
		for _, f := range e.underlays {
			if f.family == underlay.IPv4 && f.choice.index != 0 {
				return hostnet.Route{Index: f.choice.index}, nil
			}
		}
	}
	return best, hostnet.ErrNotFound
}

// chooseAddress finds this host's address on a device: the one that the routing table prefers if it is
// there, else the first that others can reach.
func (e *Engine) chooseAddress(fam underlay.Family, l hostnet.Link, preferred netip.Addr) (netip.Addr, error) {
	list, err := e.host.Addresses(l.Index)
	if err != nil {
		return netip.Addr{}, err
	}
	const global = 0 // RT_SCOPE_UNIVERSE
	var first netip.Addr
	for _, a := range list {
		addr := a.Prefix.Addr()
		if underlay.Of(addr) != fam || !a.Usable() || addr.IsLinkLocalUnicast() && fam == underlay.IPv6 {
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
		if addr := a.Prefix.Addr(); !first.IsValid() && fam == underlay.IPv4 && underlay.Of(addr) == fam && !addr.IsLoopback() {
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
