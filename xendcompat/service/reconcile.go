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
	// listEvery is how often all devices are listed, whatever events have told.
	listEvery = time.Minute
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
	r := &reconciler{Service: s, pauses: map[vnet.ID]pause{}, touched: newTouched()}
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

// reconciler is the state of one Run. It lists the devices once, and goes by what events tell of them from then on: each makes it
// look at the vnets that it may concern, however many others there are.
type reconciler struct {
	*Service
	look    time.Time // when to look at the devices; zero: nothing to look for
	pauses  map[vnet.ID]pause
	seen    *port.Survey         // nil: they are to be listed
	own     map[vnet.ID][]string // port.OwnNames, which take longer than all the rest of a look at a vnet
	listed  time.Time
	touched touched
}

// touched are the names and the owners of devices that have changed.
type touched struct {
	names map[string]bool
	ids   map[vnet.ID]bool
}

func newTouched() touched { return touched{map[string]bool{}, map[vnet.ID]bool{}} }

func (t touched) add(l hostnet.Link) {
	t.names[l.Name] = true
	if id, ours := port.Owner(l); ours {
		t.ids[id] = true
	}
}

// concerns tells whether one of the devices may be one of a vnet's; own are the names that only xend gives.
func (t touched) concerns(c vnet.Config, own []string) bool {
	if t.ids[c.ID] || t.names[c.Vnetif] || c.Bridge != "" && t.names[c.Bridge] {
		return true
	}
	return slices.ContainsFunc(own, func(name string) bool { return t.names[name] })
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
			r.log.Error("a vnet can't be brought up; it will be tried again", "vnet", v.ID.Short(), "error", explain(v, err))
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
					"vnet", v.ID.Short(), "device", name)
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
			if r.event(ev) {
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

// event takes over what an event tells, and tells whether it may be about a vnet's device.
func (r *reconciler) event(ev hostnet.Event) bool {
	switch ev := ev.(type) {
	case hostnet.ResyncEvent:
		r.seen = nil
		return true
	case hostnet.LinkEvent:
		var before hostnet.Link
		if r.seen != nil {
			before = r.seen.Apply(ev)
		}
		if ev.Link.Kind != "veth" && ev.Link.Kind != "bridge" {
			return false
		}
		r.touched.add(before)
		r.touched.add(ev.Link)
		return true
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

// list lists all devices if that is due, and tells whether it did.
func (r *reconciler) list(now time.Time) (bool, error) {
	if r.seen != nil && now.Before(r.listed.Add(listEvery)) {
		return false, nil
	}
	seen, err := r.o.Devices.Look()
	if err != nil {
		return false, err
	}
	r.seen, r.listed = seen, now
	r.own = map[vnet.ID][]string{} // those that went with it
	return true, nil
}

func (r *reconciler) ownNames(id vnet.ID) []string {
	names := r.own[id]
	if names == nil {
		names = port.OwnNames(id)
		r.own[id] = names
	}
	return names
}

// missing says what is not there of a vnet. What events have told may be old, a vnet that was just created among it: before anything
// is missing the kernel is asked.
func (r *reconciler) missing(c vnet.Config) (string, error) {
	spec := r.spec(c)
	if r.seen.Find(spec).Missing == "" {
		return "", nil
	}
	now, err := r.o.Devices.LookFor(spec)
	if err != nil {
		return "", err
	}
	return now.Find(spec).Missing, nil
}

// restore makes good what is not as it should be.
func (r *reconciler) restore(ctx context.Context) {
	end, err := r.begin(ctx)
	if err != nil {
		return
	}
	defer end()
	now := time.Now()
	all, err := r.list(now)
	if err != nil {
		r.log.Error("can't look at the devices of vnets", "error", err)
		r.lookAt(now.Add(firstDelay))
		return
	}
	r.lookAt(r.listed.Add(listEvery))
	maps.DeleteFunc(r.pauses, func(_ vnet.ID, p pause) bool { return now.After(p.until().Add(calm)) })
	concerned := r.touched
	r.touched = newTouched()
	for _, v := range r.all() {
		_, paused := r.pauses[v.ID]
		if !all && !paused && !concerned.concerns(v.Config, r.ownNames(v.ID)) {
			continue
		}
		missing, err := r.missing(v.Config)
		if err != nil {
			r.log.Error("can't look at the devices of vnets", "error", err)
			r.seen = nil
			r.lookAt(now.Add(firstDelay))
			return
		}
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
		err = r.bringUp(v.Config)
		delay := r.pause(v.ID, now)
		if err != nil {
			r.unrestored.Add(1)
			r.lookAt(now.Add(delay))
			r.log.Error("a vnet can't be restored; it will be tried again", "vnet", v.ID.Short(), "because", missing, "in", delay, "error", explain(v, err))
			continue
		}
		r.restored.Add(1)
		r.log.Warn("vnet restored", "vnet", v.ID.Short(), "because", missing)
	}
}
