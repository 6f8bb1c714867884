package dataplane

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
)

func TestTwoHosts(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")

	ping(t, d1, d2.Addr())
	ping(t, d1, d2.Spec.Addrs[1].Addr())

	_, err := d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)

	for _, to := range d2.Spec.Addrs {
		_, err = lab.Transfer(soon(t), d1.Node, d2.Node, to.Addr(), 64<<20)
		require.NoError(t, err)
	}

	s := a.Snapshot()
	require.Len(t, s.Vnets, 1)
	require.True(t, s.Vnets[0].Up)
	require.NotEmpty(t, s.Entries)
	require.Equal(t, b.Addr(), s.Entries[0].Addr)
	t.Logf("%+v", s)
}
