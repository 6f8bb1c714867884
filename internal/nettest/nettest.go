// Package nettest is what tests of the network share: namespaces of their own, waiting, and logs.
package nettest

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

// patience bounds what takes milliseconds.
const patience = 30 * time.Second

// Soon bounds what takes milliseconds, on a machine that is busy with something else.
func Soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits for what has no event.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// SideBySide has more tests of a package run at the same time than there are processors, of those that say that they may: most of
// their time they wait for kernels and timers. For a TestMain; go test -parallel counts more. An emulated machine has no more to give.
func SideBySide() {
	const most = 4
	if os.Getenv("XEND_TEST_VM") == "" && runtime.GOMAXPROCS(0) < most {
		_ = flag.Set("test.parallel", strconv.Itoa(most))
	}
}

// Host returns the host of a network namespace of the test's own; the test stays where it is. Without root it is
// skipped.
func Host(t testing.TB) *hostnet.Host {
	t.Helper()
	h, err := hostnet.Unshare()
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("needs the privilege to make network namespaces")
	}
	require.NoError(t, err)
	t.Cleanup(h.Close)
	unfiltered(t, h)
	return h
}

// Enter moves the test, and the programs that it starts, into a network namespace of its own, which ends with it.
func Enter(t testing.TB) *hostnet.Host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread() // for good: the thread ends with the test's goroutine
	require.NoError(t, unshare())
	h, err := hostnet.New()
	require.NoError(t, err)
	t.Cleanup(h.Close)
	unfiltered(t, h)
	return h
}

// unfiltered keeps br_netfilter, which some machines have loaded, from handing what bridges forward to a firewall.
func unfiltered(t testing.TB, h *hostnet.Host) {
	t.Helper()
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
		if err := h.SetSysctl("0", "net", "bridge", name); !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
		}
	}
}

// Log prints what is logged into the test's log, each line with a name in front, and keeps it.
type Log struct {
	T    testing.TB
	Name string // "" for none

	mu  sync.Mutex
	all strings.Builder
}

// Write implements io.Writer, for a slog.Handler.
func (l *Log) Write(b []byte) (int, error) {
	if l.T != nil {
		prefix := ""
		if l.Name != "" {
			prefix = l.Name + ": "
		}
		l.T.Logf("%s%s", prefix, b)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

// Count is how often a text was logged.
func (l *Log) Count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), text)
}

// String is all that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// Logger logs there what is at least of a level, without the time, which the test's log has.
func (l *Log) Logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
}

// Logger logs everything into the test's log.
func Logger(t testing.TB, name string) *slog.Logger {
	return (&Log{T: t, Name: name}).Logger(slog.LevelDebug)
}
