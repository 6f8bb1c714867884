package wire_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/dataplane/wire/wiretest"
	"github.com/xenvnet/xend/vnet"
)

var (
	vnet4 = vnet.ID{15: 4}
	hostA = netip.MustParseAddr("192.0.2.1")
	hostB = netip.MustParseAddr("192.0.2.2")
)

// TestCaptures reads every packet that original hosts sent and writes the same bytes again.
func TestCaptures(t *testing.T) {
	want := map[string]struct{ vudp, vfwd int }{ // as counted with tcpdump
		"00_startup_eth0_A":            {0, 0},
		"01_first_ping_eth0_A":         {8, 0},
		"02_broadcast_arp_eth0_A":      {7, 0},
		"03_unicast_unresolved_eth0_A": {5, 0},
		"05a_vfwd_A_peer_B_eth0_A":     {2, 2},
		"05b_vfwd_both_eth0_A":         {4, 2},
		"06_full_size_frame_eth0_A":    {2, 0},
	}
	for _, name := range wiretest.Names() {
		if !strings.Contains(name, "_eth0_") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			vudp, vfwd := 0, 0
			for _, d := range wiretest.Datagrams(t, wiretest.Packets(t, name)) {
				require.EqualValues(t, wire.Port, d.Source.Port())
				require.EqualValues(t, wire.Port, d.Destination.Port())
				id, opcode, err := wire.DecodeMessage(d.Payload)
				require.NoError(t, err)
				require.Zero(t, opcode)
				switch id {
				case wire.MessageVUDP:
					vudp++
					rewriteVUDP(t, d.Payload)
				case wire.MessageVFWD:
					vfwd++
					rewriteVFWD(t, d)
				default:
					t.Fatalf("message id %d was not recorded", id)
				}
			}
			require.Equal(t, want[name].vudp, vudp, "VUDP")
			require.Equal(t, want[name].vfwd, vfwd, "VFWD")
		})
	}
}

func rewriteVUDP(t *testing.T, payload []byte) {
	t.Helper()
	id, frame, err := wire.DecodeVUDP(payload)
	require.NoError(t, err)
	require.Equal(t, vnet4, id)
	require.Len(t, frame, len(payload)-wire.VUDPLen)
	require.Equal(t, payload, append(wire.AppendVUDP(nil, id), frame...))
}

func rewriteVFWD(t *testing.T, d wiretest.Datagram) {
	t.Helper()
	f, err := wire.DecodeVFWD(d.Payload)
	require.NoError(t, err)
	require.Equal(t, "0.0.0.0", f.Source.String()) // the originator
	require.Equal(t, wire.Group, f.Destination)
	rewriteVUDP(t, f.Payload)

	from := netip.AddrPortFrom(f.Source, wire.Port)
	again, err := wire.AppendVFWD(nil, from, netip.AddrPortFrom(wire.Group, wire.Port), 64, f.Payload)
	require.NoError(t, err)
	again = append(again, f.Payload...)
	// Ours has the checksums that theirs lacks; all else is the same.
	ip := again[wire.MessageLen:]
	require.Equal(t, uint16(0xffff), wire.Fold(wire.Sum(ip[:wire.IPv4Len], 0)))
	require.NotZero(t, binary.BigEndian.Uint16(ip[26:]))
	clear(ip[10:12])
	clear(ip[26:28])
	require.Equal(t, d.Payload, again)
}

// TestCapturedFrames finds, in order, the frames that left a vnif in the packets on the underlay.
func TestCapturedFrames(t *testing.T) {
	for _, name := range []string{"01_first_ping", "05a_vfwd"} {
		under, vnif := name+"_eth0_A", name+"_vnif0004_A"
		if name == "05a_vfwd" {
			under, vnif = "05a_vfwd_A_peer_B_eth0_A", "05a_vfwd_vnif0004_B"
		}
		var frames [][]byte
		for _, d := range wiretest.Datagrams(t, wiretest.Packets(t, under)) {
			if id, frame, err := wire.DecodeVUDP(d.Payload); err == nil && id == vnet4 {
				frames = append(frames, frame)
			}
		}
		require.Equal(t, wiretest.Packets(t, vnif), frames, name)
	}
}

// TestCapturedForwarding compares the forwarded copy with the multicast one, and our re-multicast with
// the original's.
func TestCapturedForwarding(t *testing.T) {
	ds := wiretest.Datagrams(t, wiretest.Packets(t, "05b_vfwd_both_eth0_A"))
	require.Len(t, ds, 6)
	for i := 0; i < len(ds); i += 3 {
		forwarded, multicast, again := ds[i], ds[i+1], ds[i+2]
		f, err := wire.DecodeVFWD(forwarded.Payload)
		require.NoError(t, err)
		require.Equal(t, multicast.Payload, f.Payload)
		require.Equal(t, hostB, forwarded.Destination.Addr())

		// Host B multicast it again with A's address, TTL 64, no DF, no UDP checksum.
		require.Equal(t, hostA, again.Source.Addr())
		require.Equal(t, multicast.Payload, again.Payload)
		id := binary.BigEndian.Uint16(again.Header[4:])
		ours, err := wire.AppendDatagram(nil, again.Source, again.Destination, again.TTL, id, again.Payload)
		require.NoError(t, err)
		require.Equal(t, again.Header[:26], ours[:26])
	}
}

// TestCapturedFragments: a full frame is 1536 bytes of UDP payload in two fragments; ours are the same.
func TestCapturedFragments(t *testing.T) {
	packets := wiretest.Packets(t, "06_full_size_frame_eth0_A")
	ds := wiretest.Datagrams(t, packets)
	var fragments [][]byte
	for _, p := range packets {
		if len(p) > 14 && binary.BigEndian.Uint16(p[12:]) == 0x0800 && p[14+9] == wire.ProtocolUDP {
			fragments = append(fragments, p[14:])
		}
	}
	for _, d := range ds {
		require.Len(t, d.Payload, 1536)
		require.Equal(t, 2, d.Fragments)
		whole := append(append([]byte(nil), d.Header...), d.Payload...)
		binary.BigEndian.PutUint16(whole[2:], uint16(len(whole)))
		for off, first := 0, true; first || off != 0; first = false {
			out, next, err := wire.AppendFragment(nil, whole, 1500, off)
			require.NoError(t, err)
			require.Equal(t, fragments[0], out)
			fragments, off = fragments[1:], next
		}
	}
	require.Empty(t, fragments)
}
