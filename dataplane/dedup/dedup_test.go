package dedup

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/vnet"
)

var (
	here  = netip.MustParseAddr("10.9.1.1")
	a     = netip.MustParseAddr("10.9.1.2")
	b     = netip.MustParseAddr("10.9.1.3")
	c     = netip.MustParseAddr("10.9.1.4")
	a6    = netip.MustParseAddr("2001:db8::2")
	group = netip.MustParseAddr("224.10.0.1")
)

const ms = int64(time.Millisecond)

func byGroup(from netip.Addr) Copy { return Copy{Kind: Group, From: from, Outer: from, To: group} }
func byPeer(from, peer netip.Addr) Copy {
	return Copy{Kind: Forwarded, From: from, Outer: peer, To: here}
}
func byUnicast(from netip.Addr) Copy { return Copy{Kind: Unicast, From: from, Outer: from, To: here} }

// One frame comes as the steps say.
func TestArrived(t *testing.T) {
	type step struct {
		copy Copy
		at   int64 // ms
		want Verdict
	}
	delivered, copied := Verdict{Pass: true}, Verdict{Duplicate: true}
	for name, steps := range map[string][]step{
		"once by each way": {
			{byGroup(a), 0, delivered}, {byUnicast(a), 1, copied}, {Copy{Kind: Unicast, From: a, Outer: a, To: here.Next()}, 2, copied},
		},
		"its sender repeats it, twice by two ways": {
			{byGroup(a), 0, delivered}, {byGroup(a), 1, delivered}, {byUnicast(a), 2, copied}, {byUnicast(a), 3, copied},
		},
		"the copies come in turn": {
			{byGroup(a), 0, delivered}, {byUnicast(a), 0, copied}, {byUnicast(a), 9, Verdict{}}, {byGroup(a), 9, copied},
		},
		"later it is another frame": {
			{byGroup(a), 0, delivered}, {byUnicast(a), 1000, copied}, {byUnicast(a), 1001, delivered},
		},
		"its sender has moved": {
			{byGroup(a), 0, delivered}, {byGroup(b), 1, delivered}, {byUnicast(b), 1, copied},
		},
		"both families of one host": {
			{byGroup(a), 0, delivered}, {byGroup(a6), 50, Verdict{Duplicate: true, Twin: a}}, {byGroup(a6), 51, Verdict{}},
		},
		"too late for both families": {
			{byGroup(a), 0, delivered}, {byGroup(a6), 51, copied},
		},
		"by two forwarders": {
			{byPeer(a, b), 0, delivered}, {byPeer(a, c), 1, copied},
			{byPeer(a, c), 2, Verdict{}}, // delivered, but what another forwards goes no further
		},
		"by the group and a forwarder": {
			{byGroup(a), 0, delivered}, {byPeer(a, b), 1, Verdict{Duplicate: true, Crossed: true}},
			{byGroup(a), 2, Verdict{}}, // a repetition, or a re-multicast: one and no more goes on
		},
		"by a forwarder and the group": {
			{byPeer(a, b), 0, delivered}, {byGroup(a), 1, Verdict{Duplicate: true, Crossed: true}},
			{byGroup(a), 2, Verdict{Crossed: true}}, {byPeer(a, b), 3, copied}, {byPeer(a, b), 4, Verdict{}},
		},
		"over IPv6 by the group, over IPv4 by a forwarder": {
			{byGroup(a6), 0, delivered}, {byPeer(a, b), 1, Verdict{Duplicate: true, Twin: a6}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tab := New()
			h := tab.Hash(tab.Salt(vnet.ID{15: 1}), []byte(name))
			for i, s := range steps {
				if s.want.Twin == (netip.Addr{}) && s.want.Duplicate && i > 0 && s.copy.From != steps[i-1].copy.From && s.at-steps[0].at <= twinWindow/ms {
					s.want.Twin = steps[0].copy.From
				}
				require.Equal(t, s.want, tab.Arrived(h, s.copy, int64(time.Hour)+s.at*ms), "step %d", i)
			}
		})
	}
}

// A way that the table does not know yet is not confused with another.
func TestWays(t *testing.T) {
	tab := New()
	way := tab.way(byUnicast(a))
	require.Equal(t, way, tab.way(byUnicast(a)))
	for _, other := range []Copy{byGroup(a), byUnicast(b), {Kind: Unicast, From: a, Outer: a, To: here.Next()}, byPeer(a, a)} {
		require.NotEqual(t, way, tab.way(other))
	}
}

// Forwarders that hand one frame to each other without end: it goes on once they are seen to be in each other's way,
// and else a bounded number of times.
func TestPassingOnEnds(t *testing.T) {
	tab := New()
	h := tab.Hash(1, []byte("round and round"))
	now, passed := int64(time.Hour), 0
	for range 10 * maxPasses {
		if tab.Arrived(h, byGroup(a), now).Pass {
			passed++
		}
		now += ms / 10
	}
	require.Equal(t, maxPasses, passed)
	require.True(t, tab.Arrived(h, byPeer(a, b), now).Crossed)
	h, passed = tab.Hash(1, []byte("the next")), 0
	for range 10 * maxPasses {
		if tab.Arrived(h, byGroup(a), now).Pass {
			passed++
		}
	}
	require.Equal(t, maxCrossed, passed)
	require.True(t, tab.Arrived(h, byGroup(a), now+crossedFor+1).Pass)
	require.True(t, tab.Arrived(h, byGroup(a), now+crossedFor+2).Pass, "forgiven")
}

// What this host has sent is remembered however much comes in, so that loops are seen, and what came in however much
// is sent.
func TestRemembered(t *testing.T) {
	tab := New()
	now := int64(time.Hour)
	own, other := tab.Hash(1, []byte("own")), tab.Hash(1, []byte("other"))
	require.Equal(t, 1, tab.Sent(own, now))
	for i := range 10 * shards * arrivals {
		tab.Arrived(tab.Hash(1, fmt.Append(nil, i)), byUnicast(a), now+int64(i))
	}
	require.True(t, tab.Returned(own, now+LoopWindow))
	require.False(t, tab.Returned(own, now+LoopWindow+1))
	require.Equal(t, 2, tab.Sent(own, now+ms))
	require.Equal(t, 1, tab.Sent(own, now+2*int64(time.Second)))

	require.False(t, tab.Arrived(other, byGroup(a), now+3*ms).Duplicate)
	for i := range 10 * shards * sendings {
		tab.Sent(tab.Hash(1, fmt.Append(nil, i)), now+3*ms)
		tab.Returned(tab.Hash(2, fmt.Append(nil, i)), now+3*ms)
	}
	require.True(t, tab.Arrived(other, byPeer(a, b), now+4*ms).Duplicate)
}

// Two hosts flood each other with different frames, of which each comes by two ways: the second copies come after
// 300 others, and none is taken for another frame.
func TestCopiesAmongOthers(t *testing.T) {
	tab := New()
	const behind, frames = 300, 50_000
	hash := func(host, i int) uint64 { return tab.Hash(uint64(host), fmt.Append(nil, i)) }
	for i := range frames + behind {
		now := int64(time.Hour) + int64(i)*20_000
		tab.Sent(hash(0, i), now)
		if i < frames {
			require.False(t, tab.Arrived(hash(1, i), byGroup(a), now).Duplicate)
		}
		if i >= behind {
			require.True(t, tab.Arrived(hash(1, i-behind), byUnicast(a), now).Duplicate, i)
		}
	}
}
