package dataplane

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// Entries age, and go; what a script added stays.
func TestAgeing(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	a, o, id := m.hosts[0], m.stranger(), idOf(t, "97")
	require.NoError(t, a.AddVif(id, domainMAC(1)))
	m.send(0, testFrame(broadcastMAC, domainMAC(2), "here"))
	o.send(a.addr, varpMessage(wire.Announce, id, domainMAC(9), o.addr))
	require.Equal(t, o.addr, careOf(a.Engine, domainMAC(9)))
	require.Len(t, a.Snapshot().Vifs, 2)
	m.tick(a.config.EntryTTL / 2)
	require.Len(t, a.Snapshot().Entries, 1)
	m.tick(a.config.EntryTTL)
	s := a.Snapshot()
	require.Empty(t, s.Entries)
	require.NotZero(t, s.Tables.Sweeps)
	require.Len(t, s.Vifs, 1)
	require.Equal(t, wire.MAC(domainMAC(1)), s.Vifs[0].MAC)
	o.send(a.addr, varpMessage(wire.Announce, id, domainMAC(9), o.addr))
	require.Equal(t, 1, a.FlushVARP())
	require.Empty(t, a.Snapshot().Entries)
}

// A domain migrates; the newest information wins everywhere.
func TestMove(t *testing.T) {
	_, s, hosts := newLab(t, 3, testConfig())
	a, b, c := hosts[0], hosts[1], hosts[2]
	add(t, "97", a, b, c)
	d1, d3 := a.domain(1, "97"), c.domain(3, "97")
	p, err := d3.StartPing(d1.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	announced, err := s.Capture(func(f lab.Frame) bool {
		m, err := wire.DecodeVARP(f.Data[min(42, len(f.Data)):])
		return err == nil && m.Opcode == wire.Announce && m.MAC == wire.MAC(domainMAC(1)) && m.CareOf == b.Addr()
	})
	require.NoError(t, err)

	require.NoError(t, d1.MoveTo(b.Host, "vif1.0", "vnet97"))
	require.NoError(t, d1.Announce())
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	_, err = announced.Next(soon(t))
	require.NoError(t, err)
	for _, h := range []*testHost{a, c} {
		eventually(t, "MAC known behind b", func() bool {
			for _, e := range h.Snapshot().Entries {
				if e.MAC == wire.MAC(domainMAC(1)) {
					return e.Addr == b.Addr()
				}
			}
			return false
		})
	}
	// And back, while the guest stays silent: the vif script's announce is enough.
	require.NoError(t, d1.MoveTo(a.Host, "vif1.0", "vnet97"))
	require.NoError(t, a.AddVif(idOf(t, "97"), domainMAC(1)))
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)
	require.Zero(t, a.drops(DropFlapping)+b.drops(DropFlapping)+c.drops(DropFlapping))
}

// After a remote announce the old host does not claim the MAC back, but by a frame.
func TestHoldDown(t *testing.T) {
	m := newMemory(t, 1, testConfig())
	a, o, id := m.hosts[0], m.stranger(), idOf(t, "97")
	const bridge = 200
	a.networks[id].bridge = bridge
	frame := testFrame(broadcastMAC, domainMAC(1), "mine")
	m.send(0, frame)
	require.True(t, hasVif(a.Engine, domainMAC(1)))
	o.send(m.group, varpMessage(wire.Announce, id, domainMAC(1), o.addr))
	require.False(t, hasVif(a.Engine, domainMAC(1)), "moved away")
	// The kernel learns it behind another port of the bridge: not a frame that we saw.
	a.fdbEvent(hostnet.FDBEvent{Entry: hostnet.FDBEntry{MAC: [6]byte(domainMAC(1)), Port: 201, Bridge: bridge}})
	require.EqualValues(t, 1, a.Snapshot().Tables.Held)
	require.False(t, hasVif(a.Engine, domainMAC(1)))
	// But a frame counts.
	o.Take()
	m.send(0, frame)
	require.Len(t, o.heard(isVARP(wire.Announce, domainMAC(1))), 1)
	require.True(t, hasVif(a.Engine, domainMAC(1)))
	require.Equal(t, a.networks[id].devices.VnifIndex, a.kernel.(*memoryKernel).forgotten[0].Port)
}

