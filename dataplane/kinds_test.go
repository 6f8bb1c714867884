package dataplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// Underlays that are no network card: bonds, VLAN devices, and bridges on those. Kernels may lack bonding and VLANs;
// Debian's have them (make test-vm).

// TestCards: at which ports of an underlay's bridge the fast path takes packets of other hosts: at none that leads to a domain.
func TestCards(t *testing.T) {
	links := map[int]hostnet.Link{}
	for _, l := range []hostnet.Link{
		{Index: 1, Name: "xenbr0", Kind: "bridge"},
		{Index: 2, Name: "vnet97", Kind: "bridge"},
		{Index: 3, Name: "pxenbr0", Kind: "veth", Master: 1},
		{Index: 4, Name: "eth1", Bus: "pci", Master: 1},
		{Index: 5, Name: "vif2.0", Bus: "xen-backend", Master: 1},
		{Index: 6, Name: "vif3.0", Kind: "veth", Master: 1},
		{Index: 7, Name: "tap4.0", Kind: "tun", Master: 1},
		{Index: 8, Name: "bond0", Kind: "bond", Master: 1},
		{Index: 9, Name: "eth1.100", Kind: "vlan", Partner: 4, Master: 1},
		{Index: 10, Name: "bond0.100", Kind: "vlan", Partner: 8, Master: 1},
		{Index: 11, Name: "eth1.100.5", Kind: "vlan", Partner: 9, Master: 1},
		{Index: 12, Name: "vnet97.5", Kind: "vlan", Partner: 2, Master: 1},
		{Index: 13, Name: "vif2.0.5", Kind: "vlan", Partner: 5, Master: 1},
		{Index: 14, Name: "vif3.0.5", Kind: "vlan", Partner: 6, Master: 1},
		{Index: 15, Name: "far.5", Kind: "vlan", PartnerAway: true, Master: 1},
		{Index: 16, Name: "vnif98", Kind: "veth", Alias: "xend vnet 98", Master: 1},
		{Index: 17, Name: "xenbr0.7", Kind: "vlan", Partner: 1},
	} {
		links[l.Index] = l
	}
	k := &programs{host: someLinks{links: links}}
	hooks, why := k.cards(links[1])
	require.Empty(t, why)
	var at []string
	for _, h := range hooks {
		require.False(t, h.egress)
		at = append(at, links[h.index].Name)
	}
	require.ElementsMatch(t, []string{"pxenbr0", "eth1", "bond0", "eth1.100", "bond0.100", "eth1.100.5"}, at)
	for _, index := range []int{8, 10, 11} { // no bridge
		hooks, why := k.cards(links[index])
		require.Empty(t, why)
		require.Equal(t, []hook{{index: index}}, hooks)
	}
	for index, want := range map[int]string{2: "none of the bridge's ports is a network card", 17: "stacked on bridge xenbr0"} {
		hooks, why := k.cards(links[index])
		require.Contains(t, why, want)
		require.Empty(t, hooks)
	}
}

// someLinks is a host that has links and nothing else.
type someLinks struct {
	kernelHost
	links map[int]hostnet.Link
}

func (s someLinks) LinkByIndex(index int) (hostnet.Link, error) {
	l, ok := s.links[index]
	if !ok {
		return l, hostnet.ErrNotFound
	}
	return l, nil
}

func (s someLinks) Ports(master int) (ports []hostnet.Link, err error) {
	for _, l := range s.links {
		if l.Master == master {
			ports = append(ports, l)
		}
	}
	return ports, nil
}

func (s someLinks) Detail(int) (hostnet.Detail, error) { return hostnet.Detail{}, nil }

// layers makes devices over a host's cards, of which the last one gets the host's addresses; each is told for `ip link
// add`.
func layers(t testing.TB, h *lab.Host, lines ...string) {
	t.Helper()
	u := h.Uplink()
	last := u.Device
	ip := func(line string) {
		_, err := h.Run(soon(t), "ip", strings.Fields(line)...)
		require.NoError(t, err)
	}
	for _, other := range h.Uplinks {
		ip("addr flush dev " + other.Device)
	}
	for _, line := range lines {
		if f := strings.Fields(line); f[0] == "add" {
			_, err := h.Run(soon(t), "ip", append([]string{"link"}, f...)...)
			if err != nil && strings.Contains(err.Error(), "Unknown device type") {
				t.Skipf("this kernel has no such devices (Debian's have, make test-vm): %v", err)
			}
			require.NoError(t, err)
			last = f[1]
			if f[1] == "link" {
				last = f[4]
			}
			continue
		}
		ip("link " + line)
	}
	ip("link set " + last + " up")
	ip(fmt.Sprintf("addr add %s dev %s", u.Addr4, last))
	ip(fmt.Sprintf("addr add %s dev %s nodad", u.Addr6, last))
	ip(fmt.Sprintf("route add default via %s dev %s", u.Switch.Gateway4, last))
	l, err := h.Net.LinkByName(last)
	require.NoError(t, err)
	require.NoError(t, h.Net.AwaitRunning(soon(t), l.Index))
}

