package domain

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

// recorded is a toolstack that says what Xen 4.17's said.
func recorded(t *testing.T) *Manager {
	t.Helper()
	dir, err := filepath.Abs("testdata/xl-4.17")
	require.NoError(t, err)
	return NewManager(Options{XL: script(t, `cd `+dir+` && exec cat "$(printf %s "$1$2" | sed 's/^list-l$/list-l/; s/^dmesg-c$/dmesg/')"`)})
}

func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xl")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
	return path
}

// here is a machine without Xen.
func here(t *testing.T) *Manager {
	t.Helper()
	if strings.Contains(read("/proc", "xen/capabilities"), "control_d") {
		t.Skip("this machine runs Xen")
	}
	return NewManager(Options{})
}

func value(t *testing.T, form sxp.Value, key string) string {
	t.Helper()
	_, ok := form.Child(key)
	require.True(t, ok, "%s in %s", key, form)
	return form.ChildValue(key, "")
}

func positive(t *testing.T, form sxp.Value, keys ...string) {
	t.Helper()
	for _, key := range keys {
		n, err := strconv.Atoi(value(t, form, key))
		require.NoError(t, err, key)
		require.Positive(t, n, key)
	}
}

// nodeKeys are those of the API page, of libvirt, and of the recorded replies.
var nodeKeys = strings.Fields(`system host release version machine nr_cpus nr_nodes sockets_per_node cores_per_socket
	threads_per_core cpu_mhz hw_caps total_memory free_memory xen_major xen_minor xen_extra xen_caps platform_params
	xen_changeset cc_compiler cc_compile_by cc_compile_domain cc_compile_date xen_scheduler xend_config_format node_to_cpu`)

func TestNodeHere(t *testing.T) {
	node, err := here(t).Node(t.Context())
	require.NoError(t, err)
	require.Equal(t, "node", node.Name())
	for _, key := range nodeKeys {
		value(t, node, key)
	}
	require.Equal(t, "Linux", value(t, node, "system"))
	require.Equal(t, "4", value(t, node, "xend_config_format"))
	require.Equal(t, noHypervisor, value(t, node, "xen_extra"))
	positive(t, node, "nr_cpus", "nr_nodes", "sockets_per_node", "cores_per_socket", "threads_per_core", "total_memory", "free_memory", "xen_major")
	require.Less(t, len(node.String()), 4000)
}

func TestNodeXen(t *testing.T) {
	node, err := recorded(t).Node(t.Context())
	require.NoError(t, err)
	for _, key := range nodeKeys {
		value(t, node, key)
	}
	require.Equal(t, "17", value(t, node, "xen_minor"))
	require.Equal(t, "2596", value(t, node, "cpu_mhz"))
	require.Equal(t, "1", value(t, node, "sockets_per_node"))
	require.Equal(t, "node0:0-0", value(t, node, "node_to_cpu"))
	require.Equal(t, "4", value(t, node, "xend_config_format"))
	require.Less(t, len(node.String()), 4000)
}

func TestFormFits(t *testing.T) {
	fields := []sxp.Value{sxp.Pair("a", "1"), sxp.Pair("long", strings.Repeat("x", 100)), sxp.Pair("b", "2")}
	require.Equal(t, "(node (a 1) (b 2))", form("node", fields, 40).String())
}

// domainKeys are those of the API page, of libvirt, and of the recorded replies.
var domainKeys = strings.Fields(`domid uuid name ssidref vcpus vcpu_avail cpu_weight cpu_cap memory maxmem on_reboot
	on_poweroff on_crash on_xend_start state cpu_time online_vcpus`)

func TestDomain0Here(t *testing.T) {
	m := here(t)
	list, err := m.List(t.Context(), Running)
	require.NoError(t, err)
	require.Len(t, list, 1)
	d := list[0]
	require.Equal(t, "Domain-0", d.Name)
	for _, key := range append(domainKeys, "up_time", "start_time") {
		value(t, d.Form, key)
	}
	positive(t, d.Form, "vcpus", "online_vcpus", "memory", "maxmem", "cpu_weight", "vcpu_avail")
	require.NotContains(t, value(t, d.Form, "memory"), ".")
	up, err := strconv.ParseFloat(value(t, d.Form, "up_time"), 64)
	require.NoError(t, err)
	require.Positive(t, up)
	require.NotEmpty(t, d.VCPUs)
	require.Less(t, len(d.Form.String()), 4000)

	for _, key := range []string{"Domain-0", "0", dom0UUID} {
		got, err := m.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 0, got.ID)
	}
	halted, err := m.List(t.Context(), Halted)
	require.NoError(t, err)
	require.Empty(t, halted)
}

func TestNoSuchDomain(t *testing.T) {
	var missing *NotFoundError
	_, err := here(t).Get(t.Context(), "nosuch")
	require.ErrorAs(t, err, &missing)
	require.EqualError(t, err, "No such domain nosuch")
	_, err = here(t).Op(t.Context(), "nosuch", "pause", nil)
	require.ErrorAs(t, err, &missing)
}

