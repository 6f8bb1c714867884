// Package httpsxp serves xend's API as S-expressions over HTTP, for xm of Xen 2.0 to 3.0.1, libvirt's old
// driver and our own programs, and the same URLs as pages for browsers.
package httpsxp

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/xenvnet/xend/xendcompat/html"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// Server answers requests with the operations of a service.
type Server struct {
	svc  Operations
	http *httpx.Server
}

var _ httpx.Handler = (*Server)(nil)

// New returns a server of svc.
func New(svc Operations, o httpx.Options) *Server {
	s := &Server{svc: svc}
	s.http = httpx.NewServer("http", s, o)
	return s
}

// Serve answers what comes over ln until ctx ends, and closes ln. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.http.Serve(ctx, ln) }

// String names the server.
func (s *Server) String() string { return s.http.String() }

// Handle implements [httpx.Handler].
func (s *Server) Handle(ctx context.Context, r *httpx.Request) *httpx.Reply {
	q := &request{Request: r, svc: s.svc, params: requestParams(r), html: wantsHTML(r)}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return q.route(ctx)
	case http.MethodPost:
		q.post = true
		return q.route(ctx)
	}
	return httpx.NotImplemented(r, "GET,HEAD,POST")
}

// wantsHTML tells a person with a browser from a program: programs send no User-Agent or no Accept, or
// accept S-expressions.
func wantsHTML(r *httpx.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return r.Header.Get("User-Agent") != "" && accept != "" && !strings.Contains(strings.ToLower(accept), httpx.SXP)
}

// request is a request on its way to the operation that it means.
type request struct {
	*httpx.Request
	svc    Operations
	params params
	post   bool
	html   bool
}

// route finds out what the path means.
func (q *request) route(ctx context.Context) *httpx.Reply {
	if len(q.Path) == 0 {
		return q.directory("(ls )", html.Entry{Name: "xend", About: "this host"})
	}
	if q.Path[0] != "xend" {
		return notFound(q.Path[0])
	}
	if len(q.Path) == 1 {
		return q.directory("(ls  node domain vnet)",
			html.Entry{Name: "node", About: "the machine"},
			html.Entry{Name: "domain", About: "its domains"},
			html.Entry{Name: "vnet", About: "its vnets"})
	}
	switch rest := q.Path[2:]; q.Path[1] {
	case "node":
		return q.node(ctx, rest)
	case "domain":
		return q.domains(ctx, rest)
	case "vnet":
		return q.vnets(ctx, rest)
	}
	return notFound(q.Path[1])
}

// directory answers for a path that only leads to others.
func (q *request) directory(list string, entries ...html.Entry) *httpx.Reply {
	if q.post {
		return q.operations(nil)
	}
	if q.html {
		return page(html.Directory(q.Path, entries))
	}
	return httpx.OK(httpx.SXP, []byte(list))
}

// operations calls the operation that a POST names.
func (q *request) operations(ops map[string]func() *httpx.Reply) *httpx.Reply {
	op, refusal := q.op()
	if refusal != nil {
		return refusal
	}
	if f, ok := ops[op]; ok {
		return f()
	}
	return unknownOp(op)
}

// op returns the name of the operation, which must be given exactly once.
func (q *request) op() (string, *httpx.Reply) {
	ops := q.params["op"]
	if len(ops) != 1 || ops[0] == "" {
		return "", httpx.Text(http.StatusNotAcceptable, "Invalid request", "")
	}
	return ops[0], nil
}

// param returns the value of a parameter that must be given exactly once.
func (q *request) param(name string) (string, error) {
	switch v := q.params[name]; len(v) {
	case 0:
		return "", &service.Error{Kind: service.Invalid, Text: "Missing parameter: " + name}
	case 1:
		return v[0], nil
	}
	return "", &service.Error{Kind: service.Invalid, Text: "Too many values for " + name}
}
