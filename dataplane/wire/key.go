package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// KID is the public name of a key of a vnet.
type KID [8]byte

// MaxLanes bounds the lanes of a sending SA.
const MaxLanes = 130

// Lengths in bytes, from the magic to the MAC.
const (
	AskLen       = 72
	MinKeyLen    = 124 // with one lane
	MessageICV   = 16  // the MAC at the end of a KEY or ASK message
	keyLanes     = 100 // where the lanes begin
	securedMagic = "XVK1"
)

// KeyType is the type of a message on the security port.
type KeyType uint8

// The types.
const (
	TypeAsk KeyType = 1
	TypeKey KeyType = 2
)

// ErrMagic is for a message on the security port that is not of our protocol, or of a later version.
var ErrMagic = errors.New("not a KEY or ASK message")

// Ask is an ASK message: the request for KEY messages that prove to be fresh.
type Ask struct {
	KID       KID
	Challenge [16]byte
	// SPI is that of the packet that caused it, 0 for none.
	SPI uint32
	// Addr4 and Addr6 are the asker's; both are the zero Addr behind NAT.
	Addr4, Addr6 netip.Addr
}

// Key is a KEY message: what a receiver must know of a sending SA.
type Key struct {
	KID             KID
	Level           uint8 // 1 auth, 2 conf
	Instance, Nonce [16]byte
	Epoch           uint32
	SPI             uint32 // of lane 0
	Number          uint64 // one counter per instance
	// Echo is the challenge that it answers; zero for none.
	Echo [16]byte
	// Addr4 and Addr6 are the sender's; both are the zero Addr behind NAT.
	Addr4, Addr6 netip.Addr
	// Lanes is the number of lanes, and the first so many elements of Next the sequence numbers that they use
	// next.
	Lanes int
	Next  [MaxLanes]uint64
}

// DecodeSecuredHeader reads the start of a message behind the non-ESP marker: the type and the name of the key.
// The length is checked, too, so that the caller may take the last MessageICV bytes for the MAC.
func DecodeSecuredHeader(b []byte) (t KeyType, kid KID, err error) {
	if len(b) < AskLen {
		return 0, kid, ErrShort
	}
	if string(b[:4]) != securedMagic {
		return 0, kid, ErrMagic
	}
	copy(kid[:], b[8:])
	switch t = KeyType(b[4]); t {
	case TypeAsk:
		if len(b) != AskLen {
			return t, kid, ErrLength
		}
	case TypeKey:
		lanes := int(b[6])
		if lanes < 1 || lanes > MaxLanes || len(b) != keyLanes+8*lanes+MessageICV {
			return t, kid, ErrLength
		}
		if binary.BigEndian.Uint32(b[52:]) < MinSPI {
			return t, kid, ErrSPI
		}
	default:
		return t, kid, ErrMessage
	}
	return t, kid, nil
}

// Decode reads an ASK message, from the magic to the MAC, which is not verified.
func (m *Ask) Decode(b []byte) error {
	t, kid, err := DecodeSecuredHeader(b)
	if err != nil {
		return err
	}
	if t != TypeAsk {
		return ErrMessage
	}
	m.KID = kid
	copy(m.Challenge[:], b[16:])
	m.SPI = binary.BigEndian.Uint32(b[32:])
	m.Addr4, m.Addr6 = getAddrs(b[36:])
	return nil
}

// Append appends the message up to the MAC, which the caller appends.
func (m *Ask) Append(dst []byte) []byte {
	dst = append(dst, securedMagic...)
	dst = append(dst, byte(TypeAsk), 0, 0, 0)
	dst = append(dst, m.KID[:]...)
	dst = append(dst, m.Challenge[:]...)
	dst = binary.BigEndian.AppendUint32(dst, m.SPI)
	return appendAddrs(dst, m.Addr4, m.Addr6)
}

// Decode reads a KEY message, from the magic to the MAC, which is not verified.
func (m *Key) Decode(b []byte) error {
	t, kid, err := DecodeSecuredHeader(b)
	if err != nil {
		return err
	}
	if t != TypeKey {
		return ErrMessage
	}
	m.KID, m.Level, m.Lanes = kid, b[5], int(b[6])
	copy(m.Instance[:], b[16:])
	copy(m.Nonce[:], b[32:])
	m.Epoch = binary.BigEndian.Uint32(b[48:])
	m.SPI = binary.BigEndian.Uint32(b[52:])
	m.Number = binary.BigEndian.Uint64(b[56:])
	copy(m.Echo[:], b[64:])
	m.Addr4, m.Addr6 = getAddrs(b[80:])
	for i := range m.Lanes {
		m.Next[i] = binary.BigEndian.Uint64(b[keyLanes+8*i:])
	}
	return nil
}

// Append appends the message up to the MAC, which the caller appends. Lanes is 1 to MaxLanes.
func (m *Key) Append(dst []byte) []byte {
	dst = append(dst, securedMagic...)
	dst = append(dst, byte(TypeKey), m.Level, byte(m.Lanes), 0)
	dst = append(dst, m.KID[:]...)
	dst = append(dst, m.Instance[:]...)
	dst = append(dst, m.Nonce[:]...)
	dst = binary.BigEndian.AppendUint32(dst, m.Epoch)
	dst = binary.BigEndian.AppendUint32(dst, m.SPI)
	dst = binary.BigEndian.AppendUint64(dst, m.Number)
	dst = append(dst, m.Echo[:]...)
	dst = appendAddrs(dst, m.Addr4, m.Addr6)
	for _, next := range m.Next[:m.Lanes] {
		dst = binary.BigEndian.AppendUint64(dst, next)
	}
	return dst
}

// getAddrs reads an IPv4 and an IPv6 address; one of zeros is the zero Addr.
func getAddrs(b []byte) (addr4, addr6 netip.Addr) {
	if a := [4]byte(b[:4]); a != [4]byte{} {
		addr4 = netip.AddrFrom4(a)
	}
	if a := [16]byte(b[4:20]); a != [16]byte{} {
		addr6 = netip.AddrFrom16(a)
	}
	return addr4, addr6
}

func appendAddrs(dst []byte, addr4, addr6 netip.Addr) []byte {
	var b [20]byte
	if addr4.Is4() {
		a := addr4.As4()
		copy(b[:], a[:])
	}
	if addr6.Is6() {
		a := addr6.As16()
		copy(b[4:], a[:])
	}
	return append(dst, b[:]...)
}
