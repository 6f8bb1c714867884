package fastpath

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/dataplane/wire/wiretest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// The kernel runs the programs on packets of ours (BPF_PROG_TEST_RUN), on the loopback device: its
// address is zero, and its index that of the vnif.
const (
	loopback = 1
	redirect = 7 // TC_ACT_REDIRECT
	pass     = -1
	shot     = 2
)

var (
	here4, there4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	here6, there6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	local         = wire.MAC{0, 0x16, 0x3e, 0, 0, 1}
	remote        = wire.MAC{0, 0x16, 0x3e, 0, 0, 2}
	vnet97        = vnet.ID{15: 0x97}
)

func load(t *testing.T, times Times) *Tables {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loading eBPF programs needs root")
	}
	p, err := Load(times)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// both is a host that is sent to, and heard.
var both = Host{Send: true, Receive: true}

// known is a fast path that knows two MACs of vnet 97, one here and one behind there.
func known(t *testing.T, there netip.Addr) *Tables {
	t.Helper()
	p := load(t, Times{})
	here := here4
	if there.Is6() {
		here = here6
	}
	require.NoError(t, p.SetUnderlay(Underlay{
		Addr: here, Index: loopback, MTU: 1500, Port: wire.Port, TTL: 64, Send: true, Receive: true,
	}))
	require.NoError(t, p.AddVnet(vnet97, loopback, 1500))
	require.NoError(t, p.SetHost(there, both))
	require.NoError(t, p.Heard(there, Now()))
	require.NoError(t, p.PutLocal(vnet97, local, Now()))
	require.NoError(t, p.PutRemote(vnet97, remote, there, Now()))
	return p
}

// skb is struct __sk_buff of linux/bpf.h as far as tests set it.
type skb struct {
	_       [40]byte
	Ifindex uint32
	_       [120]byte
	GSOSegs uint32
	_       [8]byte // the socket
	GSOSize uint32
	_       [12]byte
}

type result struct {
	action int32
	packet []byte
}

func run(t *testing.T, prog *ebpf.Program, packet []byte, gso uint32) result {
	t.Helper()
	out := make([]byte, 4096)
	ctx := skb{Ifindex: loopback, GSOSize: gso}
	if gso != 0 {
		ctx.GSOSegs = uint32(len(packet))/gso + 1
	}
	o := ebpf.RunOptions{Data: packet, DataOut: out, Context: &ctx}
	action, err := prog.Run(&o)
	require.NoError(t, err)
	return result{int32(action), o.DataOut}
}

// left asserts that a run left the packet as it was, for one reason.
func left(t *testing.T, p *Tables, prog *ebpf.Program, packet []byte, gso uint32, why Reason) {
	t.Helper()
	forgetOrder(t, p)
	before, err := p.Left()
	require.NoError(t, err)
	r := run(t, prog, packet, gso)
	assert.EqualValues(t, pass, r.action, "action")
	assert.Equal(t, packet, r.packet, "a packet that is left must stay as it is")
	after, err := p.Left()
	require.NoError(t, err)
	got := after.In
	was := before.In
	if prog == p.Out() {
		got, was = after.Out, before.Out
	}
	for reason := range reasons {
		want := was[reason]
		if reason == why {
			want++
		}
		assert.Equal(t, want, got[reason], "packets left for %q", reason)
	}
}

// forgetOrder forgets which flows user space carries for a while.
func forgetOrder(t *testing.T, p *Tables) {
	t.Helper()
	keys := make([]uint32, p.bpf.Ordered.MaxEntries())
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := p.bpf.Ordered.BatchUpdate(keys, make([]uint64, len(keys)), nil)
	require.NoError(t, err)
}

// ethernet is an Ethernet frame.
func ethernet(dst, src wire.MAC, proto uint16, payload []byte) []byte {
	f := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(f, proto), payload...)
}

// udp4 is an IPv4 packet with a UDP datagram of n bytes.
func udp4(t *testing.T, n int) []byte {
	t.Helper()
	b, err := wire.AppendDatagram(nil, netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2"), 64, 7, make([]byte, n))
	require.NoError(t, err)
	return append(b, make([]byte, n)...)
}

// part makes an IPv4 packet the first part of one.
func part(p []byte) []byte {
	p[6] |= 0x20
	return p
}

// ipv6 is an IPv6 packet.
func ipv6(next byte, src, dst netip.Addr, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), payload...)
}

