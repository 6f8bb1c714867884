package topology

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/plural"
)

// maxDrawn bounds the hosts that SVG draws, so that a page stays readable; the rest is counted below the picture.
const maxDrawn = 48

// maxVnets bounds the vnets in a host's box.
const maxVnets = 12

// box is the size of a host's box in user units.
const (
	boxWidth  = 190.0
	lineUnits = 16.0
	margin    = 16.0
)

// style is how a picture looks that stands alone.
const style = `
.box{fill:#fff;stroke:#345;stroke-width:1.5}.self{fill:#eef4ff}.stale{stroke-dasharray:6 3}.gone{stroke-dasharray:1 4;opacity:.7}
.link{stroke:#357;fill:none;stroke-linecap:round}.group{stroke-dasharray:1 7}.none{stroke:#999;stroke-dasharray:1 9;stroke-width:1}
text{fill:#123}.name{font-weight:bold}.down{fill:#a00;font-weight:bold}.note{font-size:11px}.dot{fill:#4a8}.lock{fill:#345;stroke:#345;stroke-width:2}.halo{stroke:#fff;stroke-width:4;paint-order:stroke}
@media (prefers-color-scheme:dark){.box{fill:#1c232b;stroke:#9bd}.self{fill:#16263a}.link{stroke:#7ac}text{fill:#dde}.down{fill:#f88}.halo{stroke:#111}.lock{fill:#9bd;stroke:#9bd}}
`

// SVG draws a topology: the first host in the middle where there are more than two, the others around it; links as thick
// as what went over them, solid for unicast, dotted for the group alone, with a lock where a vnet is secured; vnets and
// their domains in the hosts' boxes. It stands alone, needs nothing from elsewhere, follows the reader's dark mode, and
// tells the same in words to screen readers. Of many hosts and vnets it draws some, those that are down among them, and counts
// the others. href, if not nil, says what a host's box leads to; "" nothing.
func (t Topology) SVG(href func(Host) string) string { return t.draw(href, style) }

// Inline is SVG without a style of its own, for a page that has rules for the classes: box, self, stale, gone, link, group,
// none, name, down, note, halo, dot and lock.
func (t Topology) Inline(href func(Host) string) string { return t.draw(href, "") }

func (t Topology) draw(href func(Host) string, style string) string {
	hosts := t.Hosts[:min(len(t.Hosts), maxDrawn)]
	heights := make([]float64, len(hosts))
	tallest := 0.0
	for i, h := range hosts {
		heights[i] = lineUnits * float64(len(h.svgLines())+1)
		tallest = max(tallest, heights[i])
	}
	x, y, width, height := place(len(hosts), tallest)
	// The boxes are not all as tall as the tallest: what is empty at the sides is cut off.
	left, right, top, bottom := width, 0.0, height, 0.0
	for i := range hosts {
		left, right = min(left, x[i]-boxWidth/2-margin), max(right, x[i]+boxWidth/2+margin)
		top, bottom = min(top, y[i]-heights[i]/2-margin), max(bottom, y[i]+heights[i]/2+margin)
	}
	for i := range hosts {
		x[i], y[i] = x[i]-left, y[i]-top
	}
	width, height = max(0, right-left), max(0, bottom-top)
	role := "img"
	if href != nil { // links in an image are not found by those who can't see it
		role = "group"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="%s" aria-labelledby="topology-title topology-desc" font-family="system-ui, sans-serif" font-size="12">`+"\n", width, height+lineUnits, role)
	fmt.Fprintf(&b, "<title id=\"topology-title\">Vnets of %s</title>\n<desc id=\"topology-desc\">%s</desc>\n", escape(t.first()), escape(t.text(maxDrawn-1, maxVnets)))
	if style != "" {
		b.WriteString("<style>" + style + "</style>\n")
	}
	edges := t.edges()
	for _, e := range edges {
		if e.a < len(hosts) && e.b < len(hosts) {
			class := "link"
			if e.Way != ByUnicast {
				class += " " + string(e.Way)
			}
			fmt.Fprintf(&b, `<line class="%s" x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" stroke-width="%.1f"><title>%s</title></line>`+"\n",
				class, x[e.a], y[e.a], x[e.b], y[e.b], e.width(),
				escape(fmt.Sprintf("%s to %s: %s %s", hosts[e.a].Label(), hosts[e.b].Label(), e.Way, strings.Join(e.lines(), ", "))))
		}
	}
	for _, e := range edges {
		if e.a < len(hosts) && e.b < len(hosts) {
			lines := e.lines()
			mx, my := middle(x[e.a], y[e.a], heights[e.a], x[e.b], y[e.b], heights[e.b])
			if math.Abs(x[e.a]-x[e.b]) > 3*math.Abs(y[e.a]-y[e.b]) { // above a line that would cross it out
				my -= 8 + e.width()/2 + 7*float64(len(lines)-1)
			}
			if e.Secured { // a lock; not every font has one
				lines = lines[1:]
				ly := my - 7*float64(len(lines)) - 9
				fmt.Fprintf(&b, `<g class="lock"><title>secured</title><path d="M%.0f %.0fv-4a4 4 0 0 1 8 0v4" fill="none"/><rect x="%.0f" y="%.0f" width="12" height="9" rx="2"/></g>`+"\n",
					mx-4, ly, mx-6, ly)
				my += 5
			}
			for i, s := range lines {
				fmt.Fprintf(&b, `<text class="note halo" text-anchor="middle" x="%.0f" y="%.0f">%s</text>`+"\n",
					mx, my+4+14*(float64(i)-float64(len(lines)-1)/2), escape(s))
			}
		}
	}
	for i, h := range hosts {
		link := ""
		if href != nil {
			link = href(h)
		}
		if link != "" {
			fmt.Fprintf(&b, `<a href="%s">`, escape(link))
		}
		left, top := x[i]-boxWidth/2, y[i]-heights[i]/2
		fmt.Fprintf(&b, `<g><rect class="box %s" x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="8"/>`+"\n", h.State, left, top, boxWidth, heights[i])
		for j, l := range h.svgLines() {
			at := top + lineUnits*(float64(j)+1.2)
			if l.dot {
				fmt.Fprintf(&b, `<circle cx="%.0f" cy="%.0f" r="4" class="dot"/>`, left+24, at-4)
			}
			fmt.Fprintf(&b, `<text class="%s" x="%.0f" y="%.0f">%s</text>`+"\n", l.class, left+l.indent, at, escape(cut(l.text, 28)))
		}
		b.WriteString("</g>")
		if link != "" {
			b.WriteString("</a>")
		}
		b.WriteByte('\n')
	}
	foot := "group " + t.Group
	if t.Group == "" {
		foot = "no underlay"
	}
	if n := len(t.Hosts) - len(hosts); n > 0 {
		foot += fmt.Sprintf("; %d more hosts are not drawn", n)
	}
	fmt.Fprintf(&b, `<text class="note" x="8" y="%.0f">%s</text>`+"\n</svg>\n", height+lineUnits-5, escape(foot))
	return b.String()
}

