package xl

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// managed is a manager over the recorded host.
func managed(t *testing.T) *domain.Manager {
	t.Helper()
	m, err := domain.Open(domain.Options{Toolstack: newFixture(t), Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() }) //nolint:errcheck // a lock
	return m
}

// TestNode is what clients are told of a host with Xen 4.17.
func TestNode(t *testing.T) {
	node, err := managed(t).Node(t.Context())
	require.NoError(t, err)
	for key, want := range map[string]string{
		"system": "Linux", "xen_major": "4", "xen_minor": "17", "cpu_mhz": "2596", "sockets_per_node": "1", "node_to_cpu": "node0:0-0", "xend_config_format": "4",
	} {
		require.Equal(t, want, node.ChildValue(key, ""), key)
	}
	require.Less(t, len(node.String()), 4000)
}

// TestForms is what they are told of its domains.
func TestForms(t *testing.T) {
	m := managed(t)
	list, err := m.List(t.Context(), domain.All)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "Domain-0", list[0].Name)

	d, err := m.Get(t.Context(), "vm1")
	require.NoError(t, err)
	require.Equal(t, 1, d.ID)
	for _, key := range strings.Fields("domid uuid name ssidref vcpus vcpu_avail cpu_weight cpu_cap memory maxmem on_reboot on_poweroff on_crash on_xend_start state cpu_time online_vcpus") {
		require.NotEmpty(t, d.Form.ChildValue(key, ""), key)
	}
	require.Equal(t, "192", d.Form.ChildValue("memory", ""))
	require.Equal(t, "3de3ed7c-157a-4950-b4dc-ca9d787b25d4", d.Form.ChildValue("uuid", ""))
	require.Equal(t, "0.400000", d.Form.ChildValue("cpu_time", ""))
	require.Equal(t, "restart", d.Form.ChildValue("on_reboot", ""))
	image, _ := d.Form.Child("image")
	require.Equal(t, "(image (linux (kernel /boot/vmlinux-6.1.0-56-amd64) (ramdisk /boot/domu.cpio.gz) (args 'console=hvc0')))", image.String())
	vifs := sxp.List(d.Devices("vif")...).String()
	require.Contains(t, vifs, "(mac 00:16:3e:00:00:01)")
	require.Contains(t, vifs, "(bridge xenbr9)")
	require.Contains(t, vifs, "(ip 192.0.2.7)")
	require.Equal(t, "((vcpu (number 0) (online 1) (running 0) (blocked 1) (cpu_time 1.100000) (cpu 0) (cpumap (0))))", sxp.List(d.VCPUs...).String())

	log, err := m.Dmesg(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(log), "Xen version 4.17")
}