// tcp is a TCP segment of n bytes.
func tcp(n int) []byte {
	b := make([]byte, 20+n)
	b[12] = 5 << 4
	return b
}

// tcp4 is an IPv4 packet with such a segment.
func tcp4(n int) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	b = append(b, tcp(n)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// syn sets SYN and ACK in the TCP header at an offset of a packet.
func syn(p []byte, at int) []byte {
	p[at+13] = 0x12
	return p
}

// outer is a VUDP packet as it arrives at the loopback device.
func outer(t *testing.T, from, to netip.Addr, id vnet.ID, frame []byte) []byte {
	t.Helper()
	payload := append(wire.AppendVUDP(nil, id), frame...)
	if from.Is4() {
		b, err := wire.AppendDatagram(nil, netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, wire.Port), 64, 9, payload)
		require.NoError(t, err)
		b[26], b[27] = 0, 0 // no checksum
		b = append(b, payload...)
		return ethernet(wire.MAC{}, wire.MAC{}, 0x0800, b)
	}
	udp := binary.BigEndian.AppendUint16(nil, 40000)
	udp = binary.BigEndian.AppendUint16(udp, wire.Port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(udp, 0, 0)
	return ethernet(wire.MAC{}, wire.MAC{}, 0x86dd, ipv6(17, from, to, append(udp, payload...)))
}

func TestEncapsulate(t *testing.T) {
	inner := map[string][]byte{
		"IPv4": ethernet(remote, local, 0x0800, udp4(t, 100)),
		"IPv6": ethernet(remote, local, 0x86dd, ipv6(17, here6, there6, make([]byte, 60))),
		"ARP":  ethernet(remote, local, 0x0806, make([]byte, 46)),
		"TCP":  ethernet(remote, local, 0x0800, tcp4(900)),
	}
	for name, frame := range inner {
		t.Run(name+" in IPv4", func(t *testing.T) {
			p := known(t, there4)
			r := run(t, p.Out(), frame, 0)
			require.EqualValues(t, redirect, r.action)
			require.Equal(t, []byte{0x08, 0x00}, r.packet[12:14])
			assert.EqualValues(t, 0xffff, wire.Fold(wire.Sum(r.packet[14:34], 0)), "checksum of the IPv4 header")
			h, datagram, err := wire.DecodeIPv4(r.packet[14:])
			require.NoError(t, err)
			assert.Equal(t, here4, h.Source)
			assert.Equal(t, there4, h.Destination)
			assert.EqualValues(t, 64, h.TTL)
			assert.Zero(t, r.packet[20]&0xe0, "flags: a narrower path may fragment")
			source, port, payload, err := wire.DecodeUDP(datagram)
			require.NoError(t, err)
			assert.EqualValues(t, wire.Port, source)
			assert.EqualValues(t, wire.Port, port)
			assert.Equal(t, append(wire.AppendVUDP(nil, vnet97), frame...), payload)
			c, ok := p.VnetCounters(vnet97)
			require.True(t, ok)
			assert.Equal(t, Counters{TxFrames: 1, TxBytes: uint64(len(frame))}, c)
			c, ok = p.HostCounters(there4)
			require.True(t, ok)
			assert.Equal(t, Counters{TxFrames: 1, TxBytes: uint64(len(frame))}, c)
		})
		t.Run(name+" in IPv6", func(t *testing.T) {
			p := known(t, there6)
			r := run(t, p.Out(), frame, 0)
			require.EqualValues(t, redirect, r.action)
			want := outer(t, here6, there6, vnet97, frame)
			copy(want[54:], []byte{wire.Port >> 8, wire.Port & 0xff})
			assert.Equal(t, want, r.packet)
		})
	}
}

// TestSourcePort: the port is a hash of the inner flow if that is asked for.
func TestSourcePort(t *testing.T) {
	p := known(t, there4)
	require.NoError(t, p.SetUnderlay(Underlay{
		Addr: here4, Index: loopback, MTU: 1500, Port: wire.Port, TTL: 64, FlowPort: true, Send: true,
	}))
	ports := map[uint16]bool{}
	for i := range 16 {
		frame := ethernet(remote, local, 0x0800, udp4(t, 100))
		frame[14+20+1] = byte(i)
		var first uint16
		for n := range 2 {
			r := run(t, p.Out(), frame, 0)
			require.EqualValues(t, redirect, r.action)
			port := binary.BigEndian.Uint16(r.packet[34:])
			assert.GreaterOrEqual(t, port, uint16(0x8000))
			if n == 0 {
				first = port
			}
			assert.Equal(t, first, port, "one flow has one port")
			ports[port] = true
		}
	}
	assert.Greater(t, len(ports), 8)
	// Pings have no ports: what changes from one to the next, their checksum, is no part of the hash.
	clear(ports)
	for i := range 4 {
		frame := ethernet(remote, local, 0x0800, udp4(t, 100))
		frame[14+9], frame[14+20+2] = 1, byte(i)
		r := run(t, p.Out(), frame, 0)
		require.EqualValues(t, redirect, r.action)
		ports[binary.BigEndian.Uint16(r.packet[34:])] = true
	}
	assert.Len(t, ports, 1)
}

// TestSuperFrame: those that can't be taken. That the others are segmented right only a real device shows:
// the kernel runs programs on no TCP super-frame here.
func TestSuperFrame(t *testing.T) {
	p := known(t, there4)
	t.Run("too large even when it is shrunk", func(t *testing.T) {
		left(t, p, p.Out(), ethernet(remote, local, 0x0800, tcp4(2*1461)), 1461, LeftSize)
	})
	t.Run("UDP", func(t *testing.T) {
		left(t, p, p.Out(), ethernet(remote, local, 0x0800, udp4(t, 3000)), 1000, LeftGSO)
	})
	t.Run("IPv4 options", func(t *testing.T) {
		f := ethernet(remote, local, 0x0800, tcp4(3000))
		f[14] = 0x46
		left(t, p, p.Out(), f, 1000, LeftGSO)
	})
	t.Run("TCP header that ends before it begins", func(t *testing.T) {
		f := ethernet(remote, local, 0x0800, tcp4(3000))
		f[14+20+12] = 4 << 4
		left(t, p, p.Out(), f, 1000, LeftGSO)
	})
}

// ago is a time before now, or never on a machine that was not up yet.
func ago(d time.Duration) uint64 {
	now := Now()
	return now - min(now, uint64(d))
}

func TestLeftOut(t *testing.T) {
	frame := ethernet(remote, local, 0x0800, udp4(t, 100))
	for name, c := range map[string]struct {
		why    Reason
		change func(p *Tables) error
		frame  []byte
	}{
		"broadcast":             {LeftFlood, nil, ethernet(wire.MAC{255, 255, 255, 255, 255, 255}, local, 0x0800, udp4(t, 100))},
		"unknown destination":   {LeftMiss, nil, ethernet(wire.MAC{0, 1, 2, 3, 4, 5}, local, 0x0800, udp4(t, 100))},
		"destination is here":   {LeftMiss, nil, ethernet(local, local, 0x0800, udp4(t, 100))},
		"unknown source":        {LeftSource, nil, ethernet(remote, wire.MAC{0, 1, 2, 3, 4, 5}, 0x0800, udp4(t, 100))},
		"source is behind host": {LeftSource, nil, ethernet(remote, remote, 0x0800, udp4(t, 100))},
		"too large":             {LeftSize, nil, ethernet(remote, local, 0x0800, udp4(t, 1500-50-14-28+1))},
		"tag in the frame":      {LeftTag, nil, ethernet(remote, local, 0x8100, append([]byte{0, 1, 8, 0}, udp4(t, 100)...))},
		"SYN":                   {LeftSYN, nil, ethernet(remote, local, 0x0800, syn(tcp4(0), 20))},
		"SYN in IPv6":           {LeftSYN, nil, ethernet(remote, local, 0x86dd, syn(ipv6(6, here6, there6, tcp(0)), 40))},
		"SCTP":                  {LeftChecksum, nil, ethernet(remote, local, 0x86dd, ipv6(132, here6, there6, make([]byte, 60)))},
		"fragment":              {LeftForm, nil, ethernet(remote, local, 0x0800, part(udp4(t, 100)))},
		"fragment in IPv6":      {LeftForm, nil, ethernet(remote, local, 0x86dd, ipv6(44, here6, there6, make([]byte, 60)))},
		"neither IP nor ARP":    {LeftRoom, nil, ethernet(remote, local, 0x88b5, make([]byte, 46))},
		"destination is old": {LeftMiss, func(p *Tables) error {
			return p.PutRemote(vnet97, remote, there4, ago(61*time.Second))
		}, frame},
		"destination was deleted": {LeftMiss, func(p *Tables) error { p.Delete(vnet97, remote); return nil }, frame},
		"host may not be sent to": {LeftHost, func(p *Tables) error { return p.SetHost(there4, Host{Receive: true}) }, frame},
		"host is gone":            {LeftHost, func(p *Tables) error { p.RemoveHost(there4); return nil }, frame},
		"no underlay":             {LeftOff, func(p *Tables) error { return p.ClearUnderlay(here4) }, frame},
		"vnet is gone":            {LeftVnet, func(p *Tables) error { p.RemoveVnet(vnet97); return nil }, frame},
	} {
		t.Run(name, func(t *testing.T) {
			p := known(t, there4)
			if c.change != nil {
				require.NoError(t, c.change(p))
			}
			left(t, p, p.Out(), c.frame, 0, c.why)
		})
	}
	t.Run("largest that fits", func(t *testing.T) {
		p := known(t, there4)
		r := run(t, p.Out(), ethernet(remote, local, 0x0800, udp4(t, 1500-50-14-28)), 0)
		assert.EqualValues(t, redirect, r.action)
		assert.Len(t, r.packet, 1514)
	})
}

func TestDecapsulate(t *testing.T) {
	for name, frame := range map[string][]byte{
		"IPv4":      ethernet(local, remote, 0x0800, udp4(t, 100)),
		"IPv6":      ethernet(local, remote, 0x86dd, ipv6(17, here6, there6, make([]byte, 60))),
		"ARP":       ethernet(local, remote, 0x0806, make([]byte, 46)),
		"tagged":    ethernet(local, remote, 0x8100, append([]byte{0, 1, 8, 0}, udp4(t, 100)...)),
		"IPv4 1500": ethernet(local, remote, 0x0800, udp4(t, 1500-28)),
	} {
		for _, u := range []struct{ here, there netip.Addr }{{here4, there4}, {here6, there6}} {
			t.Run(name+" from "+u.there.String(), func(t *testing.T) {
				p := known(t, u.there)
				r := run(t, p.In(), outer(t, u.there, u.here, vnet97, frame), 0)
				require.EqualValues(t, redirect, r.action)
				assert.Equal(t, frame, r.packet)
				c, ok := p.VnetCounters(vnet97)
				require.True(t, ok)
				assert.Equal(t, Counters{RxFrames: 1, RxBytes: uint64(len(frame))}, c)
			})
		}
	}
}

func TestLeftIn(t *testing.T) {
	frame := ethernet(local, remote, 0x0800, udp4(t, 100))
	const ip, udp, message = 14, 34, 42
	patch := func(at int, b ...byte) func([]byte) { return func(p []byte) { copy(p[at:], b) } }
	for name, c := range map[string]struct {
		why    Reason
		change func(p *Tables) error
		patch  func([]byte)
	}{
		"VARP":                       {LeftForm, nil, patch(message, 0, 1)},
		"VFWD":                       {LeftForm, nil, patch(message, 0, 3)},
		"fragment":                   {LeftForm, nil, patch(message+22+14+6, 0x20)},
		"other EtherIP version":      {LeftForm, nil, patch(message+4, 0x00, 0x30)},
		"UDP length too small":       {LeftForm, nil, patch(udp+4, 0, 60)},
		"UDP length too large":       {LeftForm, nil, patch(udp+4, 1, 60)},
		"IP length too small":        {LeftForm, nil, patch(ip+2, 0, 100)},
		"to the group":               {LeftFlood, nil, patch(ip+16, 224, 10, 0, 1)},
		"to another address":         {LeftFlood, nil, patch(ip+16, 192, 0, 2, 9)},
		"broadcast inside":           {LeftFlood, nil, patch(message+22, 255)},
		"checksum nobody verified":   {LeftChecksum, nil, patch(udp+6, 0x12, 0x34)},
		"other vnet":                 {LeftVnet, nil, patch(message+6+15, 0x55)},
		"unknown host":               {LeftHost, nil, patch(ip+12, 192, 0, 2, 77)},
		"MAC unknown":                {LeftSource, nil, patch(message+22+6, 0, 9)},
		"MAC lives here":             {LeftSource, func(p *Tables) error { return p.PutLocal(vnet97, remote, Now()) }, nil},
		"MAC is old":                 {LeftSource, func(p *Tables) error { return p.PutRemote(vnet97, remote, there4, ago(61*time.Second)) }, nil},
		"MAC is behind another host": {LeftSource, func(p *Tables) error { return p.PutRemote(vnet97, remote, netip.MustParseAddr("192.0.2.3"), Now()) }, nil},
		"host may not be heard":      {LeftHost, func(p *Tables) error { return p.SetHost(there4, Host{Send: true}) }, nil},
		"receiving is off":           {LeftOff, func(p *Tables) error { return p.ClearUnderlay(here4) }, func([]byte) {}},
	} {
		t.Run(name, func(t *testing.T) {
			p := known(t, there4)
			packet := outer(t, there4, here4, vnet97, frame)
			if c.patch != nil {
				c.patch(packet)
				wire.PutSum(packet[ip+10:], 0)
				wire.PutSum(packet[ip+10:], ^wire.Fold(wire.Sum(packet[ip:ip+20], 0)))
			}
			if c.change != nil {
				require.NoError(t, c.change(p))
			}
			if name == "receiving is off" {
				r := run(t, p.In(), packet, 0)
				assert.EqualValues(t, pass, r.action)
				assert.Equal(t, packet, r.packet)
				return
			}
			left(t, p, p.In(), packet, 0, c.why)
		})
	}
	for name, change := range map[string]func([]byte){
		"fragment":       patch(ip+6, 0x20, 0),
		"later fragment": patch(ip+6, 0, 1),
		"IP options":     patch(ip, 0x46),
		"TCP":            patch(ip+9, 6),
		"other port":     patch(udp+2, 0, 53),
		"for others":     patch(0, 2), // the device's address is zero
	} {
		t.Run(name, func(t *testing.T) {
			p := known(t, there4)
			packet := outer(t, there4, here4, vnet97, frame)
			change(packet)
			r := run(t, p.In(), packet, 0)
			assert.EqualValues(t, pass, r.action)
			assert.Equal(t, packet, r.packet)
		})
	}
	t.Run("SYN", func(t *testing.T) {
		p := known(t, there4)
		left(t, p, p.In(), outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, syn(tcp4(0), 20))), 0, LeftSYN)
	})
	t.Run("truncated", func(t *testing.T) {
		p := known(t, there4)
		packet := outer(t, there4, here4, vnet97, frame)
		for n := 34; n < len(packet); n++ {
			r := run(t, p.In(), packet[:n], 0)
			require.EqualValues(t, pass, r.action, "%d bytes", n)
			require.Equal(t, packet[:n], r.packet)
		}
	})
	t.Run("train of datagrams", func(t *testing.T) {
		p := known(t, there4)
		one := ethernet(local, remote, 0x0800, tcp4(1000))
		left(t, p, p.In(), outer(t, there4, here4, vnet97, append(one, one...)), 1062, LeftGSO)
	})
}

