// Package statustest has hosts that do not exist, for tests and pictures of the status page: one that is well, one in
// trouble, one with much of everything.
package statustest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// Began is when the scenes begin.
var Began = time.Date(2026, time.November, 26, 9, 30, 0, 0, time.UTC)

// Scene is a host.
type Scene struct {
	// What the host says of itself.
	State   dataplane.Status
	Sick    service.Health
	On      map[string][]service.Port
	Log     []events.Event
	Picture topology.Topology
	Here    []dataplane.Vif
	There   []dataplane.Entry
	Count   map[vnet.ID]dataplane.MACs
	// Refuse, if not nil, is the answer to whoever wants to change something.
	Refuse error

	mu    sync.Mutex
	now   time.Time
	vnets []service.Vnet
	rates map[vnet.ID]func(at float64) (out, in float64) // bytes per second at a time in seconds
	tx    map[vnet.ID]dataplane.Traffic
	rx    map[vnet.ID]dataplane.Traffic
}

var _ status.Operations = (*Scene)(nil)

// Now is the scene's clock.
func (s *Scene) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Pass lets time pass, and traffic.
func (s *Scene) Pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now.Sub(Began).Seconds()
	for id, rate := range s.rates {
		out, in := rate(at)
		for _, x := range []struct {
			m    map[vnet.ID]dataplane.Traffic
			rate float64
		}{{s.tx, out}, {s.rx, in}} {
			t, n := x.m[id], uint64(max(0, x.rate)*d.Seconds())
			t.Bytes += n
			t.Frames += n / 1100
			t.Packets += n / 1100
			x.m[id] = t
		}
	}
	for i := range s.State.Drops {
		if s.State.Drops[i].Count > 0 {
			s.State.Drops[i].Count += uint64(d.Seconds() * (2 + math.Sin(at/40+float64(i))))
		}
	}
	s.now = s.now.Add(d)
}

// Fall takes the n-th vnet down.
func (s *Scene) Fall(n int, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.State.Vnets[n].Up, s.State.Vnets[n].Problem = false, problem
}

// All lists the vnets.
func (s *Scene) All() []service.Vnet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.vnets)
}

// Ports are On.
func (s *Scene) Ports(context.Context) (map[string][]service.Port, error) { return s.On, nil }

// Health is Sick.
func (s *Scene) Health(context.Context) service.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.Sick
	h.Vnets = len(s.vnets)
	h.Up = h.Vnets
	for _, v := range s.State.Vnets {
		if !v.Up {
			h.Up--
		}
	}
	h.Underlays = s.State.Underlays
	return h
}

// Events are Log.
func (s *Scene) Events(_ uint64, limit int) events.Log {
	if limit == 0 {
		limit = len(s.Log)
	}
	return events.Log{Started: Began, Events: slices.Clone(s.Log[max(0, len(s.Log)-limit):])}
}

// Topology is Picture.
func (s *Scene) Topology(context.Context) topology.Topology { return s.Picture }

