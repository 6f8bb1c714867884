// Package dataplane is the engine: it carries the frames of vnets between this host's bridges and the
// other hosts. Packages below it do the single things (port, underlay, varp, offload, wire); this one
// ties them together.
//
// It makes no devices: who owns them attaches what port.Ensure made, and detaches it.
//
// Cold operations (attaching a vnet, a peer, a change of the network) are serialised by one lock and
// publish an immutable view of the world; the workers, threads that move frames in batches, read that
// view once per batch and take no lock but those of dedup, for a moment:
//
//	vnif ──port.Recv──> classify ──> segment ──> underlay.Send ──> other hosts, group, peers
//	vnif <──port.Send── coalesce <── validate, learn <──underlay.Recv── other hosts, group, peers
//
//	Attach, Detach, AddPeer, Reload, network events ──> Engine.mu ──> publish ──> view
//	workers ──notice──> cold side (the log, hosts that speak only EtherIP)
package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// What an error of this package may be, for errors.Is.
var (
	// ErrUnknownVnet: the vnet is not on this host.
	ErrUnknownVnet = errors.New("no such vnet")
	// ErrUnknownPeer: the host is not a peer.
	ErrUnknownPeer = errors.New("no such peer")
	// ErrUnknownVif: the MAC is not on this host.
	ErrUnknownVif = errors.New("no such vif")
	// ErrClosed: the engine has stopped.
	ErrClosed = errors.New("the data plane has stopped")
)

// Engine carries the frames of vnets. Its methods may be called from any goroutine.
type Engine struct {
	host    *hostnet.Host
	kernel  kernel // host, but in tests
	log     *slog.Logger
	ready   chan struct{}
	notices chan notice
	// kick makes the resolver look up names at once.
	kick   chan struct{}
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)

	started time.Time // the clock's zero
	table   *varp.Table
	recent  *dedup.Table
	// echoStrangers are those of the answerer of echo; workers have their own.
	echoStrangers strangers
	deviceNames   deviceNames
	guards        *Guards
	learner       *learner
	hosts         *hosts.Store
	answers       *answerer
	// nonce is that of this host's last probe; nil before the first.
	nonce atomic.Pointer[[16]byte]
	// inquiring is what is being asked of all hosts, nil: nothing; turn is held by who asks.
	inquiring atomic.Pointer[inquiry]
	turn      chan struct{}
	// sendWhole sends a packet that nobody on the way may fragment.
	sendWhole func(from netip.Addr, to netip.AddrPort, payload []byte) error
	// question is what the hosts of a vnet with security are asked; asking has room for one. memberAnswers bounds
	// the answers to those of others.
	question      atomic.Pointer[question]
	asking        chan struct{}
	memberAnswers *bucket
	locating      locating
	pending       *varp.Pending
	// mirror keeps the kernel's tables, and programs are at devices.
	mirror   *mirror
	programs *programs
	view     atomic.Pointer[view]
	workers  []*worker

	// attaching serialises what opens and closes sockets of vnets: Attach, Detach, open, close. It is taken
	// before mu, under which no socket is opened or closed.
	attaching sync.Mutex

	// closing bounds what is closed at the same time, and retiring waits for it.
	closing  chan struct{}
	retiring sync.WaitGroup

	// looking serialises looks at the network, changes of the configuration that they depend on, and what sockets
	// listen to. It is taken after attaching and before mu, under which the kernel is not asked for anything of this.
	looking sync.Mutex
	// reaching serialises lookForHosts. It is taken before mu.
	reaching sync.Mutex

	// mu serialises the cold operations and guards what follows.
	mu        sync.Mutex
	config    Config
	state     state
	networks  map[vnet.ID]*attachment
	places    *places // of networks; nil: to be made anew
	underlays []*family
	own       map[netip.Addr]struct{}
	devices   map[int]struct{} // as in view
	peers     peers
	replicas  []*replica
	nextToken int32
	nextSweep int64
	mouth     speaker // of the cold side
	moveLog   moveLog
	limits    map[string]int64
	// keys are those of the vnets with security, as they were read last; spoken is scratch memory.
	keys   map[vnet.ID]KeySet
	spoken []esp.Message

	// secured are the vnets with security; securityKick makes the cold side look at their timers.
	secured      *esp.Table
	securityKick chan struct{}
	keySource    KeySource
	pace         esp.Pace // tests set it before Run
}

