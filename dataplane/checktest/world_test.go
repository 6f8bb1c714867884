package checktest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/bpftest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// setup says what kind of world to make.
type setup struct {
	name     string
	underlay int // MTU
	inner    int // MTU
	v6       bool
	etherip  bool
	pmtu     bool
	// unclamped leaves the MSS of SYNs as it is.
	unclamped bool
	// both families, head-end replication and VFWD bring flooded frames by several ways.
	both, replicate, peers bool
	// by are the carriers of the hosts.
	by [2]carrier
	// often has a world try the settings of that name.
	often bool
	// xenbr has the underlay be a bridge of which the host's card is a port, as Xen's network-bridge makes it.
	xenbr bool
}

// uncut reports whether user space gets super-frames that no card has cut on the way, which it has to cut without knowing
// how their sender would have.
func (s *setup) uncut() bool {
	return s.by[0].segments() && s.by[1] == user || s.by[0] == user && s.by[1].segments()
}

// carrier is what carries frames on a host.
type carrier string

// On hosts with TC the card segments UDP tunnels; on all others what is sent is cut before the switch. Where there is no
// bypass, the bridges stay in the way.
const (
	user      carrier = "" // user space
	tc        carrier = "TC"
	xdp       carrier = "XDP"
	bypassTC  carrier = "bypass and TC"
	bypassXDP carrier = "bypass and XDP"

	// TC on cards that cut what is sent, too, behind which a pair of devices joins segments.
	joined       carrier = "joined"
	bypassJoined carrier = "bypass and joined"
)

func (c carrier) String() string {
	if c == user {
		return "user space"
	}
	return string(c)
}

func (c carrier) fast() bool     { return c != user }
func (c carrier) bypass() bool   { return c == bypassTC || c == bypassXDP || c == bypassJoined }
func (c carrier) joined() bool   { return c == joined || c == bypassJoined }
func (c carrier) segments() bool { return c == tc || c == bypassTC }

// fast reports whether the kernel carries frames on a host.
func (s *setup) fast() bool { return s.by[0].fast() || s.by[1].fast() }

// limit is the largest inner frame whose outer packet fits, from the tables of the specification.
func (s *setup) limit() int {
	switch {
	case s.v6:
		return s.underlay - 70
	case s.etherip:
		return s.underlay - 38
	}
	return s.underlay - 50
}

// overtaking reports whether a frame that went by the bridge can be overtaken by those that pass it by: one a minute of
// each MAC goes there, so that the bridge does not forget where it is.
func (s *setup) overtaking() bool { return s.by[0].bypass() || s.by[1].bypass() }

// flooded is the same for frames that go to everybody: what fits all ways.
func (s *setup) flooded() int {
	switch {
	case s.peers:
		return s.underlay - 50 - 32
	case s.both:
		return s.underlay - 70
	}
	return s.limit()
}

// copies is how many copies of a flooded frame come besides the first. They race each other on two workers.
func (s *setup) copies() (n int) {
	for _, way := range []bool{s.both, s.replicate, s.peers} {
		if way {
			n++
		}
	}
	return n
}

var groups = []netip.Addr{netip.MustParseAddr("224.10.0.1"), dataplane.DefaultGroup6}

// side is a host with its engine, and a domain whose card is the test's.
type side struct {
	host   *lab.Host
	card   string // the host's network card
	engine *dataplane.Engine
	domain *lab.Domain // it has no addresses
	guest  *lab.Domain // it has: its kernel makes the frames
	mac    wire.MAC
	tap    *tap
	inbox  *inbox
	maker  *maker
}

// world is two hosts with a vnet.
type world struct {
	*setup
	sides  [2]*side
	fabric *lab.Node // where the switch is
	wire   *wireCheck
	marks  int
}

func vnet97(t testing.TB) vnet.Config {
	t.Helper()
	c, err := vnet.ConfigFromSXP(sxp.List(sxp.Atom("vnet"), sxp.Pair("id", "97")))
	require.NoError(t, err)
	return c
}

