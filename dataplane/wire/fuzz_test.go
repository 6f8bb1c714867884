package wire_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/dataplane/wire/wiretest"
)

// seed adds what original hosts sent to a corpus, cut by drop bytes.
func seed(f *testing.F, drop int) {
	for _, name := range wiretest.Names() {
		for _, p := range wiretest.Packets(f, name) {
			if len(p) >= drop {
				f.Add(p[drop:])
			}
		}
	}
}

const toUDP = 14 + wire.IPv4Len + wire.UDPLen

func FuzzDecodeVUDP(f *testing.F) {
	seed(f, toUDP)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, frame, err := wire.DecodeVUDP(b)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, len(frame), wire.FrameLen)
		again := append(wire.AppendVUDP(nil, id), frame...)
		// All but the opcode and the EtherIP field survives.
		require.True(t, bytes.Equal(b[:2], again[:2]) && bytes.Equal(b[6:], again[6:]))
		id2, frame2, err := wire.DecodeEtherIP(b[wire.MessageLen:])
		require.NoError(t, err)
		require.Equal(t, id, id2)
		require.Equal(t, frame, frame2)
	})
}

func FuzzDecodeEtherIP(f *testing.F) {
	seed(f, toUDP+wire.MessageLen)
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, frame, err := wire.DecodeEtherIP(b); err == nil {
			again := append(wire.AppendEtherIP(nil, id), frame...)
			require.Equal(t, b[2:], again[2:])
		}
	})
}

func FuzzDecodeVARP(f *testing.F) {
	seed(f, toUDP)
	for _, op := range []wire.Opcode{wire.Request, wire.Announce} {
		f.Add(wire.VARP{Opcode: op, Vnet: long, MAC: mac, CareOf: hostA}.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wire.DecodeVARP(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeVARP(m.Append(nil))
		require.NoError(t, err)
		if m.CareOf.IsValid() {
			require.Equal(t, m, again)
		}
		require.Equal(t, b[:26], m.Append(nil)[:26])
	})
}

func FuzzDecodeVFWD(f *testing.F) {
	seed(f, toUDP)
	f.Fuzz(func(t *testing.T, b []byte) {
		fw, err := wire.DecodeVFWD(b)
		if err != nil {
			return
		}
		require.True(t, fw.Source.Is4() && fw.Destination.Is4())
		require.Equal(t, b[wire.VFWDLen:], fw.Payload)
	})
}

func FuzzDecodeMessage(f *testing.F) {
	seed(f, toUDP)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, op, err := wire.DecodeMessage(b)
		if err == nil {
			require.Equal(t, binary.BigEndian.Uint32(b), uint32(id)<<16|uint32(op))
		}
	})
}

func FuzzDecodeIPv4(f *testing.F) {
	seed(f, 14)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, p, err := wire.DecodeIPv4(b)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(p)+wire.IPv4Len, len(b))
		again, err := wire.AppendIPv4(nil, h, len(p))
		require.NoError(t, err)
		h2, p2, err := wire.DecodeIPv4(append(again, p...))
		require.NoError(t, err)
		h.Fragment = false
		require.Equal(t, h, h2)
		require.Equal(t, p, p2)
		if h.Protocol == wire.ProtocolUDP {
			if _, _, data, err := wire.DecodeUDP(p); err == nil {
				require.LessOrEqual(t, len(data)+wire.UDPLen, len(p))
			}
		}
	})
}

func FuzzAppendFragment(f *testing.F) {
	seed(f, 14)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 {
			return
		}
		mtu := int(b[0])<<3 + int(b[1])
		packet := b[2:]
		var whole []byte
		for off, more := 0, true; more; {
			out, next, err := wire.AppendFragment(nil, packet, mtu, off)
			if err != nil {
				require.Zero(t, off)
				return
			}
			require.LessOrEqual(t, len(out), max(mtu, wire.IPv4Len))
			require.Equal(t, uint16(0xffff), referenceSum(out[:wire.IPv4Len]))
			require.EqualValues(t, len(out), binary.BigEndian.Uint16(out[2:]))
			field := binary.BigEndian.Uint16(out[6:])
			require.Equal(t, next != 0, field&0x2000 != 0)
			require.EqualValues(t, off, int(field&0x1fff)*8)
			whole = append(whole, out[wire.IPv4Len:]...)
			off, more = next, next != 0
		}
		require.True(t, bytes.Equal(packet[wire.IPv4Len:], whole))
	})
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("abc"), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		require.Equal(t, referenceSum(b), bigEndian(wire.Fold(wire.Sum(b, 0))))
		if cut &^= 1; cut >= 0 && cut <= len(b) {
			require.Equal(t, referenceSum(b), bigEndian(wire.Fold(wire.Sum(b[cut:], wire.Sum(b[:cut], 0)))))
		}
	})
}
