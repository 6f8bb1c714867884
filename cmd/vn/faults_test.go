package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/cli/clitest"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

// fault is something that goes wrong, how it is made, and by what name vn check, called on host A, finds it.
type fault struct {
	What  string // as the manual's table has it
	Finds string
	make  func(f *faultLab)
	undo  func(f *faultLab) // what it takes beyond deleting nft's table faults
}

// nft is a fault that a packet filter of a host makes.
func nft(host int, rules string) func(*faultLab) {
	return func(f *faultLab) { f.sh(host, "nft -f - <<'END'\ntable inet faults { "+rules+" }\nEND") }
}

const (
	a, b, c = 0, 1, 2
	input   = "chain i { type filter hook input priority -300; policy accept; %s; }; "
	output  = "chain o { type filter hook output priority -300; policy accept; %s; }; "
)

// faults are made one after the other, a part of them in each of some labs of three hosts, of which A and B have vnet 97 and all have vnets 98 and 99.
var faults = []fault{
	{"A host's firewall drops UDP 1798, but for the group", "blocked-unicast",
		nft(b, fmt.Sprintf(input, "udp dport 1798 ip daddr != 224.0.0.0/4 drop")), nil},
	{"A host's firewall drops all of UDP 1798; it sends as before", "blocked-unicast",
		func(f *faultLab) {
			nft(b, fmt.Sprintf(input, "udp dport 1798 drop"))(f)
			f.speaks(b)
		},
		func(f *faultLab) { f.sh(b, "ip link del speaks") }},
	{"The same, where this host has been restarted since and knows no answer of it", "blocked-unicast",
		func(f *faultLab) {
			nft(b, fmt.Sprintf(input, "udp dport 1798 drop"))(f)
			f.sh(a, "xend restart && vn vnet-create 98 && vn vnet-create 99")
			f.speaks(b)
		},
		func(f *faultLab) { f.sh(b, "ip link del speaks") }},
	{"The group does not get to a host", "dead-group",
		nft(b, fmt.Sprintf(input, "udp dport 1798 ip daddr 224.0.0.0/4 drop")), nil},
	{"What a host sends to the group gets nowhere", "dead-group",
		nft(b, fmt.Sprintf(output, "udp dport 1798 ip daddr 224.0.0.0/4 drop")), nil},
	{"A host has the vnet under another id", "wrong-id",
		func(f *faultLab) { f.sh(b, "xm vnet-delete 97; vn vnet-create 79") },
		func(f *faultLab) { f.sh(b, "vn vnet-delete 79; xm vnet-create $XEND_PREFIX/vnet97.sxp") }},
	{"An id was taken for a decimal number", "wrong-id",
		func(f *faultLab) { f.sh(b, "xm vnet-delete 97; vn vnet-create 61") },
		func(f *faultLab) { f.sh(b, "vn vnet-delete 61; xm vnet-create $XEND_PREFIX/vnet97.sxp") }},
	{"A vnet was forgotten on all other hosts", "one-sided",
		func(f *faultLab) { f.sh(b, "xm vnet-delete 97") },
		func(f *faultLab) { f.sh(b, "xm vnet-create $XEND_PREFIX/vnet97.sxp") }},
	{"The path to a host carries 1400 bytes, and says nothing", "path-mtu",
		func(f *faultLab) { require.NoError(f.t, f.hosts[b].Uplink().SetPathMTU(1396)) },
		func(f *faultLab) { require.NoError(f.t, f.hosts[b].Uplink().SetPathMTU(1500)) }},
	{"A firewall drops fragments", "no-fragments",
		nft(b, "chain p { type filter hook prerouting priority -500; policy accept; ip frag-off & 0x3fff != 0 drop; };"), nil},
	{"A domain's MAC was given to another host's domain, too", "doubled-mac",
		func(f *faultLab) {
			f.sh(a, "vn vif-add 97 00:16:3e:00:00:77")
			f.sh(b, "vn vif-add 97 00:16:3e:00:00:77")
			f.eventually("A hears of the other", func() bool { return strings.Contains(f.sh(a, "vn varp"), "00:16:3e:00:00:77") })
		},
		func(f *faultLab) {
			f.sh(a, "vn vif-delete 97 00:16:3e:00:00:77; true")
			f.sh(b, "vn vif-delete 97 00:16:3e:00:00:77; vn varp-flush")
			f.sh(a, "vn varp-flush")
		}},
	{"This host's firewall (nftables) drops UDP 1798", "port-filtered",
		nft(a, fmt.Sprintf(input, "udp dport 1000-2000 drop")), nil},
	{"This host's firewall (iptables) lets nothing new in", "port-filtered",
		func(f *faultLab) {
			f.sh(a, "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT && iptables -P INPUT DROP")
		},
		func(f *faultLab) { f.sh(a, "iptables -P INPUT ACCEPT && iptables -F INPUT") }},
	{"This host's firewall drops UDP 4500, and a vnet has security", "port-filtered",
		func(f *faultLab) {
			f.sh(a, "vn key-generate 9c && vn vnet-create -s auth 9c")
			nft(a, fmt.Sprintf(input, "udp dport 4500 drop"))(f)
		},
		func(f *faultLab) { f.sh(a, "vn vnet-delete 9c") }},
	{"This host's firewall drops IP protocol 97, and `encapsulation` is `etherip`", "port-filtered",
		func(f *faultLab) {
			f.sh(a, `printf 'encapsulation = "etherip"\n' >>$XEND_PREFIX/etc/xen/vnet.toml && xend restart && vn vnet-create 98 && vn vnet-create 99`)
			nft(a, fmt.Sprintf(output, "ip protocol 97 drop"))(f)
		},
		func(f *faultLab) {
			f.sh(a, `sed -i /etherip/d $XEND_PREFIX/etc/xen/vnet.toml && xend restart && vn vnet-create 98 && vn vnet-create 99`)
		}},
	{"br_netfilter is on, and a firewall drops what is forwarded", "bridge-filtered",
		func(f *faultLab) {
			f.sh(a, "sysctl -qw net.bridge.bridge-nf-call-iptables=1 && iptables -P FORWARD DROP")
		},
		func(f *faultLab) {
			f.sh(a, "iptables -P FORWARD ACCEPT; sysctl -qw net.bridge.bridge-nf-call-iptables=0")
		}},
	{"The underlay device is down", "no-underlay",
		func(f *faultLab) {
			require.NoError(f.t, f.hosts[a].Uplink().Down())
			f.eventually("xend sees it", func() bool { return strings.Contains(f.sh(a, "xend status; true"), "BROKEN") })
		},
		func(f *faultLab) {
			require.NoError(f.t, f.hosts[a].Uplink().Up())
			f.eventually("xend sees it", func() bool { return !strings.Contains(f.sh(a, "xend status; true"), "BROKEN") })
		}},
	{"A vnet's interface is down", "vnet-down",
		func(f *faultLab) { f.sh(a, "ip link set vnif97 down") },
		func(f *faultLab) { f.sh(a, "ip link set vnif97 up") }},
	{"A configured peer is not there", "host-gone",
		func(f *faultLab) { f.sh(a, "vn peer-add 10.9.0.99") },
		func(f *faultLab) { f.sh(a, "vn peer-delete 10.9.0.99") }},
	{"Hosts have a vnet with security, and each its own key", "key-mismatch",
		func(f *faultLab) {
			f.sh(a, "vn key-generate 9a && vn vnet-create -s auth 9a")
			f.sh(b, "vn key-generate 9a && vn vnet-create -s auth 9a")
		},
		func(f *faultLab) { f.sh(a, "vn vnet-delete 9a"); f.sh(b, "vn vnet-delete 9a") }},
	{"A host has the vnet without the security that this one has", "level-mismatch",
		func(f *faultLab) {
			f.sh(a, "vn key-generate 9b && vn vnet-create -s auth 9b")
			f.sh(b, "vn vnet-create -b vnet9b 9b && vn vif-add 9b 00:16:3e:00:00:78")
		},
		func(f *faultLab) { f.sh(a, "vn vnet-delete 9b"); f.sh(b, "vn vnet-delete -b 9b") }},
	{"Strict reverse path filtering, and a host is routed by another device", "rp-filter",
		func(f *faultLab) {
			f.sh(a, "ip link add other type veth peer name other1 && ip link set other up && ip link set other1 up && sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
			f.sh(a, fmt.Sprintf("ip route add %s/32 dev other", f.hosts[b].Addr()))
		},
		func(f *faultLab) { f.sh(a, "ip link del other; sysctl -qw net.ipv4.conf.eth0.rp_filter=0") }},
	{"A file of the state directory is damaged", "file-set-aside",
		func(f *faultLab) {
			path := filepath.Join(f.hosts[a].Dir, "var/lib/xend/vnets/0000-0000-0000-0000-0000-0000-0000-0055.sxp")
			require.NoError(f.t, os.WriteFile(path, []byte("(vnet (id"), 0o600))
			f.sh(a, "xend restart")
		},
		func(f *faultLab) {
			f.sh(a, "xend stop; rm $XEND_PREFIX/var/lib/xend/vnets/*.corrupt; xend start; xm vnet-create $XEND_PREFIX/vnet97.sxp; vn vnet-create 98; vn vnet-create 99")
		}},
	{"The daemon does not run", "xend-down",
		func(f *faultLab) { f.sh(a, "xend stop") },
		func(f *faultLab) {
			f.sh(a, "xend start; xm vnet-create $XEND_PREFIX/vnet97.sxp; vn vnet-create 98; vn vnet-create 99")
		}},
}

// The manual has the table.
func TestFaultsAreInTheManual(t *testing.T) {
	table := "| What is wrong | What `vn check` says |\n|---|---|\n"
	for _, x := range faults {
		_, ok := finding.Of(x.Finds)
		require.True(t, ok, x.Finds)
		table += fmt.Sprintf("| %s | [%s](#%s) |\n", x.What, x.Finds, x.Finds)
	}
	clitest.Part(t, "../../docs/troubleshooting.md", "faults", table)
}

// The manual has all that can be found.
func TestFindingsAreInTheManual(t *testing.T) {
	table := "| Name | What it means | What to do |\n|---|---|---|\n"
	for _, k := range finding.Catalogue {
		cell := strings.NewReplacer("|", "\\|").Replace
		table += fmt.Sprintf("| <a id=\"%s\"></a>%s | %s | %s |\n", k.Name, k.Name, cell(k.What), cell(k.Cure))
	}
	clitest.Part(t, "../../docs/troubleshooting.md", "findings", table)
}

// faultLab is where faults are made.
type faultLab struct {
	t     *testing.T
	bin   string
	hosts []*lab.Host
}

// sh runs a shell's command on a host.
func (f *faultLab) sh(host int, command string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	out, err := f.hosts[host].Run(ctx, "sh", "-c", "PATH="+f.bin+":$PATH; "+command)
	require.NoError(f.t, err)
	return out
}

func (f *faultLab) eventually(what string, ok func() bool) {
	f.t.Helper()
	nettest.Eventually(f.t, what, ok)
}

// speaks has something on a host's bridge of vnet 97 send a frame, and waits until host A has heard it.
func (f *faultLab) speaks(host int) {
	f.t.Helper()
	const mac = "00:16:3e:00:00:79"
	f.sh(host, "ip link add speaks address "+mac+" type veth peer name speaks1 && ip link set speaks1 master vnet97 up && ip link set speaks up && ip addr add 10.97.9.9/24 dev speaks")
	f.eventually("A hears a frame", func() bool {
		f.sh(host, "ping -c 1 -W 1 10.97.9.10 >/dev/null; true") // an ARP request is the frame
		return strings.Contains(f.sh(a, "vn varp"), mac)
	})
}

// check runs vn check on host A.
func (f *faultLab) check() finding.Report {
	f.t.Helper()
	out := f.sh(a, "vn check --json; true")
	var r finding.Report
	require.NoError(f.t, json.Unmarshal([]byte(out), &r), out)
	return r
}

// newFaultLab makes hosts on one switch, with the file of vnet 97 where XEND_PREFIX is.
func newFaultLab(t *testing.T, names ...string) *faultLab {
	t.Helper()
	return newFaultLabOf(t, faultPrograms(t), names...)
}

// faultPrograms builds what runs on the hosts.
func faultPrograms(t *testing.T) (bin string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	return clitest.Build(t)
}

// newFaultLabOf is newFaultLab with programs that are built.
func newFaultLabOf(t *testing.T, bin string, names ...string) *faultLab {
	t.Helper()
	f := &faultLab{t: t, bin: bin}
	s, err := lab.New(t).Switch("lan", 1500)
	require.NoError(t, err)
	for _, name := range names {
		h, err := s.Host(name)
		require.NoError(t, err)
		f.hosts = append(f.hosts, h)
		require.NoError(t, os.MkdirAll(filepath.Join(h.Dir, "etc/xen"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "vnet97.sxp"), []byte("(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))"), 0o644))
		t.Cleanup(func() { _, _ = h.Run(context.Background(), filepath.Join(f.bin, "xend"), "stop") })
	}
	return f
}

// Every fault is found by its name, and what is well is not called ill.
func TestFaults(t *testing.T) {
	bin := faultPrograms(t)
	const labs = 4
	for i := range labs {
		var list []fault
		for j := i; j < len(faults); j += labs {
			list = append(list, faults[j])
		}
		t.Run(fmt.Sprint("lab ", i+1), func(t *testing.T) {
			t.Parallel() // most of it is to wait for answers
			findFaults(t, newFaultLabOf(t, bin, "A", "B", "C"), list)
		})
	}
}

// findFaults makes faults one after the other.
func findFaults(t *testing.T, f *faultLab, list []fault) {
	t.Helper()
	for i, h := range f.hosts {
		require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "etc/xen/vnet.toml"), []byte("[dataplane]\nhold_down = \"0s\"\n"), 0o644))
		f.sh(i, "xend start && vn vnet-create 98 && vn vnet-create 99")
	}
	f.sh(a, "xm vnet-create $XEND_PREFIX/vnet97.sxp")
	f.sh(b, "xm vnet-create $XEND_PREFIX/vnet97.sxp")
	well := f.check()
	for _, x := range well.Findings {
		require.NotContains(t, []finding.Level{finding.Fail, finding.Warn}, x.Level, "%+v", x)
	}
	require.Len(t, well.Hosts, 2)
	require.Zero(t, well.ExitStatus())
	for _, x := range list {
		t.Run(x.What, func(t *testing.T) {
			f := &faultLab{t: t, bin: f.bin, hosts: f.hosts}
			x.make(f)
			defer func() {
				f.sh(a, "nft delete table inet faults 2>/dev/null; true")
				f.sh(b, "nft delete table inet faults 2>/dev/null; true")
				if x.undo != nil {
					x.undo(f)
				}
			}()
			r := f.check()
			var text strings.Builder
			r.WriteText(&text, false)
			require.True(t, r.Has(x.Finds), "%s", text.String())
			require.Positive(t, r.ExitStatus())
			cures := map[string]bool{}
			for _, told := range r.Findings {
				if told.Name == "port-filtered" {
					require.False(t, cures[told.Cure], "told twice: %+v", told)
					cures[told.Cure] = true
				}
			}
			if x.Finds == "port-filtered" {
				require.Contains(t, f.sh(a, "xend status --check; [ $? = 2 ]"), "is dropped by")
			}
			t.Log(text.String())
		})
	}
	after := f.check()
	for _, x := range after.Findings {
		if x.Level == finding.Fail {
			require.Contains(t, []string{"level-mismatch", "doubled-mac"}, x.Name, "%+v", x) // told for ten minutes
		}
	}
}

