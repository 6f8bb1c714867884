package netscripts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/netscripts/internal/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv("NETSCRIPT_CHILD") != "" {
		os.Exit(child())
	}
	nettest.SideBySide()
	goleak.VerifyTestMain(m)
}

// inVM says that this is the emulated machine of test/vm, with a kernel before 6.2, where everything
// takes ten to fifty times as long.
var inVM = os.Getenv("XEND_TEST_VM") != ""

// stride is 1, or every how many-th case is to be tried in the emulated machine.
func stride(slow int) int {
	if inVM {
		return slow
	}
	return 1
}

// host is a machine whose eth0 leads to another one, far, in a namespace of its own.
type host struct {
	*nstest.Host
	far    *nstest.Host
	t      testing.TB
	prefix string
}

func newHost(t testing.TB) *host {
	t.Helper()
	prefix, err := os.MkdirTemp("", "xv") // short: sockets' paths are limited
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(prefix) })
	h := &host{Host: nstest.New(t), far: nstest.New(t), t: t, prefix: prefix}
	h.IP("link add eth0 type veth peer name wire")
	require.NoError(t, h.Do(func() error { return moveTo(h.Host, "wire", h.far) }))
	h.far.IP(`link set wire name eth0
link set eth0 up
addr add 192.0.2.254/24 dev eth0
addr add 2001:db8::254/64 dev eth0 nodad
route add default via 192.0.2.1
route add default via 2001:db8::1`)
	h.IP(`link set eth0 address 02:00:00:00:00:01
link set eth0 up
addr add 192.0.2.1/24 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
route add default via 192.0.2.254
route add default via 2001:db8::254`)
	h.waitForAddresses()
	return h
}

// moveTo moves a device into another namespace.
func moveTo(h *nstest.Host, name string, to *nstest.Host) error {
	var path string
	ready, leave := make(chan struct{}), make(chan struct{})
	go func() {
		_ = to.Do(func() error {
			path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), gettid())
			close(ready)
			<-leave
			return nil
		})
	}()
	<-ready
	defer close(leave)
	out, err := h.TryIP("link set " + name + " netns " + path)
	if err != nil {
		return errors.New(out)
	}
	return nil
}

// waitForAddresses waits until eth0 has a link-local address and the kernel has found all addresses
// unique, so that a comparison with a later state is not disturbed.
func (h *host) waitForAddresses() {
	h.t.Helper()
	h.eventually(func() bool {
		out := h.Show("-6", "addr", "show")
		return strings.Contains(out, "fe80") && !strings.Contains(out, "tentative")
	})
}

// same wants the network to be what a dump says, once the kernel has done what it does in the
// background (an IPv6 address is ready a moment after it was added), and shows the lines that differ.
func (h *host) same(want, why string) {
	h.t.Helper()
	h.sameBy(h.dump, want, why)
}

