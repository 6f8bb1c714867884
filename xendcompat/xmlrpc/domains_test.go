package xmlrpc

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDomainLife calls what xm of 3.0.2 to 4.2 calls, in its order of parameters.
func TestDomainLife(t *testing.T) {
	tool, _, address := startDomains(t)
	dir := t.TempDir()
	list := func(items ...any) []any { return items }
	form := list("vm", list("name", "vm1"), list("memory", int64(64)), list("vcpus", int64(2)), list("image", list("linux", list("kernel", "/boot/k"))),
		list("device", list("vif", list("mac", "00:16:3e:00:00:01"))))
	for _, tt := range []struct {
		method string
		params []any
		want   string // what the toolstack did; "" for nothing
	}{
		{"new", list(form), ""},
		{"start", list("vm1", false), "create vm1"},
		{"waitForDevices", list("vm1"), ""},
		{"pause", list("vm1"), "pause 1"},
		{"unpause", list(int64(1)), "unpause 1"},
		{"setMemoryTarget", list("vm1", int64(48)), "mem-set 1 48"},
		{"maxmem_set", list("vm1", int64(128)), "mem-max 1 128"},
		{"setVCpuCount", list("vm1", int64(1)), "vcpu-set 1 1"},
		{"pincpu", list("vm1", int64(0), "0"), "vcpu-pin 1 0 [0]"},
		{"pincpu", list("vm1", int64(1), list(int64(0))), "vcpu-pin 1 1 [0]"},
		{"domain_sched_credit_set", list("vm1", int64(512), int64(50)), "sched-credit 1 512 50"},
		{"send_sysrq", list("vm1", "h"), "sysrq 1 h"},
		{"send_trigger", list("vm1", "nmi", int64(0)), "trigger 1 nmi 0"},
		{"device_create", list("vm1", list("vbd", list("uname", "phy:b"), list("dev", "xvdb"), list("mode", "w"))), "attach 1 (vbd (uname phy:b) (dev xvdb) (mode w))"},
		{"destroyDevice", list("vm1", "vbd", "xvdb", false, false), "detach 1 vbd 0 force=false"},
		{"destroyDevice", list("vm1", "vif", "0", nil), "detach 1 vif 0 force=false"},
		{"dump", list("vm1", filepath.Join(dir, "core"), true, false, false), "dump-core 1 live=true crash=false"},
		{"setName", list("vm1", "vm2"), "rename 1 vm2"},
		{"save", list("vm2", filepath.Join(dir, "vm2.save"), false), "save 1"},
		{"restore", list(filepath.Join(dir, "vm2.save"), false), "create vm2"},
		{"suspend", list("vm2"), "save 2"},
		{"resume", list("vm2", false), "create vm2"},
		{"shutdown", list("vm2", "reboot"), "shutdown 3 reboot"},
		{"destroy", list("vm2"), ""}, // or the watcher does
		{"delete", list("vm2"), ""},
		{"create", list(form), "create vm1"},
		{"migrate", list("vm1", "hostb", true, int64(0), int64(-1), false, false), "migrate 5 hostb:0 live=true"},
	} {
		if tt.method == "destroy" {
			require.Eventually(t, func() bool {
				v, err := call(t, address, "xend.domain", "vm2", false)
				return err == nil && fields(v)["domid"] == int64(4)
			}, 10*time.Second, time.Millisecond)
		}
		_, err := call(t, address, "xend.domain."+tt.method, tt.params...)
		require.NoError(t, err, tt.method)
		if tt.want == "" || tt.method == "shutdown" {
			if tt.want != "" {
				require.Contains(t, tool.Calls(), tt.want)
			}
			continue
		}
		calls := tool.Calls()
		require.Equal(t, tt.want, calls[len(calls)-1], tt.method)
	}
	// 3.0's order of the parameters: a resource, then the port.
	_, err := call(t, address, "xend.domain.create", form)
	require.NoError(t, err)
	_, err = call(t, address, "xend.domain.migrate", "vm1", "hostb", false, int64(0), int64(8003))
	require.NoError(t, err)
	require.Contains(t, tool.Calls(), "migrate 6 hostb:8003 live=false")

	halted, err := call(t, address, "xend.domains_with_state", false, "halted")
	require.NoError(t, err)
	require.Equal(t, []any{}, halted)
}

// TestSchedCredit replies with a struct, which xm indexes.
func TestSchedCredit(t *testing.T) {
	_, _, address := startDomains(t)
	_, err := call(t, address, "xend.domain.create", []any{"vm", []any{"name", "vm1"}})
	require.NoError(t, err)
	v, err := call(t, address, "xend.domain.sched_credit_get", "vm1")
	require.NoError(t, err)
	require.Len(t, v, 2)
}
