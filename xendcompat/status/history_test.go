package status

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
)

// What was dropped is news for a minute, and for a daemon that is younger than that as long as it is.
func TestDroppedLately(t *testing.T) {
	const r = dataplane.DropKeyUnknown
	var h history
	now := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	sample := func(count uint64) {
		now = now.Add(sampleEvery)
		h.sample(dataplane.Counters{Drops: []dataplane.Drop{{Reason: r, Count: count}}}, now)
	}
	require.False(t, h.lately(r, 0))
	require.True(t, h.lately(r, 3), "nobody has looked yet")
	sample(3)
	require.True(t, h.lately(r, 3))
	for range 6 {
		sample(3)
	}
	require.False(t, h.lately(r, 3))
	require.True(t, h.lately(r, 4), "after the last sample")
	for range samples {
		sample(3)
	}
	sample(4)
	for range 5 {
		require.True(t, h.lately(r, 4))
		sample(4)
	}
	require.True(t, h.lately(r, 4))
	sample(4)
	require.False(t, h.lately(r, 4))
}
