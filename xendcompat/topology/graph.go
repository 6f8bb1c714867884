package topology

import (
	"fmt"
	"strings"
)

// DOT draws a topology in the language of Graphviz: `vn topology --format dot | dot -Tpdf`.
func (t Topology) DOT() string {
	var b strings.Builder
	b.WriteString("graph vnets {\n  layout=neato; overlap=false; splines=true;\n  node [shape=box, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\"];\n")
	for i, h := range t.Hosts {
		style := "rounded"
		switch h.State {
		case Stale:
			style = "rounded,dashed"
		case Gone:
			style = "rounded,dotted"
		case Self, Live:
		}
		fmt.Fprintf(&b, "  h%d [label=%s, style=\"%s\"];\n", i, quoteDOT(h.lines()), style)
		for j, v := range h.Vnets {
			fmt.Fprintf(&b, "  h%dv%d [label=%s, shape=ellipse];\n  h%d -- h%dv%d;\n", i, j, quoteDOT(v.lines()), i, i, j)
		}
	}
	for _, e := range t.edges() {
		style := map[Way]string{ByUnicast: "solid", ByGroup: "dotted", ByNone: "invis"}[e.Way]
		fmt.Fprintf(&b, "  h%d -- h%d [style=%s, penwidth=%.1f, label=%s];\n", e.a, e.b, style, e.width(), quoteDOT(e.lines()))
	}
	b.WriteString("}\n")
	return b.String()
}

// Mermaid draws a topology as a flowchart of Mermaid, which wikis and forges show.
func (t Topology) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for i, h := range t.Hosts {
		fmt.Fprintf(&b, "  h%d[%s]\n", i, quoteMermaid(h.lines()))
		for j, v := range h.Vnets {
			fmt.Fprintf(&b, "  h%dv%d([%s])\n  h%d --- h%dv%d\n", i, j, quoteMermaid(v.lines()), i, i, j)
		}
	}
	for _, e := range t.edges() {
		line := map[Way]string{ByUnicast: "===", ByGroup: "-.-", ByNone: "~~~"}[e.Way]
		if text := e.lines(); len(text) > 0 && e.Way != ByNone {
			fmt.Fprintf(&b, "  h%d %s|%s| h%d\n", e.a, line, quoteMermaid(text), e.b)
			continue
		}
		fmt.Fprintf(&b, "  h%d %s h%d\n", e.a, line, e.b)
	}
	return b.String()
}

// lines are what stands in a host's box.
func (h Host) lines() []string {
	lines := []string{h.Label()}
	if h.Name != "" && h.Address() != "" {
		lines = append(lines, h.Address())
	}
	if h.State != Self {
		lines = append(lines, string(h.State))
	}
	return lines
}

// shown bounds the domains that a drawing names for each vnet.
const shown = 8

// lines are what stands in a vnet's box.
func (v Vnet) lines() []string {
	lines := []string{v.title()}
	if !v.Up && v.Problem != "" {
		lines = append(lines, "down")
	}
	for i, p := range v.Ports {
		if i == shown {
			return append(lines, fmt.Sprintf("and %d more", len(v.Ports)-i))
		}
		lines = append(lines, p.label())
	}
	return lines
}

// lines are what stands at a link.
func (l Link) lines() []string {
	var lines []string
	if l.Secured {
		lines = append(lines, "secured")
	}
	if s := l.traffic(); s != "" {
		lines = append(lines, s)
	}
	if l.Note != "" {
		lines = append(lines, l.Note)
	}
	return lines
}

// width is how thick a link is drawn: by the decimal logarithm of its bytes.
func (l Link) width() float64 {
	w := 1.0
	for n := l.TxBytes + l.RxBytes; n >= 1e5; n /= 10 {
		w++
	}
	return min(w, 8)
}

func quoteDOT(lines []string) string {
	var quoted []string
	for _, l := range lines {
		quoted = append(quoted, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(plain(l)))
	}
	return `"` + strings.Join(quoted, `\n`) + `"`
}

// quoteMermaid writes what has a meaning to Mermaid or HTML as entity codes.
func quoteMermaid(lines []string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, l := range lines {
		if i > 0 {
			b.WriteString("<br/>")
		}
		for _, r := range plain(l) {
			if strings.ContainsRune("\"<>&#;|[](){}`\\", r) {
				fmt.Fprintf(&b, "#%d;", r)
				continue
			}
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
