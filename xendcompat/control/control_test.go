package control

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/fronttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server of a daemon whose data plane is on, and has no underlay yet.
func start(t testing.TB) (*fronttest.Daemon, string) {
	t.Helper()
	d := fronttest.New(t, true)
	return d, d.Unix(t, New(d.Service, Options{Log: d.Log}))
}

// ask sends commands and returns the answer.
func ask(t testing.TB, address, commands string) string {
	t.Helper()
	return string(fronttest.Exchange(t, address, []byte(commands)))
}

// same compares answers; "…" at the end stands for words that others choose.
func same(t *testing.T, want, got, commands string) {
	t.Helper()
	if prefix, ok := strings.CutSuffix(want, "…"); ok {
		require.True(t, strings.HasPrefix(got, prefix) && strings.HasSuffix(got, "\")\n"), "%s: %s", commands, got)
		return
	}
	require.Equal(t, want, got, commands)
}

const zero = "0000:0000:0000:0000:0000:0000:0000:"

func vnetForm(id, vnetif string) string {
	return fmt.Sprintf("(vnet (id %s) (vnetif %s) (security none) (header 64))\n", id, vnetif)
}

var defaults = vnetForm(zero+"0002", "vnif0002") + vnetForm(zero+"0003", "vnif0003") + vnetForm(zero+"0004", "vnif0004")

const (
	vifTable = "(viftable\n (table_ttl 60)\n (entry_ttl 60)\n (sweeps 0)\n)\n"
	varpForm = "(varp \n (device )\n (mcast_addr 224.10.0.1)\n (ucast_addr 0.0.0.0)\n (port 1798)\n (encapsulation etherip_in_udp)\n (entry_ttl 60)\n)\n"
)

func peerForm(addr string, port int) string {
	return fmt.Sprintf("(vnet_peer\n  (addr %s)\n  (port %d)\n  (tx_packets 0)\n  (rx_packets 0)\n)\n", addr, port)
}

func vifForm(id, mac string) string {
	return fmt.Sprintf("(vif\n (vnet %s)\n (vmac %s)\n (age 0)\n)\n", zero+id, mac)
}

// TestVectors sends the recorded commands in their order, with what the recording left out, and checks
// answers and their layout. Ours differ as the API says: errors are told, odd ids are errors, lists are
// sorted, times are in seconds, vnet 1 is not listed, the header has its real length, and a vnet without a
// key can't be protected.
func TestVectors(t *testing.T) {
	_, address := start(t)
	long := "0001:0002:0003:0004:0005:0006:0007:0008"
	with97 := defaults + vnetForm(zero+"0097", "vnif97") + vnetForm(zero+"1a2b", "vnif1a2b") + vnetForm(long, "vnifL")
	without97 := defaults + vnetForm(zero+"1a2b", "vnif1a2b") + vnetForm(long, "vnifL")
	for _, step := range []struct {
		name, want string
		// before are commands that the recording left out.
		before string
	}{
		{name: "01_vnet_list_initial", want: defaults},
		{name: "02_vif_list_initial", want: vifTable},
		{name: "03_varp_list_initial", want: varpForm},
		{name: "04_peer_list_initial", want: ""},
		{name: "05_varp_print", want: defaults + vifTable + varpForm},
		{name: "06_vnet_add_97", want: ""},
		{name: "08_vnet_add_default_if", want: ""},
		{name: "09_vnet_add_long_id", want: ""},
		{name: "12_vnet_add_badsec", want: `(error "vnet.add: security: unknown security level \"foo\": it must be none, auth or conf")` + "\n"},
		{name: "13_vnet_add_badid", want: `(error "vnet.add: invalid vnet id \"xyz\": …`},
		{name: "14_vnet_add_noid", want: `(error "vnet.add: (id ...) is missing")` + "\n"},
		{name: "17_vnet_add_short_colon", want: `(error "vnet.add: invalid vnet id \"1:2\": …`},
		{name: "18_vnet_list", want: with97},
		{name: "19_vif_add", want: ""},
		{name: "21_vif_add_badmac", want: `(error "vif.add: vmac: \"aa:bb:cc:dd:ee\" is not a MAC")` + "\n"},
		{name: "23_vif_list", before: "(vif.add (vnet 97) (vmac aa:bb:cc:dd:ee:02))", want: vifTable + vifForm("0097", "aa:bb:cc:dd:ee:01") + vifForm("0097", "aa:bb:cc:dd:ee:02")},
		{name: "24_vif_del", want: ""},
		{name: "26_vif_list_after", want: vifTable + vifForm("0097", "aa:bb:cc:dd:ee:02")},
		{name: "29_peer_add", want: ""},
		{name: "34_peer_list", before: "(peer.add (addr 192.0.2.10) (port 1799))", want: peerForm("192.0.2.9", 1798) + peerForm("192.0.2.10", 1799)},
		{name: "35_peer_del", want: ""},
		{name: "38_peer_list_after", before: "(peer.del (addr 192.0.2.10))", want: ""},
		{name: "39_vnet_del_97", want: ""},
		{name: "43_vnet_list_after", want: without97},
		{name: "44_unknown_cmd", want: `(error "unknown command: foo.bar")` + "\n"},
		{name: "47_add_then_list", want: with97},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.before != "" {
				require.Empty(t, ask(t, address, step.before))
			}
			command, err := os.ReadFile(filepath.Join("testdata", step.name+".req"))
			require.NoError(t, err)
			recorded, err := os.ReadFile(filepath.Join("testdata", step.name+".resp"))
			require.NoError(t, err)
			got := ask(t, address, string(command))
			same(t, step.want, got, string(command))
			if !strings.HasPrefix(got, "(error") {
				require.Subset(t, layouts(string(recorded)), layouts(got))
			}
		})
	}
}

