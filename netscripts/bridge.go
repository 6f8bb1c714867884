package netscripts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/netscripts/l3"
	"github.com/xenvnet/xend/vnet"
)

// running is the flag of a device with carrier, as hostnet reports it.
const running = net.FlagRunning

// networkBridge is the script network-bridge.
func networkBridge(ctx context.Context, s *script) error {
	b := &bridgeScript{script: s}
	if !slices.Contains(strings.Split(networkCommands, ", "), s.args.command) {
		return &commandError{s.args.command, networkCommands}
	}
	s.nameUnknown()
	var err error
	switch s.args.command {
	case "start":
		err = b.locked(ctx, b.start)
	case "stop":
		err = b.locked(ctx, b.stop)
	case "status":
		err = b.open()
		if err == nil {
			err = b.status()
		}
	}
	b.close()
	return err
}

// bridgeScript is a run of network-bridge.
type bridgeScript struct {
	*script
	m       *machine
	journal *journal
	entry   entry // what the journal said

	// For --dry-run: what moves, what stands in the way, what programs have to be seen to.
	moves, refused, programs []string
}

func (b *bridgeScript) open() error {
	var err error
	if b.journal, err = b.openJournal(); err != nil {
		return err
	}
	if b.m, err = b.openMachine(); err != nil {
		return err
	}
	b.entry, err = b.journal.read()
	return err
}

func (b *bridgeScript) close() {
	if b.m != nil {
		b.m.close()
	}
}

// locked runs fn while no other network-bridge runs, after an earlier run that was interrupted has
// been undone, and with a limit on its time. A dry run changes nothing and waits for nobody.
func (b *bridgeScript) locked(ctx context.Context, fn func(ctx context.Context) error) error {
	work := func() error {
		if err := b.open(); err != nil {
			return err
		}
		if err := b.recover(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, b.Timeout, fmt.Errorf("this took longer than %s", b.Timeout))
		defer cancel()
		return fn(ctx)
	}
	if b.args.dryRun {
		return work()
	}
	return b.withLock(ctx, lockNetworkBridge, work)
}

// recover undoes what a run left half done that was killed.
func (b *bridgeScript) recover() error {
	t := b.entry.Unfinished
	if t == nil {
		return nil
	}
	what := fmt.Sprintf("network-bridge %s of process %d was interrupted", t.Command, b.entry.Pid)
	if b.args.dryRun {
		b.say("%s; would first put everything back as it was before", what)
		return nil
	}
	if t.Command == "stop" {
		if _, err := b.m.host.LinkByIndex(t.Bridge.Index); errors.Is(err, hostnet.ErrNotFound) {
			b.warn("%s; the bridge is gone, so the rest is done", what)
			return b.finishStop(t)
		}
	}
	b.warn("%s; putting everything back as it was before", what)
	steps := b.startSteps(t)
	if t.Command == "stop" {
		steps = b.stopSteps(t)
	}
	err := t.rollBack(b.journal, b.entry, steps)
	if err == nil {
		b.entry.Unfinished = nil
	}
	return err
}

// choice is which device and bridge are meant.
type choice struct {
	netdev, bridge, port string
}

// choose resolves netdev, bridge and vifnum. The names may be of devices that do not exist.
func (b *bridgeScript) choose() (choice, error) {
	vifnum := b.variable("vifnum")
	c := choice{netdev: b.variable("netdev"), bridge: b.variable("bridge")}
	switch {
	case c.bridge != "":
	case vifnum != "":
		c.bridge = "xenbr" + vifnum
	}
	if c.netdev == "" {
		var err error
		if c.netdev, err = b.defaultDevice(c.bridge); err != nil {
			return c, err
		}
	}
	switch {
	case c.netdev != "":
	case vifnum != "":
		c.netdev = "eth" + vifnum
	default:
		c.netdev = "eth0"
	}
	if c.bridge == "" {
		c.bridge = c.netdev
	}
	c.port = "p" + c.netdev
	return c, nil
}

// defaultDevice is the name of the device of the default route; "" if there is none. Where that is a bridge that
// start made, the device below it is meant, or, by a wrapper that calls once for each vifnum, none.
func (b *bridgeScript) defaultDevice(bridge string) (string, error) {
	index, err := b.m.l3.DefaultDevice()
	if err != nil {
		return "", fmt.Errorf("find the default route: %w", err)
	}
	list, err := b.m.started(b.entry)
	if err != nil {
		return "", err
	}
	for _, s := range list {
		switch {
		case s.bridge.Index != index:
		case b.variable("vifnum") != "" && s.bridge.Name != bridge:
			return "", nil
		default:
			return s.Device, nil
		}
	}
	if l, err := b.m.host.LinkByIndex(index); index != 0 && err == nil {
		return l.Name, nil
	}
	return "", nil
}

