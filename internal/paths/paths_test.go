package paths

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNew(t *testing.T) {
	t.Setenv(PrefixEnv, "")
	p, err := New("")
	require.NoError(t, err)
	require.Equal(t, "/var/lib/xend", p.State())
	require.Equal(t, "/run/xend.pid", p.PidFile())

	p, err = New("/srv/h1/")
	require.NoError(t, err)
	require.Equal(t, "/srv/h1/etc/xen/vnet.toml", p.VnetConfig())

	t.Setenv(PrefixEnv, "/srv/h2")
	p, err = New("")
	require.NoError(t, err)
	require.Equal(t, "/srv/h2/run/xend/vnetd.sock", p.ControlSocket())

	p, err = New("/")
	require.NoError(t, err)
	require.Equal(t, "/etc/xen", p.EtcXen())
}

func TestXendConfigEnvironment(t *testing.T) {
	t.Setenv("XEND_CONFIG", "/x/y.sxp")
	require.Equal(t, "/x/y.sxp", Paths{Prefix: "/p"}.XendConfig())
}
