package wire_test

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

var (
	vnet97 = vnet.ID{14: 0, 15: 0x97}
	long   = vnet.ID{0x20, 0x01, 0xd, 0xb8, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6}
	mac    = wire.MAC{0x00, 0x16, 0x3e, 0x00, 0x00, 0x01}
)

func TestVUDP(t *testing.T) {
	head := wire.AppendVUDP(nil, long)
	require.Equal(t, unhex(t, "0002 0000 0040 20010db8 00010002 00030004 00050006"), head)
	require.Len(t, head, wire.VUDPLen)
	frame := unhex(t, "ffffffffffff 00163e000001 0806 0102")
	id, got, err := wire.DecodeVUDP(append(head, frame...))
	require.NoError(t, err)
	require.Equal(t, long, id)
	require.Equal(t, frame, got)
}

func TestEtherIPVersion(t *testing.T) {
	frame := make([]byte, wire.FrameLen)
	for _, c := range []struct {
		field string
		ok    bool
	}{
		{"0040", true},  // ours, and every little-endian original's
		{"4000", true},  // a big-endian host's
		{"ab4f", true},  // the original never cleared the other bits
		{"4f3c", true},  // nor would a big-endian one
		{"0000", false}, // no version
		{"0030", false},
		{"3000", false}, // RFC 3378's version: not ours
		{"0004", false},
		{"0400", false},
	} {
		b := append(unhex(t, c.field), make([]byte, 16)...)
		b = append(b, frame...)
		_, _, err := wire.DecodeEtherIP(b)
		_, _, err2 := wire.DecodeVUDP(append(unhex(t, "00020007"), b...)) // the opcode is ignored
		if c.ok {
			require.NoError(t, err, c.field)
			require.NoError(t, err2, c.field)
		} else {
			require.Equal(t, wire.ErrVersion, err, c.field)
			require.Equal(t, wire.ErrVersion, err2, c.field)
		}
	}
}

func TestShortPackets(t *testing.T) {
	vudp := append(wire.AppendVUDP(nil, vnet97), make([]byte, wire.FrameLen)...)
	for n := range vudp {
		_, _, err := wire.DecodeVUDP(vudp[:n])
		require.Equal(t, wire.ErrShort, err, "%d bytes", n)
	}
	for n := range len(vudp) - wire.MessageLen {
		_, _, err := wire.DecodeEtherIP(vudp[wire.MessageLen:][:n])
		require.Equal(t, wire.ErrShort, err, "%d bytes", n)
	}
	varp := wire.VARP{Opcode: wire.Request, Vnet: vnet97, MAC: mac, CareOf: hostA}.Append(nil)
	for n := range varp {
		_, err := wire.DecodeVARP(varp[:n])
		require.Equal(t, wire.ErrShort, err, "%d bytes", n)
	}
	for n := range wire.VFWDLen {
		_, err := wire.DecodeVFWD(append([]byte{0, 3, 0, 0}, make([]byte, 28)...)[:n])
		require.Equal(t, wire.ErrShort, err, "%d bytes", n)
	}
	for n := range wire.MessageLen {
		_, _, err := wire.DecodeMessage(vudp[:n])
		require.Equal(t, wire.ErrShort, err)
	}
	for _, id := range []byte{0, 4, 255} {
		_, _, err := wire.DecodeMessage([]byte{0, id, 0, 0})
		require.Equal(t, wire.ErrMessage, err)
	}
	_, _, err := wire.DecodeVUDP(varp)
	require.Equal(t, wire.ErrMessage, err)
}

func TestVARP(t *testing.T) {
	for _, c := range []struct {
		hex string
		m   wire.VARP
	}{
		{
			"0001 0001 00000000 00000000 00000000 00000097 00163e000001 02 c0000201 000000000000000000000000",
			wire.VARP{Opcode: wire.Request, Vnet: vnet97, MAC: mac, CareOf: hostA},
		},
		{
			"0001 0002 20010db8 00010002 00030004 00050006 00163e000001 02 c0000202 000000000000000000000000",
			wire.VARP{Opcode: wire.Announce, Vnet: long, MAC: mac, CareOf: hostB},
		},
		{
			"0001 0002 00000000 00000000 00000000 00000097 00163e000001 0a 20010db8000000000000000000000001",
			wire.VARP{Opcode: wire.Announce, Vnet: vnet97, MAC: mac, CareOf: netip.MustParseAddr("2001:db8::1")},
		},
		{
			"0001 0001 00000000 00000000 00000000 00000097 00163e000001 02 00000000 000000000000000000000000",
			wire.VARP{Opcode: wire.Request, Vnet: vnet97, MAC: mac, CareOf: netip.IPv4Unspecified()},
		},
	} {
		b := unhex(t, c.hex)
		require.Len(t, b, wire.VARPLen)
		require.Equal(t, b, c.m.Append(nil))
		m, err := wire.DecodeVARP(append(b, 1, 2, 3))
		require.NoError(t, err)
		require.Equal(t, c.m, m)
	}
}

