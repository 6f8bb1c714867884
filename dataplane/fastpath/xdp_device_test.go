package fastpath

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/bpftest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

const wired = "eth0" // a test host's card

// endpoint is one of two hosts on a cable, whose cards segment neither tunnels nor UDP: a bridge with a vnif and a
// domain. In the place of user space, which carries what the fast path leaves, the two vnifs are a pair.
type endpoint struct {
	*lab.Host
	*Tables
	domain *lab.Domain
	card   hostnet.Link
	addr   netip.Addr
	xdp    *Attached
	in     hostnet.Classifier
	tcx    bool // the programs are at TCX, else at clsact
}

// attachIn puts a program at the card's ingress, in the place of the one that is there.
func (e *endpoint) attachIn(t *testing.T, prog *ebpf.Program) {
	t.Helper()
	if !e.tcx {
		require.NoError(t, e.Net.AttachClassifier(e.in, prog))
		return
	}
	first, err := e.Net.FirstAtIngress(e.card.Index)
	require.NoError(t, err)
	require.NoError(t, e.Net.AttachTCXProgram(e.card.Index, false, prog, first))
}

func (e *endpoint) detachIn(t *testing.T) {
	t.Helper()
	if !e.tcx {
		require.NoError(t, e.Net.DetachClassifier(e.in))
		return
	}
	first, err := e.Net.FirstAtIngress(e.card.Index)
	require.NoError(t, err)
	require.NoError(t, e.Net.DetachTCXProgram(e.card.Index, false, first))
}

// hooks runs a test with the programs at clsact and, where the kernel has it, at TCX.
func hooks(t *testing.T, test func(t *testing.T, tcx bool)) {
	for _, tcx := range []bool{false, true} {
		t.Run(map[bool]string{false: "clsact", true: "tcx"}[tcx], func(t *testing.T) { test(t, tcx) })
	}
}

// endpoints makes two hosts that know each other.
func endpoints(t *testing.T, v6, tcx bool) [2]*endpoint {
	t.Helper()
	return endpointsOf(t, v6, tcx, lab.DomainSpec{})
}

// endpointsOf is endpoints with domains of a kind of their own.
func endpointsOf(t *testing.T, v6, tcx bool, kind lab.DomainSpec) [2]*endpoint {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	l := lab.New(t)
	var e [2]*endpoint
	for i := range e {
		h, err := l.Host(fmt.Sprintf("host%d", i+1))
		require.NoError(t, err)
		if kind.Netkit {
			h.NeedNetkit(t)
		}
		e[i] = &endpoint{Host: h, addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
		if v6 {
			e[i].addr = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))
		}
	}
	_, err := e[0].Net.EnsureVeth(hostnet.Veth{Name: wired, Partner: wired, PartnerHost: e[1].Net})
	require.NoError(t, err)
	_, err = e[0].Net.EnsureVeth(hostnet.Veth{Name: "vnif97", Partner: "vnif97", PartnerHost: e[1].Net})
	require.NoError(t, err)
	for i, h := range e {
		h.card, err = h.Net.LinkByName(wired)
		require.NoError(t, err)
		require.NoError(t, h.Net.SetFeatures(h.card.Index, map[string]bool{
			"tx-udp_tnl-segmentation": false, "tx-udp_tnl-csum-segmentation": false, "tx-udp-segmentation": false, "rx-gro": true,
		}))
		require.NoError(t, h.Net.SetUp(h.card.Index))
		bits := 24
		if v6 {
			bits = 64
		}
		require.NoError(t, h.Net.EnsureAddress(hostnet.Address{Index: h.card.Index, Prefix: netip.PrefixFrom(h.addr, bits)}))
		bridge, _, err := h.Net.EnsureBridge("vnet97")
		require.NoError(t, err)
		vnif, err := h.Net.LinkByName("vnif97")
		require.NoError(t, err)
		require.NoError(t, h.Net.SetMaster(vnif.Index, bridge.Index))
		require.NoError(t, h.Net.SetUp(vnif.Index))
		h.domain, err = h.Domain(lab.DomainSpec{
			Name: fmt.Sprintf("domain%d", i+1), Netkit: kind.Netkit, Vif: "vif1.0", Bridge: "vnet97", MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, byte(i + 1)},
			MTU: 1400,
			Addrs: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.97.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd97::%d/64", i+1)),
			},
		})
		require.NoError(t, err)
		h.Tables, err = Load(Times{})
		require.NoError(t, err)
		t.Cleanup(h.Tables.Close)
		require.NoError(t, h.AddVnet(vnet97, vnif.Index, vnif.MTU))
		require.NoError(t, h.Net.AttachClassifier(hostnet.Classifier{Index: vnif.Index, Egress: true, Priority: 10, Name: NameOut}, h.Out()))
		h.in = hostnet.Classifier{Index: h.card.Index, Priority: 10, Name: NameIn}
		_, err = h.Net.TCX(h.card.Index, false)
		h.tcx = tcx && err == nil
		h.attachIn(t, h.In())
	}
	for i, h := range e {
		other := e[1-i]
		require.NoError(t, h.SetUnderlay(Underlay{
			Addr: h.addr, Index: h.card.Index, MTU: h.card.MTU, MAC: wire.MAC(h.card.MAC), Port: wire.Port, TTL: 64, Send: true, Receive: true,
		}))
		require.NoError(t, h.SetHost(other.addr, both))
		require.NoError(t, h.Heard(other.addr, Now()))
		require.NoError(t, h.PutLocal(vnet97, wire.MAC(h.domain.Spec.MAC), Now()))
		require.NoError(t, h.PutRemote(vnet97, wire.MAC(other.domain.Spec.MAC), other.addr, Now()))
		for _, p := range other.domain.Spec.Addrs { // nobody floods
			_, err := h.domain.Run(ctx, "ip", "neigh", "replace", p.Addr().String(), "lladdr", other.domain.Spec.MAC.String(), "dev", "eth0", "nud", "permanent")
			require.NoError(t, err)
		}
		require.NoError(t, h.AwaitForwarding(ctx, "vnet97"))
		for _, x := range e { // what is sent before is lost
			require.NoError(t, x.Net.AwaitRunning(ctx, x.card.Index))
		}
		_, err := h.Ping(ctx, other.addr, lab.PingOptions{}) // so that the neighbour is known
		require.NoError(t, err)
	}
	return e
}