// second gives a host another card on its switch.
func second(t testing.TB, h *lab.Host) {
	t.Helper()
	_, err := h.Attach(h.Uplink().Switch, "eth1")
	require.NoError(t, err)
}

// bondAtSwitch has the switch join the ports of a host's cards, as it must for all modes but active-backup.
func bondAtSwitch(t testing.TB, h *lab.Host, before []hostnet.Link) {
	t.Helper()
	fabric, bridge := h.Uplink().Switch.Device()
	ports, err := fabric.Net.Ports(bridge)
	require.NoError(t, err)
	name := "to" + h.Name
	_, err = fabric.Run(soon(t), "ip", "link", "add", name, "type", "bond", "mode", "balance-xor", "miimon", "10")
	require.NoError(t, err)
	bond, err := fabric.Net.LinkByName(name)
	require.NoError(t, err)
	known := map[int]bool{}
	for _, p := range before {
		known[p.Index] = true
	}
	for _, p := range ports {
		if !known[p.Index] {
			require.NoError(t, fabric.Net.SetMaster(p.Index, 0))
			require.NoError(t, fabric.Net.SetDown(p.Index))
			require.NoError(t, fabric.Net.SetMaster(p.Index, bond.Index))
		}
	}
	require.NoError(t, fabric.Net.DisableIPv6(bond.Index))
	require.NoError(t, fabric.Net.SetMaster(bond.Index, bridge))
	require.NoError(t, fabric.Net.SetUp(bond.Index))
}

// bonding are two ports of a bond of a mode.
func bonding(mode string) []string {
	return []string{
		"set eth0 down", "set eth1 down", "add bond0 type bond miimon 10 mode " + mode, "set eth0 master bond0", "set eth1 master bond0",
		"set bond0 up",
	}
}

const onVLAN = "add link bond0 name bond0.100 type vlan id 100"

// TestKindsOfUnderlay: what the fast path chooses on devices of several kinds, and that it carries there.
func TestKindsOfUnderlay(t *testing.T) {
	for _, c := range []struct {
		name   string
		two    bool // cards
		joined bool // by the switch
		lines  []string
		device string // the underlay
		at     string // where the program is
	}{
		{"active-backup", true, false, bonding("active-backup"), "bond0", "bond0"},
		{"active-backup, MAC of the port", true, false, bonding("active-backup fail_over_mac active"), "bond0", "bond0"},
		{"balance-xor", true, true, bonding("balance-xor xmit_hash_policy layer3+4"), "bond0", "bond0"},
		{"VLAN", false, false, []string{"add link eth0 name eth0.100 type vlan id 100"}, "eth0.100", "eth0.100"},
		{"VLAN on a bond", true, false, append(bonding("active-backup"), onVLAN), "bond0.100", "bond0.100"},
		{"bridge with a bond", true, false, append(bonding("active-backup"), "add br0 type bridge", "set bond0 master br0"), "br0", "bond0"},
		{"bridge with a VLAN on a bond", true, false, append(bonding("active-backup"), onVLAN, "set bond0.100 up", "add br0 type bridge", "set bond0.100 master br0"), "br0", "bond0.100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := lab.New(t).Switch("lan", 0)
			require.NoError(t, err)
			var hosts []*testHost
			for i := range 2 {
				fabric, bridge := s.Device()
				before, err := fabric.Net.Ports(bridge)
				require.NoError(t, err)
				h := addHost(t, s, s.Name+string(rune('A'+i)))
				if c.two {
					second(t, h)
				}
				layers(t, h, c.lines...)
				if c.joined {
					bondAtSwitch(t, h, before)
				}
				hosts = append(hosts, startEngine(t, h, fastConfig()))
			}
			add(t, "97", hosts...)
			one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			awaitFast(t, one, two, hosts...)
			for _, h := range hosts {
				var u FastUnderlay
				eventually(t, "it is said", func() bool { // a moment after it has an effect
					u = h.Status().FastPath.Underlays[0]
					return u.Device == c.device && u.Send+u.Receive == ""
				})
				require.Contains(t, []string{hookClsact, hookTCX}, u.Way)
				l, err := h.Net.LinkByName(c.at)
				require.NoError(t, err)
				require.Equal(t, []string{u.Way}, h.at(hook{index: l.Index}))
			}
			for i := range two.Spec.Addrs {
				const size = 4 << 20
				for _, way := range [][2]int{{0, 1}, {1, 0}} {
					from, to := []*lab.Domain{one, two}[way[0]], []*lab.Domain{one, two}[way[1]]
					tx0, _ := hosts[way[0]].carried()
					_, rx0 := hosts[way[1]].carried()
					_, err := lab.Transfer(soon(t), from.Node, to.Node, to.Spec.Addrs[i].Addr(), size)
					require.NoError(t, err)
					tx, _ := hosts[way[0]].carried()
					_, rx := hosts[way[1]].carried()
					require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
					require.Greater(t, rx.Bytes-rx0.Bytes, uint64(size))
				}
			}
			if c.two {
				failOver(t, hosts, one, two)
			}
		})
	}
}

