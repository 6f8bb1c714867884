package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Times of the reconciler.
const (
	// settle is how long changes are collected before they are looked at: a device that goes takes
	// others with it, and whoever changes one is about to change another.
	settle = 100 * time.Millisecond
	// firstDelay is the pause before a vnet is restored once more. It doubles up to maxDelay each time
	// that restoring fails, or is needed again within calm.
	firstDelay = time.Second
	maxDelay   = time.Minute
	calm       = time.Minute
)

// String names the task.
func (s *Service) String() string { return "reconciler" }

// Ready is closed when Run has brought up every vnet that it could.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run makes the devices be as they should, first at once and then whenever the kernel tells that one
// vanished, was renamed or left its bridge, until ctx ends. It begins with taking away what a daemon
// left that was killed: devices that bear xend's mark and belong to no vnet. A vnet that cannot be
// brought up is tried again later, and keeps no other from coming up. Devices stay when it ends.
func (s *Service) Run(ctx context.Context) error {
	// What happens from here on is told, so nothing is missed between listing and listening.
	events, err := s.o.Devices.Watch(ctx)
	if err != nil {
		return fmt.Errorf("reconciler: %w", err)
	}
	r := &reconciler{Service: s, pauses: map[vnet.ID]pause{}}
	if err := r.start(ctx); err != nil {
		return err
	}
	close(s.ready)
	r.loop(ctx, events)
	return nil
}

// Reconciled counts how often devices of a vnet were missing and were made good, and how often they could not be.
func (s *Service) Reconciled() (restored, failed uint64) {
	return s.restored.Load(), s.unrestored.Load()
}

// reconciler is the state of one Run.
type reconciler struct {
	*Service
	look   time.Time // when to look at the devices; zero: nothing to look for
	pauses map[vnet.ID]pause
}

// pause is for how long a vnet that was restored is left alone.
type pause struct {
	since time.Time
	delay time.Duration
}

func (p pause) until() time.Time { return p.since.Add(p.delay) }

// start brings up all vnets.
func (r *reconciler) start(ctx context.Context) error {
	end, err := r.begin(ctx)
	if err != nil {
		return nil //nolint:nilerr // the daemon is stopped already
	}
	defer end()
	r.tellNames()
	r.removeLeftovers()
	for _, v := range r.all() {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the daemon is stopped already
		}
		if err := r.bringUp(v.Config); err != nil {
			r.unrestored.Add(1)
			r.log.Error("a vnet can't be brought up; it will be tried again", "vnet", v.IDText, "error", explain(v, err))
			r.lookAt(time.Now().Add(r.pause(v.ID, time.Now())))
		}
	}
	return nil
}

// explain says how to be rid of a vnet that nobody created.
func explain(v Vnet, err error) error {
	if v.Lifetime == Default {
		return fmt.Errorf("%w; %s", err, defaultsOff)
	}
	return err
}

// removeLeftovers takes away devices that xend made and that belong to no vnet: what was being made or deleted
// when a daemon was killed, and what was there until the restart. Those of a vnet whose file could not be
// read stay: domains may be using them, and the file may be mended.
func (r *reconciler) removeLeftovers() {
	survey, err := r.o.Devices.Look()
	if err != nil {
		r.log.Error("can't look for leftovers", "error", err)
		return
	}
	var wanted []port.Spec
	for _, v := range r.all() {
		wanted = append(wanted, r.spec(v.Config))
	}
	corrupt := r.o.Registry.Corrupt()
	for _, l := range survey.Leftovers(wanted) {
		if slices.ContainsFunc(corrupt, func(name string) bool { return strings.HasPrefix(name, l.ID.FileName()) }) {
			r.log.Warn("the devices of a vnet whose file can't be used stay", "vnet", l.ID, "devices", l)
			continue
		}
		if err := r.o.Devices.RemoveLeftover(l); err != nil {
			r.log.Error("can't remove what is left of a vnet that is no more", "vnet", l.ID, "error", err)
			continue
		}
		r.log.Info("removed what was left of a vnet that is no more", "vnet", l.ID, "devices", l)
	}
}

// tellNames tells which stored vnets have names that new ones can't have.
func (r *reconciler) tellNames() {
	for _, v := range r.all() {
		for _, name := range []string{v.Bridge, v.Vnetif} {
			if port.Reserved(name) {
				r.log.Warn("a vnet's device has a name that xend gives to devices of its own; it stays, but a vnet of that id can't be created",
					"vnet", v.IDText, "device", name)
			}
		}
	}
}

// loop waits for events, and for the time to look.
func (r *reconciler) loop(ctx context.Context, events <-chan hostnet.Event) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				return
			}
			if concerns(ev) {
				r.lookAt(time.Now().Add(settle))
			}
		case <-timer.C:
			if !r.look.IsZero() {
				r.look = time.Time{}
				r.restore(ctx)
			}
		}
		if !r.look.IsZero() {
			timer.Reset(time.Until(r.look))
		}
	}
}

// lookAt has the devices looked at by then.
func (r *reconciler) lookAt(t time.Time) {
	if r.look.IsZero() || t.Before(r.look) {
		r.look = t
	}
}

// concerns tells whether an event may be about a vnet's device.
func concerns(ev hostnet.Event) bool {
	switch ev := ev.(type) {
	case hostnet.ResyncEvent:
		return true
	case hostnet.LinkEvent:
		return ev.Link.Kind == "veth" || ev.Link.Kind == "bridge"
	}
	return false
}

// pause leaves a vnet alone for a while, the longer the more often that is needed.
func (r *reconciler) pause(id vnet.ID, now time.Time) time.Duration {
	p, ok := r.pauses[id]
	if ok && now.Before(p.until().Add(calm)) {
		p.delay = min(2*p.delay, maxDelay)
	} else {
		p.delay = firstDelay
	}
	p.since = now
	r.pauses[id] = p
	return p.delay
}

// restore makes good what is not as it should be.
func (r *reconciler) restore(ctx context.Context) {
	end, err := r.begin(ctx)
	if err != nil {
		return
	}
	defer end()
	now := time.Now()
	survey, err := r.o.Devices.Look()
	if err != nil {
		r.log.Error("can't look at the devices of vnets", "error", err)
		r.lookAt(now.Add(firstDelay))
		return
	}
	maps.DeleteFunc(r.pauses, func(_ vnet.ID, p pause) bool { return now.After(p.until().Add(calm)) })
	for _, v := range r.all() {
		missing := survey.Find(r.spec(v.Config)).Missing
		if missing == "" {
			continue
		}
		if p, ok := r.pauses[v.ID]; ok && now.Before(p.until()) {
			r.lookAt(p.until())
			continue
		}
		if ctx.Err() != nil {
			return
		}
		err := r.bringUp(v.Config)
		delay := r.pause(v.ID, now)
		if err != nil {
			r.unrestored.Add(1)
			r.lookAt(now.Add(delay))
			r.log.Error("a vnet can't be restored; it will be tried again", "vnet", v.IDText, "because", missing, "in", delay, "error", explain(v, err))
			continue
		}
		r.restored.Add(1)
		r.log.Warn("vnet restored", "vnet", v.IDText, "because", missing)
	}
}
