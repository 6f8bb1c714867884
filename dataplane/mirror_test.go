package dataplane

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// tablesInMemory are the kernel's tables without a kernel.
type tablesInMemory struct {
	mu      sync.Mutex
	vnets   map[vnet.ID]int
	hosts   map[netip.Addr]hostInMemory
	macs    map[varp.Key]fastpath.MAC
	counted map[vnet.ID]fastpath.Counters
	// maxMACs and maxHosts are what fits.
	maxMACs, maxHosts int
	closed            bool
}

type hostInMemory struct {
	fastpath.Host
	heard uint64
}

var _ kernelTables = (*tablesInMemory)(nil)

func newTablesInMemory() *tablesInMemory {
	return &tablesInMemory{
		vnets: map[vnet.ID]int{}, hosts: map[netip.Addr]hostInMemory{}, macs: map[varp.Key]fastpath.MAC{},
		counted: map[vnet.ID]fastpath.Counters{}, maxMACs: 100, maxHosts: 100,
	}
}

func (*tablesInMemory) SetTimes(fastpath.Times) error       { return nil }
func (*tablesInMemory) Alive(uint64) error                  { return nil }
func (*tablesInMemory) SetUnderlay(fastpath.Underlay) error { return nil }
func (*tablesInMemory) ClearUnderlay(netip.Addr) error      { return nil }
func (*tablesInMemory) Left() (fastpath.Left, error)        { return fastpath.Left{}, nil }
func (p *tablesInMemory) Close()                            { p.closed = true }

func (p *tablesInMemory) AddVnet(id vnet.ID, vnif, _ int) error {
	p.vnets[id] = vnif
	return nil
}

func (p *tablesInMemory) RemoveVnet(id vnet.ID) {
	delete(p.vnets, id)
	for k := range p.macs {
		if k.Vnet == id {
			delete(p.macs, k)
		}
	}
}

func (p *tablesInMemory) Stop(counted func(vnet.ID, fastpath.Counters)) {
	for id := range p.vnets {
		counted(id, p.counted[id])
	}
	clear(p.vnets)
}

func (p *tablesInMemory) SetHost(addr netip.Addr, is fastpath.Host) error {
	h, known := p.hosts[addr]
	if !known && len(p.hosts) >= p.maxHosts {
		return fastpath.ErrFull
	}
	h.Host = is
	p.hosts[addr] = h
	return nil
}

func (p *tablesInMemory) Heard(addr netip.Addr, at uint64) error {
	if h, ok := p.hosts[addr]; ok {
		h.heard = at
		p.hosts[addr] = h
	}
	return nil
}

func (p *tablesInMemory) RemoveHost(addr netip.Addr) { delete(p.hosts, addr) }

func (p *tablesInMemory) PutRemote(id vnet.ID, mac wire.MAC, at netip.Addr, seen uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := varp.Key{Vnet: id, MAC: mac}
	if _, known := p.macs[k]; !known && len(p.macs) >= p.maxMACs {
		return fastpath.ErrFull
	}
	p.macs[k] = fastpath.MAC{Vnet: id, MAC: mac, Addr: at, Seen: seen}
	return nil
}

func (p *tablesInMemory) PutLocal(id vnet.ID, mac wire.MAC, seen uint64) error {
	return p.PutRemote(id, mac, netip.Addr{}, seen)
}

func (p *tablesInMemory) Delete(id vnet.ID, mac wire.MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.macs, varp.Key{Vnet: id, MAC: mac})
}

func (p *tablesInMemory) MACs(f func(fastpath.MAC)) error {
	for _, m := range p.macs {
		f(m)
	}
	return nil
}

func (p *tablesInMemory) Vnets() (out []vnet.ID) {
	for id := range p.vnets {
		out = append(out, id)
	}
	return out
}

func (p *tablesInMemory) Hosts() (out []netip.Addr) {
	for addr := range p.hosts {
		out = append(out, addr)
	}
	return out
}

func (p *tablesInMemory) VnetCounters(id vnet.ID) (fastpath.Counters, bool) {
	_, ok := p.vnets[id]
	return p.counted[id], ok
}

func (p *tablesInMemory) HostCounters(addr netip.Addr) (fastpath.Counters, bool) {
	_, ok := p.hosts[addr]
	return fastpath.Counters{}, ok
}

