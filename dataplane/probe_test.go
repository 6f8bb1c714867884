package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

const (
	silentText = "nothing comes from the group any more"
	heardText  = "the group is heard again"
)

// An operator is told when a group goes silent though others are there, and when it is heard again.
func TestGroupSilence(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	a, o := m.hosts[0], m.stranger()
	require.Negative(t, a.Snapshot().Underlays[0].Heard)
	say := vudp(idOf(t, "97"), testFrame(broadcastMAC, domainMAC(9), "still here"))
	o.send(m.group, say)
	for rounds := 0; a.log.Count(silentText) == 0; rounds++ {
		require.Less(t, rounds, 100, "no alarm")
		o.send(a.addr, say) // it is there, but the group is not heard
		m.tick(a.config.GroupSilence / 4)
	}
	require.True(t, a.Snapshot().Underlays[0].Silent)
	o.send(m.group, say)
	m.tick(a.config.GroupSilence / 4)
	require.Equal(t, 1, a.log.Count(heardText))
	require.False(t, a.Snapshot().Underlays[0].Silent)
}

// In a network where nobody says anything, hosts ask each other, and find that all is well.
func TestIdleNetworkIsNotAlarming(t *testing.T) {
	m := newMemory(t, 3, testConfig())
	for i := range m.hosts { // each has heard each other before
		m.send(i, testFrame(broadcastMAC, domainMAC(i), "once"))
	}
	m.probes()
	m.tick(10 * groupQuestions * m.hosts[0].config.GroupSilence)
	require.Greater(t, len(m.probes()), 10)
	for _, h := range m.hosts {
		require.Zero(t, h.log.Count(silentText), h.addr)
	}
}

// probes are the probes among the packets that were sent since the last call.
func (m *memory) probes() (out []underlaytest.Packet) {
	for _, p := range m.net.Take() {
		if v, err := wire.DecodeVARP(p.Payload); err == nil && v.IsProbe(p.Payload) {
			out = append(out, p)
		}
	}
	return out
}

// A dead group is told of, if others answer by unicast.
func TestDeadGroupIsTold(t *testing.T) {
	m, w, n := handDriven(t, testConfig())
	e, f, other := m.hosts[0], m.hosts[0].underlays[0], netip.MustParseAddr("10.9.1.2")
	from := arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, to: e.addr}
	w.fromHost(vudp(n.config.ID, testFrame(domainMAC(1), domainMAC(9), "by unicast")), from)
	f.heard.group.Store(w.now)
	later := w.now + int64(e.config.GroupSilence) + int64(time.Hour) // long after unicast was heard
	var question []byte
	ask := func() {
		for range groupQuestions {
			e.listenLocked(f, later)
			asked := m.probes()
			require.Len(t, asked, 2)
			require.Equal(t, other, asked[0].To.Addr())
			require.Equal(t, m.group, asked[1].To.Addr())
			question = asked[0].Payload
		}
	}
	ask()
	e.listenLocked(f, later)
	require.False(t, f.watch.silent, "nobody answers: nobody is there")

	later += int64(e.config.GroupSilence) + 1
	e.listenLocked(f, later)
	ask()
	f.watch.firstAsked = 0
	answer := wire.Probe{Answer: true, Nonce: wire.ProbeNonce(question), CareOf: other, Received: len(question)}
	stray := answer
	stray.Nonce[0]++
	w.fromHost(stray.Append(nil), from)
	require.EqualValues(t, 1, w.drops[DropAnswer].Load())
	w.fromHost(answer.Append(nil), from)
	m.settle()
	e.listenLocked(f, later)
	require.True(t, f.watch.silent)
	require.Equal(t, 1, e.log.Count(silentText))
}

// Where others replicate, a silent group is none to wonder at.
func TestNoAlarm(t *testing.T) {
	for name, replicate := range map[string]func(e *Engine){
		"this host": func(e *Engine) { e.replicas = []*replica{{name: "b.example"}} },
		"another":   func(e *Engine) { e.hosts.Replicated(e.hosts.See(netip.MustParseAddr("10.9.1.2"), e.now()), e.now()) },
		"nobody":    func(*Engine) {},
	} {
		m, _, _ := handDriven(t, testConfig())
		e := m.hosts[0].Engine
		f := e.underlays[0]
		replicate(e)
		later := f.watch.since + int64(e.config.GroupSilence) + 1
		f.heard.unicast.Store(later)
		for range groupQuestions + 1 {
			e.listenLocked(f, later)
		}
		require.Equal(t, name == "nobody", f.watch.silent, name)
	}
}

