package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/internal/cli/clitest"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func socket(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }

func TestParseServer(t *testing.T) {
	p := paths.Paths{Prefix: "/p"}
	for server, want := range map[string]string{
		"httpu:///var/run/xend/xmlrpc.sock": "unix /var/run/xend/xmlrpc.sock /RPC2",
		"httpu://":                          "unix /p/run/xend/xmlrpc.sock /RPC2",
		"httpu:///":                         "unix /p/run/xend/xmlrpc.sock /RPC2",
		"http://h:1":                        "tcp h:1 /RPC2",
		"http://h":                          "tcp h:8006 /RPC2",
		"http://h:1/":                       "tcp h:1 /",
		"http://[::1]:5/RPC2":               "tcp [::1]:5 /RPC2",
		"http://[::1]":                      "tcp [::1]:8006 /RPC2",
		"httpu://var/run/x":                 "error",
		"https://h:1":                       "error",
		"http://":                           "error",
		"h:1":                               "error",
		"http://h:x":                        "error",
		"\x01":                              "error",
	} {
		network, address, path, err := parseServer(server, p)
		have := network + " " + address + " " + path
		if err != nil {
			have = "error"
		}
		require.Equal(t, want, have, "%q", server)
	}
}

func TestParseHostPort(t *testing.T) {
	for s, want := range map[string]string{
		"h": "h:8000", "h:1": "h:1", ":1": "localhost:1", "[::1]:1": "[::1]:1", "::1": "[::1]:8000", "[::1]": "[::1]:8000",
		"": "", "a/b": "", "h:1:": "[h:1:]:8000",
	} {
		have, err := parseHostPort(s, "8000")
		require.Equal(t, want, have, "%q", s)
		require.Equal(t, want == "", err != nil)
	}
}

func TestLocal(t *testing.T) {
	t.Setenv("XEND_CONFIG", "")
	p := paths.Paths{Prefix: t.TempDir()}
	require.NoError(t, os.MkdirAll(p.EtcXen(), 0o755))
	for text, want := range map[string]string{
		"":                        "HTTP unix " + p.Socket(),
		"(xend-unix-path /x/y)":   "HTTP unix /x/y",
		"(xend-unix-path /x/y":    "HTTP unix " + p.Socket(),
		"(xend-unix-server what)": "HTTP unix " + p.Socket(),
		"(xend-http-server yes)":  "HTTP unix " + p.Socket(),
		"(xend-unix-server no)(xend-http-server yes)(xend-port 1)": "HTTP tcp localhost:1",
		"(xend-unix-server no)": "XMLRPC unix " + p.XMLRPCSocket(),
		"(xend-unix-server no)(xend-unix-xmlrpc-server no)(xend-tcp-xmlrpc-server yes)(xend-tcp-xmlrpc-server-port 1)": "XMLRPC tcp localhost:1",
		"(xend-unix-server no)(xend-unix-xmlrpc-server no)":                                                            "HTTP unix " + p.Socket(),
	} {
		require.NoError(t, os.WriteFile(p.XendConfig(), []byte(text), 0o644))
		xend := local(configuration(p))
		_, err := xend.Vnets(t.Context())
		var nobody *ConnectError
		require.ErrorAs(t, err, &nobody, text)
		require.Equal(t, want, strings.TrimPrefix(fmt.Sprintf("%T", xend), "*client.")+" "+nobody.Network+" "+nobody.Address, text)
	}
	require.Equal(t, NewControl(p.ControlSocket()), OpenControl(p))
	require.NoError(t, os.WriteFile(p.XendConfig(), nil, 0o644))
	require.NoError(t, os.WriteFile(p.VnetConfig(), []byte("[paths]\ncontrol_socket = '/a'\nxmlrpc_socket = '/b'\n"), 0o644))
	require.Equal(t, NewControl("/a"), OpenControl(p))
	_, address, _, err := parseServer("httpu:///", p)
	require.NoError(t, err)
	require.Equal(t, "/b", address)
}