// Check finds what Sick has, and that one host does not answer.
func (s *Scene) Check(context.Context) (finding.Report, error) {
	if s.Refuse != nil {
		return finding.Report{}, s.Refuse
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := finding.Report{Name: "xen-a", Version: "xend 0.2.0", Time: s.now, Summary: "underlay eth0, MTU 1600, group 224.10.0.1 · 3 vnets", Took: 2.4}
	for _, t := range s.Sick.Troubles {
		level := finding.Warn
		if t.Severity == service.Broken {
			level = finding.Fail
		}
		r.Add(finding.Finding{Name: "trouble", Level: level, Of: t.Of, Text: t.Text, Cure: t.Cure})
	}
	for _, h := range s.State.Hosts {
		answers := h.Unicast >= 0
		x := finding.Host{Address: h.Addr.String(), Version: "xend 0.2.0", Unicast: answers, Group: answers, RTT: .31, MTUTo: 1600, MTUFrom: 1600, Vnets: []string{"97", "1a0"}}
		if !answers {
			x = finding.Host{Address: h.Addr.String(), NotAsked: "it speaks only EtherIP"}
			r.Add(finding.Finding{Name: "not-asked", Level: finding.Skip, Of: x.Address, Text: "not asked: " + x.NotAsked})
		}
		r.Hosts = append(r.Hosts, x)
	}
	r.Add(finding.Finding{Name: "local", Level: finding.OK, Of: "local", Text: "bridges, vnifs, memberships, clock, limits (12 checks)"})
	r.Sort()
	return r, nil
}

// Reconciled is what it always is.
func (s *Scene) Reconciled() (restored, failed uint64) { return 2, 1 }

// FindDeletable finds a vnet.
func (s *Scene) FindDeletable(text string) (vnet.Config, error) {
	id, err := vnet.ParseID(text)
	for _, v := range s.All() {
		if err == nil && v.ID == id {
			return v.Config, nil
		}
	}
	return vnet.Config{}, service.NoSuchVnet(text)
}

// CreateVnet makes one.
func (s *Scene) CreateVnet(_ context.Context, c vnet.Config) error {
	if s.Refuse != nil {
		return s.Refuse
	}
	s.add(c, service.Persistent)
	return nil
}

// ChangeVnet changes one.
func (s *Scene) ChangeVnet(_ context.Context, c vnet.Config) error {
	if s.Refuse != nil {
		return s.Refuse
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.vnets, func(v service.Vnet) bool { return v.ID == c.ID })
	if i < 0 {
		return service.NoSuchVnet(c.IDText)
	}
	old := s.vnets[i].Config
	s.vnets[i].Config = c
	for j := range s.State.Vnets {
		if v := &s.State.Vnets[j]; v.ID == c.ID {
			v.Bridge, v.Vnetif, v.Security = c.Bridge, c.Vnetif, c.Security
		}
	}
	ports := s.On[old.Bridge]
	delete(s.On, old.Bridge)
	s.On[c.Bridge] = ports
	return nil
}

// DeleteVnet removes one.
func (s *Scene) DeleteVnet(_ context.Context, id vnet.ID) error {
	if s.Refuse != nil {
		return s.Refuse
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vnets = slices.DeleteFunc(s.vnets, func(v service.Vnet) bool { return v.ID == id })
	s.State.Vnets = slices.DeleteFunc(s.State.Vnets, func(v dataplane.Vnet) bool { return v.ID == id })
	return nil
}

// Dataplane is the engine.
func (s *Scene) Dataplane() service.Dataplane { return engine{Scene: s} }

type engine struct {
	*Scene
	service.Dataplane // what changes something is not there
}

func (e engine) Status() dataplane.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := e.State
	st.Drops, st.Vnets = slices.Clone(st.Drops), slices.Clone(st.Vnets)
	for i, v := range st.Vnets {
		st.Vnets[i].Tx, st.Vnets[i].Rx = e.tx[v.ID], e.rx[v.ID]
		st.Vnets[i].KernelTx, st.Vnets[i].KernelRx = e.kernel(v.ID)
	}
	return st
}

func (e engine) Counters() dataplane.Counters {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := dataplane.Counters{Drops: slices.Clone(e.State.Drops), Tables: e.State.Tables, FastPath: e.State.FastPath, Vnets: make([]dataplane.VnetCounters, 0, len(e.State.Vnets))}
	for _, v := range e.State.Vnets {
		x := dataplane.VnetCounters{ID: v.ID, Tx: e.tx[v.ID], Rx: e.rx[v.ID], Drops: v.Drops}
		x.KernelTx, x.KernelRx = e.kernel(v.ID)
		c.Vnets = append(c.Vnets, x)
	}
	return c
}

// kernel is what the kernel carried: most of what vnets have whose way it knows. The lock is held.
func (e engine) kernel(id vnet.ID) (tx, rx dataplane.Traffic) {
	if reason, known := e.State.FastPath.Vnets[id]; !known || reason != "" {
		return tx, rx
	}
	most := func(t dataplane.Traffic) dataplane.Traffic {
		return dataplane.Traffic{Packets: t.Packets / 10 * 9, Frames: t.Frames / 10 * 9, Bytes: t.Bytes / 10 * 9}
	}
	return most(e.tx[id]), most(e.rx[id])
}

func (e engine) MACs() map[vnet.ID]dataplane.MACs { return e.Count }

func (e engine) Places() map[dataplane.Place]int {
	out := map[dataplane.Place]int{}
	for _, x := range e.There {
		out[dataplane.Place{Vnet: x.Vnet, Addr: x.Addr}]++
	}
	return out
}

func (e engine) Vifs(f dataplane.Filter) []dataplane.Vif {
	return slices.DeleteFunc(slices.Clone(e.Here), func(v dataplane.Vif) bool {
		return f.Vnet != vnet.ID{} && f.Vnet != v.Vnet
	})
}

func (e engine) Entries(f dataplane.Filter) []dataplane.Entry {
	return slices.DeleteFunc(slices.Clone(e.There), func(x dataplane.Entry) bool {
		return f.Vnet != vnet.ID{} && f.Vnet != x.Vnet || f.Addr.IsValid() && f.Addr != x.Addr || f.Damped && x.Damped == 0
	})
}

// add adds a vnet that is up.
func (s *Scene) add(c vnet.Config, l service.Lifetime) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vnets = append(s.vnets, service.Vnet{Config: c, Lifetime: l})
	s.State.Vnets = append(s.State.Vnets, dataplane.Vnet{
		ID: c.ID, IDText: c.IDText, Bridge: c.Bridge, Vnetif: c.Vnetif, Security: c.Security, Up: true, Header: 68, MTU: 1500,
		MAC: net.HardwareAddr{0xaa, 0xff, 0, 0, 0, c.ID[15]},
	})
}