// seen says that the kernel has seen a frame of a MAC at a time of the engine's.
func (p *tablesInMemory) seen(m *mirror, k varp.Key, at int64) {
	x := p.macs[k]
	x.Seen = m.kernelTime(at)
	p.macs[k] = x
}

// mirrored is a host with a mirror that the test drives.
type mirrored struct {
	*memoryHost
	*memory
	p *tablesInMemory
}

func newMirrored(t *testing.T, p *tablesInMemory) *mirrored {
	t.Helper()
	m := newMemory(t, 2, DefaultConfig())
	h := &mirrored{m.hosts[0], m, p}
	// The kernel's clock goes with the engine's.
	zero := uint64(1 << 50)
	h.mirror.clock = func() uint64 { return zero + uint64(h.now()) }
	h.mirror.start(p)
	require.NoError(t, h.mirror.addVnet(idOf(t, "97"), 7, 1500))
	h.mirror.flush()
	return h
}

func (h *mirrored) key(n byte) varp.Key {
	return varp.Key{Vnet: idOf(h.t, "97"), MAC: wire.MAC{0, 0x16, 0x3e, 0, 0, n}}
}

// in says where the kernel has a MAC: "" nowhere, "here", or the host.
func (h *mirrored) in(n byte) string {
	x, ok := h.p.macs[h.key(n)]
	switch {
	case !ok:
		return ""
	case !x.Addr.IsValid():
		return "here"
	}
	return x.Addr.String()
}

var (
	hostB = netip.MustParseAddr("10.9.1.2")
	hostC = netip.MustParseAddr("10.9.1.3")
)

// TestMirror: the kernel knows what the VARP table knows, as far as it may.
func TestMirror(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	table := h.Engine.table
	table.LearnLocal(h.key(1), h.now())
	table.LearnRemote(h.key(2), hostB, varp.Frame, h.now())
	require.Empty(t, h.in(1), "nothing is written under the table's lock")
	h.mirror.flush()
	require.Equal(t, "here", h.in(1))
	require.Equal(t, hostB.String(), h.in(2))
	require.Equal(t, hostInMemory{Host: fastpath.Host{Send: true, Receive: true}}, h.p.hosts[hostB])

	// In no vnet that the kernel carries.
	other := varp.Key{Vnet: idOf(t, "98"), MAC: wire.MAC{0, 0x16, 0x3e, 0, 0, 3}}
	table.LearnRemote(other, hostC, varp.Frame, h.now())
	h.mirror.flush()
	require.NotContains(t, h.p.macs, other)
	require.NotContains(t, h.p.hosts, hostC)

	// Once it does, what is known already is written.
	require.NoError(t, h.mirror.addVnet(other.Vnet, 8, 1500))
	h.mirror.flush()
	require.Contains(t, h.p.macs, other)
	h.mirror.removeVnet(other.Vnet)
	h.mirror.flush()
	require.NotContains(t, h.p.macs, other)

	table.ForgetAddr(hostB)
	h.mirror.flush()
	require.Empty(t, h.in(2))
	h.mirror.compare()
	require.NotContains(t, h.p.hosts, hostB, "nothing is behind it")
}

// TestEvict: a MAC that moves is out of the kernel before the frame that tells so has an effect, whoever sends it.
func TestEvict(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	w, n := h.w, h.networks[idOf(t, "97")].network
	w.view, w.now = h.view.Load(), h.now()
	h.Engine.table.LearnRemote(h.key(1), hostB, varp.Frame, h.now())
	h.mirror.flush()
	require.Equal(t, hostB.String(), h.in(1))

	w.learnRemote(n, h.key(1).MAC, hostC, varp.Announce)
	require.Empty(t, h.in(1), "to another host")
	h.mirror.flush()
	require.Equal(t, hostC.String(), h.in(1))

	w.learnLocal(n, h.key(1).MAC)
	require.Empty(t, h.in(1), "here")
	h.mirror.flush()
	require.Equal(t, "here", h.in(1))

	w.learnRemote(n, h.key(1).MAC, hostB, varp.Frame)
	require.Empty(t, h.in(1), "away")
	h.mirror.flush()
	require.Equal(t, hostB.String(), h.in(1))

	// A writer that is under way does not bring it back.
	table := h.Engine.table
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 3000 {
				h.mirror.mark(h.key(2))
			}
		})
	}
	for i := range 300 {
		to := []netip.Addr{hostB, hostC}[i%2]
		h.memory.advance(20 * time.Second)
		wg.Go(h.mirror.flush)
		if c := table.LearnRemote(h.key(2), to, varp.Frame, h.now()); moved(c) {
			h.mirror.evict(h.key(2))
			h.p.mu.Lock()
			at, known := h.p.macs[h.key(2)]
			h.p.mu.Unlock()
			require.True(t, !known || at.Addr == to, "the kernel has it where it was")
		}
		wg.Wait()
	}
}

