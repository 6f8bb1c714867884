package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// What a domain of vnet 97 tries against vnet 98, on its own host A and on host B.

// attack is a domain of vnet 97 on host A; what it aims at are the domains of vnet 98 on both hosts.
type attack struct {
	t           *testing.T
	lab         *lab.Lab
	a, b        *testHost
	domain      *lab.Domain
	c           *original // another host, whose address the attacker uses, and which proves that genuine packets come
	inA, inB    *lab.Capture
	others      [2]*lab.Domain // of vnet 98, on A and on B
	bridge      hostnet.Link   // of vnet 97 on A
	neighbour   *lab.Domain    // of vnet 97 on B, where frames pass bridges by
	id97, id98  vnet.ID
	last        int
	fromNetwork bool // the attacker is not the domain, but a host that has vnet 97
}

// everyBypass runs a test with domains whose frames go by their bridges, and with such whose frames pass them by.
func everyBypass(t *testing.T, test func(t *testing.T, bypass Bypass)) {
	t.Helper()
	for _, bypass := range []Bypass{BypassOff, BypassAuto} {
		t.Run("bypass "+string(bypass), func(t *testing.T) { test(t, bypass) })
	}
}

func newAttack(t *testing.T, bypass Bypass, rpFilter string) *attack {
	t.Helper()
	return newAttackAt(t, bypass, rpFilter, vnet.None)
}

// newAttackAt is newAttack with a level of vnet 98.
func newAttackAt(t *testing.T, bypass Bypass, rpFilter string, level vnet.Security) *attack {
	t.Helper()
	cfg := testConfig()
	cfg.Bypass = bypass
	return newAttackWith(t, cfg, rpFilter, level)
}

// newAttackWith is newAttackAt with a configuration of the hosts.
func newAttackWith(t *testing.T, cfg Config, rpFilter string, level vnet.Security) *attack {
	t.Helper()
	cfg.Workers = 1 // so that packets to a host stay in order
	l, s, hosts := newLab(t, 2, cfg)
	x := &attack{t: t, lab: l, a: hosts[0], b: hosts[1], id97: idOf(t, "97"), id98: idOf(t, "98")}
	x.c = newOriginal(t, s, "C")
	for _, h := range hosts {
		require.NoError(t, h.Net.SetSysctl(rpFilter, "net", "ipv4", "conf", "all", "rp_filter"))
		require.NoError(t, h.Net.SetSysctl(rpFilter, "net", "ipv4", "conf", "default", "rp_filter"))
	}
	add(t, "97", hosts...)
	for _, h := range hosts {
		h.SetKeySource(shared(testKey))
		require.NoError(t, attach(h.Engine, securedOf(t, "98", level)))
	}
	x.domain = x.a.domain(1, "97")
	x.others = [2]*lab.Domain{x.a.domain(11, "98"), x.b.domain(12, "98")}
	x.inA, x.inB = capture(t, x.others[0]), capture(t, x.others[1])
	var err error
	x.bridge, err = x.a.Net.LinkByName("vnet97")
	require.NoError(t, err)
	x.guarded("1_closed")
	if cfg.Bypass == BypassAuto {
		x.neighbour = x.b.domain(2, "97")
		awaitFast(t, x.domain, x.neighbour, hosts...)
		for _, h := range hosts {
			h.awaitWay(pastBridge, "")
		}
	}
	// After the start, as another program does.
	for _, h := range hosts {
		require.NoError(t, h.Net.SetSysctl("1", "net", "ipv4", "ip_forward"))
		require.NoError(t, h.Net.SetSysctl("1", "net", "ipv6", "conf", "all", "forwarding"))
		require.NoError(t, h.Net.SetSysctl(rpFilter, "net", "ipv4", "conf", "all", "rp_filter"))
		require.NoError(t, h.Net.SetSysctl(rpFilter, "net", "ipv4", "conf", "vnet97", "rp_filter"))
	}
	return x
}

// guarded waits until vnet 97's bridge on A has the guard.
func (x *attack) guarded(want string) {
	x.t.Helper()
	eventually(x.t, "guard "+want, func() bool {
		name, err := x.a.Net.GuardOf(x.bridge.Index)
		require.NoError(x.t, err)
		return name == want
	})
}

