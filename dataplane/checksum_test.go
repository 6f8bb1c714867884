package dataplane

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// checkInner verifies the lengths and checksums of an inner IPv4 or IPv6 frame without tags.
func checkInner(f []byte) error {
	var pseudo uint64
	var proto byte
	var l4 []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		h, payload, err := wire.DecodeIPv4(f[14:])
		if err != nil {
			return err
		}
		if wire.Fold(wire.Sum(f[14:34], 0)) != 0xffff {
			return fmt.Errorf("IPv4 checksum")
		}
		if h.Fragment {
			return nil
		}
		proto, l4 = h.Protocol, payload
		pseudo = wire.Sum(f[26:34], 0)
	case 0x86dd:
		n := int(binary.BigEndian.Uint16(f[18:]))
		if len(f) < 54+n {
			return fmt.Errorf("IPv6 length %d in a frame of %d", n, len(f))
		}
		proto, l4 = f[20], f[54:54+n]
		pseudo = wire.Sum(f[22:54], 0)
	default:
		return nil
	}
	if proto != 6 && proto != 17 {
		return nil
	}
	if proto == 17 && int(binary.BigEndian.Uint16(l4[4:])) != len(l4) {
		return fmt.Errorf("UDP length %d of %d", binary.BigEndian.Uint16(l4[4:]), len(l4))
	}
	sum := wire.Sum(l4, pseudo+wire.Word(uint16(proto))+wire.Word(uint16(len(l4))))
	if got := wire.Fold(sum); got != 0xffff {
		return fmt.Errorf("checksum of protocol %d, %d bytes: %#04x", proto, len(l4), got)
	}
	return nil
}

// Whatever the domains' cards leave to be done is done when a frame goes on the wire, for underlays of
// every MTU: checksums are right, and bulk TCP is cut so that nothing is fragmented.
func TestFinishedOnTheWire(t *testing.T) {
	for _, mtu := range []int{1500, 1400, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			l := lab.New(t)
			s, err := l.Switch("lan", mtu)
			require.NoError(t, err)
			hosts := addHosts(t, s, 2, testConfig())
			for _, h := range hosts {
				dev, err := h.Uplink().Link()
				require.NoError(t, err)
				// Trains are cut into packets before the cable, so that the capture sees those.
				require.NoError(t, h.Net.SetFeatures(dev.Index, map[string]bool{"tx-udp-segmentation": false, "tx-udp_tnl-segmentation": false, "tx-checksum-ip-generic": false}))
			}
			add(t, "97", hosts...)
			d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			ping(t, d1, d2.Addr())
			ping(t, d1, d2.Spec.Addrs[1].Addr())

			var mu sync.Mutex
			var inner, fragments, largest int
			var wrong error
			c, err := s.Capture(func(f lab.Frame) bool {
				mu.Lock()
				defer mu.Unlock()
				if f.EtherType() != 0x0800 || f.Data[23] != wire.ProtocolUDP {
					return false
				}
				if binary.BigEndian.Uint16(f.Data[20:])&0x3fff != 0 {
					fragments++
					return false
				}
				largest = max(largest, len(f.Data)-14)
				_, frame, err := wire.DecodeVUDP(f.Data[42:])
				if err != nil {
					return false
				}
				inner++
				if err := checkInner(frame); err != nil && wrong == nil {
					wrong = err
				}
				return false
			})
			require.NoError(t, err)
			for _, to := range d2.Spec.Addrs {
				_, err := lab.Transfer(soon(t), d1.Node, d2.Node, to.Addr(), 8<<20)
				require.NoError(t, err)
			}
			var seen, cut, longest int
			eventually(t, "the capture has caught up", func() bool {
				mu.Lock()
				defer mu.Unlock()
				seen, cut, longest, err = inner, fragments, largest, wrong
				return seen > 8<<20/mtu
			})
			require.NoError(t, err)
			require.Greater(t, seen, 8<<20/mtu)
			require.Zero(t, cut, "bulk TCP is fragmented")
			require.LessOrEqual(t, longest, mtu)

			sizes := []int{0, 1, 17, 63, 1000, 1300, 1301, 1472}
			for _, to := range d2.Spec.Addrs {
				datagrams(t, d1, d2, to.Addr(), sizes, 0)
				datagrams(t, d1, d2, to.Addr(), []int{100*60 + 7, 100 * 3, 3}, 100)
				datagrams(t, d1, d2, to.Addr(), []int{1200*20 + 7}, 1200)
			}
			c.Close()
			require.NoError(t, wrong)
		})
	}
}

// datagrams sends UDP payloads of sizes from one domain to another, which must get the same bytes; with
// gso, each is cut into datagrams of that size by whoever does UDP GSO on the way.
func datagrams(t *testing.T, from, to *lab.Domain, addr netip.Addr, sizes []int, gso int) {
	t.Helper()
	var in, out *net.UDPConn
	require.NoError(t, to.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	}))
	defer func() { _ = in.Close() }()
	require.NoError(t, from.Do(func() (err error) {
		out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
		return err
	}))
	defer func() { _ = out.Close() }()
	if gso > 0 {
		raw, err := out.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, gso)
		}))
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	buf := make([]byte, 65536)
	for i, size := range sizes {
		want := make([]byte, size)
		for j := range want {
			want[j] = byte(i*31 + j*j)
		}
		_, err := out.Write(want)
		require.NoError(t, err)
		for {
			n, err := in.Read(buf)
			require.NoError(t, err)
			expected := len(want)
			if gso > 0 {
				expected = min(expected, gso)
			}
			require.Equal(t, want[:expected], buf[:n])
			if want = want[expected:]; len(want) == 0 {
				break
			}
		}
	}
}
