// Package events keeps the last things that an operator must know, for `vn events`, the status page and `vn trace`: the
// lines of the daemon's log from INFO on, whatever of them the log itself keeps. One line tells of each change of state
// and none of a packet, so the log's words are the events' words.
package events

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// keptInfos and keptWarnings bound what is kept: what happens often does not push out what matters more.
	keptInfos, keptWarnings = 1024, 512
	// maxText bounds a text and a value of an event, in bytes, and maxAttrs the number of its values: clients and other
	// hosts choose some of them.
	maxText, maxAttrs = 512, 16
)

// Event is one of them.
type Event struct {
	// Seq counts the events of a run of the daemon, from 1 on.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Level is INFO, WARNING or ERROR.
	Level string `json:"level"`
	// Text says what happened; docs/troubleshooting.md has each text. Attrs say to what.
	Text  string `json:"text"`
	Attrs []Attr `json:"attrs,omitempty"`
}

// Attr is a value of an event, as in the log.
type Attr struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Attr returns the value of that name, "" if the event has none.
func (e Event) Attr(key string) string {
	for _, a := range e.Attrs {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

// String is the event in one line: "WARNING text key=value".
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(e.Level + " " + e.Text)
	for _, a := range e.Attrs {
		b.WriteString(" " + a.Key + "=")
		if strings.ContainsAny(a.Value, " \"=") || a.Value == "" {
			b.WriteString(`"` + strings.ReplaceAll(a.Value, `"`, `\"`) + `"`)
			continue
		}
		b.WriteString(a.Value)
	}
	return b.String()
}

// Log is some of the events, in order, and where to go on.
type Log struct {
	// Started is when the daemon did: Seq begins anew with each run.
	Started time.Time `json:"started"`
	// Next is the Seq of the next event, and Lost how many of those that were asked for are kept no more.
	Next   uint64  `json:"next"`
	Lost   uint64  `json:"lost"`
	Events []Event `json:"events"`
}

// Ring keeps the last events. Any goroutine may use it. Use New.
type Ring struct {
	started time.Time

	mu       sync.Mutex
	next     uint64
	infos    ring
	warnings ring
}

// ring is a list that forgets its first element for one more than fit.
type ring struct {
	list []Event
	size int
	at   int // of the oldest, once it is full
}

func (r *ring) add(e Event) {
	if len(r.list) < r.size {
		r.list = append(r.list, e)
		return
	}
	r.list[r.at] = e
	r.at = (r.at + 1) % r.size
}

// New returns an empty ring.
func New() *Ring {
	return &Ring{started: time.Now(), next: 1, infos: ring{size: keptInfos}, warnings: ring{size: keptWarnings}}
}

// Since returns the events from seq on that are kept, at most limit of them (0: all), the newest where there are more.
// Seq 0 and 1 mean all. A nil Ring has none.
func (r *Ring) Since(seq uint64, limit int) Log {
	if r == nil {
		return Log{Next: 1, Events: []Event{}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := Log{Started: r.started, Next: r.next, Events: []Event{}}
	seq = max(seq, 1)
	for _, from := range []ring{r.infos, r.warnings} {
		for _, e := range from.list {
			if e.Seq >= seq {
				l.Events = append(l.Events, e)
			}
		}
	}
	slices.SortFunc(l.Events, func(a, b Event) int { return int(int64(a.Seq - b.Seq)) })
	if seq < r.next {
		l.Lost = r.next - seq - uint64(len(l.Events))
	}
	if limit > 0 && len(l.Events) > limit {
		l.Events = l.Events[len(l.Events)-limit:]
	}
	return l
}

// add keeps an event, and gives it its number.
func (r *Ring) add(e Event, important bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Seq = r.next
	r.next++
	if important {
		r.warnings.add(e)
	} else {
		r.infos.add(e)
	}
}

// Handler returns a handler that keeps what it is given from INFO on, and passes to next what next wants.
func (r *Ring) Handler(next slog.Handler) slog.Handler { return handler{ring: r, next: next} }

type handler struct {
	ring  *Ring
	next  slog.Handler
	attrs []Attr
	group string // in front of keys
}

var _ slog.Handler = handler{}

// Enabled implements [slog.Handler].
func (h handler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.next.Enabled(ctx, l)
}

// Handle implements [slog.Handler].
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		e := Event{Time: r.Time, Level: level(r.Level), Text: clean(r.Message), Attrs: slices.Clone(h.attrs)}
		r.Attrs(func(a slog.Attr) bool {
			e.Attrs = appendAttr(e.Attrs, h.group, a)
			return true
		})
		h.ring.add(e, r.Level >= slog.LevelWarn)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.next, h.attrs = h.next.WithAttrs(attrs), slices.Clone(h.attrs)
	for _, a := range attrs {
		h.attrs = appendAttr(h.attrs, h.group, a)
	}
	return h
}

// WithGroup implements [slog.Handler].
func (h handler) WithGroup(name string) slog.Handler {
	h.next = h.next.WithGroup(name)
	if name != "" {
		h.group += name + "."
	}
	return h
}

// appendAttr appends a value in words, or those of a group.
func appendAttr(list []Attr, group string, a slog.Attr) []Attr {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, b := range v.Group() {
			list = appendAttr(list, group, b)
		}
		return list
	}
	if a.Key == "" || len(list) >= maxAttrs {
		return list
	}
	return append(list, Attr{clean(group + a.Key), clean(v.String())})
}

// level is the level's name as the log has it.
func level(l slog.Level) string {
	switch {
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARNING"
	}
	return "ERROR"
}

// clean bounds a text, and takes out what a terminal would obey.
func clean(s string) string {
	if len(s) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}