var value = regexp.MustCompile(`\((\w+) [^()]*\)`)

// layouts returns the forms of an answer with all values made the same.
func layouts(answer string) []string {
	var forms []string
	var form strings.Builder
	for line := range strings.Lines(value.ReplaceAllString(answer, "($1 X)")) {
		form.WriteString(line)
		if strings.HasSuffix(line, ")\n") && !strings.HasPrefix(line, " ") {
			forms = append(forms, form.String())
			form.Reset()
		}
	}
	return forms
}

// TestEntry checks the layout of a cache entry against the recorded one.
func TestEntry(t *testing.T) {
	for _, name := range []string{"27_varp_list", "after_ping_varp_list"} {
		recorded, err := os.ReadFile(filepath.Join("testdata", name+".resp"))
		require.NoError(t, err)
		require.ElementsMatch(t, layouts(string(recorded)), layouts(string(written(writeVARP))))
	}
	recorded, err := os.ReadFile("testdata/after_ping_vif_list.resp")
	require.NoError(t, err)
	require.ElementsMatch(t, layouts(string(recorded)), layouts(string(written(writeVifs))))
}

func TestCommands(t *testing.T) {
	d, address := start(t)
	require.NoError(t, d.CreateVnet(t.Context(), config(t, "(vnet (id 98))")))
	for _, tt := range []struct{ commands, want string }{
		{"", ""},
		{" \n\t", ""},
		{"# comment\n", ""},
		{"(vnet.add (id 97))\n", ""},
		{"(vnet.add (id 97))", `(error "invalid vnet config: id: vnet 97 exists already, until xend restarts or 'vn vnet-delete 97'")` + "\n"},
		{"(vnet.add (id 0097) (vnetif other))", `(error "invalid vnet config: id: vnet 0097 exists already, until xend restarts or 'vn vnet-delete 0097'")` + "\n"},
		{"(vnet.del 97)", ""},
		{"(vnet.del 97)", `(error "No such vnet 0000:0000:0000:0000:0000:0000:0000:0097")` + "\n"},
		{"(vnet.del (id 98))", `(error "vnet 98 is persistent: delete it with 'xm vnet-delete 98'")` + "\n"},
		{"(vnet.add (id 1))", `(error "vnet.add: vnet id \"1\" is reserved for the physical network")` + "\n"},
		{"(vnet.add (id 0))", `(error "vnet.add: invalid vnet id \"0\": …`},
		{"(vnet.add (id 99) (vnetif a/b))", `(error "vnet.add: vnetif: …`},
		{"(vnet.add (id 99) (vnetif vnif98))", `(error "invalid vnet config: vnetif: vnif98 belongs to vnet 98")` + "\n"},
		{"(vnet.add (id 99) (security auth))", `(error "invalid vnet config: security: auth needs a key, and none is configured on this host")` + "\n"},
		{"(vnet.del)", `(error "vnet.del: (id ...) is missing")` + "\n"},
		{"(vif.add (vnet 98))", `(error "vif.add: (vmac ...) is missing")` + "\n"},
		{"(vif.add (vmac aa:bb:cc:dd:ee:01))", `(error "vif.add: (vnet ...) is missing")` + "\n"},
		{"(vif.add (vnet 98) (vmac AA-bb-C-dd-EE-1))(vif.list)", vifTable + vifForm("0098", "aa:bb:0c:dd:ee:01")},
		{"(vif.del (vnet 98) (vmac aa:bb:0c:dd:ee:01))(vif.list)", vifTable},
		{"(peer.add (addr 192.0.2.9) (port 0))", `(error "peer.add: \"0\" is not a port (1 to 65535)")` + "\n"},
		{"(peer.add (addr 192.0.2.9) (port 65536))", `(error "peer.add: \"65536\" is not a port (1 to 65535)")` + "\n"},
		{"(peer.add (addr host.example))", `(error "peer.add: \"host.example\" is not an IP address")` + "\n"},
		{"(peer.add)", `(error "peer.add: (addr ...) is missing")` + "\n"},
		{"(varp.mcaddr (addr 224.10.0.9))(varp.list)", strings.Replace(varpForm, "224.10.0.1", "224.10.0.9", 1)},
		{"(varp.mcaddr (addr 224.10.0.1))(varp.flush)", ""},
		{"(vnet.list)(foo)(vif.list)", defaults + vnetForm(zero+"0098", "vnif98") + `(error "unknown command: foo")` + "\n"},
		{"foo", `(error "unknown command: foo")` + "\n"},
		{"()", `(error "unknown command: ")` + "\n"},
		{"(foo", `(error "unexpected EOF (line 1, column 5): the list that begins at line 1, column 1 is not closed")` + "\n"},
		{"(peer.list))", `(error "syntax error: ) (line 1, column 12)")` + "\n"},
		{"(peer.list) # the end", ""},
		{"(\"peer.list\")", ""},
		{"(<*9*peer.list)", ""},
	} {
		c := fronttest.Dial(t, address)
		_, err := io.WriteString(c, tt.commands)
		require.NoError(t, err)
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
		same(t, tt.want, string(fronttest.ReadAll(t, c)), tt.commands)
	}
	for _, tt := range []struct{ commands, want string }{
		{"(vnet.add (id 2))", "default_vnets = false"},
		{"(vnet.del (id 2))", "default_vnets = false"},
		{"(vif.add (vnet 99) (vmac aa:bb:cc:dd:ee:01))", "0099"},
		{"(vif.add (vnet 98) (vmac 01:bb:cc:dd:ee:01))", "01:bb"},
		{"(vif.del (vnet 98) (vmac aa:bb:cc:dd:ee:77))", "aa:bb:cc:dd:ee:77"},
		{"(peer.del (addr 192.0.2.99))", "192.0.2.99"},
		{"(varp.mcaddr (addr 192.0.2.9))", "192.0.2.9"},
	} {
		got := ask(t, address, tt.commands)
		require.True(t, strings.HasPrefix(got, `(error "`), got)
		require.Contains(t, got, tt.want)
		v, err := sxp.Parse([]byte(got), sxp.C)
		require.NoError(t, err)
		require.Len(t, v, 1)
	}
}

