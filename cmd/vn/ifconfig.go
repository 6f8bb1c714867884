package main

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// scopes are the names of the scopes of IPv6 addresses (rtnetlink(7)) in ifconfig's words.
var scopes = map[int]string{0: "Global", 200: "Site", 253: "Link", 254: "Host"}

// ifconfig describes a device in the layout of net-tools before 2.0, which scripts cut: a block whose lines begin
// with the name or ten blanks, and an empty line.
func ifconfig(d *netlink.LinkAttrs, addresses []netlink.Addr) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "          "+format+"\n", args...) }
	fmt.Fprintf(&b, "%-9s Link encap:Ethernet  HWaddr %s  \n", d.Name, strings.ToUpper(d.HardwareAddr.String()))
	for _, a := range addresses {
		if a.IP.To4() == nil {
			continue
		}
		if a.Peer != nil && !a.Peer.IP.Equal(a.IP) {
			line("inet addr:%s  P-t-P:%s  Mask:%s", a.IP, a.Peer.IP, net.IP(a.Mask))
		} else {
			line("inet addr:%s  Bcast:%s  Mask:%s", a.IP, broadcast(a.IPNet), net.IP(a.Mask))
		}
	}
	for _, a := range addresses {
		if a.IP.To4() == nil {
			line("inet6 addr: %s Scope:%s", a.IPNet, scopes[a.Scope])
		}
	}
	line("%sMTU:%d  Metric:1", flags(d.RawFlags), d.MTU)
	c := netlink.LinkStatistics{}
	if d.Statistics != nil {
		c = *d.Statistics
	}
	line("RX packets:%d errors:%d dropped:%d overruns:%d frame:%d", c.RxPackets, c.RxErrors, c.RxDropped, c.RxFifoErrors, c.RxFrameErrors)
	line("TX packets:%d errors:%d dropped:%d overruns:%d carrier:%d", c.TxPackets, c.TxErrors, c.TxDropped, c.TxFifoErrors, c.TxCarrierErrors)
	line("collisions:%d txqueuelen:%d ", c.Collisions, d.TxQLen)
	line("RX bytes:%d (%s)  TX bytes:%d (%s)", c.RxBytes, amount(c.RxBytes), c.TxBytes, amount(c.TxBytes))
	b.WriteByte('\n')
	return b.String()
}

// flags are the words for a device's flags (IFF_ of netdevice(7)), with two blanks behind the last.
func flags(bits uint32) string {
	var words []string
	for _, f := range []struct {
		bit  uint32
		word string
	}{
		{0x1, "UP"}, {0x2, "BROADCAST"}, {0x8, "LOOPBACK"}, {0x10, "POINTOPOINT"}, {0x40, "RUNNING"}, {0x80, "NOARP"},
		{0x100, "PROMISC"}, {0x200, "ALLMULTI"}, {0x800, "SLAVE"}, {0x400, "MASTER"}, {0x1000, "MULTICAST"},
	} {
		if bits&f.bit != 0 {
			words = append(words, f.word)
		}
	}
	if len(words) == 0 {
		return "[NO FLAGS]  "
	}
	return strings.Join(words, " ") + "  "
}

// broadcast is the last address of an IPv4 network.
func broadcast(n *net.IPNet) net.IP {
	a, mask := slices.Clone(n.IP.To4()), n.Mask[len(n.Mask)-net.IPv4len:]
	for i := range a {
		a[i] |= ^mask[i]
	}
	return a
}

// amount is a number of bytes for people.
func amount(n uint64) string {
	const unit = 1024
	size, units := float64(n), []string{"b", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for size >= unit && i < len(units)-1 {
		size /= unit
		i++
	}
	return fmt.Sprintf("%.1f %s", size, units[i])
}
