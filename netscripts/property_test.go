package netscripts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// generated are a random configuration of a host's eth0: lines for `ip`, of which those that the
// kernel refuses are left out.
func generated(r *rand.Rand) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	maybe := func(text string) string {
		if r.IntN(2) == 0 {
			return ""
		}
		return text
	}
	life := func() string {
		return maybe(fmt.Sprintf(" valid_lft %d preferred_lft %d", 2000+r.IntN(9999), r.IntN(2000)))
	}
	add("link set eth0 mtu %d", []int{1280, 1400, 1500, 9000}[r.IntN(4)])
	for i := range r.IntN(5) {
		net := r.IntN(3) // several in one network: secondary addresses
		add("addr add 10.0.%d.%d/%d dev eth0%s%s%s%s", net, 1+i, 24+r.IntN(3), maybe(" brd +"),
			maybe(fmt.Sprintf(" label eth0:%d", i)), life(), maybe(" noprefixroute"))
	}
	if r.IntN(2) == 0 {
		add("addr add 10.9.9.1 peer 10.9.9.%d/32 dev eth0 scope link", 2+r.IntN(9))
	}
	for i := range r.IntN(5) {
		add("addr add 2001:db8:%d::%d/64 dev eth0%s%s%s", r.IntN(3), 10+i, maybe(" nodad"), life(), maybe(" noprefixroute"))
	}
	gateways := []string{"192.0.2.254", "192.0.2.253", "10.0.0.200", "10.0.1.200", "10.77.0.1"}
	gateway := func() string { return gateways[r.IntN(len(gateways))] }
	for i := range r.IntN(8) {
		table := []int{254, 254, 100, 200}[r.IntN(4)]
		dst := fmt.Sprintf("172.%d.0.0/16", 16+i%5) // some twice: other metrics, or beside each other
		tail := fmt.Sprintf(" table %d%s%s%s%s", table, maybe(fmt.Sprintf(" metric %d", r.IntN(3))), maybe(" proto 188"),
			maybe(" mtu 1300"), maybe(" initcwnd 20"))
		switch r.IntN(5) {
		case 0:
			add("route append %s dev eth0%s", dst, tail)
		case 1:
			add("route append %s via %s dev eth0 onlink%s", dst, gateway(), tail)
		case 2:
			add("route append %s nexthop via %s dev eth0 weight %d nexthop via %s dev eth0%s", dst, gateway(), 1+r.IntN(4), gateway(), tail)
		case 3:
			add("route append %s nexthop via %s dev eth0 nexthop via 198.18.0.2 dev eth9 weight 2%s", dst, gateway(), tail)
		default:
			add("route append %s via %s dev eth0%s", dst, gateway(), tail)
		}
	}
	for i := range r.IntN(6) {
		dst := fmt.Sprintf("fd00:%d::/32", i)
		tail := fmt.Sprintf(" table %d metric %d%s%s", []int{254, 100}[r.IntN(2)], 1+r.IntN(3),
			maybe(" pref low"), maybe(fmt.Sprintf(" expires %d", 2000+r.IntN(2000))))
		switch r.IntN(4) {
		case 0:
			add("route add %s dev eth0%s", dst, tail)
		case 1:
			add("route add %s nexthop via fe80::a dev eth0 nexthop via fe80::b dev eth0 weight %d%s", dst, 1+r.IntN(3), tail)
		case 2:
			add("route add %s nexthop via fe80::a dev eth0 nexthop via fe80::b dev eth9%s", dst, tail)
		default:
			add("route add %s via fe80::%x dev eth0%s", dst, 10+r.IntN(5), tail)
		}
	}
	if r.IntN(2) == 0 {
		add("nexthop add id 20 via %s dev eth0", gateway())
		add("nexthop add id 21 via fe80::21 dev eth0")
		add("nexthop add id 10 group 20")
		add("route add 172.30.0.0/16 nhid %d", []int{10, 20}[r.IntN(2)])
		add("route add fd00:30::/32 nhid 21")
	}
	for i := range r.IntN(3) {
		add("neigh add 192.0.2.%d lladdr 02:00:00:00:01:%02x dev eth0 nud permanent", 100+i, i)
		add("neigh add 2001:db8::%d lladdr 02:00:00:00:01:%02x dev eth0 nud permanent", 100+i, i)
	}
	if r.IntN(3) == 0 {
		add("route del 192.0.2.0/24 dev eth0 proto kernel") // replaced by hand
		add("route add 192.0.2.0/24 dev eth0 src 192.0.2.1 mtu 1200")
	}
	if r.IntN(4) == 0 {
		add("link set eth0 down")
	}
	return lines
}

// Start and stop, on a host however configured, leave exactly what was there before.
func TestStartStopRestoresAnything(t *testing.T) {
	runs := 12 / stride(3)
	if n, err := strconv.Atoi(os.Getenv("NETSCRIPT_PROPERTY_RUNS")); err == nil {
		runs = n
	}
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			h := newHost(t)
			h.Sysctl("ipv6/conf/default/accept_dad", "0")
			h.Sysctl("ipv6/conf/eth0/accept_dad", strconv.Itoa(r.IntN(2)))
			h.IP("link add eth9 type veth peer name far9\nlink set far9 up\nlink set eth9 up\naddr add 198.18.0.1/24 dev eth9")
			var applied []string
			for _, line := range generated(r) {
				if _, err := h.TryIP(line); err == nil {
					applied = append(applied, line)
				}
			}
			t.Logf("%s", strings.Join(applied, "\n"))
			if r.IntN(2) == 0 {
				h.Sysctl("ipv4/conf/eth0/arp_ignore", "1")
				h.Sysctl("ipv6/conf/eth0/autoconf", "0")
			}
			h.waitForAddresses()
			env := Env{}
			if r.IntN(2) == 0 {
				env.Before = h.oldKernel
			}
			args := []string{"netdev=eth0"}
			if r.IntN(2) == 0 {
				args = append(args, "bridge=xenbr0")
			}
			before := h.dump()
			start := h.runWith(context.Background(), env, append([]string{"network-bridge", "start"}, args...)...)
			require.Equal(t, result{0, start.stdout, ""}, start)
			bridged := h.dump()
			require.Contains(t, bridged, "peth0")
			stop := h.runWith(context.Background(), env, append([]string{"network-bridge", "stop"}, args...)...)
			require.Equal(t, result{0, stop.stdout, ""}, stop)
			h.same(before, "start and stop")
		})
	}
}
