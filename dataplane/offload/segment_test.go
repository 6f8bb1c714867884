package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

var (
	prefix = wire.AppendVUDP(nil, vnet.ID{15: 0x97})
	addr1  = netip.MustParseAddrPort("192.0.2.1:1798")
	addr2  = netip.MustParseAddrPort("192.0.2.2:1798")
)

// pathOf is a path on which inner frames of up to n bytes fit.
func pathOf(n int) *Path { return &Path{To: addr1, Prefix: prefix, MaxFrame: n} }

// datagrams returns the inner frames in trains, and checks what every train must keep.
func datagrams(t testing.TB, s *Segmenter, maxFrame int) [][]byte {
	t.Helper()
	var out [][]byte
	for i := range s.Trains() {
		tr := &s.Trains()[i]
		whole := bytes.Join(tr.Bufs, nil)
		require.Len(t, whole, tr.Len)
		require.LessOrEqual(t, tr.Count, MaxSegments)
		require.Equal(t, tr.Count > 1, tr.SegSize != 0)
		if tr.Count > 1 {
			require.LessOrEqual(t, tr.Len, MaxTrain)
			require.LessOrEqual(t, tr.SegSize, len(prefix)+maxFrame)
			require.Equal(t, tr.Count, (tr.Len+tr.SegSize-1)/tr.SegSize)
		}
		require.LessOrEqual(t, len(tr.Bufs), 1024, "IOV_MAX")
		n := 0
		tr.Each(func(d [][]byte) {
			b := bytes.Join(d, nil)
			require.True(t, bytes.HasPrefix(whole, b))
			whole = whole[len(b):]
			if n++; n < tr.Count {
				require.Len(t, b, tr.SegSize)
			}
			require.True(t, bytes.HasPrefix(b, prefix))
			out = append(out, b[len(prefix):])
		})
		require.Equal(t, tr.Count, n)
		require.Empty(t, whole)
	}
	return out
}

// TestCut compares the segments of many kinds of super-frames with the slow reference.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var s Segmenter
	for i := range 1500 {
		n := r.IntN(60_000)
		size := 40 + r.IntN(2000)
		maxFrame := 400 + r.IntN(9000)
		switch i % 10 {
		case 0:
			n = size * r.IntN(20) // an even number of segments
		case 1:
			n = r.IntN(size + 1) // one segment
		case 2:
			maxFrame = 65_535
		}
		p := randomPacket(r, n)
		frame, h := p.super(size)
		s.Reset()
		require.NoError(t, s.Segment(frame, h, pathOf(maxFrame)))
		_, _, hl := p.headers()
		if p.tcp && hl+size > maxFrame {
			size = maxFrame - hl
		}
		want := p.segments(size)
		got := datagrams(t, &s, maxFrame)
		require.Equal(t, len(want), len(got), "packet %d: %+v", i, h)
		for j := range want {
			require.True(t, bytes.Equal(want[j], got[j]), "packet %d, segment %d", i, j)
			if p.tcp {
				require.LessOrEqual(t, len(got[j]), maxFrame)
			}
		}
	}
}

func TestCutLargest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s Segmenter
	for _, v6 := range []bool{false, true} {
		for _, tcp := range []bool{false, true} {
			p := udpPacket(r, 0)
			p.tcp, p.v6 = tcp, v6
			if tcp {
				p.flags = tcpACK | tcpPSH
			}
			l3, _, hl := p.headers()
			n := 65535 - (hl - l3)
			if v6 {
				n += 40
			}
			p.payload = bytesOf(r, n)
			for _, size := range []int{1448, 1000, 32_000, 65_000} {
				frame, h := p.super(size)
				s.Reset()
				err := s.Segment(frame, h, pathOf(65_535))
				if len(prefix)+hl+size > maxDatagram {
					require.Equal(t, ErrLong, err)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, p.segments(size), datagrams(t, &s, 65_535))
			}
		}
	}
}

