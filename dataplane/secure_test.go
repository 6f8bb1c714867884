package dataplane

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// testKey is what hosts share in tests.
var testKey = esp.Secret{1, 2, 3, 4}

// shared is a KeySource of one key for all vnets.
func shared(s esp.Secret) KeySource {
	return func(vnet.ID) (KeySet, error) { return KeySet{Secrets: []esp.Secret{s}}, nil }
}

// securedOf is the configuration of a vnet with security.
func securedOf(t testing.TB, id string, level vnet.Security) vnet.Config {
	c := configOf(t, id)
	c.Security = level
	return c
}

// newSecured makes a lab with hosts that have a vnet with security.
func newSecured(t testing.TB, hosts int, cfg Config, level vnet.Security) (*lab.Lab, *lab.Switch, []*testHost) {
	l, s, list := newLab(t, hosts, cfg)
	secure(t, level, list...)
	return l, s, list
}

// TestSecurityPort: by another port than 4500 a vnet's frames and key messages go all the same, and by 4500 nothing.
func TestSecurityPort(t *testing.T) {
	cfg := testConfig()
	cfg.Security.Port = 4501
	_, s, hosts := newSecured(t, 2, cfg, vnet.Conf)
	to := func(port uint16) *lab.Capture {
		c, err := s.Capture(func(f lab.Frame) bool {
			d, ok := datagramIn(f.Data)
			return ok && (d.to.Port() == port || d.from.Port() == port)
		})
		require.NoError(t, err)
		return c
	}
	usual, other := to(wire.SecurityPort), to(4501)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	ping(t, d1, d2.Spec.Addrs[1].Addr())
	require.NotEmpty(t, other.Take())
	require.Empty(t, usual.Take())
}

// TestSecurityChanges: a vnet goes on at another level through the devices that it has, and nothing that was learned at the
// level before is worth anything.
func TestSecurityChanges(t *testing.T) {
	_, s, hosts := newSecured(t, 2, testConfig(), vnet.None)
	a, b := hosts[0], hosts[1]
	sealed, err := s.Capture(func(f lab.Frame) bool {
		d, ok := datagramIn(f.Data)
		return ok && d.to.Port() == wire.SecurityPort
	})
	require.NoError(t, err)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	for _, level := range []vnet.Security{vnet.None, vnet.Conf, vnet.Auth, vnet.None} {
		for _, h := range hosts {
			require.NoError(t, h.Detach(idOf(t, "97")))
			require.Empty(t, h.Snapshot().Entries)
		}
		for _, h := range hosts {
			require.NoError(t, attach(h.Engine, securedOf(t, "97", level)))
		}
		ping(t, d1, d2.Addr()) // who is at another level drops what comes
		require.NotEmpty(t, a.Snapshot().Entries)
		if level != vnet.None {
			require.NotEmpty(t, sealed.Take())
		}
	}
}

func TestSecured(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			_, s, hosts := newSecured(t, 2, testConfig(), level)
			a, b := hosts[0], hosts[1]
			clear, err := s.Capture(func(f lab.Frame) bool {
				_, _, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):])
				return err == nil
			})
			require.NoError(t, err)
			// What UDP_SEGMENT and UDP_GRO are for: on a virtual network trains stay whole.
			var trains atomic.Int64
			_, err = s.Capture(func(f lab.Frame) bool {
				if d, ok := datagramIn(f.Data); ok && d.to.Port() == wire.SecurityPort && len(d.payload) > 2*1500 {
					trains.Add(1)
				}
				return false
			})
			require.NoError(t, err)
			d1, d2 := a.domain(1, "97"), b.domain(2, "97")
			ping(t, d1, d2.Addr())
			ping(t, d1, d2.Spec.Addrs[1].Addr())
			for _, to := range d2.Spec.Addrs {
				_, err = lab.Transfer(soon(t), d1.Node, d2.Node, to.Addr(), 32<<20)
				require.NoError(t, err)
			}
			require.Empty(t, clear.Take())
			require.NotZero(t, trains.Load())
			e := a.Snapshot().Entries
			require.NotEmpty(t, e)
			require.Equal(t, b.Addr(), e[0].Addr)
			for _, r := range []Reason{DropUnprotected, DropSecurity, DropESPReplay, DropESPAuth, DropESPInner} {
				require.Zero(t, a.drops(r)+b.drops(r), r)
			}
			require.NoError(t, detach(a.Engine, securedOf(t, "97", level)))
			require.True(t, a.secured.Empty())
			start := time.Now()
			require.NoError(t, attach(a.Engine, securedOf(t, "97", level)))
			d1 = a.domain(3, "97")
			ping(t, d1, d2.Addr())
			t.Log("a new domain, after", time.Since(start))
		})
	}
}