func TestVARPAddresses(t *testing.T) {
	m := wire.VARP{Opcode: wire.Announce, Vnet: vnet97, MAC: mac, CareOf: netip.MustParseAddr("::ffff:192.0.2.1")}
	got, err := wire.DecodeVARP(m.Append(nil))
	require.NoError(t, err)
	require.Equal(t, hostA, got.CareOf, "a mapped address is sent as IPv4")

	b := m.Append(nil)
	b[26] = 10
	copy(b[27:], unhex(t, "00000000000000000000ffffc0000201"))
	got, err = wire.DecodeVARP(b)
	require.NoError(t, err)
	require.Equal(t, hostA, got.CareOf, "and is IPv4 when it is received")

	b[26] = 7
	_, err = wire.DecodeVARP(b)
	require.Equal(t, wire.ErrFamily, err)
	b[3] = 1
	got, err = wire.DecodeVARP(b)
	require.NoError(t, err, "a request needs no care-of address")
	require.False(t, got.CareOf.IsValid())
	for _, op := range []byte{0, 3} {
		b[3] = op
		_, err = wire.DecodeVARP(b)
		require.Equal(t, wire.ErrOpcode, err)
	}
	require.Equal(t, byte(2), wire.VARP{Opcode: wire.Request}.Append(nil)[26])
}

// TestVFWDFromRelay: an original relay fills in protocol, source and destination, and nothing else.
func TestVFWDFromRelay(t *testing.T) {
	payload := append(wire.AppendVUDP(nil, vnet97), make([]byte, 60)...)
	b := append(unhex(t, "0003 0000 00000000 00000000 00110000 c0000201 e00a0001 0706 0706 0000 0000"), payload...)
	f, err := wire.DecodeVFWD(b)
	require.NoError(t, err)
	require.Equal(t, wire.Forward{Source: hostA, Destination: wire.Group, Port: wire.Port, Payload: payload}, f)

	b[4+9] = 6
	_, err = wire.DecodeVFWD(b)
	require.Equal(t, wire.ErrProtocol, err)
}

func TestDatagram(t *testing.T) {
	from := netip.AddrPortFrom(hostA, wire.Port)
	to := netip.AddrPortFrom(wire.Group, wire.Port)
	payload := []byte("an odd number of bytes!")
	for cut := range payload {
		b, err := wire.AppendDatagram(nil, from, to, 9, 0x1234, payload[:cut], nil, payload[cut:])
		require.NoError(t, err)
		b = append(b, payload...)
		h, udp, err := wire.DecodeIPv4(b)
		require.NoError(t, err)
		require.Equal(t, wire.IPv4{Source: hostA, Destination: wire.Group, Protocol: 17, TTL: 9, ID: 0x1234}, h)
		require.Equal(t, uint16(0xffff), referenceSum(b[:20]))
		pseudo := append(append([]byte(nil), b[12:20]...), 0, 17, 0, byte(len(udp)))
		require.Equal(t, uint16(0xffff), referenceSum(append(pseudo, udp...)), "cut at %d", cut)
		src, dst, got, err := wire.DecodeUDP(udp)
		require.NoError(t, err)
		require.EqualValues(t, wire.Port, src)
		require.EqualValues(t, wire.Port, dst)
		require.Equal(t, payload, got)
	}

	v6 := netip.MustParseAddrPort("[2001:db8::1]:1798")
	_, err := wire.AppendDatagram(nil, v6, to, 1, 0)
	require.Equal(t, wire.ErrFamily, err)
	_, err = wire.AppendUDP(nil, v6, to)
	require.Equal(t, wire.ErrFamily, err)
	_, err = wire.AppendVFWD(nil, from, v6, 1)
	require.Equal(t, wire.ErrFamily, err)
	_, err = wire.AppendDatagram(nil, from, to, 1, 0, make([]byte, 65535-27))
	require.Equal(t, wire.ErrLength, err)
	_, err = wire.AppendDatagram(nil, from, to, 1, 0, make([]byte, 65535-28))
	require.NoError(t, err)
	udp, err := wire.AppendUDP(nil, v6, v6, payload)
	require.NoError(t, err)
	a := v6.Addr().As16()
	pseudo := append(append(append([]byte(nil), a[:]...), a[:]...), 0, 0, 0, byte(8+len(payload)), 0, 0, 0, 17)
	require.Equal(t, uint16(0xffff), referenceSum(append(append(pseudo, udp...), payload...)))
}

