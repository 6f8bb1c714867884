// Package topology draws vnets: this host, its vnets with their ports and domains, and the other hosts, as text, DOT
// (Graphviz), Mermaid and SVG. Its functions are pure; what to draw comes from service.Topology, or as its JSON from the
// control socket.
package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Topology is what one host knows, or several together know.
type Topology struct {
	Time time.Time `json:"time"`
	// Group is where floods go, with the port: "224.10.0.1:1798"; "" if there is no underlay.
	Group string `json:"group,omitempty"`
	// Hosts are the hosts; those that this was asked of come first.
	Hosts []Host `json:"hosts"`
}

// State says how a host is, as others see it.
type State string

// The states of hosts.
const (
	Self  State = "self"  // asked itself
	Live  State = "live"  // heard within the last minute
	Stale State = "stale" // heard before that
	Gone  State = "gone"  // named by the configuration or another host, and not heard
)

// Host is a host, this one or another.
type Host struct {
	// Name is the host's name, "" if it is not known.
	Name string `json:"name,omitempty"`
	// Addresses are its own, the one by which it is known first.
	Addresses []netip.Addr `json:"addresses"`
	State     State        `json:"state"`
	// Device and MTU are those of the underlay; of a host itself.
	Device string `json:"device,omitempty"`
	MTU    int    `json:"mtu,omitempty"`
	// Vnets are sorted by id. Those of another host are the vnets in which it has MACs.
	Vnets []Vnet `json:"vnets,omitempty"`
	// Links are what goes to other hosts and comes from them; of a host itself.
	Links []Link `json:"links,omitempty"`
}

// Label is the host's name, or else its address.
func (h Host) Label() string {
	if h.Name != "" {
		return h.Name
	}
	if len(h.Addresses) > 0 {
		return h.Addresses[0].String()
	}
	return "?"
}

// Address is that by which the host is known, "" if it has none.
func (h Host) Address() string {
	if len(h.Addresses) == 0 {
		return ""
	}
	return h.Addresses[0].String()
}

// Vnet is a vnet on a host.
type Vnet struct {
	ID       string `json:"id"` // in its shortest text
	Bridge   string `json:"bridge,omitempty"`
	Vnetif   string `json:"vnetif,omitempty"`
	Security string `json:"security,omitempty"`
	Up       bool   `json:"up"`
	Problem  string `json:"problem,omitempty"` // why it is not up
	// Ports are those of the bridge, but for the vnif.
	Ports []Port `json:"ports,omitempty"`
	// MACs is how many MACs of the vnet are on that host.
	MACs int `json:"macs"`
}

// Port is a device on a vnet's bridge.
type Port struct {
	Device string `json:"device"`
	// Domain is the name of the domain that the device leads to, "" if it is not known.
	Domain string `json:"domain,omitempty"`
}

// Way says how packets come from a host.
type Way string

// The ways.
const (
	ByUnicast Way = "unicast" // and perhaps by the group, too
	ByGroup   Way = "group"   // by the group alone
	ByNone    Way = "none"    // never heard
)

// Link is what goes between the host that it is listed under and another one.
type Link struct {
	To  netip.Addr `json:"to"` // as in the other's Addresses
	Way Way        `json:"way"`
	// Secured says that the two share a vnet with security.
	Secured bool `json:"secured,omitempty"`
	// Heard is the time since the last packet from there; negative: never.
	Heard time.Duration `json:"heard_ns"`
	// Packets and bytes by unicast.
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	// Note is a remark for a person, which Text prints behind the link: "14.2 Gbit/s".
	Note string `json:"note,omitempty"`
}

// StateOf says how a host is that was heard that long ago; negative: never.
func StateOf(heard time.Duration) State {
	switch {
	case heard < 0:
		return Gone
	case heard <= time.Minute:
		return Live
	}
	return Stale
}

