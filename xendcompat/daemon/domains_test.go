package daemon

import (
	"context"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Domains of other hosts are taken in only where the configuration says so: at its port, and from the hosts that it has.
func TestRelocation(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		open   string
		closed []string
	}{
		"default": {"", "", []string{"8002", "8009"}},
		"on":      {"(xend-relocation-server yes)", "8002", nil},
		"port and hosts": {`(xend-relocation-server yes) (xend-relocation-port 8009) (xend-relocation-hosts-allow '^192\\.0\\.2\\. ^localhost\\.example$')`,
			"8009", []string{"8002"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, h := newHost(t)
			lo, err := h.LinkByName("lo")
			require.NoError(t, err)
			require.NoError(t, h.SetUp(lo.Index))
			write(t, p.XendConfig(), c.config)
			write(t, p.VnetConfig(), "[domain]\ntoolstack = \"lab\"\n")
			write(t, p.RelocationSecret(), "0123456789abcdef0123456789abcdef\n")
			require.NoError(t, os.Chmod(p.RelocationSecret(), 0o600))
			ctx, cancel := context.WithCancel(t.Context())
			require.NoError(t, Run(ctx, Options{Paths: p, Ready: func() error {
				defer cancel()
				dial := func(port string) (conn net.Conn, err error) {
					err = h.Do(func() (err error) { // another thread than the test's
						conn, err = net.Dial("tcp", "127.0.0.1:"+port)
						return err
					})
					return conn, err
				}
				for _, port := range c.closed {
					_, err := dial(port)
					require.Error(t, err, port)
				}
				if c.open == "" {
					return nil
				}
				conn, err := dial(c.open)
				require.NoError(t, err)
				defer conn.Close()
				_, err = conn.Write([]byte("not TLS"))
				require.NoError(t, err)
				_, err = io.ReadAll(conn) // until it is hung up on
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				return nil
			}}))
			log, err := os.ReadFile(p.LogFile())
			require.NoError(t, err)
			if name == "port and hosts" {
				require.Contains(t, string(log), "not in xend-relocation-hosts-allow")
			} else {
				require.NotContains(t, string(log), "not in xend-relocation-hosts-allow")
			}
		})
	}
}
