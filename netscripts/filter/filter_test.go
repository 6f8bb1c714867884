package filter

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/netscripts/internal/nstest"
)

// lab is a bridge br0 with the ports peth0, vif1.0, vif2.0 and stranger; the other ends of the pairs
// are in the same namespace, named out-…, and frames are sent and received there.
type lab struct {
	*nstest.Host
	t    testing.TB
	ends map[string]*packet.Conn
}

func newLab(t testing.TB) *lab {
	l := &lab{nstest.New(t), t, map[string]*packet.Conn{}}
	l.IP("link add br0 type bridge mcast_snooping 0\nlink set br0 addrgenmode none\nlink set br0 up")
	for _, port := range []string{"peth0", "vif1.0", "vif2.0", "stranger"} {
		out := "out-" + port
		l.IP(fmt.Sprintf(`link add %[1]s type veth peer name %[2]s
link set %[1]s addrgenmode none
link set %[2]s addrgenmode none
link set %[1]s master br0
link set %[1]s up
link set %[2]s up arp off`, port, out))
		require.NoError(t, l.Do(func() error {
			device, err := net.InterfaceByName(out)
			if err != nil {
				return err
			}
			c, err := packet.Listen(device, packet.Raw, 0x0003, nil) // ETH_P_ALL
			l.ends[port] = c
			return err
		}))
		t.Cleanup(func() { _ = l.ends[port].Close() })
	}
	// Carrier comes in the background.
	require.Eventually(t, func() bool {
		return strings.Count(l.Show("link", "show"), "state UP") == 9
	}, 60*time.Second, 10*time.Millisecond)
	return l
}

// onOneProcessor keeps the frames that fn sends in their order: a pair of devices queues them on the processor that sends,
// and each processor has a queue of its own.
func onOneProcessor(t testing.TB, fn func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &all))
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	require.NoError(t, unix.SchedSetaffinity(0, &one))
	defer func() { require.NoError(t, unix.SchedSetaffinity(0, &all)) }()
	fn()
}

// passes sends frames in at one port and tells which of them come out of another. A last frame that
// always passes says that all the others had their chance: it is an ARP probe.
func (l *lab) passes(from, to string, frames ...[]byte) []bool {
	l.t.Helper()
	sentinel := frame(domain, broadcast, 0x0806, arp(domain, "0.0.0.0"), "sentinel"+fmt.Sprint(time.Now().UnixNano()))
	in, out := l.ends[from], l.ends[to]
	onOneProcessor(l.t, func() {
		for _, f := range append(frames, sentinel) {
			_, err := in.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]})
			require.NoError(l.t, err)
		}
	})
	passed := make([]bool, len(frames))
	require.NoError(l.t, out.SetReadDeadline(time.Now().Add(time.Minute)))
	buf := make([]byte, 4096)
	for {
		n, _, err := out.ReadFrom(buf)
		require.NoError(l.t, err)
		if slices.Equal(buf[:n], sentinel) {
			return passed
		}
		same := func(f []byte) bool {
			// A packet socket shows a tagged frame without its tag.
			return slices.Equal(f, buf[:n]) || slices.Equal(slices.Concat(f[:12], f[16:]), buf[:n])
		}
		if i := slices.IndexFunc(frames, same); i >= 0 {
			passed[i] = true
		}
	}
}

var (
	domain    = net.HardwareAddr{0x00, 0x16, 0x3e, 0, 0, 1}
	other     = net.HardwareAddr{0x00, 0x16, 0x3e, 0, 0, 2}
	broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}
)

func frame(src, dst net.HardwareAddr, kind uint16, payload []byte, tail string) []byte {
	f := slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, kind), payload, []byte(tail))
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func arp(mac net.HardwareAddr, sender string) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac, netip.MustParseAddr(sender).AsSlice(), make([]byte, 6), []byte{10, 0, 0, 9})
}

func ip4(src string, protocol byte, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	copy(h[12:], netip.MustParseAddr(src).AsSlice())
	copy(h[16:], []byte{255, 255, 255, 255})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return append(h, payload...)
}

