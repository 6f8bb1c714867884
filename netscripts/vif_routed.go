package netscripts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/netscripts/l3"
)

// vifRoute is the script vif-route: a domain's interface without a bridge, with a route to the domain.
func vifRoute(ctx context.Context, s *script) error { return runVif(ctx, s, routeVif) }

// vifNAT is the script vif-nat: vif-route with addresses derived from the interface's name, behind network-nat.
func vifNAT(ctx context.Context, s *script) error { return runVif(ctx, s, natVif) }

// vifName is what toolstacks call the interface number I of domain D.
var vifName = regexp.MustCompile(`^vif(\d+)\.(\d+)$`)

// derived are the addresses of an interface behind network-nat: vifD.I leads to the domain 10.H.L.(I+1), where D is
// H*256+L, and is 10.H.L.(I+128) itself.
func derived(name string) (domain, router netip.Addr, err error) {
	m := vifName.FindStringSubmatch(name)
	if m == nil {
		return domain, router, fmt.Errorf("no ip is given, and from the name %s no address can be derived; say ip= in the domain's vif", name)
	}
	d, errD := strconv.ParseUint(m[1], 10, 16)
	i, errI := strconv.ParseUint(m[2], 10, 8)
	if errD != nil || errI != nil || i > 126 {
		return domain, router, fmt.Errorf("no ip is given, and %s has numbers too high to derive an address from; say ip= in the domain's vif", name)
	}
	at := func(last uint64) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(d >> 8), byte(d), byte(last)}) }
	return at(i + 1), at(i + 128), nil
}

// routerOf is the address of the machine's end for a domain's address: the one 127 higher, as derived ones have it.
func routerOf(domain netip.Addr) (netip.Addr, error) {
	b := domain.As4()
	if b[3] == 0 || b[3] > 127 {
		return netip.Addr{}, fmt.Errorf("ip=%s: with vif-nat the last number is from 1 to 127; the machine's end has one that is higher by 127", domain)
	}
	b[3] += 127
	return netip.AddrFrom4(b), nil
}

// addressing is the addresses of a domain, and that of the machine's end of its interface.
func (v *vifScript) addressing(name string) (domain []netip.Prefix, router netip.Addr, err error) {
	if domain, err = parseAddresses(v.vars["ip"]); err != nil {
		return nil, router, err
	}
	if v.kind == natVif {
		if len(domain) == 0 {
			a, r, err := derived(name)
			return []netip.Prefix{netip.PrefixFrom(a, 32)}, r, err
		}
		for _, p := range domain {
			if p.Addr().Is4() {
				router, err = routerOf(p.Addr())
				return domain, router, err
			}
		}
		return nil, router, fmt.Errorf("ip=%s has no IPv4 address, and network-nat knows no other", v.vars["ip"])
	}
	if len(domain) == 0 {
		v.warn("no ip is given, so no route leads to the domain; say ip= in its vif")
	}
	device, err := v.script.device(v.m)
	if err != nil {
		return nil, router, err
	}
	l, err := v.m.host.LinkByName(device)
	if err != nil {
		return nil, router, err
	}
	list, err := v.m.host.Addresses(l.Index)
	if err != nil {
		return nil, router, err
	}
	for _, a := range list {
		if a.Prefix.Addr().Is4() {
			return domain, a.Prefix.Addr(), nil
		}
	}
	return nil, router, fmt.Errorf("%s has no IPv4 address for the interface to share; name another device with netdev=", device)
}

// attachRouted is online of vif-route and vif-nat.
func (v *vifScript) attachRouted(ctx context.Context, name string) error {
	l, err := v.findVif(name)
	if errors.Is(err, hostnet.ErrNotFound) {
		return fmt.Errorf("there is no device %s", name)
	}
	if err != nil {
		return err
	}
	domain, router, err := v.addressing(name)
	if err != nil {
		return err
	}
	m := v.m
	if l, err = v.plain(l); err != nil {
		return err
	}
	if l.Master != 0 {
		if err := m.setMaster(l, hostnet.Link{}); err != nil {
			return err
		}
	}
	err = v.withLock(ctx, lockIPTables, func() error {
		v.acceptRules(l.Name, routedRules(l.Name, domain))
		return m.filter().RemoveVif(l.Name)
	})
	if err != nil {
		return err
	}
	if err := m.setUp(l); err != nil {
		return err
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"give " + l.Name + " the address " + router.String(), func() error {
			return m.host.EnsureAddress(hostnet.Address{Index: l.Index, Prefix: netip.PrefixFrom(router, 32)})
		}},
		{"set proxy_arp of " + l.Name, func() error { return m.host.SetSysctl("1", "net", "ipv4", "conf", l.Name, "proxy_arp") }},
	}
	for _, p := range domain {
		route := hostnet.Route{To: p.Masked(), Index: l.Index}
		if p.Addr().Is4() {
			route.Source, route.Scope = router, 253 // on the link
		}
		steps = append(steps, struct {
			what string
			do   func() error
		}{"route " + p.String() + " to " + l.Name, func() error { return m.host.EnsureRoute(route) }})
	}
	for _, st := range steps {
		if err := m.change(st.what, st.do); err != nil {
			return fmt.Errorf("%s: %w", st.what, err)
		}
	}
	if b, err := os.ReadFile(settingFile("ipv4/ip_forward")); err == nil && strings.TrimSpace(string(b)) == "0" {
		v.warn("IPv4 forwarding is off: the domain reaches this machine only; network-route start or network-nat start switches it on")
	}
	v.xs.write(ctx, "hotplug-status", "connected")
	return nil
}

// plain gives an interface its name and MAC, and takes everything else from it.
func (v *vifScript) plain(l hostnet.Link) (hostnet.Link, error) {
	m := v.m
	l, err := v.renamed(l)
	if err != nil {
		return l, err
	}
	if !bytes.Equal(l.MAC, vifMAC) {
		if err := m.change("set MAC of "+l.Name, func() error { return m.host.SetHardwareAddr(l.Index, vifMAC) }); err != nil {
			return l, err
		}
	}
	if err := m.l3.SetGenMode(l.Index, l3.GenNone); err != nil {
		return l, err
	}
	if err := m.l3.Clear(l.Index); err != nil {
		return l, err
	}
	return m.host.LinkByIndex(l.Index)
}

// routedRules accept what a domain sends and gets, where the machine's firewall drops what it forwards.
func routedRules(vif string, domain []netip.Prefix) []firewall.Rule {
	var rules []firewall.Rule
	for _, p := range domain {
		family := firewall.IPv4
		if p.Addr().Is6() {
			family = firewall.IPv6
		}
		rules = append(rules,
			firewall.Rule{Family: family, Match: []string{"-s", p.Masked().String(), "-i", vif}},
			firewall.Rule{Family: family, Match: []string{"-d", p.Masked().String(), "-o", vif}})
	}
	return rules
}

// detachRouted is offline of vif-route and vif-nat.
func (v *vifScript) detachRouted(ctx context.Context, name string) error {
	l, err := v.findVif(name)
	gone := errors.Is(err, hostnet.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	if gone {
		l.Name = v.finalName(name)
	}
	err = v.withLock(ctx, lockIPTables, func() error {
		v.acceptRules(l.Name, nil)
		return nil
	})
	if gone {
		return err
	}
	return errors.Join(err, ignoreGone(v.m.l3.Clear(l.Index)), ignoreGone(v.m.setDown(l)))
}
