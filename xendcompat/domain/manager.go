package domain

import (
	"context"
	"log/slog"
	"time"
)

// Options configure a Manager. The zero value looks at this machine.
type Options struct {
	// XL is the command of Xen's toolstack; empty means xl in $PATH, and only where Xen runs.
	XL string
	// Proc and Sys are where procfs and sysfs are mounted; empty means /proc and /sys.
	Proc, Sys string
	// Log may be nil.
	Log *slog.Logger
}

// Manager answers questions about domains and the machine.
type Manager struct {
	o  Options
	xl toolstack // nil without Xen

	// asking is held while the toolstack is asked, which costs several processes and, when it hangs, a
	// long time. Who waited for it gets the same answer.
	asking chan struct{}
	known  answer // with asking held
}

// answer is what the toolstack said last.
type answer struct {
	at   time.Time
	list []Domain
	err  error
}

// freshness is how long an answer of the toolstack counts.
const freshness = 500 * time.Millisecond

// NewManager returns the manager of this machine's domains.
func NewManager(o Options) *Manager {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{o: o, xl: findToolstack(o), asking: make(chan struct{}, 1)}
}

// toolstack is what knows of domains besides Domain-0.
type toolstack interface {
	domains(ctx context.Context) ([]Domain, error)
	// info returns what the hypervisor says about itself, as key and value.
	info(ctx context.Context) (map[string]string, error)
	dmesg(ctx context.Context, clear bool) ([]byte, error)
}

func (m *Manager) domains(ctx context.Context) ([]Domain, error) {
	if m.xl == nil {
		return []Domain{m.dom0().domain(time.Now())}, nil
	}
	select {
	case m.asking <- struct{}{}:
		defer func() { <-m.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if time.Since(m.known.at) > freshness {
		list, err := m.xl.domains(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err() // says nothing about the toolstack
		}
		m.known = answer{time.Now(), list, err}
	}
	return m.known.list, m.known.err
}

// Dmesg returns the hypervisor's messages.
func (m *Manager) Dmesg(ctx context.Context) ([]byte, error) {
	if m.xl == nil {
		return nil, &UnsupportedError{Op: "dmesg", Use: "dmesg"}
	}
	return m.xl.dmesg(ctx, false)
}

// ClearDmesg empties them.
func (m *Manager) ClearDmesg(ctx context.Context) error {
	if m.xl == nil {
		return &UnsupportedError{Op: "dmesg_clear", Use: "dmesg -C"}
	}
	_, err := m.xl.dmesg(ctx, true)
	return err
}
