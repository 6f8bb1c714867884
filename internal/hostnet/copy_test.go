package hostnet

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSignsOfACopy(t *testing.T) {
	require.True(t, isNewGeneration([]byte("change@/devices/x\x00ACTION=change\x00NEW_VMGENID=1\x00")))
	require.False(t, isNewGeneration([]byte("change@/devices/x\x00ACTION=change\x00OLD_NEW_VMGENID=1\x00")))
	// Both can be watched, say nothing while nothing happens, and end.
	for _, w := range []struct {
		open func() (*os.File, error)
		next func(*os.File) (bool, error)
	}{{openUevents, nextGeneration}, {openClock, nextClockSet}} {
		f, err := w.open()
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
		time.AfterFunc(10*time.Millisecond, cancel)
		for err == nil {
			var sign bool
			sign, err = w.next(f)
			require.False(t, sign)
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, f.Close())
	}
}
