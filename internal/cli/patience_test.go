package cli

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Who waits at a terminal sees for how long, and nothing of it is left; what is done within a second shows nothing, and nothing is
// shown to what is no terminal.
func TestPatiently(t *testing.T) {
	failure := errors.New("no")
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		require.ErrorIs(t, showing(&b, "asking", func() error {
			time.Sleep(2500 * time.Millisecond)
			return failure
		}), failure)
		require.Equal(t, "\r\x1b[Kasking: 1 s\r\x1b[Kasking: 2 s\r\x1b[K", b.String())
		b.Reset()
		require.NoError(t, showing(&b, "asking", func() error {
			time.Sleep(900 * time.Millisecond)
			return nil
		}))
		require.Empty(t, b.String())
		slowly := func() error {
			time.Sleep(3 * time.Second)
			return failure
		}
		require.ErrorIs(t, Patiently(&b, "asking", slowly), failure)
		require.Empty(t, b.String())
		file, err := os.CreateTemp(t.TempDir(), "")
		require.NoError(t, err)
		defer file.Close()
		require.ErrorIs(t, Patiently(file, "asking", slowly), failure)
		info, err := file.Stat()
		require.NoError(t, err)
		require.Zero(t, info.Size())
	})
}
