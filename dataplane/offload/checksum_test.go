package offload

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

func TestComplete(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	for range 500 {
		p := randomPacket(r, r.IntN(3000))
		frame, h := p.super(0)
		h.GSOType = wire.GSONone
		require.NoError(t, Complete(frame, h))
		require.Equal(t, p.build(false), frame)
		require.NoError(t, Complete(frame, wire.VnetHdr{Flags: wire.FlagDataValid, CsumStart: 1}))
		require.Equal(t, p.build(false), frame, "no checksum was left")
	}
}

// TestCompleteZero: a UDP checksum that comes out as zero is 0xffff, any other is zero.
func TestCompleteZero(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, tcp := range []bool{false, true} {
		p := udpPacket(r, 2)
		if tcp {
			p = tcpPacket(r, 2)
		}
		copy(p.payload, []byte{0, 0})
		f, at := p.transport(false), 6
		if tcp {
			at = 16
		}
		copy(p.payload, f[at:at+2]) // what is missing to all ones
		frame, h := p.super(0)
		h.GSOType = wire.GSONone
		require.NoError(t, Complete(frame, h))
		l, ok := parse(frame)
		require.True(t, ok)
		require.True(t, slowVerify(frame, l))
		if want := uint16(0xffff); tcp {
			require.Zero(t, binary.BigEndian.Uint16(frame[l.l4+at:]))
		} else {
			require.Equal(t, want, binary.BigEndian.Uint16(frame[l.l4+at:]))
		}
	}
}

func TestCompleteRefuses(t *testing.T) {
	for _, h := range []wire.VnetHdr{
		{CsumStart: 0, CsumOffset: 16},
		{CsumStart: 13, CsumOffset: 16},
		{CsumStart: 34, CsumOffset: 65},
		{CsumStart: 99, CsumOffset: 0},
		{CsumStart: 65535, CsumOffset: 65535},
		{CsumStart: 14, CsumOffset: 65535},
	} {
		h.Flags = wire.FlagNeedsCsum
		require.Equal(t, ErrChecksum, Complete(make([]byte, 100), h), "%+v", h)
	}
	require.NoError(t, Complete(make([]byte, 100), wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: 34, CsumOffset: 64}))
}

// slowCRC is CRC32c bit by bit (RFC 9260, appendix A).
func slowCRC(b []byte) uint32 {
	crc := ^uint32(0)
	for _, x := range b {
		crc ^= uint32(x)
		for range 8 {
			crc = crc>>1 ^ -(crc&1)&0x82f63b78
		}
	}
	return ^crc
}

// TestCompleteSCTP: the checksum that is left for hardware is not the Internet's.
func TestCompleteSCTP(t *testing.T) {
	require.Equal(t, uint32(0xe3069283), slowCRC([]byte("123456789")))
	r := rand.New(rand.NewPCG(2, 3))
	for _, v6 := range []bool{false, true} {
		p := udpPacket(r, 100) // 8 bytes that become ports and tag, 4 of checksum, 96 of chunks
		p.v6, p.noSum = v6, true
		frame := p.build(false)
		l3, l4, _ := p.headers()
		if v6 {
			frame[l3+6] = protoSCTP
		} else {
			frame[l3+9] = protoSCTP
		}
		h := wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: uint16(l4), CsumOffset: 8}
		want := append([]byte(nil), frame...)
		clear(want[l4+8 : l4+12])
		binary.LittleEndian.PutUint32(want[l4+8:], slowCRC(want[l4:]))
		require.NoError(t, Complete(frame, h))
		require.Equal(t, want, frame)

		h.CsumStart -= 2
		require.Equal(t, ErrChecksum, Complete(frame, h))
		require.Equal(t, want, frame)
	}
	p := udpPacket(r, 3)
	frame := p.build(false)
	frame[23] = protoSCTP
	require.Equal(t, ErrChecksum, Complete(append(frame, make([]byte, 20)...),
		wire.VnetHdr{Flags: wire.FlagNeedsCsum, CsumStart: 34, CsumOffset: 8}), "shorter than its header")
}

func TestCompleteAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 4))
	p := tcpPacket(r, 1448)
	frame, h := p.super(0)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = Complete(frame, h) }))
}