// TestFirewall: a host that no socket hears is not heard by the kernel, and packets are left to the
// socket in time.
func TestFirewall(t *testing.T) {
	frame := ethernet(local, remote, 0x0800, udp4(t, 100))
	p := load(t, Times{HostTTL: time.Hour, Renew: time.Nanosecond, RenewEvery: time.Hour})
	require.NoError(t, p.SetUnderlay(Underlay{Addr: here4, Index: loopback, MTU: 1500, Port: wire.Port, Receive: true}))
	require.NoError(t, p.AddVnet(vnet97, loopback, 1500))
	require.NoError(t, p.SetHost(there4, both))
	require.NoError(t, p.PutRemote(vnet97, remote, there4, Now()))
	packet := outer(t, there4, here4, vnet97, frame)

	left(t, p, p.In(), packet, 0, LeftHost) // never heard
	require.NoError(t, p.Heard(there4, ago(time.Second)))
	require.EqualValues(t, redirect, run(t, p.In(), packet, 0).action, "nobody reads the sockets")
	require.NoError(t, p.Alive(Now()+uint64(time.Hour)))
	p.changed() // or wait for some ms, until the tables are asked again
	left(t, p, p.In(), packet, 0, LeftRenew)
	for range 3 {
		assert.EqualValues(t, redirect, run(t, p.In(), packet, 0).action, "until the next renewal")
	}
	// Setting the host again keeps what was heard.
	require.NoError(t, p.SetHost(there4, both))
	assert.EqualValues(t, redirect, run(t, p.In(), packet, 0).action)
}

