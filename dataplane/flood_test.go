package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// operations do one of everything that must answer whatever domains send.
func operations(t *testing.T, h *testHost, id string) {
	t.Helper()
	ctx := soon(t)
	require.NotEmpty(t, h.Snapshot().Vnets)
	add(t, id, h)
	require.NoError(t, h.AddVif(idOf(t, id), domainMAC(300)))
	require.NoError(t, h.RemoveVif(idOf(t, id), domainMAC(300)))
	peer := netip.MustParseAddr("192.0.2.77")
	require.NoError(t, h.AddPeer(ctx, peer, 0))
	require.NoError(t, h.RemovePeer(ctx, peer))
	require.NoError(t, h.SetGroup(ctx, netip.MustParseAddr("224.10.0.2")))
	require.NoError(t, h.Reload(testConfig()))
}

// While the table of a bridge is being listed, however long that takes, nothing waits for it.
func TestNobodyWaitsForTables(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	asked, answer := make(chan int, 16), make(chan struct{})
	a := startEngineWith(t, h, testConfig(), func(e *Engine) {
		e.learner.list = func(bridge int) ([]hostnet.FDBEntry, error) {
			asked <- bridge
			<-answer
			return []hostnet.FDBEntry{{MAC: [6]byte(domainMAC(9)), Port: 4711, Bridge: bridge}}, nil
		}
	})
	answered := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(answered) // before the engine ends
	add(t, "97", a)
	d := a.domain(1, "97")
	<-asked
	a.learner.look(a.attached()...) // events were lost
	operations(t, a, "98")
	// Events of the network and of the table are acted upon, too.
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "here")))
	eventually(t, "MAC of the port", func() bool { return hasVif(a.Engine, domainMAC(1)) })
	bridge := deviceOf(t, h, "vnet98")
	require.NoError(t, h.Net.Delete(deviceOf(t, h, "vnif98").Index))
	eventually(t, "loss of the devices", func() bool {
		for _, v := range a.Snapshot().Vnets {
			if v.ID == idOf(t, "98") {
				return !v.Up
			}
		}
		return false
	})
	require.NotZero(t, bridge.Index)
	require.False(t, hasVif(a.Engine, domainMAC(9)))
	answered()
	eventually(t, "what was listed", func() bool { return hasVif(a.Engine, domainMAC(9)) })
}

// Domains of ten vnets send from random MACs; everything answers before they end.
func TestFloodOfMACs(t *testing.T) {
	_, _, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	const vnets = 10
	var domains []*lab.Domain
	for i := range vnets {
		id := fmt.Sprint(100 + i)
		add(t, id, a)
		domains = append(domains, a.domain(i+1, id))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sent atomic.Uint64
	ended := make(chan error, 1)
	go func() { ended <- lab.FloodMACs(ctx, domains, &sent) }()
	eventually(t, "flood", func() bool { return sent.Load() > vnets*2000 })
	operations(t, a, "98")
	before := sent.Load()
	eventually(t, "the flood goes on", func() bool { return sent.Load() > before })
	stop()
	require.NoError(t, <-ended)
	require.LessOrEqual(t, a.Snapshot().Tables.Vifs, a.config.MaxMACs)
	for i := range vnets {
		bridge := deviceOf(t, a.Host, fmt.Sprint("vnet", 100+i))
		detail, err := a.Net.Detail(bridge.Index)
		require.NoError(t, err)
		if !detail.BoundsLearned {
			continue // before Linux 6.7 nothing bounds it
		}
		list, err := a.Net.FDB(bridge.Index)
		require.NoError(t, err)
		require.Less(t, len(list), int(detail.MaxLearned)+10)
	}
}
