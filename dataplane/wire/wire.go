// Package wire encodes and decodes what vnet hosts say to each other: VUDP (an Ethernet frame in
// UDP), VARP (who has a MAC), VFWD (a multicast packet carried to a peer), plain EtherIP, and of vnets with
// security what ESP carries (esp.go) and the KEY and ASK messages (key.go). All functions work on byte
// slices, allocate nothing, and return views into what they were given. Everything is big-endian on the wire.
package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// What every vnet host agrees on.
const (
	// Port is the UDP port of VUDP, VARP and VFWD, for source and destination.
	Port = 1798
	// ProtocolEtherIP is the IP protocol of EtherIP without UDP.
	ProtocolEtherIP = 97
	// ProtocolUDP is the IP protocol of UDP.
	ProtocolUDP = 17
)

// Group is the multicast group that hosts join by default.
var Group = netip.AddrFrom4([4]byte{224, 10, 0, 1})

// Lengths in bytes.
const (
	MessageLen = 4                       // message header: id, opcode
	EtherIPLen = 18                      // EtherIP field and vnet id
	VUDPLen    = MessageLen + EtherIPLen // what stands in front of an Ethernet frame in UDP
	VARPLen    = 43                      // a whole VARP message
	IPv4Len    = 20                      // IPv4 header without options
	IPv6Len    = 40                      // IPv6 header without extension headers
	UDPLen     = 8                       // UDP header
	VFWDLen    = MessageLen + IPv4Len + UDPLen
	FrameLen   = 14 // the smallest Ethernet frame: two MACs and a type
)

// MessageID says what follows the message header of a UDP payload.
type MessageID uint16

// The message ids.
const (
	MessageVARP MessageID = 1
	MessageVUDP MessageID = 2
	MessageVFWD MessageID = 3
)

// Why a packet was refused. The decoders return these very values.
var (
	// ErrShort: the packet ends before its headers do, or holds less than an Ethernet header.
	ErrShort = errors.New("packet too short")
	// ErrMessage: the message id is not the one that was asked for, or none that we know.
	ErrMessage = errors.New("unknown message id")
	// ErrOpcode: a VARP message that is neither a request nor an announce.
	ErrOpcode = errors.New("unknown VARP opcode")
	// ErrVersion: the version of an EtherIP field or IP header is not 4.
	ErrVersion = errors.New("unknown version")
	// ErrFamily: an address of a family that does not fit there.
	ErrFamily = errors.New("address family not supported")
	// ErrProtocol: a forwarded packet that is not UDP.
	ErrProtocol = errors.New("IP protocol not supported")
	// ErrLength: a length field contradicts the packet.
	ErrLength = errors.New("length field contradicts the packet")
)

// DecodeMessage reads the message header of a UDP payload: the id and the opcode. Ids other than
// VARP, VUDP and VFWD give ErrMessage.
func DecodeMessage(b []byte) (id MessageID, opcode uint16, err error) {
	if len(b) < MessageLen {
		return 0, 0, ErrShort
	}
	id = MessageID(binary.BigEndian.Uint16(b))
	if id < MessageVARP || id > MessageVFWD {
		return id, 0, ErrMessage
	}
	return id, binary.BigEndian.Uint16(b[2:]), nil
}

// expect checks that b begins with the header of message id.
func expect(b []byte, id MessageID) error {
	if len(b) < MessageLen {
		return ErrShort
	}
	if MessageID(binary.BigEndian.Uint16(b)) != id {
		return ErrMessage
	}
	return nil
}

// appendMessage appends a message header.
func appendMessage(dst []byte, id MessageID, opcode uint16) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(id))
	return binary.BigEndian.AppendUint16(dst, opcode)
}
