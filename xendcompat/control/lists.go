package control

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/service"
)

// snapshot is what lists are made of; each list needs a part of it.
type snapshot struct {
	dataplane.Status
	Vifs    []dataplane.Vif
	Entries []dataplane.Entry
	Counted []dataplane.VnetCounters
}

// part reads a part of a snapshot.
type part func(*snapshot, service.Dataplane)

func state(s *snapshot, d service.Dataplane) { s.Status = d.Status() }
func macs(s *snapshot, d service.Dataplane) {
	s.Vifs, s.Entries = d.Vifs(dataplane.Filter{}), d.Entries(dataplane.Filter{})
}

// counters reads what is counted only, without what it takes to find out the rest.
func counters(s *snapshot, d service.Dataplane) {
	c := d.Counters()
	s.Drops, s.Strangers, s.Unknown, s.Tables, s.FastPath, s.Counted = c.Drops, c.Strangers, c.Unknown, c.Tables, c.FastPath, c.Vnets
}

// prints makes a command of lists of one snapshot, of which some parts are read.
func prints(parts []part, lists ...func(*bytes.Buffer, snapshot)) func(*Server, context.Context, sxp.Value, *bytes.Buffer) error {
	return func(s *Server, _ context.Context, _ sxp.Value, out *bytes.Buffer) error {
		var all snapshot
		for _, read := range parts {
			read(&all, s.svc.Dataplane())
		}
		for _, write := range lists {
			write(out, all)
		}
		return nil
	}
}

// The layouts below are the original's, blanks included: scripts cut them with sed.

func writeVnets(b *bytes.Buffer, s snapshot) {
	for _, v := range s.Vnets {
		fmt.Fprintf(b, "(vnet (id %s) (vnetif %s) (security %s) (header %d))\n", v.ID, atom(v.Vnetif), v.Security, v.Header)
	}
}

func writeVifs(b *bytes.Buffer, s snapshot) {
	fmt.Fprintf(b, "(viftable\n (table_ttl %d)\n (entry_ttl %d)\n (sweeps %d)\n)\n",
		seconds(s.Tables.SweepInterval), seconds(s.Tables.EntryTTL), s.Tables.Sweeps)
	for _, v := range s.Vifs {
		fmt.Fprintf(b, "(vif\n (vnet %s)\n (vmac %s)\n (age %d)\n)\n", v.Vnet, v.MAC, seconds(v.Age))
	}
}

// writeVARP writes the settings, once for each address family, and the cache. Without a data plane there is
// neither a family nor an entry.
func writeVARP(b *bytes.Buffer, s snapshot) {
	for _, u := range s.Underlays {
		address := u.Address
		if !address.IsValid() {
			address = netip.IPv4Unspecified()
			if u.Group.Is6() {
				address = netip.IPv6Unspecified()
			}
		}
		fmt.Fprintf(b, "(varp \n (device %s)\n (mcast_addr %s)\n (ucast_addr %s)\n (port %d)\n (encapsulation %s)\n (entry_ttl %d)\n)\n",
			atom(u.Device), u.Group, address, u.Port, s.Encapsulation, seconds(s.Tables.EntryTTL))
	}
	for _, e := range s.Entries {
		addr := e.Addr
		if !addr.IsValid() { // a MAC that was asked for
			addr = netip.IPv4Unspecified()
		}
		// One user, nothing waiting: the original's words for an entry at rest.
		fmt.Fprintf(b, "(ventry \n (ref 1)\n (state %s)\n (flags -)\n (addr %s)\n (queue 0)\n (age %d)\n (vmac %s)\n (vnet %s)\n)\n",
			e.State, addr, seconds(e.Age), e.MAC, e.Vnet)
	}
}

func writePeers(b *bytes.Buffer, s snapshot) {
	for _, p := range s.Peers {
		fmt.Fprintf(b, "(vnet_peer\n  (addr %s)\n  (port %d)\n  (tx_packets %d)\n  (rx_packets %d)\n)\n",
			p.Addr, p.Port, p.TxPackets, p.RxPackets)
	}
}

// writeStats writes (stats (drop (reason R) (packets N) (help TEXT))… (from (device D) (addr A) (packets N))…
// (unknown (vnet ID) (from ADDR) (packets N))… (fastpath …)): from and unknown are where most of what was dropped as
// not_underlay came from, and the vnets of what was dropped as unknown_vnet.
func writeStats(b *bytes.Buffer, s snapshot) {
	items := []sxp.Value{sxp.Atom("stats")}
	for _, d := range s.Drops {
		items = append(items, sxp.List(sxp.Atom("drop"), sxp.Pair("reason", d.Reason.String()),
			sxp.Pair("packets", fmt.Sprint(d.Count)), sxp.Pair("help", d.Reason.Help())))
	}
	for _, x := range s.Strangers {
		items = append(items, sxp.List(sxp.Atom("from"), sxp.Pair("device", x.Device), sxp.Pair("addr", x.From.String()),
			sxp.Pair("packets", fmt.Sprint(x.Packets))))
	}
	for _, x := range s.Unknown {
		items = append(items, sxp.List(sxp.Atom("unknown"), sxp.Pair("vnet", x.Vnet.String()), sxp.Pair("from", x.From.String()),
			sxp.Pair("packets", fmt.Sprint(x.Packets))))
	}
	if s.FastPath.Mode != "" { // else there is no data plane
		items = append(items, fastPath(&s))
	}
	writeForm(b, sxp.List(items...))
}

