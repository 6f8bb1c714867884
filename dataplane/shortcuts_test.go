package dataplane

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
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

// xdp is the XDP program of a host's card; 0 for none.
func (h *testHost) xdp() ebpf.ProgramID {
	h.t.Helper()
	card, err := h.Uplink().Link()
	require.NoError(h.t, err)
	id, err := h.Net.XDPProgram(card.Index)
	require.NoError(h.t, err)
	return id
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
	got, err := two.Capture("eth0", func(f lab.Frame) bool { return len(f.Data) == 62 && f.Data[23] == 6 && !f.Outgoing })
	require.NoError(t, err)
	eth0, err := one.Net.LinkByName("eth0")
	require.NoError(t, err)
	var out *packet.Conn
	require.NoError(t, one.Do(func() (err error) {
		out, err = packet.Listen(&net.Interface{Index: eth0.Index, Name: eth0.Name}, packet.Raw, 0, nil)
		return err
	}))
	defer func() { require.NoError(t, out.Close()) }()
	before := stripped()
	stop, sent := make(chan struct{}), make(chan uint64)
	var written atomic.Uint64
	go func() {
		f := tcpFrame(8) // to an address that nobody has, with a wrong checksum, so that GRO joins none
		copy(f, domainMAC(2))
		copy(f[6:], domainMAC(1))
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := uint64(0); ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			case <-tick.C:
			}
			binary.BigEndian.PutUint64(f[54:], n)
			if _, err := out.WriteTo(f, &packet.Addr{HardwareAddr: domainMAC(2)}); err != nil {
				t.Error(err)
			}
			written.Store(n + 1)
		}
	}()
	for round := range 4 {
		i := (round + 1) % 2
		id := hosts[i].xdp()
		hosts[i].stop()
		before := written.Load()
		eventually(t, "the stream goes on while nobody is there", func() bool { return written.Load() >= before+200 })
		require.Equal(t, id, hosts[i].xdp())
		hosts[i] = startEngine(t, hosts[i].Host, fastConfig())
		add(t, "97", hosts[i])
		hosts[i].awaitXDP()
		require.NotEqual(t, id, hosts[i].xdp(), "it was replaced")
	}
	total := stripped() - before
	close(stop)
	n := <-sent
	last := tcpFrame(8)
	copy(last, domainMAC(2))
	copy(last[6:], domainMAC(1))
	binary.BigEndian.PutUint64(last[54:], n)
	require.NoError(t, one.Send("eth0", last))
	next := uint64(0)
	for ctx := soon(t); next <= n; next++ {
		f, err := got.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, next, binary.BigEndian.Uint64(f.Data[54:]), "of %d", n)
	}
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