// TestTrains: what may share a train and what may not.
func TestTrains(t *testing.T) {
	var s Segmenter
	counts := func() (c []int) {
		for _, tr := range s.Trains() {
			c = append(c, tr.Count)
		}
		return c
	}
	add := func(to netip.AddrPort, n int) {
		p := pathOf(1450)
		p.To = to
		require.NoError(t, s.Segment(make([]byte, n), wire.VnetHdr{}, p))
	}
	for range 65 {
		add(addr1, 60)
	}
	require.Equal(t, []int{64, 1}, counts(), "64 datagrams")
	require.Len(t, s.Trains()[0].Bufs, 1, "short frames to one address are copied together")
	require.Equal(t, 82, s.Trains()[0].SegSize)

	s.Reset()
	for range 50 {
		add(addr1, 1450)
	}
	require.Equal(t, []int{44, 6}, counts(), "65,000 bytes")

	s.Reset()
	for _, n := range []int{1000, 1000, 400, 400, 1000} {
		add(addr1, n)
	}
	require.Equal(t, []int{3, 1, 1}, counts(), "a shorter one ends a train, a longer one begins another")

	s.Reset()
	for _, n := range []int{1451, 1514, 1514, 1450} {
		add(addr1, n)
	}
	require.Equal(t, []int{1, 1, 1, 1}, counts(), "what does not fit goes alone")

	s.Reset()
	for i := range 6 {
		add([]netip.AddrPort{addr1, addr2}[i%2], 1000)
		add([]netip.AddrPort{addr1, addr2}[i%2], 100)
	}
	require.Equal(t, []int{2, 2, 2, 2, 2, 2}, counts(), "addresses in turn")
	s.Reset()
	for i := range 6 {
		add([]netip.AddrPort{addr1, addr2}[i%2], 100)
	}
	require.Equal(t, []int{3, 3}, counts())
	require.Equal(t, addr1, s.Trains()[0].To)
	require.Equal(t, addr2, s.Trains()[1].To)

	s.Reset()
	p := pathOf(1450)
	p.Alone = true
	for range 3 {
		require.NoError(t, s.Segment(make([]byte, 60), wire.VnetHdr{}, p))
	}
	require.Equal(t, []int{1, 1, 1}, counts())
	require.False(t, s.Full())
	for range fullTrains {
		require.NoError(t, s.Segment(make([]byte, 60), wire.VnetHdr{}, p))
	}
	require.True(t, s.Full())
	s.Reset()
	require.False(t, s.Full())
}

// TestOrder: datagrams to one address stay in order, whatever their sizes and whoever else is served.
func TestOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	var s Segmenter
	next, want := map[netip.AddrPort]uint32{}, map[netip.AddrPort]uint32{}
	for range 20 {
		s.Reset()
		for range 400 {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(5))}), 1798)
			f := make([]byte, 60+r.IntN(3)*700)
			binary.BigEndian.PutUint32(f[20:], next[to])
			next[to]++
			require.NoError(t, s.Segment(f, wire.VnetHdr{}, &Path{To: to, Prefix: prefix, MaxFrame: 1000}))
		}
		for i := range s.Trains() {
			tr := &s.Trains()[i]
			tr.Each(func(d [][]byte) {
				f := bytes.Join(d, nil)[len(prefix):]
				require.Equal(t, want[tr.To], binary.BigEndian.Uint32(f[20:]))
				want[tr.To]++
			})
		}
	}
	require.Equal(t, next, want)
}

// TestArenaGrows: trains that were begun in a used-up arena go on in the next.
func TestArenaGrows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 4))
	var s Segmenter
	var want [][]byte
	for range 40 {
		p := tcpPacket(r, 60_000)
		frame, h := p.super(200)
		require.NoError(t, s.Segment(frame, h, pathOf(1450)))
		want = append(want, p.segments(200)...)
		small := bytesOf(r, 100)
		for range 3 {
			require.NoError(t, s.Segment(small, wire.VnetHdr{}, pathOf(1450)))
			want = append(want, small)
		}
	}
	require.True(t, s.Full())
	require.Equal(t, want, datagrams(t, &s, 1450))
}

