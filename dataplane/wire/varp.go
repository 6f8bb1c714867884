package wire

import (
	"encoding/binary"
	"net/netip"

	"github.com/xenvnet/xend/vnet"
)

// Opcode is the opcode of a VARP message.
type Opcode uint16

// The VARP opcodes.
const (
	Request  Opcode = 1 // who has this MAC?
	Announce Opcode = 2 // this MAC is at the care-of address
)

// Address families of care-of addresses.
const (
	familyIPv4 = 2  // AF_INET
	familyIPv6 = 10 // AF_INET6 as Linux numbers it
)

// VARP is a VARP message.
type VARP struct {
	Opcode Opcode
	Vnet   vnet.ID
	MAC    MAC
	// CareOf is the host behind which the MAC lives. In a request it says nothing and is the zero
	// Addr where the sender filled in no family that we know. IPv4 is never in its IPv6-mapped form.
	CareOf netip.Addr
}

// Append appends the 43 bytes of the message. A zero CareOf is sent as 0.0.0.0; a zone is not sent.
func (m VARP) Append(dst []byte) []byte {
	dst = appendMessage(dst, MessageVARP, uint16(m.Opcode))
	dst = append(dst, m.Vnet[:]...)
	dst = append(dst, m.MAC[:]...)
	var family byte = familyIPv4
	var addr [16]byte
	switch a := m.CareOf.Unmap(); {
	case a.Is4():
		a4 := a.As4()
		copy(addr[:], a4[:])
	case a.Is6():
		family, addr = familyIPv6, a.As16()
	}
	dst = append(dst, family)
	return append(dst, addr[:]...)
}

// DecodeVARP reads a UDP payload with message id 1. What follows the 43 bytes is ignored.
func DecodeVARP(b []byte) (VARP, error) {
	if err := expect(b, MessageVARP); err != nil {
		return VARP{}, err
	}
	if len(b) < VARPLen {
		return VARP{}, ErrShort
	}
	m := VARP{Opcode: Opcode(binary.BigEndian.Uint16(b[2:]))}
	if m.Opcode != Request && m.Opcode != Announce {
		return VARP{}, ErrOpcode
	}
	copy(m.Vnet[:], b[4:])
	copy(m.MAC[:], b[20:])
	switch b[26] {
	case familyIPv4:
		m.CareOf = netip.AddrFrom4([4]byte(b[27:31]))
	case familyIPv6:
		m.CareOf = netip.AddrFrom16([16]byte(b[27:43])).Unmap()
	default:
		if m.Opcode == Announce {
			return VARP{}, ErrFamily
		}
	}
	return m, nil
}
