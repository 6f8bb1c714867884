package bound

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Rules are what of nftables compares packets with interface indices: rules that match iif or oif, and named sets of
// interfaces. They are read and written as the kernel's own messages, so that what no library knows survives.
type Rules struct {
	// Before, if set, is called before each change with a description of it; an error of it is returned instead.
	Before func(what string) error
}

// Messages and attributes of nftables: linux/netfilter/nf_tables.h.
const (
	subsystem = unix.NFNL_SUBSYS_NFTABLES << 8

	listElem = unix.NFTA_LIST_ELEM

	exprName, exprData = unix.NFTA_EXPR_NAME, unix.NFTA_EXPR_DATA

	metaDreg, metaKey        = unix.NFTA_META_DREG, unix.NFTA_META_KEY
	metaSDIF                 = 0x1d // NFT_META_SDIF
	fibDreg, fibResult       = 1, 2
	fibResultOIF             = 1
	cmpSreg, cmpOp, cmpData  = unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP, unix.NFTA_CMP_DATA
	lookupSet, lookupSetID   = unix.NFTA_LOOKUP_SET, unix.NFTA_LOOKUP_SET_ID
	dataValue                = unix.NFTA_DATA_VALUE
	elemKey                  = unix.NFTA_SET_ELEM_KEY
	elemListSet, elemListSID = unix.NFTA_SET_ELEM_LIST_SET, unix.NFTA_SET_ELEM_LIST_SET_ID
	elemListElements         = unix.NFTA_SET_ELEM_LIST_ELEMENTS

	typeIfindex  = 20 // of the numbers by which nft names types of keys
	typeBits     = 6  // in a type of several parts
	setAnonymous = unix.NFT_SET_ANONYMOUS
	tableOwner   = 7 // NFTA_TABLE_OWNER
)

type attributes []netlink.Attribute

func (a attributes) get(kind uint16) []byte {
	for _, x := range a {
		if x.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return x.Data
		}
	}
	return nil
}

func (a attributes) text(kind uint16) string {
	b, _, _ := bytes.Cut(a.get(kind), []byte{0})
	return string(b)
}

// number is a number, which nftables has in network order; 0 where it is absent.
func (a attributes) number(kind uint16) uint32 {
	if b := a.get(kind); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// with returns a copy with one attribute set.
func (a attributes) with(kind uint16, data []byte) attributes {
	b := slices.Clone(a)
	for i, x := range b {
		if x.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			b[i].Data = data
			return b
		}
	}
	return append(b, netlink.Attribute{Type: kind, Data: data})
}

func (a attributes) bytes() []byte {
	b, err := netlink.MarshalAttributes(a)
	if err != nil { // longer than the length field can tell, which the kernel never sends
		return nil
	}
	return b
}

func parse(b []byte) attributes {
	a, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil
	}
	return a
}

func text(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(s), 0)}
}

func nested(kind uint16, inner attributes) netlink.Attribute {
	return netlink.Attribute{Type: kind | unix.NLA_F_NESTED, Data: inner.bytes()}
}