func udp(src, dst uint16) []byte {
	return []byte{byte(src >> 8), byte(src), byte(dst >> 8), byte(dst), 0, 12, 0, 0, 'd', 'a', 't', 'a'}
}

func ip6(src string, protocol byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, protocol, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], netip.MustParseAddr(src).AsSlice())
	copy(h[24:], netip.MustParseAddr("ff02::1").AsSlice())
	return append(h, payload...)
}

// hopByHop puts an extension header with the router alert before the payload, as MLD has it.
func hopByHop(next byte, payload []byte) []byte {
	return append([]byte{next, 0, 5, 2, 0, 0, 1, 0}, payload...)
}

// icmp6 is a message with a target, as neighbour discovery has it.
func icmp6(kind byte, target string) []byte {
	return slices.Concat([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr(target).AsSlice())
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	cases := []struct {
		what   string
		frame  []byte
		strict bool // passes with addresses and MAC
	}{
		{"own IPv4", frame(domain, broadcast, 0x0800, ip4("10.0.0.5", 17, udp(1, 2)), "a"), true},
		{"own network", frame(domain, broadcast, 0x0800, ip4("10.1.7.7", 17, udp(1, 2)), "b"), true},
		{"other IPv4", frame(domain, broadcast, 0x0800, ip4("10.0.0.6", 17, udp(1, 2)), "c"), false},
		{"beside the network", frame(domain, broadcast, 0x0800, ip4("10.2.7.7", 17, udp(1, 2)), "d"), false},
		{"DHCP", frame(domain, broadcast, 0x0800, ip4("0.0.0.0", 17, udp(68, 67)), "e"), true},
		{"as a DHCP server", frame(domain, broadcast, 0x0800, ip4("0.0.0.0", 17, udp(67, 68)), "f"), false},
		{"nobody", frame(domain, broadcast, 0x0800, ip4("0.0.0.0", 17, udp(1, 2)), "g"), false},
		{"other MAC", frame(other, broadcast, 0x0800, ip4("10.0.0.5", 17, udp(1, 2)), "h"), false},
		{"ARP", frame(domain, broadcast, 0x0806, arp(domain, "10.0.0.5"), "i"), true},
		{"ARP for another", frame(domain, broadcast, 0x0806, arp(domain, "10.0.0.6"), "j"), false},
		{"ARP with another MAC inside", frame(domain, broadcast, 0x0806, arp(other, "10.0.0.5"), "k"), false},
		{"ARP of another kind", frame(domain, broadcast, 0x0806, append([]byte{0, 6}, arp(domain, "10.0.0.5")[2:]...), "l"), false},
		{"own IPv6", frame(domain, broadcast, 0x86dd, ip6("2001:db8::5", 17, udp(1, 2)), "m"), true},
		{"other IPv6", frame(domain, broadcast, 0x86dd, ip6("2001:db8::6", 17, udp(1, 2)), "n"), false},
		{"link-local", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 17, udp(1, 2)), "o"), false},
		{"DHCPv6", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 17, udp(546, 547)), "p"), true},
		{"solicitation", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 58, icmp6(135, "2001:db8::9")), "q"), true},
		{"duplicate detection", frame(domain, broadcast, 0x86dd, ip6("::", 58, icmp6(135, "2001:db8::5")), "r"), true},
		{"own advertisement", frame(domain, broadcast, 0x86dd, ip6("2001:db8::5", 58, icmp6(136, "2001:db8::5")), "s"), true},
		{"advertisement of link-local", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 58, icmp6(136, "fe80::5")), "t"), true},
		{"advertisement of another's", frame(domain, broadcast, 0x86dd, ip6("2001:db8::5", 58, icmp6(136, "2001:db8::6")), "u"), false},
		{"router advertisement", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 58, icmp6(134, "::")), "v"), false},
		{"router solicitation", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 58, icmp6(133, "::")), "w"), true},
		{"group report", frame(domain, broadcast, 0x86dd, ip6("fe80::5", 0, hopByHop(58, icmp6(143, "::"))), "x"), true},
		{"tagged", frame(domain, broadcast, 0x8100, append([]byte{0, 5, 8, 0}, ip4("10.0.0.5", 17, udp(1, 2))...), "y"), false},
		{"LLC", frame(domain, broadcast, 40, append([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, ip4("10.0.0.6", 17, udp(1, 2))...), "z"), false},
	}
	frames := make([][]byte, len(cases))
	for i, c := range cases {
		frames[i] = c.frame
	}
	l := newLab(t)
	f := &Filter{}
	check := func(why string, want func(i int) bool) {
		t.Helper()
		for i, passed := range l.passes("vif1.0", "peth0", frames...) {
			require.Equal(t, want(i), passed, "%s: %s", why, cases[i].what)
		}
	}
	set := func(v Vif) {
		t.Helper()
		require.NoError(t, l.Do(func() error { return f.SetVif(v) }))
	}
	all := func(int) bool { return true }
	check("no rules", all)
	set(Vif{Name: "vif1.0", Bridge: "br0", MAC: domain})
	check("no addresses", all)
	set(Vif{Name: "vif1.0", Bridge: "br0", MAC: domain, Addresses: prefixes("10.0.0.5/32", "10.1.0.0/16", "2001:db8::5/128")})
	check("addresses and MAC", func(i int) bool { return cases[i].strict })
	for _, passed := range l.passes("vif2.0", "peth0", frames...) {
		require.True(t, passed, "another interface")
	}
	set(Vif{Name: "vif1.0", Bridge: "br0", Addresses: prefixes("10.0.0.5/32", "10.1.0.0/16", "2001:db8::5/128")})
	check("MAC unknown", func(i int) bool {
		return cases[i].strict || strings.Contains(cases[i].what, "other MAC") || strings.Contains(cases[i].what, "another MAC")
	})
	set(Vif{Name: "vif1.0", Bridge: "br0", MAC: domain, Addresses: prefixes("10.0.0.5/32")})
	check("IPv4 only", func(i int) bool { return slices.Contains([]string{"own IPv4", "DHCP", "ARP"}, cases[i].what) })
	require.NoError(t, l.Do(func() error { return f.RemoveVif("vif1.0") }))
	require.NoError(t, l.Do(func() error { return f.RemoveVif("vif1.0") }), "twice")
	check("removed", all)
}