// newWorld makes a world that ends with the test.
func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	l := lab.New(t)
	sw, err := l.Switch("lan", s.underlay)
	require.NoError(t, err)
	c := vnet97(t)
	n, bridge := sw.Device()
	w := &world{setup: &s, fabric: n, wire: newWireCheck(&s, c.ID)}
	openTap(t, n, bridge, "switch", false, w.wire.frame)
	for i := range w.sides {
		w.sides[i] = w.newSide(t, sw, c, i)
	}
	for i, x := range w.sides {
		x.maker = newMaker(x.mac, w.sides[1-i].mac, byte(i))
	}
	w.meet(t)
	return w
}

// atClsact reports whether a host's card has a filter of others, behind which the fast path's program is at clsact, whatever
// the kernel has, and without XDP.
func (w *world) atClsact(host string) bool {
	return host == "B" && w.underlay > 3502 && w.fast()
}

// carrier is that of a host.
func (w *world) carrier(host string) carrier { return w.by[host[0]-'A'] }

func (w *world) newSide(t *testing.T, sw *lab.Switch, c vnet.Config, i int) *side {
	h, err := sw.Host(string(rune('A' + i)))
	require.NoError(t, err)
	if w.v6 {
		dev, err := h.Uplink().Link()
		require.NoError(t, err)
		require.NoError(t, h.Net.DeleteAddress(hostnet.Address{Index: dev.Index, Prefix: h.Uplink().Addr4}))
	} else {
		w.wire.addHost(h.Addr())
	}
	if w.v6 || w.both {
		w.wire.addHost(h.Addr6())
	}
	if w.fast() && !w.carrier(h.Name).segments() {
		// So that what is sent is cut before the switch, as a network card would.
		dev, err := h.Uplink().Link()
		require.NoError(t, err)
		require.NoError(t, h.Net.SetFeatures(dev.Index, map[string]bool{"tx-udp_tnl-segmentation": false, "tx-udp_tnl-csum-segmentation": false}))
	}
	if w.atClsact(h.Name) {
		dev, err := h.Uplink().Link()
		require.NoError(t, err)
		prog := bpftest.New(t, ebpf.ProgramSpec{Type: ebpf.SchedCLS}, bpftest.Next)
		require.NoError(t, h.Net.AttachClassifier(hostnet.Classifier{Index: dev.Index, Priority: 5, Name: "other"}, prog))
	}
	x := &side{host: h, card: h.Uplink().Device, inbox: newInbox()}
	if w.xenbr {
		x.card = "p" + x.card
		require.NoError(t, h.BridgeCard(soon(t), h.Uplink().Device, net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}))
	}
	x.engine = w.startEngine(t, h)
	devices, err := port.Ensure(h.Net, port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif, MTU: w.inner})
	require.NoError(t, err)
	require.NoError(t, x.engine.Attach(c, devices))
	x.domain = w.newDomain(t, x, 1+i)
	x.guest = w.newDomain(t, x, 11+i)
	require.NoError(t, h.AwaitForwarding(soon(t), c.Bridge))
	x.mac = wire.MAC(x.domain.Spec.MAC)
	eth, err := x.domain.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, x.domain.Net.DisableIPv6(eth.Index))
	// A packet socket leaves room for an 802.1Q tag only, not for others.
	require.NoError(t, x.domain.Net.SetMTU(eth.Index, w.inner+8))
	from, reports := wire.MAC(domainMAC(2-i)), wire.MAC{0x33, 0x33, 0, 0, 0, 0x16}
	x.tap = openTap(t, x.domain.Node, eth.Index, h.Name+"'s domain", false, func(f []byte, h wire.VnetHdr, _ bool) {
		// No reports of group membership, which the other domain sent before its IPv6 was off.
		if len(f) < 14 || wire.Source(f) == from && wire.Destination(f) != reports {
			x.inbox.put(f, h)
		}
	})
	return x
}