// TestRecorded: what original hosts sent is decapsulated if it is unicast and not in fragments.
func TestRecorded(t *testing.T) {
	taken := 0
	for _, name := range wiretest.Names() {
		for _, packet := range wiretest.Packets(t, name) {
			if len(packet) < 78 || packet[12] != 8 || packet[13] != 0 || packet[23] != 17 || packet[20]&0x3f != 0 || packet[21] != 0 {
				continue
			}
			h, datagram, err := wire.DecodeIPv4(packet[14:])
			if err != nil || h.Destination.IsMulticast() {
				continue
			}
			_, port, payload, err := wire.DecodeUDP(datagram)
			if err != nil || port != wire.Port {
				continue
			}
			id, frame, err := wire.DecodeVUDP(payload)
			if err != nil || wire.Destination(frame).Multicast() {
				continue
			}
			p := load(t, Times{})
			require.NoError(t, p.SetUnderlay(Underlay{Addr: h.Destination, Index: loopback, MTU: 1500, Port: wire.Port, Receive: true}))
			require.NoError(t, p.AddVnet(id, loopback, 1500))
			require.NoError(t, p.SetHost(h.Source, Host{Receive: true}))
			require.NoError(t, p.Heard(h.Source, Now()))
			require.NoError(t, p.PutRemote(id, wire.Source(frame), h.Source, Now()))
			packet = append([]byte{}, packet...)
			copy(packet, make([]byte, 6)) // for the loopback device
			copy(packet[40:], []byte{0, 0})
			r := run(t, p.In(), packet, 0)
			require.EqualValues(t, redirect, r.action, "%s", name)
			require.Equal(t, frame, r.packet)
			taken++
		}
	}
	assert.Positive(t, taken)
}

