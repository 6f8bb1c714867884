package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/ip4defrag"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/xenvnet/xend/dataplane/wire"
)

// maxParts bounds the fragments that are held until their packet is whole; older ones go.
const maxParts = 16384

// source is a capture file of either format.
type source interface {
	ReadPacketData() (data []byte, ci gopacket.CaptureInfo, err error)
}

// Read gives each the packets of a capture file (pcap or pcapng), as Ethernet frames, IPv4 fragments put together. A file
// that ends in the middle of a packet has all before it.
func Read(r io.Reader, each func(Packet) error) error {
	b := bufio.NewReader(r)
	magic, err := b.Peek(4)
	if err != nil {
		return errors.New("this is no capture file: it is shorter than a header")
	}
	var s source
	var link func(int) (layers.LinkType, error)
	const section = 0x0a0d0d0a // pcapng's first block, the same in both byte orders
	if binary.BigEndian.Uint32(magic) == section {
		ng, err := pcapgo.NewNgReader(b, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
		if err != nil {
			return fmt.Errorf("read pcapng: %w", err)
		}
		s, link = ng, func(i int) (layers.LinkType, error) {
			about, err := ng.Interface(i)
			return about.LinkType, err
		}
	} else {
		classic, err := pcapgo.NewReader(b)
		if err != nil {
			return fmt.Errorf("this is no capture file (pcap or pcapng): %w", err)
		}
		s, link = classic, func(int) (layers.LinkType, error) { return classic.LinkType(), nil }
	}
	parts := joiner{whole: ip4defrag.NewIPv4Defragmenter()}
	for n := 1; ; n++ {
		data, info, err := s.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("packet %d: %w", n, err)
		}
		kind, err := link(info.InterfaceIndex)
		if err != nil {
			return fmt.Errorf("packet %d: %w", n, err)
		}
		if data, err = ethernet(kind, data); err != nil {
			return fmt.Errorf("packet %d: %w", n, err)
		}
		p, ok := parts.join(Packet{Time: info.Timestamp, Place: Underlay, Data: data})
		if !ok {
			continue
		}
		if err := each(p); err != nil {
			return err
		}
	}
}

// ethernet makes an Ethernet frame, without VLAN tags, of a packet as a device of that kind gives it; of what is no frame
// or packet, something without content.
func ethernet(kind layers.LinkType, b []byte) ([]byte, error) {
	var protocol uint16
	const linuxSLL2 = 276 // LINKTYPE_LINUX_SLL2, `tcpdump -i any`
	switch kind {
	case layers.LinkTypeEthernet:
		for len(b) >= 18 && slices.Contains([]uint16{0x8100, 0x88a8}, binary.BigEndian.Uint16(b[12:])) {
			b = append(slices.Clone(b[:12]), b[16:]...)
		}
		return b, nil
	case layers.LinkTypeLinuxSLL:
		if len(b) >= 16 {
			protocol, b = binary.BigEndian.Uint16(b[14:]), b[16:]
		}
	case linuxSLL2:
		if len(b) >= 20 {
			protocol, b = binary.BigEndian.Uint16(b), b[20:]
		}
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6, 12: // 12 is DLT_RAW of most systems
		if len(b) > 0 {
			protocol = map[byte]uint16{4: 0x0800, 6: 0x86dd}[b[0]>>4]
		}
	default:
		return nil, fmt.Errorf("it was captured on a device of link type %d (%s); known are Ethernet, raw IP, and what tcpdump -i any writes", int(kind), kind)
	}
	return append(binary.BigEndian.AppendUint16(make([]byte, 12), protocol), b...), nil
}

// joiner puts IPv4 fragments together.
type joiner struct {
	whole *ip4defrag.IPv4Defragmenter
	held  int
}

// join returns the packet that is whole with p, which may be p itself; false: it is a part of one that is not.
func (j *joiner) join(p Packet) (Packet, bool) {
	h, ok := parseIP(p.Data)
	if !ok || !h.from.Is4() || h.offset == 0 && !h.more {
		return p, true
	}
	var part layers.IPv4
	if part.DecodeFromBytes(p.Data[14:], gopacket.NilDecodeFeedback) != nil {
		return p, true
	}
	if j.held++; j.held > maxParts {
		j.whole, j.held = ip4defrag.NewIPv4Defragmenter(), 0
	}
	whole, err := j.whole.DefragIPv4WithTimestamp(&part, time.Unix(0, 0))
	if err != nil || whole == nil {
		return p, err != nil
	}
	data, err := wire.AppendIPv4(slices.Clone(p.Data[:14]), wire.IPv4{Source: h.from, Destination: h.to, Protocol: h.protocol, TTL: whole.TTL, ID: h.id}, len(whole.Payload))
	if err != nil {
		return p, true
	}
	p.Data = append(data, whole.Payload...)
	p.Comments = append(p.Comments, "put together from fragments")
	return p, true
}
