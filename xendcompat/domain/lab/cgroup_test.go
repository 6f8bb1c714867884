package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	xlab "github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// group reads a file of a domain's control group: "file", or one value of many, "file key".
func (m *machine) group(id int, what string) string {
	m.t.Helper()
	file, key, many := strings.Cut(what, " ")
	b, err := os.ReadFile(filepath.Join(m.cgroups.group(id), file))
	require.NoError(m.t, err)
	if !many {
		return strings.TrimSpace(string(b))
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	m.t.Fatalf("%s has no %s", file, key)
	return ""
}

// Limits hold, in a real control group: who takes more memory than it has is killed, who wants more processor waits, and where it may
// not run it does not. make test-vm has a kernel with these controllers.
func TestLimitsHold(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	if missing := strings.Join(m.cgroups.missing, " "); missing != "" {
		t.Skipf("the cgroups of version 2 of this machine have no controller %s", missing)
	}
	program := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(program, []byte(`#!/bin/sh
case $1 in
memory) head -c 80000000 /dev/zero | tail -n 1 ;;
processor) while :; do :; done ;;
esac
`), 0o755))
	start := func(arg string, change func(c *domain.Config)) int {
		c := config("vm-"+arg, "00:16:3e:00:00:01", "10.1.0.1")
		c.Kernel, c.Extra = program, "-- "+arg
		change(&c)
		return m.create(c)
	}

	events := m.Watch(t.Context())
	id := start("memory", func(c *domain.Config) { c.Memory = 64 })
	require.Equal(t, strconv.Itoa(64<<20), m.group(id, "memory.max"))
	e := m.await(events, func(e domain.Event) bool { return e.ID == id && e.Reason != "" })
	require.Equal(t, domain.Crash, e.Reason)
	require.NotEqual(t, "0", m.group(id, "memory.events oom_kill"))
	require.NoError(t, m.Destroy(t.Context(), id))

	id = start("processor", func(c *domain.Config) { c.CPUCap, c.CPUWeight, c.CPUs = 20, 512, []string{"0"} })
	number := func(key string) int { return must(strconv.Atoi(m.group(id, "cpu.stat "+key))) }
	require.Eventually(t, func() bool { return number("nr_throttled") > 5 }, patience, 10*time.Millisecond)
	const quota = 20_000 // of each period, in microseconds
	used := number("usage_usec")
	require.Less(t, used, (number("nr_periods")+2)*quota*3/2, "it has a fifth of a processor; the kernel hands time out in slices")
	require.Equal(t, "200", m.group(id, "cpu.weight"))
	require.Equal(t, "0", m.group(id, "cpuset.cpus.effective"))

	// All of it can be changed while it runs.
	require.NoError(t, m.SetSchedCredit(t.Context(), id, 256, 0))
	require.Equal(t, "100000 100000", m.group(id, "cpu.max"))
	require.NoError(t, m.Pause(t.Context(), id))
	require.Eventually(t, func() bool { return m.group(id, "cgroup.events frozen") == "1" }, patience, 10*time.Millisecond)
	used = number("usage_usec")
	require.NoError(t, m.Unpause(t.Context(), id))
	require.Eventually(t, func() bool { return number("usage_usec") > used }, patience, 10*time.Millisecond)
	require.NoError(t, m.Destroy(t.Context(), id))
	require.Empty(t, m.cgroups.ours())
}
