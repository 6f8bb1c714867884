package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Lists are JSON with --json, and have what is asked for only.
func TestListsAsJSON(t *testing.T) {
	const id = "0000:0000:0000:0000:0000:0000:0000:00"
	varp := "(varp (device eth0) (addr))(ventry (addr 192.0.2.2) (vnet " + id + "97))(ventry (addr 192.0.2.3) (vnet " + id + "97))(ventry (addr 192.0.2.2) (vnet " + id + "98))"
	vnets := "(vnet (id " + id + "97) (vnetif vnif97))(vnet (id " + id + "98) (vnetif vnif98))"
	for _, tt := range []struct{ args, reply, want string }{
		{"varp --json --host 192.0.2.3", varp, `[{"addr":"","device":"eth0","form":"varp"},{"addr":"192.0.2.3","form":"ventry","vnet":"` + id + `97"}]`},
		{"varp --json --vnet 98", varp, `[{"addr":"","device":"eth0","form":"varp"},{"addr":"192.0.2.2","form":"ventry","vnet":"` + id + `98"}]`},
		{"vnets --json 98", vnets, `[{"form":"vnet","id":"` + id + `98","vnetif":"vnif98"}]`},
		{"peers --json", "", `[]`},
		{"mtu --json", "(mtu (mtu 1500) (path (to group) (mtu 1500)) (path (to host)))", `[{"form":"mtu","mtu":"1500","path":[{"form":"path","mtu":"1500","to":"group"},{"form":"path","to":"host"}]}]`},
		{"key-status --json", "(keys (vnet x) (sender (addr a) (addr b) (kid k)))", `[{"form":"keys","sender":[{"addr":["a","b"],"form":"sender","kid":"k"}],"vnet":"x"}]`},
		{"key-status --json --vnet 98 --host b", "(keys (vnet " + id + "97) (sender (addr a)))(keys (vnet " + id + "98) (sender (addr a) (addr b) (kid k)) (sender (addr c)))",
			`[{"form":"keys","sender":[{"addr":["a","b"],"form":"sender","kid":"k"}],"vnet":"` + id + `98"}]`},
		{"mtu --json --host 192.0.2.2", "(mtu (mtu 1500) (path (to group) (addr 224.10.0.1)) (path (to host) (addr 192.0.2.2)))", `[{"form":"mtu","mtu":"1500","path":[{"addr":"192.0.2.2","form":"path","to":"host"}]}]`},
		{"vnifs --json no-such-vnif", vnets, `[]`},
		{"bridges --json no-such-bridge", "", `[]`},
	} {
		h := newHost(t)
		h.daemon(tt.reply)
		stdout, stderr, status := h.vn(strings.Fields(tt.args)...)
		require.Zero(t, status, stderr)
		require.JSONEq(t, tt.want, stdout, tt.args)
	}
	h := newHost(t)
	h.daemon("(mtu (mtu 1500))")
	_, stderr, status := h.vn("mtu", "--host", "192.0.2.9")
	require.NotZero(t, status)
	require.Contains(t, stderr, "no way to 192.0.2.9 is known")
	h = newHost(t)
	h.daemon(varp)
	stdout, _, _ := h.vn("varp", "--vnet", "98")
	require.NotContains(t, stdout, "0097")
	require.Contains(t, stdout, "0098")
}
