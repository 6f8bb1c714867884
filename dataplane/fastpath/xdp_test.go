package fastpath

import (
	"cmp"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// TestChooseIngress: XDP only where it is faster and harms nobody, and each other choice with its reason.
func TestChooseIngress(t *testing.T) {
	plain := Device{Name: "eth0", MTU: 1500}
	for name, c := range map[string]struct {
		change func(d *Device)
		want   Ingress
		why    string
		xdp    XDP // "": auto
	}{
		"plain card":        {func(*Device) {}, IngressXDP, "it segments no UDP tunnels", ""},
		"plain veth":        {func(d *Device) { d.Kind = "veth" }, IngressTC, "it is a veth, where XDP copies each packet", ""},
		"wanted on a veth":  {func(d *Device) { d.Kind = "veth" }, IngressXDP, "it segments no UDP tunnels", XDPOn},
		"not wanted":        {func(*Device) {}, IngressTC, "the configuration wants no XDP", XDPOff},
		"port of a bridge":  {func(d *Device) { d.Master = "bridge" }, IngressXDP, "it segments no UDP tunnels", ""},
		"largest MTU":       {func(d *Device) { d.MTU = 3502 }, IngressXDP, "it segments no UDP tunnels", ""},
		"segments tunnels":  {func(d *Device) { d.SegmentsTunnels = true }, IngressTC, "it segments UDP tunnels", ""},
		"VLAN device":       {func(d *Device) { d.Kind = "vlan" }, IngressTC, "it is a device of kind vlan, and native XDP is for network cards", ""},
		"bridge":            {func(d *Device) { d.Kind = "bridge" }, IngressTC, "it is a device of kind bridge, and native XDP is for network cards", ""},
		"slave of a bond":   {func(d *Device) { d.Master = "bond" }, IngressTC, "it is a port of a bond, which would see stripped frames", ""},
		"jumbo":             {func(d *Device) { d.MTU = 9000 }, IngressTC, "its MTU 9000 is above 3502, so that packets would need several buffers at XDP", ""},
		"VLANs above":       {func(d *Device) { d.VLANs = true }, IngressTC, "it takes VLAN tags off before XDP, and has VLAN devices (ethtool -K … rxvlan off lets XDP see them)", ""},
		"program of others": {func(d *Device) { d.XDP = 7 }, IngressTC, "another XDP program (id 7) is attached to it", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := plain
			c.change(&d)
			got, why := ChooseIngress(d, cmp.Or(c.xdp, XDPAuto))
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.why, why)
		})
	}
}

// The verdicts of XDP.
const (
	xdpDrop = 1
	xdpPass = 2
)

// markSize is the size of struct mark.
const markSize = 32

func runXDP(t *testing.T, prog *ebpf.Program, packet []byte) result {
	t.Helper()
	out := make([]byte, 4096)
	o := ebpf.RunOptions{Data: packet, DataOut: out}
	action, err := prog.Run(&o)
	require.NoError(t, err)
	return result{int32(action), o.DataOut}
}

// stripping is known, with an XDP program on the loopback device whose TC program answered just now.
func stripping(t *testing.T, there netip.Addr) (*Tables, *Stripper) {
	t.Helper()
	p := known(t, there)
	s, err := p.LoadXDP()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.allow(Device{Name: "lo", Index: loopback}))
	s.answered(t, loopback, Now())
	return p, s
}

// answered sets when TC gave its last answer.
func (s *Stripper) answered(t testing.TB, index int, at uint64) {
	t.Helper()
	var v xdpIngress
	require.NoError(t, s.tables.bpf.Ingresses.Lookup(uint32(index), &v))
	v.Answered = at
	require.NoError(t, s.tables.bpf.Ingresses.Put(uint32(index), &v))
	s.tables.changed() // or wait for some ms
}

// generation is that of a device's programs.
func (s *Stripper) generation(t testing.TB, index int) uint32 {
	t.Helper()
	var v xdpIngress
	require.NoError(t, s.tables.bpf.Ingresses.Lookup(uint32(index), &v))
	require.NotZero(t, v.Generation)
	return v.Generation
}