// strip attaches XDP to a host's card, as ChooseIngress would have it.
func (e *endpoint) strip(t *testing.T) *Stripper {
	t.Helper()
	s, err := e.LoadXDP()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	d, err := LookAt(e.Net, e.card.Index)
	require.NoError(t, err)
	way, why := ChooseIngress(d, XDPOn)
	require.Equal(t, IngressXDP, way, "%s", why)
	e.xdp, err = s.Attach(e.Net, d)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.xdp.Detach()) })
	return s
}

func transfer(t *testing.T, from, to *endpoint, addr netip.Addr, size int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := lab.Transfer(ctx, from.domain.Node, to.domain.Node, addr, size)
	require.NoError(t, err)
}

// taken is how many TCP segments the host's own stack took.
func (e *endpoint) taken(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	text, err := e.Run(ctx, "cat", "/proc/self/net/snmp")
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); f[0] == "Tcp:" && f[1] != "RtoAlgorithm" {
			n, err := strconv.Atoi(f[10]) // InSegs
			require.NoError(t, err)
			return n
		}
	}
	t.Fatal("no counters of TCP")
	return 0
}

// TestStrippedStream: TCP between two domains by XDP both ways.
func TestStrippedStream(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 outside %v", v6), func(t *testing.T) {
			e := endpoints(t, v6, false)
			one, two := e[0], e[1]
			strip := [2]*Stripper{one.strip(t), two.strip(t)}
			const size = 16 << 20
			for i, to := range two.domain.Spec.Addrs {
				transfer(t, one, two, to.Addr(), size)
				got, _ := two.VnetCounters(vnet97)
				assert.Greater(t, got.RxBytes, uint64(size*(i+1)))
			}
			for i, s := range strip {
				c, err := s.Counters()
				require.NoError(t, err)
				t.Logf("host %d: %+v", i+1, c)
				assert.Positive(t, c.Stripped)
				assert.Zero(t, c.Foreign)
				assert.Zero(t, c.NoRoom)
				if i == 1 {
					assert.Greater(t, c.Stripped, uint64(2*size/1400*9/10), "nearly all segments")
				}
				left, err := e[i].Left()
				require.NoError(t, err)
				assert.Zero(t, left.In[LeftError])
			}
		})
	}
}

