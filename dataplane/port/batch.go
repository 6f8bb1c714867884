package port

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/mmsg"
)

const (
	// BatchSize is the number of frames that one Recv brings at most.
	BatchSize = 32
	// Headroom is the space in bytes in front of each frame that Recv has brought: for its VnetHdr, and then
	// for a VLAN tag that is put back.
	Headroom = 64
	// MaxFrame is the longest frame in bytes: a super-frame of 64 KiB, its Ethernet header and tags.
	MaxFrame = 64<<10 + 64

	slot = Headroom + MaxFrame // bytes per frame
)

// Batch holds the frames of one Recv. It belongs to a worker, which may use it with any number of ports in
// turn: the frames are valid until the next Recv into it.
type Batch struct {
	n      int
	frames [BatchSize][]byte
	hdrs   [BatchSize]wire.VnetHdr

	msgs [BatchSize]mmsg.Hdr
	iovs [BatchSize]unix.Iovec // the VnetHdr, the frame
	ctl  [BatchSize][ancillaryLen]byte
	bufs []byte
}

// NewBatch allocates a Batch: about 2 MiB.
func NewBatch() *Batch {
	b := &Batch{bufs: make([]byte, BatchSize*slot)}
	for i := range b.msgs {
		b.iovs[i].Base = &b.bufs[i*slot+Headroom-wire.VnetHdrLen]
		b.iovs[i].SetLen(wire.VnetHdrLen + MaxFrame)
		h := &b.msgs[i].Hdr
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Control = &b.ctl[i][0]
	}
	return b
}

// Len is the number of frames that the last Recv brought.
func (b *Batch) Len() int { return b.n }

// Frame is frame i, with its VLAN tag, as it would be on a cable but for what Hdr says is left to do.
func (b *Batch) Frame(i int) []byte { return b.frames[i] }

// Hdr says what is left to do on frame i: segmentation, checksum.
func (b *Batch) Hdr(i int) wire.VnetHdr { return b.hdrs[i] }

// Load puts frames into the batch, as Recv does, for ports that are none of this package's; at most BatchSize. They are
// copied.
func (b *Batch) Load(frames []wire.Frame) int {
	b.n = 0
	for i := range frames[:min(len(frames), BatchSize)] {
		at := i*slot + Headroom
		n := 0
		for _, piece := range frames[i].Bufs {
			n += copy(b.bufs[at+n:at+MaxFrame], piece)
		}
		b.frames[i], b.hdrs[i] = b.bufs[at:at+n:at+n], frames[i].Hdr
		b.n++
	}
	return b.n
}

// prepare makes the first field of each message that the kernel has overwritten what it was.
func (b *Batch) prepare() {
	b.n = 0
	for i := range b.msgs {
		b.msgs[i].Hdr.SetControllen(ancillaryLen)
	}
}

// take accepts the first n messages; those that are no whole frames are lost, and counted.
func (b *Batch) take(n int) (lost int) {
	for i := range n {
		m := &b.msgs[i]
		length := int(m.Len) - wire.VnetHdrLen
		if length < ethernetLen || m.Hdr.Flags&unix.MSG_TRUNC != 0 {
			lost++
			continue
		}
		at := i*slot + Headroom
		h := &b.hdrs[b.n]
		h.Decode(b.bufs[at-wire.VnetHdrLen : at])
		if tpid, tci, tagged := vlanTag(b.ctl[i][:min(int(m.Hdr.Controllen), ancillaryLen)]); tagged {
			at = insertTag(b.bufs, at, tpid, tci)
			length += tagLen
			shift(h)
		}
		b.frames[b.n] = b.bufs[at : at+length : at+length]
		b.n++
	}
	return lost
}

const (
	ethernetLen = 14 // destination, source, type
	tagLen      = 4  // of IEEE 802.1Q
	macsLen     = 12
)

// insertTag puts a VLAN tag between addresses and type of the frame at at, and returns where it begins
// then. The payload is not moved.
func insertTag(bufs []byte, at int, tpid, tci uint16) int {
	to := at - tagLen
	copy(bufs[to:], bufs[at:at+macsLen])
	binary.BigEndian.PutUint16(bufs[to+macsLen:], tpid)
	binary.BigEndian.PutUint16(bufs[to+macsLen+2:], tci)
	return to
}

// shift corrects the offsets, which the kernel counts without the tag that it delivers apart.
func shift(h *wire.VnetHdr) {
	if h.Flags&wire.FlagNeedsCsum != 0 {
		h.CsumStart += tagLen
	}
	if h.GSOType != wire.GSONone && h.HdrLen != 0 {
		h.HdrLen += tagLen
	}
}

// ancillaryLen is CMSG_SPACE of one PACKET_AUXDATA message: struct cmsghdr and struct tpacket_auxdata.
const ancillaryLen = unix.SizeofCmsghdr + (20+unix.SizeofPtr-1)&^(unix.SizeofPtr-1)

// vlanTag finds the tag in the ancillary data of a message: PACKET_AUXDATA; packet(7).
func vlanTag(ctl []byte) (tpid, tci uint16, tagged bool) {
	const auxdataLen = 20 // struct tpacket_auxdata: 16 bytes of other things, tp_vlan_tci, tp_vlan_tpid
	if len(ctl) < unix.SizeofCmsghdr+auxdataLen {
		return 0, 0, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
	if h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA || int(h.Len) < unix.SizeofCmsghdr+auxdataLen {
		return 0, 0, false
	}
	aux := ctl[unix.SizeofCmsghdr:]
	status := binary.NativeEndian.Uint32(aux)
	if status&unix.TP_STATUS_VLAN_VALID == 0 {
		return 0, 0, false
	}
	tci, tpid = binary.NativeEndian.Uint16(aux[16:]), binary.NativeEndian.Uint16(aux[18:])
	if status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
		tpid = unix.ETH_P_8021Q
	}
	return tpid, tci, true
}
