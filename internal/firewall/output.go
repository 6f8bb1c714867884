package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// Output is what this host sends: UDP packets from an address to anybody's port, by a device. Which source port they
// have, and to whom they go, is not known.
type Output struct {
	Source netip.Addr
	Device string
	Index  int
	Port   uint16
}

// Changes says what of the machine's packet filter may drop or change such packets on their way out, for a person; "":
// nothing does. It may err on the side of a rule: one that nobody understands counts.
func (f *Firewall) Changes(o Output) string {
	if why := o.nft(); why != "" {
		return why
	}
	return f.legacy(o)
}

// outward are the hooks that packets of the host itself pass.
var outward = []nftables.ChainHook{*nftables.ChainHookOutput, *nftables.ChainHookPostrouting}

// nft looks at the chains of nftables, those of iptables-nft among them.
func (o *Output) nft() string {
	c, err := nftables.New()
	if err != nil {
		return ""
	}
	all, err := c.ListChains()
	if err != nil {
		return "" // a kernel without nftables has none
	}
	w := outWalk{Output: o, conn: c}
	for _, chain := range all {
		if chain.Hooknum == nil || !slices.Contains(outward, *chain.Hooknum) || !o.ofFamily(chain.Table.Family) {
			continue
		}
		if chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			return fmt.Sprintf("%s drops what no rule accepts", name(chain))
		}
		if w.chain(chain.Table, chain.Name, 0) {
			return fmt.Sprintf("%s has a rule for what is sent to UDP port %d", name(chain), o.Port)
		}
	}
	return ""
}

func (o *Output) ofFamily(f nftables.TableFamily) bool {
	if o.Source.Is4() {
		return f == nftables.TableFamilyIPv4 || f == nftables.TableFamilyINet
	}
	return f == nftables.TableFamilyIPv6 || f == nftables.TableFamilyINet
}

func name(c *nftables.Chain) string {
	family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}[c.Table.Family]
	return fmt.Sprintf("the firewall's chain %s %s %s", family, c.Table.Name, c.Name)
}

// outWalk follows the rules that a packet may meet.
type outWalk struct {
	*Output
	conn *nftables.Conn
}

const (
	// maxOutJumps is how deep chains may call each other: NFT_JUMP_STACK_SIZE of the kernel.
	maxOutJumps = 16
	udp         = 17
	// verdictRegister is NFT_REG_VERDICT, and what follows are NFPROTO_IPV4 and NFPROTO_IPV6 of the kernel.
	verdictRegister      = 0
	protoIPv4, protoIPv6 = 2, 10
)

// chain reports whether a rule of a chain, or of those that it leads to, may drop or change a packet.
func (w *outWalk) chain(t *nftables.Table, name string, depth int) bool {
	if depth > maxOutJumps {
		return true
	}
	rules, err := w.conn.GetRules(t, &nftables.Chain{Name: name, Table: t})
	if err != nil {
		return true
	}
	return slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return w.rule(t, r.Exprs, depth) })
}