// startEngine runs an engine until the test ends.
func (w *world) startEngine(t *testing.T, h *lab.Host) *dataplane.Engine {
	cfg := dataplane.DefaultConfig()
	cfg.Workers = 2
	cfg.IPv6 = w.v6 || w.both
	other := h.Addr().Next()
	if h.Name == "B" {
		other = h.Addr().Prev()
	}
	if w.replicate {
		cfg.Replicate = []dataplane.NamedHost{{Addr: other.String()}}
	}
	if w.peers {
		cfg.Peers = []dataplane.NamedHost{{Addr: other.String()}}
	}
	if w.etherip {
		cfg.Encapsulation = dataplane.EtherIP
	}
	cfg.ClampMSS = !w.unclamped
	cfg.FastPath, cfg.Bypass = dataplane.FastPathOff, dataplane.BypassOff
	if w.carrier(h.Name).fast() {
		cfg.FastPath = dataplane.FastPathOn
	}
	cfg.XDP = fastpath.XDPOn // cards are veth
	if w.carrier(h.Name).joined() {
		cfg.XDP = fastpath.XDPAuto
	}
	if w.carrier(h.Name).bypass() {
		cfg.Bypass = dataplane.BypassAuto
	}
	if w.pmtu {
		cfg.MTUMode = dataplane.MTUPath
	}
	e, err := dataplane.New(cfg, h.Net, logger(t, h.Name))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	select {
	case <-e.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("engine ended: %v", err)
	}
	return e
}

// domainMAC is the MAC of domain n.
func domainMAC(n int) net.HardwareAddr { return net.HardwareAddr{0x00, 0x16, 0x3e, 0, 0, byte(n)} }

func (w *world) newDomain(t *testing.T, x *side, n int) *lab.Domain {
	spec := lab.DomainSpec{
		Name: fmt.Sprintf("dom%d", n), Vif: fmt.Sprintf("vif%d.0", n), Bridge: "vnet97", MAC: domainMAC(n), MTU: w.inner,
	}
	if n > 10 {
		spec.Addrs = []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.97.0.%d/16", n)), netip.MustParsePrefix(fmt.Sprintf("fd97::%d/64", n)),
		}
	}
	d, err := x.host.Domain(spec)
	require.NoError(t, err)
	return d
}

// meet sends frames to and fro until both hosts know where both domains are, and send unicast.
func (w *world) meet(t *testing.T) {
	t.Helper()
	ctx := soon(t)
	for _, m := range []*maker{w.sides[0].maker, w.sides[1].maker, w.sides[0].maker} {
		x, y := w.sides[m.way], w.sides[1-m.way]
		hello := m.plain("hello", nil, untagged, 0x88b5, 60)
		require.NoError(t, x.tap.send(hello))
		w.arrived(ctx, t, y, hello)
	}
	for i, x := range w.sides {
		y := w.sides[1-i]
		eventually(t, "a host knows where the other domain is", func() bool {
			for _, e := range x.engine.Entries(dataplane.Filter{}) {
				// Hosts with both families are known by their IPv4 address, once copies have told that it is one host.
				if e.MAC == y.mac && e.State == dataplane.Reachable && e.Addr.Is6() == w.v6 {
					return true
				}
			}
			if w.both {
				hello := y.maker.plain("hello, all", &broadcast, untagged, 0x88b5, 60)
				require.NoError(t, y.tap.send(hello))
				w.arrived(ctx, t, x, hello)
			}
			return false
		})
	}
	w.sync(t)
}

// arrived waits for a shot at a side. What a domain said while its IPv6 was on may come first.
func (w *world) arrived(ctx context.Context, t *testing.T, x *side, s shot) {
	t.Helper()
	for {
		list, err := x.inbox.take(ctx, 1)
		require.NoError(t, err, w.drops())
		if slices.ContainsFunc(list, func(c caught) bool { return bytes.Equal(c.frame, s.frame) }) {
			return
		}
	}
}

