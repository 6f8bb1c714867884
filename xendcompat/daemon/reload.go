package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenvnet/xend/xendcompat/config"
)

// reload reads the configuration again and applies what can be applied to a running daemon, and returns when that is done:
// the options and keys whose change needs a restart, and what failed. With a mistake in the configuration everything stays
// as it is, but for the log, which is opened anew in any case.
func (d *Daemon) reload(ctx context.Context) (needRestart []string, err error) {
	cfg, err := config.Load(d.o.Paths, d.o.Config)
	if err != nil {
		d.reopenLog(d.logPath())
		d.log.Error("the configuration has a mistake; the old one stays", "error", err)
		return nil, err
	}
	d.reopenLog(cfg.LogFile)
	d.level.Set(cfg.LogLevel)
	d.warn(cfg)
	needRestart = d.cfg.NeedRestart(cfg)
	for _, name := range needRestart {
		d.log.Warn("a change of the configuration needs a restart of xend", "of", name)
	}
	var errs []error
	if d.access != nil {
		if err := d.access.Reload(); err != nil {
			const what = "the tokens and certificates of the status page can't be read again; the old ones stay"
			d.log.Error(what, "error", err)
			errs = append(errs, fmt.Errorf(what+": %w", err))
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
		const what = "the data plane could not take over all of its configuration"
		d.log.Error(what, "error", err)
		errs = append(errs, fmt.Errorf(what+": %w", err))
	}
	d.log.Info("configuration read again")
	return needRestart, errors.Join(errs...)
}

func (d *Daemon) reopenLog(path string) {
	if d.file == nil {
		return
	}
	if err := d.file.reopen(path); err != nil {
		d.log.Error("can't open the log anew; it goes on as it was", "error", err)
	}
}
