package netscripts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/netscripts/bound"
	"github.com/xenvnet/xend/netscripts/l3"
)

// rules are the packet filter's rules that name devices by index.
func (m *machine) rules() *bound.Rules { return &bound.Rules{Before: m.before} }

// force tells whether what stands in the way is to be passed over, and why. The originals knew of nothing that did,
// so xend's start is not stopped by it.
func (b *bridgeScript) force() (why string, err error) {
	on, err := parseBool(b.variable("force"))
	switch {
	case err != nil:
		return "", fmt.Errorf("force=%s: %w", b.variable("force"), err)
	case on:
		return "force=yes", nil
	case b.Getenv(paths.StartEnv) != "":
		return "xend starts", nil
	}
	return "", nil
}

// findBound finds what the kernel and programs have bound to the index of a device whose place another one is about
// to take. What can be moved is made part of the transaction; what cannot, and would cut off connections or
// change what is filtered, is an error.
func (b *bridgeScript) findBound(t *transaction, index int, name, to string) error {
	found, err := b.m.rules().Find(index)
	if err != nil {
		return err
	}
	t.Rules = len(found.Move) > 0
	for _, what := range found.Move {
		b.moves = append(b.moves, fmt.Sprintf("%s that name %s by its index", what, name))
	}
	if t.Tunnels, err = b.m.l3.Tunnels(index); err != nil {
		return err
	}
	for _, x := range t.Tunnels {
		b.moves = append(b.moves, fmt.Sprintf("the %s %s, which goes out of %s", x.Kind, x.Name, name))
	}
	var stuck []string
	for _, what := range found.Stuck {
		stuck = append(stuck, fmt.Sprintf("%s names %s by its index in a way that cannot be moved; write iifname or oifname there", what, name))
	}
	links, err := b.m.host.Links()
	if err != nil {
		return err
	}
	all := make([]int, len(links))
	for i, l := range links {
		all[i] = l.Index
	}
	filters, err := b.m.l3.Classifiers(all, name)
	if err != nil {
		return err
	}
	for _, device := range filters {
		stuck = append(stuck, fmt.Sprintf("a traffic filter on %s asks whether a packet came by %s (indev), and means its index; remove it, and add it again afterwards", b.m.name(device), name))
	}
	if bound.MulticastRouting(name) {
		stuck = append(stuck, fmt.Sprintf("multicast is routed by %s; stop the multicast routing daemon, and start it again afterwards", name))
	}
	why, err := b.force()
	if err != nil {
		return err
	}
	t.Force = why != ""
	if len(stuck) > 0 && why == "" && !b.args.dryRun {
		return fmt.Errorf("%s\nforce=yes goes on nevertheless", strings.Join(stuck, "\n"))
	}
	for _, text := range stuck {
		if why == "" {
			b.refused = append(b.refused, text)
			continue
		}
		b.warn("%s; going on since %s", text, why)
	}
	for _, p := range bound.Programs(index, name, b.Proc, b.ownGroup) {
		text := fmt.Sprintf("%s, which does not follow: %s", p, p.Cure(to))
		if b.args.dryRun {
			b.programs = append(b.programs, text)
		} else {
			b.warn("%s", text)
		}
	}
	return nil
}

// ownGroup recognises the groups of the data plane, which renews its memberships.
func (b *bridgeScript) ownGroup(group netip.Addr) bool {
	for _, own := range []string{b.conf.Dataplane.Group, b.conf.Dataplane.Group6} {
		if a, err := netip.ParseAddr(own); err == nil && a == group {
			return true
		}
	}
	return group == vnetGroup || group == vnetGroup6
}

// bothSteps has rules that name one device by its index match both, while frames come and go by either.
func (b *bridgeScript) bothSteps(t *transaction, from, to func() int, name string) []step {
	if !t.Rules {
		return nil
	}
	return []step{{
		text: "have packet filter rules match " + name + ", too",
		do:   func(context.Context) error { return b.unlessForced(t, b.m.rules().Both(from(), to())) },
		undo: func() error { return b.unbind(from(), to()) },
	}}
}

// unlessForced makes what could not be moved a warning, where that was asked for.
func (b *bridgeScript) unlessForced(t *transaction, err error) error {
	if err == nil || !t.Force {
		return err
	}
	b.warn("%v; going on without", err)
	return nil
}

// unbind has rules match the device that they named first.
func (b *bridgeScript) unbind(first, second int) error {
	if first == 0 || second == 0 { // not made yet
		return nil
	}
	return errors.Join(b.m.rules().Both(second, first), b.m.rules().Only(second, first))
}

// tunnelSteps moves tunnels.
func (b *bridgeScript) tunnelSteps(t *transaction, from, to func() int, name string) []step {
	if len(t.Tunnels) == 0 {
		return nil
	}
	move := func(index int) error {
		var errs []error
		for _, x := range t.Tunnels {
			errs = append(errs, b.m.l3.MoveTunnel(x, index))
		}
		return errors.Join(errs...)
	}
	list := make([]string, len(t.Tunnels))
	for i, x := range t.Tunnels {
		list[i] = x.Name
	}
	return []step{{
		text: fmt.Sprintf("have the tunnels %s go out of %s", strings.Join(list, ", "), name),
		do:   func(context.Context) error { return b.unlessForced(t, move(to())) },
		undo: func() error { return move(from()) },
	}}
}

// describeBound is the part of --dry-run that tells what is bound to the device's index.
func (b *bridgeScript) describeBound() {
	tell := func(head string, list []string) {
		if len(list) == 0 {
			return
		}
		fmt.Fprintln(b.Stdout, head)
		for _, line := range list {
			fmt.Fprintln(b.Stdout, "     "+line)
		}
	}
	tell("what moves with it:", b.moves)
	tell("what stands in the way, so that it would be refused (force=yes goes on nevertheless):", b.refused)
	tell("what has to be seen to by hand:", b.programs)
}

// carried tells whether a device is a tunnel that moves.
func carried(kind string) bool { return l3.IsTunnel(kind) }
