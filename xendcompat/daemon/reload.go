package daemon

import (
	"context"
	"errors"

	"github.com/xenvnet/xend/xendcompat/config"
)

// reload reads the configuration again and applies what can be applied to a running daemon. With a
// mistake in it everything stays as it is, but for the log, which is opened anew in any case.
func (d *Daemon) reload(ctx context.Context) {
	cfg, err := config.Load(d.o.Paths, d.o.Config)
	if err != nil {
		d.reopenLog(d.logPath())
		d.log.Error("the configuration has a mistake; the old one stays", "error", err)
		return
	}
	d.reopenLog(cfg.LogFile)
	d.level.Set(cfg.LogLevel)
	d.warn(cfg)
	for _, name := range d.cfg.NeedRestart(cfg) {
		d.log.Warn("a change of the configuration needs a restart of xend", "of", name)
	}
	if d.access != nil {
		if err := d.access.Reload(); err != nil {
			d.log.Error("the tokens and certificates of the status page can't be read again; the old ones stay", "error", err)
		}
	}
	err = d.svc.Reconfigure(ctx, settings(cfg, d.engine != nil), func() error {
		if d.engine == nil {
			return nil
		}
		d.keyDir.Store(&cfg.KeyDir)
		return errors.Join(d.engine.Reload(cfg.Dataplane), d.engine.ReloadKeys())
	})
	if err != nil {
		d.log.Error("the data plane could not take over all of its configuration", "error", err)
	}
	d.log.Info("configuration read again")
}

func (d *Daemon) reopenLog(path string) {
	if d.file == nil {
		return
	}
	if err := d.file.reopen(path); err != nil {
		d.log.Error("can't open the log anew; it goes on as it was", "error", err)
	}
}
