package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/internal/plural"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/xendcompat/client"
)

// app is one run of the program.
type app struct {
	stdout *bufio.Writer
	stderr io.Writer
	table  *cli.Table
	xend   client.Xend // set before a command runs
	paths  paths.Paths // likewise
}

func newApp(stdout, stderr io.Writer) *app {
	a := &app{stdout: bufio.NewWriter(stdout), stderr: stderr}
	a.table = a.commands()
	return a
}

// errTold ends a command whose error was printed already.
var errTold = errors.New("told")

// notFound says that what a command was asked for does not exist.
type notFound struct{ kind, name string }

func (e *notFound) Error() string { return e.kind + " '" + e.name + "' not found" }

// run does what args ask for and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	err := cli.Flush(a.stdout, a.do(ctx, args))
	if err == nil {
		return 0
	}
	if !errors.Is(err, errTold) {
		fmt.Fprintf(a.stderr, "Error: %s\n", errorText(err))
	}
	return 1
}

// do finds the sub-command and runs it.
func (a *app) do(ctx context.Context, args []string) error {
	line, err := cli.ReadLine(args)
	if err != nil {
		return err
	}
	if line.Help {
		a.printHelp(false)
		return nil
	}
	if line.Version {
		fmt.Fprintln(a.stdout, "xm", version.Version)
		return nil
	}
	if len(line.Rest) == 0 {
		a.printHelp(false)
		return errTold
	}
	c, err := a.find(line.Rest[0])
	if err != nil {
		return err
	}
	in, err := c.Parse(line.Rest[1:], cli.Mixed)
	if err != nil {
		return err
	}
	if in.Has("help") {
		a.table.WriteHelp(a.stdout, c)
		return nil
	}
	if !in.CountOK() {
		return a.misused(countText(c), func() { fmt.Fprintf(a.stdout, "Usage: %s\n", c.Usage(a.table.Program)) })
	}
	p, err := paths.New(line.Prefix)
	if err != nil {
		return err
	}
	a.paths = p
	if a.xend, err = client.Open(p); err != nil {
		return err
	}
	err = c.Run(ctx, in)
	var nf *notFound
	if errors.As(err, &nf) {
		return fmt.Errorf("%w when running 'xm %s'", nf, c.Name)
	}
	return err
}

// find returns the command that a user named or abbreviated, if it is one that does something.
func (a *app) find(name string) (*cli.Command, error) {
	matches := a.table.Match(name)
	switch len(matches) {
	case 0:
		return nil, a.misused(fmt.Sprintf("Sub Command %s not found!", name), func() { a.printHelp(false) })
	case 1:
		if c := matches[0]; c.Supported() {
			return c, nil
		}
		return nil, fmt.Errorf("'xm %s' (%s) is known, but not supported by this version: %s", matches[0].Name, matches[0].Summary, instead(matches[0].Name))
	}
	var names []string
	for _, c := range matches {
		names = append(names, c.Name)
	}
	return nil, a.misused(fmt.Sprintf("Sub Command %s not found!", name), func() {
		fmt.Fprintf(a.stdout, "%s could mean %s.\n\n", name, strings.Join(names, ", "))
		a.printHelp(false)
	})
}

// misused tells how the program is called: the error and an empty line on stderr, the usage on stdout.
func (a *app) misused(text string, usage func()) error {
	fmt.Fprintf(a.stderr, "Error: %s\n\n", text)
	usage()
	return errTold
}

// countText says how many arguments a command takes.
func countText(c *cli.Command) string {
	switch {
	case c.Max < 0:
		return fmt.Sprintf("'xm %s' requires at least %s.", c.Name, plural.Of(c.Min, "argument"))
	case c.Max != c.Min:
		return fmt.Sprintf("'xm %s' requires between %d and %d arguments.", c.Name, c.Min, c.Max)
	}
	return fmt.Sprintf("'xm %s' requires %s.", c.Name, plural.Of(c.Min, "argument"))
}

// errorText is what stands behind "Error: ". A user without rights can't tell a daemon that does
// not run from a socket that is closed to them, so they are told what helps in both cases.
func errorText(err error) string {
	var ce *client.ConnectError
	if errors.As(err, &ce) && ce.Network == "unix" && os.Geteuid() != 0 {
		return "Most commands need root access.  Please try again as root."
	}
	return err.Error()
}

// missing returns err, or a notFound if that is what it means.
func missing(err error, kind, name string) error {
	var e *client.Error
	if errors.As(err, &e) && e.NotFound {
		return &notFound{kind: kind, name: name}
	}
	return err
}
