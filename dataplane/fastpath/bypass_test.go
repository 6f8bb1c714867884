package fastpath

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/bpftest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// TestChooseWay: past the bridge only where it would do nothing but forward, and else with the reason.
func TestChooseWay(t *testing.T) {
	up := func(l hostnet.Link) hostnet.Link {
		l.Flags, l.MTU = net.FlagUp|net.FlagRunning, 1500
		return l
	}
	port := func(l hostnet.Link) hostnet.PortTraits {
		return hostnet.PortTraits{Link: up(l), Forwarding: true, Learning: true, Promiscuity: 1}
	}
	filter := []hostnet.DeviceProgram{{Kind: "flower"}}
	for name, c := range map[string]struct {
		change func(b *BridgeState, p *PortState)
		want   Way
		why    string
	}{
		"pair":                   {func(*BridgeState, *PortState) {}, WayPeer, ""},
		"netkit":                 {func(_ *BridgeState, p *PortState) { p.Kind = "netkit" }, WayPeer, ""},
		"netkit that decides":    {func(_ *BridgeState, p *PortState) { p.Kind, p.Decides = "netkit", true }, WayEgress, ""},
		"pair here":              {func(_ *BridgeState, p *PortState) { p.PartnerAway = false }, WayEgress, ""},
		"pair that is shaped":    {func(_ *BridgeState, p *PortState) { p.Qdisc = "tbf" }, WayEgress, ""},
		"netback":                {func(_ *BridgeState, p *PortState) { p.Kind, p.PartnerAway = "", false }, WayEgress, ""},
		"tap":                    {func(_ *BridgeState, p *PortState) { p.Kind, p.PartnerAway = "tun", false }, WayEgress, ""},
		"card":                   {func(_ *BridgeState, p *PortState) { p.Kind, p.Name = "", "eth1" }, WayBridge, "it is no domain's vif"},
		"VLAN":                   {func(_ *BridgeState, p *PortState) { p.Kind = "vlan" }, WayBridge, "it is no domain's vif"},
		"down":                   {func(_ *BridgeState, p *PortState) { p.Flags = 0 }, WayBridge, "it is down"},
		"bridge is down":         {func(b *BridgeState, _ *PortState) { b.Flags = 0 }, WayBridge, "bridge vnet97 is down"},
		"STP":                    {func(b *BridgeState, _ *PortState) { b.STP = true }, WayBridge, "bridge vnet97 speaks the spanning tree protocol"},
		"VLANs":                  {func(b *BridgeState, _ *PortState) { b.VLANFiltering = true }, WayBridge, "bridge vnet97 filters VLANs"},
		"no memory":              {func(b *BridgeState, _ *PortState) { b.Ageing = 0 }, WayBridge, "bridge vnet97 forgets MACs after 0 s, and 180 are needed"},
		"capture":                {func(b *BridgeState, _ *PortState) { b.Promiscuous = true }, WayBridge, "somebody captures on bridge vnet97"},
		"firewall":               {func(b *BridgeState, _ *PortState) { b.Firewall = "ebtables" }, WayBridge, "the host's firewall may have a word: ebtables"},
		"vnif elsewhere":         {func(b *BridgeState, _ *PortState) { b.Vnif = hostnet.PortTraits{} }, WayBridge, "the vnif is no port of bridge vnet97"},
		"vnif blocks":            {func(b *BridgeState, _ *PortState) { b.Vnif.Forwarding = false }, WayBridge, "port vnif97 does not forward"},
		"vnif has a filter":      {func(b *BridgeState, _ *PortState) { b.VnifPrograms = filter }, WayBridge, "port vnif97 has a filter of others at TC (flower)"},
		"port blocks":            {func(_ *BridgeState, p *PortState) { p.Forwarding = false }, WayBridge, "port vif1.0 does not forward"},
		"port does not learn":    {func(_ *BridgeState, p *PortState) { p.Learning = false }, WayBridge, "port vif1.0 does not learn"},
		"port is isolated":       {func(_ *BridgeState, p *PortState) { p.Special = []string{"isolated"} }, WayBridge, "port vif1.0 is set to isolated"},
		"capture on the port":    {func(_ *BridgeState, p *PortState) { p.Promiscuity = 2 }, WayBridge, "somebody captures on port vif1.0"},
		"port has a filter":      {func(_ *BridgeState, p *PortState) { p.Programs = filter }, WayBridge, "port vif1.0 has a filter of others at TC (flower)"},
		"port has a TCX program": {func(_ *BridgeState, p *PortState) { p.Programs = []hostnet.DeviceProgram{{Kind: "tcx", ID: 7}} }, WayBridge, "port vif1.0 has a filter of others at TC (tcx)"},
		"port has one of our own": {func(_ *BridgeState, p *PortState) {
			p.Programs = others([]hostnet.DeviceProgram{{Kind: "bpf", Name: "xend_vif"}, {Kind: "tcx", ID: 9}}, 9)
		}, WayPeer, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := BridgeState{BridgeTraits: hostnet.BridgeTraits{Link: up(hostnet.Link{Name: "vnet97", Kind: "bridge"}), Ageing: 30000}}
			b.Vnif = port(hostnet.Link{Name: "vnif97", Index: 7, Kind: "veth"})
			p := PortState{PortTraits: port(hostnet.Link{Name: "vif1.0", Index: 8, Kind: "veth", PartnerAway: true}), Qdisc: "noqueue"}
			c.change(&b, &p)
			got, why := ChooseWay(b, p)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.why, why)
		})
	}
}

