package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// The systems that the ratios refer to: what is to be beaten, and what no tunnel can beat.
const reference, limitSystem = "vxlan", "none"

// median of at least one value.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// present are the samples of the rounds that did not fail.
func present(samples []*float64) (v []float64) {
	for _, s := range samples {
		if s != nil {
			v = append(v, *s)
		}
	}
	return v
}

// ratios are a's samples divided by b's, of the rounds in which neither failed.
func ratios(a, b []*float64) (q []float64) {
	for i := range min(len(a), len(b)) {
		if a[i] != nil && b[i] != nil {
			q = append(q, *a[i] / *b[i])
		}
	}
	return q
}

// table prints one scenario: a line per system, medians and, in brackets, the ratios to kernel VXLAN and to no tunnel;
// behind a median of fewer rounds than all, of how many.
func table(w io.Writer, sc scenario, o *options, got map[string]series) {
	fmt.Fprintf(w, "\n%s: %s; %d processors\n", sc.label, sc.about, o.cores)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "\t")
	for _, m := range o.metrics {
		for _, f := range m.figures {
			fmt.Fprintf(tw, "%s\t", f)
		}
	}
	fmt.Fprintln(tw)
	failed := false
	of := func(v []float64) string {
		if len(v) == o.rounds {
			return ""
		}
		failed = true
		return fmt.Sprintf(" (%d/%d)", len(v), o.rounds)
	}
	for _, sys := range o.systems {
		s := got[sys.label]
		fmt.Fprintf(tw, "%s\t", sys.label)
		for _, m := range o.metrics {
			for _, f := range m.figures {
				v := present(s.Samples[f])
				if len(v) == 0 {
					fmt.Fprint(tw, "-\t")
					continue
				}
				fmt.Fprintf(tw, "%.4g%s", median(v), of(v))
				text := func(to string) string {
					q := ratios(s.Samples[f], got[to].Samples[f])
					if len(q) == 0 || sys.label == to {
						return "-"
					}
					return fmt.Sprintf("%.2f%s", median(q), of(q))
				}
				if a, b := text(reference), text(limitSystem); a != "-" || b != "-" {
					fmt.Fprintf(tw, " [%s %s]", a, b)
				}
				fmt.Fprint(tw, "\t")
			}
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
	fmt.Fprintf(w, "[ratio to %s, ratio to %s]: medians of what they were round by round\n", reference, limitSystem)
	if failed {
		fmt.Fprintf(w, "(n/%d): median of n rounds; the others failed\n", o.rounds)
	}
}
