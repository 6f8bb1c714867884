package dataplane

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/bpftest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// fastConfig has the kernel's fast path.
func fastConfig() Config {
	c := testConfig()
	c.FastPath = FastPathOn
	c.XDP = fastpath.XDPOn // all cards are veth here
	return c
}

// kernel is what the kernel carried of vnet 97 on a host.
func (h *testHost) carried() (tx, rx Traffic) {
	for _, v := range h.Counters().Vnets {
		if v.ID == idOf(h.t, "97") {
			return v.KernelTx, v.KernelRx
		}
	}
	return Traffic{}, Traffic{}
}

// awaitFast pings until the kernels carry a whole ping to and fro.
func awaitFast(t testing.TB, d, to *lab.Domain, hosts ...*testHost) {
	t.Helper()
	awaitCarried(t, d, to, hosts, hosts)
}

// awaitCarried pings until the kernels of some hosts send, and of some receive, what a ping consists of.
func awaitCarried(t testing.TB, d, to *lab.Domain, sending, receiving []*testHost) {
	t.Helper()
	eventually(t, "the kernel carries pings", func() bool {
		before := map[*testHost][2]uint64{}
		for _, h := range slices.Concat(sending, receiving) {
			tx, rx := h.carried()
			before[h] = [2]uint64{tx.Packets, rx.Packets}
		}
		ping(t, d, to.Addr())
		for _, h := range sending {
			if tx, _ := h.carried(); tx.Packets == before[h][0] {
				return false
			}
		}
		for _, h := range receiving {
			if _, rx := h.carried(); rx.Packets == before[h][1] {
				return false
			}
		}
		return true
	})
}

// TestFastPath: between two hosts the kernel carries what is known.
func TestFastPath(t *testing.T) {
	_, _, hosts := newLab(t, 2, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	for _, addr := range []int{0, 1} {
		sent0, heard0 := hosts[0].with(hosts[1]), hosts[1].with(hosts[0])
		tx0, _ := hosts[0].carried()
		_, rx0 := hosts[1].carried()
		const size = 64 << 20
		_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[addr].Addr(), size)
		require.NoError(t, err)
		tx, _ := hosts[0].carried()
		_, rx := hosts[1].carried()
		require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
		require.Greater(t, rx.Bytes-rx0.Bytes, uint64(size))
		// What the kernel carries counts for the other host, too, with what is in front of it on the wire.
		sent, heard := hosts[0].with(hosts[1]), hosts[1].with(hosts[0])
		require.Greater(t, sent.TxBytes-sent0.TxBytes, tx.Bytes-tx0.Bytes)
		require.Greater(t, heard.RxBytes-heard0.RxBytes, rx.Bytes-rx0.Bytes)
		require.GreaterOrEqual(t, sent.TxPackets-sent0.TxPackets, tx.Packets-tx0.Packets)
		require.GreaterOrEqual(t, heard.RxPackets-heard0.RxPackets, rx.Packets-rx0.Packets)
	}
	t.Logf("%+v", hosts[1].Status().FastPath)
}

