package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// network is what a domain's network is configured to: what is saved and moved with it.
type network struct {
	Cards   []card            `json:"cards"`
	Routes  []route           `json:"routes"`
	Sysctls map[string]string `json:"sysctls,omitempty"` // below net: "net.ipv4.ip_forward"
}

// card is a domain's end of a vif: eth<Number>.
type card struct {
	Number    int            `json:"number"`
	Addresses []netip.Prefix `json:"addresses"`
	// Neighbours are whom it knows on its link. Without them the first thing that a domain does where it comes is to ask for
	// them, and when that is lost, nothing goes out for a second.
	Neighbours []neighbour `json:"neighbours,omitempty"`
}

type neighbour struct {
	Address   netip.Addr `json:"address"`
	MAC       string     `json:"mac"`
	Permanent bool       `json:"permanent,omitempty"`
}

type route struct {
	To     netip.Prefix `json:"to"`
	Via    netip.Addr   `json:"via"`
	Card   int          `json:"card"`
	Metric uint32       `json:"metric,omitempty"`
}

// Bounds of a network that a file or another host tells.
const (
	maxVifs       = 64
	maxRoutes     = 4096
	maxNeighbours = 1024 // of a card
)

func (n network) validate() error {
	if len(n.Cards) > maxVifs || len(n.Routes) > maxRoutes || len(n.Sysctls) > maxVifs {
		return errors.New("a network with too many cards, routes or settings")
	}
	for _, c := range n.Cards {
		if c.Number < 0 || c.Number >= maxVifs || len(c.Addresses) > maxRoutes {
			return fmt.Errorf("card %d: its number is not below %d, or it has too many addresses", c.Number, maxVifs)
		}
		for _, a := range c.Addresses {
			if !a.IsValid() || a.Addr().Zone() != "" {
				return fmt.Errorf("card %d: %v is not an address", c.Number, a)
			}
		}
		if len(c.Neighbours) > maxNeighbours {
			return fmt.Errorf("card %d: more than %d neighbours", c.Number, maxNeighbours)
		}
		for _, a := range c.Neighbours {
			if mac, err := net.ParseMAC(a.MAC); err != nil || len(mac) != 6 || !a.Address.IsValid() || a.Address.Zone() != "" {
				return fmt.Errorf("card %d: %v %q is not a neighbour", c.Number, a.Address, a.MAC)
			}
		}
	}
	for _, r := range n.Routes {
		if !r.To.IsValid() || r.Card < 0 || r.Card >= maxVifs {
			return fmt.Errorf("route to %v by card %d: not a route", r.To, r.Card)
		}
	}
	for key, value := range n.Sysctls {
		if err := checkSysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

// checkSysctl lets through what belongs to a network namespace.
func checkSysctl(key, value string) error {
	parts := strings.Split(key, ".")
	if len(parts) < 3 || parts[0] != "net" || slices.ContainsFunc(parts, func(p string) bool { return p == "" || strings.Contains(p, "/") }) ||
		len(key) > 128 || len(value) > 128 || strings.ContainsAny(value, "\n\x00") {
		return fmt.Errorf("sysctl.%s=%s: only settings below net are a domain's own", key, value)
	}
	return nil
}

func ethName(n int) string          { return "eth" + strconv.Itoa(n) }
func vifName(id, number int) string { return fmt.Sprintf("vif%d.%d", id, number) }

// parameters are what of a kernel's line concerns the domain's network, and what is left for its program.
// ip= and sysctl.* are Linux's own (kernel-parameters.txt, nfsroot.txt); what follows "--" is the program's.
func parameters(line string) (n network, args []string, err error) {
	words := strings.Fields(line)
	if i := slices.Index(words, "--"); i >= 0 {
		words, args = words[:i], words[i+1:]
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch {
		case strings.HasPrefix(key, "sysctl."):
			key = strings.TrimPrefix(key, "sysctl.")
			if err := checkSysctl(key, value); err != nil {
				return network{}, nil, err
			}
			if n.Sysctls == nil {
				n.Sysctls = map[string]string{}
			}
			n.Sysctls[key] = value
		case key == "ip" && strings.Contains(value, ":"):
			if err := n.parseIP(value); err != nil {
				return network{}, nil, fmt.Errorf("%s: %w", w, err)
			}
		}
	}
	return n, args, nil
}

// parseIP reads ip=CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE:…; empty fields are left out.
func (n *network) parseIP(value string) error {
	f := append(strings.Split(value, ":"), "", "", "", "", "")
	if f[0] == "" {
		return nil
	}
	addr, err := netip.ParseAddr(f[0])
	if err != nil || !addr.Is4() {
		return errors.New("expected ip=ADDRESS::GATEWAY:NETMASK:HOST:DEVICE:off with IPv4 addresses")
	}
	number, err := strconv.Atoi(strings.TrimPrefix(f[5], "eth"))
	if f[5] == "" {
		number, err = 0, nil
	}
	if err != nil || number < 0 || number >= maxVifs {
		return fmt.Errorf("%q is not one of the domain's devices, eth0, eth1, …", f[5])
	}
	bits, err := prefixBits(f[3], addr)
	if err != nil {
		return err
	}
	c := n.card(number)
	c.Addresses = append(c.Addresses, netip.PrefixFrom(addr, bits))
	if f[2] != "" {
		return n.gateway(f[2], number)
	}
	return nil
}

// card returns a card to be changed.
func (n *network) card(number int) *card {
	i := slices.IndexFunc(n.Cards, func(c card) bool { return c.Number == number })
	if i < 0 {
		i = len(n.Cards)
		n.Cards = append(n.Cards, card{Number: number})
	}
	return &n.Cards[i]
}

func (n *network) gateway(text string, number int) error {
	via, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("gateway %q is not an address", text)
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if via.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	n.Routes = append(n.Routes, route{To: all, Via: via, Card: number})
	return nil
}

// prefixBits reads a netmask; without one it is what small networks have.
func prefixBits(mask string, addr netip.Addr) (int, error) {
	if mask == "" {
		if addr.Is4() {
			return 24, nil
		}
		return 64, nil
	}
	m, err := netip.ParseAddr(mask)
	if err == nil && m.Is4() {
		if ones, bits := net.IPMask(m.AsSlice()).Size(); bits == 32 {
			return ones, nil
		}
	}
	if n, errN := strconv.Atoi(mask); errN == nil && n >= 0 && n <= addr.BitLen() {
		return n, nil
	}
	return 0, fmt.Errorf("netmask %q is neither 255.255.255.0 nor a length", mask)
}

// vif adds what the configuration of a vif says: its addresses, as the domain's own (in a file they are an annotation
// of those that the domain has), and a gateway.
func (n *network) vif(number int, v domain.Vif) error {
	var mask, gateway string
	for _, p := range v.Other {
		switch p.Name {
		case "netmask":
			mask = p.Value
		case "gateway":
			gateway = p.Value
		}
	}
	for _, text := range v.IP {
		for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
			p, err := netip.ParsePrefix(word)
			if err != nil {
				a, errA := netip.ParseAddr(word)
				if errA != nil || a.Zone() != "" {
					return fmt.Errorf("vif %d: ip=%s: %q is not an address", number, text, word)
				}
				bits, err := prefixBits(mask, a)
				if err != nil {
					return fmt.Errorf("vif %d: %w", number, err)
				}
				p = netip.PrefixFrom(a, bits)
			}
			c := n.card(number)
			c.Addresses = append(c.Addresses, p)
		}
	}
	if gateway != "" {
		if err := n.gateway(gateway, number); err != nil {
			return fmt.Errorf("vif %d: %w", number, err)
		}
	}
	return nil
}

// networkOf is what a new domain's network is.
func networkOf(c domain.Config) (network, error) {
	n, _, err := parameters(c.Cmdline())
	if err != nil {
		return n, err
	}
	for i, v := range c.Vifs {
		if err := n.vif(i, v); err != nil {
			return n, err
		}
	}
	return n, n.validate()
}

// noDAD: the domain moved with its addresses, and had them before; it need not ask whose they are.
const noDAD = unix.IFA_F_NODAD

// apply configures a domain's namespace. Its cards are there, and up.
func (n network) apply(ns *hostnet.Host) error {
	for key, value := range n.Sysctls {
		if err := ns.SetSysctl(value, strings.Split(key, ".")...); err != nil {
			return err
		}
	}
	index := map[int]int{}
	for _, c := range n.Cards {
		l, err := ns.LinkByName(ethName(c.Number))
		if err != nil {
			return fmt.Errorf("address of %s: %w (the domain has no such vif)", ethName(c.Number), err)
		}
		index[c.Number] = l.Index
		for _, p := range c.Addresses {
			a := hostnet.Address{Index: l.Index, Prefix: p}
			if p.Addr().Is6() {
				a.Flags = noDAD
			}
			if err := ns.EnsureAddress(a); err != nil {
				return err
			}
		}
		for _, a := range c.Neighbours {
			mac, err := net.ParseMAC(a.MAC)
			if err != nil {
				return err
			}
			// One that can't be told of (IPv6 may be off here) is asked for when it is needed.
			_ = ns.EnsureNeighbour(hostnet.Neighbour{Index: l.Index, Addr: a.Address, MAC: mac, Permanent: a.Permanent})
		}
	}
	for _, r := range n.Routes {
		l, err := ns.LinkByName(ethName(r.Card))
		if err != nil {
			return err
		}
		if err := ns.EnsureRoute(hostnet.Route{To: r.To, Via: r.Via, Index: l.Index, Metric: r.Metric}); err != nil {
			return err
		}
	}
	return nil
}

// keptSysctls are those that a domain takes along besides what its kernel line set.
var keptSysctls = []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"}

// look reads the network that a domain has now. sysctls are those that its kernel line set.
func look(ns *hostnet.Host, sysctls map[string]string) (network, error) {
	n := network{Sysctls: map[string]string{}}
	links, err := ns.Links()
	if err != nil {
		return n, err
	}
	number := map[int]int{}
	for _, l := range links {
		rest, ok := strings.CutPrefix(l.Name, "eth")
		i, err := strconv.Atoi(rest)
		if !ok || err != nil || i >= maxVifs {
			continue
		}
		number[l.Index] = i
		addresses, err := ns.Addresses(l.Index)
		if err != nil {
			return n, err
		}
		c := card{Number: i}
		for _, a := range addresses {
			if a.Scope == unix.RT_SCOPE_LINK || a.Valid != 0 {
				continue // made anew where it comes
			}
			c.Addresses = append(c.Addresses, a.Prefix)
		}
		neighbours, err := ns.Neighbours(l.Index)
		if err != nil {
			return n, err
		}
		for _, a := range neighbours[:min(len(neighbours), maxNeighbours)] {
			c.Neighbours = append(c.Neighbours, neighbour{a.Addr, a.MAC.String(), a.Permanent})
		}
		n.Cards = append(n.Cards, c)
	}
	routes, err := ns.Routes(0)
	if err != nil {
		return n, err
	}
	for _, r := range routes {
		i, ok := number[r.Index]
		if !ok || r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Type != unix.RTN_UNICAST {
			continue
		}
		n.Routes = append(n.Routes, route{To: r.To, Via: r.Via, Card: i, Metric: r.Metric})
	}
	// Those on the link first: gateways are behind them.
	slices.SortStableFunc(n.Routes, func(a, b route) int {
		if a.Via.IsValid() == b.Via.IsValid() {
			return 0
		}
		if a.Via.IsValid() {
			return 1
		}
		return -1
	})
	keys := slices.Clone(keptSysctls)
	for key := range sysctls {
		keys = append(keys, key)
	}
	for _, key := range keys {
		if value, err := ns.Sysctl(strings.Split(key, ".")...); err == nil {
			n.Sysctls[key] = value
		}
	}
	return n, nil
}

// announce tells the neighbours where the domain's addresses are now, as a guest does that was moved: gratuitous ARP
// (RFC 5227, 3) and unsolicited neighbour advertisements would do; the first is enough for bridges to learn.
func announce(ns *hostnet.Host, n network) error {
	var errs []error
	for _, c := range n.Cards {
		l, err := ns.LinkByName(ethName(c.Number))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		frames := [][]byte{}
		for _, p := range c.Addresses {
			if p.Addr().Is4() {
				frames = append(frames, gratuitousARP(l.MAC, p.Addr()))
			}
		}
		if len(frames) == 0 {
			frames = append(frames, gratuitousARP(l.MAC, netip.IPv4Unspecified()))
		}
		errs = append(errs, ns.Do(func() error { return send(l, frames) }))
	}
	return errors.Join(errs...)
}

func send(l hostnet.Link, frames [][]byte) error {
	// Protocol 0: nothing is received.
	c, err := packet.Listen(&net.Interface{Index: l.Index, Name: l.Name}, packet.Raw, 0, nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for _, f := range frames {
		if _, err := c.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(f[:6])}); err != nil {
			return err
		}
	}
	return nil
}

// gratuitousARP is a request for the sender's own address; RFC 826. 0.0.0.0 tells of the MAC only.
func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) []byte {
	ip := addr.As4()
	b := append(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1) // ARP: Ethernet, IPv4, request
	b = append(append(b, mac...), ip[:]...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), ip[:]...)
	return b
}