// onVif is known, with its vnif on another device: the loopback device is a vif of the vnet, with the local MAC.
func onVif(t *testing.T) *Tables {
	t.Helper()
	p := known(t, there4)
	require.NoError(t, p.AddVnet(vnet97, loopback+1, 1500))
	require.NoError(t, p.letVif(vnet97, loopback))
	p.putVif(t, local, loopback)
	p.until(t, time.Hour)
	return p
}

func (p *Tables) putVif(t *testing.T, mac wire.MAC, index uint32) {
	t.Helper()
	slot, ok := p.slot(vnet97)
	require.True(t, ok)
	require.NoError(t, p.bpf.Vifs.Put(&bpfMacKey{Slot: slot, Mac: mac}, &bpfVif{Ifindex: index, Way: uint16(WayEgress), Mtu: 1500}))
}

func (p *Tables) until(t *testing.T, d time.Duration) {
	t.Helper()
	require.NoError(t, p.bpf.BypassUntil.Put(uint32(0), Now()+uint64(d)))
}

// bridged has a MAC's last frame by the bridge be just now.
func (p *Tables) bridged(t *testing.T, mac wire.MAC) {
	t.Helper()
	slot, _ := p.slot(vnet97)
	k := bpfMacKey{Slot: slot, Mac: mac}
	var m bpfMac
	require.NoError(t, p.bpf.Macs.Lookup(&k, &m))
	m.Bridged = Now()
	require.NoError(t, p.bpf.Macs.Put(&k, &m))
}