func TestOperationsNameWhatDoesThem(t *testing.T) {
	m := here(t)
	_, err := m.Op(t.Context(), "0", "pause", nil)
	require.EqualError(t, err, "xend does not manage domains: operation pause is not supported; use xl pause")
	_, err = m.Create(t.Context(), Config{}, CreateOptions{})
	var cannot *UnsupportedError
	require.ErrorAs(t, err, &cannot)
	require.True(t, KnownOp("wait_for_devices"))
	require.False(t, KnownOp("dance"))
	_, err = m.Dmesg(t.Context())
	require.ErrorAs(t, err, &cannot)
	require.ErrorAs(t, m.ClearDmesg(t.Context()), &cannot)
}

func TestDomainsXen(t *testing.T) {
	m := recorded(t)
	list, err := m.List(t.Context(), All)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, dom0UUID, list[0].UUID)

	d, err := m.Get(t.Context(), "vm1")
	require.NoError(t, err)
	require.Equal(t, 1, d.ID)
	for _, key := range domainKeys {
		value(t, d.Form, key)
	}
	require.Equal(t, "192", value(t, d.Form, "memory"))
	require.Equal(t, "3de3ed7c-157a-4950-b4dc-ca9d787b25d4", value(t, d.Form, "uuid"))
	require.Equal(t, "0.400000", value(t, d.Form, "cpu_time"))
	require.Equal(t, "restart", value(t, d.Form, "on_reboot"))
	image, _ := d.Form.Child("image")
	require.Equal(t, "(image (linux (kernel /boot/vmlinux-6.1.0-56-amd64) (ramdisk /boot/domu.cpio.gz) (args 'console=hvc0')))", image.String())
	require.Equal(t, "((0 ((backend-id 0) (mac 00:16:3e:00:00:01) (bridge xenbr9))) (1 ((backend-id 0) (mac 00:16:3e:52:78:2d) (bridge xenbr9) (ip 192.0.2.7))))", sxp.List(d.Devices("vif")...).String())
	require.Equal(t, "((vcpu (number 0) (online 1) (running 0) (blocked 1) (cpu_time 1.100000) (cpu 0) (cpumap (0))))", sxp.List(d.VCPUs...).String())

	log, err := m.Dmesg(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(log), "Xen version 4.17")
	require.NoError(t, m.ClearDmesg(t.Context()))
}

func TestToolstackFails(t *testing.T) {
	for name, body := range map[string]string{
		"xl list: xenstored does not run": "echo xenstored does not run >&2; exit 1",
		"xl list: exit status 3":          "exit 3",
	} {
		m := NewManager(Options{XL: script(t, body)})
		_, err := m.List(t.Context(), Running)
		var broken *ToolstackError
		require.ErrorAs(t, err, &broken)
		require.EqualError(t, err, name)
	}
	m := NewManager(Options{XL: script(t, `echo "{"`)})
	_, err := m.List(t.Context(), Running)
	require.ErrorContains(t, err, "xl list -l: ")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = recorded(t).List(ctx, Running)
	require.ErrorIs(t, err, context.Canceled)
}

// TestToolstackIsAskedOnce has many clients at a time.
func TestToolstackIsAskedOnce(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	m := NewManager(Options{XL: script(t, "echo x >>"+count+"; exit 1")})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := m.List(t.Context(), Running); err == nil {
				t.Error("no error")
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(count)
	require.NoError(t, err)
	require.Equal(t, "x\n", string(b))
}

func TestParseState(t *testing.T) {
	for text, want := range map[string]State{"": Running, "running": Running, "halted": Halted, "all": All} {
		s, ok := ParseState(text)
		require.True(t, ok)
		require.Equal(t, want, s)
	}
	_, ok := ParseState("asleep")
	require.False(t, ok)
}

func TestParseList(t *testing.T) {
	require.Equal(t, []int{0, 1, 2, 5}, parseList("0-2,5"))
	require.Empty(t, parseList("x,1-y,3-99999999999"))
}

func TestParseVCPUs(t *testing.T) {
	got := parseVCPUs([]byte("Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)\na b  3  0  -  --p  1.5  0-1,3 / all\nc 4 1 2 -b- 2 all / all\n"), 2)
	require.Equal(t, []int{0, 1, 3}, got[3][0].cpumap)
	require.False(t, got[3][0].online)
	require.Equal(t, []int{0, 1}, got[4][0].cpumap)
}

func TestMask(t *testing.T) {
	require.Equal(t, "0", mask(0))
	require.Equal(t, "3", mask(2))
	require.Equal(t, "340282366920938463463374607431768211455", mask(128))
}

func FuzzToolstackTables(f *testing.F) {
	for _, name := range []string{"list", "vcpu-list"} {
		b, err := os.ReadFile(filepath.Join("testdata/xl-4.17", name))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseShort(b)
		parseVCPUs(b, 4)
	})
}