func big(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// expression is one step of a rule.
type expression struct {
	name string
	data attributes
}

// rule is a rule as the kernel has it.
type rule struct {
	family       byte
	table, chain string
	handle       []byte
	userdata     []byte
	exprs        []expression
}

// set is a set or map as the kernel has it.
type set struct {
	family   byte
	table    string
	name     string
	attrs    attributes
	elements []attributes
}

func (s *set) anonymous() bool { return s.attrs.number(unix.NFTA_SET_FLAGS)&setAnonymous != 0 }

// offsets are where in a key interface indices are; known is false if that cannot be told.
func (s *set) offsets() (list []int, known bool) {
	kind := s.attrs.number(unix.NFTA_SET_KEY_TYPE)
	if kind == typeIfindex {
		return []int{0}, true
	}
	var parts []uint32
	for k := kind; k != 0; k >>= typeBits {
		parts = append([]uint32{k & (1<<typeBits - 1)}, parts...)
	}
	if len(parts) < 2 || !slices.Contains(parts, typeIfindex) {
		return nil, true
	}
	// Sizes in the key, rounded up to registers of four bytes: addresses, services, protocols, marks, indices.
	sizes := map[uint32]int{7: 4, 8: 16, 9: 8, 10: 4, 12: 4, 13: 4, 19: 4, typeIfindex: 4}
	at := 0
	for _, p := range parts {
		if p == typeIfindex {
			list = append(list, at)
		}
		size, ok := sizes[p]
		if !ok {
			return nil, false
		}
		at += size
	}
	return list, true
}

func keyOf(element attributes) []byte { return parse(element.get(elemKey)).get(dataValue) }

// has tells whether an element's key names a device.
func has(key []byte, offsets []int, index int) bool {
	return slices.ContainsFunc(offsets, func(at int) bool { return at+4 <= len(key) && native(key[at:]) == uint32(index) })
}

func native(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

func renumbered(key []byte, offsets []int, from, to int) []byte {
	key = bytes.Clone(key)
	for _, at := range offsets {
		if at+4 <= len(key) && native(key[at:]) == uint32(from) {
			binary.NativeEndian.PutUint32(key[at:], uint32(to))
		}
	}
	return key
}

// uses tells whether the set's elements name a device; doubt means that it cannot be told.
func (s *set) uses(index int) (uses, doubt bool) {
	offsets, known := s.offsets()
	for _, e := range s.elements {
		key := keyOf(e)
		if !known {
			for at := 0; at+4 <= len(key); at += 4 {
				doubt = doubt || native(key[at:]) == uint32(index)
			}
		}
		uses = uses || has(key, offsets, index)
	}
	return uses, doubt
}

// ruleset is all of nftables that compares with indices, and how to get at it.
type ruleset struct {
	conn  *netlink.Conn
	rules []rule
	sets  []*set
	// owned are the tables, as family and name, that a program has to itself: nobody else may change them.
	owned map[string]bool
}

// errNone means that the kernel has no nftables, and so no rules.
var errNone = errors.New("no nftables")

// tries bounds how often the ruleset is read again that others changed meanwhile.
const tries = 20

func read() (*ruleset, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, errNone
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	for try := 1; ; try++ {
		r := &ruleset{conn: conn}
		err := r.load()
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOENT) || try == tries {
			_ = conn.Close()
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
				return nil, errNone
			}
			return nil, fmt.Errorf("read the rules of nftables: %w", err)
		}
	}
}

func (r *ruleset) close() { _ = r.conn.Close() }

const headLen = 4 // struct nfgenmsg

func head(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

func (r *ruleset) dump(kind uint16, family byte, body attributes, each func(family byte, a attributes)) error {
	msgs, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append(head(family), body.bytes()...),
	})
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if len(m.Data) >= headLen {
			each(m.Data[0], parse(m.Data[headLen:]))
		}
	}
	return nil
}

func (r *ruleset) load() error {
	r.owned = map[string]bool{}
	err := r.dump(unix.NFT_MSG_GETTABLE, 0, nil, func(family byte, a attributes) {
		if a.get(tableOwner) != nil {
			r.owned[place(family, a.text(unix.NFTA_TABLE_NAME), "")] = true
		}
	})
	if err != nil {
		return err
	}
	err = r.dump(unix.NFT_MSG_GETSET, 0, nil, func(family byte, a attributes) {
		r.sets = append(r.sets, &set{family: family, table: a.text(unix.NFTA_SET_TABLE), name: a.text(unix.NFTA_SET_NAME), attrs: a})
	})
	if err != nil {
		return err
	}
	for _, s := range r.sets {
		if offsets, known := s.offsets(); known && len(offsets) == 0 && !s.anonymous() {
			continue // may be large, and names no device
		}
		body := attributes{text(unix.NFTA_SET_ELEM_LIST_TABLE, s.table), text(elemListSet, s.name)}
		err := r.dump(unix.NFT_MSG_GETSETELEM, s.family, body, func(_ byte, a attributes) {
			for _, e := range parse(a.get(elemListElements)) {
				s.elements = append(s.elements, parse(e.Data))
			}
		})
		if err != nil {
			return err
		}
	}
	return r.dump(unix.NFT_MSG_GETRULE, 0, nil, func(family byte, a attributes) {
		x := rule{
			family: family, table: a.text(unix.NFTA_RULE_TABLE), chain: a.text(unix.NFTA_RULE_CHAIN),
			handle: a.get(unix.NFTA_RULE_HANDLE), userdata: a.get(unix.NFTA_RULE_USERDATA),
		}
		for _, e := range parse(a.get(unix.NFTA_RULE_EXPRESSIONS)) {
			inner := parse(e.Data)
			x.exprs = append(x.exprs, expression{inner.text(exprName), parse(inner.get(exprData))})
		}
		r.rules = append(r.rules, x)
	})
}

