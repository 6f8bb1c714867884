package httpsxp

import (
	"context"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/service"
)

// Operations are what the SXP over HTTP needs of a service. An error is worded for the client's user; service.KindOf tells
// its kind. A fake is in package fronttest.
type Operations interface {
	// Vnets lists the persistent vnets in the order of their creation.
	Vnets() []vnet.Config
	// FindVnet finds one by its id as a client spelled it, and FindDeletable one that is to be changed or deleted.
	FindVnet(id string) (vnet.Config, error)
	FindDeletable(id string) (vnet.Config, error)
	// CreateVnet, ChangeVnet and DeleteVnet are all or nothing.
	CreateVnet(ctx context.Context, c vnet.Config) error
	ChangeVnet(ctx context.Context, c vnet.Config) error
	DeleteVnet(ctx context.Context, id vnet.ID) error

	// Domains manages domains.
	Domains() *domain.Manager

	// Node describes the machine; NodeLog is the end of the daemon's log, Dmesg are the hypervisor's messages.
	Node(ctx context.Context) (sxp.Value, error)
	NodeLog(ctx context.Context) ([]byte, error)
	Dmesg(ctx context.Context) ([]byte, error)
	ClearDmesg(ctx context.Context) error
}

var _ Operations = (*service.Service)(nil)
