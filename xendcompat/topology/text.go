package topology

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/xenvnet/xend/internal/plural"
)

// maxListed bounds the ports that Text lists of a vnet.
const maxListed = 32

// Text draws a topology as a tree for each host that was asked, with its vnets, their ports, and its links:
//
//	A  10.9.0.1 on eth0, MTU 1500, group 224.10.0.1:1798
//	├ vnet 97: 1 MAC
//	│ └ vif1.0  vm1
//	└ unicast ── B  10.9.0.2  live, heard 0.1 s ago, 1.1 GB out, 1.2 GB in
//	  └ vnet 97: 1 MAC
func (t Topology) Text() string { return t.text(math.MaxInt, math.MaxInt) }

// text is Text with so many links and vnets of each host at most; the others are counted.
func (t Topology) text(links, vnets int) string {
	find := t.finder()
	var b strings.Builder
	first := true
	for _, h := range t.Hosts {
		if h.State != Self {
			continue
		}
		if !first {
			b.WriteByte('\n')
		}
		first = false
		b.WriteString(plain(h.Label()))
		if h.Name != "" && h.Address() != "" {
			b.WriteString("  " + h.Address())
		}
		if h.Device != "" {
			fmt.Fprintf(&b, " on %s, MTU %d", plain(h.Device), h.MTU)
		}
		if t.Group != "" {
			b.WriteString(", group " + plain(t.Group))
		}
		b.WriteByte('\n')
		var items []item
		for i, v := range troublesFirst(h.Vnets, vnets) {
			if i == vnets {
				items = append(items, item{text: fmt.Sprintf("and %d more vnets", len(h.Vnets)-i)})
				break
			}
			items = append(items, v.item())
		}
		for i, l := range h.Links {
			if i == links {
				items = append(items, item{text: fmt.Sprintf("and %d more hosts", len(h.Links)-i)})
				break
			}
			items = append(items, t.linkItem(l, find, vnets))
		}
		if len(items) == 0 {
			items = append(items, item{text: "no vnets, no other hosts"})
		}
		write(&b, "", items)
	}
	if first {
		return "no host was asked\n"
	}
	return b.String()
}

// item is a line of a tree and what is below it.
type item struct {
	text  string
	below []item
}

func write(b *strings.Builder, indent string, items []item) {
	for i, x := range items {
		branch, more := "├ ", "│ "
		if i == len(items)-1 {
			branch, more = "└ ", "  "
		}
		b.WriteString(indent + branch + x.text + "\n")
		write(b, indent+more, x.below)
	}
}

func (v Vnet) item() item {
	x := item{text: v.title() + ": " + plural.Of(v.MACs, "MAC")}
	if !v.Up {
		x.text += ", DOWN"
		if v.Problem != "" {
			x.text += ": " + plain(v.Problem)
		}
	}
	for i, p := range v.Ports {
		if i == maxListed {
			x.below = append(x.below, item{text: fmt.Sprintf("and %d more", len(v.Ports)-i)})
			break
		}
		text := plain(p.Device)
		if p.Domain != "" {
			text += "  " + plain(p.Domain)
		}
		x.below = append(x.below, item{text: text})
	}
	return x
}

func (t Topology) linkItem(l Link, find map[netip.Addr]int, vnets int) item {
	lock := ""
	if l.Secured {
		lock = ", secured"
	}
	n, ok := find[l.To]
	if !ok {
		return item{text: fmt.Sprintf("%s ── %s", l.Way, l.To)}
	}
	h := t.Hosts[n]
	x := item{text: fmt.Sprintf("%s%s ── %s", l.Way, lock, plain(h.Label()))}
	if h.Name != "" {
		x.text += "  " + h.Address()
	}
	state := string(StateOf(l.Heard))
	if l.Heard >= 0 {
		state += ", heard " + Ago(l.Heard)
	}
	x.text += "  " + state
	if s := l.traffic(); s != "" {
		x.text += ", " + s
	}
	if l.Note != "" {
		x.text += ", " + plain(l.Note)
	}
	if h.State == Self {
		return x // it has its own tree
	}
	for i, v := range h.Vnets {
		if i == vnets {
			x.below = append(x.below, item{text: fmt.Sprintf("and %d more vnets", len(h.Vnets)-i)})
			break
		}
		x.below = append(x.below, item{text: v.title() + ": " + plural.Of(v.MACs, "MAC")})
	}
	return x
}
