package service

import (
	"errors"
	"strings"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/registry"
)

// change is the change of a vnet's configuration. The registry says which of the two is to be, at every moment: a daemon
// that is killed leaves the rest to the next one. A bridge that gets another name is set aside before the registry says so,
// since whichever of the two brings the vnet up takes a bridge that is set aside, with all that is on it. changing is held.
type change struct {
	*Service
	old, new vnet.Config

	moves    bool // to a bridge of another name
	free     bool // which nothing has
	replaced *registry.Replacement
}

// admit finds everything that speaks against it, before anything is touched.
func (ch *change) admit() error {
	if ch.new.Security != vnet.None {
		if err := ch.checkKey(ch.new); err != nil {
			return err
		}
	}
	if err := ch.checkNames(ch.new); err != nil {
		return err
	}
	if err := ch.checkDevices(ch.new); err != nil {
		return err
	}
	if ch.moves = ch.old.Bridge != ch.new.Bridge; !ch.moves {
		return nil
	}
	target, err := ch.o.Devices.LookFor(ch.spec(ch.new))
	if err != nil {
		return failed("look for the devices of vnet "+ch.new.IDText, err)
	}
	_, taken := target.Link(ch.new.Bridge)
	ch.free = !taken
	return ch.checkPorts()
}

// checkPorts looks whether ports are on a bridge that xend did not make: only its owner knows which of them belong to the
// vnet, and which to what else the bridge is for.
func (ch *change) checkPorts() error {
	survey, err := ch.o.Devices.LookFor(ch.spec(ch.old))
	if err != nil {
		return failed("look for the devices of vnet "+ch.old.IDText, err)
	}
	bridge, ok := survey.Link(ch.old.Bridge)
	if _, made := port.Owner(bridge); !ok || made {
		return nil
	}
	var others []string
	vnif := survey.Find(ch.spec(ch.old)).Vnif
	for _, l := range survey.Ports(ch.old.Bridge) {
		if l.Index != vnif.Index {
			others = append(others, l.Name)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return refuse(Conflict, "bridge", "%s, where the vnet is now, was not made by xend, and %s on it: which of them belong to the vnet, xend can't know; "+
		"delete the vnet, create it with the bridge %s, and move them ('ip link set DEVICE master %s')",
		ch.old.Bridge, isOrAre(others), ch.new.Bridge, ch.new.Bridge)
}

// isOrAre names some devices of a list.
func isOrAre(names []string) string {
	const some = 5
	switch {
	case len(names) == 1:
		return names[0] + " is"
	case len(names) > some:
		return strings.Join(names[:some], ", ") + " and others are"
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " are"
}

// do makes the change.
func (ch *change) do() error {
	if ch.moves {
		if err := ch.o.Devices.SetAside(ch.spec(ch.old)); err != nil {
			return err
		}
		if err := ch.step("set aside"); err != nil {
			return err
		}
	}
	var err error
	if ch.replaced, err = ch.o.Registry.Replace(ch.new); err != nil {
		return err
	}
	if err := ch.step("stored"); err != nil {
		return err
	}
	if err := ch.detach(); err != nil {
		return err
	}
	d, err := ch.ensure(ch.new)
	if err == nil {
		err = ch.step("brought up")
	}
	if err == nil && d.Aside {
		err = ch.o.Devices.Gather(ch.spec(ch.new)) // the last, since a bridge that is gone could not come back as it was
	}
	if err != nil {
		return err
	}
	ch.replaced.Commit()
	return nil
}

// detach has the engine begin anew: what it has learned at one level of security is worth nothing at another.
func (ch *change) detach() error {
	if !ch.moves && ch.old.Vnetif == ch.new.Vnetif && ch.old.Security == ch.new.Security {
		return nil
	}
	if err := ch.o.Engine.Detach(ch.new.ID); err != nil && !errors.Is(err, dataplane.ErrUnknownVnet) {
		return err
	}
	return ch.step("detached")
}

// undo takes it back, also where it was done only in part.
func (ch *change) undo() error {
	var errs []error
	if ch.moves && ch.free && ch.replaced != nil {
		// What has the new name now is either the old bridge, or was made for this.
		errs = append(errs, ch.o.Devices.SetAside(ch.spec(ch.new)))
	}
	wanted := ch.old
	if ch.replaced != nil {
		if err := ch.replaced.Restore(); err != nil {
			errs = append(errs, err)
			wanted = ch.new // it is what the next daemon will find
		}
		errs = append(errs, ch.detach())
	}
	return errors.Join(append(errs, ch.bringUp(wanted))...)
}
