package wire

import "encoding/binary"

// VnetHdrLen is the length in bytes of struct virtio_net_hdr.
const VnetHdrLen = 10

// Flags of a VnetHdr (linux/virtio_net.h).
const (
	FlagNeedsCsum uint8 = 1 // the checksum at CsumStart+CsumOffset is still to be computed
	FlagDataValid uint8 = 2 // the checksum has been verified
)

// GSO types of a VnetHdr (linux/virtio_net.h).
const (
	GSONone  uint8 = 0
	GSOTCPv4 uint8 = 1
	GSOUDP   uint8 = 3 // UDP fragmentation offload; current kernels never produce it
	GSOTCPv6 uint8 = 4
	GSOUDPL4 uint8 = 5
	GSOECN   uint8 = 0x80 // together with a TCP type: CWR only on the first segment
)

// VnetHdr is struct virtio_net_hdr as PACKET_VNET_HDR carries it in front of every frame; in the
// byte order of the machine.
type VnetHdr struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // bytes from the start of the frame to the end of the TCP or UDP header; a hint
	GSOSize    uint16 // payload bytes per segment
	CsumStart  uint16 // from the start of the frame: where the bytes to sum begin
	CsumOffset uint16 // from CsumStart: where the checksum goes
}

// Decode reads h from the first VnetHdrLen bytes of b.
func (h *VnetHdr) Decode(b []byte) {
	_ = b[VnetHdrLen-1]
	h.Flags, h.GSOType = b[0], b[1]
	h.HdrLen = binary.NativeEndian.Uint16(b[2:])
	h.GSOSize = binary.NativeEndian.Uint16(b[4:])
	h.CsumStart = binary.NativeEndian.Uint16(b[6:])
	h.CsumOffset = binary.NativeEndian.Uint16(b[8:])
}

// Encode writes h to the first VnetHdrLen bytes of b.
func (h *VnetHdr) Encode(b []byte) {
	_ = b[VnetHdrLen-1]
	b[0], b[1] = h.Flags, h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
}

// Frame is an Ethernet frame in pieces, which are gathered when it is written, with its offload
// metadata. The pieces are borrowed: whoever made the frame says until when they are valid.
type Frame struct {
	Hdr  VnetHdr
	Bufs [][]byte
}

// Len is the length of the frame in bytes, the VnetHdr not counted.
func (f *Frame) Len() int {
	n := 0
	for _, b := range f.Bufs {
		n += len(b)
	}
	return n
}