// TestStrippedWhileCaptured: somebody captures on the card. Its packet socket has what is stripped, too, and TC finds the marks
// nevertheless.
func TestStrippedWhileCaptured(t *testing.T) {
	hooks(t, func(t *testing.T, tcx bool) {
		e := endpoints(t, false, tcx)
		s := e[1].strip(t)
		const size = 4 << 20
		transfer(t, e[0], e[1], e[1].domain.Spec.Addrs[0].Addr(), size)
		before := stripped(t, s)
		c, err := e[1].Capture(wired, func(lab.Frame) bool { return false })
		require.NoError(t, err)
		defer c.Close()
		transfer(t, e[0], e[1], e[1].domain.Spec.Addrs[0].Addr(), size)
		assert.Greater(t, stripped(t, s)-before, uint64(size/1400*9/10))
	})
}

// TestStripsNothingAlone: TC's program goes while XDP strips. What XDP stripped in that moment is nobody's, and XDP
// strips nothing more; when TC is back, it does.
func TestStripsNothingAlone(t *testing.T) {
	hooks(t, func(t *testing.T, tcx bool) {
		e := endpoints(t, false, tcx)
		one, two := e[0], e[1]
		s := two.strip(t)
		to := two.domain.Spec.Addrs[0].Addr()
		transfer(t, one, two, to, 4<<20)
		require.NoError(t, two.xdp.Check())

		two.detachIn(t)
		require.ErrorIs(t, two.xdp.Check(), ErrNotFirst)
		// For the attacker's sake: TC seems to have answered, and for good.
		s.answered(t, two.card.Index, Now()+uint64(time.Hour))
		before, segments := stripped(t, s), two.taken(t)
		frame := ethernet(wire.MAC(two.card.MAC), wire.MAC(one.domain.Spec.MAC), 0x0800, tcp4(100)) // for the host itself
		copy(frame[14+12:], append(one.addr.AsSlice(), two.addr.AsSlice()...))
		copy(frame[14+10:], []byte{0, 0})
		binary.NativeEndian.PutUint16(frame[24:], ^wire.Fold(wire.Sum(frame[14:34], 0)))
		require.EqualValues(t, 0xffff, wire.Fold(wire.Sum(frame[14:34], 0)))
		packet := outer(t, one.addr, two.addr, vnet97, frame)
		copy(packet, two.card.MAC)
		for range 10 {
			require.NoError(t, one.Send(wired, packet))
		}
		require.Eventually(t, func() bool { return stripped(t, s) >= before+10 }, patience, time.Millisecond)
		_, err := one.Ping(t.Context(), two.addr, lab.PingOptions{}) // behind them
		require.NoError(t, err)
		assert.Equal(t, segments, two.taken(t), "the host took a stripped frame")

		// Without the trick XDP notices by itself.
		s.answered(t, two.card.Index, ago(time.Second))
		before = stripped(t, s)
		for range 10 {
			require.NoError(t, one.Send(wired, packet))
		}
		_, err = one.Ping(t.Context(), two.addr, lab.PingOptions{})
		require.NoError(t, err)
		assert.Equal(t, before, stripped(t, s), "stripped without TC")

		two.attachIn(t, two.In())
		require.NoError(t, two.xdp.Check())
		transfer(t, one, two, to, 4<<20)
		assert.Greater(t, stripped(t, s), before+1000)
	})
}

func stripped(t *testing.T, s *Stripper) uint64 {
	t.Helper()
	c, err := s.Counters()
	require.NoError(t, err)
	return c.Stripped
}

// TestStrippedGenerations: TC drops what a program of another generation stripped.
func TestStrippedGenerations(t *testing.T) {
	hooks(t, func(t *testing.T, tcx bool) {
		e := endpoints(t, false, tcx)
		one, two := e[0], e[1]
		s := two.strip(t)
		// TC has tables of its own, as after an upgrade that could not take over the old ones.
		other, err := Load(Times{})
		require.NoError(t, err)
		t.Cleanup(other.Close)
		two.attachIn(t, other.In())
		require.ErrorIs(t, two.xdp.Check(), ErrNotFirst)
		s.answered(t, two.card.Index, Now()+uint64(time.Hour))
		packet := outer(t, one.addr, two.addr, vnet97, ethernet(wire.MAC(two.domain.Spec.MAC), wire.MAC(one.domain.Spec.MAC), 0x0800, tcp4(100)))
		copy(packet, two.card.MAC)
		before := stripped(t, s)
		for range 10 {
			require.NoError(t, one.Send(wired, packet))
		}
		require.Eventually(t, func() bool {
			o, err := (&Stripper{tables: other}).Counters()
			require.NoError(t, err)
			return o.Foreign == 10
		}, patience, time.Millisecond)
		assert.Equal(t, before+10, stripped(t, s))
	})
}