// rule reports whether a rule may drop or change a packet: it may match, and does more than to accept or count it.
func (w *outWalk) rule(t *nftables.Table, exprs []expr.Any, depth int) bool {
	regs := map[uint32][]byte{} // what is known of the packet; the others may be anything
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.SourceRegister {
				return true // sets a mark or the like
			}
			set(regs, e.Register, w.meta(e.Key))
		case *expr.Payload:
			if e.OperationType == expr.PayloadWrite {
				return true
			}
			set(regs, e.DestRegister, w.payload(e))
		case *expr.Bitwise:
			set(regs, e.DestRegister, bitwise(regs[e.SourceRegister], e))
		case *expr.Cmp:
			if v, known := regs[e.Register]; known && len(v) >= len(e.Data) && !compares(v[:len(e.Data)], e.Op, e.Data) {
				return false
			}
		case *expr.Range:
			if v, known := regs[e.Register]; known && len(v) == len(e.FromData) && len(v) == len(e.ToData) {
				inside := bytes.Compare(v, e.FromData) >= 0 && bytes.Compare(v, e.ToData) <= 0
				if inside != (e.Op == expr.CmpOpEq) {
					return false
				}
			}
		case *expr.Match:
			if !w.match(e) {
				return false
			}
		case *expr.Verdict:
			switch e.Kind {
			case expr.VerdictAccept, expr.VerdictReturn, expr.VerdictContinue:
			case expr.VerdictJump, expr.VerdictGoto:
				return w.chain(t, e.Chain, depth+1)
			default:
				return true
			}
		case *expr.Target:
			if !slices.Contains([]string{"ACCEPT", "RETURN", "LOG", "NFLOG", "CHECKSUM"}, e.Name) {
				return true
			}
		case *expr.Counter, *expr.Log, *expr.Lookup, *expr.Ct, *expr.Limit, *expr.Connlimit, *expr.Quota, *expr.Fib, *expr.Rt,
			*expr.Socket, *expr.Hash, *expr.Numgen, *expr.Byteorder, *expr.Exthdr, *expr.Immediate:
			// Looks at what is not known, or counts.
			switch e := e.(type) {
			case *expr.Ct:
				if e.SourceRegister {
					return true
				}
				set(regs, e.Register, nil)
			case *expr.Lookup:
				if e.IsDestRegSet && e.DestRegister == verdictRegister {
					return true // a verdict map
				}
				if e.IsDestRegSet {
					set(regs, e.DestRegister, nil)
				}
			case *expr.Byteorder:
				set(regs, e.DestRegister, nil)
			case *expr.Immediate:
				set(regs, e.Register, e.Data)
			case *expr.Exthdr:
				if e.SourceRegister > 0 {
					return true // writes an option
				}
				set(regs, e.DestRegister, nil)
			case *expr.Fib:
				set(regs, e.Register, nil)
			case *expr.Rt:
				set(regs, e.Register, nil)
			case *expr.Socket:
				set(regs, e.Register, nil)
			case *expr.Hash:
				set(regs, e.DestRegister, nil)
			case *expr.Numgen:
				set(regs, e.Register, nil)
			}
		default:
			return true // drops, rejects, translates, or is new
		}
	}
	return false
}

func set(regs map[uint32][]byte, r uint32, v []byte) {
	if delete(regs, r); v != nil {
		regs[r] = v
	}
}

