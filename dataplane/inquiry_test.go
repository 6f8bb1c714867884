package dataplane

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// find returns what was found out about a host.
func (q *Inquiry) find(t *testing.T, addr netip.Addr) Inquired {
	t.Helper()
	for _, h := range q.Hosts {
		if h.Addr == addr {
			return h
		}
	}
	require.Fail(t, "not asked", "%s: %+v", addr, q.Hosts)
	return Inquired{}
}

// Hosts that are known and those that answer are asked; what fits on the way is found to the byte.
func TestInquire(t *testing.T) {
	_, _, hosts := newLab(t, 3, testConfig())
	a, b, c := hosts[0], hosts[1], hosts[2]
	add(t, "97", hosts...)
	add(t, "98", c)
	require.NoError(t, a.AddPeer(t.Context(), netip.MustParseAddr("10.9.0.99"), 0)) // nobody
	require.NoError(t, c.Uplink().SetPathMTU(1400))
	q, err := a.Inquire(t.Context(), netip.Addr{})
	require.NoError(t, err)
	require.Less(t, q.Took, 30*time.Second)
	for _, h := range []*testHost{b, c} {
		x := q.find(t, h.Addr())
		require.True(t, x.ByGroup && x.ByUnicast && x.HeardByGroup, "%+v", x)
		require.Positive(t, x.RTT)
		require.True(t, x.ClockKnown)
		require.Less(t, x.Clock.Abs(), x.RTT+time.Second)
		require.Contains(t, x.Answer.Version, "xend")
		require.Contains(t, x.Answer.Vnets, idOf(t, "97"))
		require.Equal(t, 1500, x.DeviceMTU)
	}
	x := q.find(t, b.Addr())
	require.Equal(t, []int{1500, 1500}, []int{x.MTUTo, x.MTUFrom})
	require.True(t, x.FragmentsAsked && x.Fragments)
	x = q.find(t, c.Addr())
	// A port of a bridge leaves room for a VLAN tag.
	require.Equal(t, []int{1404, 1404}, []int{x.MTUTo, x.MTUFrom})
	require.False(t, x.Fragments, "its fragments are as long as the device allows")
	require.Contains(t, x.Answer.Vnets, idOf(t, "98"))
	gone := q.find(t, netip.MustParseAddr("10.9.0.99"))
	require.False(t, gone.Answers())
	require.Equal(t, askTries, gone.Tries)

	one, err := a.Inquire(t.Context(), b.Addr())
	require.NoError(t, err)
	require.Len(t, one.Hosts, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = a.Inquire(ctx, netip.Addr{})
	require.ErrorIs(t, err, context.Canceled)
}

// Only answers to what was asked are taken, once.
func TestInquiryIsNotFooled(t *testing.T) {
	m, w, _ := handDriven(t, testConfig())
	e, other := m.hosts[0], netip.MustParseAddr("10.9.1.2")
	from := arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, to: e.addr, by: dedup.Unicast}
	q := newInquiry()
	e.inquiring.Store(q)
	nonce, answers, done := q.newQuestion(1)
	tell := func(nonce [16]byte) {
		w.fromHost(wire.Probe{Answer: true, Nonce: nonce, CareOf: other, Received: 200}.Append(nil), from)
	}
	wrong := nonce
	wrong[0]++
	tell(wrong)
	require.EqualValues(t, 1, w.drops[DropAnswer].Load())
	require.Empty(t, answers)
	tell(nonce)
	tell(nonce) // once more: there is no room, and nobody waits for it
	require.Len(t, answers, 1)
	done()
	tell(nonce)
	require.Len(t, answers, 1)
}

// An answer that is to be whole is as long as its question, and goes where the kernel fragments nothing.
func TestWholeAnswer(t *testing.T) {
	m, w, _ := handDriven(t, testConfig())
	e, other := m.hosts[0], netip.MustParseAddr("10.9.1.2")
	from := arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, to: e.addr, by: dedup.Unicast}
	w.fromHost(wire.Probe{Nonce: [16]byte{5}, CareOf: other, Size: 1400, Whole: true}.Append(nil), from)
	n := <-e.notices
	require.Equal(t, noticeWhole, n.kind)
	require.Equal(t, other, n.addr)
	require.Len(t, n.payload, 1400)
	p, err := wire.DecodeProbe(n.payload)
	require.NoError(t, err)
	require.True(t, p.Whole)
	require.NotZero(t, p.Clock)
	require.Equal(t, []vnet.ID{idOf(t, "97")}, p.Vnets)
}

// startMany makes the first of 64 hosts and 63 others.
func startMany(t testing.TB) []*testHost {
	cfg := testConfig()
	cfg.Workers = 1
	_, s, hosts := newLab(t, 1, cfg)
	for i := range 63 {
		hosts = append(hosts, startEngine(t, addHost(t, s, "H"+strconv.Itoa(i)), cfg))
	}
	return hosts
}

