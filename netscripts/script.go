package netscripts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/internal/version"
)

// Names are the scripts, in the order in which usage texts show them.
var Names = []string{
	"network-bridge", "network-vnet", "network-route", "network-nat", "network-dummy", "vnet-insert",
	"vif-bridge", "vif-route", "vif-nat", "vif-setup",
}

// Is tells whether name is that of a script.
func Is(name string) bool {
	_, ok := scripts[plainName(name)]
	return ok
}

// plainName is the name of a script that was renamed, by an administrator or a package that put its own in its
// place: network-bridge.xen is network-bridge.
func plainName(name string) string {
	name, _, _ = strings.Cut(name, ".")
	return name
}

// Env is what a script has of the world besides the kernel. The zero value of each field, but for
// the outputs, is the machine's own.
type Env struct {
	Getenv func(key string) string // nil: os.Getenv
	Stdout io.Writer               // what was done, or why nothing was
	Stderr io.Writer               // errors and warnings; also kept in the hotplug log

	// Timeout ends network-bridge start and stop, which then undo what they did. 0: a minute.
	Timeout time.Duration
	// LinkTimeout is how long start and stop wait for the link. 0: 10 s.
	LinkTimeout time.Duration
	// LockTimeout is how long a run waits for others. 0: a minute.
	LockTimeout time.Duration
	// Proc and Sys are where proc and sysfs are looked at for what carries the root file system.
	// "": /proc, /sys.
	Proc, Sys string

	// Before, if set, is called before each change of the network or of the journal with a
	// description of it; an error of it is returned instead. Tests fail or kill the program there.
	Before func(what string) error
}

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
)

// script is one run of one of the scripts.
type script struct {
	Env
	name  string // network-bridge, …
	argv0 string // as it was called
	paths paths.Paths
	conf  configuration
	args  arguments
}

var scripts = map[string]func(ctx context.Context, s *script) error{
	"network-bridge": networkBridge,
	"network-vnet":   networkVnet,
	"network-route":  networkRoute,
	"network-nat":    networkNAT,
	"network-dummy":  networkDummy,
	"vnet-insert":    vnetInsert,
	"vif-bridge":     vifBridge,
	"vif-route":      vifRoute,
	"vif-nat":        vifNAT,
	"vif-setup":      vifSetup,
}

// Run runs the script that argv[0] is the path of with the arguments behind it and returns the exit
// status. When ctx ends, network-bridge undoes what it did.
func Run(ctx context.Context, env Env, argv []string) int {
	s := &script{Env: env, name: plainName(filepath.Base(argv[0])), argv0: argv[0]}
	s.setDefaults()
	run, ok := scripts[s.name]
	if !ok {
		fmt.Fprintf(s.Stderr, "%s: no such script; there are %s\n", s.name, strings.Join(Names, ", "))
		return exitFailed
	}
	args, err := parseArguments(argv[1:])
	if err == nil {
		s.args = args
		s.paths, err = paths.New(s.prefix(args.prefix))
	}
	if err != nil {
		fmt.Fprintf(s.Stderr, "%s: %v\n", s.name, err)
		return exitFailed
	}
	switch {
	case args.help:
		fmt.Fprint(s.Stdout, usage(s.name))
		return exitOK
	case args.version:
		fmt.Fprintln(s.Stdout, s.name, version.Version)
		return exitOK
	}
	s.conf, err = readConfiguration(s.paths)
	if log := (&hotplugLog{path: s.conf.Paths.HotplugLog, script: s.name}); !log.is(s.Stderr) {
		defer log.Close()
		s.Stderr = tee{s.Stderr, log}
	}
	if err != nil {
		s.warn("%v; going on with the defaults", err)
	}

	err = run(ctx, s)
	var command *commandError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &command):
		fmt.Fprintln(s.Stderr, command)
	default:
		s.warn("%v", err)
	}
	return exitFailed
}

func (s *script) setDefaults() {
	if s.Getenv == nil {
		s.Getenv = os.Getenv
	}
	if s.Timeout == 0 {
		s.Timeout = time.Minute
	}
	if s.LinkTimeout == 0 {
		s.LinkTimeout = 10 * time.Second
	}
	if s.LockTimeout == 0 {
		s.LockTimeout = time.Minute
	}
	if s.Proc == "" {
		s.Proc = "/proc"
	}
	if s.Sys == "" {
		s.Sys = "/sys"
	}
}

// prefix is what --prefix said, or else the environment.
func (s *script) prefix(option string) string {
	if option == "" {
		return s.Getenv(paths.PrefixEnv)
	}
	return option
}

// say tells what was done.
func (s *script) say(format string, args ...any) {
	fmt.Fprintf(s.Stdout, s.name+": "+format+"\n", args...)
}

// warn tells what went wrong, on the standard error output and in the hotplug log.
func (s *script) warn(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	fmt.Fprintf(s.Stderr, "%s: %s\n", s.name, strings.ReplaceAll(text, "\n", "\n"+s.name+": "))
}

// tee writes to both; failures of either are no reason to stop half way.
type tee struct{ a, b io.Writer }

func (t tee) Write(p []byte) (int, error) {
	_, _ = t.a.Write(p)
	_, _ = t.b.Write(p)
	return len(p), nil
}

// hotplugLog appends lines, with the time and the script, to the log that hotplug scripts share. It
// is opened at the first line; a log that cannot be written is done without.
type hotplugLog struct {
	path, script string
	file         *os.File
	failed       bool
}

// is tells whether w is the log already, as it is for what xend runs.
func (l *hotplugLog) is(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	a, errA := f.Stat()
	b, errB := os.Stat(l.path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func (l *hotplugLog) Write(p []byte) (int, error) {
	if l.file == nil && !l.failed {
		_ = os.MkdirAll(filepath.Dir(l.path), 0o755)
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		l.file, l.failed = f, err != nil
	}
	if l.failed {
		return len(p), nil
	}
	var b strings.Builder
	for line := range strings.Lines(string(p)) {
		fmt.Fprintf(&b, "%s %s[%d]: %s\n", time.Now().Format(time.DateTime), l.script, os.Getpid(),
			strings.TrimPrefix(strings.TrimSuffix(line, "\n"), l.script+": "))
	}
	_, err := l.file.WriteString(b.String())
	return len(p), err
}

func (l *hotplugLog) Close() {
	if l.file != nil {
		l.file.Close()
	}
}