func (b *bridgeScript) antispoof() (bool, error) {
	v := b.variable("antispoof")
	if v == "" {
		v = b.variable("antispoofing")
	}
	on, err := parseBool(v)
	if err != nil {
		return false, fmt.Errorf("antispoof=%s: %w", v, err)
	}
	return on, nil
}

const doNothing = "nothing to do: "

// start is `network-bridge start`.
func (b *bridgeScript) start(ctx context.Context) error {
	antispoof, err := b.antispoof()
	if err != nil {
		return err
	}
	if b.variable("bridge") == "null" {
		b.say(doNothing + "bridge=null asks for no bridge")
		return nil
	}
	c, err := b.choose()
	if err != nil {
		return err
	}
	if done, err := b.alreadyBridged(ctx, c, antispoof); done || err != nil {
		return err
	}
	dev, err := b.checkDevice(c)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	t, err := b.planStart(c, dev, antispoof)
	if err != nil {
		return err
	}
	if err := b.findBound(t, dev.Index, dev.Name, c.bridge); err != nil {
		return fmt.Errorf("cannot bridge %s: %w; nothing was changed", dev.Name, err)
	}
	steps := b.startSteps(t)
	if b.args.dryRun {
		b.describe(t, steps)
		return nil
	}
	if err := t.run(ctx, b, steps); err != nil {
		return err
	}
	b.say("%s is a bridge now, over %s, which was %s", t.Bridge.Name, t.Port, t.Device.Name)
	return nil
}

// alreadyBridged says why there is nothing to do, if so. Bridges that have nothing to do with the device and have
// another name don't matter.
func (b *bridgeScript) alreadyBridged(ctx context.Context, c choice, antispoof bool) (bool, error) {
	vnets, err := b.m.vnets()
	if err != nil {
		return false, err
	}
	find := func(name string) (hostnet.Link, bool, error) {
		if len(name) > hostnet.MaxName {
			return hostnet.Link{}, false, nil
		}
		l, err := b.m.host.LinkByName(name)
		if errors.Is(err, hostnet.ErrNotFound) {
			return l, false, nil
		}
		return l, err == nil, err
	}
	port, hasPort, err := find(c.port)
	if err != nil {
		return false, err
	}
	dev, hasDev, err := find(c.netdev)
	if err != nil {
		return false, err
	}
	bridge, hasBridge, err := find(c.bridge)
	if err != nil {
		return false, err
	}
	plain := func(l hostnet.Link) bool { return l.Kind == "bridge" && vnets[l.Index] == "" }
	on := func(l hostnet.Link) (hostnet.Link, bool) { // the bridge that l is a port of
		master, err := b.m.host.LinkByIndex(l.Master)
		return master, l.Master != 0 && err == nil && master.Kind == "bridge"
	}
	if master, ok := on(port); hasPort && ok {
		if master.Name != c.bridge {
			b.say(doNothing+"%s, which is %s now, is a port of the bridge %s already", c.netdev, port.Name, master.Name)
			return true, nil
		}
		if antispoof && !b.args.dryRun {
			// The administrator's own firewall may have flushed the rules.
			if err := b.guard(ctx, master.Name, port.Name); err != nil {
				return false, err
			}
		}
		b.say(doNothing+"%s is a bridge over %s already", master.Name, port.Name)
		return true, nil
	}
	if master, ok := on(dev); hasDev && ok {
		b.say(doNothing+"%s is a port of the bridge %s already; domains can use that", dev.Name, master.Name)
		return true, nil
	}
	switch {
	case hasDev && plain(dev):
		bridge = dev
		fallthrough
	case hasBridge && plain(bridge):
		ports, err := b.m.host.Ports(bridge.Index)
		if err != nil {
			return false, err
		}
		with := "no ports"
		if len(ports) > 0 {
			with = "ports: " + names(ports)
		}
		b.say(doNothing+"%s is a bridge already (%s); domains can use it as it is", bridge.Name, with)
	case hasPort:
		b.say(doNothing+"there is a device %s already, so %s has been bridged before; to bridge it anew, give %s its name back", port.Name, c.netdev, port.Name)
	default:
		return false, nil
	}
	return true, nil
}

