package varp_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
)

// here stands for this host in what follows.
var here netip.Addr

// say is one word about a key: from this host, or from another.
func say(tab *varp.Table, k varp.Key, at netip.Addr, by varp.Source, now int64) varp.Change {
	if at == here {
		return tab.LearnLocal(k, now)
	}
	return tab.LearnRemote(k, at, by, now)
}

func place(t *testing.T, tab *varp.Table, k varp.Key, now int64) netip.Addr {
	t.Helper()
	e, ok := tab.Entry(k, now)
	require.True(t, ok)
	require.NoError(t, tab.Check())
	return e.Addr
}

// A MAC that is made to flap stays where it was before, whoever speaks last.
func TestFrozenWhereItWasStable(t *testing.T) {
	attacker, victim := host(66), host(1)
	for name, c := range map[string]struct {
		home netip.Addr
		by   varp.Source // of the attacker's words
		// speaks: the victim's frames come in between.
		speaks bool
		// others: the attacker speaks in the name of one host, or of many.
		others int
	}{
		"announces against a silent domain here":        {home: here, by: varp.Announce, others: 13},
		"announces in turn against a silent one":        {home: here, by: varp.Announce, others: 2},
		"announces against one that speaks":             {home: here, by: varp.Announce, speaks: true, others: 1},
		"frames against one that speaks":                {home: here, by: varp.Frame, speaks: true, others: 1},
		"announces against a domain elsewhere":          {home: victim, by: varp.Announce, others: 13},
		"frames against one elsewhere, which speaks":    {home: victim, by: varp.Frame, speaks: true, others: 1},
		"announces against one elsewhere, which speaks": {home: victim, by: varp.Announce, speaks: true, others: 3},
	} {
		t.Run(name, func(t *testing.T) {
			tab := varp.New(varp.Options{})
			k, now := key(1), 100*second
			say(tab, k, c.home, varp.Frame, now)
			now += 20 * second
			say(tab, k, c.home, varp.Frame, now)
			damped := false
			for i := range 30 {
				at := attacker
				for range i % c.others {
					at = at.Next()
				}
				damped = say(tab, k, at, c.by, now).Kind == varp.Damped || damped
				if now += second / 5; c.speaks {
					damped = say(tab, k, c.home, varp.Frame, now).Kind == varp.Damped || damped
				}
			}
			if !c.speaks || c.by == varp.Frame {
				require.True(t, damped)
			}
			require.Equal(t, c.home, place(t, tab, k, now))
			// Where it is held it is held to live: requests are answered.
			require.Equal(t, c.home == here, tab.Local(k, now))
		})
	}
}

// What a frame has placed, announces do not move for ever.
func TestFramesCountForMoreThanAnnounces(t *testing.T) {
	tab := varp.New(varp.Options{FlapMoves: 10})
	k, now := key(1), 100*second
	require.Equal(t, varp.Added, tab.LearnLocal(k, now).Kind)
	moved := 0
	for range 5 {
		now += second / 10
		if tab.LearnRemote(k, host(66), varp.Announce, now).Kind == varp.MovedAway {
			moved++
		}
		tab.LearnLocal(k, now)
	}
	require.Equal(t, 3, moved, "of the first half, every second move is back")
	require.True(t, tab.Local(k, now))
	// A frame moves it still: a domain that migrates in the midst of it is found.
	require.Equal(t, varp.Change{Kind: varp.MovedAway, Moves: 9}, tab.LearnRemote(k, host(2), varp.Frame, now))
}

// A MAC that was known by announces only stays where a frame came from.
func TestFrozenWhereAFrameCameFrom(t *testing.T) {
	tab := varp.New(varp.Options{FlapMoves: 4})
	k, now := key(1), 100*second
	for i := range 5 {
		tab.LearnRemote(k, host(10+i), varp.Announce, now)
	}
	require.Equal(t, varp.Damped, tab.LearnRemote(k, host(1), varp.Frame, now).Kind)
	require.Equal(t, host(1), place(t, tab, k, now))
}

