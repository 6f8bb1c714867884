package hostnet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLinkTable: what events tell is found by every way of asking, and nothing else.
func TestLinkTable(t *testing.T) {
	names := func(list []Link) (names []string) {
		for _, l := range list {
			names = append(names, l.Name)
		}
		return names
	}
	table := NewLinkTable([]Link{
		{Index: 1, Name: "lo"}, {Index: 5, Name: "br0", Kind: "bridge"}, {Index: 7, Name: "a", Kind: "veth", Partner: 8, Master: 5},
		{Index: 8, Name: "b", Kind: "veth", Partner: 7},
	})
	require.Equal(t, []string{"lo", "br0", "a", "b"}, names(table.All()))
	require.Equal(t, []string{"a"}, names(table.Ports(5)))
	require.Empty(t, table.Above(5))
	require.Equal(t, 7, table.ByName("a").Index)
	require.Zero(t, table.ByName("c"))

	require.Zero(t, table.Apply(LinkEvent{Link: Link{Index: 9, Name: "br0.5", Kind: "vlan", Partner: 5}}))
	require.Equal(t, []string{"br0.5"}, names(table.Above(5)))

	// Names that change hands, in the order in which the kernel tells of it.
	require.Equal(t, "a", table.Apply(LinkEvent{Link: Link{Index: 7, Name: "x", Kind: "veth", Partner: 8}}).Name)
	require.Empty(t, table.Ports(5), "it left its bridge, too")
	table.Apply(LinkEvent{Link: Link{Index: 8, Name: "a", Kind: "veth", Partner: 7}})
	require.Equal(t, 8, table.ByName("a").Index)
	table.Apply(LinkEvent{Link: Link{Index: 7, Name: "b", Kind: "veth", Partner: 8}})
	require.Equal(t, 8, table.ByName("a").Index)
	require.Zero(t, table.ByName("x"))

	// The kernel does not tell the other end of a pair that one has come or gone.
	require.Equal(t, 7, table.Apply(LinkEvent{Link: Link{Index: 7}, Gone: true}).Index)
	require.Zero(t, table.ByIndex(8).Partner)
	require.Zero(t, table.ByIndex(7))
	table.Apply(LinkEvent{Link: Link{Index: 20, Name: "one", Kind: "veth"}})
	table.Apply(LinkEvent{Link: Link{Index: 21, Name: "two", Kind: "veth", Partner: 20}})
	require.Equal(t, 21, table.ByIndex(20).Partner)

	table.Apply(LinkEvent{Link: Link{Index: 9}, Gone: true})
	require.Empty(t, table.Above(5))
	require.Equal(t, []string{"lo", "br0", "a", "one", "two"}, names(table.All()))
}
