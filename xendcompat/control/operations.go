package control

import (
	"context"

	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/service"
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
}

var _ Operations = (*service.Service)(nil)
