package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/cli/clitest"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/keys"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

// host is where vn finds its daemon in a test.
type host struct {
	t      *testing.T
	prefix string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, prefix: t.TempDir()}
	t.Setenv("XEND_PREFIX", h.prefix)
	return h
}

// daemon answers on the control socket.
func (h *host) daemon(replies ...string) *clitest.Server {
	var bs [][]byte
	for _, r := range replies {
		bs = append(bs, []byte(r))
	}
	return clitest.ReplayRaw(h.t, "unix", filepath.Join(h.prefix, "run/xend/vnetd.sock"), bs...)
}

// vn runs the program.
func (h *host) vn(args ...string) (stdout, stderr string, status int) {
	var out, err bytes.Buffer
	status = newApp(&out, &err).run(h.t.Context(), args)
	return out.String(), err.String(), status
}

// recorded returns an answer of the original.
func recorded(t *testing.T, name string) string {
	return string(clitest.Read(t, filepath.Join("testdata/recorded", name+".resp"))[0])
}

// form is the pretty-printed vnet form, as the original's vn breaks it.
func form(id, vnetif, security string) string {
	return "(vnet\n    (id " + id + ")\n    (vnetif " + vnetif + ")\n    (security " + security + ")\n    (header 0)\n)\n\n"
}

func TestLists(t *testing.T) {
	const zero = "0000:0000:0000:0000:0000:0000:0000:"
	settings := "(viftable (table_ttl 60000) (entry_ttl 60000) (sweeps 0))\n\n"
	vif := func(mac, age string) string {
		return "(vif\n    (vnet " + zero + "0097)\n    (vmac " + mac + ")\n    (age " + age + ")\n)\n\n"
	}
	sorted := form(zero+"0001", "''", "none") + form(zero+"0002", "vnif0002", "none") + form(zero+"0003", "vnif0003", "none") +
		form(zero+"0004", "vnif0004", "none") + form(zero+"0097", "vnif97", "none") + form(zero+"0098", "vnif98", "auth") +
		form(zero+"0099", "vnif99", "conf") + form(zero+"1a2b", "vnif1a2b", "none") +
		form("0001:0000:0000:0000:0000:0000:0000:0000", "vnifS", "none") + form("0001:0002:0003:0004:0005:0006:0007:0008", "vnifL", "none")
	sorted = strings.Replace(sorted, "(vnetif '')", "(vnetif)", 1)
	vnets := recorded(t, "18_vnet_list")
	for _, tt := range []struct{ args, reply, sent, stdout string }{
		{"vnets", vnets, "(vnet.list)\n", sorted},
		{"vnets 98 0097 nothing 4 zz", vnets, "(vnet.list)\n", form(zero+"0004", "vnif0004", "none") + form(zero+"0097", "vnif97", "none") + form(zero+"0098", "vnif98", "auth")},
		{"vnets vnifL 1a2b", vnets, "(vnet.list)\n", form(zero+"1a2b", "vnif1a2b", "none") + form("0001:0002:0003:0004:0005:0006:0007:0008", "vnifL", "none")},
		{"vnets 0:97", vnets, "(vnet.list)\n", form(zero+"0097", "vnif97", "none")},
		{"vifs", recorded(t, "23_vif_list"), "(vif.list)\n", settings + vif("aa:bb:cc:dd:ee:02", "600") + vif("aa:bb:cc:dd:ee:01", "807")},
		{"varp", recorded(t, "after_ping_varp_list"), "(varp.list)\n", `(varp
    (device xen-br0)
    (mcast_addr 224.10.0.1)
    (ucast_addr 0.0.0.0)
    (port 1798)
    (encapsulation etherip_in_udp)
    (entry_ttl 60000)
)

(ventry
    (ref 1)
    (state reachable)
    (flags -)
    (addr 192.0.2.2)
    (queue 0)
    (age 607)
    (vmac 7a:d6:2f:08:08:3c)
    (vnet 0000:0000:0000:0000:0000:0000:0000:0004)
)

`},
		{"peers", recorded(t, "34_peer_list"), "(peer.list)\n", `(vnet_peer (addr 192.0.2.10) (port 1799) (tx_packets 0) (rx_packets 0))

(vnet_peer (addr 192.0.2.9) (port 1798) (tx_packets 0) (rx_packets 0))

`},
		{"vnets", "", "(vnet.list)\n", ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			h := newHost(t)
			s := h.daemon(tt.reply)
			stdout, stderr, status := h.vn(strings.Fields(tt.args)...)
			missing := ""
			if strings.Contains(tt.args, "nothing") { // what is not there is told; the others are listed all the same
				missing = "vn: vnet not found: nothing\nvn: vnet not found: zz\n"
			}
			require.Equal(t, missing, stderr)
			require.Equal(t, 0, status)
			require.Equal(t, tt.stdout, stdout)
			require.Equal(t, tt.sent, string(s.Requests()[0]))
		})
	}
}

