package dataplane

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
)

// awaitWay waits until domains' frames go that way, all for a reason that contains why.
func (h *testHost) awaitWay(want func(fastpath.Way) bool, why string) {
	h.t.Helper()
	eventually(h.t, "a way was chosen: "+why, func() bool {
		ports := h.Counters().FastPath.Ports
		for _, p := range ports {
			if !want(p.Way) || !strings.Contains(p.Reason, why) {
				return false
			}
		}
		return len(ports) > 0
	})
}

func byBridge(w fastpath.Way) bool   { return w == fastpath.WayBridge }
func pastBridge(w fastpath.Way) bool { return w != fastpath.WayBridge }

// bypassing is two hosts with a domain each, which pass their bridges by.
func bypassing(t testing.TB) (hosts []*testHost, one, two *lab.Domain) {
	cfg := fastConfig()
	cfg.Bypass = BypassAuto
	_, _, hosts = newLab(t, 2, cfg)
	add(t, "97", hosts...)
	one, two = hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	for _, h := range hosts {
		h.awaitWay(pastBridge, "")
	}
	return hosts, one, two
}

// TestBypass: domains pass their bridges by, until there is a policy, and while the engine runs.
func TestBypass(t *testing.T) {
	hosts, one, two := bypassing(t)
	for i := range two.Spec.Addrs {
		_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[i].Addr(), 16<<20)
		require.NoError(t, err)
	}
	_, err := hosts[0].Host.Run(soon(t), "nft", "add", "table", "bridge", "guard")
	require.NoError(t, err)
	hosts[0].awaitWay(byBridge, "nft table bridge guard")
	_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 4<<20)
	require.NoError(t, err)
	_, err = hosts[0].Host.Run(soon(t), "nft", "delete", "table", "bridge", "guard")
	require.NoError(t, err)
	hosts[0].awaitWay(pastBridge, "")

	// With the key it ends, and with the engine.
	off := fastConfig()
	off.Bypass = BypassOff
	require.NoError(t, hosts[0].Reload(off))
	eventually(t, "no filter is at the vif", func() bool { return !hosts[0].hasVifFilter(one) })
	require.True(t, hosts[1].hasVifFilter(two))
	hosts[1].stop()
	require.False(t, hosts[1].hasVifFilter(two))
}

// hasVifFilter reports whether there is a program of ours at a domain's vif.
func (h *testHost) hasVifFilter(d *lab.Domain) bool {
	h.t.Helper()
	l, err := h.Net.LinkByName(d.Spec.Vif)
	require.NoError(h.t, err)
	list, err := h.Net.DevicePrograms(l.Index)
	require.NoError(h.t, err)
	return len(list) > 0
}

// startPlain makes two hosts with plain cards and a domain each, whose packets come in by XDP.
func startPlain(t *testing.T) (hosts []*testHost, one, two *lab.Domain) {
	t.Helper()
	_, hosts = startPair(t, func(_ int, h *lab.Host) *testHost {
		makePlain(t, h)
		return startEngine(t, h, fastConfig())
	})
	one, two = hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	for _, h := range hosts {
		h.awaitXDP()
		require.NotZero(t, h.xdp())
	}
	return hosts, one, two
}

// way is how packets come in over IPv4.
func (h *testHost) way() string { return h.Counters().FastPath.Underlays[0].Way }

func (h *testHost) awaitXDP() {
	h.t.Helper()
	eventually(h.t, "XDP", func() bool { return h.way() == "xdp" })
}

// joining reports whether segments of TCP that come over IPv4 are joined.
func (h *testHost) joining() bool {
	return strings.Contains(h.Counters().FastPath.Underlays[0].Why, "joined by "+fastpath.JoinDevice)
}

func (h *testHost) awaitJoined() {
	h.t.Helper()
	eventually(h.t, "segments are joined", h.joining)
}

// mends waits until the pair has been made anew after a fault.
func (h *testHost) mends(fault func()) {
	h.t.Helper()
	before := h.log.Count("is made anew")
	fault()
	eventually(h.t, "the pair is made anew", func() bool { return h.log.Count("is made anew") > before && h.joining() && len(h.pair()) == 2 })
}