// sync waits until the tap of the switch, and the domains, have seen all that was sent until now.
func (w *world) sync(t *testing.T) {
	t.Helper()
	for i, x := range w.sides {
		w.marks++
		s := x.maker.raw("mark", nil, untagged, 0x88b6, fmt.Appendf(make([]byte, 46), "mark %d", w.marks))
		seen := w.wire.await(s.frame)
		require.NoError(t, x.tap.send(s))
		ctx := soon(t)
		for {
			list, err := w.sides[1-i].inbox.take(ctx, 1)
			require.NoError(t, err, "no mark: %s", w.drops())
			if n := len(list) - 1; bytes.Equal(list[n].frame, s.frame) {
				if n > 0 {
					t.Errorf("%d frames that nobody expected, the first: %x", n, short(list[0].frame))
				}
				break
			}
		}
		select {
		case <-seen:
		case <-ctx.Done():
			t.Fatal("the tap of the switch does not see what passes")
		}
	}
	w.wire.report(t)
}

// duplicates is how many copies of frames the engine has dropped.
func (x *side) duplicates() int { return int(x.engine.Counters().Drops[dataplane.DropDuplicate].Count) }

// drops lists what the engines dropped, and what the kernels of their hosts, of both domains and of the switch did: a veth
// whose other end has no room counts that itself, and so do the switch's ports for the hosts' cards.
func (w *world) drops() string {
	out := kernelDrops(w.fabric)
	for _, x := range w.sides {
		for _, n := range []*lab.Node{x.host.Node, x.domain.Node, x.guest.Node} {
			out = append(out, kernelDrops(n)...)
		}
		for _, d := range x.engine.Counters().Drops {
			if d.Count > 0 {
				out = append(out, fmt.Sprintf("%s %s %d", x.host.Name, d.Reason, d.Count))
			}
		}
	}
	if out == nil {
		return "neither the engines nor the kernels dropped anything"
	}
	return "drops: " + strings.Join(out, ", ")
}

// kernelDrops lists what the kernel of a node dropped at its devices, while it put fragments together, and at sockets; since the node
// was made.
func kernelDrops(n *lab.Node) (out []string) {
	var dev, snmp []byte
	err := n.Do(func() (err error) {
		if dev, err = os.ReadFile("/proc/thread-self/net/dev"); err == nil {
			snmp, err = os.ReadFile("/proc/thread-self/net/snmp")
		}
		return err
	})
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(dev)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) == 16 && (f[3] != "0" || f[11] != "0") { // received, sent: bytes, packets, errs, drop, …
			out = append(out, fmt.Sprintf("%s %s received %s sent %s", n.Name, strings.TrimSpace(name), f[3], f[11]))
		}
	}
	var names []string
	for line := range strings.Lines(string(snmp)) { // pairs of lines, names and numbers
		f := strings.Fields(line)
		if len(names) == 0 {
			names = f
			continue
		}
		for i, name := range names {
			if slices.Contains([]string{"InDiscards", "OutDiscards", "ReasmFails", "ReasmTimeout", "FragFails", "InErrors", "RcvbufErrors", "SndbufErrors", "MemErrors"}, name) && f[i] != "0" {
				out = append(out, fmt.Sprintf("%s %s %s %s", n.Name, strings.TrimSuffix(names[0], ":"), name, f[i]))
			}
		}
		names = nil
	}
	return out
}

// expected is what a shot becomes.
type expected struct {
	shot   *shot
	frames [][]byte
}

// expect cuts the shots as the engine has to; early if the kernel cuts before.
func (w *world) expect(t testing.TB, shots []shot, early bool) []expected {
	t.Helper()
	out := make([]expected, len(shots))
	for i := range shots {
		limit := w.limit()
		if isFlooded(shots[i].frame) {
			limit = w.flooded()
		}
		if early {
			limit = 0
		}
		list, err := pieces(shots[i].frame, shots[i].hdr, limit)
		require.NoError(t, err, "shot %s", shots[i].name)
		for _, f := range list {
			if !w.unclamped {
				clamp(f, w.limit())
			}
		}
		out[i] = expected{&shots[i], list}
	}
	return out
}

