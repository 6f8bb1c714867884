package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/internal/hostnet"
)

func TestMain(m *testing.M) {
	if os.Getenv("LAB_TEST_VICTIM") != "" {
		victim()
		return
	}
	goleak.VerifyTestMain(m)
}

// soon bounds what takes milliseconds.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newSwitch(t *testing.T, l *Lab, name string) *Switch {
	t.Helper()
	s, err := l.Switch(name, 0)
	require.NoError(t, err)
	return s
}

func newHost(t *testing.T, s *Switch, name string) *Host {
	t.Helper()
	h, err := s.Host(name)
	require.NoError(t, err)
	return h
}

func isICMP(f Frame) bool { return f.EtherType() == 0x0800 && len(f.Data) > 23 && f.Data[23] == 1 }

func TestHostsReachEachOther(t *testing.T) {
	l := New(t)
	lan := newSwitch(t, l, "lan")
	a, b := newHost(t, lan, "A"), newHost(t, lan, "B")
	require.Equal(t, "10.9.1.1", a.Addr().String())
	require.Equal(t, "fd09:1::2", b.Addr6().String())
	for _, to := range []netip.Addr{b.Addr(), b.Addr6()} {
		_, err := a.Ping(soon(t), to, PingOptions{})
		require.NoError(t, err)
		took, err := Transfer(soon(t), a.Node, b.Node, to, 5<<20)
		require.NoError(t, err)
		require.Positive(t, took)
	}
	_, err := a.Ping(soon(t), b.Addr(), PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = a.Ping(short, b.Addr(), PingOptions{Size: 1473, DontFragment: true})
	require.ErrorContains(t, err, "message too long")
}

// Multicast floods a switch, and does not cross a router.
func TestRouterForwardsUnicastOnly(t *testing.T) {
	l := New(t)
	one, two := newSwitch(t, l, "one"), newSwitch(t, l, "two")
	a, b, c := newHost(t, one, "A"), newHost(t, one, "B"), newHost(t, two, "C")
	_, err := l.Router("router", one, two)
	require.NoError(t, err)
	_, err = a.Ping(soon(t), c.Addr(), PingOptions{})
	require.NoError(t, err)
	_, err = a.Ping(soon(t), c.Addr6(), PingOptions{})
	require.NoError(t, err)

	group := netip.MustParseAddr("224.10.0.1")
	r, err := a.Net.RouteTo(group)
	require.NoError(t, err)
	require.Equal(t, a.Addr(), r.Source)
	isGroup := func(f Frame) bool {
		return isICMP(f) && netip.AddrFrom4([4]byte(f.Data[30:34])) == group
	}
	atB, err := b.Capture("eth0", isGroup)
	require.NoError(t, err)
	atC, err := c.Capture("eth0", isICMP)
	require.NoError(t, err)
	p, err := a.StartPing(group, PingOptions{})
	require.NoError(t, err)
	_, err = atB.WaitFor(soon(t), func(f Frame) bool { return !f.Outgoing })
	require.NoError(t, err)
	p.Close()
	_, err = a.Ping(soon(t), c.Addr(), PingOptions{})
	require.NoError(t, err)
	_, err = atC.WaitFor(soon(t), func(f Frame) bool {
		require.False(t, isGroup(f), "the group crossed the router")
		return netip.AddrFrom4([4]byte(f.Data[30:34])) == c.Addr()
	})
	require.NoError(t, err)
}

func TestUplink(t *testing.T) {
	l := New(t)
	lan, err := l.Switch("lan", 9000)
	require.NoError(t, err)
	a, b := newHost(t, lan, "A"), newHost(t, lan, "B")
	dev, err := a.Uplink().Link()
	require.NoError(t, err)
	require.Equal(t, 9000, dev.MTU)
	reach := func() {
		t.Helper()
		for _, to := range []netip.Addr{b.Addr(), b.Addr6()} {
			_, err := a.Ping(soon(t), to, PingOptions{Size: 8000, DontFragment: true})
			require.NoError(t, err)
		}
	}
	p, err := a.StartPing(b.Addr(), PingOptions{Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Fresh(soon(t))
	require.NoError(t, err)

	u := b.Uplink()
	require.NoError(t, u.Down())
	require.NoError(t, u.Up())
	reach()
	require.NoError(t, u.Unplug())
	require.NoError(t, u.Down())
	require.NoError(t, u.Up(), "without carrier")
	require.NoError(t, u.Plug())
	reach()
	before, err := u.Link()
	require.NoError(t, err)
	require.NoError(t, u.Rename("lan0"))
	reach()
	require.NoError(t, u.Delete())
	_, err = u.Link()
	require.ErrorIs(t, err, hostnet.ErrNotFound)
	require.NoError(t, u.Create())
	reach()
	after, err := u.Link()
	require.NoError(t, err)
	require.NotEqual(t, before.Index, after.Index)
	require.Equal(t, before.MAC, after.MAC)
	require.NoError(t, u.SetAddr(netip.MustParsePrefix("10.9.1.77/24")))
	require.Equal(t, "10.9.1.77", b.Addr().String())
	reach()

	require.Positive(t, p.Stats().Received)
	require.Eventually(t, func() bool { s := p.Stats(); return s.Sent > s.Received+1 }, 20*time.Second, 10*time.Millisecond,
		"the old address answers no more")
}

// A domain keeps its connections when it moves.
func TestDomainMoves(t *testing.T) {
	l := New(t)
	lan := newSwitch(t, l, "lan")
	a, b := newHost(t, lan, "A"), newHost(t, lan, "B")
	// The network that both reach: their eth0 in a bridge, as network-bridge leaves it.
	for _, h := range []*Host{a, b} {
		br, _, err := h.Net.EnsureBridge("xenbr0")
		require.NoError(t, err)
		up, err := h.Uplink().Link()
		require.NoError(t, err)
		require.NoError(t, h.Net.SetMaster(up.Index, br.Index))
	}
	d1, err := a.Domain(DomainSpec{Name: "one", Vif: "vif1.0", Bridge: "xenbr0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.97.0.1/24")}})
	require.NoError(t, err)
	mac := net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 2}
	d2, err := b.Domain(DomainSpec{
		Name: "two", Vif: "vif1.0", Bridge: "xenbr0", MAC: mac,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.97.0.2/24"), netip.MustParsePrefix("fd97::2/64")},
	})
	require.NoError(t, err)
	require.Equal(t, mac, d2.Spec.MAC)
	_, err = d1.Ping(soon(t), d2.Addr(), PingOptions{})
	require.NoError(t, err)
	s, err := Connect(soon(t), d1.Node, d2.Node, d2.Addr())
	require.NoError(t, err)
	defer s.Close()
	s.Start(0)
	require.NoError(t, s.WaitMore(soon(t), 1<<20))

	seen, err := lan.Capture(func(f Frame) bool { return f.EtherType() == 0x0806 })
	require.NoError(t, err)
	require.NoError(t, d2.MoveTo(a, "vif2.0", "xenbr0"))
	require.NoError(t, d2.Announce())
	_, err = seen.WaitFor(soon(t), func(f Frame) bool { return bytes.Equal(gratuitousARP(mac, d2.Addr()), f.Data[:42]) })
	require.NoError(t, err)
	require.NoError(t, s.WaitMore(soon(t), 1<<20))
	_, err = b.Net.LinkByName("vif1.0")
	require.ErrorIs(t, err, hostnet.ErrNotFound)
	eth, err := d2.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.Equal(t, mac, eth.MAC)
}

