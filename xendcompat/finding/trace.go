package finding

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/events"
)

// Trace is where something is and which way frames to it go.
type Trace struct {
	// Target is what was asked for.
	Target string `json:"target"`
	// Places are where it is, in each vnet; none: it was not found, and Text says where it was looked for.
	Places []Place `json:"places"`
	Text   string  `json:"text,omitempty"`
}

// Place is a MAC in a vnet.
type Place struct {
	MAC  string `json:"mac"`
	Vnet string `json:"vnet"`
	// How says how Target became this MAC: "answered ARP in 0.4 ms"; "" for a MAC.
	How string `json:"how,omitempty"`
	// Domain is the name of the domain, as far as this host knows.
	Domain string `json:"domain,omitempty"`

	// Here says that it lives on this host, behind Port of Bridge; "" if the bridge has not learned it.
	Here   bool   `json:"here"`
	Bridge string `json:"bridge,omitempty"`
	Port   string `json:"port,omitempty"`
	// Host is the other host that it is behind; "" if it is here, or nobody knows.
	Host string `json:"host,omitempty"`
	// HostName is what that host is called, as configured or by the resolver; "" if it has no name that is known.
	HostName string `json:"host_name,omitempty"`
	// Source is who says so: "frame", "announce" or "hand", Age for how many seconds nothing new was heard.
	Source string  `json:"source,omitempty"`
	Age    float64 `json:"age_s"`
	// Since is when it came there and Before where it was until then, as far as the log still tells; else zero and "".
	Since  time.Time `json:"since,omitzero"`
	Before string    `json:"before,omitempty"`
	// Claims are the other hosts that say, when they are asked, that they have it, and Asked says so in words.
	Claims []string `json:"claims,omitempty"`
	Asked  string   `json:"asked,omitempty"`
	// Damped is for how many seconds moves are ignored since it moved to and fro.
	Damped float64 `json:"damped_s,omitempty"`
	// Path is the way of frames in words, Probe what a probe of the host said.
	Path    string `json:"path,omitempty"`
	Probe   string `json:"probe,omitempty"`
	Reached *bool  `json:"reached,omitempty"`
	// Events are its moves, and what else was told of it, the oldest first.
	Events []events.Event `json:"events,omitempty"`
}

// WriteText writes it for a person, a block for each place.
func (t *Trace) WriteText(w io.Writer) {
	if len(t.Places) == 0 {
		fmt.Fprintf(w, "%s was not found: %s\n", clean(t.Target), clean(t.Text))
		return
	}
	for i, p := range t.Places {
		if i > 0 {
			fmt.Fprintln(w)
		}
		p.writeText(w, t.Target)
	}
}

func (p *Place) writeText(w io.Writer, target string) {
	line := func(word, format string, args ...any) {
		fmt.Fprintf(w, "%-8s %s\n", word, clean(fmt.Sprintf(format, args...)))
	}
	head := p.MAC
	if !strings.EqualFold(target, p.MAC) {
		head = target + " is " + p.MAC
	}
	if p.How != "" {
		head += " (" + p.How + ")"
	}
	fmt.Fprintf(w, "%s on vnet %s\n", clean(head), clean(p.Vnet))
	since := ""
	if p.Source != "" {
		since = fmt.Sprintf(", by %s %s ago", p.Source, seconds(p.Age))
		if p.Source == "hand" { // or by a script: Age is since it was last heard of
			since = fmt.Sprintf(", as xend was told (vif-add, or a domain's start); last frame or news %s ago", seconds(p.Age))
		}
	}
	if !p.Since.IsZero() {
		since += fmt.Sprintf("; since %s, before on %s", p.Since.Local().Format("15:04:05"), p.Before)
	}
	switch {
	case p.Here:
		where := cmp.Or(p.Port, "a port that "+cmp.Or(p.Bridge, "no bridge")+" has not learned")
		if p.Port != "" {
			where = "port " + p.Port + " of " + p.Bridge
		}
		if p.Domain != "" {
			where += ", domain " + p.Domain
		}
		line("here", "%s%s", where, since)
	case p.Host != "":
		host := p.Host
		if p.HostName != "" {
			host += " (" + p.HostName + ")"
		}
		line("behind", "%s%s", host, since)
	default:
		line("nowhere", "no frame from it was seen lately: frames to it are flooded")
	}
	if p.Asked != "" {
		line("asked", "%s", p.Asked)
	}
	if p.Damped > 0 {
		line("held", "it moved to and fro, and stays there for %s", seconds(p.Damped))
	}
	for _, e := range p.Events {
		line("event", "%s %s", e.Time.Local().Format("15:04:05"), e)
	}
	if p.Path != "" {
		line("path", "%s", p.Path)
	}
	if p.Probe != "" {
		line("probe", "%s", p.Probe)
	}
}

func seconds(s float64) string {
	switch {
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.0f min", s/60)
}
