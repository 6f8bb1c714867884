package netscripts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is a script as a process of its own in the host's namespace; see child.
func (h *host) process(at string, argv ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(h.t, err)
	cmd := exec.Command(self, append([]string{"/etc/xen/scripts/" + argv[0]}, append(argv[1:], "--prefix", h.prefix)...)...)
	// Nothing of the caller's: variables such as bridge have a meaning.
	cmd.Env = []string{"NETSCRIPT_CHILD=" + at, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// A run that is killed at any change leaves a machine that the next run puts right.
func TestKilledAtEachChange(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	plain := h.dump()
	opposite := map[string]string{"start": "stop", "stop": "start"}
	for _, command := range []string{"start", "stop"} {
		was := h.dump()
		for n := 1; ; n += stride(5) {
			out, err := h.Output(h.process(fmt.Sprintf("%d:kill", n), "network-bridge", command))
			if err == nil {
				break
			}
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, out)
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), out)
			// The opposite has nothing to do, once what was begun is undone.
			r := h.run("network-bridge", opposite[command])
			require.Equal(t, 0, r.status, r.stderr)
			if strings.Contains(r.stderr, "the bridge is gone, so the rest is done") {
				// Killed when all was done but the note of it: the opposite was not idle.
				h.must("network-bridge", "stop")
				break
			}
			h.same(was, fmt.Sprintf("%s killed at change %d: %s", command, n, r.stderr))
		}
	}
	h.same(plain, "stop")
}

// Killed at the last moment and in the middle, and the rollback killed as well.
func TestKilledInRollback(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	_, err := h.Output(h.process("25:kill", "network-bridge", "start"))
	require.Error(t, err)
	for n := 1; ; n++ {
		if _, err = h.Output(h.process(fmt.Sprintf("%d:kill", n), "network-bridge", "stop")); err == nil {
			break
		}
	}
	h.same(was, "recovery killed at each change")
}

// A signal when the bridge is gone already comes too late to undo anything.
func TestTooLate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	h.must("network-bridge", "start")
	ctx, cancel := context.WithCancel(context.Background())
	r := h.runWith(ctx, Env{Before: func(what string) error {
		if strings.HasPrefix(what, "delete xendtmp") {
			cancel()
		}
		return nil
	}}, "network-bridge", "stop")
	require.Equal(t, 0, r.status, r.stderr)
	h.same(was, "stop")
}

// Somebody deletes the bridge that a killed stop left half way: the device gets what it had.
func TestBridgeDeletedInBetween(t *testing.T) {
	t.Parallel()
	for _, n := range []int{6, 12, 18} {
		h := newHost(t)
		was := h.dump()
		h.must("network-bridge", "start")
		_, err := h.Output(h.process(fmt.Sprintf("%d:kill", n), "network-bridge", "stop"))
		require.Error(t, err)
		bridges := strings.Fields(h.Show("-br", "link", "show", "type", "bridge"))
		h.IP("link del " + bridges[0])
		r := h.run("network-bridge", "stop")
		require.Equal(t, 0, r.status, r.stderr)
		require.Contains(t, r.stderr, "the bridge is gone, so the rest is done")
		h.same(was, fmt.Sprintf("deleted at change %d", n))
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	for i, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		cmd := h.process(fmt.Sprintf("%d:wait", 8+10*i), "network-bridge", "start")
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		require.NoError(t, h.Do(cmd.Start))
		lines := bufio.NewReader(stdout)
		line, err := lines.ReadString('\n')
		require.NoError(t, err, stderr.String())
		require.Contains(t, line, "at change")
		require.NoError(t, cmd.Process.Signal(sig))
		_, _ = io.Copy(io.Discard, lines)
		require.Error(t, cmd.Wait())
		require.Equal(t, 1, cmd.ProcessState.ExitCode())
		require.Contains(t, stderr.String(), sig.String())
		require.Contains(t, stderr.String(), "everything was put back as it was")
		h.same(was, sig.String())
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	n := 0
	r := h.runWith(context.Background(), Env{
		Timeout: 300 * time.Millisecond,
		Before: func(string) error {
			if n++; n == 12 {
				<-time.After(400 * time.Millisecond) // the kernel takes its time
			}
			return nil
		},
	}, "network-bridge", "start")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "this took longer than 300ms")
	h.same(was, "time-out")
}

