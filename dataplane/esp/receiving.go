package esp

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// receiving is a receiving SA: one epoch of a sender.
type receiving struct {
	vnet   *Vnet
	sender *sender
	nonce  [16]byte
	epoch  uint32
	spi    uint32 // of lane 0
	lanes  []receivingLane
	// gone is set when it was removed; workers may still hold the table that has it.
	gone atomic.Bool
	// The following are guarded by the lock of the vnet: when it was created, when a KEY was last heard about it, and when the marks were
	// set.
	created, heard, marked int64
}

// receivingLane is shared by the threads that receive.
type receivingLane struct {
	mu sync.Mutex
	window
	// key is derived with the first packet.
	key     laneKey
	packets uint64
}

// Opener is the scratch memory to open packets with. It belongs to one thread.
type Opener struct {
	nonce  [12]byte
	aad    [12]byte
	varp   wire.VARP
	buffer []byte
}

// Opened is what was inside of an ESP packet.
type Opened struct {
	Vnet *Vnet
	// Message is the VUDP or VARP message, a view into the packet's buffer, or, of auth without headroom, into the
	// Opener's, where it is valid until the next Open.
	Message []byte
	// ID is its id.
	ID wire.MessageID
	// From are the addresses of the host that sealed it; they must not be changed.
	From *Addresses
}

// open opens a packet that begins at buf[at]. For conf it is decrypted where it is, or into a copy if keep is set;
// a packet that is refused may have been destroyed then, without keep.
func (sa *receiving) open(o *Opener, lane uint8, low uint32, buf []byte, at int, keep bool) ([]byte, Refusal) {
	l := &sa.lanes[lane]
	l.mu.Lock()
	q := l.infer(low)
	if sa.gone.Load() || !l.fresh(q) {
		l.mu.Unlock()
		return nil, Replay
	}
	if l.key.aead == nil {
		l.key = sa.sender.key.lane(sa.nonce, sa.epoch, levelOf(sa.vnet.level), lane)
	}
	key := &l.key // never changes again
	l.mu.Unlock()

	packet := buf[at:]
	content, icv := packet[wire.ESPHeaderLen:len(packet)-wire.ICVLen], packet[len(packet)-wire.ICVLen:]
	copy(o.nonce[:4], key.salt[:])
	copy(o.nonce[4:], packet[8:16])
	var err error
	if sa.vnet.level == vnet.Conf {
		binary.BigEndian.PutUint32(o.aad[:], sa.spi+uint32(lane))
		binary.BigEndian.PutUint64(o.aad[4:], uint64(q))
		sealed := packet[wire.ESPHeaderLen:]
		if keep {
			o.buffer = append(o.buffer[:0], sealed...)
			sealed = o.buffer
		}
		content, err = key.aead.Open(sealed[:0], o.nonce[:], sealed, o.aad[:])
		if keep && err == nil {
			content = packet[wire.ESPHeaderLen : wire.ESPHeaderLen+copy(packet[wire.ESPHeaderLen:], content)]
		}
	} else {
		room := buf[max(0, at-Headroom) : len(buf)-wire.ICVLen]
		if at < Headroom {
			o.buffer = append(append(o.buffer[:0], make([]byte, Headroom)...), packet[:len(packet)-wire.ICVLen]...)
			room = o.buffer
			content = room[Headroom+wire.ESPHeaderLen:]
		}
		saved := [Headroom + 8]byte(room)
		binary.BigEndian.PutUint32(room, sa.spi+uint32(lane))
		binary.BigEndian.PutUint64(room[4:], uint64(q))
		_, err = key.aead.Open(nil, o.nonce[:], icv, room)
		copy(room, saved[:])
	}
	if err != nil {
		return nil, WrongICV
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if sa.gone.Load() || !l.fresh(q) {
		return nil, Replay // another thread was faster with a copy
	}
	l.take(q)
	l.packets++
	return content, Taken
}

// inspect looks at what was opened: from here on it is what a key holder says, who may err.
func (sa *receiving) inspect(o *Opener, content []byte) (Opened, Refusal) {
	out := Opened{Vnet: sa.vnet}
	var err error
	if out.Message, err = wire.DecodeESPContent(content); err != nil {
		return out, WrongInner
	}
	if out.ID, _, err = wire.DecodeMessage(out.Message); err != nil {
		return out, WrongInner
	}
	out.From = sa.sender.addresses.Load()
	var id vnet.ID
	switch out.ID {
	case wire.MessageVUDP:
		id, _, err = wire.DecodeVUDP(out.Message)
	case wire.MessageVARP:
		if o.varp, err = wire.DecodeVARP(out.Message); err == nil {
			id = o.varp.Vnet
			// A member says nothing of other hosts.
			if c := o.varp.CareOf; c.IsValid() && !c.IsUnspecified() && !out.From.Has(c) {
				return out, WrongInner
			}
		}
	default: // VFWD carries ESP, not the reverse
		return out, WrongInner
	}
	switch {
	case err != nil:
		return out, WrongInner
	case id != sa.vnet.id:
		return out, WrongVnet
	}
	return out, Taken
}

// packetCount is the number of packets that were taken.
func (sa *receiving) packetCount() uint64 {
	var n uint64
	for i := range sa.lanes {
		l := &sa.lanes[i]
		l.mu.Lock()
		n += l.packets
		l.mu.Unlock()
	}
	return n
}