// TestStripsForAWhile: once nobody looks any more whether TC is first, nothing is stripped.
func TestStripsForAWhile(t *testing.T) {
	_, s := stripping(t, there4)
	packet := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, tcp4(1000)))
	generation := s.generation(t, loopback)
	require.Less(t, len(runXDP(t, s.prog, packet).packet), len(packet), "stripped")
	var v xdpIngress
	require.NoError(t, s.tables.bpf.Ingresses.Lookup(uint32(loopback), &v))
	assert.InDelta(t, Now()+uint64(stripFor), v.Until, 2e9)
	v.Until = ago(time.Second)
	require.NoError(t, s.tables.bpf.Ingresses.Put(uint32(loopback), &v))
	s.tables.changed() // or wait for some ms
	assert.Equal(t, packet, runXDP(t, s.prog, packet).packet)
	require.NoError(t, s.allow(Device{Name: "lo", Index: loopback})) // somebody has looked
	assert.Less(t, len(runXDP(t, s.prog, packet).packet), len(packet))
	assert.Equal(t, generation, s.generation(t, loopback), "what is under way is taken")
}

func TestStrip(t *testing.T) {
	for name, frame := range map[string][]byte{
		"IPv4": ethernet(local, remote, 0x0800, tcp4(1000)),
		"IPv6": ethernet(local, remote, 0x86dd, ipv6(6, here6, there6, tcp(1000))),
		"ACK":  ethernet(local, remote, 0x0800, tcp4(0)),
	} {
		for _, u := range []struct{ here, there netip.Addr }{{here4, there4}, {here6, there6}} {
			t.Run(name+" from "+u.there.String(), func(t *testing.T) {
				p, s := stripping(t, u.there)
				long := max(1, ago(30*time.Second))
				require.NoError(t, p.PutRemote(vnet97, remote, u.there, long))
				packet := outer(t, u.there, u.here, vnet97, frame)
				r := runXDP(t, s.prog, packet)
				require.EqualValues(t, xdpPass, r.action)
				require.Len(t, r.packet, markSize+len(frame))
				mark, got := r.packet[:markSize], r.packet[markSize:]
				ne := binary.NativeEndian
				assert.EqualValues(t, 0x76786e64, ne.Uint32(mark))
				assert.Equal(t, s.generation(t, loopback), ne.Uint32(mark[4:]))
				assert.Equal(t, local[:], mark[8:14])
				assert.EqualValues(t, 2, ne.Uint16(mark[14:]), "kind")
				assert.EqualValues(t, loopback, ne.Uint32(mark[16:]), "vnif")
				assert.Equal(t, []byte{2, 0, 0, 0, 0, 0x5a}, got[:6], "an address that nobody takes")
				assert.Equal(t, frame[6:], got[6:])
				c, err := s.Counters()
				require.NoError(t, err)
				assert.Equal(t, StripCounters{Stripped: 1}, c)
				seen := false
				require.NoError(t, p.MACs(func(m MAC) { seen = seen || m.MAC == remote && m.Seen > long }))
				assert.True(t, seen, "the source was heard")
			})
		}
	}
}

// TestAsk: without an answer of TC nothing is stripped, but TC is asked.
func TestAsk(t *testing.T) {
	packet := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, tcp4(100)))
	for name, at := range map[string]uint64{"never": 0, "long ago": ago(time.Second)} {
		t.Run(name, func(t *testing.T) {
			_, s := stripping(t, there4)
			s.answered(t, loopback, at)
			for range 3 {
				r := runXDP(t, s.prog, packet)
				require.EqualValues(t, xdpPass, r.action)
				require.Equal(t, packet, r.packet[markSize:], "the packet stays as it is")
				assert.EqualValues(t, 1, binary.NativeEndian.Uint16(r.packet[14:]), "kind")
			}
			c, err := s.Counters()
			require.NoError(t, err)
			assert.Equal(t, StripCounters{Asked: 3}, c)
		})
	}
}

