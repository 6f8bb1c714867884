package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Packet is one that is to pass a host's firewall: the first of its flow, to or from this host itself.
type Packet struct {
	Out      bool   // this host sends it
	Device   string // by which it comes or goes
	Protocol uint8  // 17: UDP
	Port     uint16 // its destination port; of UDP
	From, To netip.Addr
}

// family of the packet's addresses.
func (p Packet) family() Family {
	if p.To.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Dropped is a packet that the firewall drops.
type Dropped struct {
	Packet
	// Chain says where, for a person: "the nftables chain inet filter input (policy drop)".
	Chain string
	// Cure is a command that accepts the packet there.
	Cure string
}

// Loss is what one rule drops, for a person.
type Loss struct {
	Text string // "UDP port 1798 that comes in, also for the group, is dropped by …"
	Cure string // a command
}

// Losses are the packets that are dropped, told together where one command accepts them: those of a group with those of a host,
// those of both families.
func Losses(dropped []Dropped) (list []Loss) {
	type place struct {
		chain, cure string
		out         bool
		protocol    uint8
		port        uint16
	}
	var places []place
	type of struct{ host, group bool }
	seen := map[place]of{}
	for _, d := range dropped {
		p := place{d.Chain, d.Cure, d.Out, d.Protocol, d.Port}
		if !slices.Contains(places, p) {
			places = append(places, p)
		}
		x := seen[p]
		x.host, x.group = x.host || !d.To.IsMulticast(), x.group || d.To.IsMulticast()
		seen[p] = x
	}
	for _, p := range places {
		what := fmt.Sprintf("IP protocol %d", p.protocol)
		if p.protocol == 17 {
			what = fmt.Sprintf("UDP port %d", p.port)
		}
		way := " that comes in"
		if p.out {
			way = " that goes out"
		}
		switch x := seen[p]; {
		case x.host && x.group:
			way += ", also for the group,"
		case x.group:
			way += " for the group"
		}
		list = append(list, Loss{what + way + " is dropped by " + p.chain, p.cure})
	}
	return list
}

// Rules is what the packet filter of a network namespace said at one moment.
type Rules struct {
	base    []*nftables.Chain // those of nftables that are not iptables' and have a hook, in the order in which packets pass
	rules   map[chainKey][]*nftables.Rule
	saved   []savedTables
	bridged map[Family]bool // br_netfilter hands what bridges forward to iptables
}

// Read lists the rules of the calling thread's network namespace once, whatever is asked of them then. What cannot be read
// is passed over: this is a look from outside.
func (f *Firewall) Read() *Rules {
	r := &Rules{saved: f.readIPTables(), bridged: map[Family]bool{}}
	r.base, r.rules = readNFT()
	for _, family := range families {
		r.bridged[family] = Bridged(family)
	}
	return r
}

// Dropped finds those of the packets that the firewall drops by rules that can be followed: it passes over rules that match
// what it does not know (sets of addresses, connections, limits), so that what it says is true, and what it does not say may
// be. unsure is how many rules it passed over.
func (r *Rules) Dropped(packets ...Packet) (list []Dropped, unsure int) {
	for _, p := range packets {
		d, n := droppedByNFT(r.base, r.rules, p)
		unsure += n
		list = append(list, d...)
	}
	for _, p := range packets {
		d, n := droppedByIPTables(r.saved, p)
		unsure += n
		list = append(list, d...)
	}
	return list, unsure
}

type chainKey struct {
	family nftables.TableFamily
	table  string
	chain  string
}

func keyOf(c *nftables.Chain) chainKey { return chainKey{c.Table.Family, c.Table.Name, c.Name} }

// readNFT reads all chains of nftables that are not iptables', with their rules.
func readNFT() (base []*nftables.Chain, rules map[chainKey][]*nftables.Rule) {
	conn, err := nftables.New()
	if err != nil {
		return nil, nil // a kernel without nftables has none
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, nil
	}
	rules = map[chainKey][]*nftables.Rule{}
	for _, c := range all {
		if iptablesTable(c) {
			continue
		}
		list, err := conn.GetRules(c.Table, c)
		if err != nil {
			continue
		}
		rules[keyOf(c)] = list
		if c.Hooknum != nil {
			base = append(base, c)
		}
	}
	slices.SortStableFunc(base, func(a, b *nftables.Chain) int { return priority(a) - priority(b) })
	return base, rules
}

func priority(c *nftables.Chain) int {
	if c.Priority == nil {
		return 0
	}
	return int(*c.Priority)
}

// iptablesTable tells the tables that iptables-nft manages, whose built-in chains are in capitals.
func iptablesTable(c *nftables.Chain) bool {
	switch c.Table.Name {
	case "filter", "raw", "mangle", "nat", "security":
		return (c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyIPv6) && c.Name == strings.ToUpper(c.Name)
	}
	return false
}

// droppedByNFT follows a packet through the chains.
func droppedByNFT(base []*nftables.Chain, rules map[chainKey][]*nftables.Rule, p Packet) (list []Dropped, unsure int) {
	for _, c := range base {
		hooks := []nftables.ChainHook{*nftables.ChainHookPrerouting, *nftables.ChainHookInput}
		if p.Out {
			hooks = []nftables.ChainHook{*nftables.ChainHookOutput, *nftables.ChainHookPostrouting}
		}
		family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[c.Table.Family]
		if c.Type != nftables.ChainTypeFilter || family == "" || !slices.Contains(hooks, *c.Hooknum) ||
			family == "ip" && p.family() != IPv4 || family == "ip6" && p.family() != IPv6 {
			continue
		}
		w := &walk{rules: rules, packet: p}
		var how string
		switch w.chain(keyOf(c), 0) {
		case expr.VerdictDrop:
			how = "a rule"
		case expr.VerdictAccept:
			continue
		default:
			if c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop {
				unsure += w.unsure
				continue
			}
			how = "policy drop"
		}
		unsure += w.unsure
		where := family + " " + c.Table.Name + " " + c.Name
		list = append(list, Dropped{p, "the nftables chain " + where + " (" + how + ")", "nft insert rule " + where + " " + p.nft() + " accept"})
	}
	return list, unsure
}

// nft is a match for packets of the kind.
func (p Packet) nft() string {
	if p.Protocol == 17 {
		return fmt.Sprintf("udp dport %d", p.Port)
	}
	return fmt.Sprintf("meta l4proto %d", p.Protocol)
}

// walk follows one packet.
type walk struct {
	rules  map[chainKey][]*nftables.Rule
	packet Packet
	unsure int
}

// maxJumps is NFT_JUMP_STACK_SIZE of the kernel.
const maxJumps = 16

// chain returns the verdict of a chain; VerdictReturn where it has none.
func (w *walk) chain(k chainKey, depth int) expr.VerdictKind {
	if depth > maxJumps {
		return expr.VerdictReturn
	}
	for _, r := range w.rules[k] {
		v, chain := w.rule(r)
		switch v {
		case expr.VerdictAccept, expr.VerdictDrop, expr.VerdictReturn:
			return v
		case expr.VerdictJump, expr.VerdictGoto:
			got := w.chain(chainKey{k.family, k.table, chain}, depth+1)
			if got != expr.VerdictReturn || v == expr.VerdictGoto {
				return got
			}
		default:
		}
	}
	return expr.VerdictReturn
}

// rule returns what a rule says to the packet; VerdictContinue: nothing.
func (w *walk) rule(r *nftables.Rule) (expr.VerdictKind, string) {
	const none = expr.VerdictContinue
	registers := map[uint32][]byte{}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			v, ok := w.meta(e.Key)
			if e.SourceRegister || !ok {
				return w.pass()
			}
			registers[e.Register] = v
		case *expr.Payload:
			v, ok := w.payload(e)
			if !ok {
				return w.pass()
			}
			registers[e.DestRegister] = v
		case *expr.Bitwise:
			v := slices.Clone(registers[e.SourceRegister])
			if len(v) != len(e.Mask) || len(v) != len(e.Xor) {
				return w.pass()
			}
			for i := range v {
				v[i] = v[i]&e.Mask[i] ^ e.Xor[i]
			}
			registers[e.DestRegister] = v
		case *expr.Ct: // the first packet of a flow: state new, NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h
			if e.Key != expr.CtKeySTATE || e.SourceRegister {
				return w.pass()
			}
			registers[e.Register] = binary.NativeEndian.AppendUint32(nil, 8)
		case *expr.Cmp:
			v := registers[e.Register]
			n := min(len(v), len(e.Data)) // a name's beginning may be meant
			c := bytes.Compare(v[:n], e.Data[:n])
			if holds := map[expr.CmpOp]bool{
				expr.CmpOpEq: c == 0 && len(e.Data) <= len(v), expr.CmpOpNeq: c != 0, expr.CmpOpLt: c < 0, expr.CmpOpLte: c <= 0, expr.CmpOpGt: c > 0, expr.CmpOpGte: c >= 0,
			}[e.Op]; !holds {
				return none, ""
			}
		case *expr.Range:
			v := registers[e.Register]
			in := bytes.Compare(v, e.FromData) >= 0 && bytes.Compare(v, e.ToData) <= 0
			if in != (e.Op == expr.CmpOpEq) {
				return none, ""
			}
		case *expr.Lookup:
			in, ok := w.inSet(r, e, registers[e.SourceRegister])
			if !ok || e.DestRegister != 0 {
				return w.pass()
			}
			if in == e.Invert {
				return none, ""
			}
		case *expr.Counter, *expr.Log, *expr.Notrack:
		case *expr.Reject:
			return expr.VerdictDrop, ""
		case *expr.Verdict:
			return e.Kind, e.Chain
		default:
			return w.pass()
		}
	}
	return none, ""
}