func TestCaptureRestoresTags(t *testing.T) {
	l := New(t)
	lan := newSwitch(t, l, "lan")
	a, b := newHost(t, lan, "A"), newHost(t, lan, "B")
	c, err := b.Capture("eth0", func(f Frame) bool { return f.EtherType() == 0x88b5 })
	require.NoError(t, err)
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x81, 0, 0x20, 5, 0x88, 0xb5}, make([]byte, 46)...)
	require.NoError(t, a.Send("eth0", frame))
	f, err := c.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, frame, f.Data)
	require.False(t, f.Outgoing)
	require.Empty(t, c.Take())
	c.Close()
	c.Close()
	_, err = c.Next(soon(t))
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestCommands(t *testing.T) {
	l := New(t)
	lan := newSwitch(t, l, "lan")
	a := newHost(t, lan, "A")
	out, err := a.Run(soon(t), "ip", "-o", "link", "show", "eth0")
	require.NoError(t, err)
	require.Contains(t, out, "mtu 1500")
	out, err = a.Run(soon(t), "sh", "-c", "echo $XEND_PREFIX")
	require.NoError(t, err)
	require.Equal(t, a.Dir, strings.TrimSpace(out))
	_, err = a.Run(soon(t), "sh", "-c", "echo oops >&2; exit 3")
	require.ErrorContains(t, err, "oops")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	_, err = a.Run(soon(t), "no-such-command")
	require.ErrorIs(t, err, exec.ErrNotFound)
	_, err = lan.Host("A")
	require.ErrorContains(t, err, "exists already")
}

