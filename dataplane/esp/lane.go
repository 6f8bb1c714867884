package esp

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Lane seals the packets of one thread that go one way, to one host or to all: in order, with a key of its own, so
// that no number is ever used twice. Only its owner may call Append.
type Lane struct {
	key   laneKey
	spi   uint32
	level vnet.Security
	// next is the sequence number of the next packet; it and bytes are read by others.
	next  atomic.Uint64
	bytes atomic.Uint64

	nonce [12]byte
	aad   [12]byte
	_     [32]byte // lanes of different threads share no cache line
}

// Append appends the ESP packet of a message, given in pieces: ESP header, the pieces as a UDP datagram, padding, ICV.
// len(dst) is at least Headroom; with room for wire.ESPLen bytes more in dst, nothing is allocated.
func (l *Lane) Append(dst []byte, pieces ...[]byte) ([]byte, error) {
	q := l.next.Load()
	if q >= hardPackets {
		return dst, ErrExhausted
	}
	// Before the packet exists: whatever becomes of it, its number is used up.
	l.next.Store(q + 1)
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	l.bytes.Store(l.bytes.Load() + uint64(wire.ESPLen(n)))
	// Now or not at all: packets before this one may be views of the memory that is left behind, and what is done in front
	// of it is undone in the new one only.
	dst = slices.Grow(dst, wire.ESPLen(n))
	at := len(dst)
	var header [wire.ESPHeaderLen + wire.UDPLen]byte
	wire.PutESPDatagram(header[wire.ESPHeaderLen:], n)
	dst = append(dst, header[:]...)
	for _, p := range pieces {
		dst = append(dst, p...)
	}
	dst = wire.AppendESPTrailer(dst, n)
	end := len(dst)
	packet := dst[at:]
	copy(l.nonce[:4], l.key.salt[:])
	binary.BigEndian.PutUint64(l.nonce[4:], q)
	binary.BigEndian.PutUint64(packet[8:], q)
	if l.level == vnet.Conf {
		// RFC 4106, section 5: the additional data are the SPI and the extended sequence number.
		binary.BigEndian.PutUint32(l.aad[:], l.spi)
		binary.BigEndian.PutUint64(l.aad[4:], q)
		dst = l.key.aead.Seal(dst[:at+wire.ESPHeaderLen], l.nonce[:], dst[at+wire.ESPHeaderLen:end], l.aad[:])
		packet = dst[at:]
	} else {
		// RFC 4543, section 3: SPI, extended sequence number, IV and content, as one.
		room := dst[at-Headroom : end]
		saved := [Headroom]byte(room)
		binary.BigEndian.PutUint32(room, l.spi)
		binary.BigEndian.PutUint64(room[4:], q)
		dst = l.key.aead.Seal(dst, l.nonce[:], nil, room)
		copy(dst[at-Headroom:], saved[:])
		packet = dst[at:]
	}
	binary.BigEndian.PutUint32(packet, l.spi)
	binary.BigEndian.PutUint32(packet[4:], uint32(q))
	return dst, nil
}

// Sending is a sending SA: what a vnet's packets are sealed with for one epoch.
type Sending struct {
	key     *vnetKey
	level   vnet.Security
	nonce   [16]byte
	epoch   uint32
	spi     uint32 // of lane 0
	lanes   []Lane
	threads int // that share the lanes
	created int64
}

func newSending(k *vnetKey, level vnet.Security, nonce [16]byte, epoch, spi uint32, lanes int, now int64) *Sending {
	s := &Sending{key: k, level: level, nonce: nonce, epoch: epoch, spi: spi, lanes: make([]Lane, lanes), created: now}
	for i := range s.lanes {
		l := &s.lanes[i]
		l.key = k.lane(nonce, epoch, levelOf(level), uint8(i))
		l.spi, l.level = spi+uint32(i), level
		l.next.Store(1)
	}
	return s
}

// Unicast returns the lane by which a thread seals what is for one host, for one of its flows. Threads and flows are
// numbered from 0; the last thread has one flow.
func (s *Sending) Unicast(thread, flow int) *Lane {
	if flow == 0 {
		return &s.lanes[2*thread]
	}
	more := (len(s.lanes) - 2*s.threads) / (s.threads - 1) // flows beyond the first
	return &s.lanes[2*s.threads+thread*more+flow-1]
}

// Flooded returns the lane by which a thread seals what is for everybody.
func (s *Sending) Flooded(thread int) *Lane { return &s.lanes[2*thread+1] }

// spent reports whether a lane has carried so much that another epoch is due: so many packets, or volumeBytes.
func (s *Sending) spent(packets uint64) bool {
	for i := range s.lanes {
		if l := &s.lanes[i]; l.next.Load() >= packets || l.bytes.Load() >= volumeBytes {
			return true
		}
	}
	return false
}