// pass goes on behind a rule that cannot be followed.
func (w *walk) pass() (expr.VerdictKind, string) {
	w.unsure++
	return expr.VerdictContinue, ""
}

// meta is what the kernel knows of the packet.
func (w *walk) meta(k expr.MetaKey) ([]byte, bool) {
	name := func(is bool) []byte {
		b := make([]byte, 16) // IFNAMSIZ
		if is {
			copy(b, w.packet.Device)
		}
		return b
	}
	switch k {
	case expr.MetaKeyL4PROTO:
		return []byte{w.packet.Protocol}, true
	case expr.MetaKeyNFPROTO:
		if w.packet.family() == IPv6 {
			return []byte{10}, true
		}
		return []byte{2}, true
	case expr.MetaKeyIIFNAME:
		return name(!w.packet.Out), true
	case expr.MetaKeyOIFNAME:
		return name(w.packet.Out), true
	default:
		return nil, false
	}
}

// payload is a part of the packet's headers.
func (w *walk) payload(e *expr.Payload) ([]byte, bool) {
	p := w.packet
	switch {
	case e.OperationType != expr.PayloadLoad:
		return nil, false
	case e.Base == expr.PayloadBaseTransportHeader && p.Protocol == 17 && e.Offset == 2 && e.Len == 2:
		return binary.BigEndian.AppendUint16(nil, p.Port), true
	case e.Base != expr.PayloadBaseNetworkHeader:
		return nil, false
	}
	var header []byte
	if p.family() == IPv4 {
		header = make([]byte, 20)
		header[9] = p.Protocol
		if !p.From.IsValid() || !p.To.IsValid() {
			return nil, false
		}
		copy(header[12:], p.From.Unmap().AsSlice())
		copy(header[16:], p.To.Unmap().AsSlice())
		if e.Offset+e.Len > 20 || e.Offset < 9 || e.Offset == 10 {
			return nil, false
		}
	} else {
		header = make([]byte, 40)
		header[6] = p.Protocol
		if !p.From.IsValid() || !p.To.IsValid() || e.Offset+e.Len > 40 || e.Offset < 6 {
			return nil, false
		}
		copy(header[8:], p.From.AsSlice())
		copy(header[24:], p.To.AsSlice())
	}
	return header[e.Offset : e.Offset+e.Len], true
}

