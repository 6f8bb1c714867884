package checktest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
)

// setups are the worlds. Each pair of carriers is there with every underlay that it is possible on: XDP takes packets of one
// buffer only. Every world sends both ways.
var setups = []setup{
	{name: "1500 on 1500", underlay: 1500, inner: 1500},
	{name: "1500 on 1400", underlay: 1400, inner: 1500, often: true},
	{name: "1500 on 9000", underlay: 9000, inner: 1500},
	{name: "1400 on 1500", underlay: 1500, inner: 1400},
	{name: "8900 on 9000", underlay: 9000, inner: 8900, often: true},
	{name: "1500 on 1500 over IPv6", underlay: 1500, inner: 1500, v6: true, often: true},
	{name: "1500 on 1500 in EtherIP", underlay: 1500, inner: 1500, etherip: true, often: true},

	pair(1500, bypassXDP, bypassXDP, func(s *setup) { s.often = true }),
	pair(1500, tc, tc, func(s *setup) { s.often = true }),
	pair(1500, tc, xdp),
	pair(1500, tc, bypassXDP),
	pair(1500, tc, user),
	pair(1500, xdp, xdp),
	pair(1500, xdp, bypassTC),
	pair(1500, xdp, user),
	pair(1500, bypassTC, bypassXDP),
	pair(1500, bypassXDP, user),
	pair(1500, bypassXDP, bypassXDP, func(s *setup) { s.v6 = true }),
	pair(1500, bypassXDP, bypassXDP, func(s *setup) { s.xenbr = true }),
	pair(1500, joined, joined, func(s *setup) { s.often = true }),
	pair(1500, bypassJoined, tc),
	pair(1500, bypassJoined, user),
	pair(1500, bypassJoined, bypassXDP, func(s *setup) { s.v6 = true }),
	pair(1500, bypassJoined, joined, func(s *setup) { s.xenbr = true }),

	pair(1400, tc, tc),
	pair(1400, tc, xdp),
	pair(1400, tc, bypassTC),
	pair(1400, tc, user),
	pair(1400, xdp, xdp),
	pair(1400, xdp, bypassXDP),
	pair(1400, xdp, user),
	pair(1400, bypassTC, bypassXDP),
	pair(1400, bypassTC, user),
	pair(1400, joined, bypassJoined),

	pair(9000, tc, tc, func(s *setup) { s.inner = 8900 }),
	pair(9000, tc, bypassTC),
	pair(9000, tc, user),
	pair(9000, bypassTC, bypassTC),
	pair(9000, bypassTC, user, func(s *setup) { s.inner = 8900 }),
	pair(9000, joined, bypassJoined, func(s *setup) { s.inner = 8900 }),
}

// pair is the world of two carriers on an underlay.
func pair(underlay int, a, b carrier, changes ...func(*setup)) setup {
	s := setup{underlay: underlay, inner: 1500, by: [2]carrier{a, b}}
	for _, change := range changes {
		change(&s)
	}
	s.name = fmt.Sprintf("%d on %d, %s and %s", s.inner, underlay, a, b)
	if s.v6 {
		s.name += " over IPv6"
	}
	if s.xenbr {
		s.name += " by network-bridge's bridge"
	}
	return s
}

// TestMatrix sends everything through every world, under all offload settings, both ways at once.
func TestMatrix(t *testing.T) {
	for i, s := range setups {
		t.Run(s.name, func(t *testing.T) {
			if raceDetector && i > 0 && (!s.v6 || s.by != [2]carrier{}) {
				t.Skip("the rest is the same code, or the kernel's, and the race detector is slow")
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
				if !s.always && (!s.often || !w.often) && (i > 0 || raceDetector) {
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
					if s.often || s.always {
						w.traffic(t, s, rec)
					}
				})
			}
			for i, by := range s.by {
				c := w.sides[i].engine.Counters().Vnets[0]
				require.Equal(t, by.fast(), c.KernelTx.Packets > 1000, "sent by the kernel of %s: %d", w.sides[i].host.Name, c.KernelTx.Packets)
				require.Equal(t, by.fast() && s.by[1-i].fast(), c.KernelRx.Packets > 1000, "received: %d", c.KernelRx.Packets)
				w.ways(t, w.sides[i], by)
			}
			n := w.wire.counts()
			t.Logf("on the wire: %v", n)
			require.NotZero(t, w.sides[0].inbox.count(), "nothing was joined")
			require.Equal(t, s.etherip, n["trains"] == 0)
			require.Equal(t, s.by[0].segments() || s.by[1].segments(), n["super-frames in a tunnel"] > 0)
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
			if raceDetector && (s.replicate != s.peers || s.etherip) {
				t.Skip("the others have what is in it, and the race detector is slow")
			}
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

// ways asserts by which ways the kernel carried frames.
func (w *world) ways(t *testing.T, x *side, by carrier) {
	t.Helper()
	state := x.engine.Counters().FastPath
	if !by.fast() {
		require.Empty(t, state.Ports)
		return
	}
	ways, family := []string{"xdp"}, 0
	switch {
	case w.atClsact(x.host.Name):
		ways = []string{"clsact"}
	case by.segments() || by.joined():
		ways = []string{"tcx", "clsact"} // by the kernel
	}
	if w.v6 {
		family = 1
	}
	require.Contains(t, ways, state.Underlays[family].Way, state.Underlays[family].Why)
	if by.joined() {
		require.Contains(t, state.Underlays[family].Why, "joined by "+fastpath.JoinDevice)
	}
	if !by.bypass() {
		require.Empty(t, state.Ports)
		return
	}
	require.NotEmpty(t, state.Ports)
	for _, p := range state.Ports {
		require.NotEqual(t, fastpath.WayBridge, p.Way, "%s: %s", p.Name, p.Reason)
	}
}