func TestVifIn(t *testing.T) {
	frame := ethernet(remote, local, 0x0800, udp4(t, 100))
	t.Run("once by the bridge, then past it", func(t *testing.T) {
		p := onVif(t)
		r := run(t, p.bpf.VifIn, frame, 0)
		require.EqualValues(t, pass, r.action, "so that the bridge knows the MAC")
		require.Equal(t, frame, r.packet)
		for range 3 {
			r = run(t, p.bpf.VifIn, frame, 0)
			require.EqualValues(t, redirect, r.action)
			require.Equal(t, append(wire.AppendVUDP(nil, vnet97), frame...), r.packet[42:])
		}
		c, _ := p.VnetCounters(vnet97)
		assert.EqualValues(t, 3, c.TxFrames)
	})
	for name, c := range map[string]struct {
		change func(p *Tables)
		frame  []byte
	}{
		"nobody has looked":   {func(p *Tables) { p.until(t, -time.Second) }, frame},
		"no MAC of this vif":  {nil, ethernet(remote, wire.MAC{0, 0x16, 0x3e, 0, 0, 9}, 0x0800, udp4(t, 100))},
		"broadcast":           {nil, ethernet(wire.MAC{255, 255, 255, 255, 255, 255}, local, 0x0800, udp4(t, 100))},
		"unknown destination": {nil, ethernet(wire.MAC{0, 0x16, 0x3e, 0, 0, 9}, local, 0x0800, udp4(t, 100))},
		"tag":                 {nil, ethernet(remote, local, 0x8100, append([]byte{0, 1, 8, 0}, udp4(t, 100)...))},
		"SYN":                 {nil, ethernet(remote, local, 0x0800, syn(tcp4(0), 20))},
		"longer than the bridge's": {func(p *Tables) {
			require.NoError(t, p.AddVnet(vnet97, loopback+1, 100))
			require.NoError(t, p.letVif(vnet97, loopback))
		}, frame},
		"vnet is gone": {func(p *Tables) { require.NoError(t, p.bpf.VnetOfVnif.Delete(uint32(loopback))) }, frame},
	} {
		t.Run(name, func(t *testing.T) {
			p := onVif(t)
			p.bridged(t, local)
			if c.change != nil {
				c.change(p)
			}
			before, err := p.Left()
			require.NoError(t, err)
			r := run(t, p.bpf.VifIn, c.frame, 0)
			assert.EqualValues(t, pass, r.action)
			assert.Equal(t, c.frame, r.packet)
			after, err := p.Left()
			require.NoError(t, err)
			assert.Equal(t, before, after, "the vnif counts")
		})
	}
	t.Run("another's MAC", func(t *testing.T) {
		p := onVif(t)
		p.bridged(t, local)
		p.putVif(t, local, loopback+5) // the bridge says that it is elsewhere
		for range 2 {
			r := run(t, p.bpf.VifIn, frame, 0)
			require.EqualValues(t, pass, r.action)
		}
		slot, _ := p.slot(vnet97)
		var v bpfVif
		assert.Error(t, p.bpf.Vifs.Lookup(&bpfMacKey{Slot: slot, Mac: local}, &v), "until the bridge was asked")
	})
}

// bypass runs a Bypass on a host, and tells of changes.
func (e *endpoint) bypass(t *testing.T) *Bypass {
	t.Helper()
	var own *hostnet.Host
	require.NoError(t, e.Do(func() (err error) {
		own, err = hostnet.New()
		return err
	}))
	b := NewBypass(e.Tables, own)
	bridge, err := e.Net.LinkByName("vnet97")
	require.NoError(t, err)
	vnif, err := e.Net.LinkByName("vnif97")
	require.NoError(t, err)
	b.Set(map[vnet.ID]BypassVnet{vnet97: {Bridge: bridge.Index, Vnif: vnif.Index}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		own.Close()
	})
	return b
}

// chosen waits until a way has been chosen for vif1.0, with a reason that contains why.
func chosen(t *testing.T, b *Bypass, want Way, why string) {
	t.Helper()
	chosenWhile(t, b, want, why, func() {})
}

// chosenWhile is chosen with a look at something else meanwhile.
func chosenWhile(t *testing.T, b *Bypass, want Way, why string, look func()) {
	t.Helper()
	var got []BypassedPort
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		look()
		got = b.Ports()
		for _, p := range got {
			if p.Name == "vif1.0" && p.Way == want && strings.Contains(p.Reason, why) {
				return
			}
		}
	}
	require.Fail(t, "not chosen", "%v %q: %+v", want, why, got)
}

// ends waits until a policy that is there now has taken the bypass back. No look that begins after it lets the kernel pass bridges
// by, so that ends a second later at the latest, however slow the machine is.
func (e *endpoint) ends(t *testing.T, b *Bypass, why string) {
	t.Helper()
	last := Now() + uint64(bypassTTL)
	chosenWhile(t, b, WayBridge, why, func() {
		var until uint64
		require.NoError(t, e.bpf.BypassUntil.Lookup(uint32(0), &until))
		require.LessOrEqual(t, until, last, "a look has not seen the policy")
	})
}

