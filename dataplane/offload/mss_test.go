package offload

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// TestClampSignedMSS: an MSS that a signature covers stays.
func TestClampSignedMSS(t *testing.T) {
	mss := []byte{2, 4, 5, 0xb4}
	ao := append([]byte{29, 16}, make([]byte, 14)...)
	md5 := append([]byte{1, 1, 19, 18}, make([]byte, 16)...)
	r := rand.New(rand.NewPCG(4, 3))
	for _, c := range []struct {
		name    string
		opts    [][]byte
		clamped bool
	}{
		{"AO", [][]byte{mss, ao}, false},
		{"AO first", [][]byte{ao, mss}, false},
		{"AO behind others", [][]byte{mss, {4, 2, 1, 3, 3, 7, 1, 1}, ao}, false},
		{"AO without MAC", [][]byte{mss, {29, 4, 0, 0}}, false},
		{"AO behind the end", [][]byte{mss, {0, 29, 2, 0}}, true},
		{"MD5", [][]byte{mss, md5}, true},
		{"MD5 first", [][]byte{md5, mss}, true},
		{"two", [][]byte{mss, mss}, true},
		{"nonsense behind", [][]byte{mss, {29, 77, 0, 0}}, true},
	} {
		for _, v6 := range []bool{false, true} {
			p := tcpPacket(r, 0)
			p.flags, p.v6, p.tcpOpts = tcpSYN, v6, bytes.Join(c.opts, nil)
			f := p.build(false)
			want := p
			if c.clamped {
				fits := innerMSS(1450, 14, v6)
				want.tcpOpts = bytes.Replace(p.tcpOpts, mss, []byte{2, 4, byte(fits >> 8), byte(fits)}, 1)
			}
			require.Equal(t, c.clamped, ClampMSS(f, wire.VnetHdr{}, 1450), c.name)
			require.Equal(t, want.build(false), f, c.name)
		}
	}
}