// TestTCPEvents: FIN and PSH on the last segment, CWR on the first.
func TestTCPEvents(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 5))
	p := tcpPacket(r, 3000)
	p.flags = tcpACK | tcpFIN | tcpPSH | tcpECE | tcpCWR
	frame, h := p.super(1000)
	require.Equal(t, wire.GSOTCPv4|wire.GSOECN, h.GSOType)
	var s Segmenter
	require.NoError(t, s.Segment(frame, h, pathOf(1450)))
	var flags []byte
	for _, f := range datagrams(t, &s, 1450) {
		flags = append(flags, f[34+tcpFlags])
	}
	require.Equal(t, []byte{tcpACK | tcpECE | tcpCWR, tcpACK | tcpECE, tcpACK | tcpFIN | tcpPSH | tcpECE}, flags)
}

// TestHeadersOnly: a super-frame without payload stays one.
func TestHeadersOnly(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 6))
	p := tcpPacket(r, 0)
	frame, h := p.super(1000)
	var s Segmenter
	require.NoError(t, s.Segment(frame, h, pathOf(1450)))
	require.Equal(t, p.segments(1000), datagrams(t, &s, 1450))
}

// TestUDPGSO keeps the datagrams that the sender made, also where they do not fit.
func TestUDPGSO(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7))
	p := udpPacket(r, 14_720)
	frame, h := p.super(1472)
	var s Segmenter
	require.NoError(t, s.Segment(frame, h, pathOf(1450)))
	require.Len(t, s.Trains(), 10)
	require.Equal(t, p.segments(1472), datagrams(t, &s, 1450))

	// A GSO frame that carries no checksum keeps none.
	p.noSum = true
	frame, h = p.super(1400)
	h.Flags = 0
	s.Reset()
	require.NoError(t, s.Segment(frame, h, pathOf(1450)))
	require.Equal(t, p.segments(1400), datagrams(t, &s, 1450))
}

// TestCutVerified: a frame that the kernel joined from verified segments carries no metadata for its
// checksum, but its segments get one.
func TestCutVerified(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 8))
	p := tcpPacket(r, 5000)
	frame, h := p.super(1000)
	h.Flags, h.CsumStart, h.CsumOffset = wire.FlagDataValid, 0, 0
	var s Segmenter
	require.NoError(t, s.Segment(frame, h, pathOf(1450)))
	require.Equal(t, p.segments(1000), datagrams(t, &s, 1450))
}

// TestRouted: where a routing header hides the final destination, the sum that the sender began counts.
func TestRouted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	p := tcpPacket(r, 5000)
	p.v6 = true
	final := p
	final.to = 77
	p.exts = []ext{{proto: 43, body: append([]byte{2, 1}, bytesOf(r, 20)...)}}
	frame, h := p.super(1000)
	_, _, hl := p.headers()
	// The sum towards the final destination, of the same length.
	copy(frame[hl-len(p.tcpOpts)-4:], final.transport(true)[16:18])
	var s Segmenter
	require.NoError(t, s.Segment(frame, h, pathOf(1450)))
	got, want := datagrams(t, &s, 1450), final.segments(1000)
	require.Len(t, got, len(want))
	for i := range got {
		_, l4, _ := p.headers()
		_, plain, _ := final.headers()
		require.Equal(t, want[i][plain:], got[i][l4:])
	}
}

// TestPadding: what stands behind the IP packet is no payload.
func TestPadding(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 10))
	p := tcpPacket(r, 2000)
	frame, h := p.super(1000)
	var s Segmenter
	require.NoError(t, s.Segment(append(frame, 1, 2, 3), h, pathOf(1450)))
	require.Equal(t, p.segments(1000), datagrams(t, &s, 1450))
}