// A rollback that fails keeps the journal, and the next run finishes it.
func TestRollbackFails(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	n := 0
	r := h.runWith(context.Background(), Env{Before: func(what string) error {
		if n++; n >= 20 && n < 40 {
			return errors.New("injected")
		}
		return nil
	}}, "network-bridge", "start")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "not everything could be put back; the next run of network-bridge tries again what "+h.prefix)
	require.Contains(t, h.run("network-bridge", "status").stdout, "has not finished")
	r = h.run("network-bridge", "stop", "--dry-run")
	require.Contains(t, r.stdout, "would first put everything back as it was before")
	r = h.run("network-bridge", "stop")
	require.Equal(t, 0, r.status, r.stderr)
	require.Contains(t, r.stderr, fmt.Sprintf("network-bridge start of process %d was interrupted; putting everything back", os.Getpid()))
	h.same(was, "second rollback")
}

// A journal of another boot or of a namespace that is gone says nothing about this one.
func TestForeignJournal(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, err := h.Output(h.process("14:kill", "network-bridge", "start"))
	require.Error(t, err)
	was := h.dump()
	var j *journal
	require.NoError(t, h.Do(func() (err error) {
		s := &script{}
		s.paths.Prefix = h.prefix
		j, err = s.openJournal()
		return err
	}))
	b, err := os.ReadFile(j.path)
	require.NoError(t, err)
	other := strings.Replace(string(b), j.self.Boot, "00000000-0000-4000-8000-000000000000", 1)
	require.NotEqual(t, string(b), other)
	require.NoError(t, os.WriteFile(j.path, []byte(other), 0o600))
	require.Contains(t, h.must("network-bridge", "stop").stdout, "nothing to do")
	h.same(was, "another boot's journal")

	require.NoError(t, os.WriteFile(j.path, b[:len(b)/2], 0o600))
	r := h.run("network-bridge", "start")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "is damaged")

	require.NoError(t, os.WriteFile(j.path, b, 0o600))
	require.Equal(t, 0, h.run("network-bridge", "stop").status)
	require.NoFileExists(t, j.path)
}

// Several at the same time do what one does.
func TestConcurrentRuns(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	for _, command := range []string{"start", "stop"} {
		var list []*exec.Cmd
		var outs []*strings.Builder
		for range 4 {
			cmd := h.process("0:run", "network-bridge", command)
			out := &strings.Builder{}
			cmd.Stdout, cmd.Stderr = out, out
			require.NoError(t, h.Do(cmd.Start))
			list, outs = append(list, cmd), append(outs, out)
		}
		idle := 0
		for i, cmd := range list {
			require.NoError(t, cmd.Wait(), outs[i])
			if strings.Contains(outs[i].String(), "nothing to do") {
				idle++
			}
		}
		require.Equal(t, 3, idle)
	}
	h.same(was, "concurrent runs")
}

// Start and stop at the same time end in one state or the other.
func TestStartAgainstStop(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	for range 3 {
		var list []*exec.Cmd
		for _, command := range []string{"start", "stop", "start", "stop"} {
			cmd := h.process("0:run", "network-bridge", command)
			require.NoError(t, h.Do(cmd.Start))
			list = append(list, cmd)
		}
		for _, cmd := range list {
			require.NoError(t, cmd.Wait())
		}
	}
	require.Equal(t, 0, h.run("network-bridge", "stop").status)
	h.same(was, "start against stop")
}
