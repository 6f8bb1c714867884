// Package nstest gives tests network namespaces of their own. A namespace has no name and no process:
// it is gone with the test, however that ends.
package nstest

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Host is a network namespace.
type Host struct {
	*hostnet.Host
	t testing.TB
}

// New makes a namespace with the loopback device up and bridge netfilter off. It skips the test where
// the privileges for that are missing.
func New(t testing.TB) *Host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	type made struct {
		h   *hostnet.Host
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{nil, err}
			return
		}
		h, err := hostnet.New()
		done <- made{h, err}
	}()
	m := <-done
	require.NoError(t, m.err)
	t.Cleanup(m.h.Close)
	h := &Host{m.h, t}
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		// Absent where the module is not loaded.
		_ = h.Do(func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0) })
	}
	h.IP("link set lo up")
	return h
}

// IP runs `ip` commands, a line each, and fails the test at the first that fails.
func (h *Host) IP(lines string) {
	h.t.Helper()
	out, err := h.TryIP(lines)
	require.NoError(h.t, err, "%s\n%s", lines, out)
}

// TryIP is IP that returns the output and the error.
func (h *Host) TryIP(lines string) (string, error) {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines + "\n")
	return h.Output(cmd)
}

// Output runs a command in the namespace and returns what it wrote to both outputs.
func (h *Host) Output(cmd *exec.Cmd) (string, error) {
	var out []byte
	err := h.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// Show is the output of `ip` with these arguments.
func (h *Host) Show(args ...string) string {
	h.t.Helper()
	out, err := h.Output(exec.Command("ip", args...))
	require.NoError(h.t, err, out)
	return out
}

// Sysctl sets a value below /proc/sys/net.
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	require.NoError(h.t, h.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) }))
}

// Index is the interface index of a device.
func (h *Host) Index(name string) int {
	h.t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(h.t, err)
	return l.Index
}
