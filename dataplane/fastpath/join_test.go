package fastpath

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

const ourGroup = 1798 // the link group

func TestJoins(t *testing.T) {
	for name, c := range map[string]struct {
		d    Device
		want bool
	}{
		"plain card":                 {Device{}, true},
		"card that segments tunnels": {Device{SegmentsTunnels: true}, true}, // what it sends
		"plain veth":                 {Device{Kind: "veth"}, true},
		"veth":                       {Device{Kind: "veth", SegmentsTunnels: true}, false},
		"netkit":                     {Device{Kind: "netkit", SegmentsTunnels: true}, false},
		"VLAN of a plain card":       {Device{Kind: "vlan"}, true},
		"bond, which always does":    {Device{Kind: "bond", SegmentsTunnels: true}, true},
	} {
		assert.Equal(t, c.want, Joins(c.d), name)
	}
}

// join has segments be joined on a host.
func (e *endpoint) join(t *testing.T) *Joiner {
	t.Helper()
	j, err := e.Join(e.Net, ourGroup)
	require.NoError(t, err)
	require.NoError(t, j.Let(e.card.Index))
	require.NoError(t, j.Check())
	return j
}

// segment is a packet with n bytes of TCP from the domain of another host.
func (e *endpoint) segment(t *testing.T, from *endpoint, n int) []byte {
	p := outer(t, from.addr, e.addr, vnet97, ethernet(wire.MAC(e.domain.Spec.MAC), wire.MAC(from.domain.Spec.MAC), 0x0800, tcp4(n)))
	copy(p, e.card.MAC)
	return p
}

// joined captures what comes out of the pair, and tells how many frames those are, and how many of their bytes are in super-frames.
func (e *endpoint) joined(t *testing.T) func() (frames, super int) {
	t.Helper()
	c, err := e.Capture(JoinDevice, func(f lab.Frame) bool { return !f.Outgoing })
	require.NoError(t, err)
	return func() (frames, super int) {
		for _, f := range c.Take() {
			frames++
			if len(f.Data) > 2*1500 {
				super += len(f.Data)
			}
		}
		return frames, super
	}
}

// TestJoinedStream: segments of TCP that come one by one are joined before they are in their vnet, past the bridge or not; all else
// does not make the detour, and none of it gets to the host's own stack.
func TestJoinedStream(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 outside %v", v6), func(t *testing.T) {
			e := endpoints(t, v6, false)
			one, two := e[0], e[1]
			one.join(t)
			two.join(t)
			out := two.joined(t)
			taken := two.taken(t)
			const size = 16 << 20
			for i, to := range two.domain.Spec.Addrs {
				transfer(t, one, two, to.Addr(), size)
				frames, super := out()
				t.Logf("%d frames for %d segments", frames, size/1348)
				assert.Greater(t, super, size/2, "by the pair, and joined")
				got, _ := two.VnetCounters(vnet97)
				assert.Greater(t, got.RxBytes, uint64(size*(i+1)))
				host, _ := two.HostCounters(one.addr)
				assert.Equal(t, got, host)
			}
			ctx := t.Context()
			_, err := one.domain.Ping(ctx, two.domain.Spec.Addrs[0].Addr(), lab.PingOptions{})
			require.NoError(t, err)
			frames, _ := out()
			assert.Zero(t, frames, "a ping is no segment")
			for _, h := range e {
				left, err := h.Left()
				require.NoError(t, err)
				assert.Zero(t, left.In[LeftError])
			}
			assert.Equal(t, taken, two.taken(t))
		})
	}
}

// TestJoinedPastBridge: what is joined passes the bridge by where that may be, and one frame a minute of each MAC does not.
func TestJoinedPastBridge(t *testing.T) {
	e := endpoints(t, false, false)
	one, two := e[0], e[1]
	two.join(t)
	vif, err := two.Net.LinkByName("vif1.0")
	require.NoError(t, err)
	mac := wire.MAC(two.domain.Spec.MAC)
	require.NoError(t, two.bpf.Vifs.Put(&bpfMacKey{Mac: mac}, &bpfVif{Ifindex: uint32(vif.Index), Way: uint16(WayPeer), Mtu: 1500}))
	require.NoError(t, two.Do(func() error { return two.hasVif(vif.Index) }))
	two.until(t, time.Minute)
	vnif, err := two.Capture("vnif97", func(f lab.Frame) bool { return !f.Outgoing && f.EtherType() == 0x0800 })
	require.NoError(t, err)
	out := two.joined(t)
	transfer(t, one, two, two.domain.Spec.Addrs[0].Addr(), 4<<20)
	_, super := out()
	assert.Greater(t, super, 2<<20)
	assert.Less(t, len(vnif.Take()), 10, "the SYN by user space, and one frame a minute")
}