func TestGuard(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := &Filter{}
	own := frame(domain, broadcast, 0x0800, ip4("10.0.0.5", 17, udp(1, 2)), "own")
	spoof := frame(domain, broadcast, 0x0800, ip4("10.0.0.6", 17, udp(1, 2)), "spoof")
	do := func(fn func() error) {
		t.Helper()
		require.NoError(t, l.Do(fn))
	}
	var exact bool
	for range 2 { // twice is once
		do(func() (err error) {
			exact, err = f.Guard("br0", "peth0")
			return err
		})
	}
	do(func() error {
		guarded, err := f.Guarded("br0")
		require.True(t, guarded)
		return err
	})
	do(func() error { return f.SetVif(Vif{Name: "vif1.0", Bridge: "br0", Addresses: prefixes("10.0.0.5/32")}) })
	do(func() error { return f.SetVif(Vif{Name: "vif2.0", Bridge: "br0"}) })
	require.Equal(t, []bool{true, false}, l.passes("vif1.0", "peth0", own, spoof))
	require.Equal(t, []bool{true, false}, l.passes("vif1.0", "vif2.0", own, spoof))
	require.Equal(t, []bool{true, true}, l.passes("vif2.0", "peth0", own, spoof), "no addresses given")
	require.Equal(t, []bool{true, true}, l.passes("peth0", "vif1.0", own, spoof))
	require.False(t, l.reaches("stranger", "peth0"))
	require.False(t, l.reaches("stranger", "vif1.0"))

	// Attached without a rule for it, and off again.
	do(func() error { return f.RemoveVif("vif2.0") })
	require.False(t, l.reaches("vif2.0", "peth0"))
	if exact {
		require.False(t, l.reaches("vif2.0", "stranger"), "both unknown")
	}
	do(func() error { return f.Unguard("br0") })
	do(func() error { return f.Unguard("br0") })
	require.Equal(t, []bool{true}, l.passes("stranger", "peth0", own))
	require.Equal(t, []bool{true, false}, l.passes("vif1.0", "peth0", own, spoof), "its own rules stay")
	do(func() error { return f.RemoveVif("vif1.0") })
	if _, err := exec.LookPath("nft"); err == nil {
		out, err := l.Output(exec.Command("nft", "list", "ruleset"))
		require.NoError(t, err)
		require.Empty(t, out)
	}
}

