package service

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// judged is a host and its devices.
type judged struct {
	findings
	links []hostnet.Link
}

func (j *judged) health() Health {
	j.survey = port.NewSurvey(j.links)
	return j.findings.health()
}

// well is a host with vnets 97 and 98 that is well.
func well(t *testing.T) *judged {
	group := netip.MustParseAddr("224.10.0.1")
	f := &judged{findings: findings{snapshot: dataplane.Status{Underlays: []dataplane.Underlay{
		{Family: "ipv4", Up: true, Device: "eth0", Group: group}, {Family: "ipv6", Problem: "eth0 has no IPv6 address"},
	}}}}
	for i, id := range []string{"97", "98"} {
		c, err := vnet.ParseConfig([]byte("(vnet (id " + id + "))"))
		require.NoError(t, err)
		f.wanted = append(f.wanted, Vnet{c, Persistent})
		f.snapshot.Vnets = append(f.snapshot.Vnets, dataplane.Vnet{ID: c.ID, Up: true})
		f.links = append(f.links,
			hostnet.Link{Name: c.Bridge, Kind: "bridge", Index: 10 + i, Flags: net.FlagUp, Alias: port.Alias(c.ID), Group: port.Group},
			hostnet.Link{Name: c.Vnetif, Kind: "veth", Index: 20 + i, Partner: 30 + i, Master: 10 + i, Flags: net.FlagUp, Alias: port.Alias(c.ID), Group: port.Group},
			hostnet.Link{Name: port.PartnerName(c.ID), Kind: "veth", Index: 30 + i, Partner: 20 + i, Flags: net.FlagUp, Alias: port.Alias(c.ID), Group: port.Group})
	}
	return f
}

func TestHealth(t *testing.T) {
	h := well(t).health()
	require.Empty(t, h.Troubles, "a host with one address family is well")
	require.Equal(t, Well, h.Severity())
	require.Equal(t, 2, h.Vnets)
	require.Equal(t, 2, h.Up)

	for name, tt := range map[string]struct {
		change   func(f *judged)
		severity Severity
		up       int
		want     string // of and text of the first trouble
	}{
		"no underlay": {func(f *judged) {
			f.snapshot.Underlays[0].Up, f.snapshot.Underlays[0].Problem = false, "there is no device eth7, which is configured"
		}, Broken, 2, "underlay: vnets are cut off from other hosts: there is no device eth7, which is configured; eth0 has no IPv6 address"},
		"dead group": {func(f *judged) { f.snapshot.Underlays[0].Silent = true }, Degraded, 2,
			"group 224.10.0.1: nothing comes from it by eth0 although other hosts are there: broadcasts and new MACs do not arrive"},
		"vnet down": {func(f *judged) { f.snapshot.Vnets[0].Up, f.snapshot.Vnets[0].Problem = false, "device vnif97 vanished" },
			Degraded, 1, "vnet 97: down: device vnif97 vanished"},
		"vnet missing": {func(f *judged) { f.snapshot.Vnets = f.snapshot.Vnets[:1] }, Degraded, 1,
			"vnet 98: down: it could not be brought up; it is tried again"},
		"all missing": {func(f *judged) { f.snapshot.Vnets = nil }, Broken, 0,
			"vnet 97: down: it could not be brought up; it is tried again"},
		"bridge gone": {func(f *judged) { f.links = f.links[1:] }, Degraded, 1, "vnet 97: down: bridge vnet97 is gone"},
		"bridge down": {func(f *judged) { f.links[0].Flags = 0 }, Degraded, 1, "vnet 97: down: bridge vnet97 is down"},
		"vnif gone":   {func(f *judged) { f.links = f.links[:4] }, Degraded, 1, "vnet 98: down: interface vnif98 is gone"},
		"vnif down":   {func(f *judged) { f.links[1].Flags = 0 }, Degraded, 1, "vnet 97: down: interface vnif97 is down"},
		"vnif off":    {func(f *judged) { f.links[1].Master = 0 }, Degraded, 1, "vnet 97: down: vnif97 left its bridge vnet97"},
		"corrupt":     {func(f *judged) { f.corrupt = []string{"x.sxp.corrupt"} }, Degraded, 2, "file x.sxp.corrupt: cannot be read and was set aside"},
		"1798 is dropped": {func(f *judged) {
			f.dropped = []firewall.Dropped{{Packet: firewall.Packet{Protocol: 17, Port: 1798, To: netip.MustParseAddr("192.0.2.1")}, Chain: "x", Cure: "y"}}
		}, Broken, 2, "firewall: UDP port 1798 that comes in is dropped by x"},
		"firewall": {func(f *judged) {
			f.blocked = []firewall.Blocked{{Bridge: "vnet97", Family: firewall.IPv4, Chain: "iptables FORWARD (policy DROP)", Cure: "iptables …"}}
		}, Degraded, 2, "bridge vnet97: IPv4 packets on the bridge vnet97 are dropped by iptables FORWARD (policy DROP)"},
		"replica": {func(f *judged) {
			f.snapshot.Replicate = []dataplane.ReplicaState{{Name: "h3", Problem: "no such host"}}
		}, Degraded, 2,
			"replica h3: gets nothing: no such host"},
		"flapping": {func(f *judged) {
			f.damped = []dataplane.Entry{{MAC: wire.MAC{0, 1, 2, 3, 4, 5}, Addr: netip.MustParseAddr("192.0.2.2"), Damped: 20 * time.Second}}
		}, Degraded, 2, "MAC 00:01:02:03:04:05: moves to and fro in vnet 0; it stays behind 192.0.2.2 for 20s"},
	} {
		t.Run(name, func(t *testing.T) {
			f := well(t)
			tt.change(f)
			h := f.health()
			require.NotEmpty(t, h.Troubles)
			require.Equal(t, tt.want, h.Troubles[0].Of+": "+h.Troubles[0].Text)
			require.Equal(t, tt.severity, h.Severity())
			require.Equal(t, tt.up, h.Up)
		})
	}

	// The worst stands first.
	f := well(t)
	f.corrupt = []string{"x"}
	f.snapshot.Underlays = f.snapshot.Underlays[1:]
	require.Equal(t, "underlay", f.health().Troubles[0].Of)
	require.Len(t, f.health().Troubles, 2)

	// Where the data plane is off, devices are all there is.
	f = well(t)
	f.off, f.snapshot.Underlays = true, nil
	for i := range f.snapshot.Vnets {
		f.snapshot.Vnets[i].Up, f.snapshot.Vnets[i].Problem = false, errOff.Text
	}
	require.Empty(t, f.health().Troubles)
}

