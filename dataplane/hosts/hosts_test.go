package hosts

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

const second = int64(time.Second)

var (
	id  = vnet.ID{15: 0x97}
	mac = wire.MAC{2, 0, 0, 0, 0, 1}
)

func host(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0a000001+uint32(i))
	return netip.AddrFrom4(b)
}

// However many sources are invented, and however fast, memory is bounded, and those that are named or speak only
// EtherIP stay.
func TestInventedSources(t *testing.T) {
	s, now := New(), 100*second
	s.SetHosts("configuration", []Named{{Name: "b", Addr: host(-1), Port: 1798, Replica: true}})
	old := s.See(host(-2), now)
	require.True(t, s.HeardEtherIP(old, id, mac, now))
	require.True(t, s.Answered(old, id, mac))
	made := 0
	for i := range 5 * MaxHosts {
		if s.See(host(i), now) != nil {
			made++
		}
		if i%2 == 1 {
			now += second / newRate
		}
	}
	require.InDelta(t, 5*MaxHosts/2+newBurst, made, 2, "no more than the rate")
	list := s.List(now)
	require.LessOrEqual(t, len(list), MaxHosts+1)
	require.Greater(t, len(list), MaxHosts/2)
	require.NotNil(t, s.Find(host(-1)))
	require.Same(t, old, s.Find(host(-2)))
	require.Equal(t, []netip.Addr{host(-2)}, s.EtherIPOnly())
}

// Those that were heard longest ago make room.
func TestOldestMakesRoom(t *testing.T) {
	s, now := New(), 100*second
	for i := range MaxHosts + 1 {
		require.NotNil(t, s.See(host(i), now))
		now += second / 100
	}
	require.Nil(t, s.Find(host(0)))
	require.Nil(t, s.Find(host(MaxHosts/8-1)))
	require.NotNil(t, s.Find(host(MaxHosts/8)))
	require.NotNil(t, s.Find(host(MaxHosts)))
}

func TestForgotten(t *testing.T) {
	s, now := New(), 100*second
	silent, speaks := s.See(host(1), now), s.See(host(2), now)
	s.SetHosts("configuration", []Named{{Addr: host(3)}})
	s.SetHosts("control", []Named{{Addr: host(3)}})
	speaks.HeardByGroup(now + TTL)
	silent.HeardByUnicast(now)
	require.False(t, s.Sweep(now+TTL+1))
	require.Nil(t, s.Find(host(1)))
	require.NotNil(t, s.Find(host(2)))
	s.SetHosts("control", nil)
	s.Sweep(now + TTL + 1)
	require.NotNil(t, s.Find(host(3)), "somebody names it still")
	s.SetHosts("configuration", nil)
	s.Sweep(now + TTL + 1)
	require.Nil(t, s.Find(host(3)))
}

// A host is held to speak only EtherIP when it has answered a question, and until it speaks VUDP or is silent.
func TestEtherIPOnly(t *testing.T) {
	s, now := New(), 100*second
	h := s.See(host(1), now)
	require.False(t, s.Answered(h, id, mac), "it was not asked")
	require.True(t, s.HeardEtherIP(h, id, mac, now))
	require.False(t, s.HeardEtherIP(h, id, mac, now+askInterval-1), "not so soon")
	require.False(t, s.Answered(h, vnet.ID{15: 1}, mac))
	require.False(t, s.Answered(h, id, wire.MAC{2}))
	require.False(t, h.EtherIPOnly())
	require.True(t, h.Asked(id, mac))
	require.True(t, s.Answered(h, id, mac))
	require.False(t, s.Answered(h, id, mac), "it is known")
	require.True(t, h.EtherIPOnly())
	require.False(t, s.HeardEtherIP(h, id, mac, now+askInterval), "it is known")

	require.True(t, s.HeardVUDP(h, now))
	require.False(t, s.HeardVUDP(h, now))
	require.Empty(t, s.EtherIPOnly())
	require.False(t, s.HeardEtherIP(h, id, mac, now+TTL), "who spoke VUDP is not asked")
	require.True(t, s.HeardEtherIP(h, id, mac, now+TTL+second))
	require.True(t, s.Answered(h, id, mac))
	require.False(t, s.Sweep(now+2*TTL))
	require.True(t, s.Sweep(now+2*TTL+2*second))
	require.Empty(t, s.EtherIPOnly())
	require.Nil(t, s.Find(host(1)))

	// Also one that is named, whose record stays.
	s.SetHosts("configuration", []Named{{Addr: host(1)}})
	h, now = s.Find(host(1)), now+3*TTL
	require.True(t, s.HeardEtherIP(h, id, mac, now))
	require.True(t, s.Answered(h, id, mac))
	require.True(t, s.Sweep(now+TTL+1))
	require.False(t, h.EtherIPOnly())
}

// Invented sources of EtherIP, which answer nothing, get no copies and few questions; and no more than a few hosts can
// be of that kind.
func TestEtherIPIsBounded(t *testing.T) {
	s, now := New(), 100*second
	asked := 0
	for i := range 1500 {
		if s.HeardEtherIP(s.See(host(i), now), id, mac, now+int64(i)) {
			asked++
		}
		now += second / 1000
	}
	require.LessOrEqual(t, asked, askRate+askRate*3/2)
	require.Empty(t, s.EtherIPOnly())
	for i := range 5 * MaxEtherIP {
		now += second
		h := s.See(host(10_000+i), now)
		require.True(t, s.HeardEtherIP(h, id, mac, now))
		require.Equal(t, i < MaxEtherIP, s.Answered(h, id, mac))
	}
	require.Len(t, s.EtherIPOnly(), MaxEtherIP)
}

