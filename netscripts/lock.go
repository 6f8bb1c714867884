package netscripts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Locks are directories, as other people's hotplug scripts make them: mkdir is atomic, and a file
// `owner` inside says who holds it. Among our own processes a lock file beside it decides first, so
// that a stale directory is taken over by one of them only.
const (
	lockNetworkBridge = "network-bridge"
	lockIPTables      = "iptables"
	lockHotplug       = "xenbus_hotplug_global"

	lockPoll = 20 * time.Millisecond
	// A directory without an owner is one whose maker was killed before it could write its name,
	// unless it is young.
	ownerGrace = 10 * time.Second
)

// withLock runs fn while the lock is held. A lock directory that cannot be made at all, on a
// read-only file system for example, is an error.
func (s *script) withLock(ctx context.Context, name string, fn func() error) error {
	release, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	return fn()
}

func (s *script) lock(ctx context.Context, name string) (release func(), err error) {
	dir := s.paths.HotplugLocks()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.LockTimeout)
	defer cancel()
	path := filepath.Join(dir, name)

	gate, err := os.OpenFile(filepath.Join(dir, "."+name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	err = poll(ctx, lockPoll, func() (bool, error) {
		err := unix.Flock(int(gate.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return true, err
	})
	if err == nil {
		err = poll(ctx, lockPoll, func() (bool, error) { return claim(path, s.argv0) })
	}
	if err != nil {
		gate.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w; held by %s; if that hangs, end it or remove %s", context.Cause(ctx), owner(path), path)
		}
		return nil, fmt.Errorf("wait for the lock %s: %w", name, err)
	}
	return func() {
		os.RemoveAll(path)
		gate.Close()
	}, nil
}

// poll calls try until it says done or fails, or ctx ends. It is for what has no event to wait for:
// other people's shell scripts, or the end of what the kernel does in the background.
func poll(ctx context.Context, every time.Duration, try func() (done bool, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if done, err := try(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// claim makes the lock directory. One whose owner is gone is moved out of the way first.
func claim(path, argv0 string) (bool, error) {
	err := os.Mkdir(path, 0o755)
	switch {
	case err == nil:
		err = os.WriteFile(filepath.Join(path, "owner"), fmt.Appendf(nil, "%d: %s\n", os.Getpid(), argv0), 0o644)
		if err != nil {
			os.RemoveAll(path)
		}
		return err == nil, err
	case !errors.Is(err, fs.ErrExist):
		return false, err
	case !stale(path):
		return false, nil
	}
	aside := fmt.Sprintf("%s.stale.%d", path, os.Getpid())
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, os.RemoveAll(aside)
}

// owner reads who holds a lock: `PID: SCRIPT`.
func owner(path string) string {
	b, err := os.ReadFile(filepath.Join(path, "owner"))
	if err != nil {
		return "somebody who left no name"
	}
	return strings.TrimSpace(string(b))
}

// stale tells whether the owner of a lock is gone: its process does not exist, or is another program.
func stale(path string) bool {
	b, err := os.ReadFile(filepath.Join(path, "owner"))
	number, name, _ := strings.Cut(strings.TrimSpace(string(b)), ":")
	pid, atoiErr := strconv.Atoi(number)
	if err != nil || atoiErr != nil || pid <= 0 {
		info, err := os.Stat(path)
		return err == nil && time.Since(info.ModTime()) > ownerGrace
	}
	if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return true
	}
	// Empty while a program is being started.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	base := filepath.Base(strings.TrimSpace(name))
	return err == nil && len(cmdline) > 0 && base != "." && !strings.Contains(string(cmdline), base)
}
