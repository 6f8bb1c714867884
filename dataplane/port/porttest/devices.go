package porttest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
)

// Devices is a port.Maker whose devices are in a list. Whose they are is decided by port.Survey, as with the kernel.
type Devices struct {
	// Fail, if not nil, is asked before each operation ("ensure", "remove", "look", "set aside", "gather"); its error is the
	// operation's.
	Fail func(op string, s port.Spec) error

	mu     sync.Mutex
	last   int
	links  map[int]hostnet.Link
	events []chan hostnet.Event
}

func (d *Devices) add(l hostnet.Link) hostnet.Link {
	if d.links == nil {
		d.links = map[int]hostnet.Link{}
	}
	d.last++
	l.Index = d.last
	return d.put(l)
}

// put has a device be so, and tells of it.
func (d *Devices) put(l hostnet.Link) hostnet.Link {
	d.links[l.Index] = l
	d.tell(hostnet.LinkEvent{Link: l})
	return l
}

// pair adds two devices, each the other's partner.
func (d *Devices) pair(a, b hostnet.Link) (hostnet.Link, hostnet.Link) {
	a.Kind, b.Kind, a.Partner = "veth", "veth", d.last+2
	a = d.add(a)
	b.Partner = a.Index
	return a, d.add(b)
}

func (d *Devices) delete(l hostnet.Link) {
	for index, other := range d.links {
		if index == l.Index || other.Index == l.Partner {
			delete(d.links, index)
			d.tell(hostnet.LinkEvent{Link: other, Gone: true})
		} else if other.Master == l.Index {
			other.Master = 0
			d.put(other)
		}
	}
}

// The verbs below do what those of hostnet.Host do, for tests that run on both.

// LinkByName finds a device; hostnet.ErrNotFound if there is none.
func (d *Devices) LinkByName(name string) (hostnet.Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.links {
		if l.Name == name {
			return l, nil
		}
	}
	return hostnet.Link{}, &hostnet.OpError{Op: "find", Object: name, Err: syscall.ENODEV}
}

// Links lists all devices in the order of their indices.
func (d *Devices) Links() ([]hostnet.Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list(), nil
}

func (d *Devices) list() []hostnet.Link {
	return slices.SortedFunc(maps.Values(d.links), func(a, b hostnet.Link) int { return a.Index - b.Index })
}

// CreateVeth makes a pair.
func (d *Devices) CreateVeth(v hostnet.Veth) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pair(hostnet.Link{Name: v.Name, Group: v.Group}, hostnet.Link{Name: v.Partner, Group: v.PartnerGroup})
	return nil
}

// CreateBridge makes a bridge.
func (d *Devices) CreateBridge(b hostnet.Bridge) (hostnet.Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.add(hostnet.Link{Name: b.Name, Kind: "bridge", Group: b.Group, MTU: b.MTU}), nil
}

// Delete removes a device, with the other end of a pair.
func (d *Devices) Delete(index int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, ok := d.links[index]; ok {
		d.delete(l)
	}
	return nil
}

// SetMaster makes a device a port of a bridge; 0: of none.
func (d *Devices) SetMaster(index, master int) error {
	return d.change(index, func(l *hostnet.Link) { l.Master = master })
}

// SetAlias sets a device's alias.
func (d *Devices) SetAlias(index int, alias string) error {
	return d.change(index, func(l *hostnet.Link) { l.Alias = alias })
}

// SetDown takes a device down.
func (d *Devices) SetDown(index int) error {
	return d.change(index, func(l *hostnet.Link) { l.Flags &^= net.FlagUp })
}

// Rename gives a device another name.
func (d *Devices) Rename(index int, name string) error {
	return d.change(index, func(l *hostnet.Link) { l.Name = name })
}

func (d *Devices) change(index int, f func(*hostnet.Link)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.links[index]
	if !ok {
		return &hostnet.OpError{Op: "change", Err: syscall.ENODEV}
	}
	f(&l)
	d.put(l)
	return nil
}

// tell gives an event to those who watch.
func (d *Devices) tell(ev hostnet.Event) {
	for _, c := range d.events {
		select {
		case c <- ev:
		default:
			panic("nobody reads the events of devices")
		}
	}
}

func (d *Devices) fail(op string, s port.Spec) error {
	if d.Fail == nil {
		return nil
	}
	return d.Fail(op, s)
}

