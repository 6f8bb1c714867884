package checktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// What real kernels send, to be compared like what the test itself makes.

// record is what left and reached a guest.
type record struct {
	mu   sync.Mutex
	out  []shot
	n    int
	more chan struct{} // when a frame has left
	in   *inbox
}

// recorders tap both guests, until the test ends.
func (w *world) recorders(t *testing.T) (out [2]*record) {
	t.Helper()
	for i, x := range w.sides {
		r := &record{in: newInbox(), more: make(chan struct{}, 1)}
		own, other := wire.MAC(domainMAC(11+i)), wire.MAC(domainMAC(12-i))
		eth, err := x.guest.Net.LinkByName("eth0")
		require.NoError(t, err)
		openTap(t, x.guest.Node, eth.Index, x.host.Name+"'s guest", true, func(f []byte, h wire.VnetHdr, leaves bool) {
			switch {
			case f[0] == 0x33: // IPv6 multicast: reports that the guest sent, and repeats, on its own
			case leaves && wire.Source(f) == own:
				r.left(f, h)
			case !leaves && wire.Source(f) == other:
				r.in.put(f, h)
			}
		})
		out[i] = r
	}
	return out
}

func (r *record) left(f []byte, h wire.VnetHdr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	r.out = append(r.out, shot{name: fmt.Sprintf("frame %d of the guest", r.n), frame: bytes.Clone(f), hdr: h})
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *record) takeLeft() []shot {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.out
	r.out = nil
	return out
}

// settle waits until what left each guest, of at least some weight from one of them, has reached the other,
// and compares.
func (w *world) settle(t *testing.T, s *setting, rec [2]*record, way, least int) {
	t.Helper()
	for i, from := range rec {
		var sent []expected
		var list []caught
		sum := 0
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for {
			for _, x := range w.expect(t, from.takeLeft(), s.early) {
				sent = append(sent, x)
				sum += weights(x.frames)
			}
			more, err := rec[1-i].in.take(ctx, 0)
			list = append(list, more...)
			// What one connection sends on two processors passes two queues.
			errs := compare(s, true, sent, list)
			if len(errs) == 0 && (i != way || sum >= least) {
				break
			}
			if err != nil {
				t.Errorf("from guest %d: %v, %d of %d were sent; %s", i, err, sum, least, w.drops())
				for _, e := range errs {
					t.Errorf("from guest %d: %s", i, e)
				}
				break
			}
			select {
			case <-from.more:
			case <-rec[1-i].in.changed():
			case <-ctx.Done():
			}
		}
	}
}

// transferSize is several times what TCP sends at first.
const transferSize = 1 << 20

// traffic lets the guests' kernels talk, and compares.
func (w *world) traffic(t *testing.T, s *setting, rec [2]*record) {
	guests := *s
	guests.elsewhere, guests.again = s.elsewhere || w.uncut(), true
	s = &guests
	w.wire.during("guests, " + s.name)
	w.wire.takeSplit() // of others
	ctx := soon(t)
	for way, x := range w.sides {
		y := w.sides[1-way]
		for _, p := range y.guest.Spec.Addrs {
			_, err := lab.Transfer(ctx, x.guest.Node, y.guest.Node, p.Addr(), transferSize)
			require.NoError(t, err, w.drops())
			w.settle(t, s, rec, way, transferSize)
			datagram := *s
			datagram.late = true
			header, sent := 28, 0
			if p.Addr().Is6() {
				header = 48
			}
			for _, size := range []int{w.inner - header, w.limit() - 14 - header, 1000, 100} {
				n, err := datagrams(ctx, x.guest, y.guest, p.Addr(), min(size, w.inner-header), !w.overtaking())
				require.NoError(t, err, w.drops())
				sent += n
			}
			// A full packet that may not be fragmented, and one that its sender fragments.
			_, err = x.guest.Ping(ctx, p.Addr(), lab.PingOptions{Size: w.inner - header, DontFragment: true})
			require.NoError(t, err, w.drops())
			_, err = x.guest.Ping(ctx, p.Addr(), lab.PingOptions{Size: 20_000})
			require.NoError(t, err, w.drops())
			w.settle(t, &datagram, rec, way, sent)
		}
	}
	if split := w.wire.takeSplit(); len(split) > 0 && !s.whole {
		t.Errorf("%d segments of bulk TCP needed fragments, the first: %x", len(split), short([]byte(split[0])))
	}
}

// datagrams sends a burst of datagrams with UDP_SEGMENT, checks that all arrive once and as they were sent, in order if
// that can be asked for, and returns their number.
func datagrams(ctx context.Context, from, to *lab.Domain, addr netip.Addr, size int, inOrder bool) (n int, err error) {
	var in, out *net.UDPConn
	err = to.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer in.Close()
	err = from.Do(func() (err error) {
		out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer out.Close()
	raw, err := out.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errSet error
	err = raw.Control(func(fd uintptr) { errSet = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	if err := errors.Join(err, errSet); err != nil {
		return 0, fmt.Errorf("UDP_SEGMENT: %w", err)
	}
	const most = 64 // datagrams: UDP_MAX_SEGMENTS before Linux 6.9
	whole := make([]byte, min(60_000, most*size-size/2))
	for i := range whole {
		whole[i] = byte(i * 7 / 5)
	}
	if _, err := out.Write(whole); err != nil {
		return 0, fmt.Errorf("send %d bytes in datagrams of %d: %w", len(whole), size, err)
	}
	stop := context.AfterFunc(ctx, func() { in.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	rest := slices.Collect(slices.Chunk(whole, size))
	for ; len(rest) > 0; n++ {
		got, err := in.Read(buf)
		if err != nil {
			return n, fmt.Errorf("datagram %d of %d bytes: %w", n, size, err)
		}
		at := 0
		if !inOrder {
			at = max(0, slices.IndexFunc(rest, func(b []byte) bool { return bytes.Equal(b, buf[:got]) }))
		}
		if !bytes.Equal(buf[:got], rest[at]) {
			return n, fmt.Errorf("datagram %d has %d bytes instead of %d, or others", n, got, len(rest[at]))
		}
		rest = slices.Delete(rest, at, at+1)
	}
	return n, nil
}