func TestConnectError(t *testing.T) {
	for _, tt := range []struct{ network, address, want string }{
		{"unix", socket(t), "Error connecting to xend: No such file or directory.  Is xend running?"},
		{"tcp", "127.0.0.1:1", "Error connecting to xend: Connection refused.  Is xend running?"},
		{"unix", "/" + strings.Repeat("a", 200), "Error connecting to xend: Socket path /" + strings.Repeat("a", 200) + " is too long: 201 bytes, and the kernel takes 107.  Is xend running?"},
	} {
		_, err := NewHTTP(tt.network, tt.address).Vnets(t.Context())
		require.EqualError(t, err, tt.want)
		var ce *ConnectError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, tt.network, ce.Network)
		_, err = NewXMLRPC(tt.network, tt.address, "/RPC2").Vnets(t.Context())
		require.EqualError(t, err, tt.want)
		if tt.network == "unix" {
			_, err = NewControl(tt.address).Do(t.Context())
			require.EqualError(t, err, tt.want)
		}
	}
	require.Equal(t, "Connection timed out", Reason(os.ErrDeadlineExceeded))
	require.Equal(t, "Lookup nowhere: no such host", Reason(&net.DNSError{Err: "no such host", Name: "nowhere"}))
	require.Equal(t, "EOF", Reason(io.EOF))
	require.Equal(t, "Unknown error", Reason(fmt.Errorf("")))
}

// silent accepts connections and says nothing until the test ends.
func silent(t *testing.T) string {
	path := socket(t)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return path
}

func TestTimeout(t *testing.T) {
	path := silent(t)
	expired := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), 50*time.Millisecond)
	}
	for name, call := range map[string]func(context.Context) error{
		"http":    func(ctx context.Context) error { _, err := NewHTTP("unix", path).Vnets(ctx); return err },
		"xmlrpc":  func(ctx context.Context) error { _, err := NewXMLRPC("unix", path, "/").Vnets(ctx); return err },
		"control": func(ctx context.Context) error { _, err := NewControl(path).Do(ctx); return err },
	} {
		ctx, cancel := expired()
		require.EqualError(t, call(ctx), "xend did not answer in time", name)
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		require.ErrorIs(t, call(ctx), context.Canceled, name)
	}
}

func TestStatus(t *testing.T) {
	for reply, want := range map[string]string{
		"200 OK|()":                  "",
		"201 created|()":             "",
		"202 Accepted|":              "",
		"204 No Content|":            "",
		"200 OK|(xend.err 'a b')":    "a b",
		"201 created|(xend.err x)":   "x",
		"200 OK|(xend.err)":          "xend.err",
		"200 OK|(a xend.err)":        "",
		"500 Request failed: x|":     "Request failed: x",
		"500 Failed|(xend.err 'y')":  "y",
		"404 Not found|no":           "Not found",
		"404 Not Found|no":           "Not Found",
		"302 Found|":                 "Found",
		"406 Invalid request|":       "Invalid request",
		"500 |":                      "status 500",
		"413 |(xend.err":             "status 413",
		"200 OK|(xend.err 'a' (b c)": "xend's answer is not an S-expression: unexpected EOF (line 1, column 20): the list that begins at line 1, column 1 is not closed",
	} {
		line, body, _ := strings.Cut(reply, "|")
		location := ""
		if strings.HasPrefix(line, "302") {
			location = "Location: /elsewhere\r\n"
		}
		s := clitest.ReplayHTTP(t, "unix", socket(t), fmt.Appendf(nil, "HTTP/1.1 %s\r\n%sContent-length: %d\r\n\r\n%s", line, location, len(body), body))
		_, err := NewHTTP("unix", s.Addr).Vnet(t.Context(), "97")
		if want == "" {
			require.NoError(t, err, reply)
			continue
		}
		require.EqualError(t, err, want, reply)
		var no *Error
		require.Equal(t, line == "404 Not found", errors.As(err, &no) && no.NotFound, reply)
	}
}

func TestTooLarge(t *testing.T) {
	s := clitest.ReplayRaw(t, "unix", socket(t), bytes.Repeat([]byte("(x)"), maxReply/3+1))
	_, err := NewControl(s.Addr).Do(t.Context())
	require.EqualError(t, err, "xend's answer is larger than 64 MiB")
}

