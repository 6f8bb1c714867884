package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/cli/clitest"
)

// host is where xm finds its daemon in a test.
type host struct {
	t      *testing.T
	prefix string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, prefix: t.TempDir()}
	t.Setenv("XEND_PREFIX", h.prefix)
	for _, name := range []string{"XEND", "XM_SERVER", "XEND_CONFIG"} {
		t.Setenv(name, "")
	}
	t.Chdir(h.prefix)
	require.NoError(t, os.WriteFile("vnet97.sxp", []byte("(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n"), 0o644))
	return h
}

// daemon answers on the default socket.
func (h *host) daemon(replies ...[]byte) *clitest.Server {
	return clitest.ReplayHTTP(h.t, "unix", filepath.Join(h.prefix, "var/lib/xend/xend-socket"), replies...)
}

// xm runs the program.
func (h *host) xm(args ...string) (stdout, stderr string, status int) {
	var out, err bytes.Buffer
	status = newApp(&out, &err).run(h.t.Context(), args)
	return out.String(), err.String(), status
}

// ok is a reply of status 200.
func ok(media, body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-length: %d\r\nContent-type: %s\r\n\r\n%s", len(body), media, body)
}

func status(line, body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-length: %d\r\n\r\n%s", line, len(body), body)
}

const sxpType = "application/sxp"

// recorded returns replies of the original xend.
func recorded(t *testing.T, numbers ...string) [][]byte {
	var names []string
	for _, n := range numbers {
		names = append(names, filepath.Join("testdata/recorded", n+".resp"))
	}
	return clitest.Read(t, names...)
}

// TestRecorded gives xm the replies that the original's xm got, and wants the same output.
func TestRecorded(t *testing.T) {
	body := func(reply []byte) string {
		_, b, _ := bytes.Cut(reply, []byte("\r\n\r\n"))
		return string(b)
	}
	two := body(recorded(t, "018")[0])
	two = strings.TrimSuffix(two, ")") + " " + body(recorded(t, "022")[0]) + ")"

	for _, tt := range []struct {
		output  string // base of the files with the output
		args    string
		replies [][]byte
		status  int
	}{
		{output: "01_vnet-list", args: "vnet-list", replies: recorded(t, "001")},
		{output: "03_vnet-create_vnet97.sxp", args: "vnet-create vnet97.sxp", replies: recorded(t, "003")},
		{output: "07_vnet-create_nosuch.sxp", args: "vnet-create /etc/xen/vnets/nosuch.sxp", status: 1},
		{output: "09_vnet-list", args: "vnet-list", replies: recorded(t, "007")},
		{output: "11_vnet-list_--long", args: "vnet-list --long", replies: recorded(t, "008", "009", "010")},
		{output: "13_vnet-list_97_404", args: "vnet-list 97 404", replies: recorded(t, "010", "016")},
		{output: "15_vnet-list_-x", args: "vnet-list -x", status: 1},
		{output: "17_list_--long", args: "list --long", replies: recorded(t, "018")},
		{output: "19_info", args: "info", replies: recorded(t, "021")},
		{output: "23_list", args: "list", replies: [][]byte{ok(sxpType, two)}},
		{output: "31_vnet-delete_97", args: "vnet-delete 97", replies: recorded(t, "034")},
		{output: "33_vnet-delete_404", args: "vnet-delete 404", replies: recorded(t, "035"), status: 1},
		{output: "35_vnet-list", args: "vnet-list", replies: [][]byte{ok(sxpType, "(98)")}},
		{output: "37_vnet-list", args: "vnet-list", status: 1},
	} {
		t.Run(tt.output, func(t *testing.T) {
			files := filepath.Join("testdata/output", tt.output)
			want := clitest.Read(t, files+".stdout", files+".stderr")
			h := newHost(t)
			if tt.replies != nil {
				defer h.daemon(tt.replies...).Close()
			}
			stdout, stderr, status := h.xm(strings.Fields(tt.args)...)
			if tt.output == "13_vnet-list_97_404" { // what is not there is no part of the list
				want[0], want[1] = bytes.TrimSuffix(want[0], []byte("404 Not found\n")), []byte("404 Not found\n")
			}
			require.Equal(t, string(want[0]), stdout)
			// What is missing is a vnet, and the message says so.
			require.Equal(t, strings.Replace(string(want[1]), "Domain '404'", "Vnet '404'", 1), stderr)
			require.Equal(t, tt.status, status)
		})
	}
}

