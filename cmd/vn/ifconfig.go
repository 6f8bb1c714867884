package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
)

// scopes are the names of the scopes of IPv6 addresses (rtnetlink(7)) in ifconfig's words.
var scopes = map[uint8]string{0: "Global", 200: "Site", 253: "Link", 254: "Host"}

// ifconfig describes a device in the layout of net-tools before 2.0, which scripts cut: a block whose lines begin
// with the name or ten blanks, and an empty line.
func ifconfig(d hostnet.Detail, addresses []hostnet.Address) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "          "+format+"\n", args...) }
	fmt.Fprintf(&b, "%-9s Link encap:Ethernet  HWaddr %s  \n", d.Name, strings.ToUpper(d.MAC.String()))
	for _, a := range addresses {
		switch addr := a.Prefix.Addr(); {
		case addr.Is4() && a.Peer.IsValid():
			line("inet addr:%s  P-t-P:%s  Mask:%s", addr, a.Peer, mask(a.Prefix))
		case addr.Is4():
			line("inet addr:%s  Bcast:%s  Mask:%s", addr, broadcast(a.Prefix), mask(a.Prefix))
		}
	}
	for _, a := range addresses {
		if a.Prefix.Addr().Is6() {
			line("inet6 addr: %s Scope:%s", a.Prefix, scopes[a.Scope])
		}
	}
	line("%sMTU:%d  Metric:1", flags(d.Link), d.MTU)
	c := d.Counters
	line("RX packets:%d errors:%d dropped:%d overruns:%d frame:%d", c.RxPackets, c.RxErrors, c.RxDropped, c.RxOverruns, c.RxFrameErrors)
	line("TX packets:%d errors:%d dropped:%d overruns:%d carrier:%d", c.TxPackets, c.TxErrors, c.TxDropped, c.TxOverruns, c.TxCarrierErrors)
	line("collisions:%d txqueuelen:%d ", c.Collisions, d.TxQueue)
	line("RX bytes:%d (%s)  TX bytes:%d (%s)", c.RxBytes, amount(c.RxBytes), c.TxBytes, amount(c.TxBytes))
	b.WriteByte('\n')
	return b.String()
}

// flags are the words for a device's flags, with two blanks behind the last.
func flags(l hostnet.Link) string {
	var words []string
	for _, f := range []struct {
		flag net.Flags
		word string
	}{
		{net.FlagUp, "UP"}, {net.FlagBroadcast, "BROADCAST"}, {net.FlagLoopback, "LOOPBACK"},
		{net.FlagPointToPoint, "POINTOPOINT"}, {net.FlagRunning, "RUNNING"},
	} {
		if l.Flags&f.flag != 0 {
			words = append(words, f.word)
		}
	}
	if l.NoARP {
		words = append(words, "NOARP")
	}
	if l.Flags&net.FlagMulticast != 0 {
		words = append(words, "MULTICAST")
	}
	if len(words) == 0 {
		return "[NO FLAGS]  "
	}
	return strings.Join(words, " ") + "  "
}

func mask(p netip.Prefix) net.IP { return net.IP(net.CIDRMask(p.Bits(), 32)) }

// broadcast is the last address of a network.
func broadcast(p netip.Prefix) netip.Addr {
	a, m := p.Addr().As4(), mask(p)
	for i := range a {
		a[i] |= ^m[i]
	}
	return netip.AddrFrom4(a)
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
