package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

func TestOverhead(t *testing.T) {
	for _, c := range []struct {
		o                       Overhead
		bytes, mtu1500, mtu9000 int
	}{
		{VUDPv4, 50, 1436, 8936},
		{VUDPv6, 70, 1416, 8916},
		{EtherIPv4, 38, 1448, 8948},
		{EtherIPv6, 58, 1428, 8928},
	} {
		require.EqualValues(t, c.bytes, c.o)
		require.Equal(t, c.mtu1500, c.o.InnerMTU(1500))
		require.Equal(t, c.mtu9000, c.o.InnerMTU(9000))
		require.Equal(t, 1500-c.bytes, c.o.MaxFrame(1500))
	}
}

func TestClampMSS(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	mss := func(v uint16, before ...byte) []byte {
		o := append(append([]byte(nil), before...), 2, 4, byte(v>>8), byte(v))
		for len(o)%4 != 0 {
			o = append(o, 0)
		}
		return o
	}
	for _, c := range []struct {
		name string
		opts []byte
		want []byte // nil: not changed
		v6   bool
		tags []uint16
	}{
		{"plain", mss(1460), mss(1396), false, nil},
		{"IPv6", mss(1440), mss(1376), true, nil},
		{"tagged", mss(1460), mss(1392), false, []uint16{0x8100}},
		{"odd place", mss(1460, 1), mss(1396, 1), false, nil},
		{"behind others", mss(1460, 4, 2, 1, 3, 3, 7), mss(1396, 4, 2, 1, 3, 3, 7), false, nil},
		{"small enough", mss(1396), nil, false, nil},
		{"smaller", mss(500), nil, false, nil},
		{"none", []byte{4, 2, 1, 1}, nil, false, nil},
		{"behind the end", append([]byte{0, 1, 1, 1}, mss(1460)...), nil, false, nil},
		{"option too long", []byte{1, 3, 9, 2}, nil, false, nil},
		{"option of length 0", []byte{3, 0, 2, 4}, nil, false, nil},
		{"kind at the end", []byte{1, 1, 1, 2}, nil, false, nil},
		{"wrong length", []byte{2, 3, 9, 1}, nil, false, nil},
	} {
		for _, partial := range []bool{false, true} {
			p := tcpPacket(r, 0)
			p.flags, p.tcpOpts, p.v6, p.tags = tcpSYN, c.opts, c.v6, c.tags
			f := p.build(partial)
			_, h := p.super(0)
			h.GSOType = wire.GSONone
			if !partial {
				h = wire.VnetHdr{}
			}
			want := p
			if c.want != nil {
				want.tcpOpts = c.want
			}
			require.Equal(t, c.want != nil, ClampMSS(f, h, VUDPv4.MaxFrame(1500)), c.name)
			require.Equal(t, want.build(partial), f, c.name)
		}
	}

	// Neither other segments nor what is no TCP.
	p := tcpPacket(r, 0)
	p.tcpOpts = mss(1460)
	for _, edit := range []func(p *packet, f *[]byte, h *wire.VnetHdr){
		func(p *packet, f *[]byte, h *wire.VnetHdr) {},
		func(p *packet, f *[]byte, h *wire.VnetHdr) { (*f)[34+13] |= tcpSYN; (*f)[20] |= 0x20 },
		func(p *packet, f *[]byte, h *wire.VnetHdr) { (*f)[34+13] |= tcpSYN; h.GSOType = wire.GSOTCPv4 },
		func(p *packet, f *[]byte, h *wire.VnetHdr) { (*f)[34+13] |= tcpSYN; (*f)[34+12] = 0xf0 },
		func(p *packet, f *[]byte, h *wire.VnetHdr) { (*f)[34+13] |= tcpSYN; (*f)[23] = 17 },
		func(p *packet, f *[]byte, h *wire.VnetHdr) { (*f)[34+13] |= tcpSYN; *f = (*f)[:33] },
	} {
		f, h := p.build(false), wire.VnetHdr{}
		edit(&p, &f, &h)
		before := bytes.Clone(f)
		require.False(t, ClampMSS(f, h, 1450))
		require.Equal(t, before, f)
	}
	p.flags = tcpSYN
	require.False(t, ClampMSS(p.build(false), wire.VnetHdr{}, 54), "no room for a byte")

	f := p.build(false)
	require.Zero(t, testing.AllocsPerRun(100, func() { ClampMSS(f, wire.VnetHdr{}, 1000) }))
}

