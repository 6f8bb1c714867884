package clitest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/paths"
)

// Scripts runs the transcripts in dir, each on a host of its own: a network namespace with a device
// eth0 (MAC 02:00:00:00:00:01, 192.0.2.1/24), and a prefix, below which no daemon runs yet. The
// programs xend, xm and vn, and the script vif-bridge, are built from this module; $many is how many vnets are many, $completions is its directory of that name, $recordings has httpsxp/testdata and xmlrpc/testdata.
func Scripts(t *testing.T, dir string) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	bin := Build(t)
	completions, err := filepath.Abs("../../completions")
	require.NoError(t, err)

	testscript.RunT(hostT{t}, testscript.Params{
		Dir:           dir,
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"replay": replayTo, "virsh": virsh},
		Setup: func(env *testscript.Env) error {
			prefix := filepath.Join(env.WorkDir, "h")
			env.Setenv("PATH", bin+":/usr/sbin:/usr/bin:/sbin:/bin")
			env.Setenv(paths.PrefixEnv, prefix)
			env.Setenv("completions", completions)
			env.Setenv("many", many())
			env.Setenv("recordings", filepath.Join(completions, "../xendcompat"))
			env.Defer(func() { stop(t, bin, prefix) })
			return eth0(t.Context())
		},
	})
}

// many is how many vnets are many: as many as a test has time for.
func many() string {
	if os.Getenv("XEND_LONG_TESTS") != "" {
		return "1000"
	}
	return "40"
}

// replayTo is the command "replay SOCKET FILE" of scripts: it sends what a legacy client sent, byte for byte, and prints
// what comes back.
func replayTo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: replay SOCKET FILE")
	}
	request, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	conn, err := net.DialTimeout("unix", ts.MkAbs(args[0]), time.Minute)
	ts.Check(err)
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = conn.Write(request)
	ts.Check(err)
	ts.Check(conn.(*net.UnixConn).CloseWrite())
	reply, err := io.ReadAll(conn)
	ts.Check(err)
	_, err = ts.Stdout().Write(bytes.ReplaceAll(reply, []byte("\r\n"), []byte("\n")))
	ts.Check(err)
}

// stop ends a daemon that a script left running.
func stop(t *testing.T, bin, prefix string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "xend"), "--prefix", prefix, "stop")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("xend stop: %v\n%s", err, out)
	}
}

// eth0 makes the network device of a host. br_netfilter would pass bridged frames through the
// firewall of the namespace, on machines that have it built in.
func eth0(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "sh", "-ec", `
		ip link set lo up
		ip link add eth0 address 02:00:00:00:00:01 type veth peer name wire0
		ip link set wire0 up
		ip address add 192.0.2.1/24 dev eth0
		ip link set eth0 up
		ip route add default via 192.0.2.254
		for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done`)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// hostT runs each script on a thread in a network namespace of its own, which the programs that it
// starts inherit. The thread ends with the script.
type hostT struct{ *testing.T }

var _ testscript.T = hostT{}

// Run implements testscript.T.
func (t hostT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) {
		runtime.LockOSThread()
		require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
		f(hostT{t})
	})
}

// Parallel implements testscript.T. Scripts share two processors with their daemons.
func (hostT) Parallel() {}

// Verbose implements testscript.T.
func (hostT) Verbose() bool { return testing.Verbose() }

// Build builds the programs xend, xm, vn, and the script vif-bridge, and returns their directory.
func Build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../xend", "../xm", "../vn", "../netscript")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Symlink("netscript", filepath.Join(bin, "vif-bridge")))
	// Others than root run them, too.
	require.NoError(t, os.Chmod(bin, 0o755))
	return bin
}
