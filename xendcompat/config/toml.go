package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/paths"
)

// fileOf writes c as the file that would say the same.
func (c *Config) fileOf() conffile.Vnet {
	d := c.Dataplane
	target := logFile
	if c.Journal {
		target = logJournal
	}
	bridgeNetfilter := netfilterKeep
	if c.BridgeNetfilterOff {
		bridgeNetfilter = netfilterOff
	}
	return conffile.Vnet{
		Paths: conffile.Paths{
			State:         c.StateDir,
			Scripts:       c.ScriptsDir,
			ControlSocket: c.ControlSocket,
			XMLRPCSocket:  c.XMLRPCPath,
			HotplugLog:    c.HotplugLog,
		},
		Log:     conffile.Log{Target: target},
		Control: conffile.Control{LegacySocket: c.LegacyControlSocket != ""},
		HTTP:    conffile.HTTP{AllowedHosts: c.AllowedHosts},
		Scripts: conffile.Scripts{
			Timeout:         conffile.Duration(c.ScriptTimeout),
			Antispoof:       c.Antispoof,
			AcceptBridges:   c.AcceptBridges,
			BridgeNetfilter: bridgeNetfilter,
		},
		Limits: conffile.Limits{
			Connections: int64(c.Limits.Connections),
			BodyBytes:   int64(c.Limits.BodyBytes),
		},
		Domain:    conffile.Domain{Toolstack: c.Toolstack, RelocationSecret: c.RelocationSecret},
		VnetFiles: conffile.VnetFiles{OnDemand: c.VnetsOnDemand},
		Dataplane: conffile.Dataplane{
			Enabled:         c.Carry,
			DefaultVnets:    c.DefaultVnets,
			Device:          d.Device,
			Devices:         d.Devices,
			Group:           d.Group.String(),
			IPv6:            d.IPv6,
			Group6:          d.Group6.String(),
			Port:            int64(d.Port),
			SourcePort:      string(d.SourcePort),
			TTL:             int64(d.TTL),
			MTU:             int64(c.MTU),
			GroupFwdMask:    int64(c.ForwardMask),
			MTUMode:         string(d.MTUMode),
			ClampMSS:        d.ClampMSS,
			FastPath:        string(d.FastPath),
			Bypass:          string(d.Bypass),
			XDP:             string(d.XDP),
			Encapsulation:   string(d.Encapsulation),
			EtherIP:         string(d.EtherIPHosts),
			Peers:           hostsOf(d.Peers),
			Replicate:       hostsOf(d.Replicate),
			ResolveInterval: conffile.Duration(d.ResolveInterval),
			EntryTTL:        conffile.Duration(d.EntryTTL),
			SweepInterval:   conffile.Duration(d.SweepInterval),
			HoldDown:        conffile.Duration(d.HoldDown),
			GroupSilence:    conffile.Duration(d.GroupSilence),
			MaxMACs:         int64(d.MaxMACs),
			Workers:         int64(d.Workers),
			BUMRate:         int64(d.BUMRate),
		},
		Security: conffile.Security{
			KeyDir:        c.KeyDir,
			Port:          int64(d.Security.Port),
			Encapsulation: string(d.Security.Encapsulation),
			NAT:           d.Security.NAT,
		},
		Status: conffile.Status{
			Listen:    c.Status.Listen,
			TokenFile: c.Status.TokenFile,
			TLSCert:   c.Status.TLSCert,
			TLSKey:    c.Status.TLSKey,
			ClientCA:  c.Status.ClientCA,
			ReadOnly:  c.Status.ReadOnly,
		},
	}
}

const (
	logFile       = "file"
	logJournal    = "journal"
	netfilterKeep = "keep"
	netfilterOff  = "off"
)