func TestControl(t *testing.T) {
	s := clitest.ReplayRaw(t, "unix", socket(t), []byte("(a (b c))\n(varp \n (device eth0)\n)\n"), nil, []byte("(a)(error \"no such thing\")\n(b)"), []byte("(a"), []byte("(error)"))
	c := NewControl(s.Addr)
	forms, err := c.Do(t.Context(), sxp.List(sxp.Atom("vnet.list")), sxp.List(sxp.Atom("x"), sxp.Pair("y", "a b")))
	require.NoError(t, err)
	require.Len(t, forms, 2)
	require.Equal(t, "(varp (device eth0))", forms[1].String())
	require.Equal(t, "(vnet.list)\n(x (y 'a b'))\n", string(s.Requests()[0]))
	forms, err = c.Do(t.Context())
	require.NoError(t, err)
	require.Empty(t, forms)
	forms, err = c.Do(t.Context())
	require.EqualError(t, err, "no such thing")
	require.Len(t, forms, 1)
	_, err = c.Do(t.Context())
	require.ErrorContains(t, err, "xend's answer is not an S-expression: unexpected EOF")
	_, err = c.Do(t.Context())
	require.EqualError(t, err, "error")
}

// calls holds a recorded exchange with an XML-RPC server, and what of ours is the same.
var calls = []struct {
	number string
	call   func(context.Context, *XMLRPC) (any, error)
	want   string
	err    string
}{
	{"001", func(ctx context.Context, c *XMLRPC) (any, error) { return c.Vnets(ctx) }, "[]", ""},
	{"002", func(ctx context.Context, c *XMLRPC) (any, error) {
		return nil, c.CreateVnet(ctx, "vnet97.sxp", []byte("# comment\n(vnet (id 97) (bridge vnet97))\n"))
	}, "<nil>", ""},
	{"004", func(ctx context.Context, c *XMLRPC) (any, error) { return c.Vnets(ctx) }, "[97 98]", ""},
	{"006", func(ctx context.Context, c *XMLRPC) (any, error) { return c.Vnet(ctx, "97") },
		"(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))", ""},
	{"010", func(ctx context.Context, c *XMLRPC) (any, error) { return c.Vnet(ctx, "404") }, "''", "No such vnet 404"},
	{"011", func(ctx context.Context, c *XMLRPC) (any, error) { return nil, c.DeleteVnet(ctx, "97") }, "<nil>", ""},
	{"012", func(ctx context.Context, c *XMLRPC) (any, error) { return nil, c.DeleteVnet(ctx, "404") }, "<nil>", "No such vnet 404"},
	{"014", func(ctx context.Context, c *XMLRPC) (any, error) {
		ds, err := c.Domains(ctx)
		return ds[0].ChildValue("name", "") + " " + ds[0].ChildValue("cpu_time", ""), err
	}, "Domain-0 12.345678", ""},
	{"016", func(ctx context.Context, c *XMLRPC) (any, error) { return c.Domain(ctx, "nosuch") }, "''", "No such domain nosuch"},
	{"017", func(ctx context.Context, c *XMLRPC) (any, error) {
		n, err := c.Node(ctx)
		return n.Name() + " " + n.ChildValue("system", "") + " " + n.ChildValue("nr_cpus", ""), err
	}, "node Linux 2", ""},
}

func parseCall(t *testing.T, request []byte) (method string, params []string) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	require.NoError(t, err)
	require.Equal(t, "POST /RPC2 text/xml", req.Method+" "+req.RequestURI+" "+req.Header.Get("Content-Type"))
	body, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	call, err := codec.DecodeCall(body)
	require.NoError(t, err)
	for _, p := range call.Params {
		params = append(params, codec.ToSXP(p).String())
	}
	return call.Method, params
}

