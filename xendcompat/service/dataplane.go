package service

import (
	"context"
	"net"
	"net/netip"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/vnet"
)

// Engine is what the service needs of the data plane.
type Engine interface {
	// Attach carries the frames of a vnet through devices that were made for it. Once more, it takes over
	// what differs, and interrupts nothing where that is nothing. After an error all is as it was.
	Attach(c vnet.Config, d port.Devices) error
	// Detach undoes it. An id that is not there is dataplane.ErrUnknownVnet.
	Detach(id vnet.ID) error

	Dataplane
}

// Dataplane is what the low-level control socket does with the data plane directly.
type Dataplane interface {
	// Status is the state at this moment, but for the MACs.
	Status() dataplane.Status
	// Vifs are the MACs that live on this host, and Entries those behind others.
	Vifs(f dataplane.Filter) []dataplane.Vif
	Entries(f dataplane.Filter) []dataplane.Entry
	// MACs says how many there are of either, by vnet.
	MACs() map[vnet.ID]dataplane.MACs
	// Places says how many there are behind each other host, by vnet.
	Places() map[dataplane.Place]int
	// Counters are what is counted.
	Counters() dataplane.Counters
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

var (
	_ Engine = (*dataplane.Engine)(nil)
	_ Engine = (*off)(nil)
)
