// Package servicetest has fakes of what the service stands on, for tests that need no kernel; those of devices are in
// porttest.
package servicetest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/service"
)

// Engine is a service.Engine that carries nothing, without an underlay, and knows what it was told.
type Engine struct {
	// Fail, if not nil, is asked before each Attach ("attach") and Detach ("detach"); its error is the operation's.
	Fail func(op string, id vnet.ID) error

	mu    sync.Mutex
	vnets []dataplane.Vnet
	vifs  []dataplane.Vif
	peers []dataplane.PeerState
	group netip.Addr
}

var _ service.Engine = (*Engine)(nil)

func (e *Engine) fail(op string, id vnet.ID) error {
	if e.Fail == nil {
		return nil
	}
	return e.Fail(op, id)
}

func (e *Engine) index(id vnet.ID) int {
	return slices.IndexFunc(e.vnets, func(v dataplane.Vnet) bool { return v.ID == id })
}

// Attach notes a vnet.
func (e *Engine) Attach(c vnet.Config, d port.Devices) error {
	if err := e.fail("attach", c.ID); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := e.index(c.ID); i >= 0 {
		e.vnets = slices.Delete(e.vnets, i, i+1)
	}
	e.vnets = append(e.vnets, dataplane.Vnet{
		ID: c.ID, IDText: c.IDText, Bridge: c.Bridge, Vnetif: c.Vnetif, Security: c.Security, Up: true,
		Header: wire.FrameLen + int(offload.VUDPv4), MTU: d.MTU, MAC: d.MAC,
	})
	slices.SortFunc(e.vnets, func(a, b dataplane.Vnet) int { return a.ID.Compare(b.ID) })
	return nil
}

// Detach forgets it.
func (e *Engine) Detach(id vnet.ID) error {
	if err := e.fail("detach", id); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	i := e.index(id)
	if i < 0 {
		return dataplane.ErrUnknownVnet
	}
	e.vnets = slices.Delete(e.vnets, i, i+1)
	e.vifs = slices.DeleteFunc(e.vifs, func(v dataplane.Vif) bool { return v.Vnet == id })
	return nil
}

// Status is what it was told, and defaults.
func (e *Engine) Status() dataplane.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := dataplane.DefaultConfig()
	group := c.Group
	if e.group.IsValid() {
		group = e.group
	}
	return dataplane.Status{
		Encapsulation: c.Encapsulation, MTUMode: c.MTUMode,
		Vnets: slices.Clone(e.vnets), Peers: slices.Clone(e.peers),
		Underlays: []dataplane.Underlay{{Family: "ipv4", Problem: "there is none", Group: group, Port: c.Port, Heard: -1}},
		Tables: dataplane.Tables{
			EntryTTL: c.EntryTTL, SweepInterval: c.SweepInterval, HoldDown: c.HoldDown, MaxMACs: c.MaxMACs, Vifs: len(e.vifs),
		},
	}
}

// Vifs are those that it was told.
func (e *Engine) Vifs(f dataplane.Filter) []dataplane.Vif {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []dataplane.Vif
	for _, v := range e.vifs {
		if f.Vnet == (vnet.ID{}) || f.Vnet == v.Vnet {
			list = append(list, v)
		}
	}
	return list
}

// Entries are none.
func (*Engine) Entries(dataplane.Filter) []dataplane.Entry { return nil }

// MACs counts the vifs.
func (e *Engine) MACs() map[vnet.ID]dataplane.MACs {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[vnet.ID]dataplane.MACs{}
	for _, v := range e.vifs {
		c := out[v.Vnet]
		c.Here++
		out[v.Vnet] = c
	}
	return out
}

// Places are none.
func (e *Engine) Places() map[dataplane.Place]int { return nil }

// Counters are zero, with the settings of the tables.
func (e *Engine) Counters() dataplane.Counters { return dataplane.Counters{Tables: e.Status().Tables} }

// AddPeer notes a peer.
func (e *Engine) AddPeer(_ context.Context, addr netip.Addr, port uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if port == 0 {
		port = wire.Port
	}
	e.peers = slices.DeleteFunc(e.peers, func(p dataplane.PeerState) bool { return p.Addr == addr })
	e.peers = append(e.peers, dataplane.PeerState{Addr: addr, Port: port})
	slices.SortFunc(e.peers, func(a, b dataplane.PeerState) int { return a.Addr.Compare(b.Addr) })
	return nil
}

// RemovePeer forgets it.
func (e *Engine) RemovePeer(_ context.Context, addr netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.peers)
	if e.peers = slices.DeleteFunc(e.peers, func(p dataplane.PeerState) bool { return p.Addr == addr }); len(e.peers) == n {
		return fmt.Errorf("%w: %s", dataplane.ErrUnknownPeer, addr)
	}
	return nil
}

// AddVif notes a MAC.
func (e *Engine) AddVif(id vnet.ID, mac net.HardwareAddr) error {
	if len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%s is not the MAC of an interface", mac)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.index(id) < 0 {
		return fmt.Errorf("%w: %s", dataplane.ErrUnknownVnet, id)
	}
	e.removeVif(id, mac)
	e.vifs = append(e.vifs, dataplane.Vif{Vnet: id, MAC: wire.MAC(mac), ByHand: true})
	slices.SortFunc(e.vifs, func(a, b dataplane.Vif) int {
		return cmp.Or(a.Vnet.Compare(b.Vnet), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	return nil
}

// RemoveVif forgets it.
func (e *Engine) RemoveVif(id vnet.ID, mac net.HardwareAddr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.removeVif(id, mac) {
		return fmt.Errorf("%w: %s", dataplane.ErrUnknownVif, mac)
	}
	return nil
}

func (e *Engine) removeVif(id vnet.ID, mac net.HardwareAddr) bool {
	n := len(e.vifs)
	e.vifs = slices.DeleteFunc(e.vifs, func(v dataplane.Vif) bool { return v.Vnet == id && v.MAC == wire.MAC(mac) })
	return len(e.vifs) < n
}

// SetGroup notes the group.
func (e *Engine) SetGroup(_ context.Context, group netip.Addr) error {
	if !group.IsMulticast() {
		return fmt.Errorf("%s is not a multicast address", group)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.group = group
	return nil
}

// FlushVARP has nothing to flush.
func (e *Engine) FlushVARP() int { return 0 }
