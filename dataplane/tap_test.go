package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
)

// tapDomain is a domain whose vif is a tap device, as QEMU makes it: what its host sends there is handed, with the rest of
// the work that is to be done on it, to the domain's own card, and the reverse.
type tapDomain struct {
	*lab.Domain
	vif *os.File
	// supers are the super-frames that came from the domain.
	supers atomic.Int64
}

// openTap makes a tap device in a namespace, whose other end takes and gives checksums to be completed and super-frames of
// TCP; Linux's Documentation/networking/tuntap.rst. It is gone when the file is closed.
func openTap(t testing.TB, n *hostnet.Host, name string) *os.File {
	t.Helper()
	var fd int
	require.NoError(t, n.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return os.NewSyscallError("open /dev/net/tun", err)
		}
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
		if err == nil {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_TSO_ECN)
		}
		return os.NewSyscallError("ioctl", err)
	}))
	return os.NewFile(uintptr(fd), name)
}

// tapDomain starts domain number n with a tap device for a vif, until the test ends.
func (h *testHost) tapDomain(l *lab.Lab, n int, id string) *tapDomain {
	h.t.Helper()
	guest, err := l.Host(fmt.Sprintf("dom%d", n))
	require.NoError(h.t, err)
	d := &tapDomain{Domain: &lab.Domain{Node: guest.Node, Host: h.Host, Spec: lab.DomainSpec{
		Name: guest.Name, Vif: fmt.Sprintf("vif%d.0", n), Bridge: "vnet" + id, MAC: domainMAC(n),
		Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.97.0.%d/16", n)), netip.MustParsePrefix(fmt.Sprintf("fd97::%x/64", n))},
	}}}
	card := openTap(h.t, d.Net, "eth0")
	d.vif = openTap(h.t, h.Net, d.Spec.Vif)
	eth := deviceOf(h.t, guest, "eth0")
	require.NoError(h.t, d.Net.SetHardwareAddr(eth.Index, d.Spec.MAC))
	require.NoError(h.t, d.Net.SetUp(eth.Index))
	for _, p := range d.Spec.Addrs {
		a := hostnet.Address{Index: eth.Index, Prefix: p}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		require.NoError(h.t, d.Net.EnsureAddress(a))
	}
	vif := deviceOf(h.t, h.Host, d.Spec.Vif)
	require.NoError(h.t, h.Net.SetMaster(vif.Index, deviceOf(h.t, h.Host, d.Spec.Bridge).Index))
	require.NoError(h.t, h.Net.SetUp(vif.Index))
	h.forwarding(d.Spec.Bridge)
	var pumps sync.WaitGroup
	pump := func(to, from *os.File) {
		b := make([]byte, wire.VnetHdrLen+65536+18)
		for {
			n, err := from.Read(b)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					h.t.Error(err)
				}
				return
			}
			var header wire.VnetHdr
			header.Decode(b)
			if from == card && header.GSOType != wire.GSONone {
				d.supers.Add(1)
			}
			_, _ = to.Write(b[:n]) // refused if the card is down, or the frame is ill-formed
		}
	}
	pumps.Go(func() { pump(card, d.vif) })
	pumps.Go(func() { pump(d.vif, card) })
	h.t.Cleanup(func() {
		require.NoError(h.t, errors.Join(card.Close(), d.vif.Close()))
		pumps.Wait()
	})
	return d
}

// inject has the domain send a frame, with what it says is left to do on it.
func (d *tapDomain) inject(frame []byte, left wire.VnetHdr) error {
	b := make([]byte, wire.VnetHdrLen, wire.VnetHdrLen+len(frame))
	left.Encode(b)
	_, err := d.vif.Write(append(b, frame...))
	return err
}

// TestTapDomain: a domain with a tap device sends and gets by the kernel, past its bridge, bulk TCP in super-frames; nothing is
// lost or comes twice, and while there is a policy all goes by the bridge.
func TestTapDomain(t *testing.T) {
	for _, way := range []string{"tc", "xdp", "joined"} {
		t.Run(way, func(t *testing.T) {
			l := lab.New(t)
			s, err := l.Switch("lan", 0)
			require.NoError(t, err)
			cfg := inBy(fastConfig(), way)
			cfg.Bypass = BypassAuto
			var hosts []*testHost
			for _, name := range []string{"A", "B"} {
				h := addHost(t, s, name)
				if way != "tc" {
					makePlain(t, h)
				}
				hosts = append(hosts, startEngine(t, h, cfg))
			}
			add(t, "97", hosts...)
			one, two := hosts[0].tapDomain(l, 1, "97"), hosts[1].domain(2, "97")
			awaitFast(t, one.Domain, two, hosts...)
			hosts[0].awaitWay(func(w fastpath.Way) bool { return w == fastpath.WayEgress }, "")
			hosts[1].awaitWay(func(w fastpath.Way) bool { return w == fastpath.WayPeer }, "")
			eventually(t, way, func() bool { return hosts[0].inBy(way) })
			const size = 8 << 20
			for i := range two.Spec.Addrs {
				tx0, rx0 := hosts[0].carried()
				before := one.supers.Load()
				_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[i].Addr(), size)
				require.NoError(t, err)
				_, err = lab.Transfer(soon(t), two.Node, one.Node, one.Spec.Addrs[i].Addr(), size)
				require.NoError(t, err)
				tx, rx := hosts[0].carried()
				require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
				require.Greater(t, rx.Bytes-rx0.Bytes, uint64(size))
				// Those that a pair brings stay marked as a tunnel's after decapsulation, and no tap takes such.
				require.Greater(t, one.supers.Load(), before+50, "super-frames of the domain")
			}
			there, back := startStream(t, one.Domain, two, time.Millisecond), startStream(t, two, one.Domain, time.Millisecond)
			there.more(100)
			back.more(100)
			hosts[0].nft("add table bridge guard")
			hosts[0].awaitWay(byBridge, "nft table bridge guard")
			there.more(100)
			back.more(100)
			hosts[0].nft("delete table bridge guard")
			hosts[0].awaitWay(pastBridge, "")
			there.more(100)
			back.more(100)
			there.complete(t)
			back.complete(t)
		})
	}
}
