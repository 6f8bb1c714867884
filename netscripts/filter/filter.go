// Package filter keeps domains to their own addresses, by nftables in the bridge family: no
// connection tracking, no bridge netfilter, no nft program. All its rules are in one table of its
// own; nobody else's rules are touched, and every change is one transaction of the kernel.
//
// The table has
//
//   - a map from the name of a virtual interface to the chain that judges what comes from it,
//     looked at before the bridge decides where a frame goes, so that it also covers what is for
//     the machine itself;
//   - for each guarded bridge, a set of the ports that may send over it and a chain that drops
//     what others forward.
package filter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the table's name; its family is bridge.
const TableName = "xend_vifs"

const (
	mapName      = "vifs"
	judgeChain   = "from_vifs"
	vifPrefix    = "vif-"     // chain of a virtual interface
	targetSuffix = "-target"  // chain for what it claims by neighbour advertisements
	guardPrefix  = "forward-" // chain of a guarded bridge
	portsPrefix  = "ports-"   // set of a guarded bridge
)

// nativeNames makes the nft program show names as such.
var nativeNames = binaryutil.NativeEndian

// Priorities: before those that nft calls dstnat (-300) and filter (-200) in this family.
var (
	judgePriority = nftables.ChainPriorityRef(-310)
	guardPriority = nftables.ChainPriorityRef(-210)
)

// Filter changes the table in the network namespace of the calling thread. Runs at the same time
// must be kept apart by a lock.
type Filter struct {
	// Before, if set, is called before each change with a description of it; an error of it is
	// returned instead of making the change.
	Before func(what string) error
}

// Vif is a virtual interface and what may come from it.
type Vif struct {
	Name   string
	Bridge string // that it is on
	// MAC, if known, is the only source MAC, where addresses are limited.
	MAC net.HardwareAddr
	// Addresses are the only source addresses, of IPv4 and IPv6, besides what DHCP and address
	// resolution need. Without any, everything may come.
	Addresses []netip.Prefix
}

// table is what exists of the table.
type table struct {
	*nftables.Table
	exists bool
	chains []string
	guards []string // bridges
}

func open() (*nftables.Conn, *table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("open the packet filter: %w", err)
	}
	t := &table{Table: &nftables.Table{Family: nftables.TableFamilyBridge, Name: TableName}}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, nil, unsupported("read the packet filter", err)
	}
	t.exists = slices.ContainsFunc(tables, func(o *nftables.Table) bool { return o.Name == TableName })
	if !t.exists {
		return c, t, nil
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, nil, fmt.Errorf("read the packet filter: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != TableName {
			continue
		}
		t.chains = append(t.chains, chain.Name)
		if bridge, ok := strings.CutPrefix(chain.Name, guardPrefix); ok {
			t.guards = append(t.guards, bridge)
		}
	}
	return c, t, nil
}

// unsupported says what is missing where the kernel has no nftables.
func unsupported(what string, err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: the kernel needs nftables for bridges (CONFIG_NF_TABLES_BRIDGE): %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// commit sends what was collected, as one transaction.
func (f *Filter) commit(c *nftables.Conn, what string) error {
	if f.Before != nil {
		if err := f.Before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := c.Flush(); err != nil {
		return unsupported(what, err)
	}
	return nil
}

func (t *table) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: t.Table, Name: name}
}

func (t *table) ports(bridge string) *nftables.Set {
	return &nftables.Set{
		Table: t.Table, Name: portsPrefix + bridge,
		KeyType: nftables.TypeIFName, KeyByteOrder: nativeNames,
	}
}

func (t *table) vifs() *nftables.Set {
	return &nftables.Set{
		Table: t.Table, Name: mapName, IsMap: true,
		KeyType: nftables.TypeIFName, KeyByteOrder: nativeNames, DataType: nftables.TypeVerdict,
	}
}

// ifname is a device's name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// Guarded tells whether a bridge is guarded.
func (f *Filter) Guarded(bridge string) (bool, error) {
	_, t, err := open()
	if err != nil {
		return false, err
	}
	return slices.Contains(t.guards, bridge), nil
}

// Guard drops what is forwarded over a bridge, but for what comes from ports and from those that
// SetVif adds later. Guarding twice adds the ports. exact is false where the kernel cannot tell
// the bridge (no CONFIG_NFT_BRIDGE_META): then frames between two ports that are both unknown pass.
func (f *Filter) Guard(bridge string, ports ...string) (exact bool, err error) {
	if exact, err = true, f.guard(bridge, ports, true); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		exact, err = false, f.guard(bridge, ports, false)
	}
	return exact, err
}

func (f *Filter) guard(bridge string, ports []string, exact bool) error {
	c, t, err := open()
	if err != nil {
		return err
	}
	c.AddTable(t.Table)
	set := t.ports(bridge)
	elements := make([]nftables.SetElement, len(ports))
	for i, p := range ports {
		elements[i].Key = ifname(p)
	}
	if err := c.AddSet(set, elements); err != nil {
		return fmt.Errorf("guard %s: %w", bridge, err)
	}
	chain := t.chain(guardPrefix + bridge)
	chain.Type, chain.Hooknum, chain.Priority = nftables.ChainTypeFilter, nftables.ChainHookForward, guardPriority
	c.AddChain(chain)
	c.FlushChain(chain)
	known := func(key expr.MetaKey) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: key, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		}
	}
	add := func(verdict expr.VerdictKind, match ...expr.Any) {
		c.AddRule(&nftables.Rule{Table: t.Table, Chain: chain, Exprs: append(match, &expr.Verdict{Kind: verdict})})
	}
	add(expr.VerdictAccept, known(expr.MetaKeyIIFNAME)...)
	if exact {
		add(expr.VerdictDrop, &expr.Meta{Key: expr.MetaKeyBRIIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(bridge)})
	} else {
		add(expr.VerdictDrop, known(expr.MetaKeyOIFNAME)...)
	}
	return f.commit(c, "guard "+bridge)
}

