// Package registry keeps the persistent set of vnets: what should exist.
package registry

import (
	"sync"

	"github.com/xenvnet/xend/vnet"
)

// Registry is an open state directory.
type Registry struct {
	mu    sync.RWMutex
	vnets []vnet.Config
}
