package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/client"
	"github.com/xenvnet/xend/xendcompat/domain"
)

func (a *app) networkAttach(ctx context.Context, in cli.Invocation) error {
	var params []domain.Param
	for _, arg := range in.Args[1:] {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("Invalid argument: %s; write KEY=VALUE, such as bridge=vnet97", arg)
		}
		params = append(params, domain.Param{Name: name, Value: value})
	}
	if _, err := domain.ParseVif(params); err != nil {
		return err
	}
	return a.attach(ctx, in.Args[0], domain.DeviceConfig{Kind: "vif", Params: params})
}

func (a *app) attach(ctx context.Context, name string, d domain.DeviceConfig) error {
	return a.domainOp(ctx, name, "device_create", client.Param{Name: "config", Value: d.SXP().String()})
}

// blockAttach attaches BACK-DEV as FRONT-DEV.
func (a *app) blockAttach(ctx context.Context, in cli.Invocation) error {
	params := []domain.Param{{Name: "uname", Value: in.Args[1]}, {Name: "dev", Value: in.Args[2]}, {Name: "mode", Value: in.Args[3]}}
	if len(in.Args) > 4 {
		params = append(params, domain.Param{Name: "backend", Value: in.Args[4]})
	}
	return a.attach(ctx, in.Args[0], domain.DeviceConfig{Kind: "vbd", Params: params})
}

// detach returns a command that takes a device of a kind away.
func (a *app) detach(kind string) func(context.Context, cli.Invocation) error {
	return func(ctx context.Context, in cli.Invocation) error {
		name, dev := in.Args[0], in.Args[1]
		if kind == "vif" && strings.Contains(dev, ":") { // a MAC
			devices, err := a.devices(ctx, name, kind)
			if err != nil {
				return err
			}
			found := ""
			for _, d := range devices {
				if strings.EqualFold(d.value("mac", ""), dev) {
					found = d.id
				}
			}
			if found == "" {
				return fmt.Errorf("domain %s has no interface with MAC %s", name, dev)
			}
			dev = found
		}
		params := []client.Param{{Name: "type", Value: kind}, {Name: "dev", Value: dev}}
		if in.Has("force") {
			params = append(params, client.Param{Name: "force", Value: on})
		}
		return a.domainOp(ctx, name, "device_destroy", params...)
	}
}

// device is an element of ((0 ((mac …) …)) …).
type device struct {
	id   string
	form sxp.Value // ((mac …) …)
	all  sxp.Value
}

// value returns a parameter.
func (d device) value(name, def string) string {
	for _, p := range d.form.Items() {
		if p.Name() == name && p.Len() > 1 {
			return p.Items()[1].Text()
		}
	}
	return def
}

func (a *app) devices(ctx context.Context, name, kind string) ([]device, error) {
	v, err := a.xend.DomainOp(ctx, name, "devices", client.Param{Name: "type", Value: kind})
	if err != nil {
		return nil, missing(err, "Domain", name)
	}
	var list []device
	for _, e := range v.Items() {
		if e.Len() == 2 {
			list = append(list, device{id: e.Items()[0].Text(), form: e.Items()[1], all: e})
		}
	}
	return list, nil
}

// networkList prints the interfaces of a domain, and where one is on a vnet, the vnet's id.
func (a *app) networkList(ctx context.Context, in cli.Invocation) error {
	devices, err := a.devices(ctx, in.Args[0], "vif")
	if err != nil {
		return err
	}
	if in.Has("long") {
		return a.printDevices(devices)
	}
	vnets := false
	for _, d := range devices {
		vnets = vnets || d.value("vnet", "") != ""
	}
	heading := "Idx BE     MAC Addr.     handle state evt-ch tx-/rx-ring-ref BE-path"
	if vnets {
		heading += "                         vnet"
	}
	fmt.Fprintln(a.stdout, heading)
	for _, d := range devices {
		fmt.Fprintf(a.stdout, "%-3s %-3s%-17s    %-3s   %-3s    %-3s   %-5s/%-5s   %-30s  %s\n",
			d.id, d.value("backend-id", "0"), d.value("mac", "??"), d.value("handle", "??"), d.value("state", "??"),
			d.value("event-channel", "??"), d.value("tx-ring-ref", "??"), d.value("rx-ring-ref", "??"), d.value("backend", "??"), d.value("vnet", ""))
	}
	return nil
}

func (a *app) printDevices(devices []device) error {
	for _, d := range devices {
		a.print(d.all)
	}
	return nil
}

func (a *app) blockList(ctx context.Context, in cli.Invocation) error {
	devices, err := a.devices(ctx, in.Args[0], "vbd")
	if err != nil {
		return err
	}
	if in.Has("long") {
		return a.printDevices(devices)
	}
	fmt.Fprintln(a.stdout, "Vdev  BE handle state evt-ch ring-ref BE-path")
	for _, d := range devices {
		fmt.Fprintf(a.stdout, "%-5s %-3s  %-3s   %-3s   %-5s %-7s  %s\n", d.id, d.value("backend-id", "0"), d.value("handle", "??"),
			d.value("state", "??"), d.value("event-channel", "??"), d.value("ring-ref", "??"), d.value("backend", "??"))
	}
	return nil
}
