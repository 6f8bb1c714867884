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

// FuzzSegment: whatever frame and metadata come in, what goes out is well formed and holds the payload,
// or nothing goes out.
func FuzzSegment(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 1))
	for range 30 {
		p := randomPacket(r, 300)
		frame, h := p.super(100)
		f.Add(frame, h.Flags, h.GSOType, h.HdrLen, h.GSOSize, h.CsumStart, h.CsumOffset, 1450)
	}
	f.Fuzz(func(t *testing.T, frame []byte, flags, typ uint8, hdrLen, size, start, offset uint16, maxFrame int) {
		if len(frame) > 65_550 {
			return
		}
		h := wire.VnetHdr{Flags: flags, GSOType: typ, HdrLen: hdrLen, GSOSize: size, CsumStart: start, CsumOffset: offset}
		before := bytes.Clone(frame)
		var s Segmenter
		if err := s.Segment(frame, h, pathOf(maxFrame)); err != nil {
			require.Empty(t, s.Trains())
			require.Equal(t, before, frame)
			return
		}
		out := datagrams(t, &s, maxFrame)
		if typ == wire.GSONone {
			require.Len(t, out, 1)
			require.Equal(t, frame, out[0])
			return
		}
		require.Equal(t, before, frame)
		l, ok := parse(frame)
		require.True(t, ok)
		hl, ok := l.transport(frame)
		require.True(t, ok)
		var payload []byte
		for _, g := range out {
			gl, ok := parse(g)
			require.True(t, ok)
			require.Equal(t, l.l4, gl.l4)
			if !(gl.routed && flags&wire.FlagNeedsCsum != 0) {
				require.True(t, slowVerify(g, gl))
			}
			if l.proto == protoTCP && maxFrame > hl {
				require.LessOrEqual(t, len(g), maxFrame)
			}
			require.LessOrEqual(t, len(g)-hl, int(size))
			payload = append(payload, g[hl:]...)
		}
		require.True(t, bytes.Equal(frame[hl:l.end], payload))
	})
}

// FuzzCoalesce spoils some bytes of a mix of flows: what comes out is, cut again, what went in, flow by
// flow and in order.
func FuzzCoalesce(f *testing.F) {
	f.Add(uint64(1), []byte(nil))
	f.Add(uint64(2), []byte{0, 0, 20, 1, 5, 0, 47, 8})
	f.Add(uint64(3), []byte{0, 0, 12, 1})
	f.Fuzz(func(t *testing.T, seed uint64, edits []byte) {
		r := rand.New(rand.NewPCG(seed, 0))
		var flows [][][]byte
		for i := range 3 {
			p := randomPacket(r, 1+r.IntN(1500))
			if r.IntN(5) != 0 {
				p.ipOpts, p.exts = nil, nil
			}
			p.from = byte(i)
			flows = append(flows, p.segments(50+r.IntN(200)))
		}
		var frames [][]byte
		for len(flows) > 0 {
			i := r.IntN(len(flows))
			frames = append(frames, flows[i][0])
			if flows[i] = flows[i][1:]; len(flows[i]) == 0 {
				flows = append(flows[:i], flows[i+1:]...)
			}
		}
		for ; len(edits) >= 4; edits = edits[4:] {
			g := frames[int(edits[0])%len(frames)]
			g[int(binary.BigEndian.Uint16(edits[1:]))%len(g)] ^= edits[3]
		}
		var c Coalescer
		out, hdrs := coalesce(&c, frames)
		got, want := flowsOf(uncoalesce(t, out, hdrs)), flowsOf(frames)
		require.Equal(t, len(want), len(got))
		for k := range want {
			require.Equal(t, len(want[k]), len(got[k]))
			for i := range want[k] {
				same(t, want[k][i], got[k][i])
			}
		}
	})
}

// same compares a frame with what became of it. Where it was joined, padding, ids that nobody may look at
// and the second way to write a checksum of zero are lost.
func same(t *testing.T, want, got []byte) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	l, ok := parse(want)
	require.True(t, ok)
	want, got = bytes.Clone(want[:l.end]), bytes.Clone(got)
	require.True(t, l.verified(want) && slowVerify(got, l))
	for _, f := range [][]byte{want, got} {
		if !l.v6 {
			require.NotZero(t, f[l.l3+6]&0x40)
			clear(f[l.l3+4 : l.l3+6])
			clear(f[l.l3+10 : l.l3+12])
		}
		if l.proto == protoTCP {
			clear(f[l.l4+tcpCsum : l.l4+tcpCsum+2])
		}
	}
	require.Equal(t, want, got)
}

// FuzzAdd throws anything at a Coalescer.
func FuzzAdd(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 2))
	for range 10 {
		p := randomPacket(r, 30)
		g := p.segments(10)
		f.Add(bytes.Join(g, nil), uint16(len(g[0])))
	}
	f.Fuzz(func(t *testing.T, b []byte, n uint16) {
		var c Coalescer
		total := 0
		for len(b) > 0 {
			k := min(max(1, int(n)), len(b))
			c.Add(b[:k:k])
			b = b[k:]
			total++
		}
		got := 0
		for _, g := range c.Flush() {
			got += len(g.Bufs)
		}
		require.Equal(t, total, got)
	})
}

// FuzzReplies: clamping and too-big answers hold on any frame.
func FuzzReplies(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 3))
	for range 20 {
		p := randomPacket(r, 30)
		p.flags |= tcpSYN
		p.tcpOpts = append([]byte{2, 4, 5, 0xb4}, p.tcpOpts[:min(len(p.tcpOpts), 36)]...)
		f.Add(p.build(false), 1400)
	}
	f.Fuzz(func(t *testing.T, frame []byte, mtu int) {
		before := bytes.Clone(frame)
		good := false
		l, ok := parse(frame)
		if ok && l.proto == protoTCP && !l.fragment {
			if _, ok := l.transport(frame); ok {
				good = l.verified(frame)
			}
		}
		if ClampMSS(frame, wire.VnetHdr{}, mtu) {
			require.Equal(t, good, l.verified(frame), "right stays right, wrong stays wrong")
		} else {
			require.Equal(t, before, frame)
		}
		out, ok := AppendTooBig(nil, frame, len(frame), mtu, netip.Addr{})
		if !ok {
			require.Empty(t, out)
			return
		}
		a, ok := parse(out)
		require.True(t, ok)
		require.Equal(t, len(out), a.end)
		require.Equal(t, wire.Source(frame), wire.Destination(out))
		if a.v6 {
			require.True(t, a.verified(out))
		} else {
			require.Equal(t, uint16(0xffff), slowSum(out[a.l4:]))
			require.Equal(t, uint16(0xffff), slowSum(out[a.l3:a.l4]))
		}
	})
}

// FuzzWhole: whatever passes for a large send has headers that the kernel takes, and can be cut.
func FuzzWhole(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 4))
	for range 20 {
		p := tcpPacket(r, 3000)
		p.flags = tcpACK
		f.Add(p.build(true), 1514)
	}
	f.Fuzz(func(t *testing.T, frame []byte, limit int) {
		var c Coalescer
		if !c.AddWhole(frame, limit) {
			require.Empty(t, c.Flush())
			return
		}
		h := c.Flush()[0].Hdr
		require.LessOrEqual(t, int(h.HdrLen), len(frame))
		require.Less(t, int(h.HdrLen), limit)
		require.LessOrEqual(t, int(h.HdrLen)+int(h.GSOSize), max(limit, 0))
		require.LessOrEqual(t, int(h.CsumStart)+int(h.CsumOffset)+2, int(h.HdrLen))
	})
}