// inSet looks a value up in a set without intervals.
func (w *walk) inSet(r *nftables.Rule, e *expr.Lookup, value []byte) (in, ok bool) {
	conn, err := nftables.New()
	if err != nil {
		return false, false
	}
	set, err := conn.GetSetByName(r.Table, e.SetName)
	if err != nil || set.Interval || set.IsMap || set.Concatenation {
		return false, false
	}
	elements, err := conn.GetSetElements(set)
	if err != nil {
		return false, false
	}
	return slices.ContainsFunc(elements, func(x nftables.SetElement) bool { return bytes.Equal(x.Key, value) }), true
}

// droppedByIPTables follows a packet through the rules of iptables, as iptables-save prints them.
func droppedByIPTables(saves []savedTables, p Packet) (list []Dropped, unsure int) {
	for _, b := range saves {
		if b.family != p.family() {
			continue
		}
		for _, table := range []string{"raw", "mangle", "filter"} {
			chains := map[string][]string{}
			policy := map[string]string{}
			readSaved(b.text, table, chains, policy)
			names := []string{"PREROUTING", "INPUT"}
			if p.Out {
				names = []string{"OUTPUT", "POSTROUTING"}
			}
			for _, name := range names {
				w := &textWalk{chains: chains, packet: p}
				how := ""
				switch verdict := w.chain(name, 0); {
				case verdict == "DROP" || verdict == "REJECT":
					how = "a rule"
				case verdict == "" && policy[name] == "DROP":
					how = "policy DROP"
				}
				unsure += w.unsure
				if how == "" {
					continue
				}
				list = append(list, Dropped{p, b.family.program() + " " + name + " of table " + table + " (" + how + ")",
					fmt.Sprintf("%s -t %s -I %s %s -j ACCEPT", b.family.program(), table, name, p.iptables())})
			}
		}
	}
	return list, unsure
}