// TestFollowsRoutes: the kernel's packets go where the host's routes say, also when these change under way: by another host that
// forwards, and back. Nothing is lost.
func TestFollowsRoutes(t *testing.T) {
	_, _, hosts := newLab(t, 3, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	a, b, c := hosts[0], hosts[1], hosts[2]
	for path, value := range map[string]string{"ip_forward": "1", "conf/all/send_redirects": "0", "conf/eth0/send_redirects": "0"} {
		require.NoError(t, c.Net.SetSysctl(value, append([]string{"net", "ipv4"}, strings.Split(path, "/")...)...))
	}
	awaitFast(t, one, two, a, b)
	seen, err := c.Capture("eth0", func(f lab.Frame) bool {
		d, ok := datagramIn(f.Data)
		return ok && d.from.Addr() == a.Addr() && d.from.Port() >= 0x8000 && d.to == netip.AddrPortFrom(b.Addr(), wire.Port) &&
			bytes.Equal(f.Data[:6], c.Uplink().MAC)
	})
	require.NoError(t, err)
	s := startStream(t, one, two, time.Millisecond)
	s.arrives()
	require.Empty(t, seen.Take())
	route := hostnet.Route{To: netip.PrefixFrom(b.Addr(), 32), Via: c.Addr(), Index: deviceOf(t, a.Host, "eth0").Index}
	require.NoError(t, a.Host.Net.EnsureRoute(route))
	eventually(t, "packets go by the other host", func() bool { return len(seen.Take()) > 0 })
	s.arrives()
	_, err = a.Host.Run(soon(t), "ip", "route", "del", route.To.String())
	require.NoError(t, err)
	eventually(t, "and no more", func() bool {
		s.arrives()
		return len(seen.Take()) == 0
	})
	s.complete(t)
}

// with is what a host knows of another one.
func (h *testHost) with(other *testHost) Host {
	h.t.Helper()
	list := h.Status().Hosts
	i := slices.IndexFunc(list, func(x Host) bool { return x.Addr == other.Addr() })
	require.GreaterOrEqual(h.t, i, 0)
	return list[i]
}

// newMixed makes two hosts, of which the first or both have the fast path.
func newMixed(t testing.TB, first, second FastPath) (*lab.Switch, []*testHost) {
	t.Helper()
	return startPair(t, func(i int, h *lab.Host) *testHost {
		c := fastConfig()
		c.FastPath = [2]FastPath{first, second}[i]
		return startEngine(t, h, c)
	})
}

// startPair makes two hosts on one switch with vnet 97, whose engines start starts.
func startPair(t testing.TB, start func(i int, h *lab.Host) *testHost) (*lab.Switch, []*testHost) {
	t.Helper()
	s, err := lab.New(t).Switch("lan", 0)
	require.NoError(t, err)
	var hosts []*testHost
	for i := range 2 {
		hosts = append(hosts, start(i, addHost(t, s, s.Name+string(rune('A'+i)))))
	}
	add(t, "97", hosts...)
	return s, hosts
}

// TestMixed: a host with the fast path and one without understand each other, super-frames and checksums that nobody has
// completed included.
func TestMixed(t *testing.T) {
	_, hosts := newMixed(t, FastPathOn, FastPathOff)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	// What user space sends has an outer checksum that nobody has completed or verified here: it goes to the socket.
	awaitCarried(t, one, two, hosts[:1], nil)
	const size = 32 << 20
	for i := range one.Spec.Addrs {
		tx0, _ := hosts[0].carried()
		for _, way := range [][2]*lab.Domain{{one, two}, {two, one}} {
			_, err := lab.Transfer(soon(t), way[0].Node, way[1].Node, way[1].Spec.Addrs[i].Addr(), size)
			require.NoError(t, err)
		}
		tx, _ := hosts[0].carried()
		require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
	}
	require.Zero(t, hosts[1].drops(DropTooLong))
	require.Zero(t, hosts[1].drops(DropPort))
	tx, rx := hosts[1].carried()
	require.Zero(t, tx.Packets+rx.Packets)
}

// inKernel are the MACs of a vnet that the kernel of a host knows.
func (h *testHost) inKernel(id vnet.ID) (macs []wire.MAC) {
	h.t.Helper()
	h.mirror.writing.Lock()
	defer h.mirror.writing.Unlock()
	require.NoError(h.t, h.mirror.tables.MACs(func(m fastpath.MAC) {
		if m.Vnet == id {
			macs = append(macs, m.MAC)
		}
	}))
	return macs
}

// TestSecuredStaysOutOfTheKernel: nothing of a vnet with security gets into the kernel's tables, though another vnet's traffic is
// carried there; and what was carried is taken out before a vnet is secured, so that no frame of it leaves in the clear after.
func TestSecuredStaysOutOfTheKernel(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			_, s, hosts := newLab(t, 2, fastConfig())
			id97, id98 := idOf(t, "97"), idOf(t, "98")
			add(t, "97", hosts...)
			for _, h := range hosts {
				h.SetKeySource(shared(testKey))
				require.NoError(t, attach(h.Engine, securedOf(t, "98", level)))
			}
			one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			three, four := hosts[0].domain(3, "98"), hosts[1].domain(4, "98")
			awaitFast(t, one, two, hosts...)
			inClear := func(f lab.Frame) bool {
				d, ok := datagramIn(f.Data)
				id, _, err := wire.DecodeVUDP(d.payload)
				return ok && err == nil && (id == id97 || id == id98)
			}
			clear, err := s.Capture(inClear)
			require.NoError(t, err)
			ping(t, three, four.Addr())
			_, err = lab.Transfer(soon(t), three.Node, four.Node, four.Addr(), 8<<20)
			require.NoError(t, err)
			ping(t, one, two.Addr())
			for _, h := range hosts {
				require.NotEmpty(t, h.inKernel(id97), "what has no security is there: the test can fail")
				require.Empty(t, h.inKernel(id98))
				require.NotContains(t, h.mirror.tables.Vnets(), id98)
				require.NotEmpty(t, h.Entries(Filter{Vnet: id98}))
			}
			for _, f := range clear.Take() {
				d, _ := datagramIn(f.Data)
				id, _, _ := wire.DecodeVUDP(d.payload)
				require.Equal(t, id97, id)
			}

			for _, h := range hosts {
				require.NoError(t, attach(h.Engine, securedOf(t, "97", level)))
				require.Empty(t, h.inKernel(id97))
			}
			clear, err = s.Capture(inClear) // anew: the other may not have read yet what went before
			require.NoError(t, err)
			ping(t, one, two.Addr())
			_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 8<<20)
			require.NoError(t, err)
			require.Empty(t, clear.Take())
			for _, h := range hosts {
				require.Empty(t, h.inKernel(id97))
				require.NotEmpty(t, h.Entries(Filter{Vnet: id97}))
			}
		})
	}
}

// stream is a counted stream of datagrams from one domain to another.
type stream struct {
	t    testing.TB
	stop chan struct{}
	done sync.WaitGroup
	conn net.Conn

	mu   sync.Mutex
	sent int
	got  map[uint64]int
	last uint64 // the highest number that came
	// overtaken are the numbers of those that came after higher ones.
	overtaken []uint64
}

// startStream sends numbered datagrams, one every pause, until end.
func startStream(t testing.TB, from, to *lab.Domain, pause time.Duration) *stream {
	t.Helper()
	return startStreamTo(t, from.Node, to.Node, to.Addr(), pause)
}

// startStreamTo is startStream between any nodes.
func startStreamTo(t testing.TB, from, to *lab.Node, addr netip.Addr, pause time.Duration) *stream {
	t.Helper()
	s := &stream{t: t, stop: make(chan struct{}), got: map[uint64]int{}}
	var in net.PacketConn
	require.NoError(t, to.Do(func() (err error) {
		in, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
		return err
	}))
	require.NoError(t, in.(*net.UDPConn).SetReadBuffer(1<<20))
	require.NoError(t, from.Do(func() (err error) {
		s.conn, err = net.Dial("udp", in.LocalAddr().String())
		return err
	}))
	s.done.Go(func() {
		b := make([]byte, 2000)
		for {
			n, _, err := in.ReadFrom(b)
			if err != nil || n < 8 {
				return
			}
			s.mu.Lock()
			at := binary.BigEndian.Uint64(b)
			s.got[at]++
			if at < s.last {
				s.overtaken = append(s.overtaken, at)
			}
			s.last = max(s.last, at)
			s.mu.Unlock()
		}
	})
	s.done.Go(func() {
		defer in.Close()
		b := make([]byte, 200)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := uint64(0); ; {
			select {
			case <-s.stop:
				s.settle(n)
				return
			case <-tick.C:
			}
			binary.BigEndian.PutUint64(b, n)
			if _, err := s.conn.Write(b); err == nil {
				n++
				s.mu.Lock()
				s.sent = int(n)
				s.mu.Unlock()
			}
		}
	})
	return s
}

