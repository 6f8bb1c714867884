package netscripts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/netscripts/l3"
)

// checkTimeout bounds the wait for what the kernel does in the background after its answer.
const checkTimeout = 5 * time.Second

// stop is `network-bridge stop`.
func (b *bridgeScript) stop(ctx context.Context) error {
	if b.variable("bridge") == "null" {
		b.say(doNothing + "bridge=null asks for no bridge")
		return nil
	}
	c, err := b.chooseStarted()
	if err != nil {
		return err
	}
	bridge, err := b.m.host.LinkByName(c.bridge)
	if err != nil || bridge.Kind != "bridge" {
		b.say(doNothing+"there is no bridge %s", c.bridge)
		return nil
	}
	port, err := b.m.host.LinkByName(c.port)
	if err != nil || port.Master != bridge.Index {
		b.say(doNothing+"%s was not made by network-bridge start: no device %s is a port of it", bridge.Name, c.port)
		return nil
	}
	if err := b.checkRemovable(c, bridge, port); err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	t, err := b.planStop(c, bridge, port)
	if err != nil {
		return err
	}
	if err := b.findBound(t, bridge.Index, bridge.Name, c.netdev); err != nil {
		return fmt.Errorf("cannot remove the bridge %s: %w; nothing was changed", bridge.Name, err)
	}
	steps := b.stopSteps(t)
	if b.args.dryRun {
		b.describe(t, steps)
		return nil
	}

	if err := t.run(ctx, b, steps); err != nil {
		return err
	}
	b.say("the bridge %s is gone; %s has its name and addresses again", t.Bridge.Name, t.Device.Name)
	return nil
}

// chooseStarted is which of the bridges that start made is meant. Where none is, it is what choose says.
func (b *bridgeScript) chooseStarted() (choice, error) {
	c, err := b.choose()
	if err != nil {
		return c, err
	}
	meant, err := b.startedMeant()
	if err != nil {
		return c, err
	}
	switch len(meant) {
	case 0:
	case 1:
		return meant[0].choice(), nil
	default:
		for _, s := range meant {
			if s.Device == c.netdev {
				return s.choice(), nil // that of the default route
			}
		}
		var list []string
		for _, s := range meant {
			list = append(list, fmt.Sprintf("%s (over %s)", s.bridge.Name, s.Port))
		}
		return c, fmt.Errorf("there are several bridges that start made: %s; say bridge= or netdev= which one is meant", strings.Join(list, ", "))
	}
	named := b.variable("bridge") != "" || b.variable("vifnum") != ""
	if port, err := b.m.host.LinkByName(c.port); err == nil && port.Master != 0 && !named {
		c.bridge = b.m.name(port.Master)
	}
	return c, nil
}

// startedMeant are the bridges that start made and that netdev, bridge and vifnum can mean.
func (b *bridgeScript) startedMeant() ([]started, error) {
	list, err := b.m.started(b.entry)
	if err != nil {
		return nil, err
	}
	netdev, bridge := b.variable("netdev"), b.variable("bridge")
	if n := b.variable("vifnum"); bridge == "" && n != "" {
		bridge = "xenbr" + n
	}
	return slices.DeleteFunc(list, func(s started) bool {
		return netdev != "" && netdev != s.Device || bridge != "" && bridge != s.bridge.Name
	}), nil
}

// checkRemovable says what still needs the bridge.
func (b *bridgeScript) checkRemovable(c choice, bridge, port hostnet.Link) error {
	ports, err := b.otherPorts(bridge, port.Index)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		return fmt.Errorf("cannot remove the bridge %s: it still has the ports %s; shut those domains down or take the ports off first", bridge.Name, names(ports))
	}
	above, err := b.m.above(bridge.Index)
	if err != nil {
		return err
	}
	above = slices.DeleteFunc(above, func(l hostnet.Link) bool { return l.Partner == bridge.Index && carried(l.Kind) })
	if len(above) > 0 {
		return fmt.Errorf("cannot remove the bridge %s: the devices %s stand on it and would go with it; remove them first", bridge.Name, names(above))
	}
	if l, err := b.m.host.LinkByName(c.netdev); err == nil && l.Index != bridge.Index {
		return fmt.Errorf("cannot give %s the name %s back: another device has it (%s)", port.Name, c.netdev, l)
	}
	return b.checkRoot(bridge, nil)
}

