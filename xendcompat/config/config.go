// Package config reads the two configuration files: xend-config.sxp, which has xend's own names, and
// vnet.toml for what that file has no names for. Everything is validated before anything else
// happens; what the daemon works with is one struct, Config.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/paths"
)

// Config is all configuration, validated. docs/configuration.md describes every key.
type Config struct {
	// Servers are where the daemon listens.
	conffile.Servers
	// LegacyControlSocket is where the original's control socket was; empty: not there.
	LegacyControlSocket string

	// NetworkScript is the name and the arguments of the script run at every start; empty for none.
	NetworkScript string
	// VifScript is the script of virtual interfaces that name none.
	VifScript string
	// LogFile is where the log goes, unless Journal.
	LogFile  string
	LogLevel slog.Level
	// Journal sends the log to systemd's journal.
	Journal bool

	// StateDir is the directory of the vnets' files.
	StateDir string
	// ScriptsDir is where scripts are looked for first.
	ScriptsDir string
	// ScriptTimeout bounds the run of the network script.
	ScriptTimeout time.Duration
	// Antispoof makes what ip= of a vif says the only addresses that may come from it.
	Antispoof bool
	// AcceptBridges keeps a rule for each vnet's bridge in the firewall's chain that drops what it forwards.
	AcceptBridges bool
	// BridgeNetfilterOff has no bridge of the network namespace hand packets to iptables.
	BridgeNetfilterOff bool
	// HotplugLog keeps what scripts write to standard error.
	HotplugLog string
	// AllowedHosts are names, besides the machine's own and loopback's, that a browser may have used
	// to reach the TCP servers.
	AllowedHosts []string

	// Toolstack is what runs domains.
	Toolstack string
	// RelocationServer takes in the domains of other hosts.
	RelocationServer bool
	// RelocationPort is its port, here and on other hosts. RelocationAddress is where it listens; empty means everywhere.
	RelocationPort    int
	RelocationAddress string
	// RelocationAllow are regular expressions, with blanks between them, for hosts that may send domains; empty allows all.
	RelocationAllow string
	// RelocationSecret is the file of the secret that hosts share between which domains move.
	RelocationSecret string
	// VnetsOnDemand has a vif that asks for a bridge that does not exist make the vnet that a file in VnetsDir describes.
	VnetsOnDemand bool
	// VnetsDir is where those files are.
	VnetsDir string

	Limits Limits

	// Status is the listener of the status page, the metrics and the health checks.
	Status Status

	// KeyDir is the folder of the keys of vnets with security.
	KeyDir string

	// Carry is the key enabled of [dataplane]: false leaves vnets bridges and interfaces of this host alone.
	Carry bool
	// ForwardMask is the key group_fwd_mask: service.Settings.ForwardMask.
	ForwardMask uint16
	// DefaultVnets has the vnets 2 to 4 exist without being created.
	DefaultVnets bool
	// MTU is that of vnifs, and of bridges that xend makes, in bytes without the Ethernet header.
	MTU       int
	Dataplane dataplane.Config

	// Warnings say what is odd without being an error, each once.
	Warnings []string
	// Doubts are those of the Warnings that a person who starts the daemon should see: what is probably a
	// misspelt option.
	Doubts []string
}

// Limits bound what clients can use up. All are positive.
type Limits struct {
	Connections int // open connections per listener
	BodyBytes   int // of a request
}

// Status says where the page, the metrics and the health checks are served on TCP, and to whom. Files are named by their
// absolute paths, "" for none.
type Status struct {
	// Listen is host:port, "" to listen nowhere. Address and Port are its parts; an empty Address is everywhere.
	Listen  string
	Address string
	Port    int
	// TokenFile holds the tokens that let somebody in.
	TokenFile string
	// TLSCert and TLSKey are the server's own.
	TLSCert, TLSKey string
	// ClientCA holds the authorities whose certificates let somebody in.
	ClientCA string
	// ReadOnly lets nobody change anything.
	ReadOnly bool
}

// What runs domains.
const (
	ToolstackAuto = "auto" // xl where Xen runs, else lab
	ToolstackXL   = "xl"
	ToolstackLab  = "lab"
	ToolstackNone = "none"
)

// Default returns the configuration without any file.
func Default(p paths.Paths) Config {
	return Config{
		Servers:          conffile.DefaultServers(p),
		VifScript:        "vif-bridge",
		LogFile:          p.LogFile(),
		LogLevel:         slog.LevelInfo,
		StateDir:         p.Registry(),
		ScriptsDir:       p.Scripts(),
		ScriptTimeout:    60 * time.Second,
		HotplugLog:       p.HotplugLog(),
		Toolstack:        ToolstackAuto,
		RelocationPort:   8002,
		RelocationSecret: p.RelocationSecret(),
		VnetsDir:         p.Vnets(),
		Limits: Limits{
			Connections: 512,
			BodyBytes:   1 << 20,
		},
		Carry:        true,
		DefaultVnets: true,
		MTU:          port.DefaultMTU,
		KeyDir:       p.VnetKeys(),
		Dataplane:    dataplane.DefaultConfig(),
	}
}

// Options say what the command line said.
type Options struct {
	// XendConfig is the path of xend-config.sxp; empty means $XEND_CONFIG or the default path, where
	// the file need not exist.
	XendConfig string
}

// FileError says which file is wrong.
type FileError struct {
	File string
	Err  error
}

func (e *FileError) Error() string { return e.File + ": " + e.Err.Error() }

// Unwrap returns what is wrong with it.
func (e *FileError) Unwrap() error { return e.Err }

// Load reads both files. The error names everything that is wrong with them, a line each.
func Load(p paths.Paths, o Options) (*Config, error) {
	c := Default(p)
	if err := errors.Join(c.loadXend(p, o), c.loadVnet(p)); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		on   bool
		path string
		key  string
	}{
		{c.UnixServer, c.UnixPath, "xend-unix-path"},
		{c.XMLRPCUnixServer, c.XMLRPCPath, "[paths] xmlrpc_socket"},
		{true, c.ControlSocket, "[paths] control_socket"},
		{c.LegacyControlSocket != "", c.LegacyControlSocket, "[control] legacy_socket"},
	} {
		if s.on {
			if err := conffile.CheckSocketPath(s.path); err != nil {
				return nil, fmt.Errorf("%s: %w", s.key, err)
			}
		}
	}
	if c.HTTPServer && c.XMLRPCServer && c.HTTPPort == c.XMLRPCPort && c.HTTPAddress == c.XMLRPCAddress {
		return nil, fmt.Errorf("xend-port and xend-tcp-xmlrpc-server-port are both %d", c.HTTPPort)
	}
	return &c, nil
}

func (c *Config) warn(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}
