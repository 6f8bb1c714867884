package control

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// entered returns a channel that is closed when it is the turn of p.
func entered(t *testing.T, p *place) <-chan struct{} {
	turn := make(chan struct{})
	go func() {
		if p.enter(t.Context()) {
			close(turn)
		}
	}()
	synctest.Wait()
	return turn
}

func isOpen(turn <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-turn:
		return true
	default:
		return false
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o order
		a, b, c := o.join(), o.join(), o.join()
		// Whoever's command is complete first, the connections' order counts.
		turnC, turnB := entered(t, c), entered(t, b)
		require.False(t, isOpen(turnB))
		turnA := entered(t, a)
		require.True(t, isOpen(turnA))
		require.False(t, isOpen(turnB))
		a.leave()
		require.True(t, isOpen(turnB))
		require.False(t, isOpen(turnC))
		b.leave()
		require.True(t, isOpen(turnC))
		c.leave()
		c.leave()
		require.Empty(t, o.places)
	})
}

func TestOrderWithoutPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o order
		silent, b := o.join(), o.join()
		turnB := entered(t, b)
		time.Sleep(patience - time.Millisecond)
		require.False(t, isOpen(turnB), "the first one's command may still come")
		time.Sleep(time.Millisecond)
		require.True(t, isOpen(turnB))
		// Its command comes, and has its turn after those that are there.
		c := o.join()
		turnSilent := entered(t, silent)
		turnC := entered(t, c)
		b.leave()
		require.True(t, isOpen(turnC))
		require.False(t, isOpen(turnSilent))
		c.leave()
		require.True(t, isOpen(turnSilent))
		// Its patience was used up.
		d := o.join()
		turnD := entered(t, d)
		require.False(t, isOpen(turnD))
		silent.await()
		require.True(t, isOpen(turnD))
		d.leave()
		silent.leave()
		require.Empty(t, o.places)
	})
}

// TestOrderOfTrickles checks that a connection whose commands come one by one holds others up no longer than
// one that is silent.
func TestOrderOfTrickles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o order
		a, b := o.join(), o.join()
		turnB := entered(t, b)
		began := time.Now()
		for range 10 {
			time.Sleep(30 * time.Millisecond)
			turnA := entered(t, a)
			if isOpen(turnB) {
				break
			}
			require.True(t, isOpen(turnA))
			a.await()
		}
		require.True(t, isOpen(turnB))
		require.LessOrEqual(t, time.Since(began), 120*time.Millisecond)
		b.leave()
		a.leave()
	})
}

func TestOrderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o order
		a, b := o.join(), o.join()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.False(t, b.enter(ctx))
		b.leave()
		require.True(t, a.enter(t.Context()))
		a.leave()
		require.Empty(t, o.places)
	})
}
