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
	o     Options
	xl    toolstack // nil without Xen
	known struct {
		domains question[[]Domain]
		info    question[map[string]string]
	}
}

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
	m := &Manager{o: o, xl: findToolstack(o)}
	if m.xl != nil {
		m.known.domains, m.known.info = newQuestion(m.xl.domains), newQuestion(m.xl.info)
	}
	return m
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
	return m.known.domains.ask(ctx)
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
		return &UnsupportedError{Op: "dmesg_clear", Use: "xl dmesg -c"}
	}
	_, err := m.xl.dmesg(ctx, true)
	return err
}