// Close ends what commands have started, daemons of their own session too.
func TestCloseEndsProcesses(t *testing.T) {
	l, err := Open(Options{})
	require.NoError(t, err)
	h, err := l.Host("A")
	require.NoError(t, err)
	out, err := h.Run(soon(t), "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	require.NoError(t, err)
	require.NotEmpty(t, startTime(pid))
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	requireGone(t, pid)
	require.NoDirExists(t, h.Dir)
	_, err = l.Host("B")
	require.ErrorContains(t, err, "closed")
}

// requireGone accepts a zombie, whose parent's business it is.
func requireGone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		return err != nil || strings.Contains(string(b), ") Z ")
	}, 20*time.Second, 10*time.Millisecond)
}

// victim makes a named lab with processes and waits to be killed.
func victim() {
	l, err := Open(Options{Named: true})
	if err != nil {
		panic(err)
	}
	h, err := l.Host("A")
	if err != nil {
		panic(err)
	}
	child := h.Command(context.Background(), "sleep", "1000")
	if err := h.Start(child); err != nil {
		panic(err)
	}
	out, err := h.Run(context.Background(), "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	if err != nil {
		panic(err)
	}
	fmt.Println(child.Process.Pid, strings.TrimSpace(out), h.NetnsName(), h.Dir)
	_ = child.Wait()
}

// What a killed lab leaves is swept away by the next one.
func TestSweep(t *testing.T) {
	New(t) // skips without privileges
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_TEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, 4096)
	n, err := out.Read(line)
	require.NoError(t, err)
	f := strings.Fields(string(line[:n]))
	require.Len(t, f, 4)
	child, errChild := strconv.Atoi(f[0])
	daemon, errDaemon := strconv.Atoi(f[1])
	require.NoError(t, errors.Join(errChild, errDaemon))
	name := filepath.Join(netnsDir, f[2])
	require.FileExists(t, name)
	require.DirExists(t, f[3])

	l := New(t) // while its maker lives, nothing is swept
	require.FileExists(t, name)
	require.NotEmpty(t, startTime(daemon))
	_ = l

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	requireGone(t, child) // dies with its maker
	New(t)
	requireGone(t, daemon)
	require.NoFileExists(t, name)
	require.NoDirExists(t, f[3])
}

func TestRunClosesAfterPanic(t *testing.T) {
	New(t)
	var dir string
	require.Panics(t, func() {
		_ = Run(Options{}, func(_ context.Context, l *Lab) error {
			h, err := l.Host("A")
			require.NoError(t, err)
			dir = h.Dir
			panic("ouch")
		})
	})
	require.NoDirExists(t, dir)
	require.ErrorIs(t, Run(Options{}, func(context.Context, *Lab) error { return context.Canceled }), context.Canceled)
}

func TestOrphan(t *testing.T) {
	require.False(t, orphan(""))
	require.False(t, orphan(maker()))
	require.True(t, orphan("4194305.1."+pidNamespace()))
	require.True(t, orphan(strconv.Itoa(os.Getpid())+".1."+pidNamespace()), "the id is another process's now")
	require.False(t, orphan("4194305.1.pid:[1]"), "of another container")
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"lab1.1-A": false, "lab4194305.1-A": true, "lab4194305.1": false, "label": false, "lab.1-A": false, "other": false,
		"lab4194305.x-A": false, "lab-1.1-A": false,
	} {
		require.Equal(t, want, stale(name), name)
	}
}