// state is what Run has done.
type state uint8

const (
	stateNew state = iota
	stateRunning
	stateClosed
)

// New returns an engine for the network namespace of h. It changes nothing on the machine.
func New(cfg Config, h *hostnet.Host, log *slog.Logger) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("data plane configuration: %w", err)
	}
	e := &Engine{
		host: h, kernel: h, log: log,
		ready:    make(chan struct{}),
		notices:  make(chan notice, noticeQueue),
		kick:     make(chan struct{}, 1),
		closing:  make(chan struct{}, closers),
		lookup:   lookup,
		turn:     make(chan struct{}, 1),
		started:  time.Now().Add(-time.Hour), // so that no time is 0
		table:    varp.New(tableOptions(cfg)),
		recent:   dedup.New(),
		hosts:    hosts.New(),
		answers:  newAnswerer(),
		asking:   make(chan struct{}, 1),
		pending:  varp.NewPending(),
		config:   cfg,
		networks: map[vnet.ID]*attachment{},
		own:      map[netip.Addr]struct{}{},
		limits:   map[string]int64{},
	}
	e.memberAnswers = newBucket(memberAnswers, memberAnswers)
	e.keys, e.secured, e.securityKick = map[vnet.ID]KeySet{}, esp.NewTable(nil), make(chan struct{}, 1)
	e.mouth = newSpeaker(e, 0, cfg.workers())
	e.sendWhole = func(from netip.Addr, to netip.AddrPort, payload []byte) error {
		return e.host.Do(func() error { return underlay.SendWhole(from, to, payload) })
	}
	e.learner = newLearner(e)
	e.mirror = newMirror(e)
	e.programs = newPrograms(e, h)
	e.table.Observe(observer{e.mirror})
	e.guards = newGuards(h, log, cfg.Port, &e.deviceNames, func() map[int]struct{} { return e.view.Load().devices })
	e.guards.ports = []uint16{cfg.Port, cfg.Security.Port}
	e.peers.configure(cfg.Peers, cfg.Port)
	e.replicas = newReplicas(cfg.Replicate, cfg.Port, nil)
	e.publishLocked()
	return e, nil
}

// tableOptions are the bounds and times of the tables.
func tableOptions(c Config) varp.Options {
	o := varp.DefaultOptions()
	o.TTL, o.MaxLocal, o.MaxRemote = c.EntryTTL, c.MaxMACs, c.MaxMACs
	if o.HoldDown = c.HoldDown; o.HoldDown == 0 {
		o.HoldDown = -1 // none
	}
	return o
}

// now is nanoseconds on the clock of all tables.
func (e *Engine) now() int64 { return int64(time.Since(e.started)) }

// String names the task.
func (e *Engine) String() string { return "data plane" }