// Who does not answer is left alone.
func TestQuestionsEnd(t *testing.T) {
	s, now, asked := New(), 100*second, 0
	h := s.See(host(1), now)
	for end := now + TTL/2; now < end; now += second / 10 {
		if s.HeardEtherIP(h, id, mac, now) {
			asked++
		}
	}
	require.Equal(t, askTries, asked)
	require.True(t, s.HeardEtherIP(h, id, mac, now+TTL))
}

func TestReplicates(t *testing.T) {
	s, now := New(), 100*second
	h := s.See(host(1), now)
	require.False(t, s.AnyReplicates(now))
	s.Replicated(h, now)
	require.True(t, h.Replicates(now+TTL))
	require.True(t, s.AnyReplicates(now+TTL))
	require.False(t, h.Replicates(now+TTL+1))
	require.False(t, s.AnyReplicates(now+TTL+1))
}

func TestAlias(t *testing.T) {
	s, now := New(), 100*second
	six := netip.MustParseAddr("2001:db8::1")
	require.Equal(t, six, s.Canonical(six, now))
	require.True(t, s.SetAlias(six, host(1), now))
	require.False(t, s.SetAlias(six, host(1), now+aliasTTL))
	require.Equal(t, host(1), s.Canonical(six, now+2*aliasTTL))
	require.Equal(t, six, s.Canonical(six, now+2*aliasTTL+1))
	require.True(t, s.SetAlias(six, host(2), now+aliasTTL))
	require.Equal(t, host(2), s.Canonical(six, now+aliasTTL))
}

func TestNamed(t *testing.T) {
	s := New()
	own := map[netip.Addr]struct{}{host(9): {}}
	s.SetHosts("configuration", []Named{
		{Name: "b", Addr: host(2), Port: 1798, Peer: true}, {Name: "a", Addr: host(1), Port: 1798, Peer: true},
		{Name: "all", Addr: host(9), Port: 1798, Peer: true, Replica: true}, {Name: "unknown", Peer: true},
		{Name: "r", Addr: host(5), Port: 1798, Replica: true}, {Name: "the same", Addr: host(5), Port: 1798, Replica: true},
		{Name: "r2", Addr: host(4), Port: 1798, Replica: true},
	})
	s.SetHosts("control", []Named{{Addr: host(2), Port: 1799, Peer: true}, {Addr: host(3), Port: 1798, Peer: true}})
	peers := s.Peers(own)
	require.Len(t, peers, 3)
	for i, want := range []Peer{{s.Find(host(1)), "a", 1798}, {s.Find(host(2)), "", 1799}, {s.Find(host(3)), "", 1798}} {
		require.Equal(t, want, peers[i])
	}
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(host(5), 1798), netip.AddrPortFrom(host(4), 1798)}, s.Replicas(own))
	peers[1].ForwardedTx.Add(3, 100)
	s.SetHosts("control", nil)
	require.Equal(t, Peer{s.Find(host(2)), "b", 1798}, s.Peers(own)[1], "as the configuration has it")
	packets, bytes := s.Peers(own)[1].ForwardedTx.Load()
	require.Equal(t, []uint64{3, 100}, []uint64{packets, bytes}, "who stays keeps counting")
}

func TestList(t *testing.T) {
	s, now := New(), 100*second
	six := netip.MustParseAddr("2001:db8::1")
	h := s.See(host(1), now)
	s.SetAlias(six, host(1), now)
	h.Tx.Add(2, 300)
	h.Rx.Add(1, 60)
	h.HeardByGroup(now)
	h.AnsweredProbe(now)
	s.Replicated(h, now)
	s.SetHosts("configuration", []Named{{Addr: host(1), Peer: true}, {Addr: host(2), Replica: true}})
	s.SetHosts("control", []Named{{Addr: host(1), Peer: true}})
	require.Equal(t, []Info{
		{
			Addr: host(1), Aliases: []netip.Addr{six}, Replicates: true, Group: time.Second, Unicast: time.Second,
			Answered: time.Second, Probed: -1, Sources: []string{"configuration", "control"}, TxPackets: 2, TxBytes: 300, RxPackets: 1, RxBytes: 60,
		},
		{Addr: host(2), Group: -1, Unicast: -1, Answered: -1, Probed: -1, Sources: []string{"configuration"}},
	}, s.List(now+second))
}

// What every packet asks costs no memory; and all may ask at once.
func TestManyAtOnce(t *testing.T) {
	s := New()
	h := s.See(host(1), second)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		s.Find(host(1)).HeardByUnicast(second)
		s.HeardVUDP(h, second)
		s.Canonical(host(1), second)
		h.Rx.Add(1, 100)
		h.Replicates(second)
	}))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				now := int64(i+1) * second
				h := s.See(host(i*7+w), now)
				if h == nil {
					continue // the others are ahead
				}
				if s.HeardEtherIP(h, id, mac, now) {
					s.Answered(h, id, mac)
				}
				switch i % 7 {
				case 0:
					s.HeardVUDP(h, now)
				case 1:
					s.Sweep(now)
				case 2:
					s.SetHosts("control", []Named{{Addr: host(i), Peer: true}})
				case 3:
					s.Peers(nil)
					s.List(now)
				case 4:
					s.SetAlias(host(i), host(i+1), now)
				}
			}
		})
	}
	wg.Wait()
	s.SetHosts("control", nil)
	s.Sweep(1 << 60)
	require.Empty(t, s.List(1<<60))
	require.Zero(t, s.unnamed)
	require.Zero(t, s.etherIP)
}
