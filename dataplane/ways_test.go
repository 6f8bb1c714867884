package dataplane

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// secure gives hosts a vnet with security.
func secure(t testing.TB, level vnet.Security, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		h.SetKeySource(shared(testKey))
		require.NoError(t, attach(h.Engine, securedOf(t, "97", level)))
	}
}

// senders waits until hosts know so many other hosts of the vnet.
func senders(t testing.TB, want int, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		eventually(t, h.Name+" knows the others", func() bool {
			v := h.secured.Vnet(idOf(t, "97"))
			return v != nil && len(v.Status(h.now()).Senders) == want
		})
	}
}

// As protocol 50, and what the others say in UDP is taken, too.
func TestSecuredWithoutUDP(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	cfg := testConfig()
	cfg.IPv6 = true
	other := cfg
	cfg.Security.Encapsulation = ESP
	a := addHosts(t, s, 1, cfg)[0]
	h, err := s.Host("other")
	require.NoError(t, err)
	b := startEngine(t, h, other)
	secure(t, vnet.Conf, a, b)
	esp, err := s.Capture(func(f lab.Frame) bool {
		return len(f.Data) > 34 && f.EtherType() == 0x0800 && f.Data[14+9] == wire.ProtocolESP
	})
	require.NoError(t, err)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	_, err = lab.Transfer(soon(t), d1.Node, d2.Node, d2.Addr(), 4<<20)
	require.NoError(t, err)
	_, err = lab.Transfer(soon(t), d2.Node, d1.Node, d1.Addr(), 4<<20)
	require.NoError(t, err)
	require.NotEmpty(t, esp.Take())
	_, err = d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
}

// Over IPv6 alone.
func TestSecuredOverIPv6(t *testing.T) {
	for _, encapsulation := range []SecurityEncapsulation{ESPInUDP, ESP} {
		t.Run(string(encapsulation), func(t *testing.T) {
			cfg := testConfig()
			cfg.IPv6, cfg.Security.Encapsulation = true, encapsulation
			_, _, hosts := newLab(t, 2, cfg)
			for _, h := range hosts {
				_, err := h.Host.Run(soon(t), "ip", "-4", "addr", "flush", "dev", "eth0")
				require.NoError(t, err)
				eventually(t, "no IPv4", func() bool { return h.view.Load().uplinks[0] == nil && h.view.Load().uplinks[1] != nil })
			}
			secure(t, vnet.Auth, hosts...)
			d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			ping(t, d1, d2.Addr())
			_, err := lab.Transfer(soon(t), d1.Node, d2.Node, d2.Addr(), 4<<20)
			require.NoError(t, err)
			require.Equal(t, hosts[1].Addr6(), hosts[0].Snapshot().Entries[0].Addr)
		})
	}
}

// Segments without multicast between them, joined by peers: the forwarders open what they pass on.
func TestSecuredPeers(t *testing.T) {
	l := lab.New(t)
	one, err := l.Switch("one", 0)
	require.NoError(t, err)
	two, err := l.Switch("two", 0)
	require.NoError(t, err)
	_, err = l.Router("router", one, two)
	require.NoError(t, err)
	left, right := addHosts(t, one, 2, testConfig()), addHosts(t, two, 2, testConfig())
	all := append(left, right...)
	require.NoError(t, left[0].AddPeer(soon(t), right[0].Addr(), 0))
	require.NoError(t, right[0].AddPeer(soon(t), left[0].Addr(), 0))
	secure(t, vnet.Conf, all...)
	senders(t, 3, all...)
	var domains []*lab.Domain
	var captures []*lab.Capture
	for i, h := range all {
		domains = append(domains, h.domain(i+1, "97"))
		captures = append(captures, capture(t, domains[i]))
	}
	for i, d := range domains {
		f := testFrame(broadcastMAC, domainMAC(i+1), fmt.Sprint("from ", i))
		require.NoError(t, d.Send("eth0", f))
		for j, c := range captures {
			if j != i {
				expect(t, c, f)
			}
		}
	}
	ping(t, domains[1], domains[3].Addr())
	for _, e := range left[1].Snapshot().Entries {
		if e.MAC == wire.MAC(domainMAC(4)) {
			require.Equal(t, right[1].Addr(), e.Addr)
		}
	}
	for _, h := range all {
		require.Zero(t, h.drops(DropESPAuth)+h.drops(DropESPInner)+h.drops(DropSecurity), h.Name)
	}
}