// onlyAtVifs takes the program off a host's vnif: what is encapsulated from now on, and counted as sent, comes from vifs
// whose frames pass the bridge by. The other host's vnif gets what goes by the bridge.
func (e *endpoint) onlyAtVifs(t *testing.T) {
	t.Helper()
	vnif, err := e.Net.LinkByName("vnif97")
	require.NoError(t, err)
	require.NoError(t, e.Net.DetachClassifier(hostnet.Classifier{Index: vnif.Index, Egress: true, Priority: 10, Name: "xend_out"}))
}

// sent is how many bytes a host has encapsulated.
func (e *endpoint) sent(t *testing.T) uint64 {
	t.Helper()
	c, ok := e.VnetCounters(vnet97)
	require.True(t, ok)
	return c.TxBytes
}

// listen counts the bytes that come by a device from now on, until the returned function is called. Other than a capture
// it asks for no more than the device would take anyway; a program counts, so that none is missed for want of room.
func (e *endpoint) listen(t *testing.T, device string) func() int {
	t.Helper()
	prog, count := bpftest.ByteCounter(t)
	c := e.packets(t, device)
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_BPF, prog.FD())
	}))
	require.NoError(t, err)
	return func() int {
		require.NoError(t, c.Close())
		return int(count())
	}
}

// capture has a device receive all frames, as a program does that captures on it, until the returned function is called.
func (e *endpoint) capture(t *testing.T, device string) func() {
	t.Helper()
	c := e.packets(t, device)
	require.NoError(t, c.SetPromiscuous(true))
	return func() { require.NoError(t, c.Close()) }
}