// TestClampMSSChecksum: the checksum stays right for all values, also at its edges.
func TestClampMSSChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for range 2000 {
		p := tcpPacket(r, 0)
		p.flags = tcpSYN
		p.tcpOpts = append(make([]byte, 0, 8), 1, 2, 4, byte(r.Uint32()), byte(r.Uint32()), 1, 1, 0)
		f := p.build(false)
		ClampMSS(f, wire.VnetHdr{}, 54+1+r.IntN(3000))
		l, ok := parse(f)
		require.True(t, ok)
		require.True(t, slowVerify(f, l))
	}
}

func TestTooBig(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 3))
	for _, tags := range [][]uint16{nil, {0x8100}, {0x88a8, 0x8100}, {0x9100}, {0x88a8, 0x8100, 0x8100}} {
		p := udpPacket(r, 1472)
		p.tags = tags
		f := p.build(false)
		l3, _, _ := p.headers()
		out, ok := AppendTooBig([]byte("before"), f, len(f), l3+1436, netip.Addr{})
		require.True(t, ok)
		require.Equal(t, "before", string(out[:6]))
		out = out[6:]
		require.Equal(t, macA, wire.Destination(out))
		require.Equal(t, macB, wire.Source(out))
		require.Equal(t, f[12:l3], out[12:l3])
		h, icmp, err := wire.DecodeIPv4(out[l3:])
		require.NoError(t, err)
		require.Equal(t, uint16(0xffff), slowSum(out[l3:l3+20]))
		require.Equal(t, "10.1.0.2", h.Source.String())
		require.Equal(t, "10.1.0.1", h.Destination.String())
		require.EqualValues(t, protoICMP, h.Protocol)
		require.Len(t, out, l3+576)
		require.Equal(t, uint16(0xffff), slowSum(icmp))
		require.Equal(t, []byte{3, 4}, icmp[:2])
		require.Equal(t, []byte{0, 0}, icmp[4:6])
		require.EqualValues(t, 1436, binary.BigEndian.Uint16(icmp[6:]))
		require.Equal(t, f[l3:][:548], icmp[8:])

		p.v6 = true
		f = p.build(false)
		out, ok = AppendTooBig(nil, f, len(f), l3+1416, netip.MustParseAddr("2001:db8::5"))
		require.True(t, ok)
		require.Equal(t, f[12:l3], out[12:l3])
		ip := out[l3:]
		require.Len(t, ip, 1280)
		require.EqualValues(t, 1240, binary.BigEndian.Uint16(ip[4:]))
		require.EqualValues(t, protoICMPv6, ip[6])
		src, _ := p.addresses()
		require.Equal(t, "2001:db8::5", netip.AddrFrom16([16]byte(ip[8:24])).String())
		require.Equal(t, src, ip[24:40])
		pseudo := append(append([]byte(nil), ip[8:40]...), 0, 0, 0x04, 0xd8, 0, 0, 0, protoICMPv6)
		require.Equal(t, uint16(0xffff), slowSum(append(pseudo, ip[40:]...)))
		require.Equal(t, []byte{2, 0}, ip[40:42])
		require.EqualValues(t, 1416, binary.BigEndian.Uint32(ip[44:]))
		require.Equal(t, f[l3:][:1232], ip[48:])

		// IPv6 never becomes smaller than 1280 bytes.
		out, ok = AppendTooBig(nil, f, l3+1281, l3+1236, netip.Addr{})
		require.True(t, ok)
		require.EqualValues(t, 1280, binary.BigEndian.Uint32(out[l3+44:]))
		_, ok = AppendTooBig(nil, f, l3+1280, l3+1236, netip.Addr{})
		require.False(t, ok)
	}

	p := tcpPacket(r, 0)
	f := p.build(false)
	out, ok := AppendTooBig(nil, append(f, make([]byte, 10)...), len(f), 1450, netip.MustParseAddr("10.1.0.254"))
	require.True(t, ok)
	require.Len(t, out, 14+28+52, "a short packet is quoted whole, without padding")
	require.Equal(t, []byte{10, 1, 0, 254}, out[26:30])

	buf := make([]byte, 0, 2000)
	big := tcpPacket(r, 1448)
	f = big.build(false)
	require.Zero(t, testing.AllocsPerRun(100, func() { AppendTooBig(buf, f, len(f), 1450, netip.Addr{}) }))
}