// checkDevice finds the device and says why it cannot be bridged, if so.
func (b *bridgeScript) checkDevice(c choice) (hostnet.Link, error) {
	none := hostnet.Link{}
	dev, err := b.m.host.LinkByName(c.netdev)
	if errors.Is(err, hostnet.ErrNotFound) {
		return none, fmt.Errorf("there is no device %s; name the right one with netdev=", c.netdev)
	}
	if err != nil {
		return none, err
	}
	if len(c.port) > hostnet.MaxName {
		return none, fmt.Errorf("cannot bridge %s: its new name %s would be longer than %d characters; give it a shorter name first", c.netdev, c.port, hostnet.MaxName)
	}
	if err := checkName(c.bridge); err != nil {
		return none, err
	}
	if c.bridge != c.netdev {
		if l, err := b.m.host.LinkByName(c.bridge); err == nil {
			return none, fmt.Errorf("cannot name the bridge %s: there is a device of that name (%s)", c.bridge, l)
		}
	}
	switch {
	case dev.Flags&net.FlagLoopback != 0:
		return none, fmt.Errorf("cannot bridge %s: it is the loopback device", dev.Name)
	case strings.HasPrefix(dev.Alias, vnet.AliasPrefix):
		return none, fmt.Errorf("cannot bridge %s: it belongs to a vnet (%s)", dev.Name, dev.Alias)
	case dev.Kind == "bridge":
		return none, fmt.Errorf("cannot bridge %s: it is the bridge of a vnet", dev.Name)
	case len(dev.MAC) != 6:
		return none, fmt.Errorf("cannot bridge %s: it is no Ethernet device", dev.Name)
	case dev.Master != 0:
		return none, fmt.Errorf("cannot bridge %s: it is part of %s; bridge that, or take it out first", dev.Name, b.m.name(dev.Master))
	}
	above, err := b.m.above(dev.Index)
	if err != nil {
		return none, err
	}
	for _, l := range above {
		if l.Partner == dev.Index && slices.Contains([]string{"macvlan", "macvtap", "ipvlan", "ipvtap"}, l.Kind) {
			return none, fmt.Errorf("cannot bridge %s: the %s %s stands on it, and a device carries either those or a bridge", dev.Name, l.Kind, l.Name)
		}
	}
	return dev, b.checkRoot(dev, above)
}

// checkName says why the kernel would not take a device's name.
func checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..", len(name) > hostnet.MaxName, strings.ContainsAny(name, "/: \t\n\v\f\r"):
		return fmt.Errorf("bad device name %q: 1 to %d characters, no blank, slash or colon", name, hostnet.MaxName)
	}
	return nil
}

// planStart reads all that start moves.
func (b *bridgeScript) planStart(c choice, dev hostnet.Link, antispoof bool) (*transaction, error) {
	t := &transaction{Command: "start", Port: c.port, Antispoof: antispoof, WasDown: !dev.Up()}
	t.Bridge.Name = c.bridge
	t.Temporary = fmt.Sprintf("xendtmp%d", os.Getpid())
	var err error
	if t.L3, err = b.m.l3.Capture(dev.Index); err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", dev.Name, err)
	}
	return t, b.plan(t, dev)
}

// plan reads what start and stop both need to know of the physical device.
func (b *bridgeScript) plan(t *transaction, dev hostnet.Link) error {
	var err error
	if t.Device, err = b.m.remember(dev); err != nil {
		return err
	}
	above, err := b.m.above(dev.Index)
	if err != nil {
		return err
	}
	for _, l := range above {
		d, err := b.m.remember(l)
		if err != nil {
			return err
		}
		d.Settings = d.Settings.Suspended() // nothing changes the others
		t.Above = append(t.Above, d)
	}
	if t.AboveL3, err = b.m.l3.Capture(indices(t.Above)...); err != nil {
		return fmt.Errorf("read the state of the devices on %s: %w", dev.Name, err)
	}
	return nil
}