// TestAttachXDP: it comes after TC, leaves others' programs alone, and says why it can't.
func TestAttachXDP(t *testing.T) {
	hooks(t, func(t *testing.T, tcx bool) {
		e := endpoints(t, false, tcx)
		two := e[1]
		s, err := two.LoadXDP()
		require.NoError(t, err)
		t.Cleanup(s.Close)
		d, err := LookAt(two.Net, two.card.Index)
		require.NoError(t, err)

		t.Run("without TC", func(t *testing.T) {
			two.detachIn(t)
			_, err := s.Attach(two.Net, d)
			require.ErrorIs(t, err, ErrNotFirst)
			two.attachIn(t, two.In())
		})
		t.Run("another program first", func(t *testing.T) {
			other := hostnet.Classifier{Index: two.card.Index, Priority: 1, Name: "other"}
			if two.tcx { // programs come one behind the other
				two.detachIn(t)
				require.NoError(t, two.Net.AttachTCXProgram(two.card.Index, false, two.Out(), 0))
				require.NoError(t, two.Net.AttachTCXProgram(two.card.Index, false, two.In(), 0))
			} else {
				require.NoError(t, two.Net.AttachClassifier(other, two.Out()))
			}
			_, err := s.Attach(two.Net, d)
			require.ErrorIs(t, err, ErrNotFirst)
			if two.tcx {
				two.detachIn(t) // which is the other
			} else {
				require.NoError(t, two.Net.DetachClassifier(other))
			}
		})
		t.Run("another XDP program", func(t *testing.T) {
			other := bpftest.New(t, ebpf.ProgramSpec{Type: ebpf.XDP}, bpftest.XDPPass)
			require.NoError(t, two.Net.AttachXDP(two.card.Index, other, 0))
			now, err := LookAt(two.Net, two.card.Index)
			require.NoError(t, err)
			assert.NotZero(t, now.XDP)
			_, why := ChooseIngress(now, XDPOn)
			assert.Contains(t, why, "another XDP program")
			_, err = s.Attach(two.Net, d)
			require.ErrorIs(t, err, hostnet.ErrBusy)
			require.NoError(t, Unstrip(two.Net, two.card.Index))
			now, err = LookAt(two.Net, two.card.Index)
			require.NoError(t, err)
			require.NotZero(t, now.XDP, "others' are left alone")
			require.NoError(t, two.Net.DetachXDP(two.card.Index, now.XDP))
		})
		t.Run("too few queues", func(t *testing.T) {
			ctx := t.Context()
			_, err := e[0].Run(ctx, "ethtool", "-L", wired, "tx", "2")
			if err != nil {
				t.Logf("one processor has one queue: %v", err)
				return
			}
			_, err = s.Attach(two.Net, d)
			var unsupported *hostnet.UnsupportedError
			require.ErrorAs(t, err, &unsupported)
			assert.Contains(t, err.Error(), "receive queues")
			_, err = two.Run(ctx, "ethtool", "-L", wired, "rx", "2")
			require.NoError(t, err)
			a, err := s.Attach(two.Net, d)
			require.NoError(t, err)
			require.NoError(t, a.Detach())
		})
		t.Run("detached", func(t *testing.T) {
			a, err := s.Attach(two.Net, d)
			require.NoError(t, err)
			now, err := two.Net.XDPProgram(two.card.Index)
			require.NoError(t, err)
			assert.NotZero(t, now)
			require.NoError(t, a.Detach())
			require.NoError(t, a.Detach())
			now, err = two.Net.XDPProgram(two.card.Index)
			require.NoError(t, err)
			assert.Zero(t, now)
		})
	})
}