// A domain is found by its MAC and its address, on this host and behind another, with the way that frames take; and where it
// is not, that is said.
func TestTrace(t *testing.T) {
	f := newFaultLab(t, "A", "B")
	var domains []*lab.Domain
	for i, h := range f.hosts {
		f.sh(i, "xend start && xm vnet-create $XEND_PREFIX/vnet97.sxp")
		d, err := h.Domain(lab.DomainSpec{
			Name: fmt.Sprint("dom", i), Vif: fmt.Sprintf("vif%d.0", i+1), Bridge: "vnet97", MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, byte(i + 1)},
			Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.97.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd97::%d/64", i+1))},
		})
		require.NoError(t, err)
		domains = append(domains, d)
		require.NoError(t, h.AwaitForwarding(nettest.Soon(t), "vnet97"))
	}
	var out string
	f.eventually("B's domain answers", func() bool {
		out = f.sh(a, "vn trace 10.97.0.2; true")
		return strings.Contains(out, "behind") && strings.Contains(out, "in one piece")
	})
	require.Regexp(t, `(?m)^10\.97\.0\.2 is 00:16:3e:00:00:02 \(answered ARP within [0-9.]+ ms\) on vnet 97$`, out)
	require.Regexp(t, `(?m)^behind   10\.9\.1\.2, by (frame|announce) [0-9.]+ s ago$`, out)
	require.Regexp(t, `(?m)^asked    10\.9\.1\.2 says that it has it \(VARP, within [0-9.]+ ms\)$`, out)
	require.Regexp(t, `(?m)^path     (user space|the kernel's fast path) → eth0 → 10\.9\.1\.2, VUDP; packets of up to 1436 bytes cross in one piece \(MTU 1500\)$`, out)
	require.Regexp(t, `(?m)^probe    reached by unicast in [0-9.]+ ms; path MTU 1500 there, 1500 back; xend `, out)
	f.eventually("A's own domain answers", func() bool {
		out = f.sh(a, "vn trace 10.97.0.1; true")
		return strings.Contains(out, "here     port vif1.0 of vnet97")
	})
	f.eventually("B's domain answers by IPv6", func() bool {
		out = f.sh(a, "vn trace fd97::2; true")
		return strings.Contains(out, "behind")
	})
	require.Regexp(t, `(?m)^fd97::2 is 00:16:3e:00:00:02 \(answered ND within [0-9.]+ ms\) on vnet 97$`, out)
	require.Contains(t, f.sh(a, "vn trace fd97::77 || echo status $?"), "fd97::77 was not found: nobody answered ND for it in the one vnet that is up here")
	// B is asked where nothing is known, and says so.
	f.sh(a, "vn varp-flush")
	f.sh(b, "vn vif-add 97 00:16:3e:00:00:55")
	f.sh(a, "vn varp-flush")
	require.Regexp(t, `(?m)^behind   10\.9\.1\.2, by announce [0-9.]+ s ago$`, f.sh(a, "vn trace 00:16:3e:00:00:55"))
	var trace finding.Trace
	require.NoError(t, json.Unmarshal([]byte(f.sh(a, "vn trace --json 00:16:3e:00:00:02")), &trace))
	require.Len(t, trace.Places, 1)
	require.Equal(t, "10.9.1.2", trace.Places[0].Host)
	require.True(t, *trace.Places[0].Reached)

	// vn top tells which MAC it is that sends and receives, whoever carries its frames.
	ping, err := domains[0].StartPing(netip.MustParseAddr("10.97.0.2"), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer ping.Close()
	f.eventually("vn top shows A's domain", func() bool {
		var top traffic.Snapshot
		require.NoError(t, json.Unmarshal([]byte(f.sh(a, "vn top -m --sample 1 -n 1 -d 0.5 --json")), &top))
		for _, m := range top.MACs {
			if m.MAC == "00:16:3e:00:00:01" && m.Vnet == "97" && m.Port == "vif1.0" && m.Tx.Packets > 5 {
				return true
			}
		}
		return false
	})
	ping.Close()

	require.Contains(t, f.sh(a, "vn trace 10.97.0.77 || echo status $?"), "10.97.0.77 was not found: nobody answered ARP for it in the one vnet that is up here")
	require.Regexp(t, `and no host says that it has it: [^\n]*\nstatus 1`, f.sh(a, "vn trace 00:16:3e:00:00:99 || echo status $?"))
	require.Equal(t, "vn: nobody is neither a MAC nor an address, nor a domain of this host, and other hosts do not tell the names of theirs: "+
		"name its MAC or address, or ask on its host\n", f.sh(a, "vn trace nobody 2>&1 || true"))
	f.sh(b, "xend stop")
	require.Contains(t, f.sh(a, "vn trace 00:16:3e:00:00:02 || echo status $?"), "no answer (3 tries): vn check")
}

