package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/xenvnet/xend/dataplane/underlay"
)

// family is an underlay and the choice of its device. Who changes it holds the engine's looking and mu; each is enough to
// read it. What sockets listen to and where they are members (listening, secureGroup, secureIndex) belongs to looking alone.
type family struct {
	family  underlay.Family
	sockets *underlay.Underlay
	groups  groups // of sockets
	tokens  map[int32]*underlay.Socket
	heard   *heard
	// secure are the sockets of vnets with security, nil without such a vnet; secureGroup is what they listen to, and
	// secureIndex where they have joined it.
	secure       *underlay.Underlay
	secureGroups groups
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

// openUnderlays opens the sockets of all families, and has workers read them. looking is held.
func (e *Engine) openUnderlays(c *Config, workers int) error {
	families := []underlay.Family{underlay.IPv4}
	if c.IPv6 {
		families = append(families, underlay.IPv6)
	}
	for _, fam := range families {
		f := &family{family: fam, tokens: map[int32]*underlay.Socket{}, heard: new(heard)}
		err := e.host.Do(func() (err error) {
			f.sockets, err = underlay.Open(underlay.Options{
				Family: fam, Port: c.Port, TTL: c.TTL, Sockets: workers, Spread: c.spread(),
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
		f.groups = &hostGroups{f.sockets, e.host}
		if err := e.use(f); err != nil {
			return err
		}
	}
	return nil
}

// use adds a family whose sockets are open.
func (e *Engine) use(f *family) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.underlays = append(e.underlays, f)
	for i, s := range f.sockets.UDP() {
		if err := e.watchLocked(f, s, i); err != nil {
			return err
		}
	}
	if s := f.sockets.EtherIP(); s != nil {
		return e.watchLocked(f, s, 0)
	}
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
	running, c, hosts := e.state == stateRunning, e.config, e.routedLocked()
	e.mu.Unlock()
	if !running {
		return
	}
	o := lookOut(e.kernel, c)
	o.reach = lookForHosts(e.kernel, c.Devices, hosts)
	e.adopt(o)
}

// adopt makes everything as the network is. looking is held, with which the engine does not end, and the configuration
// and the set of sockets stay.
func (e *Engine) adopt(o *outlook) {
	tunings := make([]tuning, len(e.underlays))
	four := 0 // the device for IPv4
	for i, f := range e.underlays {
		tunings[i] = e.tune(f, o, four)
		if f.family == underlay.IPv4 {
			four = tunings[i].choice.Index
		}
	}
	e.mu.Lock()
	retired := e.adoptLocked(o, tunings)
	e.mu.Unlock()
	e.closeSockets(retired)
}

// closeSockets closes sockets that no worker is told of any more.
func (e *Engine) closeSockets(retired []*underlay.Socket) {
	if len(retired) == 0 {
		return
	}
	quiesce(e.workers)
	for _, s := range retired {
		s.Close()
	}
}

// adoptLocked takes over how the network is: own addresses, underlay devices. Nothing changes for the workers if nothing
// changed there. It returns sockets that are to be closed when no worker uses them.
func (e *Engine) adoptLocked(o *outlook, tunings []tuning) (retired []*underlay.Socket) {
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
	for i, f := range e.underlays {
		t := &tunings[i]
		retired = append(retired, e.hearLocked(f, &t.open, f.tokens)...)
		changed = e.chooseLocked(f, t) || changed
		if f.secure != nil {
			retired = append(retired, e.hearLocked(f, &t.secure, f.secureTokens)...)
		}
	}
	changed = e.followLocked() || changed
	for _, f := range e.underlays {
		e.tellDownLocked(f)
	}
	if o.reach != nil && e.takeFromLocked(o.reach) {
		changed = true
	}
	if changed || len(retired) > 0 {
		e.publishLocked()
		e.renumberLocked()
		e.guards.look() // which devices are underlays may be among it
	}
	e.mirror.lookAtNetwork()
	return retired
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

// tuning is what the sockets of a family were made to do after a look at the network, without the engine's lock: the
// kernel lets memberships wait for whoever changes devices.
type tuning struct {
	choice underlay.Choice
	// joined: the group was joined anew.
	joined       bool
	open, secure listening
}

// listening is a socket that was opened for a group, and the one before, nil where that stays.
type listening struct {
	opened, before *underlay.Socket
}

// tune makes a family's sockets listen to the group, chooses device and address, and joins the group there; four is the
// device that was chosen for IPv4. looking is held, and mu is not.
func (e *Engine) tune(f *family, o *outlook, four int) (t tuning) {
	group := e.config.groupOf(f.family)
	if group != f.listening {
		var err error
		if t.open.opened, t.open.before, err = f.groups.Listen(group); err == nil {
			f.listening = group
		} else {
			e.log.Error("the group cannot be listened to", "err", err)
		}
	}
	c := o.choose(f.family, &e.config, four)
	switch {
	case c == f.choice && f.told:
	case c.Problem != "":
		if f.uplink != nil {
			_ = f.groups.Join(0, netip.Addr{})
		}
	case f.uplink == nil || f.choice.Index != c.Index || f.choice.Group != c.Group:
		if err := f.groups.Join(c.Index, c.Group); err != nil {
			c.Problem = err.Error()
			_ = f.groups.Join(0, netip.Addr{})
		}
		t.joined = true
	}
	t.choice = c
	e.tuneSecure(f, &t)
	return t
}

// hearLocked has a worker read the socket of a group instead of the one before, which is to be closed when no worker
// uses it.
func (e *Engine) hearLocked(f *family, l *listening, tokens map[int32]*underlay.Socket) (retired []*underlay.Socket) {
	for token, s := range tokens {
		if l.before != nil && s == l.before {
			delete(tokens, token)
			e.workers[0].unwatch(s.FD())
			retired = append(retired, s)
		}
	}
	if l.opened == nil || slices.Contains(slices.Collect(maps.Values(tokens)), l.opened) {
		return retired // watched already
	}
	token := e.tokenLocked()
	tokens[token] = l.opened
	if err := e.workers[0].watch(l.opened.FD(), token); err != nil {
		e.log.Error("the group cannot be listened to", "family", f.family, "err", err)
	}
	return retired
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

// chooseLocked takes over a family's device and address, and reports whether workers need another view.
func (e *Engine) chooseLocked(f *family, t *tuning) bool {
	c := t.choice
	if c == f.choice && f.told {
		return false
	}
	before := f.choice
	f.choice = c
	if t.joined {
		f.watch = groupWatch{since: e.now()}
	}
	echo := f.sockets.Echo()
	if c.Problem != "" {
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
