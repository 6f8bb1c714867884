package varp_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

func TestRemote(t *testing.T) {
	tab := varp.New(varp.Options{})
	k := key(1)
	_, ok := tab.Lookup(k)
	require.False(t, ok)

	require.Equal(t, varp.Change{Kind: varp.Added}, tab.LearnRemote(k, host(1), varp.Frame, 0))
	require.Equal(t, varp.Change{}, tab.LearnRemote(k, host(1), varp.Announce, second))
	addr, ok := tab.Lookup(k)
	require.True(t, ok)
	require.Equal(t, host(1), addr)
	require.False(t, tab.Local(k, second))

	other := k
	other.Vnet[15]++
	_, ok = tab.Lookup(other)
	require.False(t, ok, "the same MAC in another vnet is another interface")

	c := tab.LearnRemote(k, host(2), varp.Announce, 3*second)
	require.Equal(t, varp.Change{Kind: varp.MovedThere, From: host(1), Moves: 1, Idle: 2 * time.Second}, c)
	require.Equal(t, []varp.Entry{{
		Key: k, Addr: host(2), Source: varp.Announce, Age: time.Second, Framed: -1, Moves: 1,
	}}, tab.Remote(4*second))
	require.Equal(t, "announce", varp.Announce.String())
	require.Equal(t, "frame", varp.Frame.String())
	require.Equal(t, "hand", varp.Hand.String())
}

// TestAges: an entry that is used stays, one that isn't goes with the first sweep after its time.
func TestAges(t *testing.T) {
	tab := varp.New(varp.Options{TTL: 60 * time.Second})
	tab.LearnRemote(key(1), host(1), varp.Frame, 0)
	tab.LearnRemote(key(2), host(1), varp.Frame, 0)
	tab.LearnLocal(key(3), 0)
	tab.LearnLocal(key(4), 0)
	tab.LearnRemote(key(2), host(1), varp.Frame, second)
	tab.LearnLocal(key(4), second)

	require.Zero(t, tab.Sweep(60*second-1))
	_, ok := tab.Lookup(key(1))
	require.True(t, ok)
	require.Equal(t, 2, tab.Sweep(60*second))
	_, ok = tab.Lookup(key(1))
	require.False(t, ok)
	require.False(t, tab.Local(key(3), 60*second))
	require.True(t, tab.Local(key(4), 60*second))
	require.Equal(t, 60*time.Second-time.Second, tab.Remote(60 * second)[0].Age)
	require.Equal(t, 2, tab.Sweep(61*second))
	s := tab.Stats()
	require.Zero(t, s.Local+s.Remote)
	require.EqualValues(t, 4, s.Expired)
	require.EqualValues(t, 3, s.Sweeps)

	tab.SetOptions(varp.Options{TTL: -1})
	require.Equal(t, varp.DefaultOptions().HoldDown, tab.Options().HoldDown)
	tab.LearnLocal(key(1), 0)
	require.Zero(t, tab.Sweep(1000*second), "a negative TTL is none")
}

// TestMove: the newest information wins, and the old host does not claim the MAC back.
func TestMove(t *testing.T) {
	tab := varp.New(varp.Options{HoldDown: 10 * time.Second})
	k := key(1)
	require.Equal(t, varp.Added, tab.LearnLocal(k, 0).Kind)
	require.True(t, tab.Local(k, 0))

	c := tab.LearnRemote(k, host(1), varp.Announce, 5*second)
	require.Equal(t, varp.Change{Kind: varp.MovedAway, Moves: 1, Idle: 5 * time.Second}, c)
	require.False(t, tab.Local(k, 5*second))
	addr, ok := tab.Lookup(k)
	require.True(t, ok)
	require.Equal(t, host(1), addr)
	require.Empty(t, tab.Vifs(5*second))
	require.Equal(t, 10*time.Second, tab.Remote(5 * second)[0].HoldDown)

	require.Equal(t, varp.Held, tab.Claim(k, 6*second).Kind)
	require.Equal(t, varp.Held, tab.Claim(k, 15*second-1).Kind)
	require.EqualValues(t, 2, tab.Stats().Held)

	// A frame on the own bridge needs no claim.
	c = tab.LearnLocal(k, 7*second)
	require.Equal(t, varp.Change{Kind: varp.MovedHere, From: host(1), Moves: 2, Idle: 2 * time.Second}, c)
	require.True(t, tab.Local(k, 7*second))
	_, ok = tab.Lookup(k)
	require.False(t, ok)
	require.Equal(t, varp.Known, tab.Claim(k, 7*second).Kind)

	// When the hold-down is over a claim counts again.
	require.Equal(t, varp.MovedAway, tab.LearnRemote(k, host(2), varp.Frame, 20*second).Kind)
	require.Equal(t, varp.MovedHere, tab.Claim(k, 30*second).Kind)
	require.Equal(t, varp.Announce, tab.Vifs(30 * second)[0].Source)

	// A host that never had the MAC may claim it at once.
	tab.LearnRemote(key(2), host(2), varp.Frame, 30*second)
	require.Equal(t, varp.MovedHere, tab.Claim(key(2), 30*second).Kind)
	require.Equal(t, varp.Added, tab.Claim(key(3), 30*second).Kind)
}

