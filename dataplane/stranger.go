package dataplane

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Where packets may come from: the underlay's own devices. A host often answers ARP for its underlay address on
// a vnet's bridge, so a domain could otherwise send packets of any vnet.

// fromUnderlay reports whether other hosts' packets may come by a device.
func (v *view) fromUnderlay(index int) bool {
	_, ok := v.devices[index]
	return ok
}

// reach is what the kernel said of the ways to other hosts at one moment. As an outlook, it is asked without the
// engine's lock.
type reach struct {
	// candidates are devices by which hosts are routed, or that the configuration names.
	candidates []int
	// links are those, and what they are stacked on.
	links map[int]hostnet.Link
	// missing are the devices of the configuration that are not there, and why.
	missing map[string]error
}

// lookForHosts asks the kernel for the devices of that name, and those by which hosts are routed.
func lookForHosts(h kernel, names []string, hosts []netip.Addr) *reach {
	r := &reach{links: map[int]hostnet.Link{}, missing: map[string]error{}}
	for _, name := range names {
		l, err := h.LinkByName(name)
		if err != nil {
			r.missing[name] = err
			continue
		}
		r.candidates = append(r.candidates, l.Index)
		if l.Master != 0 {
			r.candidates = append(r.candidates, l.Master) // what arrives by a port of a bridge arrives by the bridge
		}
	}
	for _, addr := range hosts {
		if found, err := h.RouteDevices(addr); err == nil { // else the host is not reached either
			r.candidates = append(r.candidates, found...)
		}
	}
	for _, index := range r.candidates {
		for range maxStack {
			if _, known := r.links[index]; known {
				break
			}
			l, err := h.LinkByIndex(index)
			if err != nil {
				break // gone
			}
			r.links[index] = l
			if !l.Stacked() {
				break
			}
			index = l.Partner
		}
	}
	return r
}

// lookForHosts looks for the devices by which packets may come, since the hosts that this one was told of have changed.
func (e *Engine) lookForHosts() {
	e.reaching.Lock() // not looking: a look at the network may take long
	defer e.reaching.Unlock()
	e.mu.Lock()
	names, hosts := e.config.Devices, e.routedLocked()
	e.mu.Unlock()
	r := lookForHosts(e.kernel, names, hosts)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.takeFromLocked(r) {
		e.publishLocked()
	}
}

// takeFromLocked says by which devices other hosts' packets may come, and reports whether they changed: the chosen ones,
// those by which peers and replicas are routed, and those that the configuration names. Whatever the routes say, a
// vnet's own devices are never among them.
func (e *Engine) takeFromLocked(r *reach) bool {
	devices := map[int]struct{}{}
	for _, f := range e.underlays {
		if f.uplink != nil {
			devices[f.uplink.path.Index] = struct{}{}
		}
	}
	for name, err := range r.missing {
		if e.tellLocked("device " + name) {
			e.log.Warn("a device of the configuration is not there (devices in vnet.toml)", "device", name, "err", err)
		}
	}
	for _, index := range r.candidates {
		if _, known := devices[index]; !known && !e.ofVnetLocked(index, r.links) {
			devices[index] = struct{}{}
		}
	}
	if maps.Equal(devices, e.devices) {
		return false
	}
	e.devices = devices
	return true
}

// routedLocked are the other hosts that this one was told of.
func (e *Engine) routedLocked() (addrs []netip.Addr) {
	for _, r := range e.peers.configured {
		if !e.peers.removed[r.name] {
			addrs = append(addrs, r.addr)
		}
	}
	for addr := range e.peers.added {
		addrs = append(addrs, addr)
	}
	for _, r := range e.replicas {
		addrs = append(addrs, r.addr)
	}
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !e.isOther(a) })
}

// ofVnetLocked reports whether a device is a vnet's, or stacked on one, or leads to this host only.
func (e *Engine) ofVnetLocked(index int, links map[int]hostnet.Link) bool {
	places := e.placesLocked()
	for range maxStack {
		_, end := places.ends[index]
		if _, bridge := places.bridges[index]; end || bridge {
			return true
		}
		l, known := links[index]
		if !known {
			return true // gone
		}
		if _, ours := port.Owner(l); ours || l.Flags&net.FlagLoopback != 0 {
			return true
		}
		if !l.Stacked() {
			return false
		}
		index = l.Partner
	}
	return true
}

// maxStack is how many devices may be stacked on each other: MAX_NEST_DEV of linux/netdevice.h.
const maxStack = 8

// Stranger is where packets came from that were dropped because they came by a device that is no underlay's.
type Stranger struct {
	// Device is the device's name, Index its number.
	Device string
	Index  int
	// From is the packets' source address, which may be false.
	From netip.Addr
	// Packets is how many came at least.
	Packets uint64
}

const (
	// maxStrangers bounds what a worker remembers, and shownStrangers what is shown.
	maxStrangers   = 32
	shownStrangers = 10
)

// frequent counts the most frequent keys in bounded memory: Metwally, Agrawal and El Abbadi, "Efficient
// computation of frequent and top-k elements in data streams", 2005 (Space-Saving). A newcomer takes the place
// of the rarest, and its count as a possible error. Any goroutine may use it.
type frequent[K comparable] struct {
	mu   sync.Mutex
	list []frequency[K]
}

type frequency[K comparable] struct {
	key          K
	count, error uint64
}

// strangers are places where packets come from that are no underlay's.
type strangers = frequent[place]

type place struct {
	index int
	from  netip.Addr
}

