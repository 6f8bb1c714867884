package esp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// TestKernel exchanges packets with the kernel's own ESP, both ways: what we seal it opens, once, and the reverse; as protocol 50
// and in UDP, over IPv4 and IPv6. Where the kernel has no AES-GCM for ESP it is skipped; make test-vm runs it on Debian's.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for level, algorithm := range map[vnet.Security]string{vnet.Conf: "rfc4106(gcm(aes))", vnet.Auth: "rfc4543(gcm(aes))"} {
		for _, six := range []bool{false, true} {
			for _, encap := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, IPv6 %v, in UDP %v", level, six, encap), func(t *testing.T) {
					testKernel(t, level, algorithm, six, encap)
				})
			}
		}
	}
}

func testKernel(t *testing.T, level vnet.Security, algorithm string, six, encap bool) {
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	ours, err := s.Host("ours")
	require.NoError(t, err)
	kernel, err := s.Host("kernel")
	require.NoError(t, err)
	here, there, bits, network := ours.Addr(), kernel.Addr(), "/32", "4"
	if six {
		here, there, bits, network = ours.Addr6(), kernel.Addr6(), "/128", "6"
	}
	w := newWorld(t, 1, level, 1)
	w.pass(time.Second, false)
	r := w.hosts[0]
	ip := func(args ...string) {
		t.Helper()
		out, err := kernel.Run(t.Context(), "ip", args...)
		if err != nil && (strings.Contains(err.Error()+out, "algorithm not found") || strings.Contains(err.Error()+out, "not supported")) {
			t.Skipf("the kernel has no %s for ESP", algorithm)
		}
		require.NoError(t, err, out)
	}
	state := func(from, to netip.Addr, lane *Lane, s *Sending) {
		t.Helper()
		key := s.key.expand(string(laneInfo(s.key, s.nonce[:], s.epoch, levelOf(level), uint8(lane.spi))), 36)
		args := []string{
			"xfrm", "state", "add", "src", from.String(), "dst", to.String(), "proto", "esp", "spi", fmt.Sprintf("0x%08x", lane.spi), "mode", "transport",
			"aead", algorithm, fmt.Sprintf("0x%x", key), "128", "flag", "esn", "replay-window", "4096",
		}
		if encap {
			port := fmt.Sprint(wire.SecurityPort)
			args = append(args, "encap", "espinudp", port, port, map[bool]string{false: "0.0.0.0", true: "::"}[six])
		}
		ip(args...)
	}
	sending := r.vnet.Sending(r.clock())
	state(here, there, sending.Unicast(0, 0), sending)

	// option opens UDP sockets with an option, where the kernel is.
	option := func(level, name, value int) net.ListenConfig {
		return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }), err)
		}}
	}
	var sealed, plain, port net.PacketConn
	to := net.Addr(&net.IPAddr{IP: there.AsSlice()})
	require.NoError(t, ours.Do(func() (err error) {
		if encap {
			sealed, err = net.ListenUDP("udp"+network, &net.UDPAddr{IP: here.AsSlice(), Port: wire.SecurityPort})
			to = &net.UDPAddr{IP: there.AsSlice(), Port: wire.SecurityPort}
		} else {
			sealed, err = net.ListenIP("ip"+network+":50", &net.IPAddr{IP: here.AsSlice()})
		}
		return err
	}))
	defer sealed.Close()
	require.NoError(t, kernel.Do(func() (err error) {
		at := func(port uint16) string { return netip.AddrPortFrom(there, port).String() }
		// udp(7): what is inside has no checksum; RFC 6935.
		config := option(unix.SOL_UDP, unix.UDP_NO_CHECK6_RX, 1)
		if !six {
			config = net.ListenConfig{}
		}
		if plain, err = config.ListenPacket(t.Context(), "udp"+network, at(wire.Port)); err != nil || !encap {
			return err
		}
		const espInUDP = 2 // UDP_ENCAP_ESPINUDP
		config = option(unix.SOL_UDP, unix.UDP_ENCAP, espInUDP)
		port, err = config.ListenPacket(t.Context(), "udp"+network, at(wire.SecurityPort))
		return err
	}))
	defer plain.Close()
	if port != nil {
		defer port.Close()
	}
	deadline := time.Now().Add(20 * time.Second)
	require.NoError(t, sealed.SetDeadline(deadline))
	require.NoError(t, plain.SetDeadline(deadline))
	b := make([]byte, 4096)
	message := func(n int) []byte { return append(wire.AppendVUDP(nil, testID), make([]byte, 14+n)...) }

	// Ours to the kernel. It takes each packet once.
	for n := range 6 {
		p, err := sending.Unicast(0, 0).Append(make([]byte, Headroom), message(n))
		require.NoError(t, err)
		for range 2 {
			_, err = sealed.WriteTo(p[Headroom:], to)
			require.NoError(t, err)
		}
		got, _, err := plain.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, message(n), b[:got])
	}

	// The kernel's to us, with sequence numbers in IVs of its own making.
	p := &puppet{key: newVnetKey(testSecret, testID), instance: [16]byte{7}}
	theirs := newSending(p.key, level, [16]byte{7}, 1, uint32(p.key.kid[0])<<24|0x77700, 2, 0)
	state(there, here, theirs.Unicast(0, 0), theirs)
	ip("xfrm", "policy", "add", "dir", "out", "src", there.String()+bits, "dst", here.String()+bits, "proto", "udp", "dport", "1798",
		"tmpl", "src", there.String(), "dst", here.String(), "proto", "esp", "mode", "transport")
	r.vnet.mu.Lock()
	echo := r.vnet.challengeLocked(r.clock())
	r.vnet.mu.Unlock()
	v, _ := r.table.Message(p.say(theirs, echo), Arrival{From: netip.AddrPortFrom(kernel.Addr(), 4500)}, r.clock(), nil)
	require.Equal(t, Taken, v.Refusal)
	for n := range 6 {
		_, err := plain.WriteTo(message(n), &net.UDPAddr{IP: here.AsSlice(), Port: wire.Port})
		require.NoError(t, err)
		got, _, err := sealed.ReadFrom(b)
		require.NoError(t, err)
		copied := append([]byte(nil), b[:got]...)
		opened, refusal := r.table.Open(&r.opener, b[:got], 0)
		require.Equal(t, Taken, refusal)
		require.Equal(t, message(n), opened.Message)
		_, refusal = r.table.Open(&r.opener, copied, 0)
		require.Equal(t, Replay, refusal)
	}
}
