package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// named reports whether arg means the vnet of a (vnet …) form: its id, in which leading groups may
// be missing, or its interface.
func named(form sxp.Value, arg string) bool {
	if arg == form.ChildValue("vnetif", "") {
		return true
	}
	id, err := vnet.ParseIDPadded(arg)
	return err == nil && id.String() == form.ChildValue("id", "")
}

// byID returns the (vnet …) forms in the order of their ids, which in full form is that of the text.
func byID(forms []sxp.Value) []sxp.Value {
	var vnets []sxp.Value
	for _, f := range forms {
		if f.Name() == "vnet" {
			vnets = append(vnets, f)
		}
	}
	slices.SortStableFunc(vnets, func(a, b sxp.Value) int {
		return strings.Compare(a.ChildValue("id", ""), b.ChildValue("id", ""))
	})
	return vnets
}

// findVnet returns the form of the vnet that arg means.
func (a *app) findVnet(ctx context.Context, arg string) (sxp.Value, error) {
	forms, err := a.ask(ctx, command("vnet.list"))
	if err != nil {
		return sxp.Value{}, err
	}
	for _, f := range byID(forms) {
		if named(f, arg) {
			return f, nil
		}
	}
	return sxp.Value{}, fmt.Errorf("vnet not found: %s", arg)
}

// tellMissing tells which arguments mean none of the vnets. As the original does, the others are listed, and that is no
// failure.
func (a *app) tellMissing(vnets []sxp.Value, args []string) {
	for _, arg := range args {
		if !slices.ContainsFunc(vnets, func(v sxp.Value) bool { return named(v, arg) }) {
			fmt.Fprintf(a.stderr, "vn: vnet not found: %s\n", arg)
		}
	}
}

// only leaves out the vnets that none of the arguments means; without arguments, none.
func only(vnets []sxp.Value, args []string) []sxp.Value {
	if len(args) == 0 {
		return vnets
	}
	return slices.DeleteFunc(vnets, func(v sxp.Value) bool {
		return !slices.ContainsFunc(args, func(arg string) bool { return named(v, arg) })
	})
}

func (a *app) vnets(ctx context.Context, in cli.Invocation) error {
	commands := []sxp.Value{command("vnet.list")}
	if in.Has("all") {
		commands = append(commands, command("vif.list"), command("varp.list"))
	}
	forms, err := a.ask(ctx, commands...)
	if err != nil {
		return err
	}
	vnets := byID(forms)
	a.tellMissing(vnets, in.Args)
	vnets = only(vnets, in.Args)
	if in.Has("json") {
		for _, f := range forms {
			of := f.ChildValue("vnet", "")
			if of != "" && slices.ContainsFunc(vnets, func(v sxp.Value) bool { return v.ChildValue("id", "") == of }) {
				vnets = append(vnets, f)
			}
		}
		return a.printForms(vnets)
	}
	for _, v := range vnets {
		a.print(vnetWidth, v)
		if in.Has("all") || in.Has("long") {
			if err := a.printVnif(v); err != nil {
				return err
			}
		}
		for _, f := range forms {
			if name := f.Name(); (name == "vif" || name == "ventry") && f.ChildValue("vnet", "") == v.ChildValue("id", "") {
				a.print(formWidth, f)
			}
		}
	}
	return nil
}

func (a *app) vnifs(ctx context.Context, in cli.Invocation) error {
	forms, err := a.ask(ctx, command("vnet.list"))
	if err != nil {
		return err
	}
	vnets := byID(forms)
	a.tellMissing(vnets, in.Args)
	vnets = only(vnets, in.Args)
	if in.Has("json") {
		return a.vnifsJSON(vnets)
	}
	for _, v := range vnets {
		if err := a.printVnif(v); err != nil {
			return err
		}
	}
	return nil
}

// vnifsJSON prints the interfaces of vnets as the kernel has them; those that are missing are left out.
func (a *app) vnifsJSON(vnets []sxp.Value) error {
	type vnif struct {
		Name string `json:"name"`
		Vnet string `json:"vnet"`
		MAC  string `json:"mac"`
		MTU  int    `json:"mtu"`
		Up   bool   `json:"up"`
	}
	out := []vnif{}
	for _, v := range vnets {
		d, ok, err := deviceByName(v.ChildValue("vnetif", ""))
		if err != nil {
			return err
		}
		if ok {
			out = append(out, vnif{d.Name, v.ChildValue("id", ""), d.HardwareAddr.String(), d.MTU, d.Flags&net.FlagUp != 0})
		}
	}
	return a.printJSON(out)
}

// printVnif prints the interface of a vnet as the kernel has it. One that is missing is told on standard error,
// as ifconfig does.
func (a *app) printVnif(v sxp.Value) error {
	name := v.ChildValue("vnetif", "")
	d, ok, err := deviceByName(name)
	switch {
	case err != nil:
		return err
	case !ok:
		fmt.Fprintf(a.stderr, "%s: error fetching interface information: Device not found\n", name)
		return nil
	}
	addresses, err := netlink.AddrList(d.Link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", name, err)
	}
	fmt.Fprint(a.stdout, ifconfig(d.LinkAttrs, addresses))
	return nil
}

