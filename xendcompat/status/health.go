package status

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// healthz answers whether the daemon is alive and how this host is: 200 while it is well or degraded, 503 once it is
// broken. Who may see the page is told the troubles, too.
func (s *Status) healthz(ctx context.Context, mayLook bool) *httpx.Reply {
	h := s.troubles(ctx, probeAge)
	var b bytes.Buffer
	fmt.Fprintln(&b, h.Severity())
	if mayLook {
		writeTroubles(&b, h)
	}
	if h.Severity() == service.Broken {
		return httpx.Text(http.StatusServiceUnavailable, "Service unavailable", b.String())
	}
	return httpx.OK(httpx.Plain, b.Bytes())
}

// readyz answers whether this host carries what is sent to its vnets: 200 if it does, 503 if a vnet is down or there is no
// way to other hosts. On a host whose data plane is off there is nothing to be ready for.
func (s *Status) readyz(ctx context.Context, mayLook bool) *httpx.Reply {
	h := s.troubles(ctx, probeAge)
	reason := ""
	up := h.Off
	for _, u := range h.Underlays {
		up = up || u.Up
	}
	switch {
	case !up:
		reason = "no underlay is up"
	case h.Up < h.Vnets:
		reason = fmt.Sprintf("%d of %d vnets are up", h.Up, h.Vnets)
	}
	if reason == "" {
		return httpx.OK(httpx.Plain, []byte("ready\n"))
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, "not ready:", reason)
	if mayLook {
		writeTroubles(&b, h)
	}
	return httpx.Text(http.StatusServiceUnavailable, "Service unavailable", b.String())
}

func writeTroubles(b *bytes.Buffer, h service.Health) {
	for _, t := range h.Troubles {
		fmt.Fprintf(b, "%s: %s: %s\n", t.Severity, t.Of, t.Text)
		if t.Cure != "" {
			fmt.Fprintf(b, "  → %s\n", t.Cure)
		}
	}
}
