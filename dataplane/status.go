package dataplane

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Status is the state of the data plane at one moment, in plain values that the caller may keep. What may be long, the
// MACs, is asked for with Vifs and Entries; what is asked for often, the numbers, with Counters.
type Status struct {
	// Encapsulation is how frames are sent.
	Encapsulation Encapsulation
	MTUMode       MTUMode
	// Workers is the number of threads that move frames.
	Workers int
	// Vnets are sorted by id.
	Vnets []Vnet
	// Peers are sorted by address.
	Peers []PeerState
	// Replicate are the head-end hosts as configured, in that order.
	Replicate []ReplicaState
	// Hosts are the other hosts that are known, in order of their addresses.
	Hosts []Host
	// Paths are the ways that frames of a vnet without security take: to the groups, the peers, and then the hosts
	// that are none; and after these the ways of vnets with security to the groups.
	Paths []Path
	// Underlays are one per address family, IPv4 first.
	Underlays []Underlay
	// Tables are the settings and sizes of the VARP cache and the vif table.
	Tables Tables
	// Keys are the vnets with security, sorted by id.
	Keys []esp.Status
	// FastPath says what the kernel carries past user space.
	FastPath FastPathState
	// Drops has one element per reason, in a fixed order.
	Drops []Drop
	// Strangers are where most of the packets came from that were dropped as DropNotUnderlay, most first.
	Strangers []Stranger
	// Sources are who sent what was dropped, for each reason those of most packets, most first.
	Sources []Sender
	// Unknown are the vnets of which most of the packets were that were dropped as DropUnknownVnet, most first.
	Unknown []Unknown
}

// Traffic counts one direction of a vnet.
type Traffic struct {
	Packets uint64 // on the wire: VUDP or EtherIP packets
	Frames  uint64 // at the vnif: what the bridge counts, a super-frame as one
	Bytes   uint64 // of Ethernet frames, without our headers
}

// Counters are what is counted. Reading them takes no lock that anything else waits for.
type Counters struct {
	// Drops has one element per reason, in a fixed order. What the kernel dropped because its queues were full is some
	// seconds old.
	Drops []Drop
	// Strangers are where most of the packets came from that were dropped as DropNotUnderlay, most first.
	Strangers []Stranger
	// Unknown are the vnets of which most of the packets were that were dropped as DropUnknownVnet, most first.
	Unknown []Unknown
	// Sources are who sent what was dropped, for each reason those of most packets, most first.
	Sources []Sender
	// Vnets are those that are carried, in order of their ids.
	Vnets []VnetCounters
	// FastPath says what the kernel carries past user space.
	FastPath FastPathState
	// Tables are the settings and sizes of the VARP cache and the vif table.
	Tables Tables
}

// VnetCounters are those of one vnet.
type VnetCounters struct {
	ID vnet.ID
	// Tx is from the vnif to the underlay, Rx the reverse.
	Tx, Rx Traffic
	// Flooded is how many of Tx.Packets went to the groups, the replicas and hosts that speak only EtherIP; the others
	// went to the one host that has the MAC. What was forwarded to peers is not among them.
	Flooded uint64
	// KernelTx and KernelRx are what of it the kernel carried past user space; its Frames are as many as its Packets.
	KernelTx, KernelRx Traffic
	// Drops is what was not passed on of the vnet's, by reason, where it is known to be the vnet's; reasons for which nothing
	// was dropped are left out. It is part of Counters.Drops.
	Drops []Drop
}

// Filter says which MACs are asked for; the zero Filter: all.
type Filter struct {
	// Vnet is the vnet that they are of; zero: any.
	Vnet vnet.ID
	// Addr is the host that they are behind; the zero Addr: any.
	Addr netip.Addr
	// Damped: only those that moved to and fro and are held where they are.
	Damped bool
	// Doubled: only those that a script put on this host and did not take off it, though another host has had them for
	// longer than a migration takes.
	Doubled bool
}

func (f *Filter) fits(e *varp.Entry) bool {
	return (f.Vnet == vnet.ID{} || f.Vnet == e.Vnet) && (!f.Addr.IsValid() || f.Addr == e.Addr) && (!f.Damped || e.Damped > 0) &&
		(!f.Doubled || e.ByHand && e.HoldDown <= 0)
}