func isFlooded(f []byte) bool {
	to := wire.Destination(f)
	return to.Multicast() || to == unknown
}

// Windows keep below what the kernel queues on the way (net.core.netdev_max_backlog is 1000 packets).
const (
	windowFrames = 300
	windowBytes  = 400_000
	// windowCopies is less, since copies may come much later.
	windowCopies = 100
	// windowFast is less, too: frames are two packets each where they don't fit, come from both sides, and wait for the same
	// processor at up to four devices; one with XDP has room for 256.
	windowFast = 50
	// windowFragments is how many IPv4 fragments may be between two of one packet before the kernel gives it up (default of
	// net.ipv4.ipfrag_max_dist, ip-sysctl.rst). Two may pass different processors, of which one is kept waiting.
	windowFragments = 64
)

// fragments is how many IPv4 fragments of the underlay frames become.
func (w *world) fragments(frames [][]byte) (n int) {
	for _, f := range frames {
		if !w.v6 && len(f) > w.limit() {
			n += 2
		}
	}
	return n
}

// patience is how long frames may be on the way, on a machine that has other things to do.
const patience = 20 * time.Second

// exchange sends shots from both sides at once and compares what comes out.
func (w *world) exchange(t *testing.T, s *setting, shots [2][]expected) {
	t.Helper()
	w.wire.during(s.name)
	var group sync.WaitGroup
	var errs [2][]string
	for i := range w.sides {
		group.Go(func() { errs[i] = w.shoot(t.Context(), s, w.sides[i], w.sides[1-i], shots[i]) })
	}
	group.Wait()
	for i := range errs {
		for _, e := range errs[i] {
			t.Errorf("from %s: %s", w.sides[i].host.Name, e)
		}
	}
	if t.Failed() {
		t.Log(w.drops())
	}
	w.sync(t)
}