// TestCommands looks at what is sent by commands that print nothing.
func TestCommands(t *testing.T) {
	const id97 = "0000:0000:0000:0000:0000:0000:0000:0097"
	vnets := "(vnet (id " + id97 + ") (vnetif vnif97) (security none) (header 64))\n"
	for _, tt := range []struct {
		args    string
		replies []string
		sent    []string
	}{
		{"varp-flush", []string{""}, []string{"(varp.flush)\n"}},
		{"vif-add 97 AA-BB-CC-DD-EE-01", []string{""}, []string{"(vif.add (vnet " + id97 + ") (vmac aa:bb:cc:dd:ee:01))\n"}},
		{"vif-add vnif97 aa:bb:cc:dd:ee:01", []string{vnets, ""}, []string{"(vnet.list)\n", "(vif.add (vnet " + id97 + ") (vmac aa:bb:cc:dd:ee:01))\n"}},
		{"vif-delete 0:0097 aa:bb:cc:dd:ee:01", []string{""}, []string{"(vif.del (vnet " + id97 + ") (vmac aa:bb:cc:dd:ee:01))\n"}},
		{"peer-add 192.0.2.9", []string{""}, []string{"(peer.add (addr 192.0.2.9))\n"}},
		{"peer-add -p 1799 2001:db8::1", []string{""}, []string{"(peer.add (addr 2001:db8::1) (port 1799))\n"}},
		{"peer-add --port=1 localhost", []string{""}, []string{"(peer.add (addr 127.0.0.1) (port 1))\n"}},
		{"peer-delete ::ffff:192.0.2.9", []string{""}, []string{"(peer.del (addr 192.0.2.9))\n"}},
		{"insmod varp_mcaddr=224.10.0.2", []string{""}, []string{"(varp.mcaddr (addr 224.10.0.2))\n"}},
		{"insmod", []string{"(varp \n (device eth0)\n)\n"}, []string{"(varp.list)\n"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			h := newHost(t)
			s := h.daemon(tt.replies...)
			stdout, stderr, status := h.vn(strings.Fields(tt.args)...)
			require.Empty(t, stderr)
			require.Equal(t, 0, status)
			require.Empty(t, stdout)
			var sent []string
			for _, r := range s.Requests() {
				sent = append(sent, string(r))
			}
			require.Equal(t, tt.sent, sent)
		})
	}
}

// TestFastPath: what vn stats says of the kernel's fast path.
func TestFastPath(t *testing.T) {
	form, err := sxp.Parse([]byte(`(fastpath (mode auto) (state on)
 (underlay (family ipv4) (device eth0) (way tcx) (why "it segments UDP tunnels") (hook tcx) (send kernel) (receive kernel))
 (underlay (family ipv6) (device eth1) (way xdp) (why "") (hook clsact) (send "a rule") (receive kernel))
 (port (vnet 0000:0000:0000:0000:0000:0000:0000:0097) (device vif1.0) (way peer) (why ""))
 (vnet (id 97) (carrier kernel) (hook tcx) (tx 3) (rx 4)) (vnet (id 98) (carrier "security conf") (tx 0) (rx 0)))`), sxp.C)
	require.NoError(t, err)
	var out bytes.Buffer
	a := newApp(&out, io.Discard)
	a.fastPath(form[0])
	require.NoError(t, a.stdout.Flush())
	require.Equal(t, "\nFast path in the kernel: on (fastpath = \"auto\")\n"+
		"  ipv4, eth0, tcx (it segments UDP tunnels): sends: kernel; receives: kernel\n"+
		"  ipv6, eth1, xdp before clsact: sends: a rule; receives: kernel\n"+
		"\n"+"Vnet  Domain's device Way     Why the bridge\n97    vif1.0          peer\n"+
		"\n        Sent      Received  Vnet, by the kernel  Carrier\n"+
		"           3             4  97                   kernel (tcx)\n"+
		"           0             0  98                   security conf\n", out.String())
}