// The frozen time ends early only for the place that is held, and only when that has been alone for some seconds.
func TestReleasedEarly(t *testing.T) {
	frozen := func() (*varp.Table, varp.Key, int64) {
		tab := varp.New(varp.Options{FlapMoves: 4, FlapQuiet: 5 * time.Second, FlapDamp: 30 * time.Second})
		k, now := key(1), 100*second
		tab.LearnLocal(k, now)
		now += 20 * second
		for i := range 5 {
			tab.LearnRemote(k, host(10+i), varp.Frame, now)
		}
		require.True(t, tab.Local(k, now))
		return tab, k, now
	}
	tab, k, now := frozen()
	tab.LearnLocal(k, now+4*second)
	require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(66), varp.Announce, now+5*second).Kind)
	tab.LearnLocal(k, now+9*second)
	require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(66), varp.Announce, now+9*second).Kind, "it was not alone")
	tab.LearnLocal(k, now+14*second)
	require.Equal(t, varp.MovedAway, tab.LearnRemote(k, host(66), varp.Announce, now+15*second).Kind)

	tab, k, now = frozen()
	for i := range 29 {
		require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(66), varp.Frame, now+int64(i)*second).Kind, "never for another place")
	}
	tab, k, now = frozen()
	tab.Claim(k, now+10*second)
	require.Equal(t, varp.Ignored, tab.LearnRemote(k, host(66), varp.Frame, now+11*second).Kind, "a claim is no frame")
	tab.Touch(k, here, now+17*second)
	require.Equal(t, varp.MovedAway, tab.LearnRemote(k, host(66), varp.Frame, now+18*second).Kind, "frames that others saw are")
}

// mirror keeps a copy of a table by what it is told.
type mirror map[varp.Key]netip.Addr

var _ varp.Observer = mirror{}

func (m mirror) Inserted(k varp.Key, addr netip.Addr) { m[k] = addr }
func (m mirror) Moved(k varp.Key, from, to netip.Addr) {
	if m[k] != from {
		panic("moved from elsewhere")
	}
	m[k] = to
}
func (m mirror) Deleted(k varp.Key, addr netip.Addr) {
	if m[k] != addr {
		panic("deleted elsewhere")
	}
	delete(m, k)
}

// An observer that listens knows the table.
func TestObserver(t *testing.T) {
	tab := varp.New(varp.Options{MaxRemote: 40, MaxLocal: 20, FlapMoves: 4, HoldDown: -1})
	tab.LearnLocal(key(0), 0)
	m := mirror{}
	tab.Observe(m)
	same := func() {
		t.Helper()
		want := mirror{}
		for _, e := range append(tab.Remote(0), tab.Vifs(0)...) {
			want[e.Key] = e.Addr
		}
		require.Equal(t, want, m)
	}
	same()
	now := int64(0)
	for i := range 5000 {
		now += second / 50
		k := key(i * 7919 % 90)
		switch i % 11 {
		case 0, 1, 2:
			tab.LearnLocal(k, now)
		case 3:
			tab.AddVif(key(i%3), now)
		case 4:
			tab.RemoveVif(k)
		default:
			tab.LearnRemote(k, host(i%5), varp.Source(i%2), now)
		}
		if i%100 == 0 {
			same()
			tab.Sweep(now)
			same()
		}
	}
	tab.ForgetAddr(host(1))
	same()
	tab.ForgetVnet(key(4).Vnet)
	same()
	tab.FlushRemote()
	same()
}

// What somebody else confirms does not age, and nothing comes to be by it.
func TestTouch(t *testing.T) {
	tab := varp.New(varp.Options{})
	tab.LearnRemote(key(1), host(1), varp.Frame, 0)
	tab.LearnLocal(key(2), 0)
	tab.LearnRemote(key(3), host(1), varp.Frame, 0)
	tab.Touch(key(1), host(1), 59*second)
	tab.Touch(key(2), here, 59*second)
	tab.Touch(key(3), host(2), 59*second)
	tab.Touch(key(9), host(1), 59*second)
	require.Equal(t, 1, tab.Sweep(60*second))
	at, ok := tab.Lookup(key(1))
	require.True(t, ok)
	require.Equal(t, host(1), at)
	require.True(t, tab.Local(key(2), 60*second))
	_, ok = tab.Entry(key(9), 0)
	require.False(t, ok)
	require.Zero(t, testing.AllocsPerRun(100, func() { tab.Touch(key(1), host(1), 61*second) }))
}
