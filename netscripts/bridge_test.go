package netscripts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

func TestStartStop(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	before := h.dump()
	r := h.must("network-bridge", "start")
	require.Equal(t, "network-bridge: eth0 is a bridge now, over peth0, which was eth0\n", r.stdout)

	l, err := h.LinkByName("eth0")
	require.NoError(t, err)
	require.Equal(t, "bridge", l.Kind)
	require.Equal(t, "02:00:00:00:00:01", l.MAC.String())
	ports, err := h.Ports(l.Index)
	require.NoError(t, err)
	require.Equal(t, "peth0", names(ports))
	require.Contains(t, h.Show("-d", "link", "show", "eth0"), "forward_delay 0 ")
	require.Contains(t, h.Show("-d", "link", "show", "eth0"), "stp_state 0 ")
	require.Empty(t, h.Show("-o", "addr", "show", "dev", "peth0"))
	require.NotContains(t, h.Show("-6", "addr", "show", "dev", "eth0"), "tentative")

	// Run twice = run once.
	once := h.dump()
	r = h.must("network-bridge", "start")
	require.Equal(t, "network-bridge: nothing to do: eth0 is a bridge over peth0 already\n", r.stdout)
	h.same(once, "second start")

	r = h.must("network-bridge", "stop")
	require.Equal(t, "network-bridge: the bridge eth0 is gone; eth0 has its name and addresses again\n", r.stdout)
	h.same(before, "stop")
	r = h.must("network-bridge", "stop")
	require.Equal(t, "network-bridge: nothing to do: there is no bridge eth0\n", r.stdout)

	left, err := filepath.Glob(filepath.Join(h.prefix, "run/*/[^.]*"))
	require.NoError(t, err)
	require.Empty(t, left, "neither locks nor journal")
	require.NoFileExists(t, filepath.Join(h.prefix, "var/log/xen/xen-hotplug.log"))
}

// rich is a configuration with something of everything that is to survive.
const rich = `addr add 192.0.2.9/24 dev eth0 label eth0:9
addr add 198.51.100.1/25 brd + dev eth0 label eth0:web metric 77
addr add 203.0.113.1 peer 203.0.113.2/32 dev eth0
addr add 10.1.0.1/16 dev eth0 valid_lft 900 preferred_lft 300 noprefixroute
addr add 2001:db8::2/64 dev eth0 nodad valid_lft 900 preferred_lft 300
addr add 2001:db8:1::1/64 dev eth0 nodad noprefixroute home
route add 10.2.0.0/16 via 172.16.0.1 dev eth0 onlink mtu lock 1400 advmss 1300
route add 10.3.0.0/16 dev eth0 scope link table 100
route add 10.4.0.0/16 via 192.0.2.253 dev eth0 table 100 proto 77 tos 8
route add 10.6.0.0/16 nexthop via 192.0.2.253 weight 3 nexthop via 192.0.2.252 onlink dev eth0
route add unreachable 10.11.0.0/16
nexthop add id 7 via 192.0.2.250 dev eth0
nexthop add id 6 group 7
route add 10.8.0.0/16 nhid 7
route add 10.9.0.0/16 nhid 6
route add default via fe80::99 dev eth0 pref high expires 1000 metric 2000
route add 2001:db8:9::/48 via 2001:db8::99 dev eth0 metric 7 mtu 1400
route add 2001:db8:a::/48 dev eth0 table 100
route add 2001:db8:b::/48 nexthop via fe80::97 dev eth0 nexthop via fe80::96 dev eth0 weight 3
neigh add 192.0.2.200 lladdr 02:00:00:00:02:00 dev eth0
neigh add 2001:db8::200 lladdr 02:00:00:00:02:00 dev eth0
neigh add proxy 192.0.2.201 dev eth0
rule add iif eth0 table 100 prio 1000
link set eth0 mtu 1450 group 77`

