package wireshark

import (
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/dataplane/wire/wiretest"
	"github.com/xenvnet/xend/vnet"
)

var (
	one, two = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	group    = netip.AddrPortFrom(wire.Group, wire.Port)
	macA     = wire.MAC{0, 0x16, 0x3e, 0, 0, 1}
	vnet97   = vnet.ID{14: 0, 15: 0x97}
)

// pcap writes packets, each an IPv4 packet, into a capture file.
func pcap(t *testing.T, packets ...[]byte) string {
	t.Helper()
	frames := make([][]byte, len(packets))
	for i, p := range packets {
		frames[i] = append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, p...)
	}
	return write(t, frames)
}

// write writes Ethernet frames into a capture file.
func write(t *testing.T, frames [][]byte) string {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	for _, frame := range frames {
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
		b = append(b, frame...)
	}
	name := filepath.Join(t.TempDir(), "packets.pcap")
	require.NoError(t, os.WriteFile(name, b, 0o600))
	return name
}

func udp(t *testing.T, to netip.AddrPort, payload []byte) []byte {
	t.Helper()
	b, err := wire.AppendDatagram(nil, netip.AddrPortFrom(one, to.Port()), to, 64, 1, payload)
	require.NoError(t, err)
	return append(b, payload...)
}

// tshark prints fields of each packet, one line a packet, separated by blanks.
func tshark(t *testing.T, file string, fields ...string) []string {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("tshark is not installed; make test installs it")
	}
	args := []string{"-X", "lua_script:xend.lua", "-r", file, "-T", "fields", "-E", "separator=/s"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, errs.String())
	assert.NotContains(t, errs.String(), "Lua", "the script runs without an error")
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n")
}

// arp asks who has 10.97.0.2.
func arp() []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, macA[:]...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(f, macA[:]...)
	f = append(f, 10, 97, 0, 1, 0, 0, 0, 0, 0, 0, 10, 97, 0, 2)
	return f
}

func TestFrames(t *testing.T) {
	long := vnet.ID{0: 0x12, 1: 0x34, 15: 0x97}
	bare, err := wire.AppendIPv4(nil, wire.IPv4{Source: one, Destination: two, Protocol: wire.ProtocolEtherIP, TTL: 64}, wire.EtherIPLen+len(arp()))
	require.NoError(t, err)
	etherip := append(wire.AppendEtherIP(bare, vnet97), arp()...)
	bigEndian := append(wire.AppendVUDP(nil, vnet97), arp()...)
	bigEndian[4], bigEndian[5] = 0x40, 0x00
	inner := append(wire.AppendVUDP(nil, vnet97), arp()...)
	forward, err := wire.AppendVFWD(nil, netip.AddrPortFrom(two, wire.Port), group, 64, inner)
	require.NoError(t, err)
	file := pcap(t,
		udp(t, group, append(wire.AppendVUDP(nil, vnet97), arp()...)),
		udp(t, group, append(wire.AppendVUDP(nil, long), arp()...)),
		udp(t, group, bigEndian),
		etherip,
		udp(t, netip.AddrPortFrom(two, wire.Port), append(forward, inner...)),
	)
	assert.Equal(t, []string{
		"97 10.97.0.2 ",
		"1234:0000:0000:0000:0000:0000:0000:0097 10.97.0.2 ",
		"97 10.97.0.2 ",
		"97 10.97.0.2 ",
		"97 10.97.0.2 192.0.2.2",
	}, tshark(t, file, "vnet.id", "arp.dst.proto_ipv4", "vnet.vfwd.src"))
}

// TestRecorded: what the original hosts sent is read by tshark as it is by us, and nothing of it is malformed.
func TestRecorded(t *testing.T) {
	messages := map[wire.MessageID]int{}
	for _, name := range wiretest.Names() {
		if !strings.Contains(name, "_eth0_") {
			continue
		}
		frames := wiretest.Packets(t, name)
		var want []string
		for _, d := range wiretest.Datagrams(t, frames) {
			if d.Destination.Port() != wire.Port {
				continue
			}
			ids, where, payload := "", "", d.Payload
			kind, _, err := wire.DecodeMessage(payload)
			require.NoError(t, err)
			messages[kind]++
			if kind == wire.MessageVFWD {
				f, err := wire.DecodeVFWD(payload)
				require.NoError(t, err)
				ids, where, payload = "3,", f.Source.String(), f.Payload
				kind, _, err = wire.DecodeMessage(payload)
				require.NoError(t, err)
			}
			var id vnet.ID
			if kind == wire.MessageVARP {
				v, err := wire.DecodeVARP(payload)
				require.NoError(t, err)
				id = v.Vnet
			} else {
				id, _, err = wire.DecodeVUDP(payload)
				require.NoError(t, err)
			}
			want = append(want, strings.Join([]string{ids + strconv.Itoa(int(kind)), id.Short(), where, ""}, " "))
		}
		var got []string
		for _, line := range tshark(t, write(t, frames), "vnet.message", "vnet.id", "vnet.vfwd.src", "_ws.expert.severity") {
			if !strings.HasPrefix(line, " ") && line != "" { // others are fragments, IGMP and ARP
				got = append(got, line)
			}
		}
		assert.Equal(t, want, got, name)
	}
	assert.Len(t, messages, 2, "the captures have VUDP and VFWD: the user-space original sends no VARP unasked")
}

