package domain

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options configure a Manager. The zero value looks at this machine, and manages nothing.
type Options struct {
	// Toolstack runs domains; nil where nobody does.
	Toolstack Toolstack
	// Dir is where the managed domains are kept; it is made, mode 0700. Needed where there is a toolstack.
	Dir string
	// DumpDir is where core dumps go, of domains that end and say coredump-….
	DumpDir string
	// Networks knows the bridges; nil asks nobody.
	Networks Networks

	// Proc and Sys are where procfs and sysfs are mounted; empty means /proc and /sys.
	Proc, Sys string
	// Log may be nil.
	Log *slog.Logger

	// Step, if not nil, is called with a name after each step of a change; its error fails the change there. It is for
	// tests.
	Step func(step string) error
}

// Manager keeps the domains that should be, has the toolstack run them, and answers questions about domains and the
// machine. Its methods may be called concurrently.
type Manager struct {
	o     Options
	tool  Toolstack // nil where nothing runs domains
	store *store    // nil without a toolstack
	known struct {
		info     question[map[string]string]
		statuses question[[]Status]
	}
	locks     keyLock
	ready     chan struct{}
	restartMu sync.Mutex
	restarted map[string]time.Time // when the watcher restarted a domain, by uuid
}

// NewManager returns a manager that manages nothing: it tells of the machine and of Domain-0.
func NewManager(o Options) *Manager {
	o.Toolstack = nil
	m, err := Open(o)
	if err != nil {
		panic(err) // nothing is opened
	}
	return m
}

// Open returns the manager of this machine's domains. It changes nothing until Run or an operation is called. Close must
// be called.
func Open(o Options) (*Manager, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{o: o, tool: o.Toolstack, ready: make(chan struct{}), restarted: map[string]time.Time{}}
	m.locks.held = map[string]*keyHeld{}
	if m.tool == nil {
		return m, nil
	}
	m.known.statuses, m.known.info = newQuestion(m.tool.List), newQuestion(m.tool.Info)
	var err error
	if m.store, err = openStore(o.Dir, o.Log, o.Step); err != nil {
		return nil, fmt.Errorf("domains: %w", err)
	}
	return m, nil
}

// Close unlocks the state directory.
func (m *Manager) Close() error {
	if m.store == nil {
		return nil
	}
	return m.store.close()
}

// Toolstack is the name of what runs domains, "" if nothing does.
func (m *Manager) Toolstack() string {
	if m.tool == nil {
		return ""
	}
	return m.tool.Name()
}

// domains returns the domains that run, the first is Domain-0.
func (m *Manager) domains(ctx context.Context) ([]Domain, error) {
	if m.tool != nil {
		return m.running(ctx)
	}
	return []Domain{m.describe(m.dom0(), time.Now())}, nil
}

// Dmesg returns the hypervisor's messages.
func (m *Manager) Dmesg(ctx context.Context) ([]byte, error) {
	if m.tool != nil {
		return m.tool.Dmesg(ctx, false)
	}
	return nil, &UnsupportedError{Op: "dmesg", Use: "dmesg"}
}

// ClearDmesg empties them.
func (m *Manager) ClearDmesg(ctx context.Context) error {
	if m.tool != nil {
		_, err := m.tool.Dmesg(ctx, true)
		return err
	}
	return &UnsupportedError{Op: "dmesg_clear", Use: "dmesg -C"}
}

func (m *Manager) step(name string) error {
	if m.o.Step == nil {
		return nil
	}
	return m.o.Step(name)
}

// keyLock is a lock for each domain, by uuid.
type keyLock struct {
	mu   sync.Mutex
	held map[string]*keyHeld
}

type keyHeld struct {
	lock chan struct{}
	n    int // who holds it or waits for it
}

// acquire waits until nobody else changes the domain. release must be called.
func (k *keyLock) acquire(ctx context.Context, uuid string) (release func(), err error) {
	k.mu.Lock()
	h, ok := k.held[uuid]
	if !ok {
		h = &keyHeld{lock: make(chan struct{}, 1)}
		k.held[uuid] = h
	}
	h.n++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.n--; h.n == 0 {
			delete(k.held, uuid)
		}
	}
	select {
	case h.lock <- struct{}{}:
		return func() { <-h.lock; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
