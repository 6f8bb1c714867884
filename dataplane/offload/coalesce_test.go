package offload

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// coalesce gives the frames (as copies) to a fresh Coalescer and returns what comes out, in one piece each.
func coalesce(c *Coalescer, frames [][]byte) (out [][]byte, hdrs []wire.VnetHdr) {
	for _, f := range frames {
		c.Add(append([]byte(nil), f...))
	}
	for _, f := range c.Flush() {
		out = append(out, bytes.Join(f.Bufs, nil))
		hdrs = append(hdrs, f.Hdr)
	}
	return out, hdrs
}

// uncoalesce cuts what came out again, as the kernel would.
func uncoalesce(t testing.TB, out [][]byte, hdrs []wire.VnetHdr) [][]byte {
	t.Helper()
	var frames [][]byte
	for i, f := range out {
		var s Segmenter
		require.LessOrEqual(t, len(f), maxCoalesced)
		require.NoError(t, s.Segment(append([]byte(nil), f...), hdrs[i], pathOf(65_535)))
		frames = append(frames, datagrams(t, &s, 65_535)...)
	}
	return frames
}

// TestJoin: what was cut from a super-frame becomes that super-frame again, byte for byte.
func TestJoin(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	var c Coalescer
	for i := range 1000 {
		p := randomPacket(r, 0)
		p.ipOpts, p.exts = nil, nil
		p.flags &^= tcpFIN | tcpCWR
		size := 200 + r.IntN(1300)
		_, _, hl := p.headers()
		n := 1 + r.IntN(maxCoalesced-hl)
		if !p.tcp {
			n = 1 + r.IntN(min(n, maxUDPPieces*size))
		}
		n = max(n, size+1)
		if n > maxPieces*size || hl+n > maxCoalesced {
			n = 2 * size
		}
		p.payload = bytesOf(r, n)
		want, h := p.super(size)
		out, hdrs := coalesce(&c, p.segments(size))
		require.Len(t, out, 1, "frame %d: %d bytes in %d", i, n, size)
		require.Equal(t, h, hdrs[0])
		require.True(t, bytes.Equal(want, out[0]), "frame %d", i)
	}
}

// TestLengthLimit: a frame grows to 65,535 bytes and not further.
func TestLengthLimit(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 2))
	var c Coalescer
	for _, v6 := range []bool{false, true} {
		p := tcpPacket(r, 0)
		p.v6 = v6
		_, _, hl := p.headers()
		p.payload = bytesOf(r, maxCoalesced-hl+1)
		out, hdrs := coalesce(&c, p.segments(1448))
		require.Len(t, out, 2)
		require.Equal(t, p.segments(1448), uncoalesce(t, out, hdrs))
		p.payload = p.payload[1:]
		out, _ = coalesce(&c, p.segments(1448))
		require.Len(t, out, 1)
		require.Len(t, out[0], maxCoalesced)
	}
}

// TestPieceLimits: how many segments one frame may have.
func TestPieceLimits(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	var c Coalescer
	u := udpPacket(r, 100*18)
	out, hdrs := coalesce(&c, u.segments(18))
	require.Len(t, out, 2)
	require.Equal(t, u.segments(18), uncoalesce(t, out, hdrs))
	p := tcpPacket(r, 600)
	out, hdrs = coalesce(&c, p.segments(2))
	require.Len(t, out, 2)
	require.Equal(t, p.segments(2), uncoalesce(t, out, hdrs))
}