// packets is a packet socket at a device.
func (e *endpoint) packets(t *testing.T, device string) (c *packet.Conn) {
	t.Helper()
	l, err := e.Net.LinkByName(device)
	require.NoError(t, err)
	require.NoError(t, e.Do(func() (err error) {
		c, err = packet.Listen(&net.Interface{Index: l.Index, Name: device}, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	}))
	return c
}

// patience is for what takes milliseconds, on a machine that is busy with something else.
const patience = 30 * time.Second

// knownVif waits until the kernel may pass the bridge by for the domain's MAC.
func (e *endpoint) knownVif(t *testing.T) {
	t.Helper()
	slot, _ := e.slot(vnet97)
	require.Eventually(t, func() bool {
		var v bpfVif
		return e.bpf.Vifs.Lookup(&bpfMacKey{Slot: slot, Mac: [6]byte(e.domain.Spec.MAC)}, &v) == nil
	}, patience, time.Millisecond)
}

// TestBypass: frames pass the bridge by, with XDP and without; and not once it has a policy.
func TestBypass(t *testing.T) {
	for _, xdp := range []bool{false, true} {
		for _, c := range []struct {
			name   string
			egress bool // a queueing discipline of the vif's own stays in the way
			netkit bool
			want   Way
		}{
			{name: "peer", want: WayPeer}, {name: "egress", egress: true, want: WayEgress}, {name: "netkit", netkit: true, want: WayPeer},
		} {
			t.Run(map[bool]string{false: "TC", true: "XDP"}[xdp]+", "+c.name, func(t *testing.T) {
				e := endpointsOf(t, false, c.egress, lab.DomainSpec{Netkit: c.netkit})
				for _, h := range e {
					if xdp {
						h.strip(t)
					}
					if c.egress {
						_, err := h.Run(t.Context(), "tc", "qdisc", "add", "dev", "vif1.0", "root", "pfifo", "limit", "10000")
						require.NoError(t, err)
					}
				}
				want := c.want
				one, two := e[0], e[1]
				b := [2]*Bypass{one.bypass(t), two.bypass(t)}
				transfer(t, one, two, two.domain.Spec.Addrs[0].Addr(), 1<<20) // the bridges learn
				for i, h := range e {
					chosen(t, b[i], want, "")
					h.knownVif(t)
				}
				one.onlyAtVifs(t)
				for _, to := range two.domain.Spec.Addrs {
					// A machine that is so slow that it looks too late takes to the bridge for a while: one transfer of ten
					// must pass, in an emulator half of one.
					const size = 16 << 20
					out, in, most := uint64(0), size, size/10
					if os.Getenv("XEND_TEST_VM") != "" {
						most = size / 2
					}
					for range 10 {
						before := one.sent(t)
						bridged := two.listen(t, "vnif97")
						transfer(t, one, two, to.Addr(), size)
						if out, in = one.sent(t)-before, bridged(); out > size/10*9 && in < most {
							break
						}
					}
					assert.Greater(t, out, uint64(size/10*9), "bytes that passed the bridge by on their way out")
					assert.Less(t, in, most, "bytes that did not on their way in")
					t.Logf("of %d bytes %d passed the bridge by on their way out, and %d did not on their way in", size, out, in)
				}
			})
		}
	}
}

// TestVifGone: frames for a vif that is gone, of which user space has not heard yet, go by the bridge, as those of a domain that was
// started anew at once.
func TestVifGone(t *testing.T) {
	for name, way := range map[string]Way{"peer": WayPeer, "egress": WayEgress} {
		for in, attach := range map[string]func(*testing.T, *endpoint){
			"TC":     func(*testing.T, *endpoint) {},
			"XDP":    func(t *testing.T, e *endpoint) { e.strip(t) },
			"joined": func(t *testing.T, e *endpoint) { e.join(t) },
		} {
			if way == WayEgress && in != "TC" {
				continue // the same
			}
			t.Run(in+", "+name, func(t *testing.T) {
				e := endpoints(t, false, false)
				one, two := e[0], e[1]
				attach(t, two)
				_, err := two.Run(t.Context(), "ip", "link", "add", "old", "type", "bridge") // as any device
				require.NoError(t, err)
				old, err := two.Net.LinkByName("old")
				require.NoError(t, err)
				require.NoError(t, two.Do(func() error { return two.hasVif(old.Index) }))
				var index uint32
				require.NoError(t, two.bpf.VifDevices.Lookup(uint32(old.Index), &index))
				require.NoError(t, two.Net.Delete(old.Index))
				two.bridged(t, wire.MAC(one.domain.Spec.MAC))
				k := bpfMacKey{Mac: wire.MAC(two.domain.Spec.MAC)}
				require.NoError(t, two.bpf.Vifs.Put(&k, &bpfVif{Ifindex: uint32(old.Index), Way: uint16(way), Mtu: 1500}))
				two.until(t, time.Minute)
				got, err := two.domain.Capture("eth0", func(f lab.Frame) bool { return !f.Outgoing && len(f.Data) > 23 && f.Data[23] == 6 })
				require.NoError(t, err)
				for n := range 10 {
					require.NoError(t, one.Send(wired, two.segment(t, one, 1000-100*n)))
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					_, err := got.Next(ctx)
					cancel()
					require.NoError(t, err, "segment %d", n)
				}
				c, _ := two.VnetCounters(vnet97)
				assert.EqualValues(t, 10, c.RxFrames, "the kernel took them")
			})
		}
	}
}

// TestVifMoved: a frame that comes by another port has frames for its MAC go by the bridge, until user space has heard where it is.
func TestVifMoved(t *testing.T) {
	e := endpoints(t, false, true)
	one, two := e[0], e[1]
	vif, err := two.Net.LinkByName("vif1.0")
	require.NoError(t, err)
	k := bpfMacKey{Mac: wire.MAC(two.domain.Spec.MAC)}
	group := append([]byte{255, 255, 255, 255, 255, 255}, two.domain.Spec.MAC...)
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"to a MAC", ethernet(wire.MAC(one.domain.Spec.MAC), k.Mac, 0x88b5, make([]byte, 50))},
		{"to all", append(append(group, 0x88, 0xb5), make([]byte, 50)...)},
		{"to a MAC that is not known", ethernet(wire.MAC{2, 9, 9, 9, 9, 9}, k.Mac, 0x88b5, make([]byte, 50))},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := one.Capture("vnet97", func(f lab.Frame) bool { return f.EtherType() == 0x88b5 })
			require.NoError(t, err)
			defer got.Close()
			for _, port := range []int{vif.Index, two.card.Index} {
				require.NoError(t, two.bpf.Vifs.Put(&k, &bpfVif{Ifindex: uint32(port), Way: uint16(WayEgress), Mtu: 1500}))
				require.NoError(t, two.domain.Send("eth0", c.frame))
				_, err := got.Next(t.Context())
				require.NoError(t, err)
				var v bpfVif
				if err := two.bpf.Vifs.Lookup(&k, &v); port == vif.Index {
					require.NoError(t, err, "it is where it was")
				} else {
					require.ErrorIs(t, err, ebpf.ErrKeyNotExist)
				}
				two.changed() // or the program remembers
			}
		})
	}
}