// address gives the host an address in vnet 97.
func (x *attack) address() {
	x.t.Helper()
	require.NoError(x.t, x.a.Net.EnsureAddress(hostnet.Address{Index: x.bridge.Index, Prefix: netip.MustParsePrefix("10.97.77.1/16")}))
	x.guarded("1_open_u1798_u4500_p50_p97")
}

// unguarded takes the guard away, so that only the sockets' check is left.
func (x *attack) unguarded() {
	x.t.Helper()
	unguard(x.t, x.a, x.bridge)
}

// unguard takes a guard away that the engine has looked at: it does not come back by itself.
func unguard(t testing.TB, h *testHost, l hostnet.Link) {
	t.Helper()
	eventually(t, "guard was looked at", func() bool {
		h.guards.mu.Lock()
		defer h.guards.mu.Unlock()
		g := h.guards.applied[l.Index]
		name, err := h.Net.GuardOf(l.Index)
		require.NoError(t, err)
		return g != nil && g.Closed == (name == "1_closed")
	})
	require.NoError(t, h.Net.RemoveGuard(l.Index))
}

// send sends an IP packet as a frame to the host: with a static neighbour entry, a domain needs no answer to ARP.
func (x *attack) send(packet []byte) {
	x.t.Helper()
	etherType := []byte{8, 0}
	if packet[0]>>4 == 6 {
		etherType = []byte{0x86, 0xdd}
	}
	frame := append(append(append(append([]byte{}, x.bridge.MAC...), domainMAC(1)...), etherType...), packet...)
	if x.fromNetwork {
		copy(frame[6:], domainMAC(77))
		x.c.send(x.a.Addr(), vudp(x.id97, frame))
		return
	}
	require.NoError(x.t, x.domain.Send("eth0", frame))
}

// frame is what the attacker wants to bring into vnet 98.
func (x *attack) frame(name string) []byte {
	return testFrame(broadcastMAC, domainMAC(66), name)
}

// datagram is UDP over IPv4 with another host's source address.
func (x *attack) datagram(to netip.Addr, port uint16, payload []byte) []byte {
	x.t.Helper()
	p, err := wire.AppendDatagram(nil, netip.AddrPortFrom(x.c.Addr(), wire.Port), netip.AddrPortFrom(to, port), 64, 7, payload)
	require.NoError(x.t, err)
	return append(p, payload...)
}

// packet is an IPv4 packet of another protocol.
func (x *attack) packet(to netip.Addr, protocol uint8, payload []byte) []byte {
	x.t.Helper()
	p, err := wire.AppendIPv4(nil, wire.IPv4{Source: x.c.Addr(), Destination: to, Protocol: protocol, TTL: 64}, len(payload))
	require.NoError(x.t, err)
	return append(p, payload...)
}

// nothing makes sure that nothing of what was sent has come, in either host: what a genuine host sends then does, and
// comes first.
func (x *attack) nothing(what string) {
	x.t.Helper()
	for h, c := range map[*testHost]*lab.Capture{x.a: x.inA, x.b: x.inB} {
		x.last++
		genuine := testFrame(broadcastMAC, domainMAC(55), fmt.Sprint("genuine ", x.last))
		x.c.send(h.Addr(), vudp(x.id98, genuine))
		f, err := c.Next(soon(x.t))
		require.NoError(x.t, err)
		require.Equal(x.t, string(genuine), string(f.Data), "%s, at host %s", what, h.Name)
		require.False(x.t, careOf(h.Engine, domainMAC(66)).IsValid(), "%s: learned at host %s", what, h.Name)
	}
}

// attempts are the ways to speak the protocol over IPv4, each with a frame for vnet 98.
func (x *attack) attempts(to netip.Addr) map[string][]byte {
	return map[string][]byte{
		"VUDP":    x.datagram(to, wire.Port, vudp(x.id98, x.frame("VUDP"))),
		"EtherIP": x.packet(to, wire.ProtocolEtherIP, append(wire.AppendEtherIP(nil, x.id98), x.frame("EtherIP")...)),
		"VARP":    x.datagram(to, wire.Port, varpMessage(wire.Announce, x.id98, domainMAC(66), x.c.Addr())),
	}
}