func TestByHand(t *testing.T) {
	tab := varp.New(varp.Options{TTL: 60 * time.Second, HoldDown: 10 * time.Second})
	k := key(1)
	require.Equal(t, varp.Added, tab.AddVif(k, 0).Kind)
	require.Equal(t, varp.Known, tab.AddVif(k, second).Kind)
	require.Zero(t, tab.Sweep(1000*second))
	require.True(t, tab.Local(k, 1000*second))
	require.Equal(t, varp.Entry{Key: k, Source: varp.Hand, ByHand: true, Age: 1000 * time.Second, Framed: -1}, tab.Vifs(1000 * second)[0])

	// Another host has it for a while.
	require.Equal(t, varp.MovedAway, tab.LearnRemote(k, host(1), varp.Frame, 1000*second).Kind)
	require.False(t, tab.Local(k, 1000*second))
	require.Equal(t, 1, tab.Sweep(1060*second))
	require.True(t, tab.Local(k, 1060*second))

	// Flushing the cache does not undo the hold-down.
	tab.LearnRemote(k, host(1), varp.Frame, 2000*second)
	require.Equal(t, 1, tab.FlushRemote())
	require.False(t, tab.Local(k, 2000*second))
	require.Equal(t, varp.Held, tab.Claim(k, 2005*second).Kind)
	require.True(t, tab.Local(k, 2010*second))
	tab.LearnRemote(k, host(1), varp.Frame, 3000*second)
	require.Equal(t, 1, tab.FlushRemote())
	require.Equal(t, varp.Added, tab.LearnLocal(k, 3001*second).Kind, "heard here: announce it again")
	require.True(t, tab.Local(k, 3001*second))

	// What the operator says is newest information too.
	tab.LearnRemote(k, host(1), varp.Frame, 4000*second)
	c := tab.AddVif(k, 4001*second)
	require.Equal(t, varp.Change{Kind: varp.MovedHere, From: host(1)}, c)
	require.True(t, tab.Local(k, 4001*second))

	tab.LearnRemote(k, host(1), varp.Frame, 5000*second)
	require.True(t, tab.RemoveVif(k))
	require.False(t, tab.RemoveVif(k), "what is elsewhere is not removed")
	require.Equal(t, 1, tab.Sweep(6000*second))
	require.False(t, tab.Local(k, 6000*second))
	require.False(t, tab.RemoveVif(k))

	tab.LearnLocal(k, 6000*second)
	require.Equal(t, varp.Known, tab.AddVif(k, 6000*second).Kind)
	require.Zero(t, tab.Sweep(9000*second), "a learned MAC that is added by hand stays")
	require.True(t, tab.RemoveVif(k))
	_, ok := tab.Entry(k, 0)
	require.False(t, ok)
}

