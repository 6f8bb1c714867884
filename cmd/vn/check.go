package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/client"
	"github.com/xenvnet/xend/xendcompat/finding"
)

// check says what is wrong.
func (a *app) check(ctx context.Context, in cli.Invocation) error {
	var r finding.Report
	err := a.patiently(ctx, "asking other hosts and looking at this one", command("vn.check"), &r)
	var gone *client.ConnectError
	switch {
	case errors.As(err, &gone) && os.Geteuid() == 0:
		name, _ := os.Hostname()
		r = finding.Report{Name: name, Time: time.Now(), Hosts: []finding.Host{}}
		r.Add(finding.Finding{Name: "xend-down", Level: finding.Fail, Of: "local", Cure: "xend start",
			Text: "no daemon answers on this host: " + client.Reason(gone)})
	case err != nil:
		return err
	}
	if in.Has("json") {
		err = r.WriteJSON(a.stdout)
	} else {
		r.WriteText(a.stdout, in.Has("verbose"))
		err = nil
	}
	if err == nil && r.ExitStatus() != 0 {
		err = exitStatus(r.ExitStatus())
	}
	return err
}

// patiently asks for what may take seconds.
func (a *app) patiently(ctx context.Context, what string, c sxp.Value, v any) error {
	return cli.Patiently(a.stderr, what, func() error { return a.control.JSON(ctx, c, v) })
}

// trace says where something is.
func (a *app) trace(ctx context.Context, in cli.Invocation) error {
	var t finding.Trace
	if err := a.patiently(ctx, "looking for it", command("vn.trace", sxp.Pair("target", in.Args[0])), &t); err != nil {
		return err
	}
	if in.Has("json") {
		if err := a.printJSON(t); err != nil {
			return err
		}
	} else {
		t.WriteText(a.stdout)
	}
	if len(t.Places) == 0 {
		return exitStatus(1)
	}
	for _, p := range t.Places {
		if p.Reached != nil && !*p.Reached {
			return exitStatus(1)
		}
	}
	return nil
}