// TestHeldBack: MACs that flap, or are held down here, are user space's until that is over.
func TestHeldBack(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	table := h.Engine.table
	damped := false
	for i := range 20 {
		c := table.LearnRemote(h.key(1), []netip.Addr{hostB, hostC}[i%2], varp.Frame, h.now())
		if moved(c) {
			h.mirror.evict(h.key(1))
		}
		damped = damped || c.Kind == varp.Damped
		h.mirror.flush()
	}
	require.True(t, damped)
	require.Empty(t, h.in(1))
	h.memory.advance(31 * time.Second)
	h.mirror.flush()
	require.NotEmpty(t, h.in(1), "it is quiet now")
}

// TestAges: a MAC lives while either side hears it, and dies when none does; what the kernel saw elsewhere counts for nothing.
func TestAges(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	table := h.Engine.table
	for n := byte(1); n <= 4; n++ {
		table.LearnRemote(h.key(n), hostB, varp.Frame, h.now())
	}
	table.LearnLocal(h.key(5), h.now())
	h.mirror.flush()
	for range 10 {
		h.memory.advance(20 * time.Second)
		h.p.seen(h.mirror, h.key(1), h.now())                      // the kernel carries its frames
		table.LearnRemote(h.key(2), hostB, varp.Frame, h.now())    // user space does
		table.LearnRemote(h.key(4), hostB, varp.Announce, h.now()) // it is announced
		h.p.seen(h.mirror, h.key(5), h.now())
		h.mirror.compare()
		table.Sweep(h.now())
		h.mirror.flush()
	}
	require.NotEmpty(t, h.in(1))
	require.NotEmpty(t, h.in(2))
	require.Less(t, h.now()-h.mirror.engineTime(h.p.macs[h.key(2)].Seen), int64(20*time.Second), "the kernel would leave it to user space")
	require.Empty(t, h.in(3))
	require.NotEmpty(t, h.in(4))
	require.Equal(t, "here", h.in(5))

	// Seen where it was before it moved.
	table.LearnRemote(h.key(1), hostC, varp.Announce, h.now())
	h.memory.advance(59 * time.Second)
	h.p.seen(h.mirror, h.key(1), h.now())
	h.mirror.compare()
	h.memory.advance(2 * time.Second)
	table.Sweep(h.now())
	_, known := table.Lookup(h.key(1))
	require.False(t, known)
}

// TestHosts: what the kernel may do with a host, and how it learns that sockets hear it.
func TestMirroredHosts(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	h.Engine.table.LearnRemote(h.key(1), hostB, varp.Frame, h.now())
	h.mirror.flush()
	h.mirror.hear()
	require.Zero(t, h.p.hosts[hostB].heard, "by no socket")
	rec := h.Engine.hosts.See(hostB, h.now())
	h.memory.advance(time.Second)
	at := h.now()
	rec.HeardByUnicast(at)
	h.mirror.hear()
	require.InDelta(t, at, h.mirror.engineTime(h.p.hosts[hostB].heard), float64(100*time.Millisecond))

	// One that floods by unicast copies is heard by user space only.
	h.Engine.hosts.Replicated(rec, h.now())
	h.mirror.judgeAll()
	require.Equal(t, []bool{true, false}, []bool{h.p.hosts[hostB].Send, h.p.hosts[hostB].Receive})
	// One that speaks only EtherIP is not sent to.
	require.True(t, h.Engine.hosts.HeardEtherIP(rec, h.key(1).Vnet, h.key(1).MAC, h.now()))
	require.True(t, h.Engine.hosts.Answered(rec, h.key(1).Vnet, h.key(1).MAC))
	h.mu.Lock()
	h.publishLocked()
	h.mu.Unlock()
	h.mirror.judgeAll()
	require.False(t, h.p.hosts[hostB].Send)
}

// hostWithRoute is one that reaches all others by one neighbour of the underlay's device.
type hostWithRoute struct {
	kernelHost
	route hostnet.Route
	via   netip.Addr
	err   error
}

