package varp_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
)

// TestWorkers lets workers read and write at once, with tables that grow, shrink, overflow and are
// swept; the race detector and the invariants judge.
func TestWorkers(t *testing.T) {
	tab := varp.New(varp.Options{MaxRemote: 3000, MaxLocal: 300, TTL: time.Millisecond})
	// A key that nobody else touches must be found by every reader at every moment.
	stable := key(999_999)
	tab.LearnRemote(stable, host(200), varp.Announce, 1<<40)

	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for step := range 30_000 {
				k, now := key(r.IntN(6000)), int64(step*100)
				switch r.IntN(8) {
				case 0, 1:
					tab.LearnRemote(k, host(r.IntN(100)), varp.Frame, now)
				case 2:
					tab.LearnLocal(k, now)
				case 3:
					tab.Claim(k, now)
				case 4:
					tab.RemoveVif(k)
				case 5:
					switch r.IntN(1000) {
					case 0:
						tab.Sweep(now)
					case 1:
						tab.ForgetAddr(host(r.IntN(100)))
					case 2:
						tab.Remote(now)
						tab.Vifs(now)
					case 3:
						tab.SetOptions(varp.Options{MaxRemote: 2000 + r.IntN(1000), MaxLocal: 300, TTL: time.Millisecond})
					}
				}
				tab.Lookup(k)
				if a, ok := tab.Lookup(stable); !ok || a != host(200) {
					t.Errorf("step %d: the stable key is at %v, %v", step, a, ok)
					return
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, tab.Check())
	require.LessOrEqual(t, tab.Stats().Local, 300)
	tab.Sweep(1 << 50)
	require.NoError(t, tab.Check())
	require.Zero(t, tab.Stats().Local+tab.Stats().Remote)
}

// TestSnapshotWhileMoving: a key that only ever moves is in every snapshot of both views exactly once
// or, while it changes its view, in none; never twice in one.
func TestSnapshotWhileMoving(t *testing.T) {
	tab := varp.New(varp.Options{FlapMoves: -1})
	k := key(1)
	tab.LearnRemote(k, host(1), varp.Frame, 0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20_000 {
			tab.LearnRemote(k, host(1+i%3), varp.Frame, int64(i))
			tab.LearnRemote(key(10+i%500), host(1), varp.Frame, int64(i)) // makes the table grow
		}
		close(done)
	})
	for {
		n := 0
		for _, e := range tab.Remote(0) {
			if e.Key == k {
				n++
			}
		}
		require.Equal(t, 1, n)
		select {
		case <-done:
			wg.Wait()
			return
		default:
		}
	}
}

// TestCountWhileChanging: a host behind which MACs stay is counted at every moment, with all of them, while hosts before and after it
// come and go.
func TestCountWhileChanging(t *testing.T) {
	const others = 2000 // more than are read under one hold of the lock
	tab := varp.New(varp.Options{FlapMoves: -1})
	for i := range others {
		tab.LearnRemote(key(i), host(i), varp.Frame, 0)
	}
	stable, vnetOfIt := host(5000), key(others).Vnet
	for i := range 3 {
		tab.LearnRemote(key(others+10*i), stable, varp.Frame, 0)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 30_000 {
			tab.LearnRemote(key(r.IntN(others)), host(r.IntN(others)), varp.Frame, int64(i))
		}
		for i := range others {
			tab.ForgetAddr(host(i))
		}
	})
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		default:
		}
		require.Equal(t, 3, tab.Behind()[stable])
		require.GreaterOrEqual(t, tab.Count()[vnetOfIt].Remote, 3)
	}
	wg.Wait()
	require.NoError(t, tab.Check())
	require.Len(t, tab.Behind(), 1)
}
