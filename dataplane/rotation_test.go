package dataplane

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// traffic goes from each of some domains to the next one, in several flows, and to all; each frame has a number of its own. As
// many are under way as no queue on the way is too short for: who loses one is the vnet.
type traffic struct {
	t       testing.TB
	domains []*lab.Domain
	cards   []*packet.Conn
	at      []*lab.Capture
	rounds  atomic.Int64
	stop    chan struct{}
	done    chan struct{} // closed when err is there
	err     error
}

const (
	trafficFlows    = 8 // frames for the next domain in a round, each of another flow
	trafficFlooded  = 3
	trafficProtocol = 253 // RFC 3692, section 2.1: for experiments; nobody joins such packets
)

// trafficFrame is the n-th frame of a domain, of some flow.
func trafficFrame(t testing.TB, from int, to net.HardwareAddr, flow byte, n uint64) []byte {
	f := append(append(append([]byte{}, to...), domainMAC(from+1)...), 8, 0)
	h := wire.IPv4{
		Source: netip.AddrFrom4([4]byte{10, 98, byte(from), flow}), Destination: netip.AddrFrom4([4]byte{10, 98, 255, 1}),
		Protocol: trafficProtocol, TTL: 64,
	}
	f, err := wire.AppendIPv4(f, h, 400)
	require.NoError(t, err)
	f = binary.BigEndian.AppendUint64(append(f, byte(from)), n)
	return append(f, make([]byte, 400-9)...)
}

// trafficOf reads the sender and the number.
func trafficOf(f lab.Frame) (key [9]byte, ok bool) {
	if len(f.Data) < 14+20+9 || f.Outgoing || f.EtherType() != 0x0800 || f.Data[14+9] != trafficProtocol {
		return key, false
	}
	return [9]byte(f.Data[34:]), true
}

// startTraffic sends until finish is called.
func startTraffic(t testing.TB, domains ...*lab.Domain) *traffic {
	t.Helper()
	x := &traffic{t: t, domains: domains, stop: make(chan struct{}), done: make(chan struct{})}
	for _, d := range domains {
		l, err := d.Net.LinkByName("eth0")
		require.NoError(t, err)
		require.NoError(t, d.Do(func() error {
			c, err := packet.Listen(&net.Interface{Index: l.Index, Name: l.Name}, packet.Raw, 0, nil)
			x.cards = append(x.cards, c)
			return err
		}))
		mac := d.Spec.MAC
		c, err := d.Capture("eth0", func(f lab.Frame) bool {
			// What is for another is flooded until its MAC is known.
			_, ok := trafficOf(f)
			return ok && (bytes.Equal(f.Data[:6], mac) || bytes.Equal(f.Data[:6], broadcastMAC))
		})
		require.NoError(t, err)
		x.at = append(x.at, c)
	}
	go func() {
		defer close(x.done)
		x.err = x.run()
	}()
	return x
}

// run sends round by round; what arrives twice, or though nobody sent it in this round, is an error, too.
func (x *traffic) run() error {
	n := uint64(0)
	for {
		select {
		case <-x.stop:
			return nil
		default:
		}
		wanted := make([]map[[9]byte]bool, len(x.domains))
		for i := range x.domains {
			wanted[i] = map[[9]byte]bool{}
		}
		for i := range x.domains {
			next := (i + 1) % len(x.domains)
			send := func(to net.HardwareAddr, flow byte, at ...int) error {
				n++
				f := trafficFrame(x.t, i, to, flow, n)
				for _, j := range at {
					wanted[j][[9]byte(f[34:])] = true
				}
				_, err := x.cards[i].WriteTo(f, &packet.Addr{HardwareAddr: to})
				return err
			}
			for flow := range byte(trafficFlows) {
				if err := send(domainMAC(next+1), flow, next); err != nil {
					return err
				}
			}
			var others []int
			for j := range x.domains {
				if j != i {
					others = append(others, j)
				}
			}
			for range trafficFlooded {
				if err := send(broadcastMAC, 0, others...); err != nil {
					return err
				}
			}
		}
		for i, c := range x.at {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			for len(wanted[i]) > 0 {
				f, err := c.Next(ctx)
				if err != nil {
					cancel()
					return fmt.Errorf("round %d: lost for domain %d: % x: %w", x.rounds.Load(), i, slices.Collect(maps.Keys(wanted[i])), err)
				}
				key, _ := trafficOf(f)
				if !wanted[i][key] {
					cancel()
					return fmt.Errorf("round %d: domain %d got % x, which it got before or was not sent to it", x.rounds.Load(), i, key)
				}
				delete(wanted[i], key)
			}
			cancel()
		}
		x.rounds.Add(1)
	}
}

// more lets some rounds pass.
func (x *traffic) more(rounds int64) {
	x.t.Helper()
	want := x.rounds.Load() + rounds
	eventually(x.t, "frames flow", func() bool { return x.rounds.Load() >= want || x.ended() })
	if x.ended() {
		require.NoError(x.t, x.err)
	}
}

func (x *traffic) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// finish ends it. Nothing may have come but what was sent.
func (x *traffic) finish() {
	x.t.Helper()
	close(x.stop)
	<-x.done
	require.NoError(x.t, x.err)
	for _, c := range x.cards {
		require.NoError(x.t, c.Close())
	}
	for i, c := range x.at {
		require.Empty(x.t, c.Take(), "domain %d", i)
	}
}

// keyring is a KeySource that can be changed while engines run.
type keyring struct{ set atomic.Pointer[KeySet] }

func (k *keyring) source(vnet.ID) (KeySet, error) { return *k.set.Load(), nil }

