package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/topology"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

// askOne sends a command that answers with one form of the given name.
func (a *app) askOne(ctx context.Context, name, form string) (sxp.Value, error) {
	forms, err := a.ask(ctx, command(name))
	if err != nil {
		return sxp.Value{}, err
	}
	if len(forms) != 1 || forms[0].Name() != form {
		return sxp.Value{}, fmt.Errorf("xend's answer to %s is not one (%s ...) form: is it of another version?", name, form)
	}
	return forms[0], nil
}

// stats prints what went to and fro, where the packets went, and what was dropped, and why.
func (a *app) stats(ctx context.Context, in cli.Invocation) error {
	if in.Has("long") {
		stats, err := a.askOne(ctx, "vn.stats", "stats")
		if err == nil {
			a.print(formWidth, stats)
		}
		return err
	}
	t, err := a.traffic(ctx, in)
	if err != nil {
		return err
	}
	if in.Has("json") {
		return a.printJSON(t)
	}
	a.printTraffic(t, in.Has("all"))
	if in.Has("vnet") || in.Has("host") {
		return nil // what follows is of all together
	}
	a.printDrops(t.Drops, in.Has("all"))
	stats, err := a.askOne(ctx, "vn.stats", "stats")
	if err != nil {
		return err
	}
	for _, f := range stats.Children("fastpath") {
		a.fastPath(f)
	}
	return nil
}

// traffic asks for what is counted, and leaves out what --vnet and --host do not mean.
func (a *app) traffic(ctx context.Context, in cli.Invocation) (t traffic.Snapshot, err error) {
	if err := a.control.JSON(ctx, command("vn.traffic"), &t); err != nil {
		return t, err
	}
	if in.Has("vnet") {
		id, err := vnet.ParseIDPadded(in.Value("vnet"))
		if err != nil {
			return t, err
		}
		t.Vnets = slices.DeleteFunc(t.Vnets, func(v traffic.Vnet) bool { return v.ID != id.Short() })
		if len(t.Vnets) == 0 {
			return t, fmt.Errorf("vnet not found: %s", in.Value("vnet"))
		}
	}
	if in.Has("host") {
		t.Hosts = slices.DeleteFunc(t.Hosts, func(h traffic.Host) bool { return h.Address != in.Value("host") })
		if len(t.Hosts) == 0 {
			return t, fmt.Errorf("host not known: %s", in.Value("host"))
		}
	}
	switch {
	case in.Has("vnet") && !in.Has("host"):
		t.Hosts = []traffic.Host{}
	case in.Has("host") && !in.Has("vnet"):
		t.Vnets = []traffic.Vnet{}
	}
	return t, nil
}

// printTraffic prints what went to and fro; with all, also idle vnets.
func (a *app) printTraffic(t traffic.Snapshot, all bool) {
	row := func(name, more string, tx, rx traffic.Counts) {
		fmt.Fprintf(a.stdout, "%-24s %12d %10s %12d %10s  %s\n", name, tx.Packets, topology.Bytes(tx.Bytes), rx.Packets, topology.Bytes(rx.Bytes), more)
	}
	dropped := func(d traffic.Drops) {
		if len(d) > 0 {
			fmt.Fprintf(a.stdout, "%-24s %12s\n", "", "dropped: "+d.String())
		}
	}
	head := func(of, more string) {
		fmt.Fprintf(a.stdout, "%-24s %12s %10s %12s %10s  %s\n", of, "Sent", "bytes", "Received", "bytes", more)
	}
	var sent, kernel, flooded uint64
	shown := 0
	for _, v := range t.Vnets {
		sent, kernel, flooded = sent+v.Tx.Packets, kernel+v.KernelTx.Packets, flooded+v.Flooded
		if v.Tx.Packets+v.Rx.Packets+uint64(v.Here+v.Elsewhere+len(v.Drops)) == 0 && !all {
			continue
		}
		if shown++; shown == 1 {
			head("Vnet", "MACs here, elsewhere")
		}
		more := fmt.Sprintf("%d, %d", v.Here, v.Elsewhere)
		if v.KernelTx.Packets+v.KernelRx.Packets > 0 {
			more += fmt.Sprintf("; by the kernel %d sent, %d received", v.KernelTx.Packets, v.KernelRx.Packets)
		}
		if !v.Up {
			more += "; down"
		}
		row(v.ID, more, v.Tx, v.Rx)
		dropped(v.Drops)
	}
	if shown == 0 && len(t.Vnets) > 0 {
		fmt.Fprintln(a.stdout, "No vnet was used yet.")
	}
	for i, h := range t.Hosts {
		if i == 0 {
			fmt.Fprintln(a.stdout)
			head("Host, by unicast", "Last heard by unicast, by the group; MACs")
		}
		row(h.Address, fmt.Sprintf("%s, %s; %d", ago(h.Unicast), ago(h.Group), h.MACs), h.Tx, h.Rx)
		dropped(h.Drops)
	}
	if sent > 0 && len(t.Vnets) > 0 {
		fmt.Fprintf(a.stdout, "\nOf %d packets sent, %d went to one host each (%d by the kernel), %d to the group or its stand-ins; %d were forwarded to peers.\n",
			sent, sent-min(sent, flooded), kernel, flooded, t.Forwarded)
	}
}

