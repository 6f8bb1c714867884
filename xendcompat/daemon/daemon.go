// Package daemon runs xend: it builds the parts, runs their tasks in order, and ends them in order. It
// also has what the commands start, stop, reload and status do to a running daemon.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/check"
	"github.com/xenvnet/xend/xendcompat/config"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/domain/lab"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/keys"
	"github.com/xenvnet/xend/xendcompat/registry"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/status"
)

// stopTimeout is how long the tasks may take to end.
const stopTimeout = 15 * time.Second

// Options say which daemon is meant.
type Options struct {
	Paths paths.Paths
	// Config is what the command line said about configuration files.
	Config config.Options
	// Ready is called when all vnets are up and the sockets accept, with standard output and error
	// going to the log already if Background; its error ends the daemon.
	Ready func() error
	// Background: nobody looks at standard output and error once the daemon is ready.
	Background bool
}

// Daemon is one run of xend.
type Daemon struct {
	o        Options
	cfg      *config.Config
	warned   map[string]bool // warnings that were logged
	log      *slog.Logger
	level    *slog.LevelVar
	events   *events.Ring      // what the log was told
	file     *logFile          // nil with the journal
	engine   *dataplane.Engine // nil if the data plane is off
	guards   *dataplane.Guards // nil if it is on
	domains  *domain.Manager
	lab      *lab.Toolstack // nil but where it runs the domains
	svc      *service.Service
	firewall *firewallWatch
	querier  *check.Querier
	checker  *check.Checker
	registry *registry.Registry
	status   *status.Status
	access   *status.Access // to the status page's own listener; nil without one
	closers  []func()
	keyDir   atomic.Pointer[string] // of vnets with security; a reload changes it
}

// Run is the daemon: it works until ctx ends, or a signal ends it. All configuration is read and checked
// before anything on the machine is changed.
func Run(ctx context.Context, o Options) error {
	cfg, err := config.Load(o.Paths, o.Config)
	if err != nil {
		return err
	}
	d := &Daemon{o: o, cfg: cfg, warned: map[string]bool{}, level: &slog.LevelVar{}, events: events.New()}
	defer d.close()
	if err := d.openLog(); err != nil {
		return err
	}
	signals := newSignals(d)
	defer signals.stop()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signals.end = stop

	d.log.Info("xend starts", "version", version.Version, "pid", os.Getpid(), "prefix", o.Paths.Prefix)
	d.warn(cfg)
	if err = d.build(); err == nil {
		err = d.serve(ctx, signals)
	}
	if err != nil {
		d.log.Error("xend ends with an error", "error", err)
		return err
	}
	d.log.Info("xend ends")
	return nil
}

// onClose has f called when the daemon ends, the last first.
func (d *Daemon) onClose(f func()) { d.closers = append(d.closers, f) }

func (d *Daemon) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
}

func (d *Daemon) openLog() error {
	d.level.Set(d.cfg.LogLevel)
	if d.cfg.Journal {
		if !journal.Enabled() {
			return errNoJournal
		}
		d.log = slog.New(d.events.Handler(newJournalHandler(d.level)))
		return nil
	}
	f, err := openLog(d.cfg.LogFile)
	if err != nil {
		return err
	}
	d.file = f
	d.log = slog.New(d.events.Handler(newFileHandler(f, d.level)))
	return nil
}

// warn logs what is odd about a configuration, each thing once.
func (d *Daemon) warn(cfg *config.Config) {
	for _, w := range cfg.Warnings {
		if !d.warned[w] {
			d.warned[w] = true
			d.log.Warn(w)
		}
	}
}

// build makes the parts. It takes the locks first, so that a second daemon changes nothing.
func (d *Daemon) build() error {
	full := func(err error) {
		d.log.Error("a file system is full: xend runs, and commands may not find it until there is room and it is restarted", "error", err)
	}
	if err := d.prepareDirs(); noRoom(err) {
		full(err)
	} else if err != nil {
		return err
	}
	pid, err := writePIDFile(d.o.Paths.PidFile())
	switch {
	case noRoom(err): // the lock of the state directory keeps a second daemon away
		full(err)
	case err != nil:
		return err
	default:
		d.onClose(pid.remove)
		if pid.unwritten != nil {
			full(pid.unwritten)
		}
	}
	if d.registry, err = registry.Open(registry.Options{Dir: d.cfg.StateDir, Log: d.log}); err != nil {
		return err
	}
	d.onClose(func() { d.registry.Close() })
	host, err := hostnet.New()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	d.onClose(host.Close)
	bridges := &service.Bridges{}
	if d.domains, err = d.openDomains(host, bridges); err != nil {
		return err
	}
	o := service.Options{
		Registry:     d.registry,
		Devices:      &port.Maker{Host: host},
		Domains:      d.domains,
		Settings:     settings(d.cfg, d.cfg.Carry),
		Firewall:     func() *firewall.Rules { return readFirewall(host) },
		SecurityPort: d.cfg.Dataplane.Security.Port,
		LogFile:      d.logPath,
		Events:       d.events,
		Log:          d.log,
	}
	if d.cfg.Carry {
		if d.engine, err = dataplane.New(d.cfg.Dataplane, host, d.log); err != nil {
			return err
		}
		o.Engine = d.engine
		d.keyDir.Store(&d.cfg.KeyDir)
		source := d.keySource
		d.engine.SetKeySource(source)
		o.CheckKey = func(id vnet.ID) error {
			_, err := source(id)
			return err
		}
	} else {
		d.guards = dataplane.NewGuards(host, d.log, d.cfg.Dataplane.Port)
		d.log.Info("data plane disabled by configuration: vnets get devices but no tunnel")
	}
	d.svc = service.New(o)
	bridges.Service = d.svc
	d.status = status.New(d.svc, status.Options{StateDir: d.cfg.StateDir, Check: d.check, Log: d.log})
	if c := d.cfg.Status; c.Listen != "" {
		if d.access, err = status.OpenAccess(status.Files{
			Token: c.TokenFile, Certificate: c.TLSCert, Key: c.TLSKey, ClientCA: c.ClientCA, ReadOnly: c.ReadOnly,
		}); err != nil {
			return err
		}
	}
	d.querier = check.NewQuerier(host, d.log)
	options := check.Options{
		Service: d.svc, Host: host, Domains: d.domains, Querier: d.querier, StateDir: d.cfg.StateDir,
		Lately: d.status.DroppedLately,
	}
	if d.engine != nil {
		options.Engine = d.engine
	}
	d.checker = check.New(options)
	d.firewall = &firewallWatch{
		bridges: d.svc.Bridges, do: host.Do, accept: d.cfg.AcceptBridges, off: d.cfg.BridgeNetfilterOff,
		proc: "/proc", log: d.log, ready: make(chan struct{}),
	}
	return nil
}

