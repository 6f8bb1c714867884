package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// Names are looked up, and again when they change.
func TestNames(t *testing.T) {
	cfg := testConfig()
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	cfg.ResolveInterval = 20 * time.Millisecond
	cfg.Peers = []NamedHost{{Addr: "peer.example"}, {Addr: "192.0.2.1", Port: 1799}}
	cfg.Replicate = []NamedHost{{Addr: "replica.example"}, {Addr: "nowhere.example"}}
	var current atomic.Pointer[netip.Addr]
	first := netip.MustParseAddr("192.0.2.7")
	current.Store(&first)
	e, err := New(cfg, h.Net, logger(t, "A"))
	require.NoError(t, err)
	e.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		if name == "nowhere.example" {
			return nil, fmt.Errorf("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("2001:db8::1"), *current.Load()}, nil
	}
	defer run(t, e)()
	resolvedTo := func(a netip.Addr) func() bool {
		return func() bool {
			s := e.Snapshot()
			return len(s.Peers) == 2 && s.Peers[1].Addr == a && s.Peers[1].Name == "peer.example" &&
				s.Replicate[0].Addr == a && s.Replicate[1].Problem == "no such host"
		}
	}
	eventually(t, "resolved", resolvedTo(first))
	require.EqualValues(t, 1799, e.Snapshot().Peers[0].Port)
	second := netip.MustParseAddr("192.0.2.8")
	current.Store(&second)
	eventually(t, "resolved again", resolvedTo(second))
}

// One name may stand for all hosts; a peer that was removed stays so under another address.
func TestNamesOfManyHosts(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	cfg := testConfig()
	cfg.ResolveInterval = 20 * time.Millisecond
	cfg.Replicate = []NamedHost{{Addr: "hosts.example"}, {Addr: "me.example"}, {Addr: "link.example"}}
	cfg.Peers = []NamedHost{{Addr: "hosts.example"}}
	e, err := New(cfg, h.Net, logger(t, "A"))
	require.NoError(t, err)
	other, later := h.Addr().Next(), h.Addr().Next().Next()
	var current atomic.Pointer[netip.Addr]
	current.Store(&other)
	asked := make(chan struct{})
	e.lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		switch name {
		case "me.example":
			return []netip.Addr{h.Addr()}, nil
		case "link.example":
			return []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}, nil
		}
		return []netip.Addr{h.Addr(), *current.Load()}, nil
	}
	defer run(t, e)()
	eventually(t, "resolved", func() bool {
		s := e.Snapshot()
		return len(s.Peers) == 1 && s.Replicate[1].Addr.IsValid() && s.Replicate[2].Problem == "it has no address that can be used"
	})
	require.Equal(t, other, e.Peers()[0].Addr)
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(other, wire.Port)}, e.view.Load().replicas)
	require.Len(t, e.Snapshot().Hosts, 1, "this host itself is no other")

	require.NoError(t, e.RemovePeer(soon(t), other))
	current.Store(&later)
	key := varp.Key{Vnet: idOf(t, "97"), MAC: wire.MAC(domainMAC(9))}
	e.table.LearnRemote(key, other, varp.Announce, e.now())
	eventually(t, "resolved again", func() bool { return e.Snapshot().Replicate[0].Addr == later })
	eventually(t, "MACs of the former address forgotten", func() bool {
		_, known := e.table.Lookup(key)
		return !known
	})
	for range 10 {
		<-asked // each of the names, more than once
	}
	require.Empty(t, e.Peers())
	require.NoError(t, e.AddPeer(soon(t), later, 0))
	require.Len(t, e.Peers(), 1)
}
