package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

const (
	// neighbourTries is how often an address is asked for, and neighbourWait is for how long each time.
	neighbourTries = 2
	neighbourWait  = 300 * time.Millisecond

	etherTypeARP, etherTypeIPv6 = 0x0806, 0x86dd
	nextHeaderICMP              = 58
	optionSource, optionTarget  = 1, 2 // link-layer addresses: RFC 4861, section 4.6.1
)

// neighbourQuestion asks who has an address: an ARP probe (RFC 5227), or a neighbour solicitation (RFC 4861).
type neighbourQuestion struct {
	name      string // ARP or ND
	etherType uint16
	// to is whom it goes to, frame the question of who has a MAC, and answer reads one.
	to     net.HardwareAddr
	frame  func(from net.HardwareAddr) ([]byte, error)
	answer func(frame []byte) (net.HardwareAddr, bool)
	// filter passes answers, and little else.
	filter []bpf.Instruction
}

func newNeighbourQuestion(addr netip.Addr) neighbourQuestion {
	if addr.Is4() {
		return neighbourQuestion{
			name: "ARP", etherType: etherTypeARP, to: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			frame:  func(from net.HardwareAddr) ([]byte, error) { return arpProbe(from, addr), nil },
			answer: func(frame []byte) (net.HardwareAddr, bool) { return arpAnswer(frame, addr) },
			filter: []bpf.Instruction{bpf.LoadAbsolute{Off: 14 + 6, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 2, SkipFalse: 1}, bpf.RetConstant{Val: 1 << 16}, bpf.RetConstant{}},
		}
	}
	group := solicitedNode(addr).As16()
	return neighbourQuestion{
		name: "ND", etherType: etherTypeIPv6, to: append(net.HardwareAddr{0x33, 0x33}, group[12:]...), // RFC 2464, section 7
		frame:  func(from net.HardwareAddr) ([]byte, error) { return solicitation(from, addr) },
		answer: func(frame []byte) (net.HardwareAddr, bool) { return advertisement(frame, addr) },
		filter: []bpf.Instruction{
			bpf.LoadAbsolute{Off: 14 + 6, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: nextHeaderICMP, SkipFalse: 3},
			bpf.LoadAbsolute{Off: 14 + 40, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ipv6.ICMPTypeNeighborAdvertisement), SkipFalse: 1},
			bpf.RetConstant{Val: 1 << 16}, bpf.RetConstant{},
		},
	}
}

// neighbour asks by a device; nil if nobody answers.
func (c *Checker) neighbour(ctx context.Context, device string, q neighbourQuestion) (net.HardwareAddr, time.Duration, error) {
	filter, err := bpf.Assemble(q.filter)
	if err != nil {
		return nil, 0, err
	}
	var conn *packet.Conn
	var dev *net.Interface
	if err := c.o.Host.Do(func() (err error) {
		if dev, err = net.InterfaceByName(device); err != nil {
			return err
		}
		conn, err = packet.Listen(dev, packet.Raw, int(q.etherType), &packet.Config{Filter: filter})
		return err
	}); err != nil {
		return nil, 0, fmt.Errorf("ask by %s: %w", device, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	body, err := q.frame(dev.HardwareAddr)
	if err != nil {
		return nil, 0, fmt.Errorf("ask by %s: %w", device, err)
	}
	question := slices.Concat([]byte(q.to), dev.HardwareAddr, binary.BigEndian.AppendUint16(nil, q.etherType), body)
	start := time.Now()
	b := make([]byte, 1514)
	for range neighbourTries {
		if _, err := conn.WriteTo(question, &packet.Addr{HardwareAddr: q.to}); err != nil {
			return nil, 0, fmt.Errorf("ask by %s: %w", device, err)
		}
		if ctx.Err() != nil || conn.SetReadDeadline(time.Now().Add(neighbourWait)) != nil {
			return nil, 0, ctx.Err()
		}
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				break
			}
			if mac, ok := q.answer(b[:n]); ok {
				return mac, time.Since(start), nil
			}
		}
	}
	return nil, 0, nil
}

// arpProbe asks who has an address, without saying that the asker has one: RFC 826, and RFC 5227, section 2.1.1.
func arpProbe(from net.HardwareAddr, addr netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, from...), 0, 0, 0, 0)
	return append(append(b, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
}

// arpAnswer reads a frame with a reply from who has an address.
func arpAnswer(frame []byte, addr netip.Addr) (net.HardwareAddr, bool) {
	if len(frame) < 14+28 || binary.BigEndian.Uint16(frame[12:]) != etherTypeARP {
		return nil, false
	}
	b := frame[14:]
	if !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) || binary.BigEndian.Uint16(b[6:]) != 2 || !bytes.Equal(b[14:18], addr.AsSlice()) {
		return nil, false
	}
	return unicastMAC(b[8:14])
}

// unicastMAC copies what may be the MAC of an interface.
func unicastMAC(b []byte) (net.HardwareAddr, bool) {
	mac := net.HardwareAddr(bytes.Clone(b))
	return mac, mac[0]&1 == 0 && !bytes.Equal(mac, make([]byte, 6))
}

// solicitedNode is the group that who has an address listens to: RFC 4291, section 2.7.1.
func solicitedNode(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// linkLocal is the address that belongs to a MAC: RFC 4291, appendix A.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// solicitation is an IPv6 packet that asks who has an address: RFC 4861, section 4.3. It comes from the link-local address of
// the asker's MAC: one from the unspecified address would tell whoever is about to take the address that it is taken (RFC 4862,
// section 5.4.3).
func solicitation(from net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	source, group := linkLocal(from), solicitedNode(addr)
	body := append(append(make([]byte, 4), addr.AsSlice()...), optionSource, 1)
	message, err := (&icmp.Message{Type: ipv6.ICMPTypeNeighborSolicitation, Body: &icmp.RawBody{Data: append(body, from...)}}).Marshal(icmp.IPv6PseudoHeader(source.AsSlice(), group.AsSlice()))
	if err != nil {
		return nil, err
	}
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, nextHeaderICMP, 255) // RFC 4861, section 7.1.1: what passed a router is not taken
	return slices.Concat(b, source.AsSlice(), group.AsSlice(), message), nil
}

// advertisement reads a frame with an answer from who has an address: RFC 4861, section 4.4. Without an option that says so,
// its MAC is the frame's.
func advertisement(frame []byte, addr netip.Addr) (net.HardwareAddr, bool) {
	const header = 14 + 40
	if len(frame) < header+24 || binary.BigEndian.Uint16(frame[12:]) != etherTypeIPv6 || frame[14]>>4 != 6 || frame[14+6] != nextHeaderICMP || frame[14+7] != 255 {
		return nil, false
	}
	end := 14 + 40 + int(binary.BigEndian.Uint16(frame[14+4:]))
	if end < header+24 || end > len(frame) {
		return nil, false
	}
	b := frame[header:end]
	if b[0] != byte(ipv6.ICMPTypeNeighborAdvertisement) || b[1] != 0 || !bytes.Equal(b[8:24], addr.AsSlice()) {
		return nil, false
	}
	for o := b[24:]; len(o) >= 8; {
		n := int(o[1]) * 8
		if n == 0 || n > len(o) {
			return nil, false
		}
		if o[0] == optionTarget && n == 8 {
			return unicastMAC(o[2:8])
		}
		o = o[n:]
	}
	return unicastMAC(frame[6:12])
}