func TestStats(t *testing.T) {
	const form = `(stats
 (drop (reason unknown_vnet) (packets 12) (help "frame for a vnet that this host does not have"))
 (fastpath (mode off) (state off))
)
`
	full, err := json.Marshal(traffic.Snapshot{
		Vnets: []traffic.Vnet{
			{ID: "97", Up: true, Tx: traffic.Counts{Packets: 10, Bytes: 2048}, Rx: traffic.Counts{Packets: 3, Bytes: 180}, KernelTx: traffic.Counts{Packets: 4}, Flooded: 2, Here: 1, Elsewhere: 2},
			{ID: "2"}, {ID: "98", Here: 1},
		},
		Hosts: []traffic.Host{{Address: "192.0.2.2", Tx: traffic.Counts{Packets: 8, Bytes: 1 << 20}, Unicast: 0.42, Group: -1, MACs: 2}, {Address: "192.0.2.3", Unicast: 11, Group: 600}},
		Drops: []traffic.Drop{
			{Reason: "malformed", Packets: 5, Help: "what", Sources: []traffic.Source{{From: "192.0.2.9", Packets: 4}}},
			{Reason: "unknown_vnet", Packets: 12, Help: "why", Sources: []traffic.Source{{From: "192.0.2.2", Packets: 12, Vnet: "79"}}},
			{Reason: "not_underlay", Packets: 1, Help: "where", Sources: []traffic.Source{{From: "192.0.2.7", Packets: 1, Device: "vnet97"}}},
			{Reason: "loop", Help: "never"},
		},
		Forwarded: 6,
	})
	require.NoError(t, err)
	const vnets = "" +
		"Vnet                             Sent      bytes     Received      bytes  MACs here, elsewhere\n" +
		"97                                 10    2.0 KiB            3      180 B  1, 2; by the kernel 4 sent, 0 received\n"
	const hosts = "" +
		"\nHost, by unicast                 Sent      bytes     Received      bytes  Last heard by unicast, by the group; MACs\n" +
		"192.0.2.2                           8    1.0 MiB            0        0 B  0.4 s, never; 2\n"
	const went = "\nOf 10 packets sent, 8 went to one host each (4 by the kernel), 2 to the group or its stand-ins; 6 were forwarded to peers.\n"
	const drops = "" +
		"\n     Dropped  Reason               Meaning\n" +
		"           5  malformed            what\n" +
		"                                   at least 4 from 192.0.2.9\n" +
		"          12  unknown_vnet         why\n" +
		"                                   at least 12 from 192.0.2.2, vnet 79\n" +
		"           1  not_underlay         where\n" +
		"                                   at least 1 from 192.0.2.7, by vnet97\n"
	const fast = "\nFast path in the kernel: off (fastpath = \"off\")\n"
	down := "98                                  0        0 B            0        0 B  1, 0; down\n"
	host3 := "192.0.2.3                           0        0 B            0        0 B  11 s, 10 min; 0\n"
	for _, tt := range []struct {
		args           string
		replies        []string
		stdout, stderr string
	}{
		{"stats", []string{string(full), form}, vnets + down + hosts + host3 + went + drops + fast, ""},
		{"stats --vnet 97", []string{string(full)}, vnets + went, ""},
		{"stats --host 192.0.2.2", []string{string(full)}, hosts, ""},
		{"stats --vnet 99", []string{string(full)}, "", "vn: vnet not found: 99\n"},
		{"stats --host x", []string{string(full)}, "", "vn: host not known: x\n"},
		{"stats", []string{"{}", "(other)"}, "\nNo packet was dropped.\n", "vn: xend's answer to vn.stats is not one (stats ...) form: is it of another version?\n"},
		{"stats", []string{"(no)"}, "", "vn: xend's answer to vn.traffic is not the JSON that was expected: is it of another version?\n"},
		{"stats -l", []string{"(stats (drop (reason x) (packets 0)))"}, "(stats (drop (reason x) (packets 0)))\n\n", ""},
	} {
		h := newHost(t)
		h.daemon(tt.replies...)
		stdout, stderr, _ := h.vn(strings.Fields(tt.args)...)
		require.Equal(t, tt.stdout, stdout, tt.args)
		require.Equal(t, tt.stderr, stderr, tt.args)
	}
	h := newHost(t)
	h.daemon(string(full))
	stdout, _, _ := h.vn("stats", "--json", "--vnet", "97")
	var again traffic.Snapshot
	require.NoError(t, json.Unmarshal([]byte(stdout), &again))
	require.Len(t, again.Vnets, 1)
	require.Empty(t, again.Hosts)
}