// loadVnet reads vnet.toml into c, which holds the defaults.
func (c *Config) loadVnet(p paths.Paths) error {
	file := p.VnetConfig()
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = c.parseVnet(b, p)
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

// parseVnet reads the text of vnet.toml over the defaults in c.
func (c *Config) parseVnet(b []byte, p paths.Paths) error {
	f := c.fileOf()
	unknown, err := conffile.DecodeVnet(b, &f)
	if err != nil {
		return err
	}
	v := validator{c: c}
	for _, key := range unknown {
		v.failf("%s: unknown key", key)
	}
	v.paths(f, p)
	v.limits(f.Limits)
	v.domain(f.Domain)
	v.c.VnetsOnDemand = f.VnetFiles.OnDemand
	v.c.KeyDir = v.path("[security] key_dir", f.Security.KeyDir)
	v.status(f.Status)
	v.dataplane(f.Dataplane, f.Security)
	return errors.Join(v.errs...)
}

// validator takes the values of a conffile.Vnet over into c and collects what is wrong with them.
type validator struct {
	c    *Config
	errs []error
}

func (v *validator) failf(format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf(format, args...))
}

// number takes n over if it is in the range.
func (v *validator) number(key string, n, low, high int64) int {
	if n < low || n > high {
		v.failf("%s: %d is not between %d and %d", key, n, low, high)
	}
	return int(n)
}

// span takes d over if it is positive.
func (v *validator) span(key string, d conffile.Duration) time.Duration {
	if d <= 0 {
		v.failf("%s: %q is not a positive duration", key, time.Duration(d))
	}
	return time.Duration(d)
}

func (v *validator) path(key, path string) string {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		v.failf("%s: %q is not an absolute path", key, path)
	}
	return path
}

func (v *validator) paths(f conffile.Vnet, p paths.Paths) {
	c := v.c
	c.StateDir = v.path("[paths] state", f.Paths.State)
	c.ScriptsDir = v.path("[paths] scripts", f.Paths.Scripts)
	c.ControlSocket = v.path("[paths] control_socket", f.Paths.ControlSocket)
	c.XMLRPCPath = v.path("[paths] xmlrpc_socket", f.Paths.XMLRPCSocket)
	c.HotplugLog = v.path("[paths] hotplug_log", f.Paths.HotplugLog)
	switch f.Log.Target {
	case logFile, logJournal:
		c.Journal = f.Log.Target == logJournal
	default:
		v.failf("[log] target: %q is neither %q nor %q", f.Log.Target, logFile, logJournal)
	}
	c.LegacyControlSocket = ""
	if f.Control.LegacySocket {
		c.LegacyControlSocket = p.LegacyControlSocket()
	}
	c.AllowedHosts = f.HTTP.AllowedHosts
	for i, h := range c.AllowedHosts {
		if h == "" || strings.ContainsAny(h, "/ \t\r\n") {
			v.failf("[http] allowed_hosts[%d]: %q is not the name of a host", i, h)
		}
	}
	c.ScriptTimeout = v.span("[scripts] timeout", f.Scripts.Timeout)
	c.Antispoof, c.AcceptBridges = f.Scripts.Antispoof, f.Scripts.AcceptBridges
	switch f.Scripts.BridgeNetfilter {
	case netfilterKeep, netfilterOff:
		c.BridgeNetfilterOff = f.Scripts.BridgeNetfilter == netfilterOff
	default:
		v.failf("[scripts] bridge_netfilter: %q is neither keep nor off", f.Scripts.BridgeNetfilter)
	}
}

func (v *validator) limits(t conffile.Limits) {
	v.c.Limits = Limits{
		Connections: v.number("[limits] connections", t.Connections, 1, 1<<16),
		BodyBytes:   v.number("[limits] body_bytes", t.BodyBytes, 1<<10, 64<<20),
	}
}

func (v *validator) domain(t conffile.Domain) {
	v.c.RelocationSecret = v.path("[domain] relocation_secret", t.RelocationSecret)
	switch v.c.Toolstack = t.Toolstack; t.Toolstack {
	case ToolstackAuto, ToolstackXL, ToolstackLab, ToolstackNone:
	default:
		v.failf("[domain] toolstack: %q is not %q, %q, %q or %q", t.Toolstack, ToolstackAuto, ToolstackXL, ToolstackLab, ToolstackNone)
	}
}