// inBy reports whether packets come in as tests name it: "tc", "xdp", or "joined", which is by TC and the pair.
func (h *testHost) inBy(way string) bool {
	return (h.way() == "xdp") == (way == "xdp") && h.joining() == (way == "joined")
}

// inBy is a configuration by which packets come in so on plain cards.
func inBy(cfg Config, way string) Config {
	if way == "joined" {
		cfg.XDP = fastpath.XDPOff
	}
	return cfg
}

// xdp is the XDP program of a host's card; 0 for none.
func (h *testHost) xdp() ebpf.ProgramID {
	h.t.Helper()
	card, err := h.Uplink().Link()
	require.NoError(h.t, err)
	id, err := h.Net.XDPProgram(card.Index)
	require.NoError(h.t, err)
	return id
}

// segments is a counted stream of TCP segments from one domain to another, which XDP strips. Nobody answers them, and GRO
// joins none: they are for an address that nobody has, and have a wrong checksum.
type segments struct {
	t       testing.TB
	out     *packet.Conn
	to      net.HardwareAddr
	frame   []byte // the next one
	got     *lab.Capture
	written atomic.Uint64
	stop    chan struct{}
	done    sync.WaitGroup
}

// segmentSize is how many bytes a segment has: short ones are not joined.
const segmentSize = 400

// isSegment tells those of such a stream, as they are in a domain or stripped.
func isSegment(f lab.Frame) bool {
	return len(f.Data) == 54+segmentSize && f.Data[23] == 6 && !f.Outgoing
}

// isJoined tells them at the end of the pair, where they have a tag.
func isJoined(f lab.Frame) bool {
	return len(f.Data) == 58+segmentSize && f.Data[27] == 6 && !f.Outgoing
}

// startSegments sends one every pause, until end.
func startSegments(t testing.TB, from, to *lab.Domain, pause time.Duration) *segments {
	t.Helper()
	s := &segments{t: t, to: to.Spec.MAC, frame: tcpFrame(segmentSize), stop: make(chan struct{})}
	copy(s.frame, to.Spec.MAC)
	copy(s.frame[6:], from.Spec.MAC)
	var err error
	s.got, err = to.Capture("eth0", isSegment)
	require.NoError(t, err)
	eth0, err := from.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, from.Do(func() (err error) {
		s.out, err = packet.Listen(&net.Interface{Index: eth0.Index, Name: eth0.Name}, packet.Raw, 0, nil)
		return err
	}))
	s.done.Go(func() {
		nettest.OneProcessor(t)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.send()
			}
		}
	})
	t.Cleanup(func() { s.close() })
	return s
}

func (s *segments) send() {
	binary.BigEndian.PutUint64(s.frame[54:], s.written.Load())
	if _, err := s.out.WriteTo(s.frame, &packet.Addr{HardwareAddr: s.to}); err != nil {
		s.t.Error(err)
	}
	s.written.Add(1)
}

// more waits until that many more were sent.
func (s *segments) more(n uint64) {
	s.t.Helper()
	before := s.written.Load()
	eventually(s.t, "the stream goes on", func() bool { return s.written.Load() >= before+n })
}

// close ends the stream.
func (s *segments) close() {
	if s.out == nil {
		return
	}
	close(s.stop)
	s.done.Wait()
	require.NoError(s.t, s.out.Close())
	s.out = nil
}

// end ends the stream, of which every segment must have come, in order and once, and tells how many there were.
func (s *segments) end() uint64 {
	s.t.Helper()
	n := s.written.Load() + 1 // at least one is behind all others
	s.more(2)
	s.close()
	for ctx, next := soon(s.t), uint64(0); next <= n; next++ {
		f, err := s.got.Next(ctx)
		require.NoError(s.t, err)
		require.Equal(s.t, next, binary.BigEndian.Uint64(f.Data[54:]), "of %d", n)
	}
	return n
}

