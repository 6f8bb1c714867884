package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// A domain of one vnet has packets that a member of another, which has security, has sealed and that never arrived: the best that
// it can have. By the port of security and by protocol 50 they get nowhere from its side, whatever guards there are, and use up
// nothing: the same packets are taken when they come from the underlay.
func TestDomainDoesNotReachSecuredVnets(t *testing.T) { everyBypass(t, domainDoesNotReachSecured) }

func domainDoesNotReachSecured(t *testing.T, bypass Bypass) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			x := newAttackAt(t, bypass, "0", level)
			sw := x.a.Uplink().Switch
			h, err := sw.Host("member")
			require.NoError(t, err)
			member := startEngine(t, h, testConfig())
			member.SetKeySource(shared(testKey))
			require.NoError(t, attach(member.Engine, securedOf(t, "98", level)))
			for _, h := range []*testHost{x.a, x.b} {
				eventually(t, "the member is known", func() bool { return h.secured.Vnet(x.id98).Hosts() == 2 })
			}
			m := newAttacker(t, sw)
			m.wire.Close()

			n := 0
			// sealed is a frame, and its packet, in a lane that a host without domains does not use.
			sealed := func() (frame, packet []byte) {
				n++
				frame = testFrame(broadcastMAC, domainMAC(66), fmt.Sprint("sealed ", n))
				packet, ok := member.networks[x.id98].seal.Seal(make([]byte, esp.Headroom), Lane{Sender: 1, Flow: 1, Now: member.now()}, [][]byte{vudp(x.id98, frame)})
				require.True(t, ok)
				return frame, packet[esp.Headroom:]
			}
			// fromUnderlay sends a packet from the segment: then it is taken.
			fromUnderlay := func(to *testHost, c *lab.Capture, frame, packet []byte, what string) {
				t.Helper()
				from := netip.AddrPortFrom(m.Addr(), 4500)
				m.send(to, overheard{from, netip.AddrPortFrom(to.Addr(), wire.SecurityPort), packet})
				f, err := c.Next(soon(t))
				require.NoError(t, err)
				require.Equal(t, string(frame), string(f.Data), what)
			}
			type target struct {
				host *testHost
				at   *lab.Capture
			}
			a, b := target{x.a, x.inA}, target{x.b, x.inB}
			try := func(walls string, targets ...target) {
				t.Helper()
				for _, to := range targets {
					for name, form := range map[string]func(packet []byte) []byte{
						"ESP in UDP": func(p []byte) []byte { return x.datagram(to.host.Addr(), wire.SecurityPort, p) },
						"ESP":        func(p []byte) []byte { return x.packet(to.host.Addr(), wire.ProtocolESP, p) },
					} {
						frame, packet := sealed()
						x.send(form(packet))
						// The next one that comes from the underlay is the first that comes; then that of before does.
						frame2, packet2 := sealed()
						what := fmt.Sprintf("%s to %s, %s", name, to.host.Name, walls)
						fromUnderlay(to.host, to.at, frame2, packet2, what)
						fromUnderlay(to.host, to.at, frame, packet, what+": nothing was used up")
					}
					// A key message that nobody has heard yet.
					v := member.secured.Vnet(x.id98)
					own := esp.Addresses{Addr4: member.Addr()}
					moved := v.SetAddresses(esp.Addresses{Addr4: netip.AddrFrom4([4]byte{10, 9, 9, byte(n)})}, false, member.now(), nil)
					_ = v.SetAddresses(own, false, member.now(), nil)
					require.Len(t, moved, 1)
					for _, message := range moved {
						x.send(x.datagram(to.host.Addr(), wire.SecurityPort, message.Data))
					}
					frame, packet := sealed()
					fromUnderlay(to.host, to.at, frame, packet, walls)
					require.Equal(t, member.Addr(), careOf(to.host.Engine, domainMAC(66)), "a message from a domain moves nobody")
				}
			}
			try("closed bridge", a, b)
			require.Zero(t, x.a.drops(DropNotUnderlay))
			x.address()
			try("bridge with an address", a, b)
			x.unguarded()
			try("no guard", a)
			require.GreaterOrEqual(t, x.a.drops(DropNotUnderlay), uint64(3), "what reaches the sockets is counted")
			// Without the guard it succeeds at the other host, to which this one routes it: the test can fail.
			frame, packet := sealed()
			x.send(x.datagram(x.b.Addr(), wire.SecurityPort, packet))
			f, err := x.inB.Next(soon(t))
			require.NoError(t, err)
			require.Equal(t, string(frame), string(f.Data))
		})
	}
}
