package ctl

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	_, err := Do(t.Context(), socket, "(vnet.list)")
	require.ErrorIs(t, err, fs.ErrNotExist)
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	go func() {
		for range 2 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			heard, _ := io.ReadAll(c)
			if string(heard) == "(hang)\n" {
				cancel(why)
				defer c.Close()
				<-t.Context().Done()
				return
			}
			_, _ = c.Write(append([]byte("heard "), heard...))
			c.Close()
		}
	}()
	answer, err := Do(ctx, socket, "(a)", "(b)")
	require.NoError(t, err)
	require.Equal(t, "heard (a)\n(b)", answer)
	_, err = Do(ctx, socket, "(hang)")
	require.ErrorIs(t, err, why)
}
