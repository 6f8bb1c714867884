package control

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// Bounds of what is awaited without an event.
const (
	soonEnough = 20 * time.Second
	tick       = 10 * time.Millisecond
)

func config(t *testing.T, text string) vnet.Config {
	t.Helper()
	c, err := vnet.ParseConfig([]byte(text))
	require.NoError(t, err)
	return c
}

// sample has one of everything.
func sample() snapshot {
	id := vnet.ID{15: 0x97}
	addr := netip.MustParseAddr
	return snapshot{Status: dataplane.Status{
		Encapsulation: dataplane.EtherIPInUDP, MTUMode: dataplane.MTUFragment,
		Vnets: []dataplane.Vnet{{ID: id, Vnetif: "vnif97", Header: 64, MTU: 1500}, {ID: vnet.ID{15: 0x98}, Header: 64, MTU: 1448}},
		Peers: []dataplane.PeerState{{Addr: addr("192.0.2.9"), Port: 1799, TxPackets: 3, RxPackets: 4}},
		Paths: []dataplane.Path{
			{To: "group", Addr: addr("224.10.0.1"), Device: "eth0", MTU: 1500, IP: 20, UDP: 8, Header: 22},
			{To: "host", Addr: addr("192.0.2.2"), Device: "eth0", MTU: 1500, IP: 20, Header: 18},
		},
		Underlays: []dataplane.Underlay{{Family: "ipv4", Up: true, Device: "eth0", Address: addr("192.0.2.1"), Group: addr("224.10.0.1"),
			Port: 1798, MTU: 1500, EtherIPHosts: []netip.Addr{addr("192.0.2.2")}}},
		Tables:    dataplane.Tables{EntryTTL: 60 * time.Second, SweepInterval: 30 * time.Second, Sweeps: 7},
		Drops:     []dataplane.Drop{{Reason: dataplane.DropMalformed, Count: 5}, {Reason: dataplane.DropLoop}},
		Strangers: []dataplane.Stranger{{Device: "vnet97", Index: 7, From: addr("192.0.2.7"), Packets: 3}},
	},
		Vifs: []dataplane.Vif{{Vnet: id, MAC: wire.MAC{0xaa, 0, 0, 0, 0, 1}, Age: 61999 * time.Millisecond}},
		Entries: []dataplane.Entry{{Vnet: id, MAC: wire.MAC{0, 0x16, 0x3e, 0, 0, 1}, Addr: addr("192.0.2.2"),
			State: dataplane.Reachable, Age: 5 * time.Second}},
	}
}

func written(write func(*bytes.Buffer, snapshot)) []byte {
	var b bytes.Buffer
	write(&b, sample())
	return b.Bytes()
}

