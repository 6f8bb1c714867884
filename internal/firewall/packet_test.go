package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

func packet(change func(*Packet)) Packet {
	p := Packet{Device: "eth0", Protocol: 17, Port: 1798, From: netip.MustParseAddr("192.0.2.2"), To: netip.MustParseAddr("192.0.2.1")}
	change(&p)
	return p
}

// Rules of iptables, word by word.
func TestTextRules(t *testing.T) {
	saved := `*filter
:INPUT DROP [0:0]
:OUTPUT ACCEPT [0:0]
:vnets - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m recent --name x -j DROP
-A INPUT -m comment --comment "our vnets" -j vnets
-A INPUT -s 198.51.100.0/24 -p udp -m udp --dport 1798 -j ACCEPT
-A vnets -p udp -m multiport --dports 53,1000:2000 -j RETURN
-A vnets ! -i eth0 -p esp -j ACCEPT
-A OUTPUT -d 224.0.0.0/4 -p udp -m udp --dport 1798 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*raw
:PREROUTING DROP [0:0]
COMMIT
`
	chains, policy := map[string][]string{}, map[string]string{}
	readSaved(saved, "filter", chains, policy)
	require.Equal(t, map[string]string{"INPUT": "DROP", "OUTPUT": "ACCEPT", "vnets": "-"}, policy)
	for name, tt := range map[string]struct {
		packet Packet
		chain  string
		want   string
		unsure int
	}{
		"falls through":     {packet(func(*Packet) {}), "INPUT", "", 1},
		"from a friend":     {packet(func(p *Packet) { p.From = netip.MustParseAddr("198.51.100.7") }), "INPUT", "ACCEPT", 1},
		"ESP by eth1":       {packet(func(p *Packet) { p.Protocol, p.Device = 50, "eth1" }), "INPUT", "ACCEPT", 1},
		"ESP by eth0":       {packet(func(p *Packet) { p.Protocol = 50 }), "INPUT", "", 1},
		"loopback":          {packet(func(p *Packet) { p.Device = "lo" }), "INPUT", "ACCEPT", 0},
		"to the group":      {packet(func(p *Packet) { p.Out, p.To = true, netip.MustParseAddr("224.10.0.1") }), "OUTPUT", "REJECT", 0},
		"to another's port": {packet(func(p *Packet) { p.Out, p.To, p.Port = true, netip.MustParseAddr("224.10.0.1"), 1799 }), "OUTPUT", "", 0},
	} {
		w := &textWalk{chains: chains, packet: tt.packet}
		require.Equal(t, tt.want, w.chain(tt.chain, 0), name)
		require.Equal(t, tt.unsure, w.unsure, name)
	}
}

