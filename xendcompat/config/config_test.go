package config

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/paths"
)

// host is a machine below a prefix with these files; an empty text means no file.
func host(t *testing.T, xend, vnet string) paths.Paths {
	t.Helper()
	t.Setenv("XEND_CONFIG", "")
	p, err := paths.New(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(p.EtcXen(), 0o755))
	for file, text := range map[string]string{p.XendConfig(): xend, p.VnetConfig(): vnet} {
		if text != "" {
			require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		}
	}
	return p
}

func load(t *testing.T, xend, vnet string) *Config {
	t.Helper()
	c, err := Load(host(t, xend, vnet), Options{})
	require.NoError(t, err)
	return c
}

func TestDefaults(t *testing.T) {
	p := host(t, "", "")
	c, err := Load(p, Options{})
	require.NoError(t, err)
	require.Equal(t, Default(p), *c)
	require.Equal(t, p.Prefix+"/var/lib/xend/vnets", c.StateDir)
	require.NoError(t, c.Dataplane.Validate())
	require.Empty(t, c.Warnings)
}

func TestXendConfig(t *testing.T) {
	c := load(t, `
# comment
(xend-http-server YES)(xend-http-server no)
(xend-port ' 8001')
(xend-address '')
(xend-unix-path /x/s)
(xend-tcp-xmlrpc-server t)
(xend-tcp-xmlrpc-server-address 192.0.2.1)
(network-script 'network-vnet netdev=eth1')
(logfile /var/log/xend.log)
(loglevel WARNING)
(xend-relocation-ssl yes) (xend-relocation-ssl yes)
(novel thing) (novel thing)
(xend-unix-server)
stray
(())
`, "")
	require.True(t, c.HTTPServer, "of a repeated option the first counts")
	require.Equal(t, 8001, c.HTTPPort)
	require.Equal(t, "localhost", c.HTTPAddress)
	require.Equal(t, "/x/s", c.UnixPath)
	require.Equal(t, "192.0.2.1", c.XMLRPCAddress)
	require.Equal(t, "network-vnet netdev=eth1", c.NetworkScript)
	require.Equal(t, slog.LevelWarn, c.LogLevel)
	require.True(t, c.UnixServer, "an option without a value keeps its default")
	require.Equal(t, []string{
		"xend-config.sxp: option xend-relocation-ssl has no effect here",
		"xend-config.sxp: option novel is unknown; it is ignored",
		"xend-config.sxp: stray is not an option; it is ignored",
		"xend-config.sxp: (()) is not an option; it is ignored",
		"xend-config.sxp: (xend-tcp-xmlrpc-server-address 192.0.2.1) lets everybody who can reach that address control this host: the API has no authentication",
	}, c.Warnings)
}

func TestBooleans(t *testing.T) {
	for _, s := range []string{"yes", "y", "1", "on", "true", "t", "Yes", "ON"} {
		require.True(t, load(t, "(xend-http-server "+s+")", "").HTTPServer, s)
	}
	for _, s := range []string{"no", "n", "0", "off", "false", "f", "No", "OFF"} {
		require.False(t, load(t, "(xend-unix-server "+s+")", "").UnixServer, s)
	}
}

func TestXendConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"(xend-http-server maybe)":           "invalid xend config xend-http-server: expected bool: maybe",
		"(xend-http-server ())":              "invalid xend config xend-http-server: expected a single value: ()",
		"(xend-port eighty)":                 "invalid xend config xend-port: expected int: eighty",
		"(xend-port 8000x)":                  "invalid xend config xend-port: expected int: 8000x",
		"(xend-port 80000)":                  "invalid xend config xend-port: expected a port from 1 to 65535: 80000",
		"(xend-port 9999999999999999999999)": "invalid xend config xend-port: expected a port from 1 to 65535: 9999999999999999999999",
		"(xend-unix-path '')":                "invalid xend config xend-unix-path: expected string: ''",
		"(xend-port 8000\n(x":                "unexpected EOF (line 2, column 3): the list that begins at line 2, column 1 is not closed",
		"(xend-port a) (xend-unix-server b)": "invalid xend config xend-port: expected int: a\ninvalid xend config xend-unix-server: expected bool: b",
	} {
		p := host(t, text, "")
		_, err := Load(p, Options{})
		require.EqualError(t, err, p.XendConfig()+": "+want, text)
	}
}

