// Package service has the operations of the control plane, each written once; the front ends only
// translate between a wire format and these. It also is the task that brings what exists back to what
// should: see Run.
package service

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/registry"
)

// Options are the parts that a Service ties together.
type Options struct {
	Registry *registry.Registry
	// Engine carries frames; nil: vnets have devices only.
	Engine Engine
	// Devices makes and removes the devices that the engine carries frames through.
	Devices  Devices
	Domains  *domain.Manager
	Settings Settings
	// Firewall reads the rules of the host's firewall, which takes a while; nil: nobody looks.
	Firewall func() *firewall.Rules
	// SecurityPort is the UDP port of vnets with security.
	SecurityPort uint16
	// CheckKey tells why there is no key for a vnet with security: an error that is dataplane.ErrNoKey if there is none, or
	// what is wrong with it. nil: there are no keys at all.
	CheckKey func(id vnet.ID) error
	// LogFile tells where the daemon's log is; "" if it goes to the journal.
	LogFile func() string
	// Events keeps what an operator must know of; nil keeps nothing.
	Events *events.Ring
	Log    *slog.Logger

	// Step, if not nil, is called with a name after each step of a change; its error fails the change
	// there. It is for tests.
	Step func(step string) error
}

// Service has the operations. Its methods may be called concurrently.
type Service struct {
	o     Options
	log   *slog.Logger
	ready chan struct{}

	// changing is held while vnets are created, deleted or restored: one change at a time. It is a
	// channel so that a caller who has gone does not wait for it.
	changing chan struct{}

	restored, unrestored atomic.Uint64 // vnets that the reconciler brought up, and could not

	settings Settings // guarded by changing
	// mu is for others, which is written only with changing held.
	mu sync.RWMutex
	// others are the vnets that are not in the registry: transient ones in the order of their creation, and
	// default ones.
	others []Vnet
}

// New returns a Service over its parts. It changes nothing until Run or an operation is called.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LogFile == nil {
		o.LogFile = func() string { return "" }
	}
	if o.Engine == nil {
		o.Engine = newOff()
	}
	return &Service{
		o: o, log: o.Log, ready: make(chan struct{}), changing: make(chan struct{}, 1),
		settings: o.Settings, others: defaults(o.Settings),
	}
}

// begin waits until no other change is under way. end must be called.
func (s *Service) begin(ctx context.Context) (end func(), err error) {
	select {
	case s.changing <- struct{}{}:
		return func() { <-s.changing }, nil
	case <-ctx.Done():
		return nil, &Error{Kind: Unavailable, Text: "xend is busy", Err: ctx.Err()}
	}
}

func (s *Service) step(name string) error {
	if s.o.Step == nil {
		return nil
	}
	return s.o.Step(name)
}

// Vnets returns the persistent vnets in the order of their creation.
func (s *Service) Vnets() []vnet.Config { return s.o.Registry.List() }

// Vnet returns a persistent vnet; an error of kind NotFound if there is none with that id.
func (s *Service) Vnet(id vnet.ID) (vnet.Config, error) {
	c, ok := s.o.Registry.Get(id)
	if !ok {
		return vnet.Config{}, noSuchVnet(id)
	}
	return c, nil
}

// FindVnet is Vnet for an id as a client spelled it: in a short or the full form. A text that is no id
// is that of a vnet that does not exist.
func (s *Service) FindVnet(text string) (vnet.Config, error) {
	id, err := vnet.ParseID(text)
	if err != nil {
		return vnet.Config{}, NoSuchVnet(text)
	}
	c, ok := s.o.Registry.Get(id)
	if !ok {
		return vnet.Config{}, NoSuchVnet(text)
	}
	return c, nil
}

// FindDeletable is FindVnet for a vnet that is to be deleted: of one that exists and is not persistent an error
// of kind Conflict says how to be rid of it.
func (s *Service) FindDeletable(text string) (vnet.Config, error) {
	c, err := s.FindVnet(text)
	if id, parseErr := vnet.ParseID(text); err != nil && parseErr == nil {
		if other := s.unlisted(id, text); other != nil {
			err = other
		}
	}
	return c, err
}

// CreateVnet makes a persistent vnet. When it returns nil, the vnet is durable and its devices exist;
// after an error, whose text says which field and why, nothing has changed. One that is there already as c
// says is no error: boot scripts create at each boot.
func (s *Service) CreateVnet(ctx context.Context, c vnet.Config) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	// From here on it is all or nothing, whether or not the client stays.
	if same, err := s.there(c); same || err != nil {
		return err
	}
	if err := s.admit(c); err != nil {
		return err
	}
	if err := s.o.Registry.Put(c); err != nil {
		return failed("create vnet "+c.IDText, err)
	}
	err = s.step("stored")
	if err == nil {
		err = s.bringUpNew(c)
	}
	if err != nil {
		if undo := s.forget(c.ID); undo != nil {
			s.log.Error("a vnet that can't be made stays in the registry and will be tried again", "vnet", c.ID.Short(), "error", undo)
			err = errors.Join(err, undo)
		}
		return failed("create vnet "+c.IDText, err)
	}
	s.warnUnknown(c)
	s.log.Info("vnet created", "vnet", c.ID.Short(), "bridge", c.Bridge, "vnetif", c.Vnetif)
	_ = s.step("created") // too late to fail
	return nil
}

