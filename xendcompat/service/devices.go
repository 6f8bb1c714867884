package service

import (
	"context"
	"errors"
	"slices"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Devices is what the service needs to make and remove devices. The survey says whose a device is.
type Devices interface {
	// Look lists all devices, LookFor those that matter to one vnet.
	Look() (*port.Survey, error)
	LookFor(s port.Spec) (*port.Survey, error)
	// Ensure makes a vnet's devices be as specified. What is there already is taken as it is, and what is missing
	// is made; after an error nothing is left that was not there before.
	Ensure(s port.Spec) (port.Devices, error)
	// SetAside takes the name from a vnet's bridge that xend made, for Ensure to give it another; and Gather brings the
	// ports of one that was set aside to the bridge that the vnet has, and removes the other.
	SetAside(s port.Spec) error
	Gather(s port.Spec) error
	// Remove takes a vnet's devices away; the bridge only if xend made it and nothing else is on it.
	Remove(s port.Spec) error
	// RemoveLeftover does the same with what a survey found and nobody wants.
	RemoveLeftover(l port.Leftover) error
	// Watch tells of changes until ctx ends.
	Watch(ctx context.Context) (<-chan hostnet.Event, error)
}

var _ Devices = (*port.Maker)(nil)

// Lifetime says for how long a vnet is there.
type Lifetime uint8

// The lifetimes.
const (
	// Persistent vnets are there until they are deleted.
	Persistent Lifetime = iota
	// Transient ones are there until xend restarts: the control socket's.
	Transient
	// Default ones are there without being created, while the configuration says so.
	Default
)

// Vnet is a vnet that should be there.
type Vnet struct {
	vnet.Config
	Lifetime Lifetime
}

// all lists every vnet that should be there: the persistent ones in the order of their creation, the transient
// ones, the default ones. changing is held, or mu.
func (s *Service) all() []Vnet {
	stored := s.o.Registry.List()
	list := make([]Vnet, 0, len(stored)+len(s.others))
	ids := make(map[vnet.ID]bool, len(stored))
	for _, c := range stored {
		list = append(list, Vnet{c, Persistent})
		ids[c.ID] = true
	}
	for _, v := range s.others {
		// A vnet of that id that was made while the defaults were off stays what it is.
		if !ids[v.ID] {
			list = append(list, v)
		}
	}
	return list
}

// find returns the vnet that should be there with that id. changing is held, or mu.
func (s *Service) find(id vnet.ID) (Vnet, bool) {
	if c, ok := s.o.Registry.Get(id); ok {
		return Vnet{c, Persistent}, true
	}
	for _, v := range s.others {
		if v.ID == id {
			return v, true
		}
	}
	return Vnet{}, false
}

// setOthers replaces the vnets that are not in the registry. changing is held.
func (s *Service) setOthers(list []Vnet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others = list
}

// spec says which devices a vnet wants. changing is held.
func (s *Service) spec(c vnet.Config) port.Spec {
	return port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif, MTU: s.settings.MTU, ForwardMask: s.settings.ForwardMask}
}

// bringUp makes a vnet's devices be as they should, and has the engine carry its frames. What is there already
// is taken as it is and not interrupted. changing is held.
func (s *Service) bringUp(c vnet.Config) error {
	d, err := s.ensure(c)
	if err == nil && d.Aside {
		err = s.o.Devices.Gather(s.spec(c))
	}
	return err
}

// bringUpNew is bringUp for a vnet that is created now: after an error nothing of it is left that was not there
// before.
func (s *Service) bringUpNew(c vnet.Config) error {
	d, err := s.ensure(c)
	if err != nil && d.Created {
		err = errors.Join(err, s.o.Devices.Remove(s.spec(c)))
	}
	return err
}

// ensure returns the devices also if they are there and the engine does not take them.
func (s *Service) ensure(c vnet.Config) (port.Devices, error) {
	d, err := s.o.Devices.Ensure(s.spec(c))
	if err != nil {
		return port.Devices{}, err
	}
	if err := s.step("devices made"); err != nil {
		return d, err
	}
	return d, s.o.Engine.Attach(c, d)
}

// takeDown undoes bringUp, also where it failed. The bridge goes only if xend made it and nothing else is on it.
// changing is held.
func (s *Service) takeDown(c vnet.Config) error {
	if err := s.o.Engine.Detach(c.ID); err != nil && !errors.Is(err, dataplane.ErrUnknownVnet) {
		return err
	}
	if err := s.step("detached"); err != nil {
		return err
	}
	return s.o.Devices.Remove(s.spec(c))
}

// Settings are what the configuration says about vnets, and may change while the daemon runs.
type Settings struct {
	// Defaults are the vnets that are there without being created.
	Defaults []vnet.Config
	// MTU is that of vnifs, and of bridges that xend makes, in bytes; 0: port.DefaultMTU.
	MTU int
	// ForwardMask says which frames between neighbours bridges that xend makes forward:
	// hostnet.BridgeSettings.ForwardMask.
	ForwardMask uint16
}

// Reconfigure has apply change the engine's configuration, and then takes other settings over. No vnet is
// created, deleted or restored meanwhile. Whatever fails, the rest is done nevertheless.
func (s *Service) Reconfigure(ctx context.Context, n Settings, apply func() error) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	errs := []error{apply()}
	s.settings = n
	var others []Vnet
	for _, v := range s.others {
		if v.Lifetime != Default {
			others = append(others, v)
			continue
		}
		if slices.ContainsFunc(n.Defaults, func(c vnet.Config) bool { return c.ID == v.ID }) {
			continue
		}
		if _, stored := s.o.Registry.Get(v.ID); !stored {
			errs = append(errs, s.takeDown(v.Config))
		}
	}
	s.setOthers(append(others, defaults(n)...))
	// All of them: what somebody changed of a vnet's devices is mended, too.
	for _, v := range s.all() {
		errs = append(errs, s.bringUp(v.Config))
	}
	return errors.Join(errs...)
}

// defaults are the default vnets of settings.
func defaults(s Settings) []Vnet {
	list := make([]Vnet, len(s.Defaults))
	for i, c := range s.Defaults {
		list[i] = Vnet{c, Default}
	}
	return list
}