// failOver has the cables of a host's bond fail in turn. Domains lose no more than the hosts do by themselves.
func failOver(t *testing.T, hosts []*testHost, one, two *lab.Domain) {
	t.Helper()
	a, b := hosts[0], hosts[1]
	streams := []*stream{
		startStream(t, one, two, time.Millisecond), startStream(t, two, one, time.Millisecond),
		startStreamTo(t, a.Node, b.Node, b.Addr(), time.Millisecond), startStreamTo(t, b.Node, a.Node, a.Addr(), time.Millisecond),
	}
	arrive := func() {
		for _, s := range streams {
			s.arrives()
		}
	}
	// status is what the bond says of a card: "up", "down".
	status := func(card string) string {
		out, err := a.Host.Run(soon(t), "cat", "/proc/self/net/bonding/bond0")
		require.NoError(t, err)
		_, of, _ := strings.Cut(out, "Slave Interface: "+card+"\n")
		_, of, _ = strings.Cut(of, "MII Status: ")
		of, _, _ = strings.Cut(of, "\n")
		return of
	}
	arrive()
	for range 2 {
		for _, u := range a.Uplinks {
			require.NoError(t, u.Unplug())
			eventually(t, "the bond notices", func() bool { return status(u.Device) == "down" })
			arrive()
			require.NoError(t, u.Plug())
			eventually(t, "the bond notices", func() bool { return status(u.Device) == "up" })
			arrive()
		}
	}
	var sent, lost [4]int
	for i, s := range streams {
		var doubled int
		sent[i], lost[i], doubled = s.end()
		require.Zero(t, doubled)
	}
	t.Logf("lost in the vnet %d of %d and %d of %d, between the hosts %d of %d and %d of %d",
		lost[0], sent[0], lost[1], sent[1], lost[2], sent[2], lost[3], sent[3])
	for i := range 2 { // a failure takes some 10 ms
		require.LessOrEqual(t, lost[i], lost[2+i]+sent[2+i]/20)
	}
	awaitFast(t, one, two, hosts...)
}

// TestBypassNetkit: frames of domains that have netkit devices pass their bridges by, both ways, are counted, and stay in
// their vnet.
func TestBypassNetkit(t *testing.T) {
	cfg := fastConfig()
	cfg.Bypass = BypassAuto
	_, _, hosts := newLab(t, 2, cfg)
	hosts[0].NeedNetkit(t)
	add(t, "97", hosts...)
	add(t, "98", hosts...)
	var d97, d98 [2]*lab.Domain
	for i, h := range hosts {
		d97[i] = h.domainOf(1+i, "97", lab.DomainSpec{Netkit: true})
		d98[i] = h.domainOf(3+i, "98", lab.DomainSpec{Netkit: true})
	}
	for i := range 2 { // the bridges learn all MACs, and the hosts, too
		ping(t, d98[i], d98[1-i].Addr())
	}
	awaitFast(t, d97[0], d97[1], hosts...)
	for _, h := range hosts {
		eventually(t, "both domains pass their bridges by", func() bool {
			ports := h.Counters().FastPath.Ports
			return len(ports) == 2 && ports[0].Way == fastpath.WayPeer && ports[1].Way == fastpath.WayPeer
		})
	}
	const size = 16 << 20
	for i := range 2 {
		for k := range d97[1].Spec.Addrs {
			tx0, _ := hosts[i].carried()
			_, rx0 := hosts[1-i].carried()
			_, err := lab.Transfer(soon(t), d97[i].Node, d97[1-i].Node, d97[1-i].Spec.Addrs[k].Addr(), size)
			require.NoError(t, err)
			tx, _ := hosts[i].carried()
			_, rx := hosts[1-i].carried()
			require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
			require.Greater(t, rx.Bytes-rx0.Bytes, uint64(size))
		}
	}
	// What vnet 98 sends to a MAC of vnet 97, from its own MAC or another's, does not get there.
	in := capture(t, d97[1])
	for n, source := range []*lab.Domain{d98[0], d98[1], d97[0]} {
		for k, d := range d98 { // not the same, or the hosts would take one for the other that came back
			require.NoError(t, d.Send("eth0", testFrame(d97[1].Spec.MAC, source.Spec.MAC, fmt.Sprint("from 98: ", n, k))))
		}
	}
	ping(t, d98[0], d98[1].Addr()) // behind them
	last := testFrame(d97[1].Spec.MAC, d97[0].Spec.MAC, "from 97")
	require.NoError(t, d97[0].Send("eth0", last))
	f, err := in.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, last, f.Data[:len(last)])
}
