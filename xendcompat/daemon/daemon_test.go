package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/internal/paths"
)

// holdEnv has the test binary hold a pid file, as a process of its own.
const holdEnv = "DAEMON_TEST_HOLD"

// held is what keeps the collector from closing the file, which would give up the lock.
var held *pidFile

func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		var err error
		if held, err = writePIDFile(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		// Before the word that it holds: without a signal to wait for, the runtime would end it as deadlocked.
		end := make(chan os.Signal, 1)
		signal.Notify(end, os.Interrupt)
		fmt.Println("held")
		<-end
	}
	if prefix := os.Getenv(runEnv); prefix != "" {
		os.Exit(runMain(prefix))
	}
	goleak.VerifyTestMain(m)
}

// newHost moves the test into a network namespace of its own, with the paths of a machine below a prefix.
func newHost(t testing.TB) (paths.Paths, *hostnet.Host) {
	t.Helper()
	h := nettest.Enter(t)
	dir, err := os.MkdirTemp("", "xend") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := paths.New(dir)
	require.NoError(t, err)
	return p, h
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
}

// get asks the SXP/HTTP server for a page.
func get(t *testing.T, p paths.Paths, page string) string {
	t.Helper()
	conn, err := net.Dial("unix", p.Socket())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", page)
	require.NoError(t, err)
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	return string(b)
}

func TestRun(t *testing.T) {
	p, h := newHost(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(p.Prefix, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	told := func() string {
		b := make([]byte, 100)
		n, err := notify.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}

	ctx, cancel := context.WithCancel(t.Context())
	var slow net.Conn
	err = Run(ctx, Options{Paths: p, Ready: func() error {
		defer cancel()
		require.Equal(t, "READY=1", told())
		require.Contains(t, get(t, p, "/xend/vnet/"), "\r\n\r\n()")
		require.Contains(t, get(t, p, "/xend/node/"), "(node (system Linux)")
		_, err := h.LinkByName("vnif0002")
		require.NoError(t, err)
		// A client that never finishes its request does not keep the daemon from ending.
		slow, err = net.Dial("unix", p.Socket())
		require.NoError(t, err)
		_, err = slow.Write([]byte("GET /xend/"))
		require.NoError(t, err)
		return nil
	}})
	require.NoError(t, err)
	slow.Close()
	require.Equal(t, "STOPPING=1", told())
	log, err := os.ReadFile(p.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), `msg="xend ends"`)
	for _, file := range []string{p.PidFile(), p.Socket(), p.ControlSocket(), p.XMLRPCSocket()} {
		require.NoFileExists(t, file)
	}
	_, err = h.LinkByName("vnif0002")
	require.NoError(t, err, "devices stay")
}

func TestRunFails(t *testing.T) {
	p, h := newHost(t)
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "vnif0003", Partner: "other"}))
	err := Run(t.Context(), Options{Paths: p, Ready: func() error { return io.ErrClosedPipe }})
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.NoFileExists(t, p.PidFile())
	// A device in the way of one vnet keeps no other down.
	index(t, h, "vnif0002")
	index(t, h, "vnif0004")
	log, err := os.ReadFile(p.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), "vnif0003 (veth, index")
	require.Contains(t, string(log), "'default_vnets = false'")
}

func index(t *testing.T, h *hostnet.Host, name string) int {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l.Index
}

// TestStopWhileScriptRuns ends the daemon while its network script runs.
func TestStopWhileScriptRuns(t *testing.T) {
	p, _ := newHost(t)
	write(t, p.XendConfig(), "(network-script network-test)")
	fifo := filepath.Join(p.Prefix, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	write(t, filepath.Join(p.Scripts(), "network-test"), "#!/bin/sh\ntrap 'echo asked to stop; exit 1' TERM\necho >"+fifo+"\nsleep 1000 & wait\n")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		os.ReadFile(fifo) //nolint:errcheck // when it ends, the script runs
		cancel()
	}()
	require.NoError(t, Run(ctx, Options{Paths: p, Ready: func() error { t.Error("ready"); return nil }}))
	b, err := os.ReadFile(p.HotplugLog())
	require.NoError(t, err)
	require.Equal(t, "asked to stop\n", string(b))
}

func TestPIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "xend.pid")
	pid, err := runningPID(path)
	require.NoError(t, err)
	require.Zero(t, pid)
	// A file alone, whoever's pid is in it, means nothing.
	write(t, path, fmt.Sprintln(os.Getpid()))
	pid, err = runningPID(path)
	require.NoError(t, err)
	require.Zero(t, pid)

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintln(cmd.Process.Pid), string(b))
	var running *RunningError
	_, err = writePIDFile(path)
	require.ErrorAs(t, err, &running)
	require.Equal(t, cmd.Process.Pid, running.PID)

	p, err := findProcess(path)
	require.NoError(t, err)
	defer p.close()
	ended, err := p.wait(0)
	require.NoError(t, err)
	require.False(t, ended)
	require.NoError(t, p.signal(unix.SIGKILL))
	ended, err = p.wait(-1)
	require.NoError(t, err)
	require.True(t, ended)
	require.Error(t, cmd.Wait())
	require.NoError(t, p.signal(unix.SIGKILL), "one that has ended is no error")
	p, err = findProcess(path)
	require.NoError(t, err)
	require.Nil(t, p)
}