// shoot sends shots from one side to the other, window by window.
func (w *world) shoot(ctx context.Context, s *setting, from, to *side, shots []expected) (errs []string) {
	most := windowFrames
	if w.fast() {
		// The kernel cuts bulk TCP elsewhere than user space, and what goes by the one overtakes what goes by the other.
		fast := *s
		fast.elsewhere, fast.shuffled = true, true
		s = &fast
		most = windowFast
	}
	if w.copies() > 0 {
		most = windowCopies
	}
	for len(shots) > 0 && len(errs) == 0 {
		n, frames, fragments, size, weight := 0, 0, 0, 0, 0
		copies := to.duplicates()
		for n < len(shots) && (n == 0 || frames+len(shots[n].frames) <= most &&
			fragments+w.fragments(shots[n].frames) <= windowFragments && size+len(shots[n].shot.frame) <= windowBytes) {
			frames += len(shots[n].frames)
			fragments += w.fragments(shots[n].frames)
			size += len(shots[n].shot.frame)
			weight += weights(shots[n].frames)
			if isFlooded(shots[n].shot.frame) {
				copies += w.copies() * len(shots[n].frames)
			}
			n++
		}
		for _, x := range shots[:n] {
			if x.shot.broken {
				for _, f := range x.frames {
					w.wire.expectBroken(f)
				}
			}
			if err := from.tap.send(*x.shot); err != nil {
				return append(errs, fmt.Sprintf("send %s, %d bytes: %v", x.shot.name, len(x.shot.frame), err))
			}
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		list, err := to.inbox.take(wait, weight)
		if err != nil {
			errs = append(errs, err.Error())
		}
		errs = append(errs, compare(s, s.shuffled || w.copies() > 0, shots[:n], list)...)
		// A host remembers frames only so long: no more before the copies have come.
		tick := time.NewTicker(time.Millisecond) // a counter tells nobody that it has changed
		for w.copies() > 0 && to.duplicates() < copies && wait.Err() == nil {
			select {
			case <-tick.C:
			case <-wait.Done():
			}
		}
		tick.Stop()
		if missing := copies - to.duplicates(); w.copies() > 0 && missing > 0 {
			errs = append(errs, fmt.Sprintf("%d copies did not come", missing))
		}
		cancel()
		shots = shots[n:]
	}
	return errs
}

// compare compares what was sent with what came out, flow by flow: order between flows is free. Within one
// it is only where the kernel changes it: what one connection sends on two processors passes two queues.
func compare(s *setting, reordered bool, shots []expected, list []caught) (errs []string) {
	got := map[string][]caught{}
	for _, c := range list {
		if s.recut {
			c.super, c.behind = true, true
		}
		k := flowOf(c.frame)
		got[k] = append(got[k], c)
	}
	type sent struct {
		what  string
		frame []byte
	}
	want := map[string][]sent{}
	var flows []string
	for _, x := range shots {
		for i, f := range x.frames {
			k := flowOf(f)
			if want[k] == nil {
				flows = append(flows, k)
			}
			want[k] = append(want[k], sent{fmt.Sprintf("%s, frame %d of %d", x.shot.name, i+1, len(x.frames)), f})
		}
	}
	for _, k := range flows {
		a, b := want[k], got[k]
		delete(got, k)
		if s.late && isTCP(a[0].frame) {
			continue
		}
		if reordered {
			first := a[0].frame
			slices.SortStableFunc(a, func(x, y sent) int { return inOrder(first, x.frame, y.frame) })
			slices.SortStableFunc(b, func(x, y caught) int { return inOrder(first, x.frame, y.frame) })
		}
		if s.elsewhere && isTCP(a[0].frame) {
			var in, out [][]byte
			for _, x := range a {
				in = append(in, x.frame)
			}
			for _, x := range b {
				out = append(out, x.frame)
			}
			if err := sameStream(in, out); err != nil && (!s.again || sameBytes(in, out) != nil) {
				errs = append(errs, fmt.Sprintf("%s: %v", a[0].what, err))
			}
			continue
		}
		for i := range min(len(a), len(b)) {
			if len(errs) == 5 {
				return append(errs, "and so on")
			}
			if !sameBut(a[i].frame, b[i]) {
				errs = append(errs, fmt.Sprintf("%s: went in as %d bytes, came out as %d bytes\n\twent in  %x\n\tcame out %x",
					a[i].what, len(a[i].frame), len(b[i].frame), short(a[i].frame), short(b[i].frame)))
			}
		}
		if len(a) > len(b) {
			errs = append(errs, fmt.Sprintf("%s: did not come out, %d bytes", a[len(b)].what, len(a[len(b)].frame)))
		}
		if len(a) < len(b) {
			errs = append(errs, fmt.Sprintf("%s: %d frames more, the first: %x", a[len(a)-1].what, len(b)-len(a), short(b[len(a)].frame)))
		}
	}
	for _, rest := range got {
		if s.late && isTCP(rest[0].frame) {
			continue
		}
		errs = append(errs, fmt.Sprintf("%d frames that nobody sent, the first: %x", len(rest), short(rest[0].frame)))
		break
	}
	return errs
}

func short(f []byte) []byte { return f[:min(len(f), 120)] }

// flowOf names the flow of a frame: MACs and tags, addresses, protocol and ports. A frame that is no IP
// packet is a flow of its own.
func flowOf(f []byte) string {
	l, err := look(f)
	if err != nil {
		return string(f)
	}
	src, dst := l.addresses(f)
	flow := string(f[:l.l3]) + string(src) + string(dst) + string(rune(l.proto))
	if (l.proto == protoTCP || l.proto == protoUDP) && !l.fragment {
		flow += string(f[l.l4:min(l.l4+4, l.end)])
	}
	return flow
}

// peerName is the device that the engine reads.
func peerName(t testing.TB) string { return port.PartnerName(vnet97(t).ID) }
