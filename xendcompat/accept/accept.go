// Package accept is the accept loop that the daemon's servers share. It knows who is at the other end
// of a unix socket and refuses strangers, bounds the number of connections so that nobody keeps the
// others out, and ends in order.
package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Defaults and bounds.
const (
	// DefaultMax is how many connections a loop serves at a time.
	DefaultMax = 512
	// patience is for how long a client that keeps the daemon waiting is safe when others want in.
	patience = 2 * time.Second
	// grace is how long requests that are being worked on may take when the daemon ends.
	grace = 5 * time.Second
	// maxBackoff bounds the pause after an error of accept, such as too many open files.
	maxBackoff = time.Second
)

// Loop accepts connections and serves each in a goroutine of its own. Run may be called for several
// listeners.
type Loop struct {
	// Name says in the log who is served: "http".
	Name string
	// Max is how many connections of one listener are served at a time; 0 means DefaultMax.
	Max int
	// UIDs are users who may connect to a unix socket, besides root and the daemon's own user.
	UIDs []int
	// Log must be set.
	Log *slog.Logger

	// Handle serves a connection, which is closed when it returns. ctx is the loop's, but lives on
	// for a while when the loop ends so that work can be completed; Conn.Ending tells of that.
	Handle func(ctx context.Context, c *Conn)
	// Arrive, if not nil, is called for each connection that is to be served, in the order in which they
	// were made, and returns what serves it instead of Handle. It must not block.
	Arrive func(c *Conn) (handle func(ctx context.Context, c *Conn))
	// Refuse tells a client why it is not served. It must not block for long.
	Refuse func(c *Conn, reason string)
}

// Conn is a connection that is being served.
type Conn struct {
	net.Conn
	// Client is who is at the other end.
	Client Client

	run *run
	// Under run.mu.
	state State
	since time.Time
}

// State says whom a connection waits for.
type State int

// The states.
const (
	// Reading: the daemon waits for what the client wants. Connections begin so. One that stays so
	// for long may be closed to make room for another, and when the loop ends it is closed at once.
	Reading State = iota
	// Working: the client waits for the daemon. Such a connection is closed only when the loop ends
	// and the grace period is over.
	Working
	// Writing: the daemon waits for the client to take the reply. Like Reading, but when the loop ends
	// it has the grace period.
	Writing
)

// Enter tells the loop whom the connection waits for from now on.
func (c *Conn) Enter(s State) {
	c.run.mu.Lock()
	defer c.run.mu.Unlock()
	c.state, c.since = s, time.Now()
	if c.run.ending && s == Reading {
		c.Close()
	}
}

// Ending tells whether the loop is about to end, so that nothing new should be begun.
func (c *Conn) Ending() bool {
	c.run.mu.Lock()
	defer c.run.mu.Unlock()
	return c.run.ending
}

// CloseWrite ends what we say, and leaves what the client says open.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// run is one call of Run.
type run struct {
	*Loop
	slots chan struct{} // one element for each connection

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	ending bool
}

// Run accepts connections from ln until ctx ends, and closes ln. It returns when all connections have
// ended: those that wait for their clients at once, the others after their request, or a grace period.
func (l *Loop) Run(ctx context.Context, ln net.Listener) error {
	limit := l.Max
	if limit <= 0 {
		limit = DefaultMax
	}
	r := &run{Loop: l, slots: make(chan struct{}, limit), conns: map[*Conn]struct{}{}}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()

	var all sync.WaitGroup
	err := r.accept(ctx, ln, func(c *Conn, refusal error) {
		handle := l.Handle
		if l.Arrive != nil && refusal == nil {
			handle = l.Arrive(c)
		}
		all.Go(func() {
			defer r.remove(c)
			if refusal != nil {
				l.Log.Warn("refused a connection", "server", l.Name, "client", c.Client, "error", refusal)
				l.Refuse(c, refusal.Error())
				return
			}
			handle(work, c)
		})
	})
	ln.Close()
	r.end()
	timer := time.AfterFunc(grace, func() {
		cancel()
		r.closeAll()
	})
	all.Wait()
	timer.Stop()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: accept on %s: %w", l.Name, ln.Addr(), err)
}

// accept hands out connections until the listener is closed.
func (r *run) accept(ctx context.Context, ln net.Listener, serve func(c *Conn, refusal error)) error {
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			pause = min(max(2*pause, 10*time.Millisecond), maxBackoff)
			r.Log.Warn("cannot accept a connection", "server", r.Name, "error", err, "again_in", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		if !r.awaitSlot(ctx) {
			nc.Close()
			continue
		}
		client, err := clientOf(nc)
		if err == nil {
			err = client.mayConnect(r.UIDs)
		}
		c := &Conn{Conn: nc, Client: client, run: r, since: time.Now()}
		r.mu.Lock()
		r.conns[c] = struct{}{}
		r.mu.Unlock()
		serve(c, err)
	}
}

// awaitSlot waits until there is room for a connection, and makes some by closing the one that has kept the
// daemon waiting for longest, if that was long enough. It returns false when ctx ends.
func (r *run) awaitSlot(ctx context.Context) bool {
	for {
		select {
		case r.slots <- struct{}{}:
			return true
		default:
		}
		select {
		case r.slots <- struct{}{}:
			return true
		case <-time.After(r.evict()):
		case <-ctx.Done():
			return false
		}
	}
}

// evict closes the connection that has kept the daemon waiting for longest, unless it was not long
// enough, and returns after how long to look again.
func (r *run) evict() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var oldest *Conn
	for c := range r.conns {
		if c.state != Working && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	if oldest == nil {
		return patience
	}
	waited := time.Since(oldest.since)
	if waited < patience {
		return patience - waited
	}
	r.Log.Warn("closed a silent connection to make room: too many", "server", r.Name, "client", oldest.Client,
		"silent", waited.Round(time.Second), "connections", len(r.conns))
	oldest.Close()
	// It is not to be found again while it ends.
	delete(r.conns, oldest)
	return patience
}

func (r *run) remove(c *Conn) {
	c.Close()
	r.mu.Lock()
	delete(r.conns, c)
	r.mu.Unlock()
	<-r.slots
}

// end closes the connections whose clients did not ask for anything.
func (r *run) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
	for c := range r.conns {
		if c.state == Reading {
			c.Close()
		}
	}
}

func (r *run) closeAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}