// A domain, and a host that has its vnet, reach neither sockets of the host nor, by routing, other hosts: without an
// address on the bridge by a closed guard, with one by an open one.
func TestDomainDoesNotReachOtherVnets(t *testing.T) {
	everyBypass(t, func(t *testing.T, bypass Bypass) {
		for _, rpFilter := range []string{"0", "2"} {
			for _, by := range []string{"domain", "host"} {
				t.Run(fmt.Sprintf("rp_filter %s, %s", rpFilter, by), func(t *testing.T) { domainDoesNotReach(t, bypass, rpFilter, by) })
			}
		}
	})
}

func domainDoesNotReach(t *testing.T, bypass Bypass, rpFilter, by string) {
	x := newAttack(t, bypass, rpFilter)
	x.fromNetwork = by == "host"
	for _, address := range []bool{false, true} {
		if address {
			x.address()
		}
		for _, to := range []netip.Addr{x.a.Addr(), x.b.Addr()} {
			for name, packet := range x.attempts(to) {
				x.send(packet)
				x.nothing(fmt.Sprintf("%s to %s, address on the bridge: %v", name, to, address))
			}
		}
	}
	require.Zero(t, x.a.drops(DropNotUnderlay))
	// The host's own address in the vnet is served: the guard takes the protocol's packets only.
	if !x.fromNetwork {
		ping(t, x.domain, netip.MustParseAddr("10.97.77.1"))
	}
	require.NoError(t, x.a.Net.DeleteAddress(hostnet.Address{Index: x.bridge.Index, Prefix: netip.MustParsePrefix("10.97.77.1/16")}))
	x.guarded("1_closed")
}

// A closed guard keeps all sockets of the host from the domain, not only the protocol's.
func TestClosedBridge(t *testing.T) { everyBypass(t, closedBridge) }

func closedBridge(t *testing.T, bypass Bypass) {
	x := newAttack(t, bypass, "0")
	var service net.PacketConn
	require.NoError(t, x.a.Do(func() (err error) {
		service, err = net.ListenPacket("udp4", netip.AddrPortFrom(x.a.Addr(), 7).String())
		return err
	}))
	defer service.Close()
	receive := func() string {
		b := make([]byte, 64)
		n, _, err := service.ReadFrom(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	x.send(x.datagram(x.a.Addr(), 7, []byte("attack")))
	c, err := dialFrom(x.c.Host, x.a.Addr(), 7)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("genuine"))
	require.NoError(t, err)
	require.Equal(t, "genuine", receive())

	x.unguarded()
	x.send(x.datagram(x.a.Addr(), 7, []byte("attack")))
	require.Equal(t, "attack", receive(), "the attack is one")
}

func dialFrom(h *lab.Host, to netip.Addr, port uint16) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(to, port).String())
		return err
	})
	return c, err
}

// What reaches the sockets nevertheless is dropped there, since it came by no underlay device; the operator is
// told from where.
func TestNotUnderlay(t *testing.T) { everyBypass(t, notUnderlay) }

func notUnderlay(t *testing.T, bypass Bypass) {
	for _, rpFilter := range []string{"0", "2"} {
		t.Run("rp_filter "+rpFilter, func(t *testing.T) {
			x := newAttack(t, bypass, rpFilter)
			require.NoError(t, x.a.AddPeer(soon(t), x.c.Addr(), 0))
			require.NoError(t, x.a.Net.SetSysctl("1", "net", "ipv4", "icmp_echo_ignore_broadcasts"))
			if rpFilter != "0" { // else the kernel refuses what comes by a device without an address
				x.address()
			}
			x.unguarded()
			forwarded, err := wire.AppendVFWD(nil, netip.AddrPortFrom(x.b.Addr(), wire.Port), netip.AddrPortFrom(wire.Group, wire.Port), 64, vudp(x.id98, x.frame("VFWD")))
			require.NoError(t, err)
			attempts := x.attempts(x.a.Addr())
			attempts["VFWD"] = x.datagram(x.a.Addr(), wire.Port, append(forwarded, vudp(x.id98, x.frame("VFWD"))...))
			count := uint64(0)
			for name, packet := range attempts {
				x.send(packet)
				count++
				eventually(t, name+" dropped", func() bool { return x.a.drops(DropNotUnderlay) == count })
				x.nothing(name)
			}
			x.strangers(Stranger{Device: "vnet97", Index: x.bridge.Index, From: x.c.Addr(), Packets: count})
		})
	}
}

