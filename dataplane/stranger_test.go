package dataplane

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// joinByVnet makes the sockets of host A members of a family's group on vnet 97's bridge, and nowhere else: the kernel
// gives what domains send to groups to no socket that has not joined there, so that without it the check would not be asked.
func (x *attack) joinByVnet(family int) {
	x.t.Helper()
	f := x.a.underlays[family]
	require.NoError(x.t, f.groups.Join(x.bridge.Index, x.a.config.groupOf(f.family)))
}

// strangers waits until host A tells of those, and no others: it looks up the names of new devices after it was told of them.
func (x *attack) strangers(want ...Stranger) {
	x.t.Helper()
	eventually(x.t, fmt.Sprint("strangers ", want), func() bool { return slices.Equal(want, x.a.Snapshot().Strangers) })
}

// An echo request to the group that comes by a vnet is not answered, but counted, and told from where it came.
func TestEchoByVnet(t *testing.T) { everyBypass(t, echoByVnet) }

func echoByVnet(t *testing.T, bypass Bypass) {
	for _, by := range []string{"domain", "host"} {
		t.Run(by, func(t *testing.T) {
			x := newAttack(t, bypass, "0")
			x.fromNetwork = by == "host"
			x.unguarded()
			answers, err := x.c.Capture("eth0", func(f lab.Frame) bool {
				return !f.Outgoing && f.EtherType() == 0x0800 && len(f.Data) > 34 && f.Data[23] == unix.IPPROTO_ICMP &&
					f.Data[34] == byte(ipv4.ICMPTypeEchoReply) && netip.AddrFrom4([4]byte(f.Data[26:30])) == x.a.Addr()
			})
			require.NoError(t, err)
			m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 1, Seq: 1, Data: []byte("attack")}}
			echo, err := m.Marshal(nil)
			require.NoError(t, err)

			x.joinByVnet(0)
			for n := range uint64(3) {
				x.send(x.packet(wire.Group, unix.IPPROTO_ICMP, echo))
				eventually(t, "the request was dropped", func() bool { return x.a.drops(DropNotUnderlay) == n+1 })
			}
			x.strangers(Stranger{Device: "vnet97", Index: x.bridge.Index, From: x.c.Addr(), Packets: 3})

			// One that comes by the underlay is answered, and its answer is the first that comes.
			f := x.a.underlays[0]
			require.NoError(t, f.groups.Join(deviceOf(t, x.a.Host, "eth0").Index, wire.Group))
			p, err := x.c.StartPing(wire.Group, lab.PingOptions{Device: "eth0"})
			require.NoError(t, err)
			defer p.Close()
			first, err := answers.Next(soon(t))
			require.NoError(t, err)
			require.NotContains(t, string(first.Data), "attack")
			require.EqualValues(t, 3, x.a.drops(DropNotUnderlay))
		})
	}
}

// attack6 is an attack over IPv6, with the address of host C.
type attack6 struct {
	*attack
	genuine net.PacketConn // of C
}

// newAttack6 is newAttack for hosts with an underlay over IPv6.
func newAttack6(t *testing.T, bypass Bypass) *attack6 {
	cfg := testConfig()
	cfg.IPv6, cfg.Bypass = true, bypass
	x := &attack6{attack: newAttackWith(t, cfg, "0", vnet.None)}
	require.NoError(t, x.c.Do(func() (err error) {
		x.genuine, err = net.ListenPacket("udp6", netip.AddrPortFrom(x.c.Addr6(), wire.Port).String())
		return err
	}))
	t.Cleanup(func() { x.genuine.Close() })
	// Neighbours know each other: what this host routes is not kept from the other for want of its MAC.
	_, err := x.a.Ping(soon(t), x.b.Addr6(), lab.PingOptions{})
	require.NoError(t, err)
	return x
}

// packet6 is an IPv6 packet with another host's source address; RFC 8200, section 3.
func (x *attack6) packet6(to netip.Addr, next uint8, payload []byte) []byte {
	p := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	p = append(append(append(p, next, 64), x.c.Addr6().AsSlice()...), to.AsSlice()...)
	return append(p, payload...)
}

// datagram6 is UDP over IPv6 to the protocol's port.
func (x *attack6) datagram6(to netip.Addr, payload []byte) []byte {
	x.t.Helper()
	b, err := wire.AppendUDP(nil, netip.AddrPortFrom(x.c.Addr6(), wire.Port), netip.AddrPortFrom(to, wire.Port), payload)
	require.NoError(x.t, err)
	return x.packet6(to, wire.ProtocolUDP, append(b, payload...))
}

