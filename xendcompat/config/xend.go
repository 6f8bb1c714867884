package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/nearest"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/sxp"
)

// xendOptions are the options of xend-config.sxp that mean something here.
func (c *Config) xendOptions() map[string]conffile.Setter {
	options := c.Servers.Options()
	options["network-script"] = conffile.OptionalText(&c.NetworkScript)
	options["vif-script"] = conffile.Text(&c.VifScript)
	options["xend-relocation-server"] = conffile.Bool(&c.RelocationServer)
	options["xend-relocation-port"] = conffile.Port(&c.RelocationPort)
	options["xend-relocation-address"] = conffile.OptionalText(&c.RelocationAddress)
	options["xend-relocation-hosts-allow"] = conffile.OptionalText(&c.RelocationAllow)
	options["logfile"] = conffile.Text(&c.LogFile)
	options["loglevel"] = c.setLogLevel
	return options
}

// ignoredOptions are the other options of xend's releases. They are accepted and have no effect.
var ignoredOptions = []string{
	"block-enbd", "block-file", "console-limit",
	"device-create-timeout", "device-destroy-timeout", "dom0-cpus", "dom0-min-mem", "enable-dom0-ballooning",
	"enable-dump", "external-migration-tool", "keymap",
	"pci-dev-assign-strict-check", "pci-passthrough-strict-check",
	"resource-label-change-script", "total_available_memory", "vif-antispoof",
	"vif-bridge", "vnc-listen", "vnc-tls", "vnc-x509-cert-dir", "vnc-x509-verify", "vncpasswd",
	"xen-api-server", "xend-domain-lock", "xend-domain-lock-path",
	"xend-domain-lock-utility", "xend-domains-lock-path", "xend-domains-path",
	"xend-relocation-server-ssl-cert-file", "xend-relocation-server-ssl-key-file", "xend-relocation-ssl",
	"xend-relocation-ssl-port", "xend-relocation-ssl-server", "xend-tcp-xmlrpc-server-ssl-cert-file",
	"xend-tcp-xmlrpc-server-ssl-key-file", "xend-udev-event-server",
	"xsm_module_name",
}

// loadXend reads xend-config.sxp into c.
func (c *Config) loadXend(p paths.Paths, o Options) error {
	file := o.XendConfig
	if file == "" {
		file = p.XendConfig()
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && o.XendConfig == "" {
		return nil
	}
	if err == nil {
		err = c.parseXend(b)
	}
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return &FileError{File: file, Err: err}
	}
	return nil
}

// parseXend reads the text of xend-config.sxp: a sequence of (option value) forms.
func (c *Config) parseXend(b []byte) error {
	options, err := conffile.Options(b)
	if err != nil {
		return err
	}
	setters := c.xendOptions()
	var errs []error
	for _, form := range options {
		name := form.Name()
		if name == "" {
			c.warn("xend-config.sxp: %s is not an option; it is ignored", form)
			continue
		}
		set, known := setters[name]
		switch {
		case known:
			errs = append(errs, set.Take(form))
		case slices.Contains(ignoredOptions, name):
			c.warn("xend-config.sxp: option %s has no effect here", name)
		default:
			c.warn("xend-config.sxp: option %s is unknown; it is ignored%s", name, meant(name, setters))
			c.Doubts = append(c.Doubts, c.Warnings[len(c.Warnings)-1])
		}
	}
	for _, tcp := range []struct {
		on            bool
		option, value string
	}{
		{c.HTTPServer, "xend-address", c.HTTPAddress},
		{c.XMLRPCServer, "xend-tcp-xmlrpc-server-address", c.XMLRPCAddress},
	} {
		if tcp.on && !isLoopback(tcp.value) {
			c.warn("xend-config.sxp: (%s %s) lets everybody who can reach that address control this host: the API has no authentication", tcp.option, sxp.Atom(tcp.value))
		}
	}
	return errors.Join(errs...)
}

// meant asks whether a misspelt option is one that is known.
func meant(name string, setters map[string]conffile.Setter) string {
	known := append(slices.Sorted(maps.Keys(setters)), ignoredOptions...)
	if word := nearest.To(name, known); word != "" {
		return " (" + word + "?)"
	}
	return ""
}

// isLoopback tells whether an address can be reached from this machine only.
func isLoopback(addr string) bool {
	if ip, err := netip.ParseAddr(addr); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return strings.EqualFold(addr, conffile.Loopback)
}

// The level above errors, and the name of "everything", in the original's words.
const levelCritical = slog.LevelError + 4

var logLevels = map[string]slog.Level{
	"NOTSET":   slog.LevelDebug,
	"DEBUG":    slog.LevelDebug,
	"INFO":     slog.LevelInfo,
	"WARN":     slog.LevelWarn,
	"WARNING":  slog.LevelWarn,
	"ERROR":    slog.LevelError,
	"FATAL":    levelCritical,
	"CRITICAL": levelCritical,
}

// setLogLevel never fails: a daemon that does not start for a misspelt level helps nobody.
func (c *Config) setLogLevel(value string) error {
	level, ok := logLevels[strings.ToUpper(value)]
	if !ok {
		c.warn("xend-config.sxp: loglevel %s is unknown; it is INFO", value)
		level = slog.LevelInfo
	}
	c.LogLevel = level
	return nil
}
