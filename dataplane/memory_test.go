package dataplane

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/underlay/underlaytest"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// memory is a segment of hosts without a kernel: their engines, each with one worker that the test drives, and the
// vnifs of their vnets. Time passes only when the test lets it.
type memory struct {
	t     testing.TB
	net   *underlaytest.Net
	hosts []*memoryHost
	// strangers counts those.
	strangers int
	group     netip.Addr
}

type memoryHost struct {
	*Engine
	w    *worker
	addr netip.Addr
	net  *underlaytest.Host
	log  *testLog
	// vnifs are by vnet.
	vnifs map[vnet.ID]*porttest.Port
}

// memoryKernel is the network of a host in memory: one device, which leads to everybody.
type memoryKernel struct {
	addresses []hostnet.Address
	// slow is how long it takes to list them.
	slow time.Duration
	// forgotten is what the bridges were made to forget.
	forgotten []hostnet.FDBEntry
}

var eth0 = hostnet.Link{Index: underlayIndex, Name: "eth0", MTU: 1500, Flags: net.FlagUp | net.FlagRunning | net.FlagMulticast}

func (k *memoryKernel) LinkByName(name string) (hostnet.Link, error) {
	if name != eth0.Name {
		return hostnet.Link{}, hostnet.ErrNotFound
	}
	return eth0, nil
}

func (k *memoryKernel) LinkByIndex(index int) (hostnet.Link, error) {
	if index != eth0.Index {
		return hostnet.Link{}, hostnet.ErrNotFound
	}
	return eth0, nil
}

func (k *memoryKernel) Routes(int) (list []hostnet.Route, err error) {
	for _, a := range k.addresses {
		if a.Prefix.Addr().Is4() {
			list = append(list, hostnet.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: a.Prefix.Masked().Addr().Next(), Index: eth0.Index})
		} else {
			list = append(list, hostnet.Route{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fe80::1"), Index: eth0.Index})
		}
	}
	return list, nil
}

func (k *memoryKernel) RouteTo(netip.Addr) (hostnet.Route, error) {
	return hostnet.Route{Index: eth0.Index}, nil
}

func (k *memoryKernel) RouteDevices(netip.Addr) ([]int, error) { return []int{eth0.Index}, nil }

func (k *memoryKernel) Addresses(int) ([]hostnet.Address, error) {
	time.Sleep(k.slow)
	return k.addresses, nil
}

func (k *memoryKernel) DeleteFDB(e hostnet.FDBEntry) error {
	k.forgotten = append(k.forgotten, e)
	return nil
}

// stranger is a host that the test plays: it hears what comes to its address and to groups.
type stranger struct {
	*underlaytest.Host
	m    *memory
	addr netip.Addr
}

// stranger adds one, 10.9.1.200 and so on.
func (m *memory) stranger() *stranger {
	addr := netip.AddrFrom4([4]byte{10, 9, 1, byte(200 + m.strangers)})
	m.strangers++
	return &stranger{Host: m.net.Join(underlayIndex, addr), m: m, addr: addr}
}

// send sends a UDP payload to the protocol's port, and lets it have its effects.
func (s *stranger) send(to netip.Addr, payload []byte) {
	s.m.t.Helper()
	s.Put(underlaytest.Packet{From: netip.AddrPortFrom(s.addr, wire.Port), To: netip.AddrPortFrom(to, wire.Port), Payload: payload})
	s.m.settle()
}

// heard are the packets that fit among those that came since the last call.
func (s *stranger) heard(fits func(heardPacket) bool) (out []underlaytest.Packet) {
	for _, p := range s.Take() {
		if fits(heardPacket{data: p.Payload, from: p.From, to: p.To.Addr(), etherip: p.EtherIP}) {
			out = append(out, p)
		}
	}
	return out
}

// underlayIndex is the device by which hosts in memory hear each other.
const underlayIndex = 7

// newMemory makes hosts 10.9.1.1, 10.9.1.2 and so on, which have a vnet 97.
func newMemory(t testing.TB, hosts int, cfg Config) *memory {
	t.Helper()
	m := &memory{t: t, net: &underlaytest.Net{}, group: cfg.Group}
	for range hosts {
		m.host(cfg)
	}
	return m
}

// host adds a host.
func (m *memory) host(cfg Config) *memoryHost {
	m.t.Helper()
	n := byte(len(m.hosts) + 1)
	cfg.Workers = 1
	h := &memoryHost{
		addr: netip.AddrFrom4([4]byte{10, 9, 1, n}), vnifs: map[vnet.ID]*porttest.Port{},
		log: &testLog{T: m.t, Name: string('A' + rune(n) - 1)},
	}
	var err error
	h.Engine, err = New(cfg, nil, loggerTo(h.log))
	require.NoError(m.t, err)
	h.w, err = newWorker(h.Engine, 0)
	require.NoError(m.t, err)
	m.t.Cleanup(h.w.close)
	addrs := []netip.Addr{h.addr}
	addresses := []hostnet.Address{{Index: underlayIndex, Prefix: netip.PrefixFrom(h.addr, 24)}}
	families := map[underlay.Family]netip.Addr{underlay.IPv4: cfg.Group}
	if cfg.IPv6 {
		addrs = append(addrs, netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: n}))
		families[underlay.IPv6] = cfg.Group6
		addresses = append(addresses, hostnet.Address{Index: underlayIndex, Prefix: netip.PrefixFrom(addrs[1], 64)})
	}
	h.net = m.net.Join(underlayIndex, addrs...)
	h.w.carrier, h.mouth.carrier = h.net, h.net
	h.state, h.workers = stateRunning, []*worker{h.w}
	h.devices = map[int]struct{}{underlayIndex: {}}
	h.kernel = &memoryKernel{addresses: addresses}
	for i, addr := range addrs {
		h.own[addr] = struct{}{}
		fam := underlay.Family(i)
		f := &family{family: fam, sockets: underlay.Detached(fam, 1), heard: new(heard), watch: groupWatch{since: h.now()}}
		f.groups = &underlaytest.Groups{Socket: f.sockets.UDP()[0]}
		f.tokens, f.listening, f.told = map[int32]*underlay.Socket{int32(i): f.sockets.UDP()[0]}, families[fam], true
		f.choice = underlay.Choice{Index: underlayIndex, Device: "eth0", MTU: 1500, Addr: addr, Group: families[fam]}
		f.uplink = &uplink{
			Underlay: f.sockets, secure: underlay.Detached(fam, 1), path: &underlay.Path{Source: addr, Index: underlayIndex, MTU: 1500}, heard: f.heard,
			group: netip.AddrPortFrom(families[fam], cfg.Port),
		}
		h.underlays = append(h.underlays, f)
	}
	h.attach(configOf(m.t, "97"))
	m.hosts = append(m.hosts, h)
	return h
}