// settle sends a last datagram, again and again until it arrives: then those before it have arrived, too.
func (s *stream) settle(n uint64) {
	b := binary.BigEndian.AppendUint64(nil, n)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		_, _ = s.conn.Write(b)
		time.Sleep(2 * time.Millisecond)
		s.mu.Lock()
		_, arrived := s.got[n]
		s.mu.Unlock()
		if arrived {
			break
		}
	}
}

// end ends the stream, and tells how many datagrams did not come, or came twice.
func (s *stream) end() (sent, lost, doubled int) {
	close(s.stop)
	s.done.Wait()
	s.conn.Close()
	for n := range uint64(s.sent) {
		switch s.got[n] {
		case 0:
			lost++
		case 1:
		default:
			doubled++
		}
	}
	return s.sent, lost, doubled
}

// complete ends the stream, of which all must have come, and once. It tells how many.
func (s *stream) complete(t testing.TB) (sent int) {
	t.Helper()
	sent, lost, doubled := s.end()
	require.Zero(t, lost, "of %d", sent)
	require.Zero(t, doubled, "of %d", sent)
	return sent
}

// TestDaemonsGo: while the daemons of both hosts end and begin again and again, an established flow loses nothing; each
// new one knows at once where the MACs are, and the kernel goes on with its programs. The first ones have them at clsact, and
// later ones take them to TCX.
func TestDaemonsGo(t *testing.T) {
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost { return startEngineWith(t, h, fastConfig(), withoutTCX) })
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	there, back := startStream(t, one, two, time.Millisecond), startStream(t, two, one, time.Millisecond)
	for round := range 6 {
		i := round % 2
		hosts[i].stop()
		there.more(300) // nobody is there
		back.more(300)
		if round < 2 {
			hosts[i] = startEngineWith(t, hosts[i].Host, fastConfig(), withoutTCX)
		} else {
			hosts[i] = startEngineWith(t, hosts[i].Host, fastConfig(), withTCX)
		}
		eventually(t, "it learns from the kernel", func() bool { return len(hosts[i].Entries(Filter{})) == 1 })
		add(t, "97", hosts[i])
		eventually(t, "the kernel carries the vnet", func() bool {
			why, known := hosts[i].Status().FastPath.Vnets[idOf(t, "97")]
			return known && why == ""
		})
		kind := hookClsact
		if round >= 2 && hosts[i].hasTCX() {
			kind = hookTCX
		}
		for _, h := range hosts[i].hooks() {
			require.Equal(t, []string{kind}, hosts[i].at(h))
		}
	}
	for _, s := range []*stream{there, back} {
		require.Greater(t, s.complete(t), 1000)
	}
	tx, _ := hosts[0].carried()
	require.Greater(t, tx.Packets, uint64(1000), "counters go on")
	// What a daemon that is stopped on purpose leaves behind goes.
	hosts[0].stop()
	require.NoError(t, RemoveFastPath(hosts[0].Net))
	for _, h := range hosts[0].hooks() {
		require.Empty(t, hosts[0].at(h))
	}
}

// TestNeighboursStayKnown: while no daemon is there, domains find each other reachable when they ask (ARP and ND to the MAC
// that they know), without which flows of UDP would end.
func TestNeighboursStayKnown(t *testing.T) {
	for name, bypass := range map[string]Bypass{"bridge": BypassOff, "bypass": BypassAuto} {
		t.Run(name, func(t *testing.T) {
			cfg := fastConfig()
			cfg.Bypass = bypass
			_, _, hosts := newLab(t, 2, cfg)
			add(t, "97", hosts...)
			one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			for i := range one.Spec.Addrs {
				ping(t, one, two.Spec.Addrs[i].Addr())
			}
			awaitFast(t, one, two, hosts...)
			if bypass == BypassAuto {
				hosts[1].awaitWay(pastBridge, "")
			}
			hosts[0].stop()
			if bypass == BypassOff {
				hosts[1].stop()
			}
			for _, ends := range [][2]*lab.Domain{{one, two}, {two, one}} {
				for _, a := range ends[1].Spec.Addrs {
					neighbour := func(args ...string) string {
						t.Helper()
						out, err := ends[0].Run(soon(t), "ip", append([]string{"neigh"}, args...)...)
						require.NoError(t, err)
						return out
					}
					to := a.Addr().String()
					neighbour("change", to, "dev", "eth0", "nud", "probe") // it asks at once, three times
					state := ""
					eventually(t, "an answer", func() bool {
						state = neighbour("show", to)
						return !strings.Contains(state, "PROBE")
					})
					require.Contains(t, state, "REACHABLE")
				}
			}
		})
	}
}

// withoutTCX gives an engine a kernel that has no TCX, as before Linux 6.6, withTCX this one.
func withoutTCX(e *Engine) {
	if e.programs.host != nil {
		e.programs.host = oldDevices{devices{e.host}}
	}
}

func withTCX(e *Engine) { e.programs.host = devices{e.host} }

type oldDevices struct{ devices }

func (oldDevices) TCX(int, bool) ([]hostnet.TCXProgram, error) {
	return nil, &hostnet.UnsupportedError{What: "TCX", Needs: "Linux 6.6", Err: errors.New("invalid argument")}
}

// hasTCX reports whether this kernel has TCX.
func (h *testHost) hasTCX() bool {
	_, err := h.Net.TCX(1, false)
	return err == nil
}

// hooks are the places of the programs of vnet 97.
func (h *testHost) hooks() []hook {
	h.t.Helper()
	vnif, err := h.Net.LinkByName("vnif97")
	require.NoError(h.t, err)
	card, err := h.Uplink().Link()
	require.NoError(h.t, err)
	return []hook{{vnif.Index, true}, {card.Index, false}}
}

// at tells the kinds of all programs at a hook, in the order in which they run; "other" for those of others.
func (h *testHost) at(at hook) (kinds []string) {
	h.t.Helper()
	list, err := h.Net.TCX(at.index, at.egress)
	var unsupported *hostnet.UnsupportedError
	if !errors.As(err, &unsupported) {
		require.NoError(h.t, err)
	}
	ours := func(name, kind string) string {
		if name == fastNames[at.side()] {
			return kind
		}
		return "other"
	}
	for _, p := range list {
		kinds = append(kinds, ours(p.Name, hookTCX))
	}
	filters, err := h.Net.Filters(at.index, at.egress)
	require.NoError(h.t, err)
	for _, f := range filters {
		kinds = append(kinds, ours(f.Name, hookClsact))
	}
	return kinds
}

