package domain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Network is a bridge, as domains see it.
type Network struct {
	Bridge string
	// Vnet is the id of the vnet that it carries, as its owner wrote it; "" if none.
	Vnet string
	// MTU is that of the bridge, 0 if unknown.
	MTU int
}

// Networks knows the bridges that vifs can be on. The service is one.
type Networks interface {
	// FindBridge returns what is known of a bridge; false if it does not exist.
	FindBridge(name string) (Network, bool)
	// VnetBridges returns those of vnets, in the order of their creation.
	VnetBridges() []Network
	// DemandBridge makes the vnet that has this bridge, if some file describes it and the configuration allows it;
	// false if not.
	DemandBridge(ctx context.Context, name string) (bool, error)
}

// NoBridgeError says that a vif asks for a bridge that does not exist.
type NoBridgeError struct {
	Bridge string
	Known  []Network // vnets
}

func (e *NoBridgeError) Error() string {
	var known []string
	for _, n := range e.Known {
		known = append(known, fmt.Sprintf("%s (%s)", n.Vnet, n.Bridge))
	}
	text := fmt.Sprintf("bridge %s: no such bridge; vnets known here: %s", e.Bridge, cmp.Or(strings.Join(known, ", "), "none"))
	if id, ok := strings.CutPrefix(e.Bridge, "vnet"); ok && id != "" {
		return text + fmt.Sprintf("; a file with (vnet (id %s)) and 'xm vnet-create FILE' make it", id)
	}
	return text + fmt.Sprintf("; 'ip link add %s type bridge' makes a bridge of this host alone, 'xm vnet-create' a vnet", e.Bridge)
}

// bridges sees to the bridges that a configuration asks for, makes those that are wanted on demand, and gives vifs on
// vnets their MTU.
func (m *Manager) bridges(ctx context.Context, c *Config) error {
	if m.o.Networks == nil {
		return nil
	}
	for i, v := range c.Vifs {
		// A driver domain has bridges of its own; without a name, the vif-script chooses.
		if v.Bridge == "" || v.Backend != "" && v.Backend != "0" && v.Backend != "Domain-0" {
			continue
		}
		n, ok := m.o.Networks.FindBridge(v.Bridge)
		if !ok && !xenBridge(v.Bridge) {
			made, err := m.o.Networks.DemandBridge(ctx, v.Bridge)
			if err != nil {
				return fmt.Errorf("bridge %s: %w", v.Bridge, err)
			}
			if n, ok = m.o.Networks.FindBridge(v.Bridge); !made || !ok {
				return &NoBridgeError{Bridge: v.Bridge, Known: m.o.Networks.VnetBridges()}
			}
		}
		if n.Vnet != "" && v.MTU == 0 {
			c.Vifs[i].MTU = n.MTU
		}
	}
	return nil
}

// xenBridge tells the names that the vif-script takes for the bridge of this host's network, whatever it is called.
func xenBridge(name string) bool {
	for _, prefix := range []string{"xenbr", "eth"} {
		if n, ok := strings.CutPrefix(name, prefix); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return true
		}
	}
	return false
}

// vnetOf returns the id of the vnet that a bridge carries, or "".
func (m *Manager) vnetOf(bridge string) string {
	if m.o.Networks == nil || bridge == "" {
		return ""
	}
	list := m.o.Networks.VnetBridges()
	if i := slices.IndexFunc(list, func(n Network) bool { return n.Bridge == bridge }); i >= 0 {
		return list[i].Vnet
	}
	return ""
}
