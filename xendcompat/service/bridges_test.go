package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// demandsOf knows the bridges of a daemon, and makes vnets of the files in dir.
func demandsOf(d *daemon, dir string) Bridges { return Bridges{Service: d.Service, Dir: dir} }

// Bridges are found whoever made them; other devices are none; those of vnets tell the id as it was written, and the MTU.
func TestFindBridge(t *testing.T) {
	onGrounds(t, func(t *testing.T, h ground) {
		d := startDaemon(t, h, t.TempDir(), options{})
		require.NoError(t, d.CreateVnet(t.Context(), config(t, "(vnet (id 0097) (bridge br97))")))
		_, err := h.CreateBridge(hostnet.Bridge{Name: "br0"})
		require.NoError(t, err)
		require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "eth7", Partner: "eth8"}))
		b := demandsOf(d, "")

		n, ok := b.FindBridge("br97")
		require.True(t, ok)
		require.Equal(t, "0097", n.Vnet)
		require.Equal(t, 1500, n.MTU)
		n, ok = b.FindBridge("br0")
		require.True(t, ok)
		require.Equal(t, "br0", n.Bridge)
		require.Empty(t, n.Vnet)
		for _, name := range []string{"eth7", "vnif0097", "nosuch", "", "../br0"} {
			_, ok = b.FindBridge(name)
			require.False(t, ok, name)
		}
		require.Equal(t, []domain.Network{{Bridge: "br97", Vnet: "0097"}}, b.VnetBridges())
	})
}

// A vnet is made when its bridge is asked for, if a file describes it; files that can't be used are told of and keep no others from it.
func TestDemandBridge(t *testing.T) {
	d := startDaemon(t, &porttest.Devices{}, t.TempDir(), options{})
	dir := t.TempDir()
	for name, text := range map[string]string{
		"1-broken.sxp": "(vnet (id 96)",
		"2-dir.sxp/x":  "",
		"3-long.sxp":   "(vnet (id 95) (bridge vnet95)" + strings.Repeat(" ", maxVnetFile) + ")",
		"98.sxp":       "(vnet (id 98) (bridge vnet98))",
		"99.conf":      "(vnet (id 99) (bridge vnet99))", // another ending
		"97.sxp":       "(vnet (id 97) (bridge taken))",
	} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	b := demandsOf(d, dir)
	made, err := b.DemandBridge(t.Context(), "vnet98")
	require.NoError(t, err)
	require.True(t, made)
	require.Equal(t, "98", vnets(d.Service))
	n, ok := b.FindBridge("vnet98")
	require.True(t, ok)
	require.Equal(t, "98", n.Vnet)
	for _, file := range []string{"1-broken.sxp", "2-dir.sxp", "3-long.sxp"} {
		require.Contains(t, d.log.String(), file)
	}
	for _, name := range []string{"vnet95", "vnet96", "vnet99", "br0"} {
		made, err = b.DemandBridge(t.Context(), name)
		require.NoError(t, err)
		require.False(t, made, name)
	}

	// What the file describes can't be made: its id is another's by now.
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
	_, err = b.DemandBridge(t.Context(), "taken")
	require.ErrorContains(t, err, "97.sxp describes it, and it can't be made: ")
	require.Equal(t, "98 97", vnets(d.Service))

	// Nobody asked for vnets on demand.
	b.Dir = ""
	made, err = b.DemandBridge(t.Context(), "taken")
	require.NoError(t, err)
	require.False(t, made)
}
