// Package dataplane is the engine: it carries the frames of vnets between this host's bridges and the
// other hosts. Packages below it do the single things (port, underlay, varp, offload, wire); this one
// ties them together.
//
// Cold operations (adding a vnet, a peer, a change of the network) are serialised by one lock and
// publish an immutable view of the world; the workers, threads that move frames in batches, read that
// view once per batch and take no lock:
//
//	vnif ──port.Recv──> classify ──> segment ──> underlay.Send ──> other hosts, group, peers
//	vnif <──port.Send── coalesce <── validate, learn <──underlay.Recv── other hosts, group, peers
//
//	Add, Remove, AddPeer, Reload, network events ──> Engine.mu ──> publish ──> view
//	workers ──notice──> control (logs, events, hosts that speak only EtherIP)
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
	"github.com/xenvnet/xend/dataplane/port"
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
	// ErrDisabled: the data plane is configured off.
	ErrDisabled = errors.New("the data plane is disabled")
	// ErrClosed: the engine has stopped.
	ErrClosed = errors.New("the data plane has stopped")
)

// Engine carries the frames of vnets. Its methods may be called from any goroutine.
type Engine struct {
	host    *hostnet.Host
	log     *slog.Logger
	ready   chan struct{}
	events  chan Event
	notices chan notice
	// kick makes the resolver look up names at once.
	kick   chan struct{}
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)

	started time.Time // the clock's zero
	table   *varp.Table
	recent  *dedup.Table
	// replicators are the hosts whose unicast may be copies.
	replicators *replicators
	pending     *varp.Pending
	view        atomic.Pointer[view]
	workers     []*worker

	// mu serialises the cold operations and guards what follows.
	mu        sync.Mutex
	config    Config
	state     state
	networks  map[vnet.ID]*network
	underlays []*family
	own       map[netip.Addr]struct{}
	peers     peers
	replicas  []*replica
	old       map[netip.Addr]*oldHost
	// modern are hosts that sent EtherIP, but VUDP too: they are not old. By time.
	modern    map[netip.Addr]int64
	twins     map[netip.Addr]*twin
	nextToken int32
	nextSweep int64
	mouth     speaker // of the cold side
	limits    map[string]int64
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
		host: h, log: log,
		ready:       make(chan struct{}),
		events:      make(chan Event, eventQueue),
		notices:     make(chan notice, noticeQueue),
		kick:        make(chan struct{}, 1),
		lookup:      lookup,
		started:     time.Now().Add(-time.Hour), // so that no time is 0
		table:       varp.New(tableOptions(cfg)),
		recent:      dedup.New(),
		replicators: newReplicators(),
		pending:     varp.NewPending(),
		config:      cfg,
		networks:    map[vnet.ID]*network{},
		own:         map[netip.Addr]struct{}{},
		old:         map[netip.Addr]*oldHost{},
		modern:      map[netip.Addr]int64{},
		twins:       map[netip.Addr]*twin{},
		limits:      map[string]int64{},
	}
	e.mouth = newSpeaker(e, 0, cfg.workers())
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

// Ready is closed when Run has opened its sockets and the default vnets are up. An underlay device that
// is missing does not delay it: it may come later.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Events reports what happens. Events that nobody reads are dropped. The channel is never closed.
func (e *Engine) Events() <-chan Event { return e.events }