func TestLongestUDP(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 13))
	var s Segmenter
	for range 300 {
		p := randomPacket(r, 1+r.IntN(5000))
		p.tcp = false
		frame, h := p.super(1 + r.IntN(2000))
		h.HdrLen = uint16(r.Uint32())
		s.Reset()
		if s.Segment(frame, h, pathOf(9000)) != nil {
			continue
		}
		longest := 0
		for _, f := range datagrams(t, &s, 9000) {
			longest = max(longest, len(f))
		}
		require.Equal(t, longest, LongestUDP(frame, h))
	}
	p := tcpPacket(r, 2000)
	frame, h := p.super(1000)
	require.Equal(t, len(frame), LongestUDP(frame, h))
	require.Equal(t, 20, LongestUDP(frame[:20], h))
}

// TestDivide: a single TCP segment that does not fit is cut like a super-frame if its sender left the checksum to
// hardware, and in equal parts.
func TestDivide(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 12))
	var s Segmenter
	for name, c := range map[string]struct {
		change func(p *packet)
		hdr    func(h *wire.VnetHdr)
		whole  bool
	}{
		"IPv4":              {},
		"IPv6":              {change: func(p *packet) { p.v6 = true }},
		"tagged":            {change: func(p *packet) { p.tags = []uint16{0x8100} }},
		"extension headers": {change: func(p *packet) { p.v6, p.exts = true, []ext{{60, make([]byte, 6)}} }},
		"at the end":        {change: func(p *packet) { p.flags |= tcpFIN | tcpPSH }},
		"complete":          {hdr: func(h *wire.VnetHdr) { h.Flags = 0 }, whole: true},
		"with its own id":   {change: func(p *packet) { p.df = false }, whole: true},
		"at the beginning":  {change: func(p *packet) { p.flags |= tcpSYN }, whole: true},
		"reset":             {change: func(p *packet) { p.flags |= tcpRST }, whole: true},
		"urgent":            {change: func(p *packet) { p.flags |= tcpURG }, whole: true},
		"MD5":               {change: func(p *packet) { p.tcpOpts = append([]byte{1, 1, 19, 18}, make([]byte, 16)...) }, whole: true},
		"AO":                {change: func(p *packet) { p.tcpOpts = append([]byte{29, 16}, make([]byte, 14)...) }, whole: true},
		"behind others":     {change: func(p *packet) { p.tcpOpts = append(bytes.Clone(timestamps), 29, 4, 0, 0) }, whole: true},
		"nonsense":          {change: func(p *packet) { p.tcpOpts = []byte{8, 77, 0, 0} }, whole: true},
		"short option":      {change: func(p *packet) { p.tcpOpts = []byte{1, 1, 1, 8} }, whole: true},
		"ends early":        {change: func(p *packet) { p.tcpOpts = []byte{0, 29, 4, 0} }},
		"UDP":               {change: func(p *packet) { p.tcp, p.tcpOpts, p.flags = false, nil, 0 }, whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := tcpPacket(r, 1500)
			if c.change != nil {
				c.change(&p)
			}
			_, _, hl := p.headers()
			for _, maxFrame := range []int{hl + 1500, hl + 1499, hl + 750, hl + 749, hl + 300, hl + 200} {
				frame, h := p.super(0)
				h.GSOType, h.GSOSize, h.HdrLen = wire.GSONone, 0, 0
				if c.hdr != nil {
					frame = p.build(false)
					c.hdr(&h)
				}
				want := [][]byte{p.build(false)}
				if n := maxFrame - hl; n < 1500 && n > 256 && !c.whole {
					count := (1500 + n - 1) / n
					want = p.segments((1500 + count - 1) / count)
				}
				s.Reset()
				require.NoError(t, s.Segment(frame, h, pathOf(maxFrame)))
				require.Equal(t, want, datagrams(t, &s, maxFrame))
			}
		})
	}
}

// TestHdrLenIsAHint: the headers are measured, whatever hdr_len says.
func TestHdrLenIsAHint(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 11))
	p := tcpPacket(r, 2000)
	var s Segmenter
	for _, n := range []uint16{0, 1, 40, 1000, 65535} {
		frame, h := p.super(1000)
		h.HdrLen = n
		s.Reset()
		require.NoError(t, s.Segment(frame, h, pathOf(1450)))
		require.Equal(t, p.segments(1000), datagrams(t, &s, 1450))
	}
}

