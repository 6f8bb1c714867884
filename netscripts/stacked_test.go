package netscripts

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// needsKind skips a test where the kernel lacks a kind of device; `make test-vm` runs it on one that
// has all.
func (h *host) needsKind(line string) {
	h.t.Helper()
	if out, err := h.TryIP(line); err != nil {
		if strings.Contains(out, "Unknown device type") {
			h.t.Skip("this kernel lacks the kind of device; test-vm's has it: " + line)
		}
		require.NoError(h.t, err, out)
	}
}

// ping waits until an address answers: a port of a bridge forwards, and a neighbour is known, a moment after it was made.
func (h *host) ping(address string, options ...string) {
	h.t.Helper()
	h.eventually(func() bool {
		_, err := h.Output(exec.Command("ping", append([]string{"-c", "1", "-W", "2", address}, options...)...))
		return err == nil
	})
}

// VLAN devices on netdev stay on the physical device and keep working, with all that they have,
// though an old kernel takes them down with it.
func TestVLANsKeepWorking(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.needsKind("link add link eth0 name eth0.7 type vlan id 7")
	h.far.IP("link add link eth0 name eth0.7 type vlan id 7\nlink set eth0.7 up\naddr add 198.51.100.254/24 dev eth0.7\naddr add 2001:db8:7::254/64 dev eth0.7 nodad")
	h.IP(`link set eth0.7 up
link add link eth0.7 name inner type vlan id 8
link set inner up
addr add 198.51.100.1/24 dev eth0.7
addr add 2001:db8:7::1/64 dev eth0.7 nodad
addr add 10.8.0.1/24 dev inner
addr add 2001:db8:8::1/64 dev inner nodad
route add 10.7.0.0/16 via 198.51.100.254
route add 2001:db8:77::/48 via 2001:db8:7::254
route add 10.9.0.0/16 nexthop via 198.51.100.254 dev eth0.7 nexthop via 192.0.2.254 dev eth0
link add link eth0 name sleeping type vlan id 9
addr add 10.10.0.1/24 dev sleeping`)
	h.waitForAddresses()
	h.ping("198.51.100.254")
	was := h.dump()
	x := startTransfer(t, h, h, "198.51.100.254:5001")
	const much = 1 << 20
	x.more(much)
	h.must("network-bridge", "start")
	x.more(much)
	h.ping("192.0.2.254")
	h.ping("2001:db8:7::254")
	require.Contains(t, h.Show("-d", "link", "show", "eth0.7"), "eth0.7@peth0")
	h.must("network-bridge", "stop")
	x.more(much)
	x.close()
	h.same(was, "VLANs")
}

// A bond keeps its slaves.
func TestBond(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.needsKind("link add bond0 type bond mode active-backup miimon 50")
	h.IP(`addr flush dev eth0
link set eth0 down
link set eth0 master bond0
link add spare type veth peer name nowhere
link set spare master bond0
link set bond0 up
link set eth0 up
addr add 192.0.2.1/24 dev bond0
addr add 2001:db8::1/64 dev bond0 nodad
route add default via 192.0.2.254`)
	h.waitForAddresses()
	h.ping("192.0.2.254")
	was := h.dump()
	h.must("network-bridge", "start")
	for _, slave := range []string{"eth0", "spare"} {
		require.Contains(t, h.Show("link", "show", slave), "master pbond0")
	}
	require.Contains(t, h.Show("link", "show", "pbond0"), "master bond0")
	h.ping("192.0.2.254")
	h.ping("2001:db8::254")
	h.must("network-bridge", "stop")
	h.ping("192.0.2.254")
	h.same(was, "bond")
}