// Over IPv6 the bridge's link-local address is enough, where an administrator has switched IPv6 on there.
func TestNotUnderlayIPv6(t *testing.T) {
	cfg := testConfig()
	cfg.IPv6, cfg.Workers = true, 1
	_, _, hosts := newLab(t, 1, cfg)
	a := hosts[0]
	add(t, "97", a)
	add(t, "98", a)
	d := a.domain(1, "97")
	in := capture(t, a.domain(11, "98"))
	bridge, err := a.Net.LinkByName("vnet97")
	require.NoError(t, err)
	require.NoError(t, a.Net.SetSysctl("0", "net", "ipv6", "conf", "vnet97", "disable_ipv6"))
	var local netip.Addr
	eventually(t, "link-local address", func() bool {
		list, err := a.Net.Addresses(bridge.Index)
		require.NoError(t, err)
		for _, x := range list {
			if x.Usable() && x.Prefix.Addr().IsLinkLocalUnicast() {
				local = x.Prefix.Addr()
			}
		}
		return local.IsValid()
	})
	eventually(t, "open guard", func() bool {
		name, err := a.Net.GuardOf(bridge.Index)
		require.NoError(t, err)
		return name == "1_open_u1798_u4500_p50_p97"
	})
	var c net.PacketConn
	require.NoError(t, d.Do(func() (err error) { c, err = net.ListenPacket("udp6", "[fd97::1]:1798"); return err }))
	defer c.Close()
	eth, err := d.Net.LinkByName("eth0")
	require.NoError(t, err)
	zone := strconv.Itoa(eth.Index) // a name would be looked for in this thread's namespace
	send := func() {
		frame := testFrame(broadcastMAC, domainMAC(66), "attack")
		_, err := c.WriteTo(vudp(idOf(t, "98"), frame), &net.UDPAddr{IP: local.AsSlice(), Port: wire.Port, Zone: zone})
		require.NoError(t, err)
	}
	send()
	ping6 := func() {
		_, err := d.Ping(soon(t), local, lab.PingOptions{Device: "eth0"})
		require.NoError(t, err)
	}
	ping6() // the guard takes no other packets
	require.Zero(t, a.drops(DropNotUnderlay))
	unguard(t, a, bridge)
	send()
	eventually(t, "dropped", func() bool { return a.drops(DropNotUnderlay) == 1 })
	eventually(t, "the device is told", func() bool { return a.Snapshot().Strangers[0].Device == "vnet97" })
	require.Empty(t, in.Take())
	require.False(t, careOf(a.Engine, domainMAC(66)).IsValid())
}

