package wire

import (
	"encoding/binary"
	"net/netip"
)

// Forward is a multicast packet that a peer carried to us in a VFWD message.
type Forward struct {
	// Source is the original sender; 0.0.0.0 where the peer itself is.
	Source netip.Addr
	// Destination is the group that it was sent to, of the peer's segment.
	Destination netip.Addr
	// Port is the UDP port that it was sent to; what original relays write there is not known.
	Port uint16
	// Payload is a view of the UDP payload: a VUDP or VARP message.
	Payload []byte
}

// AppendVFWD appends the 32 bytes that stand in front of payload when it is forwarded to a peer:
// the message header and correct IPv4 and UDP headers, as if from had multicast it to group.
// payload is the VUDP or VARP message, in pieces, and is not appended.
func AppendVFWD(dst []byte, from, group netip.AddrPort, ttl uint8, payload ...[]byte) ([]byte, error) {
	out, err := AppendDatagram(appendMessage(dst, MessageVFWD, 0), from, group, ttl, 0, payload...)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// DecodeVFWD reads a UDP payload with message id 3. Original relays leave version, lengths and
// checksums of the inner headers zero, so only protocol and addresses are looked at, the inner
// headers are 28 bytes always, and the outer length counts.
func DecodeVFWD(b []byte) (Forward, error) {
	if err := expect(b, MessageVFWD); err != nil {
		return Forward{}, err
	}
	if len(b) < VFWDLen {
		return Forward{}, ErrShort
	}
	ip := b[MessageLen:]
	if ip[9] != ProtocolUDP {
		return Forward{}, ErrProtocol
	}
	return Forward{
		Source:      netip.AddrFrom4([4]byte(ip[12:16])),
		Destination: netip.AddrFrom4([4]byte(ip[16:20])),
		Port:        binary.BigEndian.Uint16(ip[IPv4Len+2:]),
		Payload:     b[VFWDLen:],
	}, nil
}