// Look lists all devices.
func (d *Devices) Look() (*port.Survey, error) { return d.LookFor(port.Spec{}) }

// LookFor lists all devices, too.
func (d *Devices) LookFor(s port.Spec) (*port.Survey, error) {
	if err := d.fail("look", s); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.survey(), nil
}

func (d *Devices) survey() *port.Survey {
	return port.NewSurvey(d.list())
}

// Ensure makes a vnet's devices be as specified.
func (d *Devices) Ensure(s port.Spec) (port.Devices, error) {
	if err := d.fail("ensure", s); err != nil {
		return port.Devices{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.survey().Find(s)
	if f.Conflict != nil {
		return port.Devices{}, fmt.Errorf("devices of vnet %s: %w", s.ID, f.Conflict)
	}
	if s.MTU == 0 {
		s.MTU = port.DefaultMTU
	}
	mark := func(name string, l hostnet.Link) hostnet.Link {
		l.Name, l.Group, l.Alias, l.MTU, l.Flags = name, port.Group, port.Alias(s.ID), s.MTU, net.FlagUp
		return l
	}
	created := f.Vnif.Index == 0
	if created {
		for _, name := range append([]string{s.Vnetif}, port.OwnNames(s.ID)...) { // halves
			for _, l := range d.links {
				if l.Name == name {
					d.delete(l)
				}
			}
		}
		f.Vnif, f.Partner = d.pair(mark(s.Vnetif, hostnet.Link{}), mark(port.PartnerName(s.ID), hostnet.Link{}))
	}
	vnif, partner := mark(s.Vnetif, f.Vnif), mark(port.PartnerName(s.ID), f.Partner)
	if s.Bridge != "" {
		b := f.Bridge
		if b.Index == 0 {
			b = d.add(mark(s.Bridge, hostnet.Link{Kind: "bridge"}))
		} else if b.Group == port.Group {
			b = mark(s.Bridge, b)
			d.put(b)
		}
		vnif.Master = b.Index
	}
	d.put(vnif)
	d.put(partner)
	return port.Devices{
		VnifIndex: vnif.Index, PartnerIndex: partner.Index, BridgeIndex: vnif.Master, VnifName: vnif.Name, PartnerName: partner.Name,
		Bridge: s.Bridge, MTU: s.MTU, Created: created, Aside: f.Aside.Index != 0,
	}, nil
}

// SetAside takes the name from a vnet's bridge that was made for it.
func (d *Devices) SetAside(s port.Spec) error {
	if err := d.fail("set aside", s); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.survey().Find(s).Bridge
	if id, ok := port.Owner(b); ok && id == s.ID && b.Name == s.Bridge {
		b.Name = port.OwnNames(s.ID)[2]
		d.put(b)
	}
	return nil
}

// Gather brings the ports of a bridge that was set aside to the vnet's.
func (d *Devices) Gather(s port.Spec) error {
	if err := d.fail("gather", s); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.survey().Find(s)
	if f.Aside.Index == 0 {
		return nil
	}
	for _, l := range d.links {
		if l.Master == f.Aside.Index {
			l.Master = f.Bridge.Index
			d.put(l)
		}
	}
	d.delete(f.Aside)
	return nil
}

// Remove takes a vnet's devices away.
func (d *Devices) Remove(s port.Spec) error {
	if err := d.fail("remove", s); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []hostnet.Link
	for _, l := range d.links {
		if id, ok := port.Owner(l); ok && id == s.ID {
			list = append(list, l)
		}
	}
	d.remove(list)
	return nil
}

// RemoveLeftover takes away what nobody wants.
func (d *Devices) RemoveLeftover(l port.Leftover) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(l.Devices)
	return nil
}

// remove deletes pairs, and then bridges that nothing is on.
func (d *Devices) remove(list []hostnet.Link) {
	for _, kind := range []string{"veth", "bridge"} {
		for _, l := range list {
			used := false
			for _, p := range d.links {
				used = used || kind == "bridge" && p.Master == l.Index
			}
			if l.Kind == kind && !used {
				d.delete(l)
			}
		}
	}
}

// Watch tells of changes until ctx ends.
func (d *Devices) Watch(ctx context.Context) (<-chan hostnet.Event, error) {
	c := make(chan hostnet.Event, 4096)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, c)
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.events = slices.DeleteFunc(d.events, func(e chan hostnet.Event) bool { return e == c })
		close(c)
	})
	return c, nil
}