// TestStillOld: a rotation may not remove a key that a host still sends with, and waits for none that says it does not.
func TestStillOld(t *testing.T) {
	heard := func(kid string, packets bool) keyHeard { return keyHeard{kid, packets, "7"} }
	h := keyHolder{sends: "bb", own: "bb", hosts: []keyHost{
		{addr: "192.0.2.1", heard: []keyHeard{heard("aa", true), heard("bb", true)}},
		{addr: "192.0.2.2", heard: []keyHeard{heard("aa", true), heard("bb", false)}},
		{addr: "192.0.2.3", heard: []keyHeard{heard("aa", true)}},
		{addr: "192.0.2.4", heard: []keyHeard{heard("bb", false)}},
		// As in a vnet in which nobody talks.
		{addr: "192.0.2.5", keys: []string{"bb", "aa"}, heard: []keyHeard{heard("aa", false), heard("bb", false)}},
		{addr: "192.0.2.6", keys: []string{"aa", "bb"}, heard: []keyHeard{heard("bb", true)}},
		{addr: "192.0.2.7", keys: []string{"bb", "aa"}},
	}}
	want := []string{
		"192.0.2.2 does not answer, and was heard with aa 7 s ago (it is forgotten after 120 s)",
		"192.0.2.3 does not answer, and was heard with aa 7 s ago (it is forgotten after 120 s)",
		"192.0.2.6 sends with aa",
	}
	require.Equal(t, want, stillOld([]keyHolder{h}))
	// This host's own old key would be gone before it seals with the new one.
	require.Equal(t, []string{"this host sends with aa"}, stillOld([]keyHolder{{sends: "bb", own: "aa", hosts: []keyHost{{addr: "192.0.2.7", keys: []string{"bb"}}}}}))
	require.Empty(t, stillOld([]keyHolder{{sends: "bb", own: "aa"}}), "nobody is there")
	require.Empty(t, stillOld(nil))
}

