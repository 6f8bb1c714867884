package dataplane

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// Every host that has a MAC says so, also one that is not known, and none is taken for one that replicates since it answers by
// unicast. Nobody answers for a MAC that nobody has.
func TestLocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 3, testConfig())
		a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
		id, mac := idOf(t, "97"), wire.MAC(domainMAC(7))
		locate := func(mac wire.MAC) (claims []Claim, err error) {
			ctx, done := context.WithCancel(t.Context())
			go func() {
				defer done()
				claims, err = a.Locate(ctx, id, mac)
			}()
			for ctx.Err() == nil {
				synctest.Wait() // it has asked, and waits
				m.settle()
				time.Sleep(10 * time.Millisecond)
			}
			return claims, err
		}
		require.NoError(t, b.AddVif(id, domainMAC(7)))
		m.settle()
		claims, err := locate(mac)
		require.NoError(t, err)
		require.Len(t, claims, 1)
		require.Equal(t, b.addr, claims[0].Addr)
		at, known := a.table.Lookup(varp.Key{Vnet: id, MAC: mac})
		require.True(t, known)
		require.Equal(t, b.addr, at)
		require.NoError(t, c.AddVif(id, domainMAC(7)))
		m.settle()
		b.table.LearnLocal(varp.Key{Vnet: id, MAC: mac}, b.now()) // C's announce made B think that it moved
		claims, err = locate(mac)
		require.NoError(t, err)
		require.Len(t, claims, 2, "both say so")
		for _, h := range a.Status().Hosts {
			require.False(t, h.Replicates, "%+v", h)
		}
		start := time.Now()
		claims, err = locate(wire.MAC(domainMAC(9)))
		require.NoError(t, err)
		require.Empty(t, claims)
		require.Less(t, time.Since(start), time.Second+100*time.Millisecond)
		require.Zero(t, a.locating.n.Load())
		require.Empty(t, a.locating.of)
		_, err = a.Locate(t.Context(), idOf(t, "404"), mac)
		require.ErrorIs(t, err, ErrUnknownVnet)
	})
}