// TestXDPGoesOn: while daemons end and begin again XDP goes on, and of an established flow nothing is lost or doubled; a new
// daemon replaces the program. What is left of one that does not come back goes with RemoveFastPath.
func TestXDPGoesOn(t *testing.T) {
	hosts, one, two := startPlain(t)
	stripped := func() uint64 {
		c, err := hosts[1].programs.shortcuts.strip.Counters()
		require.NoError(t, err)
		return c.Stripped
	}
	before := stripped()
	stream := startSegments(t, one, two, time.Millisecond)
	for round := range 4 {
		i := (round + 1) % 2
		id := hosts[i].xdp()
		hosts[i].stop()
		stream.more(200) // nobody is there
		require.Equal(t, id, hosts[i].xdp())
		hosts[i] = startEngine(t, hosts[i].Host, fastConfig())
		add(t, "97", hosts[i])
		hosts[i].awaitXDP()
		require.NotEqual(t, id, hosts[i].xdp(), "it was replaced")
	}
	total := stripped() - before
	n := stream.end()
	require.Greater(t, n, uint64(500))
	require.Greater(t, total, n*9/10, "XDP was there all the time")

	for _, h := range hosts {
		h.stop()
		require.NotZero(t, h.xdp())
		require.NoError(t, RemoveFastPath(h.Net))
		require.Zero(t, h.xdp())
		for _, at := range h.hooks() {
			require.Empty(t, h.at(at))
		}
	}
}

// TestIngressByXDP: on plain cards outer headers go at XDP, with TC behind it; when another program comes first at TC, XDP goes.
func TestIngressByXDP(t *testing.T) {
	hosts, one, two := startPlain(t)
	for i := range two.Spec.Addrs {
		_, rx0 := hosts[1].carried()
		_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[i].Addr(), 16<<20)
		require.NoError(t, err)
		_, rx := hosts[1].carried()
		require.Greater(t, rx.Bytes-rx0.Bytes, uint64(16<<20))
	}
	// Somebody else comes first.
	card, err := hosts[1].Uplink().Link()
	require.NoError(t, err)
	out, err := fastpath.Load(fastpath.Times{})
	require.NoError(t, err)
	t.Cleanup(out.Close)
	theirs := card.Index
	other := hostnet.Classifier{Index: theirs, Priority: 7, Name: "other"}
	require.NoError(t, hosts[1].Net.AttachClassifier(other, out.Out()))
	eventually(t, "TC", func() bool { return hosts[1].way() == hookClsact })
	require.Zero(t, hosts[1].xdp())
	_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 4<<20)
	require.NoError(t, err)
	require.NoError(t, hosts[1].Net.DetachClassifier(other))
	hosts[1].mirror.lookAtNetwork()
	hosts[1].awaitXDP()
	if hosts[0].hasTCX() {
		card, err = hosts[0].Uplink().Link()
		require.NoError(t, err)
		require.NoError(t, hosts[0].Net.AttachTCXProgram(card.Index, false, out.Out(), 0))
		at := hook{index: card.Index}
		eventually(t, "TC", func() bool {
			return hosts[0].way() == hookTCX && slices.Equal(hosts[0].at(at), []string{"other", hookTCX})
		})
		require.Zero(t, hosts[0].xdp())
		_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 4<<20)
		require.NoError(t, err)
	}
	// Who takes XDP away does not keep it away.
	id := hosts[1].xdp()
	require.NoError(t, hosts[1].Net.DetachXDP(theirs, id))
	eventually(t, "it is back", func() bool { return hosts[1].xdp() == id })
}

// pair are the indices of the devices that join segments on a host.
func (h *testHost) pair() (list []int) {
	h.t.Helper()
	links, err := h.Net.Links()
	require.NoError(h.t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Name, port.JoinPrefix) {
			require.EqualValues(h.t, port.Group, l.Group)
			require.True(h.t, port.Reserved(l.Name))
			list = append(list, l.Index)
		}
	}
	return list
}

