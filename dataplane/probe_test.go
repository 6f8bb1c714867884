package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/underlay"
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
	cfg := testConfig()
	cfg.GroupSilence = 200 * time.Millisecond
	_, s, hosts := newLab(t, 1, cfg)
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	require.Negative(t, a.Snapshot().Underlays[0].Heard)
	say := vudp(id, testFrame(broadcastMAC, domainMAC(9), "still here"))
	o.send(wire.Group, say)
	eventually(t, "the alarm", func() bool {
		o.send(a.Addr(), say) // it is there, but the group is not heard
		return a.log.count(silentText) > 0
	})
	require.True(t, a.Snapshot().Underlays[0].Silent)
	eventually(t, "the group is heard again", func() bool {
		o.send(wire.Group, say)
		return a.log.count(heardText) > 0
	})
	eventually(t, "no alarm", func() bool { return !a.Snapshot().Underlays[0].Silent })
}

// In a network where nobody says anything, hosts ask each other, and find that all is well.
func TestIdleNetworkIsNotAlarming(t *testing.T) {
	cfg := testConfig()
	cfg.GroupSilence = 400 * time.Millisecond
	_, s, hosts := newLab(t, 3, cfg)
	o := newOriginal(t, s, "original")
	add(t, "97", hosts...)
	for _, h := range hosts { // each has heard each other before
		d := h.domain(int(h.Addr().As4()[3]), "97")
		require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, d.Spec.MAC, "once")))
	}
	// Ten times as long as it takes to be told of a dead group, counted by the questions that are asked.
	for range 10 {
		o.drain()
		o.wait("a probe", func(p heardPacket) bool {
			m, err := wire.DecodeVARP(p.data)
			return !p.etherip && err == nil && m.IsProbe(p.data) && p.to == wire.Group
		})
	}
	for _, h := range hosts {
		require.Zero(t, h.log.count(silentText), h.Name)
	}
}

// A dead group is told of, if others answer by unicast.
func TestDeadGroupIsTold(t *testing.T) {
	e, w, n, _, s := handDriven(t, testConfig())
	o := newOriginal(t, s, "asked")
	f := e.underlays[0]
	from := arrival{link: w.view.links[underlay.IPv4], from: o.Addr(), outer: o.Addr(), to: w.view.links[underlay.IPv4].path.Source}
	w.fromHost(vudp(n.config.ID, testFrame(domainMAC(1), domainMAC(9), "by unicast")), from)
	f.heard.group.Store(w.now)
	later := w.now + int64(e.config.GroupSilence) + int64(time.Hour) // long after unicast was heard
	var question []byte
	for range groupQuestions {
		e.listenLocked(f, later)
		p := o.wait("a question by unicast", func(p heardPacket) bool {
			m, err := wire.DecodeVARP(p.data)
			return err == nil && m.IsProbe(p.data) && p.to == o.Addr()
		})
		question = p.data
	}
	e.listenLocked(f, later)
	require.False(t, f.watch.silent, "nobody answers: nobody is there")

	e.listenLocked(f, later+int64(e.config.GroupSilence)+1)
	for range groupQuestions {
		e.listenLocked(f, later)
		question = o.wait("a question by unicast", func(p heardPacket) bool {
			m, err := wire.DecodeVARP(p.data)
			return err == nil && m.IsProbe(p.data) && p.to == o.Addr()
		}).data
	}
	f.watch.firstAsked = 0
	answer := wire.Probe{Answer: true, Nonce: wire.ProbeNonce(question), CareOf: o.Addr(), Received: len(question)}
	stray := answer
	stray.Nonce[0]++
	w.fromHost(stray.Append(nil), from)
	require.EqualValues(t, 1, w.drops[DropAnswer].Load())
	w.fromHost(answer.Append(nil), from)
	for len(e.notices) > 0 {
		e.noticeLocked(<-e.notices)
	}
	e.listenLocked(f, later)
	require.True(t, f.watch.silent)
}

// Where others replicate, a silent group is none to wonder at; nor is the alarm lost where a vnet is repaired.
func TestNoAlarm(t *testing.T) {
	for name, replicate := range map[string]func(e *Engine){
		"this host": func(e *Engine) { e.replicas = []*replica{{name: "b.example"}} },
		"another":   func(e *Engine) { e.hosts.Replicated(e.hosts.See(netip.MustParseAddr("10.9.1.2"), e.now()), e.now()) },
		"nobody":    func(*Engine) {},
	} {
		e, _, n, _, _ := handDriven(t, testConfig())
		f := e.underlays[0]
		replicate(e)
		later := f.watch.since + int64(e.config.GroupSilence) + 1
		f.heard.unicast.Store(later)
		for range groupQuestions + 1 {
			e.listenLocked(f, later)
		}
		require.Equal(t, name == "nobody", f.watch.silent, name)

		n.suspect.Store(later)
		require.NoError(t, attach(e, n.config))
		require.Equal(t, later, e.networks[n.config.ID].suspect.Load())
	}
}

// Answers are never longer than questions, not too many, tell nothing of vnets with security, and teach nobody anything.
func TestProbeIsAnswered(t *testing.T) {
	e, w, n, _, s := handDriven(t, testConfig())
	o := newOriginal(t, s, "asker")
	secret := bareNetwork(vnet.Config{ID: vnet.ID{15: 0x55}, Security: vnet.Conf}, 1)
	w.view.vnets[secret.config.ID] = secret
	from := arrival{link: w.view.links[underlay.IPv4], from: o.Addr(), outer: o.Addr(), to: wire.Group, by: dedup.Group}
	ask := func(size int) []byte {
		p := wire.Probe{Nonce: [16]byte{7, 15: byte(size)}, CareOf: o.Addr(), Size: size}
		return p.Append(nil)
	}
	isAnswer := func(p heardPacket) bool {
		m, err := wire.DecodeVARP(p.data)
		return err == nil && m.IsProbe(p.data) && wire.IsAnswer(p.data) && p.to == o.Addr()
	}
	for _, size := range []int{67, 71, 100, 200, 1400} {
		w.now += int64(time.Second)
		w.fromHost(ask(size), from)
		w.flush()
		b := o.wait("an answer", isAnswer).data
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
			require.Equal(t, []netip.Addr{w.view.links[underlay.IPv4].path.Source}, p.Addrs)
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
	e, w, _, _, s := handDriven(t, testConfig())
	o := newOriginal(t, s, "deaf")
	f := e.underlays[0]
	said := func(p heardPacket) bool {
		m, err := wire.DecodeVARP(p.data)
		return err == nil && m.IsProbe(p.data) && p.to == wire.Group
	}
	e.groupWantedLocked(o.Addr())
	e.obligeLocked(f, w.now)
	p, err := wire.DecodeProbe(o.wait("something", said).data)
	require.NoError(t, err)
	require.True(t, p.NoAnswer)
	require.False(t, p.WantsGroup)
	at := f.watch.said
	e.groupWantedLocked(o.Addr())
	e.groupWantedLocked(o.Addr().Next())
	e.obligeLocked(f, w.now+int64(time.Minute))
	require.Equal(t, at, f.watch.said)
	e.groupWantedLocked(o.Addr())
	e.obligeLocked(f, w.now+int64(time.Millisecond))
	require.Equal(t, at, f.watch.said, "not that often")
}