// Packets may come by the devices by which peers and replicas are routed, and by those that the configuration
// names, as routes and names change.
func TestSeveralUnderlays(t *testing.T) {
	l := lab.New(t)
	one, err := l.Switch("one", 0)
	require.NoError(t, err)
	two, err := l.Switch("two", 0)
	require.NoError(t, err)
	h, err := one.Host("A")
	require.NoError(t, err)
	second, err := h.Attach(two, "eth1")
	require.NoError(t, err)
	cfg := testConfig()
	cfg.Workers, cfg.Device = 1, "eth0"
	a := startEngine(t, h, cfg)
	o := newOriginal(t, two, "O")
	add(t, "97", a)
	in := capture(t, a.domain(1, "97"))
	n := 0
	arrives := func() {
		t.Helper()
		n++
		f := testFrame(broadcastMAC, domainMAC(5), fmt.Sprint(n))
		o.send(second.Addr4.Addr(), vudp(idOf(t, "97"), f))
		expect(t, in, f)
	}
	dropped := func() {
		t.Helper()
		before := a.drops(DropNotUnderlay)
		o.send(second.Addr4.Addr(), vudp(idOf(t, "97"), testFrame(broadcastMAC, domainMAC(5), "no")))
		eventually(t, "dropped", func() bool { return a.drops(DropNotUnderlay) == before+1 })
		require.Empty(t, in.Take())
	}
	admitted := func(want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("admitted: %v", want), func() bool {
			l, err := h.Net.LinkByName(second.Device)
			require.NoError(t, err)
			return a.view.Load().fromUnderlay(l.Index) == want
		})
	}
	dropped()
	require.NoError(t, a.AddPeer(soon(t), o.Addr(), 0))
	arrives()
	// Another route to the peer.
	r := hostnet.Route{To: netip.PrefixFrom(o.Addr(), 32), Via: one.Gateway4, Index: deviceOf(t, h, "eth0").Index}
	require.NoError(t, h.Net.EnsureRoute(r))
	admitted(false)
	require.NoError(t, h.Net.SetSysctl("0", "net", "ipv4", "conf", "all", "rp_filter"))
	_, err = h.Run(soon(t), "ip", "route", "del", r.To.String(), "via", r.Via.String())
	require.NoError(t, err)
	admitted(true)
	arrives()
	require.NoError(t, a.RemovePeer(soon(t), o.Addr()))
	dropped()
	cfg.Devices = []string{"eth1"}
	require.NoError(t, a.Reload(cfg))
	arrives()
	require.NoError(t, second.Rename("wan"))
	admitted(false)
	require.NoError(t, second.Rename("eth1"))
	admitted(true)
	arrives()
}

func deviceOf(t testing.TB, h *lab.Host, name string) hostnet.Link {
	t.Helper()
	l, err := h.Net.LinkByName(name)
	require.NoError(t, err)
	return l
}

// The underlay becomes a bridge, as network-bridge makes it, and a plain device again.
func TestUnderlayBecomesBridge(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "O")
	add(t, "97", a)
	in := capture(t, a.domain(1, "97"))
	n := 0
	arrives := func() {
		t.Helper()
		n++
		f := testFrame(broadcastMAC, domainMAC(5), fmt.Sprint(n))
		o.send(a.Addr(), vudp(idOf(t, "97"), f))
		expect(t, in, f)
	}
	arrives()
	for _, command := range []string{
		fmt.Sprintf("ip link add xenbr0 type bridge forward_delay 0 && ip link set xenbr0 address %s up", a.Uplink().MAC),
		fmt.Sprintf("ip addr flush dev eth0 && ip link set eth0 master xenbr0 && ip addr add %s dev xenbr0 && ip route add default via %s",
			a.Uplink().Addr4, s.Gateway4),
	} {
		_, err := a.Host.Run(soon(t), "sh", "-c", command)
		require.NoError(t, err)
	}
	bridge := deviceOf(t, a.Host, "xenbr0")
	eventually(t, "underlay on the bridge", func() bool { return a.view.Load().fromUnderlay(bridge.Index) })
	require.NoError(t, a.Net.AwaitRunning(soon(t), bridge.Index))
	a.forwarding("xenbr0")
	arrives()
	name, err := a.Net.GuardOf(bridge.Index)
	require.NoError(t, err)
	require.Empty(t, name)
	_, err = a.Host.Run(soon(t), "sh", "-c", fmt.Sprintf("ip link del xenbr0 && ip addr add %s dev eth0 && ip route add default via %s",
		a.Uplink().Addr4, s.Gateway4))
	require.NoError(t, err)
	eth := deviceOf(t, a.Host, "eth0")
	eventually(t, "underlay on the device", func() bool { return a.view.Load().fromUnderlay(eth.Index) })
	arrives()
}

// A vnet's own device never is an underlay, whatever routes say.
func TestRouteIntoVnet(t *testing.T) {
	_, _, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	add(t, "97", a)
	bridge := deviceOf(t, a.Host, "vnet97")
	require.NoError(t, a.Net.EnsureAddress(hostnet.Address{Index: bridge.Index, Prefix: netip.MustParsePrefix("10.97.0.100/16")}))
	require.NoError(t, a.AddPeer(soon(t), netip.MustParseAddr("10.97.0.1"), 0))
	require.False(t, a.view.Load().fromUnderlay(bridge.Index))
	require.NoError(t, a.Net.EnsureRoute(hostnet.Route{To: netip.PrefixFrom(wire.Group, 32), Index: bridge.Index}))
	eventually(t, "no underlay", func() bool { return !a.Snapshot().Underlays[0].Up })
	require.Contains(t, a.Snapshot().Underlays[0].Problem, "is vnet")
}