// TestRequests looks at what is sent.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		args  string
		lines string // request line of each request
		body  string // of a form
	}{
		{args: "vnet-list", lines: "GET /xend/vnet/"},
		{args: "vnet-list 0:0/x", lines: "GET /xend/vnet/0:0%2Fx"},
		{args: "vnet-list 97 98", lines: "GET /xend/vnet/97|GET /xend/vnet/98"},
		{args: "vnet-del 97", lines: "POST /xend/vnet/97", body: "op=delete"},
		{args: "vnet-create vnet97.sxp", lines: "POST /xend/vnet"},
		{args: "list", lines: "GET /xend/domain/?detail=1"},
		{args: "list -l a b", lines: "GET /xend/domain/a|GET /xend/domain/b"},
		{args: "info", lines: "GET /xend/node/"},
		{args: "log", lines: "GET /xend/node/log"},
		{args: "dm", lines: "GET /xend/node/dmesg"},
		{args: "dmesg -c", lines: "POST /xend/node/dmesg", body: "op=clear"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			h := newHost(t)
			s := h.daemon(ok(sxpType, "()"), ok(sxpType, "()"))
			_, stderr, status := h.xm(strings.Fields(tt.args)...)
			require.Empty(t, stderr)
			require.Equal(t, 0, status)
			var lines []string
			for _, r := range s.Requests() {
				req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r)))
				require.NoError(t, err)
				lines = append(lines, req.Method+" "+req.RequestURI)
				require.Empty(t, req.Header.Values("User-Agent"))
				if tt.body != "" {
					require.Equal(t, "application/x-www-form-urlencoded", req.Header.Get("Content-Type"))
					require.True(t, bytes.HasSuffix(r, []byte("\r\n\r\n"+tt.body)), "%s", r)
				}
			}
			require.Equal(t, tt.lines, strings.Join(lines, "|"))
		})
	}
}

// TestUpload reads the file that vnet-create sends.
func TestUpload(t *testing.T) {
	h := newHost(t)
	s := h.daemon(status("200 OK", ""))
	_, stderr, code := h.xm("vnet-create", "vnet97.sxp")
	require.Equal(t, 0, code, stderr)
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s.Requests()[0])))
	require.NoError(t, err)
	require.NoError(t, req.ParseMultipartForm(1<<20))
	require.Equal(t, "create", req.FormValue("op"))
	file, header, err := req.FormFile("config")
	require.NoError(t, err)
	defer file.Close()
	require.Equal(t, "vnet97.sxp", header.Filename)
	require.Equal(t, "application/octet-stream", header.Header.Get("Content-Type"))
	var content bytes.Buffer
	_, err = content.ReadFrom(file)
	require.NoError(t, err)
	require.Equal(t, "(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n", content.String())
}