func TestLogLevels(t *testing.T) {
	for s, want := range map[string]slog.Level{"DEBUG": slog.LevelDebug, "info": slog.LevelInfo, "ERROR": slog.LevelError, "CRITICAL": levelCritical} {
		require.Equal(t, want, load(t, "(loglevel "+s+")", "").LogLevel)
	}
	c := load(t, "(loglevel LOUD)", "")
	require.Equal(t, slog.LevelInfo, c.LogLevel)
	require.Len(t, c.Warnings, 1)
}

func TestNamedConfigFile(t *testing.T) {
	p := host(t, "(xend-port 1)", "")
	other := filepath.Join(t.TempDir(), "other.sxp")
	_, err := Load(p, Options{XendConfig: other})
	require.EqualError(t, err, other+": no such file or directory")
	require.NoError(t, os.WriteFile(other, []byte("(xend-port 2)"), 0o644))
	c, err := Load(p, Options{XendConfig: other})
	require.NoError(t, err)
	require.Equal(t, 2, c.HTTPPort)
	t.Setenv("XEND_CONFIG", other)
	c, err = Load(p, Options{})
	require.NoError(t, err)
	require.Equal(t, 2, c.HTTPPort)
}

func TestVnetToml(t *testing.T) {
	c := load(t, "", `
[paths]
state = "/srv/vnets"
[log]
target = "journal"
[scripts]
timeout = "5s"
[limits]
connections = 7
[dataplane]
enabled = false
group = "239.1.2.3"
port = 1799
mtu = 9000
peers = ["192.0.2.1", "b.example:1799"]
ipv6 = true
replicate = ["[2001:db8::1]:1799", "2001:db8::2"]
hold_down = "0s"
group_fwd_mask = 0x4008
etherip = "off"
`)
	require.Equal(t, "/srv/vnets", c.StateDir)
	require.True(t, c.Journal)
	require.Equal(t, 5*time.Second, c.ScriptTimeout)
	require.Equal(t, 7, c.Limits.Connections)
	require.Equal(t, 1<<20, c.Limits.BodyBytes)
	require.False(t, c.Carry)
	require.True(t, c.DefaultVnets)
	require.Equal(t, uint16(1799), c.Dataplane.Port)
	require.Equal(t, []dataplane.NamedHost{{Addr: "2001:db8::1", Port: 1799}, {Addr: "2001:db8::2"}}, c.Dataplane.Replicate)
	require.Zero(t, c.Dataplane.HoldDown)
	require.EqualValues(t, 0x4008, c.ForwardMask)
	require.Equal(t, dataplane.EtherIPOff, c.Dataplane.EtherIPHosts)
}