// Vnet adds a vnet, written as an S-expression, with domains on its bridge.
func (s *Scene) Vnet(form string, domains ...string) vnet.ID {
	c, err := vnet.ParseConfig([]byte(form))
	if err != nil {
		panic(err)
	}
	s.add(c, service.Persistent)
	ports := []service.Port{{Device: c.Vnetif, MAC: net.HardwareAddr{0xaa, 0xff, 0, 0, 0, c.ID[15]}, MTU: 1500, Up: true, Vnif: true}}
	for i, d := range domains {
		ports = append(ports, service.Port{
			Device: fmt.Sprintf("vif%d.0", len(s.On)*10+i+1), MAC: net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}, MTU: 1500, Up: true, Domain: d,
		})
		s.Here = append(s.Here, dataplane.Vif{Vnet: c.ID, MAC: mac(c.ID, len(s.Here)), Age: time.Duration(i*7) * time.Second, ByHand: true})
	}
	s.On[c.Bridge] = ports
	s.Count[c.ID] = dataplane.MACs{Here: len(domains)}
	return c.ID
}

// behind adds MACs of a vnet behind another host.
func (s *Scene) behind(id vnet.ID, addr string, n int) {
	for range n {
		s.There = append(s.There, dataplane.Entry{
			Vnet: id, MAC: mac(id, 1000+len(s.There)), Addr: netip.MustParseAddr(addr), State: dataplane.Reachable,
			Age: time.Duration(len(s.There)%40) * time.Second, Source: []string{"frame", "announce"}[len(s.There)%2],
		})
	}
	c := s.Count[id]
	c.Elsewhere += n
	s.Count[id] = c
}

func mac(id vnet.ID, n int) wire.MAC {
	m := wire.MAC{0x00, 0x16, 0x3e, id[15]}
	binary.BigEndian.PutUint16(m[4:], uint16(n))
	return m
}

