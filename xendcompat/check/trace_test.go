package check

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/service/servicetest"
)

// traced is an engine that knows a MAC behind each of two hosts, which answer.
type traced struct {
	servicetest.Engine
	peers []dataplane.PeerState
}

var theMAC = wire.MAC{0, 0x16, 0x3e, 0, 0, 2}

func (e *traced) Status() dataplane.Status {
	return dataplane.Status{Vnets: []dataplane.Vnet{{ID: vnet.ID{15: 0x97}, Up: true}, {ID: vnet.ID{15: 0x98}, Up: true}}, Peers: e.peers}
}

func (e *traced) Entries(dataplane.Filter) []dataplane.Entry {
	return []dataplane.Entry{
		{Vnet: vnet.ID{15: 0x97}, MAC: theMAC, Addr: host2, Source: "frame"},
		{Vnet: vnet.ID{15: 0x98}, MAC: theMAC, Addr: elsewhere, Source: "announce"},
	}
}

func (e *traced) Inquire(_ context.Context, only netip.Addr) (*dataplane.Inquiry, error) {
	return &dataplane.Inquiry{Hosts: []dataplane.Inquired{{Info: hosts.Info{Addr: only}, ByUnicast: true, RTT: time.Millisecond}}}, nil
}

func (e *traced) Members(context.Context, vnet.ID) ([]dataplane.Member, error) { return nil, nil }

func (e *traced) Locate(context.Context, vnet.ID, wire.MAC) ([]dataplane.Claim, error) {
	return nil, nil
}

// silentService has nothing to tell.
type silentService struct{}

func (silentService) Health(context.Context) service.Health { return service.Health{} }
func (silentService) Events(uint64, int) events.Log         { return events.Log{} }

// A trace names the host that a MAC is behind, as vnet.toml or the resolver does, and does without a name.
func TestTraceNamesHosts(t *testing.T) {
	e := &traced{peers: []dataplane.PeerState{{Name: "rack7", Addr: elsewhere}}}
	c := New(Options{Engine: e, Service: silentService{}, Names: func(_ context.Context, addr string) ([]string, error) {
		require.Equal(t, host2.String(), addr, "what vnet.toml names is not asked for")
		return []string{"host2.example."}, nil
	}})
	trace, err := c.Trace(t.Context(), theMAC.String())
	require.NoError(t, err)
	require.Len(t, trace.Places, 2)
	require.Equal(t, []string{"host2.example", "rack7"}, []string{trace.Places[0].HostName, trace.Places[1].HostName})
	var text strings.Builder
	trace.WriteText(&text)
	require.Contains(t, text.String(), "behind   192.0.2.2 (host2.example), by frame 0.0 s ago\n")
	require.Contains(t, text.String(), "behind   "+elsewhere.String()+" (rack7), by announce 0.0 s ago\n")

	c.o.Names = func(context.Context, string) ([]string, error) { return nil, context.DeadlineExceeded }
	trace, err = c.Trace(t.Context(), theMAC.String())
	require.NoError(t, err)
	require.Empty(t, trace.Places[0].HostName)
	text.Reset()
	trace.WriteText(&text)
	require.Contains(t, text.String(), "behind   192.0.2.2, by frame 0.0 s ago\n")
}