func newRichHost(t *testing.T) *host {
	h := newHost(t)
	h.IP(rich)
	h.Sysctl("ipv4/conf/eth0/rp_filter", "2")
	h.Sysctl("ipv6/conf/eth0/accept_ra", "2")
	h.Sysctl("ipv6/conf/eth0/use_tempaddr", "2")
	h.Sysctl("ipv4/neigh/eth0/gc_stale_time", "77")
	h.IP("addr add 2001:db8:2::1/64 dev eth0 nodad mngtmpaddr valid_lft 1000 preferred_lft 500")
	h.waitForAddresses()
	return h
}

// oldKernel makes renaming a device that is up fail, as before Linux 6.2.
func (h *host) oldKernel(what string) error {
	var from, to string
	if n, _ := fmt.Sscanf(what, "rename %s to %s", &from, &to); n != 2 || strings.HasSuffix(what, "down") {
		return nil
	}
	if l, err := h.LinkByName(from); err != nil || !l.Up() {
		return nil
	}
	return hostnet.ErrBusy
}

// kernels runs a test as the kernel is and as one before 6.2 would be.
func kernels(t *testing.T, test func(t *testing.T, h *host, before func(what string) error)) {
	t.Parallel()
	t.Run("this kernel", func(t *testing.T) {
		t.Parallel()
		test(t, newRichHost(t), func(string) error { return nil })
	})
	if inVM {
		return // that is what it is
	}
	t.Run("before 6.2", func(t *testing.T) {
		t.Parallel()
		h := newRichHost(t)
		test(t, h, h.oldKernel)
	})
}

func TestRichStartStop(t *testing.T) {
	kernels(t, func(t *testing.T, h *host, before func(string) error) {
		was := h.dump()
		r := h.runWith(context.Background(), Env{Before: before}, "network-bridge", "start")
		require.Equal(t, result{0, r.stdout, ""}, r)
		require.Contains(t, h.Show("route", "show", "table", "100"), "10.4.0.0/16 tos 0x08 via 192.0.2.253 dev eth0 proto 77")
		require.Contains(t, h.Show("rule"), "iif eth0 lookup 100")
		require.NotContains(t, h.Show("rule"), "detached")
		require.Empty(t, h.Show("-o", "addr", "show", "dev", "peth0"))
		require.Empty(t, h.Show("-6", "route", "show", "table", "all", "dev", "peth0"))
		r = h.runWith(context.Background(), Env{Before: before}, "network-bridge", "stop")
		require.Equal(t, result{0, r.stdout, ""}, r)
		h.same(was, "stop")
	})
}

// Each change of start and of stop fails once: the machine is as it was, and the next run succeeds.
func TestFailureAtEachChange(t *testing.T) {
	kernels(t, func(t *testing.T, h *host, before func(string) error) {
		plain := h.dump()
		changes := 0
		for _, command := range []string{"start", "stop"} {
			was := h.dump()
			for n := 1; ; n += stride(7) {
				i, failed := 0, ""
				r := h.runWith(context.Background(), Env{Before: func(what string) error {
					if i++; i == n {
						failed = what
						return errors.New("injected")
					}
					return before(what)
				}}, "network-bridge", command, "antispoof=yes")
				if failed == "" {
					require.Equal(t, 0, r.status, r.stderr)
					changes += n
					break
				}
				if r.status == 0 {
					// Only a help; begin again.
					require.True(t, strings.HasPrefix(failed, "add neighbour") || command == "stop" && failed == "note that all is done", failed)
					back := map[string]string{"start": "stop", "stop": "start"}[command]
					require.Equal(t, 0, h.run("network-bridge", back, "antispoof=yes").status)
					continue
				}
				require.Equal(t, 1, r.status, failed)
				require.Contains(t, r.stderr, "injected")
				require.Contains(t, r.stderr, "everything was put back as it was")
				h.same(was, fmt.Sprintf("%s at change %d, %s: %s", command, n, failed, r.stderr))
			}
		}
		h.same(plain, "stop")
		require.Greater(t, changes, 60)
	})
}