func TestFlapping(t *testing.T) {
	tab := varp.New(varp.Options{FlapMoves: 4, FlapWindow: 10 * time.Second, FlapDamp: 30 * time.Second})
	k := key(1)
	tab.LearnLocal(k, 0)
	now := int64(0)
	for i := range 4 {
		now += second
		var c varp.Change
		if i%2 == 0 {
			c = tab.LearnRemote(k, host(1), varp.Frame, now)
		} else {
			c = tab.LearnLocal(k, now)
		}
		require.Equal(t, i+1, c.Moves)
		require.NotEqual(t, varp.Damped, c.Kind)
	}
	now += second
	c := tab.LearnRemote(k, host(1), varp.Frame, now)
	require.Equal(t, varp.Change{Kind: varp.Damped, Moves: 5, Idle: time.Second}, c)
	require.True(t, tab.Local(k, now), "it stays where it is")
	require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(1), varp.Frame, now).Kind, "told once")
	require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(2), varp.Frame, now+30*second-1).Kind)
	require.Equal(t, varp.Known, tab.LearnLocal(k, now+second).Kind)
	e, ok := tab.Entry(k, now+second)
	require.True(t, ok)
	require.Equal(t, 29*time.Second, e.Damped)
	require.EqualValues(t, 1, tab.Stats().Damped)
	require.EqualValues(t, 4, tab.Stats().Moves)
	require.EqualValues(t, 2, tab.Stats().Ignored)

	// Afterwards it may move again.
	require.Equal(t, varp.MovedAway, tab.LearnRemote(k, host(1), varp.Frame, now+30*second).Kind)

	// Frozen at another host, frames and claims here change nothing.
	now += 45 * second // long enough to be at home there
	for i := range 5 {
		tab.LearnRemote(k, host(2+i), varp.Frame, now)
	}
	at, _ := tab.Lookup(k)
	require.Equal(t, host(1), at)
	require.Equal(t, varp.Ignored, tab.LearnLocal(k, now).Kind)
	require.Equal(t, varp.Ignored, tab.Claim(k, now+15*second).Kind)

	// Moves that are rare are not counted together.
	tab.ForgetVnet(k.Vnet)
	for i := range 20 {
		c := tab.LearnRemote(k, host(i), varp.Frame, now+int64(i)*11*second)
		require.LessOrEqual(t, c.Moves, 1)
	}
	tab.SetOptions(varp.Options{FlapMoves: -1})
	for i := range 1000 {
		require.NotEqual(t, varp.Damped, tab.LearnRemote(k, host(i&1), varp.Frame, now+300*second).Kind)
	}
}

// TestNeverLearned: MACs and addresses that nobody can have.
func TestNeverLearned(t *testing.T) {
	tab := varp.New(varp.Options{})
	for _, mac := range []wire.MAC{
		{},
		{0x01, 0x00, 0x5e, 0, 0, 1},
		{0x33, 0x33, 0, 0, 0, 1},
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		for _, id := range []vnet.ID{{15: 4}, {}} { // the zero key is what a tombstone looks like
			k := varp.Key{Vnet: id, MAC: mac}
			require.Equal(t, varp.Ignored, tab.LearnLocal(k, 0).Kind)
			require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(1), varp.Frame, 0).Kind)
			require.Equal(t, varp.Ignored, tab.Claim(k, 0).Kind)
			require.Equal(t, varp.Ignored, tab.AddVif(k, 0).Kind)
			require.False(t, tab.Local(k, 0))
			_, ok := tab.Lookup(k)
			require.False(t, ok)
		}
	}
	for _, a := range []string{"0.0.0.0", "::", "224.10.0.1", "ff05::1", "255.255.255.255"} {
		require.Equal(t, varp.Ignored, tab.LearnRemote(key(1), netip.MustParseAddr(a), varp.Announce, 0).Kind, a)
	}
	require.Equal(t, varp.Ignored, tab.LearnRemote(key(1), netip.Addr{}, varp.Announce, 0).Kind)
	require.Equal(t, varp.Stats{Ignored: 30}, tab.Stats())
}

func TestZeroKeyMeetsTombstones(t *testing.T) {
	tab := varp.New(varp.Options{})
	for i := range 16 {
		tab.LearnLocal(key(i), 0)
	}
	for i := range 16 {
		tab.RemoveVif(key(i))
		_, ok := tab.Entry(varp.Key{}, 0)
		require.False(t, ok)
	}
}

