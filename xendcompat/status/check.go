package status

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/httpx"
)

const (
	// checkTimeout bounds a check, and checkAge is how long its findings serve all who ask.
	checkTimeout = 30 * time.Second
	checkAge     = 5 * time.Second
)

// checks tells whether somebody may have all hosts asked.
func (h *handler) checks() bool { return h.o.Check != nil && !h.access.files.ReadOnly }

// checked is what a check found, or why it could not be made.
type checked struct {
	finding.Report
	err error
}

// check answers for /xend/check: a GET offers it, a POST makes it. It asks other hosts, so that no link may do it.
func (h *handler) check(ctx context.Context, r *httpx.Request, who string) *httpx.Reply {
	f := h.frame(ctx, who, "check", (*finding.Report)(nil))
	if reads(r) {
		return reply(http.StatusOK, draw("check", f))
	}
	if !h.sealed(r, who) {
		return forged()
	}
	found := h.found.fresh(h.o.Now, checkAge, func() checked {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		report, err := h.o.Check(ctx)
		return checked{report, err}
	})
	if found.err != nil {
		f.Problem = "The check could not be made: " + found.err.Error()
		return reply(http.StatusInternalServerError, draw("check", f))
	}
	f.Body = &found.Report
	return reply(http.StatusOK, draw("check", f))
}

// eventsPage answers for /xend/events: all that are kept, newest first; q=TEXT: those in which it occurs.
func (h *handler) eventsPage(ctx context.Context, r *httpx.Request, who string) *httpx.Reply {
	search := strings.TrimSpace(parseForm(r).Get("q"))
	f := h.frame(ctx, who, "events", search)
	f.Events = h.ops.Events(0, 0).Events
	slices.Reverse(f.Events)
	if search != "" {
		f.Events = slices.DeleteFunc(f.Events, func(e events.Event) bool {
			return !strings.Contains(strings.ToLower(e.String()), strings.ToLower(search))
		})
	}
	return reply(http.StatusOK, draw("allevents", f))
}