// TestLeftByXDP: what is not bulk TCP of which all is known is left to TC, untouched and without a mark.
func TestLeftByXDP(t *testing.T) {
	frame := ethernet(local, remote, 0x0800, tcp4(100))
	const ip, udp, message, inner = 14, 34, 42, 64
	patch := func(at int, b ...byte) func([]byte) { return func(p []byte) { copy(p[at:], b) } }
	for name, c := range map[string]struct {
		change func(p *Tables, s *Stripper) error
		patch  func([]byte)
		frame  []byte
	}{
		"SYN":                        {nil, nil, ethernet(local, remote, 0x0800, syn(tcp4(0), 20))},
		"UDP inside":                 {nil, nil, ethernet(local, remote, 0x0800, udp4(t, 100))},
		"ARP inside":                 {nil, nil, ethernet(local, remote, 0x0806, make([]byte, 46))},
		"tag inside":                 {nil, nil, ethernet(local, remote, 0x8100, append([]byte{0, 1, 8, 0}, tcp4(100)...))},
		"IPv4 options inside":        {nil, patch(inner+14, 0x46), nil},
		"fragment inside":            {nil, patch(inner+14+6, 0x20), nil},
		"later fragment inside":      {nil, patch(inner+14+7, 1), nil},
		"IPv6 extension header":      {nil, nil, ethernet(local, remote, 0x86dd, ipv6(0, here6, there6, tcp(100)))},
		"cut in the TCP header":      {nil, nil, ethernet(local, remote, 0x0800, tcp4(0)[:39])},
		"VARP":                       {nil, patch(message, 0, 1), nil},
		"other EtherIP version":      {nil, patch(message+4, 0x00, 0x30), nil},
		"UDP length":                 {nil, patch(udp+4, 0, 60), nil},
		"IP length too small":        {nil, patch(ip+2, 0, 100), nil},
		"IP length too large":        {nil, patch(ip+2, 2, 0), nil},
		"fragment":                   {nil, patch(ip+6, 0x20, 0), nil},
		"IP options":                 {nil, patch(ip, 0x46), nil},
		"TCP outside":                {nil, patch(ip+9, 6), nil},
		"other port":                 {nil, patch(udp+2, 0, 53), nil},
		"to the group":               {nil, patch(ip+16, 224, 10, 0, 1), nil},
		"to another address":         {nil, patch(ip+16, 192, 0, 2, 9), nil},
		"to another MAC":             {nil, patch(0, 2), nil},
		"broadcast inside":           {nil, patch(inner, 255), nil},
		"longer than the vnif takes": {func(p *Tables, _ *Stripper) error { return p.AddVnet(vnet97, loopback, 139) }, nil, nil},
		"outer checksum":             {nil, patch(udp+6, 0x12, 0x34), nil},
		"other vnet":                 {nil, patch(message+6+15, 0x55), nil},
		"unknown host":               {nil, patch(ip+12, 192, 0, 2, 77), nil},
		"MAC unknown":                {nil, patch(inner+6, 0, 9), nil},
		"MAC lives here":             {func(p *Tables, _ *Stripper) error { return p.PutLocal(vnet97, remote, Now()) }, nil, nil},
		"MAC is old": {func(p *Tables, _ *Stripper) error {
			return p.PutRemote(vnet97, remote, there4, ago(61*time.Second))
		}, nil, nil},
		"MAC is behind another host": {func(p *Tables, _ *Stripper) error {
			return p.PutRemote(vnet97, remote, netip.MustParseAddr("192.0.2.3"), Now())
		}, nil, nil},
		"host may not be heard": {func(p *Tables, _ *Stripper) error { return p.SetHost(there4, Host{Send: true}) }, nil, nil},
		"receiving is off":      {func(p *Tables, _ *Stripper) error { return p.ClearUnderlay(here4) }, nil, nil},
		"device is not allowed": {func(_ *Tables, s *Stripper) error { s.Forget(loopback); return nil }, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := stripping(t, there4)
			f := frame
			if c.frame != nil {
				f = c.frame
			}
			packet := outer(t, there4, here4, vnet97, f)
			if c.patch != nil {
				c.patch(packet)
			}
			if c.change != nil {
				require.NoError(t, c.change(p, s))
			}
			r := runXDP(t, s.prog, packet)
			assert.EqualValues(t, xdpPass, r.action)
			assert.Equal(t, packet, r.packet)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		_, s := stripping(t, there4)
		packet := outer(t, there4, here4, vnet97, frame)
		for n := 14; n < len(packet); n++ {
			r := runXDP(t, s.prog, packet[:n])
			require.EqualValues(t, xdpPass, r.action, "%d bytes", n)
			require.Equal(t, packet[:n], r.packet)
		}
	})
	t.Run("host is silent", func(t *testing.T) {
		p := load(t, Times{HostTTL: time.Hour, Renew: time.Nanosecond, RenewEvery: time.Hour})
		require.NoError(t, p.SetUnderlay(Underlay{Addr: here4, Index: loopback, MTU: 1500, Port: wire.Port, Receive: true}))
		require.NoError(t, p.AddVnet(vnet97, loopback, 1500))
		require.NoError(t, p.SetHost(there4, both))
		require.NoError(t, p.PutRemote(vnet97, remote, there4, Now()))
		s, err := p.LoadXDP()
		require.NoError(t, err)
		t.Cleanup(s.Close)
		require.NoError(t, s.allow(Device{Name: "lo", Index: loopback}))
		s.answered(t, loopback, Now()+uint64(time.Hour))
		require.NoError(t, p.Alive(Now()+uint64(time.Hour)))
		packet := outer(t, there4, here4, vnet97, frame)
		assert.Equal(t, packet, runXDP(t, s.prog, packet).packet, "never heard")
		require.NoError(t, p.Heard(there4, ago(time.Second)))
		assert.Equal(t, packet, runXDP(t, s.prog, packet).packet, "to be renewed")
		assert.EqualValues(t, pass, run(t, p.In(), packet, 0).action, "TC leaves it to the socket")
		assert.Len(t, runXDP(t, s.prog, packet).packet, markSize+len(frame), "until the next renewal")
	})
}

