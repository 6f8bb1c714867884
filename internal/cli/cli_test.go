package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func run(context.Context, Invocation) error { return nil }

// table is small and has one of everything.
func table() *Table {
	return &Table{
		Program: "prog",
		Commands: []*Command{
			{
				Name: "net-create", Group: "Nets", Args: "FILE", Min: 1, Max: 1, Run: run,
				Kinds:   []Kind{File},
				Summary: "create a net",
				Details: []string{`'Quoted' with a \. Another sentence.`, ".dotted."},
				Options: []Option{
					{Short: 'a', Long: "all", Help: "everything"},
					{Short: 's', Long: "security", Arg: "LEVEL", Help: "how safe it is, with more words than fit into one line of help"},
					{Long: "secret", Help: "not told"},
					{Short: 'q', Help: "quiet"},
				},
			},
			{Name: "net-list", Group: "Nets", Args: "[ID|IF...]", Max: -1, Kinds: []Kind{Vnet}, Summary: "list nets", Run: run},
			{Name: "net-move", Group: "Nets", Args: "ID key=VALUE [DEV]", Min: 2, Max: 3, Kinds: []Kind{Vnet, Keyword, Device}, Words: []string{"key="}, Summary: "move a net", Run: run},
			{Name: "log", Group: "Host", Summary: "print the log", Run: run},
			{Name: "create", Group: "Domains", Summary: "start a domain", Max: -1},
			{Name: "loadpolicy", Group: "Host", Summary: "load a policy", Max: -1, Later: true},
			{Name: "labels", Group: "Host", Summary: "list labels", Max: -1, Later: true},
		},
	}
}

func TestParse(t *testing.T) {
	c := table().Find("net-create")
	for _, tt := range []struct {
		args  string
		order Order
		rest  string
		want  string // options as name=value
		err   string
	}{
		{args: "f", rest: "f"},
		{args: "-a f", rest: "f", want: "all="},
		{args: "--all f", rest: "f", want: "all="},
		{args: "--al f", rest: "f", want: "all="},
		{args: "-aq f", rest: "f", want: "all= q="},
		{args: "-s none f", rest: "f", want: "security=none"},
		{args: "-snone f", rest: "f", want: "security=none"},
		{args: "-asnone f", rest: "f", want: "all= security=none"},
		{args: "--security=none f", rest: "f", want: "security=none"},
		{args: "--security none f", rest: "f", want: "security=none"},
		{args: "--security= f", rest: "f", want: "security="},
		{args: "-s a -s b f", rest: "f", want: "security=b"},
		{args: "--help", want: "help="},
		{args: "-- -a", rest: "-a"},
		{args: "f -a", rest: "f -a"},
		{args: "f -a", order: Mixed, rest: "f", want: "all="},
		{args: "f -- -a", order: Mixed, rest: "f -a"},
		{args: "-", rest: "-"},
		{args: "-x", err: "option -x not recognized"},
		{args: "-ax", err: "option -x not recognized"},
		{args: "--xyz", err: "option --xyz not recognized"},
		{args: "--sec f", err: "option --sec not a unique prefix"},
		{args: "--all=1", err: "option --all must not have an argument"},
		{args: "-s", err: "option -s requires argument"},
		{args: "--security", err: "option --security requires argument"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			in, err := c.Parse(strings.Fields(tt.args), tt.order)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.rest, strings.Join(in.Args, " "))
			var want []string
			for _, name := range []string{"all", "q", "security", "secret", "help"} {
				if in.Has(name) {
					want = append(want, name+"="+in.Value(name))
				}
			}
			require.Equal(t, tt.want, strings.Join(want, " "))
		})
	}
}

func TestCountOK(t *testing.T) {
	for name, counts := range map[string]string{"net-create": "01000", "net-list": "11111", "net-move": "00110", "log": "10000"} {
		c := table().Find(name)
		for n, want := range counts {
			in := Invocation{Command: c, Args: make([]string, n)}
			require.Equal(t, want == '1', in.CountOK(), "%s with %d", name, n)
		}
	}
}

func TestReadLine(t *testing.T) {
	line, err := ReadLine([]string{"--prefix", "/x", "log", "--prefix", "y"})
	require.NoError(t, err)
	require.Equal(t, Line{Prefix: "/x", Rest: []string{"log", "--prefix", "y"}}, line)
	line, err = ReadLine([]string{"-h", "--version"})
	require.NoError(t, err)
	require.Equal(t, Line{Help: true, Version: true}, line)
	_, err = ReadLine([]string{"-x"})
	require.EqualError(t, err, "option -x not recognized")
}

func TestMatch(t *testing.T) {
	for name, want := range map[string]string{
		"log":      "log",
		"lo":       "log", // loadpolicy came later
		"loa":      "loadpolicy",
		"la":       "labels",
		"l":        "",
		"":         "",
		"net":      "net-create net-list net-move",
		"net-c":    "net-create",
		"cr":       "create",
		"nothing":  "",
		"logs":     "",
		"net-list": "net-list",
	} {
		var have []string
		for _, c := range table().Match(name) {
			have = append(have, c.Name)
		}
		require.Equal(t, want, strings.Join(have, " "), "%q", name)
	}
}

