package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// reference is the system that the ratios refer to.
const reference = "vxlan"

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// ratio is the median over the rounds of a's sample divided by b's.
func ratio(a, b []float64) float64 {
	var q []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			q = append(q, a[i]/b[i])
		}
	}
	return median(q)
}

// table prints one scenario: a line per system, medians and, in brackets, the ratio to kernel VXLAN.
func table(w io.Writer, sc scenario, o *options, got map[string]series) {
	fmt.Fprintf(w, "\n%s: %s\n", sc.label, sc.about)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "\t")
	for _, m := range o.metrics {
		for _, f := range m.figures {
			fmt.Fprintf(tw, "%s\t", f)
		}
	}
	fmt.Fprintln(tw)
	for _, sys := range o.systems {
		s := got[sys.label]
		fmt.Fprintf(tw, "%s\t", sys.label)
		for _, m := range o.metrics {
			for _, f := range m.figures {
				v := s.Samples[f]
				if median(v) == 0 {
					fmt.Fprint(tw, "-\t")
					continue
				}
				fmt.Fprintf(tw, "%.4g", median(v))
				if ref := got[reference].Samples[f]; median(ref) != 0 && sys.label != reference {
					fmt.Fprintf(tw, " [%.2f]", ratio(v, ref))
				}
				fmt.Fprint(tw, "\t")
			}
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
}