// What the kernel's rules drop is found, with the chain and a cure that helps; what they accept is not.
func TestDropped(t *testing.T) {
	h, err := hostnet.Unshare()
	if err != nil {
		t.Skip("network namespaces need root")
	}
	defer h.Close()
	nft := func(rules string) {
		t.Helper()
		require.NoError(t, h.Do(func() error {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader("flush ruleset\n" + rules)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			return nil
		}))
	}
	in := packet(func(*Packet) {})
	group := packet(func(p *Packet) { p.To = netip.MustParseAddr("224.10.0.1") })
	out := packet(func(p *Packet) { p.Out = true })
	esp := packet(func(p *Packet) { p.Protocol, p.Port = 50, 0 })
	sealed := packet(func(p *Packet) { p.Port = 4500 })
	etherIP := packet(func(p *Packet) { p.Protocol, p.Port = 97, 0 })
	six := packet(func(p *Packet) { p.From, p.To = netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1") })
	for _, tt := range []struct {
		rules  string
		want   []Packet
		unsure bool
	}{
		{"", nil, false},
		{"table inet f { chain i { type filter hook input priority 0; policy accept; udp dport 1798 drop; }; }", []Packet{in, group, six}, false},
		{"table inet f { chain i { type filter hook input priority 0; policy accept; udp dport 1798 ip daddr 224.0.0.0/4 drop; }; }", []Packet{group}, false},
		{"table inet f { chain i { type filter hook input priority 0; policy drop; ct state established,related accept; udp dport { 53, 1798 } accept; }; }", []Packet{sealed, esp, etherIP}, false},
		{"table inet f { chain i { type filter hook input priority 0; policy accept; udp dport 4500 reject; meta l4proto 97 counter drop; }; }", []Packet{sealed, etherIP}, false},
		{"table ip f { chain i { type filter hook prerouting priority -300; iifname eth0 jump x; }; chain x { meta l4proto 50 reject; udp dport 1000-1700 drop; return; }; }", []Packet{esp}, false},
		{"table ip f { chain o { type filter hook output priority 0; oifname \"eth0\" udp dport 1798 counter drop; }; }", []Packet{out}, false},
		{"table ip f { chain i { type filter hook input priority 0; ip saddr { 192.0.2.0/24, 198.51.100.0/24 } drop; ip ttl 1 drop; }; }", nil, true},
	} {
		nft(tt.rules)
		var got []Dropped
		var unsure int
		require.NoError(t, h.Do(func() error {
			got, unsure = (&Firewall{}).Read().Dropped(in, group, out, sealed, esp, etherIP, six)
			return nil
		}))
		var dropped []Packet
		for _, d := range got {
			dropped = append(dropped, d.Packet)
			require.NoError(t, h.Do(func() error { return exec.Command("sh", "-c", d.Cure).Run() }), d.Cure)
		}
		require.ElementsMatch(t, tt.want, dropped, tt.rules)
		require.Equal(t, tt.unsure, unsure > 0, tt.rules)
		require.NoError(t, h.Do(func() error {
			got, _ = (&Firewall{}).Read().Dropped(in, group, out, sealed, esp, etherIP, six)
			return nil
		}))
		require.Empty(t, got, "the cures help: %s", tt.rules)
	}
}

// TestLosses: one command to give is one thing to tell.
func TestLosses(t *testing.T) {
	drop := func(out bool, port uint16, to, chain string) Dropped {
		return Dropped{Packet{Out: out, Protocol: 17, Port: port, To: netip.MustParseAddr(to)}, chain, "accept " + chain}
	}
	require.Equal(t, []Loss{
		{"UDP port 1798 that comes in, also for the group, is dropped by x", "accept x"},
		{"UDP port 1798 that goes out for the group is dropped by y", "accept y"},
		{"UDP port 4500 that comes in is dropped by x", "accept x"},
		{"IP protocol 50 that comes in is dropped by x", "accept 50"},
	}, Losses([]Dropped{
		drop(false, 1798, "192.0.2.1", "x"), drop(false, 1798, "224.10.0.1", "x"), drop(true, 1798, "224.10.0.1", "y"),
		drop(false, 1798, "2001:db8::1", "x"), drop(false, 1798, "ff15::1", "x"), drop(false, 4500, "192.0.2.1", "x"),
		{Packet{Protocol: 50, To: netip.MustParseAddr("192.0.2.1")}, "x", "accept 50"},
	}))
	require.Empty(t, Losses(nil))
}

// The programs of the firewall are run once, whatever is asked of their rules then.
func TestReadOnce(t *testing.T) {
	h, err := hostnet.Unshare()
	if err != nil {
		t.Skip("network namespaces need root")
	}
	defer h.Close()
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	f := &Firewall{Look: func(name string) string {
		real, err := exec.LookPath(name)
		if err != nil {
			return ""
		}
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho %s >>%s\nexec %s \"$@\"\n", name, ran, real), 0o755))
		return path
	}}
	var rules *Rules
	require.NoError(t, h.Do(func() error {
		for _, args := range []string{"-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER",
			"-A DOCKER-USER -i vnet98 -o vnet98 -j ACCEPT", "-A INPUT -p udp --dport 1798 -j DROP"} {
			out, err := exec.Command("iptables-nft", strings.Fields(args)...).CombinedOutput()
			require.NoError(t, err, string(out))
		}
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader("table bridge f { chain i { type filter hook forward priority 0; policy drop; }; }")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		rules = f.Read()
		return nil
	}))
	rules.bridged = map[Family]bool{IPv4: true} // of this machine br_netfilter may not be loaded
	require.Equal(t, []Blocked{
		{"vnet97", IPv4, "iptables FORWARD (policy DROP)", "iptables -I DOCKER-USER -i vnet97 -o vnet97 -j ACCEPT"},
		{"vnet97", "", "the nftables chain bridge f i (policy drop)", "nft insert rule bridge f i meta ibrname vnet97 accept"},
		{"vnet98", "", "the nftables chain bridge f i (policy drop)", "nft insert rule bridge f i meta ibrname vnet98 accept"},
	}, rules.Blocked("vnet97", "vnet98"))
	dropped, _ := rules.Dropped(packet(func(*Packet) {}))
	require.Len(t, dropped, 1)
	b, err := os.ReadFile(ran)
	require.NoError(t, err)
	require.Equal(t, "iptables-nft-save\n", string(b))
}
