package esp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// TestKernel exchanges packets with the kernel's own ESP, both ways: what we seal it opens, once, and the reverse. Where the
// kernel has no AES-GCM for ESP it is skipped; make test-vm runs it on Debian's.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for level, algorithm := range map[vnet.Security]string{vnet.Conf: "rfc4106(gcm(aes))", vnet.Auth: "rfc4543(gcm(aes))"} {
		t.Run(level.String(), func(t *testing.T) {
			l := lab.New(t)
			s, err := l.Switch("lan", 0)
			require.NoError(t, err)
			ours, err := s.Host("ours")
			require.NoError(t, err)
			kernel, err := s.Host("kernel")
			require.NoError(t, err)
			a, k := ours.Addr().String(), kernel.Addr().String()
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
			state := func(from, to string, lane *Lane, s *Sending) {
				key := s.key.expand(string(laneInfo(s.key, s.nonce[:], s.epoch, levelOf(level), uint8(lane.spi))), 36)
				ip("xfrm", "state", "add", "src", from, "dst", to, "proto", "esp", "spi", fmt.Sprintf("0x%08x", lane.spi), "mode", "transport",
					"aead", algorithm, fmt.Sprintf("0x%x", key), "128", "flag", "esn", "replay-window", "4096")
			}
			sending := r.vnet.Sending(r.clock())
			state(a, k, sending.Unicast(0, 0), sending)

			var raw, plain net.PacketConn
			require.NoError(t, ours.Do(func() (err error) { raw, err = net.ListenPacket("ip4:50", a); return err }))
			defer raw.Close()
			require.NoError(t, kernel.Do(func() (err error) { plain, err = net.ListenPacket("udp4", k+":1798"); return err }))
			defer plain.Close()
			deadline := time.Now().Add(20 * time.Second)
			require.NoError(t, raw.SetDeadline(deadline))
			require.NoError(t, plain.SetDeadline(deadline))
			b := make([]byte, 4096)
			message := func(n int) []byte { return append(wire.AppendVUDP(nil, testID), make([]byte, 14+n)...) }

			// Ours to the kernel. It takes each packet once.
			for n := range 6 {
				sealed, err := sending.Unicast(0, 0).Append(make([]byte, Headroom), message(n))
				require.NoError(t, err)
				for range 2 {
					_, err = raw.WriteTo(sealed[Headroom:], &net.IPAddr{IP: net.ParseIP(k)})
					require.NoError(t, err)
				}
				got, _, err := plain.ReadFrom(b)
				require.NoError(t, err)
				require.Equal(t, message(n), b[:got])
			}

			// The kernel's to us, with sequence numbers in IVs of its own making.
			p := &puppet{key: newVnetKey(testSecret, testID), instance: [16]byte{7}}
			theirs := newSending(p.key, level, [16]byte{7}, 1, uint32(p.key.kid[0])<<24|0x77700, 2, 0)
			state(k, a, theirs.Unicast(0, 0), theirs)
			ip("xfrm", "policy", "add", "dir", "out", "src", k+"/32", "dst", a+"/32", "proto", "udp", "dport", "1798",
				"tmpl", "src", k, "dst", a, "proto", "esp", "mode", "transport")
			r.vnet.mu.Lock()
			echo := r.vnet.challengeLocked(r.clock())
			r.vnet.mu.Unlock()
			v, _ := r.table.Message(p.say(theirs, echo), Arrival{From: netip.AddrPortFrom(kernel.Addr(), 4500)}, r.clock(), nil)
			require.Equal(t, Taken, v.Refusal)
			for n := range 6 {
				_, err := plain.WriteTo(message(n), &net.UDPAddr{IP: net.ParseIP(a), Port: wire.Port})
				require.NoError(t, err)
				got, _, err := raw.ReadFrom(b)
				require.NoError(t, err)
				copied := append([]byte(nil), b[:got]...)
				opened, refusal := r.table.Open(&r.opener, b[:got], 0)
				require.Equal(t, Taken, refusal)
				require.Equal(t, message(n), opened.Message)
				_, refusal = r.table.Open(&r.opener, copied, 0)
				require.Equal(t, Replay, refusal)
			}
		})
	}
}
