// Bench measures our tunnel against no tunnel, kernel VXLAN and the overlays that Debian has, in one
// run, on one topology: domain – bridge – tunnel – bridge – domain, each host and each domain a network
// namespace. Runs are interleaved; what counts are the ratios, round by round, and their medians.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/lab"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "role" {
		if err := runRole(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	o := options{cores: runtime.NumCPU()}
	flag.IntVar(&o.rounds, "rounds", 7, "interleaved rounds; medians are taken over these")
	flag.IntVar(&o.seconds, "time", 1, "seconds per measurement")
	scenarioNames := flag.String("scenarios", "", "comma-separated scenarios (default all): "+names(scenarios))
	systemNames := flag.String("systems", "", "comma-separated systems (default: "+names(ordinary())+"): "+names(systems))
	metricNames := flag.String("metrics", "", "comma-separated metrics (default all): "+names(metrics))
	flag.StringVar(&o.json, "json", "build/bench.json", "file for all the figures")
	growthNames := flag.String("growth", "", "instead, how cost grows: comma-separated, or all: "+names(growths))
	smallest := flag.Int("smallest", 0, "with -growth: leave smaller sizes out")
	largest := flag.Int("largest", 0, "with -growth: leave larger sizes out")
	svg := flag.String("svg", "", "instead, draw the figures in the file of -json into this file")
	flag.StringVar(&o.bin, "bin", "bin", "directory of the programs that `make build` made")
	flag.Parse()
	err := o.choose(*scenarioNames, *systemNames, *metricNames)
	switch {
	case err != nil:
	case *svg != "":
		err = draw(o.json, *svg)
	case *growthNames != "":
		var list []growth
		if list, err = pick(growths, strings.TrimPrefix(*growthNames, "all")); err == nil {
			err = o.grow(os.Stdout, list, *smallest, *largest)
		}
	default:
		err = o.run(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds    int
	seconds   int
	json, bin string
	cores     int
	scenarios []scenario
	systems   []system
	metrics   []metric
}

type named interface{ name() string }

func names[T named](all []T) string {
	var n []string
	for _, x := range all {
		n = append(n, x.name())
	}
	return strings.Join(n, ",")
}

// pick returns the elements of all that a comma-separated list names; all of them for an empty list.
func pick[T named](all []T, list string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var picked []T
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(x T) bool { return x.name() == name })
		if i < 0 {
			return nil, fmt.Errorf("%q is none of %s", name, names(all))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

func (o *options) choose(scenarioNames, systemNames, metricNames string) error {
	var errs [3]error
	o.scenarios, errs[0] = pick(scenarios, scenarioNames)
	o.systems, errs[1] = pick(systems, systemNames)
	if systemNames == "" {
		o.systems = ordinary()
	}
	o.metrics, errs[2] = pick(metrics, metricNames)
	if o.rounds < 1 || o.seconds <= 0 {
		return errors.New("-rounds and -time must be positive")
	}
	return errors.Join(errs[:]...)
}

// report is the JSON file.
type report struct {
	Machine   string                       `json:"machine"`
	Cores     int                          `json:"cores"`
	Rounds    int                          `json:"rounds"`
	Seconds   int                          `json:"seconds"`
	Scenarios map[string]map[string]series `json:"scenarios"` // by scenario and system
}

// series are the samples of one system in one scenario, by figure, one per round; nil where the run failed.
// Failed says why there are none at all.
type series struct {
	Samples map[string][]*float64 `json:"samples"`
	Failed  string                `json:"failed,omitempty"`
	// Chosen is what a daemon of ours says of its fast path, as vn stats prints it.
	Chosen []string `json:"chosen,omitempty"`
}

// add appends one round: a sample of every figure, or nil.
func (s series) add(figures []string, got map[string]float64) {
	for _, f := range figures {
		var sample *float64
		if v, ok := got[f]; ok {
			sample = &v
		}
		s.Samples[f] = append(s.Samples[f], sample)
	}
}

func (o *options) run(w io.Writer) error {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	r := report{Machine: machine(), Cores: runtime.NumCPU(), Rounds: o.rounds, Seconds: o.seconds, Scenarios: map[string]map[string]series{}}
	fmt.Fprintln(w, r.Machine)
	for _, sc := range o.scenarios {
		// One lab per scenario: every system has its own two hosts and two domains in it, and all stay
		// up, idle, while one of them is measured.
		err := lab.Run(lab.Options{}, func(ctx context.Context, l *lab.Lab) error {
			r.Scenarios[sc.label] = map[string]series{}
			var up []*setup
			for _, sys := range o.systems {
				s, err := build(ctx, l, bin, sc, sys)
				if err != nil {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					r.Scenarios[sc.label][sys.label] = series{Failed: err.Error()}
					fmt.Fprintf(w, "%s: %s left out: %v\n", sc.label, sys.label, err)
					continue
				}
				r.Scenarios[sc.label][sys.label] = series{Samples: map[string][]*float64{}}
				up = append(up, s)
			}
			for range o.rounds {
				for _, m := range o.metrics {
					for _, s := range up {
						figures, err := m.measure(ctx, s, o.seconds)
						if ctx.Err() != nil {
							return ctx.Err()
						}
						if err != nil {
							fmt.Fprintf(w, "%s: %s: %s: %v\n", sc.label, s.sys.label, m.label, err)
						}
						r.Scenarios[sc.label][s.sys.label].add(m.figures, figures)
					}
				}
			}
			for _, s := range up {
				got := r.Scenarios[sc.label][s.sys.label]
				got.Chosen = s.chosen(ctx)
				r.Scenarios[sc.label][s.sys.label] = got
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", sc.label, err)
		}
		table(w, sc, o, r.Scenarios[sc.label])
	}
	return writeJSON(w, o.json, r)
}

// draw makes a picture of the figures of a run.
func draw(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var run report
	var growth growthReport
	if err := errors.Join(json.Unmarshal(b, &run), json.Unmarshal(b, &growth)); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	picture, err := plot(run)
	if growth.Growth != nil {
		picture, err = plotGrowth(growth)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, []byte(picture), 0o644)
}

// machine describes where the figures are from.
func machine() string {
	first := func(file, prefix string) string {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, prefix) {
				_, v, _ := strings.Cut(line, ":")
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpus, _ := os.ReadFile("/sys/devices/system/cpu/online")
	return fmt.Sprintf("machine: %s, %d processors (%s), Linux %s", first("/proc/cpuinfo", "model name"),
		runtime.NumCPU(), strings.TrimSpace(string(cpus)), strings.TrimSpace(string(release)))
}