func TestNarrowPath(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 12))
	p := tcpPacket(r, 3000)
	var s Segmenter
	for _, maxFrame := range []int{0, 66, -5} { // not even the headers fit: leave it to IP
		frame, h := p.super(1000)
		s.Reset()
		require.NoError(t, s.Segment(frame, h, pathOf(maxFrame)))
		require.Equal(t, p.segments(1000), datagrams(t, &s, maxFrame))
		require.Len(t, s.Trains(), 3)
	}
	frame, h := p.super(1000)
	s.Reset()
	require.Equal(t, ErrGSO, s.Segment(frame, h, pathOf(67)), "3,000 segments of a byte")
}

func TestSegmentRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 13))
	tcp4, tcp6, udp := tcpPacket(r, 5000), tcpPacket(r, 5000), udpPacket(r, 5000)
	tcp6.v6 = true
	for name, c := range map[string]struct {
		p    packet
		edit func(f *[]byte, h *wire.VnetHdr, p *Path)
		want error
	}{
		"short":            {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { *f = (*f)[:13] }, ErrShort},
		"size 0":           {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOSize = 0 }, ErrGSO},
		"dust":             {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOSize = 2 }, ErrGSO},
		"UFO":              {udp, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOType = wire.GSOUDP }, ErrGSO},
		"unknown type":     {udp, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOType = 0x60 }, ErrGSO},
		"csum_start":       {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.CsumStart = 60000 }, ErrChecksum},
		"csum_start in IP": {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.CsumStart = 20 }, ErrChecksum},
		"csum_offset":      {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.CsumOffset = 6 }, ErrChecksum},
		"UDP as TCP":       {udp, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOType = wire.GSOTCPv4 }, ErrHeaders},
		"TCP as UDP":       {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOType = wire.GSOUDPL4 }, ErrHeaders},
		"IPv6 as IPv4":     {tcp6, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOType = wire.GSOTCPv4 }, ErrHeaders},
		"IPv4 as IPv6":     {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { h.GSOType = wire.GSOTCPv6 }, ErrHeaders},
		"ARP":              {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { (*f)[13] = 6 }, ErrHeaders},
		"truncated":        {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { *f = (*f)[:4000] }, ErrHeaders},
		"truncated IPv6":   {tcp6, func(f *[]byte, h *wire.VnetHdr, _ *Path) { *f = (*f)[:4000] }, ErrHeaders},
		"no header":        {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { *f = (*f)[:30] }, ErrHeaders},
		"fragment":         {udp, func(f *[]byte, h *wire.VnetHdr, _ *Path) { (*f)[20] |= 0x20 }, ErrHeaders},
		"later fragment":   {udp, func(f *[]byte, h *wire.VnetHdr, _ *Path) { (*f)[21] = 9 }, ErrHeaders},
		"IP header length": {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { (*f)[14] = 0x44 }, ErrHeaders},
		"TCP data offset":  {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) { (*f)[34+12] = 0x40 }, ErrHeaders},
		"TCP too short": {tcp4, func(f *[]byte, h *wire.VnetHdr, _ *Path) {
			(*f)[16], (*f)[17] = 0, 30
		}, ErrHeaders},
		"UDP too short": {udp, func(f *[]byte, h *wire.VnetHdr, _ *Path) {
			(*f)[16], (*f)[17] = 0, 24
		}, ErrHeaders},
		"jumbogram": {tcp6, func(f *[]byte, h *wire.VnetHdr, _ *Path) {
			(*f)[18], (*f)[19] = 0, 0
		}, ErrHeaders},
		"prefix": {tcp4, func(f *[]byte, h *wire.VnetHdr, p *Path) { p.Prefix = make([]byte, 65) }, ErrLong},
	} {
		frame, h := c.p.super(1000)
		path := pathOf(1450)
		c.edit(&frame, &h, path)
		var s Segmenter
		require.Equal(t, c.want, s.Segment(frame, h, path), name)
		require.Empty(t, s.Trains(), name)
	}

	var s Segmenter
	require.Equal(t, ErrLong, s.Segment(make([]byte, 65_486), wire.VnetHdr{}, pathOf(1450)))
	require.NoError(t, s.Segment(make([]byte, 65_485), wire.VnetHdr{}, pathOf(1450)))
	bad := wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: 34, CsumOffset: 16}
	require.Equal(t, ErrChecksum, s.Segment(make([]byte, 51), bad, pathOf(1450)))
	require.Len(t, s.Trains(), 1)

	// Extension headers without end.
	p := tcpPacket(r, 2000)
	p.v6 = true
	for range maxExts + 1 {
		p.exts = append(p.exts, ext{proto: 60, body: make([]byte, 6)})
	}
	frame, h := p.super(1000)
	require.Equal(t, ErrHeaders, s.Segment(frame, h, pathOf(1450)))
	p.exts = []ext{{proto: 60, body: make([]byte, 6+8*60)}}
	frame, h = p.super(1000)
	require.Equal(t, ErrHeaders, s.Segment(frame, h, pathOf(1450)), "more headers than anybody sends")
	p.exts = []ext{{proto: 44, body: make([]byte, 6)}}
	frame, h = p.super(1000)
	require.Equal(t, ErrHeaders, s.Segment(frame, h, pathOf(1450)), "a fragment header")
	p.exts, p.tags = nil, []uint16{0x8100, 0x8100, 0x8100, 0x8100}
	frame, h = p.super(1000)
	require.Equal(t, ErrHeaders, s.Segment(frame, h, pathOf(1450)), "tags without end")
}

func TestSegmentAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 14))
	var s Segmenter
	p4, p6, u := tcpPacket(r, 60_000), tcpPacket(r, 60_000), udpPacket(r, 40_000)
	p6.v6 = true
	type one struct {
		f []byte
		h wire.VnetHdr
	}
	var frames []one
	for _, p := range []packet{p4, p6, u} {
		f, h := p.super(1400)
		frames = append(frames, one{f, h})
	}
	small := make([]byte, 60)
	path, other := pathOf(1450), pathOf(1450)
	other.To = addr2
	total := 0
	each := func(d [][]byte) { total += len(d) }
	round := func() {
		s.Reset()
		for _, f := range frames {
			if err := s.Segment(f.f, f.h, path); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if err := s.Segment(small, wire.VnetHdr{}, other); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range s.Trains() {
			s.Trains()[i].Each(each)
		}
	}
	round()
	require.Zero(t, testing.AllocsPerRun(50, round))
	require.NotZero(t, total)
}

func BenchmarkSegment(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 15))
	for _, c := range []struct {
		name     string
		p        packet
		size     int
		maxFrame int
	}{
		{"TCPv4", tcpPacket(r, 65_160), 1448, 8950},
		{"TCPv4 lowered", tcpPacket(r, 65_160), 1448, 1450},
		{"TCPv4 jumbo", tcpPacket(r, 65_160), 8884, 8950},
		{"UDP", udpPacket(r, 64*1000), 1000, 1450},
	} {
		b.Run(c.name, func(b *testing.B) {
			frame, h := c.p.super(c.size)
			var s Segmenter
			path := pathOf(c.maxFrame)
			b.SetBytes(int64(len(c.p.payload)))
			b.ReportAllocs()
			for b.Loop() {
				s.Reset()
				if err := s.Segment(frame, h, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, n := range []int{60, 256, 512, 1450} {
		b.Run(fmt.Sprintf("plain %d", n), func(b *testing.B) {
			frame := make([]byte, n)
			var s Segmenter
			path := pathOf(1450)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if i&31 == 0 {
					s.Reset()
				}
				i++
				if err := s.Segment(frame, wire.VnetHdr{}, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
