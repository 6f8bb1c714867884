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

var member = wire.Probe{
	Vnet: vnet.ID{15: 0x97}, Answer: true, Nonce: [16]byte{3, 15: 4}, CareOf: netip.MustParseAddr("192.0.2.1"), Received: 200,
	Version: "xend 0.2.0", Level: 2, Keys: []wire.KID{{1, 2}, {3}}, MACs: []wire.MAC{{2, 1}, {2, 2}}, MACCount: 7, Replicates: true,
}

// Inside of ESP a probe names the vnet, and its answer tells of keys and MACs; in the clear neither is a probe, or told.
func TestSealedProbe(t *testing.T) {
	q := wire.Probe{Vnet: member.Vnet, Nonce: [16]byte{9}, CareOf: member.CareOf, Size: 300}
	for _, p := range []wire.Probe{q, member} {
		b := p.Append(nil)
		m, err := wire.DecodeVARP(b)
		require.NoError(t, err)
		require.Equal(t, member.Vnet, m.Vnet)
		require.True(t, m.IsSealedProbe(b))
		require.False(t, m.IsProbe(b))
		_, err = wire.DecodeProbe(b)
		require.Error(t, err)
		got, err := wire.DecodeSealedProbe(b)
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	clear := member
	clear.Vnet = vnet.ID{}
	got, err := wire.DecodeProbe(clear.Append(nil))
	require.NoError(t, err)
	require.Zero(t, got.Level)
	require.Empty(t, got.Keys)
	require.Empty(t, got.MACs)

	a := member
	for i := range 1000 {
		a.MACs = append(a.MACs, wire.MAC{2, 4: byte(i >> 8), 5: byte(i)})
	}
	for size := range 2000 {
		a.Received = size
		b := a.Append(nil)
		require.LessOrEqual(t, len(b), size)
		if size < wire.MinProbe {
			continue
		}
		got, err := wire.DecodeSealedProbe(b)
		require.NoError(t, err)
		require.Equal(t, a.Keys, got.Keys)
		require.Equal(t, a.MACs[:len(got.MACs)], got.MACs)
		require.NotEmpty(t, got.MACs)
	}
}

func FuzzDecodeSealedProbe(f *testing.F) {
	f.Add(wire.Probe{Vnet: member.Vnet, Size: 300}.Append(nil))
	f.Add(member.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.DecodeSealedProbe(b)
		if err != nil || p.Vnet == (vnet.ID{}) || p.Vnet == (vnet.ID{15: 1}) {
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
		again, err := wire.DecodeSealedProbe(p.Append(nil))
		require.NoError(t, err)
		if len(p.Version) > 64 {
			p.Version = again.Version
		}
		require.Equal(t, p.Keys, again.Keys)
		require.Equal(t, p.MACs, again.MACs)
		require.Equal(t, p.Level, again.Level)
	})
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