// TestNotJoined: two segments, the second of which differs in one point, stay two.
func TestNotJoined(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tcp, udp := tcpPacket(r, 1000), udpPacket(r, 1000)
	tcp6, udp6 := tcp, udp
	tcp6.v6, udp6.v6 = true, true
	next := func(p packet) packet {
		p.seq += uint32(len(p.payload))
		p.id++
		return p
	}
	for _, base := range []packet{tcp, tcp6, udp, udp6} {
		var c Coalescer
		second := next(base)
		out, _ := coalesce(&c, [][]byte{base.build(false), second.build(false)})
		require.Len(t, out, 1, "the plain case")
	}
	all := []packet{tcp, tcp6, udp, udp6}
	tcps := []packet{tcp, tcp6}
	for name, x := range map[string]struct {
		bases []packet
		edit  func(a, b *packet)
	}{
		"destination":          {all, func(a, b *packet) { b.dst[5]++ }},
		"source":               {all, func(a, b *packet) { b.src[5]++ }},
		"tag":                  {all, func(a, b *packet) { b.tags = []uint16{0x8100} }},
		"other tag":            {all, func(a, b *packet) { a.tags, b.tags = []uint16{0x8100}, []uint16{0x88a8} }},
		"TOS":                  {all, func(a, b *packet) { b.tos ^= 0x10 }},
		"congestion mark":      {all, func(a, b *packet) { b.tos |= 3 }},
		"TTL":                  {all, func(a, b *packet) { b.ttl-- }},
		"from":                 {all, func(a, b *packet) { b.from++ }},
		"to":                   {all, func(a, b *packet) { b.to++ }},
		"source port":          {all, func(a, b *packet) { b.sport++ }},
		"destination port":     {all, func(a, b *packet) { b.dport++ }},
		"longer":               {all, func(a, b *packet) { b.payload = bytesOf(r, 1001) }},
		"empty":                {all, func(a, b *packet) { b.payload = nil }},
		"first empty":          {all, func(a, b *packet) { a.payload = nil }},
		"DF":                   {[]packet{tcp, udp}, func(a, b *packet) { b.df = false }},
		"id without DF":        {[]packet{tcp, udp}, func(a, b *packet) { a.df, b.df = false, false; b.id++ }},
		"sequence":             {tcps, func(a, b *packet) { b.seq++ }},
		"sequence before":      {tcps, func(a, b *packet) { b.seq -= 1000 }},
		"acknowledgement":      {tcps, func(a, b *packet) { b.ack++ }},
		"window":               {tcps, func(a, b *packet) { b.win++ }},
		"options":              {tcps, func(a, b *packet) { b.tcpOpts = []byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 2} }},
		"no options":           {tcps, func(a, b *packet) { b.tcpOpts = nil }},
		"SYN":                  {tcps, func(a, b *packet) { b.flags |= tcpSYN }},
		"FIN":                  {tcps, func(a, b *packet) { b.flags |= tcpFIN }},
		"RST":                  {tcps, func(a, b *packet) { b.flags |= tcpRST }},
		"URG":                  {tcps, func(a, b *packet) { b.flags |= tcpURG }},
		"CWR":                  {tcps, func(a, b *packet) { b.flags |= tcpCWR }},
		"CWR on both":          {tcps, func(a, b *packet) { a.flags |= tcpCWR; b.flags |= tcpCWR }},
		"URG on both":          {tcps, func(a, b *packet) { a.flags |= tcpURG; b.flags |= tcpURG }},
		"SYN on both":          {tcps, func(a, b *packet) { a.flags |= tcpSYN; b.flags |= tcpSYN }},
		"ECE":                  {tcps, func(a, b *packet) { b.flags |= tcpECE }},
		"PSH on the first":     {tcps, func(a, b *packet) { a.flags |= tcpPSH }},
		"no ACK":               {tcps, func(a, b *packet) { a.flags, b.flags = 0, 0 }},
		"IP options":           {[]packet{tcp, udp}, func(a, b *packet) { b.ipOpts = make([]byte, 4) }},
		"IP options on both":   {[]packet{tcp, udp}, func(a, b *packet) { a.ipOpts, b.ipOpts = make([]byte, 4), make([]byte, 4) }},
		"extension":            {[]packet{tcp6, udp6}, func(a, b *packet) { b.exts = []ext{{60, make([]byte, 6)}} }},
		"extension on both":    {[]packet{tcp6, udp6}, func(a, b *packet) { a.exts, b.exts = []ext{{60, make([]byte, 6)}}, []ext{{60, make([]byte, 6)}} }},
		"no checksum":          {[]packet{udp, udp6}, func(a, b *packet) { b.noSum = true }},
		"no checksum on first": {[]packet{udp, udp6}, func(a, b *packet) { a.noSum = true }},
		"no checksum on both":  {[]packet{udp, udp6}, func(a, b *packet) { a.noSum, b.noSum = true, true }},
	} {
		for _, a := range x.bases {
			b := next(a)
			x.edit(&a, &b)
			if name == "first empty" {
				b.seq = a.seq
			}
			frames := [][]byte{a.build(false), b.build(false)}
			var c Coalescer
			out, hdrs := coalesce(&c, frames)
			require.Equal(t, frames, out, "%s: passed untouched", name)
			require.Equal(t, []wire.VnetHdr{{}, {}}, hdrs)
		}
	}

	// Wherever a bit is flipped on the way, the segments stay apart and as they came.
	for _, a := range all {
		b := next(a)
		for which := range 2 {
			good := [][]byte{a.build(false), b.build(false)}
			_, _, hl := a.headers()
			for _, at := range []int{hl - 1, hl, len(good[0]) - 1} {
				frames := [][]byte{bytes.Clone(good[0]), bytes.Clone(good[1])}
				frames[which][at] ^= 4
				var c Coalescer
				out, hdrs := coalesce(&c, frames)
				require.Equal(t, frames, out)
				require.Equal(t, []wire.VnetHdr{{}, {}}, hdrs)
			}
		}
	}
}

