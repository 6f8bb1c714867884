package offload

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// TestPartial: what arrives with the pseudo header's sum for a checksum leaves complete, joined or not.
func TestPartial(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 1))
	for range 500 {
		p := randomPacket(r, 1+r.IntN(1400))
		var c Coalescer
		c.Add(p.build(true))
		got := c.Flush()
		require.Len(t, got, 1)
		require.Equal(t, wire.VnetHdr{}, got[0].Hdr)
		require.Equal(t, p.build(false), got[0].Bufs[0])
	}
	for range 100 {
		p := tcpPacket(r, 3000)
		p.flags = tcpACK
		var whole, cut Coalescer
		for _, s := range p.segments(1000) {
			whole.Add(bytes.Clone(s))
			l, ok := parse(s)
			require.True(t, ok)
			wire.PutSum(s[l.l4+tcpCsum:], wire.Fold(uint64(wire.Fold(l.pseudo(s)))+wire.Word(uint16(l.end-l.l4))))
			cut.Add(s)
		}
		require.Equal(t, whole.Flush(), cut.Flush())
	}
}

// TestWrongStaysWrong: a checksum that is neither right nor left for hardware is not mended.
func TestWrongStaysWrong(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 2))
	for range 200 {
		p := tcpPacket(r, 100)
		f := p.build(false)
		f[len(f)-1] ^= 0x55
		want := bytes.Clone(f)
		var c Coalescer
		c.Add(f)
		require.Equal(t, want, c.Flush()[0].Bufs[0])
	}
}

// TestWhole: a large send that arrives whole goes on as one, to be cut to what the vnif takes.
func TestWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 3))
	for range 100 {
		p := tcpPacket(r, 20_000)
		p.flags = tcpACK | uint8(r.Uint32())&(tcpPSH|tcpFIN|tcpCWR|tcpECE)
		frame := p.build(true)
		require.True(t, Whole(frame))
		var c Coalescer
		require.True(t, c.AddWhole(frame, 1514))
		got := c.Flush()
		require.Len(t, got, 1)
		require.Equal(t, frame, got[0].Bufs[0])
		require.Equal(t, p.flags&tcpCWR != 0, got[0].Hdr.GSOType&wire.GSOECN != 0, "CWR on the first segment only")
		// It is cut into what its sender would have sent.
		h := got[0].Hdr
		var s Segmenter
		require.NoError(t, s.Segment(frame, h, pathOf(1514)))
		want := p.segments(int(h.GSOSize))
		require.Equal(t, want, datagrams(t, &s, 1514))

		require.False(t, Whole(p.build(false)), "somebody has completed it")
		p.flags |= tcpSYN
		require.False(t, Whole(p.build(true)))
	}
	p := udpPacket(r, 20_000)
	require.False(t, Whole(p.build(true)))
	require.False(t, Whole(nil))
	tcp := tcpPacket(r, 2000)
	tcp.flags = tcpACK
	require.False(t, new(Coalescer).AddWhole(tcp.build(true), 40), "no room for a byte")
}