func TestXMLRPC(t *testing.T) {
	for _, tt := range calls {
		t.Run(tt.number, func(t *testing.T) {
			files := clitest.Read(t, "testdata/xmlrpc/"+tt.number+".req", "testdata/xmlrpc/"+tt.number+".resp")
			s := clitest.ReplayHTTP(t, "unix", socket(t), files[1])
			have, err := tt.call(t.Context(), NewXMLRPC("unix", s.Addr, "/RPC2"))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, tt.want, fmt.Sprint(have))

			method, params := parseCall(t, s.Requests()[0])
			wantMethod, wantParams := parseCall(t, files[0])
			switch tt.number {
			case "002": // the form, not the name of its file
				wantParams = []string{"(vnet (id 97) (bridge vnet97))"}
			case "014": // all domains that run, whichever state
				wantMethod, wantParams = "xend.domains", []string{"1", "0"}
			case "017":
				wantParams = nil
			}
			require.Equal(t, wantMethod, method)
			require.Equal(t, wantParams, params)
		})
	}
}

func TestXMLRPCErrors(t *testing.T) {
	c := func(reply string) error {
		s := clitest.ReplayHTTP(t, "unix", socket(t), []byte(reply))
		_, err := NewXMLRPC("unix", s.Addr, "/RPC2").Log(t.Context())
		return err
	}
	require.EqualError(t, c("HTTP/1.1 403 Not here\r\nContent-length: 0\r\n\r\n"), "Not here")
	require.ErrorContains(t, c("HTTP/1.1 200 OK\r\nContent-length: 3\r\n\r\n<x>"), "xend's answer is not XML-RPC")
	require.NoError(t, c("HTTP/1.1 200 OK\r\nContent-length: 50\r\n\r\n<methodResponse><params></params></methodResponse>"))
	err := NewXMLRPC("unix", "/nowhere", "/").CreateVnet(t.Context(), "x", []byte("(vnet (id 97)"))
	require.ErrorContains(t, err, "line 1, column")
}

func TestText(t *testing.T) {
	for method, call := range map[string]func(context.Context, *XMLRPC) (string, error){
		"xend.node.log":         func(ctx context.Context, c *XMLRPC) (string, error) { return c.Log(ctx) },
		"xend.node.dmesg.info":  func(ctx context.Context, c *XMLRPC) (string, error) { return c.Dmesg(ctx) },
		"xend.node.dmesg.clear": func(ctx context.Context, c *XMLRPC) (string, error) { return "a\n'b' \\", c.ClearDmesg(ctx) },
	} {
		body := `<methodResponse><params><param><value><string>a\n\'b\' \\</string></value></param></params></methodResponse>`
		s := clitest.ReplayHTTP(t, "unix", socket(t), fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-length: %d\r\n\r\n%s", len(body), body))
		text, err := call(t.Context(), NewXMLRPC("unix", s.Addr, "/RPC2"))
		require.NoError(t, err)
		require.Equal(t, "a\n'b' \\", text)
		have, _ := parseCall(t, s.Requests()[0])
		require.Equal(t, method, have)
	}
}

func TestUnescape(t *testing.T) {
	for s, want := range map[string]string{
		"":           "",
		"plain":      "plain",
		`a\nb\tc\rd`: "a\nb\tc\rd",
		`\\n`:        `\n`,
		`\x41\xff`:   "A\xff",
		`\'\"`:       `'"`,
		`\q\x4\xzz`:  `\q\x4\xzz`,
		`end\`:       `end\`,
	} {
		require.Equal(t, want, codec.Unescape(s), s)
	}
}

func TestDecodeResponse(t *testing.T) {
	// A struct, a bare text, an empty value.
	v, err := decodeResponse([]byte("<methodResponse><params><param><value><array><data><value><struct><member><name>k</name><value>v</value></member></struct></value><value/><value><nil/></value></data></array></value></param></params></methodResponse>"))
	require.NoError(t, err)
	require.Equal(t, "(((k v)) '' '')", v.String())
}

func FuzzDecodeResponse(f *testing.F) {
	names, err := filepath.Glob("testdata/xmlrpc/*.resp")
	require.NoError(f, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		_, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
		f.Add(body)
	}
	f.Add([]byte(strings.Repeat("<value><array><data>", 100)))
	f.Fuzz(func(_ *testing.T, b []byte) {
		v, err := decodeResponse(b)
		if err == nil {
			_ = v.String()
		}
	})
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte("(vnet (id 97))\n(error \"x\")"))
	f.Fuzz(func(_ *testing.T, b []byte) { parseReply(b) }) //nolint:errcheck // no crash
}
