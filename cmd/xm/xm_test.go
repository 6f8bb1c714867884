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
	require.NoError(t, os.WriteFile("vm1.cfg", []byte("name = 'vm1'\nmemory = 64\nkernel = '/boot/vmlinuz-2.6-xenU'\nvif = ['bridge=vnet97']\n"), 0o644))
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
		{output: "21_create_vm1.cfg", args: "create vm1.cfg vcpus=1", replies: recorded(t, "022", "023", "024")},
		{output: "25_network-attach_vm1", args: "network-attach vm1 bridge=vnet97 mac=00:16:3e:11:22:33", replies: recorded(t, "027")},
		{output: "27_network-list_vm1", args: "network-list vm1", replies: recorded(t, "030")},
		{output: "29_network-list_-l_vm1", args: "network-list -l vm1", replies: recorded(t, "030")},
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
			require.Equal(t, strings.ReplaceAll(string(want[0]), `"/etc/xen/vnets/`, `"`+workingDir(t)), stdout)
			// What is missing is a vnet, and the message says so.
			require.Equal(t, strings.Replace(string(want[1]), "Domain '404'", "Vnet '404'", 1), stderr)
			require.Equal(t, tt.status, status)
		})
	}
}

// workingDir is where relative names are looked for, with a slash at its end.
func workingDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	return dir + "/"
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
		{args: "list", lines: "GET /xend/domain/?detail=1&state=all"},
		{args: "list --state halted", lines: "GET /xend/domain/?detail=1&state=halted"},
		{args: "list -l a b", lines: "GET /xend/domain/a|GET /xend/domain/b"},
		{args: "destroy vm1", lines: "POST /xend/domain/vm1", body: "op=destroy"},
		{args: "shutdown vm1", lines: "POST /xend/domain/vm1", body: "op=shutdown&reason=poweroff"},
		{args: "shutdown -R vm1", lines: "POST /xend/domain/vm1", body: "op=shutdown&reason=reboot"},
		{args: "shutdown -H vm1", lines: "POST /xend/domain/vm1", body: "op=shutdown&reason=halt"},
		{args: "reboot a b", lines: "POST /xend/domain/a|POST /xend/domain/b", body: "op=shutdown&reason=reboot"},
		{args: "pause vm1", lines: "POST /xend/domain/vm1", body: "op=pause"},
		{args: "unpause vm1", lines: "POST /xend/domain/vm1", body: "op=unpause"},
		{args: "rename vm1 vm2", lines: "POST /xend/domain/vm1", body: "name=vm2&op=rename"},
		{args: "start -p vm1", lines: "POST /xend/domain/vm1", body: "op=start&paused=1"},
		{args: "delete vm1", lines: "POST /xend/domain/vm1", body: "op=delete"},
		{args: "suspend vm1", lines: "POST /xend/domain/vm1", body: "op=suspend"},
		{args: "resume vm1", lines: "POST /xend/domain/vm1", body: "op=resume"},
		{args: "save vm1 /x/vm1.save", lines: "POST /xend/domain/vm1", body: "file=%2Fx%2Fvm1.save&op=save"},
		{args: "restore /x/vm1.save", lines: "POST /xend/domain", body: "file=%2Fx%2Fvm1.save&op=restore"},
		{args: "migrate -l -p 8003 vm1 hostb", lines: "POST /xend/domain/vm1", body: "destination=hostb&live=1&op=migrate&port=8003"},
		{args: "mem-set vm1 1g", lines: "POST /xend/domain/vm1", body: "op=mem_target_set&target=1024"},
		{args: "balloon vm1 64", lines: "POST /xend/domain/vm1", body: "op=mem_target_set&target=64"},
		{args: "mem-max vm1 128m", lines: "POST /xend/domain/vm1", body: "memory=128&op=maxmem_set"},
		{args: "vcpu-set vm1 2", lines: "POST /xend/domain/vm1", body: "op=set_vcpus&vcpus=2"},
		{args: "vcpu-pin vm1 all 0-1", lines: "POST /xend/domain/vm1", body: "cpumap=0-1&op=pincpu&vcpu=all"},
		{args: "sched-credit -d vm1 -w 512", lines: "POST /xend/domain/vm1", body: "op=domain_sched_credit_set&weight=512"},
		{args: "sysrq vm1 h", lines: "POST /xend/domain/vm1", body: "key=h&op=sysrq"},
		{args: "trigger vm1 nmi 1", lines: "POST /xend/domain/vm1", body: "op=send_trigger&trigger=nmi&vcpu=1"},
		{args: "dump-core -L vm1 /x/core", lines: "POST /xend/domain/vm1", body: "file=%2Fx%2Fcore&live=1&op=dump"},
		{args: "network-attach vm1 bridge=vnet97", lines: "POST /xend/domain/vm1", body: "config=%28vif+%28bridge+vnet97%29%29&op=device_create"},
		{args: "network-detach vm1 1", lines: "POST /xend/domain/vm1", body: "dev=1&op=device_destroy&type=vif"},
		{args: "block-attach vm1 phy:/dev/b xvdb w", lines: "POST /xend/domain/vm1", body: "config=%28vbd+%28uname+phy%3A%2Fdev%2Fb%29+%28dev+xvdb%29+%28mode+w%29%29&op=device_create"},
		{args: "block-detach -f vm1 xvdb", lines: "POST /xend/domain/vm1", body: "dev=xvdb&force=1&op=device_destroy&type=vbd"},
		{args: "block-list vm1", lines: "POST /xend/domain/vm1", body: "op=devices&type=vbd"},
		{args: "new -q vm1.cfg", lines: "POST /xend/domain", body: "config=%28vm+%28name+vm1%29+%28memory+64%29+%28image+%28linux+%28kernel+%2Fboot%2Fvmlinuz-2.6-xenU%29%29%29+%28device+%28vif+%28bridge+vnet97%29%29%29%29&op=new"},
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
		{args: "create nosuch.cfg -c", stderr: "Error: Unable to open config file: nosuch.cfg\n", status: 1},
		{args: "create", stdout: "Usage: xm create ", stderr: "Error: 'xm create' requires at least 1 argument.\n\n", status: 1},
		{args: "create vm1.cfg memory", stderr: "Error: memory is not NAME=VALUE\n", status: 1},
		{args: "shutdown", stdout: "Usage: xm shutdown ", stderr: "Error: 'xm shutdown' requires at least 1 argument.\n\n", status: 1},
		{args: "mem-set 1 lots", stderr: "Error: lots is no amount of memory: write a number of MiB, or one with k, m or g\n", status: 1},
		{args: "network-attach 1 brigde=vnet97", stderr: "Error: Invalid vif option: brigde\n", status: 1},
		{args: "network-attach 1 vnet97", stderr: "Error: Invalid argument: vnet97; write KEY=VALUE, such as bridge=vnet97\n", status: 1},
		{args: "sched-credit -w 5", stderr: "Error: which domain? Name it with -d\n", status: 1},
		{args: "list --state dead", stderr: "Error: the state is running, halted or all, not dead\n", status: 1},
		{args: "create -n vm1.cfg", stdout: "Using config file \""},
		{args: "pci-a 1 a", stderr: "Error: 'xm pci-attach' (pass a PCI device to a domain) is known, but not supported by this version: use 'xl pci-attach'\n", status: 1},
		{args: "sched-sedf", stderr: "Error: 'xm sched-sedf' (set parameters of the SEDF scheduler) is known, but not supported by this version: xl has no such command either\n", status: 1},
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
