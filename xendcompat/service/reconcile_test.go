package service

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

const restored = `msg="vnet restored"`

func index(t *testing.T, h ground, name string) int {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l.Index
}

func TestRestore(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, h ground)
		reason string
	}{
		"interface deleted": {func(t *testing.T, h ground) { require.NoError(t, h.Delete(index(t, h, "vnif97"))) }, "interface vnif97 is gone"},
		"bridge deleted":    {func(t *testing.T, h ground) { require.NoError(t, h.Delete(index(t, h, "vnet97"))) }, "bridge vnet97 is gone"},
		"off the bridge":    {func(t *testing.T, h ground) { require.NoError(t, h.SetMaster(index(t, h, "vnif97"), 0)) }, "vnif97 left its bridge vnet97"},
		"peer deleted": {func(t *testing.T, h ground) {
			require.NoError(t, h.Delete(index(t, h, port.PartnerName(simple(t, "97").ID))))
		}, "interface vnif97 is gone"},
		"renamed": {func(t *testing.T, h ground) {
			i := index(t, h, "vnif97")
			require.NoError(t, h.SetDown(i))
			require.NoError(t, h.Rename(i, "other"))
		}, "interface vnif97 is gone"},
		"on another bridge": {func(t *testing.T, h ground) {
			b, err := h.CreateBridge(hostnet.Bridge{Name: "aside"})
			require.NoError(t, err)
			require.NoError(t, h.SetMaster(index(t, h, "vnif97"), b.Index))
		}, "vnif97 is on aside instead of vnet97"},
	} {
		t.Run(name, func(t *testing.T) {
			onGrounds(t, func(t *testing.T, h ground) {
				d := startDaemon(t, h, t.TempDir(), options{enabled: true})
				require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
				c.damage(t, h)
				d.log.wait(restored, 1)
				require.Contains(t, layout(t, h), "vnif97@vnet97")
				require.Contains(t, d.log.String(), c.reason)
			})
		})
	}
}

func TestRestoreDefaultAndTransient(t *testing.T) { onGrounds(t, testRestoreDefaultAndTransient) }

func testRestoreDefaultAndTransient(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{enabled: true})
	c := simple(t, "50")
	c.Bridge = ""
	require.NoError(t, d.AddTransient(t.Context(), c))
	require.NoError(t, h.Delete(index(t, h, "vnif0003")))
	require.NoError(t, h.Delete(index(t, h, "vnif50")))
	d.log.wait(restored, 2)
	require.Equal(t, "vnif0002 vnif0003 vnif0004 vnif50", layout(t, h))
	require.NoError(t, d.DeleteTransient(t.Context(), c.ID))
}

// TestRestoreAfterFailure has a foreign device in the way of a vnet when the daemon starts.
func TestRestoreAfterFailure(t *testing.T) { onGrounds(t, testRestoreAfterFailure) }

func testRestoreAfterFailure(t *testing.T, h ground) {
	state := t.TempDir()
	d := startDaemon(t, h, state, options{})
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "98")))
	require.NoError(t, d.stop())
	require.NoError(t, h.Delete(index(t, h, "vnif97")))
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "vnif97", Partner: "eth8"}))
	require.NoError(t, h.Delete(index(t, h, "vnet98")))

	d = startDaemon(t, h, state, options{})
	require.Contains(t, d.log.String(), "a vnet can't be brought up; it will be tried again")
	require.Contains(t, layout(t, h), "vnif98@vnet98", "one vnet keeps no other from coming up")
	require.Equal(t, "97 98", vnets(d.Service), "it is there, all the same")
	require.NoError(t, h.Delete(index(t, h, "vnif97")))
	d.log.wait(restored, 1)
	require.Contains(t, layout(t, h), "vnif97@vnet97")
}

func TestLeftovers(t *testing.T) { onGrounds(t, testLeftovers) }

func testLeftovers(t *testing.T, h ground) {
	left := simple(t, "66")
	spec, err := port.Spec{ID: left.ID, Bridge: left.Bridge, Vnetif: left.Vnetif}, error(nil)
	switch h := h.(type) {
	case *porttest.Devices:
		_, err = h.Ensure(spec)
	case *hostnet.Host:
		_, err = port.Ensure(h, spec)
	}
	require.NoError(t, err)
	// Somebody else's.
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "vnif67", Partner: "vnp67"}))
	_, err = h.CreateBridge(hostnet.Bridge{Name: "vnet67"})
	require.NoError(t, err)
	require.NoError(t, h.SetAlias(index(t, h, "vnet67"), "xend vnet of mine"))
	require.NoError(t, h.SetAlias(index(t, h, "vnif67"), "not xend's"))

	d := startDaemon(t, h, t.TempDir(), options{})
	require.Equal(t, "vnet67 vnif67", layout(t, h))
	require.Contains(t, d.log.String(), `devices="vnet66, vnif66, vnp66"`)
}

func TestPauses(t *testing.T) {
	r := &reconciler{pauses: map[vnet.ID]pause{}}
	id := simple(t, "97").ID
	now := time.Now()
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		require.Equal(t, want*time.Second, r.pause(id, now))
		now = r.pauses[id].until()
	}
	require.Equal(t, time.Second, r.pause(id, now.Add(calm+time.Second)))
}

// TestRestoreIsPaused does not fight with somebody who takes a device away again and again.
func TestRestoreIsPaused(t *testing.T) { onGrounds(t, testRestoreIsPaused) }

func testRestoreIsPaused(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{})
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
	began := time.Now() // before it is restored the first time, from when on the pause counts
	for n := range 2 {
		require.NoError(t, h.Delete(index(t, h, "vnif97")))
		d.log.wait(restored, n+1)
	}
	require.Greater(t, time.Since(began), firstDelay/2)
}
