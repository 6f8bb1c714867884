package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// An engine stops and another one goes on with the devices that it left.
func TestRestart(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	before, err := a.Net.Links()
	require.NoError(t, err)
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	a.stop()
	require.ErrorIs(t, attach(a.Engine, configOf(t, "97")), ErrClosed)
	after, err := a.Net.Links()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))

	again := startEngine(t, a.Host, testConfig())
	add(t, "97", again)
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	after, err = a.Net.Links()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))
}

// names lists devices with their indices.
func names(links []hostnet.Link) (out []string) {
	for _, l := range links {
		out = append(out, fmt.Sprint(l.Index, " ", l.Name, " ", l.MAC))
	}
	return out
}

// The bridge is deleted under the engine; adding the vnet again repairs it.
func TestRepair(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	_, err := a.Host.Run(soon(t), "ip", "link", "del", "vnet97")
	require.NoError(t, err)
	eventually(t, "loss noticed", func() bool { return !a.Snapshot().Vnets[0].Up })
	add(t, "97", a)
	require.True(t, a.Snapshot().Vnets[0].Up)
	require.NoError(t, join(a, "vif1.0", "vnet97"))
	ping(t, d1, d2.Addr())

	_, err = a.Host.Run(soon(t), "ip", "link", "del", "vnif97")
	require.NoError(t, err)
	eventually(t, "loss noticed", func() bool { return !a.Snapshot().Vnets[0].Up })
	require.Contains(t, a.Snapshot().Vnets[0].Problem, "vanished")
	add(t, "97", a)
	ping(t, d1, d2.Addr())
	// Run twice it changes nothing.
	before, err := a.Net.Links()
	require.NoError(t, err)
	add(t, "97", a)
	after, err := a.Net.Links()
	require.NoError(t, err)
	require.Equal(t, names(before), names(after))
}

// A MAC is announced when it appears behind a port that another program attached, though it never
// sends into the vnet; and forgotten when the port goes.
func TestPortByHand(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	add(t, "97", a)
	id := idOf(t, "97")
	d1 := a.domain(1, "97")
	d2, err := a.Domain(lab.DomainSpec{Name: "byhand", Vif: "tap7.0", MAC: domainMAC(7)})
	require.NoError(t, err)
	_, err = a.Host.Run(soon(t), "ip", "link", "set", "tap7.0", "master", "vnet97")
	require.NoError(t, err)
	ping(t, d1, d1.Addr())
	require.NoError(t, d1.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "here")))
	o.wait("announce of the neighbour", isVARP(wire.Announce, domainMAC(1)))

	// To a neighbour on the same bridge: the vnif does not see it.
	a.forwarding("vnet97")
	require.NoError(t, d2.Send("eth0", testFrame(domainMAC(1), domainMAC(7), "hello")))
	p := o.wait("announce", isVARP(wire.Announce, domainMAC(7)))
	require.Equal(t, wire.Group, p.to)
	m, err := wire.DecodeVARP(p.data)
	require.NoError(t, err)
	require.Equal(t, a.Addr(), m.CareOf)

	_, err = a.Host.Run(soon(t), "ip", "link", "set", "tap7.0", "nomaster")
	require.NoError(t, err)
	eventually(t, "MAC withdrawn", func() bool { return !hasVif(a.Engine, domainMAC(7)) })

	// What vif scripts do.
	require.ErrorIs(t, a.RemoveVif(id, domainMAC(8)), ErrUnknownVif)
	require.NoError(t, a.AddVif(id, domainMAC(9)))
	o.wait("announce", isVARP(wire.Announce, domainMAC(9)))
	o.drain()
	o.send(wire.Group, varpMessage(wire.Request, id, domainMAC(9), o.Addr()))
	o.wait("answer", isVARP(wire.Announce, domainMAC(9)))
	require.NoError(t, a.RemoveVif(id, domainMAC(9)))
	require.ErrorIs(t, a.AddVif(idOf(t, "99"), domainMAC(9)), ErrUnknownVnet)
	require.Error(t, a.AddVif(id, broadcastMAC))
}

