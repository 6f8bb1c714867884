package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// topology draws what this host knows.
func (a *app) topology(ctx context.Context, in cli.Invocation) error {
	format := cmp.Or(in.Value("format"), "text")
	if in.Has("json") {
		format = "json"
	}
	draw := map[string]func(topology.Topology) string{
		"text": topology.Topology.Text, "dot": topology.Topology.DOT, "mermaid": topology.Topology.Mermaid,
		"svg": func(t topology.Topology) string { return t.SVG(nil) }, "json": nil,
	}
	f, ok := draw[format]
	if !ok {
		return fmt.Errorf("--format %s: expected text, dot, mermaid, svg or json", format)
	}
	var t topology.Topology
	if err := a.control.JSON(ctx, command("vn.topology"), &t); err != nil {
		return err
	}
	if len(in.Args) > 0 {
		t = a.onlyVnets(t, in.Args)
	}
	if f == nil {
		return a.printJSON(t)
	}
	fmt.Fprint(a.stdout, f(t))
	return nil
}

// onlyVnets is what there is of the vnets that args mean, by id or interface; what means none is told, as by vn vnets.
func (a *app) onlyVnets(t topology.Topology, args []string) topology.Topology {
	means := func(arg string, v topology.Vnet) bool {
		if v.Vnetif != "" && arg == v.Vnetif {
			return true
		}
		want, err := vnet.ParseIDPadded(arg)
		id, errID := vnet.ParseIDPadded(v.ID)
		return err == nil && errID == nil && want == id
	}
	for _, arg := range args {
		if !slices.ContainsFunc(t.Hosts, func(h topology.Host) bool {
			return slices.ContainsFunc(h.Vnets, func(v topology.Vnet) bool { return means(arg, v) })
		}) {
			fmt.Fprintf(a.stderr, "vn: vnet not found: %s\n", arg)
		}
	}
	return t.Only(func(v topology.Vnet) bool {
		return slices.ContainsFunc(args, func(arg string) bool { return means(arg, v) })
	})
}