// Vnet is the state of one vnet.
type Vnet struct {
	ID       vnet.ID
	IDText   string // as its owner wrote it
	Bridge   string // "" for the default vnets, which are on no bridge
	Vnetif   string
	Security vnet.Security
	// Up is false if the devices are gone or the data plane does not run; Problem says why, for a person.
	Up      bool
	Problem string
	// Header is what stands in front of the inner frame on the wire: outer Ethernet (14), IP, UDP and
	// ours, in bytes.
	Header int
	// MTU is that of the vnif.
	MTU int
	// MAC is the vnif's.
	MAC net.HardwareAddr
	// Tx is from the vnif to the underlay, Rx the reverse.
	Tx, Rx Traffic
	// Flooded, KernelTx, KernelRx and Drops are as in VnetCounters.
	Flooded            uint64
	KernelTx, KernelRx Traffic
	Drops              []Drop
}

// Vif is a MAC that lives on this host.
type Vif struct {
	Vnet   vnet.ID
	MAC    wire.MAC
	Age    time.Duration // since it was last heard
	ByHand bool          // added by the operator or a script: it does not age away
}

// EntryState is the state of a VARP cache entry.
type EntryState string

// The states, in the original's words.
const (
	Incomplete EntryState = "incomplete"
	Reachable  EntryState = "reachable"
	Failed     EntryState = "failed"
)

// Entry is a MAC behind another host.
type Entry struct {
	Vnet   vnet.ID
	MAC    wire.MAC
	Addr   netip.Addr // the care-of address
	State  EntryState
	Age    time.Duration // since the last news
	Framed time.Duration // since the last frame from there; negative: none came yet
	Source string        // by which it was known to be there: frame or announce
	Damped time.Duration // for how long moves will be ignored because it flapped
}

// PeerState is a host that gets what is multicast here by VFWD.
type PeerState struct {
	Name string // as configured; "" if added at run time
	Addr netip.Addr
	Port uint16
	// TxPackets and RxPackets count VFWD packets.
	TxPackets, RxPackets uint64
}

// ReplicaState is a host of head-end replication.
type ReplicaState struct {
	Name string // as configured
	// Addr is the zero Addr while the name cannot be resolved; Problem says why.
	Addr    netip.Addr
	Port    uint16
	Problem string
}

// Underlay is the network to the other hosts over one address family.
type Underlay struct {
	// Family is "ipv4" or "ipv6".
	Family string
	// Up is false while there is no device or no address; Problem says why.
	Up      bool
	Problem string
	// Device is the underlay device's name and Reason why it was chosen.
	Device string
	Index  int
	Reason string
	// Address is this host's own.
	Address netip.Addr
	Group   netip.Addr
	Port    uint16
	// MTU is the device's.
	MTU int
	// Heard is the time since a packet last came from the group; negative if none ever did.
	Heard time.Duration
	// Silent is true when nothing comes from the group though something should.
	Silent bool
	// EtherIPHosts were heard speaking only EtherIP without UDP.
	EtherIPHosts []netip.Addr
}

// Host is another host.
type Host struct {
	hosts.Info
	// Encapsulation is how frames are sent to it.
	Encapsulation Encapsulation
	// MACs is the number of VARP cache entries behind it.
	MACs int
	// Dropped is what came from it and was not passed on, by reason; reasons for which nothing was are left out. It is part
	// of Counters.Drops.
	Dropped []Drop
}

// Path is a way that frames take, and what stands in front of them there.
type Path struct {
	// To is "group", "peer" or "host".
	To   string
	Addr netip.Addr
	// Device is the underlay device, and MTU its MTU: what lies behind it may carry less.
	Device string
	MTU    int
	// IP, UDP and Header are the lengths in bytes of the outer IP header, the outer UDP header (0: there is none) and
	// ours.
	IP, UDP, Header int
	// Secured is true of the way of vnets with security, and ESP is what their seal adds to the largest frame that
	// fits, its padding included.
	Secured bool
	ESP     int
}

// Tables are the settings and sizes of the VARP cache and the vif table.
type Tables struct {
	EntryTTL, SweepInterval, HoldDown time.Duration
	MaxMACs                           int
	Vifs, Entries                     int
	Sweeps                            uint64
	// Moves counts MACs that changed place, Damped how often a flapping one was frozen, Held claims
	// refused by hold-down, Evicted entries that had to go because a table was full.
	Moves, Damped, Held, Evicted uint64
}