// TestUDPChecksumNeverZero: a sum of zero is sent as 0xffff.
func TestUDPChecksumNeverZero(t *testing.T) {
	from, to := netip.AddrPortFrom(hostA, wire.Port), netip.AddrPortFrom(hostB, wire.Port)
	b, err := wire.AppendUDP(nil, from, to, []byte{0, 0})
	require.NoError(t, err)
	// The checksum of zeros, put in as payload, makes the whole add up to nothing.
	b, err = wire.AppendUDP(nil, from, to, b[6:8])
	require.NoError(t, err)
	require.Equal(t, []byte{0xff, 0xff}, b[6:8])
}

func TestDecodeIPv4Refuses(t *testing.T) {
	good, err := wire.AppendIPv4(nil, wire.IPv4{Source: hostA, Destination: hostB, Protocol: 97, TTL: 64, DontFragment: true}, 4)
	require.NoError(t, err)
	good = append(good, 1, 2, 3, 4, 5, 6) // Ethernet padding
	h, p, err := wire.DecodeIPv4(good)
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2, 3, 4}, p)
	require.True(t, h.DontFragment)
	require.False(t, h.Fragment)
	for _, c := range []struct {
		at   int
		v    byte
		want error
	}{
		{0, 0x65, wire.ErrVersion},
		{0, 0x44, wire.ErrLength},
		{0, 0x4f, wire.ErrLength},
		{3, 19, wire.ErrLength},
		{3, 27, wire.ErrLength},
	} {
		b := append([]byte(nil), good...)
		b[c.at] = c.v
		_, _, err := wire.DecodeIPv4(b)
		require.Equal(t, c.want, err)
	}
	good[6] = 0x20
	h, _, err = wire.DecodeIPv4(good)
	require.NoError(t, err)
	require.True(t, h.Fragment)
	_, _, err = wire.DecodeIPv4(good[:19])
	require.Equal(t, wire.ErrShort, err)
	_, _, _, err = wire.DecodeUDP([]byte{0, 1, 0, 2, 0, 9, 0, 0})
	require.Equal(t, wire.ErrLength, err)
	_, _, _, err = wire.DecodeUDP([]byte{0, 1, 0, 2, 0, 7, 0})
	require.Equal(t, wire.ErrShort, err)
}

func TestMAC(t *testing.T) {
	require.Equal(t, "00:16:3e:00:00:01", mac.String())
	require.False(t, mac.Multicast())
	require.True(t, wire.MAC{0x01, 0, 0x5e}.Multicast())
	require.True(t, wire.MAC{}.IsZero())
	f := unhex(t, "ffffffffffff 00163e000001 0806")
	require.Equal(t, "ff:ff:ff:ff:ff:ff", wire.Destination(f).String())
	require.Equal(t, mac, wire.Source(f))
}

func TestVnetHdr(t *testing.T) {
	h := wire.VnetHdr{Flags: 1, GSOType: 0x81, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	var b [wire.VnetHdrLen]byte
	h.Encode(b[:])
	require.Equal(t, h.GSOSize, binary.NativeEndian.Uint16(b[4:]))
	var got wire.VnetHdr
	got.Decode(b[:])
	require.Equal(t, h, got)
	f := wire.Frame{Bufs: [][]byte{{1, 2}, nil, {3}}}
	require.Equal(t, 3, f.Len())
}

// referenceSum is the Internet checksum as RFC 1071 explains it.
func referenceSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		sum += w
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
	}
	return uint16(sum)
}

