package netscripts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/netscripts/internal/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv("NETSCRIPT_CHILD") != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
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
	h := &host{Host: nstest.New(t), far: nstest.New(t), t: t, prefix: t.TempDir()}
	h.IP("link add eth0 type veth peer name wire")
	require.NoError(t, h.Do(func() error { return moveTo(h.Host, "wire", h.far) }))
	h.far.IP(`link set wire name eth0
link set eth0 up
addr add 192.0.2.254/24 dev eth0
addr add 2001:db8::254/64 dev eth0 nodad`)
	h.IP(`link set eth0 address 02:00:00:00:00:01
link set eth0 up
addr add 192.0.2.1/24 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
route add default via 192.0.2.254
route add default via 2001:db8::254`)
	h.waitForLinkLocal("eth0")
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

// waitForLinkLocal waits until the kernel has found its own address unique, so that a comparison
// with a later state is not disturbed.
func (h *host) waitForLinkLocal(dev string) {
	h.t.Helper()
	h.eventually(func() bool {
		out := h.Show("-6", "addr", "show", "dev", dev, "scope", "link")
		return strings.Contains(out, "fe80") && !strings.Contains(out, "tentative")
	})
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
	section := func(title string, keep func(map[string]any) bool, args ...string) {
		fmt.Fprintf(&b, "== %s\n", title)
		out := h.Show(append([]string{"-j", "-d"}, args...)...)
		var list []map[string]any
		if strings.TrimSpace(out) != "" {
			require.NoError(h.t, json.Unmarshal([]byte(out), &list), out)
		}
		for _, o := range list {
			if len(o) == 0 || (keep != nil && !keep(o)) {
				continue
			}
			steady(o)
			line, err := json.Marshal(o)
			require.NoError(h.t, err)
			b.Write(line)
			b.WriteByte('\n')
		}
	}
	section("devices and addresses", nil, "addr", "show")
	section("routes", nil, "-4", "route", "show", "table", "all")
	section("routes of IPv6", nil, "-6", "route", "show", "table", "all")
	section("next hops", nil, "nexthop", "show")
	section("rules", nil, "-4", "rule", "show")
	section("rules of IPv6", nil, "-6", "rule", "show")
	section("neighbours", nil, "neigh", "show", "nud", "permanent")
	section("proxied neighbours", nil, "neigh", "show", "proxy")
	b.WriteString("== settings\n")
	require.NoError(h.t, h.Do(func() error {
		for _, family := range []string{"ipv4/conf", "ipv6/conf", "ipv4/neigh"} {
			for _, dev := range readDir("/proc/sys/net/" + family) {
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
		// A neighbour's first next hop is listed by chance.
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
