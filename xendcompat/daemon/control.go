package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/internal/ctl"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/config"
)

// ErrNotRunning means that there is no daemon to talk to.
var ErrNotRunning = errors.New("xend is not running")

// How long Stop waits, in milliseconds: for the daemon to end in order, which takes it stopTimeout at
// most, and then for the kernel to end it.
const (
	orderly = 20_000
	killed  = 10_000
)

// Doubts are what is probably a mistake in the configuration, although nothing fails for it.
func Doubts(o Options) []string {
	cfg, err := config.Load(o.Paths, o.Config)
	if err != nil {
		return nil // told by whoever needs the configuration
	}
	return cfg.Doubts
}

// Restart ends the daemon, if one runs, and starts it anew as Start does.
func Restart(o Options, args []string) error {
	pid, err := runningPID(o.Paths.PidFile())
	if err != nil {
		return err
	}
	if _, err := config.Load(o.Paths, o.Config); err != nil {
		return err // with a mistake none would start: the old one stays
	}
	if done, err := machineUnit(o).handOver("restart", pid); done {
		return err
	}
	if err := end(o); err != nil {
		return err
	}
	return Start(o, args)
}

// Stop ends the daemon and returns when it has ended. None running is no error. What the kernel carries without it, since
// the next daemon would go on with it, ends as well.
func Stop(o Options) error {
	if err := end(o); err != nil {
		return err
	}
	h, err := hostnet.New()
	if err != nil {
		return err
	}
	defer h.Close()
	return dataplane.RemoveFastPath(h)
}

// end ends the daemon, and returns when it has ended.
func end(o Options) error {
	p, err := findProcess(o.Paths.PidFile())
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	// Else systemd would take the end for that of the unit's own, or start it anew.
	if done, err := machineUnit(o).handOver("stop", p.pid); done {
		return err
	}
	for _, how := range []struct {
		signal syscall.Signal
		wait   int
	}{{syscall.SIGTERM, orderly}, {syscall.SIGKILL, killed}} {
		if err := p.signal(how.signal); err != nil {
			return err
		}
		if ended, err := p.wait(how.wait); ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", p.pid)
}

// reloadTimeout bounds the wait for a daemon that reads its configuration again: the firewall's programs, and names that
// nobody resolves, may take tens of seconds.
const reloadTimeout = time.Minute

// Reload has the daemon read its configuration again and open its log anew, and returns when it has done so: the options and
// keys whose change needs a restart, and what it could not take over. A mistake in the configuration is an error here, too:
// the daemon keeps the old one then.
func Reload(ctx context.Context, o Options) (needRestart []string, err error) {
	p, err := findProcess(o.Paths.PidFile())
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, ErrNotRunning
	}
	defer p.close()
	cfg, mistake := config.Load(o.Paths, o.Config)
	if mistake != nil {
		return nil, errors.Join(p.signal(syscall.SIGHUP), mistake) // it opens its log anew
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	answer, err := ctl.Do(ctx, cfg.ControlSocket, "(vn.reload)")
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("the configuration was not read again within %s; xend goes on with it, and its log says what it does", reloadTimeout)
	case err != nil || answer == "" || strings.HasPrefix(answer, `(error "unknown command`):
		// It begins or ends, its socket moves with this very change, or it is of a version that only knows the signal.
		if err := p.signal(syscall.SIGHUP); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("xend was told to read its configuration again, and does not say whether it has (%w): its log does",
			cmp.Or(err, errors.New("it ends, or is of another version")))
	}
	if forms, err := sxp.Parse([]byte(answer), sxp.C); err == nil && len(forms) == 1 && forms[0].Name() == "error" && len(forms[0].Children()) == 1 {
		return nil, errors.New(forms[0].Children()[0].Text())
	}
	return needRestart, json.Unmarshal([]byte(answer), &needRestart)
}
