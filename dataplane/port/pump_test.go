package port

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// pump carries frames between two ports as they are, as if the network had no MTU: whatever one can receive, the
// other must be able to send.
type pump struct {
	wg   sync.WaitGroup
	stop [2]int // a pipe whose end wakes the pumps up

	mu    sync.Mutex
	errs  []error
	seen  map[uint8]int // frames by GSO type
	needs int           // frames with an open checksum
}

func startPump(t testing.TB, a, b *Port) *pump {
	t.Helper()
	p := &pump{seen: map[uint8]int{}}
	require.NoError(t, unix.Pipe2(p.stop[:], unix.O_CLOEXEC))
	p.wg.Go(func() { p.run(a, b) })
	p.wg.Go(func() { p.run(b, a) })
	t.Cleanup(func() {
		unix.Close(p.stop[1])
		p.wg.Wait()
		unix.Close(p.stop[0])
	})
	return p
}

func (p *pump) run(from, to *Port) {
	b := NewBatch()
	fs := make([]wire.Frame, BatchSize)
	for {
		poll := []unix.PollFd{{Fd: int32(from.FD()), Events: unix.POLLIN}, {Fd: int32(p.stop[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil {
			continue
		}
		if poll[1].Revents != 0 {
			return
		}
		n, errRecv := from.Recv(b)
		for i := range n {
			fs[i].Hdr, fs[i].Bufs = b.Hdr(i), append(fs[i].Bufs[:0], b.Frame(i))
		}
		_, errSend := to.Send(fs[:n])
		p.count(b, errRecv, errSend)
	}
}

func (p *pump) count(b *Batch, errs ...error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, err := range errs {
		if err != nil {
			p.errs = append(p.errs, err)
		}
	}
	for i := range b.Len() {
		h := b.Hdr(i)
		p.seen[h.GSOType&^wire.GSOECN]++
		if h.Flags&wire.FlagNeedsCsum != 0 {
			p.needs++
		}
	}
}

func (p *pump) requireClean(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Empty(t, p.errs)
}

func (p *pump) number(gso uint8) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[gso]
}

func newPumped(t testing.TB) (a, b *bench, p *pump) {
	t.Helper()
	l := lab.New(t)
	a, b = newBench(t, l, "A", 1), newBench(t, l, "B", 2)
	return a, b, startPump(t, a.port, b.port)
}

func addr4(b *bench) netip.Addr { return b.domain.Spec.Addrs[0].Addr() }
func addr6(b *bench) netip.Addr { return b.domain.Spec.Addrs[1].Addr() }

const bulk = 20 << 20

func TestSuperFrames(t *testing.T) {
	a, b, p := newPumped(t)
	_, err := lab.Transfer(soon(t), a.domain.Node, b.domain.Node, addr4(b), bulk)
	require.NoError(t, err)
	require.Positive(t, p.number(wire.GSOTCPv4))
	_, err = lab.Transfer(soon(t), b.domain.Node, a.domain.Node, addr6(a), bulk)
	require.NoError(t, err)
	require.Positive(t, p.number(wire.GSOTCPv6))
	_, err = a.domain.Ping(soon(t), addr4(b), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
	_, err = a.domain.Ping(soon(t), addr4(b), lab.PingOptions{Size: 20000})
	require.NoError(t, err)
	p.requireClean(t)
	require.Positive(t, p.needs)
}

func run(t testing.TB, n *lab.Node, commands ...string) {
	t.Helper()
	for _, c := range commands {
		f := strings.Fields(c)
		_, err := n.Run(soon(t), f[0], f[1:]...)
		require.NoError(t, err)
	}
}

// What a VnetHdr can't express must arrive nevertheless: the kernel does it before. With these features on, a
// tunnel's super-frame would come as if its outer datagram were a TCP segment.
func TestUnexpressibleOffloads(t *testing.T) {
	a, b, p := newPumped(t)
	for tunnel, make := range map[string]string{
		"vxlan": "ip link add tun type vxlan id 5 remote %r local %l dstport 4789",
		"gre":   "ip link add tun type gretap remote %r local %l",
		"ipip":  "ip link add tun type ipip remote %r local %l",
	} {
		t.Run(tunnel, func(t *testing.T) {
			for _, v := range []struct{ here, there, addr string }{{"10.97.0.1", "10.97.0.2", "10.6.0.1/24"}, {"10.97.0.2", "10.97.0.1", "10.6.0.2/24"}} {
				n := a.domain.Node
				if v.here == "10.97.0.2" {
					n = b.domain.Node
				}
				c := strings.Fields(strings.NewReplacer("%r", v.there, "%l", v.here).Replace(make))
				if out, err := n.Run(soon(t), c[0], c[1:]...); err != nil {
					t.Skipf("this kernel has no %s: %s", tunnel, out)
				}
				defer run(t, n, "ip link del tun")
				run(t, n, "ip addr add "+v.addr+" dev tun", "ip link set tun up")
			}
			_, err := lab.Transfer(soon(t), a.domain.Node, b.domain.Node, netip.MustParseAddr("10.6.0.2"), bulk)
			require.NoError(t, err)
			p.requireClean(t)
		})
	}
}

// A train of datagrams sent with UDP_SEGMENT.
func TestUDPSegments(t *testing.T) {
	if !UDPGSO() {
		t.Skip("needs Linux 6.2")
	}
	a, b, p := newPumped(t)
	for _, to := range []netip.Addr{addr4(b), addr6(b)} {
		_, err := a.domain.Ping(soon(t), to, lab.PingOptions{}) // so that the neighbour is known
		require.NoError(t, err)
		var in, out *net.UDPConn
		require.NoError(t, b.domain.Do(func() (err error) {
			in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
			return err
		}))
		defer func() { _ = in.Close() }()
		require.NoError(t, a.domain.Do(func() (err error) {
			out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
			return err
		}))
		defer func() { _ = out.Close() }()
		raw, err := out.SyscallConn()
		require.NoError(t, err)
		const size = 1000
		require.NoError(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) }))
		require.NoError(t, err)
		train := make([]byte, 30*size+500)
		for i := range train {
			train[i] = byte(i / size * 7)
		}
		_, err = out.Write(train)
		require.NoError(t, err)
		buf := make([]byte, 2000)
		var got []byte
		for len(got) < len(train) {
			n, err := in.Read(buf)
			require.NoError(t, err)
			got = append(got, buf[:n]...)
		}
		require.Equal(t, sha256.Sum256(train), sha256.Sum256(got))
	}
	p.requireClean(t)
	// The pump counts after it has delivered.
	require.Eventually(t, func() bool { return p.number(wire.GSOUDPL4) >= 2 }, 10*time.Second, time.Millisecond)
}

// Every other offload setting of the domain must do as well.
func TestDomainWithoutOffloads(t *testing.T) {
	a, b, p := newPumped(t)
	eth, err := a.domain.Net.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, a.domain.Net.SetFeatures(eth.Index, map[string]bool{
		"tx-checksum-ip-generic": false, "tx-tcp-segmentation": false, "tx-tcp6-segmentation": false, "tx-generic-segmentation": false,
		"tx-vlan-hw-insert": false, "rx-vlan-hw-parse": false,
	}))
	_, err = lab.Transfer(soon(t), a.domain.Node, b.domain.Node, addr4(b), 1<<20)
	require.NoError(t, err)
	p.requireClean(t)
}

// setSegmentation switches segmentation on the partner.
func (b *bench) setSegmentation(t testing.TB, on bool) {
	t.Helper()
	require.NoError(t, b.host.Net.SetFeatures(b.devices.PartnerIndex, map[string]bool{
		"tx-tcp-segmentation": on, "tx-tcp6-segmentation": on, "tx-tcp-ecn-segmentation": on,
		"tx-tcp-mangleid-segmentation": on, "tx-udp-segmentation": on,
	}))
}

// Super-frames must get through where somebody switched segmentation off on the partner, before and while it is
// in use: what bypasses the queue is not cut by the kernel.
func TestPeerWithoutSegmentation(t *testing.T) {
	a, b, p := newPumped(t)
	for _, on := range []bool{false, true, false} {
		b.setSegmentation(t, on)
		for _, to := range []netip.Addr{addr4(b), addr6(b)} {
			_, err := lab.Transfer(soon(t), a.domain.Node, b.domain.Node, to, 4<<20)
			require.NoError(t, err)
		}
	}
	p.requireClean(t)
	require.True(t, a.port.direct.Load())
}
