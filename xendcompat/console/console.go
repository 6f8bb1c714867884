// Package console serves the consoles of domains on a socket: a client writes the name, id or uuid of a domain and the end
// of a line, gets a line "ok" or the reason why not, "missing: TEXT" or "error: TEXT", and is connected then.
package console

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// Words that the answer begins with.
const (
	OK      = "ok"
	Missing = "missing: "
	Failed  = "error: "
)

const (
	// maxName bounds the line that names a domain, in bytes.
	maxName = 256
	// nameTimeout is how long a client may take to name it.
	nameTimeout = 10 * time.Second
	// maxConns bounds the consoles that are open at a time.
	maxConns = 64
)

// Consoles opens the console of a domain.
type Consoles interface {
	Console(ctx context.Context, key string) (io.ReadWriteCloser, error)
}

// Server connects clients with consoles.
type Server struct {
	consoles Consoles
	log      *slog.Logger
}

// New returns a server.
func New(c Consoles, log *slog.Logger) *Server { return &Server{consoles: c, log: log} }

// String names the server.
func (s *Server) String() string { return "console" }

// Serve connects what comes over ln until ctx ends, and closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			_, _ = io.WriteString(conn, Failed+"too many consoles are open\n")
			conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			s.serve(ctx, conn)
		})
	}
}

// serve connects one client.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	if conn.SetReadDeadline(time.Now().Add(nameTimeout)) != nil {
		return
	}
	r := bufio.NewReaderSize(conn, maxName)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return
	}
	name := strings.TrimSpace(string(line))
	if conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	c, err := s.consoles.Console(ctx, name)
	if err != nil {
		word := Failed
		var missing *domain.NotFoundError
		if errors.As(err, &missing) {
			word = Missing
		}
		_, _ = io.WriteString(conn, word+strings.ReplaceAll(err.Error(), "\n", "; ")+"\n")
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); c.Close() })
	defer stop()
	if _, err := io.WriteString(conn, OK+"\n"); err != nil {
		return
	}
	s.log.Debug("console connected", "domain", name)
	var keys sync.WaitGroup
	keys.Go(func() {
		if _, err := io.Copy(c, r); err != nil {
			conn.Close() // the client is gone, or the domain
		}
	})
	_, _ = io.Copy(conn, c)
	conn.Close()
	c.Close()
	keys.Wait()
}
