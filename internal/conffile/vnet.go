// Package conffile has the two configuration files as they are written: the tables of vnet.toml, the options of
// xend-config.sxp. What the values mean, and whether they are right, is for those who use them: the daemon, and
// the network scripts, which work without it.
package conffile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Vnet is vnet.toml as it is written, not validated. Decoding over a filled one keeps what the file does not name.
type Vnet struct {
	Paths     Paths     `toml:"paths"`
	Log       Log       `toml:"log"`
	Control   Control   `toml:"control"`
	HTTP      HTTP      `toml:"http"`
	Scripts   Scripts   `toml:"scripts"`
	Limits    Limits    `toml:"limits"`
	Domain    Domain    `toml:"domain"`
	VnetFiles VnetFiles `toml:"vnet"`
	Dataplane Dataplane `toml:"dataplane"`
	Security  Security  `toml:"security"`
	Status    Status    `toml:"status"`
}

// Paths is the table [paths]: absolute file names.
type Paths struct {
	State         string `toml:"state"`
	Scripts       string `toml:"scripts"`
	ControlSocket string `toml:"control_socket"`
	XMLRPCSocket  string `toml:"xmlrpc_socket"`
	HotplugLog    string `toml:"hotplug_log"`
}

// Log is the table [log].
type Log struct {
	Target string `toml:"target"`
}

// Control is the table [control].
type Control struct {
	LegacySocket bool `toml:"legacy_socket"`
}

// HTTP is the table [http].
type HTTP struct {
	AllowedHosts []string `toml:"allowed_hosts"`
}

// Scripts is the table [scripts].
type Scripts struct {
	Timeout         Duration `toml:"timeout"`
	Antispoof       bool     `toml:"antispoof"`
	AcceptBridges   bool     `toml:"accept_bridges"`
	BridgeNetfilter string   `toml:"bridge_netfilter"`
}

// Limits is the table [limits].
type Limits struct {
	Connections int64 `toml:"connections"`
	BodyBytes   int64 `toml:"body_bytes"`
}

// Domain is the table [domain].
type Domain struct {
	Toolstack        string `toml:"toolstack"`
	RelocationSecret string `toml:"relocation_secret"`
}

// VnetFiles is the table [vnet].
type VnetFiles struct {
	OnDemand bool `toml:"on_demand"`
}

// Dataplane is the table [dataplane].
type Dataplane struct {
	Enabled         bool     `toml:"enabled"`
	DefaultVnets    bool     `toml:"default_vnets"`
	Device          string   `toml:"device"`
	Devices         []string `toml:"devices"`
	Group           string   `toml:"group"`
	IPv6            bool     `toml:"ipv6"`
	Group6          string   `toml:"group6"`
	Port            int64    `toml:"port"`
	SourcePort      string   `toml:"source_port"`
	TTL             int64    `toml:"ttl"`
	MTU             int64    `toml:"mtu"`
	GroupFwdMask    int64    `toml:"group_fwd_mask"`
	MTUMode         string   `toml:"mtu_mode"`
	ClampMSS        bool     `toml:"clamp_mss"`
	FastPath        string   `toml:"fastpath"`
	Bypass          string   `toml:"bypass"`
	XDP             string   `toml:"xdp"`
	Encapsulation   string   `toml:"encapsulation"`
	EtherIP         string   `toml:"etherip"`
	Peers           []string `toml:"peers"`
	Replicate       []string `toml:"replicate"`
	ResolveInterval Duration `toml:"resolve_interval"`
	EntryTTL        Duration `toml:"entry_ttl"`
	SweepInterval   Duration `toml:"sweep_interval"`
	HoldDown        Duration `toml:"hold_down"`
	GroupSilence    Duration `toml:"group_silence"`
	MaxMACs         int64    `toml:"max_macs"`
	Workers         int64    `toml:"workers"`
	BUMRate         int64    `toml:"bum_rate"`
}

// Security is the table [security]: vnets with security auth or conf.
type Security struct {
	KeyDir        string `toml:"key_dir"`
	Port          int64  `toml:"port"`
	Encapsulation string `toml:"encapsulation"`
	NAT           bool   `toml:"nat"`
}

// Status is the table [status]: the page, the metrics and the health checks on a TCP port of their own.
type Status struct {
	Listen    string `toml:"listen"`
	TokenFile string `toml:"token_file"`
	TLSCert   string `toml:"tls_cert"`
	TLSKey    string `toml:"tls_key"`
	ClientCA  string `toml:"client_ca"`
	ReadOnly  bool   `toml:"read_only"`
}

// Duration is written as "90s" or "5m".
type Duration time.Duration

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes a duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// DecodeVnet reads the text of vnet.toml over what v holds. unknown are the keys that v has no place for, as
// "[table] key".
func DecodeVnet(b []byte, v *Vnet) (unknown []string, err error) {
	meta, err := toml.NewDecoder(bytes.NewReader(b)).Decode(v)
	if err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("line %d, column %d: %s", syntax.Position.Line, syntax.Position.Col, syntax.Message)
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "toml: "))
	}
	for _, key := range unknownKeys(meta.Undecoded()) {
		unknown = append(unknown, KeyName(key))
	}
	return unknown, nil
}

// unknownKeys leaves out what lies below a table that is unknown itself.
func unknownKeys(keys []toml.Key) []toml.Key {
	var out []toml.Key
	for _, k := range keys {
		if n := len(out); n > 0 && len(k) > len(out[n-1]) && k[:len(out[n-1])].String() == out[n-1].String() {
			continue
		}
		out = append(out, k)
	}
	return out
}

// KeyName is how errors name a key: [table] key.
func KeyName(k toml.Key) string {
	if len(k) == 1 {
		return "[" + k[0] + "]"
	}
	return "[" + k[:len(k)-1].String() + "] " + k[len(k)-1]
}