// startSteps are the steps of start. Until the bridge has the device for a port, everything goes the
// old way; from then on frames come in through the bridge, and addresses and routes follow.
func (b *bridgeScript) startSteps(t *transaction) []step {
	m := b.m
	moved := func() l3.State { return t.L3.Moved(t.Device.Index, t.Bridge.Index) }
	deviceUp := func() error { return m.revive(t.Device, t.L3, t) }
	device, bridge := func() int { return t.Device.Index }, func() int { return t.Bridge.Index }
	steps := []step{{
		text: fmt.Sprintf("create the bridge %s, for now as %s", t.Bridge.Name, t.Temporary),
		do:   func(context.Context) error { return b.createBridge(t) },
		undo: func() error { return ignoreGone(b.deleteBridge(t)) },
	}, {
		text: fmt.Sprintf("rename %s to %s", t.Device.Name, t.Port),
		do:   func(context.Context) error { return m.rename(t.Device.Index, t.Port, deviceUp) },
		undo: func() error {
			err := m.rename(t.Device.Index, t.Device.Name, deviceUp)
			return errors.Join(ignoreGone(err), deviceUp())
		},
	}, {
		text: fmt.Sprintf("rename %s to %s", t.Temporary, t.Bridge.Name),
		do:   func(context.Context) error { return m.rename(t.Bridge.Index, t.Bridge.Name, nil) },
		undo: func() error { return ignoreGone(m.rename(t.Bridge.Index, t.Temporary, nil)) },
	}, {
		text: fmt.Sprintf("bring %s up", t.Bridge.Name),
		do:   func(context.Context) error { return m.up(t.Bridge.Index) },
		undo: func() error { return ignoreGone(m.down(t.Bridge.Index)) },
	}}
	steps = append(steps, b.bothSteps(t, device, bridge, t.Bridge.Name)...)
	steps = append(steps, []step{{
		text: fmt.Sprintf("make %s a port of %s and bring it up", t.Port, t.Bridge.Name),
		do:   func(context.Context) error { return b.enslave(t) },
		undo: func() error { return ignoreGone(b.release(t)) },
	}, {
		text: fmt.Sprintf("wait for the link of %s, at most %s", t.Port, b.LinkTimeout),
		do:   func(ctx context.Context) error { return b.waitForLink(ctx, t.Device.Index, t.Bridge.Index) },
	}, {
		text: fmt.Sprintf("give %s the addresses and routes of %s", t.Bridge.Name, t.Port),
		do: func(context.Context) error {
			if t.WasDown { // what the kernel makes for a device that is up was not there
				return m.l3.Add(moved(), t.Bridge.Index)
			}
			return m.l3.Restore(moved(), t.Bridge.Index)
		},
		undo: func() error {
			return m.existing(t.Bridge.Index, func() error {
				return errors.Join(deviceUp(), m.l3.Clear(t.Bridge.Index))
			})
		},
	}, {
		text: fmt.Sprintf("take them from %s", t.Port),
		do:   func(context.Context) error { return m.l3.Clear(t.Device.Index) },
		undo: deviceUp,
	}}...)
	steps = append(steps, b.tunnelSteps(t, device, bridge, t.Bridge.Name)...)
	if t.Rules {
		steps = append(steps, step{
			text: "have them match " + t.Bridge.Name + " only",
			do:   func(context.Context) error { return b.unlessForced(t, m.rules().Only(device(), bridge())) },
			undo: func() error { return m.rules().Both(bridge(), device()) },
		})
	}
	steps = append(steps, step{
		text: fmt.Sprintf("check the addresses and routes of %s", t.Bridge.Name),
		do: func(ctx context.Context) error {
			if err := t.Device.Settings.Resume(t.Port); err != nil {
				b.warn("not all settings of %s were carried over: %v", t.Port, err)
			}
			return errors.Join(b.finish(t.Bridge.Index, t.Device), b.check(ctx, moved(), t.Bridge.Index))
		},
	})
	if t.Antispoof {
		steps = append(steps, step{
			text: "let domains on " + t.Bridge.Name + " use only the addresses given to them",
			do:   func(ctx context.Context) error { return b.guard(ctx, t.Bridge.Name, t.Port) },
			undo: func() error { return b.unguard(context.Background(), t.Bridge.Name) },
		})
	}
	return steps
}

// createBridge makes the bridge, down and without the power to make addresses of its own.
func (b *bridgeScript) createBridge(t *transaction) error {
	m := b.m
	dev, err := m.host.LinkByIndex(t.Device.Index)
	if err != nil {
		return err
	}
	var l hostnet.Link
	err = m.change("create "+t.Temporary, func() (err error) {
		l, err = m.host.CreateBridge(hostnet.Bridge{Name: t.Temporary, MAC: dev.MAC, Snooping: true})
		return err
	})
	if err != nil {
		return err
	}
	t.Bridge.Index = l.Index
	// Only an MTU that is a change is taken as set by a person, and kept when a port with a smaller
	// one comes.
	for _, mtu := range []int{dev.MTU - 1, dev.MTU} {
		if err := m.change("set MTU of "+l.Name, func() error { return m.host.SetMTU(l.Index, mtu) }); err != nil {
			return err
		}
	}
	if dev.Group != 0 {
		if err := m.change("set group of "+l.Name, func() error { return m.host.SetGroup(l.Index, dev.Group) }); err != nil {
			return err
		}
	}
	if err := m.l3.SetGenMode(l.Index, l3.GenNone); err != nil {
		return err
	}
	if err := t.Device.Settings.Apply(l.Name); err != nil {
		b.warn("not all settings of %s are those of the bridge: %v", t.Device.Name, err)
	}
	return nil
}

