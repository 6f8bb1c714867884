package dataplane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// attacker is a host of the segment that has no key. It hears everything and sends what it likes, from any address.
type attacker struct {
	*lab.Host
	t    testing.TB
	wire *lab.Capture
	card *packet.Conn
}

func newAttacker(t testing.TB, s *lab.Switch) *attacker {
	t.Helper()
	h, err := s.Host("attacker")
	require.NoError(t, err)
	c, err := s.Capture(func(f lab.Frame) bool { _, ok := datagramIn(f.Data); return ok })
	require.NoError(t, err)
	m := &attacker{Host: h, t: t, wire: c}
	l, err := h.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, h.Do(func() (err error) {
		m.card, err = packet.Listen(&net.Interface{Index: l.Index, Name: l.Name, MTU: l.MTU, HardwareAddr: l.MAC}, packet.Raw, 0, nil)
		return err
	}))
	t.Cleanup(func() { _ = m.card.Close() })
	return m
}

// overheard is a UDP datagram that went by.
type overheard struct {
	from, to netip.AddrPort
	payload  []byte
}

func datagramIn(frame []byte) (overheard, bool) {
	if len(frame) < 14 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return overheard{}, false
	}
	ip, udp, err := wire.DecodeIPv4(frame[14:])
	if err != nil || ip.Protocol != wire.ProtocolUDP || ip.Fragment {
		return overheard{}, false
	}
	from, to, payload, err := wire.DecodeUDP(udp)
	return overheard{netip.AddrPortFrom(ip.Source, from), netip.AddrPortFrom(ip.Destination, to), payload}, err == nil
}

// send sends a datagram to a host, whoever it claims to be from.
func (a *attacker) send(to *testHost, d overheard) {
	a.t.Helper()
	dst := netip.AddrPortFrom(to.Addr(), d.to.Port())
	frame := slices.Concat(to.Uplink().MAC, a.Uplink().MAC, []byte{8, 0})
	frame, err := wire.AppendDatagram(frame, d.from, dst, 64, uint16(rand.Uint32()|1), d.payload)
	require.NoError(a.t, err)
	if len(frame)+len(d.payload) > 1514 {
		return // a train of datagrams, as the capture saw it; the others do
	}
	_, err = a.card.WriteTo(append(frame, d.payload...), &packet.Addr{HardwareAddr: to.Uplink().MAC})
	require.NoError(a.t, err)
}