// TestDFIds: nobody may look at the ids of packets that are never fragmented.
func TestDFIds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	p := udpPacket(r, 5000)
	frames := p.segments(1000)
	p.id = 0
	q := p
	for i := range frames {
		q.payload = p.payload[i*1000:][:1000]
		frames[i] = q.build(false)
	}
	var c Coalescer
	out, _ := coalesce(&c, frames)
	require.Len(t, out, 1)
}

// TestAfterwards: a frame is complete when a push or a shorter segment came.
func TestAfterwards(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 6))
	var c Coalescer
	for _, tcp := range []bool{true, false} {
		p := udpPacket(r, 7500)
		if tcp {
			p = tcpPacket(r, 7500)
		}
		whole := p.segments(1000)
		rest := p
		rest.payload = p.payload[:3000]
		rest.seq += 7500
		rest.id += 8
		frames := append(whole, rest.segments(1000)...)
		out, hdrs := coalesce(&c, frames)
		require.Len(t, out, 2)
		require.Equal(t, frames, uncoalesce(t, out, hdrs))
	}
	p := tcpPacket(r, 3000)
	p.flags |= tcpPSH
	q := p
	q.seq += 3000
	q.id += 3
	frames := append(p.segments(1000), q.segments(1000)...)
	out, hdrs := coalesce(&c, frames)
	require.Len(t, out, 2)
	require.Equal(t, frames, uncoalesce(t, out, hdrs))
	require.Equal(t, tcpACK|tcpPSH, int(out[0][34+tcpFlags]))
}

// flowsOf sorts frames by flow, in order: what has no ports belongs to the MACs.
func flowsOf(frames [][]byte) map[string][][]byte {
	m := make(map[string][][]byte)
	for _, f := range frames {
		k := string(f[:min(12, len(f))])
		if l, ok := parse(f); ok && !l.fragment {
			if _, ok := l.transport(f); ok {
				from, to := l.l3+12, l.l3+20
				if l.v6 {
					from, to = l.l3+8, l.l3+40
				}
				k = string(f[:l.l3]) + string(l.proto) + string(f[from:to]) + string(f[l.l4:l.l4+4])
			}
		}
		m[k] = append(m[k], f)
	}
	return m
}

// TestInterleaved mixes flows of all kinds with frames that are no flow's.
func TestInterleaved(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 7))
	var c Coalescer
	for round := range 60 {
		var flows [][][]byte
		for i := range 1 + r.IntN(100) {
			p := randomPacket(r, 1+r.IntN(20_000))
			if r.IntN(4) != 0 {
				p.ipOpts, p.exts = nil, nil
			}
			p.from = byte(i)
			flows = append(flows, p.segments(400+r.IntN(1000)))
		}
		var frames [][]byte
		for len(flows) > 0 {
			i := r.IntN(len(flows))
			n := min(1+r.IntN(5), len(flows[i]))
			frames = append(frames, flows[i][:n]...)
			if flows[i] = flows[i][n:]; len(flows[i]) == 0 {
				flows = append(flows[:i], flows[i+1:]...)
			}
			if r.IntN(30) == 0 {
				arp := append(append(append([]byte(nil), macB[:]...), macA[:]...), 8, 6)
				frames = append(frames, append(arp, bytesOf(r, 28)...))
			}
		}
		out, hdrs := coalesce(&c, frames)
		got := flowsOf(uncoalesce(t, out, hdrs))
		want := flowsOf(frames)
		require.Len(t, got, len(want))
		for k := range want {
			require.Equal(t, len(want[k]), len(got[k]), "round %d", round)
			for i := range want[k] {
				require.True(t, bytes.Equal(want[k][i], got[k][i]), "round %d", round)
			}
		}
	}
}

// TestBarrier: a frame that is no flow's is overtaken by none between the same MACs, but joining between
// others goes on.
func TestBarrier(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 8))
	a, b := tcpPacket(r, 4000), tcpPacket(r, 4000)
	b.dst[0], b.to = 2, 3
	sa, sb := a.segments(1000), b.segments(1000)
	icmp := udpPacket(r, 30)
	ping := icmp.build(false)
	ping[23] = protoICMP
	fragment := icmp.build(false)
	fragment[20] |= 0x20
	truncated := a.build(false)[:40]
	runt := a.build(false)[:13]
	none := a.build(false)[:5]
	for _, x := range [][]byte{ping, fragment, truncated, runt} {
		var c Coalescer
		out, _ := coalesce(&c, [][]byte{sa[0], sb[0], sa[1], sb[1], x, sa[2], sb[2], sa[3], sb[3]})
		require.Equal(t, 4, len(out))
		require.True(t, bytes.Equal(x, out[2]))
		require.Equal(t, len(sb[0])+3000, len(out[1]))
	}
	var c Coalescer
	out, _ := coalesce(&c, [][]byte{sa[0], none, sa[1]})
	require.Len(t, out, 2)
}