// TestStripAtBridgePort: the underlay is a bridge, as network-bridge makes it, and the card is its port. TCP goes by XDP; and
// if TC's program is gone while XDP strips, what it stripped gets neither to the host nor, by the bridge, to the LAN.
func TestStripAtBridgePort(t *testing.T) {
	e := endpoints(t, false, true)
	one, two := e[0], e[1]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, args := range []string{
		"link add xenbr type bridge forward_delay 0 mcast_snooping 0", "link set xenbr address " + two.card.MAC.String(),
		"addr flush dev " + wired, "link set " + wired + " master xenbr", "link set xenbr up", "addr add " + two.addr.String() + "/24 dev xenbr",
		"link add lan type veth peer name behind", "link set lan master xenbr", "link set lan up", "link set behind up",
	} {
		_, err := two.Run(ctx, "ip", strings.Fields(args)...)
		require.NoError(t, err)
	}
	require.NoError(t, two.AwaitForwarding(ctx, "xenbr"))
	bridge, err := two.Net.LinkByName("xenbr")
	require.NoError(t, err)
	require.NoError(t, two.SetUnderlay(Underlay{
		Addr: two.addr, Index: bridge.Index, MTU: bridge.MTU, MAC: wire.MAC(bridge.MAC), Port: wire.Port, TTL: 64, Send: true, Receive: true,
	}))
	for _, h := range e { // both ask again who has the other's address
		_, err := h.Ping(ctx, e[0].addr, lab.PingOptions{})
		require.NoError(t, err)
	}
	s := two.strip(t)
	assert.Equal(t, "bridge", two.xdp.device.Master)
	transfer(t, one, two, two.domain.Spec.Addrs[0].Addr(), 8<<20)
	require.Greater(t, stripped(t, s), uint64(8<<20/1400*9/10))
	for n := uint64(0); n != stripped(t, s); { // what ends its connection would be sent again and again from here on
		n = stripped(t, s)
		_, err = one.domain.Ping(ctx, two.domain.Spec.Addrs[0].Addr(), lab.PingOptions{})
		require.NoError(t, err)
	}

	two.detachIn(t)
	s.answered(t, two.card.Index, Now()+uint64(time.Hour))
	lan, err := two.Capture("behind", func(f lab.Frame) bool { return f.EtherType() == 0x0800 && len(f.Data) > 23 && f.Data[23] == 6 })
	require.NoError(t, err)
	defer lan.Close()
	before, segments := stripped(t, s), two.taken(t)
	for _, to := range []wire.MAC{wire.MAC(two.card.MAC), {0, 0x16, 0x3e, 0, 0, 0x77}} { // for the host, for somebody on the LAN
		packet := outer(t, one.addr, two.addr, vnet97, ethernet(to, wire.MAC(one.domain.Spec.MAC), 0x0800, tcp4(100)))
		copy(packet, two.card.MAC)
		for range 10 {
			require.NoError(t, one.Send(wired, packet))
		}
	}
	require.Eventually(t, func() bool { return stripped(t, s) == before+20 }, patience, time.Millisecond)
	_, err = one.Ping(ctx, two.addr, lab.PingOptions{}) // behind them
	require.NoError(t, err)
	assert.Equal(t, segments, two.taken(t), "the host took a stripped frame")
	assert.Empty(t, lan.Take(), "the LAN got one")
}

// TestVia: frames go to the neighbour that user space named, as long as it follows the routes; then to whom the kernel's routes say.
func TestVia(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[v6], func(t *testing.T) {
			e := endpoints(t, v6, false)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			via, router := netip.MustParseAddr("192.0.2.77"), net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
			if v6 {
				via = netip.MustParseAddr("2001:db8::77")
			}
			_, err := e[0].Run(ctx, "ip", "neigh", "add", via.String(), "lladdr", router.String(), "dev", wired, "nud", "permanent")
			require.NoError(t, err)
			c, err := e[1].Capture(wired, func(f lab.Frame) bool {
				return bytes.Contains(f.Data, wire.AppendVUDP(nil, vnet97))
			})
			require.NoError(t, err)
			pings, err := e[0].domain.StartPing(e[1].domain.Addr(), lab.PingOptions{Interval: 10 * time.Millisecond})
			require.NoError(t, err)
			defer pings.Close()
			sentTo := func(mac net.HardwareAddr) {
				t.Helper()
				c.Take()
				require.Eventually(t, func() bool {
					for _, f := range c.Take() {
						if bytes.Equal(f.Data[:6], mac) {
							return true
						}
					}
					return false
				}, time.Minute, 5*time.Millisecond)
			}
			sentTo(e[1].card.MAC)
			require.NoError(t, e[0].Alive(Now()+uint64(time.Hour)))
			require.NoError(t, e[0].SetHost(e[1].addr, Host{Send: true, Receive: true, Via: via}))
			sentTo(router)
			require.NoError(t, e[0].SetHost(e[1].addr, Host{Send: true, Receive: true, Via: e[1].addr}))
			sentTo(e[1].card.MAC)
			require.NoError(t, e[0].SetHost(e[1].addr, Host{Send: true, Receive: true, Via: via}))
			sentTo(router)
			require.NoError(t, e[0].Alive(0)) // the daemon is dead
			sentTo(e[1].card.MAC)
		})
	}
}