// TestNeeded: what must pass is asked about to and from a host of the family, and to the group.
func TestNeeded(t *testing.T) {
	addr := netip.MustParseAddr
	s := dataplane.Status{
		Underlays: []dataplane.Underlay{
			{Family: "ipv4", Up: true, Device: "eth0", Address: addr("192.0.2.1"), Group: addr("224.10.0.1"), Port: 1798},
			{Family: "ipv6", Device: "eth0", Problem: "it has no address"},
		},
		Hosts: []dataplane.Host{{Info: hosts.Info{Addr: addr("2001:db8::2")}}, {Info: hosts.Info{Addr: addr("192.0.2.2")}}},
	}
	in := func(protocol uint8, port uint16, to string) firewall.Packet {
		return firewall.Packet{Device: "eth0", Protocol: protocol, Port: port, From: addr("192.0.2.2"), To: addr(to)}
	}
	out := func(protocol uint8, port uint16, to string) firewall.Packet {
		return firewall.Packet{Out: true, Device: "eth0", Protocol: protocol, Port: port, From: addr("192.0.2.1"), To: addr(to)}
	}
	open := []firewall.Packet{in(17, 1798, "192.0.2.1"), out(17, 1798, "192.0.2.2"), in(17, 1798, "224.10.0.1"), out(17, 1798, "224.10.0.1")}
	require.Equal(t, open, needed(&s, 4500))
	s.Keys = []esp.Status{{}}
	require.Equal(t, append(open, in(17, 4500, "192.0.2.1"), out(17, 4500, "192.0.2.2"), in(50, 0, "192.0.2.1"), out(50, 0, "192.0.2.2")), needed(&s, 4500))
	s.Keys, s.Encapsulation = nil, dataplane.EtherIP
	etherIP := append(open, in(97, 0, "192.0.2.1"), out(97, 0, "192.0.2.2"))
	require.Equal(t, etherIP, needed(&s, 4500))
	s.Encapsulation, s.Underlays[0].EtherIPHosts = "", []netip.Addr{addr("192.0.2.2")}
	require.Equal(t, etherIP, needed(&s, 4500))
	s.Underlays[0].EtherIPHosts = nil
	s.Hosts = nil
	require.Len(t, needed(&s, 4500), 2, "who is alone asks about the group")
}
