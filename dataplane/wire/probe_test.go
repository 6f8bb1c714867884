package wire_test

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

var answer = wire.Probe{
	Answer: true, Nonce: [16]byte{1, 15: 2}, CareOf: netip.MustParseAddr("192.0.2.1"), Received: 200, Group: true,
	Version: "xend 0.2.0", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	Vnets: []vnet.ID{{15: 0x97}}, VnetCount: 3, HearsGroup: true,
}

// The bytes of a question, which must stay as they are.
func TestProbeOnTheWire(t *testing.T) {
	q := wire.Probe{Nonce: [16]byte{0xaa, 15: 0xbb}, CareOf: netip.MustParseAddr("192.0.2.1"), Size: 70, WantsGroup: true}
	b := q.Append(nil)
	require.Equal(t, "00010001"+"00000000000000000000000000000001"+"0278656e6401"+"02"+"c0000201000000000000000000000000"+
		"58565031"+"01"+"01"+"0000"+"aa0000000000000000000000000000bb"+"000000", hex.EncodeToString(b))
	m, err := wire.DecodeVARP(b)
	require.NoError(t, err)
	require.True(t, m.IsProbe(b))
	got, err := wire.DecodeProbe(b)
	require.NoError(t, err)
	require.Equal(t, q, got)

	b = answer.Append([]byte("x"))[1:]
	require.Equal(t, byte(2), b[47])
	got, err = wire.DecodeProbe(b)
	require.NoError(t, err)
	require.Equal(t, answer, got)
}

// An answer is never longer than its question, and vnets that do not fit are counted still.
func TestAnswerFits(t *testing.T) {
	a := answer
	for i := range 1000 {
		a.Vnets = append(a.Vnets, vnet.ID{0: 1, 14: byte(i >> 8), 15: byte(i)})
	}
	a.VnetCount = len(a.Vnets)
	for size := range 2000 {
		a.Received = size
		b := a.Append(nil)
		require.LessOrEqual(t, len(b), size)
		if size < wire.MinProbe {
			continue
		}
		got, err := wire.DecodeProbe(b)
		require.NoError(t, err)
		require.Equal(t, 1001, got.VnetCount)
		require.True(t, got.HearsGroup)
		require.Equal(t, a.Addrs, got.Addrs)
		require.NotEmpty(t, got.Vnets)
		require.Equal(t, a.Vnets[:len(got.Vnets)], got.Vnets)
	}
}

func TestDecodeProbeRefuses(t *testing.T) {
	whole := answer.Append(nil)
	for n := range len(whole) {
		if p, err := wire.DecodeProbe(whole[:n]); err == nil {
			require.Less(t, len(p.Vnets)+len(p.Addrs), 3, "cut at %d between two fields", n)
		}
	}
	for name, change := range map[string]func(b []byte){
		"another vnet":  func(b []byte) { b[19] = 2 },
		"another MAC":   func(b []byte) { b[25] = 2 },
		"an announce":   func(b []byte) { b[3] = 2 },
		"another magic": func(b []byte) { b[43] = 'Y' },
		"unknown type":  func(b []byte) { b[47] = 3 },
		"a long field":  func(b []byte) { binary.BigEndian.PutUint16(b[72:], 5000) },
	} {
		b := answer.Append(nil)
		change(b)
		_, err := wire.DecodeProbe(b)
		require.Error(t, err, name)
	}
	// What is new to us is passed over.
	b := append(answer.Append(nil), 99, 0, 2, 1, 2)
	p, err := wire.DecodeProbe(b)
	require.NoError(t, err)
	require.Equal(t, answer, p)
	p, err = wire.DecodeProbe(append(answer.Append(nil), 1, 0, 2, 'a', '\n'))
	require.NoError(t, err)
	require.Equal(t, answer.Version, p.Version, "nothing that a terminal would act on")
}

func FuzzDecodeProbe(f *testing.F) {
	f.Add(wire.Probe{Size: 300}.Append(nil))
	f.Add(answer.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.DecodeProbe(b)
		if err != nil {
			return
		}
		if !p.CareOf.IsValid() {
			p.CareOf = netip.IPv4Unspecified() // a family that we do not know
		}
		if p.Answer {
			p.Received = max(p.Received, 2*len(b)+1000)
			if p.Received > 65535 {
				return
			}
		}
		again, err := wire.DecodeProbe(p.Append(nil))
		require.NoError(t, err)
		if len(p.Version) > 64 {
			p.Version = again.Version
		}
		require.Equal(t, p, again)
	})
}
