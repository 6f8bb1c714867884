package dataplane

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// handDrivenLab is an engine with one worker that the test itself drives, with vnet 97 on it.
func handDrivenLab(t testing.TB, cfg Config) (*Engine, *worker, *network, *lab.Host, *lab.Switch) {
	t.Helper()
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	cfg.Workers = 1
	e, err := New(cfg, h.Net, logger(t, "A"))
	require.NoError(t, err)
	require.NoError(t, e.open())
	t.Cleanup(e.close)
	require.NoError(t, attach(e, configOf(t, "97")))
	w := e.workers[0]
	w.view, w.now = e.view.Load(), e.now()
	require.NotNil(t, w.view.uplinks[underlay.IPv4])
	return e, w, e.networks[idOf(t, "97")].network, h, s
}

// sink takes everything, and brings nothing.
type sink struct{}

func (sink) Recv(*port.Batch) (int, error) { return 0, nil }

func (sink) Send(frames []wire.Frame) (int, error) { return len(frames), nil }

func (sink) FD() int { return -1 }

func (sink) Drops() (uint32, error) { return 0, nil }

func (sink) Close() error { return nil }

// packetSink is sink for packets.
type packetSink struct{}

func (packetSink) Recv(*underlay.Socket, *underlay.Batch) (int, error) { return 0, nil }

func (packetSink) Send(*underlay.Socket, *underlay.Path, []underlay.Msg) (int, error) { return 0, nil }

func (packetSink) Relay(*underlay.Underlay, *underlay.Path, netip.AddrPort, netip.AddrPort, uint8, []byte) error {
	return nil
}

// Nothing is allocated per frame, whatever way it goes.
func TestAllocations(t *testing.T) {
	cfg := testConfig()
	cfg.Peers = []NamedHost{{Addr: "10.9.1.200"}}
	cfg.BUMRate = 1 << 30
	m, w, n := handDriven(t, cfg)
	e, o := m.hosts[0].Engine, netip.MustParseAddr("10.9.1.9")
	w.carrier, n.ports[0].vnif = packetSink{}, sink{}
	known := varp.Key{Vnet: n.config.ID, MAC: wire.MAC(domainMAC(9))}
	e.table.LearnRemote(known, o, varp.Announce, w.now)

	unicast := testFrame(domainMAC(9), domainMAC(1), "unicast")
	broadcast := testFrame(broadcastMAC, domainMAC(1), "broadcast")
	super := tcpFrame(40000)
	copy(super, domainMAC(9))
	copy(super[6:], domainMAC(1))
	gso := wire.VnetHdr{Flags: wire.FlagNeedsCsum, GSOType: wire.GSOTCPv4, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	a := arrival{uplink: w.view.uplinks[underlay.IPv4], from: o, outer: o}
	grouped := a
	grouped.by = dedup.Group
	inUnicast, inBroadcast := vudp(n.config.ID, tcpFrame(1000)), vudp(n.config.ID, testFrame(broadcastMAC, domainMAC(9), "in"))
	request := varpMessage(wire.Request, n.config.ID, domainMAC(1), o)
	var step int64
	for name, f := range map[string]func(){
		"unicast":         func() { w.outward(n, unicast, wire.VnetHdr{}) },
		"broadcast":       func() { w.outward(n, broadcast, wire.VnetHdr{}) },
		"super-frame":     func() { w.outward(n, super, gso) },
		"VUDP":            func() { w.fromHost(inUnicast, a) },
		"VUDP from group": func() { w.fromHost(inBroadcast, grouped) },
		"VARP request":    func() { w.fromHost(request, a) },
	} {
		run := func() {
			step += int64(10 * time.Millisecond)
			w.now = e.now() + step
			f()
			w.transmit(n)
			w.deliver()
			w.flush()
		}
		for range 64 {
			run() // scratch memory grows
		}
		require.Zero(t, testing.AllocsPerRun(200, run), name)
	}
	for r := range reasons {
		require.True(t, w.drops[r].Load() == 0 || r == DropReply || r == DropAnnounce, "%s: %d", r, w.drops[r].Load())
	}
}

// Nor by what receives.
func TestReceiveAllocations(t *testing.T) {
	e, w, n, h, s := handDrivenLab(t, testConfig())
	o := newOriginal(t, s, "original")
	d, err := h.Domain(lab.DomainSpec{Name: "d", Vif: "vif1.0", Bridge: "vnet97", MAC: domainMAC(1),
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.97.0.1/16")}})
	require.NoError(t, err)
	silent, err := s.Host("B") // where nobody listens: that would allocate
	require.NoError(t, err)
	e.table.LearnRemote(varp.Key{Vnet: n.config.ID, MAC: wire.MAC(domainMAC(9))}, silent.Addr(), varp.Announce, w.now)
	const runs = 5
	frame := testFrame(domainMAC(9), domainMAC(1), "out")
	packet := vudp(n.config.ID, tcpFrame(1000))
	l := w.view.uplinks[underlay.IPv4]
	share := &n.shares[0]
	for name, from := range map[string]struct{ send, receive func() }{
		"UDP":      {func() { o.send(h.Addr(), packet) }, func() { w.fromUDP(l, l.UDP()[0]) }},
		"the vnif": {func() { require.NoError(t, d.Send("eth0", frame)) }, func() { w.fromVnif(n, n.ports[0].vnif) }},
	} {
		// Whoever else runs in this process allocates, too, but not always.
		least := math.Inf(1)
		for range 10 {
			for range (runs + 1) * port.BatchSize {
				from.send()
			}
			if least = min(least, testing.AllocsPerRun(runs, from.receive)); least == 0 {
				break
			}
		}
		require.Zero(t, least, name)
	}
	require.NotZero(t, share.rxPackets.Load())
	require.NotZero(t, share.txPackets.Load())
}
