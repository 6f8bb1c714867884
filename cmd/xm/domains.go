package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/client"
)

// domainOp does an operation on a domain, and words what does not exist.
func (a *app) domainOp(ctx context.Context, name, op string, params ...client.Param) error {
	_, err := a.xend.DomainOp(ctx, name, op, params...)
	return missing(err, "Domain", name)
}

// does returns a command that is one operation on each domain that it names.
func (a *app) does(op string, params ...client.Param) func(context.Context, cli.Invocation) error {
	return func(ctx context.Context, in cli.Invocation) error {
		for _, name := range in.Args {
			if err := a.domainOp(ctx, name, op, params...); err != nil {
				return err
			}
		}
		return nil
	}
}

// sets returns a command DOMAIN VALUE… that is one operation with parameters of these names.
func (a *app) sets(op string, names ...string) func(context.Context, cli.Invocation) error {
	return func(ctx context.Context, in cli.Invocation) error {
		var params []client.Param
		for i, name := range names {
			if i+1 < len(in.Args) {
				params = append(params, client.Param{Name: name, Value: in.Args[i+1]})
			}
		}
		return a.domainOp(ctx, in.Args[0], op, params...)
	}
}

// domains returns the forms of those that are named, or of all.
func (a *app) domains(ctx context.Context, names []string, state string) ([]sxp.Value, error) {
	if len(names) == 0 {
		return a.xend.DomainsIn(ctx, state)
	}
	var list []sxp.Value
	for _, name := range names {
		d, err := a.xend.Domain(ctx, name)
		if err != nil {
			return nil, missing(err, "Domain", name)
		}
		list = append(list, d)
	}
	return list, nil
}

func (a *app) list(ctx context.Context, in cli.Invocation) error {
	state := "all"
	if in.Has("state") {
		if state = in.Value("state"); state != "running" && state != "halted" && state != "all" {
			return fmt.Errorf("the state is running, halted or all, not %s", state)
		}
	}
	domains, err := a.domains(ctx, in.Args, state)
	if err != nil {
		return err
	}
	if in.Has("long") {
		for _, d := range domains {
			a.print(d)
		}
		return nil
	}
	a.printDomains(domains)
	return nil
}

func (a *app) printDomains(domains []sxp.Value) {
	fmt.Fprintln(a.stdout, "Name                              ID Mem(MiB) VCPUs State  Time(s)")
	for _, d := range domains {
		fmt.Fprintln(a.stdout, domainLine(d))
	}
}

// domainLine is a line of the list. What the daemon does not say (a domain that does not run has
// no id and no time) is left blank.
func domainLine(d sxp.Value) string {
	time := d.ChildValue("cpu_time", "")
	if seconds, err := strconv.ParseFloat(time, 64); err == nil {
		time = strconv.FormatFloat(seconds, 'f', 1, 64)
	}
	vcpus := d.ChildValue("online_vcpus", d.ChildValue("vcpus", ""))
	if d.ChildValue("domid", "") == "" { // none is online
		vcpus = d.ChildValue("vcpus", "")
	}
	line := fmt.Sprintf("%-32s %3s %8s %5s %-6s %7s", d.ChildValue("name", ""), d.ChildValue("domid", ""),
		d.ChildValue("memory", ""), vcpus, d.ChildValue("state", ""), time)
	return strings.TrimRight(line, " ")
}

func (a *app) domid(ctx context.Context, in cli.Invocation) error {
	d, err := a.xend.Domain(ctx, in.Args[0])
	if err != nil {
		return missing(err, "Domain", in.Args[0])
	}
	id := d.ChildValue("domid", "")
	if id == "" {
		return fmt.Errorf("Domain %s is not running", in.Args[0])
	}
	fmt.Fprintln(a.stdout, id)
	return nil
}

func (a *app) domname(ctx context.Context, in cli.Invocation) error {
	d, err := a.xend.Domain(ctx, in.Args[0])
	if err != nil {
		return missing(err, "Domain", in.Args[0])
	}
	fmt.Fprintln(a.stdout, d.ChildValue("name", ""))
	return nil
}