func TestHelp(t *testing.T) {
	var b bytes.Buffer
	tab := table()
	tab.WriteList(&b, false)
	require.Equal(t, `
Nets:
    net-create FILE         create a net
    net-list [ID|IF...]     list nets
    net-move ID key=VALUE [DEV]
                            move a net

Host:
    log                     print the log
`, b.String())

	b.Reset()
	tab.WriteList(&b, true)
	require.Contains(t, b.String(), "    net-create FILE         create a net\n        -a, --all           everything\n")
	require.Contains(t, b.String(), "\nKnown, but not supported by this version:\n    create, labels, loadpolicy\n")

	b.Reset()
	tab.WriteHelp(&b, tab.Find("net-create"))
	require.Equal(t, `Usage: prog net-create [-a|--all] [-s|--security LEVEL] [--secret] [-q] FILE

Create a net.

'Quoted' with a \. Another sentence.

.dotted.

Options:
    -a, --all               everything
    -s, --security LEVEL    how safe it is, with more words than fit into one
                            line of help
    --secret                not told
    -q                      quiet
`, b.String())
}

func TestMdoc(t *testing.T) {
	page := table().Mdoc(Manual{
		Section: 8, Date: "November 22, 2026", Line: "does things", Source: "here",
		Description: "It does\nthings.",
		Before:      []Section{{"NOTES", "One."}},
		After:       []Section{{"FILES", "None."}},
	})
	for _, want := range []string{
		".Dt PROG 8\n", ".Op Fl h | -help\n", ".Op Fl s | -security Ar LEVEL\n", ".It Fl s , -security Ar LEVEL\n",
		".Ar FILE\n", ".Op Ar ID | IF ...\n", ".Cm key Ns = Ns Ar VALUE\n",
		`\&'Quoted' with a \e.` + "\nAnother sentence.\n.Pp\n" + `\&.dotted.`, ".Sh NOTES\nOne.\n", ".Sh FILES\nNone.\n",
		"labels, loadpolicy.\n",
	} {
		require.Contains(t, page, want)
	}
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed")
	}
	cmd := exec.Command(mandoc, "-T", "lint")
	cmd.Stdin = strings.NewReader(page)
	out, _ := cmd.CombinedOutput()
	require.Empty(t, string(out))
}

// complete returns what bash would offer behind the given words, the last of which is begun.
func complete(t *testing.T, script string, words ...string) []string {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + w + "'"
	}
	cmd := exec.Command(bash, "-c", script+`
COMP_WORDS=(`+strings.Join(quoted, " ")+`)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_prog
printf '%s\n' "${COMPREPLY[@]}"`)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.Fields(string(out))
}

func TestBash(t *testing.T) {
	script := table().Bash("here", map[Kind]string{Vnet: `echo "$@" 97 98 '$(touch /nonexistent/x)'`, Device: "echo eth0 vif1.0"})
	for _, tt := range []struct{ words, want string }{
		{"prog ", "net-create net-list net-move log"},
		{"prog net-l", "net-list"},
		{"prog -", "--prefix -h --help --version"},
		{"prog net-create -", "-a --all -s --security --secret -q"},
		{"prog net-list 9", "97 98"},
		{"prog net-list 97 9", "97 98"},
		{"prog net-list $", "$(touch"},
		{"prog --prefix /x net-list --p", ""},
		{"prog --prefix /x net-list ", "prog --prefix /x 97 98 $(touch /nonexistent/x)"},
		{"prog net-move 97 k", "key="},
		{"prog net-move 97 key=1 vi", "vif1.0"},
		{"prog create ", ""},
		{"prog log ", ""},
	} {
		have := complete(t, script, strings.Split(tt.words, " ")...)
		require.Equal(t, strings.Fields(tt.want), append([]string{}, have...), "%q", tt.words)
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "net.sxp"), nil, 0o644))
	require.Equal(t, []string{dir + "/net.sxp"}, complete(t, script, "prog", "net-create", dir+"/n"))
	require.Equal(t, []string{dir + "/sub"}, complete(t, script, "prog", "--prefix", dir+"/"))
}

// brokenWriter is a full disk.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestFlush(t *testing.T) {
	cause := errors.New("cause")
	full := func() *bufio.Writer {
		w := bufio.NewWriter(brokenWriter{})
		require.NoError(t, w.WriteByte('x'))
		return w
	}
	require.NoError(t, Flush(bufio.NewWriter(&bytes.Buffer{}), nil))
	require.ErrorIs(t, Flush(full(), cause), cause)
	require.EqualError(t, Flush(full(), nil), "cannot write: no space left")
}
