package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
)

func (a *app) list(ctx context.Context, in cli.Invocation) error {
	var domains []sxp.Value
	if len(in.Args) == 0 {
		var err error
		if domains, err = a.xend.Domains(ctx); err != nil {
			return err
		}
	}
	for _, name := range in.Args {
		d, err := a.xend.Domain(ctx, name)
		if err != nil {
			return missing(err, "Domain", name)
		}
		domains = append(domains, d)
	}
	if in.Has("long") {
		for _, d := range domains {
			a.print(d)
		}
		return nil
	}
	fmt.Fprintln(a.stdout, "Name                              ID Mem(MiB) VCPUs State  Time(s)")
	for _, d := range domains {
		fmt.Fprintln(a.stdout, domainLine(d))
	}
	return nil
}

// domainLine is a line of the list. What the daemon does not say (a domain that does not run has
// no id and no time) is left blank.
func domainLine(d sxp.Value) string {
	time := d.ChildValue("cpu_time", "")
	if seconds, err := strconv.ParseFloat(time, 64); err == nil {
		time = strconv.FormatFloat(seconds, 'f', 1, 64)
	}
	vcpus := d.ChildValue("online_vcpus", d.ChildValue("vcpus", ""))
	line := fmt.Sprintf("%-32s %3s %8s %5s %-6s %7s", d.ChildValue("name", ""), d.ChildValue("domid", ""),
		d.ChildValue("memory", ""), vcpus, d.ChildValue("state", ""), time)
	return strings.TrimRight(line, " ")
}
