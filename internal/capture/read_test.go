package capture

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// classic is a file of tcpdump's format.
func classic(t testing.TB, kind layers.LinkType, packets ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	require.NoError(t, w.WriteFileHeader(65536, kind))
	for i, p := range packets {
		require.NoError(t, w.WritePacket(gopacket.CaptureInfo{Timestamp: after(time.Duration(i) * time.Second), CaptureLength: len(p), Length: len(p)}, p))
	}
	return b.Bytes()
}

func reading(t testing.TB, file []byte) ([]Packet, error) {
	t.Helper()
	var out []Packet
	err := Read(bytes.NewReader(file), func(p Packet) error {
		out = append(out, p)
		return nil
	})
	return out, err
}

// Whatever the device and the format, a packet is read as the same Ethernet frame.
func TestReadFormats(t *testing.T) {
	whole := wired(t, there, here, wire.AppendVUDP(nil, id97), frame("hello"))
	packet := whole[14:]
	var ng bytes.Buffer
	w, err := pcapgo.NewNgWriter(&ng, layers.LinkTypeEthernet)
	require.NoError(t, err)
	raw, err := w.AddInterface(pcapgo.NgInterface{LinkType: layers.LinkTypeRaw})
	require.NoError(t, err)
	for i, b := range [][]byte{whole, packet} {
		info := gopacket.CaptureInfo{Timestamp: start, CaptureLength: len(b), Length: len(b)}
		if i == 1 {
			info.InterfaceIndex = raw
		}
		require.NoError(t, w.WritePacket(info, b))
	}
	require.NoError(t, w.Flush())
	cooked := append([]byte{0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0}, packet...)
	cooked2 := append([]byte{8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0}, packet...)
	tagged := append(append(bytes.Clone(whole[:12]), 0x81, 0, 0, 5), whole[12:]...)
	for name, file := range map[string][]byte{
		"pcap": classic(t, layers.LinkTypeEthernet, whole), "pcapng, two devices": ng.Bytes(), "cooked": classic(t, layers.LinkTypeLinuxSLL, cooked),
		"cooked 2": classic(t, 276, cooked2), "raw": classic(t, layers.LinkTypeRaw, packet), "a VLAN": classic(t, layers.LinkTypeEthernet, tagged),
	} {
		got, err := reading(t, file)
		require.NoError(t, err, name)
		require.NotEmpty(t, got, name)
		for _, p := range got {
			require.Equal(t, whole, p.Data, name)
			require.True(t, p.Time.Equal(start), name)
		}
	}
}

// Fragments, in whatever order, are one packet; a lost one loses only that.
func TestReadFragments(t *testing.T) {
	whole := wired(t, there, here, wire.AppendVUDP(nil, id97), frame(string(bytes.Repeat([]byte("x"), 3000))))
	var parts [][]byte
	for offset := 0; ; {
		b, next, err := wire.AppendFragment(bytes.Clone(whole[:14]), whole[14:], 1500, offset)
		require.NoError(t, err)
		parts = append(parts, b)
		if offset = next; next == 0 {
			break
		}
	}
	require.Len(t, parts, 3)
	other := wired(t, there, here, wire.AppendVUDP(nil, id97), frame("other"))
	got, err := reading(t, classic(t, layers.LinkTypeEthernet, parts[1], parts[2], other, parts[0]))
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, other, got[0].Data)
	require.Equal(t, whole, got[1].Data)
	require.Equal(t, []string{"put together from fragments"}, got[1].Comments)

	got, err = reading(t, classic(t, layers.LinkTypeEthernet, parts[0], parts[2], other))
	require.NoError(t, err)
	require.Len(t, got, 1)
}

// What is no capture file says so; one that was cut off has all before.
func TestReadBroken(t *testing.T) {
	whole := wired(t, there, here, wire.AppendVUDP(nil, id97), frame("hello"))
	file := classic(t, layers.LinkTypeEthernet, whole, whole)
	got, err := reading(t, file[:len(file)-3])
	require.NoError(t, err)
	require.Len(t, got, 1)
	for text, file := range map[string][]byte{
		"this is no capture file: it is shorter than a header":            nil,
		"this is no capture file (pcap or pcapng)":                        []byte("(vnet (id 97) (bridge vnet97))"),
		"packet 1: it was captured on a device of link type 105 (802.11)": classic(t, layers.LinkTypeIEEE802_11, whole),
	} {
		_, err := reading(t, file)
		require.ErrorContains(t, err, text)
	}
}

// Of a recorded file nothing is said of a vnif, and messages in the clear and sealed ones are both looked for.
func TestRecorded(t *testing.T) {
	o := Options{Vnet: id97, Device: "x.pcap", Port: 1798, SecurityPort: 4500, Recorded: true}
	c := New(o)
	esp := wired(t, there, here, append([]byte{1, 2, 3, 4}, make([]byte, 60)...))
	binary.BigEndian.PutUint16(esp[36:], 4500)
	for _, b := range [][]byte{wired(t, there, here, wire.AppendVUDP(nil, id97), frame("hello")), esp} {
		c.Learn(Packet{Time: start, Place: Underlay, Data: b})
		c.Add(Packet{Time: start, Place: Underlay, Data: b})
	}
	list := c.Flush(after(time.Second))
	require.Equal(t, [][]string{{"VUDP from 192.0.2.2 to 192.0.2.1 by unicast"}}, comments(list))
	require.Equal(t, 1, c.Closed())
	var b bytes.Buffer
	f, err := NewFile(&b, o)
	require.NoError(t, err)
	require.NoError(t, f.Write(list[0]))
	require.NoError(t, f.Flush())
	got, err := reading(t, b.Bytes())
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.NotContains(t, o.Line(list[0]), "<")
}

// Whatever a file holds is read without harm.
func FuzzRead(f *testing.F) {
	packet := append(append(make([]byte, 12), 8, 0, 0x45, 0, 0, 40, 0, 1, 0x20, 0, 64, 17), make([]byte, 40)...)
	f.Add(classic(f, layers.LinkTypeEthernet, packet, packet))
	f.Add(classic(f, layers.LinkTypeLinuxSLL, packet))
	if b, err := os.ReadFile(filepath.Join("..", "..", "dataplane", "wire", "wiretest", "testdata", "06_full_size_frame_eth0_A.pcap")); err == nil {
		f.Add(b)
	}
	f.Add([]byte{0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		o := options()
		o.Recorded = true
		c := New(o)
		_ = Read(bytes.NewReader(b), func(p Packet) error {
			c.Learn(p)
			c.Add(p)
			c.Flush(p.Time.Add(time.Hour))
			return nil
		})
	})
}
