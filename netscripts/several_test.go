package netscripts

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// foreignBridges are what other programs have made on many machines.
const foreignBridges = `link add docker0 type bridge
link set docker0 up
addr add 172.17.0.1/16 dev docker0
link add virbr0 type bridge
link add br-0123456789ab type bridge
link add br7 type bridge
link add x7 type veth peer name y7
link set x7 master br7`

// newMultiHost is a machine with three devices, each with addresses, a route, and a name of today.
func newMultiHost(t testing.TB) *host {
	h := newHost(t)
	for i := 1; i <= 2; i++ {
		h.IP(fmt.Sprintf(`link add eth%[1]d type veth peer name far%[1]d
link set far%[1]d up
link set eth%[1]d up
addr add 198.18.%[1]d.1/24 dev eth%[1]d
addr add 2001:db8:%[1]d::1/64 dev eth%[1]d nodad
route add 10.%[1]d.0.0/16 via 198.18.%[1]d.2`, i))
	}
	h.IP("route add 10.99.0.0/16 nexthop via 198.18.1.2 dev eth1 nexthop via 198.18.2.2 dev eth2 nexthop via 192.0.2.254 dev eth0")
	h.waitForAddresses()
	return h
}

// Bridges are made and removed one by one, in whatever order, beside those of others.
func TestSeveralBridges(t *testing.T) {
	t.Parallel()
	orders := [][]int{{0, 1, 2}, {2, 0, 1}, {1, 2, 0}, {2, 1, 0}}
	for i, start := range orders {
		stop := orders[(i+1)%len(orders)]
		t.Run(fmt.Sprint(start, stop), func(t *testing.T) {
			t.Parallel()
			h := newMultiHost(t)
			h.IP(foreignBridges)
			h.waitForAddresses()
			before := h.dump()
			args := func(n int) []string {
				return [][]string{{}, {"netdev=eth1"}, {"netdev=eth2", "bridge=xenbr2"}}[n]
			}
			name := []string{"eth0", "eth1", "xenbr2"}
			was := []string{before}
			for _, n := range start {
				r := h.must(append([]string{"network-bridge", "start"}, args(n)...)...)
				require.Contains(t, r.stdout, fmt.Sprintf("%s is a bridge now, over peth%d", name[n], n))
				require.Equal(t, name[n], h.master(fmt.Sprintf("peth%d", n)))
				was = append(was, h.dump())
			}
			for _, n := range start { // run twice = run once
				r := h.must(append([]string{"network-bridge", "start"}, args(n)...)...)
				require.Contains(t, r.stdout, fmt.Sprintf("nothing to do: %s is a bridge over peth%d already", name[n], n))
			}
			h.same(was[3], "starts repeated")
			h.ping("192.0.2.254")
			require.Contains(t, h.must("network-bridge", "start", "netdev=eth2", "bridge=other").stdout,
				"nothing to do: eth2, which is peth2 now, is a port of the bridge xenbr2 already")
			status := h.must("network-bridge", "status").stdout
			for n := range 3 {
				require.Contains(t, status, fmt.Sprintf("port peth%d", n))
			}
			for i, n := range stop {
				r := h.must(append([]string{"network-bridge", "stop"}, args(n)...)...)
				require.Contains(t, r.stdout, "the bridge "+name[n]+" is gone")
				if i == 0 && start[2] == n {
					h.same(was[2], "the last one stopped first")
				}
			}
			h.same(before, "all stopped")
		})
	}
}

// A wrapper that calls once for each number, as multi-homed hosts of Xen 3.0 had it.
func TestVifnums(t *testing.T) {
	t.Parallel()
	h := newMultiHost(t)
	before := h.dump()
	for i := range 3 {
		r := h.must("network-bridge", "start", fmt.Sprintf("vifnum=%d", i))
		require.Contains(t, r.stdout, fmt.Sprintf("xenbr%d is a bridge now, over peth%d", i, i))
	}
	require.Contains(t, h.must("network-bridge", "start", "vifnum=0").stdout, "xenbr0 is a bridge over peth0 already")
	r := h.run("network-bridge", "stop", "netdev=eth9")
	require.Equal(t, 0, r.status)
	for _, i := range []int{1, 0, 2} {
		r := h.must("network-bridge", "stop", fmt.Sprintf("vifnum=%d", i))
		require.Contains(t, r.stdout, fmt.Sprintf("the bridge xenbr%d is gone; eth%d has", i, i))
	}
	h.same(before, "stopped")
}

// Without a name stop takes the bridge of the default route, or else asks which.
func TestStopOfSeveral(t *testing.T) {
	t.Parallel()
	h := newMultiHost(t)
	h.must("network-bridge", "start", "netdev=eth1")
	h.must("network-bridge", "start", "netdev=eth2")
	r := h.run("network-bridge", "stop")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "there are several bridges that start made: eth1 (over peth1), eth2 (over peth2); say bridge= or netdev= which one is meant")
	h.must("network-bridge", "start")
	require.Contains(t, h.must("network-bridge", "stop").stdout, "the bridge eth0 is gone")
	// What a journal of an earlier version says counts.
	path, err := filepath.Glob(filepath.Join(h.prefix, "run/xend/network-bridge-*.json"))
	require.NoError(t, err)
	require.Len(t, path, 1)
	b, err := os.ReadFile(path[0])
	require.NoError(t, err)
	var e map[string]any
	require.NoError(t, json.Unmarshal(b, &e))
	e["started"] = e["started"].([]any)[0]
	b, err = json.Marshal(e)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path[0], b, 0o600))
	require.Contains(t, h.must("network-bridge", "stop", "bridge=eth1").stdout, "the bridge eth1 is gone")
	require.Contains(t, h.must("network-bridge", "stop").stdout, "the bridge eth2 is gone", "found without the journal")
}