func (b *bridgeScript) otherPorts(bridge hostnet.Link, but int) ([]hostnet.Link, error) {
	ports, err := b.m.host.Ports(bridge.Index)
	return slices.DeleteFunc(ports, func(l hostnet.Link) bool { return l.Index == but }), err
}

// planStop reads all that stop moves.
func (b *bridgeScript) planStop(c choice, bridge, port hostnet.Link) (*transaction, error) {
	t := &transaction{Command: "stop", Port: c.port, Temporary: fmt.Sprintf("xendtmp%d", os.Getpid())}
	for _, r := range b.entry.Started {
		if r.BridgeIndex == bridge.Index {
			t.WasDown = r.WasDown
		}
	}
	var err error
	if t.Antispoof, err = b.m.filter().Guarded(bridge.Name); err != nil {
		return nil, err
	}
	if t.Bridge, err = b.m.remember(bridge); err != nil {
		return nil, err
	}
	if t.L3, err = b.m.l3.Capture(bridge.Index); err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", bridge.Name, err)
	}
	if t.PortL3, err = b.m.l3.Capture(port.Index); err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", port.Name, err)
	}
	err = b.plan(t, port)
	t.Device.Name = c.netdev
	return t, err
}

// stopSteps are the steps of stop, which has no step that releases the port: until the bridge is
// deleted, which does it, frames come in through the bridge and are answered through the port.
func (b *bridgeScript) stopSteps(t *transaction) []step {
	m := b.m
	moved := func() l3.State { return t.L3.Moved(t.Bridge.Index, t.Device.Index) }
	bridgeUp := func() error { return m.revive(t.Bridge, t.L3, t) }
	portUp := func() error { return m.revive(t.Device, t.PortL3, t) }
	device, bridge := func() int { return t.Device.Index }, func() int { return t.Bridge.Index }
	steps := append(b.bothSteps(t, bridge, device, t.Device.Name), []step{{
		text: fmt.Sprintf("rename %s to %s", t.Bridge.Name, t.Temporary),
		do:   func(context.Context) error { return m.rename(t.Bridge.Index, t.Temporary, bridgeUp) },
		undo: func() error {
			err := m.rename(t.Bridge.Index, t.Bridge.Name, bridgeUp)
			return errors.Join(ignoreGone(err), bridgeUp())
		},
	}, {
		text: fmt.Sprintf("rename %s to %s", t.Port, t.Device.Name),
		do:   func(context.Context) error { return m.rename(t.Device.Index, t.Device.Name, portUp) },
		undo: func() error {
			err := m.rename(t.Device.Index, t.Port, portUp)
			return errors.Join(ignoreGone(err), portUp())
		},
	}, {
		text: fmt.Sprintf("give %s the settings of the bridge", t.Device.Name),
		do: func(context.Context) error {
			return m.change("set the settings of "+t.Device.Name, func() error {
				if err := t.Bridge.Settings.Apply(t.Device.Name); err != nil {
					b.warn("not all settings of %s are those of the bridge: %v", t.Device.Name, err)
				}
				return nil
			})
		},
		undo: func() error {
			return m.existing(t.Device.Index, func() error {
				name := m.name(t.Device.Index)
				return errors.Join(
					m.l3.SetGenMode(t.Device.Index, t.Device.GenMode),
					t.Device.Settings.Apply(name),
					t.Device.Settings.Resume(name))
			})
		},
	}, {
		text: fmt.Sprintf("give %s the addresses and routes of the bridge", t.Device.Name),
		do:   func(context.Context) error { return m.l3.Restore(moved().With(t.PortL3), t.Device.Index) },
		undo: func() error { return errors.Join(bridgeUp(), portUp()) },
	}, {
		text: "take them from the bridge",
		do:   func(context.Context) error { return m.l3.Clear(t.Bridge.Index) },
		undo: bridgeUp,
	}}...)
	steps = append(steps, b.tunnelSteps(t, bridge, device, t.Device.Name)...)
	steps = append(steps, []step{{
		text: fmt.Sprintf("wait for the link of %s, at most %s", t.Device.Name, b.LinkTimeout),
		do:   func(ctx context.Context) error { return b.waitForLink(ctx, t.Device.Index) },
	}, {
		text: fmt.Sprintf("check the addresses and routes of %s", t.Device.Name),
		do: func(ctx context.Context) error {
			return errors.Join(b.finish(t.Device.Index, t.Bridge), b.check(ctx, moved(), t.Device.Index))
		},
	}}...)
	if t.Antispoof {
		steps = append(steps, step{
			text: "remove the packet filter of " + t.Bridge.Name,
			do:   func(ctx context.Context) error { return b.unguard(ctx, t.Bridge.Name) },
			undo: func() error { return b.guard(context.Background(), t.Bridge.Name, t.Port) },
		})
	}
	if t.WasDown {
		steps = append(steps, step{
			text: fmt.Sprintf("take %s down, as it was before start", t.Device.Name),
			do: func(context.Context) error {
				if err := m.down(t.Device.Index); err != nil {
					return err
				}
				// IPv6 addresses go with the link, and can be added again without.
				return m.l3.Add(l3.State{Taken: t.L3.Taken, Addresses: moved().Addresses}, t.Device.Index)
			},
			undo: func() error { return ignoreGone(m.up(t.Device.Index)) },
		})
	}
	return append(steps, step{
		text: "delete the bridge",
		do: func(context.Context) error {
			l, err := m.host.LinkByIndex(t.Bridge.Index)
			if err != nil {
				return err
			}
			// A domain may have been started meanwhile by a script that takes no lock.
			ports, err := b.otherPorts(l, t.Device.Index)
			if err != nil {
				return err
			}
			if len(ports) > 0 {
				return fmt.Errorf("it got the ports %s meanwhile", names(ports))
			}
			if err := m.delete(l); err != nil {
				return err
			}
			b.forgetRules(t)
			return nil
		},
	})
}