// TestOutput is about what no recording shows.
func TestOutput(t *testing.T) {
	long := strings.Repeat("a", 33)
	for _, tt := range []struct {
		name           string
		args           string
		reply          []byte
		stdout, stderr string
		status         int
	}{
		{
			name: "a later daemon's refusal", args: "vnet-create vnet97.sxp", reply: status("500 Request failed: create", `(xend.err "Vnet 97 exists already")`),
			stderr: "Error: vnet97.sxp: Vnet 97 exists already\n", status: 1,
		},
		{
			name: "a refusal", args: "vnet-create vnet97.sxp", reply: ok(sxpType, `(xend.err 'Coercion to sxpr failed')`),
			stderr: "Error: vnet97.sxp: Coercion to sxpr failed\n", status: 1,
		},
		{
			name: "a reason", args: "dmesg -c", reply: status("501 Operation not implemented: clear", "Operation not implemented: clear"),
			stderr: "Error: Operation not implemented: clear\n", status: 1,
		},
		{
			name: "unknown domain", args: "list --long nosuch", reply: recorded(t, "020")[0],
			stderr: "Error: Domain 'nosuch' not found when running 'xm list'\n", status: 1,
		},
		{
			name: "not found without an argument", args: "log", reply: status("404 Not found", "Not found: log"),
			stderr: "Error: Not found\n", status: 1,
		},
		{
			name: "refused in a list", args: "vnet-list 97", reply: ok(sxpType, `(xend.err (two words))`),
			stderr: "97 (two words)\n",
		},
		{
			name: "nothing in a list", args: "vnet-list 97", reply: status("204 No Content", ""),
			stdout: "''\n",
		},
		{
			name: "not SXP", args: "vnet-list", reply: ok("text/html", "(x"),
			stderr: "Error: xend's answer is not an S-expression: unexpected EOF (line 1, column 3): the list that begins at line 1, column 1 is not closed\n", status: 1,
		},
		{
			name: "no answer", args: "vnet-list", reply: nil,
			stderr: "Error: xend closed the connection before its answer was complete\n", status: 1,
		},
		{
			name: "not a whole answer", args: "log", reply: []byte("HTTP/1.1 200 OK\r\nContent-length: 9\r\n\r\nshort"),
			stderr: "Error: xend closed the connection before its answer was complete\n", status: 1,
		},
		{name: "log", args: "log", reply: ok("text/plain", "one\ntwo\n"), stdout: "one\ntwo\n"},
		{name: "log as an atom", args: "log", reply: ok(sxpType, `'one\ntwo'`), stdout: "one\ntwo\n"},
		{name: "empty log", args: "log", reply: ok("text/plain", ""), stdout: ""},
		{name: "dmesg", args: "dmesg", reply: ok("text/plain", "(XEN) one"), stdout: "(XEN) one\n"},
		{name: "info", args: "inf", reply: ok(sxpType, "(node (nr_cpus 2) (node_to_cpu 0 1) (x (y z)) (empty))"),
			stdout: "nr_cpus                : 2\nnode_to_cpu            : 0 1\nx                      : (y z)\nempty                  : \n"},
		{
			name: "list", args: "list x", reply: ok(sxpType, "(domain (name "+long+") (memory 262144) (maxmem 1) (vcpus 32) (state ------) (online_vcpus 4) (domid 1234) (cpu_time 1234567.89))"),
			stdout: "Name                              ID Mem(MiB) VCPUs State  Time(s)\n" + long + " 1234   262144     4 ------ 1234567.9\n",
		},
		{
			name: "list of one that does not run", args: "list x", reply: ok(sxpType, "(domain (name x) (memory 64) (vcpus 2))"),
			stdout: "Name                              ID Mem(MiB) VCPUs State  Time(s)\nx                                          64     2\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			h.daemon(tt.reply)
			stdout, stderr, status := h.xm(strings.Fields(tt.args)...)
			require.Equal(t, tt.stdout, stdout)
			require.Equal(t, tt.stderr, stderr)
			require.Equal(t, tt.status, status)
		})
	}
}

// TestUsage is about calls that no daemon sees.
func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args           string
		stdout, stderr string // stdout: the beginning
		status         int
	}{
		{args: "", stdout: "Usage: xm ", status: 1},
		{args: "help", stdout: "Usage: xm "},
		{args: "--help", stdout: "Usage: xm "},
		{args: "--version", stdout: "xm dev\n"},
		{args: "help --long", stdout: "Usage: xm "},
		{args: "help vnet-c", stdout: "Usage: xm vnet-create CONFIG\n\nCreate a vnet"},
		{args: "vnet-create --help", stdout: "Usage: xm vnet-create CONFIG\n\nCreate a vnet"},
		{args: "help nothing", stdout: "Usage: xm ", stderr: "Error: Sub Command nothing not found!\n\n", status: 1},
		{args: "nothing", stdout: "Usage: xm ", stderr: "Error: Sub Command nothing not found!\n\n", status: 1},
		{args: "v", stdout: "Usage: xm ", stderr: "Error: Sub Command v not found!\n\n", status: 1},
		{args: "vnet", stdout: "vnet could mean vnet-create, vnet-list, vnet-delete.\n\nUsage: xm ", stderr: "Error: Sub Command vnet not found!\n\n", status: 1},
		{args: "vnet-create", stdout: "Usage: xm vnet-create CONFIG\n", stderr: "Error: 'xm vnet-create' requires 1 argument.\n\n", status: 1},
		{args: "vnet-create a b", stdout: "Usage: xm vnet-create CONFIG\n", stderr: "Error: 'xm vnet-create' requires 1 argument.\n\n", status: 1},
		{args: "vnet-d", stdout: "Usage: xm vnet-delete ID\n", stderr: "Error: 'xm vnet-delete' requires 1 argument.\n\n", status: 1},
		{args: "log x", stdout: "Usage: xm log\n", stderr: "Error: 'xm log' requires 0 arguments.\n\n", status: 1},
		{args: "help a b", stdout: "Usage: xm help [-l|--long] [SUBCOMMAND]\n", stderr: "Error: 'xm help' requires between 0 and 1 arguments.\n\n", status: 1},
		{args: "list --lo=1", stderr: "Error: option --long must not have an argument\n", status: 1},
		{args: "list --what", stderr: "Error: option --what not recognized\n", status: 1},
		{args: "-x list", stderr: "Error: option -x not recognized\n", status: 1},
		{args: "--prefix", stderr: "Error: option --prefix requires argument\n", status: 1},
		{args: "create vm.cfg -c", stderr: "Error: 'xm create' (start a domain from its configuration) is known, but not supported by this version: use 'xl create'\n", status: 1},
		{args: "network-a", stderr: "Error: 'xm network-attach' (attach a network interface to a domain) is known, but not supported by this version: use 'xl network-attach'\n", status: 1},
		{args: "sched-credit", stderr: "Error: 'xm sched-credit' (set parameters of the credit scheduler) is known, but not supported by this version: use 'xl sched-credit'\n", status: 1},
		{args: "block-attach 1 a b w", stderr: "Error: 'xm block-attach' (attach a block device to a domain) is known, but not supported by this version: use 'xl block-attach'\n", status: 1},
		{args: "balloon 1 64", stderr: "Error: 'xm mem-set' (set a domain's memory) is known, but not supported by this version: use 'xl mem-set'\n", status: 1},
		{args: "serve", stderr: "Error: 'xm serve' (answer the management protocol on standard input) is known, but not supported by this version: xl has no such command either\n", status: 1},
	} {
		t.Run(tt.args, func(t *testing.T) {
			h := newHost(t)
			stdout, stderr, status := h.xm(strings.Fields(tt.args)...)
			require.True(t, strings.HasPrefix(stdout, tt.stdout), "%s", stdout)
			require.Equal(t, tt.stdout == "", stdout == "")
			require.Equal(t, tt.stderr, stderr)
			require.Equal(t, tt.status, status)
		})
	}
}