func TestGuardsOf(t *testing.T) {
	alias := "xend vnet " + idOf(t, "97").String()
	ports := []uint16{1798, 4500}
	closed := &hostnet.Guard{Closed: true}
	open := &hostnet.Guard{Ports: ports, Protocols: guardedProtocols}
	links := []hostnet.Link{
		{Index: 1, Name: "eth0"},
		{Index: 2, Name: "vnet97", Kind: "bridge", Group: port.Group, Alias: alias},
		{Index: 3, Name: "vnif97", Kind: "veth", Group: port.Group, Alias: alias, Master: 2},
		{Index: 4, Name: "vnp97", Kind: "veth", Group: port.Group, Alias: alias},
		{Index: 5, Name: "vif1.0", Master: 2},
		{Index: 6, Name: "xenbr0", Kind: "bridge"},
		{Index: 7, Name: "vnif0002", Kind: "veth", Group: port.Group, Alias: alias},
	}
	guards := func(addressed ...int) map[int]*hostnet.Guard {
		var list []hostnet.Address
		for _, i := range addressed {
			list = append(list, hostnet.Address{Index: i})
		}
		return guardsOf(links, addressesOf(list), map[int]struct{}{1: {}, 12: {}}, ports)
	}
	require.Equal(t, map[int]*hostnet.Guard{2: closed, 7: closed}, guards(1, 6))
	require.Equal(t, map[int]*hostnet.Guard{2: open, 7: closed}, guards(1, 2))
	// Stacked: a VLAN, a macvlan on that, a VLAN in a bridge of somebody's, and one in the underlay's.
	links = append(links,
		hostnet.Link{Index: 8, Name: "vnet97.5", Kind: "vlan", Partner: 2},
		hostnet.Link{Index: 9, Name: "mac0", Kind: "macvlan", Partner: 8},
		hostnet.Link{Index: 10, Name: "vnet97.6", Kind: "vlan", Partner: 2, Master: 11},
		hostnet.Link{Index: 11, Name: "br6", Kind: "bridge"},
		hostnet.Link{Index: 12, Name: "xenbr1", Kind: "bridge"},
		hostnet.Link{Index: 13, Name: "vnet97.7", Kind: "vlan", Partner: 2, Master: 12},
		hostnet.Link{Index: 14, Name: "eth0.5", Kind: "vlan", Partner: 1},
	)
	require.Equal(t, map[int]*hostnet.Guard{2: closed, 7: closed, 8: closed, 9: open, 11: closed}, guards(9, 14))
}

func TestStrangers(t *testing.T) {
	var s strangers
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range 10_000 { // many who come once, and one who comes often
		s.note(place{5, addr(i)}, 1)
		s.note(place{7, addr(1)}, 1)
	}
	require.Len(t, s.list, maxStrangers)
	sum := map[place]uint64{}
	s.addTo(sum)
	require.Greater(t, sum[place{7, addr(1)}], uint64(9000))
	for _, n := range sum {
		require.LessOrEqual(t, n, uint64(10_000))
	}
}

// A router advertisement in a vnet changes no route of a host: not by a vnet's bridge, nor by vnifs that are on none,
// which other hosts reach though no vnet was created. Its IPv6 gets neither addresses there.
func TestRouterAdvertisement(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	c := newOriginal(t, s, "C")
	add(t, "97", a)
	require.NoError(t, attach(a.Engine, vnet.DefaultVnets()[0]))
	d := a.domain(1, "97")
	advertisement := routerAdvertisement(t)
	// What a network card of the same host makes of it shows that it is one.
	link, err := c.Net.LinkByName("eth0")
	require.NoError(t, err)
	eventually(t, "default route of a host that accepts it", func() bool {
		require.NoError(t, a.Host.Send("eth0", advertisement)) // again while its IPv6 is not ready
		return routesByRouter(t, c.Net) == 1
	})
	require.NotZero(t, link.Index)

	require.NoError(t, d.Send("eth0", advertisement))
	for _, id := range []string{"97", "2"} {
		c.send(a.Addr(), vudp(idOf(t, id), advertisement))
	}
	for _, device := range []string{"vnet97", "vnif0002"} {
		// An administrator who wants IPv6 there has not asked for routers.
		require.NoError(t, a.Net.SetSysctl("0", "net", "ipv6", "conf", device, "disable_ipv6"))
	}
	require.NoError(t, d.Send("eth0", advertisement))
	for _, id := range []string{"97", "2"} {
		c.send(a.Addr(), vudp(idOf(t, id), advertisement))
	}
	got := capture(t, d) // the last of them has come when this has
	last := testFrame(broadcastMAC, domainMAC(5), "last")
	c.send(a.Addr(), vudp(idOf(t, "97"), last))
	expect(t, got, last)
	require.Zero(t, routesByRouter(t, a.Net))
}