// A key is changed on two hosts. key-status says who sends with what, and what was refused, of a third that has the vnet at another
// level.
func TestKeysOfHosts(t *testing.T) {
	f := newFaultLab(t, "A", "B", "C")
	copyKey := func(to int) {
		t.Helper()
		const name = "etc/xen/vnet-keys/default.key"
		key, err := os.ReadFile(filepath.Join(f.hosts[a].Dir, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(f.hosts[to].Dir, name), key, 0o600))
		f.sh(to, "xend reload")
	}
	for i := range f.hosts {
		f.sh(i, "vn key-generate && xend start")
	}
	copyKey(b)
	copyKey(c)
	for i, level := range []string{"conf", "conf", "auth"} {
		f.sh(i, "vn vnet-create -s "+level+" 98")
	}
	kids := func(host int) []string {
		var out []string
		for _, m := range regexp.MustCompile(`(?m)^  key ([0-9a-f]{16}) `).FindAllStringSubmatch(f.sh(host, "vn key-status"), -1) {
			out = append(out, m[1])
		}
		return out
	}
	old := kids(a)[0]
	var status string
	f.eventually("A knows B, and refuses C", func() bool {
		status = f.sh(a, "vn key-status --vnet 98 --host 10.9.1.2")
		return regexp.MustCompile(`(?m)^  10\.9\.1\.2 +`+old+` +1 +\d+ +\d+ +\d+$`).MatchString(status) && regexp.MustCompile(`(?m)^  refused: [1-9]\d* key_level$`).MatchString(status)
	})
	require.NotContains(t, status, "10.9.1.3")
	require.NotContains(t, f.sh(a, "vn key-status --host 10.9.1.99"), "10.9.1.2")
	require.Contains(t, f.sh(a, "vn key-status --vnet 99"), "That vnet is not here, or has no security.")

	require.Contains(t, f.sh(a, "vn key-rotate add"), "  10.9.1.2 has "+old+", and sends with "+old+"\n")
	f.sh(a, "xend reload")
	f.eventually("A has the new key", func() bool { return len(kids(a)) == 2 })
	require.Contains(t, f.sh(a, "vn key-rotate use 2>&1; true"), "these hosts do not have the new key yet, and could not open what this host sends with it: 10.9.1.2; copy ")
	copyKey(b)
	f.eventually("B has the new key", func() bool { return len(kids(b)) == 2 })
	newer := kids(b)[1]
	require.Contains(t, f.sh(a, "vn key-rotate use"), "  10.9.1.2 has "+old+" and "+newer+", and sends with "+old+"\n")
	f.sh(a, "xend reload")
	copyKey(b)
	// B says itself that it seals with the old key still, and A does so, too, until all were told.
	require.Contains(t, f.sh(a, "vn key-rotate remove 2>&1; true"), "this host sends with "+old+"; 10.9.1.2 sends with "+old+"; copy ")
	f.eventually("B sends with the new key", func() bool {
		return regexp.MustCompile(`(?m)^  10\.9\.1\.2 +` + newer + ` `).MatchString(f.sh(a, "vn key-status"))
	})
}

