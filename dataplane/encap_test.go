package dataplane

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// fakeSeal puts its lane in front of a payload, pads it to four bytes and ends it with a mark.
type fakeSeal struct {
	port  uint16
	empty bool // there is no key
}

const sealMark = "sealed"

var _ Seal = (*fakeSeal)(nil)

func (f *fakeSeal) Seal(dst []byte, lane Lane, payload [][]byte) ([]byte, bool) {
	if f.empty {
		return dst, false
	}
	flooded := byte(0)
	if lane.Flooded {
		flooded = 1
	}
	dst = append(dst, byte(lane.Sender), flooded)
	n := 0
	for _, b := range payload {
		dst = append(dst, b...)
		n += len(b)
	}
	dst = append(dst, make([]byte, -n&3)...)
	return append(dst, sealMark...), true
}
func (f *fakeSeal) Growth() int      { return 2 + len(sealMark) + 3 }
func (f *fakeSeal) Fit(room int) int { return (room - 2 - len(sealMark)) &^ 3 }
func (f *fakeSeal) Port() uint16     { return f.port }

// Flows is one.
func (f *fakeSeal) Flows() int { return 1 }

// Hidden are none.
func (f *fakeSeal) Hidden() []esp.Hidden { return nil }

// linkOf is a usable underlay without sockets, of an MTU.
func linkOf(t *testing.T, mtu int, group string) *uplink {
	t.Helper()
	g := netip.MustParseAddr(group)
	return &uplink{
		Underlay: underlay.Detached(underlay.Of(g), 1), path: &underlay.Path{MTU: mtu, Source: netip.MustParseAddr("192.0.2.1")},
		group: netip.AddrPortFrom(g, 1798), heard: new(heard),
	}
}

func TestEncapsulationIsChosenByVnetAndHost(t *testing.T) {
	id := vnet.ID{15: 0x97}
	open := bareNetwork(vnet.Config{ID: id, Security: vnet.None}, 1)
	keyless := bareNetwork(vnet.Config{ID: id, Security: vnet.Auth}, 1)
	secret := bareNetwork(vnet.Config{ID: id, Security: vnet.Conf}, 1)
	secret.seal = &fakeSeal{port: 4500}
	four, old, six := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::2")
	l4, l6 := linkOf(t, 1500, "224.10.0.1"), linkOf(t, 1500, "ff05::706")
	both := [2]*uplink{l4, l6}
	for name, c := range map[string]struct {
		network  *network
		links    [2]*uplink
		etherip  bool
		to       netip.Addr
		none     bool
		form     form
		overhead offload.Overhead
		maxFrame int
		port     uint16
	}{
		"a host":                            {network: open, links: both, to: four, form: inUDP, overhead: 50, maxFrame: 1450, port: 1798},
		"a host over IPv6":                  {network: open, links: both, to: six, form: inUDP, overhead: 70, maxFrame: 1430, port: 1798},
		"an old host":                       {network: open, links: both, to: old, form: etherIP, overhead: 38, maxFrame: 1462},
		"all by EtherIP":                    {network: open, links: both, etherip: true, to: four, form: etherIP, overhead: 38, maxFrame: 1462},
		"all by EtherIP, but not IPv6":      {network: open, links: both, etherip: true, to: six, form: inUDP, overhead: 70, maxFrame: 1430, port: 1798},
		"no underlay of the family":         {network: open, links: [2]*uplink{l4, nil}, to: six, none: true},
		"no key":                            {network: keyless, links: both, to: four, none: true},
		"sealed":                            {network: secret, links: both, to: four, form: sealed, overhead: 61, maxFrame: 1464 - 22, port: 4500},
		"sealed over IPv6":                  {network: secret, links: both, to: six, form: sealed, overhead: 81, maxFrame: 1444 - 22, port: 4500},
		"sealed to an old host: no EtherIP": {network: secret, links: both, to: old, form: sealed, overhead: 61, maxFrame: 1464 - 22, port: 4500},
		"sealed where all is EtherIP":       {network: secret, links: both, etherip: true, to: four, form: sealed, overhead: 61, maxFrame: 1464 - 22, port: 4500},
	} {
		t.Run(name, func(t *testing.T) {
			v := &view{uplinks: c.links, etherip: c.etherip, port: 1798, old: map[netip.Addr]struct{}{old: {}}}
			e, ok := v.encap(c.network, c.to)
			require.Equal(t, c.none, !ok)
			if c.none {
				return
			}
			require.Equal(t, c.form, e.form)
			require.Equal(t, c.overhead, e.overhead)
			require.Equal(t, c.maxFrame, e.maxFrame)
			require.Equal(t, c.port, e.port)
			require.Equal(t, e.form == sealed, e.seal != nil)
			want := c.network.header
			if c.form == etherIP {
				want = want[wire.MessageLen:]
			}
			require.Equal(t, want, e.prefix)
		})
	}
}

// What claims to be of a vnet is taken only as the vnet's security has it.
func TestOnlyWhatTheSealOpenedIsTaken(t *testing.T) {
	open := bareNetwork(vnet.Config{Security: vnet.None}, 1)
	secret := bareNetwork(vnet.Config{Security: vnet.Conf}, 1)
	other := bareNetwork(vnet.Config{Security: vnet.Conf}, 1)
	for _, c := range []struct {
		network, opened *network
		taken           bool
	}{
		{open, nil, true}, {open, secret, false}, {secret, nil, false}, {secret, secret, true}, {secret, other, false},
	} {
		require.Equal(t, c.taken, c.network.takes(arrival{opened: c.opened}))
	}
	require.True(t, open.sends())
	require.False(t, secret.sends(), "no key")
	secret.seal = new(fakeSeal)
	require.True(t, secret.sends())
}

