package wire

import (
	"encoding/binary"
	"errors"
)

// What hosts agree on for vnets with security auth or conf: ESP (RFC 4303) in transport mode around the UDP
// datagram of a VUDP or VARP message.
const (
	// SecurityPort is the UDP port of ESP in UDP (RFC 3948) and of KEY and ASK messages.
	SecurityPort = 4500
	// ProtocolESP is the IP protocol of ESP without UDP.
	ProtocolESP = 50
	// MinSPI is the smallest SPI that may be used: RFC 4303, section 2.1, reserves those below.
	MinSPI = 256
)

// Lengths in bytes.
const (
	ESPHeaderLen  = 16 // SPI, low half of the sequence number, IV
	ESPTrailerLen = 2  // pad length, next header
	ICVLen        = 16
	// ESPMinLen is the length of a packet whose datagram is empty: with two bytes of padding.
	ESPMinLen = ESPHeaderLen + UDPLen + 2 + ESPTrailerLen + ICVLen
	// MarkerLen is the non-ESP marker, four bytes 0, in front of KEY and ASK messages; RFC 3948, section 2.2.
	MarkerLen = 4
)

// Why an ESP packet was refused, beside the errors of the other decoders.
var (
	// ErrSPI: an SPI that is reserved.
	ErrSPI = errors.New("reserved SPI")
	// ErrPadding: the padding is longer than the packet or not 1, 2, 3, …
	ErrPadding = errors.New("wrong padding")
	// ErrPort: the UDP datagram inside is not of the protocol's port.
	ErrPort = errors.New("wrong UDP port")
)

// Secured says what a UDP payload on the security port is.
type Secured uint8

// What comes to the security port.
const (
	SecuredESP       Secured = iota // an ESP packet, or what is to be refused as one
	SecuredMessage                  // the non-ESP marker, and a KEY or ASK message after it
	SecuredKeepalive                // one byte FF, which keeps a NAT's mapping alive
)

// DecodeSecured tells ESP packets, messages and keepalives apart; RFC 3948, section 2.
func DecodeSecured(b []byte) Secured {
	switch {
	case len(b) == 1 && b[0] == 0xff:
		return SecuredKeepalive
	case len(b) >= MarkerLen && binary.BigEndian.Uint32(b) == 0:
		return SecuredMessage
	}
	return SecuredESP
}

// DecodeESP reads the clear part of an ESP packet: the SPI and the low half of the sequence number.
func DecodeESP(b []byte) (spi, sequence uint32, err error) {
	if len(b) < ESPMinLen {
		return 0, 0, ErrShort
	}
	if len(b)%4 != 0 {
		return 0, 0, ErrLength
	}
	if spi = binary.BigEndian.Uint32(b); spi < MinSPI {
		return 0, 0, ErrSPI
	}
	return spi, binary.BigEndian.Uint32(b[4:]), nil
}

// PadLen is the number of bytes of padding behind a message of n bytes: what follows ends on a multiple of four.
func PadLen(n int) int { return -(UDPLen + n + ESPTrailerLen) & 3 }

// ESPLen is the length of the ESP packet that carries a message of n bytes.
func ESPLen(n int) int {
	return ESPHeaderLen + UDPLen + n + PadLen(n) + ESPTrailerLen + ICVLen
}

// PutESPDatagram writes the 8-byte UDP header of a message of n bytes. The checksum is 0, over IPv6, too, for
// the ICV protects the datagram; RFC 6935.
func PutESPDatagram(b []byte, n int) {
	binary.BigEndian.PutUint16(b, Port)
	binary.BigEndian.PutUint16(b[2:], Port)
	binary.BigEndian.PutUint16(b[4:], uint16(UDPLen+n))
	binary.BigEndian.PutUint16(b[6:], 0)
}

// AppendESPTrailer appends the padding behind a message of n bytes, its length and the next header.
func AppendESPTrailer(dst []byte, n int) []byte {
	pad := PadLen(n)
	for i := range pad {
		dst = append(dst, byte(i+1))
	}
	return append(dst, byte(pad), ProtocolUDP)
}

// DecodeESPContent reads what was protected, from the UDP header to the next header field: a view of the message.
// The UDP checksum is not looked at; what lies behind the datagram is traffic flow confidentiality padding
// (RFC 4303, section 2.7).
func DecodeESPContent(b []byte) (message []byte, err error) {
	if len(b) < UDPLen+ESPTrailerLen {
		return nil, ErrShort
	}
	end := len(b) - ESPTrailerLen
	if b[end+1] != ProtocolUDP {
		return nil, ErrProtocol
	}
	pad := int(b[end])
	if end -= pad; end < UDPLen {
		return nil, ErrPadding
	}
	for i, v := range b[end : end+pad] {
		if v != byte(i+1) {
			return nil, ErrPadding
		}
	}
	from, to, message, err := DecodeUDP(b[:end])
	if err != nil {
		return nil, err
	}
	if from != Port || to != Port {
		return nil, ErrPort
	}
	return message, nil
}