// TestNoTooBig: what must not be answered.
func TestNoTooBig(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	four, six := udpPacket(r, 1472), udpPacket(r, 1472)
	six.v6 = true
	type edit func(f *[]byte)
	at := func(i int, v byte) edit { return func(f *[]byte) { (*f)[i] = v } }
	for name, c := range map[string]struct {
		p    packet
		edit []edit
	}{
		"ARP":                    {four, []edit{at(13, 6)}},
		"may be fragmented":      {four, []edit{at(20, 0)}},
		"later fragment":         {four, []edit{at(21, 5)}},
		"to a multicast MAC":     {four, []edit{at(0, 1)}},
		"from a multicast MAC":   {four, []edit{at(6, 1)}},
		"from nobody":            {four, []edit{at(26, 0), at(27, 0), at(28, 0), at(29, 0)}},
		"from multicast":         {four, []edit{at(26, 224)}},
		"to multicast":           {four, []edit{at(30, 224)}},
		"from loopback":          {four, []edit{at(26, 127)}},
		"to broadcast":           {four, []edit{at(30, 255), at(31, 255), at(32, 255), at(33, 255)}},
		"ICMP error":             {four, []edit{at(23, protoICMP), at(34, 3)}},
		"ICMP redirect":          {four, []edit{at(23, protoICMP), at(34, 5)}},
		"empty ICMP":             {four, []edit{at(23, protoICMP), func(f *[]byte) { (*f)[16], (*f)[17] = 0, 20 }}},
		"truncated":              {four, []edit{func(f *[]byte) { *f = (*f)[:100] }}},
		"IPv6 to a group's MAC":  {six, []edit{at(0, 0x33)}},
		"IPv6 from nobody":       {six, []edit{func(f *[]byte) { clear((*f)[22:38]) }}},
		"IPv6 to multicast":      {six, []edit{at(38, 0xff)}},
		"ICMPv6 error":           {six, []edit{at(20, protoICMPv6), at(54, 1)}},
		"ICMPv6 redirect":        {six, []edit{at(20, protoICMPv6), at(54, 137)}},
		"empty ICMPv6":           {six, []edit{at(20, protoICMPv6), func(f *[]byte) { (*f)[18], (*f)[19] = 0, 0 }}},
		"IPv6 extensions forged": {six, []edit{at(20, 60), at(55, 255)}},
	} {
		f := c.p.build(false)
		for _, e := range c.edit {
			e(&f)
		}
		out, ok := AppendTooBig(nil, f, len(f), 1414, netip.Addr{})
		require.False(t, ok, name)
		require.Empty(t, out, name)
	}
	_, ok := AppendTooBig(nil, four.build(false), 1514, 1414, netip.MustParseAddr("2001:db8::1"))
	require.False(t, ok)
	_, ok = AppendTooBig(nil, six.build(false), 1534, 1414, netip.MustParseAddr("192.0.2.1"))
	require.False(t, ok)

	// Queries are answered: a DF ping of 1472 learns what fits.
	f := four.build(false)
	f[23], f[34] = protoICMP, 8
	_, ok = AppendTooBig(nil, f, len(f), 1414, netip.Addr{})
	require.True(t, ok)
	f = six.build(false)
	f[20], f[54] = protoICMPv6, 128
	_, ok = AppendTooBig(nil, f, len(f), 1414, netip.Addr{})
	require.True(t, ok)
}
