package lab

import (
	"fmt"
	"net/netip"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Switch joins hosts: a bridge that floods multicast. Two switches do not reach each other but through a
// router. Switch n has the networks 10.9.n.0/24 and fd09:n::/64.
type Switch struct {
	Name string
	// Net4 and Net6 are the networks; Gateway4 and Gateway6 the addresses of a router, which are every
	// host's default gateways whether there is one or not.
	Net4, Net6         netip.Prefix
	Gateway4, Gateway6 netip.Addr
	MTU                int // of the ports and of the uplinks on it, in bytes

	lab    *Lab
	bridge int // index in the switches' namespace
	hosts  int
}

const gatewayNumber = 254

// Switch makes a switch; mtu 0 means 1500.
func (l *Lab) Switch(name string, mtu int) (*Switch, error) {
	if mtu == 0 {
		mtu = 1500
	}
	l.mu.Lock()
	l.switches++
	n := l.switches
	l.mu.Unlock()
	if n > 254 {
		return nil, fmt.Errorf("lab: switch %s: too many", name)
	}
	s := &Switch{Name: name, MTU: mtu, lab: l}
	s.Net4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(n), 0}), 24)
	s.Net6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x09, 3: byte(n)}), 64)
	s.Gateway4, s.Gateway6 = s.address(gatewayNumber)
	net := l.fabric.Net
	b, err := net.CreateBridge(hostnet.Bridge{Name: fmt.Sprintf("switch%d", n), MTU: mtu})
	if err != nil {
		return nil, fmt.Errorf("lab: switch %s: %w", name, err)
	}
	s.bridge = b.Index
	if err := net.DisableIPv6(b.Index); err != nil { // it is no host
		return nil, fmt.Errorf("lab: switch %s: %w", name, err)
	}
	if err := net.SetUp(b.Index); err != nil {
		return nil, fmt.Errorf("lab: switch %s: %w", name, err)
	}
	return s, nil
}

// address is host number n's.
func (s *Switch) address(n int) (v4, v6 netip.Addr) {
	a, b := s.Net4.Addr().As4(), s.Net6.Addr().As16()
	a[3], b[15] = byte(n), byte(n)
	return netip.AddrFrom4(a), netip.AddrFrom16(b)
}

// next is the number of the next host on the switch.
func (s *Switch) next() (int, error) {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	if s.hosts+1 >= gatewayNumber {
		return 0, fmt.Errorf("lab: switch %s is full", s.Name)
	}
	s.hosts++
	return s.hosts, nil
}

// Capture captures every frame that crosses the switch, once.
func (s *Switch) Capture(filter func(Frame) bool) (*Capture, error) {
	return capture(s.lab.fabric, s.bridge, "switch "+s.Name, filter)
}

// Device is where the switch is: the namespace of all switches, and the index of its bridge there, whose ports
// are the far ends of the uplinks.
func (s *Switch) Device() (n *Node, bridge int) { return s.lab.fabric, s.bridge }

// Router joins switches: it forwards unicast between them, and no multicast.
func (l *Lab) Router(name string, switches ...*Switch) (*Host, error) {
	h, err := l.Host(name)
	if err != nil {
		return nil, err
	}
	for _, path := range [][]string{{"net", "ipv4", "ip_forward"}, {"net", "ipv6", "conf", "all", "forwarding"}} {
		if err := h.Net.SetSysctl("1", path...); err != nil {
			return nil, fmt.Errorf("lab: router %s: %w", name, err)
		}
	}
	for i, s := range switches {
		u := &Uplink{Switch: s, Device: fmt.Sprintf("eth%d", i), host: h, router: true}
		u.Addr4, u.Addr6 = netip.PrefixFrom(s.Gateway4, s.Net4.Bits()), netip.PrefixFrom(s.Gateway6, s.Net6.Bits())
		if err := h.attach(u); err != nil {
			return nil, err
		}
	}
	return h, nil
}
