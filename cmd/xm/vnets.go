package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
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
	return a.xend.CreateVnet(ctx, name, config)
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
			fmt.Fprintf(a.stdout, "%s %s\n", id, no.Text)
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
