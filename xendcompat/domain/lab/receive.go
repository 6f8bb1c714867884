package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// Server takes in the domains of other hosts.
type Server struct {
	t        *Toolstack
	receiver domain.Receiver
	allow    Allow
	log      *slog.Logger
	config   *tls.Config

	mu       sync.Mutex
	arriving map[string]*arrival // by token
}

// arrival is a domain on its way here. Who holds mu decides.
type arrival struct {
	mu      sync.Mutex
	decided string
	cancel  context.CancelFunc
}

// NewServer returns the server of a toolstack, whose domains the receiver keeps.
func NewServer(t *Toolstack, r domain.Receiver, allow Allow) (*Server, error) {
	if _, err := t.o.Relocation.secret(); err != nil {
		return nil, err
	}
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	return &Server{
		t: t, receiver: r, allow: allow, log: t.o.Log, arriving: map[string]*arrival{},
		config: &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{tlsProtocol}, Certificates: []tls.Certificate{cert}},
	}, nil
}

func (s *Server) String() string { return "relocation" }

// maxConns bounds the connections that are open at a time; of one host, what it takes to migrate many domains.
const maxConns = 64

// Serve takes connections until ctx ends; it closes the listener.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	busy := make(chan struct{}, maxConns)
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			pause(ctx, 100*time.Millisecond) // too many files, for one
			continue
		}
		select {
		case busy <- struct{}{}:
		default:
			c.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-busy }()
			defer c.Close()
			if err := s.talk(ctx, c); err != nil {
				s.log.Warn("a relocation connection ended with an error", "from", c.RemoteAddr(), "error", err)
			}
		})
	}
}

func (s *Server) talk(ctx context.Context, c net.Conn) error {
	if !s.allow.admits(ctx, c.RemoteAddr()) {
		return errors.New("not in xend-relocation-hosts-allow")
	}
	secret, err := s.t.o.Relocation.secret()
	if err != nil {
		return err
	}
	conn := tls.Server(c, s.config)
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_ = conn.SetDeadline(time.Now().Add(greetTimeout))
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	l := &link{conn: conn, max: maxGreeting}
	if err := l.welcome(secret); err != nil {
		return err
	}
	m, err := l.receive(greetTimeout)
	if err != nil {
		return err
	}
	if err := checkToken(m.Token); err != nil {
		return err
	}
	switch {
	case m.Op == "resolve":
		return l.send(message{Decision: s.resolve(m.Token)}, greetTimeout)
	case m.Op == "prepare" && m.Image != nil:
		return s.take(ctx, l, m)
	}
	return fmt.Errorf("unknown request %q", m.Op)
}

// take takes a domain in.
func (s *Server) take(ctx context.Context, l *link, m message) error {
	c := domain.Config(m.Image.Config)
	if err := m.Image.Network.validate(); err != nil || c.Name == "" || c.UUID == "" {
		return l.send(message{Error: fmt.Sprintf("not a domain: name %q, uuid %q, %v", c.Name, c.UUID, err)}, greetTimeout)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &arrival{cancel: func() { cancel(); l.conn.Close() }}
	s.mu.Lock()
	if s.arriving[m.Token] != nil {
		s.mu.Unlock()
		return errors.New("a second domain with one token")
	}
	s.arriving[m.Token] = a
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.arriving, m.Token)
		s.mu.Unlock()
	}()

	err := s.receiver.Receive(ctx, c, func(ctx context.Context) (int, error) { return s.start(ctx, l, a, m) })
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil && a.decided != committed {
		err = errors.New("it was not started") // a receiver that does not call start
	}
	if err != nil {
		// Also one that had run for a moment, and could not be kept: whoever asks later gets the same answer.
		a.decided = aborted
		if errUndo := s.t.forget(m.Token); errUndo != nil {
			return errors.Join(err, errUndo) // it may run: say nothing
		}
		s.log.Warn("a domain did not come", "name", c.Name, "from", l.conn.RemoteAddr(), "error", err)
		return l.send(message{Error: err.Error()}, greetTimeout)
	}
	s.log.Info("a domain has come", "name", c.Name, "from", l.conn.RemoteAddr())
	return l.send(message{OK: true}, greetTimeout)
}

