package main

import (
	"cmp"
	"errors"
	"fmt"
	"html"
	"slices"
	"strings"
)

// drawn are the figures of the picture, each a panel of its own in every scenario.
var drawn = []struct{ figure, title string }{
	{"tcp Gbit/s", "TCP, one process"},
	{"tcp x8", "TCP, eight processes"},
	{"cpu s/Gbit", "processor time per Gbit (less is better)"},
	{"64-byte pps", "64-byte packets/s"},
	{"tcp rr/s", "request/response, TCP"},
}

// colors of the systems, in their order; others are grey.
var colors = map[string]string{
	limitSystem: "#bdbdbd", reference: "#636363", "xend": "#1f6fb4", "xend-vnif": "#6baed6", "xend-bypass": "#08519c", "xend-user": "#c6dbef",
	"openvpn": "#e6550d", "xend-auth": "#31a354", "xend-conf": "#006d2c", "openvpn-gcm": "#a63603", "tinc": "#fd8d3c", "vde": "#fdae6b",
}

func (s system) color() string { return cmp.Or(colors[s.label], "#999") }

// plot draws a report: the median ratio of each system to kernel VXLAN.
func plot(r report) (string, error) {
	const left, top, width, height, gap, legend = 150, 60, 220, 110, 34, 30
	var present []scenario
	for _, sc := range scenarios {
		if r.Scenarios[sc.label] != nil {
			present = append(present, sc)
		}
	}
	var shown []system
	for _, s := range systems {
		if s.label != reference && slices.ContainsFunc(present, func(sc scenario) bool { return len(r.Scenarios[sc.label][s.label].Samples) > 0 }) {
			shown = append(shown, s)
		}
	}
	if len(present) == 0 || len(shown) == 0 {
		return "", errors.New("nothing to draw: no scenario has kernel VXLAN and another system")
	}
	w := left + len(present)*(width+gap)
	h := top + len(drawn)*(height+gap) + legend + 20
	var b strings.Builder
	text := func(x, y int, anchor, class, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="%s" class="%s">%s</text>`+"\n", x, y, anchor, class, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, "<title>Ratios to kernel VXLAN, %d processors</title>\n", r.Cores)
	b.WriteString("<style>text{font-family:sans-serif;fill:#222}.s{font-size:10px}.m{font-size:12px}.t{font-size:14px;font-weight:bold}</style>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", w, h)
	text(8, 18, "start", "t", fmt.Sprintf("Ratios to kernel VXLAN (line: 1.0), medians of %d interleaved rounds, %d processors", r.Rounds, r.Cores))
	text(8, 34, "start", "s", strings.TrimPrefix(r.Machine, "machine: "))
	for i, sc := range present {
		text(left+i*(width+gap)+width/2, top-8, "middle", "m", sc.label)
	}
	for row, d := range drawn {
		y0 := top + row*(height+gap)
		for n, line := range wrapWords(d.title, 22) {
			text(8, y0+20+14*n, "start", "m", line)
		}
		value := func(sc scenario, s system) (float64, bool) {
			got := r.Scenarios[sc.label]
			q := ratios(got[s.label].Samples[d.figure], got[reference].Samples[d.figure])
			if len(q) == 0 {
				return 0, false
			}
			return median(q), true
		}
		highest := 1.2
		for _, sc := range present {
			for _, s := range shown {
				if v, ok := value(sc, s); ok {
					highest = max(highest, min(v, 4)) // no tunnel on a plain card would make the rest invisible
				}
			}
		}
		for i, sc := range present {
			x0 := left + i*(width+gap)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#f7f7f7"/>`+"\n", x0, y0, width, height)
			bar := float64(width-8) / float64(len(shown))
			for k, s := range shown {
				v, ok := value(sc, s)
				if !ok {
					continue
				}
				tall := min(v, highest) / highest * float64(height-14)
				x := float64(x0+4) + float64(k)*bar
				fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s: %.2f</title></rect>`+"\n",
					x+1, float64(y0+height)-tall, bar-2, tall, s.color(), html.EscapeString(s.about), v)
				text(int(x+bar/2), int(float64(y0+height)-tall)-2, "middle", "s", fmt.Sprintf("%.2f", v))
			}
			one := float64(y0+height) - float64(height-14)/highest
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#636363" stroke-dasharray="3 2"/>`+"\n", x0, x0+width, one, one)
		}
	}
	x, y := 8, h-legend+6
	for _, s := range shown {
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/>`+"\n", x, y-9, s.color())
		text(x+14, y, "start", "s", s.about)
		x += 24 + 6*len(s.about)
	}
	b.WriteString("</svg>\n")
	return b.String(), nil
}

// wrapWords breaks a text into lines of at most n bytes, where it has spaces.
func wrapWords(s string, n int) (lines []string) {
	for _, word := range strings.Fields(s) {
		if k := len(lines) - 1; k >= 0 && len(lines[k])+1+len(word) <= n {
			lines[k] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
