// Package finding has what `vn check` finds: one line for each fact, with its evidence and its cure, and the catalogue of
// all that it may find.
package finding

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/plural"
)

// Level says how bad a finding is.
type Level string

// The levels, the worst first.
const (
	Fail Level = "fail" // vnets, or a host, are cut off: exit status 2
	Warn Level = "warn" // something does not work as it should: exit status 1
	Skip Level = "skip" // a check that could not be made; the text says why
	OK   Level = "ok"
)

func (l Level) rank() int { return slices.Index([]Level{Fail, Warn, Skip, OK}, l) }

// Finding is one of them.
type Finding struct {
	// Name is that of an entry of Catalogue, and of a part of docs/troubleshooting.md.
	Name  string `json:"name"`
	Level Level  `json:"level"`
	// Of is what it is about: "192.0.2.2", "vnet 97", "local".
	Of string `json:"of"`
	// Host is the name of the host whose address Of is, "" if it has none that is known.
	Host string `json:"host,omitempty"`
	// Text says what is so, with its evidence; Cure is a command, or what to do, "" where nothing is.
	Text string `json:"text"`
	Cure string `json:"cure,omitempty"`
	// Detail says that the text output shows it with -v only.
	Detail bool `json:"detail,omitempty"`
}

// Host is what a host answered.
type Host struct {
	Address   string   `json:"address"`
	Name      string   `json:"name,omitempty"`      // as configured, or by the resolver
	Addresses []string `json:"addresses,omitempty"` // as it said
	Version   string   `json:"version,omitempty"`
	// Unicast and Group say whether a question that went that way was answered, and HeardByGroup whether this host hears
	// the other by the group.
	Unicast      bool `json:"unicast"`
	Group        bool `json:"group"`
	HeardByGroup bool `json:"heard_by_group"`
	// RTT is in milliseconds, 0 if it answered nothing; Clock by how many seconds its clock is ahead, if it said.
	RTT   float64  `json:"rtt_ms,omitempty"`
	Clock *float64 `json:"clock_ahead_s,omitempty"`
	// MTUTo and MTUFrom are the longest IP packets, in bytes, that nobody fragments; 0: not found out.
	MTUTo   int `json:"mtu_to,omitempty"`
	MTUFrom int `json:"mtu_from,omitempty"`
	// Vnets are the ids of the vnets without security that it has.
	Vnets []string `json:"vnets,omitempty"`
	// NotAsked says why it was not asked.
	NotAsked string `json:"not_asked,omitempty"`
}

// Report is all that was found.
type Report struct {
	Name     string    `json:"name"`    // of this host
	Version  string    `json:"version"` // of the daemon, "xend 0.2.0"; "" if none answered
	Time     time.Time `json:"time"`
	Summary  string    `json:"summary"` // underlay, group, vnets, fast path, in a line
	Hosts    []Host    `json:"hosts"`
	Findings []Finding `json:"findings"`
	// Took is in seconds.
	Took float64 `json:"took_s"`
}

// Add adds a finding.
func (r *Report) Add(f Finding) { r.Findings = append(r.Findings, f) }

// Sort puts the worst first.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(a.Level.rank(), b.Level.rank()) })
}

// Count is the number of findings of a level.
func (r *Report) Count(l Level) (n int) {
	for _, f := range r.Findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// ExitStatus is 0 where all is well, 1 with warnings, 2 with failures.
func (r *Report) ExitStatus() int {
	switch {
	case r.Count(Fail) > 0:
		return 2
	case r.Count(Warn) > 0:
		return 1
	}
	return 0
}

// Has reports whether something of that name was found to be wrong.
func (r *Report) Has(name string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Name == name && (f.Level == Fail || f.Level == Warn) })
}