// check is what vn check does.
func (d *Daemon) check(ctx context.Context) (finding.Report, error) { return d.checker.Run(ctx) }

// readFirewall reads the firewall of the host's network namespace, which is that of the thread that asks.
func readFirewall(host *hostnet.Host) *firewall.Rules {
	rules := &firewall.Rules{}
	_ = host.Do(func() error {
		rules = (&firewall.Firewall{}).Read()
		return nil
	})
	return rules
}

// keySource reads keys from the folder of the configuration.
func (d *Daemon) keySource(id vnet.ID) (dataplane.KeySet, error) {
	s, err := keys.Load(*d.keyDir.Load(), id)
	if errors.Is(err, keys.ErrNone) {
		err = fmt.Errorf("%w: %w", dataplane.ErrNoKey, err)
	}
	return dataplane.KeySet{Secrets: s.Secrets, Send: s.Send}, err
}

func (d *Daemon) logPath() string {
	if d.file == nil {
		return ""
	}
	return d.file.path()
}

// settings are what a configuration says about vnets. On a host whose data plane is off there are no default
// vnets: nobody could use them.
func settings(cfg *config.Config, carry bool) service.Settings {
	s := service.Settings{MTU: cfg.MTU, ForwardMask: cfg.ForwardMask}
	if carry && cfg.DefaultVnets {
		s.Defaults = vnet.DefaultVnets()
	}
	return s
}

// prepareDirs makes the directories of run-time files, and with a prefix the link at their legacy
// place, which on a real machine is the distribution's.
func (d *Daemon) prepareDirs() error {
	p := d.o.Paths
	if err := os.MkdirAll(p.RunRoot(), 0o755); err != nil {
		return err
	}
	if p.Prefix == "" {
		return nil
	}
	link := p.VarRun()
	if _, err := os.Lstat(link); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(link), p.RunRoot())
	if err != nil {
		return err
	}
	return os.Symlink(target, link)
}

// serve runs the tasks until ctx ends.
func (d *Daemon) serve(ctx context.Context, signals *signals) error {
	fronts, err := d.frontEnds(ctx, signals)
	if err != nil {
		return err
	}
	d.runNetworkScript(ctx)
	if ctx.Err() != nil {
		return nil // stopped while it ran
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var carriers []task
	if d.engine != nil {
		carriers = append(carriers, d.engine)
	} else {
		carriers = append(carriers, d.guards)
	}
	done := make(chan error, 1)
	go func() {
		done <- runStages(ctx, func() {
			if err := d.ready(); err != nil {
				cancel(err)
			}
		}, carriers, []task{d.svc}, []task{d.domains, d.status}, append(fronts, signals, d.firewall, d.querier))
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		d.log.Info("xend is stopping")
		notifySystemd(d, daemon.SdNotifyStopping)
		select {
		case err = <-done:
		case <-time.After(stopTimeout):
			err = fmt.Errorf("some tasks did not end within %s", stopTimeout)
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// ready tells everybody who waits for it that the daemon is.
func (d *Daemon) ready() error {
	d.log.Info("xend is ready", "vnets", d.registry.Len())
	if d.o.Background {
		if err := d.takeStdio(); err != nil {
			return err
		}
	}
	notifySystemd(d, daemon.SdNotifyReady)
	return d.o.Ready()
}

// takeStdio sends standard output and error to the log file, or nowhere with the journal.
func (d *Daemon) takeStdio() error {
	if d.file != nil {
		return d.file.takeStdio()
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return redirect(null)
}

// runNetworkScript connects this host's domains to its network.
func (d *Daemon) runNetworkScript(ctx context.Context) {
	if d.cfg.NetworkScript == "" {
		return
	}
	beside := ""
	if exe, err := os.Executable(); err == nil {
		beside = filepath.Dir(exe)
	}
	script{
		command: d.cfg.NetworkScript,
		dir:     d.cfg.ScriptsDir,
		beside:  beside,
		timeout: d.cfg.ScriptTimeout,
		log:     d.cfg.HotplugLog,
		prefix:  d.o.Paths.Prefix,
	}.start(ctx, d.log)
}