// The vnets that exist without being created, used by giving them an address.
func TestDefaultVnets(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	addDefaults(t, hosts...)
	for i, h := range hosts {
		require.Len(t, h.Snapshot().Vnets, 3)
		for _, v := range h.Snapshot().Vnets {
			require.True(t, v.Up, v)
		}
		_, err := h.Host.Run(soon(t), "ip", "addr", "add", fmt.Sprintf("10.4.0.%d/24", i+1), "dev", "vnif0004")
		require.NoError(t, err)
	}
	_, err := hosts[0].Ping(soon(t), netip.MustParseAddr("10.4.0.2"), lab.PingOptions{})
	require.NoError(t, err)
	_, err = lab.Transfer(soon(t), hosts[0].Node, hosts[1].Node, netip.MustParseAddr("10.4.0.2"), 8<<20)
	require.NoError(t, err)
}

// A vnet whose traffic must be protected sends and takes nothing in the clear, and does not come up without a key.
func TestProtected(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	o := newOriginal(t, s, "original")
	c := configOf(t, "97")
	c.Security = vnet.Auth
	require.ErrorIs(t, attach(a.Engine, c), ErrNoKey)
	has := true
	a.SetKeySource(func(vnet.ID) (KeySet, error) {
		if !has {
			return KeySet{}, ErrNoKey
		}
		return KeySet{Secrets: []esp.Secret{testKey}}, nil
	})
	require.NoError(t, attach(a.Engine, c))
	d := a.domain(1, "97")
	at := capture(t, d)
	o.send(a.Addr(), vudp(c.ID, testFrame(domainMAC(1), domainMAC(9), "clear")))
	eventually(t, "counted", func() bool { return a.drops(DropSecurity) == 1 })
	o.send(a.Addr(), varpMessage(wire.Announce, c.ID, domainMAC(9), o.Addr()))
	eventually(t, "counted", func() bool { return a.drops(DropSecurity) == 2 })
	require.Empty(t, a.Snapshot().Entries)
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "clear")))
	eventually(t, "sealed", func() bool { return a.Snapshot().Vnets[0].Tx.Packets > 0 })
	// Without a key it falls silent.
	has = false
	require.ErrorIs(t, a.ReloadKeys(), ErrNoKey)
	unprotected := a.drops(DropUnprotected)
	sent := a.Snapshot().Vnets[0].Tx.Packets
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "clear")))
	eventually(t, "counted", func() bool { return a.drops(DropUnprotected) > unprotected })
	require.Equal(t, sent, a.Snapshot().Vnets[0].Tx.Packets)
	require.NotEmpty(t, a.Snapshot().Vnets[0].Problem)
	has = true
	require.NoError(t, a.ReloadKeys())
	require.NoError(t, d.Send("eth0", testFrame(broadcastMAC, domainMAC(1), "clear")))
	eventually(t, "sealed", func() bool { return a.Snapshot().Vnets[0].Tx.Packets > sent })
	require.Empty(t, a.Snapshot().Vnets[0].Problem)
	require.Empty(t, at.Take())
	for len(o.got) > 0 {
		p := <-o.got
		_, _, err := wire.DecodeVUDP(p.data)
		require.ErrorIs(t, err, wire.ErrMessage, "%x", p.data)
	}
}

// Established flows survive whatever is done to others.
func TestNothingInterrupts(t *testing.T) {
	cfg := testConfig()
	_, _, hosts := newLab(t, 2, cfg)
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	stream, err := lab.Connect(soon(t), d1.Node, d2.Node, d2.Addr())
	require.NoError(t, err)
	defer stream.Close()
	stream.Start(0)
	rounds := 5
	if os.Getenv("XEND_LONG_TESTS") != "" {
		rounds = 100
	}
	for i := range rounds {
		for _, h := range hosts {
			for _, id := range []string{"98", "99", "1:2:3:4:5:6:7:8"} {
				add(t, id, h)
			}
			require.NoError(t, h.AddPeer(soon(t), netip.MustParseAddr("192.0.2.9"), 0))
			c := cfg
			c.EntryTTL += time.Duration(i+1) * time.Second
			c.BUMRate = 1000 * (i + 1)
			c.TTL = 2 + i
			c.Replicate = []NamedHost{{Addr: "192.0.2.10"}}
			require.NoError(t, h.Reload(c))
			require.NoError(t, detach(h.Engine, configOf(t, "98")))
			require.NoError(t, detach(h.Engine, configOf(t, "99")))
			require.NoError(t, h.RemovePeer(soon(t), netip.MustParseAddr("192.0.2.9")))
			require.NoError(t, h.SetGroup(soon(t), netip.MustParseAddr(fmt.Sprintf("224.10.0.%d", i+2))))
		}
		require.NoError(t, stream.WaitMore(soon(t), 1<<20))
	}
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	// Those on their way arrive, and lost ones stay lost.
	eventually(t, "at most two pings lost", func() bool {
		st := p.Stats()
		return st.Sent-st.Received <= 2
	})
	require.Error(t, a.SetGroup(soon(t), netip.MustParseAddr("192.0.2.1")))
	cfg.Workers, cfg.Port = 1, 1799
	require.NoError(t, a.Reload(cfg))
	require.Equal(t, [2]int{2, wire.Port}, [2]int{a.config.Workers, int(a.config.Port)}, "until a restart")
}