// savedTables is what iptables-save prints of one of its places.
type savedTables struct {
	backend
	text string
}

// forwarding are the rules for what is forwarded, as iptables -S prints them.
func (s savedTables) forwarding() []string {
	chains, policy := map[string][]string{}, map[string]string{}
	readSaved(s.text, "filter", chains, policy)
	lines := append([]string{"-P " + forward + " " + policy[forward]}, chains[forward]...)
	if slices.Contains(lines, "-A "+forward+" -j "+dockerUser) {
		lines = append(lines, chains[dockerUser]...)
	}
	return lines
}

// readIPTables reads the tables of all places where iptables keeps rules.
func (f *Firewall) readIPTables() (list []savedTables) {
	for _, b := range allBackends() {
		program, err := f.program(b, "-save")
		if err != nil {
			continue
		}
		if text, err := run(program, ""); err == nil {
			list = append(list, savedTables{b, text})
		}
	}
	return list
}

// allBackends are the places where iptables may keep rules.
func allBackends() (list []backend) {
	for _, family := range families {
		list = append(list, backend{family, "legacy"}, backend{family, "nft"})
	}
	// Where only one of the two has rules, the other program would say nothing, or make its tables.
	have, err := backends()
	if err != nil {
		return nil
	}
	conn, err := nftables.New()
	var chains []*nftables.Chain
	if err == nil {
		chains, _ = conn.ListChains()
	}
	return slices.DeleteFunc(list, func(b backend) bool {
		return !slices.Contains(have, b) && (b.variant == "legacy" || !slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
			return iptablesTable(c) && familyOf(c) == b.family
		}))
	})
}