func (v *validator) dataplane(t conffile.Dataplane, s conffile.Security) {
	d := dataplane.Config{
		Device:          t.Device,
		Devices:         append([]string(nil), t.Devices...), // an empty list is none
		Group:           v.address("[dataplane] group", t.Group),
		IPv6:            t.IPv6,
		Group6:          v.address("[dataplane] group6", t.Group6),
		Port:            uint16(v.number("[dataplane] port", t.Port, 1, 65535)),
		SourcePort:      dataplane.SourcePort(t.SourcePort),
		TTL:             v.number("[dataplane] ttl", t.TTL, 1, 255),
		MTUMode:         dataplane.MTUMode(t.MTUMode),
		ClampMSS:        t.ClampMSS,
		FastPath:        dataplane.FastPath(t.FastPath),
		Bypass:          dataplane.Bypass(t.Bypass),
		XDP:             fastpath.XDP(t.XDP),
		Encapsulation:   dataplane.Encapsulation(t.Encapsulation),
		EtherIPHosts:    dataplane.EtherIPHosts(t.EtherIP),
		Peers:           v.hosts("[dataplane] peers", t.Peers),
		Replicate:       v.hosts("[dataplane] replicate", t.Replicate),
		ResolveInterval: time.Duration(t.ResolveInterval),
		EntryTTL:        time.Duration(t.EntryTTL),
		SweepInterval:   time.Duration(t.SweepInterval),
		HoldDown:        time.Duration(t.HoldDown),
		GroupSilence:    time.Duration(t.GroupSilence),
		MaxMACs:         int(t.MaxMACs),
		Workers:         int(t.Workers),
		BUMRate:         int(t.BUMRate),
		Security: dataplane.Security{
			Port:          uint16(v.number("[security] port", s.Port, 1, 65535)),
			Encapsulation: dataplane.SecurityEncapsulation(s.Encapsulation),
			NAT:           s.NAT,
		},
	}
	v.c.ForwardMask = uint16(v.number("[dataplane] group_fwd_mask", t.GroupFwdMask, 0, 0xffff))
	if v.c.ForwardMask&7 != 0 {
		v.failf("[dataplane] group_fwd_mask %#x: bits 0 to 2 are STP's, PAUSE's and LACP's, which no bridge of Linux forwards", v.c.ForwardMask)
	}
	v.c.Carry, v.c.DefaultVnets, v.c.MTU, v.c.Dataplane = t.Enabled, t.DefaultVnets, int(t.MTU), d
	if len(v.errs) > 0 {
		return
	}
	if err := errors.Join(d.Validate(), port.CheckMTU(v.c.MTU)); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			v.failf("[dataplane] %s", line)
		}
	}
}

func (v *validator) address(key, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		v.failf("%s: %q is not an IP address", key, s)
	}
	return a
}

// hosts reads a list of "host", "host:port" and "[address]:port".
func (v *validator) hosts(key string, list []string) []dataplane.NamedHost {
	var peers []dataplane.NamedHost
	for i, s := range list {
		p, err := parseHost(s)
		if err != nil {
			v.failf("%s[%d]: %w", key, i, err)
			continue
		}
		peers = append(peers, p)
	}
	return peers
}

func parseHost(s string) (dataplane.NamedHost, error) {
	host, port := s, ""
	if _, err := netip.ParseAddr(s); err != nil && strings.Contains(s, ":") {
		if host, port, err = net.SplitHostPort(s); err != nil {
			return dataplane.NamedHost{}, fmt.Errorf("%q is not host or host:port", s)
		}
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n/") {
		return dataplane.NamedHost{}, fmt.Errorf("%q does not name a host", s)
	}
	p := dataplane.NamedHost{Addr: host}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return dataplane.NamedHost{}, fmt.Errorf("%q: port %s is not between 1 and 65535", s, port)
		}
		p.Port = uint16(n)
	}
	return p, nil
}

// hostsOf is the inverse of hosts.
func hostsOf(peers []dataplane.NamedHost) []string {
	var list []string
	for _, p := range peers {
		if p.Port == 0 {
			list = append(list, p.Addr)
		} else {
			list = append(list, net.JoinHostPort(p.Addr, strconv.Itoa(int(p.Port))))
		}
	}
	return list
}
