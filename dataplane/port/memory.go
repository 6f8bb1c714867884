package port

import (
	"context"
	"sync"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// memory knows the settings of ports of bridges, VLANs for example, which go with a port and are wanted for the one
// that is made in its stead. It has an entry per port that there is, and one per vnet.
type memory struct {
	mu    sync.Mutex
	ports map[int]hostnet.BridgePort // what there is, by index
	vnifs map[vnet.ID]*kept
	ids   map[int]vnet.ID // whose vnif an index is
}

// kept are the settings of a vnet's vnif, which may be gone.
type kept struct {
	name     string // of the bridge
	port     hostnet.BridgePort
	recorded bool // the bridge has told them
}

// tell takes over what a bridge says of a port. What it says when one leaves is no news.
func (m *memory) tell(ev hostnet.PortEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ev.Gone {
		delete(m.ports, ev.Port.Index)
		return
	}
	if m.ports == nil {
		m.ports = map[int]hostnet.BridgePort{}
	}
	m.ports[ev.Port.Index] = ev.Port
	m.record(ev.Port)
}

// record keeps a vnif's settings as long as it is on its own bridge. m.mu is held.
func (m *memory) record(p hostnet.BridgePort) {
	k := m.vnifs[m.ids[p.Index]]
	if k != nil && k.port.Index == p.Index && k.port.Bridge == p.Bridge {
		k.port, k.recorded = p, true
	}
}

// replace takes over a list of all ports.
func (m *memory) replace(list []hostnet.BridgePort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports = make(map[int]hostnet.BridgePort, len(list))
	for _, p := range list {
		m.ports[p.Index] = p
		m.record(p)
	}
}

// attach says which port a vnet's vnif is now. What is known of the one before stays, until the bridge tells of
// this one.
func (m *memory) attach(s Spec, index, bridge int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vnifs == nil {
		m.vnifs, m.ids = map[vnet.ID]*kept{}, map[int]vnet.ID{}
	}
	k := m.vnifs[s.ID]
	if k == nil || k.name != s.Bridge {
		m.drop(s.ID)
		k = &kept{name: s.Bridge}
		m.vnifs[s.ID] = k
	}
	if k.port.Index == index && k.port.Bridge == bridge {
		return
	}
	if m.ids[k.port.Index] == s.ID {
		delete(m.ids, k.port.Index)
	}
	known := k.recorded
	k.port.Index, k.port.Bridge = index, bridge
	m.ids[index] = s.ID
	if p, ok := m.ports[index]; ok && !known {
		m.record(p)
	}
}

// recall returns what is known of the port that a vnet's vnif was, or that what is left of it still is.
func (m *memory) recall(s Spec, bridge int, left []hostnet.Link) (hostnet.PortSettings, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.vnifs[s.ID]; k != nil && k.name == s.Bridge && k.recorded {
		return k.port.PortSettings, true
	}
	for _, l := range left {
		if p, ok := m.ports[l.Index]; ok && l.Name == s.Vnetif && p.Bridge == bridge {
			return p.PortSettings, true
		}
	}
	return hostnet.PortSettings{}, false
}

// forget drops what is known of a vnet that is no more.
func (m *memory) forget(id vnet.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(id)
}

// drop is forget; m.mu is held.
func (m *memory) drop(id vnet.ID) {
	if k := m.vnifs[id]; k != nil {
		if m.ids[k.port.Index] == id {
			delete(m.ids, k.port.Index)
		}
		delete(m.vnifs, id)
	}
}

// Watch tells of changes of devices until ctx ends, once. From then on the settings of vnifs on their bridges are
// remembered, for Ensure to restore; what bridges tell of their ports is not passed on.
func (m *Maker) Watch(ctx context.Context) (<-chan hostnet.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	events, err := m.Host.Watch(ctx)
	if err == nil {
		err = m.listPorts()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	others := make(chan hostnet.Event)
	go func() {
		defer cancel()
		defer close(others)
		for ev := range events {
			switch ev := ev.(type) {
			case hostnet.PortEvent:
				m.memory.tell(ev)
				continue
			case hostnet.ResyncEvent:
				_ = m.listPorts() // else what was known stays
			}
			select {
			case others <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	return others, nil
}

func (m *Maker) listPorts() error {
	list, err := m.Host.BridgePorts()
	if err == nil {
		m.memory.replace(list)
	}
	return err
}
