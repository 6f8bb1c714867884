package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/xendcompat/config"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/domain/lab"
	"github.com/xenvnet/xend/xendcompat/domain/xl"
	"github.com/xenvnet/xend/xendcompat/service"
)

// openDomains chooses what runs domains, and opens the manager of those that should run.
func (d *Daemon) openDomains(host *hostnet.Host, bridges *service.Bridges) (*domain.Manager, error) {
	o := domain.Options{Dir: d.o.Paths.Domains(), DumpDir: d.o.Paths.Dumps(), Networks: bridges, Log: d.log}
	if d.cfg.VnetsOnDemand {
		bridges.Dir = d.cfg.VnetsDir
	}
	var err error
	if o.Toolstack, err = d.openToolstack(host); err != nil {
		return nil, err
	}
	if o.Toolstack == nil {
		return domain.NewManager(o), nil
	}
	m, err := domain.Open(o)
	if err != nil {
		d.noDomains(err)
		o.Toolstack = nil
		return domain.NewManager(o), nil
	}
	d.log.Info("domains are run", "toolstack", o.Toolstack.Name())
	d.onClose(func() { m.Close() }) //nolint:errcheck // all is on the disk
	return m, nil
}

// noDomains tells that domains can't be run, which keeps no vnet down: a full disk, for one.
func (d *Daemon) noDomains(err error) {
	d.log.Error("domains can't be managed until xend is restarted; vnets are not concerned", "error", err)
}

// openToolstack returns nil where nobody runs domains.
func (d *Daemon) openToolstack(host *hostnet.Host) (domain.Toolstack, error) {
	choice := d.cfg.Toolstack
	if choice == config.ToolstackAuto {
		choice = config.ToolstackLab
		if xl.Present() {
			choice = config.ToolstackXL
		}
	}
	switch choice {
	case config.ToolstackXL:
		t, err := xl.Open(xl.Options{VifScript: d.cfg.VifScript, Log: d.log})
		if err != nil && d.cfg.Toolstack == config.ToolstackAuto {
			d.log.Warn("Xen runs, and its toolstack can't be used: domains other than Domain-0 are not shown", "error", err)
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("[domain] toolstack = \"xl\": %w", err)
		}
		return t, nil
	case config.ToolstackLab:
		return d.openLab(host)
	}
	return nil, nil
}

func (d *Daemon) openLab(host *hostnet.Host) (domain.Toolstack, error) {
	scripts := []string{d.cfg.ScriptsDir}
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		scripts = append(scripts, dir, filepath.Join(dir, "../lib/xend/scripts"))
	}
	t, err := lab.Open(lab.Options{
		Dir:        d.o.Paths.LabDomains(),
		ScriptDirs: scripts,
		VifScript:  d.cfg.VifScript,
		Prefix:     d.o.Paths.Prefix,
		Host:       host,
		Relocation: &lab.Relocation{SecretFile: d.cfg.RelocationSecret, Port: d.cfg.RelocationPort},
		Guarded:    d.cfg.HTTPServer || d.cfg.XMLRPCServer,
		Log:        d.log,
	})
	if err != nil {
		d.noDomains(err)
		return nil, nil
	}
	d.lab = t
	d.onClose(func() { t.Close() }) //nolint:errcheck // its domains live on
	return t, nil
}

// relocation is the server that takes in the domains of other hosts; nil if there shall be none, or can be none: no trouble
// with domains keeps vnets down.
func (d *Daemon) relocation() server {
	if !d.cfg.RelocationServer {
		return nil
	}
	var s *lab.Server
	err := errors.New("domains come over xend's port to the toolstack lab only; xl has 'xl migrate', over ssh")
	if d.lab != nil {
		var allow lab.Allow
		if allow, err = lab.ParseAllow(d.cfg.RelocationAllow); err == nil {
			s, err = lab.NewServer(d.lab, d.domains, allow)
		}
	}
	if err != nil {
		d.log.Error("no domains of other hosts are taken in", "error", err)
		return nil
	}
	return s
}
