// Package service has the operations of the control plane, each written once; the front ends
// translate between a wire format and these.
package service

import (
	"context"
	"log/slog"
	"sync"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/registry"
)

// Options are the parts that a Service ties together.
type Options struct {
	Registry *registry.Registry
	Engine   Engine
	Domains  *domain.Manager
	// Defaults are the vnets that the engine has without being asked.
	Defaults []vnet.Config
	// LogFile is the daemon's log; empty if it goes to the journal.
	LogFile string
	Log     *slog.Logger
}

// Service has the operations. Its methods may be called concurrently.
type Service struct {
	o Options

	// changing is held while vnets are created, deleted or restored, one at a time. It is a channel
	// so that a caller who has gone does not wait for it.
	changing chan struct{}

	mu        sync.RWMutex
	transient []vnet.Config // in the order of creation
}

// New returns a Service over its parts.
func New(o Options) *Service {
	return &Service{o: o, changing: make(chan struct{}, 1)}
}

// Vnets returns the persistent vnets in the order of their creation.
func (s *Service) Vnets() []vnet.Config { return nil }

// Vnet returns a persistent vnet; an error of kind NotFound if there is none with that id.
func (s *Service) Vnet(id vnet.ID) (vnet.Config, error) { return vnet.Config{}, noSuchVnet(id) }

// FindVnet is Vnet for an id as a client spelled it: in a short or long form. A text that is no id
// is a vnet that does not exist.
func (s *Service) FindVnet(text string) (vnet.Config, error) {
	return vnet.Config{}, NoSuchVnet(text)
}

// CreateVnet makes a persistent vnet. When it returns nil, the vnet is durable and its devices exist;
// after an error, whose text says which field and why, nothing has changed.
func (s *Service) CreateVnet(ctx context.Context, c vnet.Config) error { return nil }

// DeleteVnet removes a persistent vnet, durably, and its devices; all or nothing.
func (s *Service) DeleteVnet(ctx context.Context, id vnet.ID) error { return noSuchVnet(id) }

// AddTransient makes a vnet that is gone when the daemon restarts. c.Bridge may be empty: on no bridge.
func (s *Service) AddTransient(ctx context.Context, c vnet.Config) error { return nil }

// DeleteTransient removes a vnet that AddTransient made; a persistent or a default one is an error of
// kind Conflict that says how to get rid of it.
func (s *Service) DeleteTransient(ctx context.Context, id vnet.ID) error { return noSuchVnet(id) }

// Dataplane returns the data plane, for the low-level control socket. vif.add on an unknown vnet is an
// error of it.
func (s *Service) Dataplane() Dataplane { return s.o.Engine }

// Domains returns the manager of domains.
func (s *Service) Domains() *domain.Manager { return s.o.Domains }

// Node returns the (node (key value)…) form.
func (s *Service) Node(ctx context.Context) (sxp.Value, error) { return s.o.Domains.Node(ctx) }

// NodeLog returns the end of the daemon's log, 1 MiB at most.
func (s *Service) NodeLog(ctx context.Context) ([]byte, error) { return nil, nil }

// Dmesg returns the hypervisor's messages.
func (s *Service) Dmesg(ctx context.Context) ([]byte, error) { return s.o.Domains.Dmesg(ctx) }

// ClearDmesg empties them.
func (s *Service) ClearDmesg(ctx context.Context) error { return s.o.Domains.ClearDmesg(ctx) }