func (a *app) vnetCreate(ctx context.Context, in cli.Invocation) error {
	id, err := vnet.ParseIDPadded(in.Args[0])
	if err != nil {
		return err
	}
	vnetif := in.Value("vnetif")
	if vnetif == "" {
		vnetif = vnet.DefaultVnetif(id, in.Args[0])
	}
	fields := []sxp.Value{sxp.Pair("id", id.String()), sxp.Pair("vnetif", vnetif)}
	if in.Has("security") {
		fields = append(fields, sxp.Pair("security", in.Value("security")))
	}
	if err := a.tell(ctx, command("vnet.add", fields...)); err != nil {
		return err
	}
	if err = setUpVnif(vnetif, in.Value("bridge")); err != nil {
		// Half a vnet helps nobody.
		if delErr := a.tell(ctx, command("vnet.del", sxp.Pair("id", id.String()))); delErr != nil {
			err = fmt.Errorf("%w; vnet %s stays: %w", err, in.Args[0], delErr)
		}
	}
	return err
}

// physical is where a vnif's MAC is taken from: the first of these that exists.
var physical = []string{"eth0", "eth1", "eth2"}

// setUpVnif gives a new vnif its MAC, puts it on a bridge if one is named, and brings it up. A
// bridge that was made for it goes again on an error.
func setUpVnif(vnetif, bridge string) (err error) {
	d, err := theDevice(vnetif)
	if err != nil {
		return err
	}
	failed := func(what string, err error) error { return fmt.Errorf("%s of %s: %w", what, vnetif, err) }
	for _, name := range physical {
		p, ok, err := deviceByName(name)
		if err != nil {
			return err
		}
		if !ok || len(p.HardwareAddr) != len(d.HardwareAddr) {
			continue
		}
		if err := netlink.LinkSetHardwareAddr(d, p.HardwareAddr); err != nil {
			return failed("MAC", err)
		}
		break
	}
	if bridge != "" {
		br, created, err := ensureBridge(bridge)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(d, br); err != nil {
			err = failed("bridge", err)
			if created {
				err = errors.Join(err, netlink.LinkDel(br))
			}
			return err
		}
	}
	if err := netlink.LinkSetUp(d); err != nil {
		return failed("bringing up", err)
	}
	return nil
}

func (a *app) vnetDelete(ctx context.Context, in cli.Invocation) error {
	v, err := a.findVnet(ctx, in.Args[0])
	if err != nil {
		return err
	}
	bridge, onBridge, err := bridgeOf(v.ChildValue("vnetif", ""))
	if err != nil {
		return err
	}
	// The daemon's leave comes first: it knows whether the vnet may go, and takes the interface off its
	// bridge and away.
	if err := a.tell(ctx, command("vnet.del", sxp.Pair("id", v.ChildValue("id", "")))); err != nil {
		return err
	}
	if !in.Has("bridge") || !onBridge {
		return nil
	}
	list, err := devices()
	if err != nil {
		return err
	}
	if others := ports(list, bridge); len(others) > 0 {
		slices.Sort(others)
		return fmt.Errorf("bridge %s stays: other interfaces are on it: %s", bridge.Name, strings.Join(others, ", "))
	}
	if err := netlink.LinkDel(bridge); err != nil {
		return fmt.Errorf("delete bridge %s: %w", bridge.Name, err)
	}
	return nil
}

// bridgeOf returns the bridge that a device is a port of; ok is false if it is on none.
func bridgeOf(name string) (bridge device, ok bool, err error) {
	d, ok, err := deviceByName(name)
	if err != nil || !ok || d.MasterIndex == 0 {
		return device{}, false, err
	}
	l, err := netlink.LinkByIndex(d.MasterIndex)
	if err != nil {
		return device{}, false, fmt.Errorf("bridge of %s: %w", name, err)
	}
	bridge = newDevice(l)
	return bridge, bridge.isBridge(), nil
}

// vif returns a handler that sends name with the vnet and the MAC that the arguments mean.
func (a *app) vif(name string) func(context.Context, cli.Invocation) error {
	return func(ctx context.Context, in cli.Invocation) error {
		mac, err := vmac(in.Args[1], in.Has("interface"))
		if err != nil {
			return err
		}
		id := in.Args[0]
		if parsed, err := vnet.ParseIDPadded(id); err == nil {
			id = parsed.String()
		} else {
			v, err := a.findVnet(ctx, id)
			if err != nil {
				return err
			}
			id = v.ChildValue("id", "")
		}
		return a.tell(ctx, command(name, sxp.Pair("vnet", id), sxp.Pair("vmac", mac.String())))
	}
}

// vmac reads a MAC, or takes that of a named interface.
func vmac(s string, byName bool) (mac net.HardwareAddr, err error) {
	if byName {
		var d device
		if d, err = theDevice(s); err == nil {
			mac = d.HardwareAddr
		}
		if err == nil && len(mac) != 6 {
			err = fmt.Errorf("interface %s has no MAC", s)
		}
		return mac, err
	}
	mac, err = net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("not a MAC: %s", s)
	}
	return mac, nil
}
