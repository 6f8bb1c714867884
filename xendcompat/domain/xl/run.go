package xl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/xenvnet/xend/xendcompat/domain"
)

const (
	// askTimeout bounds a command that only tells something; it may wait for xenstored, and Domain-0 may have much to do.
	askTimeout = 30 * time.Second
	// doTimeout bounds one that does something, such as scripts.
	doTimeout = 2 * time.Minute
	// moveTimeout bounds one that moves all of a domain's memory.
	moveTimeout = 30 * time.Minute
	// maxOutput bounds what is read of a command's output, in bytes.
	maxOutput = 16 << 20
)

// Options configure the toolstack. The zero value uses xl in $PATH.
type Options struct {
	Command   string // the command; "" means xl in $PATH
	Dir       string // of temporary files; "" means the system's
	VifScript string // of vifs that name none; one with arguments, and vif-bridge, is xl's own business
	Log       *slog.Logger
	// Poll is how often the domains are looked at for Watch; 0 means 2 s.
	Poll time.Duration
}

// Toolstack is a domain.Toolstack.
type Toolstack struct {
	o Options

	mu      sync.Mutex
	started map[int]time.Time // of the domains that were there when List was called last, by id
}

var _ domain.Toolstack = (*Toolstack)(nil)

// Present tells whether Xen runs, and this is its control domain.
func Present() bool {
	b, _ := os.ReadFile("/proc/xen/capabilities")
	return strings.Contains(string(b), "control_d")
}

// Open finds the command.
func Open(o Options) (*Toolstack, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll == 0 {
		o.Poll = 2 * time.Second
	}
	if o.Command == "" {
		path, err := exec.LookPath("xl")
		if err != nil {
			return nil, fmt.Errorf("xl: %w (the package xen-utils has it)", errors.Unwrap(err))
		}
		o.Command = path
	}
	return &Toolstack{o: o}, nil
}

// Name is "xl".
func (t *Toolstack) Name() string { return "xl" }

func (t *Toolstack) unsupported(op, use string) error {
	return &domain.UnsupportedError{Toolstack: t.Name(), Op: op, Use: use}
}

// run returns the standard output of a command.
func (t *Toolstack) run(ctx context.Context, timeout time.Duration, args ...string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, &domain.ToolstackError{Command: "xl " + strings.Join(args, " "), Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.o.Command, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // for a grandchild that keeps the pipe
	var out, stderr limited
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(fmt.Errorf("no answer within %s", timeout))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		if text := bytes.TrimSpace(stderr.b); len(text) > 0 {
			err = errors.New(string(text[:min(len(text), 500)]))
		}
		return fail(err)
	case out.cut:
		return fail(fmt.Errorf("its output is longer than %d bytes", maxOutput))
	}
	if text := string(stderr.b); strings.Contains(text, "libxl: error:") && silentFailures[args[0]] {
		return fail(errors.New(strings.TrimSpace(text[:min(len(text), 500)])))
	}
	return out.b, nil
}

// silentFailures are commands of xl 4.17 that tell of a failure by words only, and exit with 0.
var silentFailures = map[string]bool{"pause": true, "unpause": true}

// limited keeps the beginning of what is written to it.
type limited struct {
	b   []byte
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), maxOutput-len(l.b))
	l.b = append(l.b, p[:n]...)
	l.cut = l.cut || n < len(p)
	return len(p), nil
}

// noDomain are what xl, and below it libxl and the hypervisor, say of an id that no domain has.
var noDomain = []string{"invalid domain identifier", "No such process", "Non-exist"}

// on runs a command on a domain: xl VERB options… ID arguments….
func (t *Toolstack) on(ctx context.Context, timeout time.Duration, id int, verb string, options, args []string) ([]byte, error) {
	all := append([]string{verb}, options...)
	all = append(append(all, strconv.Itoa(id)), args...)
	out, err := t.run(ctx, timeout, all...)
	if err != nil && slices.ContainsFunc(noDomain, func(text string) bool { return strings.Contains(err.Error(), text) }) {
		return nil, &domain.NotFoundError{Name: strconv.Itoa(id)}
	}
	return out, err
}

// do is on for what takes no long time and says nothing.
func (t *Toolstack) do(ctx context.Context, id int, verb string, args ...string) error {
	_, err := t.on(ctx, doTimeout, id, verb, nil, args)
	return err
}