// TestSeen: MACs that the kernel heard are told, with the time.
func TestSeen(t *testing.T) {
	p := known(t, there4)
	long := max(1, ago(30*time.Second))
	require.NoError(t, p.PutRemote(vnet97, remote, there4, long))
	require.NoError(t, p.PutLocal(vnet97, local, long))
	seen := func(since uint64) map[wire.MAC]uint64 {
		m := map[wire.MAC]uint64{}
		require.NoError(t, p.MACs(func(x MAC) {
			assert.Equal(t, vnet97, x.Vnet)
			assert.Equal(t, x.MAC == remote, x.Addr == there4)
			if x.Seen > since {
				m[x.MAC] = x.Seen
			}
		}))
		return m
	}
	assert.Empty(t, seen(long))
	var before unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &before)) // the programs' clock, which is some ms behind
	require.EqualValues(t, redirect, run(t, p.In(), outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, udp4(t, 1))), 0).action)
	m := seen(long)
	require.Len(t, m, 1)
	assert.GreaterOrEqual(t, m[remote], uint64(before.Nano()))
	require.EqualValues(t, redirect, run(t, p.Out(), ethernet(remote, local, 0x0800, udp4(t, 1)), 0).action)
	assert.Len(t, seen(long), 2)
}

// TestSlots: a vnet that gets the place of another one has none of its MACs and counters.
func TestSlots(t *testing.T) {
	p := known(t, there4)
	require.EqualValues(t, redirect, run(t, p.Out(), ethernet(remote, local, 0x0800, udp4(t, 1)), 0).action)
	p.RemoveVnet(vnet97)
	p.slots.next = MaxVnets // so that the place is used again
	other := vnet.ID{15: 0x98}
	require.NoError(t, p.AddVnet(other, loopback, 1500))
	left(t, p, p.Out(), ethernet(remote, local, 0x0800, udp4(t, 1)), 0, LeftMiss)
	c, ok := p.VnetCounters(other)
	require.True(t, ok)
	assert.Zero(t, c)
	err := p.AddVnet(vnet97, 2, 1500)
	assert.True(t, errors.Is(err, ErrFull), "%v", err)
}

