package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay"
)

// peers are the hosts that get VFWD: those of the configuration, by address or name, and those that
// were added at run time. It is guarded by the engine's lock.
type peers struct {
	configured []*replica
	added      map[netip.Addr]uint16 // address to port
	// removed are peers of the configuration, as it names them, that were removed at run time.
	removed map[string]bool
}

// replica is a host of the configuration, by address or name.
type replica struct {
	name    string
	port    uint16
	addr    netip.Addr // the zero Addr while it is not resolved
	problem string
}

// newReplicas makes the list of hosts of the configuration; names that were resolved before keep their
// address until they are looked up again.
func newReplicas(list []NamedHost, port uint16, before []*replica) []*replica {
	var out []*replica
	for _, p := range list {
		r := &replica{name: p.Addr, port: p.Port}
		if r.port == 0 {
			r.port = port
		}
		if a, err := netip.ParseAddr(p.Addr); err == nil {
			r.addr = a.Unmap()
		} else if i := slices.IndexFunc(before, func(b *replica) bool { return b.name == p.Addr }); i >= 0 {
			r.addr, r.problem = before[i].addr, before[i].problem
		} else {
			r.problem = "the name was not looked up yet"
		}
		out = append(out, r)
	}
	return out
}

func (p *peers) configure(list []NamedHost, port uint16) {
	p.configured = newReplicas(list, port, p.configured)
	p.removed = nil
}

// The sources of hosts; see hosts.Store.
const (
	sourceConfiguration = "configuration"
	sourceControl       = "control"
)

// nameHostsLocked tells the store who is named.
func (e *Engine) nameHostsLocked() {
	var configured, added []hosts.Named
	for _, r := range e.peers.configured {
		if !e.peers.removed[r.name] {
			configured = append(configured, hosts.Named{Name: r.name, Addr: r.addr, Port: r.port, Peer: true})
		}
	}
	for _, r := range e.replicas {
		configured = append(configured, hosts.Named{Name: r.name, Addr: r.addr, Port: r.port, Replica: true})
	}
	for addr, port := range e.peers.added {
		added = append(added, hosts.Named{Addr: addr, Port: port, Peer: true})
	}
	e.hosts.SetHosts(sourceConfiguration, configured)
	e.hosts.SetHosts(sourceControl, added)
}