// Answers are never longer than questions, not too many, tell nothing of vnets with security, and teach nobody anything.
func TestProbeIsAnswered(t *testing.T) {
	m, w, n := handDriven(t, testConfig())
	e, other := m.hosts[0], netip.MustParseAddr("10.9.1.2")
	secret := bareNetwork(vnet.Config{ID: vnet.ID{15: 0x55}, Security: vnet.Conf}, 1)
	w.view.vnets[secret.config.ID] = secret
	from := arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, to: wire.Group, by: dedup.Group}
	ask := func(size int) []byte {
		p := wire.Probe{Nonce: [16]byte{7, 15: byte(size)}, CareOf: other, Size: size}
		return p.Append(nil)
	}
	for _, size := range []int{67, 71, 100, 200, 1400} {
		w.now += int64(time.Second)
		w.fromHost(ask(size), from)
		w.flush()
		answers := m.probes()
		require.Len(t, answers, 1)
		require.Equal(t, netip.AddrPortFrom(other, 1798), answers[0].To)
		b := answers[0].Payload
		require.LessOrEqual(t, len(b), size)
		if size < 71 {
			continue
		}
		p, err := wire.DecodeProbe(b)
		require.NoError(t, err)
		require.Equal(t, byte(size), p.Nonce[15])
		require.Equal(t, size, p.Received)
		require.True(t, p.Group)
		if size >= wire.MinProbe {
			require.Equal(t, []vnet.ID{n.config.ID}, p.Vnets)
			require.Equal(t, 1, p.VnetCount)
			require.Equal(t, []netip.Addr{w.view.uplinks[underlay.IPv4].path.Source}, p.Addrs)
			require.Contains(t, p.Version, "xend")
		}
	}
	require.Empty(t, e.table.Remote(w.now))
	require.False(t, e.pending.Waits(varp.Key{}))

	w.now += int64(time.Second)
	before := w.drops[DropReply].Load()
	for range 30 {
		w.fromHost(ask(200), from)
	}
	require.EqualValues(t, 30-askerRate, w.drops[DropReply].Load()-before)
	require.Len(t, w.queue, askerRate)
	w.queue = w.queue[:0]
	quiet := wire.Probe{Size: 200, NoAnswer: true, WantsGroup: true}
	from.from = from.from.Next()
	w.fromHost(quiet.Append(nil), from)
	require.Empty(t, w.queue)
}

// The answers have a bound for each asker and for all together, and the table of askers, too.
func TestAnswerer(t *testing.T) {
	a, now := newAnswerer(), int64(time.Hour)
	addr := netip.MustParseAddr("10.0.0.1")
	count := 0
	for range 100 {
		if a.may(addr, now) {
			count++
		}
	}
	require.Equal(t, askerRate, count)
	for range 100_000 {
		addr = addr.Next()
		if a.may(addr, now) {
			count++
		}
	}
	require.LessOrEqual(t, count, answerRate)
	require.Len(t, a.of, maxAskers)
	now += int64(time.Second)
	require.True(t, a.may(addr.Next(), now), "who asked long ago makes room")
	require.LessOrEqual(t, len(a.of), maxAskers)
}

// A host that wants to hear something by the group does, from one host; if two want to, they hear each other.
func TestSomethingIsSaidByTheGroup(t *testing.T) {
	m, w, _ := handDriven(t, testConfig())
	e, f, other := m.hosts[0], m.hosts[0].underlays[0], netip.MustParseAddr("10.9.1.2")
	e.groupWantedLocked(other)
	e.obligeLocked(f, w.now)
	said := m.probes()
	require.Len(t, said, 1)
	require.Equal(t, m.group, said[0].To.Addr())
	p, err := wire.DecodeProbe(said[0].Payload)
	require.NoError(t, err)
	require.True(t, p.NoAnswer)
	require.False(t, p.WantsGroup)
	at := f.watch.said
	e.groupWantedLocked(other)
	e.groupWantedLocked(other.Next())
	e.obligeLocked(f, w.now+int64(time.Minute))
	require.Equal(t, at, f.watch.said)
	e.groupWantedLocked(other)
	e.obligeLocked(f, w.now+int64(time.Millisecond))
	require.Equal(t, at, f.watch.said, "not that often")
}