// 64 hosts are asked at once, and each of them is found to be well.
func TestInquireMany(t *testing.T) {
	hosts := startMany(t)
	q, err := hosts[0].Inquire(t.Context(), netip.Addr{})
	require.NoError(t, err)
	require.Len(t, q.Hosts, len(hosts)-1)
	for _, h := range q.Hosts {
		require.True(t, h.ByGroup && h.ByUnicast && h.HeardByGroup && h.Fragments, "%+v", h)
		require.Equal(t, []int{1500, 1500}, []int{h.MTUTo, h.MTUFrom})
	}
	t.Logf("64 hosts: %s", q.Took)
}

// BenchmarkInquireMany has one of 64 hosts ask the others, to all of which a path of 1404 bytes leads, which it has to find out.
func BenchmarkInquireMany(b *testing.B) {
	hosts := startMany(b)
	for _, h := range hosts[1:] {
		require.NoError(b, h.Uplink().SetPathMTU(1400))
	}
	found := 0
	for b.Loop() {
		q, err := hosts[0].Inquire(b.Context(), netip.Addr{})
		require.NoError(b, err)
		for _, h := range q.Hosts {
			if h.MTUTo == 1404 && h.MTUFrom == 1404 {
				found++
			}
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/op")
	b.ReportMetric(float64(found)/float64(b.N), "MTUs/op")
}

// distant is a host that a test plays: how late it answers, and how long packets may be on the way there and back.
type distant struct {
	rtt         time.Duration
	there, back int
	silent      bool
}

// inquireDistant asks 64 hosts that are alike and known, in a time that passes only while everybody waits.
func inquireDistant(t *testing.T, d distant, check func(*Inquiry)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, testConfig())
		e := m.hosts[0]
		type host struct {
			*underlaytest.Host
			addr    netip.Addr
			answers *answerer
		}
		var list []*host
		e.peers.added = map[netip.Addr]uint16{}
		for i := range 64 {
			addr := netip.AddrFrom4([4]byte{10, 9, 2, byte(i + 1)})
			list = append(list, &host{m.net.Join(underlayIndex, addr), addr, newAnswerer()})
			e.peers.added[addr] = wire.Port
		}
		e.publishLocked()
		const headers = 28 // IPv4 and UDP
		e.sendWhole = func(from netip.Addr, to netip.AddrPort, payload []byte) error {
			if len(payload)+headers <= d.there {
				e.net.Put(underlaytest.Packet{From: netip.AddrPortFrom(from, wire.Port), To: to, Payload: slices.Clone(payload)})
			}
			return nil
		}
		hear := func(h *host, p underlaytest.Packet) {
			q, err := wire.DecodeProbe(p.Payload)
			if err != nil || d.silent {
				return
			}
			say := func(to netip.Addr, p wire.Probe) {
				p.CareOf = h.addr
				payload := p.Append(nil)
				time.AfterFunc(d.rtt, func() {
					h.Put(underlaytest.Packet{From: netip.AddrPortFrom(h.addr, wire.Port), To: netip.AddrPortFrom(to, wire.Port), Payload: payload})
				})
			}
			if q.WantsGroup {
				say(m.group, wire.Probe{NoAnswer: true, Size: wire.MinProbe})
			}
			if q.NoAnswer || !h.answers.may(e.addr, e.now()) || q.Whole && len(p.Payload)+headers > d.back {
				return
			}
			say(e.addr, wire.Probe{Answer: true, Nonce: q.Nonce, Received: len(p.Payload), Whole: q.Whole, Group: p.To.Addr().IsMulticast(), Version: "xend"})
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		wg.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
				for _, h := range list {
					for _, p := range h.Take() {
						hear(h, p)
					}
				}
				e.step()
			}
		})
		q, err := e.Inquire(ctx, netip.Addr{})
		require.NoError(t, err)
		require.Len(t, q.Hosts, len(list))
		require.LessOrEqual(t, q.Took, MaxInquiry+10*time.Millisecond)
		check(q)
	})
}