// A VLAN device and the device below it, both bridged, in either order.
func TestVLANAndItsDeviceBridged(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"eth0", "eth0.7"}, {"eth0.7", "eth0"}} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprint(order, back), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				h.needsKind("link add link eth0 name eth0.7 type vlan id 7")
				h.far.IP("link add link eth0 name eth0.7 type vlan id 7\nlink set eth0.7 up\naddr add 198.51.100.254/24 dev eth0.7")
				h.IP("link set eth0.7 up\naddr add 198.51.100.1/24 dev eth0.7\naddr add 2001:db8:7::1/64 dev eth0.7 nodad\nroute add 10.7.0.0/16 via 198.51.100.254")
				h.waitForAddresses()
				before := h.dump()
				for _, dev := range order {
					h.must("network-bridge", "start", "netdev="+dev)
					h.ping("192.0.2.254")
					h.ping("198.51.100.254")
				}
				stop := order
				if back {
					stop = []string{order[1], order[0]}
				}
				for _, dev := range stop {
					h.must("network-bridge", "stop", "netdev="+dev)
					h.ping("192.0.2.254")
					h.ping("198.51.100.254")
				}
				h.same(before, "both stopped")
			})
		}
	}
}

// An interface without bridge= goes to the first bridge that start made, never to another program's.
func TestDefaultBridgeOfVifs(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	online := func(args ...string) string {
		t.Helper()
		require.Equal(t, result{}, x.vif(append([]string{"online"}, args...)...))
		return x.master("vif1.0")
	}
	x.IP(strings.ReplaceAll(foreignBridges, "br7", "zzz") + "\nlink del zzz")
	require.Equal(t, "xenbr0", online(), "the only one that can be meant")
	x.IP("link del xenbr0\nlink del vif1.0\nlink add vif1.0 type veth peer name dom1")
	r := x.vif("online")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "none but those of vnets and of other programs (br-0123456789ab, docker0, virbr0)")
	// Before Linux 6.2 only a device that is down is renamed, which takes its routes.
	route, err := x.Output(exec.Command("ip", "route", "show", "default"))
	require.NoError(t, err)
	x.IP("link set eth0 down\nlink set eth0 name enp3s0\nlink set enp3s0 up\nroute replace " + strings.ReplaceAll(strings.TrimSpace(route), "eth0", "enp3s0"))
	x.IP("link add eth1 type veth peer name far1\nlink set eth1 up\nlink set far1 up")
	x.must("network-bridge", "start")
	x.must("network-bridge", "start", "netdev=eth1", "bridge=aaa")
	x.IP("link add admins type bridge")
	require.Equal(t, "enp3s0", online())
	require.Equal(t, "enp3s0", online("bridge=xenbr0"), "an old domain's file")
	require.Equal(t, "enp3s0", online("bridge=eth0"))
	require.Equal(t, "aaa", online("bridge=aaa"))
	r = x.vif("online", "bridge=xenbr1")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "there is no bridge xenbr1")
	require.NoError(t, os.RemoveAll(filepath.Join(x.prefix, "run/xend")))
	require.Equal(t, "enp3s0", online(), "without the journal")
}

// What (vif-script 'vif-bridge bridge=br1') says counts, below the environment.
func TestVifScriptArguments(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link add br1 type bridge\nlink add br2 type bridge")
	config := filepath.Join(x.prefix, "etc/xen/xend-config.sxp")
	require.NoError(t, os.MkdirAll(filepath.Dir(config), 0o755))
	for _, text := range []string{"(vif-script 'vif-bridge bridge=br1 mtu=\"1400\"')\n", "(vif-script '/etc/xen/scripts/vif-bridge.xen bridge=br1 mtu=1400')\n"} {
		require.NoError(t, os.WriteFile(config, []byte(text), 0o644))
		require.Equal(t, result{}, x.vif("online"))
		require.Equal(t, "br1", x.master("vif1.0"))
		require.Equal(t, 1400, x.mtu("vif1.0"))
		x.env["bridge"] = "br2"
		require.Equal(t, result{}, x.vif("online"))
		require.Equal(t, "br2", x.master("vif1.0"))
		delete(x.env, "bridge")
	}
	require.NoError(t, os.WriteFile(config, []byte("(vif-script 'vif-mine bridge=br1')\n"), 0o644))
	require.Equal(t, 1, x.vif("online").status, "another script's")
}

// A script that an administrator renamed to put another in its place does what it did.
func TestRenamedScript(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	require.Contains(t, h.must("network-bridge.xen", "start").stdout, "eth0 is a bridge now")
	require.Contains(t, h.must("network-bridge.orig", "stop").stdout, "is gone")
	require.True(t, Is("vif-bridge.dpkg-dist"))
	require.False(t, Is("network.bridge"))
}
