package firewall

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/nettest"
)

var sent = Output{Source: netip.MustParseAddr("192.0.2.1"), Device: "eth0", Index: 2, Port: 1798}

// TestChangesNFT: which rules may drop or change what is sent to the port, as nft and iptables write them.
func TestChangesNFT(t *testing.T) {
	for rules, want := range map[string]bool{
		"add rule inet x out udp dport 1798 drop":                                               true,
		"add rule inet x out udp dport 53 drop":                                                 false,
		"add rule inet x out tcp dport 1798 drop":                                               false,
		"add rule inet x out udp dport 1000-2000 reject":                                        true,
		"add rule inet x out udp dport { 53, 1798 } drop":                                       true,
		"add rule inet x out ip daddr 198.51.100.7 drop":                                        true,
		"add rule inet x out ip daddr 198.51.100.7 udp dport 53 drop":                           false,
		"add rule inet x out ip saddr 192.0.2.0/24 drop":                                        true,
		"add rule inet x out ip saddr 10.0.0.0/8 drop":                                          false,
		"add rule inet x out oifname eth1 drop":                                                 false,
		"add rule inet x out oifname eth0 drop":                                                 true,
		"add rule inet x out ip6 saddr 2001:db8::/32 drop":                                      false,
		"add rule inet x out counter accept":                                                    false,
		"add rule inet x out ct state established accept":                                       false,
		"add rule inet x out udp dport 1798 meta mark set 7":                                    true,
		"add rule inet x out udp dport 1798 ip dscp set cs1":                                    true,
		"add rule inet x out udp dport vmap { 1798 : drop }":                                    true,
		"add chain inet x c\nadd rule inet x out jump c":                                        false,
		"add chain inet x c { drop ; }":                                                         false,
		"add chain inet x c\nadd rule inet x c drop\nadd rule inet x out udp dport 1798 jump c": true,
		"add chain inet x c\nadd rule inet x c drop\nadd rule inet x out tcp dport 22 jump c":   false,
		"add chain inet x p { type nat hook postrouting priority 100 ; }\nadd rule inet x p ip saddr 172.17.0.0/16 oifname != docker0 masquerade": false,
		"add chain inet x p { type nat hook postrouting priority 100 ; }\nadd rule inet x p oifname eth0 masquerade":                              true,
		"add chain inet x in { type filter hook input priority 0 ; policy drop ; }":                                                               false,
		"add chain inet x p { type filter hook output priority 5 ; policy drop ; }":                                                               true,
		"add table ip6 y\nadd chain ip6 y p { type filter hook output priority 5 ; policy drop ; }":                                               false,
		"iptables-nft -A OUTPUT -p udp --dport 1798 -j DROP":                                                                                      true,
		"iptables-nft -A OUTPUT -p udp --dport 53 -j DROP":                                                                                        false,
		"iptables-nft -A OUTPUT -p tcp -j DROP":                                                                                                   false,
		"iptables-nft -A OUTPUT -o lo -j ACCEPT":                                                                                                  false,
		"iptables-nft -A OUTPUT -d 198.51.100.7 -j REJECT":                                                                                        true,
		"iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE":                                                          false,
		"iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE":                                                                                true,
		"iptables-legacy -A OUTPUT -p udp --dport 1798 -j DROP":                                                                                   true,
		"iptables-legacy -A OUTPUT -p udp --dport 53 -j DROP":                                                                                     false,
		"iptables-legacy -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE":                                                       false,
	} {
		t.Run(rules, func(t *testing.T) {
			h := nettest.Host(t)
			require.NoError(t, h.Do(func() error {
				for _, c := range strings.Split("add table inet x\nadd chain inet x out { type filter hook output priority 0 ; }\n"+rules, "\n") {
					cmd := exec.Command("nft", "-f", "-")
					cmd.Stdin = strings.NewReader(c)
					if words := strings.Fields(c); strings.HasPrefix(c, "iptables") {
						cmd = exec.Command(words[0], words[1:]...)
					}
					out, err := cmd.CombinedOutput()
					require.NoError(t, err, "%s: %s", c, out)
				}
				why := new(Firewall).Changes(sent)
				require.Equal(t, want, why != "", "%q", why)
				return nil
			}))
		})
	}
}

// TestMayMatch: rules of the iptables of before, as iptables -S prints them.
func TestMayMatch(t *testing.T) {
	for lines, want := range map[string]string{
		"-P OUTPUT DROP": "OUTPUT",
		"-P OUTPUT ACCEPT\n-P INPUT DROP\n-A INPUT -j DROP": "",
		"-A OUTPUT -p udp -m udp --dport 1798 -j DROP":      "OUTPUT",
		"-A OUTPUT -p udp -m udp --dport 1000:2000 -j DROP": "OUTPUT",
		"-A OUTPUT -p udp -m udp ! --dport 1798 -j DROP":    "",
		"-A OUTPUT ! -o eth0 -j DROP":                       "",
		"-A OUTPUT -o eth+ -j DROP":                         "OUTPUT",
		"-A OUTPUT -s 10.0.0.0/8 -j DROP":                   "",
		"-A OUTPUT -d 10.0.0.0/8 -j DROP":                   "OUTPUT",
		"-A OUTPUT -p udp -j LOG":                           "",
		"-N x\n-A OUTPUT -j x\n-A x -p tcp -j DROP":         "",
		"-N x\n-A POSTROUTING -j x\n-A x -j MASQUERADE":     "POSTROUTING",
		"-A OUTPUT -m set --match-set a dst -j DROP":        "OUTPUT",
	} {
		require.Equal(t, want, sent.concerned(strings.Split(lines, "\n")), lines)
	}
}
