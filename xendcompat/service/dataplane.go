package service

import (
	"context"
	"net"
	"net/netip"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/vnet"
)

// Engine is what the service needs of the data plane to make a vnet exist or not. Add is
// idempotent: what is there already is no error, and what is missing of it is repaired.
type Engine interface {
	// Add makes the vnet's devices, adopting what an earlier daemon left, and turns its tunnel on.
	// After an error nothing of it is left that was not there before.
	Add(ctx context.Context, c vnet.Config) error
	// Remove turns the tunnel off and removes the devices; the bridge only if xend made it and
	// nothing else is on it. An id that is not there is dataplane.ErrUnknownVnet.
	Remove(ctx context.Context, id vnet.ID) error

	Dataplane
}

// Dataplane is what the low-level control socket does with the data plane directly.
type Dataplane interface {
	// Snapshot is the state at this moment.
	Snapshot() dataplane.Snapshot
	// AddPeer makes addr a peer until the daemon ends; port 0 means the protocol's.
	AddPeer(ctx context.Context, addr netip.Addr, port uint16) error
	// RemovePeer undoes it.
	RemovePeer(ctx context.Context, addr netip.Addr) error
	// AddVif puts a MAC into the vif table until it is taken out.
	AddVif(id vnet.ID, mac net.HardwareAddr) error
	// RemoveVif takes it out.
	RemoveVif(id vnet.ID, mac net.HardwareAddr) error
	// SetGroup changes the multicast group until the daemon ends.
	SetGroup(ctx context.Context, group netip.Addr) error
	// FlushVARP empties the VARP cache and returns how many entries it had.
	FlushVARP() int
}

var _ Engine = (*dataplane.Engine)(nil)
