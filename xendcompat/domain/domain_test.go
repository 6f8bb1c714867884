package domain

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

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
	require.Equal(t, []int{0, 1, 2, 5}, ParseCPUs("0-2,5"))
	require.Empty(t, ParseCPUs("x,1-y,3-99999999999"))
}

func TestMask(t *testing.T) {
	require.Equal(t, "0", mask(0))
	require.Equal(t, "3", mask(2))
	require.Equal(t, "340282366920938463463374607431768211455", mask(128))
}