// TestInquiryIsBounded: 64 hosts are asked at once, and what they make this host wait for is bounded, whether they answer soon, late or
// not at all.
func TestInquiryIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hosts distant
		took  time.Duration // at most
		mtu   [2]int        // there and back
		// unsure: what is told of the MTU may be too little
		unsure bool
	}{
		{"well", distant{rtt: time.Millisecond, there: 1500, back: 1500}, 1200 * time.Millisecond, [2]int{1500, 1500}, false},
		{"narrow", distant{rtt: time.Millisecond, there: 1404, back: 1280}, 4 * time.Second, [2]int{1404, 1280}, false},
		{"far", distant{rtt: 60 * time.Millisecond, there: 1404, back: 1404}, MaxInquiry, [2]int{1404, 1404}, false},
		{"late", distant{rtt: 350 * time.Millisecond, there: 1404, back: 1280}, MaxInquiry, [2]int{1404, 1280}, true},
		{"silent", distant{silent: true}, askTries * (groupWait + firstWait), [2]int{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inquireDistant(t, tt.hosts, func(q *Inquiry) {
				t.Logf("%s", q.Took)
				require.LessOrEqual(t, q.Took, tt.took+10*time.Millisecond)
				for _, h := range q.Hosts {
					require.Equal(t, !tt.hosts.silent, h.ByUnicast && h.ByGroup && h.HeardByGroup && h.Fragments, "%+v", h)
					require.Equal(t, tt.unsure, h.MTUUnsure, "%+v", h)
					if tt.unsure {
						require.LessOrEqual(t, h.MTUTo, tt.mtu[0])
						require.LessOrEqual(t, h.MTUFrom, tt.mtu[1])
						continue
					}
					require.Equal(t, tt.mtu, [2]int{h.MTUTo, h.MTUFrom})
				}
			})
		})
	}
}

// A host that answers no probe is asked for the MACs that its frames came from, as the protocol has it since its beginning: an
// original host answers, by unicast; from one that is cut off comes nothing, or only what it tells everybody.
func TestInquireByVARP(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(s *stranger, a *memoryHost, m wire.VARP)
		want   AskedByVARP
	}{
		{"original", func(s *stranger, a *memoryHost, m wire.VARP) {
			s.send(a.addr, wire.VARP{Opcode: wire.Announce, Vnet: m.Vnet, MAC: m.MAC, CareOf: s.addr}.Append(nil))
		}, AskedByVARP{MACs: 1, Sure: 1, Answered: true}},
		{"cut off, announced first", func(*stranger, *memoryHost, wire.VARP) {}, AskedByVARP{MACs: 1, Sure: 1}},
		{"cut off", func(*stranger, *memoryHost, wire.VARP) {}, AskedByVARP{MACs: 1, Sure: 1}},
		{"announces only", func(s *stranger, a *memoryHost, m wire.VARP) {
			s.send(a.config.Group, wire.VARP{Opcode: wire.Announce, Vnet: m.Vnet, MAC: m.MAC, CareOf: s.addr}.Append(nil))
		}, AskedByVARP{MACs: 1, Sure: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, 1, testConfig())
				a, s := m.hosts[0], m.stranger()
				mac := domainMAC(7)
				if strings.HasSuffix(tt.name, "announced first") {
					s.send(m.group, wire.VARP{Opcode: wire.Announce, Vnet: idOf(t, "97"), MAC: wire.MAC(mac), CareOf: s.addr}.Append(nil))
				}
				s.send(m.group, vudp(idOf(t, "97"), testFrame(broadcastMAC, mac, "hello")))
				s.heard(func(heardPacket) bool { return true })
				var q *Inquiry
				var err error
				ctx, done := context.WithCancel(t.Context())
				go func() {
					defer done()
					q, err = a.Inquire(t.Context(), netip.Addr{})
				}()
				questions := 0
				for ctx.Err() == nil {
					synctest.Wait() // it has asked, and waits
					m.settle()
					for _, p := range s.heard(isVARP(wire.Request, mac)) {
						questions++
						require.Equal(t, s.addr, p.To.Addr())
						v, err := wire.DecodeVARP(p.Payload)
						require.NoError(t, err)
						tt.answer(s, a, v)
					}
					time.Sleep(10 * time.Millisecond)
				}
				require.NoError(t, err)
				h := q.find(t, s.addr)
				require.False(t, h.Answers())
				require.Equal(t, tt.want, h.VARP)
				require.Positive(t, questions)
				require.Negative(t, h.Answered, "probes")
				require.Zero(t, a.locating.n.Load())
			})
		})
	}
}

// That a host answered a probe, or sent one, is remembered with it.
func TestProbesAreRemembered(t *testing.T) {
	m := newMemory(t, 2, testConfig())
	a, b := m.hosts[0], m.hosts[1]
	m.send(1, testFrame(broadcastMAC, domainMAC(2), "hello"))
	known := func(h *memoryHost) hosts.Info {
		list := h.hosts.List(h.now())
		require.Len(t, list, 1)
		return list[0]
	}
	require.Negative(t, known(a).Answered)
	a.askHosts([]netip.Addr{b.addr})
	m.settle()
	require.GreaterOrEqual(t, known(a).Answered, time.Duration(0))
	require.Negative(t, known(a).Probed)
	b.askHosts([]netip.Addr{a.addr})
	m.settle()
	require.GreaterOrEqual(t, known(a).Probed, time.Duration(0))
}
