package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// Names are looked up, and again when they change.
func TestNames(t *testing.T) {
	cfg := testConfig()
	cfg.Peers = []NamedHost{{Addr: "peer.example"}, {Addr: "192.0.2.1", Port: 1799}}
	cfg.Replicate = []NamedHost{{Addr: "replica.example"}, {Addr: "nowhere.example"}}
	e := newMemory(t, 1, cfg).hosts[0].Engine
	for _, current := range []string{"192.0.2.7", "192.0.2.8"} {
		addr := netip.MustParseAddr(current)
		e.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
			if name == "nowhere.example" {
				return nil, fmt.Errorf("no such host")
			}
			return []netip.Addr{netip.MustParseAddr("2001:db8::1"), addr}, nil
		}
		require.Equal(t, lookupRetry, e.resolveAll(t.Context()), "one name is not known")
		s := e.Snapshot()
		require.Equal(t, []PeerState{{Name: "192.0.2.1", Addr: netip.MustParseAddr("192.0.2.1"), Port: 1799}, {Name: "peer.example", Addr: addr, Port: 1798}}, s.Peers)
		require.Equal(t, addr, s.Replicate[0].Addr)
		require.Equal(t, "no such host", s.Replicate[1].Problem)
	}
}

// One name may stand for all hosts; a peer that was removed stays so under another address.
func TestNamesOfManyHosts(t *testing.T) {
	cfg := testConfig()
	cfg.Replicate = []NamedHost{{Addr: "hosts.example"}, {Addr: "me.example"}, {Addr: "link.example"}}
	cfg.Peers = []NamedHost{{Addr: "hosts.example"}}
	e := newMemory(t, 1, cfg).hosts[0]
	other, later := e.addr.Next(), e.addr.Next().Next()
	current := other
	var mu sync.Mutex
	e.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		switch name {
		case "me.example":
			return []netip.Addr{e.addr}, nil
		case "link.example":
			return []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}, nil
		}
		return []netip.Addr{e.addr, current}, nil
	}
	e.resolveAll(t.Context())
	require.Equal(t, "it has no address that can be used", e.Snapshot().Replicate[2].Problem)
	require.Equal(t, other, e.Peers()[0].Addr)
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(other, wire.Port)}, e.view.Load().replicas)
	require.Len(t, e.Snapshot().Hosts, 1, "this host itself is no other")

	require.NoError(t, e.RemovePeer(t.Context(), other))
	current = later
	key := varp.Key{Vnet: idOf(t, "97"), MAC: wire.MAC(domainMAC(9))}
	e.table.LearnRemote(key, other, varp.Announce, e.now())
	e.resolveAll(t.Context())
	require.Equal(t, later, e.Snapshot().Replicate[0].Addr)
	_, known := e.table.Lookup(key)
	require.False(t, known, "MACs of the former address are forgotten")
	require.Empty(t, e.Peers())
	require.NoError(t, e.AddPeer(t.Context(), later, 0))
	require.Len(t, e.Peers(), 1)
}

// Names are looked up by themselves, and again after a while.
func TestNamesAreLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Peers = []NamedHost{{Addr: "peer.example"}}
		e, err := New(cfg, nil, logger(t, "A"))
		require.NoError(t, err)
		e.kernel = &memoryKernel{}
		asked := make(chan struct{})
		e.lookup = func(context.Context, string) ([]netip.Addr, error) {
			asked <- struct{}{}
			return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.resolve(ctx) }()
		<-asked
		start := time.Now()
		<-asked
		require.Equal(t, cfg.ResolveInterval, time.Since(start))
		e.lookAgain()
		<-asked
		require.Equal(t, cfg.ResolveInterval, time.Since(start), "at once")
		synctest.Wait()
		cancel()
		require.NoError(t, <-done)
	})
}
