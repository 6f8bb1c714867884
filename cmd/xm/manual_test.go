package main

import (
	"bytes"
	"testing"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/cli/clitest"
)

// manual is what xm(1) says besides the table of commands.
var manual = cli.Manual{
	Section: 1,
	Date:    "November 22, 2026",
	Source:  "cmd/xm",
	Line:    "manage vnets and domains",
	Description: `
.Nm
asks the daemon
.Xr xend 8
to do something, and prints what it answers.
A sub-command may be shortened to its first two letters or more,
as long as no other command begins with them.
Options may stand before, between and after arguments.
`,
	After: []cli.Section{
		{Title: "ENVIRONMENT", Text: `
.Bl -tag -width Ds
.It Ev XEND
.Ar host Ns Op : Ns Ar port :
a daemon to talk to over TCP, by default at port 8000.
.It Ev XM_SERVER
.Li httpu:/// Ns Ar path
or
.Li http:// Ns Ar host : Ns Ar port :
an XML-RPC server to talk to.
It wins over
.Ev XEND .
.It Ev XEND_PREFIX
the same as
.Fl -prefix .
.It Ev XEND_CONFIG
the configuration file to read instead of
.Pa /etc/xen/xend-config.sxp .
.El
`},
		{Title: "FILES", Text: `
.Bl -tag -width Ds
.It Pa /var/lib/xend/xend-socket
the daemon's socket, unless
.Pa /etc/xen/xend-config.sxp
names another with
.Li xend-unix-path .
.El
`},
		{Title: "EXIT STATUS", Text: `
.Ex -std
Errors are printed to standard error as
.Dq Error: Ar text ;
only
.Dq File not found: Ar name
goes to standard output.
.Cm vnet-list
counts ids that do not exist as no error.
`},
		{Title: "EXAMPLES", Text: `
Create a vnet, look at it, and delete it:
.Bd -literal -offset indent
xm vnet-create /etc/xen/vnet97.sxp
xm vnet-list -l 97
xm vnet-delete 97
.Ed
`},
		{Title: "SEE ALSO", Text: `
.Xr vnet.sxp 5 ,
.Xr vn 8 ,
.Xr xend 8
`},
	},
}

func TestGenerated(t *testing.T) {
	var out bytes.Buffer
	table := newApp(&out, &out).table
	clitest.Generated(t, "../../man/xm.1", table.Mdoc(manual))
	lists := map[cli.Kind]string{
		cli.Vnet:   `"$@" vnet-list`,
		cli.Domain: `"$@" list | awk 'NR > 1 { print $1 }'`,
	}
	clitest.Generated(t, "../../completions/xm.bash", table.Bash("cmd/xm", lists))
	clitest.Generated(t, "../../completions/_xm", table.Zsh("cmd/xm", lists))
	clitest.Generated(t, "../../completions/xm.fish", table.Fish("cmd/xm", lists))
}

func TestMentions(t *testing.T) {
	var out bytes.Buffer
	clitest.Mentions(t, newApp(&out, &out).table)
}