func TestFindScript(t *testing.T) {
	dir, beside := t.TempDir(), t.TempDir()
	s := script{dir: dir, beside: beside}
	write(t, filepath.Join(beside, "a"), "")
	write(t, filepath.Join(dir, "sub", "b"), "")
	for name, want := range map[string]string{"a": beside + "/a", "sub/b": dir + "/sub/b", "/abs": "/abs"} {
		path, err := s.find(name)
		require.NoError(t, err)
		require.Equal(t, want, path)
	}
	write(t, filepath.Join(dir, "a"), "")
	path, err := s.find("a")
	require.NoError(t, err)
	require.Equal(t, dir+"/a", path)
	for name, want := range map[string]string{"c": "c not found in " + dir + "/c nor " + beside + "/c", "sub/c": "sub/c not found in " + dir + "/sub/c"} {
		_, err := s.find(name)
		require.EqualError(t, err, want)
	}
}

func TestScriptThatCannotRun(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), "no program")
	require.NoError(t, os.Chmod(filepath.Join(dir, "x"), 0o644))
	for command, want := range map[string]string{" x": "it begins with a blank", "x": "permission denied"} {
		var log strings.Builder
		script{command: command, dir: dir, timeout: time.Minute, log: filepath.Join(dir, "log")}.start(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
		require.Contains(t, log.String(), want)
		require.Contains(t, log.String(), "level=ERROR")
	}
}

func TestSockets(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir, err := os.MkdirTemp("", "xend")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "a", "b", "s")

	s, err := bindUnix(path, log)
	require.NoError(t, err)
	_, err = net.Dial("unix", path)
	require.ErrorIs(t, err, unix.ECONNREFUSED, "it is bound and does not listen yet")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	info, err = os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	s.close()
	require.NoFileExists(t, path)

	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	s, err = bindUnix(path, log)
	require.NoError(t, err)
	info, err = os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "the directory is set, too")
	ln, err := s.listen()
	require.NoError(t, err)
	s.close()
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
	go func() { // a daemon that runs waits for what clients say
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	_, err = bindUnix(path, log)
	require.EqualError(t, err, "socket "+path+": another process listens there")
	require.NoError(t, ln.Close())
	require.NoFileExists(t, path)

	// A directory that others use, too, keeps its mode.
	sticky := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(sticky, 0o777))
	require.NoError(t, os.Chmod(sticky, 0o777|os.ModeSticky))
	s, err = bindUnix(filepath.Join(sticky, "s"), log)
	require.NoError(t, err)
	defer s.close()
	info, err = os.Stat(sticky)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o777), info.Mode().Perm())
}

func TestTCPSockets(t *testing.T) {
	_, h := newHost(t)
	require.NoError(t, h.SetUp(index(t, h, "lo")))
	for _, address := range []string{"localhost", "127.0.0.1", "::1"} {
		s, err := bindTCP(t.Context(), address, 8000)
		require.NoError(t, err)
		_, err = net.Dial("tcp", net.JoinHostPort(address, "8000"))
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		ln, err := s.listen()
		require.NoError(t, err)
		_, err = bindTCP(t.Context(), address, 8000)
		require.EqualError(t, err, "TCP "+address+" port 8000: address already in use")
		require.NoError(t, ln.Close())
	}
	_, err := bindTCP(t.Context(), "no.such.host.invalid", 8000)
	require.ErrorContains(t, err, "TCP no.such.host.invalid port 8000: ")
}

// TestPIDFileOfWaiter has a second daemon wait for the first, which removes its file when it ends.
func TestPIDFileOfWaiter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xend.pid")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	require.NoError(t, err)
	defer f.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	stdin := bufio.NewReader(out)
	first := &pidFile{f: f}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	require.NoError(t, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock))
	require.NoError(t, cmd.Start())
	// It has the file open, and waits for this process.
	require.Eventually(t, func() bool {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
		return slices.ContainsFunc(fds, func(fd string) bool { target, _ := os.Readlink(fd); return target == path })
	}, time.Minute, time.Millisecond)
	first.remove()
	line, err := stdin.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	pid, err := runningPID(path)
	require.NoError(t, err)
	require.Equal(t, cmd.Process.Pid, pid)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}

// TestFullRun has the directory of run-time files full: vnets come up all the same, and clients are served when there
// is room.
func TestFullRun(t *testing.T) {
	for name, inodes := range map[string]string{"no space": "100", "no inode": "4"} {
		t.Run(name, func(t *testing.T) {
			p, h := newHost(t)
			run := p.RunRoot()
			require.NoError(t, os.MkdirAll(run, 0o755))
			require.NoError(t, unix.Mount("tmpfs", run, "tmpfs", 0, "size=4k,nr_inodes="+inodes))
			t.Cleanup(func() { require.NoError(t, unix.Unmount(run, unix.MNT_DETACH)) })
			require.NoError(t, os.WriteFile(filepath.Join(run, "full"), make([]byte, 4096), 0o600))
			err := Run(t.Context(), Options{Paths: p, Ready: func() error {
				if _, err := h.LinkByName("vnif0002"); err != nil {
					return err
				}
				if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_REMOUNT, "size=1m,nr_inodes=1000"); err != nil {
					return err
				}
				for !answers(p.ControlSocket()) && t.Context().Err() == nil {
					time.Sleep(10 * time.Millisecond)
				}
				return io.ErrClosedPipe
			}})
			require.ErrorIs(t, err, io.ErrClosedPipe)
		})
	}
}
