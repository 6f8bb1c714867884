package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/xendcompat/client"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

// top shows what goes to and fro each second, busiest first, until ctrl-C.
func (a *app) top(ctx context.Context, in cli.Invocation) error {
	every, rounds := 1.0, 0
	var err error
	if in.Has("delay") {
		if every, err = strconv.ParseFloat(in.Value("delay"), 64); err != nil || !(every >= 0.1 && every <= 3600) {
			return fmt.Errorf("--delay: expected seconds from 0.1 to 3600, not %s", in.Value("delay"))
		}
	}
	if in.Has("rounds") {
		if rounds, err = strconv.Atoi(in.Value("rounds")); err != nil || rounds < 1 {
			return fmt.Errorf("--rounds: expected a number from 1 on, not %s", in.Value("rounds"))
		}
	}
	sortBy := cmp.Or(in.Value("sort"), "bytes")
	if sortBy != "bytes" && sortBy != "packets" && sortBy != "name" {
		return fmt.Errorf("--sort %s: expected bytes, packets or name", sortBy)
	}
	ctx, stop := untilInterrupt(ctx)
	defer stop()
	var sampled *sampler
	if in.Has("macs") || in.Has("sample") {
		one := sampleOne
		if in.Has("sample") {
			if one, err = strconv.Atoi(in.Value("sample")); err != nil || one < 1 || one > 1<<20 {
				return fmt.Errorf("--sample: expected a number from 1 to %d, not %s", 1<<20, in.Value("sample"))
			}
		}
		sampled = newSampler(ctx, one)
		defer sampled.close()
	}
	before, err := a.traffic(ctx, in)
	if err != nil {
		return err
	}
	if err := a.sample(ctx, sampled, before); err != nil {
		return err
	}
	ticker := time.NewTicker(time.Duration(every * float64(time.Second)))
	defer ticker.Stop()
	for round := 0; rounds == 0 || round < rounds; {
		if round == 0 && !in.Has("json") && a.terminal() {
			fmt.Fprint(a.stdout, "\x1b[H\x1b[2Jmeasuring\n")
		}
		if err := a.stdout.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now, err := a.traffic(ctx, in)
		var gone *client.ConnectError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &gone) && round > 0:
			fmt.Fprintln(a.stdout, "xend does not run; waiting for it")
			before = traffic.Snapshot{}
			continue
		case err != nil:
			return err
		}
		if before.Time.IsZero() { // the daemon is back
			before = now
			continue
		}
		delta := now.Sub(before)
		seconds := max(now.Time.Sub(before.Time).Seconds(), 0.001)
		before = now
		round++
		if sampled != nil {
			delta.MACs, delta.Sampled = sampled.take(), sampled.one
			delta.NotSampled = sampled.leftOut()
			if err := a.sample(ctx, sampled, now); err != nil {
				return err
			}
		}
		if in.Has("json") {
			if err := a.printJSON(delta); err != nil {
				return err
			}
			continue
		}
		if a.terminal() {
			fmt.Fprint(a.stdout, "\x1b[H\x1b[2J") // to the top, and clear
		}
		writeTop(a.stdout, delta, seconds, sortBy)
		if !a.terminal() && rounds != 1 {
			fmt.Fprintln(a.stdout)
		}
	}
	return a.stdout.Flush()
}

// sample looks at ports that are new; s may be nil.
func (a *app) sample(ctx context.Context, s *sampler, t traffic.Snapshot) error {
	if s == nil {
		return nil
	}
	forms, err := a.ask(ctx, command("vnet.list"))
	if err != nil {
		return err
	}
	vnifs := map[string]bool{}
	for _, f := range byID(forms) {
		vnifs[f.ChildValue("vnetif", "")] = true
	}
	list, err := devices()
	if err != nil {
		return err
	}
	return s.look(list, t.Vnets, vnifs)
}

// terminal tells whether a person sees what is printed on the standard output, as it is printed.
func (a *app) terminal() bool {
	info, err := os.Stdout.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && a.out == os.Stdout
}

// rates are packets and bits of one direction.
type rate struct{ tx, rx traffic.Counts }

// topRow is a vnet or a host.
type topRow struct {
	name, more string
	rate
}

// shownRows bounds what is shown of vnets, and of hosts: a screen.
const shownRows = 15

