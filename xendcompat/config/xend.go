package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/nearest"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/sxp"
)

// xendOption is an option of xend-config.sxp that means something here.
type xendOption struct {
	name string
	set  func(c *Config, value string) error
}

var xendOptions = []xendOption{
	{"xend-unix-server", boolean(func(c *Config) *bool { return &c.UnixServer })},
	{"xend-unix-path", text(func(c *Config) *string { return &c.UnixPath })},
	{"xend-http-server", boolean(func(c *Config) *bool { return &c.HTTPServer })},
	{"xend-port", port(func(c *Config) *int { return &c.HTTPPort })},
	{"xend-address", address(func(c *Config) *string { return &c.HTTPAddress })},
	{"xend-unix-xmlrpc-server", boolean(func(c *Config) *bool { return &c.XMLRPCUnixServer })},
	{"xend-tcp-xmlrpc-server", boolean(func(c *Config) *bool { return &c.XMLRPCServer })},
	{"xend-tcp-xmlrpc-server-address", address(func(c *Config) *string { return &c.XMLRPCAddress })},
	{"xend-tcp-xmlrpc-server-port", port(func(c *Config) *int { return &c.XMLRPCPort })},
	{"network-script", optionalText(func(c *Config) *string { return &c.NetworkScript })},
	{"vif-script", text(func(c *Config) *string { return &c.VifScript })},
	{"logfile", text(func(c *Config) *string { return &c.LogFile })},
	{"loglevel", setLogLevel},
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
	"xend-domain-lock-utility", "xend-domains-lock-path", "xend-domains-path", "xend-relocation-address",
	"xend-relocation-hosts-allow", "xend-relocation-port", "xend-relocation-server",
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
	var errs []error
	for _, form := range options {
		name := form.Name()
		if name == "" {
			c.warn("xend-config.sxp: %s is not an option; it is ignored", form)
			continue
		}
		i := slices.IndexFunc(xendOptions, func(o xendOption) bool { return o.name == name })
		switch {
		case i >= 0:
			errs = append(errs, c.setXend(xendOptions[i], form))
		case slices.Contains(ignoredOptions, name):
			c.warn("xend-config.sxp: option %s has no effect here", name)
		default:
			c.warn("xend-config.sxp: option %s is unknown; it is ignored%s", name, meant(name))
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
func meant(name string) string {
	known := slices.Clone(ignoredOptions)
	for _, o := range xendOptions {
		known = append(known, o.name)
	}
	if word := nearest.To(name, known); word != "" {
		return " (" + word + "?)"
	}
	return ""
}

// setXend takes the value of an option. One without a value keeps its default.
func (c *Config) setXend(o xendOption, form sxp.Value) error {
	values := form.Children()
	if len(values) == 0 {
		return nil
	}
	if values[0].IsList() {
		return invalid(o.name, "a single value", values[0].String())
	}
	if err := o.set(c, values[0].Text()); err != nil {
		return fmt.Errorf("invalid xend config %s: %w", o.name, err)
	}
	return nil
}

func invalid(name, expected, value string) error {
	return fmt.Errorf("invalid xend config %s: %w", name, expectation(expected, value))
}

// expectation is the second half of xend's words for a bad value.
func expectation(what, value string) error { return fmt.Errorf("expected %s: %s", what, value) }

func boolean(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, value string) error {
		switch strings.ToLower(value) {
		case "yes", "y", "1", "on", "true", "t":
			*field(c) = true
		case "no", "n", "0", "off", "false", "f":
			*field(c) = false
		default:
			return expectation("bool", value)
		}
		return nil
	}
}

func port(field func(*Config) *int) func(*Config, string) error {
	return func(c *Config, value string) error {
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if errors.Is(err, strconv.ErrSyntax) {
			return expectation("int", value)
		}
		if err != nil || n < 1 || n > 65535 {
			return expectation("a port from 1 to 65535", value)
		}
		*field(c) = n
		return nil
	}
}

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, value string) error {
		if value == "" || strings.ContainsRune(value, 0) {
			return expectation("string", sxp.Atom(value).String())
		}
		*field(c) = value
		return nil
	}
}

func optionalText(field func(*Config) *string) func(*Config, string) error {
	set := text(field)
	return func(c *Config, value string) error {
		if value == "" {
			*field(c) = ""
			return nil
		}
		return set(c, value)
	}
}

// address is text, of which the empty one, all addresses in the original, means loopback.
func address(field func(*Config) *string) func(*Config, string) error {
	set := text(field)
	return func(c *Config, value string) error {
		if value == "" {
			value = loopback
		}
		return set(c, value)
	}
}

// isLoopback tells whether an address can be reached from this machine only.
func isLoopback(addr string) bool {
	if ip, err := netip.ParseAddr(addr); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return strings.EqualFold(addr, loopback)
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
func setLogLevel(c *Config, value string) error {
	level, ok := logLevels[strings.ToUpper(value)]
	if !ok {
		c.warn("xend-config.sxp: loglevel %s is unknown; it is INFO", value)
		level = slog.LevelInfo
	}
	c.LogLevel = level
	return nil
}