// TestBypassEnds: a policy that appears on the bridge takes the bypass back, and frames are seen by it.
func TestBypassEnds(t *testing.T) {
	e := endpoints(t, false, true)
	one, two := e[0], e[1]
	for _, name := range []string{"iptables", "ip6tables", "arptables"} { // whatever this kernel's default is
		_, _ = one.Run(t.Context(), "sysctl", "-q", "-w", "net.bridge.bridge-nf-call-"+name+"=0")
	}
	b := one.bypass(t)
	to := two.domain.Spec.Addrs[0].Addr()
	transfer(t, one, two, to, 1<<20)
	one.onlyAtVifs(t)
	command := func(t *testing.T, line string) {
		t.Helper()
		_, err := one.Run(t.Context(), "sh", "-c", line)
		if err != nil && (strings.Contains(err.Error(), "not supported") || strings.Contains(err.Error(), "classifier not found")) {
			t.Skipf("this kernel can't (Debian's can): %v", err)
		}
		require.NoError(t, err)
	}
	for _, c := range []struct{ name, begin, end, why string }{
		{"VLANs", "ip link set vnet97 type bridge vlan_filtering 1", "ip link set vnet97 type bridge vlan_filtering 0", "filters VLANs"},
		{"STP", "ip link set vnet97 type bridge stp_state 1", "ip link set vnet97 type bridge stp_state 0", "spanning tree"},
		{"isolated", "bridge link set dev vif1.0 isolated on", "bridge link set dev vif1.0 isolated off", "isolated"},
		{"locked", "bridge link set dev vif1.0 locked on", "bridge link set dev vif1.0 locked off", "locked"},
		{"learning", "bridge link set dev vif1.0 learning off", "bridge link set dev vif1.0 learning on", "does not learn"},
		{"ageing", "ip link set vnet97 type bridge ageing_time 1000", "ip link set vnet97 type bridge ageing_time 30000", "forgets"},
		{"capture", "ip link set vnet97 promisc on", "ip link set vnet97 promisc off", "captures"},
		{"nft bridge", "nft add table bridge guard", "nft delete table bridge guard", "nft table bridge guard"},
		{"nft netdev", "nft add table netdev guard", "nft delete table netdev guard", "nft table netdev guard"},
		{"br_netfilter", "ip link set vnet97 type bridge nf_call_iptables 1 && nft add table ip guard",
			"nft delete table ip guard && ip link set vnet97 type bridge nf_call_iptables 0", "br_netfilter"},
		{"br_netfilter by sysctl", "sysctl -q -w net.bridge.bridge-nf-call-iptables=1 && nft add table ip guard",
			"nft delete table ip guard && sysctl -q -w net.bridge.bridge-nf-call-iptables=0", "br_netfilter"},
		{"mirroring", "tc qdisc show dev vif1.0 | grep -q clsact || tc qdisc add dev vif1.0 clsact; tc filter add dev vif1.0 egress matchall action mirred egress mirror dev lo",
			"tc filter del dev vif1.0 egress", "port vif1.0 has a filter of others at TC (matchall)"},
		{"capture on the port", "", "capture", "somebody captures on port vif1.0"},
		{"filter", "", "vif1.0", "port vif1.0 has a filter of others at TC (bpf)"},
		{"filter at the vnif", "", "vnif97", "port vnif97 has a filter of others at TC (bpf)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.end == "capture" {
				chosen(t, b, WayPeer, "")
				stop := one.capture(t, "vif1.0")
				one.ends(t, b, c.why)
				stop()
				chosen(t, b, WayPeer, "")
				return
			}
			if c.begin == "" { // kernels differ in what other filters they have
				l, err := one.Net.LinkByName(c.end)
				require.NoError(t, err)
				at := hostnet.Classifier{Index: l.Index, Egress: c.end == "vnif97", Priority: 5, Name: "other"}
				require.NoError(t, one.Net.AttachClassifier(at, one.In()))
				one.ends(t, b, c.why)
				require.NoError(t, one.Net.DetachClassifier(at))
				chosen(t, b, WayPeer, "")
				return
			}
			if _, err := one.Run(t.Context(), "sysctl", "net.bridge.bridge-nf-call-iptables"); err != nil && strings.Contains(c.begin, "sysctl") {
				t.Skipf("br_netfilter is not there: %v", err)
			}
			chosen(t, b, WayPeer, "")
			transfer(t, one, two, to, 64<<10) // who was forgotten is learned again
			one.knownVif(t)
			command(t, c.begin)
			one.ends(t, b, c.why)
			before := one.sent(t)
			transfer(t, one, two, to, 1<<20)
			assert.Equal(t, before, one.sent(t), "the bridge has its word")
			command(t, c.end)
			chosen(t, b, WayPeer, "")
			one.knownVif(t)
			// A machine that is so slow that it looks too late takes to the bridge for a while.
			for deadline := time.Now().Add(patience); one.sent(t) == before && time.Now().Before(deadline); {
				transfer(t, one, two, to, 1<<20)
			}
			assert.Greater(t, one.sent(t), before, "and lets it pass again")
		})
	}
}