// first is the name of the first host.
func (t Topology) first() string {
	if len(t.Hosts) == 0 {
		return "no host"
	}
	return t.Hosts[0].Label()
}

// place says where the middles of boxes are: two side by side, more around the first.
func place(n int, tallest float64) (x, y []float64, width, height float64) {
	x, y = make([]float64, n), make([]float64, n)
	if n <= 2 {
		for i := range n {
			x[i], y[i] = margin+boxWidth/2+float64(i)*2.2*boxWidth, margin+tallest/2
		}
		return x, y, 2*margin + boxWidth + float64(max(0, n-1))*2.2*boxWidth, 2*margin + tallest
	}
	// Boxes on an ellipse that is wider than tall, far enough apart that none covers another; the first to the right.
	around := float64(n - 1)
	rx := max(boxWidth*2.2, (boxWidth+24)*around/math.Pi/1.4)
	ry := max(tallest*1.2, (tallest+24)*around/math.Pi/1.4)
	cx, cy := margin+boxWidth/2+rx, margin+tallest/2+ry
	x[0], y[0] = cx, cy
	for i := 1; i < n; i++ {
		angle := 2 * math.Pi * float64(i-1) / around
		x[i], y[i] = cx+rx*math.Cos(angle), cy+ry*math.Sin(angle)
	}
	return x, y, 2 * cx, 2 * cy
}

// middle is the middle of what is to be seen of a line between the middles of two boxes.
func middle(ax, ay, aHeight, bx, by, bHeight float64) (x, y float64) {
	dx, dy := math.Abs(bx-ax), math.Abs(by-ay)
	within := func(height float64) float64 { // the part of the line that a box covers
		return min(boxWidth/2/max(dx, 1e-9), height/2/max(dy, 1e-9))
	}
	at := (within(aHeight) + 1 - within(bHeight)) / 2
	return ax + at*(bx-ax), ay + at*(by-ay)
}

// svgLine is a line of a host's box.
type svgLine struct {
	text   string
	class  string
	indent float64
	dot    bool
}

func (h Host) svgLines() []svgLine {
	out := []svgLine{{plain(h.Label()), "name", 10, false}}
	second := ""
	if h.Name != "" {
		second = h.Address()
	}
	if h.State != Self {
		second = strings.TrimSpace(second + " " + string(h.State))
	}
	if second != "" {
		out = append(out, svgLine{second, "note", 10, false})
	}
	vnets := troublesFirst(h.Vnets, maxVnets)
	for i, v := range vnets {
		if i == maxVnets {
			out = append(out, svgLine{fmt.Sprintf("and %d more vnets", len(vnets)-i), "note", 10, false})
			break
		}
		if !v.Up && h.State == Self {
			out = append(out, svgLine{v.title() + ": down", "down", 10, false})
			continue
		}
		out = append(out, svgLine{v.title(), "note", 10, false})
		for i, p := range v.Ports {
			if i == shown {
				out = append(out, svgLine{fmt.Sprintf("and %d more", len(v.Ports)-i), "note", 34, false})
				break
			}
			out = append(out, svgLine{p.label(), "note", 34, true})
		}
		if len(v.Ports) == 0 && h.State != Self {
			out = append(out, svgLine{plural.Of(v.MACs, "MAC"), "note", 34, false})
		}
	}
	return out
}

// troublesFirst puts those that are down first where there are more than n, so that they are not among what is left out.
func troublesFirst(vnets []Vnet, n int) []Vnet {
	if len(vnets) <= n {
		return vnets
	}
	vnets = slices.Clone(vnets)
	slices.SortStableFunc(vnets, func(a, b Vnet) int {
		switch {
		case a.Up == b.Up:
			return 0
		case b.Up:
			return -1
		}
		return 1
	})
	return vnets
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(strings.ReplaceAll(s, "\r", "")))
	return b.String()
}