func (h *host) sameBy(dump func() string, want, why string) {
	t := h.t
	t.Helper()
	var have string
	for deadline := time.Now().Add(60 * time.Second); ; {
		if have = dump(); want == have {
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	var b strings.Builder
	only := func(sign string, of, not []string) {
		for _, line := range of {
			if !slices.Contains(not, line) {
				b.WriteString(sign + line + "\n")
			}
		}
	}
	w, l := strings.Split(want, "\n"), strings.Split(have, "\n")
	only("- ", w, l)
	only("+ ", l, w)
	for i := range min(len(w), len(l)) {
		if b.Len() == 0 && w[i] != l[i] {
			b.WriteString("in another order, from\n" + w[i] + "\nand\n" + l[i])
		}
	}
	t.Fatalf("the network is not what it was: %s\n%s", why, b.String())
}

// eventually waits for what has no event to wait for.
func (h *host) eventually(ok func() bool) {
	h.t.Helper()
	require.Eventually(h.t, ok, 60*time.Second, 10*time.Millisecond)
}

// result is how a run ended.
type result struct {
	status         int
	stdout, stderr string
}

// run runs a script in the host's namespace.
func (h *host) run(argv ...string) result { return h.runWith(context.Background(), Env{}, argv...) }

func (h *host) runWith(ctx context.Context, env Env, argv ...string) result {
	var out, errs bytes.Buffer
	env.Stdout, env.Stderr = &out, &errs
	if env.Getenv == nil {
		env.Getenv = func(string) string { return "" }
	}
	argv[0] = "/etc/xen/scripts/" + argv[0]
	argv = append(argv, "--prefix", h.prefix)
	var r result
	_ = h.Do(func() error {
		r.status = Run(ctx, env, argv)
		return nil
	})
	r.stdout, r.stderr = out.String(), errs.String()
	return r
}

// must runs a script and wants it to succeed without a complaint.
func (h *host) must(argv ...string) result {
	h.t.Helper()
	r := h.run(argv...)
	require.Equal(h.t, result{0, r.stdout, ""}, r)
	return r
}

// dump is the whole network of a namespace as `ip` shows it, less what changes by itself.
func (h *host) dump() string {
	h.t.Helper()
	var b strings.Builder
	show := func(batch string, args ...string) []string {
		cmd := exec.Command("ip", append(args, "-j", "-d", "-batch", "-")...)
		cmd.Stdin = strings.NewReader(batch)
		out, err := h.Output(cmd)
		require.NoError(h.t, err, out)
		var lines []string
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var list []map[string]any
			require.NoError(h.t, d.Decode(&list), out)
			for _, o := range list {
				if len(o) == 0 {
					continue
				}
				steady(o)
				line, err := json.Marshal(o)
				require.NoError(h.t, err)
				lines = append(lines, string(line))
			}
		}
		return lines
	}
	sorted := func(lines []string) []string { slices.Sort(lines); return lines }
	for _, lines := range [][]string{
		show("addr show\nnexthop show"),
		show("route show table all\nrule show", "-4"),
		// Between devices, equal routes of IPv6 are in the order in which they came.
		sorted(show("route show table all\nrule show", "-6")),
		// Listed by a hash of the device.
		sorted(show("neigh show nud permanent\nneigh show proxy")),
	} {
		b.WriteString(strings.Join(lines, "\n") + "\n")
	}
	require.NoError(h.t, h.Do(func() error {
		for _, family := range []string{"ipv4/conf", "ipv6/conf", "ipv4/neigh"} {
			for _, dev := range readDir("/proc/sys/net/" + family) {
				if dev == "all" || dev == "default" || dev == "lo" {
					continue
				}
				for _, key := range readDir("/proc/sys/net/" + family + "/" + dev) {
					v, _ := os.ReadFile("/proc/sys/net/" + family + "/" + dev + "/" + key)
					fmt.Fprintf(&b, "%s/%s/%s=%s\n", family, dev, key, strings.TrimSpace(string(v)))
				}
			}
		}
		return nil
	}))
	return b.String()
}

func readDir(path string) []string {
	var list []string
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	slices.Sort(list)
	return list
}

// steady removes what changes by itself, and the one thing that cannot be carried over: a program
// cannot make an address a temporary one, which makes the kernel call it secondary, too.
func steady(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range []string{
			"valid_life_time", "preferred_life_time", "expires", "stats", "stats64", "operstate", "num_tx_queues", "num_rx_queues",
			"hello_timer", "tcn_timer", "topology_change_timer", "gc_timer", "promiscuity", "allmulti", "age", "used", "confirmed", "cache",
		} {
			delete(v, key)
		}
		if v["family"] == "inet6" {
			delete(v, "temporary")
			delete(v, "secondary")
			delete(v, "stable-privacy")
		}
		// Comes and goes in the background; LOWER_UP is what counts.
		if flags, ok := v["flags"].([]any); ok {
			v["flags"] = slices.DeleteFunc(flags, func(f any) bool { return f == "NO-CARRIER" || f == "linkdown" })
		}
		// A device that is down keeps the queue that it had when it was up last.
		if flags, ok := v["flags"].([]any); ok && !slices.Contains(flags, any("UP")) {
			delete(v, "qdisc")
		}
		// Which next hop comes first is chance.
		if hops, ok := v["nexthops"].([]any); ok {
			slices.SortFunc(hops, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		for _, inner := range v {
			steady(inner)
		}
	case []any:
		for _, inner := range v {
			steady(inner)
		}
	}
}
