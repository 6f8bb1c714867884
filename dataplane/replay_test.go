package dataplane

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// The captures were taken between two original hosts: A is 192.0.2.1, B is 192.0.2.2, the vnet is 4.
var (
	recordedA = netip.MustParseAddr("192.0.2.1")
	recordedB = netip.MustParseAddr("192.0.2.2")
)

// readCapture returns the frames of a capture file; pcap-savefile(5).
func readCapture(t testing.TB, name string) (frames [][]byte) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "wire", name+".pcap"))
	require.NoError(t, err)
	require.EqualValues(t, 0xa1b2c3d4, binary.LittleEndian.Uint32(b))
	for b = b[24:]; len(b) > 0; {
		n := binary.LittleEndian.Uint32(b[8:])
		frames = append(frames, b[16:16+n])
		b = b[16+n:]
	}
	return frames
}

// recorded is a UDP packet of a capture.
type recorded struct {
	from, to netip.Addr
	payload  []byte
}

// readUDP returns the UDP packets of a capture, fragments put together.
func readUDP(t testing.TB, name string) (out []recorded) {
	t.Helper()
	parts := map[uint16][]byte{}
	for _, f := range readCapture(t, name) {
		if binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[23] != wire.ProtocolUDP {
			continue
		}
		h, payload, err := wire.DecodeIPv4(f[14:])
		require.NoError(t, err)
		if field := binary.BigEndian.Uint16(f[20:]); field&0x3fff != 0 {
			require.Len(t, parts[h.ID], int(field&0x1fff)*8)
			parts[h.ID] = append(parts[h.ID], payload...)
			if field&0x2000 != 0 {
				continue
			}
			payload = parts[h.ID]
		}
		require.EqualValues(t, wire.Port, binary.BigEndian.Uint16(payload))
		require.EqualValues(t, wire.Port, binary.BigEndian.Uint16(payload[2:]))
		out = append(out, recorded{h.Source, h.Destination, payload[8:]})
	}
	return out
}

// We are host A: what A sent in the recording is put into our vnif, and the same payloads must come out
// to the same destinations; what B sent is sent to us, and the frames must come out of the vnif.
func TestReplay(t *testing.T) {
	for _, name := range []string{
		"01_first_ping_eth0_A", "02_broadcast_arp_eth0_A", "03_unicast_unresolved_eth0_A",
		"05a_vfwd_A_peer_B_eth0_A", "05b_vfwd_both_eth0_A", "06_full_size_frame_eth0_A",
	} {
		t.Run(name, func(t *testing.T) {
			_, s, hosts := newLab(t, 1, testConfig())
			a := hosts[0]
			addDefaults(t, a)
			b := newOriginal(t, s, "B")
			vnif, err := a.Capture("vnif0004", func(f lab.Frame) bool { return !f.Outgoing })
			require.NoError(t, err)
			address := map[netip.Addr]netip.Addr{recordedA: a.Addr(), recordedB: b.Addr(), wire.Group: wire.Group}
			packets := readUDP(t, name)
			require.NotEmpty(t, packets)
			if first := packets[0]; first.to == recordedB {
				// The recording begins when A knows where the MAC is.
				if id, frame, err := wire.DecodeVUDP(first.payload); err == nil {
					mac := wire.Destination(frame)
					b.send(a.Addr(), varpMessage(wire.Announce, id, mac[:], b.Addr()))
					eventually(t, "announce learned", func() bool { return len(a.Snapshot().Entries) == 1 })
				}
			}
			for i, p := range packets {
				id, err := messageID(p.payload)
				require.NoError(t, err)
				switch {
				case id == wire.MessageVFWD:
					f, err := wire.DecodeVFWD(p.payload)
					require.NoError(t, err)
					if p.from == recordedB {
						// What comes is handled, and multicast here.
						require.NoError(t, a.AddPeer(soon(t), b.Addr(), 0))
						b.send(a.Addr(), p.payload)
						continue
					}
					// A sent it to its peer, just before or after it multicast the same.
					require.Equal(t, wire.Group, f.Destination)
					require.NoError(t, a.AddPeer(soon(t), b.Addr(), 0))
					_, frame, err := wire.DecodeVUDP(f.Payload)
					require.NoError(t, err)
					require.NoError(t, a.Send("vnif0004", frame))
					b.wait("VFWD", func(h heardPacket) bool {
						got, err := wire.DecodeVFWD(h.data)
						return err == nil && string(got.Payload) == string(f.Payload) && got.Destination == wire.Group
					})
				case p.from == recordedA:
					_, frame, err := wire.DecodeVUDP(p.payload)
					require.NoError(t, err)
					require.NoError(t, a.Send("vnif0004", frame))
					got := b.wait("packet", func(h heardPacket) bool { return string(h.data) == string(p.payload) })
					require.Equal(t, address[p.to], got.to, "packet %d went elsewhere: %s", i, hex.EncodeToString(got.data))
				default:
					_, frame, err := wire.DecodeVUDP(p.payload)
					require.NoError(t, err)
					b.send(address[p.to], p.payload)
					if p.to == wire.Group && name == "05b_vfwd_both_eth0_A" {
						continue // B's own re-multicast of what A sent: an original's loop
					}
					_, err = vnif.WaitFor(soon(t), isData(frame))
					require.NoError(t, err)
				}
			}
			for _, r := range []Reason{DropMalformed, DropVersion, DropMessage, DropUnknownVnet, DropTooLong, DropFrame, DropNotPeer} {
				require.Zero(t, a.drops(r), r)
			}
		})
	}
}

func messageID(b []byte) (wire.MessageID, error) {
	id, _, err := wire.DecodeMessage(b)
	return id, err
}

// What came out of the originals' vnif is what comes out of ours.
func TestReplayAtVnif(t *testing.T) {
	_, s, hosts := newLab(t, 1, testConfig())
	a := hosts[0]
	addDefaults(t, a)
	b := newOriginal(t, s, "B")
	vnif, err := a.Capture("vnif0004", func(f lab.Frame) bool { return !f.Outgoing })
	require.NoError(t, err)
	for _, p := range readUDP(t, "02_broadcast_arp_eth0_A") {
		if p.from != recordedA {
			continue
		}
		// Here we are B, and hear A.
		to := a.Addr()
		if p.to == wire.Group {
			to = wire.Group
		}
		b.send(to, p.payload)
	}
	// What goes to the group and what goes to one host may overtake each other.
	want := map[string]int{}
	recording := readCapture(t, "02_broadcast_arp_vnif0004_B")
	for _, f := range recording {
		if wire.Source(f) == wire.Source(recording[0]) {
			want[string(f)]++
		}
	}
	_, err = vnif.WaitFor(soon(t), func(f lab.Frame) bool {
		if want[string(f.Data)]--; want[string(f.Data)] <= 0 {
			delete(want, string(f.Data))
		}
		return len(want) == 0
	})
	require.NoError(t, err)
}
