package service

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// A topology says what is known: whose ports, which hosts, by what way, and what is not up and why.
func TestDraw(t *testing.T) {
	addr := netip.MustParseAddr
	id, other := vnet.ID{15: 0x97}, vnet.ID{15: 0x98}
	secured := esp.SenderStatus{}
	secured.Addresses.Addr4 = addr("192.0.2.3")
	d := drawing{
		name: "host1",
		status: dataplane.Status{
			Underlays: []dataplane.Underlay{
				{Family: "ipv4", Up: true, Device: "eth0", Address: addr("192.0.2.1"), Group: addr("224.10.0.1"), Port: 1798, MTU: 1500},
				{Family: "ipv6", Problem: "none"},
			},
			Vnets: []dataplane.Vnet{{ID: id, Up: true}},
			Hosts: []dataplane.Host{
				{Info: hosts.Info{Addr: addr("192.0.2.2"), Aliases: []netip.Addr{addr("2001:db8::2")}, Group: time.Second, Unicast: 2 * time.Minute, TxBytes: 7}},
				{Info: hosts.Info{Addr: addr("192.0.2.3"), Group: 5 * time.Minute, Unicast: -1, EtherIPOnly: true}},
				{Info: hosts.Info{Addr: addr("192.0.2.4"), Group: -1, Unicast: -1}},
			},
			Keys: []esp.Status{{ID: other, Senders: []esp.SenderStatus{secured}}},
		},
		macs: map[vnet.ID]dataplane.MACs{id: {Here: 1, Elsewhere: 2}},
		places: map[dataplane.Place]int{
			{Vnet: other, Addr: addr("192.0.2.2")}: 1, {Vnet: id, Addr: addr("192.0.2.2")}: 2, {Vnet: id, Addr: addr("192.0.2.77")}: 1,
		},
		wanted: []Vnet{
			{vnet.Config{ID: other, IDText: "0098", Bridge: "lan"}, Persistent},
			{vnet.Config{ID: id, IDText: "97", Bridge: "vnet97", Vnetif: "vnif97"}, Persistent},
			{vnet.Config{ID: vnet.ID{15: 2}, IDText: "0002"}, Default},
		},
		survey: port.NewSurvey([]hostnet.Link{
			{Index: 1, Name: "vnet97", Kind: "bridge"}, {Index: 2, Name: "vnif97", Master: 1},
			{Index: 3, Name: "vif7.0", Master: 1}, {Index: 4, Name: "tap8.1-emu", Master: 1}, {Index: 5, Name: "veth0", Master: 1}, {Index: 6, Name: "eth0"},
		}),
		domains: map[int]string{7: "web", 8: "db"},
	}
	got := d.draw()
	require.Equal(t, "224.10.0.1:1798", got.Group)
	require.Len(t, got.Hosts, 4)
	self := got.Hosts[0]
	require.Equal(t, []netip.Addr{addr("192.0.2.1")}, self.Addresses)
	require.Equal(t, []topology.Vnet{
		{ID: "97", Bridge: "vnet97", Vnetif: "vnif97", Security: "none", Up: true, MACs: 1,
			Ports: []topology.Port{{Device: "vif7.0", Domain: "web"}, {Device: "tap8.1-emu", Domain: "db"}, {Device: "veth0"}}},
		{ID: "98", Bridge: "lan", Security: "none", Problem: "it could not be brought up"},
	}, self.Vnets)
	require.Equal(t, []topology.Link{
		{To: addr("192.0.2.2"), Way: topology.ByUnicast, Heard: time.Second, TxBytes: 7},
		{To: addr("192.0.2.3"), Way: topology.ByGroup, Heard: 5 * time.Minute, Secured: true, Note: "EtherIP only"},
		{To: addr("192.0.2.4"), Way: topology.ByNone, Heard: -1},
	}, self.Links)
	require.Equal(t, []topology.State{topology.Live, topology.Stale, topology.Gone}, []topology.State{got.Hosts[1].State, got.Hosts[2].State, got.Hosts[3].State})
	require.Equal(t, []topology.Vnet{{ID: "97", Up: true, MACs: 2}, {ID: "98", Up: true, MACs: 1}}, got.Hosts[1].Vnets)
	require.Equal(t, addr("2001:db8::2"), got.Hosts[1].Addresses[1])
}

// counting is an engine that knows many MACs and must not be asked to list them.
type counting struct {
	Engine
	places map[dataplane.Place]int
}

func (c *counting) Vifs(dataplane.Filter) []dataplane.Vif { panic("a picture needs no list of MACs") }
func (c *counting) Entries(dataplane.Filter) []dataplane.Entry {
	panic("a picture needs no list of MACs")
}
func (c *counting) Places() map[dataplane.Place]int { return c.places }
func (c *counting) MACs() map[vnet.ID]dataplane.MACs {
	return map[vnet.ID]dataplane.MACs{{15: 0x97}: {Here: 40_000, Elsewhere: 60_000}}
}

// A picture is made of numbers, and not of the MACs.
func TestTopologyListsNoMACs(t *testing.T) {
	c := &counting{Engine: newOff(), places: map[dataplane.Place]int{{Vnet: vnet.ID{15: 0x97}, Addr: netip.MustParseAddr("192.0.2.2")}: 60_000}}
	d := startDaemon(t, &porttest.Devices{}, t.TempDir(), options{wrap: func(Engine) Engine { return c }})
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
	require.Equal(t, 40_000, d.Topology(t.Context()).Hosts[0].Vnets[0].MACs)
}