// Unguard lets everything be forwarded over a bridge again, but for what virtual interfaces with
// limited addresses may not send. Not being guarded is no error.
func (f *Filter) Unguard(bridge string) error {
	c, t, err := open()
	if err != nil {
		return err
	}
	if !slices.Contains(t.guards, bridge) {
		return nil
	}
	c.DelChain(t.chain(guardPrefix + bridge))
	c.DelSet(t.ports(bridge))
	t.drop(guardPrefix + bridge)
	t.deleteIfIdle(c)
	return f.commit(c, "stop guarding "+bridge)
}

// drop notes that chains will be gone.
func (t *table) drop(names ...string) {
	t.chains = slices.DeleteFunc(t.chains, func(n string) bool { return slices.Contains(names, n) })
}

// deleteIfIdle removes the table with the last of what it is for.
func (t *table) deleteIfIdle(c *nftables.Conn) {
	if !slices.ContainsFunc(t.chains, func(n string) bool { return n != judgeChain }) {
		c.DelTable(t.Table)
	}
}

// SetVif makes the rules of a virtual interface what v says, whatever they were.
func (f *Filter) SetVif(v Vif) error {
	c, t, err := open()
	if err != nil {
		return err
	}
	guarded := slices.Contains(t.guards, v.Bridge)
	if err := t.removeVif(c, v.Name, v.Bridge); err != nil {
		return err
	}
	if guarded {
		if err := c.SetAddElements(t.ports(v.Bridge), []nftables.SetElement{{Key: ifname(v.Name)}}); err != nil {
			return err
		}
	}
	if len(v.Addresses) > 0 {
		if err := t.addVif(c, v); err != nil {
			return err
		}
	} else {
		if !t.exists {
			return nil
		}
		t.deleteIfIdle(c)
	}
	return f.commit(c, "filter what comes from "+v.Name)
}

// RemoveVif removes what there is for a virtual interface.
func (f *Filter) RemoveVif(name string) error {
	c, t, err := open()
	if err != nil || !t.exists {
		return err
	}
	if err := t.removeVif(c, name, ""); err != nil {
		return err
	}
	t.deleteIfIdle(c)
	return f.commit(c, "remove the filter of "+name)
}

// removeVif collects the removal of all there is for a virtual interface, but for its place among the
// ports of one bridge.
func (t *table) removeVif(c *nftables.Conn, name, keep string) error {
	if !t.exists {
		return nil
	}
	for _, bridge := range t.guards {
		if bridge == keep {
			continue
		}
		if err := removeElement(c, t.ports(bridge), name); err != nil {
			return err
		}
	}
	chain := vifPrefix + name
	if !slices.Contains(t.chains, chain) {
		return nil
	}
	if err := removeElement(c, t.vifs(), name); err != nil {
		return err
	}
	for _, n := range []string{chain, chain + targetSuffix} {
		if slices.Contains(t.chains, n) {
			c.FlushChain(t.chain(n))
		}
	}
	for _, n := range []string{chain, chain + targetSuffix} {
		if slices.Contains(t.chains, n) {
			c.DelChain(t.chain(n))
		}
	}
	t.drop(chain, chain+targetSuffix)
	return nil
}

// removeElement collects the removal of a name from a set that may not have it.
func removeElement(c *nftables.Conn, set *nftables.Set, name string) error {
	elements, err := c.GetSetElements(set)
	if err != nil {
		return fmt.Errorf("read the packet filter: %w", err)
	}
	for _, e := range elements {
		if string(e.Key) == string(ifname(name)) {
			return c.SetDeleteElements(set, []nftables.SetElement{{Key: e.Key, VerdictData: e.VerdictData}})
		}
	}
	return nil
}

// addVif collects the chain of a virtual interface and its place in the map.
func (t *table) addVif(c *nftables.Conn, v Vif) error {
	c.AddTable(t.Table)
	set := t.vifs()
	if err := c.AddSet(set, nil); err != nil {
		return err
	}
	judge := t.chain(judgeChain)
	judge.Type, judge.Hooknum, judge.Priority = nftables.ChainTypeFilter, nftables.ChainHookPrerouting, judgePriority
	c.AddChain(judge)
	c.FlushChain(judge)
	c.AddRule(&nftables.Rule{Table: t.Table, Chain: judge, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
	}})
	chain := c.AddChain(t.chain(vifPrefix + v.Name))
	var target *nftables.Chain
	if slices.ContainsFunc(v.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		target = c.AddChain(t.chain(chain.Name + targetSuffix))
		for _, r := range targetRules(v.Addresses) {
			c.AddRule(&nftables.Rule{Table: t.Table, Chain: target, Exprs: r})
		}
	}
	for _, r := range vifRules(v, chain.Name+targetSuffix) {
		c.AddRule(&nftables.Rule{Table: t.Table, Chain: chain, Exprs: r})
	}
	return c.SetAddElements(set, []nftables.SetElement{{
		Key:         ifname(v.Name),
		VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name},
	}})
}
