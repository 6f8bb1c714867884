package wire

import "github.com/xenvnet/xend/vnet"

// The EtherIP field as we send it: version 4 in the high nibble of the second byte, where the
// bit-field of the original put it on little-endian machines.
var etherIPField = [2]byte{0x00, 0x40}

// AppendEtherIP appends the 18-byte EtherIP header for vnet id; the Ethernet frame comes after it.
func AppendEtherIP(dst []byte, id vnet.ID) []byte {
	dst = append(dst, etherIPField[:]...)
	return append(dst, id[:]...)
}

// DecodeEtherIP reads the payload of an IP packet of protocol 97: the vnet and a view of the
// Ethernet frame, which is at least an Ethernet header long.
func DecodeEtherIP(b []byte) (id vnet.ID, frame []byte, err error) {
	if len(b) < EtherIPLen {
		return id, nil, ErrShort
	}
	// The 12 bits beside the version were never cleared by the original, and a big-endian host
	// puts the version in the first byte.
	if b[1]>>4 != 4 && b[0]>>4 != 4 {
		return id, nil, ErrVersion
	}
	if len(b) < EtherIPLen+FrameLen {
		return id, nil, ErrShort
	}
	copy(id[:], b[2:EtherIPLen])
	return id, b[EtherIPLen:], nil
}

// AppendVUDP appends the 22 bytes that stand in front of an Ethernet frame of vnet id in UDP.
func AppendVUDP(dst []byte, id vnet.ID) []byte {
	return AppendEtherIP(appendMessage(dst, MessageVUDP, 0), id)
}

// DecodeVUDP reads a UDP payload with message id 2: the vnet and a view of the Ethernet frame,
// which is at least an Ethernet header long. The opcode is ignored.
func DecodeVUDP(b []byte) (id vnet.ID, frame []byte, err error) {
	if err := expect(b, MessageVUDP); err != nil {
		return id, nil, err
	}
	return DecodeEtherIP(b[MessageLen:])
}
