package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Times of the watcher.
const (
	// minRestart is how far apart restarts of a domain must be: one that ends at once would be started for ever.
	minRestart = 20 * time.Second
	// retryDelay is the pause before a toolstack that does not answer is asked again.
	retryDelay = 5 * time.Second
)

// String names the task.
func (m *Manager) String() string { return "domains" }

// Ready is closed when what a crash left is put right, and the domains that should run at the daemon's start do.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Run finishes what a crash interrupted, starts the managed domains that say on_xend_start, and then acts on what becomes
// of xend's domains, and of nobody else's, until ctx ends. Domains go on when it ends.
func (m *Manager) Run(ctx context.Context) error {
	if m.tool == nil {
		close(m.ready)
		<-ctx.Done()
		return nil
	}
	var once sync.Once
	ready := func() { once.Do(func() { close(m.ready) }) }
	for {
		// What happens from here on is told, so nothing is missed between looking and listening.
		watching, stop := context.WithCancel(ctx)
		events := m.tool.Watch(watching)
		err := m.recover(ctx)
		if err != nil {
			m.o.Log.Error("the toolstack can't be asked; its domains are looked after later", "toolstack", m.tool.Name(), "error", err)
		} else {
			m.autostart(ctx)
		}
		ready()
		if err == nil {
			m.watch(ctx, events)
		}
		stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryDelay):
		}
	}
}

// watch handles events until there are no more.
func (m *Manager) watch(ctx context.Context, events <-chan Event) {
	var all sync.WaitGroup
	defer all.Wait()
	busy := make(chan struct{}, 16) // domains that are acted on at a time
	for e := range events {
		m.changed()
		if _, mine := m.store.get(e.UUID); !mine {
			continue
		}
		select {
		case busy <- struct{}{}:
		case <-ctx.Done():
			return
		}
		all.Go(func() {
			defer func() { <-busy }()
			m.attend(ctx, e.UUID)
		})
	}
}

// attend does what should become of a domain of xend's that something happened to.
func (m *Manager) attend(ctx context.Context, uuid string) {
	release, err := m.locks.acquire(ctx, uuid)
	if err != nil {
		return
	}
	defer release()
	ctx = context.WithoutCancel(ctx) // a restart that began is finished
	r, mine := m.store.get(uuid)
	if !mine {
		return
	}
	status, err := m.statusOf(ctx, uuid)
	if err == nil && r.doing == leaving && status != nil && !status.Leaving { // it has not left
		r.doing = nothing
		err = m.store.put(r)
	}
	_, _, replaced := r.doing.successor()
	switch {
	case err != nil:
		m.o.Log.Error("can't look after a domain", "domain", r.Name, "error", err)
	case status == nil && replaced: // its successor is still to be made
		if err := m.renameRestart(ctx, r, nil); err != nil {
			m.o.Log.Error("can't do what should become of a domain that ended", "domain", r.Name, "error", err)
		}
	case status == nil && r.Managed && r.doing != leaving:
		// It was ended by somebody else, and can be started again.
	case status == nil:
		if err := m.store.remove(uuid); err != nil {
			m.o.Log.Error("can't forget a domain that is no more", "domain", r.Name, "error", err)
		}
	case status.Reason != "":
		if err := m.ended(ctx, r, *status); err != nil {
			m.o.Log.Error("can't do what should become of a domain that ended", "domain", r.Name, "reason", status.Reason, "error", err)
		}
	}
}

// attendNamed attends to a domain of a name if it ended, or waits until that was done: who saw it end takes its name to be free.
// The caller holds no lock of a domain.
func (m *Manager) attendNamed(ctx context.Context, name string) {
	for _, r := range m.store.list() {
		if r.Name == name && !r.Managed {
			m.attend(ctx, r.UUID)
		}
	}
}

