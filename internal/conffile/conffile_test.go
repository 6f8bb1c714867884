package conffile

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/paths"
)

func TestDecodeVnet(t *testing.T) {
	v := Vnet{Paths: Paths{State: "/s", Scripts: "/x"}}
	unknown, err := DecodeVnet([]byte("[paths]\nscripts = '/y'\n[scripts]\ntimeout = '90s'\nfrob = 1\n[frob]\na = 1\nb = 2\n"), &v)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"[scripts] frob", "[frob]"}, unknown)
	require.Equal(t, Paths{State: "/s", Scripts: "/y"}, v.Paths, "what the file does not name stays")
	require.Equal(t, Duration(90*time.Second), v.Scripts.Timeout)
	_, err = DecodeVnet([]byte("[paths]\nstate = \n"), &v)
	require.ErrorContains(t, err, "line 2, column 9: ")
}

func TestServers(t *testing.T) {
	t.Setenv("XEND_CONFIG", "")
	p := paths.Paths{Prefix: t.TempDir()}
	s, err := LoadServers(p)
	require.NoError(t, err)
	require.Equal(t, DefaultServers(p), s)
	dir, err := KeyDir(p)
	require.NoError(t, err)
	require.Equal(t, p.VnetKeys(), dir)

	require.NoError(t, os.MkdirAll(p.EtcXen(), 0o755))
	require.NoError(t, os.WriteFile(p.XendConfig(), []byte("(xend-unix-server no)(xend-port 1)(loglevel ())(xend-address '')"), 0o644))
	require.NoError(t, os.WriteFile(p.VnetConfig(), []byte("[paths]\ncontrol_socket = '/a'\n[security]\nkey_dir = '/k'\n[x]\n"), 0o644))
	s, err = LoadServers(p)
	require.NoError(t, err, "what does not concern servers is left alone")
	want := DefaultServers(p)
	want.UnixServer, want.HTTPPort, want.ControlSocket = false, 1, "/a"
	require.Equal(t, want, s)
	dir, err = KeyDir(p)
	require.NoError(t, err)
	require.Equal(t, "/k", dir)
	port, err := SecurityPort(p)
	require.NoError(t, err)
	require.EqualValues(t, 4500, port)
	require.NoError(t, os.WriteFile(p.VnetConfig(), []byte("[paths]\ncontrol_socket = '/a'\n[security]\nport = 0\n"), 0o644))
	_, err = SecurityPort(p)
	require.EqualError(t, err, p.VnetConfig()+": [security] port: 0 is no port")
	require.NoError(t, os.WriteFile(p.XendConfig(), []byte("(xend-port x)"), 0o644))
	_, err = LoadServers(p)
	require.EqualError(t, err, p.XendConfig()+": invalid xend config xend-port: expected int: x")
}

func TestOptions(t *testing.T) {
	text := []byte("(vif-script 'vif-bridge bridge=br0')\n(network-script)\nfrob\n(vif-script other)\n(xend-address (a b))\n")
	for name, want := range map[string]string{
		"vif-script": "vif-bridge bridge=br0", "network-script": "", "xend-address": "", "none": "",
	} {
		got, err := Option(text, name)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	options, err := Options(text)
	require.NoError(t, err)
	require.Len(t, options, 4)
	_, err = Option([]byte("(vif-script"), "vif-script")
	require.Error(t, err)
}

func FuzzDecodeVnet(f *testing.F) {
	f.Add([]byte("[paths]\nstate = '/s'\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = DecodeVnet(b, &Vnet{})
		_, _ = Options(b)
	})
}

// The port of vnets without security is vnet.toml's, or 1798; one that is none is told with the file.
func TestDataplanePort(t *testing.T) {
	p := paths.Paths{Prefix: t.TempDir()}
	port, err := DataplanePort(p)
	require.NoError(t, err)
	require.Equal(t, uint16(1798), port)
	require.NoError(t, os.MkdirAll(filepath.Dir(p.VnetConfig()), 0o755))
	write := func(text string) { require.NoError(t, os.WriteFile(p.VnetConfig(), []byte(text), 0o600)) }
	write("[dataplane]\nport = 1799\n")
	port, err = DataplanePort(p)
	require.NoError(t, err)
	require.Equal(t, uint16(1799), port)
	write("[dataplane]\nport = 0\n")
	_, err = DataplanePort(p)
	require.ErrorContains(t, err, p.VnetConfig()+": [dataplane] port: 0 is no port")
}