// TestFastMove: a domain migrates while the kernel carries its flow; the kernel takes the flow up again where it is then.
func TestFastMove(t *testing.T) {
	_, _, hosts := newLab(t, 3, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts[:2]...)
	p, err := two.StartPing(one.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	for _, to := range []int{2, 0, 2} {
		_, err = p.Fresh(soon(t))
		require.NoError(t, err)
		require.NoError(t, one.MoveTo(hosts[to].Host, "vif1.0", "vnet97"))
		require.NoError(t, one.Announce())
		_, err = p.Fresh(soon(t))
		require.NoError(t, err)
		awaitFast(t, one, two, hosts[to], hosts[1])
	}
}

// nft gives a host rules.
func (h *testHost) nft(rules string) {
	h.t.Helper()
	require.NoError(h.t, h.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		require.NoError(h.t, err, "%s", out)
		return nil
	}))
}

// startFast starts an engine that looks at its programs and the firewall now and then, and whose kernel believes that a host
// is heard for a moment.
func startFast(t testing.TB, h *lab.Host, cfg Config, heard, look time.Duration) *testHost {
	t.Helper()
	return startEngineWith(t, h, cfg, func(e *Engine) {
		e.programs.verifyEvery = look
		e.programs.base.HostTTL, e.programs.base.Renew = heard, heard/3
	})
}

// TestFirewallAppears: a rule that drops what arrives for the port from one host, or what is sent to it, is heeded though the
// kernel's programs run before it, by whatever way packets go. Of rules of nftables the engine is told; those of
// iptables-legacy it has to look for.
func TestFirewallAppears(t *testing.T) {
	for name, c := range map[string]struct {
		plain, v6 bool
		bypass    Bypass
		legacy    bool
		xdp       fastpath.XDP
	}{
		"TC": {bypass: BypassOff}, "iptables-legacy": {bypass: BypassOff, legacy: true}, "TC over IPv6": {bypass: BypassOff, v6: true}, "past the bridge": {bypass: BypassAuto},
		"XDP": {bypass: BypassOff, plain: true}, "XDP over IPv6, past the bridge": {bypass: BypassAuto, plain: true, v6: true},
		"joined": {bypass: BypassOff, plain: true, xdp: fastpath.XDPOff},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is to wait
			cfg := fastConfig()
			cfg.Bypass, cfg.IPv6, cfg.XDP = c.bypass, c.v6, cmp.Or(c.xdp, cfg.XDP)
			_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost {
				if c.plain {
					makePlain(t, h)
				}
				if c.v6 {
					require.NoError(t, h.Net.DeleteAddress(hostnet.Address{Index: deviceOf(t, h, "eth0").Index, Prefix: h.Uplink().Addr4}))
				}
				for _, name := range []string{"iptables", "ip6tables"} { // else rules keep frames from passing the bridge by
					_ = h.Net.SetSysctl("0", "net", "bridge", "bridge-nf-call-"+name)
				}
				look := time.Hour
				if c.legacy {
					look = 100 * time.Millisecond
				}
				return startFast(t, h, cfg, time.Second, look)
			})
			one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			family, ip, iptables, other := 0, "ip", "iptables-nft", hosts[1].Addr()
			if c.v6 {
				family, ip, iptables, other = 1, "ip6", "ip6tables-nft", hosts[1].Addr6()
			}
			// What passes to and fro; what is bulk to XDP, where that is on.
			var sent, got func(out bool) int
			if c.plain {
				there, back := startSegments(t, one, two, 5*time.Millisecond), startSegments(t, two, one, 5*time.Millisecond)
				streams, arrived := map[bool]*segments{true: there, false: back}, map[bool]int{}
				sent = func(out bool) int { return int(streams[out].written.Load()) }
				got = func(out bool) int {
					arrived[out] += len(streams[out].got.Take())
					return arrived[out]
				}
			} else {
				p, err := one.StartPing(two.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
				require.NoError(t, err)
				defer p.Close()
				sent, got = func(bool) int { return p.Stats().Sent }, func(bool) int { return p.Stats().Received }
			}
			passes := func(out bool) {
				t.Helper()
				before := got(out)
				eventually(t, "packets pass again", func() bool { return got(out) > before })
			}
			carried := func() {
				t.Helper()
				awaitFast(t, one, two, hosts...)
				if c.bypass == BypassAuto {
					hosts[0].awaitWay(pastBridge, "")
				}
				if !c.plain {
					return
				}
				if c.xdp == fastpath.XDPOff {
					hosts[0].awaitJoined()
					return
				}
				eventually(t, "XDP", func() bool { return hosts[0].Counters().FastPath.Underlays[family].Way == "xdp" })
				strip := hosts[0].programs.shortcuts.strip
				before, err := strip.Counters()
				require.NoError(t, err)
				eventually(t, "XDP strips what arrives", func() bool {
					now, err := strip.Counters()
					return err == nil && now.Stripped > before.Stripped
				})
			}
			type appears struct {
				name       string
				begin, end []string
				out        bool
			}
			rules := []appears{
				{"nft, input", []string{"nft add table inet x", "nft add chain inet x c { type filter hook input priority 0 ; }",
					"nft add rule inet x c udp dport 1798 " + ip + " saddr " + other.String() + " drop"}, []string{"nft delete table inet x"}, false},
				{"nft, output", []string{"nft add table inet x", "nft add chain inet x c { type filter hook output priority 0 ; }",
					"nft add rule inet x c udp dport 1798 " + ip + " daddr " + other.String() + " drop"}, []string{"nft delete table inet x"}, true},
				{"iptables, input", []string{iptables + " -A INPUT -p udp --dport 1798 -s " + other.String() + " -j DROP"},
					[]string{iptables + " -F INPUT"}, false},
				{"iptables, output", []string{iptables + " -A OUTPUT -p udp --dport 1798 -d " + other.String() + " -j DROP"},
					[]string{iptables + " -F OUTPUT"}, true},
			}
			if c.legacy {
				rules = []appears{{"iptables-legacy, output", []string{"iptables-legacy -A OUTPUT -p udp --dport 1798 -j DROP"},
					[]string{"iptables-legacy -F OUTPUT"}, true}}
			}
			for _, rule := range rules {
				t.Logf("%s", rule.name)
				carried()
				passes(rule.out)
				hosts[0].commands(rule.begin)
				eventually(t, rule.name+": nothing passes", func() bool {
					before, seen := sent(rule.out), got(rule.out)
					eventually(t, "packets are sent", func() bool { return sent(rule.out) >= before+30 })
					return got(rule.out) == seen
				})
				eventually(t, rule.name+": it is said", func() bool { // a moment after it has an effect
					u := hosts[0].Status().FastPath.Underlays[family]
					return rule.out == strings.Contains(u.Send, "has a rule for what is sent to UDP port 1798")
				})
				if c.bypass == BypassAuto {
					hosts[0].awaitWay(pastBridge, "")
				}
				hosts[0].commands(rule.end)
				passes(rule.out)
			}
			carried()
		})
	}
}