// ended does what should become of a domain that shut down.
func (m *Manager) ended(ctx context.Context, r record, s Status) error {
	action := r.Policy(s.Reason)
	m.o.Log.Info("domain ended", "domain", r.Name, "reason", s.Reason, "action", action)
	if action == CoredumpDestroy || action == CoredumpRestart {
		m.dump(ctx, r, s)
	}
	t := target{rec: r, mine: true, status: &s}
	switch action {
	case Preserve:
		return nil
	case Restart, CoredumpRestart:
		if m.tooFast(r) {
			m.o.Log.Error("domain restarts too fast; it is not started again", "domain", r.Name, "minimum", minRestart)
			break
		}
		return m.restart(ctx, r, &s)
	case RenameRestart:
		return m.renameRestart(ctx, r, &s)
	}
	return m.leave(t, ending, func() error { return m.tool.Destroy(ctx, s.ID) })
}

// tooFast tells whether the domain was restarted a moment ago, and notes that it is now.
func (m *Manager) tooFast(r record) bool {
	m.restartMu.Lock()
	defer m.restartMu.Unlock()
	now := time.Now()
	for uuid, at := range m.restarted {
		if now.Sub(at) > minRestart {
			delete(m.restarted, uuid)
		}
	}
	_, fast := m.restarted[r.UUID]
	m.restarted[r.UUID] = now
	return fast
}

// restart destroys what is left of a domain, if anything is, and makes it again.
func (m *Manager) restart(ctx context.Context, r record, s *Status) error {
	r.doing = restarting
	if err := m.store.put(r); err != nil {
		return err
	}
	err := m.step("restart")
	if err == nil && s != nil {
		if err = m.tool.Destroy(ctx, s.ID); err == nil {
			err = m.step("restart-destroyed")
		}
		m.changed()
	}
	if err == nil {
		if _, err = m.run(ctx, r.Config, CreateOptions{}); err == nil {
			err = m.step("restart-created")
		}
	}
	r.doing = nothing
	if err != nil {
		// Nobody can be asked, so it is kept: 'xm start' tries again, 'xm delete' forgets it.
		r.Managed = true
	}
	return errors.Join(err, m.store.put(r))
}

// renameRestart keeps what ended under another name, without its devices, which its successor has from now on, and starts the
// domain anew. It may have been begun before; s is nil if what ended was destroyed since.
func (m *Manager) renameRestart(ctx context.Context, r record, s *Status) error {
	uuid, name, begun := r.doing.successor()
	if !begun {
		before := r
		uuid, name = NewUUID(), r.Name
		for n := 1; ; n++ {
			r.Name = fmt.Sprintf("%s-%d", name, n)
			if _, err := m.Get(ctx, r.Name); err != nil {
				break
			}
		}
		r.doing = replacing(uuid, name)
		if err := m.store.put(r); err != nil {
			return err
		}
		err := m.step("replace")
		if err == nil {
			err = m.tool.Rename(ctx, s.ID, r.Name)
		}
		m.changed()
		if err != nil {
			return errors.Join(err, m.store.put(before))
		}
	} else if s != nil && s.Name != r.Name {
		if err := m.tool.Rename(ctx, s.ID, r.Name); err != nil {
			return err
		}
		m.changed()
	}
	if s != nil {
		m.releaseDevices(ctx, *s)
	}
	release, err := m.locks.acquire(ctx, uuid)
	if err != nil {
		return err
	}
	defer release()
	next, known := m.store.get(uuid)
	if !known {
		next = r
		next.UUID, next.Name, next.doing = uuid, name, restarting
		err = m.store.put(next)
	}
	if err == nil {
		err = m.step("replace-recorded")
	}
	if err != nil {
		return err // r says what is to be done: without the successor it must not forget that
	}
	if s == nil {
		err = m.store.remove(r.UUID)
	} else {
		r.OnPoweroff, r.OnReboot, r.OnCrash, r.Managed, r.doing = Preserve, Preserve, Preserve, false, nothing
		err = m.store.put(r)
	}
	if err != nil || next.doing != restarting {
		return err
	}
	now, err := m.statusOf(ctx, uuid)
	if err == nil {
		err = m.restart(ctx, next, now)
	}
	return err
}