func (p Packet) iptables() string {
	if p.Protocol == 17 {
		return fmt.Sprintf("-p udp --dport %d", p.Port)
	}
	return fmt.Sprintf("-p %d", p.Protocol)
}

// readSaved reads one table of what iptables-save prints.
func readSaved(text, table string, chains map[string][]string, policy map[string]string) {
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "*"):
			inside = line[1:] == table
		case !inside || len(words) < 2:
		case strings.HasPrefix(line, ":"):
			policy[words[0][1:]] = words[1]
		case words[0] == "-A":
			chains[words[1]] = append(chains[words[1]], line)
		}
	}
}

type textWalk struct {
	chains map[string][]string
	packet Packet
	unsure int
}

// chain returns ACCEPT, DROP, REJECT, or "" where no rule says anything.
func (w *textWalk) chain(name string, depth int) string {
	if depth > maxJumps {
		return ""
	}
	for _, line := range w.chains[name] {
		target, matches, sure := textRule(strings.Fields(line)[2:], w.packet)
		if !sure {
			w.unsure++
			continue
		}
		if !matches {
			continue
		}
		switch target {
		case "ACCEPT", "DROP", "REJECT":
			return target
		case "RETURN":
			return ""
		}
		if _, ok := w.chains[target]; ok {
			if v := w.chain(target, depth+1); v != "" {
				return v
			}
		}
	}
	return ""
}

// textRule reads the words of a rule behind its chain.
func textRule(words []string, p Packet) (target string, matches, sure bool) {
	matches = true
	for len(words) > 0 {
		not := words[0] == "!"
		if not {
			words = words[1:]
		}
		if len(words) < 2 {
			return "", false, false
		}
		option, value := words[0], words[1]
		n, holds := 2, true
		switch option {
		case "-p":
			holds = value == "udp" && p.Protocol == 17 || value == "ipencap" && p.Protocol == 4 || value == "esp" && p.Protocol == 50 ||
				value == fmt.Sprint(p.Protocol) || value == "etherip" && p.Protocol == 97 || value == "all"
		case "-i":
			holds = !p.Out && matchesName(value, p.Device)
		case "-o":
			holds = p.Out && matchesName(value, p.Device)
		case "-s", "-d":
			prefix, err := netip.ParsePrefix(value)
			addr := p.From
			if option == "-d" {
				addr = p.To
			}
			if err != nil || !addr.IsValid() {
				return "", false, false
			}
			holds = prefix.Contains(addr.Unmap())
		case "-m":
			if value != "udp" && value != "comment" && value != "multiport" && value != "conntrack" && value != "state" && value != "tcp" {
				return "", false, false
			}
		case "--comment":
			for strings.HasPrefix(words[1], `"`) && !strings.HasSuffix(words[n-1], `"`) && n < len(words) {
				n++
			}
		case "--ctstate", "--state":
			holds = slices.Contains(strings.Split(value, ","), "NEW")
		case "--dport", "--dports":
			holds = slices.ContainsFunc(strings.Split(value, ","), func(s string) bool { return inPorts(s, p.Port) })
		case "-j", "-g":
			return value, matches, true
		default:
			return "", false, false
		}
		matches = matches && holds != not
		words = words[n:]
	}
	return "", matches, true // a rule that only counts
}

// inPorts reads 1798 or 1000:2000.
func inPorts(s string, port uint16) bool {
	low, high, isRange := strings.Cut(s, ":")
	var a, b int
	if _, err := fmt.Sscan(low, &a); err != nil {
		return false
	}
	if b = a; isRange {
		if _, err := fmt.Sscan(high, &b); err != nil {
			return false
		}
	}
	return a <= int(port) && int(port) <= b
}