// silentMove is two hosts with a domain each, of which the second has moved to the first host and said nothing yet.
// behindVnif tells whether the first host's bridge holds it to be where it was.
func silentMove(t *testing.T) (a *testHost, d1, d2 *lab.Domain, behindVnif func() bool) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 = a.domain(1, "97"), b.domain(2, "97")
	for _, d := range []*lab.Domain{d1, d2} {
		require.NoError(t, d.Net.DisableIPv6(deviceOf(t, &lab.Host{Node: d.Node}, "eth0").Index)) // says nothing of its own accord
	}
	vnif, bridge := deviceOf(t, a.Host, "vnif97"), deviceOf(t, a.Host, "vnet97")
	behindVnif = func() bool {
		list, err := a.Net.FDB(bridge.Index)
		require.NoError(t, err)
		return slices.ContainsFunc(list, func(e hostnet.FDBEntry) bool {
			return wire.MAC(e.MAC) == wire.MAC(domainMAC(2)) && e.Port == vnif.Index
		})
	}
	ping(t, d1, d2.Addr())
	require.True(t, behindVnif())
	require.NoError(t, d2.MoveTo(a.Host, "vif2.0", "vnet97"))
	a.forwarding("vnet97")
	require.True(t, behindVnif(), "the domain is silent")
	return a, d1, d2, behindVnif
}

// A domain that migrates silently is reached by its neighbours once the vif script has told of it: the bridge,
// too, forgets that it was behind the tunnel.
func TestSilentMove(t *testing.T) {
	a, d1, d2, behindVnif := silentMove(t)
	require.NoError(t, a.AddVif(idOf(t, "97"), domainMAC(2)))
	require.False(t, behindVnif())
	// The first one arrives: nothing but the bridge's table stood between.
	got := capture(t, d2)
	frame := testFrame(domainMAC(2), domainMAC(1), "to the silent one")
	require.NoError(t, d1.Send("eth0", frame))
	expect(t, got, frame)
}

// A domain has migrated here, and its first frame tells it, by whatever port: the bridge forgets that it was behind the tunnel
// also where it learns nothing at that port, and its neighbours reach it.
func TestMoveSeenHere(t *testing.T) {
	for _, learning := range []string{"on", "off"} {
		t.Run("learning "+learning, func(t *testing.T) {
			a, d1, d2, behindVnif := silentMove(t)
			_, err := a.Host.Run(soon(t), "bridge", "link", "set", "dev", "vif2.0", "learning", learning)
			require.NoError(t, err)
			require.NoError(t, d2.Send("eth0", testFrame(broadcastMAC, domainMAC(2), "here I am")))
			eventually(t, "the bridge has forgotten it", func() bool { return !behindVnif() })
			eventually(t, "it is this host's", func() bool { return hasVif(a.Engine, domainMAC(2)) })
			got := capture(t, d2)
			frame := testFrame(domainMAC(2), domainMAC(1), "to the one that moved")
			require.NoError(t, d1.Send("eth0", frame))
			expect(t, got, frame)
		})
	}
}

// hasVif reports whether a host holds a MAC for its own.
func hasVif(e *Engine, mac net.HardwareAddr) bool {
	return slices.ContainsFunc(e.Snapshot().Vifs, func(v Vif) bool { return v.MAC == wire.MAC(mac) })
}

// A bridge loop between two hosts does not end in a storm.
func TestLoop(t *testing.T) {
	_, s, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1 := a.domain(1, "97")
	b.domain(2, "97")
	// The bridges are joined by a cable, too.
	_, err := a.Net.EnsureVeth(hostnet.Veth{Name: "cable", Partner: "cable", PartnerHost: b.Net})
	require.NoError(t, err)
	for _, h := range hosts {
		require.NoError(t, join(h, "cable", "vnet97"))
	}
	c, err := s.Capture(func(f lab.Frame) bool { return f.EtherType() == 0x0800 })
	require.NoError(t, err)
	round := 0
	eventually(t, "loop noticed", func() bool {
		round++
		require.NoError(t, d1.Send("eth0", testFrame(broadcastMAC, domainMAC(1), fmt.Sprint("round ", round))))
		return a.drops(DropLoop)+b.drops(DropLoop) > 0
	})
	// What went round has died down after a moment.
	eventually(t, "silence", func() bool {
		c.Take()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := c.WaitFor(ctx, func(f lab.Frame) bool {
			_, frame, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):])
			return err == nil && len(frame) >= 14 && frame[12] == 0x88 && frame[13] == 0xb5
		})
		return err != nil
	})
	eventually(t, "an alarm", func() bool {
		for _, h := range []*testHost{a, b} {
			if h.log.Count("loop: a frame that this host sent came back")+h.log.Count("MAC moves to and fro") > 0 {
				return true
			}
		}
		return false
	})
}

// join puts a device on a bridge of a host.
func join(h *testHost, device, bridge string) error {
	l, err := h.Net.LinkByName(device)
	if err != nil {
		return err
	}
	b, err := h.Net.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := h.Net.SetMaster(l.Index, b.Index); err != nil {
		return err
	}
	return h.Net.SetUp(l.Index)
}
