// Command xend is the daemon behind xm, and the tool that starts and stops it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/xendcompat/daemon"
	"github.com/xenvnet/xend/xendcompat/domain/lab"
	"github.com/xenvnet/xend/xendcompat/finding"
)

func main() {
	// The first process of a domain of the lab's, or a tool of its scripts.
	if status, ok := lab.Main(os.Args); ok {
		os.Exit(status)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// notRunning is the exit status of status for a daemon that does not run, as init scripts have it.
const notRunning = 3

const usage = `usage: xend [--prefix DIR] [--config FILE] start|stop|restart|reload|status|check|help
       xend [--prefix DIR] [--config FILE] status [--check] [--json]
       xend [--prefix DIR] [--config FILE] check [-v] [--json]
       xend [--prefix DIR] [--config FILE] --foreground
`

// command is the command line.
type command struct {
	name       string // start, …; empty with foreground
	foreground bool
	prefix     string
	config     string // absolute, or empty
	check      bool   // status: the exit status is for monitoring
	json       bool   // status, check: as JSON
	verbose    bool   // check: also what is well
}

// parse reads the command line. Flags may stand before and after the command.
func parse(args []string) (command, error) {
	var c command
	var showVersion bool
	f := flag.NewFlagSet("xend", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.prefix, "prefix", "", "")
	f.StringVar(&c.config, "config", "", "")
	f.BoolVar(&c.foreground, "foreground", false, "")
	f.BoolVar(&c.check, "check", false, "")
	f.BoolVar(&c.json, "json", false, "")
	f.BoolVar(&c.verbose, "v", false, "")
	f.BoolVar(&showVersion, "version", false, "")
	for first := true; first || len(args) > 0; first = false {
		if err := f.Parse(args); err != nil {
			return c, err
		}
		if args = f.Args(); len(args) > 0 {
			if c.name != "" || c.foreground {
				return c, fmt.Errorf("not an option: %s", args[0])
			}
			c.name, args = args[0], args[1:]
		}
	}
	if showVersion {
		c.name = "version"
	}
	switch {
	case c.check && c.name != "status":
		return c, errors.New("--check belongs to status")
	case c.json && c.name != "status" && c.name != "check":
		return c, errors.New("--json belongs to status and check")
	case c.verbose && c.name != "check":
		return c, errors.New("-v belongs to check")
	}
	if c.config == "" {
		return c, absolute("XEND_CONFIG")
	}
	var err error
	c.config, err = filepath.Abs(c.config)
	return c, err
}

// absolute makes a path in the environment independent of the working directory, which the daemon changes.
func absolute(variable string) error {
	path := os.Getenv(variable)
	if path == "" {
		return nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return os.Setenv(variable, abs)
}

func run(args []string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 1
	}
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
		fmt.Fprintln(stderr, err)
		return 1
	case c.name == "" && !c.foreground:
		fmt.Fprint(stdout, usage)
		return 1
	case c.name == "help":
		fmt.Fprint(stdout, usage)
		return 0
	case c.name == "version":
		fmt.Fprintln(stdout, "xend", version.Version)
		return 0
	case os.Geteuid() != 0:
		fmt.Fprintln(stderr, "Xend must be run as root.")
		return 1
	case c.foreground == (c.name != ""), !c.foreground && commands[c.name] == nil:
		fmt.Fprintf(stderr, "not an option: %s\n", c.name)
		return 1
	}
	o := daemon.Options{}
	if o.Paths, err = paths.New(c.prefix); err != nil {
		return fail(err)
	}
	o.Config.XendConfig = c.config

	if c.foreground {
		o.Ready = func() error { return nil }
		if ready, ok := daemon.Background(); ok {
			o.Ready, o.Background = ready, true
		}
		err = daemon.Run(context.Background(), o)
	} else {
		if c.name == "start" || c.name == "restart" || c.name == "reload" {
			for _, doubt := range daemon.Doubts(o) {
				fmt.Fprintf(stderr, "Warning: %s\n", doubt)
			}
		}
		err = commands[c.name](c, o, stdout)
	}
	var level exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &level):
		return int(level)
	case err == daemon.ErrNotReady: //nolint:errorlint // wrapped, it has something to say
		return 1
	}
	return fail(err)
}

// commands are what can be done with a daemon.
var commands = map[string]func(c command, o daemon.Options, stdout io.Writer) error{
	"start":  func(c command, o daemon.Options, _ io.Writer) error { return daemon.Start(o, c.foregroundArgs(o)) },
	"stop":   func(_ command, o daemon.Options, _ io.Writer) error { return daemon.Stop(o) },
	"reload": reload,
	"status": status,
	"check":  check,
	"restart": func(c command, o daemon.Options, _ io.Writer) error {
		return daemon.Restart(o, c.foregroundArgs(o))
	},
}

// reload returns when the daemon has taken over what it can of its configuration.
func reload(_ command, o daemon.Options, _ io.Writer) error {
	return cli.Patiently(os.Stderr, "waiting for xend to read its configuration again", func() error {
		needRestart, err := daemon.Reload(context.Background(), o)
		for _, name := range needRestart {
			fmt.Fprintf(os.Stderr, "Warning: a change of %s needs a restart: xend restart\n", name)
		}
		return err
	})
}

// exitStatus ends the program without a message.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// status prints how the daemon is. The exit status is that of init systems, to which 1 and 2 mean a dead
// daemon, or with --check that of monitoring: 0 well, 1 degraded, 2 broken.
func status(c command, o daemon.Options, stdout io.Writer) error {
	r, err := daemon.Status(context.Background(), o)
	if err != nil {
		return err
	}
	if c.json {
		if err := r.WriteJSON(stdout); err != nil {
			return err
		}
	} else {
		r.WriteText(stdout)
	}
	switch {
	case c.check && r.Level() > 0:
		return exitStatus(r.Level())
	case !c.check && r.PID == 0:
		return exitStatus(notRunning)
	}
	return nil
}

// check prints what is wrong: the exit status is 0 where all is well, 1 with warnings, 2 with failures.
func check(c command, o daemon.Options, stdout io.Writer) error {
	var r *finding.Report
	err := cli.Patiently(os.Stderr, "asking other hosts and looking at this one", func() (err error) {
		r, err = daemon.Check(context.Background(), o)
		return err
	})
	if err != nil {
		return err
	}
	if c.json {
		if err := r.WriteJSON(stdout); err != nil {
			return err
		}
	} else {
		r.WriteText(stdout, c.verbose)
	}
	if status := r.ExitStatus(); status != 0 {
		return exitStatus(status)
	}
	return nil
}

// foregroundArgs are the arguments by which this program is the daemon.
func (c command) foregroundArgs(o daemon.Options) []string {
	args := []string{"--foreground", "--prefix", cmp.Or(o.Paths.Prefix, "/")}
	if c.config != "" {
		args = append(args, "--config", c.config)
	}
	return args
}