func (r *ruleset) set(x rule, name string) *set {
	for _, s := range r.sets {
		if s.family == x.family && s.table == x.table && s.name == name {
			return s
		}
	}
	return nil
}

// use is how an expression of a rule depends on a device.
type use int

const (
	unused  use = iota
	equal       // only if it is this one
	unequal     // only if it is not
	listed      // if the anonymous set has it
	strange     // in a way that cannot be moved
)

// loads tells whether an expression puts an interface index into a register, and into which.
func (e expression) loads() (register uint32, ok bool) {
	switch e.name {
	case "meta":
		switch e.data.number(metaKey) {
		case unix.NFT_META_IIF, unix.NFT_META_OIF, metaSDIF:
			return e.data.number(metaDreg), e.data.get(metaDreg) != nil
		}
	case "fib":
		return e.data.number(fibDreg), e.data.number(fibResult) == fibResultOIF
	}
	return 0, false
}

// compared is what a comparison compares with.
func (e expression) compared() []byte { return parse(e.data.get(cmpData)).get(dataValue) }

// uses tells for each expression how it depends on a device.
func (r *ruleset) uses(x rule, index int) []use {
	list := make([]use, len(x.exprs))
	registers := map[uint32]bool{}
	for i, e := range x.exprs {
		register, ok := e.loads()
		switch {
		case ok:
			registers[register] = true
		case e.name == "cmp":
			want := e.compared()
			if !registers[e.data.number(cmpSreg)] || len(want) != 4 || native(want) != uint32(index) {
				continue
			}
			switch e.data.number(cmpOp) {
			case unix.NFT_CMP_EQ:
				list[i] = equal
			case unix.NFT_CMP_NEQ:
				// Moved by a second comparison behind this one, which must begin with the load.
				if list[i] = strange; i > 0 {
					if before, ok := x.exprs[i-1].loads(); ok && before == e.data.number(cmpSreg) {
						list[i] = unequal
					}
				}
			default:
				list[i] = strange
			}
		case e.name == "lookup":
			s := r.set(x, e.data.text(lookupSet))
			if s == nil || !s.anonymous() {
				continue
			}
			if uses, doubt := s.uses(index); doubt {
				list[i] = strange
			} else if uses {
				list[i] = listed
			}
		case e.name == "payload", e.name == "meta", e.name == "ct", e.name == "immediate", e.name == "fib", e.name == "rt", e.name == "exthdr":
			delete(registers, e.data.number(1)) // the register that they write
		}
	}
	if slices.ContainsFunc(list, func(u use) bool { return u != unused }) {
		for i, e := range x.exprs {
			// Those of iptables have sizes that the kernel does not tell.
			if e.name == "match" || e.name == "target" || r.owned[place(x.family, x.table, "")] {
				list[i] = strange
			}
		}
	}
	return list
}

// Found is what names a device by its index, as texts for a person.
type Found struct {
	Move  []string // can be moved
	Stuck []string // cannot
}