// TestJoined: on plain veths segments are joined by a pair of devices, which is there as long as it is of use: not where cards hand
// over whole what was sent, not beside XDP, and not without a fast path. A daemon that ends leaves it to the next one.
func TestJoined(t *testing.T) {
	cfg := fastConfig()
	cfg.XDP = fastpath.XDPAuto
	_, hosts := startPair(t, func(i int, h *lab.Host) *testHost {
		if i == 1 {
			makePlain(t, h)
		}
		return startEngine(t, h, cfg)
	})
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	require.Empty(t, hosts[0].pair(), "its card is not plain")
	b := hosts[1]
	b.awaitJoined()
	devices := b.pair()
	require.Len(t, devices, 2)
	require.Contains(t, b.Counters().FastPath.Underlays[0].Why, "where XDP copies")
	bulk := startSegments(t, one, two, time.Millisecond)
	bulk.more(50)

	// XDP and back. Nothing is lost.
	on, off := cfg, cfg
	on.XDP, off.FastPath = fastpath.XDPOn, FastPathOff
	require.NoError(t, b.Reload(on))
	b.awaitXDP()
	eventually(t, "the pair is gone", func() bool { return len(b.pair()) == 0 })
	require.NoError(t, b.Reload(cfg))
	b.awaitJoined()
	require.Zero(t, b.xdp())
	bulk.more(50)

	devices = b.pair()
	b.stop()
	require.Equal(t, devices, b.pair(), "the kernel goes on")
	hosts[1] = startEngine(t, b.Host, cfg)
	b = hosts[1]
	add(t, "97", b)
	b.awaitJoined()
	require.Equal(t, devices, b.pair())
	bulk.more(50)
	bulk.end()

	// Somebody takes it away under way. It comes back by itself.
	b.mends(func() { require.NoError(t, b.Net.Delete(devices[0])) })
	require.Equal(t, 1, b.log.Count("is made anew"))
	require.NotEqual(t, devices, b.pair())
	_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 1<<20)
	require.NoError(t, err)

	require.NoError(t, b.Reload(off))
	eventually(t, "there is no pair", func() bool { return len(b.pair()) == 0 })
	require.NoError(t, b.Net.CreateVeth(hostnet.Veth{Name: fastpath.JoinDevice, Partner: "theirs"}))
	require.NoError(t, b.Reload(cfg))
	eventually(t, "it is said why segments are not joined", func() bool {
		return strings.Contains(b.Counters().FastPath.Underlays[0].Why, "not joined: ") && strings.Contains(b.Counters().FastPath.Underlays[0].Why, fastpath.JoinDevice)
	})
	awaitFast(t, one, two, hosts...)
	_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 1<<20)
	require.NoError(t, err, "they come one by one")
	theirs, err := b.Net.LinkByName(fastpath.JoinDevice)
	require.NoError(t, err)
	require.NoError(t, b.Net.Delete(theirs.Index))
	b.mirror.lookAtNetwork()
	b.awaitJoined()
	b.stop()
	require.NoError(t, RemoveFastPath(b.Net))
	require.Empty(t, b.pair())
}

// TestJoinedGoesOn: of an established flow nothing is lost or doubled, and it stays in order, while daemons end and begin again.
func TestJoinedGoesOn(t *testing.T) {
	cfg := inBy(fastConfig(), "joined")
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost {
		makePlain(t, h)
		return startEngine(t, h, cfg)
	})
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	hosts[1].awaitJoined()
	passed, err := hosts[1].Capture(fastpath.JoinDevice, isJoined)
	require.NoError(t, err)
	bulk := startSegments(t, one, two, time.Millisecond)
	for range 3 {
		hosts[1].stop()
		bulk.more(200) // nobody is there
		hosts[1] = startEngine(t, hosts[1].Host, cfg)
		add(t, "97", hosts[1])
		hosts[1].awaitJoined()
	}
	off := cfg
	off.FastPath = FastPathOff
	n := bulk.written.Load()
	require.Greater(t, len(passed.Take()), int(n)*8/10)
	require.NoError(t, hosts[1].Reload(off))
	eventually(t, "the pair is gone", func() bool { return len(hosts[1].pair()) == 0 })
	bulk.more(50)
	bulk.end()
}
