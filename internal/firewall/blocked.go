package firewall

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Blocked is a bridge whose frames a firewall drops.
type Blocked struct {
	Bridge string
	Family Family // of the packets in the frames; "" for all frames
	Chain  string // that drops, for a person: "iptables FORWARD (policy DROP)"
	Cure   string // a command that accepts what the bridge forwards
}

// String says what happens.
func (b Blocked) String() string {
	what := map[Family]string{IPv4: "IPv4 packets", IPv6: "IPv6 packets", "": "frames"}[b.Family]
	return fmt.Sprintf("%s on the bridge %s are dropped by %s", what, b.Bridge, b.Chain)
}

// Advice is the cure, and the option that has xend do it for iptables.
func (b Blocked) Advice() string {
	if strings.HasPrefix(b.Cure, "nft ") {
		return b.Cure
	}
	return "[scripts] accept_bridges = true in vnet.toml, or: " + b.Cure
}

// AcceptBridge are the rules that accept all that a bridge forwards between its ports.
func AcceptBridge(bridge string) []Rule {
	match := []string{"-i", bridge, "-o", bridge}
	return []Rule{{IPv4, match}, {IPv6, match}}
}

// Blocked finds those of the bridges whose frames are dropped unless somebody accepts them, which nobody does.
func (r *Rules) Blocked(bridges ...string) []Blocked {
	if len(bridges) == 0 {
		return nil
	}
	var blocked []Blocked
	for _, b := range r.saved {
		if !r.bridged[b.family] {
			continue
		}
		lines := b.forwarding()
		how := drops(lines)
		if how == "" {
			continue
		}
		chain := forward
		if slices.Contains(lines, "-A "+forward+" -j "+dockerUser) {
			chain = dockerUser
		}
		for _, bridge := range bridges {
			if !slices.ContainsFunc(lines, func(line string) bool { return accepts(line, bridge) }) {
				blocked = append(blocked, Blocked{bridge, b.family, b.chain(forward) + " (" + how + ")",
					fmt.Sprintf("%s -I %s -i %s -o %s -j ACCEPT", b.family.program(), chain, bridge, bridge)})
			}
		}
	}
	return append(blocked, r.blockedByNFT(bridges)...)
}

// drops says how a chain drops what no rule of it accepts; "" if it does not.
func drops(lines []string) string {
	for _, line := range lines {
		for _, verdict := range []string{"DROP", "REJECT"} {
			if line == "-P "+forward+" "+verdict {
				return "policy " + verdict
			}
			if line == "-A "+forward+" -j "+verdict || strings.HasPrefix(line, "-A "+forward+" -j "+verdict+" --reject-with ") {
				return "a rule that says " + verdict + " to everything"
			}
		}
	}
	return ""
}

// accepts tells whether a rule accepts all that a bridge forwards.
func accepts(line, bridge string) bool {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "-A" {
		return false
	}
	for words = words[2:]; len(words) > 0; {
		n := 1
		switch words[0] {
		case "-i", "-o":
			n = 2
			if len(words) < 2 || !matchesName(words[1], bridge) {
				return false
			}
		case "-m":
			n = 2
			if len(words) < 2 || words[1] != "comment" && words[1] != "physdev" {
				return false
			}
		case "--physdev-is-bridged":
		case "--comment":
			for n = 2; n <= len(words) && strings.HasPrefix(words[1], `"`) && !strings.HasSuffix(words[n-1], `"`); n++ {
			}
		case "-j":
			return len(words) == 2 && words[1] == "ACCEPT"
		default:
			return false
		}
		words = words[min(n, len(words)):]
	}
	return false
}

// matchesName compares a device's name with a rule's, which may end in a + for any end.
func matchesName(pattern, name string) bool {
	if begin, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, begin)
	}
	return pattern == name
}

// blockedByNFT looks at the chains of nftables that are not iptables'.
func (r *Rules) blockedByNFT(bridges []string) []Blocked {
	var blocked []Blocked
	for _, c := range r.base {
		if !forwards(c) || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop {
			continue
		}
		var table string
		var family Family
		switch c.Table.Family {
		case nftables.TableFamilyIPv4:
			table, family = "ip", IPv4
		case nftables.TableFamilyIPv6:
			table, family = "ip6", IPv6
		case nftables.TableFamilyINet:
			table = "inet"
			switch four, six := r.bridged[IPv4], r.bridged[IPv6]; {
			case four && !six:
				family = IPv4
			case six && !four:
				family = IPv6
			case !four && !six:
				continue
			}
		case nftables.TableFamilyBridge:
			table = "bridge"
		default:
			continue
		}
		if table != "bridge" && family != "" && !r.bridged[family] {
			continue
		}
		match := func(bridge string) string { return "iifname " + bridge + " oifname " + bridge }
		if table == "bridge" {
			match = func(bridge string) string { return "meta ibrname " + bridge }
		}
		for _, bridge := range bridges {
			if !slices.ContainsFunc(r.rules[keyOf(c)], func(r *nftables.Rule) bool { return names(r, bridge) }) {
				blocked = append(blocked, Blocked{bridge, family, fmt.Sprintf("the nftables chain %s %s %s (policy drop)", table, c.Table.Name, c.Name),
					fmt.Sprintf("nft insert rule %s %s %s %s accept", table, c.Table.Name, c.Name, match(bridge))})
			}
		}
	}
	return blocked
}

// names tells whether a rule accepts something for a device that it names.
func names(r *nftables.Rule, device string) bool {
	named, accepts := false, false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			name, _, _ := bytes.Cut(e.Data, []byte{0})
			named = named || e.Op == expr.CmpOpEq && string(name) == device
		case *expr.Verdict:
			accepts = accepts || e.Kind == expr.VerdictAccept
		}
	}
	return named && accepts
}