// TestSameUnderlay: a daemon that takes over says what is so already; the family is not off for a moment, in which the daemon might
// be killed.
func TestSameUnderlay(t *testing.T) {
	p := known(t, there4)
	u := Underlay{Addr: here4, Index: loopback, MTU: 1500, Port: wire.Port, TTL: 64, Send: true, Receive: true}
	var setting sync.WaitGroup
	defer setting.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	setting.Go(func() {
		for ctx.Err() == nil {
			assert.NoError(t, p.SetUnderlay(u))
		}
	})
	frame := ethernet(remote, local, 0x0800, udp4(t, 100))
	for range 2000 {
		require.EqualValues(t, redirect, run(t, p.Out(), frame, 0).action)
	}
}

// TestFull: when there are as many MACs or hosts as there may be, those that are known are carried, can be confirmed and
// changed, the rest is left and counted, and there is room again where others go.
func TestFull(t *testing.T) {
	p := known(t, there4)
	// Like put, in batches.
	slot, _ := p.slot(vnet97)
	var keys []bpfMacKey
	for i := range MaxMACs - 2 {
		keys = append(keys, bpfMacKey{Slot: slot, Mac: [6]uint8{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}})
	}
	_, err := p.bpf.Macs.BatchUpdate(keys, make([]bpfMac, len(keys)), nil)
	require.NoError(t, err)
	more := wire.MAC{0, 0x16, 0x3e, 0, 1, 0}
	require.ErrorIs(t, p.PutRemote(vnet97, more, there4, Now()), ErrFull)
	require.ErrorIs(t, p.PutLocal(vnet97, more, Now()), ErrFull)
	require.NoError(t, p.PutRemote(vnet97, remote, there4, Now()), "confirmed")
	out := ethernet(remote, local, 0x0800, udp4(t, 100))
	require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)
	left(t, p, p.Out(), ethernet(more, local, 0x0800, udp4(t, 100)), 0, LeftMiss)
	left(t, p, p.In(), outer(t, there4, here4, vnet97, ethernet(local, more, 0x0800, udp4(t, 100))), 0, LeftSource)
	p.Delete(vnet97, wire.MAC(keys[0].Mac))
	require.NoError(t, p.PutRemote(vnet97, more, there4, Now()))
	require.EqualValues(t, redirect, run(t, p.Out(), ethernet(more, local, 0x0800, udp4(t, 100)), 0).action)

	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }
	for i := range MaxHosts - 1 {
		require.NoError(t, p.SetHost(host(i), both))
	}
	require.ErrorIs(t, p.SetHost(host(MaxHosts), both), ErrFull)
	require.NoError(t, p.SetHost(there4, both))
	require.NoError(t, p.Heard(there4, Now()))
	require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)
	p.RemoveHost(host(0))
	require.NoError(t, p.SetHost(host(MaxHosts), both))
}

