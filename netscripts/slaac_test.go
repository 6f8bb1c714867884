package netscripts

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// advertise has the far host send router advertisements (RFC 4861, 4.2) for a prefix until the test ends, as fast as
// many routers would together.
func (h *host) advertise(prefix string) {
	p := netip.MustParsePrefix(prefix)
	ra := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0} // lifetime 1800 s
	ra = append(ra, 3, 4, byte(p.Bits()), 0xc0)                           // prefix: on link, autonomous
	ra = binary.BigEndian.AppendUint32(ra, 2592000)
	ra = binary.BigEndian.AppendUint32(ra, 604800)
	ra = append(ra, 0, 0, 0, 0)
	ra = append(ra, p.Addr().AsSlice()...)
	fd := -1
	require.NoError(h.t, h.far.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		return err
	}))
	require.NoError(h.t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255))
	to := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(h.far.Index("eth0"))}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_ = unix.Sendto(fd, ra, 0, to)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	h.t.Cleanup(func() {
		stop()
		done.Wait()
		unix.Close(fd)
	})
}

// What routers advertise comes at any moment, also while addresses and routes move.
func TestStartWhileRoutersAdvertise(t *testing.T) {
	kernels(t, func(t *testing.T, h *host, before func(string) error) {
		h.Sysctl("ipv6/conf/eth0/accept_ra", "1")
		h.IP("addr del 2001:db8::1/64 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad") // newest, so listed first
		h.advertise("2001:db8:5::/64")
		slaac := func(dev string) bool {
			return strings.Contains(h.Show("-6", "addr", "show", "dev", dev), "2001:db8:5:")
		}
		h.eventually(func() bool { return slaac("eth0") })
		h.IP("addr add 2001:db8:6::1/64 dev eth0 nodad")
		for range 4 {
			r := h.runWith(context.Background(), Env{Before: before}, "network-bridge", "start")
			require.Equal(t, 0, r.status, r.stderr)
			require.True(t, slaac("eth0"))
			ra, err := h.Output(exec.Command("cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"))
			require.NoError(t, err)
			require.Equal(t, "1\n", ra)
			r = h.runWith(context.Background(), Env{Before: before}, "network-bridge", "stop")
			require.Equal(t, 0, r.status, r.stderr)
			require.True(t, slaac("eth0"))
		}
		h.ping("2001:db8::254")
	})
}

// A device without ARP becomes a port without, and the bridge answers.
func TestNoARPStaysWithTheDevice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.IP("link set eth0 arp off")
	was := h.dump()
	h.must("network-bridge", "start")
	h.ping("192.0.2.254")
	h.far.IP("neigh flush dev eth0")
	(&host{Host: h.far, t: t}).ping("192.0.2.1")
	require.Contains(t, h.Show("link", "show", "peth0"), "NOARP")
	h.must("network-bridge", "stop")
	h.same(was, "stop")
}
