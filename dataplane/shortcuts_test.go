package dataplane

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// awaitWay waits until domains' frames go that way, all for a reason that contains why.
func (h *testHost) awaitWay(want func(fastpath.Way) bool, why string) {
	h.t.Helper()
	eventually(h.t, "a way was chosen: "+why, func() bool {
		ports := h.Counters().FastPath.Ports
		for _, p := range ports {
			if !want(p.Way) || !strings.Contains(p.Reason, why) {
				return false
			}
		}
		return len(ports) > 0
	})
}

func byBridge(w fastpath.Way) bool   { return w == fastpath.WayBridge }
func pastBridge(w fastpath.Way) bool { return w != fastpath.WayBridge }

// TestBypass: domains pass their bridges by, until there is a policy, and while the engine runs.
func TestBypass(t *testing.T) {
	cfg := fastConfig()
	cfg.Bypass = BypassAuto
	_, _, hosts := newLab(t, 2, cfg)
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	for _, h := range hosts {
		h.awaitWay(pastBridge, "")
	}
	for i := range two.Spec.Addrs {
		_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[i].Addr(), 16<<20)
		require.NoError(t, err)
	}
	_, err := hosts[0].Host.Run(soon(t), "nft", "add", "table", "bridge", "guard")
	require.NoError(t, err)
	hosts[0].awaitWay(byBridge, "nft table bridge guard")
	_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 4<<20)
	require.NoError(t, err)
	_, err = hosts[0].Host.Run(soon(t), "nft", "delete", "table", "bridge", "guard")
	require.NoError(t, err)
	hosts[0].awaitWay(pastBridge, "")

	// With the key it ends, and with the engine.
	off := cfg
	off.Bypass = BypassOff
	require.NoError(t, hosts[0].Reload(off))
	eventually(t, "no filter is at the vif", func() bool { return !hosts[0].hasVifFilter(one) })
	require.True(t, hosts[1].hasVifFilter(two))
	hosts[1].stop()
	require.False(t, hosts[1].hasVifFilter(two))
}

// hasVifFilter reports whether there is a program of ours at a domain's vif.
func (h *testHost) hasVifFilter(d *lab.Domain) bool {
	h.t.Helper()
	l, err := h.Net.LinkByName(d.Spec.Vif)
	require.NoError(h.t, err)
	list, err := h.Net.DevicePrograms(l.Index)
	require.NoError(h.t, err)
	return len(list) > 0
}

// TestIngressByXDP: on plain cards outer headers go at XDP, with TC behind it; when another program comes first at TC, XDP goes.
func TestIngressByXDP(t *testing.T) {
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost {
		makePlain(t, h)
		return startEngine(t, h, fastConfig())
	})
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	way := func(h *testHost) string { return h.Counters().FastPath.Underlays[0].Way }
	for _, h := range hosts {
		eventually(t, "XDP", func() bool { return way(h) == "xdp" })
		card, err := h.Uplink().Link()
		require.NoError(t, err)
		id, err := h.Net.XDPProgram(card.Index)
		require.NoError(t, err)
		require.NotZero(t, id)
	}
	for i := range two.Spec.Addrs {
		_, rx0 := hosts[1].carried()
		_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[i].Addr(), 16<<20)
		require.NoError(t, err)
		_, rx := hosts[1].carried()
		require.Greater(t, rx.Bytes-rx0.Bytes, uint64(16<<20))
	}
	// Somebody else's filter comes first.
	card, err := hosts[1].Uplink().Link()
	require.NoError(t, err)
	out, err := fastpath.Load(fastpath.Times{})
	require.NoError(t, err)
	t.Cleanup(out.Close)
	require.NoError(t, hosts[1].Net.AttachClassifier(hostnet.Classifier{Index: card.Index, Priority: 7, Name: "other"}, out.Out()))
	hosts[1].programs.mirror.lookAtNetwork()
	eventually(t, "TC", func() bool { return way(hosts[1]) == "tc" })
	_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 4<<20)
	require.NoError(t, err)
	// And XDP ends with the engine, before TC.
	card, err = hosts[0].Uplink().Link()
	require.NoError(t, err)
	hosts[0].stop()
	id, err := hosts[0].Net.XDPProgram(card.Index)
	require.NoError(t, err)
	require.Zero(t, id)
}