// New is a host without vnets.
func New() *Scene {
	s := &Scene{
		now: Began, On: map[string][]service.Port{}, Count: map[vnet.ID]dataplane.MACs{},
		rates: map[vnet.ID]func(float64) (float64, float64){}, tx: map[vnet.ID]dataplane.Traffic{}, rx: map[vnet.ID]dataplane.Traffic{},
	}
	s.State = dataplane.Status{
		Encapsulation: dataplane.EtherIPInUDP, Workers: 2,
		Underlays: []dataplane.Underlay{{
			Family: "ipv4", Up: true, Device: "eth0", Index: 2, Reason: "the route to the group", Address: netip.MustParseAddr("192.0.2.1"),
			Group: netip.MustParseAddr("224.10.0.1"), Port: 1798, MTU: 1600, Heard: 2 * time.Second,
		}},
		Tables: dataplane.Tables{MaxMACs: 100_000, Moves: 12, Damped: 1},
	}
	for r := range dataplane.Reason(255) {
		if r.Help() == "" {
			break
		}
		s.State.Drops = append(s.State.Drops, dataplane.Drop{Reason: r})
	}
	s.Picture = topology.Topology{Time: Began, Group: "224.10.0.1:1798"}
	return s
}

// Well is a host where nothing is wrong: a web farm on three hosts.
func Well() *Scene {
	s := New()
	web := s.Vnet("(vnet (id 97) (bridge vnet97) (vnetif vnif97))", "web1", "web2", "proxy")
	db := s.Vnet("(vnet (id 98) (bridge vnet98) (security conf))", "db1")
	lab := s.Vnet("(vnet (id 1a0))", "build", "ci-runner")
	s.behind(web, "192.0.2.2", 4)
	s.behind(web, "192.0.2.3", 2)
	s.behind(db, "192.0.2.2", 1)
	s.behind(lab, "192.0.2.3", 9)
	s.rates[web] = func(t float64) (float64, float64) {
		return 9e6 * (1.2 + math.Sin(t/90) + .3*math.Sin(t/11)), 3e6 * (1.2 + math.Sin(t/60+1) + .3*math.Sin(t/17))
	}
	s.rates[db] = func(t float64) (float64, float64) {
		return 4e5 * (1 + .2*math.Sin(t/23)), 2e6 * (1 + .8*math.Sin(t/45))
	}
	s.rates[lab] = func(t float64) (float64, float64) {
		if int(t)%200 < 60 {
			return 2e7, 6e5
		}
		return 3e4, 2e4
	}
	s.State.FastPath = dataplane.FastPathState{Mode: dataplane.FastPathAuto, On: true, Vnets: map[vnet.ID]string{
		web: "", lab: "", db: "it has security: what the kernel carries is not sealed",
	}}
	s.State.Hosts = []dataplane.Host{
		host("192.0.2.2", 400*time.Millisecond, 3*time.Second, 5, 81e9, 12e9),
		host("192.0.2.3", time.Second, 2*time.Second, 11, 6e9, 44e9),
		host("192.0.2.9", 4*time.Minute, -1, 0, 0, 12e6),
	}
	s.State.Hosts[1].Sources = []string{"configuration"}
	for _, h := range s.State.Hosts {
		s.State.Paths = append(s.State.Paths, dataplane.Path{To: "host", Addr: h.Addr, Device: "eth0", MTU: 1600, IP: 20, UDP: 8, Header: 26})
	}
	s.State.Paths = append(s.State.Paths, dataplane.Path{
		To: "group", Addr: netip.MustParseAddr("224.10.0.1"), Device: "eth0", MTU: 1600, IP: 20, UDP: 8, Header: 8, ESP: 31, Secured: true,
	})
	s.State.Paths = append([]dataplane.Path{{To: "group", Addr: netip.MustParseAddr("224.10.0.1"), Device: "eth0", MTU: 1600, IP: 20, UDP: 8, Header: 26}}, s.State.Paths...)
	s.State.Keys = []esp.Status{{
		ID: db, Level: vnet.Conf, Keys: []esp.KeyStatus{{KID: wire.KID{0x3f, 1, 2, 3, 4, 5, 6, 7}, Sends: true}}, Epoch: 3, Age: 40 * time.Minute, Packets: 1_204_551,
		Senders: []esp.SenderStatus{{KID: wire.KID{0x3f, 1, 2, 3, 4, 5, 6, 7}, Addresses: esp.Addresses{Addr4: netip.MustParseAddr("192.0.2.2")}, Epoch: 2, Age: 50 * time.Minute, Echo: 12 * time.Second, Packets: 8_100_233}},
	}}
	s.State.Keys[0].Refused[esp.Replay] = 4
	s.drop(dataplane.DropUnknownVnet, 212)
	s.event(0, "INFO", "xend is ready", "vnets", "3")
	s.event(4*time.Second, "INFO", "vnet created", "vnet", "1a0", "bridge", "vnet1a0", "vnetif", "vnif1a0")
	s.event(70*time.Second, "INFO", "a host was heard", "host", "192.0.2.9")
	s.picture("xen-a", map[string]string{"192.0.2.2": "", "192.0.2.3": "", "192.0.2.9": ""})
	return s
}