// ago is a time since something in seconds, for a person.
func ago(seconds float64) string {
	switch {
	case seconds < 0:
		return "never"
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	}
	return fmt.Sprintf("%.0f min", seconds/60)
}

// printDrops prints what was dropped, why, and from whom most of it came.
func (a *app) printDrops(drops []traffic.Drop, all bool) {
	any := false
	for _, d := range drops {
		if d.Packets == 0 && !all {
			continue
		}
		if !any {
			fmt.Fprintf(a.stdout, "\n%12s  %-20s %s\n", "Dropped", "Reason", "Meaning")
			any = true
		}
		fmt.Fprintf(a.stdout, "%12d  %-20s %s\n", d.Packets, d.Reason, d.Help)
		for _, x := range d.Sources {
			text := "from " + x.From
			if x.Vnet != "" {
				text += ", vnet " + x.Vnet
			}
			if x.Device != "" {
				text += ", by " + x.Device
			}
			fmt.Fprintf(a.stdout, "%12s  %-20s at least %d %s\n", "", "", x.Packets, text)
		}
	}
	if !any {
		fmt.Fprintln(a.stdout, "\nNo packet was dropped.")
	}
}

// shortWidth is the width of the widest id in what fastPath prints.
func shortWidth(f sxp.Value) int {
	width := len("Vnet")
	for _, p := range f.Children("port") {
		width = max(width, len(vnet.ShortText(p.ChildValue("vnet", ""))))
	}
	for _, v := range f.Children("vnet") {
		width = max(width, len(vnet.ShortText(v.ChildValue("id", ""))))
	}
	return width
}

// fastPath prints what the kernel carries past user space, and what it does not.
func (a *app) fastPath(f sxp.Value) {
	fmt.Fprintf(a.stdout, "\nFast path in the kernel: %s (fastpath = %q)\n", f.ChildValue("state", "off"), f.ChildValue("mode", ""))
	if problem := f.ChildValue("problem", ""); problem != "" {
		fmt.Fprintln(a.stdout, "  "+problem)
	}
	for _, u := range f.Children("underlay") {
		way := u.ChildValue("way", "")
		if hook := u.ChildValue("hook", ""); hook != "" && hook != way {
			way += " before " + hook
		}
		if why := u.ChildValue("why", ""); why != "" {
			way += " (" + why + ")"
		}
		fmt.Fprintf(a.stdout, "  %s, %s, %s: sends: %s; receives: %s\n", u.ChildValue("family", ""), u.ChildValue("device", ""),
			way, u.ChildValue("send", ""), u.ChildValue("receive", ""))
	}
	width := shortWidth(f)
	for i, p := range f.Children("port") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\n%-*s  %-15s %-7s %s\n", width, "Vnet", "Domain's device", "Way", "Why the bridge")
		}
		fmt.Fprintln(a.stdout, strings.TrimRight(fmt.Sprintf("%-*s  %-15s %-7s %s", width, vnet.ShortText(p.ChildValue("vnet", "")), p.ChildValue("device", ""),
			p.ChildValue("way", ""), p.ChildValue("why", "")), " "))
	}
	const title = "Vnet, by the kernel"
	width = max(width, len(title))
	for i, v := range f.Children("vnet") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\n%12s  %12s  %-*s  %s\n", "Sent", "Received", width, title, "Carrier")
		}
		carrier := v.ChildValue("carrier", "")
		if hook := v.ChildValue("hook", ""); hook != "" {
			carrier += " (" + hook + ")"
		}
		fmt.Fprintf(a.stdout, "%12s  %12s  %-*s  %s\n", v.ChildValue("tx", ""), v.ChildValue("rx", ""), width, vnet.ShortText(v.ChildValue("id", "")), carrier)
	}
	for i, l := range f.Children("left") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\n%12s  %-13s %s\n", "To user space", "Reason", "Meaning")
		}
		fmt.Fprintf(a.stdout, "%12s  %-3s %-9s %s\n", l.ChildValue("packets", ""), l.ChildValue("direction", ""), l.ChildValue("reason", ""), l.ChildValue("help", ""))
	}
}