// AddPeer sends what is multicast here to another host by VFWD, and accepts the same from it; port 0 is
// the protocol's. A peer that is there already gets the new port.
func (e *Engine) AddPeer(ctx context.Context, addr netip.Addr, port uint16) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	addr = addr.Unmap()
	defer func() {
		if err == nil {
			e.lookForHosts() // without the lock
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	_, own := e.own[addr]
	switch {
	case !usableHost(addr):
		return fmt.Errorf("peer %s is not the address of a host", addr)
	case own:
		return fmt.Errorf("peer %s is this host itself", addr)
	case !addr.Is4():
		return fmt.Errorf("peer %s: forwarding (VFWD) carries IPv4 only; use replicate in vnet.toml", addr)
	}
	if port == 0 {
		port = e.config.Port
	}
	if e.peers.added == nil {
		e.peers.added = map[netip.Addr]uint16{}
	}
	for _, r := range e.peers.configured {
		if r.addr == addr {
			delete(e.peers.removed, r.name)
		}
	}
	e.peers.added[addr] = port
	e.publishLocked()
	e.log.Info("peer added: what is multicast here is forwarded to it; one host per segment should do that",
		"peer", netip.AddrPortFrom(addr, port))
	return nil
}

// RemovePeer undoes AddPeer, also for a peer of the configuration until the next Reload. ErrUnknownPeer
// if there is no such peer.
func (e *Engine) RemovePeer(ctx context.Context, addr netip.Addr) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	addr = addr.Unmap()
	defer func() {
		if err == nil {
			e.lookForHosts() // without the lock
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	_, added := e.peers.added[addr]
	delete(e.peers.added, addr)
	for _, r := range e.peers.configured {
		if r.addr == addr && !e.peers.removed[r.name] {
			if e.peers.removed == nil {
				e.peers.removed = map[string]bool{}
			}
			e.peers.removed[r.name] = true
			added = true
		}
	}
	if !added {
		return fmt.Errorf("%w: %s", ErrUnknownPeer, addr)
	}
	e.publishLocked()
	e.log.Info("peer removed", "peer", addr)
	return nil
}

// Peers returns the peers in order of their addresses.
func (e *Engine) Peers() []PeerState {
	var out []PeerState
	for _, p := range e.view.Load().peers {
		state := PeerState{Name: p.Name, Addr: p.Addr(), Port: p.Port}
		state.TxPackets, _ = p.ForwardedTx.Load()
		state.RxPackets, _ = p.ForwardedRx.Load()
		out = append(out, state)
	}
	return out
}

const (
	lookupTimeout = 5 * time.Second
	maxLookups    = 16 // at a time
	// lookupRetry is the time to the next try while a name cannot be resolved.
	lookupRetry = 5 * time.Second
)

// lookup asks the system's resolver.
func lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

// lookAgain makes the resolver look at once.
func (e *Engine) lookAgain() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// resolve looks names of the configuration up, now and again, until ctx ends.
func (e *Engine) resolve(ctx context.Context) error {
	for {
		wait := e.resolveAll(ctx)
		var again <-chan time.Time // never, if there are no names
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.kick:
		case <-again:
		}
	}
}

// resolveAll looks every name up and returns when to do so again, 0 for never.
func (e *Engine) resolveAll(ctx context.Context) time.Duration {
	e.mu.Lock()
	all := slices.Concat(e.peers.configured, e.replicas)
	wait := e.config.ResolveInterval
	e.mu.Unlock()
	names := false
	var failed atomic.Bool
	var group errgroup.Group // dead names do not delay the others
	group.SetLimit(maxLookups)
	for _, r := range all {
		if _, err := netip.ParseAddr(r.name); err == nil {
			continue
		}
		names = true
		group.Go(func() error {
			limited, cancel := context.WithTimeout(ctx, lookupTimeout)
			defer cancel()
			addrs, err := e.lookup(limited, r.name)
			if ctx.Err() == nil && !e.resolved(r, addrs, err) {
				failed.Store(true)
			}
			return nil
		})
	}
	_ = group.Wait()
	switch {
	case !names || ctx.Err() != nil:
		return 0
	case failed.Load():
		return min(wait, lookupRetry)
	}
	return wait
}

// resolved notes what a lookup brought. It is false if the name has no address.
func (e *Engine) resolved(r *replica, addrs []netip.Addr, err error) bool {
	moved := false
	defer func() {
		if moved {
			e.lookForHosts() // without the lock
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	forPeer := slices.Contains(e.peers.configured, r)
	var usable []netip.Addr
	others := false // one name may stand for all hosts, with this one among them
	for _, a := range addrs {
		a = a.Unmap()
		if reachable(a) && (a.Is4() || !forPeer && e.config.IPv6) {
			usable = append(usable, a)
			others = others || e.isOther(a)
		}
	}
	if others {
		usable = slices.DeleteFunc(usable, func(a netip.Addr) bool { return !e.isOther(a) })
	}
	if err == nil && len(usable) == 0 {
		err = errors.New("it has no address that can be used")
	}
	if err != nil {
		if problem := err.Error(); problem != r.problem {
			r.problem = problem
			e.log.Warn("host name cannot be resolved", "name", r.name, "keeping", r.addr, "err", err)
		}
		return r.addr.IsValid()
	}
	r.problem = ""
	if slices.Contains(usable, r.addr) {
		return true
	}
	// IPv4 first, since every vnet host has that.
	best := slices.MinFunc(usable, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(underlay.Of(a), underlay.Of(b)), a.Compare(b))
	})
	e.log.Info("host name resolved", "name", r.name, "address", best, "before", r.addr)
	before := r.addr
	r.addr, moved = best, true
	stays := slices.ContainsFunc(slices.Concat(e.peers.configured, e.replicas), func(o *replica) bool { return o.addr == before })
	if before.IsValid() && !stays {
		e.table.ForgetAddr(before)
	}
	e.publishLocked()
	return true
}