// Ill is the same host in trouble.
func Ill() *Scene {
	s := Well()
	s.State.Vnets[2].Up, s.State.Vnets[2].Problem = false, "bridge vnet1a0 is gone"
	s.State.Underlays[0].Silent, s.State.Underlays[0].Heard = true, 11*time.Minute
	s.There[0].Damped = 22 * time.Second
	s.Sick = service.Health{Troubles: []service.Trouble{
		{Severity: service.Broken, Of: "vnet 1a0", Text: "down: bridge vnet1a0 is gone", Cure: "vn events -g vnet=1a0"},
		{Severity: service.Degraded, Of: "group 224.10.0.1", Text: "nothing comes from it by eth0 although other hosts are there: broadcasts and new MACs do not arrive", Cure: "bridge mdb show, the switch: IGMP snooping without a querier? else replicate = [...] in vnet.toml"},
		{Severity: service.Degraded, Of: "bridge vnet98", Text: "IPv4 packets on the bridge vnet98 are dropped by iptables FORWARD (policy DROP)", Cure: "[scripts] accept_bridges = true in vnet.toml, or: iptables -I FORWARD -i vnet98 -o vnet98 -j ACCEPT"},
		{Severity: service.Degraded, Of: "MAC 00:16:3e:97:03:e8", Text: "moves to and fro in vnet 97; it stays behind 192.0.2.2 for 22s", Cure: "vn trace 00:16:3e:97:03:e8: a second domain with this MAC, or a loop"},
	}}
	s.State.Hosts[2].Group = 14 * time.Minute
	for i := range s.State.Paths {
		s.State.Paths[i].MTU = 1500
	}
	s.State.Vnets[0].Drops = []dataplane.Drop{{Reason: dataplane.DropDuplicate, Count: 8}, {Reason: dataplane.DropFlapping, Count: 4410}}
	s.State.Hosts[0].Dropped = []dataplane.Drop{{Reason: dataplane.DropFlapping, Count: 4400}}
	s.drop(dataplane.DropFlapping, 4410)
	s.drop(dataplane.DropVnifQueue, 91)
	s.event(200*time.Second, "WARNING", "vnet restored", "vnet", "97", "because", "vnif97 left its bridge vnet97")
	s.event(300*time.Second, "WARNING", "a MAC moves to and fro", "vnet", "97", "mac", "00:16:3e:97:03:e8", "hosts", "192.0.2.2, 192.0.2.3")
	s.event(400*time.Second, "ERROR", "a vnet can't be restored; it will be tried again", "vnet", "1a0", "because", "bridge vnet1a0 is gone", "error", "device or resource busy")
	s.picture("xen-a", map[string]string{"192.0.2.2": "", "192.0.2.3": "", "192.0.2.9": ""})
	return s
}