// bigEndian gives a folded sum as the number that the wire shows.
func bigEndian(v uint16) uint16 {
	var b [2]byte
	wire.PutSum(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 70_000)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	ones := make([]byte, 70_000)
	for i := range ones {
		ones[i] = 0xff
	}
	for n := range 1200 { // whole blocks, and what is left of them
		off := r.IntN(33)
		require.Equal(t, referenceSum(b[off:off+n]), bigEndian(wire.Fold(wire.Sum(b[off:off+n], 0))), "%d bytes", n)
		require.Equal(t, referenceSum(ones[:n]), bigEndian(wire.Fold(wire.Sum(ones[:n], 0))), "%d ones", n)
	}
	require.Equal(t, referenceSum(b), bigEndian(wire.Fold(wire.Sum(b, 0))))
	require.Equal(t, uint16(0xffff), wire.Fold(wire.Sum(ones, ^uint64(0))), "carries out of a full accumulator are kept")
	require.Equal(t, uint16(0x1234), bigEndian(wire.Fold(wire.Word(0x1234))))
	v := wire.GetSum([]byte{0x12, 0x34})
	require.Equal(t, uint64(v), wire.Word(0x1234))
}

func TestAppendFragmentRefuses(t *testing.T) {
	p, err := wire.AppendDatagram(nil, netip.AddrPortFrom(hostA, 1), netip.AddrPortFrom(hostB, 2), 1, 7, make([]byte, 100))
	require.NoError(t, err)
	p = append(p, make([]byte, 100)...)
	for _, c := range []struct {
		b        []byte
		mtu, off int
		want     error
	}{
		{p[:19], 1500, 0, wire.ErrShort},
		{append([]byte{0x46}, p[1:]...), 1500, 0, wire.ErrVersion},
		{p, 27, 0, wire.ErrLength},
		{p, 1500, 7, wire.ErrLength},
		{p, 1500, -8, wire.ErrLength},
		{p, 1500, 112, wire.ErrLength},
	} {
		_, _, err := wire.AppendFragment(nil, c.b, c.mtu, c.off)
		require.Equal(t, c.want, err)
	}
	out, next, err := wire.AppendFragment(nil, p, len(p), 0)
	require.NoError(t, err)
	require.Zero(t, next)
	require.Equal(t, p, out, "what fits stays whole")
}

func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 0, 2048)
	frame := make([]byte, 600)
	from, to := netip.AddrPortFrom(hostA, wire.Port), netip.AddrPortFrom(wire.Group, wire.Port)
	vudp := append(wire.AppendVUDP(nil, vnet97), frame...)
	varp := wire.VARP{Opcode: wire.Announce, Vnet: vnet97, MAC: mac, CareOf: hostA}
	announce := varp.Append(nil)
	head, err := wire.AppendVFWD(nil, from, to, 64, vudp)
	require.NoError(t, err)
	vfwd := append(head, vudp...)
	var h wire.VnetHdr
	for name, f := range map[string]func(){
		"AppendVUDP":     func() { wire.AppendVUDP(buf, vnet97) },
		"DecodeVUDP":     func() { _, _, _ = wire.DecodeVUDP(vudp) },
		"DecodeVUDP bad": func() { _, _, _ = wire.DecodeVUDP(vudp[:9]) },
		"AppendVARP":     func() { varp.Append(buf) },
		"DecodeVARP":     func() { _, _ = wire.DecodeVARP(announce) },
		"AppendVFWD":     func() { _, _ = wire.AppendVFWD(buf, from, to, 64, vudp[:22], frame) },
		"DecodeVFWD":     func() { _, _ = wire.DecodeVFWD(vfwd) },
		"DecodeMessage":  func() { _, _, _ = wire.DecodeMessage(vudp) },
		"DecodeIPv4":     func() { _, _, _ = wire.DecodeIPv4(vfwd[4:]) },
		"DecodeUDP":      func() { _, _, _, _ = wire.DecodeUDP(vfwd[24:]) },
		"AppendFragment": func() { _, _, _ = wire.AppendFragment(buf, vfwd[4:], 576, 0) },
		"VnetHdr":        func() { h.Decode(vudp); h.Encode(buf[:10]) },
		"Sum":            func() { wire.Sum(frame[:599], 0) },
	} {
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
}

// TestSumLoop tests what processors without AVX2 do.
func TestSumLoop(t *testing.T) {
	defer wire.WithoutBlocks()()
	TestSum(t)
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 1448, 65536} {
		buf := make([]byte, n)
		b.Run(sizeName(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				wire.Sum(buf, 0)
			}
		})
	}
}

func sizeName(n int) string {
	return map[int]string{20: "20", 64: "64", 1448: "1448", 65536: "65536"}[n]
}
