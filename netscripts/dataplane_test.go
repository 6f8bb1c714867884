package netscripts

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// vnetHost is a host of the lab whose data plane carries vnet 97, with one domain on it.
func vnetHost(t *testing.T, s *lab.Switch, name string, number byte) (*lab.Host, *lab.Domain) {
	h, err := s.Host(name)
	require.NoError(t, err)
	e, err := dataplane.New(dataplane.DefaultConfig(), h.Net, slog.New(slog.NewTextHandler(io.Discard, nil)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	<-e.Ready()
	c, err := vnet.ConfigFromSXP(sxp.List(sxp.Atom("vnet"), sxp.Pair("id", "97")))
	require.NoError(t, err)
	devices, err := port.Ensure(h.Net, port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif})
	require.NoError(t, err)
	require.NoError(t, e.Attach(c, devices))
	d, err := h.Domain(lab.DomainSpec{
		Name: "dom-" + name, Vif: "vif1.0", Bridge: "vnet97", MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, number},
		Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 97, 0, number}), 24)},
	})
	require.NoError(t, err)
	return h, d
}

// Vnets go on while the device towards the other hosts becomes another one: group memberships are
// bound to a device's index.
func TestVnetGoesOn(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	a, d1 := vnetHost(t, s, "A", 1)
	_, d2 := vnetHost(t, s, "B", 2)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	ping, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer ping.Close()
	_, err = ping.Fresh(ctx)
	require.NoError(t, err)
	back, err := d2.StartPing(d1.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer back.Close()
	for _, command := range []string{"start", "stop"} {
		var status int
		var stderr text
		require.NoError(t, a.Do(func() error {
			status = Run(ctx, Env{Stdout: io.Discard, Stderr: &stderr, Getenv: func(string) string { return "" }},
				[]string{"network-vnet", command, "netdev=" + a.Uplink().Device, "--prefix", a.Dir})
			return nil
		}))
		require.Equal(t, 0, status, stderr)
		for range 20 {
			_, err = ping.Fresh(ctx)
			require.NoError(t, err, "after "+command)
			_, err = back.Fresh(ctx)
			require.NoError(t, err, "after "+command)
		}
		// Broadcast goes by the group, so both hosts must still be in it.
		for _, d := range []*lab.Domain{d1, d2} {
			out, err := d.Run(ctx, "ip", "neigh", "flush", "all")
			require.NoError(t, err, out)
		}
		_, err = ping.Fresh(ctx)
		require.NoError(t, err, "after "+command)
	}
	t.Logf("%+v", ping.Stats())
}

// text collects what is written.
type text []byte

func (b *text) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
