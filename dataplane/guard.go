package dataplane

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
)

// Guards keeps what comes from vnets off the host's own network stack. On every bridge that xend made, every vnif
// that is on no bridge, and all that is stacked on them there is a guard: a closed one while the device has no
// address, so that a domain reaches nothing of the host, by whatever neighbour entry and with whatever forwarding;
// with an address, one that keeps the protocol's own packets back, which another host could not tell from
// genuine ones once this host had routed them.
type Guards struct {
	host  *hostnet.Host
	log   *slog.Logger
	names *deviceNames
	// underlays are the devices that lead to other hosts.
	underlays func() map[int]struct{}
	ports     []uint16
	dirty     chan struct{}
	ready     chan struct{}

	// pending guards the events that were not looked at yet; whole: some are not even known, or what was set is to be asked for.
	pending sync.Mutex
	events  []hostnet.Event
	whole   bool

	// What follows is run's own: the devices and addresses as they were listed once and events have told since, the underlays at the
	// last look, and the devices that could not be guarded then.
	seen      *hostnet.LinkTable
	addresses map[int]map[address]struct{}
	led       map[int]struct{}
	again     map[int]struct{}

	mu sync.Mutex
	// applied are the guards as they were last set; without one for devices that have none.
	applied map[int]*hostnet.Guard
	// quiet are the ports of bridges of ours that were made quiet.
	quiet map[int]bool
}

// address is one of a device.
type address struct {
	prefix netip.Prefix
	remote netip.Addr
}

// maxEvents bounds what is remembered event by event.
const maxEvents = 1 << 14

// natPort is the UDP port of ESP behind NAT; RFC 3948.
const natPort = 4500

// guardedProtocols are IP protocols that this host takes for another host's: ESP and EtherIP.
var guardedProtocols = []uint8{50, wire.ProtocolEtherIP}

// NewGuards returns the guards of a host whose data plane is off; an Engine has its own. port is the protocol's.
func NewGuards(h *hostnet.Host, log *slog.Logger, port uint16) *Guards {
	return newGuards(h, log, port, new(deviceNames), func() map[int]struct{} { return nil })
}

// String names the task.
func (g *Guards) String() string { return "guards of vnets" }

// Ready is closed when the devices that are there are guarded.
func (g *Guards) Ready() <-chan struct{} { return g.ready }

// Run keeps the guards right until ctx ends, and returns nil then.
func (g *Guards) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := g.host.Watch(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- g.run(ctx) }()
	for ev := range watch {
		g.event(ev)
	}
	return <-done
}

func newGuards(h *hostnet.Host, log *slog.Logger, port uint16, names *deviceNames, underlays func() map[int]struct{}) *Guards {
	return &Guards{
		host: h, log: log, names: names, underlays: underlays, ports: []uint16{port, natPort},
		dirty: make(chan struct{}, 1), ready: make(chan struct{}), applied: map[int]*hostnet.Guard{}, quiet: map[int]bool{},
	}
}

// look makes the guards be looked at again soon.
func (g *Guards) look() {
	select {
	case g.dirty <- struct{}{}:
	default:
	}
}

// event makes the guards be looked at where an event may concern them.
func (g *Guards) event(ev hostnet.Event) {
	switch ev.(type) {
	case hostnet.LinkEvent, hostnet.AddressEvent:
		g.pending.Lock()
		if g.events = append(g.events, ev); len(g.events) > maxEvents {
			g.events, g.whole = nil, true
		}
		g.pending.Unlock()
		g.look()
	case hostnet.ResyncEvent:
		g.lookAtAll()
	}
}

// lookAtAll makes devices and addresses be listed soon.
func (g *Guards) lookAtAll() {
	g.pending.Lock()
	g.events, g.whole = nil, true
	g.pending.Unlock()
	g.look()
}

// run keeps the guards right until ctx ends.
func (g *Guards) run(ctx context.Context) error {
	failed := ""
	for first := true; ; first = false {
		start := time.Now()
		err := g.apply()
		if first {
			close(g.ready)
		}
		switch {
		case err == nil:
			failed = ""
		case err.Error() != failed: // told once
			failed = err.Error()
			g.log.Error("vnets are not kept apart from the host as they should be", "err", err)
		}
		// A look at many devices takes time; but whoever takes the last address off a bridge relies on this.
		pause := time.NewTimer(min(max(settle, 2*time.Since(start)), time.Second))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-g.dirty:
		}
	}
}