// Head-end replication: one seal, many copies.
func TestSecuredReplication(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	cfg := testConfig()
	cfg.Group = netip.MustParseAddr("239.1.2.3")
	for i := range 3 {
		cfg.Replicate = append(cfg.Replicate, NamedHost{Addr: fmt.Sprintf("10.9.1.%d", i+1)})
	}
	hosts := addHosts(t, s, 3, cfg)
	secure(t, vnet.Auth, hosts...)
	senders(t, 2, hosts...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97")
	c2, c3 := capture(t, d2), capture(t, d3)
	for i := range 5 {
		f := testFrame(broadcastMAC, domainMAC(1), fmt.Sprint(i))
		require.NoError(t, d1.Send("eth0", f))
		for _, c := range []*lab.Capture{c2, c3} {
			got, err := c.Next(soon(t))
			require.NoError(t, err)
			require.Equal(t, f, got.Data, "once each, in order")
		}
	}
	ping(t, d2, d3.Addr())
}

// A domain moves; its MAC is found at the new host, by what is authenticated.
func TestSecuredMove(t *testing.T) {
	_, _, hosts := newSecured(t, 3, testConfig(), vnet.Conf)
	a, b, c := hosts[0], hosts[1], hosts[2]
	senders(t, 2, hosts...)
	d1, d3 := a.domain(1, "97"), c.domain(3, "97")
	p, err := d3.StartPing(d1.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	require.NoError(t, d1.MoveTo(b.Host, "vif1.0", "vnet97"))
	require.NoError(t, d1.Announce())
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	for _, h := range []*testHost{a, c} {
		eventually(t, "MAC known behind b", func() bool {
			for _, e := range h.Snapshot().Entries {
				if e.MAC == wire.MAC(domainMAC(1)) {
					return e.Addr == b.Addr()
				}
			}
			return false
		})
	}
}

// A host behind a masquerade takes part: it is known by where its messages come from.
func TestSecuredNAT(t *testing.T) {
	l := lab.New(t)
	outside, err := l.Switch("outside", 0)
	require.NoError(t, err)
	inside, err := l.Switch("inside", 0)
	require.NoError(t, err)
	router, err := l.Router("router", inside, outside)
	require.NoError(t, err)
	out := router.Uplinks[1]
	for _, args := range [][]string{
		{"nft", "add", "table", "ip", "nat"},
		{"nft", "add", "chain", "ip", "nat", "post", "{ type nat hook postrouting priority 100 ; }"},
		{"nft", "add", "rule", "ip", "nat", "post", "oifname", out.Device, "masquerade", "random"},
		{"nft", "add", "table", "ip", "filter"},
		{"nft", "add", "chain", "ip", "filter", "pass", "{ type filter hook forward priority 0 ; policy drop ; }"},
		{"nft", "add", "rule", "ip", "filter", "pass", "iifname", router.Uplinks[0].Device, "accept"},
		{"nft", "add", "rule", "ip", "filter", "pass", "ct", "state", "established", "accept"},
	} {
		_, err := router.Run(soon(t), args[0], args[1:]...)
		require.NoError(t, err)
	}
	hosts := addHosts(t, outside, 2, testConfig())
	cfg := testConfig()
	cfg.Security.NAT = true
	for _, h := range hosts {
		cfg.Replicate = append(cfg.Replicate, NamedHost{Addr: h.Addr().String()})
	}
	hidden := addHosts(t, inside, 1, cfg)[0]
	secure(t, vnet.Conf, append(hosts, hidden)...)
	senders(t, 2, append(hosts, hidden)...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hidden.domain(3, "97")
	ping(t, d3, d1.Addr())
	ping(t, d2, d3.Addr()) // its ARP request is flooded to where no group reaches
	_, err = lab.Transfer(soon(t), d1.Node, d3.Node, d3.Addr(), 4<<20)
	require.NoError(t, err)
	for _, e := range hosts[0].Snapshot().Entries {
		if e.MAC == wire.MAC(domainMAC(3)) {
			require.Equal(t, out.Addr4.Addr(), e.Addr)
		}
	}
}

// The security port is taken: the error names who has it, and vnets without security are not affected.
func TestSecurityPortTaken(t *testing.T) {
	_, _, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	a.SetKeySource(shared(testKey))
	fd := -1
	require.NoError(t, a.Host.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: wire.SecurityPort})
	}))
	err := attach(a.Engine, securedOf(t, "97", vnet.Conf))
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.ErrorContains(t, err, "dataplane.test (pid ")
	add(t, "98", a)
	require.NoError(t, unix.Close(fd))
	require.NoError(t, attach(a.Engine, securedOf(t, "97", vnet.Conf)))
}

// Unicast of different senders comes from different ports, and none of them is one that a receiver looks at.
func TestSecuredPortsSpread(t *testing.T) {
	_, s, hosts := newSecured(t, 2, testConfig(), vnet.Conf)
	seen, err := s.Capture(func(f lab.Frame) bool { _, ok := datagramIn(f.Data); return ok })
	require.NoError(t, err)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	ports := map[uint16]bool{}
	for _, f := range seen.Take() {
		d, _ := datagramIn(f.Data)
		require.Equal(t, uint16(wire.SecurityPort), d.to.Port())
		if wire.DecodeSecured(d.payload) == wire.SecuredMessage {
			require.Equal(t, uint16(wire.SecurityPort), d.from.Port())
		} else {
			ports[d.from.Port()] = true
		}
	}
	require.Greater(t, len(ports), 1)
	require.False(t, ports[wire.SecurityPort])
}

// All hosts of a fleet start at once.
func TestSecuredFleet(t *testing.T) {
	count := 16
	cfg := testConfig()
	cfg.Workers = 1
	_, _, hosts := newLab(t, count, cfg)
	start := time.Now()
	secure(t, vnet.Auth, hosts...)
	senders(t, count-1, hosts...)
	t.Log("all know each other after", time.Since(start))
	d1 := hosts[0].domain(1, "97")
	d2 := hosts[count-1].domain(2, "97")
	ping(t, d1, d2.Addr())
}

// mtu_mode pmtu tells domains what fits into a sealed packet: RFC 1191.
func TestSecuredPathMTU(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	_, _, hosts := newSecured(t, 2, cfg, vnet.Conf)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	const fits = 1394 - 28
	_, err := d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: fits, DontFragment: true})
	require.NoError(t, err)
	require.Zero(t, hosts[0].drops(DropTooBig))
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Size: fits + 1, DontFragment: true, Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	eventually(t, "told", func() bool { return hosts[0].drops(DropTooBig) > 0 })
}
