package control

import (
	"context"

	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// Operations are what the control socket needs of a service. A fake is in package fronttest.
type Operations interface {
	// AddTransient makes a vnet that is gone when the daemon restarts, DeleteTransient removes one.
	AddTransient(ctx context.Context, c vnet.Config) error
	DeleteTransient(ctx context.Context, id vnet.ID) error
	// Dataplane is what the other commands change and list.
	Dataplane() service.Dataplane
	// Health says how the host is.
	Health(ctx context.Context) service.Health
	// Events returns what an operator must know of, and Topology what is to be drawn.
	Events(seq uint64, limit int) events.Log
	Topology(ctx context.Context) topology.Topology
}

var _ Operations = (*service.Service)(nil)
