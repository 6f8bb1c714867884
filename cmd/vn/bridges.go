package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/hostnet"
)

// bridges prints every bridge of the machine and, below it, its ports.
func (a *app) bridges(_ context.Context, in cli.Invocation) error {
	return withHost(func(h *hostnet.Host) error {
		links, err := h.Links()
		if err != nil {
			return err
		}
		slices.SortFunc(links, func(a, b hostnet.Link) int { return cmp.Compare(a.Name, b.Name) })
		for _, br := range links {
			if br.Kind != "bridge" {
				continue
			}
			a.printLink("", br, in.Has("long"))
			for _, port := range links {
				if port.Master == br.Index {
					a.printLink("    ", port, in.Has("long"))
				}
			}
		}
		return nil
	})
}

// printLink prints a device's name and, with long, what else is worth knowing.
func (a *app) printLink(indent string, l hostnet.Link, long bool) {
	if !long {
		fmt.Fprintf(a.stdout, "%s%s\n", indent, l.Name)
		return
	}
	fmt.Fprintf(a.stdout, "%-20s mac %s  mtu %d  %s", indent+l.Name, l.MAC, l.MTU, upDown(l))
	if l.Alias != "" {
		fmt.Fprintf(a.stdout, "  (%s)", l.Alias)
	}
	fmt.Fprintln(a.stdout)
}