// attempts6 are the ways to speak the protocol over IPv6, each with a frame for vnet 98; those by UDP reach sockets of
// every host.
func (x *attack6) attempts6(to netip.Addr) (udp, others map[string][]byte) {
	x.t.Helper()
	forwarded, err := wire.AppendVFWD(nil, netip.AddrPortFrom(x.c.Addr(), wire.Port), netip.AddrPortFrom(wire.Group, wire.Port), 64,
		vudp(x.id98, x.frame("VFWD")))
	require.NoError(x.t, err)
	udp = map[string][]byte{
		"VUDP": x.datagram6(to, vudp(x.id98, x.frame("VUDP"))),
		"VARP": x.datagram6(to, varpMessage(wire.Announce, x.id98, domainMAC(66), x.c.Addr6())),
		"VFWD": x.datagram6(to, append(forwarded, vudp(x.id98, x.frame("VFWD"))...)),
	}
	others = map[string][]byte{
		"EtherIP": x.packet6(to, wire.ProtocolEtherIP, append(wire.AppendEtherIP(nil, x.id98), x.frame("EtherIP")...)),
		"ESP":     x.packet6(to, wire.ProtocolESP, x.frame("ESP")),
	}
	return udp, others
}

// nothing6 makes sure that nothing has come of what was sent, as nothing does, by a genuine packet over IPv6.
func (x *attack6) nothing6(what string) {
	x.t.Helper()
	for h, c := range map[*testHost]*lab.Capture{x.a: x.inA, x.b: x.inB} {
		x.last++
		genuine := testFrame(broadcastMAC, domainMAC(55), "genuine "+what)
		_, err := x.genuine.WriteTo(vudp(x.id98, genuine), net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Addr6(), wire.Port)))
		require.NoError(x.t, err)
		f, err := c.Next(soon(x.t))
		require.NoError(x.t, err)
		require.Equal(x.t, string(genuine), string(f.Data), "%s, at host %s", what, h.Name)
		require.False(x.t, careOf(h.Engine, domainMAC(66)).IsValid(), "%s: learned at host %s", what, h.Name)
	}
}

// Over IPv6 a domain reaches neither the sockets of its host, nor, by routing, other hosts: without IPv6 on the bridge,
// and where an administrator has switched it on. Without the guard the sockets refuse what comes, by whatever message
// and to the group, too; and then the other host takes what this one routes to it.
func TestDomainDoesNotReachOtherVnetsIPv6(t *testing.T) { everyBypass(t, domainDoesNotReachIPv6) }

func domainDoesNotReachIPv6(t *testing.T, bypass Bypass) {
	for _, by := range []string{"domain", "host"} {
		t.Run(by, func(t *testing.T) {
			x := newAttack6(t, bypass)
			x.fromNetwork = by == "host"
			all := func(when string) {
				t.Helper()
				for _, to := range []netip.Addr{x.a.Addr6(), x.b.Addr6()} {
					udp, others := x.attempts6(to)
					for _, list := range []map[string][]byte{udp, others} {
						for name, packet := range list {
							x.send(packet)
							x.nothing6(name + " to " + to.String() + ", " + when)
						}
					}
				}
				require.Zero(t, x.a.drops(DropNotUnderlay))
			}
			all("IPv6 off")
			require.NoError(t, x.a.Net.SetSysctl("0", "net", "ipv6", "conf", "vnet97", "disable_ipv6"))
			x.guarded("1_open_u1798_u4500_p50_p97")
			all("IPv6 on")

			x.unguarded()
			x.joinByVnet(1)
			count := uint64(0)
			dropped := func(name string, packet []byte) {
				t.Helper()
				x.send(packet)
				count++
				eventually(t, name+" dropped", func() bool { return x.a.drops(DropNotUnderlay) == count })
				x.nothing6(name + " at the sockets")
			}
			udp, others := x.attempts6(x.a.Addr6())
			for name, packet := range udp {
				dropped(name, packet)
			}
			udp, _ = x.attempts6(DefaultGroup6)
			for name, packet := range udp {
				dropped(name+" to the group", packet)
			}
			for name, packet := range others { // no socket over IPv6 takes these of vnets without security
				x.send(packet)
				x.nothing6(name + " at the sockets")
			}
			require.Equal(t, count, x.a.drops(DropNotUnderlay))
			x.strangers(Stranger{Device: "vnet97", Index: x.bridge.Index, From: x.c.Addr6(), Packets: count})

			attack := x.frame("VUDP")
			x.send(x.datagram6(x.b.Addr6(), vudp(x.id98, attack)))
			expect(t, x.inB, attack)
		})
	}
}
