package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest/uevent"
	"github.com/xenvnet/xend/vnet"
)

// secure gives hosts a vnet with security.
func secure(t testing.TB, level vnet.Security, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		h.SetKeySource(shared(testKey))
		require.NoError(t, attach(h.Engine, securedOf(t, "97", level)))
	}
	for _, h := range hosts {
		h.settled("97")
	}
}

// senders waits until hosts know so many other hosts of the vnet.
func senders(t testing.TB, want int, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		eventually(t, h.Name+" knows the others", func() bool {
			v := h.secured.Vnet(idOf(t, "97"))
			return v != nil && v.Hosts() == want
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
	sealed, err := s.Capture(func(f lab.Frame) bool {
		return len(f.Data) > 34 && f.EtherType() == 0x0800 && f.Data[14+9] == wire.ProtocolESP
	})
	require.NoError(t, err)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	_, err = lab.Transfer(soon(t), d1.Node, d2.Node, d2.Addr(), 4<<20)
	require.NoError(t, err)
	_, err = lab.Transfer(soon(t), d2.Node, d1.Node, d1.Addr(), 4<<20)
	require.NoError(t, err)
	require.NotEmpty(t, sealed.Take())
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

// Two hosts behind one masquerade take part: they are told apart by the ports that it gives them, and all that is for them
// goes from the security port to these.
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
	seen, err := outside.Capture(func(f lab.Frame) bool { _, ok := datagramIn(f.Data); return ok })
	require.NoError(t, err)
	hidden := addHosts(t, inside, 2, cfg)
	all := append(hosts, hidden...)
	secure(t, vnet.Conf, all...)
	senders(t, 3, all...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	d3, d4 := hidden[0].domain(3, "97"), hidden[1].domain(4, "97")
	ping(t, d3, d1.Addr())
	ping(t, d2, d3.Addr()) // its ARP request is flooded to where no group reaches
	ping(t, d2, d4.Addr())
	ping(t, d3, d4.Addr()) // they hear each other without the router
	for _, to := range []*lab.Domain{d3, d4} {
		_, err = lab.Transfer(soon(t), d1.Node, to.Node, to.Addr(), 4<<20)
		require.NoError(t, err)
	}
	places := map[wire.MAC]netip.AddrPort{}
	for _, e := range hosts[0].Snapshot().Entries {
		if h, ok := hosts[0].networks[idOf(t, "97")].hidden(e.Addr); ok {
			require.Equal(t, out.Addr4.Addr(), h.Addr())
			places[e.MAC] = h
		}
	}
	require.Len(t, places, 2)
	require.NotEqual(t, places[wire.MAC(domainMAC(3))], places[wire.MAC(domainMAC(4))])
	used := map[netip.AddrPort]bool{}
	for _, f := range seen.Take() {
		if d, _ := datagramIn(f.Data); d.to.Addr() == out.Addr4.Addr() {
			require.Equal(t, uint16(wire.SecurityPort), d.from.Port(), "a masquerade lets nothing else in")
			if d.from.Addr() == hosts[0].Addr() {
				used[d.to] = true
			}
		}
	}
	require.Equal(t, map[netip.AddrPort]bool{places[wire.MAC(domainMAC(3))]: true, places[wire.MAC(domainMAC(4))]: true}, used)
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

// Frames of one flow are sealed in one lane and come from one port, those of different flows from several, so that the receiver
// spreads them over its workers; all of one lane come from one port, or else the windows would have to bear that workers
// overtake each other. With source_port = "fixed" all come from the security port.
func TestSecuredPortsSpread(t *testing.T) {
	for _, mode := range []SourcePort{SourceFlow, SourceFixed} {
		t.Run(string(mode), func(t *testing.T) {
			cfg := testConfig()
			cfg.SourcePort = mode
			_, s, hosts := newSecured(t, 2, cfg, vnet.Conf)
			d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			ping(t, d1, d2.Addr())
			seen, err := s.Capture(func(f lab.Frame) bool {
				d, ok := datagramIn(f.Data)
				return ok && d.from.Addr() == hosts[0].Addr() && d.to.Addr() == hosts[1].Addr()
			})
			require.NoError(t, err)
			got, err := d2.Capture("eth0", nil)
			require.NoError(t, err)
			const flows, packets = 16, 3
			ports, lanes := map[uint16]uint8{}, map[uint8]uint16{}
			for i := range uint16(flows) {
				var first uint16
				for n := range byte(packets) {
					f := udpFrame(t, domainMAC(2), 1, []byte{byte(i), n})
					copy(f[6:12], domainMAC(1))
					binary.BigEndian.PutUint16(f[14+20:], 1000+i)
					require.NoError(t, d1.Send("eth0", f))
					_, err := got.WaitFor(soon(t), func(x lab.Frame) bool { return string(x.Data) == string(f) })
					require.NoError(t, err)
					x, err := seen.WaitFor(soon(t), func(x lab.Frame) bool {
						d, _ := datagramIn(x.Data)
						return wire.DecodeSecured(d.payload) == wire.SecuredESP && len(d.payload) == wire.ESPLen(wire.VUDPLen+len(f))
					})
					require.NoError(t, err)
					d, _ := datagramIn(x.Data)
					require.Equal(t, uint16(wire.SecurityPort), d.to.Port())
					port, lane := d.from.Port(), d.payload[3]
					if n == 0 {
						first = port
					}
					require.Equal(t, first, port, "one flow, one port")
					if mode == SourceFlow {
						if _, ok := ports[port]; ok {
							require.Equal(t, ports[port], lane)
							require.Equal(t, lanes[lane], port)
						}
					}
					ports[port], lanes[lane] = lane, port
				}
			}
			if mode == SourceFixed {
				require.Len(t, ports, 1)
				require.Contains(t, ports, uint16(wire.SecurityPort))
				return
			}
			require.Greater(t, len(ports), 2)
			require.NotContains(t, ports, uint16(wire.SecurityPort))
		})
	}
}

// A change of what can be changed while packets flow is taken over at a reload.
func TestSecurityIsReloaded(t *testing.T) {
	cfg := testConfig()
	_, s, hosts := newSecured(t, 2, cfg, vnet.Conf)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	flow, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	defer flow.Close()
	seen, err := s.Capture(func(f lab.Frame) bool { return len(f.Data) > 34 && f.EtherType() == 0x0800 })
	require.NoError(t, err)
	wait := func(what string, is func(protocol byte, d overheard) bool) {
		t.Helper()
		_, err := seen.WaitFor(soon(t), func(f lab.Frame) bool {
			d, _ := datagramIn(f.Data)
			return netip.AddrFrom4([4]byte(f.Data[26:30])) == hosts[0].Addr() && is(f.Data[14+9], d)
		})
		require.NoError(t, err, what)
	}
	cfg.Security.Encapsulation = ESP
	require.NoError(t, hosts[0].Reload(cfg))
	wait("ESP without UDP", func(protocol byte, _ overheard) bool { return protocol == wire.ProtocolESP })
	cfg.Security.Encapsulation, cfg.Security.NAT = ESPInUDP, true
	require.NoError(t, hosts[0].Reload(cfg))
	wait("a frame from the security port", func(_ byte, d overheard) bool {
		return d.from.Port() == wire.SecurityPort && len(d.payload) > 0 && wire.DecodeSecured(d.payload) == wire.SecuredESP
	})
	wait("a message without addresses", func(_ byte, d overheard) bool {
		var m wire.Key
		return len(d.payload) > 4 && wire.DecodeSecured(d.payload) == wire.SecuredMessage && m.Decode(d.payload[wire.MarkerLen:]) == nil &&
			!m.Addr4.IsValid()
	})
	cfg.Security.NAT = false
	require.NoError(t, hosts[0].Reload(cfg))
	wait("a message with addresses", func(_ byte, d overheard) bool {
		var m wire.Key
		return len(d.payload) > 4 && wire.DecodeSecured(d.payload) == wire.SecuredMessage && m.Decode(d.payload[wire.MarkerLen:]) == nil &&
			m.Addr4 == hosts[0].Addr()
	})
	_, err = flow.Fresh(soon(t))
	require.NoError(t, err)
	// The port cannot change: it stays, and the rest is taken over.
	cfg.Security.Port = 4501
	require.NoError(t, hosts[0].Reload(cfg))
	require.EqualValues(t, wire.SecurityPort, hosts[0].view.Load().secure)
	_, err = flow.Fresh(soon(t))
	require.NoError(t, err)
}

// All 64 hosts of a fleet start at once: they know each other soon, and nothing of that grows without bound.
func TestSecuredFleet(t *testing.T) {
	const count = 64
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	cfg := testConfig()
	cfg.Workers = 1
	var hosts []*testHost
	for i := range count {
		h, err := s.Host(fmt.Sprint("h", i))
		require.NoError(t, err)
		hosts = append(hosts, startEngine(t, h, cfg))
		hosts[i].SetKeySource(shared(testKey))
	}
	// The hosts share one kernel, which has no more than 1024 neighbours that it learned, of all namespaces together; arp(7),
	// gc_thresh3.
	neighbours := filepath.Join(t.TempDir(), "neighbours")
	var lines strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&lines, "neigh replace %s lladdr %s dev eth0 nud permanent\n", h.Addr(), h.Uplink().MAC)
	}
	require.NoError(t, os.WriteFile(neighbours, []byte(lines.String()), 0o600))
	for _, h := range hosts {
		_, err := h.Host.Run(t.Context(), "ip", "-batch", neighbours)
		require.NoError(t, err)
	}
	id := idOf(t, "97")
	start := time.Now()
	var group errgroup.Group
	for _, h := range hosts {
		group.Go(func() error { return attach(h.Engine, securedOf(t, "97", vnet.Auth)) })
	}
	require.NoError(t, group.Wait())
	senders(t, count-1, hosts...)
	t.Log("all know each other after", time.Since(start))
	d1 := hosts[0].domain(1, "97")
	d2 := hosts[count-1].domain(2, "97")
	ping(t, d1, d2.Addr())
	for _, h := range hosts {
		st := h.secured.Vnet(id).Status(h.now())
		require.Len(t, st.Senders, count-1)
		for _, r := range []esp.Refusal{esp.KeyMAC, esp.KeyMalformed, esp.KeyUnknown, esp.SendersFull, esp.WrongICV} {
			require.Zero(t, st.Refused[r], "%s: %s", h.Name, r)
		}
	}
}

// A new generation id of the virtual machine, which a clone has and one that was set back: the host begins another life, the others
// drop nothing of it, and nothing is sealed with what the original may have sealed with.
func TestSecuredCopy(t *testing.T) {
	_, s, hosts := newSecured(t, 2, testConfig(), vnet.Conf)
	a, b := hosts[0], hosts[1]
	id := idOf(t, "97")
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	spis, err := s.Capture(func(f lab.Frame) bool {
		d, ok := datagramIn(f.Data)
		return ok && d.from.Addr() == a.Addr() && len(d.payload) > wire.ESPMinLen && wire.DecodeSecured(d.payload) == wire.SecuredESP
	})
	require.NoError(t, err)
	flow, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	defer flow.Close()
	_, err = flow.Fresh(soon(t))
	require.NoError(t, err)
	old := map[uint32]bool{}
	for _, f := range spis.Take() {
		d, _ := datagramIn(f.Data)
		old[binary.BigEndian.Uint32(d.payload)>>8] = true
	}
	before := a.secured.Vnet(id).Sending(a.now())
	require.NotNil(t, before)
	require.NoError(t, a.Host.Do(func() error {
		return uevent.Tell("change@/devices/platform/vmgenid", "ACTION=change", "DEVPATH=/devices/platform/vmgenid", "SUBSYSTEM=acpi", "NEW_VMGENID=1")
	}))
	eventually(t, "another key seals", func() bool {
		now := a.secured.Vnet(id).Sending(a.now())
		return now != nil && now != before
	})
	_, err = flow.Fresh(soon(t))
	require.NoError(t, err)
	fresh := 0
	eventually(t, "packets of the new key are seen", func() bool {
		for _, f := range spis.Take() {
			d, _ := datagramIn(f.Data)
			if !old[binary.BigEndian.Uint32(d.payload)>>8] {
				fresh++
			} else {
				require.Zero(t, fresh, "what was given up is used again")
			}
		}
		return fresh > 0
	})
	eventually(t, "it is said", func() bool { return a.log.Count("this machine may be a copy, or was set back") > 0 })
}

// What the paths tell of vnets with security is what fits into a packet that no fragment is made of.
func TestSecuredPaths(t *testing.T) {
	for _, c := range []struct {
		how        SecurityEncapsulation
		four, six  int
		udp        int
		underlay   int
		esp4, esp6 int
	}{
		{ESPInUDP, 1394, 1374, 8, 1500, 42, 42},
		{ESP, 1402, 1382, 0, 1500, 42, 42},
		{ESPInUDP, 1494, 1474, 8, 1603, 45, 45}, // with padding
	} {
		cfg := testConfig()
		cfg.IPv6, cfg.Security.Encapsulation = true, c.how
		m := newMemory(t, 1, cfg)
		h := m.hosts[0]
		for _, f := range h.underlays {
			f.uplink.path.MTU = c.underlay
		}
		secured := configOf(t, "98")
		secured.Security = vnet.Conf
		h.attach(secured)
		h.networks[idOf(t, "98")].seal = &seal{port: wire.SecurityPort}
		h.publishLocked()
		var got []Path
		for _, p := range h.Status().Paths {
			if p.Secured {
				got = append(got, p)
			}
		}
		require.Len(t, got, 2)
		for i, fits := range []int{c.four, c.six} {
			p := got[i]
			require.Equal(t, c.udp, p.UDP)
			require.Equal(t, wire.VUDPLen, p.Header)
			require.Equal(t, []int{c.esp4, c.esp6}[i], p.ESP)
			require.Equal(t, fits, p.MTU-p.IP-p.UDP-p.Header-p.ESP-14)
			n := wire.VUDPLen + 14 + fits
			require.LessOrEqual(t, p.IP+p.UDP+wire.ESPLen(n), c.underlay)
			require.Greater(t, p.IP+p.UDP+wire.ESPLen(n+1), c.underlay)
		}
	}
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