func TestVARP(t *testing.T) {
	ask := wire.VARP{Opcode: wire.Request, Vnet: vnet97, MAC: macA, CareOf: one}
	tell := wire.VARP{Opcode: wire.Announce, Vnet: vnet97, MAC: macA, CareOf: netip.MustParseAddr("2001:db8::1")}
	file := pcap(t, udp(t, group, ask.Append(nil)), udp(t, group, tell.Append(nil)))
	assert.Equal(t, []string{
		"VARP vnet 97: who has 00:16:3e:00:00:01? Tell 192.0.2.1",
		"VARP vnet 97: 00:16:3e:00:00:01 is at 2001:db8::1",
	}, tshark(t, file, "_ws.col.Protocol", "_ws.col.Info"))
}

// All that an answer to a probe may tell has its name.
func TestProbe(t *testing.T) {
	answers := []wire.Probe{
		{Answer: true, CareOf: two, Received: 400, Group: true, Version: "0.2.0", Addrs: []netip.Addr{two, netip.MustParseAddr("2001:db8::2")},
			Vnets: []vnet.ID{vnet97, {15: 2}}, VnetCount: 5, HearsGroup: true, Unsummed: true, Clock: 1_700_000_000_123_456_789, Whole: true},
		{Answer: true, Vnet: vnet97, CareOf: two, Received: 400, Level: 2, Keys: []wire.KID{{1}, {2}}, MACs: []wire.MAC{macA}, MACCount: 7},
	}
	file := pcap(t, udp(t, netip.AddrPortFrom(two, wire.Port), answers[0].Append(nil)), udp(t, netip.AddrPortFrom(two, wire.Port), answers[1].Append(nil)),
		udp(t, group, wire.Probe{CareOf: one, Size: 200}.Append(nil)))
	assert.Equal(t, []string{
		"2 400 1 0.2.0 192.0.2.2 2001:db8::2 97,2 5 0x05 Nov 14, 2023 22:13:20.123456789 UTC    ",
		"2 400 2      0x00  00:16:3e:00:00:01 7 2 0100000000000000,0200000000000000",
		"1             ",
	}, tshark(t, file, "vnet.probe.type", "vnet.probe.length", "vnet.probe.how", "vnet.probe.version", "vnet.probe.addr", "vnet.probe.addr6", "vnet.probe.vnet",
		"vnet.probe.vnets", "vnet.probe.can", "vnet.probe.clock", "vnet.probe.mac", "vnet.probe.macs", "vnet.probe.level", "vnet.probe.key"))
	for _, line := range tshark(t, file, "vnet.probe.unknown", "_ws.expert.severity") {
		assert.Empty(t, strings.TrimSpace(line))
	}
}

func TestKeys(t *testing.T) {
	kid := wire.KID{1, 2, 3, 4, 5, 6, 7, 8}
	ask := wire.Ask{KID: kid, Challenge: [16]byte{9}, Addr4: one}
	key := wire.Key{KID: kid, Level: 2, Instance: [16]byte{7}, Nonce: [16]byte{8}, Epoch: 3, SPI: 0x01123400, Number: 4, Addr4: two, Lanes: 2, Next: [wire.MaxLanes]uint64{5, 6}}
	marker := []byte{0, 0, 0, 0}
	to := netip.AddrPortFrom(two, 4500)
	file := pcap(t,
		udp(t, to, append(ask.Append(marker), make([]byte, 16)...)),
		udp(t, to, append(key.Append(marker), make([]byte, 16)...)),
	)
	assert.Equal(t, []string{
		"ASK 0102030405060708   192.0.2.1",
		"KEY 0102030405060708 3 5,6 192.0.2.2",
	}, tshark(t, file, "_ws.col.Protocol", "vnet.key.kid", "vnet.key.epoch", "vnet.key.next", "vnet.key.addr"))
}

// TestTruncated: no packet that is cut anywhere, and none with any message id, makes the script fail.
func TestTruncated(t *testing.T) {
	var packets [][]byte
	tell := wire.VARP{Opcode: wire.Announce, Vnet: vnet97, MAC: macA, CareOf: one}
	for _, whole := range [][]byte{append(wire.AppendVUDP(nil, vnet97), arp()...), tell.Append(nil), {0, 3, 0, 0, 0x45}} {
		for n := range len(whole) {
			packets = append(packets, udp(t, group, whole[:n]))
		}
	}
	for id := range 6 {
		packets = append(packets, udp(t, group, append([]byte{0, byte(id)}, make([]byte, 80)...)))
	}
	probe := wire.Probe{Answer: true, CareOf: two, Received: 400, Version: "0.2.0", Addrs: []netip.Addr{two}, Vnets: []vnet.ID{vnet97}, Clock: 1}.Append(nil)
	for n := range len(probe) {
		packets = append(packets, udp(t, group, probe[:n]))
	}
	key := append([]byte("\x00\x00\x00\x00XVK1\x02"), make([]byte, 120)...)
	for n := range len(key) {
		packets = append(packets, udp(t, netip.AddrPortFrom(two, 4500), key[:n]))
	}
	lines := tshark(t, pcap(t, packets...), "frame.number", "_ws.expert.message")
	assert.Len(t, lines, len(packets))
	for i, line := range lines { // an error of the script is told with the packet
		assert.NotContains(t, line, "Lua", "%x", packets[i])
	}
}
