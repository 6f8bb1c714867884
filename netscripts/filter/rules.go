package filter

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets in headers; RFC 826, 791, 8200, 4861.
const (
	etherSource, etherType               = 6, 12
	arpKind, arpSenderMAC, arpSenderIP   = 0, 8, 14
	ip4Protocol, ip4Source               = 9, 12
	ip6Source                            = 8
	icmp6Type, neighbourTarget           = 0, 8
	dhcpClient, dhcpServer               = 68, 67
	dhcp6Client, dhcp6Server             = 546, 547
	mldReport, mldDone, mldReport2       = 131, 132, 143 // RFC 2710, 3810
	routerSolicitation                   = 133
	neighbourSolicitation, neighbourAdvt = 135, 136
)

var (
	linkLocal   = netip.MustParsePrefix("fe80::/10")
	unspecified = netip.MustParsePrefix("::/128")
	nowhere     = netip.MustParsePrefix("0.0.0.0/32")
)

// rule is a list of matches and a verdict at its end.
type rule = []expr.Any

func match(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func verdict(kind expr.VerdictKind, parts ...[]expr.Any) rule {
	return append(match(parts...), &expr.Verdict{Kind: kind})
}

// allow leaves the interface's chain, and nothing more is asked.
func allow(parts ...[]expr.Any) rule { return verdict(expr.VerdictReturn, parts...) }

func drop(parts ...[]expr.Any) rule { return verdict(expr.VerdictDrop, parts...) }

func compare(base expr.PayloadBase, offset int, op expr.CmpOp, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: uint32(offset), Len: uint32(len(want))},
		&expr.Cmp{Op: op, Register: 1, Data: want},
	}
}

func link(offset int, want []byte) []expr.Any {
	return compare(expr.PayloadBaseLLHeader, offset, expr.CmpOpEq, want)
}

func transport(offset int, want []byte) []expr.Any {
	return compare(expr.PayloadBaseTransportHeader, offset, expr.CmpOpEq, want)
}

// protocol matches the layer above IP, behind IPv6 extension headers too.
func protocol(n byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{n}},
	}
}

func ports(source, destination uint16) []expr.Any {
	return match(protocol(unix.IPPROTO_UDP),
		transport(0, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), destination)))
}

// within matches an address in a prefix.
func within(base expr.PayloadBase, offset int, p netip.Prefix) []expr.Any {
	want := p.Masked().Addr().AsSlice()
	n := uint32(len(want))
	load := &expr.Payload{DestRegister: 1, Base: base, Offset: uint32(offset), Len: n}
	equal := &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want}
	if p.IsSingleIP() {
		return []expr.Any{load, equal}
	}
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return []expr.Any{load, &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n),
	}, equal}
}

func source(offset int, p netip.Prefix) []expr.Any {
	return within(expr.PayloadBaseNetworkHeader, offset, p)
}

func ether(kind uint16) []expr.Any {
	return link(etherType, binary.BigEndian.AppendUint16(nil, kind))
}

// vifRules judge what comes from an interface. What no rule allows is dropped: other protocols and
// tagged frames could carry anybody's addresses.
func vifRules(v Vif, target string) []rule {
	var four, six []netip.Prefix
	for _, p := range v.Addresses {
		if p.Addr().Is4() {
			four = append(four, p)
		} else {
			six = append(six, p)
		}
	}
	var list []rule
	add := func(r ...rule) { list = append(list, r...) }
	arp, ip4, ip6 := ether(unix.ETH_P_ARP), ether(unix.ETH_P_IP), ether(unix.ETH_P_IPV6)

	if len(v.MAC) == 6 {
		other := func(base expr.PayloadBase, offset int) []expr.Any {
			return compare(base, offset, expr.CmpOpNeq, v.MAC)
		}
		add(drop(other(expr.PayloadBaseLLHeader, etherSource)),
			drop(arp, other(expr.PayloadBaseNetworkHeader, arpSenderMAC)))
	}
	// ARP for Ethernet and IPv4; nothing else is laid out so.
	add(drop(arp, compare(expr.PayloadBaseNetworkHeader, arpKind, expr.CmpOpNeq, []byte{0, 1, 8, 0, 6, 4})))
	for _, p := range append(four, nowhere) { // 0.0.0.0: a probe, RFC 5227
		add(allow(arp, source(arpSenderIP, p)))
	}
	for _, p := range four {
		add(allow(ip4, source(ip4Source, p)))
	}
	add(allow(ip4, source(ip4Source, nowhere), ports(dhcpClient, dhcpServer)))
	if len(six) > 0 {
		add(ip6Rules(ip6, six, target)...)
	}
	return append(list, drop())
}

// ip6Rules allow, besides the addresses, what a host needs to use them: neighbour discovery but for
// what routers say, group membership, DHCPv6.
func ip6Rules(ip6 []expr.Any, addresses []netip.Prefix, target string) []rule {
	icmp6 := func(kind byte) []expr.Any {
		return match(protocol(unix.IPPROTO_ICMPV6), transport(icmp6Type, []byte{kind}))
	}
	list := []rule{append(match(ip6, icmp6(neighbourAdvt)), &expr.Verdict{Kind: expr.VerdictJump, Chain: target})}
	for _, p := range addresses {
		list = append(list, allow(ip6, source(ip6Source, p)))
	}
	for _, from := range []netip.Prefix{linkLocal, unspecified} {
		for _, kind := range []byte{mldReport, mldDone, mldReport2, routerSolicitation, neighbourSolicitation, neighbourAdvt} {
			list = append(list, allow(ip6, source(ip6Source, from), icmp6(kind)))
		}
	}
	return append(list, allow(ip6, source(ip6Source, linkLocal), ports(dhcp6Client, dhcp6Server)))
}

// targetRules judge what an interface claims to own by neighbour advertisements.
func targetRules(addresses []netip.Prefix) []rule {
	var list []rule
	for _, p := range append(slices.Clone(addresses), linkLocal) {
		if p.Addr().Is6() {
			list = append(list, allow(within(expr.PayloadBaseTransportHeader, neighbourTarget, p)))
		}
	}
	return append(list, drop())
}
