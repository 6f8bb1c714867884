package varp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

func TestPending(t *testing.T) {
	p := NewPending()
	k, now := Key{MAC: wire.MAC{2}}, int64(time.Hour)
	require.False(t, p.Waits(k))
	for try := range probeTries {
		require.True(t, p.Ask(k, now), "try %d", try)
		require.False(t, p.Ask(k, now+probeInterval-1), "not so soon")
		now += probeInterval
	}
	require.False(t, p.Ask(k, now), "nobody answers")
	require.Equal(t, []Inquiry{{Key: k, Age: time.Duration(probeInterval), Failed: true}}, p.List(now))
	require.True(t, p.Waits(k))
	p.Done(k)
	require.True(t, p.Waits(k), "more answers may come")
	require.Empty(t, p.List(now))
	p.Sweep(now + probeForget)
	require.False(t, p.Waits(k))
	require.True(t, p.Ask(k, now), "anew")
	p.Sweep(now + probeForget)
	require.True(t, p.Waits(k))
	p.Sweep(now + probeForget + 1)
	require.False(t, p.Waits(k))
}

// However many MACs are asked for, memory is bounded, and one that is known goes out.
func TestPendingIsBounded(t *testing.T) {
	p := NewPending()
	at := func(i int) Key { return Key{MAC: wire.MAC{2, byte(i >> 16), byte(i >> 8), byte(i)}} }
	for i := range 4 * maxInquiries {
		require.Equal(t, i < maxInquiries, p.Ask(at(i), 1))
	}
	require.Len(t, p.List(1), maxInquiries)
	p.Done(at(0))
	require.True(t, p.Ask(at(5000), 1))
}