// What goes between two hosts is captured on both sides of the tunnel, each frame with its packet; what is sealed is opened.
func TestCapture(t *testing.T) {
	f := newFaultLab(t, "A", "B")
	var domains []*lab.Domain
	for i, h := range f.hosts {
		key := filepath.Join(h.Dir, "etc/xen/vnet-keys")
		require.NoError(t, os.MkdirAll(key, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "vnet98.sxp"), []byte("(vnet (id 98) (bridge vnet98) (vnetif vnif98) (security conf))"), 0o644))
		if i == 0 {
			f.sh(i, "vn key-generate")
		} else {
			b, err := os.ReadFile(filepath.Join(f.hosts[0].Dir, "etc/xen/vnet-keys/default.key"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(key, "default.key"), b, 0o600))
		}
		f.sh(i, "xend start && xm vnet-create $XEND_PREFIX/vnet97.sxp && xm vnet-create $XEND_PREFIX/vnet98.sxp")
		for _, n := range []int{97, 98} {
			d, err := h.Domain(lab.DomainSpec{
				Name: fmt.Sprintf("dom%d-%d", i, n), Vif: fmt.Sprintf("vif%d.%d", n, i), Bridge: fmt.Sprintf("vnet%d", n), MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, byte(n), byte(i + 1)},
				Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", n, i+1))},
			})
			require.NoError(t, err)
			domains = append(domains, d)
			require.NoError(t, h.AwaitForwarding(nettest.Soon(t), fmt.Sprintf("vnet%d", n)))
		}
	}
	ping := func(n int) {
		t.Helper()
		from := domains[n-97]
		// In fragments, since what the kernel sends is not seen on the interface.
		_, err := from.Ping(nettest.Soon(t), netip.MustParseAddr(fmt.Sprintf("10.%d.0.2", n)), lab.PingOptions{Size: 2000})
		require.NoError(t, err)
	}
	for _, tt := range []struct {
		vnet int
		want []string
	}{
		{97, []string{"left by eth0 to 10.9.1.2 by unicast", "came by eth0 from 10.9.1.2 by unicast", "delivered on vnif97 after ", "from vnif97"}},
		{98, []string{"KEY or ASK message of this vnet, from 10.9.1.2", "inside of ESP: VUDP from 10.9.1.2 by unicast", "what the ESP packet before this one holds", "delivered on vnif98 after "}},
	} {
		t.Run(fmt.Sprint(tt.vnet), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "f.pcapng")
			cmd := f.hosts[a].Command(t.Context(), filepath.Join(f.bin, "vn"), "capture", "-w", file, fmt.Sprint(tt.vnet))
			out, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, f.hosts[a].Start(cmd))
			said := bufio.NewReader(out)
			line, err := said.ReadString('\n')
			require.NoError(t, err)
			require.Contains(t, line, "ctrl-C ends it")
			if tt.vnet == 98 {
				f.sh(b, "xend restart") // its next KEY message is new
			}
			missing := func() (list []string) {
				all := readComments(t, file)
				for _, text := range tt.want {
					if !strings.Contains(all, text) {
						list = append(list, text)
					}
				}
				return list
			}
			nettest.Eventually(t, "all is captured", func() bool {
				ping(tt.vnet)
				return len(missing()) == 0
			})
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			line, err = said.ReadString('\n')
			require.NoError(t, err)
			require.Contains(t, line, "packets written")
			require.NoError(t, cmd.Wait())
		})
	}
	require.Contains(t, f.sh(a, "vn capture 404 2>&1 || true"), "vnet not found: 404")
}

// readComments returns the comments of all packets that are in a file, which may be written still.
func readComments(t *testing.T, file string) string {
	t.Helper()
	r, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer r.Close()
	ng, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		return ""
	}
	var all []string
	for {
		_, _, options, err := ng.ReadPacketDataWithOptions()
		if err != nil {
			return strings.Join(all, "\n")
		}
		all = append(all, options.Comments...)
	}
}
