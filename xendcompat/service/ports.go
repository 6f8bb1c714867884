package service

import (
	"cmp"
	"context"
	"net"
	"slices"
)

// Port is a device on the bridge of a vnet.
type Port struct {
	Device string
	MAC    net.HardwareAddr
	MTU    int // bytes
	Up     bool
	// Vnif is true of the vnet's own.
	Vnif bool
	// Domain is the name of the domain whose vif it is; "" if it is none's.
	Domain string
}

// All lists every vnet that should be there, with its lifetime: the persistent ones in the order of their creation, then
// the others.
func (s *Service) All() []Vnet {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all()
}

// Ports lists the devices on the bridges of all vnets, by the bridge's name: the vnif first, then in the order of their
// names. The domains are those that the toolstack names; if it does not answer, ports have none.
func (s *Service) Ports(ctx context.Context) (map[string][]Port, error) {
	survey, err := s.o.Devices.Look()
	if err != nil {
		return nil, failed("list devices", err)
	}
	names := s.o.Domains.RunningNames(ctx)
	out, on := map[string][]Port{}, survey.ByMaster()
	for _, v := range s.All() {
		bridge, ok := survey.Link(v.Bridge)
		if !ok {
			continue
		}
		var ports []Port
		for _, l := range on[bridge.Index] {
			p := Port{Device: l.Name, MAC: l.MAC, MTU: l.MTU, Up: l.Up(), Vnif: l.Name == v.Vnetif}
			if id, ok := DomainOf(l.Name); ok {
				p.Domain = names[id]
			}
			ports = append(ports, p)
		}
		slices.SortFunc(ports, func(a, b Port) int {
			switch {
			case a.Vnif == b.Vnif:
				return cmp.Compare(a.Device, b.Device)
			case a.Vnif:
				return -1
			}
			return 1
		})
		out[v.Bridge] = ports
	}
	return out, nil
}
