package port

import (
	"errors"
	"fmt"
	"slices"

	"github.com/xenvnet/xend/internal/hostnet"
)

// SetAside takes the name from a vnet's bridge if xend made it, and gives it that which a bridge has while it is made. It
// stays up, with its ports and all that is set on it. Ensure takes it for the bridge that is wanted then, if that is not
// there, and renames it; Gather brings its ports to one that is. Whenever the daemon is killed, the next one does that. A
// bridge that xend did not make, or that is not there, stays as it is.
func (m *Maker) SetAside(spec Spec) error {
	err := m.setAside(spec)
	if err != nil {
		return fmt.Errorf("set bridge %s of vnet %s aside: %w", spec.Bridge, spec.ID, err)
	}
	return nil
}

func (m *Maker) setAside(spec Spec) error {
	s, err := LookFor(m.Host, spec)
	if err != nil {
		return err
	}
	f := s.Find(spec)
	if f.Bridge.Index == 0 || f.Bridge.Name != spec.Bridge || !f.bridgeOurs || !ours(f.Bridge, spec.ID) {
		return nil
	}
	if err := m.delete([]hostnet.Link{f.unfinished}); err != nil {
		return err
	}
	w := &work{host: m.Host}
	wasUp := f.Bridge.Up()
	err = w.rename(&f.Bridge, newBridgeName(spec.ID))
	if wasUp {
		err = errors.Join(err, w.raise(&f.Bridge))
	}
	if err == nil && m.Step != nil {
		err = m.Step("set aside")
	}
	return err
}

// Gather brings the ports of a bridge that SetAside has set aside to the vnet's bridge, each with its settings, and
// removes the other one. After an error they are where they were, and so is it.
func (m *Maker) Gather(spec Spec) error {
	s, err := LookFor(m.Host, spec)
	if err == nil {
		err = m.gather(s, s.Find(spec))
	}
	if err != nil {
		return fmt.Errorf("bring the ports of vnet %s to bridge %s: %w", spec.ID, spec.Bridge, err)
	}
	return nil
}

func (m *Maker) gather(s *Survey, f Finding) error {
	if f.Aside.Index == 0 {
		return nil
	}
	known, err := m.Host.BridgePorts()
	if err != nil {
		return err
	}
	var undo []func() error
	for _, l := range s.links.Ports(f.Aside.Index) {
		var settings hostnet.PortSettings
		if i := slices.IndexFunc(known, func(p hostnet.BridgePort) bool { return p.Index == l.Index }); i >= 0 {
			settings = known[i].PortSettings
		}
		undo = append(undo, func() error { return m.move(l, f.Aside.Index, settings) })
		err = m.move(l, f.Bridge.Index, settings)
		if errors.Is(err, hostnet.ErrNotFound) { // it went away meanwhile
			err = nil
		}
		if err == nil && m.Step != nil {
			err = m.Step("move " + l.Name)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = m.delete([]hostnet.Link{f.Aside})
	}
	if err != nil {
		if left, errFind := findIndex(m.Host, f.Aside.Index); errFind == nil && left.Index == 0 {
			return nil // all is done
		}
		for _, back := range slices.Backward(undo) {
			if e := back(); e != nil && !errors.Is(e, hostnet.ErrNotFound) {
				err = errors.Join(err, fmt.Errorf("undo: %w", e))
			}
		}
	}
	return err
}

// move makes a device a port of another bridge, with its settings.
func (m *Maker) move(l hostnet.Link, bridge int, settings hostnet.PortSettings) error {
	// A port that must not talk to all others does not for a moment either.
	guarded := l.Up() && (settings.Flags&hostnet.PortIsolated != 0 || len(settings.VLANs) > 1)
	if guarded {
		if err := m.Host.SetDown(l.Index); err != nil {
			return err
		}
	}
	err := m.Host.SetMaster(l.Index, bridge)
	if err == nil && settings.Known != 0 {
		err = m.Host.SetPort(l.Index, settings)
	}
	if guarded {
		err = errors.Join(err, m.Host.SetUp(l.Index))
	}
	return err
}