// start is the way from prepare to the word.
func (s *Server) start(ctx context.Context, l *link, a *arrival, m message) (int, error) {
	e, err := s.t.prepare(ctx, domain.Config(m.Image.Config), m.Image.Network, m.Token, "")
	if err != nil {
		return 0, err
	}
	id, err := s.commit(ctx, l, a, e, m.Image.Paused)
	if err != nil {
		return 0, errors.Join(err, e.abort())
	}
	return id, nil
}

func (s *Server) commit(ctx context.Context, l *link, a *arrival, e *embryo, paused bool) (int, error) {
	if err := s.t.step("prepared"); err != nil {
		return 0, err
	}
	if err := l.send(message{OK: true}, greetTimeout); err != nil {
		return 0, err
	}
	m, err := l.receive(prepareTimeout)
	switch {
	case err != nil:
		return 0, fmt.Errorf("it was given up by the host that it was on: %w", err)
	case m.Op != "commit" || m.Network == nil:
		return 0, fmt.Errorf("unknown request %q", m.Op)
	}
	if err := m.Network.validate(); err != nil {
		return 0, err
	}
	// Who asks what was decided waits from here on.
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.decided != "" || ctx.Err() != nil {
		return 0, errors.New("it was given up")
	}
	ctx = context.WithoutCancel(ctx)
	e.rec.Network = *m.Network
	if err := e.connect(ctx, paused); err != nil {
		return 0, err
	}
	if err := e.rec.write(e.dir); err != nil {
		return 0, err
	}
	g, err := e.commit(paused)
	if err != nil {
		return 0, err
	}
	a.decided = committed
	if paused {
		return g.id, nil
	}
	if err := e.begin(ctx, g); err != nil {
		s.log.Error("a domain that came does not begin; it is paused", "domid", g.id, "name", g.rec.Name, "error", err)
	}
	_ = s.t.step("begun") // to be killed at; it is too late to fail
	return g.id, nil
}

// resolve tells what was decided about a token, and decides if nothing was.
func (s *Server) resolve(token string) string {
	s.mu.Lock()
	a := s.arriving[token]
	s.mu.Unlock()
	if a != nil {
		a.mu.Lock()
		if a.decided == "" {
			a.decided = aborted
			a.cancel()
		}
		decided := a.decided
		a.mu.Unlock()
		if decided == aborted {
			return aborted
		}
	}
	return s.t.decisionOf(token)
}

// decisionOf tells what became of a domain with that token.
func (t *Toolstack) decisionOf(token string) string {
	t.mu.Lock()
	for _, g := range t.domains {
		if g.token == token {
			t.mu.Unlock()
			return committed
		}
	}
	t.mu.Unlock()
	b, err := os.ReadFile(filepath.Join(t.o.Dir, tokensDir, token))
	if err == nil && string(b) == committed {
		return committed
	}
	return aborted
}

// tokensDir remembers domains that came by migration and are no more: whoever sent them may still ask.
const tokensDir = "came"

// tokenLife is how long.
const tokenLife = 30 * 24 * time.Hour

// keepToken notes the token of a domain that is about to be forgotten.
func (t *Toolstack) keepToken(dir string, rec *record) error {
	if rec.Token == "" || !marked(dir, startedFile) || checkToken(rec.Token) != nil {
		return nil
	}
	came := filepath.Join(t.o.Dir, tokensDir)
	if err := os.MkdirAll(came, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(came)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tokenLife {
			_ = os.Remove(filepath.Join(came, e.Name()))
		}
	}
	file := filepath.Join(came, rec.Token)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return err // decided otherwise already
	}
	return renameio.WriteFile(file, []byte(committed), 0o600)
}

// forget makes sure that a domain with that token does not run, and that it counts as never having come.
func (t *Toolstack) forget(token string) error {
	t.mu.Lock()
	var found *guest
	for _, g := range t.domains {
		if g.token == token {
			found = g
		}
	}
	t.mu.Unlock()
	came := filepath.Join(t.o.Dir, tokensDir)
	if found == nil {
		if _, err := os.Lstat(filepath.Join(came, token)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err := os.MkdirAll(came, 0o700); err != nil {
		return err
	}
	if found != nil {
		if err := t.Destroy(context.Background(), found.id); err != nil {
			var gone *domain.NotFoundError
			if !errors.As(err, &gone) {
				return err
			}
		}
	}
	return renameio.WriteFile(filepath.Join(came, token), []byte(aborted), 0o600)
}