// Ready is closed when Run has opened its sockets. An underlay device that is missing does not delay it: it
// may come later.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Run moves frames until ctx ends, and returns nil then. Devices stay as they are, for the next daemon.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := e.host.Watch(ctx)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	tc, err := e.host.WatchTC(ctx)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	rules, err := e.host.WatchRules(ctx)
	if err != nil {
		rules = nil // no nftables; what there is besides is looked at now and then
	}
	learned, err := e.learner.open(ctx)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	defer e.learner.close()
	defer e.close()
	if err := e.open(); err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	defer reserveProcessors(len(e.workers))()
	var group errgroup.Group
	for _, w := range e.workers {
		group.Go(func() error {
			defer cancel()
			return w.run()
		})
	}
	for _, f := range e.underlays {
		if echo := f.sockets.Echo(); echo != nil {
			echo.SetTakes(e.takesEcho)
			group.Go(func() error { return echo.Run(ctx) })
		}
	}
	group.Go(func() error { return e.cold(ctx, watch) })
	group.Go(func() error { return e.resolve(ctx) })
	group.Go(func() error { return e.watchCopies(ctx) })
	group.Go(func() error { return e.guards.run(ctx) })
	group.Go(func() error { return e.learner.run(ctx, learned) })
	group.Go(func() error { return e.mirror.run(ctx, tc, rules) })
	close(e.ready)
	<-ctx.Done()
	for _, w := range e.workers {
		w.stop()
	}
	if err = group.Wait(); errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// open opens the sockets and the ports of vnets that were attached before.