// reaches sends a frame in at one port and tells whether it comes out of another, where no frame of
// the same way is sure to pass. A pair of devices delivers in the sender's context: what the bridge's
// side of the second port sends after that comes behind it.
func (l *lab) reaches(from, to string) bool {
	l.t.Helper()
	probe := frame(other, broadcast, 0x88b5, nil, "probe"+fmt.Sprint(time.Now().UnixNano()))
	_, err := l.ends[from].WriteTo(probe, &packet.Addr{HardwareAddr: broadcast})
	require.NoError(l.t, err)
	last := frame(domain, broadcast, 0x88b6, nil, "last"+fmt.Sprint(time.Now().UnixNano()))
	var c *packet.Conn
	require.NoError(l.t, l.Do(func() error {
		device, err := net.InterfaceByName(to)
		if err != nil {
			return err
		}
		c, err = packet.Listen(device, packet.Raw, 0, nil)
		return err
	}))
	defer func() { _ = c.Close() }()
	_, err = c.WriteTo(last, &packet.Addr{HardwareAddr: broadcast})
	require.NoError(l.t, err)
	buf := make([]byte, 4096)
	require.NoError(l.t, l.ends[to].SetReadDeadline(time.Now().Add(time.Minute)))
	for seen := false; ; {
		n, _, err := l.ends[to].ReadFrom(buf)
		require.NoError(l.t, err)
		seen = seen || slices.Equal(buf[:n], probe)
		if slices.Equal(buf[:n], last) {
			return seen
		}
	}
}

// What is for the machine itself is judged, too.
func TestInput(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Do(func() error {
		return (&Filter{}).SetVif(Vif{Name: "vif1.0", Bridge: "br0", Addresses: prefixes("10.0.0.5/32")})
	}))
	var c *packet.Conn
	require.NoError(t, l.Do(func() error {
		device, err := net.InterfaceByName("br0")
		if err != nil {
			return err
		}
		c, err = packet.Listen(device, packet.Raw, 0x0003, nil)
		l.ends["br0"] = c
		return err
	}))
	defer func() { _ = c.Close() }()
	own := frame(domain, broadcast, 0x0800, ip4("10.0.0.5", 17, udp(1, 2)), "own")
	spoof := frame(domain, broadcast, 0x0800, ip4("10.0.0.6", 17, udp(1, 2)), "spoof")
	require.Equal(t, []bool{true, false}, l.passes("vif1.0", "br0", own, spoof))
}

// A failed change leaves everything as it was: each is one transaction.
func TestInjectedFailure(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := &Filter{Before: func(what string) error { return fmt.Errorf("injected") }}
	require.NoError(t, l.Do(func() error {
		_, err := bad.Guard("br0", "peth0")
		require.EqualError(t, err, "guard br0: injected")
		require.ErrorContains(t, bad.SetVif(Vif{Name: "vif1.0", Bridge: "br0", Addresses: prefixes("10.0.0.5/32")}), "filter what comes from vif1.0: injected")
		require.NoError(t, bad.RemoveVif("vif1.0"), "nothing to remove")
		guarded, err := bad.Guarded("br0")
		require.False(t, guarded)
		return err
	}))
	own := frame(domain, broadcast, 0x0800, ip4("10.0.0.5", 17, udp(1, 2)), "own")
	require.Equal(t, []bool{true}, l.passes("stranger", "peth0", own))
}