// routesByRouter counts the IPv6 default routes that a router's advertisement made: protocol RTPROT_RA.
func routesByRouter(t *testing.T, h *hostnet.Host) (n int) {
	routes, err := h.Routes(0)
	require.NoError(t, err)
	const ra = 9
	for _, r := range routes {
		if r.Default() && r.To.Addr().Is6() && r.Protocol == ra {
			n++
		}
	}
	return n
}

// routerAdvertisement is one of a router fe80::66 that wants to be the default; RFC 4861, section 4.2.
func routerAdvertisement(t *testing.T) []byte {
	t.Helper()
	from, to := netip.MustParseAddr("fe80::66"), netip.MustParseAddr("ff02::1")
	m := icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: []byte{64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}}}
	b, err := m.Marshal(icmp.IPv6PseudoHeader(from.AsSlice(), to.AsSlice()))
	require.NoError(t, err)
	f := append([]byte{0x33, 0x33, 0, 0, 0, 1}, domainMAC(67)...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(b)), 58, 255)
	f = append(append(f, from.AsSlice()...), to.AsSlice()...)
	return append(f, b...)
}

// quiet waits until the host hears nothing by a port.
func (h *testHost) quiet(port string) {
	h.t.Helper()
	eventually(h.t, "quiet port", func() bool {
		v, err := h.Net.Sysctl("net", "ipv4", "conf", port, "drop_unicast_in_l2_multicast")
		require.NoError(h.t, err)
		return v == "1"
	})
}

// Frames to the groups that bridges do not forward (01:80:c2:00:00:00 to …0f) are the port's, not the bridge's: by them,
// too, a domain reaches neither sockets of the host nor its routes.
func TestLinkLocalGroups(t *testing.T) { everyBypass(t, linkLocalGroups) }

func linkLocalGroups(t *testing.T, bypass Bypass) {
	x := newAttack(t, bypass, "0")
	x.a.quiet("vif1.0")
	var service net.PacketConn
	require.NoError(t, x.a.Do(func() (err error) {
		service, err = net.ListenPacket("udp4", netip.AddrPortFrom(x.a.Addr(), 7).String())
		return err
	}))
	defer service.Close()
	require.NoError(t, x.a.Net.SetSysctl("0", "net", "ipv4", "conf", "vif1.0", "rp_filter"))
	neighbours := func(packet []byte) []byte {
		f := append([]byte{1, 0x80, 0xc2, 0, 0, 3}, domainMAC(1)...)
		return append(append(f, 8, 0), packet...)
	}
	for _, by := range []string{"domain", "host"} {
		f := neighbours(x.datagram(x.a.Addr(), 7, []byte("attack")))
		ra := routerAdvertisement(t)
		copy(ra, []byte{1, 0x80, 0xc2, 0, 0, 3})
		for _, f := range [][]byte{f, ra} {
			if by == "domain" {
				require.NoError(t, x.domain.Send("eth0", f))
			} else {
				x.c.send(x.a.Addr(), vudp(x.id97, f))
			}
		}
	}
	x.nothing("frames between neighbours")
	c, err := dialFrom(x.c.Host, x.a.Addr(), 7)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("genuine"))
	require.NoError(t, err)
	b := make([]byte, 64)
	n, _, err := service.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, "genuine", string(b[:n]))
	require.Zero(t, routesByRouter(t, x.a.Net))
}