func (e *Engine) open() error {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	before, err := e.openSockets()
	if err != nil {
		return err
	}
	for _, a := range before {
		err := e.attach(a.config, a.devices)
		if err != nil && a.secured() {
			// The others live on.
			e.log.Error("a vnet with security does not come up", "vnet", a.config.ID.Short(), "err", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openSockets makes the workers and opens the underlays. It returns what is attached already. attaching is
// held.
func (e *Engine) openSockets() ([]*attachment, error) {
	e.looking.Lock()
	defer e.looking.Unlock()
	e.mu.Lock()
	c, hosts := e.config, e.routedLocked()
	e.mu.Unlock()
	o := lookOut(e.kernel, c)
	o.reach = lookForHosts(e.kernel, c.Devices, hosts)
	if err := e.begin(); err != nil {
		return nil, err
	}
	if err := e.openUnderlays(&c, len(e.workers)); err != nil {
		return nil, err
	}
	e.adopt(o)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nextSweep = e.now() + int64(e.config.SweepInterval)
	e.publishLocked()
	return slices.Collect(maps.Values(e.networks)), nil
}

// begin makes the workers.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state != stateNew {
		return ErrClosed
	}
	e.state = stateRunning
	for i := range e.config.workers() {
		w, err := newWorker(e, i)
		if err != nil {
			return err
		}
		e.workers = append(e.workers, w)
	}
	return nil
}

// close closes what open opened, after the workers have ended.
func (e *Engine) close() {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	e.looking.Lock()
	defer e.looking.Unlock()
	e.mu.Lock()
	e.state = stateClosed
	for _, a := range e.networks {
		e.retire(e.unwatchLocked(a))
	}
	e.mu.Unlock()
	for _, f := range e.underlays {
		f.sockets.Close()
		if f.secure != nil {
			f.secure.Close()
		}
	}
	for _, w := range e.workers {
		w.close()
	}
	e.retiring.Wait()
}

// publishLocked gives the workers another view.
func (e *Engine) publishLocked() {
	e.places = nil
	c := &e.config
	told := e.config
	v := &view{
		vnets:   make(map[vnet.ID]*network, len(e.networks)),
		sources: map[int32]source{},
		own:     e.own,
		devices: e.devices,
		old:     map[netip.Addr]struct{}{},
		peer:    map[netip.Addr]*hosts.Peer{},
		port:    c.Port,
		ttl:     uint8(c.TTL),
		etherip: c.Encapsulation == EtherIP,
		deaf:    c.EtherIPHosts == EtherIPOff,
		pmtu:    c.MTUMode == MTUPath,
		clamp:   c.ClampMSS,
		flows:   c.SourcePort == SourceFlow,

		groupSilence: int64(c.GroupSilence),
		workers:      e.workers,
		config:       &told,
		secure:       c.Security.Port,
		esp:          c.Security.Encapsulation == ESP,
		nat:          c.Security.NAT,
	}
	for id, a := range e.networks {
		if len(a.ports) > 0 {
			v.vnets[id] = a.network
		}
		for _, p := range a.ports {
			v.sources[p.token] = source{network: a.network, port: p.vnif}
		}
	}
	for _, f := range e.underlays {
		if f.uplink == nil {
			continue
		}
		v.uplinks[f.family] = f.uplink
		for token, s := range f.tokens {
			v.sources[token] = source{uplink: f.uplink, socket: s}
		}
		for token, s := range f.secureTokens {
			v.sources[token] = source{uplink: f.uplink, socket: s, secured: true}
		}
	}
	if !v.deaf {
		for _, addr := range e.hosts.EtherIPOnly() {
			v.old[addr] = struct{}{}
		}
	}
	e.nameHostsLocked()
	v.peers, v.replicas = e.hosts.Peers(e.own), e.hosts.Replicas(e.own)
	for i := range v.peers {
		v.peer[v.peers[i].Addr()] = &v.peers[i]
	}
	v.floodOpen, v.floodSealed = v.everybody(false), v.everybody(true)
	e.view.Store(v)
	e.mirror.look()
}

// isOther reports whether an address is known and not this host's own. It is guarded by the engine's lock.
func (e *Engine) isOther(addr netip.Addr) bool {
	_, own := e.own[addr]
	return addr.IsValid() && !own
}

// quiesce waits until no worker uses an older view.
func quiesce(workers []*worker) {
	for _, w := range workers {
		w.quiesce()
	}
}

// tokenLocked returns an unused token for epoll.
func (e *Engine) tokenLocked() int32 {
	e.nextToken++
	return e.nextToken
}

// AddVif notes that a MAC lives on this host, until RemoveVif, and announces it.
func (e *Engine) AddVif(id vnet.ID, mac net.HardwareAddr) error {
	m, err := unicastMAC(mac)
	if err != nil {
		return err
	}
	e.mu.Lock()
	n, err := e.networkLocked(id)
	if err == nil {
		c := e.table.AddVif(varp.Key{Vnet: id, MAC: m}, e.now())
		if moved(c) {
			e.mirror.evict(varp.Key{Vnet: id, MAC: m})
		}
		switch c.Kind {
		case varp.Full:
			err = fmt.Errorf("vif %s: the vif table is full (%d MACs)", mac, e.config.MaxMACs)
		case varp.Ignored, varp.Damped:
			err = fmt.Errorf("vif %s: the MAC moved to and fro too often, and stays where it is for a while", mac)
		default:
			e.sayLocked(func(s *speaker) { s.announce(n, m) })
		}
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.notBehindVnif(n, m)
	return nil
}

// notBehindVnif makes a vnet's bridge forget that a MAC is behind the vnif, since it is on this host: else the bridge
// goes on sending its frames into the tunnel until the domain speaks. The lock is not held.
func (e *Engine) notBehindVnif(n *network, mac wire.MAC) {
	err := e.kernel.DeleteFDB(hostnet.FDBEntry{MAC: mac, Port: n.devices.VnifIndex})
	// A vnif that is on no bridge, or gone.
	if err != nil && !errors.Is(err, hostnet.ErrNotFound) {
		e.log.Debug("entry of a MAC behind the vnif cannot be removed from the bridge's table", "vnet", n.config.ID.Short(), "mac", mac, "err", err)
	}
}

// RemoveVif undoes AddVif; it also forgets a MAC that was learned. ErrUnknownVif if it is not known.
func (e *Engine) RemoveVif(id vnet.ID, mac net.HardwareAddr) error {
	m, err := unicastMAC(mac)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := e.networkLocked(id); err != nil {
		return err
	}
	if !e.table.RemoveVif(varp.Key{Vnet: id, MAC: m}) {
		return fmt.Errorf("%w: %s", ErrUnknownVif, mac)
	}
	return nil
}

// networkLocked finds a vnet that is there.
func (e *Engine) networkLocked(id vnet.ID) (*network, error) {
	if e.state == stateClosed {
		return nil, ErrClosed
	}
	if a := e.networks[id]; a != nil {
		return a.network, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownVnet, id)
}

// unicastMAC checks that a MAC can be an interface's.
func unicastMAC(mac net.HardwareAddr) (wire.MAC, error) {
	if len(mac) != len(wire.MAC{}) {
		return wire.MAC{}, fmt.Errorf("%q is not a MAC of six bytes", mac)
	}
	m := wire.MAC(mac)
	if m.Multicast() || m.IsZero() {
		return m, fmt.Errorf("%s is not the MAC of an interface", m)
	}
	return m, nil
}

// sayLocked lets the cold side speak to other hosts.
func (e *Engine) sayLocked(say func(*speaker)) {
	if e.state != stateRunning {
		return
	}
	s := &e.mouth
	s.view, s.now = e.view.Load(), e.now()
	if s.view.uplinks == [2]*uplink{} {
		return
	}
	say(s)
	s.flush()
}

// SetGroup changes the multicast group, of the family of addr.
func (e *Engine) SetGroup(ctx context.Context, addr netip.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	addr = addr.Unmap()
	e.looking.Lock()
	defer e.looking.Unlock()
	if err := e.configureGroup(addr); err != nil {
		return err
	}
	e.refreshLooking()
	return nil
}

// configureGroup changes the configuration of the group. looking is held.
func (e *Engine) configureGroup(addr netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.config
	switch {
	case !addr.IsMulticast():
		return fmt.Errorf("%s is not a multicast address", addr)
	case underlay.Of(addr) == underlay.IPv4:
		c.Group = addr
	case !c.IPv6:
		return fmt.Errorf("group %s is an IPv6 one, and ipv6 is off", addr)
	default:
		c.Group6 = addr
	}
	if err := c.Validate(); err != nil {
		return err
	}
	e.config = c
	return nil
}

// FlushVARP empties the VARP cache and returns the number of entries that it had.
func (e *Engine) FlushVARP() int { return e.table.FlushRemote() }

// Reload applies another configuration without interrupting what did not change. What needs a restart
// (workers, port, ipv6, the port of vnets with security) stays as it was, of which the daemon tells.
func (e *Engine) Reload(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("data plane configuration: %w", err)
	}
	e.looking.Lock()
	defer e.looking.Unlock()
	before := e.config.TTL
	e.reconfigure(cfg)
	var err error
	if cfg.TTL != before {
		err = e.setTTL(cfg.TTL)
	}
	e.refreshLooking()
	e.lookAgain()
	e.guards.forget()
	e.programs.retry()
	e.mirror.lookAtNetwork()
	return err
}

// reconfigure takes over what needs no look at the network. looking is held.
func (e *Engine) reconfigure(cfg Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.config
	cfg.Port, cfg.IPv6, cfg.Workers, cfg.Security.Port = old.Port, old.IPv6, old.Workers, old.Security.Port
	e.config = cfg

	e.table.SetOptions(tableOptions(cfg))
	e.nextSweep = min(e.nextSweep, e.now()+int64(cfg.SweepInterval))
	e.peers.configure(cfg.Peers, cfg.Port)
	e.replicas = newReplicas(cfg.Replicate, cfg.Port, e.replicas)
	if cfg.BUMRate != old.BUMRate {
		for _, a := range e.networks {
			a.network = newNetwork(*a.network, cfg.BUMRate)
		}
	}
	e.publishLocked()
}

// setTTL sets the TTL of multicast on all sockets. looking is held.
func (e *Engine) setTTL(ttl int) error {
	var errs []error
	for _, f := range e.underlays {
		errs = append(errs, f.sockets.SetTTL(ttl))
		if f.secure != nil {
			errs = append(errs, f.secure.SetTTL(ttl))
		}
	}
	return errors.Join(errs...)
}
