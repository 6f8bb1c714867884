package domain

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// target is a domain that an operation is about, while nobody else changes it.
type target struct {
	rec     record
	mine    bool    // rec is there
	status  *Status // nil if it does not run
	release func()
}

// id is the domain's, or a StateError that says that it does not run.
func (t target) id() (int, error) {
	if t.status == nil {
		return 0, wrongState("Domain %s is not running", t.rec.Name)
	}
	return t.status.ID, nil
}

// fresh returns what runs at this moment.
func (m *Manager) fresh(ctx context.Context) ([]Status, error) {
	m.known.statuses.forget()
	return m.known.statuses.ask(ctx)
}

// statusOf returns the domain with that uuid, or nil if it does not run.
func (m *Manager) statusOf(ctx context.Context, uuid string) (*Status, error) {
	list, err := m.fresh(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(list, func(s Status) bool { return s.UUID == uuid }); i >= 0 {
		return &list[i], nil
	}
	return nil, nil
}

// target finds a domain and keeps others from changing it until release is called.
func (m *Manager) target(ctx context.Context, key string) (target, error) {
	d, err := m.Get(ctx, key)
	if err != nil {
		return target{}, err
	}
	release, err := m.locks.acquire(ctx, d.UUID)
	if err != nil {
		return target{}, err
	}
	t := target{release: release}
	t.rec, t.mine = m.store.get(d.UUID)
	if t.status, err = m.statusOf(ctx, d.UUID); err == nil && t.status == nil && (!t.mine || !t.rec.Managed) && d.ID != 0 {
		err = &NotFoundError{Name: key} // it went in this moment
	}
	if err != nil {
		release()
		return target{}, err
	}
	if !t.mine && t.status != nil {
		t.rec = record{Config: m.config(*t.status)}
	}
	if d.ID == 0 && t.status == nil {
		t.rec.Name, t.rec.UUID = d.Name, d.UUID
	}
	return t, nil
}

// changed makes the next question see what was done.
func (m *Manager) changed() { m.known.statuses.forget() }

// admit checks a configuration that is complete: whether it makes sense, and its name and uuid are nobody's.
func (m *Manager) admit(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	list, err := m.fresh(ctx)
	if err != nil {
		return err
	}
	for _, s := range list {
		switch {
		case s.UUID == c.UUID && s.Name == c.Name:
			return wrongState("Domain %s runs already, with id %d", c.Name, s.ID)
		case s.UUID == c.UUID:
			return &TakenError{What: "uuid " + c.UUID, By: s.Name}
		case s.Name == c.Name:
			return &TakenError{What: "name " + c.Name, By: s.UUID}
		}
	}
	if c.Name == "Domain-0" || c.UUID == dom0UUID {
		return &TakenError{What: "name " + c.Name, By: dom0UUID}
	}
	return nil
}

// run has the toolstack start a domain that is recorded already.
func (m *Manager) run(ctx context.Context, c Config, o CreateOptions) (int, error) {
	// What bridges and MTUs there are may differ at each start, so it is not recorded.
	c.Vifs = slices.Clone(c.Vifs)
	if err := m.bridges(ctx, &c); err != nil {
		return 0, err
	}
	id, err := m.tool.Create(ctx, c, o)
	m.changed()
	return id, err
}

// Create starts a domain from its configuration. When it returns nil, the domain runs and will be looked after; after an
// error nothing of it is left.
func (m *Manager) Create(ctx context.Context, c Config, o CreateOptions) (Domain, error) {
	if m.tool == nil {
		return Domain{}, unsupported("create")
	}
	c.Managed = false
	c.Complete()
	m.attendNamed(ctx, c.Name)
	release, err := m.locks.acquire(ctx, c.UUID)
	if err != nil {
		return Domain{}, err
	}
	defer release()
	// From here on it is all or nothing, whether or not the client stays.
	ctx = context.WithoutCancel(ctx)
	if err := m.admit(ctx, c); err != nil {
		return Domain{}, err
	}
	if old, ok := m.store.get(c.UUID); ok {
		return Domain{}, &TakenError{What: "uuid " + c.UUID, By: old.Name}
	}
	check := c
	check.Vifs = slices.Clone(c.Vifs)
	if err := m.bridges(ctx, &check); err != nil {
		return Domain{}, err
	}
	id := 0
	if err := m.begin(ctx, record{Config: c}, func() (int, error) {
		var err error
		id, err = m.run(ctx, c, o)
		return id, err
	}); err != nil {
		return Domain{}, err
	}
	d, err := m.Get(ctx, c.UUID)
	if err != nil { // a toolstack that does not answer any more: nobody can be told what was made
		t := target{rec: record{Config: c}, mine: true}
		return Domain{}, errors.Join(err, m.leave(t, ending, func() error { return m.tool.Destroy(ctx, id) }))
	}
	m.o.Log.Info("domain created", "domain", c.Name, "uuid", c.UUID)
	return d, nil
}

// begin records that a domain is being started, starts it, and records that it runs. After an error all is as before.
func (m *Manager) begin(ctx context.Context, r record, start func() (int, error)) error {
	old, known := m.store.get(r.UUID)
	r.doing = arriving
	if known {
		r.doing = starting
	}
	if err := m.store.put(r); err != nil {
		return err
	}
	err := m.step("recorded")
	id := 0
	if err == nil {
		id, err = start()
	}
	if err == nil {
		if err = m.step("started"); err == nil {
			r.doing = nothing
			err = m.store.put(r)
		}
		if err != nil {
			err = errors.Join(err, m.tool.Destroy(ctx, id))
			m.changed()
		}
	}
	if err != nil {
		if known {
			return errors.Join(err, m.store.put(old))
		}
		return errors.Join(err, m.store.remove(r.UUID))
	}
	return nil
}

// Make does one of the API's operations that make a domain: create (params: config; it is left paused until the client,
// as all do, sends unpause), new (config), restore (file, paused). Configurations are forms as text.
func (m *Manager) Make(ctx context.Context, op string, p Params) (Domain, error) {
	if op == "restore" {
		return m.Restore(ctx, p["file"], CreateOptions{Paused: p.flag("paused")})
	}
	form, err := formParam(p)
	if err != nil {
		return Domain{}, err
	}
	if m.tool == nil {
		return Domain{}, unsupported(op)
	}
	c, err := ParseForm(form)
	if err != nil {
		return Domain{}, err
	}
	if op == "new" {
		return m.New(ctx, c)
	}
	return m.Create(ctx, c, CreateOptions{Paused: true})
}

// New defines a managed domain, or defines one anew; it does not start it.
func (m *Manager) New(ctx context.Context, c Config) (Domain, error) {
	if m.tool == nil {
		return Domain{}, unsupported("new")
	}
	if c.UUID == "" {
		for _, r := range m.store.list() {
			if r.Name == c.Name && r.Managed {
				c.UUID = r.UUID
			}
		}
	}
	c.Managed = true
	c.Complete()
	if err := c.Validate(); err != nil {
		return Domain{}, err
	}
	release, err := m.locks.acquire(ctx, c.UUID)
	if err != nil {
		return Domain{}, err
	}
	defer release()
	ctx = context.WithoutCancel(ctx)
	if _, known := m.store.get(c.UUID); !known {
		if err := m.admit(ctx, c); err != nil {
			return Domain{}, err
		}
	}
	if err := m.store.put(record{Config: c}); err != nil {
		return Domain{}, err
	}
	m.o.Log.Info("domain defined", "domain", c.Name, "uuid", c.UUID)
	return m.Get(ctx, c.UUID)
}

// Restore starts a domain that Save wrote.
func (m *Manager) Restore(ctx context.Context, file string, o CreateOptions) (Domain, error) {
	if m.tool == nil {
		return Domain{}, unsupported("restore")
	}
	file, err := absolutePath(file)
	if err != nil {
		return Domain{}, err
	}
	uuid, err := m.restore(context.WithoutCancel(ctx), file, o)
	if err != nil {
		return Domain{}, err
	}
	return m.Get(ctx, uuid)
}

func (m *Manager) restore(ctx context.Context, file string, o CreateOptions) (uuid string, err error) {
	var r, old record
	var known bool
	release := func() {}
	defer func() { release() }()
	id, _, err := m.tool.Restore(ctx, file, o, func(c Config) error {
		c.Complete()
		unlock, err := m.locks.acquire(ctx, c.UUID)
		if err != nil {
			return err
		}
		release = unlock
		if err := m.admit(ctx, c); err != nil {
			return err
		}
		if old, known = m.store.get(c.UUID); known {
			c.Managed = old.Managed
		}
		check := c
		check.Vifs = slices.Clone(c.Vifs)
		if err := m.bridges(ctx, &check); err != nil {
			return err
		}
		r = record{Config: c, doing: arriving}
		if known {
			r.doing = starting
		}
		return m.store.put(r)
	})
	m.changed()
	if err == nil {
		r.doing = nothing
		if err = m.store.put(r); err != nil {
			err = errors.Join(err, m.tool.Destroy(ctx, id))
			m.changed()
		}
	}
	switch {
	case err == nil:
		m.o.Log.Info("domain restored", "domain", r.Name, "uuid", r.UUID, "file", file)
		return r.UUID, nil
	case r.UUID == "":
		return "", err
	case known:
		return "", errors.Join(err, m.store.put(old))
	}
	return "", errors.Join(err, m.store.remove(r.UUID))
}

// Receive implements [Receiver].
func (m *Manager) Receive(ctx context.Context, c Config, start func(context.Context) (int, error)) error {
	if m.tool == nil {
		return unsupported("migrate")
	}
	c.Complete()
	release, err := m.locks.acquire(ctx, c.UUID)
	if err != nil {
		return err
	}
	defer release()
	if err := m.admit(ctx, c); err != nil {
		return err
	}
	check := c
	check.Vifs = slices.Clone(c.Vifs)
	if err := m.bridges(ctx, &check); err != nil {
		return err
	}
	err = m.begin(context.WithoutCancel(ctx), record{Config: c}, func() (int, error) {
		id, err := start(ctx)
		m.changed()
		return id, err
	})
	if err == nil {
		m.o.Log.Info("domain received", "domain", c.Name, "uuid", c.UUID)
	}
	return err
}

var _ Receiver = (*Manager)(nil)

// leave records what is about to be done with a domain that may end by it, does it, and records what came of it.
func (m *Manager) leave(t target, d doing, do func() error) error {
	r := t.rec
	if t.mine {
		r.doing = d
		if err := m.store.put(r); err != nil {
			return err
		}
	}
	err := m.step(string(d))
	if err == nil {
		err = do()
		m.changed()
	}
	if err == nil {
		err = m.step(string(d) + "-done")
	}
	var uncertain *UncertainError
	switch {
	case !t.mine, errors.As(err, &uncertain): // then attend goes on, once it is known
		return err
	case err == nil && (!r.Managed || d == leaving):
		return m.store.remove(r.UUID)
	}
	r.doing = nothing
	return errors.Join(err, m.store.put(r))
}

// start runs a managed domain.
func (m *Manager) start(ctx context.Context, t target, o CreateOptions) error {
	if t.status != nil {
		return wrongState("Domain %s runs already, with id %d", t.rec.Name, t.status.ID)
	}
	if err := m.admit(ctx, t.rec.Config); err != nil {
		return err
	}
	err := m.begin(ctx, t.rec, func() (int, error) { return m.run(ctx, t.rec.Config, o) })
	if err == nil {
		_ = os.Remove(m.checkpoint(t.rec.UUID)) // what was suspended is no more
		m.o.Log.Info("domain started", "domain", t.rec.Name, "uuid", t.rec.UUID)
	}
	return err
}

// destroy ends a domain.
func (m *Manager) destroy(ctx context.Context, t target) error {
	id, err := t.id()
	if err != nil {
		return err
	}
	return m.leave(t, ending, func() error { return m.tool.Destroy(ctx, id) })
}

// save writes a domain to a file.
func (m *Manager) save(ctx context.Context, t target, file string) error {
	id, err := t.id()
	if err != nil {
		return err
	}
	if t.status.Reason != "" {
		return wrongState("Domain %s has shut down (%s)", t.rec.Name, t.status.Reason)
	}
	return m.leave(t, saving, func() error { return m.tool.Save(ctx, id, t.rec.Config, file) })
}

// checkpoint is where a managed domain that is suspended is kept.
func (m *Manager) checkpoint(uuid string) string { return filepath.Join(m.o.Dir, uuid+".checkpoint") }

// resume restores a managed domain that was suspended.
func (m *Manager) resume(ctx context.Context, t target, o CreateOptions) error {
	file := m.checkpoint(t.rec.UUID)
	switch _, err := os.Stat(file); {
	case t.status != nil:
		return wrongState("Domain %s runs already, with id %d", t.rec.Name, t.status.ID)
	case err != nil:
		return wrongState("Domain %s is not suspended; 'xm start %s' starts it", t.rec.Name, t.rec.Name)
	}
	t.release() // restore takes the lock itself
	if _, err := m.restore(ctx, file, o); err != nil {
		return err
	}
	return os.Remove(file)
}

// modify does something to a domain that runs, and changes what it should be, so that it is so at its next start, too.
func (m *Manager) modify(t target, do func(id int) error, edit func(*Config)) error {
	if t.status == nil && !t.mine {
		_, err := t.id()
		return err
	}
	if t.status != nil {
		err := do(t.status.ID)
		m.changed()
		if err != nil {
			return err
		}
	}
	if !t.mine {
		return nil
	}
	edit(&t.rec.Config)
	return m.store.put(t.rec)
}

// rename gives a domain another name.
func (m *Manager) rename(ctx context.Context, t target, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	c := t.rec.Config
	if c.Name == name {
		return nil
	}
	list, err := m.fresh(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(list, func(s Status) bool { return s.Name == name }); i >= 0 || name == "Domain-0" {
		by := dom0UUID
		if i >= 0 {
			by = list[i].UUID
		}
		return &TakenError{What: "name " + name, By: by}
	}
	old := t.rec
	r := old
	r.Name = name
	if t.status == nil {
		return m.store.put(r)
	}
	if t.mine {
		r.doing = renaming
		if err := m.store.put(r); err != nil {
			return err
		}
	}
	err = m.step("rename")
	if err == nil {
		err = m.tool.Rename(ctx, t.status.ID, name)
		m.changed()
	}
	switch {
	case !t.mine:
		return err
	case err != nil:
		return errors.Join(err, m.store.put(old))
	}
	r.doing = nothing
	return m.store.put(r)
}

// attach adds a device.
func (m *Manager) attach(ctx context.Context, t target, d DeviceConfig) error {
	var c Config
	if err := c.AddDevice(d); err != nil {
		return err
	}
	for i := range c.Vifs {
		if c.Vifs[i].MAC == "" {
			c.Vifs[i].MAC = NewMAC()
		}
	}
	all := t.rec.Config
	all.Vifs, all.Disks = append(slices.Clone(all.Vifs), c.Vifs...), append(slices.Clone(all.Disks), c.Disks...)
	if err := all.Validate(); err != nil {
		return err
	}
	kept := c.Vifs
	c.Vifs = slices.Clone(c.Vifs)
	if err := m.bridges(ctx, &c); err != nil {
		return err
	}
	devices := c.AllDevices()
	if len(devices) == 0 {
		return badForm("a %s needs parameters", clip(d.Kind))
	}
	return m.modify(t, func(id int) error {
		for _, d := range devices {
			if _, err := m.tool.DeviceAttach(ctx, id, d); err != nil {
				return err
			}
		}
		return nil
	}, func(to *Config) {
		to.Vifs, to.Disks = append(to.Vifs, kept...), append(to.Disks, c.Disks...)
		to.VFBs, to.PCI, to.Devices = append(to.VFBs, c.VFBs...), append(to.PCI, c.PCI...), append(to.Devices, c.Devices...)
	})
}

// detach takes a device away: by its number, or a block device by the name that the domain sees.
func (m *Manager) detach(ctx context.Context, t target, kind, dev string, force bool) error {
	if t.status == nil {
		return m.detachHalted(t, kind, dev)
	}
	same := func(k string) bool { return k == kind || kind == "vbd" && (k == "tap" || k == "tap2") }
	i := slices.IndexFunc(t.status.Devices, func(d Device) bool {
		name, _, _ := strings.Cut(d.Param("dev"), ":")
		return same(d.Kind) && (strconv.Itoa(d.ID) == dev || kind != "vif" && name != "" && name == strings.TrimPrefix(dev, "/dev/"))
	})
	if i < 0 {
		return wrongState("Device %s (%s) not connected", clip(dev), clip(kind))
	}
	d := t.status.Devices[i]
	return m.modify(t, func(id int) error { return m.tool.DeviceDetach(ctx, id, d.Kind, d.ID, force) }, func(c *Config) {
		c.Vifs = slices.DeleteFunc(c.Vifs, func(v Vif) bool { return kind == "vif" && v.MAC == d.Param("mac") })
		c.Disks = slices.DeleteFunc(c.Disks, func(k Disk) bool {
			a, _, _ := strings.Cut(k.Dev, ":")
			b, _, _ := strings.Cut(d.Param("dev"), ":")
			return kind != "vif" && a == b
		})
	})
}

// replace puts a device in the place of another of its kind, which is attached again if that fails.
func (m *Manager) replace(ctx context.Context, t target, d DeviceConfig, dev string) error {
	old := t.rec.Config
	if err := m.detach(ctx, t, d.Kind, dev, false); err != nil {
		return err
	}
	again := func() (err error) {
		if t.mine {
			t.rec, t.mine = m.store.get(t.rec.UUID)
		}
		if t.status != nil {
			t.status, err = m.statusOf(ctx, t.rec.UUID)
		}
		return err
	}
	err := again()
	if err == nil {
		err = m.attach(ctx, t, d)
	}
	if err == nil {
		return nil
	}
	for _, o := range old.AllDevices() {
		name, _, _ := strings.Cut(o.Param("dev"), ":")
		if o.Kind == d.Kind && name != "" && name == dev {
			err = errors.Join(err, m.attach(ctx, t, o))
		}
	}
	return err
}

// detachHalted takes a device out of the configuration of a domain that does not run; its devices count from 0.
func (m *Manager) detachHalted(t target, kind, dev string) error {
	c := &t.rec.Config
	n, err := strconv.Atoi(dev)
	switch {
	case kind == "vif" && err == nil && n >= 0 && n < len(c.Vifs):
		c.Vifs = slices.Delete(slices.Clone(c.Vifs), n, n+1)
	case kind == "vbd" || kind == "tap":
		i := slices.IndexFunc(c.Disks, func(d Disk) bool {
			name, _, _ := strings.Cut(d.Dev, ":")
			return name == strings.TrimPrefix(dev, "/dev/")
		})
		if i < 0 {
			i = n
		}
		if i >= len(c.Disks) || i < 0 || err != nil && i == n {
			return wrongState("Device %s (%s) not connected", clip(dev), kind)
		}
		c.Disks = slices.Delete(slices.Clone(c.Disks), i, i+1)
	default:
		return wrongState("Device %s (%s) not connected", clip(dev), clip(kind))
	}
	return m.store.put(t.rec)
}

// absolutePath refuses what depends on a working directory, which the daemon has not.
func absolutePath(path string) (string, error) {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return "", badForm("the file's name must be absolute: it begins with /, not %s", clip(strconv.Quote(path)))
	}
	return filepath.Clean(path), nil
}

// Console connects to the console of a domain that runs.
func (m *Manager) Console(ctx context.Context, key string) (io.ReadWriteCloser, error) {
	d, err := m.Get(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case m.tool == nil:
		return nil, &UnsupportedError{Op: "console", Use: "xl console"}
	case d.ID <= 0:
		return nil, wrongState("Domain %s has no console", d.Name)
	}
	return m.tool.Console(ctx, d.ID)
}