// fastPath is (fastpath (mode M) (state on|off) [(problem TEXT)] (underlay (family F) (device D) (way W) (why TEXT) (hook H)
// (send C) (receive C))… (port (vnet ID) (device D) (way bridge|peer|egress) (why TEXT))… (vnet (id ID) (carrier C) [(hook H)] (tx N)
// (rx N))… (left (direction out|in) (reason R) (packets N) (help TEXT))…): C is kernel, or why it is user space, H is tcx or clsact, where
// the program at TC is, tx and rx are the packets that the kernel carried, and left are those that it left to user space.
func fastPath(s *snapshot) sxp.Value {
	f := &s.FastPath
	state := "off"
	if f.On {
		state = "on"
	}
	items := []sxp.Value{sxp.Atom("fastpath"), sxp.Pair("mode", string(f.Mode)), sxp.Pair("state", state)}
	if f.Problem != "" {
		items = append(items, sxp.Pair("problem", f.Problem))
	}
	carrier := func(reason string) string {
		if reason == "" {
			return "kernel"
		}
		return reason
	}
	for _, u := range f.Underlays {
		if u.Way != "" {
			items = append(items, sxp.List(sxp.Atom("underlay"), sxp.Pair("family", u.Family), sxp.Pair("device", u.Device),
				sxp.Pair("way", u.Way), sxp.Pair("why", u.Why), sxp.Pair("hook", u.Hook), sxp.Pair("send", carrier(u.Send)), sxp.Pair("receive", carrier(u.Receive))))
		}
	}
	for _, p := range f.Ports {
		items = append(items, sxp.List(sxp.Atom("port"), sxp.Pair("vnet", p.Vnet.String()), sxp.Pair("device", p.Name),
			sxp.Pair("way", p.Way.String()), sxp.Pair("why", p.Reason)))
	}
	for _, v := range s.Counted {
		if why, known := f.Vnets[v.ID]; known {
			x := []sxp.Value{sxp.Atom("vnet"), sxp.Pair("id", v.ID.String()), sxp.Pair("carrier", carrier(why))}
			if hook := f.Hooks[v.ID]; hook != "" {
				x = append(x, sxp.Pair("hook", hook))
			}
			items = append(items, sxp.List(append(x, sxp.Pair("tx", fmt.Sprint(v.KernelTx.Packets)), sxp.Pair("rx", fmt.Sprint(v.KernelRx.Packets)))...))
		}
	}
	for i, direction := range []string{"out", "in"} {
		for r, n := range [][]uint64{f.Left.Out[:], f.Left.In[:]}[i] {
			if n == 0 {
				continue
			}
			reason := fastpath.Reason(r)
			items = append(items, sxp.List(sxp.Atom("left"), sxp.Pair("direction", direction), sxp.Pair("reason", reason.String()),
				sxp.Pair("packets", fmt.Sprint(n)), sxp.Pair("help", reason.Help())))
		}
	}
	return sxp.List(items...)
}

// writeMTU writes (mtu (mtu N) (mode M) (path (to T) (addr A) (device D) (mtu N) (ip N) (udp N) (header N) [(esp N)])…):
// what stands around a frame on the way to the group and to each host that is known; esp is of vnets with security. The vnifs' MTU
// is the smallest of all.
func writeMTU(b *bytes.Buffer, s snapshot) {
	mtu := 0
	for _, v := range s.Vnets {
		if v.MTU > 0 && (mtu == 0 || v.MTU < mtu) {
			mtu = v.MTU
		}
	}
	items := []sxp.Value{sxp.Atom("mtu"), sxp.Pair("mtu", fmt.Sprint(mtu)), sxp.Pair("mode", string(s.MTUMode))}
	for _, p := range s.Paths {
		path := []sxp.Value{
			sxp.Atom("path"), sxp.Pair("to", p.To), sxp.Pair("addr", p.Addr.String()), sxp.Pair("device", p.Device),
			sxp.Pair("mtu", fmt.Sprint(p.MTU)), sxp.Pair("ip", fmt.Sprint(p.IP)), sxp.Pair("udp", fmt.Sprint(p.UDP)),
			sxp.Pair("header", fmt.Sprint(p.Header)),
		}
		if p.Secured {
			path = append(path, sxp.Pair("esp", fmt.Sprint(p.ESP)))
		}
		items = append(items, sxp.List(path...))
	}
	writeForm(b, sxp.List(items...))
}

func writeForm(b *bytes.Buffer, v sxp.Value) {
	b.Write(sxp.Append(b.AvailableBuffer(), v))
	b.WriteByte('\n')
}

// atom writes a name; where there is none, nothing.
func atom(s string) string {
	if s == "" {
		return ""
	}
	return sxp.Atom(s).String()
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
