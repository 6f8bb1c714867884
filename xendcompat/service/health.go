package service

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/plural"
	"github.com/xenvnet/xend/vnet"
)

// Severity says how bad a trouble is.
type Severity int

// The severities.
const (
	Well     Severity = iota
	Degraded          // something does not work as it should
	Broken            // vnets are cut off
)

// String is the severity in a word.
func (s Severity) String() string { return [...]string{"well", "degraded", "broken"}[s] }

// Trouble is something that an operator should know of, and do something about.
type Trouble struct {
	// Name is the trouble's own, by which package finding and docs/troubleshooting.md know it: "vnet-down".
	Name     string
	Severity Severity
	Of       string // what has it: "vnet 97", "underlay", "group 224.10.0.1"
	Text     string // what is wrong, with its evidence
	Cure     string // a command, or where to look; "" where Text says it
}

// Health says how a host is.
type Health struct {
	// Vnets is the number of persistent vnets, Up that of those whose frames are carried.
	Vnets, Up int
	// Transient and Default are the numbers of the other vnets.
	Transient, Default int
	// Off is true where the configuration turns the data plane off.
	Off bool
	// Underlays are as in dataplane.Status.
	Underlays []dataplane.Underlay
	// Dropped is what the host's own firewall drops of what vnets need, as far as its rules can be followed; Unsure is how many
	// can't be.
	Dropped []firewall.Dropped
	Unsure  int
	// Troubles are sorted, the worst first.
	Troubles []Trouble
}

// VnetCount says how many vnets there are, as `xend status` and `vn check` do: "40 vnets, all up, and 3 default vnets". up,
// "all up" or "2 up", is of those that are persistent, and may be "".
func VnetCount(persistent int, up string, transient, defaults int) string {
	text, and := plural.Of(persistent, "vnet"), " and "
	if up != "" {
		text, and = text+", "+up, ", and "
	}
	if transient > 0 && defaults > 0 {
		text += ", " + plural.Of(transient, "transient vnet")
	} else if transient > 0 {
		text += and + plural.Of(transient, "transient vnet")
	}
	if defaults > 0 {
		text += and + plural.Of(defaults, "default vnet")
	}
	return text
}

// Severity is that of the worst trouble.
func (h Health) Severity() Severity {
	if len(h.Troubles) == 0 {
		return Well
	}
	return h.Troubles[0].Severity
}

// Health looks at the data plane, the devices, the state directory and the host's firewall.
func (s *Service) Health(context.Context) Health {
	f := findings{
		snapshot: s.Dataplane().Status(), damped: s.Dataplane().Entries(dataplane.Filter{Damped: true}), corrupt: s.o.Registry.Corrupt(),
	}
	s.mu.RLock()
	f.wanted = s.all()
	s.mu.RUnlock()
	f.survey, f.surveyErr = s.o.Devices.Look()
	_, f.off = s.o.Engine.(*off)
	if s.o.Firewall != nil {
		rules := s.o.Firewall()
		f.blocked = rules.Blocked(bridgesOf(f.wanted)...)
		f.dropped, f.unsure = rules.Dropped(needed(&f.snapshot, s.o.SecurityPort)...)
	}
	return f.health()
}

// Bridges are those of all vnets, by name.
func (s *Service) Bridges() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return bridgesOf(s.all())
}

func bridgesOf(vnets []Vnet) []string {
	var names []string
	for _, v := range vnets {
		if v.Bridge != "" {
			names = append(names, v.Bridge)
		}
	}
	return names
}

// findings are what Health judges by.
type findings struct {
	snapshot  dataplane.Status
	damped    []dataplane.Entry
	wanted    []Vnet
	survey    *port.Survey
	surveyErr error
	corrupt   []string // names of files that were set aside
	blocked   []firewall.Blocked
	dropped   []firewall.Dropped
	unsure    int
	off       bool
}

