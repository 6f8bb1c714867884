package filter

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// NATTable is the name of the table that masquerades; its family is ip.
const NATTable = "xend_nat"

// Masquerade gives what this machine forwards out of a device the machine's own address; "" takes that back. Packets of
// the machine itself keep theirs.
func (f *Filter) Masquerade(device string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open the packet filter: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return unsupported("read the packet filter", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: NATTable}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == NATTable }) {
		c.DelTable(table)
	} else if device == "" {
		return nil
	}
	what := "stop masquerading"
	if device != "" {
		what = "masquerade out of " + device
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(device)},
			&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.RTN_LOCAL, 0, 0, 0}},
			&expr.Masq{},
		}})
	}
	if err := f.commit(c, what); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w (the kernel needs CONFIG_NFT_MASQ and CONFIG_NFT_FIB_IPV4)", err)
		}
		return err
	}
	return nil
}

// Masquerading is whether the table is there.
func (*Filter) Masquerading() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	return err == nil && slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == NATTable })
}
