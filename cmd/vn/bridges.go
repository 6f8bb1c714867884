package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/hostnet"
)

// bridges prints every bridge of the machine with its ports, a line each, or as brctl show does: the original's
// lines, which others parse.
func (a *app) bridges(_ context.Context, in cli.Invocation) error {
	return withHost(func(h *hostnet.Host) error {
		links, err := h.Links()
		if err != nil {
			return err
		}
		slices.SortFunc(links, func(a, b hostnet.Link) int { return cmp.Compare(a.Name, b.Name) })
		if in.Has("long") {
			fmt.Fprint(a.stdout, "bridge name\tbridge id\t\tSTP enabled\tinterfaces\n")
		}
		for _, br := range links {
			if br.Kind != "bridge" {
				continue
			}
			var ports []string
			for _, port := range links {
				if port.Master == br.Index {
					ports = append(ports, port.Name)
				}
			}
			if !in.Has("long") {
				fmt.Fprintf(a.stdout, "%s : %s\n", br.Name, strings.Join(ports, ", "))
				continue
			}
			d, err := h.Detail(br.Index)
			if err != nil {
				return err
			}
			fmt.Fprint(a.stdout, brctl(d, ports))
		}
		return nil
	})
}

// brctl describes a bridge as brctl show does.
func brctl(d hostnet.Detail, ports []string) string {
	stp := "no"
	if d.STP {
		stp = "yes"
	}
	return fmt.Sprintf("%s\t\t%04x.%s\t%s\t\t%s\n", d.Name, d.Priority, hex.EncodeToString(d.MAC), stp, strings.Join(ports, "\n\t\t\t\t\t\t\t"))
}
