package main

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

func TestIfconfig(t *testing.T) {
	mac := net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0x0a}
	d := hostnet.Detail{
		Link:     hostnet.Link{Name: "vnif97", MAC: mac, MTU: 1500, Flags: net.FlagUp | net.FlagBroadcast | net.FlagRunning | net.FlagMulticast},
		TxQueue:  1000,
		Counters: hostnet.Counters{RxPackets: 3, TxPackets: 4, RxBytes: 180, TxBytes: 3 << 20, TxDropped: 1},
	}
	require.Equal(t, `vnif97    Link encap:Ethernet  HWaddr FE:FF:FF:FF:FF:0A  
          inet addr:10.97.0.5  Bcast:10.97.3.255  Mask:255.255.252.0
          inet6 addr: fe80::1/64 Scope:Link
          UP BROADCAST RUNNING MULTICAST  MTU:1500  Metric:1
          RX packets:3 errors:0 dropped:0 overruns:0 frame:0
          TX packets:4 errors:0 dropped:1 overruns:0 carrier:0
          collisions:0 txqueuelen:1000 
          RX bytes:180 (180.0 b)  TX bytes:3145728 (3.0 MiB)

`, ifconfig(d, []hostnet.Address{
		{Prefix: netip.MustParsePrefix("fe80::1/64"), Scope: 253},
		{Prefix: netip.MustParsePrefix("10.97.0.5/22")},
	}))
	require.Equal(t, "vnet97\t\t8000.feffffffff0a\tyes\t\ta\n\t\t\t\t\t\t\tb\n",
		brctl(hostnet.Detail{Link: hostnet.Link{Name: "vnet97", MAC: mac}, Priority: 0x8000, STP: true}, []string{"a", "b"}))
	require.Equal(t, "[NO FLAGS]  ", flags(hostnet.Link{}))
}