// TestPureAcks: what carries nothing stays as it is, and where it is in its flow.
func TestPureAcks(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	p := tcpPacket(r, 2000)
	s := p.segments(1000)
	ack := p
	ack.payload = nil
	ack.seq += 1000
	padded := append(ack.build(false), 0, 0, 0, 0)
	var c Coalescer
	frames := [][]byte{s[0], padded, s[1]}
	out, _ := coalesce(&c, frames)
	require.Equal(t, frames, out)
}

// TestPaddedSegments: padding behind the IP packet does not get between the segments.
func TestPaddedSegments(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 10))
	p := udpPacket(r, 40)
	want := p.segments(10)
	var frames [][]byte
	for _, f := range want {
		frames = append(frames, append(bytes.Clone(f), make([]byte, 60-len(f))...))
	}
	var c Coalescer
	out, hdrs := coalesce(&c, frames)
	require.Len(t, out, 1)
	require.Equal(t, want, uncoalesce(t, out, hdrs))
	out, _ = coalesce(&c, frames[:1])
	require.Equal(t, frames[:1], out, "one alone keeps it")
}

// TestTrailers: what is no padding is kept, with its frame.
func TestTrailers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 13))
	for _, tags := range [][]uint16{nil, {0x8100}} {
		p := tcpPacket(r, 4000)
		p.tags = tags
		frames := p.segments(1000)
		frames[1] = append(frames[1], 0)
		q := udpPacket(r, 40)
		q.tags = tags
		for _, f := range q.segments(10) {
			frames = append(frames, append(f, make([]byte, 61+4*len(tags)-len(f))...))
		}
		var c Coalescer
		out, _ := coalesce(&c, frames)
		require.Len(t, out, 7, "of all, the last two TCP segments are one")
		require.Equal(t, frames[:2], out[:2])
		require.Equal(t, frames[4:], out[3:])
	}
}

func TestNoUDP(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 11))
	u, p := udpPacket(r, 3000), tcpPacket(r, 3000)
	c := Coalescer{NoUDP: true}
	out, _ := coalesce(&c, append(u.segments(1000), p.segments(1000)...))
	require.Len(t, out, 4)
}

func TestFlushAndAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 12))
	p := tcpPacket(r, 4000)
	s := p.segments(1000)
	var c Coalescer
	require.Empty(t, c.Flush())
	require.Empty(t, c.Flush())
	for i := range 2 {
		out, hdrs := coalesce(&c, s[2*i:2*i+2])
		require.Equal(t, s[2*i:2*i+2], uncoalesce(t, out, hdrs), "nothing of the batch before is left")
		require.Empty(t, c.Flush())
	}
}

func TestCoalescerAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 13))
	var frames [][]byte
	for i := range 5 {
		p := tcpPacket(r, 30_000)
		p.from = byte(i)
		u := udpPacket(r, 20_000)
		u.from = byte(i)
		u.v6 = true
		frames = append(frames, p.segments(1448)...)
		frames = append(frames, u.segments(1000)...)
	}
	var c Coalescer
	pristine := bytes.Join(frames, nil)
	work := bytes.Clone(pristine)
	round := func() {
		copy(work, pristine)
		b := work
		for _, f := range frames {
			c.Add(b[:len(f)])
			b = b[len(f):]
		}
		if len(c.Flush()) != 10 {
			t.Fatal("not joined")
		}
	}
	round()
	require.Zero(t, testing.AllocsPerRun(50, round))
}

func BenchmarkCoalesce(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 14))
	tcp, udp := tcpPacket(r, 64*1000), udpPacket(r, 64*18)
	var mixed [][]byte
	for i := range 64 {
		p := udpPacket(r, 18)
		p.from = byte(i)
		mixed = append(mixed, p.build(false))
	}
	for _, x := range []struct {
		name   string
		frames [][]byte
	}{
		{"TCP 45x1448", func() [][]byte { p := tcp; p.payload = bytesOf(r, 45*1448); return p.segments(1448) }()},
		{"UDP 64x18", udp.segments(18)},
		{"64 flows", mixed},
	} {
		b.Run(x.name, func(b *testing.B) {
			var c Coalescer
			pristine := bytes.Join(x.frames, nil)
			work := bytes.Clone(pristine)
			b.SetBytes(int64(len(work)))
			b.ReportAllocs()
			for b.Loop() {
				b := work
				for _, f := range x.frames {
					copy(b, f[:70]) // the headers as they arrive
					c.Add(b[:len(f)])
					b = b[len(f):]
				}
				c.Flush()
			}
		})
	}
}
