// Package xmlrpc serves xend's API as XML-RPC, for xm of Xen 3.0.2 to 4.2.
package xmlrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/xenvnet/xend/xendcompat/accept"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

// Fault codes.
const (
	FaultInternal = 1
	FaultGeneric  = 2
	FaultNoDomain = 3
)

// Server answers calls with the operations of a service.
type Server struct {
	svc  Operations
	log  *slog.Logger
	http *httpx.Server
	proc string
}

var _ httpx.Handler = (*Server)(nil)

// New returns a server of svc.
func New(svc Operations, o httpx.Options) *Server {
	s := &Server{svc: svc, log: o.Log, proc: "/proc"}
	s.http = httpx.NewServer("xmlrpc", s, o)
	return s
}

// Serve answers what comes over ln until ctx ends, and closes ln. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.http.Serve(ctx, ln) }

// String names the server.
func (s *Server) String() string { return s.http.String() }

// Handle implements [httpx.Handler]. A POST to any path is a call.
func (s *Server) Handle(ctx context.Context, r *httpx.Request) *httpx.Reply {
	if r.Method != http.MethodPost {
		return httpx.NotImplemented(r, "POST")
	}
	return httpx.OK(httpx.XML, s.respond(ctx, r))
}

// respond calls the method and returns the methodResponse.
func (s *Server) respond(ctx context.Context, r *httpx.Request) []byte {
	call, err := codec.DecodeCall(r.Body)
	if err != nil {
		return codec.EncodeFault(&Fault{Code: FaultInternal, Text: err.Error()})
	}
	v, err := s.call(ctx, r.Client, call)
	if err != nil {
		s.log.Debug("fault", "server", s.String(), "client", r.Client, "method", codec.Cut(call.Method), "error", err)
		return codec.EncodeFault(fault(err))
	}
	if text, ok := v.(string); ok {
		v = codec.Escape(text)
	}
	return codec.EncodeResponse(v)
}

// fault words an error for xm, which prints the text after "Error: ", or for a domain that does not exist
// a sentence of its own around the name.
func fault(err error) *Fault {
	var f *Fault
	var noDomain *domain.NotFoundError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &noDomain):
		return &Fault{Code: FaultNoDomain, Text: noDomain.Name}
	}
	switch service.KindOf(err) {
	case service.Internal, service.NotFound:
		return &Fault{Code: FaultInternal, Text: err.Error()}
	}
	return &Fault{Code: FaultGeneric, Text: err.Error()}
}

// call finds the method and calls it.
func (s *Server) call(ctx context.Context, client accept.Client, call codec.Call) (any, error) {
	m, ok := methods[call.Method]
	if !ok {
		return nil, &Fault{Code: FaultInternal, Text: fmt.Sprintf("method %q is not supported", codec.Cut(call.Method))}
	}
	if n := len(call.Params); n < m.min || n > m.max {
		return nil, &Fault{Code: FaultGeneric, Text: fmt.Sprintf("%s takes %s, not %d", call.Method, m.arity(), n)}
	}
	return m.do(s, &invocation{ctx: ctx, client: client, method: call.Method, params: call.Params})
}
