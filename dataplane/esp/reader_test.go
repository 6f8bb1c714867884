package esp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Who has the key reads what was captured, of each level and lane, once the KEY message has come, and changes nothing;
// nothing else is read.
func TestReader(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		p := &puppet{key: newVnetKey(testSecret, testID), instance: [16]byte{1}}
		s := newSending(p.key, level, [16]byte{1}, 3, uint32(p.key.kid[0])<<24|0x100, 4, 0)
		message := append(wire.AppendVUDP(nil, testID), "a frame that is long enough"...)
		var packets [][]byte
		for i := range s.lanes {
			b, err := s.lanes[i].Append(make([]byte, Headroom), message)
			require.NoError(t, err)
			packets = append(packets, b[Headroom:])
		}
		r := NewReader(testID, Secret{9}, testSecret)
		_, ok := r.Open(packets[0])
		require.False(t, ok, "its KEY message has not come")
		key := p.say(s, [16]byte{})
		forged := bytes.Clone(key)
		forged[60]++
		require.False(t, r.Learn(forged))
		require.False(t, r.Learn([]byte("short")))
		require.True(t, r.Learn(key))
		require.True(t, r.Learn(key))
		require.Len(t, r.sas, 1)
		for _, packet := range packets {
			before := bytes.Clone(packet)
			got, ok := r.Open(packet)
			require.True(t, ok)
			require.Equal(t, message, got)
			require.Equal(t, before, packet)
			packet[len(packet)-1]++
			_, ok = r.Open(packet)
			require.False(t, ok)
		}
		require.False(t, NewReader(testID, Secret{9}).Learn(key))
		other := testID
		other[0]++
		require.False(t, NewReader(other, testSecret).Learn(key))
	}
}
