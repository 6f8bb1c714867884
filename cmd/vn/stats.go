package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
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

// stats prints how many packets were dropped, and why.
func (a *app) stats(ctx context.Context, in cli.Invocation) error {
	stats, err := a.askOne(ctx, "vn.stats", "stats")
	if err != nil {
		return err
	}
	if in.Has("long") {
		a.print(formWidth, stats)
		return nil
	}
	any := false
	for _, d := range stats.Children("drop") {
		packets := d.ChildValue("packets", "0")
		if packets == "0" && !in.Has("all") {
			continue
		}
		if !any {
			fmt.Fprintf(a.stdout, "%12s  %-20s %s\n", "Dropped", "Reason", "Meaning")
			any = true
		}
		fmt.Fprintf(a.stdout, "%12s  %-20s %s\n", packets, d.ChildValue("reason", ""), d.ChildValue("help", ""))
	}
	if !any {
		fmt.Fprintln(a.stdout, "No packet was dropped.")
	}
	for i, f := range stats.Children("from") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\nnot_underlay, from where:\n%12s  %-15s  %s\n", "At least", "Device", "Source")
		}
		fmt.Fprintf(a.stdout, "%12s  %-15s  %s\n", f.ChildValue("packets", ""), f.ChildValue("device", ""), f.ChildValue("addr", ""))
	}
	for i, u := range stats.Children("unknown") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\nunknown_vnet, which and from whom:\n%12s  %-39s  %s\n", "At least", "Vnet", "Sender")
		}
		fmt.Fprintf(a.stdout, "%12s  %-39s  %s\n", u.ChildValue("packets", ""), u.ChildValue("vnet", ""), u.ChildValue("from", ""))
	}
	for _, f := range stats.Children("fastpath") {
		a.fastPath(f)
	}
	return nil
}

// fastPath prints what the kernel carries past user space, and what it does not.
func (a *app) fastPath(f sxp.Value) {
	fmt.Fprintf(a.stdout, "\nFast path in the kernel: %s (fastpath = %q)\n", f.ChildValue("state", "off"), f.ChildValue("mode", ""))
	if problem := f.ChildValue("problem", ""); problem != "" {
		fmt.Fprintln(a.stdout, "  "+problem)
	}
	for _, u := range f.Children("underlay") {
		way := u.ChildValue("way", "")
		if why := u.ChildValue("why", ""); why != "" {
			way += " (" + why + ")"
		}
		fmt.Fprintf(a.stdout, "  %s, %s, %s: sends: %s; receives: %s\n", u.ChildValue("family", ""), u.ChildValue("device", ""),
			way, u.ChildValue("send", ""), u.ChildValue("receive", ""))
	}
	for i, p := range f.Children("port") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\n%-39s  %-15s %-7s %s\n", "Vnet", "Domain's device", "Way", "Why the bridge")
		}
		fmt.Fprintln(a.stdout, strings.TrimRight(fmt.Sprintf("%-39s  %-15s %-7s %s", p.ChildValue("vnet", ""), p.ChildValue("device", ""),
			p.ChildValue("way", ""), p.ChildValue("why", "")), " "))
	}
	for i, v := range f.Children("vnet") {
		if i == 0 {
			fmt.Fprintf(a.stdout, "\n%12s  %12s  %-39s  %s\n", "Sent", "Received", "Vnet, by the kernel", "Carrier")
		}
		fmt.Fprintf(a.stdout, "%12s  %12s  %-39s  %s\n", v.ChildValue("tx", ""), v.ChildValue("rx", ""), v.ChildValue("id", ""), v.ChildValue("carrier", ""))
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
	if in.Has("long") {
		a.print(formWidth, mtu)
		return nil
	}
	for _, p := range mtu.Children("path") {
		path, ip, udp, header, esp := number(p, "mtu"), number(p, "ip"), number(p, "udp"), number(p, "header"), number(p, "esp")
		fits := path - ip - udp - header - esp - ethernetHeader
		of := ""
		if esp != 0 {
			of = ", vnets with security"
		}
		fmt.Fprintf(a.stdout, "%s %s over %s%s\n", p.ChildValue("to", ""), p.ChildValue("addr", ""), p.ChildValue("device", "-"), of)
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
