package main

import (
	"bytes"
	"testing"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/cli/clitest"
)

// manual is what vn(8) says besides the table of commands.
var manual = cli.Manual{
	Section: 8,
	Date:    "November 22, 2026",
	Source:  "cmd/vn",
	Line:    "look into the vnets of this host, and change them while they run",
	Description: `
.Nm
shows what the data plane of
.Xr xend 8
knows and does: its vnets, which address lives where, its peers, what it drops.
It can also change that until the daemon restarts.
Vnets that last are made with
.Xr xm 1 ,
and peers that last stand in
.Xr vnet.toml 5 .
.Pp
Without a command it prints help.
Options may stand before, between and after arguments.
.Pp
Vnets, addresses and peers are printed as S-expressions with an empty line
after each, sorted by vnet id and then by address.
Every list is printed as JSON with
.Fl -json .
`,
	After: []cli.Section{
		{Title: "ENVIRONMENT", Text: `
.Bl -tag -width Ds
.It Ev XEND_PREFIX
the same as
.Fl -prefix .
.El
`},
		{Title: "FILES", Text: `
.Bl -tag -width Ds
.It Pa /run/xend/vnetd.sock
the daemon's control socket
.El
`},
		{Title: "EXIT STATUS", Text: `
.Ex -std
.Cm check
exits with 1 where there are warnings, and 2 where something is cut off.
Errors are printed to standard error as
.Dq vn: Ar text .
`},
		{Title: "EXAMPLES", Text: `
Something does not work:
.Bd -literal -offset indent
vn check
vn trace 10.97.0.12
vn capture -w /tmp/97.pcapng 97
.Ed
.Pp
Open what another program captured of a vnet with security:
.Bd -literal -offset indent
tcpdump -i eth0 -w /root/eth0.pcap 'udp port 4500 or ip proto 50'
vn capture -r /root/eth0.pcap -w /root/98.pcapng 98
.Ed
.Pp
See who lives where:
.Bd -literal -offset indent
vn vnets -a 97
.Ed
.Pp
Make a vnet with a bridge for an afternoon, and remove both:
.Bd -literal -offset indent
vn vnet-create -b vnet97 97
vn vnet-delete -b 97
.Ed
`},
		{Title: "SEE ALSO", Text: `
.Xr xm 1 ,
.Xr vnet.toml 5 ,
.Xr xend 8
`},
	},
}

func TestGenerated(t *testing.T) {
	var out bytes.Buffer
	table := newApp(&out, &out).table
	clitest.Generated(t, "../../man/vn.8", table.Mdoc(manual))
	lists := map[cli.Kind]string{
		cli.Vnet:   `"$@" vnets | sed -n 's/.*(vnetif \([^)]*\)).*/\1/p'`,
		cli.Peer:   `"$@" peers | sed -n 's/.*(addr \([^)]*\)).*/\1/p'`,
		cli.Device: `ls /sys/class/net`,
	}
	clitest.Generated(t, "../../completions/vn.bash", table.Bash("cmd/vn", lists))
	clitest.Generated(t, "../../completions/_vn", table.Zsh("cmd/vn", lists))
	clitest.Generated(t, "../../completions/vn.fish", table.Fish("cmd/vn", lists))
}

func TestMentions(t *testing.T) {
	var out bytes.Buffer
	clitest.Mentions(t, newApp(&out, &out).table)
}