// Find tells what names a device by its index.
func (*Rules) Find(index int) (Found, error) {
	var f Found
	r, err := read()
	if errors.Is(err, errNone) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer r.close()
	note := func(list *[]string, text string) {
		if !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	for _, x := range r.rules {
		switch uses := r.uses(x, index); {
		case slices.Contains(uses, strange):
			note(&f.Stuck, "a rule of the nftables chain "+place(x.family, x.table, x.chain))
		case slices.ContainsFunc(uses, func(u use) bool { return u != unused }):
			note(&f.Move, "rules of the nftables chain "+place(x.family, x.table, x.chain))
		}
	}
	for _, s := range r.sets {
		if s.anonymous() {
			continue
		}
		switch uses, doubt := s.uses(index); {
		case doubt, uses && r.owned[place(s.family, s.table, "")]:
			note(&f.Stuck, "the nftables set "+place(s.family, s.table, s.name))
		case uses:
			note(&f.Move, "the nftables set "+place(s.family, s.table, s.name))
		}
	}
	return f, nil
}

func place(family byte, table, name string) string {
	names := map[byte]string{
		byte(nftables.TableFamilyINet): "inet", byte(nftables.TableFamilyIPv4): "ip", byte(nftables.TableFamilyIPv6): "ip6",
		byte(nftables.TableFamilyARP): "arp", byte(nftables.TableFamilyNetdev): "netdev", byte(nftables.TableFamilyBridge): "bridge",
	}
	return names[family] + " " + table + " " + name
}

// mode is which of two devices a rule is to match.
type mode struct {
	from, to int
	equal    int  // the one that comparisons for equality have: from or to
	both     bool // others let both count, else to alone
}

// batch is one transaction of the kernel.
type batch struct {
	messages []netlink.Message
	sets     uint32
}

func (b *batch) add(kind uint16, flags netlink.HeaderFlags, family byte, a attributes) {
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem | kind), Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(head(family), a.bytes()...),
	})
}

// changed returns a rule's expressions for a mode. The anonymous sets of a rule can be used by it alone, so they are
// made anew.
func (r *ruleset) changed(b *batch, x rule, m mode) []expression {
	var out []expression
	uses := r.uses(x, m.from)
	others := r.uses(x, m.to)
	for i, e := range x.exprs {
		switch {
		case uses[i] == equal:
			out = append(out, e.compare(m.equal))
		case uses[i] == unequal && slices.Contains(others, unequal):
			if m.both {
				out = append(out, e)
			} else {
				out = out[:len(out)-1] // with the load before it
			}
		case uses[i] == unequal && m.both:
			out = append(out, e, x.exprs[i-1], e.compare(m.to))
		case uses[i] == unequal:
			out = append(out, e.compare(m.to))
		case e.name == "lookup" && b != nil:
			s := r.set(x, e.data.text(lookupSet))
			if s == nil || !s.anonymous() {
				out = append(out, e)
				continue
			}
			id := b.cloneSet(s, m, uses[i] == listed)
			e.data = e.data.with(lookupSet, append([]byte(s.pattern()), 0)).with(lookupSetID, big(id))
			out = append(out, e)
		default:
			out = append(out, e)
		}
	}
	return out
}

func (e expression) compare(index int) expression {
	value := binary.NativeEndian.AppendUint32(nil, uint32(index))
	inner := parse(e.data.get(cmpData)).with(dataValue, value)
	return expression{e.name, e.data.with(cmpData, inner.bytes())}
}

// moved are a set's elements for a mode.
func (s *set) moved(m mode) []attributes {
	offsets, _ := s.offsets()
	var list []attributes
	for _, e := range s.elements {
		key := keyOf(e)
		if !has(key, offsets, m.from) {
			list = append(list, e)
			continue
		}
		if m.both {
			list = append(list, e)
		}
		other := renumbered(key, offsets, m.from, m.to)
		if slices.ContainsFunc(s.elements, func(o attributes) bool { return bytes.Equal(keyOf(o), other) }) {
			continue
		}
		list = append(list, e.with(elemKey, parse(e.get(elemKey)).with(dataValue, other).bytes()))
	}
	return list
}

// pattern is the name by which the kernel is asked for an anonymous set: it puts in a number.
func (s *set) pattern() string { return strings.TrimRight(s.name, "0123456789") + "%d" }