// TestPieces checks when an answer comes: after the commands of one write, however they arrive.
func TestPieces(t *testing.T) {
	_, address := start(t)
	for _, pieces := range [][]string{
		{"(vnet.list)"},
		{"(vnet", ".list)"},
		{"(vnet.list", ")"},
		{"#\n(", "vnet.list)\n"},
	} {
		c := fronttest.Dial(t, address)
		for _, p := range pieces {
			_, err := io.WriteString(c, p)
			require.NoError(t, err)
		}
		require.Equal(t, defaults, string(fronttest.ReadAll(t, c)), "%q", pieces)
	}
	// More than a socket takes at once, without an end.
	const n = 20000
	answer := ask(t, address, strings.Repeat("(peer.list)\n   ", n)+"(peer.add (addr 192.0.2.9))(peer.list)")
	require.Equal(t, peerForm("192.0.2.9", 1798), answer)
}

// TestClientsThatLeave checks that what they asked for is done.
func TestClientsThatLeave(t *testing.T) {
	_, address := start(t)
	c := fronttest.Dial(t, address)
	_, err := io.WriteString(c, "(peer.add (addr 192.0.2.9))")
	require.NoError(t, err)
	c.Close()
	fronttest.Dial(t, address).Close()
	half := fronttest.Dial(t, address) // stays silent
	_, err = io.WriteString(half, "(vnet")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return ask(t, address, "(peer.list)") != "" }, soonEnough, tick)
}