// forget makes the next look ask the kernel for what was set before.
func (g *Guards) forget() {
	g.mu.Lock()
	clear(g.applied)
	clear(g.quiet)
	g.mu.Unlock()
	g.lookAtAll()
}

// apply makes the guards be as they should, of the devices that changed and of those that depend on them.
func (g *Guards) apply() error {
	changed, err := g.changed()
	if err != nil {
		g.pending.Lock()
		g.whole = true // at the next event
		g.pending.Unlock()
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	concerned, below := g.concerned(changed)
	want := guardsOf(below, g.addresses, g.led, g.ports)
	g.again = map[int]struct{}{}
	var errs []error
	for index := range concerned {
		l := g.seen.ByIndex(index)
		if l.Index == 0 {
			delete(g.applied, index)
			delete(g.quiet, index)
			continue
		}
		if err := errors.Join(g.guard(l, want[index]), g.keepQuiet(l)); err != nil {
			errs = append(errs, err)
			g.again[index] = struct{}{}
		}
	}
	return errors.Join(errs...)
}

// changed are the devices that are not as they were at the last look, also those that went.
func (g *Guards) changed() (map[int]struct{}, error) {
	g.pending.Lock()
	events, whole := g.events, g.whole
	g.events, g.whole = nil, false
	g.pending.Unlock()
	changed := g.again
	if changed == nil {
		changed = map[int]struct{}{}
	}
	if whole || g.seen == nil {
		links, err := g.host.Links()
		if err != nil {
			return nil, err
		}
		addresses, err := g.host.Addresses(0)
		if err != nil {
			return nil, err
		}
		g.names.set(links)
		g.seen, g.addresses = hostnet.NewLinkTable(links), addressesOf(addresses)
		for _, l := range links {
			changed[l.Index] = struct{}{}
		}
		g.mu.Lock()
		for index := range g.applied {
			changed[index] = struct{}{}
		}
		g.mu.Unlock()
	}
	for _, ev := range events {
		switch ev := ev.(type) {
		case hostnet.LinkEvent:
			before := g.seen.Apply(ev)
			g.names.put(ev.Link.Index, ev.Link.Name, ev.Gone)
			changed[ev.Link.Index], changed[before.Master] = struct{}{}, struct{}{}
			if ev.Gone {
				delete(g.addresses, ev.Link.Index)
			}
		case hostnet.AddressEvent:
			index, a := ev.Address.Index, address{ev.Address.Prefix, ev.Address.Remote}
			changed[index] = struct{}{}
			switch {
			case ev.Gone:
				if delete(g.addresses[index], a); len(g.addresses[index]) == 0 {
					delete(g.addresses, index)
				}
			case g.addresses[index] == nil:
				g.addresses[index] = map[address]struct{}{a: {}}
			default:
				g.addresses[index][a] = struct{}{}
			}
		}
	}
	if led := g.underlays(); !maps.Equal(led, g.led) {
		g.led = led
		for _, l := range g.seen.All() {
			changed[l.Index] = struct{}{}
		}
	}
	return changed, nil
}

func addressesOf(list []hostnet.Address) map[int]map[address]struct{} {
	out := map[int]map[address]struct{}{}
	for _, a := range list {
		if out[a.Index] == nil {
			out[a.Index] = map[address]struct{}{}
		}
		out[a.Index][address{a.Prefix, a.Remote}] = struct{}{}
	}
	return out
}

// concerned are the devices whose guards may have to be others because some changed: what is stacked on those, the bridges that these
// are on, and so on, with the ports of bridges; and below is all that this depends on.
func (g *Guards) concerned(changed map[int]struct{}) (concerned map[int]struct{}, below []hostnet.Link) {
	concerned = map[int]struct{}{}
	spread(changed, concerned, func(index int) []int {
		return append(indices(g.seen.Above(index)), g.seen.ByIndex(index).Master)
	})
	for index := range maps.Clone(concerned) {
		for _, p := range g.seen.Ports(index) { // a bridge of ours has quiet ports
			concerned[p.Index] = struct{}{}
		}
	}
	all := map[int]struct{}{}
	spread(concerned, all, func(index int) []int {
		list := indices(g.seen.Ports(index))
		if l := g.seen.ByIndex(index); l.Stacked() {
			list = append(list, l.Partner)
		}
		return list
	})
	for _, index := range slices.Sorted(maps.Keys(all)) {
		if l := g.seen.ByIndex(index); l.Index != 0 {
			below = append(below, l)
		}
	}
	return concerned, below
}

// spread adds devices to a set, and all that next leads to from them.
func spread(from, set map[int]struct{}, next func(index int) []int) {
	list := slices.Collect(maps.Keys(from))
	for len(list) > 0 {
		index := list[len(list)-1]
		list = list[:len(list)-1]
		if _, known := set[index]; known || index == 0 {
			continue
		}
		set[index] = struct{}{}
		list = append(list, next(index)...)
	}
}

func indices(list []hostnet.Link) (out []int) {
	for _, l := range list {
		out = append(out, l.Index)
	}
	return out
}

// guard makes a device have a guard; nil: none. mu is held.
func (g *Guards) guard(l hostnet.Link, want *hostnet.Guard) error {
	before, known := g.applied[l.Index]
	if _, ours := port.Owner(l); !known && !ours && want == nil || known && reflect.DeepEqual(before, want) {
		return nil
	}
	var err error
	if want != nil {
		err = g.host.SetGuard(l.Index, *want)
	} else {
		err = g.host.RemoveGuard(l.Index)
	}
	switch {
	case err == nil:
		g.applied[l.Index] = want
	case errors.Is(err, hostnet.ErrNotFound): // gone meanwhile
		return nil
	}
	return err
}

// keepQuiet keeps the host off a port of a bridge that xend made: frames that bridges do not forward, to the groups
// 01:80:c2:00:00:00 to …0f, are received by the port itself, with whatever packet is in them. mu is held.
func (g *Guards) keepQuiet(l hostnet.Link) error {
	b := g.seen.ByIndex(l.Master)
	if _, ours := port.Owner(b); !ours || b.Kind != "bridge" {
		delete(g.quiet, l.Index)
		return nil
	}
	if g.quiet[l.Index] {
		return nil
	}
	err := errors.Join(g.host.DisableIPv6(l.Index), g.host.SetIPv4(l.Index, hostnet.ARPIgnore, 1),
		g.host.SetIPv4(l.Index, hostnet.DropUnicastInMulticast, 1))
	switch {
	case err == nil:
		g.quiet[l.Index] = true
	case errors.Is(err, hostnet.ErrNotFound): // gone meanwhile
		return nil
	}
	return err
}

// guardsOf says which devices are to be guarded, and how.
func guardsOf(links []hostnet.Link, addresses map[int]map[address]struct{}, underlays map[int]struct{}, ports []uint16) map[int]*hostnet.Guard {
	onVnet := map[int]bool{} // gets what comes from a vnet
	for _, l := range links {
		if id, ours := port.Owner(l); ours && (l.Kind == "bridge" || l.Kind == "veth" && l.Name != port.PartnerName(id)) {
			onVnet[l.Index] = true
		}
	}
	// What is stacked on one of them, and the bridges of which such a device is a port.
	for range maxStack {
		more := false
		for _, l := range links {
			if l.Stacked() && onVnet[l.Partner] && !onVnet[l.Index] {
				onVnet[l.Index], more = true, true
			}
			if _, underlay := underlays[l.Master]; onVnet[l.Index] && l.Master != 0 && !onVnet[l.Master] && !underlay {
				onVnet[l.Master], more = true, true
			}
		}
		if !more {
			break
		}
	}
	want := map[int]*hostnet.Guard{}
	for _, l := range links {
		_, underlay := underlays[l.Index]
		switch {
		case !onVnet[l.Index] || underlay:
		case l.Master != 0: // a port: the host gets what it receives by its bridge
		case len(addresses[l.Index]) == 0:
			want[l.Index] = &hostnet.Guard{Closed: true}
		default:
			want[l.Index] = &hostnet.Guard{Ports: ports, Protocols: guardedProtocols}
		}
	}
	return want
}
