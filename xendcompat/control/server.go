// Package control serves the low-level control socket: commands for the data plane as S-expressions of
// the C dialect, one connection for each request. Success is silent; a failure is (error "text").
package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/accept"
	"github.com/xenvnet/xend/xendcompat/finding"
)

// Timeouts and bounds.
const (
	// readTimeout is how long a client may take to say all it wants.
	readTimeout = 30 * time.Second
	// writeTimeout is how long it may take to read the answer.
	writeTimeout = 30 * time.Second
	// lingerTimeout is for how long what it still sends is read after the answer, which closing a
	// socket with unread data would destroy.
	lingerTimeout = time.Second
	// A client that wrote more than batch bytes may not have been able to write all at once: it gets
	// pause to go on before the answer.
	batch = 4 << 10
	pause = 100 * time.Millisecond
	// maxRequest bounds all commands of a connection, in bytes.
	maxRequest = 16 << 20
	// maxAnswer bounds what they print, in bytes: the lists of a host with some 200,000 MACs.
	maxAnswer = 64 << 20
	// maxAnswers bounds what waits, in all, for clients to read it.
	maxAnswers = 4 * maxAnswer
)

// Options configure a Server.
type Options struct {
	// Log must be set.
	Log *slog.Logger
	// UIDs are users who may connect, besides root and the daemon's own user.
	UIDs []int
	// Check does (vn.check); nil: there is nothing to check with.
	Check func(ctx context.Context) (finding.Report, error)
	// Trace does (vn.trace); nil as above.
	Trace func(ctx context.Context, target string) (*finding.Trace, error)
	// Members does (vn.members); nil as above.
	Members func(ctx context.Context, id vnet.ID) ([]dataplane.Member, error)
	// Reload does (vn.reload), and returns the options and keys whose change needs a restart; nil as above.
	Reload func(ctx context.Context) ([]string, error)
}

// Server does commands.
type Server struct {
	svc  Operations
	log  *slog.Logger
	loop accept.Loop

	check   func(ctx context.Context) (finding.Report, error)
	trace   func(ctx context.Context, target string) (*finding.Trace, error)
	members func(ctx context.Context, id vnet.ID) ([]dataplane.Member, error)
	reload  func(ctx context.Context) ([]string, error)

	order               order
	answers             atomic.Int64 // bytes of answers that are being made or sent
	maxOne, maxTogether int64        // maxAnswer and maxAnswers
}

// New returns a server of svc.
func New(svc Operations, o Options) *Server {
	s := &Server{svc: svc, log: o.Log, check: o.Check, trace: o.Trace, members: o.Members, reload: o.Reload, maxOne: maxAnswer, maxTogether: maxAnswers}
	s.loop = accept.Loop{Name: s.String(), UIDs: o.UIDs, Log: o.Log, Arrive: s.arrive, Refuse: s.refuse}
	return s
}

// Serve answers what comes over ln until ctx ends, and closes ln. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.loop.Run(ctx, ln) }

// String names the server.
func (s *Server) String() string { return "control" }

// arrive gives a connection its place among all.
func (s *Server) arrive(*accept.Conn) func(context.Context, *accept.Conn) {
	p := s.order.join()
	return func(ctx context.Context, c *accept.Conn) {
		defer p.leave()
		s.serve(ctx, c, p)
	}
}

// serve does the commands of one connection, in order up to the first that fails, and answers.
func (s *Server) serve(ctx context.Context, c *accept.Conn, p *place) {
	if c.SetReadDeadline(time.Now().Add(readTimeout)) != nil {
		return
	}
	in := &counter{r: c, room: maxRequest}
	d := sxp.NewDecoder(in, sxp.C)
	var answer bytes.Buffer
	var printed int64
	defer func() { s.answers.Add(-printed) }()
	for done := 0; ; done++ {
		if done > 0 {
			p.await()
		}
		if done > 0 && strings.TrimSpace(d.Buffered()) == "" && !more(c, in.n > batch) {
			break
		}
		command, err := d.Decode()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case errors.Is(err, net.ErrClosed):
			return // the daemon ends, or others need the room
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errors.New("the request took too long")
		case err == nil:
			// Until the answer: what was done is told, also when the daemon ends.
			c.Enter(accept.Working)
			if !p.enter(ctx) {
				return // the daemon ends
			}
			if slow[command.Name()] {
				p.leave() // nobody waits for what takes seconds
			}
			var n int64
			n, err = s.print(ctx, command, &answer)
			printed += n
		}
		if err != nil {
			s.log.Info("command refused", "server", s.String(), "client", c.Client, "command", cut(command.String()), "error", err)
			appendError(&answer, err)
			break
		}
	}
	p.leave()
	s.reply(c, answer.Bytes())
}

var (
	errAnswer  = errors.New("the answers to one request are too long: ask for less at a time")
	errAnswers = errors.New("too many answers wait for clients to read them: try again")
)

// print does a command, and returns how many bytes it printed, which count among the answers. What would be
// too much is left out.
func (s *Server) print(ctx context.Context, command sxp.Value, answer *bytes.Buffer) (int64, error) {
	before := answer.Len()
	err := s.do(ctx, command, answer)
	printed := int64(answer.Len() - before)
	if s.answers.Add(printed) > s.maxTogether {
		err = errAnswers
	}
	if int64(answer.Len()) > s.maxOne {
		err = errAnswer
	}
	if errors.Is(err, errAnswer) || errors.Is(err, errAnswers) {
		s.answers.Add(-printed)
		answer.Truncate(before)
		printed = 0
	}
	return printed, err
}

// reply sends the answer and ends the connection. The client may have gone without reading.
func (s *Server) reply(c *accept.Conn, answer []byte) {
	c.Enter(accept.Writing)
	if c.SetDeadline(time.Now().Add(writeTimeout)) != nil {
		return
	}
	if _, err := c.Write(answer); err != nil {
		s.log.Debug("cannot send the answer", "server", s.String(), "client", c.Client, "error", err)
		return
	}
	if c.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c) // the connection is closed next, whatever happens here
}

// refuse answers a client that may not connect.
func (s *Server) refuse(c *accept.Conn, reason string) {
	var answer bytes.Buffer
	appendError(&answer, errors.New(reason))
	s.reply(c, answer.Bytes())
}

var errTooMuch = errors.New("too many commands in one request")

// counter counts and bounds what is read.
type counter struct {
	r    io.Reader
	n    int
	room int
}

func (r *counter) Read(b []byte) (int, error) {
	if r.n >= r.room {
		return 0, errTooMuch
	}
	n, err := r.r.Read(b)
	r.n += n
	return n, err
}

// more tells whether the client has said more than was read, or ended; patient gives it a moment to do so.
func more(c *accept.Conn, patient bool) bool {
	if !patient {
		return c.Pending(0)
	}
	pending := c.Pending(pause)
	return c.SetReadDeadline(time.Now().Add(readTimeout)) == nil && pending
}

// cut shortens a text that a client chose, for the log.
func cut(s string) string {
	const limit = 200
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
