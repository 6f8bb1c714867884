package dataplane

import (
	"net/netip"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
)

// What a worker needs of the kernel, a batch at a time, so that the way of a frame is tested without one: porttest and
// underlaytest have the others.

// vnif is where frames of a vnet come from and go to.
type vnif interface {
	Recv(*port.Batch) (int, error)
	Send([]wire.Frame) (int, error)
	// FD is what epoll waits for, and Drops what the kernel dropped since it was last asked.
	FD() int
	Drops() (uint32, error)
	Close() error
}

// carrier moves packets from and to other hosts, for one thread.
type carrier interface {
	Recv(*underlay.Socket, *underlay.Batch) (int, error)
	Send(*underlay.Socket, *underlay.Path, []underlay.Msg) (failed int, err error)
	// Relay multicasts what another host has sent, with its source address.
	Relay(u *underlay.Underlay, p *underlay.Path, from, group netip.AddrPort, ttl uint8, payload []byte) error
}

// groups are an underlay's memberships. The kernel makes both wait for whoever changes devices.
type groups interface {
	// Listen opens the socket of a group, and returns the one before, to be closed when nobody uses it.
	Listen(group netip.Addr) (now, before *underlay.Socket, err error)
	// Join makes the sockets members of the group on that device only; index 0 leaves.
	Join(index int, group netip.Addr) error
}

// kernel is what the cold side asks and tells of addresses, routes, devices and bridges' tables.
type kernel interface {
	underlay.Facts
	// RouteDevices are the devices by which a host may be routed.
	RouteDevices(netip.Addr) ([]int, error)
	// DeleteFDB makes a bridge forget where a MAC is; hostnet.ErrNotFound if it has no such port.
	DeleteFDB(hostnet.FDBEntry) error
}

var (
	_ vnif    = (*port.Port)(nil)
	_ carrier = (*underlay.Thread)(nil)
	_ groups  = (*hostGroups)(nil)
	_ kernel  = (*hostnet.Host)(nil)
)

// hostGroups opens sockets in the namespace of a host.
type hostGroups struct {
	*underlay.Underlay
	host *hostnet.Host
}

// Listen is that of the underlay.
func (g *hostGroups) Listen(group netip.Addr) (now, before *underlay.Socket, err error) {
	err = g.host.Do(func() (err error) {
		now, before, err = g.Underlay.Listen(group)
		return err
	})
	return now, before, err
}