// Drop counts what was not passed on for one reason.
type Drop struct {
	Reason Reason
	Count  uint64
}

// Counters returns what is counted.
func (e *Engine) Counters() Counters {
	v := e.view.Load()
	c := e.countersOfAll(v)
	for _, n := range v.vnets {
		c.Vnets = append(c.Vnets, e.countersOf(n))
	}
	slices.SortFunc(c.Vnets, func(a, b VnetCounters) int { return a.ID.Compare(b.ID) })
	return c
}

// countersOfAll are the counters but for those of each vnet.
func (e *Engine) countersOfAll(v *view) Counters {
	c := Counters{Drops: make([]Drop, reasons), Tables: e.tables(v)}
	for r := range reasons {
		c.Drops[r] = Drop{Reason: r, Count: e.mouth.drops[r].Load()}
		for _, w := range v.workers {
			c.Drops[r].Count += w.drops[r].Load()
		}
	}
	c.Strangers, c.Unknown, c.Sources = e.strangers(v.workers), unknown(v.workers), dropSources(v.workers)
	c.FastPath = e.programs.state(v.config.FastPath)
	return c
}

func (e *Engine) countersOf(n *network) VnetCounters {
	x := VnetCounters{ID: n.config.ID, Drops: e.dropsIn(n)}
	x.KernelTx, x.KernelRx = e.mirror.traffic(x.ID)
	x.Tx, x.Rx = n.traffic()
	for i := range n.shares {
		x.Flooded += n.shares[i].txFlooded.Load()
	}
	x.Tx.add(x.KernelTx)
	x.Rx.add(x.KernelRx)
	return x
}

// Status returns the state of everything but the MACs.
func (e *Engine) Status() Status {
	e.mu.Lock()
	e.queueDropsLocked()
	e.mu.Unlock()
	counters, behind := e.countersOfAll(e.view.Load()), e.table.Behind()
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	c := &e.config
	s := Status{
		Encapsulation: c.Encapsulation, MTUMode: c.MTUMode, Workers: len(e.workers),
		Vnets: e.vnetsLocked(), Peers: e.Peers(), Drops: counters.Drops, Tables: counters.Tables, Strangers: counters.Strangers, Sources: counters.Sources, Unknown: counters.Unknown,
	}
	for _, r := range e.replicas {
		s.Replicate = append(s.Replicate, ReplicaState{Name: r.name, Addr: r.addr, Port: r.port, Problem: r.problem})
	}
	for _, f := range e.underlays {
		s.Underlays = append(s.Underlays, e.underlayLocked(f, now))
	}
	s.Keys = e.keyStatus()
	s.FastPath = counters.FastPath
	s.Hosts = e.hostsLocked(behind, now)
	s.Paths = e.pathsLocked(s.Hosts)
	return s
}

// Vifs returns the MACs that live on this host, sorted by vnet and MAC.
func (e *Engine) Vifs(f Filter) []Vif {
	var out []Vif
	for _, v := range e.table.Vifs(e.now()) {
		if f.fits(&v) {
			out = append(out, Vif{Vnet: v.Vnet, MAC: v.MAC, Age: v.Age, ByHand: v.ByHand})
		}
	}
	return out
}

// MACs counts the MACs by vnet, without visiting them.
func (e *Engine) MACs() map[vnet.ID]MACs {
	counts := e.table.Count()
	out := make(map[vnet.ID]MACs, len(counts))
	for id, c := range counts {
		out[id] = MACs{Here: c.Local, Elsewhere: c.Remote}
	}
	return out
}

// Place is another host's part in a vnet.
type Place = varp.Place

// Places counts the MACs behind other hosts by vnet and host, without making a list of them. It takes no lock.
func (e *Engine) Places() map[Place]int { return e.table.Places() }

// MACs is how many MACs of a vnet are on this host, and how many behind others.
type MACs struct{ Here, Elsewhere int }

