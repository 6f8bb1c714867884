package wire_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// content makes what ESP protects of a message.
func content(message []byte) []byte {
	b := make([]byte, wire.UDPLen)
	wire.PutESPDatagram(b, len(message))
	return wire.AppendESPTrailer(append(b, message...), len(message))
}

func TestESPContent(t *testing.T) {
	for n := range 9 {
		message := bytes.Repeat([]byte{7}, n)
		b := content(message)
		require.Zero(t, len(b)%4, "length %d", n)
		require.Equal(t, wire.ESPLen(n), wire.ESPHeaderLen+len(b)+wire.ICVLen)
		got, err := wire.DecodeESPContent(b)
		require.NoError(t, err)
		require.Equal(t, message, got)
	}
	full := content([]byte{1, 2, 3, 4})
	for _, c := range []struct {
		name string
		edit func(b []byte)
		err  error
	}{
		{"next header", func(b []byte) { b[len(b)-1] = 4 }, wire.ErrProtocol},
		{"padding", func(b []byte) { b[len(b)-3] = 9 }, wire.ErrPadding},
		{"padding longer than the packet", func(b []byte) { b[len(b)-2] = 255 }, wire.ErrPadding},
		{"source port", func(b []byte) { b[1]++ }, wire.ErrPort},
		{"destination port", func(b []byte) { b[3]++ }, wire.ErrPort},
		{"length too large", func(b []byte) { b[5] = 13 }, wire.ErrLength},
		{"length too small", func(b []byte) { b[5] = 7 }, wire.ErrLength},
	} {
		b := bytes.Clone(full)
		c.edit(b)
		_, err := wire.DecodeESPContent(b)
		require.ErrorIs(t, err, c.err, c.name)
	}
}

func TestDecodeESP(t *testing.T) {
	b := make([]byte, wire.ESPMinLen)
	b[2], b[7] = 1, 5
	spi, sequence, err := wire.DecodeESP(b)
	require.NoError(t, err)
	require.EqualValues(t, 256, spi)
	require.EqualValues(t, 5, sequence)
	_, _, err = wire.DecodeESP(append(b, 0))
	require.ErrorIs(t, err, wire.ErrLength)
	_, _, err = wire.DecodeESP(b[4:])
	require.ErrorIs(t, err, wire.ErrShort)
	b[2] = 0
	_, _, err = wire.DecodeESP(b)
	require.ErrorIs(t, err, wire.ErrSPI)
}

func TestDecodeSecured(t *testing.T) {
	require.Equal(t, wire.SecuredKeepalive, wire.DecodeSecured([]byte{0xff}))
	require.Equal(t, wire.SecuredMessage, wire.DecodeSecured(make([]byte, 4)))
	require.Equal(t, wire.SecuredESP, wire.DecodeSecured([]byte{0, 0, 1, 0}))
	require.Equal(t, wire.SecuredESP, wire.DecodeSecured(nil))
}

var (
	anAsk = wire.Ask{KID: wire.KID{1, 2}, Challenge: [16]byte{15: 9}, SPI: 0x01020304, Addr4: hostA, Addr6: netip.MustParseAddr("fd00::1")}
	aKey  = wire.Key{
		KID: wire.KID{7: 8}, Level: 2, Instance: [16]byte{1}, Nonce: [16]byte{2}, Epoch: 3, SPI: 0x04000500, Number: 5,
		Echo: [16]byte{6}, Addr4: hostA, Lanes: 2, Next: [wire.MaxLanes]uint64{7, 1 << 40},
	}
)

func TestKeyMessages(t *testing.T) {
	ask := append(anAsk.Append(nil), make([]byte, wire.MessageICV)...)
	require.Len(t, ask, wire.AskLen)
	var a wire.Ask
	require.NoError(t, a.Decode(ask))
	require.Equal(t, anAsk, a)
	key := append(aKey.Append(nil), make([]byte, wire.MessageICV)...)
	var k wire.Key
	require.NoError(t, k.Decode(key))
	require.Equal(t, aKey, k)
	require.ErrorIs(t, k.Decode(ask), wire.ErrMessage)
	require.ErrorIs(t, a.Decode(key), wire.ErrMessage)
	for _, c := range []struct {
		name string
		edit func(b []byte) []byte
		err  error
	}{
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, wire.ErrLength},
		{"longer", func(b []byte) []byte { return append(b, 0) }, wire.ErrLength},
		{"magic", func(b []byte) []byte { b[3] = '2'; return b }, wire.ErrMagic},
		{"type", func(b []byte) []byte { b[4] = 3; return b }, wire.ErrMessage},
		{"no lanes", func(b []byte) []byte { b[6] = 0; return b }, wire.ErrLength},
		{"SPI", func(b []byte) []byte { clear(b[52:55]); return b }, wire.ErrSPI},
		{"short", func(b []byte) []byte { return b[:71] }, wire.ErrShort},
	} {
		require.ErrorIs(t, k.Decode(c.edit(bytes.Clone(key))), c.err, c.name)
	}
}

func FuzzDecodeESP(f *testing.F) {
	b := make([]byte, wire.ESPMinLen)
	b[2] = 1
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if spi, _, err := wire.DecodeESP(b); err == nil {
			require.GreaterOrEqual(t, spi, uint32(wire.MinSPI))
			require.Equal(t, wire.SecuredESP, wire.DecodeSecured(b))
		}
	})
}

func FuzzDecodeESPContent(f *testing.F) {
	for n := range 5 {
		f.Add(content(make([]byte, n)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if message, err := wire.DecodeESPContent(b); err == nil {
			require.True(t, bytes.Equal(b[wire.UDPLen:wire.UDPLen+len(message)], message))
			require.LessOrEqual(t, wire.UDPLen+len(message)+wire.ESPTrailerLen+int(b[len(b)-2]), len(b))
		}
	})
}

func FuzzDecodeKey(f *testing.F) {
	f.Add(append(aKey.Append(nil), make([]byte, wire.MessageICV)...))
	f.Add(append(anAsk.Append(nil), make([]byte, wire.MessageICV)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var k wire.Key
		if k.Decode(b) == nil {
			again := k.Append(nil)
			b[7] = 0 // ignored
			require.True(t, bytes.Equal(b[:len(b)-wire.MessageICV], again))
		}
	})
}

func FuzzDecodeAsk(f *testing.F) {
	f.Add(append(anAsk.Append(nil), make([]byte, wire.MessageICV)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a wire.Ask
		if a.Decode(b) == nil {
			again := a.Append(nil)
			clear(b[5:8]) // ignored
			require.True(t, bytes.Equal(b[:len(b)-wire.MessageICV], again))
		}
	})
}