// attach gives the host a vnet.
func (h *memoryHost) attach(c vnet.Config) *network {
	p := &porttest.Port{}
	n := newNetwork(network{
		config: c, devices: port.Devices{MTU: 1500, VnifIndex: 100 + len(h.networks)}, salt: h.recent.Salt(c.ID),
		ports: []attached{{vnif: p}}, meter: &meter{shares: make([]share, 1)},
	}, h.config.BUMRate)
	h.vnifs[c.ID] = p
	h.networks[c.ID] = &attachment{network: n}
	h.publishLocked()
	return n
}

// mutualPeers makes all hosts peers of each other.
func (m *memory) mutualPeers() {
	for _, h := range m.hosts {
		h.peers.added = map[netip.Addr]uint16{}
		for _, other := range m.hosts {
			if other != h {
				h.peers.added[other.addr] = h.config.Port
			}
		}
		h.publishLocked()
	}
}

// advance lets time pass on all hosts.
func (m *memory) advance(d time.Duration) {
	for _, h := range m.hosts {
		h.started = h.started.Add(-d)
		h.w.localCache.until, h.w.remoteCache.until = 0, 0
	}
}

// tick lets time pass in small steps, and the cold sides look at the clock after each.
func (m *memory) tick(d time.Duration) {
	m.t.Helper()
	step := m.hosts[0].Engine.tick()
	for ; d > 0; d -= step {
		m.advance(step)
		for _, h := range m.hosts {
			h.mu.Lock()
			h.tickLocked()
			h.mu.Unlock()
		}
		m.settle()
	}
}

// settle lets everything be done that is to be done; it fails the test if that has no end.
func (m *memory) settle() {
	m.t.Helper()
	for round := 0; ; round++ {
		require.Less(m.t, round, 10_000, "it does not end")
		busy := false
		for _, h := range m.hosts {
			busy = h.step() || busy
		}
		if !busy {
			return
		}
	}
}

// step has the worker do one round, and the cold side what the worker told it.
func (h *memoryHost) step() (busy bool) {
	h.w.view, h.w.now = h.view.Load(), h.now()
	for id, p := range h.vnifs {
		if n := h.w.view.vnets[id]; n != nil && p.Waiting() > 0 {
			busy = true
			h.w.fromVnif(n, p)
		}
	}
	for _, l := range h.w.view.uplinks {
		if l == nil {
			continue
		}
		if h.net.Waiting(l.UDP()[0]) {
			busy = true
			h.w.fromUDP(l, l.UDP()[0])
		}
		if s := l.EtherIP(); s != nil && h.net.Waiting(s) {
			busy = true
			h.w.fromEtherIP(l, s)
		}
	}
	for len(h.notices) > 0 {
		busy = true
		h.act(<-h.notices)
	}
	return busy
}

// drop is the number of drops for a reason.
func (h *memoryHost) drop(r Reason) int { return int(h.w.drops[r].Load() + h.mouth.drops[r].Load()) }

// send has a domain on a host's bridge send a frame in vnet 97, and lets it have its effects.
func (m *memory) send(from int, frame []byte) {
	m.t.Helper()
	m.hosts[from].vnifs[idOf(m.t, "97")].Put(frame, wire.VnetHdr{})
	m.settle()
}

// got are the frames that came to the bridge of a host in vnet 97 since the last call.
func (m *memory) got(host int) [][]byte { return m.hosts[host].vnifs[idOf(m.t, "97")].Take() }

// requireGot checks what came to the bridges of all hosts, each with its list of frames.
func (m *memory) requireGot(want ...[][]byte) {
	m.t.Helper()
	for i := range m.hosts {
		got := m.got(i)
		require.Equal(m.t, len(want[i]), len(got), "frames at host %c: %s", 'A'+i, hexOf(got))
		for j := range got {
			require.Equal(m.t, want[i][j], got[j], "frame %d at host %c", j, 'A'+i)
		}
	}
}

func hexOf(frames [][]byte) (out []string) {
	for _, f := range frames {
		out = append(out, hex.EncodeToString(f[:min(len(f), 40)]))
	}
	return out
}

// handDriven is an engine with one worker that the test itself drives, with vnet 97 on it, without a kernel.
func handDriven(t testing.TB, cfg Config) (*memory, *worker, *network) {
	t.Helper()
	m := newMemory(t, 1, cfg)
	w := m.hosts[0].w
	w.view, w.now = m.hosts[0].view.Load(), m.hosts[0].now()
	return m, w, m.hosts[0].networks[idOf(t, "97")].network
}