// TestShortSegments: what has little to gain goes straight to its vnet, unless something is under way that it would overtake.
func TestShortSegments(t *testing.T) {
	e := endpoints(t, false, false)
	one, two := e[0], e[1]
	two.join(t)
	out := two.joined(t)
	got, err := two.domain.Capture("eth0", func(f lab.Frame) bool { return !f.Outgoing && len(f.Data) > 23 && f.Data[23] == 6 })
	require.NoError(t, err)
	send := func(n int) {
		t.Helper()
		require.NoError(t, one.Send(wired, two.segment(t, one, n)))
		_, err := got.Next(t.Context())
		require.NoError(t, err)
	}
	detour := func(want int) {
		t.Helper()
		frames, _ := out()
		assert.Equal(t, want, frames)
	}
	underWay := func(last uint64) { // one, on each processor
		t.Helper()
		for k := range two.bpf.Queues.MaxEntries() {
			require.NoError(t, two.bpf.Queues.Put(k, &bpfQueue{Sent: 1, Last: last}))
		}
	}
	send(100)
	detour(0)
	send(202) // 256 bytes
	detour(0)
	for range 10 {
		send(203)
		detour(1)
		send(100)
		detour(0)
	}
	transfer(t, one, two, two.domain.Spec.Addrs[0].Addr(), 1<<20)
	out()
	sent := uint64(0)
	require.Eventually(t, func() bool {
		var keys, values = make([]uint32, two.bpf.Queues.MaxEntries()), make([]bpfQueue, two.bpf.Queues.MaxEntries())
		var cursor ebpf.MapBatchCursor
		_, err := two.bpf.Queues.BatchLookup(&cursor, keys, values, nil)
		require.True(t, err == nil || errors.Is(err, ebpf.ErrKeyNotExist))
		sent = 0
		for i, v := range values {
			if v.Sent != v.Received {
				t.Logf("queue %d: %+v", i, v)
				return false
			}
			sent += v.Sent
		}
		return true
	}, patience, 10*time.Millisecond, "what was sent was received, queue by queue")
	assert.Greater(t, sent, uint64(700))
	underWay(Now() + uint64(time.Minute))
	send(100)
	detour(1)
	underWay(ago(time.Second)) // it was lost
	send(100)
	detour(0)
	send(100)
	detour(0)
}

// TestPairTakesNothingElse: what somebody else sends by the pair, without a tag, or with one that means no vnet or with a source that is not
// another host's, gets nowhere.
func TestPairTakesNothingElse(t *testing.T) {
	e := endpoints(t, false, false)
	one, two := e[0], e[1]
	two.join(t)
	there, here := wire.MAC(one.domain.Spec.MAC), wire.MAC(two.domain.Spec.MAC)
	got, err := two.domain.Capture("eth0", func(f lab.Frame) bool { return !f.Outgoing && len(f.Data) > 23 && f.Data[23] == 6 })
	require.NoError(t, err)
	tagged := func(tci uint16, dst, src wire.MAC) []byte {
		f := ethernet(dst, src, 0x8100, append([]byte{byte(tci >> 8), byte(tci), 0x08, 0x00}, tcp4(100)...))
		return f
	}
	lost := func(name string, f []byte) {
		t.Helper()
		before, err := two.Left()
		require.NoError(t, err)
		require.NoError(t, two.Send(joinSend, f), name)
		require.Eventually(t, func() bool {
			after, err := two.Left()
			require.NoError(t, err)
			return after.In[LeftQueue] == before.In[LeftQueue]+1
		}, patience, time.Millisecond, name)
	}
	require.NoError(t, two.Send(joinSend, ethernet(here, there, 0x0800, tcp4(100))), "no tag")
	for name, f := range map[string][]byte{
		"another slot":   tagged(2, here, there),
		"slot too high":  tagged(MaxVnets+1, here, there),
		"tag 0":          tagged(0, here, there),
		"unknown source": tagged(1, here, wire.MAC{0, 0x16, 0x3e, 9, 9, 9}),
		"source is here": tagged(1, here, here),
	} {
		lost(name, f)
	}
	require.NoError(t, two.Send(joinSend, tagged(1, here, there)))
	_, err = got.Next(t.Context())
	require.NoError(t, err, "what our own program sends comes out")
	assert.Empty(t, got.Take(), "and nothing else did")
	// A vnet that is gone gets nothing, also of what is under way.
	two.RemoveVnet(vnet97)
	lost("no such vnet", tagged(1, here, there))
	assert.Empty(t, got.Take())
}

