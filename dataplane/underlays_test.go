package dataplane

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// Hosts that have only IPv6 between them, with the group and with unicast only.
func TestIPv6Underlay(t *testing.T) {
	cfg := testConfig()
	cfg.IPv6 = true
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	hosts := addHosts(t, s, 3, cfg)
	for _, h := range hosts[:2] { // the third has both
		_, err := h.Host.Run(soon(t), "ip", "-4", "addr", "flush", "dev", "eth0")
		require.NoError(t, err)
		eventually(t, "IPv4 gone", func() bool { return !h.Snapshot().Underlays[0].Up })
	}
	add(t, "97", hosts...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97")
	for _, d := range []*lab.Domain{d2, d3} {
		ping(t, d1, d.Addr())
		_, err = lab.Transfer(soon(t), d1.Node, d.Node, d.Addr(), 16<<20)
		require.NoError(t, err)
		_, err = lab.Transfer(soon(t), d.Node, d1.Node, d1.Addr(), 16<<20)
		require.NoError(t, err)
	}
	_, err = d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
	for _, e := range hosts[0].Snapshot().Entries {
		require.True(t, e.Addr.Is6(), e.Addr)
	}
	u := hosts[0].Snapshot().Underlays[1]
	require.Equal(t, "ipv6", u.Family)
	require.Equal(t, hosts[0].Addr6(), u.Address)
}

// A host that has only IPv6 is not told that it is cut off.
func TestOnlyIPv6(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	h, err := s.Host("A")
	require.NoError(t, err)
	dev, err := h.Uplink().Link()
	require.NoError(t, err)
	require.NoError(t, h.Net.DeleteAddress(hostnet.Address{Index: dev.Index, Prefix: h.Uplink().Addr4}))
	cfg := testConfig()
	cfg.IPv6 = true
	var log bytes.Buffer
	e, err := New(cfg, h.Net, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	stop := run(t, e)
	eventually(t, "IPv6 is up", func() bool {
		u := e.Snapshot().Underlays
		return len(u) == 2 && u[1].Up
	})
	stop()
	require.Contains(t, log.String(), "no underlay of this family")
	require.NotContains(t, log.String(), "cut off")
}

// Where every host has both families, each is known by one address, and nothing is taken for a move.
func TestBothFamilies(t *testing.T) {
	cfg := testConfig()
	cfg.IPv6 = true
	m := newMemory(t, 3, cfg)
	for i := range 30 {
		f := testFrame(broadcastMAC, domainMAC(1), fmt.Sprint(i))
		m.send(0, f)
		m.requireGot(nil, frames(f), frames(f))
		m.send(1, testFrame(domainMAC(3), domainMAC(2), fmt.Sprint(i)))
		m.send(2, testFrame(domainMAC(2), domainMAC(3), fmt.Sprint(i)))
		m.got(0)
		m.got(1)
		m.got(2)
		m.advance(10 * time.Millisecond)
	}
	for _, h := range m.hosts {
		require.NotZero(t, h.drop(DropDuplicate))
		require.Zero(t, h.Snapshot().Tables.Damped)
	}
	for _, e := range m.hosts[1].Snapshot().Entries {
		require.True(t, e.Addr.Is4(), e.Addr)
	}
}

// Whoever changes devices makes memberships wait. Nobody waits for these.
func TestNobodyWaitsForMemberships(t *testing.T) {
	cfg := DefaultConfig()
	m := newMemory(t, 1, cfg)
	h := m.hosts[0]
	waits, goOn := make(chan struct{}, 2), make(chan struct{})
	groups := h.underlays[0].groups.(*underlaytest.Groups)
	groups.Busy = func() {
		waits <- struct{}{}
		<-goOn
	}
	group := netip.MustParseAddr("239.1.2.3")
	adopted := make(chan error)
	go func() { adopted <- h.SetGroup(t.Context(), group) }()
	for range 2 { // listening and joining
		<-waits
		require.True(t, h.Status().Underlays[0].Up)
		require.NoError(t, h.AddVif(idOf(t, "97"), domainMAC(1)))
		require.Equal(t, cfg.Group, h.view.Load().uplinks[0].group.Addr())
		goOn <- struct{}{}
	}
	require.NoError(t, <-adopted)
	require.Equal(t, group, groups.Group)
	require.Equal(t, group, h.view.Load().uplinks[0].group.Addr())
}

// A group that cannot be joined is a problem of the underlay, which ends when it can be.
func TestGroupRefused(t *testing.T) {
	cfg := DefaultConfig()
	m := newMemory(t, 1, cfg)
	h := m.hosts[0]
	groups := h.underlays[0].groups.(*underlaytest.Groups)
	group := netip.MustParseAddr("239.1.2.3")
	groups.Refused = unix.ENOBUFS
	require.NoError(t, h.SetGroup(t.Context(), group))
	require.Equal(t, "no buffer space available", h.Status().Underlays[0].Problem)
	require.Zero(t, h.view.Load().uplinks)
	groups.Refused = nil
	h.refresh()
	require.Equal(t, group, h.view.Load().uplinks[0].group.Addr())
	require.Equal(t, underlayIndex, groups.Index)
	h.kernel.(*memoryKernel).addresses = nil
	h.refresh()
	require.Zero(t, groups.Index, "without an address there is no member")
	require.Contains(t, h.log.String(), "no underlay: vnets are cut off")
}

// Where the network changes all the time, it is looked at nevertheless.
func TestSteadyChanges(t *testing.T) {
	e, _, _, h, _ := handDrivenLab(t, testConfig())
	dev, err := h.Net.LinkByName("eth0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	watch, steady, ended := make(chan hostnet.Event), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case watch <- hostnet.RouteEvent{}:
			case <-ctx.Done():
				return
			}
			if i == 1000 { // the look at the start is over
				close(steady)
			}
		}
	}()
	done := make(chan error, 1)
	go func() { done <- e.cold(ctx, watch) }()
	<-steady
	require.NoError(t, h.Net.SetMTU(dev.Index, 1400))
	eventually(t, "the underlay has another MTU", func() bool { return e.Snapshot().Underlays[0].MTU == 1400 })
	cancel()
	<-ended
	require.NoError(t, <-done)
}

