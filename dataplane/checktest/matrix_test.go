package checktest

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
)

var setups = []setup{
	{name: "1500 on 1500", underlay: 1500, inner: 1500},
	{name: "1500 on 1400", underlay: 1400, inner: 1500},
	{name: "1500 on 9000", underlay: 9000, inner: 1500},
	{name: "1400 on 1500", underlay: 1500, inner: 1400},
	{name: "8900 on 9000", underlay: 9000, inner: 8900},
	{name: "1500 on 1500 over IPv6", underlay: 1500, inner: 1500, v6: true},
	{name: "1500 on 1500 in EtherIP", underlay: 1500, inner: 1500, etherip: true},
	{name: "1500 on 1500, kernel to kernel", underlay: 1500, inner: 1500, fast: [2]bool{true, true}},
	{name: "1500 on 1500, kernel to kernel by the bridges", underlay: 1500, inner: 1500, fast: [2]bool{true, true}, bridged: true},
	{name: "1500 on 9000, kernel to kernel", underlay: 9000, inner: 1500, fast: [2]bool{true, true}},
	{name: "1500 on 1500 over IPv6, kernel to kernel", underlay: 1500, inner: 1500, v6: true, fast: [2]bool{true, true}},
	{name: "1500 on 1500 by network-bridge's bridge, kernel to kernel", underlay: 1500, inner: 1500, fast: [2]bool{true, true}, xenbr: true},
	{name: "1500 on 1500, kernel to user space", underlay: 1500, inner: 1500, fast: [2]bool{true, false}},
}

// TestMatrix sends everything through every world, under all offload settings, both ways at once.
func TestMatrix(t *testing.T) {
	for i, s := range setups {
		t.Run(s.name, func(t *testing.T) {
			if raceDetector && i > 0 && !s.v6 {
				t.Skip("the rest is the same code, and the race detector is slow")
			}
			w := newWorld(t, s)
			var shots [2][]shot
			for i, x := range w.sides {
				m := x.maker
				shots[i] = slices.Concat(m.singles(w.setup), m.odds(w.setup), m.runs(w.setup), m.supers(w.setup), m.randoms(w.setup, 300))
			}
			rec := w.recorders(t)
			var cut [2][2][]expected // late, early
			for i := range shots {
				cut[0][i] = w.expect(t, shots[i], false)
				cut[1][i] = w.expect(t, shots[i], true)
			}
			for k := range settings {
				s := &settings[k]
				if (i > 0 || raceDetector) && !s.quick {
					continue
				}
				t.Run(s.name, func(t *testing.T) {
					undo := w.set(t, s)
					defer undo()
					early := 0
					if s.early {
						early = 1
					}
					w.exchange(t, s, cut[early])
					if s.quick {
						w.traffic(t, s, rec)
					}
				})
			}
			for i, fast := range s.fast {
				c := w.sides[i].engine.Counters().Vnets[0]
				require.Equal(t, fast, c.KernelTx.Packets > 1000, "sent by the kernel of %s: %d", w.sides[i].host.Name, c.KernelTx.Packets)
				require.Equal(t, fast && s.fast[1-i], c.KernelRx.Packets > 1000, "received: %d", c.KernelRx.Packets)
				w.ways(t, w.sides[i], fast)
			}
			n := w.wire.counts()
			t.Logf("on the wire: %v", n)
			require.NotZero(t, w.sides[0].inbox.count(), "nothing was joined")
			require.Equal(t, s.etherip, n["trains"] == 0)
			require.Equal(t, s.inner+14 > s.limit(), n["fragmented packets"] > 0)
		})
	}
}

// TestUnclamped is clamp_mss = false: what opens a connection comes out as it went in.
func TestUnclamped(t *testing.T) {
	w := newWorld(t, setup{name: "unclamped", underlay: 1500, inner: 1500, unclamped: true})
	var shots [2][]expected
	for i, x := range w.sides {
		shots[i] = w.expect(t, x.maker.odds(w.setup), false)
	}
	w.exchange(t, &settings[0], shots)
}

// TestOnce sends everything where flooded frames come by several ways, and each must come out once.
func TestOnce(t *testing.T) {
	for _, s := range []setup{
		{name: "IPv4 and IPv6", both: true},
		{name: "replication", replicate: true},
		{name: "peers", peers: true},
		{name: "replication and peers", replicate: true, peers: true},
		{name: "EtherIP with peers", etherip: true, peers: true},
	} {
		t.Run(s.name, func(t *testing.T) {
			s.underlay, s.inner = 1500, 1500
			w := newWorld(t, s)
			var shots [2][]expected
			for i, x := range w.sides {
				m := x.maker
				shots[i] = w.expect(t, slices.Concat(m.singles(w.setup), m.odds(w.setup), m.runs(w.setup), m.supers(w.setup), m.randoms(w.setup, 300)), false)
			}
			w.exchange(t, &settings[0], shots)
			t.Logf("on the wire: %v", w.wire.counts())
		})
	}
}

// ways asserts by which ways the kernel carried frames: XDP takes packets of one buffer, and domains pass their bridges by
// unless the world has them not to.
func (w *world) ways(t *testing.T, x *side, fast bool) {
	t.Helper()
	state := x.engine.Counters().FastPath
	if !fast {
		require.Empty(t, state.Ports)
		return
	}
	ways, family := []string{"xdp"}, 0
	switch {
	case w.atClsact(x.host.Name):
		ways = []string{"clsact"}
	case w.underlay > 3502:
		ways = []string{"tcx", "clsact"} // by the kernel
	}
	if w.v6 {
		family = 1
	}
	require.Contains(t, ways, state.Underlays[family].Way, state.Underlays[family].Why)
	if w.bridged {
		require.Empty(t, state.Ports)
		return
	}
	require.NotEmpty(t, state.Ports)
	for _, p := range state.Ports {
		require.NotEqual(t, fastpath.WayBridge, p.Way, "%s: %s", p.Name, p.Reason)
	}
}