// deleteBridge removes the bridge that start made, under whatever name it has.
func (b *bridgeScript) deleteBridge(t *transaction) error {
	l, err := b.m.host.LinkByIndex(t.Bridge.Index)
	if t.Bridge.Index == 0 { // killed before it could be noted
		l, err = b.m.host.LinkByName(t.Temporary)
	}
	if err != nil {
		return err
	}
	if l.Kind != "bridge" {
		return nil
	}
	return b.m.delete(l)
}

func (b *bridgeScript) enslave(t *transaction) error {
	m := b.m
	port, err := m.host.LinkByIndex(t.Device.Index)
	if err != nil {
		return err
	}
	bridge, err := m.host.LinkByIndex(t.Bridge.Index)
	if err != nil {
		return err
	}
	if err := m.l3.SetGenMode(port.Index, l3.GenNone); err != nil {
		return err
	}
	l3.Suspend(port.Name) // what still waits to be received must not bring anything when all has moved
	if err := m.setMaster(port, bridge); err != nil {
		return err
	}
	return m.setUp(port)
}

func (b *bridgeScript) release(t *transaction) error {
	m := b.m
	port, err := m.host.LinkByIndex(t.Device.Index)
	if err != nil {
		return err
	}
	if port.Master == t.Bridge.Index {
		if err := m.setMaster(port, hostnet.Link{}); err != nil {
			return err
		}
	}
	if !t.Device.Up {
		if err := m.setDown(port); err != nil {
			return err
		}
	}
	return m.l3.SetGenMode(port.Index, t.Device.GenMode)
}

// waitForLink waits until devices are ready to send. A bridge is so a moment after its port.
func (b *bridgeScript) waitForLink(ctx context.Context, devices ...int) error {
	waiting, cancel := context.WithTimeout(ctx, b.LinkTimeout)
	defer cancel()
	for _, index := range devices {
		err := poll(waiting, kernelPoll, func() (bool, error) { return b.m.l3.Operational(index) })
		switch {
		case err != nil && waiting.Err() != nil && ctx.Err() == nil:
			b.warn("%s has no link after %s; going on without (is the cable in?)", b.m.name(index), b.LinkTimeout)
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// finish gives a device the last of the settings of another: those that make addresses.
func (b *bridgeScript) finish(index int, of device) error {
	if err := of.Settings.Resume(b.m.name(index)); err != nil {
		b.warn("not all settings of %s were carried over: %v", of.Name, err)
	}
	return b.m.l3.SetGenMode(index, of.GenMode)
}

// check makes sure that a device has what it should, waiting for what the kernel does in the
// background. What came in addition, from a router or a DHCP client, is welcome.
func (b *bridgeScript) check(ctx context.Context, want l3.State, index int) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var missing []string
	err := poll(ctx, kernelPoll, func() (bool, error) {
		have, err := b.m.l3.Capture(index)
		missing = l3.Missing(want, have)
		return len(missing) == 0, err
	})
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "; "))
	}
	return err
}

// describe is --dry-run.
func (b *bridgeScript) describe(t *transaction, steps []step) {
	b.say("would do the following, and undo it if a step failed:")
	for i, st := range steps {
		fmt.Fprintf(b.Stdout, "%3d. %s\n", i+1, st.text)
	}
	fmt.Fprintln(b.Stdout, "what moves:")
	for _, line := range t.L3.Lines(b.m.name) {
		fmt.Fprintln(b.Stdout, "     "+line)
	}
	b.describeBound()
	if len(t.Above) > 0 {
		list := make([]string, len(t.Above))
		for i, d := range t.Above {
			list[i] = d.Name
		}
		fmt.Fprintln(b.Stdout, "what stays where it is:", strings.Join(list, ", "))
	}
	fmt.Fprintln(b.Stdout, "A kernel before Linux 6.2 makes the device go down for a moment when it is renamed.")
}
