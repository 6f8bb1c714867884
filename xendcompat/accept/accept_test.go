package accept

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a loop on a unix socket that everybody may write to, until the test ends.
func start(t *testing.T, l *Loop) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "accept")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chmod(path, 0o777))
	l.Name, l.Log = "test", slog.New(slog.DiscardHandler)
	l.Refuse = func(c *Conn, reason string) { _, _ = io.WriteString(c, reason) }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return path
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c.(*net.UnixConn)
}

// dialAs connects as another user.
func dialAs(t *testing.T, uid uintptr, path string) (c net.Conn, err error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("being another user needs root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread keeps the user, so it must end with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			err = errno
			return
		}
		c, err = net.Dial("unix", path)
	}()
	<-done
	return c, err
}

func TestCredentials(t *testing.T) {
	clients := make(chan Client, 1)
	path := start(t, &Loop{UIDs: []int{1234}, Handle: func(_ context.Context, c *Conn) {
		clients <- c.Client
		_, _ = io.WriteString(c, "welcome")
	}})
	talk := func(uid uintptr) string {
		c, err := dialAs(t, uid, path)
		require.NoError(t, err)
		defer c.Close()
		b, err := io.ReadAll(c)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "welcome", talk(0))
	require.Equal(t, Client{Unix: true, PID: os.Getpid(), UID: 0}, <-clients)
	require.Equal(t, "welcome", talk(1234))
	allowed := <-clients
	require.Equal(t, 1234, allowed.UID)
	require.False(t, allowed.Trusted(), "files are opened for root only")
	require.Equal(t, "permission denied for user 4321", talk(4321))
	require.Empty(t, clients)
}

// TestRoom checks that clients that say nothing make room for others, and those who wait for an answer
// don't.
func TestRoom(t *testing.T) {
	release := make(chan struct{})
	working := make(chan struct{}, 1)
	var served atomic.Int32
	path := start(t, &Loop{Max: 2, Handle: func(ctx context.Context, c *Conn) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if b[0] == 'w' {
			c.Enter(Working)
			working <- struct{}{}
			<-release
		}
		served.Add(1)
		_, _ = c.Write(b)
	}})
	worker := dial(t, path)
	_, err := worker.Write([]byte("w"))
	require.NoError(t, err)
	<-working
	silent := dial(t, path)
	other := dial(t, path)
	_, err = other.Write([]byte("x"))
	require.NoError(t, err)

	_, err = io.ReadAll(silent)
	require.NoError(t, err, "it is closed")
	b, err := io.ReadAll(other)
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
	close(release)
	b, err = io.ReadAll(worker)
	require.NoError(t, err)
	require.Equal(t, "w", string(b))
	require.EqualValues(t, 2, served.Load())
}

func TestPending(t *testing.T) {
	results := make(chan bool)
	path := start(t, &Loop{Handle: func(_ context.Context, c *Conn) {
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			switch b[0] {
			case 'n':
				results <- c.Pending(0)
			case 'w':
				results <- c.Pending(time.Minute)
			case 's':
				results <- c.Pending(time.Millisecond)
				require.NoError(t, c.SetReadDeadline(time.Time{}))
			}
		}
	}})
	c := dial(t, path)
	send := func(s string) {
		_, err := io.WriteString(c, s)
		require.NoError(t, err)
	}
	send("n")
	require.False(t, <-results)
	send("s")
	require.False(t, <-results)
	send("n-")
	require.True(t, <-results)
	send("w")
	send("-")
	require.True(t, <-results)
	send("w")
	require.NoError(t, c.CloseWrite())
	require.True(t, <-results, "the end is something")
}