func (f *findings) health() Health {
	h := Health{Off: f.off, Underlays: f.snapshot.Underlays, Dropped: f.dropped, Unsure: f.unsure}
	add := func(name string, s Severity, of, cure, format string, args ...any) {
		h.Troubles = append(h.Troubles, Trouble{name, s, of, fmt.Sprintf(format, args...), cure})
	}
	f.underlays(add)
	for _, l := range firewall.Losses(f.dropped) {
		add("port-filtered", Broken, "firewall", l.Cure, "%s", l.Text)
	}
	carried := map[vnet.ID]dataplane.Vnet{}
	for _, v := range f.snapshot.Vnets {
		carried[v.ID] = v
	}
	var down []Trouble
	for _, v := range f.wanted {
		reason := ""
		if c, ok := carried[v.ID]; !ok {
			reason = "it could not be brought up; it is tried again"
		} else if !c.Up && !f.off {
			reason = c.Problem
		}
		cure := "vn events -g vnet=" + v.ID.Short()
		if reason == "" && f.surveyErr == nil {
			var mend string
			reason, mend = misplaced(f.survey.Find(port.Spec{ID: v.ID, Bridge: v.Bridge, Vnetif: v.Vnetif}))
			cure = cmp.Or(mend, cure)
		}
		switch v.Lifetime {
		case Persistent:
			h.Vnets++
			if reason == "" {
				h.Up++
			}
		case Transient:
			h.Transient++
		case Default:
			h.Default++
		}
		if reason != "" {
			down = append(down, Trouble{"vnet-down", Degraded, "vnet " + v.ID.Short(), "down: " + reason, cure})
		}
	}
	if len(down) > 0 && len(down) == len(f.wanted) {
		for i := range down {
			down[i].Severity = Broken
		}
	}
	h.Troubles = append(h.Troubles, down...)
	for _, name := range f.corrupt {
		add("file-set-aside", Degraded, "file "+name, "vn events says why; in the state directory, mend it and rename it to NAME.sxp, or delete it; then: xend restart", "cannot be read and was set aside")
	}
	for _, b := range f.blocked {
		add("bridge-filtered", Degraded, "bridge "+b.Bridge, b.Advice(), "%s", b)
	}
	for _, r := range f.snapshot.Replicate {
		if r.Problem != "" {
			add("host-unresolved", Degraded, "replica "+r.Name, "getent hosts "+r.Name, "gets nothing: %s", r.Problem)
		}
	}
	for _, e := range f.damped {
		if e.Damped > 0 {
			add("doubled-mac", Degraded, "MAC "+e.MAC.String(), "vn trace "+e.MAC.String()+": a second domain with this MAC, or a loop",
				"moves to and fro in vnet %s; it stays behind %s for %s", e.Vnet.Short(), e.Addr, e.Damped.Round(time.Second))
		}
	}
	slices.SortStableFunc(h.Troubles, func(a, b Trouble) int { return int(b.Severity - a.Severity) })
	return h
}

// underlays judges the ways to other hosts. A host that has only one address family is well.
func (f *findings) underlays(add func(name string, s Severity, of, cure, format string, args ...any)) {
	var problems []string
	up := false
	for _, u := range f.snapshot.Underlays {
		up = up || u.Up
		if !u.Up && !slices.Contains(problems, u.Problem) {
			problems = append(problems, u.Problem)
		}
		if u.Silent {
			add("dead-group", Degraded, "group "+u.Group.String(), "bridge mdb show, the switch: IGMP snooping without a querier? else replicate = [...] in vnet.toml",
				"nothing comes from it by %s although other hosts are there: broadcasts and new MACs do not arrive", u.Device)
		}
	}
	if f.surveyErr != nil {
		add("vnet-down", Degraded, "devices", "", "they can't be listed: %v", f.surveyErr)
	}
	if len(problems) > 0 && !up {
		add("no-underlay", Broken, "underlay", "vn varp; ip -br addr; ip route", "vnets are cut off from other hosts: %s", strings.Join(problems, "; "))
	}
}

// misplaced says what is wrong with a vnet's devices as the kernel has them, and what mends it if nobody will by himself.
func misplaced(f port.Finding) (reason, cure string) {
	switch {
	case f.Conflict != nil:
		return f.Conflict.Error(), ""
	case f.Missing != "":
		return f.Missing, ""
	case !f.Vnif.Up():
		return fmt.Sprintf("interface %s is down", f.Vnif.Name), "ip link set " + f.Vnif.Name + " up"
	case f.Bridge.Index != 0 && !f.Bridge.Up():
		return fmt.Sprintf("bridge %s is down", f.Bridge.Name), "ip link set " + f.Bridge.Name + " up"
	}
	return "", ""
}

// needed are the packets that must pass this host's firewall.
func needed(s *dataplane.Status, securityPort uint16) (list []firewall.Packet) {
	for _, u := range s.Underlays {
		if !u.Up {
			continue
		}
		// Any host's address will do: rules that ask for certain ones are followed with this.
		other := u.Group
		if i := slices.IndexFunc(s.Hosts, func(h dataplane.Host) bool { return h.Addr.Is4() == u.Address.Is4() }); i >= 0 {
			other = s.Hosts[i].Addr
		}
		add := func(protocol uint8, port uint16, to netip.Addr) {
			here := u.Address
			if to == u.Group {
				here = u.Group
			}
			list = append(list, firewall.Packet{Device: u.Device, Protocol: protocol, Port: port, From: other, To: here},
				firewall.Packet{Out: true, Device: u.Device, Protocol: protocol, Port: port, From: u.Address, To: to})
		}
		const udp, etherIP, esp = 17, 97, 50
		add(udp, u.Port, other)
		if other != u.Group {
			add(udp, u.Port, u.Group)
		}
		if len(s.Keys) > 0 {
			add(udp, securityPort, other)
			add(esp, 0, other)
		}
		if u.Address.Is4() && (s.Encapsulation == dataplane.EtherIP || len(u.EtherIPHosts) > 0) {
			add(etherIP, 0, other)
		}
	}
	return list
}