func (b *batch) cloneSet(s *set, m mode, move bool) uint32 {
	b.sets++
	id := b.sets
	name := s.pattern()
	// Those that are reported only are refused.
	attrs := slices.DeleteFunc(slices.Clone(s.attrs), func(a netlink.Attribute) bool {
		kind := a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		return kind > unix.NFTA_SET_USERDATA
	})
	if desc := parse(s.attrs.get(unix.NFTA_SET_DESC)); desc != nil {
		// It had room for the elements that it was made with.
		attrs = attrs.with(unix.NFTA_SET_DESC, desc.with(unix.NFTA_SET_DESC_SIZE, big(uint32(2*len(s.elements)))).bytes())
	}
	attrs = attrs.with(unix.NFTA_SET_NAME, append([]byte(name), 0)).with(unix.NFTA_SET_ID, big(id))
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, s.family, attrs)
	elements := s.elements
	if move {
		elements = s.moved(m)
	}
	b.elements(unix.NFT_MSG_NEWSETELEM, s, name, id, elements)
	return id
}

// elementsPerMessage keeps a list of elements within the 64 KiB of an attribute.
const elementsPerMessage = 200

func (b *batch) elements(kind uint16, s *set, name string, id uint32, elements []attributes) {
	for part := range slices.Chunk(elements, elementsPerMessage) {
		var list attributes
		for _, e := range part {
			list = append(list, nested(listElem, e))
		}
		attrs := attributes{text(unix.NFTA_SET_ELEM_LIST_TABLE, s.table), text(elemListSet, name)}
		if id != 0 {
			attrs = append(attrs, netlink.Attribute{Type: elemListSID, Data: big(id)})
		}
		b.add(kind, netlink.Create, s.family, append(attrs, nested(elemListElements, list)))
	}
}

// write adds a rule to a batch: in place of the one with that handle, or behind it.
func (b *batch) write(x rule, exprs []expression, replace bool) {
	var list attributes
	for _, e := range exprs {
		list = append(list, nested(listElem, attributes{text(exprName, e.name), nested(exprData, e.data)}))
	}
	attrs := attributes{text(unix.NFTA_RULE_TABLE, x.table), text(unix.NFTA_RULE_CHAIN, x.chain)}
	flags := netlink.Replace
	if replace {
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_RULE_HANDLE, Data: x.handle})
	} else {
		attrs, flags = append(attrs, netlink.Attribute{Type: unix.NFTA_RULE_POSITION, Data: x.handle}), netlink.Create|netlink.Append
	}
	attrs = append(attrs, nested(unix.NFTA_RULE_EXPRESSIONS, list))
	if x.userdata != nil {
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: x.userdata})
	}
	b.add(unix.NFT_MSG_NEWRULE, flags, x.family, attrs)
}

// normal is a form in which rules that do the same are the same, whatever their anonymous sets are called.
func (r *ruleset) normal(x rule, exprs []expression) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s\n", x.family, x.table, x.chain)
	for _, e := range exprs {
		data := e.data
		if s := r.set(x, e.data.text(lookupSet)); e.name == "lookup" && s != nil && s.anonymous() {
			var keys []string
			for _, el := range s.elements {
				keys = append(keys, string(el.bytes()))
			}
			slices.Sort(keys)
			data = data.with(lookupSet, []byte(strings.Join(keys, "")))
		}
		if e.name == "counter" || e.name == "limit" || e.name == "quota" || e.name == "last" {
			data = nil // the state of the moment
		}
		fmt.Fprintf(&b, "%s %x\n", e.name, data.bytes())
	}
	return b.String()
}

// Both makes what matches one device match another as well. Rules are added beside those for the first; doing it
// again changes nothing.
func (r *Rules) Both(from, to int) error {
	return r.change("have packet filter rules match both", func(s *ruleset, b *batch) {
		for i, x := range s.rules {
			uses := s.uses(x, from)
			if slices.Contains(uses, strange) {
				continue
			}
			asIs := mode{from, to, from, true}
			if s.incomplete(x, uses, to) {
				b.write(x, s.changed(b, x, asIs), true)
			}
			if !slices.Contains(uses, equal) {
				continue
			}
			copied := mode{from, to, to, true}
			if !s.beside(i, copied) {
				b.write(x, s.changed(b, x, copied), false)
			}
		}
		for _, t := range s.sets {
			if uses, doubt := t.uses(from); !t.anonymous() && uses && !doubt && !s.owned[place(t.family, t.table, "")] {
				b.elements(unix.NFT_MSG_NEWSETELEM, t, t.name, 0, t.difference(mode{from, to, to, true}))
			}
		}
	})
}