// ending is how often shutdown -w looks whether domains have ended.
const ending = 500 * time.Millisecond

// shutdown asks domains to end, and with -w waits until they have.
func (a *app) shutdown(ctx context.Context, in cli.Invocation) error {
	reason := "poweroff"
	switch {
	case in.Command.Name == "reboot", in.Has("reboot"):
		reason = "reboot"
	case in.Has("halt"):
		reason = "halt"
	}
	names := in.Args
	switch {
	case in.Has("all") && len(names) > 0:
		return fmt.Errorf("with --all no domain is named")
	case !in.Has("all") && len(names) == 0:
		return a.misused(fmt.Sprintf("'xm %s' requires at least 1 argument.", in.Command.Name), func() {
			fmt.Fprintf(a.stdout, "Usage: %s\n", in.Command.Usage(a.table.Program))
		})
	case in.Has("all"):
		list, err := a.xend.Domains(ctx)
		if err != nil {
			return err
		}
		for _, d := range list {
			if d.ChildValue("domid", "0") != "0" {
				names = append(names, d.ChildValue("name", ""))
			}
		}
	}
	ids := map[string]string{} // what they are called may be another's later
	for _, name := range names {
		if in.Has("wait") {
			d, err := a.xend.Domain(ctx, name)
			if err != nil {
				return missing(err, "Domain", name)
			}
			ids[name] = d.ChildValue("domid", "")
		}
		if err := a.domainOp(ctx, name, "shutdown", client.Param{Name: "reason", Value: reason}); err != nil {
			return err
		}
	}
	return a.awaitEnd(ctx, names, ids)
}