// Run moves frames until ctx ends, and returns nil then. Devices stay as they are, for the next daemon.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.mu.Lock()
	enabled := e.config.Enabled // never changes
	e.mu.Unlock()
	if !enabled {
		e.log.Info("data plane disabled by configuration: vnets get devices but no tunnel")
		close(e.ready)
		<-ctx.Done()
		return nil
	}
	watch, err := e.host.Watch(ctx)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
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
			group.Go(func() error { return echo.Run(ctx) })
		}
	}
	group.Go(func() error { return e.control(ctx, watch) })
	group.Go(func() error { return e.resolve(ctx) })
	failure := e.addDefaults()
	if failure != nil {
		cancel()
	} else {
		close(e.ready)
	}
	<-ctx.Done()
	for _, w := range e.workers {
		w.stop()
	}
	err = group.Wait()
	switch {
	case failure != nil:
		return fmt.Errorf("data plane: %w", failure)
	case errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

// open opens the sockets and the ports of vnets that were added before.
func (e *Engine) open() error {
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
	if err := e.openUnderlaysLocked(); err != nil {
		return err
	}
	for _, n := range e.networks {
		c := newNetwork(n.config, len(e.workers), n.salt)
		c.devices = n.devices
		c.limit = e.bumLimit()
		if err := e.attachLocked(c); err != nil {
			return err
		}
	}
	e.nextSweep = e.now() + int64(e.config.SweepInterval)
	e.publishLocked()
	return nil
}

// close closes what open opened, after the workers have ended.
func (e *Engine) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = stateClosed
	for _, n := range e.networks {
		for _, p := range n.ports {
			_ = p.Close()
		}
	}
	for _, f := range e.underlays {
		f.sockets.Close()
	}
	for _, w := range e.workers {
		w.close()
	}
}

// addDefaults makes the vnets that exist without being created.
func (e *Engine) addDefaults() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.config.DefaultVnets {
		return nil
	}
	var errs []error
	for _, c := range vnet.DefaultVnets() {
		if _, ok := e.networks[c.ID]; !ok {
			errs = append(errs, e.addLocked(c))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("default vnets (default_vnets = false turns them off): %w", err)
	}
	return nil
}

// publishLocked gives the workers another view.
func (e *Engine) publishLocked() {
	c := &e.config
	v := &view{
		vnets:   make(map[vnet.ID]*network, len(e.networks)),
		sources: map[int32]source{},
		own:     e.own,
		old:     maps.Clone(e.old),
		twins:   maps.Clone(e.twins),
		port:    c.Port,
		ttl:     uint8(c.TTL),
		etherip: c.Encapsulation == EtherIP,
		pmtu:    c.MTUMode == MTUPath,
	}
	for id, n := range e.networks {
		if len(n.ports) > 0 {
			v.vnets[id] = n
		}
		for _, p := range n.ports {
			v.sources[p.token] = source{network: n, port: p.Port}
		}
	}
	for _, f := range e.underlays {
		if f.link == nil {
			continue
		}
		v.links[f.family] = f.link
		for token, s := range f.tokens {
			v.sources[token] = source{link: f.link, socket: s}
		}
	}
	v.peers, v.peer = e.peers.list(e.own)
	for _, r := range e.replicas {
		// Two names may be one host's, and names this host's own.
		if to := netip.AddrPortFrom(r.addr, r.port); e.isOther(r.addr) && !slices.Contains(v.replicas, to) {
			v.replicas = append(v.replicas, to)
		}
	}
	v.floodOpen, v.floodSealed = v.everybody(false), v.everybody(true)
	e.view.Store(v)
}

// isOther reports whether an address is known and not this host's own. It is guarded by the engine's lock.
func (e *Engine) isOther(addr netip.Addr) bool {
	_, own := e.own[addr]
	return addr.IsValid() && !own
}

// quiesceLocked waits until no worker uses an older view.
func (e *Engine) quiesceLocked() {
	for _, w := range e.workers {
		w.quiesce()
	}
}

// Add makes the devices of a vnet, or adopts those that are there, and carries its frames once Run runs.
// A vnet that is there already is repaired where something is missing, without interrupting it. On an
// error nothing is left behind.
func (e *Engine) Add(ctx context.Context, c vnet.Config) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addLocked(c)
}

