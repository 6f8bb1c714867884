// Package status shows how this host is: as metrics for Prometheus, as answers to health checks, and as pages for people.
// It is a handler that stands before another, to which it leaves what it does not know.
package status

import (
	"context"
	"html/template"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// Operations are what the package needs of a service.
type Operations interface {
	// All lists the vnets that should be there.
	All() []service.Vnet
	// Ports lists the devices on their bridges, by the bridge's name.
	Ports(ctx context.Context) (map[string][]service.Port, error)
	// Health says what is wrong.
	Health(ctx context.Context) service.Health
	// Dataplane is what is counted, and the state of the engine.
	Dataplane() service.Dataplane
	// Events are what an operator must know of, and Topology is what is to be drawn.
	Events(seq uint64, limit int) events.Log
	Topology(ctx context.Context) topology.Topology
	// Reconciled counts how often devices were restored, and could not be.
	Reconciled() (restored, failed uint64)

	// FindDeletable finds a persistent vnet by its id as a person wrote it.
	FindDeletable(id string) (vnet.Config, error)
	// CreateVnet, ChangeVnet and DeleteVnet are all or nothing.
	CreateVnet(ctx context.Context, c vnet.Config) error
	ChangeVnet(ctx context.Context, c vnet.Config) error
	DeleteVnet(ctx context.Context, id vnet.ID) error
}

var _ Operations = (*service.Service)(nil)

// Options configure a Status.
type Options struct {
	// Check asks all other hosts and looks at this one, as vn check does, which takes some seconds; nil: nobody can.
	Check func(context.Context) (finding.Report, error)
	// StateDir is the directory whose file system's room is told; "" tells none.
	StateDir string
	// Host is this host's name; "" asks the kernel.
	Host string
	// Log must be set.
	Log *slog.Logger
	// Now is the clock; nil is time.Now. It is for tests.
	Now func() time.Time
}

// Status knows how this host is. It is also a task, which samples what is counted for the pages' curves.
type Status struct {
	ops Operations
	o   Options

	kept     *prometheus.Registry // what client_golang keeps
	seconds  *prometheus.HistogramVec
	scraping sync.Mutex
	scraped  int // bytes of the last scrape

	history history
	health  cache[service.Health]
	seen    cache[seen]
	found   cache[checked]
	picture cache[template.HTML]
	ready   chan struct{}
}

// New returns the status of what ops operates.
func New(ops Operations, o Options) *Status {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Host == "" {
		o.Host, _ = os.Hostname() // without a name the page has none
	}
	s := &Status{ops: ops, o: o, ready: make(chan struct{})}
	s.newMetrics()
	return s
}

// cache keeps an answer for as long as who asks thinks it good, and twenty times as long as it took to find: pages that
// are redrawn all the time leave the host its processors. One asks at a time, others wait for the answer.
type cache[T any] struct {
	mu    sync.Mutex
	at    time.Time
	cost  time.Duration
	value T
}

// forget has the next one ask.
func (c *cache[T]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
}

// get returns an answer that is at most maxAge old, or older where answers cost much.
func (c *cache[T]) get(now func() time.Time, maxAge time.Duration, ask func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answerLocked(now, max(maxAge, 20*c.cost), ask)
}

// fresh returns an answer that is at most maxAge old, whatever it costs.
func (c *cache[T]) fresh(now func() time.Time, maxAge time.Duration, ask func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answerLocked(now, maxAge, ask)
}

func (c *cache[T]) answerLocked(now func() time.Time, maxAge time.Duration, ask func() T) T {
	if began := now(); c.at.IsZero() || began.Sub(c.at) > maxAge {
		c.value = ask()
		c.at = now()
		c.cost = c.at.Sub(began)
	}
	return c.value
}

// How old what is told of troubles may be: they are looked for in the kernel.
const (
	pageAge    = time.Second
	probeAge   = 2 * time.Second
	metricsAge = 15 * time.Second
)

// troubles is what is wrong, as it was at most maxAge ago.
func (s *Status) troubles(ctx context.Context, maxAge time.Duration) service.Health {
	return s.health.get(s.o.Now, maxAge, func() service.Health { return s.ops.Health(ctx) })
}