// rotating makes hosts with keys that can be changed and epochs that are short.
func rotating(t *testing.T, hosts int, level vnet.Security, pace esp.Pace) (*lab.Switch, []*testHost, []*keyring) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	var list []*testHost
	var rings []*keyring
	for i := range hosts {
		h, err := s.Host(string(rune('A' + i)))
		require.NoError(t, err)
		k := &keyring{}
		k.set.Store(&KeySet{Secrets: []esp.Secret{testKey}})
		e := startEngineWith(t, h, testConfig(), func(e *Engine) { e.pace = pace; e.SetKeySource(k.source) })
		require.NoError(t, attach(e.Engine, securedOf(t, "97", level)))
		list, rings = append(list, e), append(rings, k)
	}
	for _, h := range list {
		h.settled("97")
	}
	senders(t, hosts-1, list...)
	t.Cleanup(func() {
		for _, h := range list {
			for _, d := range h.Snapshot().Drops {
				if t.Failed() && d.Count > 0 {
					t.Logf("%s: %s: %d", h.Name, d.Reason, d.Count)
				}
			}
		}
	})
	return s, list, rings
}

// epochs waits until all hosts are so many epochs further.
func epochs(t *testing.T, more uint32, hosts ...*testHost) {
	t.Helper()
	id := idOf(t, "97")
	var from []uint32
	for _, h := range hosts {
		from = append(from, h.secured.Vnet(id).Status(h.now()).Epoch)
	}
	for i, h := range hosts {
		eventually(t, h.Name+" takes other keys", func() bool { return h.secured.Vnet(id).Status(h.now()).Epoch >= from[i]+more })
	}
}

// nothingRefused: no packet was refused on any host.
func nothingRefused(t *testing.T, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		for _, r := range []Reason{
			DropUnprotected, DropSecurity, DropESPMalformed, DropESPUnknownSPI, DropESPReplay, DropESPAuth, DropESPInner, DropESPVnet, DropUnknownVnet,
		} {
			require.Zero(t, h.drops(r), "%s: %s", h.Name, r)
		}
	}
}

// Frames flow while hosts take other keys of their own, by time and by volume: none is lost, none arrives twice, and no
// packet is refused.
func TestEpochsUnderLoad(t *testing.T) {
	for name, c := range map[string]struct {
		level vnet.Security
		pace  esp.Pace
	}{
		"by time":   {vnet.Conf, esp.Pace{Epoch: time.Second, Lead: 200 * time.Millisecond}},
		"by volume": {vnet.Auth, esp.Pace{Packets: 300, Lead: 200 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			_, hosts, _ := rotating(t, 3, c.level, c.pace)
			x := startTraffic(t, hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97"))
			x.more(5)
			epochs(t, 3, hosts...)
			x.more(5)
			x.finish()
			nothingRefused(t, hosts...)
			t.Log("rounds:", x.rounds.Load())
		})
	}
}

// Frames flow while the key is changed on all hosts, one after the other, in the three steps that docs/security.md names: none is
// lost or arrives twice. Who has only the old key, and who recorded what it sealed, are out as soon as it is removed.
func TestRotationUnderLoad(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			// To confirm a host under another key takes a question, which may be put once a second.
			s, hosts, rings := rotating(t, 4, level, esp.Pace{Epoch: 6 * time.Second, Lead: 4 * time.Second})
			late := hosts[3] // which nobody gives the new key
			hosts, rings = hosts[:3], rings[:3]
			m := newAttacker(t, s)
			x := startTraffic(t, hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97"))
			x.more(5)
			tape := m.wire.Take()
			fresh := esp.Secret{5, 5}
			for i, set := range []KeySet{
				{Secrets: []esp.Secret{testKey, fresh}},
				{Secrets: []esp.Secret{testKey, fresh}, Send: 1},
				{Secrets: []esp.Secret{fresh}},
			} {
				for j, h := range hosts {
					rings[j].set.Store(&set)
					require.NoError(t, h.ReloadKeys())
					x.more(3) // the others are not that far yet
				}
				if i == 1 {
					epochs(t, 1, hosts...) // from the next one on the new key is used
				}
				x.more(5)
			}
			nothing := func() {
				t.Helper()
				for i, c := range x.at {
					require.Empty(t, c.Take(), "domain %d", i)
				}
			}
			x.finish()
			for _, h := range hosts {
				require.Zero(t, h.drops(DropESPReplay)+h.drops(DropESPAuth)+h.drops(DropUnprotected)+h.drops(DropESPInner), h.Name)
			}

			// From now on the old key opens nothing.
			d4 := late.domain(4, "97")
			before, known := hosts[0].drops(DropESPUnknownSPI), hosts[0].drops(DropKeyUnknown)
			require.NoError(t, d4.Send("eth0", trafficFrame(t, 9, broadcastMAC, 0, 1)))
			eventually(t, "counted", func() bool { return hosts[0].drops(DropESPUnknownSPI) > before })
			eventually(t, "its key is unknown", func() bool { return hosts[0].drops(DropKeyUnknown) > known })
			nothing()
			before = hosts[0].drops(DropESPUnknownSPI)
			sent := uint64(0)
			for _, f := range tape {
				if d, _ := datagramIn(f.Data); d.from.Addr() == hosts[1].Addr() && len(d.payload) > 4 && wire.DecodeSecured(d.payload) == wire.SecuredESP {
					m.send(hosts[0], d)
					sent++
				}
			}
			require.NotZero(t, sent)
			eventually(t, "recordings are counted", func() bool { return hosts[0].drops(DropESPUnknownSPI) > before })
			y := startTraffic(t, x.domains...)
			y.more(5)
			y.finish() // it would have met what did not belong there
		})
	}
}