// note counts packets.
func (s *frequent[K]) note(key K, packets uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rarest := 0
	for i := range s.list {
		c := &s.list[i]
		if c.key == key {
			c.count += packets
			return
		}
		if c.count < s.list[rarest].count {
			rarest = i
		}
	}
	n := frequency[K]{key: key, count: packets}
	if len(s.list) < maxStrangers {
		s.list = append(s.list, n)
		return
	}
	n.error = s.list[rarest].count
	n.count += n.error
	s.list[rarest] = n
}

// addTo adds what is certain to the counts of others.
func (s *frequent[K]) addTo(sum map[K]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.list {
		sum[c.key] += c.count - c.error
	}
}

// Unknown is a vnet that this host does not have, and who sends packets of it.
type Unknown struct {
	Vnet vnet.ID
	From netip.Addr
	// Packets is how many came at least.
	Packets uint64
}

type unknownVnet struct {
	vnet vnet.ID
	from netip.Addr
}

// dropUnknown drops a packet of a vnet that this host does not have.
func (w *worker) dropUnknown(id vnet.ID, a arrival) {
	w.drop(DropUnknownVnet)
	w.unknown.note(unknownVnet{id, a.from}, 1)
}

// unknown puts together what workers know of other vnets, most first.
func unknown(workers []*worker) []Unknown {
	sum := map[unknownVnet]uint64{}
	for _, w := range workers {
		w.unknown.addTo(sum)
	}
	out := make([]Unknown, 0, len(sum))
	for k, n := range sum {
		out = append(out, Unknown{Vnet: k.vnet, From: k.from, Packets: n})
	}
	slices.SortFunc(out, func(a, b Unknown) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), a.Vnet.Compare(b.Vnet), a.From.Compare(b.From))
	})
	return out[:min(len(out), shownStrangers)]
}

// drop counts a packet or frame that is not passed on.
func (w *worker) drop(r Reason) { w.dropMany(r, 1) }

// dropOf counts one of a vnet.
func (w *worker) dropOf(n *network, r Reason) { w.dropManyOf(n, r, 1) }

// dropManyOf counts several.
func (w *worker) dropManyOf(n *network, r Reason, packets uint64) {
	if packets > 0 {
		w.dropMany(r, packets)
		n.dropped(w.number, r, packets)
	}
}

// dropMany counts several, and who sent them.
func (w *worker) dropMany(r Reason, packets uint64) {
	w.drops[r].Add(packets)
	if w.from.IsValid() {
		w.sources[r].note(w.from, packets)
		if h := w.engine.hosts.Find(w.from); h != nil {
			h.Drops.Add(uint8(r), packets)
		}
	}
}

// Sender is who sent what was dropped for a reason.
type Sender struct {
	Reason Reason
	// From is the packets' source address, which may be false.
	From netip.Addr
	// Packets is how many were dropped at least.
	Packets uint64
}

// shownSources is how many senders are shown for each reason.
const shownSources = 3

// dropSources puts together what workers know of senders, for each reason those of most packets.
func dropSources(workers []*worker) (out []Sender) {
	for r := range reasons {
		sum := map[netip.Addr]uint64{}
		for _, w := range workers {
			w.sources[r].addTo(sum)
		}
		var list []Sender
		for addr, n := range sum {
			list = append(list, Sender{r, addr, n})
		}
		slices.SortFunc(list, func(a, b Sender) int { return cmp.Or(cmp.Compare(b.Packets, a.Packets), a.From.Compare(b.From)) })
		out = append(out, list[:min(len(list), shownSources)]...)
	}
	return out
}

// strange notes a packet that came by no underlay device.
func (w *worker) strange(p *underlay.Packet) {
	from := p.From.Addr()
	w.strangers.note(place{p.Index, from}, packets(p))
	if w.now >= w.strangeTold {
		w.strangeTold = w.now + strangerEvery
		w.engine.notify(notice{kind: noticeStranger, index: p.Index, addr: from})
	}
}

// strangerEvery is how often, in nanoseconds, a worker tells the cold side of strangers.
const strangerEvery = int64(1e9)

// packets is the number of packets on the wire that were received as one.
func packets(p *underlay.Packet) uint64 { return uint64((len(p.Data) + p.SegSize - 1) / p.SegSize) }

// takesEcho reports whether an echo request may come by a device.
func (e *Engine) takesEcho(index int, from netip.Addr) bool {
	if e.view.Load().fromUnderlay(index) {
		return true
	}
	e.mouth.drop(DropNotUnderlay)
	e.echoStrangers.note(place{index, from}, 1)
	e.notify(notice{kind: noticeStranger, index: index, addr: from})
	return false
}

// strangers puts together what workers know.
func (e *Engine) strangers(workers []*worker) []Stranger {
	sum := map[place]uint64{}
	e.echoStrangers.addTo(sum)
	for _, w := range workers {
		w.strangers.addTo(sum)
	}
	out := make([]Stranger, 0, len(sum))
	for p, n := range sum {
		out = append(out, Stranger{Device: e.deviceNames.name(p.index), Index: p.index, From: p.from, Packets: n})
	}
	slices.SortFunc(out, func(a, b Stranger) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Index, b.Index), a.From.Compare(b.From))
	})
	return out[:min(len(out), shownStrangers)]
}

// deviceNames are the names of devices as they last were.
type deviceNames struct {
	mu    sync.Mutex
	known map[int]string
}

func (d *deviceNames) set(links []hostnet.Link) {
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Index] = l.Name
	}
	d.mu.Lock()
	d.known = names
	d.mu.Unlock()
}

// put takes over how a device is called now. set was called before.
func (d *deviceNames) put(index int, name string, gone bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if gone {
		delete(d.known, index)
	} else {
		d.known[index] = name
	}
}

func (d *deviceNames) name(index int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name := d.known[index]; name != "" {
		return name
	}
	return fmt.Sprint("device ", index)
}