func (e *Engine) addLocked(c vnet.Config) error {
	if e.state == stateClosed {
		return ErrClosed
	}
	spec := e.spec(c)
	devices, err := port.Ensure(e.host, spec)
	if err != nil {
		return err
	}
	before := e.networks[c.ID]
	n := newNetwork(c, len(e.workers), e.recent.Salt(c.ID))
	n.devices = devices
	if n.bridge = devices.BridgeIndex; n.bridge == 0 {
		// Somebody may have put it on a bridge of his own.
		if l, err := e.host.LinkByIndex(devices.VnifIndex); err == nil {
			n.bridge = l.Master
		}
	}
	n.limit = e.bumLimit()
	if before != nil {
		n.shares = before.shares
		n.suspect.Store(before.suspect.Load())
		if before.devices.PeerIndex == devices.PeerIndex {
			n.ports = before.ports // nothing of this is interrupted
		}
	}
	if e.state == stateRunning && len(n.ports) == 0 {
		if before != nil {
			e.detachLocked(before)
		}
		if err := e.attachLocked(n); err != nil {
			if devices.Created && before == nil {
				err = errors.Join(err, port.Remove(e.host, spec))
			}
			return fmt.Errorf("vnet %s: %w", c.IDText, err)
		}
	} else {
		e.networks[c.ID] = n
		e.publishLocked()
	}
	if before == nil || len(before.ports) == 0 || before.devices.PeerIndex != devices.PeerIndex {
		e.log.Info("vnet is up", "vnet", c.IDText, "vnif", devices.VnifName, "bridge", devices.Bridge,
			"adopted", !devices.Created)
	}
	e.claimLearnedLocked(n)
	return nil
}

// spec says which devices a vnet wants.
func (e *Engine) spec(c vnet.Config) port.Spec {
	return port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif, MTU: e.config.MTU}
}

func (e *Engine) bumLimit() *bucket {
	if e.config.BUMRate == 0 {
		return nil
	}
	return newBucket(e.config.BUMRate, e.config.BUMRate)
}

// attachLocked opens a network's ports and gives one to each worker; where the kernel does not let ports
// share a vnif, one to the worker that has fewest.
func (e *Engine) attachLocked(n *network) error {
	ports, err := port.OpenShared(n.devices, port.Options{}, len(e.workers))
	if err != nil {
		return err
	}
	worker := 0
	if len(ports) == 1 {
		worker = e.leastLocked()
	}
	n.ports = nil
	for i, p := range ports {
		n.ports = append(n.ports, attached{Port: p, token: e.tokenLocked(), worker: worker + i})
	}
	before := e.networks[n.config.ID]
	e.networks[n.config.ID] = n
	e.publishLocked()
	for i, p := range n.ports {
		if err = e.workers[p.worker].watch(p.FD(), p.token); err != nil {
			for _, p := range n.ports[:i] {
				e.workers[p.worker].unwatch(p.FD())
			}
			break
		}
	}
	if err == nil {
		return nil
	}
	if delete(e.networks, n.config.ID); before != nil {
		e.networks[n.config.ID] = before
	}
	e.publishLocked()
	e.quiesceLocked()
	for _, p := range ports {
		_ = p.Close()
	}
	return err
}

// leastLocked is the worker with the fewest ports; the last of equals, since the first has EtherIP and most
// of the group's packets.
func (e *Engine) leastLocked() int {
	count := make([]int, len(e.workers))
	for _, n := range e.networks {
		for _, p := range n.ports {
			count[p.worker]++
		}
	}
	least := len(count) - 1
	for i := least; i >= 0; i-- {
		if count[i] < count[least] {
			least = i
		}
	}
	return least
}

// tokenLocked returns an unused token for epoll.
func (e *Engine) tokenLocked() int32 {
	e.nextToken++
	return e.nextToken
}

// detachLocked stops carrying a network's frames; its devices stay.
func (e *Engine) detachLocked(n *network) {
	if len(n.ports) == 0 {
		return
	}
	for _, p := range n.ports {
		e.workers[p.worker].unwatch(p.FD())
	}
	// Workers may be using n.
	c := newNetwork(n.config, len(e.workers), n.salt)
	c.devices, c.shares, c.problem = n.devices, n.shares, n.problem
	e.networks[n.config.ID] = c
	e.publishLocked()
	e.quiesceLocked()
	for _, p := range n.ports {
		_ = p.Close()
	}
}