// commands runs commands on a host.
func (h *testHost) commands(lines []string) {
	h.t.Helper()
	for _, line := range lines {
		args := strings.Fields(line)
		_, err := h.Host.Run(soon(h.t), args[0], args[1:]...)
		require.NoError(h.t, err)
	}
}

// startWatching starts an engine that does not look at its programs of its own accord: what it notices of others it is told, or
// asks every second.
func startWatching(t testing.TB, h *lab.Host) *testHost {
	t.Helper()
	return startEngineWith(t, h, fastConfig(), func(e *Engine) { e.programs.verifyEvery = time.Hour })
}

// TestOthersFilters: a filter of another program at the same place runs first, and one that would come after ours keeps the
// kernel from carrying.
func TestOthersFilters(t *testing.T) {
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost { return startWatching(t, h) })
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	tc := func(args string) {
		t.Helper()
		out, err := hosts[0].Node.Run(soon(t), "tc", strings.Fields(args)...)
		require.NoError(t, err, "%s", out)
	}
	uplink, err := hosts[0].Uplink().Link()
	require.NoError(t, err)
	other := bpftest.New(t, ebpf.ProgramSpec{Type: ebpf.SchedCLS}, bpftest.Next)
	place := hostnet.Classifier{Index: uplink.Index, Priority: 5, Name: "other"}
	card := hook{index: uplink.Index}
	// Before ours: it sees all that arrives.
	require.NoError(t, hosts[0].Net.AttachClassifier(place, other))
	eventually(t, "it runs first", func() bool { return slices.Equal(hosts[0].at(card), []string{"other", hookClsact}) })
	awaitFast(t, one, two, hosts...)
	// After ours, it would see nothing.
	place.Priority = 65500
	require.NoError(t, hosts[0].Net.AttachClassifier(place, other))
	eventually(t, "the kernel receives no more", func() bool {
		return strings.Contains(hosts[0].Status().FastPath.Underlays[0].Receive, "at priority 65500 would be passed by")
	})
	_, before := hosts[0].carried()
	ping(t, one, two.Addr())
	_, after := hosts[0].carried()
	require.Equal(t, before.Packets, after.Packets)
	require.NoError(t, hosts[0].Net.DetachClassifier(place))
	awaitFast(t, one, two, hosts...)
	// A vnif whose traffic is shaped is user space's.
	tc("qdisc add dev vnif97 root tbf rate 1gbit burst 100kb latency 50ms")
	eventually(t, "user space carries the vnet", func() bool {
		return strings.Contains(hosts[0].Status().FastPath.Vnets[idOf(t, "97")], "queueing discipline tbf")
	})
	tc("qdisc del dev vnif97 root")
	awaitFast(t, one, two, hosts...)
	// Whoever takes ours away does not keep it away.
	tc("qdisc del dev eth0 clsact")
	awaitFast(t, one, two, hosts...)
	if !hosts[0].hasTCX() {
		return
	}
	list, err := hosts[0].Net.TCX(uplink.Index, false)
	require.NoError(t, err)
	require.NoError(t, hosts[0].Net.DetachTCXProgram(uplink.Index, false, list[0].ID))
	awaitFast(t, one, two, hosts...)
	// At TCX, too, others run first, though they came later.
	eventually(t, "ours is back", func() bool {
		list, err = hosts[0].Net.TCX(uplink.Index, false)
		require.NoError(t, err)
		return len(list) == 1
	})
	require.NoError(t, hosts[0].Net.AttachTCXProgram(uplink.Index, false, other, 0))
	eventually(t, "it runs first", func() bool { return slices.Equal(hosts[0].at(card), []string{"other", hookTCX}) })
	awaitFast(t, one, two, hosts...)
}

// TestOthersAtVnif: the same at a vnif, for programs that come late, at TCX and at clsact; where ours is can be seen.
func TestOthersAtVnif(t *testing.T) {
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost { return startWatching(t, h) })
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	other, _ := bpftest.Counter(t, ebpf.SchedCLS, bpftest.Next)
	for _, h := range hosts { // of which the second is a kernel without TCX
		vnif := h.hooks()[0]
		kind := hookClsact
		if h == hosts[0] && h.hasTCX() {
			kind = hookTCX
			// Others run first, though they came later.
			require.NoError(t, h.Net.AttachTCXProgram(vnif.index, true, other, 0))
			eventually(t, "it runs first", func() bool { return slices.Equal(h.at(vnif), []string{"other", hookTCX}) })
		}
		hook := func() string { return h.Status().FastPath.Hooks[idOf(t, "97")] }
		require.Equal(t, kind, hook())
		place := hostnet.Classifier{Index: vnif.index, Egress: true, Priority: 5, Name: "other"}
		require.NoError(t, h.Net.AttachClassifier(place, other))
		eventually(t, "ours is behind it", func() bool { return hook() == hookClsact })
		awaitFast(t, one, two, hosts...)
		late := place
		late.Priority = 65500
		require.NoError(t, h.Net.AttachClassifier(late, other))
		eventually(t, "the kernel sends no more", func() bool {
			return strings.Contains(h.Status().FastPath.Vnets[idOf(t, "97")], "at priority 65500 would be passed by")
		})
		require.Empty(t, hook())
		require.NoError(t, h.Net.DetachClassifier(late))
		require.NoError(t, h.Net.DetachClassifier(place))
		eventually(t, "ours is where it was", func() bool { return hook() == kind })
		awaitFast(t, one, two, hosts...)
		said := regexp.MustCompile(`"the kernel carries a vnet" vnet=\S*97 hook=` + kind)
		eventually(t, "it is said", func() bool { return said.MatchString(h.log.String()) })
	}
}

