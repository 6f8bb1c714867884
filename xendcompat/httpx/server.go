// Package httpx is the HTTP layer of the daemon's servers. It is one of its own because the clients are:
// they show the reason phrase of the status line to people, send Host headers that no URL has, split
// requests into many small segments, and expect the connection to be closed unless they asked
// otherwise. Requests and replies have bodies of bounded, known size, so both are whole values here.
package httpx

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/accept"
)

// Limits of what a client may send, and how slowly.
const (
	// DefaultMaxBody bounds the body of a request, in bytes.
	DefaultMaxBody = 1 << 20
	// maxHead bounds the request line and the header, in bytes.
	maxHead = 64 << 10
	// idleTimeout is how long a connection may stay without a request.
	idleTimeout = 60 * time.Second
	// requestTimeout is how long a request may take from its first byte to its last.
	requestTimeout = 60 * time.Second
	// writeTimeout is how long a client may take to read a reply.
	writeTimeout = 30 * time.Second
	// lingerTimeout is for how long what a client still sends is read after the last reply: closing
	// a socket with unread data destroys the reply on its way. A client whose body was refused
	// gets longer, since it may read only after it wrote all.
	lingerTimeout = time.Second
	refuseTimeout = 10 * time.Second
)

// Handler answers requests. It is called by many goroutines.
type Handler interface {
	// Handle returns the reply, which must not be nil. ctx does not end when the client goes away:
	// what was begun is completed.
	Handle(ctx context.Context, r *Request) *Reply
}

// Options configure a Server.
type Options struct {
	// Log must be set.
	Log *slog.Logger
	// UIDs are users who may connect to a unix socket, besides root and the daemon's own user.
	UIDs []int
	// Hosts are the names under which TCP clients may call this server, besides localhost, this
	// machine's host name and any IP address. "" and addresses are allowed here and mean nothing.
	Hosts []string
	// MaxBody bounds the body of a request, in bytes; 0 means DefaultMaxBody.
	MaxBody int64
	// MaxConns is how many connections of one listener are served at a time; 0 means accept.DefaultMax.
	MaxConns int
}

// Server serves HTTP.
type Server struct {
	name    string
	handler Handler
	o       Options
	loop    accept.Loop
}

// NewServer returns a server that answers with h; name says in the log which one it is.
func NewServer(name string, h Handler, o Options) *Server {
	if o.MaxBody <= 0 {
		o.MaxBody = DefaultMaxBody
	}
	if host, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(host, ".")
		o.Hosts = append([]string{host, short}, o.Hosts...)
	}
	s := &Server{name: name, handler: h, o: o}
	s.loop = accept.Loop{Name: name, Max: o.MaxConns, UIDs: o.UIDs, Log: o.Log, Handle: s.serve, Refuse: s.refuse}
	return s
}

// Serve answers what comes over ln until ctx ends, and closes ln. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.loop.Run(ctx, ln) }

// String names the server.
func (s *Server) String() string { return s.name }

// serve answers the requests of one connection.
func (s *Server) serve(ctx context.Context, c *accept.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := s.read(c, br)
		if err != nil {
			s.reject(c, err)
			return
		}
		c.Enter(accept.Working)
		reply := s.answer(ctx, r)
		c.Enter(accept.Writing)
		keep := r.keepAlive && !c.Ending()
		if !s.write(c, reply.encode(r.Method, keep)) {
			return
		}
		if !keep {
			s.linger(c, lingerTimeout)
			return
		}
		c.Enter(accept.Reading)
	}
}

// answer finds the reply to a request.
func (s *Server) answer(ctx context.Context, r *Request) (reply *Reply) {
	defer func() {
		// One request that can't be answered must not take the vnets' packets with it.
		if p := recover(); p != nil {
			s.o.Log.Error("bug: a request panicked", "server", s.name, "method", cut(r.Method), "target", cut(r.Target),
				"panic", p, "stack", string(debug.Stack()))
			reply = Text(http.StatusInternalServerError, "Internal server error", "Internal server error")
		}
	}()
	if err := s.guard(r); err != nil {
		s.o.Log.Warn("refused a request", "server", s.name, "client", r.Client, "method", cut(r.Method), "target", cut(r.Target), "reason", err)
		return Text(http.StatusForbidden, err.Error(), err.Error())
	}
	reply = s.handler.Handle(ctx, r)
	s.o.Log.Debug("request", "server", s.name, "client", r.Client, "method", cut(r.Method), "target", cut(r.Target), "status", reply.Status)
	return reply
}

// badRequest is why a request can't be read; it is answered.
type badRequest struct {
	reply *Reply
	cause string
}

func (e *badRequest) Error() string { return e.cause }

func bad(format string, args ...any) error {
	return &badRequest{Text(http.StatusBadRequest, "Bad request", "Bad request"), fmt.Sprintf(format, args...)}
}

// reject ends a connection on which no request could be read.
func (s *Server) reject(c *accept.Conn, err error) {
	var b *badRequest
	switch {
	case errors.As(err, &b):
	case isTimeout(err):
		b = &badRequest{Text(http.StatusRequestTimeout, "Request timeout", "Request timeout"), "the request took too long"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		b = &badRequest{Text(http.StatusBadRequest, "Bad request", "Bad request"), "the connection ended within the request"}
	default:
		// Nothing was asked: a probe, or the end of a connection that was kept.
		return
	}
	s.o.Log.Info("bad request", "server", s.name, "client", c.Client, "reason", cut(b.cause))
	c.Enter(accept.Writing)
	if s.write(c, b.reply.encode("", false)) {
		s.linger(c, refuseTimeout)
	}
}

// refuse answers a client that may not connect.
func (s *Server) refuse(c *accept.Conn, reason string) {
	if s.write(c, Text(http.StatusForbidden, reason, reason).encode("", false)) {
		s.linger(c, lingerTimeout)
	}
}

// write sends b and tells whether it could.
func (s *Server) write(c *accept.Conn, b []byte) bool {
	if c.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
		return false
	}
	_, err := c.Write(b)
	if err != nil {
		s.o.Log.Debug("cannot send the reply", "server", s.name, "client", c.Client, "error", err)
	}
	return err == nil
}

// linger tells the client that nothing follows and reads what it still sends, until it closes.
func (s *Server) linger(c *accept.Conn, d time.Duration) {
	if c.SetReadDeadline(time.Now().Add(d)) != nil || c.CloseWrite() != nil {
		return
	}
	// Bounded by the deadline; how it ends does not matter, since the connection is closed next.
	_, _ = io.Copy(io.Discard, c)
}

// cut shortens a text that a client chose, for the log.
func cut(s string) string {
	const limit = 200
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
