// Package traffic has what is counted of vnets and hosts at one moment, as `vn stats` and `vn top` get it.
package traffic

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Counts are packets and bytes, both of one direction. Bytes are those of Ethernet frames, or, of hosts, of what stands
// behind the UDP header.
type Counts struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Vnet is one vnet's.
type Vnet struct {
	ID       string `json:"id"` // in its shortest text
	Bridge   string `json:"bridge,omitempty"`
	Up       bool   `json:"up"`
	Security string `json:"security"`
	// Tx is from the vnif to other hosts, Rx the reverse.
	Tx Counts `json:"tx"`
	Rx Counts `json:"rx"`
	// KernelTx and KernelRx are what of that the kernel carried past user space.
	KernelTx Counts `json:"kernel_tx"`
	KernelRx Counts `json:"kernel_rx"`
	// Flooded is how many of Tx's packets went to the group and its stand-ins.
	Flooded uint64 `json:"flooded"`
	// Here and Elsewhere are numbers of MACs.
	Here      int `json:"macs_here"`
	Elsewhere int `json:"macs_elsewhere"`
	// Drops are what was not passed on of the vnet's, by reason, as far as it is known to be the vnet's.
	Drops Drops `json:"drops,omitempty"`
}

// Host is what goes by unicast to another host and comes from it.
type Host struct {
	Address string `json:"address"`
	Tx      Counts `json:"tx"`
	Rx      Counts `json:"rx"`
	// Group and Unicast are the seconds since it was last heard that way; negative: never.
	Group   float64 `json:"heard_group_s"`
	Unicast float64 `json:"heard_unicast_s"`
	MACs    int     `json:"macs"`
	// Encapsulation is how frames go to it.
	Encapsulation string `json:"encapsulation"`
	// Drops are what came from the host and was not passed on, by reason.
	Drops Drops `json:"drops,omitempty"`
}

// Drops are numbers of packets by the reason's name, without those of which there are none.
type Drops map[string]uint64

func (d Drops) sub(o Drops) Drops {
	var out Drops
	for reason, n := range d {
		if n = sub(n, o[reason]); n > 0 {
			if out == nil {
				out = Drops{}
			}
			out[reason] = n
		}
	}
	return out
}

// Sum is how many there are in all.
func (d Drops) Sum() (sum uint64) {
	for _, n := range d {
		sum += n
	}
	return sum
}

// String names them, most first.
func (d Drops) String() string {
	reasons := slices.SortedFunc(maps.Keys(d), func(a, b string) int { return cmp.Or(cmp.Compare(d[b], d[a]), strings.Compare(a, b)) })
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%s %d", r, d[r])
	}
	return strings.Join(reasons, ", ")
}

// Drop is how many packets were not passed on for one reason.
type Drop struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Help    string `json:"help"`
	// Sources are who sent most of them.
	Sources []Source `json:"sources,omitempty"`
}

// Source is where packets came from that were dropped; Packets is how many at least.
type Source struct {
	From    string `json:"from"`
	Packets uint64 `json:"packets"`
	// Vnet is which vnet they were of, and Device by which device they came, where that says why.
	Vnet   string `json:"vnet,omitempty"`
	Device string `json:"device,omitempty"`
}

// MAC is what a MAC of this host sent and received by a port of its vnet's bridge, estimated from a sample.
type MAC struct {
	Vnet string `json:"vnet"` // in its shortest text
	MAC  string `json:"mac"`
	Port string `json:"port"`
	Tx   Counts `json:"tx"`
	Rx   Counts `json:"rx"`
}

// Snapshot is all of it.
type Snapshot struct {
	Time  time.Time `json:"time"`
	Vnets []Vnet    `json:"vnets"`
	Hosts []Host    `json:"hosts"`
	Drops []Drop    `json:"drops"`
	// Forwarded are the VFWD packets that went to peers.
	Forwarded uint64 `json:"forwarded"`
	// MACs is what vn top estimates, by looking at one frame in Sampled; 0: it does not. The daemon counts nothing by MAC.
	MACs    []MAC `json:"macs,omitempty"`
	Sampled int   `json:"sampled,omitempty"`
	// NotSampled is how many ports are not looked at, since there are too many.
	NotSampled int `json:"not_sampled,omitempty"`
}

// Sub is what was counted since before: rates, once divided by Time's difference. What is new counts from zero.
func (s Snapshot) Sub(before Snapshot) Snapshot {
	out := s
	out.Vnets, out.Hosts, out.Drops = slices.Clone(s.Vnets), slices.Clone(s.Hosts), slices.Clone(s.Drops)
	for i := range out.Vnets {
		v := &out.Vnets[i]
		if j := slices.IndexFunc(before.Vnets, func(o Vnet) bool { return o.ID == v.ID }); j >= 0 {
			o := before.Vnets[j]
			v.Tx, v.Rx, v.KernelTx, v.KernelRx = v.Tx.sub(o.Tx), v.Rx.sub(o.Rx), v.KernelTx.sub(o.KernelTx), v.KernelRx.sub(o.KernelRx)
			v.Flooded = sub(v.Flooded, o.Flooded)
			v.Drops = v.Drops.sub(o.Drops)
		}
	}
	for i := range out.Hosts {
		h := &out.Hosts[i]
		if j := slices.IndexFunc(before.Hosts, func(o Host) bool { return o.Address == h.Address }); j >= 0 {
			h.Tx, h.Rx = h.Tx.sub(before.Hosts[j].Tx), h.Rx.sub(before.Hosts[j].Rx)
			h.Drops = h.Drops.sub(before.Hosts[j].Drops)
		}
	}
	for i := range out.Drops {
		d := &out.Drops[i]
		if j := slices.IndexFunc(before.Drops, func(o Drop) bool { return o.Reason == d.Reason }); j >= 0 {
			d.Packets = sub(d.Packets, before.Drops[j].Packets)
		}
	}
	out.Forwarded = sub(s.Forwarded, before.Forwarded)
	return out
}

func (c Counts) sub(o Counts) Counts {
	return Counts{sub(c.Packets, o.Packets), sub(c.Bytes, o.Bytes)}
}

// sub is 0 where something counts from zero again.
func sub(a, b uint64) uint64 {
	if a < b {
		return a
	}
	return a - b
}
