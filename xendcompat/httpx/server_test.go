package httpx

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with what was asked.
type echo struct{}

func (echo) Handle(_ context.Context, r *Request) *Reply {
	switch {
	case len(r.Path) > 0 && r.Path[0] == "panic":
		panic("as asked")
	case len(r.Path) > 0 && r.Path[0] == "empty":
		return OK(SXP, nil)
	case r.Method == http.MethodPut:
		return NotImplemented(r, "GET,HEAD,POST")
	}
	return OK(Plain, fmt.Appendf(nil, "%s %q ?%s %q", r.Method, r.Path, r.Query, r.Body))
}

// serve runs a server on a unix socket and on TCP until the test ends.
func serve(t testing.TB, h Handler, o Options) (unix, tcp string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "httpx")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := NewServer("test", h, o)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	listen := func(network, address string) string {
		ln, err := net.Listen(network, address)
		require.NoError(t, err)
		all.Go(func() {
			if err := s.Serve(ctx, ln); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		return ln.Addr().String()
	}
	return listen("unix", filepath.Join(dir, "s")), listen("tcp", "127.0.0.1:0")
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	c, err := net.Dial(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

// ask sends a text and returns all that comes back.
func ask(t testing.TB, address, request string) string {
	t.Helper()
	c := dial(t, address)
	_, err := io.WriteString(c, request)
	require.NoError(t, err)
	return rest(t, c)
}

func rest(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	require.NoError(t, err, "after %q", b)
	c.Close()
	return string(b)
}

// status returns the status line of a reply.
func status(reply string) string {
	line, _, _ := strings.Cut(reply, "\r\n")
	return line
}

// body returns what follows the header of a reply.
func body(reply string) string {
	_, b, _ := strings.Cut(reply, "\r\n\r\n")
	return b
}

func TestReplyOnTheWire(t *testing.T) {
	unix, _ := serve(t, echo{}, Options{})
	require.Equal(t, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nExpires: -1\r\nContent-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\n"+
		"Pragma: no-cache\r\nCache-control: no-cache\r\nConnection: close\r\n\r\nGET [\"x\"] ?y \"\"",
		ask(t, unix, "GET /x?y HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	require.Equal(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nExpires: -1\r\nPragma: no-cache\r\nCache-control: no-cache\r\nConnection: close\r\n\r\n",
		ask(t, unix, "GET /empty HTTP/1.0\r\n\r\n"), "nothing is of no type")
	require.Equal(t, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nExpires: -1\r\nContent-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\n"+
		"Pragma: no-cache\r\nCache-control: no-cache\r\nConnection: close\r\n\r\n",
		ask(t, unix, "HEAD /x HTTP/1.1\r\n\r\n"))
	require.Equal(t, "HTTP/1.1 501 Not implemented\r\nContent-Length: 34\r\nExpires: -1\r\nContent-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\n"+
		"Pragma: no-cache\r\nCache-control: no-cache\r\nAccept: GET,HEAD,POST\r\nConnection: close\r\n\r\nRequest method not supported (PUT)",
		ask(t, unix, "PUT /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"))
}

func TestRequests(t *testing.T) {
	unix, tcp := serve(t, echo{}, Options{MaxBody: 100})
	for _, tt := range []struct{ name, request, status, body string }{
		{"no host", "GET /a HTTP/1.1\r\n\r\n", "200 OK", `GET ["a"] ? ""`},
		{"empty host", "GET /a HTTP/1.0\r\nHost: \r\n\r\n", "200 OK", `GET ["a"] ? ""`},
		{"a path as host", "GET /a HTTP/1.1\r\nHost: /var/run/xend/xmlrpc.sock\r\n\r\n", "200 OK", `GET ["a"] ? ""`},
		{"bare LF", "GET /a HTTP/1.1\nHost: localhost\n\n", "200 OK", `GET ["a"] ? ""`},
		{"blank lines before", "\r\n\r\nGET /a HTTP/1.1\r\n\r\n", "200 OK", `GET ["a"] ? ""`},
		{"folded header", "GET /a HTTP/1.1\r\nX: a\r\n b\r\n\r\n", "200 OK", `GET ["a"] ? ""`},
		{"empty elements", "GET //a///b/ HTTP/1.1\r\n\r\n", "200 OK", `GET ["a" "b"] ? ""`},
		{"dots", "GET /./a/../../b/c/.. HTTP/1.1\r\n\r\n", "200 OK", `GET ["b"] ? ""`},
		{"percent", "GET /%76net/a%2fb/%zz/50%/%4 HTTP/1.1\r\n\r\n", "200 OK", `GET ["vnet" "a/b" "%zz" "50%" "%4"] ? ""`},
		{"blank in the path", "GET /a b?c d HTTP/1.1\r\n\r\n", "200 OK", `GET ["a b"] ?c d ""`},
		{"a whole URL", "GET http://localhost:8000/a?b HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", `GET ["a"] ?b ""`},
		{"a URL without a path", "GET http://localhost HTTP/1.1\r\n\r\n", "200 OK", `GET [] ? ""`},
		{"root", "GET / HTTP/1.1\r\n\r\n", "200 OK", `GET [] ? ""`},
		{"asterisk", "GET * HTTP/1.1\r\n\r\n", "200 OK", `GET ["*"] ? ""`},
		{"body", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "200 OK", `POST [] ? "abc"`},
		{"body of a GET", "GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "200 OK", `GET [] ? "abc"`},
		{"length twice", "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "200 OK", `POST [] ? "abc"`},
		{"chunks", "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: x\r\n\r\n", "200 OK", `POST [] ? "abc"`},
		{"no length", "POST / HTTP/1.1\r\n\r\n", "200 OK", `POST [] ? ""`},
		{"largest body", "POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100), "200 OK", fmt.Sprintf(`POST [] ? "%s"`, strings.Repeat("x", 100))},
		{"something after it", "GET /a HTTP/1.1\r\n\r\ngarbage", "200 OK", `GET ["a"] ? ""`},

		{"garbage", "hello\r\n\r\n", "400 Bad request", "Bad request"},
		{"no version", "GET /\r\n\r\n", "400 Bad request", "Bad request"},
		{"another version", "GET / HTTP/2.0\r\n\r\n", "400 Bad request", "Bad request"},
		{"no target", "GET HTTP/1.1\r\n\r\n", "400 Bad request", "Bad request"},
		{"header without colon", "GET / HTTP/1.1\r\nabc\r\n\r\n", "400 Bad request", "Bad request"},
		{"lengths differ", "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400 Bad request", "Bad request"},
		{"negative length", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400 Bad request", "Bad request"},
		{"length in words", "POST / HTTP/1.1\r\nContent-Length: three\r\n\r\n", "400 Bad request", "Bad request"},
		{"bad chunks", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", "400 Bad request", "Bad request"},
		{"unknown coding", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not implemented", "Transfer encoding not supported"},
		{"large header", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n", "400 Bad request", "Bad request"},
		{"endless line", strings.Repeat("x", 3*maxHead), "400 Bad request", "Bad request"},
		{"large body", "POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n" + strings.Repeat("x", 101), "413 Request entity too large", "Request entity too large"},
		{"huge length", "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "413 Request entity too large", "Request entity too large"},
		{"large chunks", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + strings.Repeat("x", 101) + "\r\n0\r\n\r\n", "413 Request entity too large", "Request entity too large"},
		{"panic", "GET /panic HTTP/1.1\r\n\r\n", "500 Internal server error", "Internal server error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, address := range []string{unix, tcp} {
				if address == tcp && tt.name == "a whole URL" {
					continue // its Host is not this server's
				}
				got := ask(t, address, tt.request)
				require.Equal(t, "HTTP/1.1 "+tt.status, status(got))
				require.Equal(t, tt.body, body(got))
			}
		})
	}
}

// TestSegments sends requests byte by byte, as libvirt nearly does.
func TestSegments(t *testing.T) {
	unix, tcp := serve(t, echo{}, Options{})
	for _, address := range []string{unix, tcp} {
		c := dial(t, address)
		for _, b := range []byte("POST /a HTTP/1.1\r\nHost: localhost:8000\r\nContent-Length: 5\r\n\r\nhello") {
			_, err := c.Write([]byte{b})
			require.NoError(t, err)
		}
		require.Equal(t, `POST ["a"] ? "hello"`, body(rest(t, c)))
	}
}

func TestKeepAlive(t *testing.T) {
	unix, _ := serve(t, echo{}, Options{})
	c := dial(t, unix)
	// All at once; the last one lets the server close.
	_, err := io.WriteString(c, "GET /1 HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"+
		"POST /2 HTTP/1.0\r\nConnection: TE, Keep-Alive\r\nContent-Length: 1\r\n\r\nx"+
		"\r\nPOST /3 HTTP/1.1\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\n\r\n"+
		"GET /4 HTTP/1.1\r\n\r\nGET /5 HTTP/1.1\r\n\r\n")
	require.NoError(t, err)
	br := bufio.NewReader(c)
	for i, want := range []string{`GET ["1"] ? ""`, `POST ["2"] ? "x"`, `POST ["3"] ? "y"`, `GET ["4"] ? ""`} {
		_, connection, b := readReply(t, br)
		require.Equal(t, want, b)
		if i < 3 {
			require.Equal(t, "keep-alive", connection)
		}
	}
	_, err = br.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

// readReply reads one of several replies.
func readReply(t testing.TB, br *bufio.Reader) (status, connection, body string) {
	t.Helper()
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.Status, resp.Header.Get("Connection"), string(b)
}

func TestHalfClose(t *testing.T) {
	unix, tcp := serve(t, echo{}, Options{})
	for _, address := range []string{unix, tcp} {
		for request, want := range map[string]string{
			"GET /a HTTP/1.1\r\n\r\n":                                "200 OK",
			"GET /a HTTP/1.1\r\nConnection: keep-alive\r\n\r\n":      "200 OK",
			"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc":      "400 Bad request",
			"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n": "400 Bad request",
			"GET /a HTTP/1.1\r\nHo":                                  "400 Bad request",
			"G":                                                      "400 Bad request",
		} {
			c := dial(t, address)
			_, err := io.WriteString(c, request)
			require.NoError(t, err)
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			require.Equal(t, "HTTP/1.1 "+want, status(rest(t, c)), "%q", request)
		}
		// A probe: nothing is asked and nothing answered.
		for _, nothing := range []string{"", "\r\n"} {
			c := dial(t, address)
			_, err := io.WriteString(c, nothing)
			require.NoError(t, err)
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			require.Empty(t, rest(t, c))
		}
	}
}

func TestExpect(t *testing.T) {
	unix, _ := serve(t, echo{}, Options{})
	c := dial(t, unix)
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	require.NoError(t, err)
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	_, err = br.Discard(2)
	require.NoError(t, err)
	_, err = io.WriteString(c, "ab")
	require.NoError(t, err)
	line, _, _ = readReply(t, br)
	require.Equal(t, "200 OK", line)

	// A body that won't be read is not asked for; HTTP/1.0 knows no such thing.
	require.Equal(t, "HTTP/1.1 413 Request entity too large", status(ask(t, unix, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n")))
	require.Equal(t, "HTTP/1.1 200 OK", status(ask(t, unix, "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")))
}

// TestRefusedUpload checks that a client that writes all before it reads gets the answer, not a reset.
func TestRefusedUpload(t *testing.T) {
	unix, tcp := serve(t, echo{}, Options{})
	const size = 32 << 20
	for _, address := range []string{unix, tcp} {
		c := dial(t, address)
		_, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", size)
		require.NoError(t, err)
		_, err = io.Copy(c, io.LimitReader(zeros{}, size))
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 413 Request entity too large", status(rest(t, c)))
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestGuard(t *testing.T) {
	unix, tcp := serve(t, echo{}, Options{Hosts: []string{"", "Xen-Host.example"}})
	_, port, err := net.SplitHostPort(tcp)
	require.NoError(t, err)
	own, err := os.Hostname()
	require.NoError(t, err)
	forbidden := "HTTP/1.1 403 "
	ok := "HTTP/1.1 200 OK"
	for _, tt := range []struct{ header, unix, tcp string }{
		{"", ok, ok},
		{"Host: localhost", ok, ok},
		{"Host: LOCALHOST:" + port, ok, ok},
		{"Host: foo.localhost.", ok, ok},
		{"Host: 192.0.2.1:8000", ok, ok},
		{"Host: [::1]:8000", ok, ok},
		{"Host: ::1", ok, ok},
		{"Host: xen-host.example:8000", ok, ok},
		{"Host: " + own, ok, ok},
		{"Host: /var/run/xend/xmlrpc.sock", ok, ok},
		{"Accept: */*\r\nHost: evil.example", ok, forbidden},
		{"Accept: */*\r\nHost: localhost.evil.example:" + port, ok, forbidden},
		{"Accept: */*\r\nHost: 127.0.0.1.evil.example", ok, forbidden},
		{"Accept: */*\r\nHost: localhost\r\nHost: evil.example", ok, forbidden},
		{"Accept: */*\r\nHost: localhost@evil.example", ok, forbidden},
		{"Accept:\r\nHost: evil.example", ok, forbidden},
		{"Referer:\r\nHost: evil.example", ok, forbidden},
		{"Host: evil.example\r\nUser-Agent: Mozilla/5.0", forbidden, forbidden},
		// Python's httplib and xmlrpclib, by some name of this host.
		{"Host: alias.example:8000\r\nAccept-Encoding: identity", ok, ok},
		{"Host: alias.example:8005\r\nUser-Agent: xmlrpclib.py/1.0.1 (by www.pythonware.com)\r\nContent-Type: text/xml", ok, ok},

		{"Host: localhost:8000\r\nOrigin: http://localhost:8000", ok, ok},
		{"Host: localhost\r\nOrigin: http://localhost:80", ok, ok},
		{"Host: [::1]\r\nOrigin: http://[::1]", ok, ok},
		{"Host: localhost:8000\r\nOrigin: http://localhost:8001", forbidden, forbidden},
		{"Host: localhost:8000\r\nOrigin: http://evil.example", forbidden, forbidden},
		{"Host: localhost:8000\r\nOrigin: null", forbidden, forbidden},
		{"Host: localhost:8000\r\nOrigin: file://", forbidden, forbidden},
		{"Origin: http://evil.example", forbidden, forbidden},
		{"Host: localhost:8000\r\nSec-Fetch-Site: same-origin\r\nOrigin: null", ok, ok},
		{"Host: localhost:8000\r\nSec-Fetch-Site: none", ok, ok},
		{"Host: localhost:8000\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://localhost:8000", forbidden, forbidden},
		{"Host: localhost:8000\r\nSec-Fetch-Site: same-site", forbidden, forbidden},
		{"Host: localhost:8000\r\nUser-Agent: Mozilla/5.0\r\nReferer: http://localhost:8000/xend/vnet/", ok, ok},
		{"Host: localhost:8000\r\nUser-Agent: Mozilla/5.0\r\nReferer: http://evil.example/?http://localhost:8000/", forbidden, forbidden},
		{"Host: localhost:8000\r\nUser-Agent: Mozilla/5.0", ok, forbidden},
		{"Host: localhost:8000\r\nUser-Agent: curl/8.0", ok, ok},
		{"Host: localhost\r\nUser-Agent: xmlrpclib.py/1.0.1 (by www.pythonware.com)", ok, ok},
	} {
		request := "POST / HTTP/1.1\r\n" + tt.header + "\r\n\r\n"
		if tt.header == "" {
			request = "POST / HTTP/1.1\r\n\r\n"
		}
		require.Contains(t, ask(t, unix, request), tt.unix, "unix: %q", tt.header)
		require.Contains(t, ask(t, tcp, request), tt.tcp, "tcp: %q", tt.header)
	}
	// A tunnel to the unix socket.
	for header, want := range map[string]string{
		"Host: evil.example:8000\r\nOrigin: http://evil.example:8000":                             forbidden,
		"Host: evil.example:8000\r\nSec-Fetch-Site: same-origin":                                  forbidden,
		"Host: evil.example:8000\r\nUser-Agent: Mozilla/5.0\r\nReferer: http://evil.example:8000": forbidden,
		"Host: localhost:8000\r\nUser-Agent: Mozilla/5.0\r\nOrigin: http://localhost:8000":        ok,
	} {
		require.Contains(t, ask(t, unix, "POST / HTTP/1.1\r\n"+header+"\r\n\r\n"), want, header)
	}
	require.Contains(t, ask(t, unix, "GET / HTTP/1.1\r\nHost: evil.example\r\nUser-Agent: Mozilla/5.0\r\n\r\n"), forbidden)
	// Reading from another site is what browsers prevent by themselves, unless its name leads here.
	require.Contains(t, ask(t, tcp, "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n"), ok)
	require.Contains(t, ask(t, tcp, "GET / HTTP/1.1\r\nHost: evil.example\r\nAccept: */*\r\n\r\n"), forbidden)
	require.Contains(t, ask(t, tcp, "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"), forbidden)
}

// TestReason checks that what a client chose can't end the status line.
func TestReason(t *testing.T) {
	r := &Reply{Status: 501, Reason: "Operation not implemented: a\r\nX: y\x00é", Body: []byte("x")}
	require.Equal(t, "HTTP/1.1 501 Operation not implemented: a  X: y??", status(string(r.encode("GET", false))))
	r.Reason = strings.Repeat("x", 5000)
	require.Less(t, len(status(string(r.encode("GET", false)))), 1100)
}

// blocker answers when it is told to.
type blocker struct {
	begun   chan struct{}
	proceed chan struct{}
}

func (b blocker) Handle(_ context.Context, r *Request) *Reply {
	if len(r.Path) > 0 && r.Path[0] == "slow" {
		b.begun <- struct{}{}
		<-b.proceed
	}
	return OK(Plain, []byte("done"))
}

// TestParallel has many clients wait at the same time, besides clients that say nothing or half of
// something, or don't read.
func TestParallel(t *testing.T) {
	const clients = 200
	b := blocker{make(chan struct{}), make(chan struct{})}
	unix, _ := serve(t, b, Options{})
	for range 50 {
		for _, s := range []string{"", "GET /", "POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nx", "GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"} {
			_, err := io.WriteString(dial(t, unix), s)
			require.NoError(t, err)
		}
	}
	var all sync.WaitGroup
	for range clients {
		c := dial(t, unix)
		_, err := io.WriteString(c, "GET /slow HTTP/1.1\r\n\r\n")
		require.NoError(t, err)
		all.Go(func() {
			reply, err := io.ReadAll(c)
			if err != nil || body(string(reply)) != "done" {
				t.Errorf("%q, %v", reply, err)
			}
		})
	}
	for range clients {
		<-b.begun
	}
	require.Contains(t, ask(t, unix, "GET /quick HTTP/1.1\r\n\r\n"), "done", "nobody is in the way")
	close(b.proceed)
	all.Wait()
}

// TestShutdown checks that a request that was begun is answered, and that idle connections don't delay the
// end.
func TestShutdown(t *testing.T) {
	b := blocker{make(chan struct{}), make(chan struct{})}
	s := NewServer("test", b, Options{Log: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()

	idle := dial(t, ln.Addr().String())
	_, err = io.WriteString(idle, "GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
	require.NoError(t, err)
	readReply(t, bufio.NewReader(idle))
	busy := dial(t, ln.Addr().String())
	_, err = io.WriteString(busy, "GET /slow HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
	require.NoError(t, err)
	<-b.begun

	cancel()
	_, err = io.ReadAll(idle)
	require.NoError(t, err, "the idle connection is closed")
	select {
	case err := <-ended:
		require.NoError(t, err)
		require.Fail(t, "ended before the request")
	default:
	}
	close(b.proceed)
	reply := rest(t, busy)
	require.Equal(t, "done", body(reply))
	require.Contains(t, reply, "Connection: close")
	require.NoError(t, <-ended)
}

// TestLogIsCut checks that a bad request does not fill the log.
func TestLogIsCut(t *testing.T) {
	var log lockedBuffer
	unix, _ := serve(t, echo{}, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ask(t, unix, strings.Repeat("x", 50000)+"\r\n\r\n")
	ask(t, unix, "GET /"+strings.Repeat("y", 50000)+" HTTP/1.1\r\n\r\n")
	require.Contains(t, log.String(), "xxx")
	require.Contains(t, log.String(), "yyy")
	for line := range strings.Lines(log.String()) {
		require.Less(t, len(line), 1000)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// FuzzConnection sends anything over a connection: every reply must be one that a client can read.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"POST /a%20b?c=d HTTP/1.0\r\nContent-Length: 3\r\n\r\nabcGET",
		"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\nHEAD /x HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"PUT http://a/b HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: 4\n\n",
		"\r\n\r\n\x00",
	} {
		f.Add([]byte(s))
	}
	unix, _ := serve(f, echo{}, Options{MaxBody: 1000})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := dial(t, unix)
		go func() {
			// The server may end the conversation at any time.
			_, _ = c.Write(b)
			_ = c.(*net.UnixConn).CloseWrite()
		}()
		reply, err := io.ReadAll(c)
		require.NoError(t, err)
		br := bufio.NewReader(bytes.NewReader(reply))
		for br.Buffered() > 0 || len(reply) > 0 {
			if _, err := br.Peek(1); err != nil {
				break
			}
			head, err := br.Peek(12)
			require.NoError(t, err)
			if string(head) == "HTTP/1.1 100" {
				_, err = br.Discard(len("HTTP/1.1 100 Continue\r\n\r\n"))
				require.NoError(t, err)
				continue
			}
			if bytes.Contains(b, []byte("HEAD ")) {
				return // no telling where the next reply begins
			}
			readReply(t, br)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/xend/vnet/%39%37/../x")
	f.Fuzz(func(t *testing.T, s string) {
		for _, e := range splitPath(s) {
			require.NotContains(t, []string{"", ".", ".."}, e)
		}
	})
}