// releaseDevices takes the devices of a domain that is kept although it ended: who comes after it has the same MACs and disks.
func (m *Manager) releaseDevices(ctx context.Context, s Status) {
	for _, d := range s.Devices {
		switch d.Kind {
		case "vif", "vbd", "tap", "tap2":
			if err := m.tool.DeviceDetach(ctx, s.ID, d.Kind, d.ID, true); err != nil {
				m.o.Log.Warn("a domain that ended keeps a device", "domain", s.Name, "kind", d.Kind, "device", d.ID, "error", err)
			}
		}
	}
	m.changed()
}

// dump writes the memory of a domain that ended.
func (m *Manager) dump(ctx context.Context, r record, s Status) {
	file := filepath.Join(m.o.DumpDir, fmt.Sprintf("%s-%s.core", time.Now().Format("2006-0102-1504.05"), r.Name))
	err := os.MkdirAll(m.o.DumpDir, 0o700)
	if err == nil {
		err = m.tool.DumpCore(ctx, s.ID, file, false, false)
	}
	if err != nil {
		m.o.Log.Error("can't dump the memory of a domain", "domain", r.Name, "file", file, "error", err)
		return
	}
	m.o.Log.Info("memory of a domain dumped", "domain", r.Name, "file", file)
}

// recover finishes what a daemon was doing when it was killed.
func (m *Manager) recover(ctx context.Context) error {
	if _, err := m.fresh(ctx); err != nil {
		return err
	}
	for _, r := range m.store.list() {
		if err := m.recoverOne(ctx, r.UUID); err != nil {
			m.o.Log.Error("can't finish what was begun with a domain", "domain", r.Name, "doing", r.doing, "error", err)
		}
	}
	return ctx.Err()
}

func (m *Manager) recoverOne(ctx context.Context, uuid string) error {
	release, err := m.locks.acquire(ctx, uuid)
	if err != nil {
		return err
	}
	defer release()
	r, ok := m.store.get(uuid)
	if !ok {
		return nil
	}
	s, err := m.statusOf(ctx, uuid)
	if err != nil {
		return err
	}
	if r.doing != nothing {
		m.o.Log.Warn("xend was killed while it did something with a domain; it goes on", "domain", r.Name, "doing", r.doing, "runs", s != nil)
	}
	_, _, replaced := r.doing.successor()
	switch {
	case s != nil && s.Leaving:
		return nil // until attend
	case replaced:
		return m.renameRestart(ctx, r, s)
	case r.doing == restarting && (s == nil || s.Reason != ""):
		return m.restart(ctx, r, s)
	case r.doing == ending && s != nil:
		return m.leave(target{rec: r, mine: true, status: s}, ending, func() error { return m.tool.Destroy(ctx, s.ID) })
	case s == nil && (!r.Managed || r.doing == leaving || r.doing == arriving):
		return m.store.remove(uuid)
	case r.doing == renaming && s != nil:
		if err := m.tool.Rename(ctx, s.ID, r.Name); err != nil {
			return err
		}
		m.changed()
	}
	if r.doing == nothing {
		return nil
	}
	r.doing = nothing
	return m.store.put(r)
}

// autostart starts the managed domains that should run whenever xend does.
func (m *Manager) autostart(ctx context.Context) {
	for _, r := range m.store.list() {
		if !r.Managed || r.OnXendStart != "start" || ctx.Err() != nil {
			continue
		}
		t, err := m.target(ctx, r.UUID)
		if err == nil {
			if t.status == nil {
				err = m.start(ctx, t, CreateOptions{})
			}
			t.release()
		}
		if err != nil {
			m.o.Log.Error("a domain can't be started", "domain", r.Name, "error", err)
		}
	}
}