// Large is a host with that many vnets and MACs behind others.
func Large(vnets, macs int) *Scene {
	s := New()
	for i := range vnets {
		id := s.Vnet(fmt.Sprintf("(vnet (id %x))", 0x100+i), fmt.Sprintf("vm%d", i))
		s.rates[id] = func(float64) (float64, float64) { return 1e4, 2e4 }
		c := s.Count[id]
		c.Elsewhere = macs / vnets
		s.Count[id] = c
	}
	s.State.Tables.Entries = macs
	s.State.FastPath = dataplane.FastPathState{Mode: dataplane.FastPathAuto, On: true, Vnets: map[vnet.ID]string{}}
	for _, v := range s.State.Vnets {
		s.State.FastPath.Vnets[v.ID] = ""
	}
	for i := range 64 {
		s.State.Hosts = append(s.State.Hosts, host(fmt.Sprintf("192.0.2.%d", i+2), time.Second, time.Second, macs/64, 1e9, 1e9))
	}
	return s
}

func host(addr string, group, unicast time.Duration, macs int, tx, rx uint64) dataplane.Host {
	return dataplane.Host{Info: hosts.Info{
		Addr: netip.MustParseAddr(addr), Group: group, Unicast: unicast, TxBytes: tx, RxBytes: rx, TxPackets: tx / 1100, RxPackets: rx / 1100,
	}, Encapsulation: dataplane.EtherIPInUDP, MACs: macs}
}

func (s *Scene) drop(r dataplane.Reason, n uint64) {
	for i := range s.State.Drops {
		if s.State.Drops[i].Reason == r {
			s.State.Drops[i].Count = n
		}
	}
}

// event notes what happened that long after the beginning; attrs are keys and values.
func (s *Scene) event(after time.Duration, level, text string, attrs ...string) {
	e := events.Event{Seq: uint64(len(s.Log) + 1), Time: Began.Add(after), Level: level, Text: text}
	for i := 0; i+1 < len(attrs); i += 2 {
		e.Attrs = append(e.Attrs, events.Attr{Key: attrs[i], Value: attrs[i+1]})
	}
	s.Log = append(s.Log, e)
}

// picture draws what is known of the hosts, whose names are given.
func (s *Scene) picture(name string, names map[string]string) {
	self := topology.Host{Name: name, State: topology.Self, Addresses: []netip.Addr{s.State.Underlays[0].Address}, Device: "eth0", MTU: 1600}
	for _, v := range s.State.Vnets {
		x := topology.Vnet{ID: v.IDText, Bridge: v.Bridge, Security: v.Security.String(), Up: v.Up, Problem: v.Problem, MACs: s.Count[v.ID].Here}
		for _, p := range s.On[v.Bridge] {
			if !p.Vnif {
				x.Ports = append(x.Ports, topology.Port{Device: p.Device, Domain: p.Domain})
			}
		}
		self.Vnets = append(self.Vnets, x)
	}
	t := topology.Topology{Time: Began, Group: s.Picture.Group}
	var others []topology.Host
	for _, h := range s.State.Hosts {
		heard := h.Unicast
		way := topology.ByUnicast
		if heard < 0 {
			heard, way = h.Group, topology.ByGroup
		}
		o := topology.Host{Name: names[h.Addr.String()], Addresses: []netip.Addr{h.Addr}, State: topology.StateOf(heard)}
		for _, v := range s.State.Vnets {
			n := 0
			for _, e := range s.There {
				if e.Vnet == v.ID && e.Addr == h.Addr {
					n++
				}
			}
			if n > 0 {
				o.Vnets = append(o.Vnets, topology.Vnet{ID: v.IDText, Up: true, MACs: n})
			}
		}
		others = append(others, o)
		self.Links = append(self.Links, topology.Link{
			To: h.Addr, Way: way, Heard: heard, TxBytes: h.TxBytes, RxBytes: h.RxBytes, TxPackets: h.TxPackets, RxPackets: h.RxPackets,
			Secured: h.Addr == netip.MustParseAddr("192.0.2.2"),
		})
	}
	t.Hosts = append([]topology.Host{self}, others...)
	s.Picture = t
}
