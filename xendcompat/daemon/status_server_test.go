package daemon

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/nettest"
)

// ask sends a request, and returns the status code and the body.
func ask(t *testing.T, h *hostnet.Host, network, address, path string, fields ...string) (int, string) {
	t.Helper()
	var conn net.Conn
	var err error
	// Ready is not called by the thread that is in the namespace.
	require.NoError(t, h.Do(func() error {
		conn, err = net.Dial(network, address)
		return err
	}))
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, strings.Join(append(fields, ""), "\r\n"))
	require.NoError(t, err)
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer r.Body.Close()
	var b strings.Builder
	_, err = bufio.NewReader(r.Body).WriteTo(&b)
	require.NoError(t, err)
	return r.StatusCode, b.String()
}

// TestStatusListener: root's socket has metrics, health and the page; a port of its own has them for who has a token,
// which a reload changes; and the server of old clients is what it was.
func TestStatusListener(t *testing.T) {
	p, h := newHost(t)
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	require.NoError(t, err, "%s", out)
	token := p.Prefix + "/token"
	write(t, token, "correct-horse-battery-staple\n")
	require.NoError(t, os.Chmod(token, 0o600))
	write(t, p.VnetConfig(), "[status]\nlisten = \"127.0.0.1:9798\"\ntoken_file = \""+token+"\"\n")
	write(t, p.XendConfig(), "(xend-http-server yes)")
	browser := []string{"User-Agent: Mozilla/5.0", "Accept: text/html", "Sec-Fetch-Site: none"}
	ctx, cancel := context.WithCancel(t.Context())
	err = Run(ctx, Options{Paths: p, Ready: func() error {
		defer cancel() // also where a check fails
		const port, old = "127.0.0.1:9798", "127.0.0.1:8000"
		code, body := ask(t, h, "unix", p.Socket(), "/metrics")
		require.Equal(t, 200, code)
		require.Contains(t, body, "\nxend_vnet_up{vnet=\"0002\"} ")
		require.Contains(t, body, "\nxend_state_directory_size_bytes ")
		code, body = ask(t, h, "unix", p.Socket(), "/xend/", browser...)
		require.Equal(t, 200, code)
		require.Contains(t, body, "Create a vnet")
		_, body = ask(t, h, "unix", p.Socket(), "/xend/")
		require.Equal(t, "(ls  node domain vnet)", body, "programs get what they always got")
		_, body = ask(t, h, "unix", p.Socket(), "/xend/vnet/", browser...)
		require.Contains(t, body, "There are no vnets yet.")

		code, _ = ask(t, h, "tcp", old, "/metrics")
		require.Equal(t, 404, code)
		_, body = ask(t, h, "tcp", old, "/xend/", browser...)
		require.NotContains(t, body, "Create a vnet")
		require.Contains(t, body, `href="/xend/domain/"`)

		with := func(token string) int {
			code, _ := ask(t, h, "tcp", port, "/metrics", "Authorization: Bearer "+token)
			return code
		}
		code, body = ask(t, h, "tcp", port, "/readyz")
		require.Equal(t, 503, code, "there is no underlay here")
		require.Equal(t, "not ready: no underlay is up\n", body)
		code, _ = ask(t, h, "tcp", port, "/metrics")
		require.Equal(t, 401, code)
		require.Equal(t, 200, with("correct-horse-battery-staple"))
		code, body = ask(t, h, "tcp", port, "/xend/node/", append(browser, "Authorization: Bearer correct-horse-battery-staple")...)
		require.Equal(t, 200, code)
		require.Contains(t, body, "nr_cpus")

		write(t, token, "another-horse-battery-staple\n")
		require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
		nettest.Eventually(t, "the new token", func() bool { return with("another-horse-battery-staple") == 200 })
		require.Equal(t, 401, with("correct-horse-battery-staple"))
		return nil
	}})
	require.NoError(t, err)
}

var errStop = fmt.Errorf("the test is over")

// TestStatusErrors: a mistake is found before anything is changed.
func TestStatusErrors(t *testing.T) {
	p, h := newHost(t)
	for want, text := range map[string]string{
		"[status] listen: every user of this machine could change vnets": `listen = "127.0.0.1:9798"`,
		"[status] listen: everybody who reaches 0.0.0.0:9798 could look": "listen = \"0.0.0.0:9798\"\nread_only = true",
		"[status] listen: tokens would pass [::]:9798 in the clear":      "listen = \"[::]:9798\"\ntoken_file = \"/t\"",
		`[status] listen: "9798" is not address:port`:                    `listen = "9798"`,
		"[status] tls_cert and tls_key belong together":                  `tls_cert = "/c"`,
		"[status] client_ca: certificates need TLS":                      `client_ca = "/c"`,
		`[status] token_file: "token" is not an absolute path`:           `token_file = "token"`,
		"[status] token_file: open /nowhere/token: no such file":         "listen = \"127.0.0.1:9798\"\ntoken_file = \"/nowhere/token\"",
	} {
		write(t, p.VnetConfig(), "[status]\n"+text+"\n")
		err := Run(t.Context(), Options{Paths: p, Ready: func() error { return errStop }})
		require.ErrorContains(t, err, want)
		_, err = h.LinkByName("vnif0002")
		require.Error(t, err)
	}
}