// Entries returns the VARP cache, sorted by vnet and MAC.
func (e *Engine) Entries(f Filter) []Entry {
	now := e.now()
	var out []Entry
	for _, r := range e.table.RemoteIf(now, f.fits) {
		out = append(out, Entry{
			Vnet: r.Vnet, MAC: r.MAC, Addr: r.Addr, State: Reachable, Age: r.Age, Framed: r.Framed, Source: r.Source.String(), Damped: r.Damped,
		})
	}
	for _, q := range e.pending.List(now) {
		x := Entry{Vnet: q.Vnet, MAC: q.MAC, State: Incomplete, Age: q.Age, Framed: -1, Source: "request"}
		if q.Failed {
			x.State = Failed
		}
		if f.fits(&varp.Entry{Key: q.Key}) {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(a.Vnet.Compare(b.Vnet), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	return out
}

func (t *Traffic) add(o Traffic) {
	t.Packets += o.Packets
	t.Frames += o.Frames
	t.Bytes += o.Bytes
}

// traffic is what the kernel carried of a vnet past the workers.
func (m *mirror) traffic(id vnet.ID) (tx, rx Traffic) {
	c := m.carriedOf(id)
	return Traffic{Packets: c.TxFrames, Frames: c.TxFrames, Bytes: c.TxBytes}, Traffic{Packets: c.RxFrames, Frames: c.RxFrames, Bytes: c.RxBytes}
}

// traffic sums what the workers counted.
func (n *network) traffic() (tx, rx Traffic) {
	for i := range n.shares {
		h := &n.shares[i]
		tx.Packets += h.txPackets.Load()
		tx.Frames += h.txFrames.Load()
		tx.Bytes += h.txBytes.Load()
		rx.Packets += h.rxPackets.Load()
		rx.Frames += h.rxFrames.Load()
		rx.Bytes += h.rxBytes.Load()
	}
	return tx, rx
}

// dropsIn is what was not passed on of a vnet, by the workers and inside of its ESP.
func (e *Engine) dropsIn(n *network) []Drop {
	var sum [hosts.MaxKinds]uint64
	for i := range n.shares {
		n.shares[i].drops.AddTo(&sum)
	}
	if v := e.secured.Vnet(n.config.ID); v != nil {
		for i, refused := range v.Refused() {
			if esp.Refusal(i) != esp.Taken {
				sum[refusals[i]] += refused
			}
		}
	}
	return dropsOf(&sum)
}

func (e *Engine) vnetsLocked() []Vnet {
	out := make([]Vnet, 0, len(e.networks))
	for _, n := range e.networks {
		v := Vnet{
			ID: n.config.ID, IDText: n.config.IDText, Bridge: n.config.Bridge, Vnetif: n.config.Vnetif,
			Security: n.config.Security,
			Up:       len(n.ports) > 0 && n.problem == "", Problem: n.problem,
			Header: wire.FrameLen + int(e.overheadLocked(n.network)), MTU: n.devices.MTU, MAC: n.devices.MAC,
		}
		if len(n.ports) == 0 && v.Problem == "" {
			v.Problem = "the data plane does not run"
		}
		c := e.countersOf(n.network)
		v.Tx, v.Rx, v.Flooded, v.KernelTx, v.KernelRx, v.Drops = c.Tx, c.Rx, c.Flooded, c.KernelTx, c.KernelRx, c.Drops
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b Vnet) int { return a.ID.Compare(b.ID) })
	return out
}

// overheadLocked is what a vnet's packets have beyond the inner frame over IPv4, on the way to the group.
func (e *Engine) overheadLocked(n *network) offload.Overhead {
	v := e.view.Load()
	if way, ok := v.encap(n, e.config.Group); ok {
		return way.overhead
	}
	if e.config.Encapsulation == EtherIP {
		return offload.EtherIPv4
	}
	return offload.VUDPv4
}

// queueDropsLocked fetches what the kernel dropped before workers could see it.
func (e *Engine) queueDropsLocked() {
	if e.state != stateRunning {
		return
	}
	for _, n := range e.networks {
		for _, p := range n.ports {
			if dropped, err := p.Drops(); err == nil {
				e.mouth.drops[DropVnifQueue].Add(uint64(dropped))
				n.dropped(0, DropVnifQueue, uint64(dropped))
			}
		}
	}
	for _, f := range e.underlays {
		total := f.sockets.Drops()
		if f.secure != nil {
			total += f.secure.Drops()
		}
		e.mouth.drops[DropSocketQueue].Add(total - f.drops)
		f.drops = total
	}
}

func (e *Engine) tables(v *view) Tables {
	c, t := v.config, e.table.Stats()
	return Tables{
		EntryTTL: c.EntryTTL, SweepInterval: c.SweepInterval, HoldDown: c.HoldDown, MaxMACs: c.MaxMACs,
		Vifs: t.Local, Entries: t.Remote, Sweeps: t.Sweeps,
		Moves: t.Moves, Damped: t.Damped, Held: t.Held, Evicted: t.Evicted,
	}
}

func (e *Engine) underlayLocked(f *family, now int64) Underlay {
	u := Underlay{
		Family: f.family.String(), Up: f.uplink != nil, Problem: f.choice.Problem,
		Device: f.choice.Device, Index: f.choice.Index, Reason: f.choice.Reason,
		Address: f.choice.Addr, Group: f.choice.Group, Port: e.config.Port, MTU: f.choice.MTU,
		Heard: -1, Silent: f.watch.silent,
	}
	if at := f.heard.group.Load(); at > 0 {
		u.Heard = time.Duration(now - at)
	}
	if f.uplink == nil {
		return u
	}
	if f.family == underlay.IPv4 {
		u.EtherIPHosts = slices.SortedFunc(maps.Keys(e.view.Load().old), netip.Addr.Compare)
	}
	return u
}

// hostsLocked collects everybody who is known, with how many MACs are behind them, but for this host itself.
func (e *Engine) hostsLocked(macs map[netip.Addr]int, now int64) []Host {
	out := []Host{}
	v := e.view.Load()
	add := func(i hosts.Info) {
		h := Host{Info: i, Encapsulation: EtherIPInUDP, MACs: macs[i.Addr], Dropped: dropsOf(i.Drops)}
		kernel := e.mirror.carriedWith(i.Addr)
		h.TxPackets += kernel.TxFrames
		h.TxBytes += onWire(kernel.TxFrames, kernel.TxBytes)
		h.RxPackets += kernel.RxFrames
		h.RxBytes += onWire(kernel.RxFrames, kernel.RxBytes)
		if way, ok := v.encap(openVnet, i.Addr); ok && way.form == etherIP {
			h.Encapsulation = EtherIP
		}
		out = append(out, h)
		delete(macs, i.Addr)
	}
	for _, i := range e.hosts.List(now) {
		if e.isOther(i.Addr) {
			add(i)
		}
	}
	for addr := range macs { // told of by announces of others, and not heard itself
		add(unheard(addr))
	}
	slices.SortFunc(out, func(a, b Host) int { return a.Addr.Compare(b.Addr) })
	return out
}

// pathsLocked lists the ways that frames can take.
func (e *Engine) pathsLocked(known []Host) []Path {
	v := e.view.Load()
	var out []Path
	seen := map[netip.Addr]bool{}
	add := func(n *network, to string, addr netip.Addr) {
		way, ok := v.encap(n, addr)
		if !ok || seen[addr] && n == openVnet {
			return
		}
		seen[addr] = true
		p := Path{
			To: to, Addr: addr, MTU: way.uplink.path.MTU, IP: way.uplink.Family().IPLen(), UDP: way.udpLen(),
		}
		if p.Header = int(way.overhead) - p.IP - p.UDP; way.seal != nil {
			p.Secured, p.Header = true, len(way.prefix)
			p.ESP = p.MTU - p.IP - p.UDP - p.Header - way.maxFrame
		}
		for _, f := range e.underlays {
			if f.uplink == way.uplink {
				p.Device = f.choice.Device
			}
		}
		out = append(out, p)
	}
	for _, f := range e.underlays {
		if f.uplink != nil {
			add(openVnet, "group", f.uplink.group.Addr())
		}
	}
	for _, p := range v.peers {
		add(openVnet, "peer", p.Addr())
	}
	for _, h := range known {
		add(openVnet, "host", h.Addr)
	}
	// What all vnets with security have in common.
	for _, n := range v.vnets {
		if n.seal == nil {
			continue
		}
		for _, f := range e.underlays {
			if f.uplink != nil {
				add(n, "group", f.uplink.group.Addr())
			}
		}
		break
	}
	return out
}