// beside tells whether the rule for a mode is there already, before or behind the one with number i.
func (r *ruleset) beside(i int, m mode) bool {
	want := r.normal(r.rules[i], r.changed(nil, r.rules[i], m))
	return slices.ContainsFunc([]int{i - 1, i + 1}, func(j int) bool {
		return j >= 0 && j < len(r.rules) && r.normal(r.rules[j], r.rules[j].exprs) == want
	})
}

// incomplete tells whether inequalities and anonymous sets of a rule lack the other device.
func (r *ruleset) incomplete(x rule, uses []use, to int) bool {
	others := r.uses(x, to)
	for i, u := range uses {
		switch u {
		case unequal:
			if !slices.Contains(others, unequal) {
				return true
			}
		case listed:
			if others[i] != listed {
				return true
			}
		}
	}
	return false
}

// difference are the elements that a set lacks for a mode.
func (s *set) difference(m mode) []attributes {
	return slices.DeleteFunc(s.moved(m), func(e attributes) bool {
		return slices.ContainsFunc(s.elements, func(o attributes) bool { return bytes.Equal(keyOf(o), keyOf(e)) })
	})
}

// Only is the second half of a move: what Both made match both devices matches the second one only.
func (r *Rules) Only(from, to int) error {
	return r.change("have packet filter rules match the new device only", func(s *ruleset, b *batch) {
		for i, x := range s.rules {
			uses := s.uses(x, from)
			switch {
			case slices.Contains(uses, strange):
			case slices.Contains(uses, equal) && s.beside(i, mode{from, to, to, true}):
				b.add(unix.NFT_MSG_DELRULE, 0, x.family, attributes{
					text(unix.NFTA_RULE_TABLE, x.table), text(unix.NFTA_RULE_CHAIN, x.chain),
					{Type: unix.NFTA_RULE_HANDLE, Data: x.handle},
				})
			case slices.ContainsFunc(uses, func(u use) bool { return u != unused }):
				b.write(x, s.changed(b, x, mode{from, to, to, false}), true)
			}
		}
		for _, t := range s.sets {
			if uses, doubt := t.uses(from); !t.anonymous() && uses && !doubt && !s.owned[place(t.family, t.table, "")] {
				offsets, _ := t.offsets()
				var gone []attributes
				for _, e := range t.elements {
					if has(keyOf(e), offsets, from) {
						gone = append(gone, attributes{{Type: elemKey | unix.NLA_F_NESTED, Data: e.get(elemKey)}})
					}
				}
				b.elements(unix.NFT_MSG_DELSETELEM, t, t.name, 0, gone)
			}
		}
	})
}

// change reads the rules, collects changes of them and makes them, as one transaction. Where somebody else changed
// them meanwhile, that begins again.
func (r *Rules) change(what string, collect func(s *ruleset, b *batch)) error {
	for try := 1; ; try++ {
		err := r.tryChange(what, collect)
		if try < tries && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ERESTART)) {
			continue
		}
		return err
	}
}

func (r *Rules) tryChange(what string, collect func(s *ruleset, b *batch)) error {
	s, err := read()
	if errors.Is(err, errNone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.close()
	b := &batch{}
	collect(s, b)
	if len(b.messages) == 0 {
		return nil
	}
	if r.Before != nil {
		if err := r.Before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := s.commit(b); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (r *ruleset) commit(b *batch) error {
	frame := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   append([]byte{0, unix.NFNETLINK_V0}, 0, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	messages := slices.Concat([]netlink.Message{frame(unix.NFNL_MSG_BATCH_BEGIN)}, b.messages, []netlink.Message{frame(unix.NFNL_MSG_BATCH_END)})
	sent, err := r.conn.SendMessages(messages)
	if err != nil {
		return err
	}
	// Each is acknowledged; the error of one is that of all.
	waiting := map[uint32]bool{}
	for _, m := range sent[1 : len(sent)-1] {
		waiting[m.Header.Sequence] = true
	}
	for len(waiting) > 0 {
		answers, err := r.conn.Receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			delete(waiting, a.Header.Sequence)
		}
	}
	return nil
}