// TestNoKernel: where the kernel has no fast path user space carries all, and that is told once.
func TestNoKernel(t *testing.T) {
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost {
		return startEngineWith(t, h, fastConfig(), func(e *Engine) {
			e.programs.verifyEvery = 10 * time.Millisecond
			e.programs.load = func(fastpath.Times, []ebpf.ProgramID) (kernelTables, [2]*ebpf.Program, error) {
				return nil, [2]*ebpf.Program{}, &fastpath.UnsupportedError{Needs: "eBPF", Err: errors.New("invalid argument")}
			}
		})
	})
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	for range 20 {
		ping(t, one, two.Addr())
		hosts[0].mirror.look()
	}
	require.Equal(t, 1, hosts[0].log.Count("no kernel fast path"))
	require.Contains(t, hosts[0].Status().FastPath.Problem, "needs eBPF")
	require.False(t, hosts[0].Status().FastPath.On)
}

// TestFastBridge: the underlay is network-bridge's bridge, the usual Xen host: what comes by the network card is the kernel's,
// and what a domain on the same bridge sends goes by the sockets, whatever it pretends.
func TestFastBridge(t *testing.T) {
	for name, otherMAC := range map[string]bool{"the card has the bridge's MAC": false, "the card has another MAC": true} {
		t.Run(name, func(t *testing.T) {
			_, hosts := startPair(t, func(i int, h *lab.Host) *testHost {
				if i == 0 {
					bridgeUplink(t, h, otherMAC)
				}
				return startEngine(t, h, fastConfig())
			})
			one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			awaitFast(t, one, two, hosts...)
			_, err := lab.Transfer(soon(t), two.Node, one.Node, one.Addr(), 16<<20)
			require.NoError(t, err)
			_, rx := hosts[0].carried()
			require.Greater(t, rx.Bytes, uint64(16<<20))

			// A domain on the bridge itself, with the other host's address.
			bad, err := hosts[0].Domain(lab.DomainSpec{Name: "bad", Vif: "vif9.0", Bridge: "eth0", MAC: domainMAC(9)})
			require.NoError(t, err)
			require.NoError(t, hosts[0].AwaitForwarding(soon(t), "eth0"))
			bridge, err := hosts[0].Net.LinkByName("eth0")
			require.NoError(t, err)
			inner := udpFrame(t, domainMAC(1), 7, []byte("a lie"))
			copy(inner[6:12], domainMAC(2))
			packet, err := wire.AppendDatagram(nil, netip.AddrPortFrom(hosts[1].Addr(), 1798), netip.AddrPortFrom(hosts[0].Addr(), 1798), 64, 1, vudp(idOf(t, "97"), inner))
			require.NoError(t, err)
			frame := append(append([]byte{}, bridge.MAC...), domainMAC(9)...)
			frame = append(append(append(frame, 8, 0), packet...), vudp(idOf(t, "97"), inner)...)
			quiet(t, hosts[0])
			_, before := hosts[0].carried()
			for range 10 {
				require.NoError(t, bad.Send("eth0", frame))
			}
			ping(t, one, two.Addr())
			_, after := hosts[0].carried()
			require.LessOrEqual(t, after.Packets-before.Packets, uint64(3), "the kernel took what a domain sent")
		})
	}
}

// quiet waits until the kernel of a host has carried nothing for a moment.
func quiet(t testing.TB, h *testHost) {
	t.Helper()
	eventually(t, "nothing is on its way", func() bool {
		_, before := h.carried()
		time.Sleep(50 * time.Millisecond)
		_, after := h.carried()
		return before == after
	})
}

