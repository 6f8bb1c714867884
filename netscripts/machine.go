package netscripts

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/vnetfile"
	"github.com/xenvnet/xend/netscripts/filter"
	"github.com/xenvnet/xend/netscripts/l3"
)

// machine is the network of the namespace that a script works in.
type machine struct {
	host   *hostnet.Host
	l3     *l3.Conn
	before func(what string) error
	// configured are the ids of persistent vnets, by the names of their bridges.
	configured map[string]string
}

func (s *script) openMachine() (*machine, error) {
	host, err := hostnet.New()
	if err != nil {
		return nil, err
	}
	conn := l3.New(host)
	conn.Before = s.Before
	configured := map[string]string{}
	for _, c := range vnetfile.List(s.conf.Paths.State) {
		configured[c.Bridge] = c.ID.String()
	}
	return &machine{host: host, l3: conn, before: s.Before, configured: configured}, nil
}

func (m *machine) close() {
	m.host.Close()
}

// change makes one change of the machine.
func (m *machine) change(what string, fn func() error) error {
	if m.before != nil {
		if err := m.before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return fn()
}

func (m *machine) setUp(l hostnet.Link) error {
	if l.Up() {
		return nil
	}
	return m.change("bring up "+l.Name, func() error { return m.host.SetUp(l.Index) })
}

func (m *machine) setDown(l hostnet.Link) error {
	if !l.Up() {
		return nil
	}
	return m.change("take down "+l.Name, func() error { return m.host.SetDown(l.Index) })
}

func (m *machine) setMaster(l hostnet.Link, master hostnet.Link) error {
	if l.Master == master.Index {
		return nil
	}
	what := "make " + l.Name + " a port of " + master.Name
	if master.Index == 0 {
		what = "take " + l.Name + " off its bridge"
	}
	return m.change(what, func() error { return m.host.SetMaster(l.Index, master.Index) })
}

func (m *machine) delete(l hostnet.Link) error {
	return m.change("delete "+l.Name, func() error { return m.host.Delete(l.Index) })
}

// name is a device's name for a text.
func (m *machine) name(index int) string {
	if l, err := m.host.LinkByIndex(index); err == nil {
		return l.Name
	}
	return fmt.Sprintf("device %d", index)
}

// rename gives a device another name. Kernels before 6.2 rename only a device that is down, and
// what goes with that is brought back by revive. That is found out by trying: distributions carry
// kernels that can do more than their version says.
func (m *machine) rename(index int, name string, revive func() error) error {
	l, err := m.host.LinkByIndex(index)
	if err != nil || l.Name == name {
		return err
	}
	rename := func() error { return m.host.Rename(index, name) }
	what := "rename " + l.Name + " to " + name
	err = m.change(what, rename)
	if !errors.Is(err, hostnet.ErrBusy) || !l.Up() {
		return err
	}
	if err := m.setDown(l); err != nil {
		return err
	}
	err = m.change(what+" while it is down", rename)
	return errors.Join(err, revive())
}

// above lists the devices that stand on a device, directly or not: VLANs, tunnels, macvlans.
func (m *machine) above(index int) ([]hostnet.Link, error) {
	links, err := m.host.Links()
	if err != nil {
		return nil, err
	}
	below := []int{index}
	var list []hostnet.Link
	for again := true; again; {
		again = false
		for _, l := range links {
			if l.Kind != "veth" && l.Partner != 0 && slices.Contains(below, l.Partner) && !slices.Contains(below, l.Index) {
				below, list, again = append(below, l.Index), append(list, l), true
			}
		}
	}
	return list, nil
}

func names(links []hostnet.Link) string {
	list := make([]string, len(links))
	for i, l := range links {
		list[i] = l.Name
	}
	return strings.Join(list, ", ")
}

func indices(devices []device) []int {
	list := make([]int, len(devices))
	for i, d := range devices {
		list[i] = d.Index
	}
	return list
}

// kernelPoll is how often the kernel is asked whether it has done something.
const kernelPoll = 10 * time.Millisecond

// filter is the packet filter; each change of it is one transaction of the kernel.
func (m *machine) filter() *filter.Filter { return &filter.Filter{Before: m.before} }

// up brings a device up.
func (m *machine) up(index int) error {
	l, err := m.host.LinkByIndex(index)
	if err != nil {
		return err
	}
	return m.setUp(l)
}

// down takes a device down.
func (m *machine) down(index int) error {
	l, err := m.host.LinkByIndex(index)
	if err != nil {
		return err
	}
	return m.setDown(l)
}

// existing runs fn if there is such a device.
func (m *machine) existing(index int, fn func() error) error {
	if _, err := m.host.LinkByIndex(index); err != nil {
		if errors.Is(err, hostnet.ErrNotFound) {
			return nil
		}
		return err
	}
	return fn()
}

// revive makes a device, and those on it, what they were: up or down, with their layer 3. Meanwhile
// the kernel makes no addresses for them by itself, which it would test for uniqueness first.
func (m *machine) revive(d device, state l3.State, t *transaction) error {
	if !d.Up {
		return m.existing(d.Index, func() error { return m.down(d.Index) })
	}
	above := t.Above
	if d.Index != t.Device.Index {
		above = nil
	}
	var errs []error
	each := func(fn func(d device) error) {
		for _, d := range append([]device{d}, above...) {
			errs = append(errs, m.existing(d.Index, func() error { return fn(d) }))
		}
	}
	each(func(d device) error {
		l3.Suspend(m.name(d.Index))
		return m.l3.SetGenMode(d.Index, l3.GenNone)
	})
	each(func(d device) error {
		if !d.Up {
			return m.down(d.Index) // VLANs come up with the device below them
		}
		return m.up(d.Index)
	})
	if len(above) > 0 {
		errs = append(errs, m.l3.Restore(t.AboveL3, indices(above)...))
	}
	errs = append(errs, m.existing(d.Index, func() error { return m.l3.Restore(state, d.Index) }))
	each(func(d device) error {
		return errors.Join(m.l3.SetGenMode(d.Index, d.GenMode), d.Settings.Resume(m.name(d.Index)))
	})
	return errors.Join(errs...)
}