// ChangeVnet gives a persistent vnet another configuration. When it returns nil, that is durable and in force: the ports
// that were on the vnet's bridge are on it now, whatever its name is. After an error, whose text says which field and why,
// all is as it was. A configuration that says what is there already changes nothing.
func (s *Service) ChangeVnet(ctx context.Context, c vnet.Config) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	// From here on it is all or nothing, whether or not the client stays.
	old, err := s.FindDeletable(c.IDText)
	if err != nil {
		return err
	}
	difference := old.Difference(c)
	if difference == "" {
		return nil
	}
	ch := change{Service: s, old: old, new: c}
	if err := ch.admit(); err != nil {
		return err
	}
	if err := ch.do(); err != nil {
		if undo := ch.undo(); undo != nil {
			s.log.Error("a vnet that can't be changed can't be restored either", "vnet", c.ID.Short(), "error", undo)
			err = errors.Join(err, undo)
		}
		return failed("change vnet "+c.IDText, err)
	}
	s.warnUnknown(c)
	s.log.Info("vnet changed", "vnet", c.ID.Short(), "before", difference, "bridge", c.Bridge, "vnetif", c.Vnetif, "security", c.Security)
	_ = s.step("changed") // too late to fail
	return nil
}

func (s *Service) warnUnknown(c vnet.Config) {
	if len(c.Unknown) > 0 {
		s.log.Warn("vnet has unknown fields, which are kept and mean nothing", "vnet", c.ID.Short(), "fields", c.Unknown)
	}
}

// forget takes a vnet out of the registry for good.
func (s *Service) forget(id vnet.ID) error {
	d, err := s.o.Registry.Delete(id)
	if err == nil {
		d.Commit()
	}
	return err
}

// DeleteVnet removes a persistent vnet, durably, and its devices; all or nothing.
func (s *Service) DeleteVnet(ctx context.Context, id vnet.ID) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	c, err := s.Vnet(id)
	if err != nil {
		return err
	}
	deletion, err := s.o.Registry.Delete(id)
	if err != nil {
		return failed("delete vnet "+c.IDText, err)
	}
	err = s.step("unstored")
	if err == nil {
		err = s.takeDown(c)
	}
	if err == nil {
		err = s.step("removed")
	}
	if err != nil {
		undo := deletion.Restore()
		if undo == nil {
			undo = s.bringUp(c)
		}
		if undo != nil {
			s.log.Error("a vnet that can't be deleted can't be restored either", "vnet", c.ID.Short(), "error", undo)
			err = errors.Join(err, undo)
		}
		return failed("delete vnet "+c.IDText, err)
	}
	deletion.Commit()
	s.log.Info("vnet deleted", "vnet", c.ID.Short())
	return nil
}

// AddTransient makes a vnet that is gone when the daemon restarts and that Vnets does not list.
// c.Bridge may be empty: on no bridge.
func (s *Service) AddTransient(ctx context.Context, c vnet.Config) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.admit(c); err != nil {
		return err
	}
	if err := s.bringUpNew(c); err != nil {
		return failed("create vnet "+c.IDText, err)
	}
	s.setOthers(append(slices.Clone(s.others), Vnet{c, Transient}))
	s.log.Info("vnet created until xend restarts", "vnet", c.ID.Short(), "vnetif", c.Vnetif)
	return nil
}

// DeleteTransient removes a vnet that AddTransient made. A persistent or a default one is an error of
// kind Conflict that says how to get rid of it.
func (s *Service) DeleteTransient(ctx context.Context, id vnet.ID) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	v, ok := s.find(id)
	switch {
	case !ok:
		return noSuchVnet(id)
	case v.Lifetime == Persistent:
		return errorf(Conflict, "vnet %s is persistent: delete it with 'xm vnet-delete %s'", v.IDText, v.IDText)
	case v.Lifetime == Default:
		return errorf(Conflict, "vnet %s is a default vnet: %s", id, defaultsOff)
	}
	if err := s.takeDown(v.Config); err != nil {
		if undo := s.bringUp(v.Config); undo != nil {
			err = errors.Join(err, undo)
		}
		return failed("delete vnet "+v.IDText, err)
	}
	s.setOthers(slices.DeleteFunc(slices.Clone(s.others), func(o Vnet) bool { return o.ID == id }))
	s.log.Info("vnet deleted", "vnet", v.ID.Short())
	return nil
}

// Dataplane returns the data plane, for the low-level control socket.
func (s *Service) Dataplane() Dataplane { return s.o.Engine }

// Domains returns the manager of domains.
func (s *Service) Domains() *domain.Manager { return s.o.Domains }

// Node returns the (node (key value)…) form.
func (s *Service) Node(ctx context.Context) (sxp.Value, error) { return s.o.Domains.Node(ctx) }

// Dmesg returns the hypervisor's messages.
func (s *Service) Dmesg(ctx context.Context) ([]byte, error) { return s.o.Domains.Dmesg(ctx) }

// ClearDmesg empties them.
func (s *Service) ClearDmesg(ctx context.Context) error { return s.o.Domains.ClearDmesg(ctx) }
