package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if os.Getenv("NETSCRIPT_MAIN") != "" {
		os.Exit(run(os.Args))
	}
	os.Exit(m.Run())
}

// One program is every script, by the name that it is called by or by its first argument.
func TestNames(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	call := func(argv0 string, args ...string) (string, string, int) {
		cmd := &exec.Cmd{Path: self, Args: append([]string{argv0}, args...), Env: []string{"NETSCRIPT_MAIN=1", "XEND_PREFIX=" + dir}}
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	for _, name := range []string{"network-bridge", "network-vnet"} {
		for _, argv := range [][]string{{"/etc/xen/scripts/" + name}, {"netscript", name}, {filepath.Join(dir, name)}} {
			_, errs, status := call(argv[0], append(argv[1:], "frob")...)
			require.Equal(t, 1, status)
			require.Equal(t, "Unknown command: frob\nValid commands are: start, stop, status\n", errs)
		}
	}
	out, errs, status := call("vnet-insert")
	require.Equal(t, [3]any{"", "", 0}, [3]any{out, errs, status})
	_, errs, status = call("netscript")
	require.Equal(t, 1, status)
	require.Contains(t, errs, "usage: netscript NAME")
	_, _, status = call("netscript", "network-frob", "start")
	require.Equal(t, 1, status)
	out, _, status = call("vif-setup", "--version")
	require.Equal(t, 0, status)
	require.Equal(t, "vif-setup dev\n", out)
	// $XEND_PREFIX is where the log is.
	b, err := os.ReadFile(filepath.Join(dir, "var/log/xen/xen-hotplug.log"))
	require.NoError(t, err)
	require.Contains(t, string(b), "Valid commands are")
}

// A reader of the output that has gone does not end the program half way.
func TestBrokenPipe(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	r.Close()
	defer w.Close()
	cmd := exec.Command(self, "--help")
	cmd.Args[0] = "network-bridge"
	cmd.Env = []string{"NETSCRIPT_MAIN=1"}
	cmd.Stdout, cmd.Stderr = w, w
	require.NoError(t, cmd.Run())
}
