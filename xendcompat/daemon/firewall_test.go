package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func iptables(t *testing.T, args ...string) string {
	out, err := exec.Command("iptables", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.ReplaceAll(string(out), `"`, "") // some versions quote comments
}

// TestFirewallWatch has a firewall like Docker's beside xend: it is told once, and accepted where asked for.
func TestFirewallWatch(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("iptables is not there; make test installs it")
	}
	_, host := newHost(t)
	set := func(value string) {
		for _, name := range []string{"iptables", "ip6tables"} {
			require.NoError(t, host.SetSysctl(value, "net", "bridge", "bridge-nf-call-"+name))
		}
	}
	if _, err := host.Sysctl("net", "bridge", "bridge-nf-call-iptables"); err != nil {
		t.Skip("this kernel has no br_netfilter")
	}
	set("1")
	iptables(t, "-P", "FORWARD", "DROP")
	var log bytes.Buffer
	w := &firewallWatch{do: host.Do, proc: t.TempDir(), log: slog.New(slog.NewTextHandler(&log, nil))}
	w.look([]string{"vnet97"})
	w.look([]string{"vnet97"})
	require.Equal(t, 1, strings.Count(log.String(), "the firewall drops what the bridge of a vnet forwards"), log.String())
	require.Contains(t, log.String(), `cure="[scripts] accept_bridges = true in vnet.toml, or: iptables -I FORWARD -i vnet97 -o vnet97 -j ACCEPT"`)

	w.accept = true
	w.look([]string{"vnet97", "vnet98"})
	rules := iptables(t, "-S", "FORWARD")
	for _, bridge := range []string{"vnet97", "vnet98"} {
		require.Contains(t, rules, "-A FORWARD -i "+bridge+" -o "+bridge+" -m comment --comment xend:bridge:"+bridge+" -j ACCEPT")
	}
	require.Contains(t, log.String(), "the firewall drops it no longer")
	w.look([]string{"vnet97"})
	require.NotContains(t, iptables(t, "-S", "FORWARD"), "vnet98", "its vnet is gone")
	w.accept = false
	w.look([]string{"vnet97"})
	require.Equal(t, "-P FORWARD DROP\n", iptables(t, "-S", "FORWARD"))

	require.NoError(t, os.Mkdir(filepath.Join(w.proc, "77"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(w.proc, "77/comm"), []byte("dockerd\n"), 0o644))
	w.off = true
	w.look([]string{"vnet97"})
	require.Contains(t, log.String(), `relied_on_by="dockerd (process 77)"`)
	value, err := host.Sysctl("net", "bridge", "bridge-nf-call-iptables")
	require.NoError(t, err)
	require.Equal(t, "0", value)
}
