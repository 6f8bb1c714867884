package console

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/xendcompat/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// consoles has one of vm1, which is a loop.
type consoles struct{}

func (consoles) Console(_ context.Context, key string) (io.ReadWriteCloser, error) {
	switch key {
	case "vm1":
		near, far := net.Pipe()
		go func() {
			_, _ = io.Copy(far, far)
			far.Close()
		}()
		return near, nil
	case "broken":
		return nil, errors.New("two\nlines")
	}
	return nil, &domain.NotFoundError{Name: key}
}

func dial(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(consoles{}, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func TestConsole(t *testing.T) {
	c := dial(t)
	_, err := io.WriteString(c, "vm1\nkeys that came with it\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	for _, want := range []string{"ok\n", "keys that came with it\n"} {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want, line)
	}
	_, err = io.WriteString(c, "more\n")
	require.NoError(t, err)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "more\n", line)
}

func TestRefusals(t *testing.T) {
	for name, want := range map[string]string{
		"nosuch\n":                       "missing: No such domain nosuch\n",
		"broken\n":                       "error: two; lines\n",
		strings.Repeat("x", 1000) + "\n": "",
	} {
		c := dial(t)
		_, _ = io.WriteString(c, name)
		b, _ := io.ReadAll(c)
		require.Equal(t, want, string(b))
	}
}