// TestServers is about the ways to name a daemon.
func TestServers(t *testing.T) {
	h := newHost(t)
	vnets := ok(sxpType, "(97)")

	tcp := clitest.ReplayHTTP(t, "tcp", "127.0.0.1:0", vnets)
	t.Setenv("XEND", tcp.Addr)
	stdout, _, status := h.xm("vnet-list")
	require.Equal(t, "97\n", stdout)
	require.Equal(t, 0, status)
	tcp.Close()
	_, stderr, status := h.xm("vnet-list")
	require.Equal(t, "Error: Error connecting to xend: Connection refused.  Is xend running?\n", stderr)
	require.Equal(t, 1, status)
	t.Setenv("XEND", "http://x")
	_, stderr, _ = h.xm("vnet-list")
	require.Equal(t, "Error: XEND: \"http://x\" is not host:port\n", stderr)
	t.Setenv("XEND", "")

	other := filepath.Join(h.prefix, "other.sock")
	clitest.ReplayHTTP(t, "unix", other, vnets)
	config := filepath.Join(h.prefix, "etc/xen/xend-config.sxp")
	require.NoError(t, os.MkdirAll(filepath.Dir(config), 0o755))
	require.NoError(t, os.WriteFile(config, []byte("# comment\n(xend-port 9)(xend-unix-path "+other+")(xend-unix-path /nowhere)"), 0o644))
	stdout, _, _ = h.xm("vnet-list")
	require.Equal(t, "97\n", stdout)

	rpc := filepath.Join(h.prefix, "rpc.sock")
	clitest.ReplayHTTP(t, "unix", rpc, ok("text/xml", "<methodResponse><params><param><value><array><data><value>98</value></data></array></value></param></params></methodResponse>"))
	t.Setenv("XM_SERVER", "httpu://"+rpc)
	stdout, _, _ = h.xm("vnet-list")
	require.Equal(t, "98\n", stdout)
	t.Setenv("XM_SERVER", "ftp://x")
	_, stderr, _ = h.xm("vnet-list")
	require.Equal(t, "Error: XM_SERVER: \"ftp://x\" is neither httpu:///path nor http://host:port\n", stderr)
	t.Setenv("XM_SERVER", "")

	// --prefix wins over the environment.
	second := newHost(t)
	second.daemon(ok(sxpType, "(99)"))
	t.Setenv("XEND_PREFIX", h.prefix)
	stdout, _, _ = h.xm("--prefix", second.prefix, "vnet-list")
	require.Equal(t, "99\n", stdout)
}

// TestUnreadableConfig is about a file that is there but can't be read.
func TestUnreadableConfig(t *testing.T) {
	h := newHost(t)
	_, stderr, status := h.xm("vnet-create", h.prefix)
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "is a directory")
}

// TestXL checks that every command of xl that is named stands for one that there is.
func TestXL(t *testing.T) {
	var out bytes.Buffer
	table := newApp(&out, &out).table
	for name := range xlCommands {
		require.NotNil(t, table.Find(name), name)
	}
}