// What domains of a vnet say to their next neighbours only, LLDP (bit 14) and 802.1X (bit 3), they hear from each other where
// group_fwd_mask says so, on one host and between two.
func TestForwardMask(t *testing.T) {
	const lldp, dot1x = 0x4000, 0x8
	for _, mask := range []uint16{0, lldp, dot1x, lldp | dot1x} {
		t.Run(fmt.Sprintf("%#x", mask), func(t *testing.T) {
			_, _, hosts := newLab(t, 2, testConfig())
			for _, h := range hosts {
				c := configOf(t, "97")
				d, err := port.Ensure(h.Net, port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif, ForwardMask: mask})
				require.NoError(t, err)
				require.NoError(t, h.Engine.Attach(c, d))
				h.settled("97")
			}
			from := hosts[0].domain(1, "97")
			to := []*lab.Domain{hosts[0].domain(2, "97"), hosts[1].domain(3, "97")}
			var at []*lab.Capture
			for _, d := range to {
				c, err := d.Capture("eth0", func(f lab.Frame) bool {
					return !f.Outgoing && (f.EtherType() == 0x88cc || f.EtherType() == 0x888e || data(f))
				})
				require.NoError(t, err)
				at = append(at, c)
			}
			want := []uint16(nil)
			for _, f := range []struct {
				bit       uint16
				group     byte
				etherType uint16
			}{{lldp, 0x0e, 0x88cc}, {dot1x, 0x03, 0x888e}} {
				frame := testFrame(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, f.group}, domainMAC(1), "neighbour")
				frame[12], frame[13] = byte(f.etherType>>8), byte(f.etherType&0xff)
				require.NoError(t, from.Send("eth0", frame))
				if mask&f.bit != 0 {
					want = append(want, f.etherType)
				}
			}
			last := testFrame(broadcastMAC, domainMAC(1), "last")
			require.NoError(t, from.Send("eth0", last))
			for i, c := range at {
				var got []uint16
				for {
					f, err := c.Next(soon(t))
					require.NoError(t, err)
					if data(f) {
						break
					}
					got = append(got, f.EtherType())
				}
				require.Equal(t, want, got, "at domain %d", i+2)
			}
		})
	}
}

// slowPort ends only together with as many others as may be closed at the same time, as the kernel makes sockets do.
type slowPort struct {
	vnif
	together *together
}

type together struct {
	arrived atomic.Int64
	here    chan struct{}
}

func (p slowPort) Close() error {
	if p.together.arrived.Add(1)%closers == 0 {
		for range closers - 1 {
			p.together.here <- struct{}{}
		}
		return nil
	}
	<-p.together.here
	return nil
}

// An engine with a thousand vnets ends in a few steps: its sockets are closed many at a time, since each waits for the kernel.
func TestEndOfManyVnets(t *testing.T) {
	const vnets = 32 * closers
	m := newMemory(t, 1, testConfig())
	h := m.hosts[0]
	all := &together{here: make(chan struct{})}
	for i := range vnets {
		c := configOf(t, fmt.Sprintf("%x", 0x2000+i))
		h.attach(c).ports[0].vnif = slowPort{h.vnifs[c.ID], all}
	}
	ended := make(chan struct{})
	go func() { h.Engine.close(); close(ended) }()
	select {
	case <-ended:
	case <-soon(t).Done():
		t.Fatalf("sockets are closed one after the other: %d", all.arrived.Load())
	}
	require.EqualValues(t, vnets, all.arrived.Load())
}