// writeTop writes what went to and fro within some seconds.
func writeTop(w io.Writer, t traffic.Snapshot, seconds float64, sortBy string) {
	fmt.Fprintf(w, "vn top  %s  over %.1f s\n", t.Time.Local().Format("15:04:05"), seconds)
	var vnets, hosts []topRow
	for _, v := range t.Vnets {
		more := fmt.Sprintf("%d here, %d elsewhere", v.Here, v.Elsewhere)
		if kernel := v.KernelTx.Packets + v.KernelRx.Packets; kernel > 0 {
			more += fmt.Sprintf("; %d %% by the kernel", 100*kernel/max(1, v.Tx.Packets+v.Rx.Packets))
		}
		if !v.Up {
			more += "; DOWN"
		}
		if n := v.Drops.Sum(); n > 0 {
			more += fmt.Sprintf("; %.0f dropped/s", float64(n)/seconds)
		}
		vnets = append(vnets, topRow{v.ID, more, rate{v.Tx, v.Rx}})
	}
	for _, h := range t.Hosts {
		hosts = append(hosts, topRow{h.Address, fmt.Sprintf("%d; %s, %s", h.MACs, ago(h.Unicast), ago(h.Group)), rate{h.Tx, h.Rx}})
	}
	writeRows(w, "Vnet", "MACs", vnets, seconds, sortBy)
	writeRows(w, "Host", "MACs; last heard by unicast, by the group", hosts, seconds, sortBy)
	if t.Sampled > 0 {
		var macs []topRow
		for _, m := range t.MACs {
			macs = append(macs, topRow{m.MAC, "vnet " + m.Vnet + ", " + m.Port, rate{m.Tx, m.Rx}})
		}
		writeRows(w, "MAC here", fmt.Sprintf("vnet, port; estimated from one frame in %d", t.Sampled), macs, seconds, sortBy)
		if t.NotSampled > 0 {
			fmt.Fprintf(w, "%d more ports are not looked at; --vnet ID looks at those of one vnet\n", t.NotSampled)
		}
	}
	var drops []traffic.Drop
	for _, d := range t.Drops {
		if d.Packets > 0 {
			drops = append(drops, d)
		}
	}
	slices.SortStableFunc(drops, func(a, b traffic.Drop) int { return cmp.Compare(b.Packets, a.Packets) })
	if len(drops) == 0 {
		fmt.Fprintln(w, "\nnothing was dropped")
		return
	}
	fmt.Fprintf(w, "\n%12s  %s\n", "Dropped/s", "Reason")
	for _, d := range drops[:min(len(drops), shownRows)] {
		from := ""
		if len(d.Sources) > 0 {
			from = "  (most ever from " + d.Sources[0].From + ")"
		}
		fmt.Fprintf(w, "%12.0f  %s%s\n", float64(d.Packets)/seconds, d.Reason, from)
	}
}

func writeRows(w io.Writer, of, more string, rows []topRow, seconds float64, sortBy string) {
	slices.SortStableFunc(rows, func(a, b topRow) int {
		switch sortBy {
		case "bytes":
			return cmp.Compare(b.tx.Bytes+b.rx.Bytes, a.tx.Bytes+a.rx.Bytes)
		case "packets":
			return cmp.Compare(b.tx.Packets+b.rx.Packets, a.tx.Packets+a.rx.Packets)
		}
		return strings.Compare(a.name, b.name)
	})
	fmt.Fprintf(w, "\n%-24s %12s %12s %12s %12s  %s\n", of, "Sent/s", "bit/s", "Received/s", "bit/s", more)
	for _, r := range rows[:min(len(rows), shownRows)] {
		fmt.Fprintf(w, "%-24s %12.0f %12s %12.0f %12s  %s\n", r.name, float64(r.tx.Packets)/seconds, bits(r.tx.Bytes, seconds),
			float64(r.rx.Packets)/seconds, bits(r.rx.Bytes, seconds), r.more)
	}
	if n := len(rows) - shownRows; n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
}

// bits is a rate for a person.
func bits(bytes uint64, seconds float64) string {
	r := float64(bytes) * 8 / seconds
	for _, unit := range []string{"", "k", "M"} {
		if r < 1000 {
			return strconv.FormatFloat(r, 'f', map[bool]int{true: 0, false: 1}[unit == ""], 64) + unit
		}
		r /= 1000
	}
	return strconv.FormatFloat(r, 'f', 1, 64) + "G"
}