func (h *hostWithRoute) RouteTo(netip.Addr) (hostnet.Route, error) { return h.route, nil }

func (h *hostWithRoute) NextHop(from, to netip.Addr, index int) (netip.Addr, error) {
	return h.via, h.err
}

// TestNextHopOfHosts: the kernel is told by which neighbour it sends to a host, and anew when a route has changed; what is not one
// neighbour it looks up itself, and what leaves by another device is user space's.
func TestNextHopOfHosts(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	k := h.programs
	k.looked[0].u = fastpath.Underlay{Addr: netip.MustParseAddr("10.9.1.1"), Index: eth0.Index}
	at := &hostWithRoute{route: hostnet.Route{Index: eth0.Index}, via: netip.MustParseAddr("10.9.1.254")}
	k.host = at
	h.Engine.table.LearnRemote(h.key(1), hostB, varp.Frame, h.now())
	h.mirror.flush()
	is := func() fastpath.Host { return h.p.hosts[hostB].Host }
	require.Equal(t, fastpath.Host{Send: true, Receive: true, Via: at.via}, is())
	changed := func() {
		clear(k.routes)
		h.mirror.judgeAll()
	}
	at.via = netip.MustParseAddr("10.9.1.253")
	h.mirror.judgeAll()
	require.NotEqual(t, at.via, is().Via, "it is asked once")
	changed()
	require.Equal(t, at.via, is().Via)
	at.via, at.err = netip.Addr{}, hostnet.ErrNotFound
	changed()
	require.Equal(t, fastpath.Host{Send: true, Receive: true}, is())
	at.route.Index++
	changed()
	require.Equal(t, fastpath.Host{Receive: true}, is())
}

// TestSignOfLife: a host that is silent by unicast is asked, and its answer renews that the kernel hears it.
func TestSignOfLife(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	h.Engine.table.LearnRemote(h.key(1), hostB, varp.Frame, h.now())
	h.Engine.hosts.See(hostB, h.now())
	h.mirror.flush()
	h.memory.advance(10 * time.Second)
	asked := h.now()
	h.mirror.hear()
	h.memory.settle()
	h.mirror.hear()
	require.GreaterOrEqual(t, h.mirror.engineTime(h.p.hosts[hostB].heard), asked)
	require.False(t, h.hosts[1].Engine.hosts.AnyReplicates(h.now()), "a question is no flooded frame")
}

// TestTakenOver: what an earlier run left is known, and kept until the vnets are here.
func TestTakenOver(t *testing.T) {
	p := newTablesInMemory()
	old := newMirrored(t, p)
	old.Engine.table.LearnRemote(old.key(1), hostB, varp.Frame, old.now())
	old.Engine.table.LearnLocal(old.key(2), old.now())
	old.Engine.table.LearnRemote(old.key(3), hostB, varp.Frame, old.now()-int64(61*time.Second))
	old.mirror.flush()
	require.Len(t, p.macs, 3)

	m := newMemory(t, 1, DefaultConfig())
	h := &mirrored{m.hosts[0], m, p}
	h.mirror.clock = old.mirror.clock
	h.memory.advance(time.Duration(old.now() - h.now()))
	h.mirror.start(p)
	at, ok := h.Engine.table.Lookup(h.key(1))
	require.True(t, ok)
	require.Equal(t, hostB, at)
	require.True(t, h.Engine.table.Local(h.key(2), h.now()))
	h.mirror.flush()
	h.mirror.compare()
	require.Equal(t, []string{hostB.String(), "here", ""}, []string{h.in(1), h.in(2), h.in(3)}, "what is old goes")
	require.Contains(t, p.hosts, hostB)
}