// A rotation says which hosts have which key, and does not send with one that a host says it lacks.
func TestKeyRotateTellsWhoHasWhat(t *testing.T) {
	h := newHost(t)
	_, stderr, status := h.vn("key-generate", "97")
	require.Zero(t, status, stderr)
	id, err := vnet.ParseID("97")
	require.NoError(t, err)
	dir := filepath.Join(h.prefix, "etc/xen/vnet-keys")
	names := func() (out []string) {
		set, err := keys.Current(dir, &id)
		require.NoError(t, err)
		for _, s := range set.Secrets {
			out = append(out, fmt.Sprintf("%x", s.KID(id)))
		}
		return out
	}
	replies := func(old, other, third string) []string {
		return []string{
			"(keys (vnet " + id.String() + ") (key (kid " + old + ") (use send)) (sender (addr 192.0.2.2) (addr 2001:db8::2) (kid " + old + ")) (sender (addr 192.0.2.4) (kid " + old + ")))" +
				"(keys (vnet 0000:0000:0000:0000:0000:0000:0000:0098) (key (kid 00) (use send)))",
			"(member (addr 2001:db8::2) (kid " + old + ")" + other + ")(member (addr 192.0.2.3) (kid " + old + ")" + third + ")",
		}
	}
	old := names()[0]
	d := h.daemon(replies(old, "", "")...)
	stdout, stderr, status := h.vn("key-rotate", "add", "97")
	require.Zero(t, status, stderr)
	newer := names()[1]
	require.Contains(t, stdout, "\nvnet 97: the last key of the file is "+newer+"\n  2001:db8::2 has "+old+", and sends with "+old+"\n  192.0.2.3 has "+old+", and sends with "+old+
		"\n  192.0.2.4 did not say which keys it has; it sends with "+old+"\n")
	require.Equal(t, "(vn.members (vnet "+id.String()+"))\n", string(d.Requests()[1]))
	d.Close()
	d = h.daemon(replies(old, " (kid "+newer+")", "")...)
	_, stderr, status = h.vn("key-rotate", "use", "97")
	require.NotZero(t, status)
	require.Contains(t, stderr, "these hosts do not have the new key yet, and could not open what this host sends with it: 192.0.2.3; copy ")
	set, err := keys.Current(dir, &id)
	require.NoError(t, err)
	require.Zero(t, set.Send, "nothing was changed")
	d.Close()
	d = h.daemon(replies(old, " (kid "+newer+")", " (kid "+newer+")")...)
	stdout, stderr, status = h.vn("key-rotate", "use", "97")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "  192.0.2.3 has "+old+" and "+newer+", and sends with "+old+"\n")
	d.Close()
	// With no daemon there is nobody to ask.
	stdout, stderr, status = h.vn("key-rotate", "remove", "97")
	require.Zero(t, status, stderr)
	require.NotContains(t, stdout, "192.0.2")
}

func TestMTU(t *testing.T) {
	h := newHost(t)
	s := h.daemon(`(mtu (mode fragment) (mtu 1500)
 (path (to group) (addr 224.10.0.1) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22))
 (path (to host) (addr 192.0.2.7) (device eth0) (mtu 9000) (ip 20) (udp 0) (header 18))
 (path (to host) (addr 192.0.2.8) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22))
 (path (to group) (addr 224.10.0.1) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22) (esp 42))
)`, "(mtu (mode pmtu) (mtu 1500))", "(mtu (mode x) (mtu 1500) (path (to peer)))")
	stdout, stderr, status := h.vn("mtu")
	require.Empty(t, stderr)
	require.Equal(t, 0, status)
	require.Equal(t, `group 224.10.0.1, host 192.0.2.8 over eth0
      1500  MTU of eth0; what lies behind it may carry less
  -     20  IP header
  -      8  UDP header
  -     22  vnet header
  -     14  Ethernet header of the frame inside
  =   1436  largest packet of a domain that crosses in one piece (4 less with a VLAN tag)

host 192.0.2.7 over eth0
      9000  MTU of eth0; what lies behind it may carry less
  -     20  IP header
  -     18  vnet header
  -     14  Ethernet header of the frame inside
  =   8948  largest packet of a domain that crosses in one piece (4 less with a VLAN tag)

group 224.10.0.1 over eth0, vnets with security
      1500  MTU of eth0; what lies behind it may carry less
  -     20  IP header
  -      8  UDP header
  -     42  ESP: header, UDP header inside, padding, ICV
  -     22  vnet header
  -     14  Ethernet header of the frame inside
  =   1394  largest packet of a domain that crosses in one piece (4 less with a VLAN tag)

The vnifs have MTU 1500. Larger packets are carried in fragments (mtu_mode fragment); bulk TCP is cut to what fits.
`, stdout)
	require.Equal(t, "(vn.mtu)\n", string(s.Requests()[0]))
	stdout, _, _ = h.vn("mtu")
	require.Equal(t, "The vnifs have MTU 1500. Senders of larger packets are told what fits (mtu_mode pmtu).\n", stdout)
	stdout, _, _ = h.vn("mtu")
	require.Contains(t, stdout, "mtu_mode x.")
}

