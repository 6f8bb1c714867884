package hostnet

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// street is a host that routes between a bridge, with a domain on it, and another network.
type street struct {
	t                  *testing.T
	host, domain, far  *Host
	bridge, eth, taken Link
	send, receive      int // packet sockets of the domain and of the far host
}

var (
	domain4, far4 = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.2.0.2")
	domain6, far6 = netip.MustParseAddr("fd01::2"), netip.MustParseAddr("fd02::2")
)

func newStreet(t *testing.T) *street {
	s := &street{t: t, host: newHost(t), domain: newHost(t), far: newHost(t)}
	var err error
	s.bridge, err = s.host.CreateBridge(Bridge{Name: "br", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	require.NoError(t, err)
	_, err = s.host.EnsureVeth(Veth{Name: "vif", Partner: "eth0", PartnerHost: s.domain})
	require.NoError(t, err)
	_, err = s.host.EnsureVeth(Veth{Name: "out", Partner: "eth0", PartnerHost: s.far, PartnerMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}})
	require.NoError(t, err)
	vif, out := link(t, s.host, "vif"), link(t, s.host, "out")
	require.NoError(t, s.host.SetMaster(vif.Index, s.bridge.Index))
	s.eth, s.taken = link(t, s.domain, "eth0"), link(t, s.far, "eth0")
	for _, up := range []struct {
		h *Host
		l Link
	}{{s.host, s.bridge}, {s.host, vif}, {s.host, out}, {s.domain, s.eth}, {s.far, s.taken}} {
		require.NoError(t, up.h.SetUp(up.l.Index))
	}
	for _, l := range []Link{vif, out} {
		require.NoError(t, s.host.AwaitRunning(t.Context(), l.Index))
	}
	const noDAD = unix.IFA_F_NODAD
	for prefix, index := range map[string]int{"10.2.0.1/24": out.Index, "fd02::1/64": out.Index} {
		p := netip.MustParsePrefix(prefix)
		a := Address{Index: index, Prefix: p}
		if p.Addr().Is6() {
			a.Flags = noDAD
		}
		require.NoError(t, s.host.EnsureAddress(a))
	}
	for _, setting := range [][]string{
		{"1", "net", "ipv4", "ip_forward"}, {"1", "net", "ipv6", "conf", "all", "forwarding"},
		{"0", "net", "ipv4", "conf", "all", "rp_filter"}, {"0", "net", "ipv4", "conf", "br", "rp_filter"},
	} {
		require.NoError(t, s.host.SetSysctl(setting[0], setting[1:]...))
	}
	require.NoError(t, s.host.Do(func() error {
		for _, to := range []netip.Addr{far4, far6} {
			err := netlink.NeighSet(&netlink.Neigh{LinkIndex: out.Index, State: netlink.NUD_PERMANENT, IP: to.AsSlice(), HardwareAddr: s.taken.MAC})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	s.send, s.receive = s.socket(s.domain, s.eth.Index), s.socket(s.far, s.taken.Index)
	return s
}

func (s *street) socket(h *Host, index int) (fd int) {
	require.NoError(s.t, h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	}))
	s.t.Cleanup(func() { unix.Close(fd) })
	require.NoError(s.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	return fd
}

// routed reports whether the host routes a frame of the domain's to the far network: what is sent after it and
// always routed, an echo request, comes alone or second.
func (s *street) routed(frame []byte) bool {
	s.t.Helper()
	to := &unix.SockaddrLinklayer{Ifindex: s.eth.Index}
	require.NoError(s.t, unix.Sendto(s.send, frame, 0, to))
	sentinel := s.frame(nil, ipv4(unix.IPPROTO_ICMP, 0, append([]byte{8, 0, 0xf7, 0xff}, 0, 0, 0, 0)))
	require.NoError(s.t, unix.Sendto(s.send, sentinel, 0, to))
	seen := false
	for b := make([]byte, 4096); ; {
		n, _, err := unix.Recvfrom(s.receive, b, 0)
		require.NoError(s.t, err)
		switch {
		case n < 34 || [6]byte(b[:6]) != [6]byte(s.taken.MAC):
		case b[12] == 8 && b[13] == 0 && b[23] == unix.IPPROTO_ICMP:
			return seen
		default:
			seen = true
		}
	}
}

// frame is an Ethernet frame for the host, with tags and a packet.
func (s *street) frame(tags, packet []byte) []byte {
	f := append(append(net.HardwareAddr{}, s.bridge.MAC...), s.eth.MAC...)
	f = append(f, tags...)
	if packet[0]>>4 == 4 {
		f = append(f, 8, 0)
	} else {
		f = append(f, 0x86, 0xdd)
	}
	return append(f, packet...)
}

func ipv4(protocol uint8, fragment uint16, payload []byte, options ...byte) []byte {
	p := []byte{0x45 + byte(len(options)/4), 0, 0, 0, 0, 7, 0, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(options)+len(payload)))
	binary.BigEndian.PutUint16(p[6:], fragment)
	p = append(append(append(p, domain4.AsSlice()...), far4.AsSlice()...), options...)
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return append(p, payload...)
}

func ipv6(next uint8, payload []byte) []byte {
	p := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	return append(append(append(p, domain6.AsSlice()...), far6.AsSlice()...), payload...)
}

// extension is an IPv6 header of n times eight bytes in front of others.
func extension(next uint8, n int, rest []byte) []byte {
	e := make([]byte, 8*n)
	e[0], e[1] = next, byte(n-1)
	e[2], e[3] = 1, byte(8*n-4) // PadN
	return append(e, rest...)
}

func udp(port uint16) []byte {
	b := []byte{0x12, 0x34, 0, 0, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}
	binary.BigEndian.PutUint16(b[2:], port)
	return b
}

var testGuard = Guard{Ports: []uint16{1798, 4500}, Protocols: []uint8{50, 97}}

func TestGuardOpen(t *testing.T) {
	s := newStreet(t)
	const more, second = 0x2000, 1
	const hop, routing, fragment, ah, options = unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_AH, unix.IPPROTO_DSTOPTS
	fragmentHeader := func(next uint8, offset uint16, rest []byte) []byte {
		b := []byte{next, 0, 0, 0, 0, 0, 0, 9}
		binary.BigEndian.PutUint16(b[2:], offset)
		return append(b, rest...)
	}
	payload := make([]byte, 32)
	deep := udp(1798)
	next := uint8(unix.IPPROTO_UDP)
	for range maxExtensions {
		deep, next = extension(next, 1, deep), options
	}
	for _, c := range []struct {
		name string
		tags []byte
		p    []byte
		// taken is true of what the guard keeps from the host; unrouted of what Linux does not route anyway.
		taken, unrouted bool
	}{
		{name: "other UDP", p: ipv4(17, 0, udp(53))},
		{name: "VUDP", p: ipv4(17, 0, udp(1798)), taken: true},
		{name: "ESP in UDP", p: ipv4(17, 0, udp(4500)), taken: true},
		{name: "options before", p: ipv4(17, 0, udp(1798), 1, 1, 1, 1, 1, 1, 1, 0), taken: true},
		{name: "other UDP after options", p: ipv4(17, 0, udp(53), 1, 1, 1, 0)},
		{name: "ESP", p: ipv4(50, 0, payload), taken: true},
		{name: "EtherIP", p: ipv4(97, 0, payload), taken: true},
		{name: "TCP port 1798", p: ipv4(6, 0, append(udp(1798), payload...))},
		{name: "first fragment", p: ipv4(17, more, udp(1798)), taken: true},
		{name: "first fragment of other UDP", p: ipv4(17, more, udp(53))},
		{name: "other fragments", p: ipv4(17, second, udp(1798))},
		{name: "other fragments of ESP", p: ipv4(50, second, payload), taken: true},
		{name: "cut short", p: ipv4(17, 0, udp(1798)[:3]), taken: true},
		{name: "priority tag", tags: []byte{0x81, 0, 0xe0, 0}, p: ipv4(17, 0, udp(1798)), taken: true},
		{name: "priority tag, other UDP", tags: []byte{0x81, 0, 0xe0, 0}, p: ipv4(17, 0, udp(53))},
		{name: "two priority tags", tags: []byte{0x81, 0, 0, 0, 0x81, 0, 0, 0}, p: ipv4(17, 0, udp(1798)), taken: true},
		{name: "two priority tags of other sort", tags: []byte{0x88, 0xa8, 0, 0, 0x81, 0, 0, 0}, p: ipv4(17, 0, udp(1798)), taken: true},

		{name: "IPv6 other UDP", p: ipv6(17, udp(53))},
		{name: "IPv6 VUDP", p: ipv6(17, udp(1798)), taken: true},
		{name: "IPv6 ESP", p: ipv6(50, payload), taken: true},
		{name: "IPv6 EtherIP", p: ipv6(97, payload), taken: true},
		{name: "IPv6 hop-by-hop", p: ipv6(hop, extension(17, 1, udp(1798))), taken: true},
		{name: "IPv6 hop-by-hop, other UDP", p: ipv6(hop, extension(17, 1, udp(53)))},
		{name: "IPv6 options", p: ipv6(options, extension(options, 2, extension(17, 1, udp(4500)))), taken: true},
		{name: "IPv6 routing header", p: ipv6(routing, append([]byte{17, 0, 4, 0, 0, 0, 0, 0}, udp(1798)...)), taken: true},
		{name: "IPv6 AH", p: ipv6(ah, append([]byte{17, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, udp(1798)...)), taken: true},
		{name: "IPv6 AH, other UDP", p: ipv6(ah, append([]byte{17, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, udp(53)...))},
		{name: "IPv6 first fragment", p: ipv6(fragment, fragmentHeader(17, 1, udp(1798))), taken: true},
		{name: "IPv6 fragment that is whole", p: ipv6(fragment, fragmentHeader(17, 0, udp(1798))), taken: true},
		{name: "IPv6 fragment of options", p: ipv6(fragment, fragmentHeader(options, 1, extension(17, 1, udp(1798)))), taken: true},
		{name: "IPv6 fragment without its upper header", p: ipv6(fragment, fragmentHeader(options, 1, extension(17, 1, nil))), taken: true},
		{name: "IPv6 first fragment of other UDP", p: ipv6(fragment, fragmentHeader(17, 1, udp(53)))},
		{name: "IPv6 other fragments", p: ipv6(fragment, fragmentHeader(17, 8, udp(1798)))},
		{name: "IPv6 other fragments of ESP", p: ipv6(fragment, fragmentHeader(50, 8, payload)), taken: true},
		{name: "IPv6 more headers than any packet has", p: ipv6(options, deep), taken: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			require.NoError(t, s.host.RemoveGuard(s.bridge.Index))
			require.True(t, s.routed(s.frame(c.tags, c.p)), "without a guard")
			require.NoError(t, s.host.SetGuard(s.bridge.Index, testGuard))
			require.Equal(t, !c.taken, s.routed(s.frame(c.tags, c.p)))
		})
	}
}

// A closed guard keeps everything from the host.
func TestGuardClosed(t *testing.T) {
	s := newStreet(t)
	frames := [][]byte{s.frame(nil, ipv4(17, 0, udp(53))), s.frame([]byte{0x81, 0, 0, 0}, ipv4(17, 0, udp(53))), s.frame(nil, ipv6(17, udp(53)))}
	for _, f := range frames {
		require.True(t, s.routed(f))
	}
	require.NoError(t, s.host.SetGuard(s.bridge.Index, testGuard))
	require.NoError(t, s.host.SetGuard(s.bridge.Index, Guard{Closed: true})) // instead of the other
	for _, f := range frames {
		require.NoError(t, unix.Sendto(s.send, f, 0, &unix.SockaddrLinklayer{Ifindex: s.eth.Index}))
	}
	require.Zero(t, s.count())
	require.NoError(t, s.host.RemoveGuard(s.bridge.Index))
	require.True(t, s.routed(frames[0]))
}

// What is stacked on a device has a guard of its own.
func TestGuardBelowVLAN(t *testing.T) {
	s := newStreet(t)
	err := s.host.Do(func() error {
		vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "br.5", ParentIndex: s.bridge.Index}, VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		if err := netlink.LinkAdd(vlan); err != nil {
			return err
		}
		return netlink.LinkSetUp(vlan)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("needs VLAN devices (CONFIG_VLAN_8021Q), as the machine of make test-vm has")
	}
	require.NoError(t, err)
	vlan := link(t, s.host, "br.5")
	require.True(t, vlan.Stacked())
	require.Equal(t, s.bridge.Index, vlan.Partner)
	require.NoError(t, s.host.SetSysctl("0", "net", "ipv4", "conf", "br.5", "rp_filter"))
	tag := []byte{0x81, 0, 0, 5}
	frame, tagged := s.frame(nil, ipv4(17, 0, udp(53))), s.frame(tag, ipv4(17, 0, udp(53)))
	require.True(t, s.routed(frame))
	require.True(t, s.routed(tagged))

	// The sentinel of routed comes untagged, so what is seen of the bridge is seen by the tagged way.
	require.NoError(t, s.host.SetGuard(vlan.Index, Guard{Closed: true}))
	require.False(t, s.routed(tagged))
	require.True(t, s.routed(frame))
	require.NoError(t, s.host.RemoveGuard(vlan.Index))

	for range 2 {
		require.NoError(t, s.host.SetGuard(s.bridge.Index, Guard{Closed: true}))
	}
	name, err := s.host.GuardOf(s.bridge.Index)
	require.NoError(t, err)
	require.Equal(t, "1_closed", name)
	to := &unix.SockaddrLinklayer{Ifindex: s.eth.Index}
	require.NoError(t, unix.Sendto(s.send, frame, 0, to))
	require.NoError(t, unix.Sendto(s.send, tagged, 0, to))
	require.Equal(t, 1, s.count(), "of the untagged and the tagged frame, the tagged one passed")
	require.NoError(t, s.host.RemoveGuard(s.bridge.Index))
	require.True(t, s.routed(frame))
}

// count counts the frames that come until the one that is sent by another way, from the host itself.
func (s *street) count() (n int) {
	s.t.Helper()
	require.NoError(s.t, s.host.Do(func() error {
		c, err := net.Dial("udp4", netip.AddrPortFrom(far4, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("the last"))
		return err
	}))
	for b := make([]byte, 4096); ; {
		k, _, err := unix.Recvfrom(s.receive, b, 0)
		require.NoError(s.t, err)
		switch {
		case k < 42 || [6]byte(b[:6]) != [6]byte(s.taken.MAC) || b[12] != 8 || b[13] != 0 || b[23] != 17:
		case binary.BigEndian.Uint16(b[36:]) == 9:
			return n
		default:
			n++
		}
	}
}

// Filters of others stay, see what they saw, and are not confused with a guard.
func TestGuardBesideOthers(t *testing.T) {
	s := newStreet(t)
	require.NoError(t, s.host.ensureClsact(s.bridge.Index))
	others := func() int {
		filters, err := s.host.ingressFilters(s.bridge.Index)
		require.NoError(t, err)
		n := 0
		for _, f := range filters {
			if !isGuard(f) {
				n++
			}
		}
		return n
	}
	// One of the very priority and kind that a guard would take, and one that comes later and drops.
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "other", Type: ebpf.SchedCLS, Instructions: Guard{}.program(), License: "Apache-2.0"})
	require.NoError(t, err)
	defer func() { _ = prog.Close() }()
	require.NoError(t, s.host.handle.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: s.bridge.Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: guardPriority, Protocol: unix.ETH_P_ALL, Handle: 1,
	}, Fd: prog.FD(), Name: "other", DirectAction: true}))
	require.NoError(t, s.host.SetGuard(s.bridge.Index, testGuard))
	require.Equal(t, 1, others())
	require.True(t, s.routed(s.frame(nil, ipv4(17, 0, udp(53)))))
	require.False(t, s.routed(s.frame(nil, ipv4(17, 0, udp(1798)))))
	require.NoError(t, s.host.DropIngress(s.bridge.Index))
	require.Equal(t, 2, others())
	require.NoError(t, unix.Sendto(s.send, s.frame(nil, ipv4(17, 0, udp(53))), 0, &unix.SockaddrLinklayer{Ifindex: s.eth.Index}))
	require.Zero(t, s.count(), "the later filter drops")
	require.NoError(t, s.host.RemoveGuard(s.bridge.Index))
	require.NoError(t, s.host.RemoveGuard(s.bridge.Index))
	require.Equal(t, 2, others())
	require.ErrorIs(t, s.host.SetGuard(4711, testGuard), ErrNotFound)
	require.NoError(t, s.host.RemoveGuard(4711))
}
