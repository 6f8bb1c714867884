package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
)

// bridges prints every bridge of the machine with its ports, a line each, or as brctl show does: the original's
// lines, which others parse.
func (a *app) bridges(_ context.Context, in cli.Invocation) error {
	list, err := devices()
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b device) int { return cmp.Compare(a.Name, b.Name) })
	means := func(arg string, d device) bool {
		return d.isBridge() && (d.Name == arg || slices.Contains(ports(list, d), arg))
	}
	wanted := func(d device) bool {
		return len(in.Args) == 0 && d.isBridge() || slices.ContainsFunc(in.Args, func(arg string) bool { return means(arg, d) })
	}
	for _, arg := range in.Args {
		if !slices.ContainsFunc(list, func(d device) bool { return means(arg, d) }) {
			fmt.Fprintf(a.stderr, "vn: no bridge, and no port of one: %s\n", arg)
		}
	}
	if in.Has("json") {
		type bridge struct {
			Name  string   `json:"name"`
			Ports []string `json:"ports"`
		}
		out := []bridge{}
		for _, d := range list {
			if wanted(d) {
				out = append(out, bridge{d.Name, append([]string{}, ports(list, d)...)})
			}
		}
		return a.printJSON(out)
	}
	if in.Has("long") {
		fmt.Fprint(a.stdout, "bridge name\tbridge id\t\tSTP enabled\tinterfaces\n")
	}
	for _, d := range list {
		if !wanted(d) {
			continue
		}
		if in.Has("long") {
			id := bridgeSetting(d.Name, "bridge_id")
			if id == "" {
				id = "8000." + hex.EncodeToString(d.HardwareAddr) // with the usual priority
			}
			fmt.Fprint(a.stdout, brctl(d.Name, id, bridgeSetting(d.Name, "stp_state"), ports(list, d)))
			continue
		}
		fmt.Fprintf(a.stdout, "%s : %s\n", d.Name, strings.Join(ports(list, d), ", "))
	}
	return nil
}

// brctl describes a bridge as brctl show does; stp is the number in sysfs.
func brctl(name, id, stp string, ports []string) string {
	enabled := "no"
	if stp != "" && stp != "0" {
		enabled = "yes"
	}
	return fmt.Sprintf("%s\t\t%s\t%s\t\t%s\n", name, id, enabled, strings.Join(ports, "\n\t\t\t\t\t\t\t"))
}
