package port

import (
	"fmt"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Remove takes a vnet's devices away: the vnif off its bridge, the pair, and the bridge if xend made it and
// no other port is left on it. Devices that xend did not make are left alone. Succeeds if there is
// nothing to remove.
func (m *Maker) Remove(spec Spec) error {
	s, err := LookFor(m.Host, spec)
	if err != nil {
		return fmt.Errorf("remove devices of vnet %s: %w", spec.ID, err)
	}
	f := s.Find(spec)
	var list []hostnet.Link
	for _, name := range append([]string{spec.Vnetif}, OwnNames(spec.ID)...) {
		l := s.links.ByName(name)
		if l.Kind == "veth" && (ours(l, spec.ID) || ours(s.partner(l), spec.ID)) {
			list = append(list, l)
		}
	}
	if f.bridgeOurs && (f.Bridge.Alias == "" || f.Bridge.Alias == Alias(spec.ID)) {
		list = append(list, f.Bridge)
	}
	if err := m.delete(append(list, f.unfinished, f.Aside)); err != nil {
		return fmt.Errorf("remove devices of vnet %s: %w", spec.ID, err)
	}
	m.memory.forget(spec.ID)
	return nil
}

// RemoveLeftover takes away what a survey found and nobody wants; a bridge only if nothing is on it.
func (m *Maker) RemoveLeftover(left Leftover) error {
	var list []hostnet.Link
	for _, kind := range []string{"veth", "bridge"} { // ports before their bridges
		for _, l := range left.Devices {
			if l.Kind == kind {
				list = append(list, l)
			}
		}
	}
	if err := m.delete(list); err != nil {
		return fmt.Errorf("remove %s, left of vnet %s: %w", left, left.ID, err)
	}
	return nil
}

// delete deletes devices as they were seen: one that has gone or changed hands since is left alone.
func (m *Maker) delete(list []hostnet.Link) error {
	for _, seen := range list {
		if seen.Index == 0 {
			continue
		}
		l, err := findIndex(m.Host, seen.Index)
		if err != nil {
			return err
		}
		if l.Kind != seen.Kind || l.Name != seen.Name || l.Alias != seen.Alias {
			continue
		}
		if l.Kind == "bridge" {
			ports, err := m.Host.Ports(l.Index)
			if err != nil {
				return err
			}
			if len(ports) > 0 {
				continue
			}
		}
		if err := m.Host.Delete(l.Index); err != nil {
			return err
		}
		if m.Step != nil {
			if err := m.Step("delete " + l.Kind); err != nil {
				return err
			}
		}
	}
	return nil
}