// attackSecured runs attacks against a vnet of a level; each succeeds where the level is none.
func attackSecured(t *testing.T, level vnet.Security) {
	_, s, hosts := newSecured(t, 2, testConfig(), level)
	a, b := hosts[0], hosts[1]
	m := newAttacker(t, s)
	id := idOf(t, "97")
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	flow, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	defer flow.Close()
	at := capture(t, d2)
	none := level == vnet.None

	// genuine sends a frame that must arrive, and returns what the attacker recorded of it and what arrived before.
	rounds := 0
	genuine := func(to *lab.Capture) (overheard, [][]byte) {
		t.Helper()
		rounds++
		frame := testFrame(domainMAC(2), domainMAC(1), "genuine "+string(rune('a'+rounds)))
		m.wire.Take()
		require.NoError(t, d1.Send("eth0", frame))
		var before [][]byte
		_, err := to.WaitFor(soon(t), func(f lab.Frame) bool {
			before = append(before, f.Data)
			return string(f.Data) == string(frame)
		})
		require.NoError(t, err)
		want := wire.VUDPLen + len(frame)
		if !none {
			want = wire.ESPLen(want)
		}
		f, err := m.wire.WaitFor(soon(t), func(f lab.Frame) bool {
			d, _ := datagramIn(f.Data)
			// Not what the attacker sent itself in A's name.
			return d.from.Addr() == a.Addr() && len(d.payload) == want && (!none || bytes.HasSuffix(d.payload, frame))
		})
		require.NoError(t, err)
		d, _ := datagramIn(f.Data)
		return d, before[:len(before)-1]
	}
	// attack sends something of which a frame arrives if it succeeds.
	attack := func(name string, d overheard, reason Reason) {
		t.Helper()
		counted := b.drops(reason)
		m.send(b, d)
		if none {
			_, err := at.Next(soon(t))
			require.NoError(t, err, "%s fails against none: the test shows nothing", name)
			return
		}
		eventually(t, name+" is counted as "+reason.String(), func() bool { return b.drops(reason) > counted })
		_, before := genuine(at)
		require.Empty(t, before, name)
	}
	evil := testFrame(domainMAC(2), domainMAC(99), "evil")
	fromM := netip.AddrPortFrom(m.Addr(), wire.Port)
	group := netip.AddrPortFrom(wire.Group, wire.Port)
	attack("cleartext", overheard{fromM, group, vudp(id, evil)}, DropSecurity)
	attack("cleartext with a host's address", overheard{netip.AddrPortFrom(a.Addr(), wire.Port), group, vudp(id, evil)}, DropSecurity)

	// What went by, again, from whatever address.
	d, _ := genuine(at)
	attack("a replay", d, DropESPReplay)
	d.from = netip.AddrPortFrom(m.Addr(), d.from.Port())
	attack("a replay from elsewhere", d, DropESPReplay)

	// As it would be next, but changed: a number that was not used yet makes it no replay.
	forge := func(edit func(b []byte) []byte) overheard {
		d, _ := genuine(at)
		d.payload = slices.Clone(d.payload)
		if !none {
			binary.BigEndian.PutUint32(d.payload[4:], binary.BigEndian.Uint32(d.payload[4:])+1000)
		}
		d.payload = edit(d.payload)
		return d
	}
	attack("a flipped bit", forge(func(b []byte) []byte { b[len(b)-20] ^= 1; return b }), DropESPAuth)
	attack("a truncated packet", forge(func(b []byte) []byte { return b[:len(b)-4] }), DropESPAuth)
	attack("an odd length", forge(func(b []byte) []byte { return b[:len(b)-1] }), DropESPMalformed)
	attack("another sender", forge(func(b []byte) []byte {
		if !none {
			b[2] ^= 0x55 // the SPI
		}
		return b
	}), DropESPUnknownSPI)

	// A forged announce redirects a MAC.
	counted := b.drops(DropSecurity)
	m.send(b, overheard{fromM, group, varpMessage(wire.Announce, id, domainMAC(50), m.Addr())})
	knows := func(mac int, addr netip.Addr) bool {
		return slices.ContainsFunc(b.Snapshot().Entries, func(e Entry) bool { return e.MAC == wire.MAC(domainMAC(mac)) && e.Addr == addr })
	}
	if none {
		eventually(t, "a forged announce succeeds against none", func() bool { return knows(50, m.Addr()) })
		eventually(t, "the source of a frame is learned", func() bool { return knows(99, a.Addr()) })
	} else {
		eventually(t, "a forged announce is counted", func() bool { return b.drops(DropSecurity) > counted })
		for _, e := range b.Snapshot().Entries {
			require.Equal(t, a.Addr(), e.Addr)
			require.NotEqual(t, wire.MAC(domainMAC(99)), e.MAC)
		}
	}

	// Another vnet's member: it has that vnet's key, which may even be the same, and names this one inside.
	require.NoError(t, attach(b.Engine, securedOf(t, "98", level)))
	foreign := startEngine(t, addHost(t, s, "foreign"), testConfig())
	foreign.SetKeySource(shared(testKey))
	require.NoError(t, attach(foreign.Engine, securedOf(t, "98", level)))
	inside := vudp(id, evil)
	wrongVnet := overheard{netip.AddrPortFrom(foreign.Addr(), wire.Port), group, inside}
	if !none {
		eventually(t, "the other vnet's member is known", func() bool { return b.secured.Vnet(idOf(t, "98")).Hosts() == 1 })
		sealed, ok := foreign.networks[idOf(t, "98")].seal.Seal(make([]byte, esp.Headroom), Lane{Sender: 1, Flow: 1, Now: foreign.now()}, [][]byte{inside})
		require.True(t, ok)
		wrongVnet = overheard{netip.AddrPortFrom(foreign.Addr(), 4501), netip.AddrPortFrom(b.Addr(), wire.SecurityPort), sealed[esp.Headroom:]}
	}
	attack("another vnet's seal", wrongVnet, DropESPVnet)
	foreign.stop()

	// Sources and MACs without end fill tables where nothing is asked of a sender.
	entries, known := len(b.Snapshot().Entries), len(b.Snapshot().Hosts)
	refused := b.drops(DropSecurity) + b.drops(DropESPUnknownSPI)
	const many = 2000
	tag := testKey.KID(id)[0]
	for i := range many {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(10 + i>>8), byte(i)}), wire.Port)
		f := testFrame(broadcastMAC, domainMAC(1000+i), "fill")
		m.send(b, overheard{from, group, vudp(id, f)})
		if !none {
			p := make([]byte, 80)
			for j := range p {
				p[j] = byte(rand.Uint32())
			}
			p[0] = tag
			m.send(b, overheard{from, netip.AddrPortFrom(b.Addr(), wire.SecurityPort), p})
		}
	}
	if none {
		eventually(t, "the tables fill", func() bool { return len(b.Snapshot().Entries) > entries+many/2 })
		at.Take()
	} else {
		eventually(t, "all of it is counted", func() bool { return b.drops(DropSecurity)+b.drops(DropESPUnknownSPI) > refused+many })
		now := b.Snapshot()
		require.LessOrEqual(t, len(now.Entries), entries+1)
		require.LessOrEqual(t, len(now.Hosts), known+1)
		require.LessOrEqual(t, b.secured.Vnet(id).Hosts(), 1)
		_, before := genuine(at)
		require.Empty(t, before)
	}

	// A host that guessed the id and has another key.
	stranger := startEngine(t, m.Host, testConfig())
	stranger.SetKeySource(shared(esp.Secret{9, 9}))
	require.NoError(t, attach(stranger.Engine, securedOf(t, "97", level)))
	d3 := stranger.domain(3, "97")
	at.Take()
	require.NoError(t, d3.Send("eth0", testFrame(broadcastMAC, domainMAC(3), "stranger")))
	if none {
		_, err := at.Next(soon(t))
		require.NoError(t, err)
	} else {
		eventually(t, "a stranger's packet is counted", func() bool { return b.drops(DropESPUnknownSPI) > 1 && b.drops(DropKeyUnknown) > 0 })
		_, before := genuine(at)
		require.Empty(t, before)
		// Nobody can know of which vnet they are; from whom they come, is known.
		counted := b.Counters()
		for _, r := range []Reason{DropESPUnknownSPI, DropKeyUnknown} {
			require.True(t, slices.ContainsFunc(counted.Sources, func(s Sender) bool { return s.Reason == r && (r == DropESPUnknownSPI || s.From == stranger.Addr()) }), r)
			for _, v := range counted.Vnets {
				require.False(t, slices.ContainsFunc(v.Drops, func(d Drop) bool { return d.Reason == r }), r)
			}
		}
	}
	stranger.stop()
	if none {
		return
	}

	// Floods of key messages, replayed, changed and made up: nothing grows, and the flow goes on.
	var messages []overheard
	status := b.secured.Vnet(id).Status(b.now())
	require.Len(t, status.Senders, 1)
	flooded, err := s.Capture(func(f lab.Frame) bool { _, ok := datagramIn(f.Data); return ok })
	require.NoError(t, err)
	require.NoError(t, a.ReloadKeys())
	a.mu.Lock()
	a.secured.Vnet(id).Suspect() // a new life: it says ASK and KEY
	a.mu.Unlock()
	a.kickSecurity()
	for range 4 {
		f, err := flooded.WaitFor(soon(t), func(f lab.Frame) bool {
			d, _ := datagramIn(f.Data)
			return d.to.Port() == wire.SecurityPort && wire.DecodeSecured(d.payload) == wire.SecuredMessage
		})
		require.NoError(t, err)
		d, _ := datagramIn(f.Data)
		messages = append(messages, d)
	}
	_, err = flow.Fresh(soon(t))
	require.NoError(t, err)
	for i := range 4000 {
		d := messages[i%len(messages)]
		d.payload = slices.Clone(d.payload)
		switch i % 4 {
		case 1:
			d.payload[4+rand.IntN(len(d.payload)-4)] ^= 1 << rand.IntN(8)
		case 2:
			for j := range d.payload[20:] {
				d.payload[20+j] = byte(rand.Uint32())
			}
		case 3:
			d.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 4500)
		}
		m.send(b, d)
	}
	for _, r := range []esp.Refusal{esp.KeyMAC, esp.KeyRate} {
		eventually(t, "messages are refused: "+r.String(), func() bool { return b.secured.Vnet(id).Status(b.now()).Refused[r] > 0 })
	}
	status = b.secured.Vnet(id).Status(b.now())
	require.LessOrEqual(t, len(status.Senders), 2, "the life of before, and this one")
	_, err = flow.Fresh(soon(t))
	require.NoError(t, err)
}

