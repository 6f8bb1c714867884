package domain

import (
	"context"

	"github.com/xenvnet/xend/sxp"
)

// Node returns the (node (key value)…) form that describes this machine, under 4,000 bytes.
func (m *Manager) Node(context.Context) (sxp.Value, error) {
	return sxp.List(sxp.Atom("node"), pair("system", "Linux")), nil
}
