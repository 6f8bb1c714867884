package daemon

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
)

// signals is the task that obeys signals: SIGTERM and SIGINT end the daemon, from its beginning on;
// SIGHUP has it read its configuration again, and SIGUSR1 open its log anew, as soon as it runs.
type signals struct {
	d     *Daemon
	end   func() // ends the daemon; set before anything runs
	term  chan os.Signal
	hup   chan os.Signal
	usr1  chan os.Signal
	asked chan chan<- reloaded // what a SIGHUP asks for, by somebody who waits for it
	quit  chan struct{}
	all   sync.WaitGroup
}

// reloaded is what a reload returned.
type reloaded struct {
	needRestart []string
	err         error
}

func newSignals(d *Daemon) *signals {
	s := &signals{
		d: d, term: make(chan os.Signal, 1), hup: make(chan os.Signal, 1), usr1: make(chan os.Signal, 1),
		asked: make(chan chan<- reloaded), quit: make(chan struct{}),
	}
	signal.Notify(s.term, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(s.hup, syscall.SIGHUP)
	signal.Notify(s.usr1, syscall.SIGUSR1)
	s.all.Go(func() {
		select {
		case sig := <-s.term:
			d.log.Info("signal received", "signal", sig)
			s.end()
		case <-s.quit:
		}
	})
	return s
}

func (s *signals) stop() {
	signal.Stop(s.term)
	signal.Stop(s.hup)
	signal.Stop(s.usr1)
	close(s.quit)
	s.all.Wait()
}

// reload does what a SIGHUP asks for, in turn with those, and returns what Daemon.reload does.
func (s *signals) reload(ctx context.Context) ([]string, error) {
	answer := make(chan reloaded, 1)
	select {
	case s.asked <- answer:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case r := <-answer:
		return r.needRestart, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Run reloads at each SIGHUP, and at each SIGUSR1, which is what logrotate wants, only opens the log anew: a
// configuration that somebody is editing is none of its business.
func (s *signals) Run(ctx context.Context) error {
	for {
		select {
		case <-s.hup:
			_, _ = s.d.reload(ctx) // it is in the log
		case answer := <-s.asked:
			list, err := s.d.reload(ctx)
			answer <- reloaded{list, err}
		case <-s.usr1:
			s.d.reopenLog(s.d.logPath())
			s.d.log.Info("log opened anew")
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready is told at once: signals that come before Run wait for it.
func (s *signals) Ready() <-chan struct{} { return closed }

func (s *signals) String() string { return "signals" }

// notifySystemd tells the service manager, if there is one; sd_notify(3).
func notifySystemd(d *Daemon, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("can't tell systemd", "state", state, "error", err)
	}
}
