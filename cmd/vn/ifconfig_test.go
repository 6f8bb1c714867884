package main

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

func TestIfconfig(t *testing.T) {
	netip := func(s string) *net.IPNet {
		ip, n, err := net.ParseCIDR(s)
		require.NoError(t, err)
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	mac := net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0x0a}
	d := &netlink.LinkAttrs{
		Name: "vnif97", HardwareAddr: mac, MTU: 1500, RawFlags: 0x1043, TxQLen: 1000,
		Statistics: &netlink.LinkStatistics{RxPackets: 3, TxPackets: 4, RxBytes: 180, TxBytes: 3 << 20, TxDropped: 1},
	}
	require.Equal(t, `vnif97    Link encap:Ethernet  HWaddr FE:FF:FF:FF:FF:0A  
          inet addr:10.97.0.5  Bcast:10.97.3.255  Mask:255.255.252.0
          inet6 addr: fe80::1/64 Scope:Link
          UP BROADCAST RUNNING MULTICAST  MTU:1500  Metric:1
          RX packets:3 errors:0 dropped:0 overruns:0 frame:0
          TX packets:4 errors:0 dropped:1 overruns:0 carrier:0
          collisions:0 txqueuelen:1000 
          RX bytes:180 (180.0 b)  TX bytes:3145728 (3.0 MiB)

`, ifconfig(d, []netlink.Addr{
		{IPNet: netip("fe80::1/64"), Scope: 253},
		{IPNet: netip("10.97.0.5/22")},
	}))
	require.Equal(t, "vnet97\t\t8000.feffffffff0a\tyes\t\ta\n\t\t\t\t\t\t\tb\n", brctl("vnet97", "8000.feffffffff0a", "1", []string{"a", "b"}))
	require.Equal(t, "[NO FLAGS]  ", flags(0))
}

// TestLinks: a client links neither the engine nor what loads programs into the kernel.
func TestLinks(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".", "../xm").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		require.False(t, line == "github.com/xenvnet/xend/dataplane" || strings.HasPrefix(line, "github.com/cilium/ebpf"), line)
	}
}
