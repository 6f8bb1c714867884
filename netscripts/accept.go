package netscripts

import (
	"net/netip"

	"github.com/xenvnet/xend/internal/firewall"
)

// antispoof tells whether domains on a bridge may use only the addresses given to them.
func (v *vifScript) antispoof(bridge string) (bool, error) {
	if v.conf.Scripts.Antispoof {
		return true, nil
	}
	return v.m.filter().Guarded(bridge)
}

// accept lets a firewall that drops what bridges forward pass what a domain with these addresses sends and gets;
// without addresses it takes that back. A firewall that cannot be changed is no reason to leave a domain without
// the rest.
func (v *vifScript) accept(vif string, addresses []netip.Prefix) {
	v.acceptRules(vif, acceptVif(vif, addresses))
}

func (v *vifScript) acceptRules(vif string, rules []firewall.Rule) {
	f := &firewall.Firewall{Look: v.program, Before: v.Before}
	if err := f.Set("vif:"+vif, rules); err != nil {
		v.warn("%v", err)
	}
}

// acceptVif are the rules for a domain's interface: its addresses, and what it needs to use them: DHCP, and of IPv6
// neighbour discovery and group membership (RFC 4861, 2710, 3810). Without bridged packets in iptables none are
// needed, and to ask there for the port would bring them there.
func acceptVif(vif string, addresses []netip.Prefix) []firewall.Rule {
	from := []string{"-m", "physdev", "--physdev-in", vif, "--physdev-is-bridged"}
	var rules []firewall.Rule
	add := func(family firewall.Family, before, after []string) {
		match := append(append(append([]string(nil), before...), from...), after...)
		rules = append(rules, firewall.Rule{Family: family, Match: match})
	}
	for _, family := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		if !firewall.Bridged(family) {
			continue
		}
		any := false
		for _, p := range addresses {
			if p.Addr().Is4() == (family == firewall.IPv4) {
				add(family, []string{"-s", p.Masked().String()}, nil)
				any = true
			}
		}
		switch {
		case !any:
			continue
		case family == firewall.IPv4:
			add(family, []string{"-p", "udp"}, []string{"-m", "udp", "--sport", "68", "--dport", "67"})
		default:
			add(family, []string{"-p", "udp"}, []string{"-m", "udp", "--sport", "546", "--dport", "547"})
			for _, kind := range []string{"131", "132", "133", "135", "136", "143"} {
				add(family, []string{"-p", "ipv6-icmp"}, []string{"-m", "icmp6", "--icmpv6-type", kind})
			}
		}
		rules = append(rules, firewall.Rule{Family: family, Match: []string{"-m", "physdev", "--physdev-out", vif, "--physdev-is-bridged"}})
	}
	return rules
}
