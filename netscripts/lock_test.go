package netscripts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newScript(t *testing.T) (*script, string) {
	s := &script{argv0: os.Args[0]}
	s.LockTimeout = time.Minute
	s.paths.Prefix = t.TempDir()
	return s, filepath.Join(s.paths.HotplugLocks(), lockNetworkBridge)
}

func TestLock(t *testing.T) {
	t.Parallel()
	s, dir := newScript(t)
	var inside, count atomic.Int32
	done := make(chan error)
	for range 8 {
		go func() {
			done <- s.withLock(context.Background(), lockNetworkBridge, func() error {
				if inside.Add(1) != 1 {
					return errors.New("two at once")
				}
				b, err := os.ReadFile(filepath.Join(dir, "owner"))
				if string(b) != fmt.Sprintf("%d: %s\n", os.Getpid(), os.Args[0]) {
					err = fmt.Errorf("owner is %q", b)
				}
				count.Add(1)
				inside.Add(-1)
				return err
			})
		}()
	}
	for range 8 {
		require.NoError(t, <-done)
	}
	require.EqualValues(t, 8, count.Load())
	require.NoDirExists(t, dir)
}

// Another program's lock is waited for, and its name told when that takes too long.
func TestForeignLock(t *testing.T) {
	t.Parallel()
	s, dir := newScript(t)
	other := exec.Command("sleep", "600")
	require.NoError(t, other.Start())
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	require.Eventually(t, func() bool { // until then it shows our own command line
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", other.Process.Pid))
		return err == nil && strings.HasPrefix(string(b), "sleep")
	}, time.Minute, time.Millisecond)
	hold := func(owner string) {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "owner"), []byte(owner), 0o644))
	}
	try := func(atMost time.Duration) error {
		s.LockTimeout = atMost
		return s.withLock(context.Background(), lockNetworkBridge, func() error { return nil })
	}
	alive := fmt.Sprintf("%d: /usr/bin/sleep\n", other.Process.Pid)
	hold(alive)
	err := try(150 * time.Millisecond)
	require.ErrorContains(t, err, "wait for the lock network-bridge: ")
	require.ErrorContains(t, err, "held by "+alive[:len(alive)-1]+"; if that hangs, end it or remove "+dir)

	// It is given back.
	got := make(chan error)
	go func() { got <- try(time.Minute) }()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, <-got)

	// Its owner is another program by now, or nobody.
	hold(fmt.Sprintf("%d: /etc/xen/scripts/vif-bridge\n", other.Process.Pid))
	require.NoError(t, try(time.Minute))
	hold("999999999: /etc/xen/scripts/vif-bridge\n")
	require.NoError(t, try(time.Minute))
	require.NoDirExists(t, dir)

	// Made a moment ago, by somebody who has not written its name yet; then long ago.
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.ErrorContains(t, try(150*time.Millisecond), "held by somebody who left no name")
	old := time.Now().Add(-time.Minute)
	require.NoError(t, os.Chtimes(dir, old, old))
	require.NoError(t, try(time.Minute))
}

func TestLockEndsWithContext(t *testing.T) {
	t.Parallel()
	s, dir := newScript(t)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "owner"), fmt.Appendf(nil, "%d: %s\n", os.Getpid(), os.Args[0]), 0o644))
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	require.ErrorContains(t, s.withLock(ctx, lockNetworkBridge, func() error { return nil }), "enough")
}

// A state directory that cannot be written is told before anything is changed.
func TestNoPlaceForTheJournal(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	require.NoError(t, os.MkdirAll(filepath.Join(h.prefix, "run"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(h.prefix, "run/xend"), nil, 0o644))
	r := h.run("network-bridge", "start")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "run/xend")
	h.same(was, "no journal")
	require.NoError(t, os.Remove(filepath.Join(h.prefix, "run/xend")))
	require.NoError(t, os.RemoveAll(filepath.Join(h.prefix, "run/xen-hotplug")))
	require.NoError(t, os.WriteFile(filepath.Join(h.prefix, "run/xen-hotplug"), nil, 0o644))
	r = h.run("network-bridge", "start")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "lock network-bridge")
	h.same(was, "no lock")
}
