package service

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// errOff answers what needs a data plane where there is none.
var errOff = &Error{Kind: Unavailable, Text: "the data plane is disabled"}

// off stands for the engine on a host whose data plane is off: vnets have devices, and their frames stay on this
// host.
type off struct {
	mu    sync.Mutex
	vnets map[vnet.ID]dataplane.Vnet
}

func newOff() *off { return &off{vnets: map[vnet.ID]dataplane.Vnet{}} }

func (o *off) Attach(c vnet.Config, d port.Devices) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.vnets[c.ID] = dataplane.Vnet{
		ID: c.ID, IDText: c.IDText, Bridge: c.Bridge, Vnetif: c.Vnetif, Security: c.Security, Problem: errOff.Text,
		Header: wire.FrameLen + int(offload.VUDPv4), MTU: d.MTU, MAC: d.MAC,
	}
	return nil
}

func (o *off) Detach(id vnet.ID) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.vnets[id]; !ok {
		return dataplane.ErrUnknownVnet
	}
	delete(o.vnets, id)
	return nil
}

// Status knows the vnets, and no underlay.
func (o *off) Status() dataplane.Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := dataplane.DefaultConfig()
	return dataplane.Status{
		Encapsulation: c.Encapsulation, MTUMode: c.MTUMode,
		Vnets: slices.SortedFunc(maps.Values(o.vnets), func(a, b dataplane.Vnet) int { return a.ID.Compare(b.ID) }),
		Tables: dataplane.Tables{
			EntryTTL: c.EntryTTL, SweepInterval: c.SweepInterval, HoldDown: c.HoldDown, MaxMACs: c.MaxMACs,
		},
	}
}

func (o *off) Vifs(dataplane.Filter) []dataplane.Vif      { return nil }
func (o *off) Entries(dataplane.Filter) []dataplane.Entry { return nil }
func (o *off) MACs() map[vnet.ID]dataplane.MACs           { return nil }
func (o *off) Places() map[dataplane.Place]int            { return nil }
func (o *off) Counters() dataplane.Counters               { return dataplane.Counters{Tables: o.Status().Tables} }

func (o *off) AddPeer(context.Context, netip.Addr, uint16) error { return errOff }
func (o *off) RemovePeer(context.Context, netip.Addr) error      { return errOff }
func (o *off) AddVif(vnet.ID, net.HardwareAddr) error            { return errOff }
func (o *off) RemoveVif(vnet.ID, net.HardwareAddr) error         { return errOff }
func (o *off) SetGroup(context.Context, netip.Addr) error        { return errOff }
func (o *off) FlushVARP() int                                    { return 0 }
