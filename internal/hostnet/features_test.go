package hostnet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFeatures(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a", "b")
	f, err := h.Features(a.Index)
	require.NoError(t, err)
	require.True(t, f["tx-udp-segmentation"])
	require.True(t, f["tx-tcp-segmentation"])
	for range 2 {
		require.NoError(t, h.SetFeatures(a.Index, map[string]bool{
			"tx-udp-segmentation": false, "rx-gro": true, "tx-of-the-future": true, "loopback": true,
		}))
		f, err = h.Features(a.Index)
		require.NoError(t, err)
		require.False(t, f["tx-udp-segmentation"])
		require.True(t, f["rx-gro"])
		require.True(t, f["tx-tcp-segmentation"])
		require.False(t, f["loopback"])
	}
	require.ErrorIs(t, h.SetFeatures(4711, map[string]bool{"rx-gro": true}), ErrNotFound)
}
