package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/xenvnet/xend/internal/cli"
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
	if f == nil {
		return a.printJSON(t)
	}
	fmt.Fprint(a.stdout, f(t))
	return nil
}
