package underlay

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
)

// facts is a host on paper.
type facts struct {
	links     []hostnet.Link
	routes    []hostnet.Route
	to        hostnet.Route // the kernel's route to the group
	toErr     error
	addresses map[int][]hostnet.Address
}

var _ Facts = (*facts)(nil)

func (f *facts) LinkByName(name string) (hostnet.Link, error) {
	for _, l := range f.links {
		if l.Name == name {
			return l, nil
		}
	}
	return hostnet.Link{}, hostnet.ErrNotFound
}

func (f *facts) LinkByIndex(index int) (hostnet.Link, error) {
	for _, l := range f.links {
		if l.Index == index {
			return l, nil
		}
	}
	return hostnet.Link{}, hostnet.ErrNotFound
}

func (f *facts) Routes(int) ([]hostnet.Route, error)            { return f.routes, nil }
func (f *facts) RouteTo(netip.Addr) (hostnet.Route, error)      { return f.to, f.toErr }
func (f *facts) Addresses(index int) ([]hostnet.Address, error) { return f.addresses[index], nil }

func TestChoose(t *testing.T) {
	const up = net.FlagUp
	group4, group6 := netip.MustParseAddr("224.10.0.1"), netip.MustParseAddr("ff05::706")
	route := func(to string, index int, metric uint32) hostnet.Route {
		return hostnet.Route{To: netip.MustParsePrefix(to), Index: index, Metric: metric}
	}
	address := func(text string) hostnet.Address { return hostnet.Address{Prefix: netip.MustParsePrefix(text)} }
	// A host with two devices, a default route for each family by eth0, and addresses.
	host := func() *facts {
		return &facts{
			links: []hostnet.Link{
				{Index: 1, Name: "lo", Flags: up | net.FlagLoopback, MTU: 65536}, {Index: 2, Name: "eth0", Flags: up, MTU: 1500},
				{Index: 3, Name: "eth1", Flags: up, MTU: 9000}, {Index: 4, Name: "vnet97", Flags: up, MTU: 1500},
			},
			routes: []hostnet.Route{route("0.0.0.0/0", 2, 100), route("::/0", 2, 1024)},
			to:     hostnet.Route{Index: 2},
			addresses: map[int][]hostnet.Address{
				2: {address("192.0.2.1/24"), address("fe80::1/64"), address("2001:db8::1/64")},
				3: {address("198.51.100.1/24")},
			},
		}
	}
	for name, c := range map[string]struct {
		change func(f *facts, w *Wish)
		want   Choice // Group is filled in
	}{
		"the default route": {
			want: Choice{Index: 2, Device: "eth0", MTU: 1500, Addr: netip.MustParseAddr("192.0.2.1"), Reason: "default route"},
		},
		"a route to the group": {
			change: func(f *facts, _ *Wish) {
				f.routes = append(f.routes, route("224.0.0.0/4", 3, 0))
				f.to = hostnet.Route{Index: 3}
			},
			want: Choice{Index: 3, Device: "eth1", MTU: 9000, Addr: netip.MustParseAddr("198.51.100.1"), Reason: "route to the group 224.10.0.1"},
		},
		"configured": {
			change: func(_ *facts, w *Wish) { w.Device = "eth1" },
			want:   Choice{Index: 3, Device: "eth1", MTU: 9000, Addr: netip.MustParseAddr("198.51.100.1"), Reason: "configured"},
		},
		"configured, not there": {
			change: func(_ *facts, w *Wish) { w.Device = "eth7" },
			want:   Choice{Device: "eth7", Reason: "configured", Problem: "there is no device eth7, which is configured"},
		},
		"no route": {
			change: func(f *facts, _ *Wish) { f.routes, f.to, f.toErr = nil, hostnet.Route{}, errors.New("unreachable") },
			want:   Choice{Problem: `no route to the group 224.10.0.1 and no default route; name the device in vnet.toml (device = "…")`},
		},
		"the kernel does not say, but there is a default route": {
			change: func(f *facts, _ *Wish) {
				f.routes = append(f.routes, route("0.0.0.0/0", 3, 50))
				f.to, f.toErr = hostnet.Route{}, errors.New("unreachable")
			},
			want: Choice{Index: 3, Device: "eth1", MTU: 9000, Addr: netip.MustParseAddr("198.51.100.1"), Reason: "default route"},
		},
		"by the loopback": {
			change: func(f *facts, _ *Wish) { f.to = hostnet.Route{Index: 1} },
			want:   Choice{Index: 1, Device: "lo", MTU: 65536, Reason: "default route", Problem: "the route to the group 224.10.0.1 is by lo"},
		},
		"down": {
			change: func(f *facts, _ *Wish) { f.links[1].Flags = 0 },
			want:   Choice{Index: 2, Device: "eth0", MTU: 1500, Reason: "default route", Problem: "device eth0 is down"},
		},
		"refused": {
			change: func(_ *facts, w *Wish) { w.Device = "vnet97" },
			want:   Choice{Index: 4, Device: "vnet97", MTU: 1500, Reason: "configured", Problem: "it is a vnet's own"},
		},
		"no address": {
			change: func(f *facts, _ *Wish) { f.addresses[2] = f.addresses[2][1:] },
			want:   Choice{Index: 2, Device: "eth0", MTU: 1500, Reason: "default route", Problem: "device eth0 has no IPv4 address"},
		},
		"the preferred address": {
			change: func(f *facts, _ *Wish) {
				f.addresses[2] = append(f.addresses[2], address("192.0.2.9/24"))
				f.to.Source = netip.MustParseAddr("192.0.2.9")
			},
			want: Choice{Index: 2, Device: "eth0", MTU: 1500, Addr: netip.MustParseAddr("192.0.2.9"), Reason: "default route"},
		},
		"an address of the link, where there is no other": {
			change: func(f *facts, _ *Wish) {
				f.addresses[2] = []hostnet.Address{{Prefix: netip.MustParsePrefix("169.254.1.1/16"), Scope: 253}}
			},
			want: Choice{Index: 2, Device: "eth0", MTU: 1500, Addr: netip.MustParseAddr("169.254.1.1"), Reason: "default route"},
		},
		"IPv6": {
			change: func(_ *facts, w *Wish) { w.Family, w.Group = IPv6, group6 },
			want:   Choice{Index: 2, Device: "eth0", MTU: 1500, Addr: netip.MustParseAddr("2001:db8::1"), Reason: "default route"},
		},
		"IPv6 while its address is checked": {
			change: func(f *facts, w *Wish) {
				w.Family, w.Group = IPv6, group6
				f.addresses[2][2].Flags = unix.IFA_F_TENTATIVE
			},
			want: Choice{Index: 2, Device: "eth0", MTU: 1500, Reason: "default route", Problem: "device eth0 has no global IPv6 address"},
		},
		"IPv6 without a route: by IPv4's device": {
			change: func(f *facts, w *Wish) {
				w.Family, w.Group, w.Fallback = IPv6, group6, 2
				f.routes = f.routes[:1]
			},
			want: Choice{Index: 2, Device: "eth0", MTU: 1500, Addr: netip.MustParseAddr("2001:db8::1"), Reason: "default route"},
		},
		"IPv6 has a route to every group on every device": {
			change: func(f *facts, w *Wish) {
				w.Family, w.Group = IPv6, group6
				f.to = hostnet.Route{Index: 3}
			},
			want: Choice{Index: 2, Device: "eth0", MTU: 1500, Addr: netip.MustParseAddr("2001:db8::1"), Reason: "default route"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := host()
			w := Wish{Group: group4, Refuse: func(l hostnet.Link) string {
				if l.Name == "vnet97" {
					return "it is a vnet's own"
				}
				return ""
			}}
			if c.change != nil {
				c.change(f, &w)
			}
			c.want.Group = w.Group
			require.Equal(t, c.want, Choose(f, w))
		})
	}
}
