package dataplane

import (
	"context"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/underlay"
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

// 64 hosts are asked at once, and each of them is found to be well.
func TestInquireMany(t *testing.T) {
	const others = 63
	cfg := testConfig()
	cfg.Workers = 1
	_, s, hosts := newLab(t, 1, cfg)
	for i := range others {
		h, err := s.Host("H" + strconv.Itoa(i))
		require.NoError(t, err)
		hosts = append(hosts, startEngine(t, h, cfg))
	}
	q, err := hosts[0].Inquire(t.Context(), netip.Addr{})
	require.NoError(t, err)
	require.Len(t, q.Hosts, others)
	for _, h := range q.Hosts {
		require.True(t, h.ByGroup && h.ByUnicast && h.HeardByGroup && h.Fragments, "%+v", h)
		require.Equal(t, []int{1500, 1500}, []int{h.MTUTo, h.MTUFrom})
	}
	t.Logf("64 hosts: %s", q.Took)
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