// TestNetkitDecides: what a netkit device has been told to do with what it sends is done past the bridge, too.
func TestNetkitDecides(t *testing.T) {
	e := endpointsOf(t, false, true, lab.DomainSpec{Netkit: true})
	one, two := e[0], e[1]
	b := two.bypass(t)
	to := two.domain.Spec.Addrs[0].Addr()
	transfer(t, one, two, to, 1<<20)
	chosen(t, b, WayPeer, "")
	two.knownVif(t)
	vif, err := two.Net.LinkByName("vif1.0")
	require.NoError(t, err)
	drop := bpftest.New(t, ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: ebpf.AttachNetkitPrimary}, bpftest.Shot)
	pings, err := one.domain.StartPing(to, lab.PingOptions{Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	defer pings.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = pings.Fresh(ctx)
	require.NoError(t, err)

	var l bpflink.Link
	require.NoError(t, two.Do(func() (err error) {
		l, err = bpflink.AttachNetkit(bpflink.NetkitOptions{Interface: vif.Index, Program: drop, Attach: ebpf.AttachNetkitPrimary})
		return err
	}))
	chosen(t, b, WayEgress, "")
	before := pings.Stats()
	for pings.Stats().Sent < before.Sent+50 {
		require.NoError(t, ctx.Err())
		time.Sleep(time.Millisecond)
	}
	assert.LessOrEqual(t, pings.Stats().Received, before.Sent, "but for those that were under way")
	require.NoError(t, l.Close())
	chosen(t, b, WayPeer, "")
	_, err = pings.Fresh(ctx)
	require.NoError(t, err)
}
