package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/client"
)

// Widths of what is printed.
const (
	vnetWidth = 50 // vnets
	formWidth = 80 // all other forms
)

// app is one run of the program.
type app struct {
	stdout  *bufio.Writer // over out
	out     io.Writer
	stderr  io.Writer
	table   *cli.Table
	control *client.Control // set before a command runs, as paths
	paths   paths.Paths
}

func newApp(stdout, stderr io.Writer) *app {
	a := &app{stdout: bufio.NewWriter(stdout), out: stdout, stderr: stderr}
	a.table = a.commands()
	return a
}

// run does what args ask for and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	err := cli.Flush(a.stdout, a.do(ctx, args))
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if err != nil {
		fmt.Fprintf(a.stderr, "vn: %s\n", errorText(err))
		return 1
	}
	return 0
}

// exitStatus ends the program without a word.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// do finds the command and runs it.
func (a *app) do(ctx context.Context, args []string) error {
	line, err := cli.ReadLine(args)
	if err != nil {
		return err
	}
	if line.Version {
		fmt.Fprintln(a.stdout, "vn", version.Version)
		return nil
	}
	if line.Help || len(line.Rest) == 0 {
		a.printHelp(false)
		return nil
	}
	c := a.table.Find(line.Rest[0])
	if c == nil {
		return fmt.Errorf("unknown command: %s", line.Rest[0])
	}
	in, err := c.Parse(line.Rest[1:], cli.Mixed)
	switch {
	case err != nil && slices.Equal(line.Rest[1:], []string{"-h"}), err == nil && in.Has("help"):
		a.table.WriteHelp(a.stdout, c)
		return nil
	case err != nil:
		return fmt.Errorf("%w: 'vn help %s' says what it takes", err, c.Name)
	case len(in.Args) < c.Min:
		return fmt.Errorf("insufficient arguments for %s", c.Name)
	case !in.CountOK():
		return fmt.Errorf("too many arguments for %s", c.Name)
	}
	p, err := paths.New(line.Prefix)
	if err != nil {
		return err
	}
	a.paths, a.control = p, client.OpenControl(p)
	return c.Run(ctx, in)
}

// errorText is what stands behind "vn: ".
func errorText(err error) string {
	var ce *client.ConnectError
	if errors.As(err, &ce) && os.Geteuid() != 0 {
		return "this needs root access.  Please try again as root."
	}
	return err.Error()
}

// command builds a control command: (name (field value)…).
func command(name string, fields ...sxp.Value) sxp.Value {
	return sxp.List(append([]sxp.Value{sxp.Atom(name)}, fields...)...)
}

// ask sends commands and returns the forms that come back.
func (a *app) ask(ctx context.Context, commands ...sxp.Value) ([]sxp.Value, error) {
	return a.control.Do(ctx, commands...)
}

// tell sends a command that answers with nothing.
func (a *app) tell(ctx context.Context, c sxp.Value) error {
	_, err := a.control.Do(ctx, c)
	return err
}

// print prints forms, each with an empty line after it.
func (a *app) print(width int, forms ...sxp.Value) {
	for _, f := range forms {
		a.stdout.Write(append(sxp.AppendPretty(nil, f, width), '\n')) //nolint:errcheck // Flush reports it
	}
}

// printList prints the answer to one of the list commands, less what --vnet and --host do not mean.
func (a *app) printList(name string) func(context.Context, cli.Invocation) error {
	return func(ctx context.Context, in cli.Invocation) error {
		forms, err := a.ask(ctx, command(name))
		if err == nil {
			forms, err = filter(forms, in)
		}
		switch {
		case err != nil:
			return err
		case in.Has("json"):
			return a.printForms(forms)
		}
		a.print(formWidth, forms...)
		return nil
	}
}

func (a *app) help(_ context.Context, in cli.Invocation) error {
	if len(in.Args) == 0 {
		a.printHelp(in.Has("long"))
		return nil
	}
	c := a.table.Find(in.Args[0])
	if c == nil {
		return fmt.Errorf("unknown command: %s", in.Args[0])
	}
	a.table.WriteHelp(a.stdout, c)
	return nil
}

// printHelp prints what the program is called with.
func (a *app) printHelp(long bool) {
	fmt.Fprintln(a.stdout, "Usage: vn [--prefix DIR] <command> [options] [args]")
	a.table.WriteList(a.stdout, long)
	fmt.Fprintln(a.stdout, `
What vnet-create, vif-add and peer-add make is gone when the daemon restarts. Vnets that
last are made with 'xm vnet-create'; peers that last stand in /etc/xen/vnet.toml.`)
	if !long {
		fmt.Fprintln(a.stdout, "With options: 'vn help -l'; one command: 'vn help <command>'.")
	}
}