// WriteJSON writes all of it.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes it for a person, the worst first; verbose shows what is well one by one, and what hosts answered.
func (r *Report) WriteText(w io.Writer, verbose bool) {
	head := clean(r.Name)
	for _, s := range []string{r.Version, r.Summary} {
		if s != "" {
			head += "  " + clean(s)
		}
	}
	fmt.Fprintf(w, "%s\n\n", head)
	if verbose {
		r.writeHosts(w)
	}
	list, hidden := r.lines(verbose)
	for _, f := range list {
		word := string(f.Level)
		if f.Level == Fail || f.Level == Warn {
			word = strings.ToUpper(word)
		}
		of := f.subject()
		if len(f.all) > 1 {
			of = fmt.Sprintf("%d times", len(f.all))
		}
		fmt.Fprintf(w, "%-5s %-18s %s\n", word, clean(of), clean(f.Text))
		if len(f.all) > 1 {
			text := strings.Join(f.all[:min(len(f.all), maxTogether)], ", ")
			if n := len(f.all) - maxTogether; n > 0 {
				text += fmt.Sprintf(" and %d more; -v lists them", n)
			}
			fmt.Fprintf(w, "      of %s\n", clean(text))
		}
		if f.Level == OK {
			continue
		}
		if f.Cure != "" {
			fmt.Fprintf(w, "      → %s\n", clean(f.Cure))
		}
		if f.Level == Skip {
			continue
		}
		fmt.Fprintf(w, "      troubleshooting: %s\n", f.Name)
		if f.more > 0 {
			fmt.Fprintf(w, "%-5s %-18s %d more of %s; -v lists them\n", word, "", f.more, f.Name)
		}
	}
	if hidden > 0 {
		fmt.Fprintf(w, "ok    %-18s %d more checks found nothing, or could not be made; -v lists them\n", "", hidden)
	}
	fmt.Fprintln(w)
	switch fails, warns := r.Count(Fail), r.Count(Warn); {
	case fails == 0 && warns == 0:
		if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == Skip && !f.Detail }) {
			fmt.Fprintln(w, "Nothing was found to be wrong, but not all could be looked at.")
			return
		}
		fmt.Fprintln(w, "All is well.")
	default:
		fmt.Fprintf(w, "%s, %s\n", plural.Of(fails, "failure"), plural.Of(warns, "warning"))
	}
}

const (
	// minTogether is from how many findings on that differ only in what they are of are told in one; maxTogether is how many
	// of these are named then.
	minTogether, maxTogether = 3, 8
	// maxOfAName bounds the findings of one name that are told.
	maxOfAName = 10
)

// line is a finding as it is told: of all of these, if that is more than one; more is how many of its name are not told behind it.
type line struct {
	Finding
	all  []string
	more int
}

// subject is what a finding is of, with that host's name if it is one that has one.
func (f *Finding) subject() string {
	if f.Host == "" {
		return f.Of
	}
	return f.Of + " (" + f.Host + ")"
}

// lines are what is told of the findings, and how many checks are not told one by one. verbose tells all.
func (r *Report) lines(verbose bool) (list []line, hidden int) {
	if verbose {
		for _, f := range r.Findings {
			list = append(list, line{Finding: f})
		}
		return list, 0
	}
	alike := map[Finding][]string{}
	key := func(f Finding) Finding {
		f.Of, f.Host = "", ""
		return f
	}
	for _, f := range r.Findings {
		alike[key(f)] = append(alike[key(f)], f.subject())
	}
	type name struct {
		level Level
		name  string
	}
	together, told, last := map[Finding]bool{}, map[name]int{}, map[name]int{}
	for _, f := range r.Findings {
		k, all := name{f.Level, f.Name}, alike[key(f)]
		switch {
		case f.Detail:
			hidden++
			continue
		case together[key(f)]:
			continue
		case f.Level != OK && told[k] == maxOfAName:
			list[last[k]].more++
			continue
		case len(all) < minTogether:
			all = nil
		}
		together[key(f)] = all != nil
		told[k]++
		last[k] = len(list)
		list = append(list, line{Finding: f, all: all})
	}
	return list, hidden
}

func (r *Report) writeHosts(w io.Writer) {
	if len(r.Hosts) == 0 {
		return
	}
	word := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	width := 14 // of versions: those of what is between releases are longer
	for _, h := range r.Hosts {
		width = max(width, min(len(clean(h.Version)), 40))
	}
	fmt.Fprintf(w, "%-24s %-*s %8s %8s %8s %10s %7s %7s  %s\n", "Host", width, "Version", "unicast", "group", "heard", "RTT", "MTU to", "from", "vnets")
	for _, h := range r.Hosts {
		if h.NotAsked != "" {
			fmt.Fprintf(w, "%-24s not asked: %s\n", clean(strings.TrimSpace(h.Address+" "+h.Name)), clean(h.NotAsked))
			continue
		}
		rtt := "-"
		if h.RTT > 0 {
			rtt = fmt.Sprintf("%.2f ms", h.RTT)
		}
		fmt.Fprintf(w, "%-24s %-*s %8s %8s %8s %10s %7s %7s  %s\n", clean(strings.TrimSpace(h.Address+" "+h.Name)), width, cmp.Or(clean(h.Version), "-"), word(h.Unicast), word(h.Group),
			word(h.HeardByGroup), rtt, size(h.MTUTo), size(h.MTUFrom), strings.Join(h.Vnets, " "))
	}
	fmt.Fprintln(w)
}

func size(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// clean takes out what a terminal would obey: other hosts choose some of the texts.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