// awaitEnd waits until none of the ids runs.
func (a *app) awaitEnd(ctx context.Context, names []string, ids map[string]string) error {
	if len(ids) == 0 {
		return nil
	}
	for {
		list, err := a.xend.Domains(ctx)
		if err != nil {
			return err
		}
		runs := map[string]bool{}
		for _, d := range list {
			// One that is preserved has ended, too.
			runs[d.ChildValue("domid", "")] = d.ChildValue("shutdown_reason", "") == "" || !strings.Contains(d.ChildValue("state", ""), "s")
		}
		for _, name := range names {
			if id, waited := ids[name]; waited && !runs[id] {
				fmt.Fprintf(a.stdout, "Domain %s terminated\n", name)
				delete(ids, name)
			}
		}
		if len(ids) == 0 {
			fmt.Fprintln(a.stdout, "All domains terminated")
			return nil
		}
		if err := pause(ctx, ending); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// save writes a domain to a file; its name is the daemon's to open, which has a working directory of its own.
func (a *app) save(ctx context.Context, in cli.Invocation) error {
	file, err := filepath.Abs(in.Args[1])
	if err != nil {
		return err
	}
	return a.domainOp(ctx, in.Args[0], "save", client.Param{Name: "file", Value: file})
}

func (a *app) dumpCore(ctx context.Context, in cli.Invocation) error {
	name := in.Args[0]
	file := filepath.Join(a.paths.Dumps(), time.Now().Format("2006-0102-1504.05")+"-"+name+".core")
	if len(in.Args) > 1 {
		var err error
		if file, err = filepath.Abs(in.Args[1]); err != nil {
			return err
		}
	}
	params := []client.Param{{Name: "file", Value: file}}
	for _, o := range []string{"live", "crash"} {
		if in.Has(o) {
			params = append(params, client.Param{Name: o, Value: on})
		}
	}
	fmt.Fprintf(a.stdout, "Dumping core of domain: %s ...\n", name)
	return a.domainOp(ctx, name, "dump", params...)
}

func (a *app) migrate(ctx context.Context, in cli.Invocation) error {
	params := []client.Param{{Name: "destination", Value: in.Args[1]}}
	for _, o := range []string{"live", "ssl"} {
		if in.Has(o) {
			params = append(params, client.Param{Name: o, Value: on})
		}
	}
	if in.Has("port") {
		params = append(params, client.Param{Name: "port", Value: in.Value("port")})
	}
	return a.domainOp(ctx, in.Args[0], "migrate", params...)
}

// memory returns a command that sets an amount of memory.
func (a *app) memory(op, param string) func(context.Context, cli.Invocation) error {
	return func(ctx context.Context, in cli.Invocation) error {
		mib, err := parseMemory(in.Args[1])
		if err != nil {
			return err
		}
		return a.domainOp(ctx, in.Args[0], op, client.Param{Name: param, Value: strconv.Itoa(mib)})
	}
}

// parseMemory reads an amount of memory, by default in MiB: 64, 64m, 1g, 65536k.
func parseMemory(s string) (int, error) {
	digits := strings.TrimRight(strings.ToLower(s), "kmgb")
	n, err := strconv.Atoi(digits)
	unit := strings.TrimSuffix(strings.ToLower(s)[len(digits):], "b")
	if err != nil || n < 1 || n > 1<<30 || len(unit) > 1 {
		return 0, fmt.Errorf("%s is no amount of memory: write a number of MiB, or one with k, m or g", s)
	}
	switch unit {
	case "k":
		return max(1, n>>10), nil
	case "g":
		return n << 10, nil
	}
	return n, nil
}

func (a *app) uptime(ctx context.Context, in cli.Invocation) error {
	domains, err := a.domains(ctx, in.Args, "running")
	if err != nil {
		return err
	}
	short := in.Has("short")
	if !short {
		fmt.Fprintf(a.stdout, "%-33s %4s %s\n", "Name", "ID", "Uptime")
	}
	for _, d := range domains {
		seconds, _ := strconv.ParseFloat(d.ChildValue("up_time", "0"), 64)
		up := uptimeText(time.Duration(seconds) * time.Second)
		if short {
			fmt.Fprintf(a.stdout, "%s up %s, %s (%s)\n", time.Now().Format(" 15:04:05"), up, d.ChildValue("name", ""), d.ChildValue("domid", ""))
			continue
		}
		fmt.Fprintf(a.stdout, "%-33s %4s %s\n", d.ChildValue("name", ""), d.ChildValue("domid", ""), up)
	}
	return nil
}

// uptimeText writes a duration as uptime(1) does: 3 days, 4:05:06.
func uptimeText(d time.Duration) string {
	s := int(d.Seconds())
	text := fmt.Sprintf("%d:%02d:%02d", s/3600%24, s/60%60, s%60)
	switch days := s / 86400; days {
	case 0:
		return text
	case 1:
		return "1 day, " + text
	default:
		return fmt.Sprintf("%d days, %s", days, text)
	}
}

func (a *app) vcpuList(ctx context.Context, in cli.Invocation) error {
	domains, err := a.domains(ctx, in.Args, "running")
	if err != nil {
		return err
	}
	node, err := a.xend.Node(ctx)
	if err != nil {
		return err
	}
	cpus, _ := strconv.Atoi(node.ChildValue("nr_cpus", "0"))
	fmt.Fprintln(a.stdout, "Name                              ID  VCPU   CPU State   Time(s) CPU Affinity")
	for _, d := range domains {
		name := d.ChildValue("name", "")
		info, err := a.xend.DomainOp(ctx, name, "vcpuinfo")
		if err != nil {
			return missing(err, "Domain", name)
		}
		for _, v := range info.Children("vcpu") {
			fmt.Fprintln(a.stdout, vcpuLine(name, d.ChildValue("domid", ""), v, cpus))
		}
	}
	return nil
}

// vcpuLine is a line of vcpu-list; the machine has so many processors.
func vcpuLine(name, id string, v sxp.Value, cpus int) string {
	cpu, state := "-", "--p"
	if v.ChildValue("online", "") == on {
		if cpu = v.ChildValue("cpu", "-"); cpu == "-1" {
			cpu = "-"
		}
		state = "-b-"
		if v.ChildValue("running", "") == on {
			state = "r--"
		}
	}
	seconds, _ := strconv.ParseFloat(v.ChildValue("cpu_time", "0"), 64)
	var affinity []string
	if m, ok := v.Child("cpumap"); ok && m.Len() > 1 {
		for _, c := range m.Items()[1].Items() {
			affinity = append(affinity, c.Text())
		}
	}
	text := strings.Join(affinity, ",")
	if len(affinity) == 0 || cpus > 0 && len(affinity) >= cpus {
		text = "any cpu"
	}
	return fmt.Sprintf("%-32s %3s %5s %5s   %-3s  %9.1f %s", name, id, v.ChildValue("number", ""), cpu, state, seconds, text)
}

// schedCredit prints or sets the parameters of the credit scheduler.
func (a *app) schedCredit(ctx context.Context, in cli.Invocation) error {
	name := in.Value("domain")
	if in.Has("weight") || in.Has("cap") {
		if name == "" {
			return fmt.Errorf("which domain? Name it with -d")
		}
		var params []client.Param
		for _, o := range []string{"weight", "cap"} {
			if in.Has(o) {
				params = append(params, client.Param{Name: o, Value: in.Value(o)})
			}
		}
		return a.domainOp(ctx, name, "domain_sched_credit_set", params...)
	}
	var names []string
	if name != "" {
		names = []string{name}
	}
	domains, err := a.domains(ctx, names, "running")
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%-33s %4s %6s %4s\n", "Name", "ID", "Weight", "Cap")
	for _, d := range domains {
		fmt.Fprintf(a.stdout, "%-33s %4s %6s %4s\n", d.ChildValue("name", ""), d.ChildValue("domid", ""), d.ChildValue("cpu_weight", ""), d.ChildValue("cpu_cap", ""))
	}
	return nil
}

// top prints the domains and what part of a processor they use, again and again.
func (a *app) top(ctx context.Context, in cli.Invocation) error {
	delay, times := 3*time.Second, 0
	if in.Has("delay") {
		n, err := strconv.ParseFloat(in.Value("delay"), 64)
		if err != nil || n < 0.1 || n > 3600 {
			return fmt.Errorf("%s is no number of seconds from 0.1 to 3600", in.Value("delay"))
		}
		delay = time.Duration(n * float64(time.Second))
	}
	if in.Has("iterations") {
		n, err := strconv.Atoi(in.Value("iterations"))
		if err != nil || n < 1 {
			return fmt.Errorf("%s is no number of iterations", in.Value("iterations"))
		}
		times = n
	}
	before := map[string]float64{}
	last := time.Now()
	for n := 1; ; n++ {
		list, err := a.xend.Domains(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		if !in.Has("batch") {
			fmt.Fprint(a.stdout, "\x1b[H\x1b[2J") // home, clear: ECMA-48
		}
		fmt.Fprintf(a.stdout, "%-32s %3s %-6s %8s %6s %8s %5s\n", "NAME", "ID", "STATE", "CPU(sec)", "CPU(%)", "MEM(MiB)", "VCPUS")
		for _, d := range list {
			id := d.ChildValue("domid", "")
			seconds, _ := strconv.ParseFloat(d.ChildValue("cpu_time", "0"), 64)
			percent := 0.0
			if old, ok := before[id]; ok && now.After(last) {
				percent = max(0, 100*(seconds-old)/now.Sub(last).Seconds())
			}
			before[id] = seconds
			fmt.Fprintf(a.stdout, "%-32s %3s %-6s %8.0f %6.1f %8s %5s\n", d.ChildValue("name", ""), id, d.ChildValue("state", ""),
				seconds, percent, d.ChildValue("memory", ""), d.ChildValue("online_vcpus", ""))
		}
		last = now
		if err := a.stdout.Flush(); err != nil || n == times {
			return err
		}
		if err := pause(ctx, delay); err != nil {
			return nil //nolint:nilerr // interrupted
		}
	}
}