// strips says what XDP does with a packet: what TC would find of it, or nil if it is left, and untouched.
func strips(t testing.TB, s *Stripper, packet []byte) []byte {
	t.Helper()
	out := make([]byte, len(packet)+256)
	o := ebpf.RunOptions{Data: packet, DataOut: out}
	action, err := s.prog.Run(&o)
	require.NoError(t, err)
	require.EqualValues(t, xdpPass, action, "%x", packet)
	if len(o.DataOut) >= markSize && binary.NativeEndian.Uint32(o.DataOut) == 0x76786e64 {
		require.EqualValues(t, 2, binary.NativeEndian.Uint16(o.DataOut[14:]), "kind")
		frame := o.DataOut[markSize:]
		copy(frame, o.DataOut[8:14])
		return frame
	}
	require.Equal(t, packet, o.DataOut)
	return nil
}

// agree asserts that what XDP strips TC would have decapsulated, to the same frame.
func agree(t testing.TB, p *Tables, s *Stripper, packet []byte) (stripped bool) {
	t.Helper()
	frame := strips(t, s, packet)
	if frame == nil {
		return false
	}
	out := make([]byte, len(packet)+256)
	o := ebpf.RunOptions{Data: packet, DataOut: out, Context: &skb{Ifindex: loopback}}
	action, err := p.In().Run(&o)
	require.NoError(t, err)
	require.EqualValues(t, redirect, int32(action), "XDP strips what TC leaves: %x", packet)
	require.Equal(t, o.DataOut, frame)
	return true
}

// attacked are tables, and good packets, for those who change them.
func attacked(t *testing.T) (p *Tables, s *Stripper, good [][]byte) {
	p, s = stripping(t, there4)
	require.NoError(t, p.SetTimes(Times{MACTTL: time.Hour, HostTTL: time.Hour, Renew: time.Hour})) // nothing ages between the two
	s.answered(t, loopback, Now()+uint64(time.Hour))
	require.NoError(t, p.SetUnderlay(Underlay{Addr: here6, Index: loopback, MTU: 1500, Port: wire.Port, TTL: 64, Send: true, Receive: true}))
	require.NoError(t, p.SetHost(there6, both))
	other := wire.MAC{0, 0x16, 0x3e, 0, 0, 3}
	require.NoError(t, p.PutRemote(vnet97, other, there6, Now()))
	require.NoError(t, p.Heard(there6, Now()))
	return p, s, [][]byte{
		outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, tcp4(100))),
		outer(t, there4, here4, vnet97, ethernet(local, remote, 0x86dd, ipv6(6, here6, there6, tcp(100)))),
		outer(t, there6, here6, vnet97, ethernet(local, other, 0x0800, tcp4(100))),
		outer(t, there6, here6, vnet97, ethernet(local, other, 0x86dd, ipv6(6, here6, there6, tcp(100)))),
	}
}

var packets = flag.Int("packets", 20000, "how many packets TestStripUnderAttack makes")