// TestBounded: a flood of MACs takes room from the old, never from those put in by hand, and never
// more than there is.
func TestBounded(t *testing.T) {
	const bound = 500
	tab := varp.New(varp.Options{MaxRemote: bound, MaxLocal: bound, TTL: 60 * time.Second})
	for i := range 100 {
		require.Equal(t, varp.Added, tab.AddVif(key(1_000_000+i), 0).Kind)
	}
	for i := range 10 * bound {
		now := int64(i) * second / 100
		require.Equal(t, varp.Added, tab.LearnRemote(key(i), host(i), varp.Frame, now).Kind)
		require.Equal(t, varp.Added, tab.LearnLocal(key(2_000_000+i), now).Kind)
		if i > bound {
			// Three that are in use all the time.
			require.NotEqual(t, varp.Ignored, tab.LearnRemote(key(7), host(7), varp.Frame, now).Kind)
		}
		s := tab.Stats()
		require.LessOrEqual(t, s.Remote, bound)
		require.LessOrEqual(t, s.Local, bound)
	}
	s := tab.Stats()
	require.Equal(t, bound, s.Remote)
	require.Equal(t, bound, s.Local)
	require.NotZero(t, s.Evicted)
	for i := range 100 {
		require.True(t, tab.Local(key(1_000_000+i), 0))
	}

	// A move makes room at its new place, too.
	now := 10 * bound * second
	local := tab.Vifs(now)[len(tab.Vifs(now))-1]
	require.Equal(t, varp.MovedAway, tab.LearnRemote(local.Key, host(1), varp.Frame, now).Kind)
	require.Equal(t, bound, tab.Stats().Remote)
	require.Equal(t, bound-1, tab.Stats().Local)

	// Nothing but entries by hand: no room.
	tab = varp.New(varp.Options{MaxLocal: 3, MaxRemote: 3})
	for i := range 3 {
		tab.AddVif(key(i), 0)
	}
	require.Equal(t, varp.Full, tab.AddVif(key(3), 0).Kind)
	require.Equal(t, varp.Full, tab.LearnLocal(key(3), 0).Kind)
	require.Equal(t, varp.Added, tab.LearnRemote(key(3), host(1), varp.Frame, 0).Kind)
	require.Equal(t, varp.Full, tab.LearnLocal(key(3), 0).Kind, "a move needs room as well")
	require.Equal(t, varp.Full, tab.AddVif(key(3), 0).Kind)
	_, ok := tab.Lookup(key(3))
	require.True(t, ok)
}

// TestEvictsOldest: of a small table, the entry without news for longest goes.
func TestEvictsOldest(t *testing.T) {
	tab := varp.New(varp.Options{MaxRemote: 10, TTL: 60 * time.Second})
	for i := range 10 {
		tab.LearnRemote(key(i), host(i), varp.Frame, int64(i)*second)
	}
	tab.LearnRemote(key(10), host(1), varp.Frame, 10*second)
	_, ok := tab.Lookup(key(0))
	require.False(t, ok, "the oldest of ten, all of which are in the sample")
	require.EqualValues(t, 1, tab.Stats().Evicted)
}

func TestForget(t *testing.T) {
	tab := varp.New(varp.Options{})
	const n = 10_000
	for i := range n {
		tab.LearnRemote(key(i), host(i%7), varp.Frame, 0)
	}
	tab.LearnLocal(key(n), 0)
	tab.AddVif(key(n+1), 0)

	const gone = (n + 3) / 7
	require.Equal(t, gone, tab.ForgetAddr(host(3)))
	require.Zero(t, tab.ForgetAddr(host(3)))

	all := tab.Remote(0)
	require.Len(t, all, n-gone)
	require.True(t, slices.IsSortedFunc(all, func(a, b varp.Entry) int {
		if c := bytes.Compare(a.Vnet[:], b.Vnet[:]); c != 0 {
			return c
		}
		return bytes.Compare(a.MAC[:], b.MAC[:])
	}))

	in := 0
	for _, e := range append(all, tab.Vifs(0)...) {
		if e.Vnet == key(n).Vnet {
			in++
		}
	}
	require.Equal(t, in, tab.ForgetVnet(key(n).Vnet))
	require.False(t, tab.Local(key(n), 0))
	require.True(t, tab.Local(key(n+1), 0))
	left := tab.Stats().Remote
	require.Equal(t, left, tab.FlushRemote())
	require.Empty(t, tab.Remote(0))
	require.Equal(t, varp.Stats{Local: 1}, tab.Stats())
	require.NoError(t, tab.Check())
}