// TestInOrder is what the original's vn does: it writes a command, closes without reading, and lists over the
// next connection.
func TestInOrder(t *testing.T) {
	_, address := start(t)
	for i := range 40 {
		mac := fmt.Sprintf("aa:bb:cc:dd:ee:%02x", i)
		c := fronttest.Dial(t, address)
		_, err := io.WriteString(c, "(vif.add (vnet 2) (vmac "+mac+"))")
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Contains(t, ask(t, address, "(vif.list)"), mac)
	}
}

// TestSlowClientsStandBack checks that a client which does not go on is served after those that do.
func TestSlowClientsStandBack(t *testing.T) {
	_, address := start(t)
	fronttest.Dial(t, address) // silent
	slow := fronttest.Dial(t, address)
	_, err := io.WriteString(slow, "(peer.add (addr 192.0.2.9)")
	require.NoError(t, err)
	require.Empty(t, ask(t, address, "(peer.list)"))
	_, err = io.WriteString(slow, ")")
	require.NoError(t, err)
	require.Empty(t, fronttest.ReadAll(t, slow))
	require.NotEmpty(t, ask(t, address, "(peer.list)"))
}

// TestLongAnswers checks that what clients make the daemon hold has bounds.
func TestLongAnswers(t *testing.T) {
	d := fronttest.New(t, true)
	server := New(d.Service, Options{Log: d.Log})
	server.maxOne, server.maxTogether = 1<<20, 2<<20
	address := d.Unix(t, server)
	const each = 16 << 10
	text := strings.Repeat("x", each-1) + "\n"
	commands["test.print"] = func(_ *Server, _ context.Context, _ sxp.Value, out *bytes.Buffer) error {
		out.WriteString(text)
		return nil
	}
	defer delete(commands, "test.print")
	got := func(answer string) (prints int, rest string) {
		rest = strings.TrimLeft(answer, "x\n")
		return (len(answer) - len(rest)) / each, rest
	}
	prints, rest := got(ask(t, address, strings.Repeat("(test.print)", 100)))
	require.Equal(t, 64, prints)
	require.Equal(t, "(error \"the answers to one request are too long: ask for less at a time\")\n", rest)

	// Many whose answers nobody reads.
	var unread []net.Conn
	for range 4 {
		c := fronttest.Dial(t, address)
		_, err := io.WriteString(c, strings.Repeat("(test.print)", 60))
		require.NoError(t, err)
		unread = append(unread, c)
	}
	require.Empty(t, ask(t, address, "(peer.list)"), "it is done after them")
	sum := 0
	for _, c := range unread { // whoever was first
		prints, rest := got(string(fronttest.ReadAll(t, c)))
		sum += prints
		require.Equal(t, prints != 60, rest == "(error \"too many answers wait for clients to read them: try again\")\n")
	}
	require.Equal(t, 128, sum)
	require.Equal(t, text, ask(t, address, "(test.print)"))
}

func TestParallel(t *testing.T) {
	_, address := start(t)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			mac := fmt.Sprintf("aa:bb:cc:dd:ee:%02x", i)
			require.Empty(t, ask(t, address, "(vif.add (vnet 2) (vmac "+mac+"))"))
		})
	}
	all.Wait()
	require.Equal(t, 200, strings.Count(ask(t, address, "(vif.list)"), "(vif\n"))
}

func FuzzCommands(f *testing.F) {
	for _, s := range []string{"(vnet.list)", "(vif.add (vnet 2) (vmac aa:bb:cc:dd:ee:01))(vif.list)", "(peer.add (addr 192.0.2.1))", "(vn.stats)(vn.mtu)", "(error"} {
		f.Add(s)
	}
	_, address := start(f)
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "vnet.add") {
			return // devices are made elsewhere
		}
		c := fronttest.Dial(t, address)
		go func() {
			_, _ = io.WriteString(c, s)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		answer := fronttest.ReadAll(t, c)
		_, err := sxp.Parse(answer, sxp.C)
		require.NoError(t, err, "%q", answer)
	})
}