// TestStripUnderAttack: bytes of good packets are changed, packets are cut and grow. XDP strips nothing that TC would
// leave, and leaves the rest as it is.
func TestStripUnderAttack(t *testing.T) {
	p, s, good := attacked(t)
	rng := rand.New(rand.NewPCG(1, 2))
	stripped := 0
	for range *packets {
		packet := append([]byte{}, good[rng.IntN(len(good))]...)
		for range 1 + rng.IntN(3) {
			switch at := rng.IntN(min(len(packet), 160)); rng.IntN(8) {
			case 0:
				packet = packet[:max(14, len(packet)-rng.IntN(100))]
			case 1:
				packet = append(packet, make([]byte, rng.IntN(100))...)
			case 2:
				packet[at] ^= 1 << rng.IntN(8)
			case 3:
				packet[at]++
			case 4:
				packet[at]--
			default:
				packet[at] = byte(rng.Uint32())
			}
		}
		if agree(t, p, s, packet) {
			stripped++
		}
	}
	t.Logf("%d of %d were stripped", stripped, *packets)
	require.Greater(t, stripped, *packets/50, "what is changed where nobody looks")
	require.Less(t, stripped, *packets/2)
}

func FuzzStrip(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("loading eBPF programs needs root")
	}
	var p *Tables
	var s *Stripper
	var once sync.Once
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		once.Do(func() {
			var err error
			p, err = Load(Times{})
			require.NoError(t, err)
			require.NoError(t, p.SetUnderlay(Underlay{Addr: here4, Index: loopback, MTU: 1500, Port: wire.Port, TTL: 64, Send: true, Receive: true}))
			require.NoError(t, p.AddVnet(vnet97, loopback, 1500))
			require.NoError(t, p.SetHost(there4, both))
			require.NoError(t, p.Heard(there4, Now()+uint64(time.Hour)))
			require.NoError(t, p.PutRemote(vnet97, remote, there4, Now()+uint64(time.Hour)))
			s, err = p.LoadXDP()
			require.NoError(t, err)
			require.NoError(t, s.allow(Device{Name: "lo", Index: loopback}))
			s.answered(t, loopback, Now()+uint64(time.Hour))
		})
		// What is fuzzed comes behind the outer Ethernet and IP addresses, which would be guessed too rarely.
		good := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, tcp4(20)))
		n := copy(good[14+20:], packet)
		good = append(good, packet[n:min(len(packet), 1400)]...)
		agree(t, p, s, good)
	})
}

// TestSilence: by the default times a host that no socket has heard for a minute, because of the host's firewall or because no daemon
// is there, is not heard by the kernel any more, at TC, at XDP, and past the bridge; and what was behind it is not sent to a minute
// after the last frame that came from there. So what a daemon leaves behind keeps nothing at a wrong place for longer than two.
func TestSilence(t *testing.T) {
	p, s := stripping(t, there4)
	slot, _ := p.slot(vnet97)
	require.NoError(t, p.bpf.Vifs.Put(&bpfMacKey{Slot: slot, Mac: local}, &bpfVif{Ifindex: loopback, Way: uint16(WayEgress), Mtu: 1500}))
	p.until(t, time.Hour)
	in := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, tcp4(100)))
	out := ethernet(remote, local, 0x0800, udp4(t, 100))
	heard := func(at uint64) {
		k := bpfId{Id: there4.As16()}
		var v bpfHost
		require.NoError(t, p.bpf.Hosts.Lookup(&k, &v))
		v.Heard = at
		require.NoError(t, p.bpf.Hosts.Put(&k, &v))
		p.changed() // or wait for some ms
	}
	require.EqualValues(t, redirect, run(t, p.In(), in, 0).action)
	require.Len(t, runXDP(t, s.prog, in).packet, markSize+len(in)-64)
	require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)

	heard(ago(61 * time.Second))
	left(t, p, p.In(), in, 0, LeftHost)
	require.Equal(t, in, runXDP(t, s.prog, in).packet)
	// Nothing that is left confirms the MAC.
	require.NoError(t, p.PutRemote(vnet97, remote, there4, ago(61*time.Second)))
	require.EqualValues(t, pass, run(t, p.In(), in, 0).action)
	require.Equal(t, in, runXDP(t, s.prog, in).packet)
	left(t, p, p.Out(), out, 0, LeftMiss)
	// Neither do frames that are sent to it.
	long := max(1, ago(50*time.Second))
	require.NoError(t, p.PutRemote(vnet97, remote, there4, long))
	require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)
	require.NoError(t, p.MACs(func(m MAC) {
		if m.MAC == remote {
			require.Equal(t, long, m.Seen)
		}
	}))
}