// TestErrors is about what goes wrong before a daemon is asked, or because it is asked.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		args   string
		reply  string
		stderr string
	}{
		{args: "nothing", stderr: "unknown command: nothing"},
		{args: "vne", stderr: "unknown command: vne"},
		{args: "help nothing", stderr: "unknown command: nothing"},
		{args: "vnet-create", stderr: "insufficient arguments for vnet-create"},
		{args: "vnet-create -b", stderr: "option -b requires argument: 'vn help vnet-create' says what it takes"},
		{args: "vnet-create -x 97", stderr: "option -x not recognized: 'vn help vnet-create' says what it takes"},
		{args: "vnet-create --wrong 97", stderr: "option --wrong not recognized: 'vn help vnet-create' says what it takes"},
		{args: "vnet-create 97 98", stderr: "too many arguments for vnet-create"},
		{args: "vnet-create 97 -b", stderr: "option -b requires argument: 'vn help vnet-create' says what it takes"},
		{args: "vif-add 97", stderr: "insufficient arguments for vif-add"},
		{args: "vif-add 97 aa:bb", stderr: "not a MAC: aa:bb"},
		{args: "vif-add 97 aa:bb:cc:dd:ee:ff:00:11", stderr: "not a MAC: aa:bb:cc:dd:ee:ff:00:11"},
		{args: "vif-add -i 97 no-such-if", stderr: "find no-such-if: no such device"},
		{args: "peer-add -p 0 192.0.2.1", stderr: "not a port (1 to 65535): 0"},
		{args: "peer-add -p 65536 192.0.2.1", stderr: "not a port (1 to 65535): 65536"},
		{args: "insmod varp_device=eth0", stderr: "unknown parameter: varp_device=eth0"},
		{args: "insmod varp_mcaddr=10.0.0.1", stderr: "not a multicast address: 10.0.0.1"},
		{args: "insmod varp_mcaddr", stderr: "not a multicast address: "},
		{args: "vnets", stderr: "Error connecting to xend: No such file or directory.  Is xend running?"},
		{args: "vnets", reply: `(error "no data plane")`, stderr: "no data plane"},
		{args: "vnet-delete 97", reply: "(vnet (id 0000:0000:0000:0000:0000:0000:0000:0098) (vnetif vnif98))", stderr: "vnet not found: 97"},
		{args: "vif-add vnif97 aa:bb:cc:dd:ee:ff", reply: "\n", stderr: "vnet not found: vnif97"},
		{args: "insmod", reply: "\n", stderr: "xend runs without its data plane: set enabled = true under [dataplane] in vnet.toml"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			h := newHost(t)
			if tt.reply != "" {
				h.daemon(tt.reply)
			}
			stdout, stderr, status := h.vn(strings.Fields(tt.args)...)
			require.Empty(t, stdout)
			require.Equal(t, 1, status)
			require.Equal(t, "vn: "+tt.stderr+"\n", stderr)
		})
	}
}

func TestHelp(t *testing.T) {
	h := newHost(t)
	for _, args := range []string{"", "help", "-h", "--help", "help -l"} {
		stdout, stderr, status := h.vn(strings.Fields(args)...)
		require.Equal(t, 0, status)
		require.Empty(t, stderr)
		require.True(t, strings.HasPrefix(stdout, "Usage: vn "), stdout)
		require.Contains(t, stdout, "is gone when the daemon restarts")
		require.Equal(t, args == "help -l", strings.Contains(stdout, "--security LEVEL"), stdout)
	}
	stdout, _, _ := h.vn("--version")
	require.Equal(t, "vn dev\n", stdout)
	stdout, _, _ = h.vn("vnet-create", "--help")
	require.True(t, strings.HasPrefix(stdout, "Usage: vn vnet-create [-s|--security LEVEL] [-b|--bridge BRIDGE] [-v|--vnetif VNETIF] ID\n\nCreate a vnet"), stdout)
	for _, args := range [][]string{{"help", "vnet-create"}, {"vnet-create", "-h"}} {
		again, _, _ := h.vn(args...)
		require.Equal(t, stdout, again, "%v", args)
	}
}
