// Package wiretest gives tests what original vnet hosts sent, as it was recorded: packets from capture
// files, and the UDP datagrams in them.
package wiretest

import (
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"testing"
)

//go:embed testdata/*.pcap
var captures embed.FS

// Names returns the names of the captures, sorted. Those that contain "_eth0_" were taken on the
// underlay, those with "_vnif" on a vnif; the last letter is the host.
func Names() []string {
	names, err := fs.Glob(captures, "testdata/*.pcap")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for i := range names {
		names[i] = names[i][len("testdata/") : len(names[i])-len(".pcap")]
	}
	return names
}

// Packets returns the Ethernet frames of a capture, in order.
func Packets(t testing.TB, name string) [][]byte {
	t.Helper()
	b, err := captures.ReadFile("testdata/" + name + ".pcap")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := ParsePcap(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return packets
}

// ParsePcap reads a capture file in the classic little-endian format with Ethernet frames
// (draft-ietf-opsawg-pcap).
func ParsePcap(b []byte) ([][]byte, error) {
	const fileHeader, recordHeader, ethernet = 24, 16, 1
	if len(b) < fileHeader {
		return nil, errors.New("pcap: file header is truncated")
	}
	if m := binary.LittleEndian.Uint32(b); m != 0xa1b2c3d4 && m != 0xa1b23c4d {
		return nil, fmt.Errorf("pcap: magic %#x is not that of a little-endian capture", m)
	}
	if l := binary.LittleEndian.Uint32(b[20:]); l&0xffff != ethernet {
		return nil, fmt.Errorf("pcap: link type %d is not Ethernet", l)
	}
	var out [][]byte
	for b = b[fileHeader:]; len(b) > 0; {
		if len(b) < recordHeader {
			return nil, errors.New("pcap: record header is truncated")
		}
		n, whole := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		b = b[recordHeader:]
		if n != whole || uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("pcap: packet %d is truncated", len(out))
		}
		out = append(out, b[:n:n])
		b = b[n:]
	}
	return out, nil
}

// Datagram is a UDP datagram as it was on the wire, put together from its fragments.
type Datagram struct {
	Source, Destination netip.AddrPort
	TTL                 uint8
	DontFragment        bool
	Fragments           int
	// Header is the 28 bytes of IPv4 and UDP headers, of the first fragment.
	Header  []byte
	Payload []byte
}

// Datagrams returns the UDP datagrams among Ethernet frames, in the order in which they became complete.
// The rest (IGMP, ARP) is left out. Fragments must come in order.
func Datagrams(t testing.TB, frames [][]byte) []Datagram {
	t.Helper()
	type key struct {
		src, dst [4]byte
		id       uint16
	}
	pending := make(map[key]*Datagram)
	var out []Datagram
	for i, f := range frames {
		if len(f) < 14+20 || binary.BigEndian.Uint16(f[12:]) != 0x0800 {
			continue
		}
		ip := f[14:]
		hl, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if ip[9] != 17 {
			continue
		}
		if hl != 20 || total > len(ip) {
			t.Fatalf("packet %d: header length %d, total length %d of %d", i, hl, total, len(ip))
		}
		ip = ip[:total]
		frag := binary.BigEndian.Uint16(ip[6:])
		k := key{[4]byte(ip[12:16]), [4]byte(ip[16:20]), binary.BigEndian.Uint16(ip[4:])}
		d := pending[k]
		if d == nil {
			udp := ip[20:]
			if frag&0x1fff != 0 || len(udp) < 8 {
				t.Fatalf("packet %d: a fragment without a beginning", i)
			}
			d = &Datagram{
				Source:       netip.AddrPortFrom(netip.AddrFrom4(k.src), binary.BigEndian.Uint16(udp)),
				Destination:  netip.AddrPortFrom(netip.AddrFrom4(k.dst), binary.BigEndian.Uint16(udp[2:])),
				TTL:          ip[8],
				DontFragment: frag&0x4000 != 0,
				Header:       ip[:28],
			}
			pending[k] = d
			d.Payload = append(d.Payload, udp[8:]...)
		} else {
			if int(frag&0x1fff)*8 != len(d.Payload)+8 {
				t.Fatalf("packet %d: fragment out of order", i)
			}
			d.Payload = append(d.Payload, ip[20:]...)
		}
		d.Fragments++
		if frag&0x2000 != 0 {
			continue
		}
		delete(pending, k)
		if n := int(binary.BigEndian.Uint16(d.Header[24:])); n != len(d.Payload)+8 {
			t.Fatalf("packet %d: UDP length %d, but %d bytes came", i, n, len(d.Payload)+8)
		}
		out = append(out, *d)
	}
	if len(pending) != 0 {
		t.Fatalf("%d datagrams lack their last fragment", len(pending))
	}
	return out
}
