package port

import (
	"fmt"
	"slices"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Remove takes a vnet's devices away: the vnif off its bridge, the pair, and the bridge if xend made it and
// no other port is left on it. Devices that xend did not make are left alone. Succeeds if there is
// nothing to remove.
func Remove(h *hostnet.Host, s Spec) error { return remove(h, s, nil) }

func remove(h *hostnet.Host, s Spec, after func(step string) error) error {
	w := &work{host: h, spec: s, alias: Alias(s.ID)}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"pair", w.removePair},
		{"bridge", func() error { return w.removeBridge(s.Bridge) }},
		{"unfinished bridge", func() error { return w.removeBridge(newBridgeName(s.ID)) }},
	} {
		err := step.do()
		if err == nil && after != nil {
			err = after(step.name)
		}
		if err != nil {
			return fmt.Errorf("remove devices of vnet %s: %w", s.ID, err)
		}
	}
	return nil
}

func (w *work) removePair() error {
	for _, name := range []string{w.spec.Vnetif, PeerName(w.spec.ID), newVnifName(w.spec.ID)} {
		l, err := find(w.host, name)
		if err != nil {
			return err
		}
		other, err := w.partner(l)
		if err != nil {
			return err
		}
		unfinished := l.Name == PeerName(w.spec.ID) && other.Name == newVnifName(w.spec.ID)
		if !w.ours(l) && !w.ours(other) && !unfinished {
			continue
		}
		if err := w.host.Delete(l.Index); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) removeBridge(name string) error {
	if name == "" {
		return nil
	}
	b, err := find(w.host, name)
	if err != nil || b.Kind != "bridge" || (b.Alias != w.alias && name != newBridgeName(w.spec.ID)) {
		return err
	}
	ports, err := w.host.Ports(b.Index)
	if err != nil || len(ports) > 0 {
		return err
	}
	return w.host.Delete(b.Index)
}

// Leftover is what is there of one vnet's devices, by their alias.
type Leftover struct {
	ID     vnet.ID
	Vnetif string // name of the vnif; "": there is none
	Bridge string // name of the bridge that xend made for it; "": there is none
}

// Spec is what Remove needs to take it away.
func (l Leftover) Spec() Spec { return Spec{ID: l.ID, Vnetif: l.Vnetif, Bridge: l.Bridge} }

// Leftovers lists the vnets that have devices, in order of their ids: those of running vnets, and
// those that a daemon left that was killed before it removed them.
func Leftovers(h *hostnet.Host) ([]Leftover, error) {
	links, err := h.Links()
	if err != nil {
		return nil, fmt.Errorf("look for devices of vnets: %w", err)
	}
	found := map[vnet.ID]*Leftover{}
	for _, l := range links {
		id, ok := parseAlias(l.Alias)
		if !ok {
			continue
		}
		v := found[id]
		if v == nil {
			v = &Leftover{ID: id}
			found[id] = v
		}
		switch {
		case l.Kind == "bridge":
			v.Bridge = l.Name
		case l.Kind == "veth" && l.Name != PeerName(id):
			v.Vnetif = l.Name
		}
	}
	list := make([]Leftover, 0, len(found))
	for _, v := range found {
		list = append(list, *v)
	}
	slices.SortFunc(list, func(a, b Leftover) int { return a.ID.Compare(b.ID) })
	return list, nil
}