// A look that the machine kept waiting for long does not put the next one off for ten times as long.
func TestSlowLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 1, testConfig())
		e := m.hosts[0]
		k := &memoryKernel{addresses: e.kernel.(*memoryKernel).addresses, slow: 10 * time.Second}
		e.kernel = k
		ctx, cancel := context.WithCancel(t.Context())
		watch, done := make(chan hostnet.Event), make(chan error, 1)
		go func() { done <- e.cold(ctx, watch) }()
		time.Sleep(time.Minute) // it has looked
		synctest.Wait()
		k.slow = 0
		k.addresses = []hostnet.Address{{Index: eth0.Index, Prefix: netip.MustParsePrefix("10.9.1.77/24")}}
		watch <- hostnet.RouteEvent{}
		time.Sleep(maxPause + time.Millisecond)
		synctest.Wait()
		require.Equal(t, "10.9.1.77", e.Snapshot().Underlays[0].Address.String())
		cancel()
		require.NoError(t, <-done)
	})
}

// The underlay device goes and comes, in all the ways in which devices do.
func TestUnderlayFlaps(t *testing.T) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	// The daemon starts before there is a network.
	bare, err := l.Host("A")
	require.NoError(t, err)
	a := startEngine(t, bare, testConfig())
	b := addHosts(t, s, 1, testConfig())[0]
	add(t, "97", a, b)
	require.False(t, a.Snapshot().Underlays[0].Up)
	require.Contains(t, a.Snapshot().Underlays[0].Problem, "no default route")
	_, err = bare.Attach(s, "eth0")
	require.NoError(t, err)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	p, err := d2.StartPing(d1.Addr(), lab.PingOptions{Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	works := func(what string) {
		t.Helper()
		// Broadcast too: the group is joined.
		a.FlushVARP()
		b.FlushVARP()
		for _, c := range []struct{ from, to *lab.Domain }{{d1, d2}, {d2, d1}} {
			at := capture(t, c.to)
			f := testFrame(broadcastMAC, c.from.Spec.MAC, what)
			eventually(t, what, func() bool {
				require.NoError(t, c.from.Send("eth0", f))
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := at.WaitFor(ctx, isData(f))
				return err == nil
			})
			at.Close()
		}
		_, err := p.Fresh(soon(t))
		require.NoError(t, err, what)
	}
	works("late appearance")

	u := bare.Uplink()
	require.NoError(t, u.Down())
	eventually(t, "down noticed", func() bool { return !a.Snapshot().Underlays[0].Up })
	require.NoError(t, u.Up())
	works("down and up")

	require.NoError(t, u.Delete())
	eventually(t, "deletion noticed", func() bool { return !a.Snapshot().Underlays[0].Up })
	require.NoError(t, u.Create())
	works("deleted and made again")

	o := newOriginal(t, s, "original")
	require.NoError(t, u.SetAddr(netip.MustParsePrefix("10.9.1.77/24")))
	m, err := wire.DecodeVARP(o.wait("announce", isVARP(wire.Announce, d1.Spec.MAC)).data)
	require.NoError(t, err)
	require.Equal(t, "10.9.1.77", m.CareOf.String())
	works("another address")
	require.Equal(t, "10.9.1.77", a.Snapshot().Underlays[0].Address.String())

	require.NoError(t, u.Rename("lan0"))
	works("renamed")
	eventually(t, "name", func() bool { return a.Snapshot().Underlays[0].Device == "lan0" })

	require.NoError(t, u.Unplug())
	require.NoError(t, u.Plug())
	works("cable pulled and put back")
}

// Two daemons on one machine: the second says why it cannot run.
func TestPortTaken(t *testing.T) {
	_, _, hosts := newLab(t, 1, testConfig())
	e, err := New(testConfig(), hosts[0].Net, logger(t, "second"))
	require.NoError(t, err)
	err = e.Run(soon(t))
	require.ErrorContains(t, err, "does another xend or vnetd run")
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.ErrorIs(t, attach(e, configOf(t, "97")), ErrClosed)
}
