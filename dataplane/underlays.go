package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/xenvnet/xend/dataplane/underlay"
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

	choice underlay.Choice
	uplink *uplink // nil while there is no usable device
	// known is the address under which other hosts know the MACs on this one.
	known netip.Addr
	// told says that the operator knows about the choice.
	told  bool
	watch groupWatch
	drops uint64
}

// openUnderlaysLocked opens the sockets of all families, and joins the groups where that is possible
// now.
func (e *Engine) openUnderlaysLocked(o *outlook) error {
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
	e.refreshLocked(o)
	return nil
}

// watchLocked gives a socket to a worker.
func (e *Engine) watchLocked(f *family, s *underlay.Socket, worker int) error {
	token := e.tokenLocked()
	f.tokens[token] = s
	return e.workers[worker].watch(s.FD(), token)
}

// refresh looks at the network again.
func (e *Engine) refresh() {
	e.looking.Lock()
	defer e.looking.Unlock()
	e.refreshLooking()
}

// refreshLooking is refresh with looking held.
func (e *Engine) refreshLooking() {
	e.mu.Lock()
	c, hosts := e.config, e.routedLocked()
	e.mu.Unlock()
	o := lookOut(e.host, c)
	o.reach = lookForHosts(e.host, c.Devices, hosts)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refreshLocked(o)
}

// refreshLocked takes over how the network is: own addresses, underlay devices. Nothing changes for the
// workers if nothing changed there.
func (e *Engine) refreshLocked(o *outlook) {
	if e.state != stateRunning {
		return
	}
	changed := false
	if own := o.own(); o.addressesErr != nil {
		e.log.Warn("own addresses cannot be listed", "err", o.addressesErr)
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
		changed = e.chooseLocked(f, o) || before != nil || changed
	}
	others, followed := e.followLocked()
	retired, changed = append(retired, others...), changed || followed
	for _, f := range e.underlays {
		e.tellDownLocked(f)
	}
	if o.reach != nil {
		changed = e.takeFromLocked(o.reach) || changed
	}
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
		if f.uplink == nil {
			continue
		}
		source := f.uplink.path.Source
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
	group := e.config.groupOf(f.family)
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

// chooseLocked chooses a family's device and address, and joins the group there. It reports whether
// workers need another view.
func (e *Engine) chooseLocked(f *family, o *outlook) bool {
	c := o.choose(f.family, &e.config, e.fourLocked())
	if c == f.choice && f.told {
		return false
	}
	before := f.choice
	f.choice = c
	if c.Problem == "" && (f.uplink == nil || before.Index != c.Index || before.Group != c.Group) {
		if err := f.sockets.Join(c.Index, c.Group); err != nil {
			c.Problem = err.Error()
			f.choice.Problem = c.Problem
		}
		f.watch = groupWatch{since: e.now()}
	}
	echo := f.sockets.Echo()
	if c.Problem != "" {
		if f.uplink != nil {
			_ = f.sockets.Join(0, netip.Addr{})
		}
		if echo != nil {
			echo.SetPath(nil, c.Group)
		}
		changed := f.uplink != nil
		f.uplink = nil
		f.told = f.told && before.Problem == c.Problem
		return changed
	}
	path := &underlay.Path{Source: c.Addr, Index: c.Index, MTU: c.MTU}
	f.uplink = &uplink{
		Underlay: f.sockets, secure: f.secure, home: e.config.Security.NAT, path: path, heard: f.heard, group: netip.AddrPortFrom(c.Group, e.config.Port),
	}
	if echo != nil {
		echo.SetPath(path, c.Group)
	}
	f.told = true
	e.log.Info("underlay", "family", f.family, "device", c.Device, "reason", c.Reason,
		"address", c.Addr, "group", c.Group, "mtu", c.MTU)
	return true
}

// fourLocked is the device that was chosen for IPv4, 0 for none.
func (e *Engine) fourLocked() int {
	for _, f := range e.underlays {
		if f.family == underlay.IPv4 {
			return f.choice.Index
		}
	}
	return 0
}

// tellDownLocked tells of a family that has no usable device, once all have chosen.
func (e *Engine) tellDownLocked(f *family) {
	if f.told || f.choice.Problem == "" {
		return
	}
	f.told = true
	if slices.ContainsFunc(e.underlays, func(other *family) bool { return other.uplink != nil }) {
		e.log.Warn("no underlay of this family: hosts that have no other are not reached", "family", f.family, "reason", f.choice.Problem)
	} else {
		e.log.Warn("no underlay: vnets are cut off from other hosts", "family", f.family, "reason", f.choice.Problem)
	}
}