func TestPeers(t *testing.T) {
	for s, want := range map[string]dataplane.NamedHost{
		"192.0.2.1":       {Addr: "192.0.2.1"},
		"b.example:1799":  {Addr: "b.example", Port: 1799},
		"[2001:db8::1]:5": {Addr: "2001:db8::1", Port: 5},
		"::2":             {Addr: "::2"},
	} {
		got, err := parseHost(s)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestVnetTomlErrors(t *testing.T) {
	for text, want := range map[string]string{
		"x = 1":                                "[x]: unknown key",
		"[dataplane]\nmtv = 1":                 "[dataplane] mtv: unknown key",
		"[metrics]\na = 1\nb = 2":              "[metrics]: unknown key",
		"[paths]\nstate = 'vnets'":             `[paths] state: "vnets" is not an absolute path`,
		"[log]\ntarget = 'tape'":               `[log] target: "tape" is neither "file" nor "journal"`,
		"[limits]\nconnections = 0":            "[limits] connections: 0 is not between 1 and 65536",
		"[scripts]\ntimeout = '-1s'":           `[scripts] timeout: "-1s" is not a positive duration`,
		"[dataplane]\nport = 70000":            "[dataplane] port: 70000 is not between 1 and 65535",
		"[dataplane]\ngroup = 'x'":             `[dataplane] group: "x" is not an IP address`,
		"[dataplane]\nmtu_mode = 'magic'":      `[dataplane] mtu_mode "magic" is neither "fragment" nor "pmtu"`,
		"[dataplane]\npeers = ['a', 'b:0']":    `[dataplane] peers[1]: "b:0": port 0 is not between 1 and 65535`,
		"[dataplane]\nreplicate = ['a b']":     `[dataplane] replicate[0]: "a b" does not name a host`,
		"[dataplane]\netherip = 'never'":       `[dataplane] etherip "never" is neither "auto" nor "off"`,
		"[dataplane]\ngroup_fwd_mask = 0x4001": "[dataplane] group_fwd_mask 0x4001: bits 0 to 2 are STP's, PAUSE's and LACP's, which no bridge of Linux forwards",
		"[dataplane]\ngroup_fwd_mask = 4":      "[dataplane] group_fwd_mask 0x4: bits 0 to 2 are STP's, PAUSE's and LACP's, which no bridge of Linux forwards",
		"[dataplane]\ngroup_fwd_mask = 65536":  "[dataplane] group_fwd_mask: 65536 is not between 0 and 65535",
		"[http]\nallowed_hosts = ['ok', '']":   `[http] allowed_hosts[1]: "" is not the name of a host`,
		"[dataplane]\nx = 1\n[limits]\ny = 2":  "[dataplane] x: unknown key\n[limits] y: unknown key",
	} {
		p := host(t, "", text)
		_, err := Load(p, Options{})
		require.EqualError(t, err, p.VnetConfig()+": "+want, text)
	}
	for text, want := range map[string]string{
		"[dataplane\n":             "line 2, column ",
		"[dataplane]\nttl = 'x'":   "ttl",
		"[scripts]\ntimeout = 'x'": "line 2, column ",
	} {
		p := host(t, "", text)
		_, err := Load(p, Options{})
		require.ErrorContains(t, err, p.VnetConfig()+": ", text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestSocketPaths(t *testing.T) {
	long := "/" + strings.Repeat("x", 107)
	_, err := Load(host(t, "(xend-unix-path "+long+")", ""), Options{})
	require.EqualError(t, err, "xend-unix-path: socket path "+long+" is too long: 108 bytes, and the kernel takes 107")
	_, err = Load(host(t, "(xend-unix-server no)(xend-unix-path "+long+")", ""), Options{})
	require.NoError(t, err, "a socket that is not used may have any path")
	_, err = Load(host(t, "(xend-http-server y)(xend-tcp-xmlrpc-server y)(xend-port 8006)", ""), Options{})
	require.EqualError(t, err, "xend-port and xend-tcp-xmlrpc-server-port are both 8006")
	_, err = Load(host(t, "(xend-unix-path s)", ""), Options{})
	require.EqualError(t, err, `xend-unix-path: socket path "s" is not absolute`)
}

func TestNeedRestart(t *testing.T) {
	a, b := Default(paths.Paths{}), Default(paths.Paths{})
	require.Empty(t, a.NeedRestart(&b))
	b.HTTPPort, b.StateDir, b.Limits.Connections, b.LogFile, b.MTU = 1, "/x", 2, "/y", 9000
	require.Equal(t, []string{"xend-port", "[paths] state", "[limits] connections"}, a.NeedRestart(&b))
	b = Default(paths.Paths{})
	b.KeyDir, b.Dataplane.Security = "/k", dataplane.Security{Port: 1, Encapsulation: dataplane.ESP, NAT: true}
	require.Equal(t, []string{"[security] port"}, a.NeedRestart(&b))
	for name := range a.xendOptions() {
		b := Default(paths.Paths{})
		set := b.xendOptions()[name]
		for _, value := range []string{"no", "yes", "7", "/other"} { // one of them is right, and not the default
			if set(value) == nil && !reflect.DeepEqual(a, b) {
				break
			}
		}
		require.NotEqual(t, a, b, name)
		if name != "logfile" && name != "loglevel" {
			require.Equal(t, []string{name}, a.NeedRestart(&b))
		}
	}
}

// TestEveryFieldOfTheDataPlane has a key: a new field needs one.
func TestEveryFieldOfTheDataPlane(t *testing.T) {
	require.Equal(t, reflect.TypeFor[dataplane.Config]().NumField()+3, reflect.TypeFor[conffile.Dataplane]().NumField())
}

// keys lists "table.key" of every key that vnet.toml may have.
func keys() []string {
	var all []string
	file := reflect.TypeFor[conffile.Vnet]()
	for i := range file.NumField() {
		table := file.Field(i)
		for j := range table.Type.NumField() {
			all = append(all, table.Tag.Get("toml")+"."+table.Type.Field(j).Tag.Get("toml"))
		}
	}
	return all
}

func TestReferenceFiles(t *testing.T) {
	b, err := os.ReadFile("../../etc/vnet.toml")
	require.NoError(t, err)
	active := regexp.MustCompile(`(?m)^#([a-z0-9_]+ = )`).ReplaceAllString(string(b), "$1")
	for _, file := range []string{string(b), active} {
		c := Default(paths.Paths{})
		require.NoError(t, c.parseVnet([]byte(file), paths.Paths{}))
		require.Equal(t, normal(Default(paths.Paths{})), normal(c), "the reference shows the defaults")
	}
	var found []string
	table := ""
	for line := range strings.Lines(active) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "["); ok {
			table = strings.TrimSuffix(name, "]")
		} else if key, _, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, "#") {
			found = append(found, table+"."+key)
		}
	}
	require.ElementsMatch(t, keys(), found, "the reference has every key")

	b, err = os.ReadFile("../../etc/xend-config.sxp")
	require.NoError(t, err)
	activeSXP := strings.ReplaceAll(string(b), "\n#(", "\n(")
	for _, file := range []string{string(b), activeSXP} {
		c := Default(paths.Paths{})
		require.NoError(t, c.parseXend([]byte(file)))
		require.Equal(t, Default(paths.Paths{}), c, "the reference shows the defaults")
	}
	for name := range (&Config{}).xendOptions() {
		require.Contains(t, activeSXP, "\n("+name+" ", "the reference has every option")
	}
}

// normal makes empty lists equal.
func normal(c Config) Config {
	if len(c.AllowedHosts) == 0 {
		c.AllowedHosts = nil
	}
	return c
}

// TestManual holds docs/configuration.md to the reference files.
func TestManual(t *testing.T) {
	b, err := os.ReadFile("../../docs/configuration.md")
	require.NoError(t, err)
	sxpPart, tomlPart, ok := strings.Cut(string(b), "\n## vnet.toml\n")
	require.True(t, ok)

	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]*)` \\| (.+) \\|$")
	reference, err := os.ReadFile("../../etc/xend-config.sxp")
	require.NoError(t, err)
	var options []string
	for _, m := range row.FindAllStringSubmatch(sxpPart, -1) {
		options = append(options, m[1])
		require.Contains(t, string(reference), "\n#("+m[1]+" "+m[2]+")\n")
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys((&Config{}).xendOptions())), options)
	for _, name := range ignoredOptions {
		require.Contains(t, sxpPart, "`"+name+"`")
	}

	reference, err = os.ReadFile("../../etc/vnet.toml")
	require.NoError(t, err)
	var documented []string
	for _, section := range strings.Split(tomlPart, "\n### ")[1:] {
		name, rest, _ := strings.Cut(section, "\n")
		for _, m := range row.FindAllStringSubmatch(rest, -1) {
			documented = append(documented, strings.Trim(name, "[]")+"."+m[1])
			require.Contains(t, string(reference), "\n#"+m[1]+" = "+m[2]+"\n")
		}
	}
	require.ElementsMatch(t, keys(), documented)
}

func FuzzXendConfig(f *testing.F) {
	b, err := os.ReadFile("../../etc/xend-config.sxp")
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte("(xend-port 8000) (xend-http-server yes)\n(network-script 'network-vnet netdev=eth1')"))
	f.Add([]byte("(xend-address (a b)) x ()"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Default(paths.Paths{})
		if c.parseXend(b) != nil {
			return
		}
		for _, port := range []int{c.HTTPPort, c.XMLRPCPort} {
			require.True(t, port >= 1 && port <= 65535)
		}
		for _, s := range []string{c.UnixPath, c.HTTPAddress, c.XMLRPCAddress, c.LogFile, c.VifScript} {
			require.NotEmpty(t, s)
		}
	})
}
