package status

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
)

// Size of a curve in the tables, in pixels.
const (
	curveWidth  = 132
	curveHeight = 28
)

// drawCurves draws rates as lines over the last ten minutes, the newest at the right; all have one scale. It contains
// numbers and the label, which is escaped, and nothing else.
func drawCurves(width, height int, label string, lines ...curveLine) template.HTML {
	var top float32
	for _, l := range lines {
		for _, v := range l.points {
			top = max(top, v)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="curve" viewBox="0 0 %d %d" width="%d" height="%d" preserveAspectRatio="none" role="img" aria-label="%s">`,
		width, height, width, height, template.HTMLEscapeString(label))
	fmt.Fprintf(&b, `<line class="base" x1="0" x2="%d" y1="%d" y2="%d"/>`, width, height-1, height-1)
	if top > 0 {
		step := float64(width) / float64(samples-2)
		for _, l := range lines {
			if len(l.points) < 2 {
				continue
			}
			from := float64(width) - step*float64(len(l.points)-1)
			var at []string
			for i, v := range l.points {
				y := float64(height-2) - float64(v/top)*float64(height-4)
				at = append(at, fmt.Sprintf("%.1f,%.1f", from+step*float64(i), y))
			}
			if l.fill {
				fmt.Fprintf(&b, `<polygon class="%s" points="%.1f,%d %s %d,%d"/>`, l.class, from, height-1, strings.Join(at, " "), width, height-1)
			} else {
				fmt.Fprintf(&b, `<polyline class="%s" points="%s"/>`, l.class, strings.Join(at, " "))
			}
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers, constant classes, an escaped label
}

// curveLine is a line of a curve: its class is a constant of this package.
type curveLine struct {
	class  string
	fill   bool
	points []float32
}

// trafficCurve draws a vnet's.
func trafficCurve(width, height int, in, out []float32) template.HTML {
	label := "no traffic in the last ten minutes"
	if most := max(highest(in), highest(out)); most > 0 {
		label = fmt.Sprintf("in %s, out %s; in the last ten minutes at most %s", bits(last(in)), bits(last(out)), bits(most))
	}
	return drawCurves(width, height, label, curveLine{"in", true, in}, curveLine{"out", false, out})
}

func last(points []float32) float64 {
	if len(points) == 0 {
		return 0
	}
	return float64(points[len(points)-1])
}

func highest(points []float32) float64 {
	if len(points) == 0 {
		return 0
	}
	return float64(slices.Max(points))
}