// TestAdopt: tables of an earlier run go on with new programs, and what they hold is known.
func TestAdopt(t *testing.T) {
	old := known(t, there4)
	out := ethernet(remote, local, 0x0800, udp4(t, 1))
	require.EqualValues(t, redirect, run(t, old.Out(), out, 0).action)
	var ids []ebpf.ProgramID
	for _, prog := range []*ebpf.Program{old.Out(), old.In()} {
		ids = append(ids, hostnet.ProgramID(prog))
	}
	p, err := Load(Times{}, ids...)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	require.True(t, p.Adopted())
	require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)
	assert.Equal(t, []vnet.ID{vnet97}, p.Vnets())
	assert.Equal(t, []netip.Addr{there4}, p.Hosts())
	c, ok := p.VnetCounters(vnet97)
	require.True(t, ok)
	assert.EqualValues(t, 2, c.TxFrames, "counters go on")
	n := 0
	require.NoError(t, p.MACs(func(m MAC) { n++ }))
	assert.Equal(t, 2, n)
	// A vnet that is taken out by the new daemon takes what the old one knew of it along.
	p.RemoveVnet(vnet97)
	require.Empty(t, macsOf(p))
	require.NoError(t, p.AddVnet(vnet97, loopback, 1500))
	require.NoError(t, p.PutLocal(vnet97, local, Now()))

	for name, list := range map[string][]ebpf.ProgramID{
		"half of them": ids[:1], "gone": {1 << 30}, "of two generations": mixed(t, ids),
	} {
		p, err := Load(Times{}, list...)
		require.NoError(t, err, name)
		assert.False(t, p.Adopted(), name)
		assert.Empty(t, p.Vnets(), name)
		p.Close()
	}
	// What means something else is not taken over.
	require.NoError(t, old.bpf.Times.Put(uint32(0), &bpfTiming{Version: version + 1}))
	p2, err := Load(Times{}, ids...)
	require.NoError(t, err)
	assert.False(t, p2.Adopted())
	p2.Close()
}

// TestStop: the kernel carries nothing more, and what it carried is told once.
func TestStop(t *testing.T) {
	p := known(t, there4)
	frame := ethernet(remote, local, 0x0800, udp4(t, 1))
	require.EqualValues(t, redirect, run(t, p.Out(), frame, 0).action)
	carried := map[vnet.ID]uint64{}
	p.Stop(func(id vnet.ID, c Counters) { carried[id] += c.TxFrames })
	assert.Equal(t, map[vnet.ID]uint64{vnet97: 1}, carried)
	_, ok := p.VnetCounters(vnet97)
	assert.False(t, ok)
	assert.NotEqualValues(t, redirect, run(t, p.Out(), frame, 0).action)
	assert.NotEqualValues(t, redirect, run(t, p.In(), outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, udp4(t, 1))), 0).action)
}