// meta is what is known of the packet beside it; nil: nothing.
func (w *outWalk) meta(key expr.MetaKey) []byte {
	number := func(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	text := func(s string) []byte { return append([]byte(s), make([]byte, 16)...)[:16] }
	switch key {
	case expr.MetaKeyL4PROTO:
		return []byte{udp}
	case expr.MetaKeyNFPROTO:
		if w.Source.Is4() {
			return []byte{protoIPv4}
		}
		return []byte{protoIPv6}
	case expr.MetaKeyPROTOCOL:
		if w.Source.Is4() {
			return []byte{0x08, 0x00}
		}
		return []byte{0x86, 0xdd}
	case expr.MetaKeyMARK, expr.MetaKeyIIF:
		return number(0)
	case expr.MetaKeyIIFNAME:
		return text("")
	case expr.MetaKeyOIF:
		return number(w.Index)
	case expr.MetaKeyOIFNAME:
		return text(w.Device)
	}
	return nil
}

// payload is what is known of the packet itself.
func (w *outWalk) payload(e *expr.Payload) []byte {
	type field struct {
		base   expr.PayloadBase
		offset uint32
		v      []byte
	}
	fields := []field{{expr.PayloadBaseTransportHeader, 2, binary.BigEndian.AppendUint16(nil, w.Port)}}
	if w.Source.Is4() {
		fields = append(fields, field{expr.PayloadBaseNetworkHeader, 9, []byte{udp}}, field{expr.PayloadBaseNetworkHeader, 12, w.Source.AsSlice()})
	} else {
		fields = append(fields, field{expr.PayloadBaseNetworkHeader, 6, []byte{udp}}, field{expr.PayloadBaseNetworkHeader, 8, w.Source.AsSlice()})
	}
	for _, f := range fields {
		if e.Base == f.base && e.Offset == f.offset && int(e.Len) <= len(f.v) {
			return f.v[:e.Len]
		}
	}
	return nil
}

func bitwise(v []byte, e *expr.Bitwise) []byte {
	if len(v) < int(e.Len) || len(e.Mask) != int(e.Len) || len(e.Xor) != int(e.Len) {
		return nil
	}
	out := make([]byte, e.Len)
	for i := range out {
		out[i] = v[i]&e.Mask[i] ^ e.Xor[i]
	}
	return out
}

func compares(v []byte, op expr.CmpOp, to []byte) bool {
	c := bytes.Compare(v, to)
	switch op {
	case expr.CmpOpEq:
		return c == 0
	case expr.CmpOpNeq:
		return c != 0
	case expr.CmpOpLt:
		return c < 0
	case expr.CmpOpLte:
		return c <= 0
	case expr.CmpOpGt:
		return c > 0
	case expr.CmpOpGte:
		return c >= 0
	}
	return true
}

// match reports whether an iptables match may be the packet's.
func (w *outWalk) match(e *expr.Match) bool {
	switch info := e.Info.(type) {
	case *xt.Tcp:
		return false
	case *xt.Udp:
		inside := info.DstPorts[0] <= w.Port && w.Port <= info.DstPorts[1]
		return inside != (info.InvFlags&xt.UdpInvDestPorts != 0)
	}
	return !slices.Contains([]string{"tcp", "icmp", "icmp6", "sctp", "esp", "ah", "dccp"}, e.Name)
}

// legacyTables are those that have chains for what is sent.
var legacyTables = []string{"raw", "mangle", "nat", "filter", "security"}

// legacy looks at the rules of the iptables of before.
func (f *Firewall) legacy(o Output) string {
	family := IPv4
	if o.Source.Is6() {
		family = IPv6
	}
	names, _ := os.ReadFile("/proc/thread-self/net/" + string(family) + "_tables_names") // absent: no such tables
	b := backend{family, "legacy"}
	for _, table := range strings.Fields(string(names)) {
		if !slices.Contains(legacyTables, table) {
			continue
		}
		program, err := f.program(b, "")
		if err != nil {
			return fmt.Sprintf("%s has a table %s, and there is no program to read it; install iptables", family.program(), table)
		}
		rules, err := run(program, "", "-w", "-t", table, "-S")
		if err != nil {
			return err.Error()
		}
		if chain := o.concerned(strings.Split(rules, "\n")); chain != "" {
			return fmt.Sprintf("%s -t %s %s has a rule for what is sent to UDP port %d", family.program(), table, chain, o.Port)
		}
	}
	return ""
}

// concerned is the chain that may drop or change a packet, of the lines that iptables -S prints; "" for none.
func (o *Output) concerned(lines []string) string {
	for _, hook := range []string{"OUTPUT", "POSTROUTING"} {
		if o.chainConcerned(lines, hook, 0) {
			return hook
		}
	}
	return ""
}

func (o *Output) chainConcerned(lines []string, chain string, depth int) bool {
	if depth > maxOutJumps {
		return true
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if len(words) < 3 || words[1] != chain {
			continue
		}
		if words[0] == "-P" && words[2] != "ACCEPT" {
			return true
		}
		if words[0] != "-A" || !o.mayMatch(words[2:]) {
			continue
		}
		i := slices.IndexFunc(words, func(w string) bool { return w == "-j" || w == "-g" })
		if i < 0 || i+1 >= len(words) {
			continue // counts
		}
		target := words[i+1]
		switch {
		case slices.Contains([]string{"ACCEPT", "RETURN", "LOG", "NFLOG", "CHECKSUM"}, target):
		case slices.ContainsFunc(lines, func(l string) bool { return l == "-N "+target }):
			if o.chainConcerned(lines, target, depth+1) {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// mayMatch reports whether the words of a rule may match the packet.
func (o *Output) mayMatch(words []string) bool {
	for i, w := range words {
		if i+1 >= len(words) {
			break
		}
		value, not := words[i+1], i > 0 && words[i-1] == "!"
		var matches bool
		known := true
		switch w {
		case "-p":
			matches = slices.Contains([]string{"udp", "all", "17", "0"}, value)
		case "-o":
			matches = matchesName(value, o.Device)
		case "-i": // never
		case "-s":
			p, err := netip.ParsePrefix(value)
			matches, known = err == nil && p.Contains(o.Source), err == nil
		case "--dport":
			from, to, isRange := strings.Cut(value, ":")
			low, err := strconv.Atoi(from)
			high, errHigh := strconv.Atoi(to)
			if !isRange {
				high, errHigh = low, nil
			}
			matches, known = low <= int(o.Port) && int(o.Port) <= high, err == nil && errHigh == nil
		default:
			continue
		}
		if known && matches == not {
			return false
		}
	}
	return true
}
