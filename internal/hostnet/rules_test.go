package hostnet

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWatchRules: changes of rules are told, by whatever program they were made; many at a time seldom.
func TestWatchRules(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	const pause = 100 * time.Millisecond
	changed, err := h.watchRules(ctx, pause)
	require.NoError(t, err)
	run := func(stdin, name string, args ...string) {
		t.Helper()
		require.NoError(t, h.Do(func() error {
			cmd := exec.Command(name, args...)
			cmd.Stdin = strings.NewReader(stdin)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			return nil
		}))
	}
	told := func(what string) {
		t.Helper()
		select {
		case _, open := <-changed:
			require.True(t, open)
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody tells of %s", what)
		}
	}
	run("add table inet x\nadd chain inet x c { type filter hook output priority 0 ; }", "nft", "-f", "-")
	told("a chain")
	run("add rule inet x c udp dport 1798 drop", "nft", "-f", "-")
	told("a rule")
	run("delete table inet x", "nft", "-f", "-")
	told("what is gone")
	run("", "iptables-nft", "-A", "OUTPUT", "-p", "udp", "-j", "DROP")
	told("a rule of iptables")

	// More than fits the socket, in many steps.
	began := time.Now()
	var all strings.Builder
	all.WriteString("add table inet y\nadd chain inet y c\n")
	for i := range 3000 {
		fmt.Fprintf(&all, "add rule inet y c udp dport %d drop\n", i+1)
	}
	for range 5 {
		run(all.String(), "nft", "-f", "-")
	}
	told("many")
	words := 1
	for ; ; words++ {
		select {
		case <-changed:
			continue
		case <-time.After(2 * pause):
		}
		break
	}
	require.LessOrEqual(t, words, int(time.Since(began)/pause)+1)
	run("delete table inet y", "nft", "-f", "-")
	told("what comes after an overflow")

	cancel()
	for range changed { // until it is closed
	}
}