func TestEverybody(t *testing.T) {
	l4, l6 := linkOf(t, 1500, "224.10.0.1"), linkOf(t, 1400, "ff05::706")
	replica4, replica6 := netip.MustParseAddrPort("192.0.2.7:1798"), netip.MustParseAddrPort("[2001:db8::7]:1798")
	old := netip.MustParseAddr("192.0.2.3")
	v := &view{
		uplinks: [2]*uplink{l4, l6}, port: 1798, replicas: []netip.AddrPort{replica4, replica6},
		old: map[netip.Addr]struct{}{old: {}}, peers: []hosts.Peer{{}},
	}
	toOld := destination{l4, netip.AddrPortFrom(old, 1798)}
	group4, group6 := destination{l4, l4.group}, destination{l6, l6.group}
	four, six := destination{l4, replica4}, destination{l6, replica6}
	require.Equal(t, &audience{
		to: [forms][]destination{inUDP: {group4, four, group6, six}, etherIP: {toOld}}, wants: [forms]bool{inUDP: true, etherIP: true},
	}, v.everybody(false))
	require.Equal(t, &audience{
		to: [forms][]destination{sealed: {group4, four, group6, six}}, wants: [forms]bool{sealed: true},
	}, v.everybody(true), "old hosts get nothing of vnets with security")
	v.etherip = true
	require.Equal(t, &audience{
		to: [forms][]destination{inUDP: {four, group6, six}, etherIP: {group4}}, wants: [forms]bool{inUDP: true, etherIP: true},
	}, v.everybody(false))
	v.uplinks[underlay.IPv6], v.replicas = nil, nil
	a := v.everybody(false)
	require.Equal(t, [forms]bool{inUDP: true, etherIP: true}, a.wants, "VFWD carries VUDP")
	require.Empty(t, a.to[inUDP])
}

// Trains of a vnet with security are sealed packet by packet, and nothing of it goes out in the clear.
func TestWhatLeavesIsSealed(t *testing.T) {
	w := new(worker)
	w.sealOne = w.sealDatagram
	n := bareNetwork(vnet.Config{ID: vnet.ID{15: 0x97}, Security: vnet.Conf}, 1)
	seal := &fakeSeal{port: 4500}
	n.seal = seal
	v := &view{uplinks: [2]*uplink{linkOf(t, 1500, "224.10.0.1")}, port: 1798}
	to := netip.MustParseAddr("192.0.2.2")
	e, ok := v.encap(n, to)
	require.True(t, ok)
	super := tcpFrame(4000)
	gso := wire.VnetHdr{Flags: wire.FlagNeedsCsum, GSOType: wire.GSOTCPv4, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	require.True(t, w.segment(n, &w.unicast, &e, e.maxFrame, super, gso, netip.AddrPortFrom(to, e.port)))
	train := w.unicast.Trains()
	require.Len(t, train, 1)
	msgs := w.load(n, train, Lane{Sender: 3})
	require.Len(t, msgs, 1)
	require.Len(t, msgs[0].Bufs, train[0].Count)
	require.Equal(t, netip.MustParseAddrPort("192.0.2.2:4500"), msgs[0].To)
	require.Equal(t, msgs[0].SegSize, len(msgs[0].Bufs[0]))
	require.LessOrEqual(t, len(msgs[0].Bufs[0]), 1500-28)
	i := 0
	train[0].Each(func(payload [][]byte) {
		require.Equal(t, []byte{3, 0}, msgs[0].Bufs[i][:2], "the lane")
		require.True(t, bytes.HasPrefix(msgs[0].Bufs[i][2:], bytes.Join(payload, nil)))
		require.True(t, bytes.HasSuffix(msgs[0].Bufs[i], []byte(sealMark)))
		i++
	})

	// Memory that is large enough has them one behind the other: one piece for the kernel. What is flooded is forwarded by VFWD,
	// one by one.
	size, whole := msgs[0].SegSize, slices.Concat(msgs[0].Bufs...)
	msgs = w.load(n, train, Lane{Sender: 3})
	require.Equal(t, [][]byte{whole}, msgs[0].Bufs)
	require.Equal(t, size, msgs[0].SegSize)
	require.Equal(t, train[0].Count, msgs[0].Packets())
	msgs = w.load(n, train, Lane{Flooded: true})
	require.Len(t, msgs[0].Bufs, train[0].Count)

	seal.empty = true
	msgs = w.load(n, train, Lane{})
	require.Empty(t, msgs[0].Bufs)
	require.EqualValues(t, train[0].Count, w.drops[DropUnprotected].Load())
}

// VARP messages of a vnet with security are sealed as its frames are.
func TestVARPIsSealed(t *testing.T) {
	s := speaker{view: &view{port: 1798}, lane: 9}
	n := bareNetwork(vnet.Config{ID: vnet.ID{15: 0x97}, Security: vnet.Auth}, 1)
	m := wire.VARP{Opcode: wire.Announce, Vnet: n.config.ID, MAC: wire.MAC{2}, CareOf: netip.MustParseAddr("192.0.2.1")}
	_, ok := s.pack(n, m, Lane{Sender: 9})
	require.False(t, ok)
	require.EqualValues(t, 1, s.drops[DropUnprotected].Load())
	n.seal = &fakeSeal{port: 4500}
	b, ok := s.pack(n, m, Lane{Sender: 9, Flooded: true})
	require.True(t, ok)
	require.EqualValues(t, 4500, s.place(n, sealed, m.CareOf).Port())
	require.Equal(t, append([]byte{9, 1}, m.Append(nil)...), b[:2+wire.VARPLen])
	require.True(t, bytes.HasSuffix(b, []byte(sealMark)))
}