// TestJoinEnds: segments make the detour only while user space looks that the pair is whole; it tells what is wrong with it.
func TestJoinEnds(t *testing.T) {
	e := endpoints(t, false, false)
	one, two := e[0], e[1]
	to := two.domain.Spec.Addrs[0].Addr()
	j := two.join(t)
	out := two.joined(t)
	detour := func(want bool) {
		t.Helper()
		out()
		transfer(t, one, two, to, 1<<20)
		frames, _ := out()
		assert.Equal(t, want, frames > 0)
	}
	detour(true)
	two.Unjoin(two.card.Index)
	detour(false)
	require.NoError(t, j.Let(two.card.Index))
	detour(true)
	// Nobody has looked for a while.
	require.NoError(t, two.bpf.Joins.Put(uint32(two.card.Index), &bpfJoin{Until: 1, Ifindex: uint32(j.send)}))
	two.changed()
	detour(false)

	assert.Zero(t, j.Lost())
	require.NoError(t, two.Net.SetMTU(j.receive, 500))
	assert.ErrorContains(t, j.Check(), JoinDevice+" has an MTU of 500")
	require.Error(t, j.Let(two.card.Index))
	require.NoError(t, j.Again(two.card.Index))
	require.NoError(t, one.Send(wired, two.segment(t, one, 1000)))
	require.Eventually(t, func() bool { return j.Lost() > 0 }, patience, time.Millisecond)
	require.NoError(t, two.Net.SetMTU(j.receive, joinMTU))
	require.NoError(t, two.Net.SetDown(j.receive))
	assert.ErrorContains(t, j.Check(), JoinDevice+" is down")
	require.NoError(t, two.Net.SetUp(j.receive))
	bridge, err := two.Net.LinkByName("vnet97")
	require.NoError(t, err)
	require.NoError(t, two.Net.SetMaster(j.send, bridge.Index))
	assert.ErrorContains(t, j.Check(), joinSend+" is a port of another device")
	require.NoError(t, two.Net.SetMaster(j.send, 0))
	other := hostnet.Classifier{Index: j.receive, Priority: 1, Name: "other"}
	require.NoError(t, two.Net.AttachClassifier(other, two.Out()))
	require.ErrorIs(t, j.Check(), ErrNotFirst)
	require.NoError(t, two.Net.DetachClassifier(other))
	require.NoError(t, two.Net.SetFeatures(j.receive, map[string]bool{"rx-gro": false}))
	require.NoError(t, j.Let(two.card.Index))
	features, err := two.Net.Features(j.receive)
	require.NoError(t, err)
	assert.True(t, features["rx-gro"])
	require.NoError(t, two.Net.DetachClassifier(joinClassifier(j.receive)))
	assert.ErrorContains(t, j.Check(), "is gone")
	again, err := two.Join(two.Net, ourGroup)
	require.NoError(t, err)
	require.NoError(t, again.Check(), "made anew")
	require.ErrorIs(t, j.Check(), hostnet.ErrNotFound)
	require.NoError(t, two.Net.Delete(again.send))
	require.ErrorIs(t, again.Check(), hostnet.ErrNotFound)
	require.NoError(t, RemoveJoin(two.Net, ourGroup))
}

// TestJoinTakenOver: the next run takes the pair over with its tables, also one that is half made; programs of other tables get a
// pair of their own, since their tags mean other vnets; and what is somebody else's stays.
func TestJoinTakenOver(t *testing.T) {
	e := endpoints(t, false, false)
	two := e[1]
	j := two.join(t)
	next, err := Load(Times{}, hostnet.ProgramID(two.In()), hostnet.ProgramID(two.Out()))
	require.NoError(t, err)
	t.Cleanup(next.Close)
	require.True(t, next.Adopted())
	require.NoError(t, two.Net.SetDown(j.send))
	over, err := next.Join(two.Net, ourGroup)
	require.NoError(t, err)
	require.NoError(t, over.Check())
	assert.Equal(t, j.send, over.send)
	assert.ErrorContains(t, j.Check(), "is gone", "the program is the new one's")

	other, err := Load(Times{})
	require.NoError(t, err)
	t.Cleanup(other.Close)
	anew, err := other.Join(two.Net, ourGroup)
	require.NoError(t, err)
	assert.Greater(t, anew.send, j.send)
	require.ErrorIs(t, over.Check(), hostnet.ErrNotFound)
	// A daemon that was killed before it had attached its program.
	require.NoError(t, two.Net.DetachClassifier(joinClassifier(anew.receive)))
	again, err := other.Join(two.Net, ourGroup)
	require.NoError(t, err)
	require.NoError(t, again.Check())
	require.NoError(t, RemoveJoin(two.Net, ourGroup))

	require.NoError(t, two.Net.CreateVeth(hostnet.Veth{Name: joinSend, Partner: "theirs"}))
	_, err = other.Join(two.Net, ourGroup)
	var foreign *hostnet.NotOursError
	require.ErrorAs(t, err, &foreign)
	require.NoError(t, RemoveJoin(two.Net, ourGroup))
	l, err := two.Net.LinkByName(joinSend)
	require.NoError(t, err, "it stays")
	require.NoError(t, two.Net.Delete(l.Index))
	_, err = os.Stat("/sys/class/net/" + JoinDevice)
	assert.ErrorIs(t, err, os.ErrNotExist)
}
