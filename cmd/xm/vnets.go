package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/client"
)

// prettyWidth is how wide xm prints forms.
const prettyWidth = 80

// print prints a form over as many lines as it needs.
func (a *app) print(v sxp.Value) {
	a.stdout.Write(sxp.AppendPretty(nil, v, prettyWidth)) //nolint:errcheck // Flush reports it
}

func (a *app) vnetCreate(ctx context.Context, in cli.Invocation) error {
	name := in.Args[0]
	config, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(a.stdout, "File not found: %s\n", name)
		return errTold
	}
	if err != nil {
		return err
	}
	if err = a.xend.CreateVnet(ctx, name, config); err != nil {
		var no *client.Error
		if errors.As(err, &no) {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return err
	}
	a.warnUnknown(name, config)
	return nil
}

// warnUnknown tells of fields that mean nothing, since one may be a misspelt one, whose default counts then.
func (a *app) warnUnknown(name string, config []byte) {
	c, err := vnet.ParseConfig(config)
	if err != nil {
		return // the daemon knows more than this program
	}
	for _, field := range c.Unknown {
		fmt.Fprintf(a.stderr, "Warning: %s: %s is not a field that means something; it is kept and ignored%s\n", name, field, meant(vnet.Suggest(field)))
	}
}

// meant asks whether a misspelt word is another.
func meant(word string) string {
	if word == "" {
		return ""
	}
	return " (" + word + "?)"
}

func (a *app) vnetList(ctx context.Context, in cli.Invocation) error {
	ids := in.Args
	if len(ids) == 0 {
		var err error
		if ids, err = a.xend.Vnets(ctx); err != nil {
			return err
		}
		if !in.Has("long") {
			for _, id := range ids {
				fmt.Fprintln(a.stdout, id)
			}
			return nil
		}
	}
	for _, id := range ids {
		v, err := a.xend.Vnet(ctx, id)
		var no *client.Error
		switch {
		case errors.As(err, &no):
			fmt.Fprintf(a.stderr, "%s %s\n", id, no.Text)
		case err != nil:
			return err
		default:
			a.print(v)
		}
	}
	return nil
}

func (a *app) vnetDelete(ctx context.Context, in cli.Invocation) error {
	id := in.Args[0]
	return missing(a.xend.DeleteVnet(ctx, id), "Vnet", id)
}
