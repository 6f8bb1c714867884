package bound

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/netscripts/internal/nstest"
)

// everything has each way in which a rule can name a device by its index.
const everything = `table inet f {
	set uplinks { type iface_index; elements = { eth0, lo } }
	set flows { type iface_index . inet_service; elements = { eth0 . 22, lo . 80 } }
	map where { type iface_index : verdict; elements = { eth0 : accept } }
	chain in {
		type filter hook input priority 0; policy accept;
		iif eth0 tcp dport { 22, 80 } counter accept comment "ssh"
		iif eth0 tcp dport 3306 drop
		iif != eth0 udp dport 53 drop
		iif { eth0, lo } accept
		iif vmap { eth0 : accept, lo : drop }
		iif . tcp dport { eth0 . 22, lo . 80 } accept
		iif @uplinks accept
		iif . tcp dport @flows accept
		iif vmap @where
		iifname "eth0" drop
		iif eth0 iif != eth0 oif eth0 limit rate 3/second log prefix "x" drop
		fib saddr oif eth0 accept
		meta l4proto tcp ip saddr 10.0.0.0/8 ct state established accept
	}
}
table ip n {
	chain post {
		type nat hook postrouting priority 100;
		oif eth0 masquerade
	}
}
`

func list(t *testing.T, h *nstest.Host) string {
	out, err := h.Output(exec.Command("nft", "list", "ruleset"))
	require.NoError(t, err, out)
	return strings.ReplaceAll(out, `"`, "") // some names are quoted in some places
}

// Rules move to another device and back in two halves, each of which may be repeated, and undone by the reverse.
func TestMoveRules(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("the nft program is not there to make rules with; make test installs it")
	}
	t.Parallel()
	h := nstest.New(t)
	h.IP("link add eth0 type veth peer name far0\nlink add br0 type bridge")
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(everything)
	out, err := h.Output(load)
	require.NoError(t, err, out)
	eth0, br0 := h.Index("eth0"), h.Index("br0")
	before := list(t, h)
	do := func(fn func(from, to int) error, from, to int) string {
		require.NoError(t, h.Do(func() error { return fn(from, to) }))
		once := list(t, h)
		require.NoError(t, h.Do(func() error { return fn(from, to) }))
		require.Equal(t, once, list(t, h), "twice is once")
		return once
	}
	r := &Rules{}
	var found Found
	require.NoError(t, h.Do(func() (err error) {
		found, err = r.Find(eth0)
		return err
	}))
	require.ElementsMatch(t, []string{
		"rules of the nftables chain inet f in", "rules of the nftables chain ip n post",
		"the nftables set inet f uplinks", "the nftables set inet f flows", "the nftables set inet f where",
	}, found.Move)
	require.Empty(t, found.Stuck)

	both := do(r.Both, eth0, br0)
	for _, line := range []string{
		"iif eth0 tcp dport { 22, 80 } counter packets 0 bytes 0 accept comment ssh\n\t\tiif br0 tcp dport { 22, 80 } counter packets 0 bytes 0 accept comment ssh",
		"iif eth0 tcp dport 3306 drop\n\t\tiif br0 tcp dport 3306 drop",
		"iif != eth0 iif != br0 udp dport 53 drop",
		"oif eth0 masquerade\n\t\toif br0 masquerade",
		"fib saddr oif eth0 accept\n\t\tfib saddr oif br0 accept",
	} {
		require.Contains(t, both, line)
	}
	// Undone half way.
	require.NoError(t, h.Do(func() error { return r.Both(br0, eth0) }))
	require.NoError(t, h.Do(func() error { return r.Only(br0, eth0) }))
	require.Equal(t, before, list(t, h))

	do(r.Both, eth0, br0)
	after := do(r.Only, eth0, br0)
	want := strings.ReplaceAll(strings.ReplaceAll(before, "iifname eth0", "KEEP"), "eth0", "br0")
	require.Equal(t, sorted(strings.ReplaceAll(want, "KEEP", "iifname eth0")), sorted(after))
	do(r.Both, br0, eth0)
	require.Equal(t, sorted(before), sorted(do(r.Only, br0, eth0)))

}

// sorted has the elements of each set in one order.
func sorted(rules string) string {
	var b strings.Builder
	for line := range strings.Lines(rules) {
		words := strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
		if strings.Contains(line, "{ ") && strings.Contains(line, " }") {
			slices.Sort(words)
		}
		b.WriteString(strings.Join(words, " ") + "\n")
	}
	return b.String()
}