// TestAdoptHalfRemoved: a daemon that was killed while it took a vnet out of the kernel left MACs whose vnet is not known any more. The
// vnet that gets its place has none of them.
func TestAdoptHalfRemoved(t *testing.T) {
	old := known(t, there4)
	out := ethernet(remote, local, 0x0800, udp4(t, 1))
	require.NoError(t, old.bpf.VnetOfId.Delete(&bpfId{Id: vnet97}))
	require.NoError(t, old.bpf.VnetOfVnif.Delete(uint32(old.vnets[vnet97].vnif)))
	p, err := Load(Times{}, hostnet.ProgramID(old.Out()), hostnet.ProgramID(old.In()))
	require.NoError(t, err)
	t.Cleanup(p.Close)
	require.True(t, p.Adopted())
	require.Empty(t, macsOf(p))
	require.NoError(t, p.AddVnet(vnet.ID{15: 0x98}, loopback, 1500))
	left(t, p, p.Out(), out, 0, LeftMiss)
}

// macsOf are the MACs in the kernel's table, of whichever vnet.
func macsOf(p *Tables) (list []wire.MAC) {
	_ = each(p.bpf.Macs, func(k *bpfMacKey, _ *bpfMac) { list = append(list, k.Mac) })
	return list
}

// mixed is one program of ids and one of others.
func mixed(t *testing.T, ids []ebpf.ProgramID) []ebpf.ProgramID {
	return []ebpf.ProgramID{ids[0], hostnet.ProgramID(load(t, Times{}).In())}
}

// TestOfAnother: what is sent to another station, and what is longer than the vnif takes, is left.
func TestOfAnother(t *testing.T) {
	p := known(t, there4)
	packet := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, udp4(t, 1)))
	packet[5] = 1
	before, err := p.Left()
	require.NoError(t, err)
	assert.EqualValues(t, pass, run(t, p.In(), packet, 0).action)
	after, err := p.Left()
	require.NoError(t, err)
	assert.Equal(t, before, after, "it is not even ours")
	require.NoError(t, p.SetUnderlay(Underlay{
		Addr: here4, Index: loopback, MTU: 1500, MAC: wire.MAC{5: 1}, Port: wire.Port, TTL: 64, Send: true, Receive: true,
	}))
	assert.EqualValues(t, redirect, run(t, p.In(), packet, 0).action)
	require.NoError(t, p.AddVnet(vnet97, loopback, 28))
	left(t, p, p.In(), packet, 0, LeftSize)
}

// TestOrder: what follows a frame that user space carries does not overtake it, either way, and other flows are not held up.
func TestOrder(t *testing.T) {
	p := known(t, there4)
	small, large := ethernet(remote, local, 0x0800, udp4(t, 100)), ethernet(remote, local, 0x0800, udp4(t, 1450))
	other := ethernet(remote, local, 0x86dd, ipv6(17, here6, there6, make([]byte, 60)))
	require.EqualValues(t, redirect, run(t, p.Out(), small, 0).action)
	left(t, p, p.Out(), large, 0, LeftSize)
	before, err := p.Left()
	require.NoError(t, err)
	require.EqualValues(t, pass, run(t, p.Out(), small, 0).action)
	after, err := p.Left()
	require.NoError(t, err)
	assert.Equal(t, before.Out[LeftOrder]+1, after.Out[LeftOrder])
	require.EqualValues(t, redirect, run(t, p.Out(), other, 0).action)
	forgetOrder(t, p)
	require.EqualValues(t, redirect, run(t, p.Out(), small, 0).action)

	in := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, udp4(t, 100)))
	require.EqualValues(t, redirect, run(t, p.In(), in, 0).action)
	first := append([]byte{}, in...)
	part(first[14:])
	require.EqualValues(t, pass, run(t, p.In(), first, 0).action)
	require.EqualValues(t, pass, run(t, p.In(), in, 0).action)
	forgetOrder(t, p)
	require.EqualValues(t, redirect, run(t, p.In(), in, 0).action)
}

// TestDamagedHeader: the kernel's stack drops a packet whose IPv4 header is damaged, and so it is left to that.
func TestDamagedHeader(t *testing.T) {
	p := known(t, there4)
	packet := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, udp4(t, 1)))
	packet[14+8] ^= 1
	assert.EqualValues(t, pass, run(t, p.In(), packet, 0).action)
}