// ethernetHeader is how many bytes a frame is longer than the packet in it.
const ethernetHeader = 14

// mtu prints, for each way that frames can take, what is left of the path's MTU for a domain.
func (a *app) mtu(ctx context.Context, in cli.Invocation) error {
	mtu, err := a.askOne(ctx, "vn.mtu", "mtu")
	if err != nil {
		return err
	}
	if in.Has("host") {
		mtu = fieldsIf(mtu, func(f sxp.Value) bool { return f.Name() != "path" || f.ChildValue("addr", "") == in.Value("host") })
		if len(mtu.Children("path")) == 0 {
			return fmt.Errorf("no way to %s is known: it is no group, no peer, and no host that a MAC is behind", in.Value("host"))
		}
	}
	if in.Has("json") {
		return a.printForms([]sxp.Value{mtu})
	}
	if in.Has("long") {
		a.print(formWidth, mtu)
		return nil
	}
	for _, w := range ways(mtu.Children("path")) {
		p := w.path
		path, ip, udp, header, esp := number(p, "mtu"), number(p, "ip"), number(p, "udp"), number(p, "header"), number(p, "esp")
		fits := path - ip - udp - header - esp - ethernetHeader
		of := ""
		if esp != 0 {
			of = ", vnets with security"
		}
		fmt.Fprintf(a.stdout, "%s over %s%s\n", strings.Join(w.to, ", "), p.ChildValue("device", "-"), of)
		fmt.Fprintf(a.stdout, "    %6d  MTU of %s; what lies behind it may carry less\n", path, p.ChildValue("device", "it"))
		fmt.Fprintf(a.stdout, "  - %6d  IP header\n", ip)
		if udp != 0 {
			fmt.Fprintf(a.stdout, "  - %6d  UDP header\n", udp)
		}
		if esp != 0 {
			fmt.Fprintf(a.stdout, "  - %6d  ESP: header, UDP header inside, padding, ICV\n", esp)
		}
		fmt.Fprintf(a.stdout, "  - %6d  vnet header\n", header)
		fmt.Fprintf(a.stdout, "  - %6d  Ethernet header of the frame inside\n", ethernetHeader)
		fmt.Fprintf(a.stdout, "  = %6d  largest packet of a domain that crosses in one piece (4 less with a VLAN tag)\n\n", fits)
	}
	if device := number(mtu, "mtu"); device != 0 {
		fmt.Fprintf(a.stdout, "The vnifs have MTU %d. ", device)
	}
	fmt.Fprintln(a.stdout, modeText(mtu.ChildValue("mode", "")))
	return nil
}

// way is what packets to several places have in common.
type way struct {
	path sxp.Value
	to   []string // "group 224.10.0.1", "host 192.0.2.2"
}

// ways puts paths together on which the same is left of the same.
func ways(paths []sxp.Value) (list []way) {
	for _, p := range paths {
		same := func(w way) bool {
			return !slices.ContainsFunc([]string{"device", "mtu", "ip", "udp", "header", "esp"}, func(field string) bool {
				return w.path.ChildValue(field, "") != p.ChildValue(field, "")
			})
		}
		i := slices.IndexFunc(list, same)
		if i < 0 {
			i, list = len(list), append(list, way{path: p})
		}
		list[i].to = append(list[i].to, p.ChildValue("to", "")+" "+p.ChildValue("addr", ""))
	}
	return list
}

// modeText says what happens to packets that do not fit.
func modeText(mode string) string {
	switch mode {
	case "fragment":
		return "Larger packets are carried in fragments (mtu_mode fragment); bulk TCP is cut to what fits."
	case "pmtu":
		return "Senders of larger packets are told what fits (mtu_mode pmtu)."
	}
	return fmt.Sprintf("mtu_mode %s.", mode)
}

// number is the value of a field, or 0.
func number(v sxp.Value, field string) int {
	n, err := strconv.Atoi(v.ChildValue(field, "0"))
	if err != nil {
		return 0
	}
	return n
}
