package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
)

func (a *app) info(ctx context.Context, _ cli.Invocation) error {
	node, err := a.xend.Node(ctx)
	if err != nil {
		return err
	}
	for _, field := range node.Children() {
		var values []string
		for _, v := range field.Children() {
			if v.IsAtom() {
				values = append(values, v.Text())
			} else {
				values = append(values, v.String())
			}
		}
		fmt.Fprintf(a.stdout, "%-23s: %s\n", field.Name(), strings.Join(values, " "))
	}
	return nil
}

func (a *app) log(ctx context.Context, _ cli.Invocation) error {
	text, err := a.xend.Log(ctx)
	return a.printText(text, err)
}

func (a *app) dmesg(ctx context.Context, in cli.Invocation) error {
	if in.Has("clear") {
		return a.xend.ClearDmesg(ctx)
	}
	text, err := a.xend.Dmesg(ctx)
	return a.printText(text, err)
}

// printText prints a text whose last line is whole.
func (a *app) printText(text string, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprint(a.stdout, text)
	if text != "" && !strings.HasSuffix(text, "\n") {
		fmt.Fprintln(a.stdout)
	}
	return nil
}

func (a *app) help(_ context.Context, in cli.Invocation) error {
	if len(in.Args) == 0 {
		a.printHelp(in.Has("long"))
		return nil
	}
	c, err := a.find(in.Args[0])
	if err != nil {
		return err
	}
	a.table.WriteHelp(a.stdout, c)
	return nil
}

// printHelp prints what the program is called with.
func (a *app) printHelp(long bool) {
	fmt.Fprintln(a.stdout, "Usage: xm [--prefix DIR] <subcommand> [args]")
	a.table.WriteList(a.stdout, long)
	fmt.Fprintln(a.stdout, "\nA sub-command may be shortened to two letters or more that no other begins with.")
	if !long {
		fmt.Fprintln(a.stdout, "All there is: 'xm help --long'; one sub-command: 'xm help <subcommand>'.")
	}
}
