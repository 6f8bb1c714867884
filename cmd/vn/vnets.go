package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/hostnet"
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

func (a *app) vnets(ctx context.Context, in cli.Invocation) error {
	commands := []sxp.Value{command("vnet.list")}
	if in.Has("all") {
		commands = append(commands, command("vif.list"), command("varp.list"))
	}
	forms, err := a.ask(ctx, commands...)
	if err != nil {
		return err
	}
	return withHost(func(h *hostnet.Host) error {
		for _, v := range byID(forms) {
			if len(in.Args) > 0 && !slices.ContainsFunc(in.Args, func(arg string) bool { return named(v, arg) }) {
				continue
			}
			a.print(vnetWidth, v)
			if in.Has("all") || in.Has("long") {
				if err := a.printVnif(h, v); err != nil {
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
	})
}

func (a *app) vnifs(ctx context.Context, _ cli.Invocation) error {
	forms, err := a.ask(ctx, command("vnet.list"))
	if err != nil {
		return err
	}
	return withHost(func(h *hostnet.Host) error {
		for _, v := range byID(forms) {
			if err := a.printVnif(h, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// printVnif prints the interface of a vnet as the kernel has it. One that is missing is told on standard error,
// as ifconfig does.
func (a *app) printVnif(h *hostnet.Host, v sxp.Value) error {
	name := v.ChildValue("vnetif", "")
	l, err := h.LinkByName(name)
	if errors.Is(err, hostnet.ErrNotFound) {
		fmt.Fprintf(a.stderr, "%s: error fetching interface information: Device not found\n", name)
		return nil
	}
	if err != nil {
		return err
	}
	d, err := h.Detail(l.Index)
	if err != nil {
		return err
	}
	addresses, err := h.Addresses(l.Index)
	if err != nil {
		return err
	}
	fmt.Fprint(a.stdout, ifconfig(d, addresses))
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
	err = withHost(func(h *hostnet.Host) error { return setUpVnif(h, vnetif, in.Value("bridge")) })
	if err != nil {
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
func setUpVnif(h *hostnet.Host, vnetif, bridge string) (err error) {
	l, err := h.LinkByName(vnetif)
	if err != nil {
		return err
	}
	for _, name := range physical {
		p, err := h.LinkByName(name)
		if errors.Is(err, hostnet.ErrNotFound) || err == nil && len(p.MAC) != len(l.MAC) {
			continue
		}
		if err == nil {
			err = h.SetHardwareAddr(l.Index, p.MAC)
		}
		if err != nil {
			return err
		}
		break
	}
	if bridge != "" {
		br, created, err := h.EnsureBridge(bridge)
		if err != nil {
			return err
		}
		if err := h.SetMaster(l.Index, br.Index); err != nil {
			if created {
				err = errors.Join(err, h.Delete(br.Index))
			}
			return err
		}
	}
	return h.SetUp(l.Index)
}

func (a *app) vnetDelete(ctx context.Context, in cli.Invocation) error {
	v, err := a.findVnet(ctx, in.Args[0])
	if err != nil {
		return err
	}
	return withHost(func(h *hostnet.Host) error {
		bridge, err := bridgeOf(h, v.ChildValue("vnetif", ""))
		if err != nil {
			return err
		}
		// The daemon's leave comes first: it knows whether the vnet may go, and takes the
		// interface off its bridge and away.
		if err := a.tell(ctx, command("vnet.del", sxp.Pair("id", v.ChildValue("id", "")))); err != nil {
			return err
		}
		if !in.Has("bridge") || bridge.Index == 0 {
			return nil
		}
		ports, err := h.Ports(bridge.Index)
		if err != nil {
			return err
		}
		if len(ports) > 0 {
			return fmt.Errorf("bridge %s stays: other interfaces are on it: %s", bridge.Name, names(ports))
		}
		return h.Delete(bridge.Index)
	})
}

// bridgeOf returns the bridge that a device is a port of, or a zero Link.
func bridgeOf(h *hostnet.Host, device string) (hostnet.Link, error) {
	l, err := h.LinkByName(device)
	if errors.Is(err, hostnet.ErrNotFound) || err == nil && l.Master == 0 {
		return hostnet.Link{}, nil
	}
	if err != nil {
		return hostnet.Link{}, err
	}
	br, err := h.LinkByIndex(l.Master)
	if err != nil || br.Kind != "bridge" {
		return hostnet.Link{}, err
	}
	return br, nil
}

func names(links []hostnet.Link) string {
	var s []string
	for _, l := range links {
		s = append(s, l.Name)
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
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
func vmac(s string, device bool) (mac net.HardwareAddr, err error) {
	if device {
		err = withHost(func(h *hostnet.Host) error {
			l, err := h.LinkByName(s)
			mac = l.MAC
			return err
		})
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
