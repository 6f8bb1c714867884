package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// TestChoice chooses underlay devices from what a kernel might say.
func TestChoice(t *testing.T) {
	prefix := netip.MustParsePrefix
	up := func(index int, name string) hostnet.Link {
		return hostnet.Link{Index: index, Name: name, MTU: 1500, Flags: net.FlagUp}
	}
	const linkScope = 253
	base := func() *outlook {
		o := &outlook{
			addresses: []hostnet.Address{
				{Index: 2, Prefix: prefix("192.0.2.7/24")}, {Index: 2, Prefix: prefix("192.0.2.1/24")},
				{Index: 2, Prefix: prefix("fe80::1/64"), Scope: linkScope}, {Index: 2, Prefix: prefix("2001:db8::1/64")},
				{Index: 3, Prefix: prefix("198.51.100.1/24")},
			},
			routes: []hostnet.Route{
				{Index: 3, To: prefix("0.0.0.0/0"), Metric: 200}, {Index: 2, To: prefix("0.0.0.0/0"), Metric: 100},
				{Index: 2, To: prefix("192.0.2.0/24")},
			},
			devices: map[int]hostnet.Link{2: up(2, "eth0"), 3: up(3, "eth1")},
		}
		o.groups[underlay.IPv4].route = hostnet.Route{Index: 2, Source: netip.MustParseAddr("192.0.2.1")}
		o.groups[underlay.IPv6].err = hostnet.ErrNotFound
		return o
	}
	c4, c6 := DefaultConfig(), DefaultConfig()
	c6.IPv6 = true
	named := c4
	named.Device = "eth1"
	failed := errors.New("the kernel is busy")
	for name, tt := range map[string]struct {
		config  Config
		family  underlay.Family
		change  func(o *outlook)
		device  string
		addr    string
		reason  string
		problem string
	}{
		"default route":  {config: c4, device: "eth0", addr: "192.0.2.1", reason: "default route"},
		"IPv6 by IPv4's": {config: c6, family: underlay.IPv6, device: "eth0", addr: "2001:db8::1", reason: "default route"},
		"route to the groups": {config: c4, change: func(o *outlook) {
			o.routes = append(o.routes, hostnet.Route{Index: 3, To: prefix("224.0.0.0/4")})
			o.groups[0].route = hostnet.Route{Index: 3}
		}, device: "eth1", addr: "198.51.100.1", reason: "route to the group 224.10.0.1"},
		"no source": {config: c4, change: func(o *outlook) { o.groups[0].route.Source = netip.Addr{} }, device: "eth0", addr: "192.0.2.7", reason: "default route"},
		"no route to the group": {config: c4, change: func(o *outlook) { o.groups[0] = routeAnswer{err: hostnet.ErrNotFound} },
			device: "eth0", addr: "192.0.2.7", reason: "default route"},
		"configured": {config: named, change: func(o *outlook) { o.named = up(3, "eth1"); o.routesErr = failed },
			device: "eth1", addr: "198.51.100.1", reason: "configured"},
		"configured and gone": {config: named, change: func(o *outlook) { o.namedErr = errors.New("there is no device eth1, which is configured") },
			device: "eth1", reason: "configured", problem: "there is no device eth1, which is configured"},
		"nothing": {config: c4, change: func(o *outlook) { o.routes = nil; o.groups[0] = routeAnswer{err: hostnet.ErrNotFound} },
			problem: `no route to the group 224.10.0.1 and no default route; name the device in vnet.toml (device = "…")`},
		"down":       {config: c4, change: func(o *outlook) { o.devices[2] = hostnet.Link{Index: 2, Name: "eth0"} }, device: "eth0", reason: "default route", problem: "device eth0 is down"},
		"gone":       {config: c4, change: func(o *outlook) { delete(o.devices, 2) }, reason: "default route", problem: "the device of the route to the group 224.10.0.1 is gone"},
		"no address": {config: c4, change: func(o *outlook) { o.addresses = nil }, device: "eth0", reason: "default route", problem: "device eth0 has no IPv4 address"},
		"loopback": {config: c4, change: func(o *outlook) {
			o.devices[2] = hostnet.Link{Index: 2, Name: "lo", Flags: net.FlagUp | net.FlagLoopback}
		},
			device: "lo", reason: "default route", problem: "the route to the group 224.10.0.1 is by lo"},
		"a vnet's": {config: c4, change: func(o *outlook) {
			l := up(2, "vnet97")
			l.Kind, l.Group, l.Alias = "bridge", port.Group, port.Alias(vnet.ID{15: 0x97})
			o.devices[2] = l
		}, device: "vnet97", reason: "default route", problem: "device vnet97 is vnet 0000:0000:0000:0000:0000:0000:0000:0097's own, and leads to its domains; name the device towards other hosts in vnet.toml (device = \"…\")"},
		"routes unknown":    {config: c4, change: func(o *outlook) { o.routesErr = failed }, problem: "the kernel is busy"},
		"addresses unknown": {config: c4, change: func(o *outlook) { o.addressesErr = failed }, device: "eth0", reason: "default route", problem: "the kernel is busy"},
	} {
		t.Run(name, func(t *testing.T) {
			o := base()
			if tt.change != nil {
				tt.change(o)
			}
			c := o.choose(tt.family, &tt.config, 2)
			require.Equal(t, tt.problem, c.Problem)
			require.Equal(t, tt.device, c.Device)
			require.Equal(t, tt.reason, c.Reason)
			if tt.addr != "" {
				require.Equal(t, netip.MustParseAddr(tt.addr), c.Addr)
			}
		})
	}
}

// TestNothingWaitsForTheKernel: while somebody waits for the kernel's answers, with the locks that are held then, all
// that does not need them goes on.
func TestNothingWaitsForTheKernel(t *testing.T) {
	e, _, _, _, _ := handDrivenLab(t, testConfig())
	id := idOf(t, "97")
	e.looking.Lock()
	require.NoError(t, attach(e, configOf(t, "98")), "a vnet waits for no routing table")
	require.NoError(t, e.AddVif(id, domainMAC(1)))
	e.attaching.Lock()
	require.NotEmpty(t, e.Status().Vnets, "statistics wait for no device")
	require.NoError(t, e.AddPeer(soon(t), netip.MustParseAddr("192.0.2.9"), 0))
	e.attaching.Unlock()
	e.looking.Unlock()
}