func TestAttacks(t *testing.T) {
	for _, level := range []vnet.Security{vnet.None, vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) { attackSecured(t, level) })
	}
}

// A receiver that starts again takes nothing that was recorded before, whether the sender lives or is dead.
func TestReplayAfterRestart(t *testing.T) {
	for _, level := range []vnet.Security{vnet.None, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			_, s, hosts := newLab(t, 2, testConfig())
			a, b := hosts[0], hosts[1]
			m := newAttacker(t, s) // who hears the first key messages, too
			secure(t, level, hosts...)
			d1, d2 := a.domain(1, "97"), b.domain(2, "97")
			ping(t, d1, d2.Addr())
			at := capture(t, d2)
			secret := testFrame(domainMAC(2), domainMAC(1), "once only")
			require.NoError(t, d1.Send("eth0", secret))
			expect(t, at, secret)
			tape := m.wire.Take()
			require.NotEmpty(t, tape)

			a.stop()
			b.stop()
			b = startEngine(t, b.Host, testConfig())
			b.SetKeySource(shared(testKey))
			require.NoError(t, attach(b.Engine, securedOf(t, "97", level)))
			replay := func() {
				for _, f := range tape {
					if d, _ := datagramIn(f.Data); d.from.Addr() == a.Addr() {
						m.send(b, d)
					}
				}
			}
			replay()
			if level == vnet.None {
				expect(t, at, secret)
				return
			}
			eventually(t, "counted", func() bool { return b.drops(DropESPUnknownSPI) > 0 && b.drops(DropKeyUnconfirmed) > 0 })

			// The sender lives again: what it sends now arrives, what it sent in its life before does not.
			a = startEngine(t, a.Host, testConfig())
			a.SetKeySource(shared(testKey))
			require.NoError(t, attach(a.Engine, securedOf(t, "97", level)))
			ping(t, d1, d2.Addr())
			replay()
			last := testFrame(domainMAC(2), domainMAC(1), "the last")
			require.NoError(t, d1.Send("eth0", last))
			f, err := at.Next(soon(t))
			require.NoError(t, err)
			require.Equal(t, last, f.Data)
		})
	}
}
