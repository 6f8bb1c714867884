package status

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/xenvnet/xend/xendcompat/httpx"
)

// Paths that this package answers, besides the pages below /xend.
const (
	pathMetrics = "metrics"
	pathHealthz = "healthz"
	pathReadyz  = "readyz"
	pathLogin   = "login"
	pathLogout  = "logout"
)

// handler answers for a listener.
type handler struct {
	*Status
	access *Access
	next   httpx.Handler // nil: nobody
}

// Handler returns what answers the requests of those whom access lets in. What it does not know is left to next, which may
// be nil. Health checks are answered to everybody, in a word.
func (s *Status) Handler(access *Access, next httpx.Handler) httpx.Handler {
	return &handler{s, access, next}
}

// Handle implements [httpx.Handler].
func (h *handler) Handle(ctx context.Context, r *httpx.Request) *httpx.Reply {
	who, ok := h.access.admits(r, h.o.Now())
	if len(r.Path) == 1 {
		var answer func() *httpx.Reply
		switch r.Path[0] {
		case pathHealthz:
			answer = func() *httpx.Reply { return h.healthz(ctx, ok) }
		case pathReadyz:
			answer = func() *httpx.Reply { return h.readyz(ctx, ok) }
		case pathMetrics:
			if !ok {
				return h.unauthorized(r)
			}
			answer = func() *httpx.Reply { return h.scrape(r) }
		case pathLogin, pathLogout:
			if !h.access.Open() {
				return h.session(r, r.Path[0])
			}
		}
		if answer != nil {
			if !reads(r) {
				return httpx.NotImplemented(r, "GET,HEAD")
			}
			return answer()
		}
	}
	switch {
	case isAsset(r):
		return asset(r)
	case !ok:
		return h.unauthorized(r)
	case h.access.files.ReadOnly && !reads(r):
		return refuse(r, "this listener is for reading only ([status] read_only in vnet.toml): xm on the host itself changes things")
	case wantsHTML(r):
		if reply := h.page(ctx, r, who); reply != nil {
			return reply
		}
	}
	if h.next == nil {
		if wantsHTML(r) {
			return failure(http.StatusNotFound, "Not found", "There is no such page here: /"+strings.Join(r.Path, "/"))
		}
		return httpx.NotFound("Not found: /" + strings.Join(r.Path, "/"))
	}
	return h.next.Handle(ctx, r)
}

// reads tells whether a request changes nothing.
func reads(r *httpx.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// wantsHTML tells a person with a browser from a program: programs send no User-Agent or no Accept, or accept
// S-expressions.
func wantsHTML(r *httpx.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return r.Header.Get("User-Agent") != "" && accept != "" && !strings.Contains(strings.ToLower(accept), httpx.SXP)
}

// refuse answers what may not be done.
func refuse(r *httpx.Request, why string) *httpx.Reply {
	if wantsHTML(r) {
		reply := failure(http.StatusForbidden, "Not allowed", why)
		reply.Reason = why
		return reply
	}
	return httpx.Text(http.StatusForbidden, why, why)
}

// unauthorized answers somebody who has to say first who they are: a person on a page, a program in a word.
func (h *handler) unauthorized(r *httpx.Request) *httpx.Reply {
	files := h.access.files
	if wantsHTML(r) && reads(r) && files.Token != "" && r.Header.Get("Authorization") == "" && strings.Contains(r.Header.Get("Accept"), httpx.HTML) {
		return seeOther("/" + pathLogin + "?to=" + url.QueryEscape(r.Target))
	}
	h.tellRefused(r)
	why := "a token is needed: Authorization: Bearer TOKEN, one of those in [status] token_file of vnet.toml"
	switch {
	case files.Token == "":
		why = "a client certificate is needed, of an authority in [status] client_ca of vnet.toml"
	case files.ClientCA != "":
		why += "; or a client certificate"
	}
	return httpx.Text(http.StatusUnauthorized, "Unauthorized", why+"\n").SetHeader("WWW-Authenticate", `Bearer realm="xend"`)
}

// tellRefused logs that somebody was not let in, seldom.
func (h *handler) tellRefused(r *httpx.Request) {
	if n, tell := h.access.wrong(h.o.Now()); tell {
		h.o.Log.Warn("somebody without a token was not let in", "server", "status", "client", r.Client, "times", n)
	}
}

// session answers for /login and /logout.
func (h *handler) session(r *httpx.Request, what string) *httpx.Reply {
	form := parseForm(r)
	to := local(form.Get("to"))
	switch {
	case what == pathLogout && r.Method == http.MethodPost:
		return seeOther("/"+pathLogin).SetHeader("Set-Cookie", h.access.setCookie(""))
	case what == pathLogin && r.Method == http.MethodPost && h.access.files.Token != "":
		if !h.access.knows(strings.TrimSpace(form.Get("token"))) {
			h.tellRefused(r)
			return loginPage(http.StatusForbidden, to, "That is not one of the tokens. They are in the file that [status] token_file of vnet.toml names.")
		}
		return seeOther(to).SetHeader("Set-Cookie", h.access.setCookie(h.access.newSession(h.o.Now())))
	case reads(r) && h.access.files.Token != "":
		return loginPage(http.StatusOK, to, "")
	}
	return h.unauthorized(r)
}

// local is a path of this server, whatever somebody put into a link.
func local(to string) string {
	if !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/xend/"
	}
	return to
}

// maxFields bounds the fields of a form.
const maxFields = 100

// parseForm returns the fields of the query and of a body that is a form; those of the body come first. What is no form
// has no fields.
func parseForm(r *httpx.Request) url.Values {
	all := url.Values{}
	sources := []string{r.Query}
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if strings.EqualFold(strings.TrimSpace(media), "application/x-www-form-urlencoded") {
		sources = []string{string(r.Body), r.Query}
	}
	for _, s := range sources {
		n := 0
		for field := range strings.SplitSeq(s, "&") {
			if n++; n > maxFields {
				break
			}
			name, value, _ := strings.Cut(field, "=")
			all.Add(httpx.Unescape(name, true), httpx.Unescape(value, true))
		}
	}
	return all
}

// seeOther sends a browser on, so that reloading repeats nothing.
func seeOther(to string) *httpx.Reply {
	return (&httpx.Reply{Status: http.StatusSeeOther, Reason: "See other"}).SetHeader("Location", to)
}