// forgetRules takes the rules away that match the bridge, which is gone: no frame comes by it any more.
func (b *bridgeScript) forgetRules(t *transaction) {
	if !t.Rules {
		return
	}
	if err := b.m.rules().Only(t.Bridge.Index, t.Device.Index); err != nil {
		b.warn("rules for the bridge that is gone remain, and match nothing: %v", err)
	}
}

// finishStop completes a stop that was interrupted after it, or somebody else, had deleted the bridge.
func (b *bridgeScript) finishStop(t *transaction) error {
	if t.Begun < len(b.stopSteps(t)) { // all that comes before is done, and was checked
		revive := func() error { return b.m.revive(t.Device, t.PortL3, t) }
		err := b.m.existing(t.Device.Index, func() error {
			err := errors.Join(b.m.rename(t.Device.Index, t.Device.Name, revive), revive())
			if applyErr := t.Bridge.Settings.Apply(t.Device.Name); applyErr != nil {
				b.warn("not all settings of %s are those of the bridge: %v", t.Device.Name, applyErr)
			}
			return errors.Join(err,
				b.m.l3.Add(t.L3.Moved(t.Bridge.Index, t.Device.Index), t.Device.Index),
				b.finish(t.Device.Index, t.Bridge))
		})
		if err != nil {
			return fmt.Errorf("%w\nsee what %s says; if the network is right, remove it", err, b.journal.path)
		}
	}
	b.forgetRules(t)
	b.entry.Started, b.entry.Unfinished = b.entry.Started.without(t.Bridge.Index), nil
	return b.journal.write(b.entry)
}