// Only is what there is of the vnets that keep names: they, the hosts that are asked themselves or have one of them, and what goes
// between these.
func (t Topology) Only(keep func(Vnet) bool) Topology {
	whole := t.Hosts
	t.Hosts = []Host{}
	for _, h := range whole {
		h.Vnets = slices.DeleteFunc(slices.Clone(h.Vnets), func(v Vnet) bool { return !keep(v) })
		if h.State == Self || len(h.Vnets) > 0 {
			t.Hosts = append(t.Hosts, h)
		}
	}
	find := t.finder()
	for i, h := range t.Hosts {
		t.Hosts[i].Links = slices.DeleteFunc(slices.Clone(h.Links), func(l Link) bool {
			_, ok := find[l.To]
			return !ok
		})
	}
	return t
}

// Find returns the host that has an address; nil if there is none.
func (t *Topology) Find(addr netip.Addr) *Host {
	for i := range t.Hosts {
		if slices.Contains(t.Hosts[i].Addresses, addr) {
			return &t.Hosts[i]
		}
	}
	return nil
}

// finder says which host has an address, as Find does, for who asks often.
func (t *Topology) finder() map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for i, h := range t.Hosts {
		for _, a := range h.Addresses {
			if _, known := out[a]; !known {
				out[a] = i
			}
		}
	}
	return out
}

// Join puts together what several hosts know: of a host that was asked itself, what it says counts.
func Join(list ...Topology) Topology {
	var all Topology
	for _, t := range list {
		all.Group = cmp.Or(all.Group, t.Group)
		if t.Time.After(all.Time) {
			all.Time = t.Time
		}
		for _, h := range t.Hosts {
			if h.State == Self {
				all.Hosts = append(all.Hosts, h)
			}
		}
	}
	for _, t := range list {
		for _, h := range t.Hosts {
			if !slices.ContainsFunc(h.Addresses, func(a netip.Addr) bool { return all.Find(a) != nil }) {
				all.Hosts = append(all.Hosts, h)
			}
		}
	}
	return all
}

// edge is a link between two hosts, each drawn once.
type edge struct {
	a, b int // numbers of hosts
	Link
}

// edges are the links, with the traffic of both directions as the first that knows of it has it.
func (t *Topology) edges() []edge {
	var out []edge
	seen, find := map[[2]int]bool{}, t.finder()
	for i := range t.Hosts {
		for _, l := range t.Hosts[i].Links {
			j, ok := find[l.To]
			key := [2]int{min(i, j), max(i, j)}
			if !ok || i == j || seen[key] {
				continue
			}
			seen[key] = true
			out = append(out, edge{i, j, l})
		}
	}
	return out
}

// Bytes writes a number of bytes for a person: "14.2 MiB".
func Bytes(n uint64) string {
	const unit = 1024
	size, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for size >= unit && i < len(units)-1 {
		size /= unit
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[i])
}

// Ago writes a time since something for a person: "0.4 s ago", "never".
func Ago(d time.Duration) string {
	switch {
	case d < 0:
		return "never"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s ago", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h ago", int(d.Hours()))
}

// plain takes out of a name what a terminal or a drawing would obey: names come from configurations and other hosts.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfffd {
			return -1
		}
		return r
	}, s)
}

// traffic describes a link in a few words.
func (l Link) traffic() string {
	if l.TxPackets == 0 && l.RxPackets == 0 {
		return ""
	}
	return Bytes(l.TxBytes) + " out, " + Bytes(l.RxBytes) + " in"
}

// title describes a vnet in a line.
func (v Vnet) title() string {
	s := "vnet " + v.ID
	if v.Bridge != "" && v.Bridge != "vnet"+v.ID {
		s += " on " + v.Bridge
	}
	if v.Security != "" && v.Security != "none" {
		s += ", " + v.Security
	}
	return plain(s)
}

// label is a port's domain, or else its device.
func (p Port) label() string { return plain(cmp.Or(p.Domain, p.Device)) }
