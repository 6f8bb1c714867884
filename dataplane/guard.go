package dataplane

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
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

	mu sync.Mutex
	// applied are the guards as they were last set; without one for devices that have none.
	applied map[int]*hostnet.Guard
	// quiet are the ports of bridges of ours that were made quiet.
	quiet map[int]bool
}

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
	case hostnet.LinkEvent, hostnet.AddressEvent, hostnet.ResyncEvent:
		g.look()
	}
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
	g.look()
}

// apply makes the guards be as they should.
func (g *Guards) apply() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	links, err := g.host.Links()
	if err != nil {
		return err
	}
	addresses, err := g.host.Addresses(0)
	if err != nil {
		return err
	}
	g.names.set(links)
	want := guardsOf(links, addresses, g.underlays(), g.ports)
	there := make(map[int]bool, len(links))
	var errs []error
	for _, l := range links {
		there[l.Index] = true
		guard := want[l.Index]
		before, known := g.applied[l.Index]
		if _, ours := port.Owner(l); !known && !ours && guard == nil || known && reflect.DeepEqual(before, guard) {
			continue
		}
		if guard != nil {
			err = g.host.SetGuard(l.Index, *guard)
		} else {
			err = g.host.RemoveGuard(l.Index)
		}
		if err != nil {
			if !errors.Is(err, hostnet.ErrNotFound) { // gone meanwhile
				errs = append(errs, err)
			}
			continue
		}
		g.applied[l.Index] = guard
	}
	for index := range g.applied {
		if !there[index] {
			delete(g.applied, index)
		}
	}
	return errors.Join(append(errs, g.quietPorts(links))...)
}

// quietPorts keeps the host off the ports of bridges that xend made: frames that bridges do not forward, to the groups
// 01:80:c2:00:00:00 to …0f, are received by the port itself, with whatever packet is in them.
func (g *Guards) quietPorts(links []hostnet.Link) error {
	bridges := map[int]bool{}
	for _, l := range links {
		if _, ours := port.Owner(l); ours && l.Kind == "bridge" {
			bridges[l.Index] = true
		}
	}
	ports := map[int]bool{}
	var errs []error
	for _, l := range links {
		if !bridges[l.Master] {
			continue
		}
		if !g.quiet[l.Index] {
			err := errors.Join(g.host.DisableIPv6(l.Index), g.host.SetIPv4(l.Index, hostnet.ARPIgnore, 1),
				g.host.SetIPv4(l.Index, hostnet.DropUnicastInMulticast, 1))
			if err != nil {
				if !errors.Is(err, hostnet.ErrNotFound) { // gone meanwhile
					errs = append(errs, err)
				}
				continue
			}
		}
		ports[l.Index] = true
	}
	g.quiet = ports
	return errors.Join(errs...)
}

// guardsOf says which devices are to be guarded, and how.
func guardsOf(links []hostnet.Link, addresses []hostnet.Address, underlays map[int]struct{}, ports []uint16) map[int]*hostnet.Guard {
	addressed := map[int]bool{}
	for _, a := range addresses {
		addressed[a.Index] = true
	}
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
		case !addressed[l.Index]:
			want[l.Index] = &hostnet.Guard{Closed: true}
		default:
			want[l.Index] = &hostnet.Guard{Ports: ports, Protocols: guardedProtocols}
		}
	}
	return want
}