// bridgeUplink does to a host's card what network-bridge does: it is peth0, a port of the bridge eth0, which has its addresses.
func bridgeUplink(t testing.TB, h *lab.Host, otherMAC bool) {
	t.Helper()
	var mac net.HardwareAddr
	if otherMAC {
		mac = net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	require.NoError(t, h.BridgeCard(soon(t), h.Uplink().Device, mac))
}

// TestFastSizes: the sizes that matter pass, and a DF ping that fills 1500 does on an underlay of 1500.
func TestFastSizes(t *testing.T) {
	_, _, hosts := newLab(t, 2, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	for _, to := range two.Spec.Addrs {
		for _, size := range []int{16, 1000, 1400, 1401, 1422, 1423, 1452, 1472, 3000, 20_000} {
			if to.Addr().Is6() && size == 1472 {
				continue // does not fit 1500
			}
			_, err := one.Ping(soon(t), to.Addr(), lab.PingOptions{Size: size, DontFragment: size <= 1472})
			require.NoError(t, err, "%d bytes to %s", size, to)
		}
	}
}

// hostile are packets that a host sends whose headers lie: each with a number of its own in it, made from a seed.
func hostile(t testing.TB, from, to netip.Addr, toMAC, fromMAC net.HardwareAddr, id vnet.ID, count int) (out [][]byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 12))
	for i := range count {
		// Longer and longer within a batch of 200: datagrams of one length, or with a shorter one at the end, would be joined.
		inner := udpFrame(t, domainMAC(1), uint16(i), fmt.Appendf(make([]byte, 20+2*(i%200)), "%08d", i))
		copy(inner[6:12], domainMAC(2))
		payload := vudp(id, inner)
		p, err := wire.AppendDatagram(nil, netip.AddrPortFrom(from, wire.Port), netip.AddrPortFrom(to, wire.Port), 64, uint16(i), payload)
		require.NoError(t, err)
		f := append(append(append(append([]byte{}, toMAC...), fromMAC...), 8, 0), p...)
		f = append(f, payload...)
		copy(f[40:], []byte{0, 0}) // no checksum: nobody has verified one here
		const ip, udp, message, frame = 14, 34, 42, 64
		resum := true
		switch r.IntN(12) {
		case 0: // as it should be
		case 1:
			f = f[:ip+r.IntN(len(f)-ip)] // cut short
			resum = false
		case 2:
			f = append(f, make([]byte, r.IntN(100))...) // longer than it says
		case 3:
			binary.BigEndian.PutUint16(f[ip+2:], uint16(r.IntN(1600)))
		case 4:
			binary.BigEndian.PutUint16(f[udp+4:], uint16(r.IntN(1600)))
		case 5:
			f[message+r.IntN(6)] ^= byte(1 << r.IntN(8))
		case 6:
			f[message+6+r.IntN(16)] ^= byte(1 << r.IntN(8)) // the vnet
		case 7:
			f[frame+6+r.IntN(6)] ^= byte(1 << r.IntN(8)) // the source inside
		case 8:
			f[frame+r.IntN(40)] ^= byte(1 << r.IntN(8))
		case 9:
			f[ip+r.IntN(20)] ^= byte(1 << r.IntN(8))
			resum = r.IntN(2) == 0
		case 10:
			f[udp+r.IntN(6)] ^= byte(1 << r.IntN(8))
		case 11:
			binary.BigEndian.PutUint16(f[frame+16:], uint16(r.IntN(3000))) // the length of the packet inside
		}
		if resum && len(f) >= ip+20 {
			wire.PutSum(f[ip+10:], 0)
			wire.PutSum(f[ip+10:], ^wire.Fold(wire.Sum(f[ip:ip+20], 0)))
		}
		// Sources are another matter: MACs would move.
		if len(f) >= ip+16 {
			copy(f[ip+12:], from.AsSlice())
		}
		if resum && len(f) >= ip+20 {
			wire.PutSum(f[ip+10:], 0)
			wire.PutSum(f[ip+10:], ^wire.Fold(wire.Sum(f[ip:ip+20], 0)))
		}
		out = append(out, f)
	}
	return out
}

// victim is a host with domain 1, attacked in the name of an original host on its segment, behind which is domain 2.
type victim struct {
	*testHost
	d           *lab.Domain
	b           *original
	lan         *lab.Switch
	id          vnet.ID
	there, here hostnet.Link // the cards of the two
	card        *packet.Conn // the other host's
}

func newVictim(t testing.TB, cfg Config, plain bool) *victim {
	t.Helper()
	s, err := lab.New(t).Switch("lan", 2000) // room for frames that are too long for the vnif
	require.NoError(t, err)
	h := addHost(t, s, "A")
	if plain {
		makePlain(t, h)
	}
	x := &victim{testHost: startEngine(t, h, cfg), lan: s, id: idOf(t, "97")}
	add(t, "97", x.testHost)
	x.d = x.domain(1, "97")
	x.b = newOriginal(t, s, "B")
	x.there, err = h.Uplink().Link()
	require.NoError(t, err)
	x.here, err = x.b.Uplink().Link()
	require.NoError(t, err)
	require.NoError(t, x.b.Do(func() (err error) {
		x.card, err = packet.Listen(&net.Interface{Index: x.here.Index, Name: x.here.Name, MTU: x.here.MTU, HardwareAddr: x.here.MAC}, packet.Raw, 0, nil)
		return err
	}))
	t.Cleanup(func() { _ = x.card.Close() })
	return x
}

// send sends a packet as it is.
func (x *victim) send(f []byte) error {
	_, err := x.card.WriteTo(f, &packet.Addr{HardwareAddr: x.there.MAC})
	return err
}

// frame is one from domain 2 to domain 1.
func (x *victim) frame(text string) []byte {
	inner := udpFrame(x.t, domainMAC(1), 1, []byte(text))
	copy(inner[6:12], domainMAC(2))
	return inner
}

// packet carries a frame, as the other host's card would send it: without a checksum, since nobody has verified one here.
func (x *victim) packet(inner []byte) []byte {
	payload := vudp(x.id, inner)
	p, err := wire.AppendDatagram(nil, netip.AddrPortFrom(x.b.Addr(), wire.Port), netip.AddrPortFrom(x.Addr(), wire.Port), 64, 1, payload)
	require.NoError(x.t, err)
	f := append(append(append(append([]byte{}, x.there.MAC...), x.here.MAC...), 8, 0), p...)
	f = append(f, payload...)
	copy(f[40:], []byte{0, 0})
	return f
}

// lies are packets whose headers lie.
func (x *victim) lies(count int) [][]byte {
	return hostile(x.t, x.b.Addr(), x.Addr(), x.there.MAC, x.here.MAC, x.id, count)
}

// introduce has the host hear the other one, and know of domain 2. Both frames have been counted when it returns.
func (x *victim) introduce() {
	received := func() uint64 { return x.Counters().Vnets[0].Rx.Packets }
	before := received()
	x.b.send(wire.Group, vudp(x.id, x.frame("the group")))
	x.b.send(x.Addr(), vudp(x.id, x.frame("this host")))
	eventually(x.t, "the host hears the other one", func() bool { return received() >= before+2 })
}

// isNumbered tells the frames of packets that lie.
func isNumbered(f lab.Frame) bool { return !f.Outgoing && bytes.Contains(f.Data, []byte("000")) }

// outcome is what became of packets: frames that the domain got, how many the vnet counted, and what was dropped.
type outcome struct {
	frames   map[string]int
	received uint64
	drops    map[Reason]uint64
}

