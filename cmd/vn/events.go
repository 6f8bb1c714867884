package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/client"
	"github.com/xenvnet/xend/xendcompat/events"
)

// followEvery is how often the daemon is asked for more.
const followEvery = 500 * time.Millisecond

// printJSON prints a value as JSON, for people and programs.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// untilInterrupt is ctx until ctrl-C or SIGTERM.
func untilInterrupt(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// events prints what an operator must know.
func (a *app) events(ctx context.Context, in cli.Invocation) error {
	wanted, lines := eventFilter(in), -1
	var err error
	if in.Has("lines") {
		if lines, err = strconv.Atoi(in.Value("lines")); err != nil || lines < 0 {
			return fmt.Errorf("--lines: expected a number from 0 on, not %s", in.Value("lines"))
		}
	}
	log, err := a.eventsFrom(ctx, 0)
	if err != nil {
		return err
	}
	list := slices.DeleteFunc(log.Events, func(e events.Event) bool { return !wanted(e) })
	if lines >= 0 && len(list) > lines {
		list = list[len(list)-lines:]
	}
	if in.Has("json") && !in.Has("follow") {
		log.Events = list
		return a.printJSON(log)
	}
	if log.Lost > 0 {
		fmt.Fprintf(a.stderr, "vn: %d older events are kept no more; the daemon's log has them\n", log.Lost)
	}
	if err := a.printEvents(list, in.Has("json")); err != nil || !in.Has("follow") {
		return err
	}
	return a.follow(ctx, log, wanted, in.Has("json"))
}

// follow prints more events as they come, also after a restart of the daemon.
func (a *app) follow(ctx context.Context, log events.Log, wanted func(events.Event) bool, asJSON bool) error {
	ctx, stop := untilInterrupt(ctx)
	defer stop()
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	away := false
	for {
		if err := a.stdout.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		more, err := a.eventsFrom(ctx, log.Next)
		var gone *client.ConnectError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &gone):
			if !away {
				fmt.Fprintln(a.stderr, "vn: xend does not run; waiting for it")
			}
			away = true
			continue
		case err != nil:
			return err
		case !more.Started.Equal(log.Started): // another run, which counts from 1
			if more, err = a.eventsFrom(ctx, 0); err != nil {
				continue
			}
		}
		away = false
		if more.Lost > 0 {
			fmt.Fprintf(a.stderr, "vn: %d events came too fast to be kept; the daemon's log has them\n", more.Lost)
		}
		log.Started, log.Next = more.Started, more.Next
		if err := a.printEvents(slices.DeleteFunc(more.Events, func(e events.Event) bool { return !wanted(e) }), asJSON); err != nil {
			return err
		}
	}
}

func (a *app) eventsFrom(ctx context.Context, seq uint64) (log events.Log, err error) {
	err = a.control.JSON(ctx, command("vn.events", sxp.Pair("since", strconv.FormatUint(seq, 10))), &log)
	return log, err
}

// printEvents prints a line for each event; as JSON, each a value of its own.
func (a *app) printEvents(list []events.Event, asJSON bool) error {
	for _, e := range list {
		if asJSON {
			b, err := json.Marshal(e)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s\n", b)
			continue
		}
		fmt.Fprintf(a.stdout, "%s %s\n", e.Time.Local().Format("2006-01-02 15:04:05"), e)
	}
	return nil
}

// eventFilter says which events are asked for.
func eventFilter(in cli.Invocation) func(events.Event) bool {
	text := strings.ToLower(in.Value("grep"))
	return func(e events.Event) bool {
		return (!in.Has("warnings") || e.Level != "INFO") && strings.Contains(strings.ToLower(e.String()), text)
	}
}
