// Package paths says where everything lies on a machine, and where it lies when several hosts
// share one machine: a prefix moves every default path below one directory.
package paths

import (
	"os"
	"path/filepath"
)

// PrefixEnv names the environment variable that every program of this project reads.
const PrefixEnv = "XEND_PREFIX"

// StartEnv names the environment variable by which a network script knows that xend runs it at its start, and not a
// person who could decide otherwise.
const StartEnv = "XEND_START"

// Paths resolves default paths. The zero value is the machine itself.
type Paths struct {
	// Prefix is the directory below which every default path lies; "" is the root directory.
	Prefix string
}

// New returns the paths below prefix. An empty prefix means $XEND_PREFIX, and where that is
// empty too, the machine's root. A relative prefix is made absolute, since daemons change directory.
func New(prefix string) (Paths, error) {
	if prefix == "" {
		prefix = os.Getenv(PrefixEnv)
	}
	if prefix == "" {
		return Paths{}, nil
	}
	abs, err := filepath.Abs(prefix)
	if err != nil {
		return Paths{}, err
	}
	if abs == "/" {
		abs = ""
	}
	return Paths{Prefix: abs}, nil
}

// under places an absolute default path below the prefix.
func (p Paths) under(path string) string { return filepath.Join("/", p.Prefix, path) }

// EtcXen is the directory of the configuration files.
func (p Paths) EtcXen() string { return p.under("/etc/xen") }

// XendConfig is the legacy configuration file; $XEND_CONFIG names another.
func (p Paths) XendConfig() string {
	if f := os.Getenv("XEND_CONFIG"); f != "" {
		return f
	}
	return p.under("/etc/xen/xend-config.sxp")
}

// VnetConfig is the configuration file for what the legacy file has no names for.
func (p Paths) VnetConfig() string { return p.under("/etc/xen/vnet.toml") }

// VnetKeys is the folder of the keys of vnets with security.
func (p Paths) VnetKeys() string { return p.under("/etc/xen/vnet-keys") }

// Scripts is the first directory in which network and vif scripts are looked for.
func (p Paths) Scripts() string { return p.under("/etc/xen/scripts") }

// Vnets is the directory of files that describe vnets, for those that are made on demand.
func (p Paths) Vnets() string { return p.under("/etc/xen/vnets.d") }

// RelocationSecret holds the secret that hosts share between which domains move.
func (p Paths) RelocationSecret() string { return p.under("/etc/xen/relocation.secret") }

// LabDomains is the directory of the domains that the lab toolstack runs, which a reboot ends.
func (p Paths) LabDomains() string { return p.under("/run/xend/domains") }

// Domains is the directory of the managed domains' files.
func (p Paths) Domains() string { return p.under("/var/lib/xend/domains") }

// Dumps is the directory of core dumps of domains.
func (p Paths) Dumps() string { return p.under("/var/lib/xen/dump") }

// State is the directory of what must survive a reboot.
func (p Paths) State() string { return p.under("/var/lib/xend") }

// Registry is the directory of the persistent vnets' files.
func (p Paths) Registry() string { return p.under("/var/lib/xend/vnets") }

// Run is the directory of what must not.
func (p Paths) Run() string { return p.under("/run/xend") }

// RunRoot is the parent of Run; with a prefix, PREFIX/var/run is a link to it.
func (p Paths) RunRoot() string { return p.under("/run") }

// VarRun is the legacy name of RunRoot.
func (p Paths) VarRun() string { return p.under("/var/run") }

// PidFile holds the daemon's decimal pid.
func (p Paths) PidFile() string { return p.under("/run/xend.pid") }

// Socket is the default unix socket of the SXP/HTTP server.
func (p Paths) Socket() string { return p.under("/var/lib/xend/xend-socket") }

// XMLRPCSocket is the default unix socket of the XML-RPC server.
func (p Paths) XMLRPCSocket() string { return p.under("/run/xend/xmlrpc.sock") }

// ControlSocket is the low-level control socket that vn talks to.
func (p Paths) ControlSocket() string { return p.under("/run/xend/vnetd.sock") }

// ConsoleSocket is where the consoles of domains are served.
func (p Paths) ConsoleSocket() string { return p.under("/run/xend/console.sock") }

// LegacyControlSocket is where the original daemon listened; only used when asked for.
func (p Paths) LegacyControlSocket() string { return p.under("/tmp/vnetd") }

// LogFile is the daemon's default log.
func (p Paths) LogFile() string { return p.under("/var/log/xen/xend.log") }

// HotplugLog keeps what scripts write to standard error.
func (p Paths) HotplugLog() string { return p.under("/var/log/xen/xen-hotplug.log") }

// HotplugLocks is the directory of the locks that hotplug scripts of all origins share.
func (p Paths) HotplugLocks() string { return p.under("/run/xen-hotplug") }