// attacked sends packets, with c capturing what the domain gets of them. Each batch is over when a frame that was sent after it has
// arrived, and nothing more is counted.
func (x *victim) attacked(packets [][]byte, c *lab.Capture) outcome {
	t := x.t
	before := map[Reason]uint64{}
	counters := x.Counters()
	received := counters.Vnets[0].Rx.Packets
	for _, d := range counters.Drops {
		before[d.Reason] = d.Count
	}
	total := func() (n uint64) {
		counters := x.Counters()
		for _, d := range counters.Drops {
			n += d.Count
		}
		return n + counters.Vnets[0].Rx.Packets
	}
	var frames []string
	for len(packets) > 0 {
		n := min(200, len(packets))
		for _, p := range packets[:n] {
			require.NoError(t, x.send(p))
		}
		packets = packets[n:]
		frames = append(frames, x.drain(c, "000 the last")...)
		for was, now := uint64(0), total()+1; was != now; was, now = now, total() {
			time.Sleep(20 * time.Millisecond)
		}
	}
	counters = x.Counters()
	o := outcome{frames: map[string]int{}, received: counters.Vnets[0].Rx.Packets - received, drops: map[Reason]uint64{}}
	for _, d := range counters.Drops {
		if n := d.Count - before[d.Reason]; n > 0 {
			o.drops[d.Reason] = n
		}
	}
	for _, f := range frames {
		o.frames[f]++
	}
	return o
}

// drain is what the domain got until now.
func (x *victim) drain(c *lab.Capture, text string) (frames []string) {
	last := x.frame(text) // what comes last has all others before it
	x.b.send(x.Addr(), vudp(x.id, last))
	for ctx := soon(x.t); ; {
		f, err := c.Next(ctx)
		require.NoError(x.t, err)
		if bytes.Equal(f.Data, last) {
			return frames
		}
		frames = append(frames, string(f.Data))
	}
}

// same asserts that packets came to the same as elsewhere.
func (o outcome) same(t testing.TB, want outcome) {
	t.Helper()
	require.Equal(t, want.drops, o.drops)
	require.Equal(t, want.received, o.received)
	for f, n := range want.frames {
		require.Equal(t, n, o.frames[f], "%x", f)
	}
	require.Len(t, o.frames, len(want.frames))
}

// TestSameDrops: what an attacker sends, in the name of a host that the kernel hears and of others, comes out or is dropped and
// counted by whatever way packets come in as it is without the fast path, reason by reason.
func TestSameDrops(t *testing.T) {
	var want outcome
	for _, c := range []struct {
		name   string
		mode   FastPath
		bypass Bypass
		plain  bool
		xdp    fastpath.XDP
	}{
		{"user space", FastPathOff, BypassOff, false, fastpath.XDPOff}, // to which the others are compared
		{"TC", FastPathOn, BypassOff, false, fastpath.XDPOff}, {"TC, past the bridge", FastPathOn, BypassAuto, false, fastpath.XDPOff},
		{"XDP", FastPathOn, BypassOff, true, fastpath.XDPOn}, {"XDP, past the bridge", FastPathOn, BypassAuto, true, fastpath.XDPOn},
		{"joined", FastPathOn, BypassOff, true, fastpath.XDPOff}, {"joined, past the bridge", FastPathOn, BypassAuto, true, fastpath.XDPOff},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := fastConfig()
			cfg.FastPath, cfg.Bypass, cfg.XDP, cfg.Workers = c.mode, c.bypass, c.xdp, 1
			x := newVictim(t, cfg, c.plain)
			at, err := x.d.Capture("eth0", isNumbered)
			require.NoError(t, err)
			x.introduce()
			fast := c.mode == FastPathOn
			if fast {
				eventually(t, "the kernel hears the host", func() bool {
					require.NoError(t, x.send(x.packet(x.frame("valid"))))
					_, rx := x.carried()
					return rx.Packets > 0
				})
			}
			if c.bypass == BypassAuto {
				x.awaitWay(pastBridge, "")
			}
			var joined *lab.Capture
			switch {
			case c.plain && c.xdp == fastpath.XDPOn:
				x.awaitXDP()
			case c.plain:
				x.awaitJoined()
				joined, err = x.Capture(fastpath.JoinDevice, func(f lab.Frame) bool { return !f.Outgoing })
				require.NoError(t, err)
			}
			quiet(t, x.testHost)
			_, rx0 := x.carried()
			got := x.attacked(append(x.attacks(), x.odd()...), at)
			_, rx := x.carried()
			require.Equal(t, fast, rx.Packets-rx0.Packets > 100, "%d carried by the kernel", rx.Packets-rx0.Packets)
			if joined != nil {
				require.Greater(t, len(joined.Take()), 50)
			} else if c.plain {
				n, err := x.programs.shortcuts.strip.Counters()
				require.NoError(t, err)
				require.Greater(t, n.Stripped, uint64(50))
				require.Zero(t, n.Foreign)
			}
			if !fast {
				want = got
			}
			got.same(t, want)
			t.Logf("%d frames, %d of them by the kernel, drops %v", got.received, rx.Packets-rx0.Packets, got.drops)
		})
	}
	if want.frames == nil {
		t.Skip("not all of its parts ran")
	}
	require.Greater(t, len(want.frames), 200)
	for _, r := range []Reason{DropMalformed, DropMessage, DropUnknownVnet, DropSource, DropTooLong} {
		require.NotZero(t, want.drops[r], r)
	}
}

// TestFastSwitch: fastpath can be switched while frames pass; what was counted stays, and no program stays behind.
func TestFastSwitch(t *testing.T) {
	_, _, hosts := newLab(t, 2, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	before, _ := hosts[0].carried()
	off := fastConfig()
	off.FastPath = FastPathOff
	require.NoError(t, hosts[0].Reload(off))
	eventually(t, "it is off", func() bool { return !hosts[0].Status().FastPath.On })
	for _, at := range hosts[0].hooks() {
		eventually(t, "no program is left", func() bool { return len(hosts[0].at(at)) == 0 })
	}
	ping(t, one, two.Addr())
	after, _ := hosts[0].carried()
	require.GreaterOrEqual(t, after.Packets, before.Packets, "what was counted stays")
	require.NoError(t, hosts[0].Reload(fastConfig()))
	awaitFast(t, one, two, hosts...)
	again, _ := hosts[0].carried()
	require.Greater(t, again.Packets, after.Packets)
}