// Remove stops carrying a vnet's frames and removes its devices; the bridge only if it is ours and no
// other port is left on it. ErrUnknownVnet if it is not there.
func (e *Engine) Remove(ctx context.Context, id vnet.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == stateClosed {
		return ErrClosed
	}
	n := e.networks[id]
	if n == nil {
		return fmt.Errorf("%w: %s", ErrUnknownVnet, id)
	}
	e.detachLocked(n)
	if err := port.Remove(e.host, e.spec(n.config)); err != nil {
		e.networks[id].problem = "its devices could not be removed: " + err.Error()
		return err // may be tried again
	}
	delete(e.networks, id)
	e.publishLocked()
	e.table.ForgetVnet(id)
	e.log.Info("vnet is down", "vnet", n.config.IDText)
	return nil
}

// AddVif notes that a MAC lives on this host, until RemoveVif, and announces it.
func (e *Engine) AddVif(id vnet.ID, mac net.HardwareAddr) error {
	m, err := unicastMAC(mac)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.networkLocked(id)
	if err != nil {
		return err
	}
	switch e.table.AddVif(varp.Key{Vnet: id, MAC: m}, e.now()).Kind {
	case varp.Full:
		return fmt.Errorf("vif %s: the vif table is full (%d MACs)", mac, e.config.MaxMACs)
	case varp.Ignored, varp.Damped:
		return fmt.Errorf("vif %s: the MAC moved to and fro too often, and stays where it is for a while", mac)
	}
	e.sayLocked(func(s *speaker) { s.announce(n, m) })
	return nil
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
	switch {
	case !e.config.Enabled:
		return nil, ErrDisabled
	case e.state == stateClosed:
		return nil, ErrClosed
	}
	if n := e.networks[id]; n != nil {
		return n, nil
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
	if s.view.links == [2]*link{} {
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
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.config.Enabled {
		return ErrDisabled
	}
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
	e.refreshLocked()
	return nil
}

// FlushVARP empties the VARP cache and returns the number of entries that it had.
func (e *Engine) FlushVARP() int { return e.table.FlushRemote() }

// Reload applies another configuration without interrupting what did not change. What needs a restart
// (enabled, workers, port, ipv6) is reported as an error, and everything else applied nevertheless.
func (e *Engine) Reload(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("data plane configuration: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.config
	var errs []error
	needsRestart := func(name string, changed bool) {
		if changed {
			errs = append(errs, fmt.Errorf("a change of %s needs a restart", name))
		}
	}
	needsRestart("enabled", cfg.Enabled != old.Enabled)
	needsRestart("port", cfg.Port != old.Port)
	needsRestart("ipv6", cfg.IPv6 != old.IPv6)
	needsRestart("workers", cfg.Workers != old.Workers)
	cfg.Enabled, cfg.Port, cfg.IPv6, cfg.Workers = old.Enabled, old.Port, old.IPv6, old.Workers
	e.config = cfg

	e.table.SetOptions(tableOptions(cfg))
	e.nextSweep = min(e.nextSweep, e.now()+int64(cfg.SweepInterval))
	e.peers.configure(cfg.Peers, cfg.Port)
	e.replicas = newReplicas(cfg.Replicate, cfg.Port, e.replicas)
	if cfg.TTL != old.TTL {
		for _, f := range e.underlays {
			errs = append(errs, f.sockets.SetTTL(cfg.TTL))
		}
	}
	if e.state == stateRunning {
		errs = append(errs, e.reloadNetworksLocked(old)...)
		e.refreshLocked()
	}
	e.publishLocked()
	e.lookAgain()
	return errors.Join(errs...)
}

// reloadNetworksLocked applies what the configuration says about vnets.
func (e *Engine) reloadNetworksLocked(old Config) (errs []error) {
	cfg := e.config
	for _, c := range vnet.DefaultVnets() {
		n := e.networks[c.ID]
		switch {
		case cfg.DefaultVnets && n == nil:
			errs = append(errs, e.addLocked(c))
		case !cfg.DefaultVnets && old.DefaultVnets && n != nil && n.config.Bridge == "":
			e.detachLocked(n)
			delete(e.networks, c.ID)
			e.table.ForgetVnet(c.ID)
			errs = append(errs, port.Remove(e.host, e.spec(c)))
		}
	}
	if cfg.MTU == old.MTU && cfg.BUMRate == old.BUMRate {
		return errs
	}
	for _, n := range e.networks {
		errs = append(errs, e.addLocked(n.config))
	}
	return errs
}