func TestLists(t *testing.T) {
	for want, write := range map[string]func(*bytes.Buffer, snapshot){
		"(vnet (id 0000:0000:0000:0000:0000:0000:0000:0097) (vnetif vnif97) (security none) (header 64))\n" +
			"(vnet (id 0000:0000:0000:0000:0000:0000:0000:0098) (vnetif ) (security none) (header 64))\n": writeVnets,
		"(viftable\n (table_ttl 30)\n (entry_ttl 60)\n (sweeps 7)\n)\n" +
			"(vif\n (vnet 0000:0000:0000:0000:0000:0000:0000:0097)\n (vmac aa:00:00:00:00:01)\n (age 61)\n)\n": writeVifs,
		"(varp \n (device eth0)\n (mcast_addr 224.10.0.1)\n (ucast_addr 192.0.2.1)\n (port 1798)\n (encapsulation etherip_in_udp)\n (entry_ttl 60)\n)\n" +
			"(ventry \n (ref 1)\n (state reachable)\n (flags -)\n (addr 192.0.2.2)\n (queue 0)\n (age 5)\n (vmac 00:16:3e:00:00:01)\n (vnet 0000:0000:0000:0000:0000:0000:0000:0097)\n)\n": writeVARP,
		"(vnet_peer\n  (addr 192.0.2.9)\n  (port 1799)\n  (tx_packets 3)\n  (rx_packets 4)\n)\n": writePeers,
		"(stats (drop (reason malformed) (packets 5) (help 'packets from the underlay whose headers make no sense')) " +
			"(drop (reason loop) (packets 0) (help '" + dataplane.DropLoop.Help() + "')) (from (device vnet97) (addr 192.0.2.7) (packets 3)))\n": writeStats,
		"(mtu (mtu 1448) (mode fragment) (path (to group) (addr 224.10.0.1) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22)) " +
			"(path (to host) (addr 192.0.2.2) (device eth0) (mtu 1500) (ip 20) (udp 0) (header 18)))\n": writeMTU,
	} {
		got := written(write)
		require.Equal(t, want, string(got))
		_, err := sxp.Parse(got, sxp.C)
		require.NoError(t, err)
	}
	var b bytes.Buffer
	writeVARP(&b, snapshot{})
	require.Empty(t, b.String(), "without a data plane there is none to describe")
	// A MAC that was asked for is behind nobody yet.
	writeVARP(&b, snapshot{Entries: []dataplane.Entry{{State: dataplane.Incomplete}}})
	require.Contains(t, b.String(), "(state incomplete)\n (flags -)\n (addr 0.0.0.0)\n")
}

// TestStatsFastPath: what the kernel carries, and why it does not.
func TestStatsFastPath(t *testing.T) {
	s := snapshot{
		Status: dataplane.Status{FastPath: dataplane.FastPathState{
			Mode: dataplane.FastPathAuto, On: true,
			Underlays: [2]dataplane.FastUnderlay{{Family: "ipv4", Device: "eth0", Way: "tcx", Why: "it segments UDP tunnels", Hook: "tcx", Receive: "the bridge filters VLANs"}},
			Ports: []fastpath.BypassedPort{
				{Vnet: vnet.ID{15: 0x97}, Name: "vif1.0", Way: fastpath.WayPeer},
				{Vnet: vnet.ID{15: 0x97}, Name: "vif2.0", Way: fastpath.WayBridge, Reason: "port vif2.0 does not learn"},
			},
			Vnets: map[vnet.ID]string{{15: 0x97}: "", {15: 0x98}: "security conf"},
			Hooks: map[vnet.ID]string{{15: 0x97}: "clsact"},
		}},
		Counted: []dataplane.VnetCounters{
			{ID: vnet.ID{15: 0x97}, KernelTx: dataplane.Traffic{Packets: 3}, KernelRx: dataplane.Traffic{Packets: 4}}, {ID: vnet.ID{15: 0x98}},
		},
	}
	s.FastPath.Left.In[fastpath.LeftSYN] = 9
	var b bytes.Buffer
	writeStats(&b, s)
	require.Equal(t, "(stats (fastpath (mode auto) (state on) (underlay (family ipv4) (device eth0) (way tcx) (why 'it segments UDP tunnels') (hook tcx) (send kernel) (receive 'the bridge filters VLANs')) "+
		"(port (vnet 0000:0000:0000:0000:0000:0000:0000:0097) (device vif1.0) (way peer) (why '')) "+
		"(port (vnet 0000:0000:0000:0000:0000:0000:0000:0097) (device vif2.0) (way bridge) (why 'port vif2.0 does not learn')) "+
		"(vnet (id 0000:0000:0000:0000:0000:0000:0000:0097) (carrier kernel) (hook clsact) (tx 3) (rx 4)) "+
		"(vnet (id 0000:0000:0000:0000:0000:0000:0000:0098) (carrier 'security conf') (tx 0) (rx 0)) "+
		"(left (direction in) (reason syn) (packets 9) (help '"+fastpath.LeftSYN.Help()+"'))))\n", b.String())
}
