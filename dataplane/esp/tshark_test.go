package esp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// TestTshark: another program opens what we seal, given the key: in UDP, and as protocol 50.
func TestTshark(t *testing.T) {
	program, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed; make test installs it")
	}
	w := newWorld(t, 1, vnet.Conf, 1)
	w.pass(time.Second, true)
	lane := w.hosts[0].vnet.Sending(w.now).Unicast(1, 0)
	from, to := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.2:4500")
	pcap := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	pcap = append(pcap, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	var want []string
	for i := range 8 {
		frame := append([]byte{0, 0x16, 0x3e, 0, 0, 2, 0, 0x16, 0x3e, 0, 0, 1, 0x88, 0xb5}, fmt.Sprintf("frame %d%s", i, strings.Repeat("x", i))...)
		message := append(wire.AppendVUDP(nil, testID), frame...)
		sealed, err := lane.Append(make([]byte, Headroom), message)
		require.NoError(t, err)
		sealed = sealed[Headroom:]
		packet := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}
		if i%2 == 0 {
			packet, err = wire.AppendDatagram(packet, from, to, 64, 1, sealed)
		} else {
			packet, err = wire.AppendIPv4(packet, wire.IPv4{Source: from.Addr(), Destination: to.Addr(), Protocol: wire.ProtocolESP, TTL: 64}, len(sealed))
		}
		require.NoError(t, err)
		packet = append(packet, sealed...)
		pcap = append(pcap, make([]byte, 8)...)
		pcap = binary.LittleEndian.AppendUint32(pcap, uint32(len(packet)))
		pcap = binary.LittleEndian.AppendUint32(pcap, uint32(len(packet)))
		pcap = append(pcap, packet...)
		want = append(want, hex.EncodeToString(message))
	}
	file := filepath.Join(t.TempDir(), "sealed.pcap")
	require.NoError(t, os.WriteFile(file, pcap, 0o600))
	s := w.hosts[0].vnet.Sending(w.now)
	key := s.key.expand(string(laneInfo(s.key, s.nonce[:], s.epoch, 2, uint8(lane.spi))), 36)
	sa := fmt.Sprintf(`uat:esp_sa:"IPv4","*","*","0x%08x","AES-GCM with 16 octet ICV [RFC4106]","0x%x","NULL",""`, lane.spi, key)
	cmd := exec.CommandContext(t.Context(), program, "-r", file, "-o", "esp.enable_encryption_decode:TRUE", "-o", sa,
		"-T", "fields", "-E", "occurrence=l", "-e", "udp.dstport", "-e", "udp.payload")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.Output()
	require.NoError(t, err)
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		require.Len(t, f, 2, line)
		require.Equal(t, "1798", f[0])
		got = append(got, f[1])
	}
	require.Equal(t, want, got)
}