// TestNewestWins runs random news against a plain map.
func TestNewestWins(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tab := varp.New(varp.Options{FlapMoves: -1, HoldDown: -1, MaxLocal: 1000, MaxRemote: 1000})
	model := make(map[varp.Key]netip.Addr) // the zero Addr: here
	for step := range 50_000 {
		k, now := key(r.IntN(700)), int64(step)
		switch r.IntN(6) {
		case 0, 1:
			a := host(r.IntN(5))
			tab.LearnRemote(k, a, varp.Frame, now)
			model[k] = a
		case 2:
			tab.LearnLocal(k, now)
			model[k] = netip.Addr{}
		case 3:
			tab.Claim(k, now)
			model[k] = netip.Addr{}
		case 4:
			if a, ok := model[k]; tab.RemoveVif(k) {
				require.True(t, ok && a == netip.Addr{})
				delete(model, k)
			} else {
				require.False(t, ok && a == netip.Addr{})
			}
		case 5:
			if r.IntN(50) != 0 {
				continue
			}
			a := host(r.IntN(5))
			n := 0
			for k, b := range model {
				if a == b {
					delete(model, k)
					n++
				}
			}
			require.Equal(t, n, tab.ForgetAddr(a))
		}
		want, ok := model[k]
		got, remote := tab.Lookup(k)
		require.Equal(t, ok && want != netip.Addr{}, remote)
		require.Equal(t, want, got)
		require.Equal(t, ok && want == netip.Addr{}, tab.Local(k, now))
	}
	require.NoError(t, tab.Check())
	require.Equal(t, len(model), tab.Stats().Local+tab.Stats().Remote)
	require.Len(t, tab.Vifs(0), tab.Stats().Local)
	require.Len(t, tab.Remote(0), tab.Stats().Remote)
}

func TestNoAllocations(t *testing.T) {
	tab := varp.New(varp.Options{})
	for i := range 1000 {
		tab.LearnRemote(key(i), host(i), varp.Frame, 0)
		tab.LearnLocal(key(5000+i), 0)
	}
	now := int64(0)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		now += second
		tab.Lookup(key(7))
		tab.Lookup(key(9999))
		tab.Local(key(5007), now)
		tab.LearnRemote(key(8), host(8), varp.Frame, now)
		tab.LearnLocal(key(5008), now)
		tab.Claim(key(5008), now)
	}))
}

// TestCount counts what the lists have, and makes none: a scrape of 100,000 MACs costs as much garbage as one of two vnets.
func TestCount(t *testing.T) {
	tab := varp.New(varp.Options{})
	require.Empty(t, tab.Count())
	other := vnet.ID{15: 9}
	for i := range 3000 {
		k := key(i)
		if i%3 == 0 {
			k.Vnet = other
		}
		if i%2 == 0 {
			tab.LearnLocal(k, 1)
		} else {
			tab.LearnRemote(k, host(i%7), varp.Frame, 1)
		}
	}
	want := map[vnet.ID]varp.Count{}
	for _, e := range tab.Vifs(1) {
		c := want[e.Vnet]
		c.Local++
		want[e.Vnet] = c
	}
	for _, e := range tab.Remote(1) {
		c := want[e.Vnet]
		c.Remote++
		want[e.Vnet] = c
	}
	require.Equal(t, want, tab.Count())
	require.Less(t, testing.AllocsPerRun(10, func() { tab.Count() }), 40.0)
	behind := map[netip.Addr]int{}
	for _, e := range tab.Remote(1) {
		behind[e.Addr]++
	}
	require.Equal(t, behind, tab.Behind())
	places := map[varp.Place]int{}
	for _, e := range tab.Remote(1) {
		places[varp.Place{Vnet: e.Vnet, Addr: e.Addr}]++
	}
	require.Equal(t, places, tab.Places())
	require.Less(t, testing.AllocsPerRun(10, func() { tab.Places() }), 40.0)
	for i := range 3000 {
		tab.RemoveVif(key(i))
	}
	tab.ForgetVnet(other)
	require.NoError(t, tab.Check())
	for _, c := range tab.Count() {
		require.Zero(t, c.Local, "nothing is counted that went")
	}
}
