package hostnet

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAddresses(t *testing.T) {
	h := newHost(t)
	a, b := pair(t, h, "a", "b")
	v4 := Address{Index: a.Index, Prefix: netip.MustParsePrefix("10.9.0.1/24"), Label: "a:1"}
	v6 := Address{Index: a.Index, Prefix: netip.MustParsePrefix("fd00:9::1/64"), Flags: 2 /* IFA_F_NODAD */}
	for range 2 {
		require.NoError(t, h.EnsureAddress(v4))
		require.NoError(t, h.EnsureAddress(v6))
	}
	require.NoError(t, h.EnsureAddress(Address{Index: b.Index, Prefix: netip.MustParsePrefix("10.9.1.1/32"),
		Remote: netip.MustParseAddr("10.9.1.2")}))

	list, err := h.Addresses(a.Index)
	require.NoError(t, err)
	got := map[netip.Prefix]Address{}
	for _, a := range list {
		got[a.Prefix] = a
	}
	require.Equal(t, "a:1", got[v4.Prefix].Label)
	require.True(t, got[v4.Prefix].Usable())
	require.True(t, got[v6.Prefix].Usable(), "no duplicate address detection")
	all, err := h.Addresses(0)
	require.NoError(t, err)
	require.Greater(t, len(all), len(list))

	for range 2 {
		require.NoError(t, h.DeleteAddress(v4))
		require.NoError(t, h.DeleteAddress(v6))
	}
	require.ErrorIs(t, h.EnsureAddress(Address{Index: 4711, Prefix: v4.Prefix}), ErrNotFound)
}

// TestNextHop: the neighbour is the one that the kernel sends to, by the rules and tables that it asks, and none where that depends on
// the packet.
func TestNextHop(t *testing.T) {
	h := newHost(t)
	a, other := pair(t, h, "a", "b")
	addr := netip.MustParseAddr
	own, own6 := addr("10.9.0.1"), addr("fd00:9::1")
	require.NoError(t, h.EnsureAddress(Address{Index: a.Index, Prefix: netip.PrefixFrom(own, 24)}))
	require.NoError(t, h.EnsureAddress(Address{Index: a.Index, Prefix: netip.PrefixFrom(own6, 64), Flags: 2}))
	ip := func(args ...string) {
		t.Helper()
		require.NoError(t, h.Do(func() error {
			out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
			return nil
		}))
	}
	ip("route", "add", "192.0.2.0/24", "via", "10.9.0.254")
	ip("route", "add", "2001:db8::/32", "via", "fd00:9::fe")
	ip("route", "add", "198.51.100.0/24", "nexthop", "via", "10.9.0.2", "nexthop", "via", "10.9.0.3")
	ip("route", "add", "203.0.113.0/24", "via", "inet6", "fd00:9::fe", "dev", "a")
	ip("route", "add", "blackhole", "203.0.113.9/32")
	ip("route", "add", "default", "via", "10.9.0.4", "table", "77")
	ip("rule", "add", "from", "10.9.0.1", "to", "192.0.2.128/25", "lookup", "77")
	for to, want := range map[string]string{
		"10.9.0.7": "10.9.0.7", "192.0.2.1": "10.9.0.254", "192.0.2.129": "10.9.0.4", "fd00:9::7": "fd00:9::7", "2001:db8::1": "fd00:9::fe",
	} {
		from := own
		if addr(to).Is6() {
			from = own6
		}
		via, err := h.NextHop(from, addr(to), a.Index)
		require.NoError(t, err, to)
		require.Equal(t, want, via.String(), to)
	}
	for _, to := range []string{"198.51.100.1", "203.0.113.1"} {
		via, err := h.NextHop(own, addr(to), a.Index)
		require.NoError(t, err, to)
		require.False(t, via.IsValid(), "%s by %s", to, via)
	}
	_, err := h.NextHop(own, addr("203.0.113.9"), a.Index)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = h.NextHop(own, addr("192.0.2.1"), other.Index)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestRoutes(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a", "b")
	_, err := h.RouteTo(netip.MustParseAddr("224.10.0.1"))
	require.ErrorIs(t, err, ErrNotFound)

	require.NoError(t, h.EnsureAddress(Address{Index: a.Index, Prefix: netip.MustParsePrefix("10.9.0.1/24")}))
	require.NoError(t, h.EnsureAddress(Address{Index: a.Index, Prefix: netip.MustParsePrefix("fd00:9::1/64"), Flags: 2}))
	gw := Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.9.0.254"), Metric: 100}
	gw6 := Route{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:9::fe"), Index: a.Index}
	better := Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.9.0.253"), Metric: 50}
	for range 2 {
		require.NoError(t, h.EnsureRoute(gw))
		require.NoError(t, h.EnsureRoute(gw6))
		require.NoError(t, h.EnsureRoute(better))
	}
	r, err := h.RouteTo(netip.MustParseAddr("224.10.0.1"))
	require.NoError(t, err)
	require.Equal(t, a.Index, r.Index)
	require.Equal(t, "10.9.0.1", r.Source.String())
	r, err = h.RouteTo(netip.MustParseAddr("192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, better.Via, r.Via)
	r, err = h.RouteTo(netip.MustParseAddr("2001:db8::1"))
	require.NoError(t, err)
	require.Equal(t, gw6.Via, r.Via)
	require.Equal(t, a.Index, r.Index)

	list, err := h.Routes(a.Index)
	require.NoError(t, err)
	var to []string
	for _, r := range list {
		to = append(to, r.To.String())
	}
	require.Contains(t, to, "10.9.0.0/24")
	require.Contains(t, to, "::/0")

	require.NoError(t, h.change(unix.RTM_DELROUTE, 0, routeParts(better)...))
	r, err = h.RouteTo(netip.MustParseAddr("198.51.100.1"))
	require.NoError(t, err)
	require.Equal(t, gw.Via, r.Via)
}