// TestFullTable: what does not fit is user space's, until there is room, and the operator is told: in the log once, and in what
// can be asked for as long as it is so.
func TestFullTable(t *testing.T) {
	p := newTablesInMemory()
	p.maxMACs = 3
	h := newMirrored(t, p)
	for n := range byte(10) {
		h.Engine.table.LearnLocal(h.key(n+1), h.now())
	}
	h.mirror.flush()
	require.Len(t, p.macs, 3)
	require.Len(t, h.mirror.put[h.key(1).Vnet], 3)
	require.Equal(t, 1, h.log.Count("the kernel carries only a part"))
	require.Contains(t, h.mirror.lacks(), fastpath.ErrFull.Error())

	known := func() (list []byte) {
		for n := range byte(10) {
			if h.in(n+1) != "" {
				list = append(list, n+1)
			}
		}
		return list
	}
	before := known()
	h.memory.advance(6 * time.Second)
	h.mirror.flush()
	require.Equal(t, before, known(), "those that are known stay")
	p.maxMACs = 9
	h.memory.advance(6 * time.Second)
	h.mirror.flush()
	require.Len(t, p.macs, 9, "some have room now")
	h.Engine.table.RemoveVif(h.key(before[0]))
	h.mirror.flush()
	h.memory.advance(6 * time.Second)
	h.mirror.flush()
	require.Len(t, p.macs, 9, "and the last one in another's place")
	require.Len(t, h.mirror.later, 0)
	require.NotEmpty(t, h.mirror.lacks())
	h.memory.advance(16 * time.Second)
	require.Empty(t, h.mirror.lacks())
	require.Equal(t, 1, h.log.Count("the kernel carries only a part"))
}

// TestManyHosts: MACs behind hosts that do not fit are user space's, until there is room.
func TestManyHosts(t *testing.T) {
	p := newTablesInMemory()
	p.maxHosts = 1
	h := newMirrored(t, p)
	h.Engine.table.LearnRemote(h.key(1), hostB, varp.Frame, h.now())
	h.mirror.flush()
	h.Engine.table.LearnRemote(h.key(2), hostC, varp.Frame, h.now())
	h.mirror.flush()
	require.Equal(t, []string{hostB.String(), ""}, []string{h.in(1), h.in(2)})
	require.Contains(t, h.mirror.lacks(), fastpath.ErrFull.Error())
	h.Engine.table.ForgetAddr(hostB)
	h.mirror.flush()
	h.mirror.compare() // nothing is behind it
	h.memory.advance(6 * time.Second)
	h.mirror.flush()
	require.Equal(t, []string{"", hostC.String()}, []string{h.in(1), h.in(2)})
}

// TestManyChanges: more changes at once than are remembered one by one are no loss.
func TestManyChanges(t *testing.T) {
	p := newTablesInMemory()
	p.maxMACs = 1 << 20
	h := newMirrored(t, p)
	id := idOf(t, "97")
	for i := range maxDirty + 1000 {
		h.Engine.table.LearnRemote(varp.Key{Vnet: id, MAC: wire.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}}, hostB, varp.Frame, h.now())
	}
	require.LessOrEqual(t, len(h.mirror.dirty), maxDirty)
	h.mirror.flush()
	require.Len(t, p.macs, maxDirty+1000)
}

// TestEnd: when the kernel is to carry nothing more, what it carried stays counted, and the tables are given back.
func TestEnd(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	h.Engine.table.LearnRemote(h.key(1), hostB, varp.Frame, h.now())
	h.mirror.flush()
	id, p := idOf(t, "97"), h.p
	p.counted[id] = fastpath.Counters{TxFrames: 5}
	h.mirror.end()
	_, known := p.VnetCounters(id)
	require.False(t, known, "who has asked for the tables before counts nothing twice")
	require.True(t, p.closed)
	require.EqualValues(t, 5, h.mirror.carriedOf(id).TxFrames)
	require.Empty(t, h.mirror.vnetsNow())
	h.mirror.evict(h.key(1)) // which may come late
	h.mirror.start(newTablesInMemory())
	require.EqualValues(t, 5, h.mirror.carriedOf(id).TxFrames, "once")
}

// TestBarred: a vnet whose packets must be sealed leaves the kernel at once, and does not come back by an old view.
func TestBarred(t *testing.T) {
	h := newMirrored(t, newTablesInMemory())
	h.Engine.table.LearnLocal(h.key(1), h.now())
	h.mirror.flush()
	id := idOf(t, "97")
	h.p.counted[id] = fastpath.Counters{TxFrames: 5}
	h.mirror.bar(id)
	require.Empty(t, h.p.vnets)
	require.Empty(t, h.p.macs)
	require.NoError(t, h.mirror.addVnet(id, 7, 1500))
	require.Empty(t, h.p.vnets)
	require.EqualValues(t, 5, h.mirror.carriedOf(id).TxFrames, "what was counted stays")
	h.mirror.unbar(id)
	require.NoError(t, h.mirror.addVnet(id, 7, 1500))
	require.Contains(t, h.p.vnets, id)
}
