// Package lab is the laboratory of tests, demo and benchmark: hosts as network namespaces joined by
// switches, and domains as namespaces on a vif. The machine's own network is not touched: switches live
// in a namespace of their own. Whatever happens, nothing stays: a lab that was killed is swept away by the
// next one.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// TB is what a lab needs of testing.TB, so that programs need not import package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Options of a lab.
type Options struct {
	// Named gives the namespaces names below /run/netns, "lab<pid>.<n>-<host>", for people who want to look
	// inside with `ip netns exec`.
	Named bool
}

// Lab is a set of switches, hosts and domains. Its methods may be called from several goroutines.
type Lab struct {
	named  bool
	prefix string // begins every name that is visible on the machine
	dir    string // of temporary files

	mu       sync.Mutex
	fabric   *Node // where the switches are
	nodes    []*Node
	switches int
	ports    int
	closers  []func() // captures, pings, transfers that may still run
	closed   bool
}

// labs counts the labs of this process.
var labs atomic.Int64

// Open makes an empty lab for a program, which must Close it. It needs root; the error without it is
// fs.ErrPermission.
func Open(o Options) (*Lab, error) {
	sweep()
	l := &Lab{named: o.Named, prefix: fmt.Sprintf("%s%d.%d", namePrefix, os.Getpid(), labs.Add(1))}
	dir, err := os.MkdirTemp("", l.prefix+"-")
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l.dir = dir
	l.fabric, err = l.node("switches")
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// New makes an empty lab that is closed when the test ends. The test is skipped where the privilege to make
// network namespaces is missing.
func New(t TB) *Lab {
	t.Helper()
	l, err := Open(Options{})
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs the privilege to make network namespaces: %v", err)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return l
}

// Run makes a lab for fn and closes it afterwards, also when fn panics. The context ends when the process is
// asked to end: by ctrl-C, a hangup or SIGTERM.
func Run(o Options, fn func(context.Context, *Lab) error) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	l, err := Open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return fn(ctx, l)
}

// Close ends every process in the lab's namespaces and removes them. Idempotent.
func (l *Lab) Close() error {
	l.mu.Lock()
	nodes, closers := l.nodes, l.closers
	closed := l.closed
	l.nodes, l.closers, l.closed = nil, nil, true
	l.mu.Unlock()
	if closed {
		return nil
	}
	for _, c := range closers {
		c()
	}
	inodes := map[uint64]bool{}
	for _, n := range nodes {
		inodes[n.Net.Inode()] = true
	}
	// Those that xend runs as domains are in namespaces of their own.
	errs := []error{endProcesses(func(pid int) bool { return inodes[namespaceOf(pid)] || variableOf(pid, labVariable) == l.prefix })}
	for _, n := range nodes {
		errs = append(errs, n.close())
	}
	errs = append(errs, os.RemoveAll(l.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab: close: %w", err)
	}
	return nil
}

// atClose registers something to be ended before the namespaces go; it must be idempotent.
func (l *Lab) atClose(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, fn)
}

// Dir makes a directory that is removed with the lab.
func (l *Lab) Dir(name string) (string, error) {
	dir := filepath.Join(l.dir, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// portName makes a device name for the switches' side.
func (l *Lab) portName() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports++
	return fmt.Sprintf("port%d", l.ports)
}
