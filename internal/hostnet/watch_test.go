package hostnet

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// await reads events until one fits.
func await[E Event](t *testing.T, events <-chan Event, what string, fits func(E) bool) E {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case ev, open := <-events:
			require.True(t, open, "watch ended before %s", what)
			if e, ok := ev.(E); ok && fits(e) {
				return e
			}
		case <-deadline:
			require.FailNow(t, "no event", what)
		}
	}
}

func TestWatch(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := h.Watch(ctx)
	require.NoError(t, err)

	br, _, err := h.EnsureBridge("br")
	require.NoError(t, err)
	a, _ := pair(t, h, "a", "b")
	await(t, events, "the port's appearance", func(e LinkEvent) bool { return e.Link.Name == "a" && e.Link.Up() && !e.Gone })

	require.NoError(t, h.SetMaster(a.Index, br.Index))
	await(t, events, "joining", func(e LinkEvent) bool { return e.Link.Index == a.Index && e.Link.Master == br.Index })

	e := FDBEntry{MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 1}, Port: a.Index, Bridge: br.Index}
	fdb, err := h.WatchFDB(ctx)
	require.NoError(t, err)
	addFDB(t, h, e)
	await(t, fdb, "learning", func(ev FDBEvent) bool { return ev.Entry == e && !ev.Gone })
	require.NoError(t, h.DeleteFDB(e))
	await(t, fdb, "forgetting", func(ev FDBEvent) bool { return ev.Entry.MAC == e.MAC && ev.Gone })

	addr := Address{Index: br.Index, Prefix: netip.MustParsePrefix("10.9.0.1/24")}
	require.NoError(t, h.EnsureAddress(addr))
	await(t, events, "address", func(ev AddressEvent) bool { return ev.Address.Prefix == addr.Prefix && !ev.Gone })
	route := Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.9.0.254")}
	require.NoError(t, h.EnsureRoute(route))
	await(t, events, "route", func(ev RouteEvent) bool { return ev.Route.Via == route.Via && !ev.Gone })
	require.NoError(t, h.DeleteAddress(addr))
	await(t, events, "address going", func(ev AddressEvent) bool { return ev.Address.Prefix == addr.Prefix && ev.Gone })

	// Leaving a bridge is no vanishing, although the bridge sends an RTM_DELLINK for it.
	require.NoError(t, h.SetMaster(a.Index, 0))
	ev := await(t, events, "leaving", func(e LinkEvent) bool { return e.Link.Index == a.Index && e.Link.Master == 0 })
	require.False(t, ev.Gone)
	require.NoError(t, h.Delete(a.Index))
	ev = await(t, events, "vanishing", func(e LinkEvent) bool {
		return e.Link.Index == a.Index && (e.Gone || e.Link.Master == 0 && !e.Link.Up())
	})
	if !ev.Gone {
		await(t, events, "vanishing", func(e LinkEvent) bool { return e.Link.Index == a.Index && e.Gone })
	}

	cancel()
	for range events { // closed at the end
	}
	for ev := range fdb { // nothing of IPv4's and IPv6's neighbours
		require.IsType(t, FDBEvent{}, ev)
	}
}

// TestWatchTC: filters and queueing disciplines are told of with their devices, those of shared blocks without.
func TestWatchTC(t *testing.T) {
	h := newHost(t)
	a, b := pair(t, h, "a", "b")
	events, err := h.WatchTC(t.Context())
	require.NoError(t, err)
	is := func(index int) func(TCEvent) bool { return func(e TCEvent) bool { return e.Index == index } }
	none := func() {
		t.Helper()
		for len(events) > 0 {
			<-events
		}
	}
	prog, _ := passer(t, "one", ebpf.SchedCLS, -1)
	c := Classifier{Index: a.Index, Priority: 5, Name: "one"}
	require.NoError(t, h.AttachClassifier(c, prog))
	await(t, events, "the clsact", is(a.Index))
	await(t, events, "the filter", is(a.Index))
	c.Index = b.Index
	require.NoError(t, h.AttachClassifier(c, prog))
	await(t, events, "the other's", is(b.Index))
	none()
	require.NoError(t, h.DetachClassifier(c))
	await(t, events, "the filter's end", is(b.Index))
	none()
	require.NoError(t, h.Do(func() error {
		for _, args := range []string{"qdisc del dev b clsact", "qdisc add dev b ingress_block 7 clsact"} {
			if out, err := exec.Command("tc", strings.Fields(args)...).CombinedOutput(); err != nil {
				return fmt.Errorf("tc %s: %w: %s", args, err, out)
			}
		}
		return nil
	}))
	// TCM_IFINDEX_MAGIC_BLOCK of linux/rtnetlink.h, and the block's number.
	attrs := netlink.FilterAttrs{LinkIndex: -1, Parent: 7, Priority: 9, Protocol: unix.ETH_P_ALL, Handle: 1}
	require.NoError(t, h.handle.FilterAdd(&netlink.BpfFilter{FilterAttrs: attrs, Fd: prog.FD(), Name: "one", DirectAction: true}))
	await(t, events, "a filter of a shared block", is(0))
}

func TestWatchTellsOfLostEvents(t *testing.T) {
	h := newHost(t)
	events, err := h.watch(t.Context(), 64<<10)
	require.NoError(t, err)
	br, _, err := h.EnsureBridge("br")
	require.NoError(t, err)
	// Nobody reads meanwhile: the channel fills, then the socket's buffer.
	for i := range 400 {
		require.NoError(t, h.SetAlias(br.Index, fmt.Sprintf("%0200d", i)))
	}
	await(t, events, "resync", func(ResyncEvent) bool { return true })
	// A slow reader may have lost events more than once, and then is told so again.
	for seen, i := false, 0; !seen; i++ {
		after := fmt.Sprint("after ", i)
		require.NoError(t, h.SetAlias(br.Index, after))
		await(t, events, "a change after it", func(e Event) bool {
			l, changed := e.(LinkEvent)
			seen = changed && l.Link.Alias == after
			_, lost := e.(ResyncEvent)
			return seen || lost
		})
	}
}

func TestAwaitRunning(t *testing.T) {
	h := newHost(t)
	_, err := h.EnsureVeth(Veth{Name: "a", Partner: "b"})
	require.NoError(t, err)
	a, b := link(t, h, "a"), link(t, h, "b")
	require.NoError(t, h.SetUp(a.Index))
	// Until the kernel has looked at the carrier, it takes a device for one that runs.
	require.Eventually(t, func() bool { return !link(t, h, "a").Running() }, 10*time.Second, time.Millisecond)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.AwaitRunning(short, a.Index), context.DeadlineExceeded)
	require.NoError(t, h.SetUp(b.Index))
	require.NoError(t, h.AwaitRunning(t.Context(), a.Index))
	require.True(t, link(t, h, "a").Running())
	require.ErrorIs(t, h.AwaitRunning(t.Context(), 4711), ErrNotFound)
}
