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

// maxLot is how many packets are opened at once.
const maxLot = 64

// Opener is the scratch memory to open packets with. It belongs to one thread.
type Opener struct {
	nonce  [12]byte
	aad    [12]byte
	varp   wire.VARP
	buffer []byte
	lot    []sealedPacket
	opened []Opened
}

// sealedPacket is buf[at:end] of the buffer that is being opened, and becomes content.
type sealedPacket struct {
	at, end int
	low     uint32 // half of number
	number  int64
	content []byte
	refusal Refusal
}

// Opened is what was inside of an ESP packet.
type Opened struct {
	// Refusal is Taken, or why there is no message.
	Refusal Refusal
	// Vnet is the packet's; nil of an SPI that is not known.
	Vnet *Vnet
	// Message is the VUDP or VARP message, a view into the packet's buffer, or, of auth without headroom, into the
	// Opener's, where it is valid until the next Open.
	Message []byte
	// ID is its id.
	ID wire.MessageID
	// From are the addresses of the host that sealed it; they must not be changed.
	From *Addresses
}

// open opens the Opener's lot, packets of one lane. For conf they are decrypted where they are, or into a copy if keep is
// set; one that is refused may have been destroyed then, without keep.
//
// The lock is taken twice for all of them, not for each: a locked instruction waits until all that was decrypted is written,
// which takes a fifth of the time of opening.
func (sa *receiving) open(o *Opener, lane uint8, buf []byte, keep bool) {
	l := &sa.lanes[lane]
	l.mu.Lock()
	for i := range o.lot {
		p := &o.lot[i]
		p.number, p.refusal = l.infer(p.low), Taken
		if sa.gone.Load() || !l.fresh(p.number) {
			p.refusal = Replay
		} else if l.key.aead == nil {
			l.key = sa.sender.key.lane(sa.nonce, sa.epoch, levelOf(sa.vnet.level), lane)
		}
	}
	key := &l.key // never changes again
	l.mu.Unlock()
	for i := range o.lot {
		if p := &o.lot[i]; p.refusal == Taken && !sa.unseal(o, p, key, lane, buf, keep) {
			p.refusal = WrongICV
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range o.lot {
		switch p := &o.lot[i]; {
		case p.refusal != Taken:
		case sa.gone.Load() || !l.fresh(p.number):
			p.refusal = Replay // it is here twice, or another thread was faster with a copy
		default:
			l.take(p.number)
			l.packets++
		}
	}
}

// unseal opens one packet whose number is fresh, and reports whether its ICV was right.
func (sa *receiving) unseal(o *Opener, p *sealedPacket, key *laneKey, lane uint8, buf []byte, keep bool) bool {
	packet := buf[p.at:p.end:p.end]
	content, icv := packet[wire.ESPHeaderLen:len(packet)-wire.ICVLen], packet[len(packet)-wire.ICVLen:]
	copy(o.nonce[:4], key.salt[:])
	copy(o.nonce[4:], packet[8:16])
	var err error
	if sa.vnet.level == vnet.Conf {
		binary.BigEndian.PutUint32(o.aad[:], sa.spi+uint32(lane))
		binary.BigEndian.PutUint64(o.aad[4:], uint64(p.number))
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
		room := buf[max(0, p.at-Headroom) : p.end-wire.ICVLen]
		if p.at < Headroom {
			o.buffer = append(append(o.buffer[:0], make([]byte, Headroom)...), packet[:len(packet)-wire.ICVLen]...)
			room = o.buffer
			content = room[Headroom+wire.ESPHeaderLen:]
		}
		saved := [Headroom + 8]byte(room)
		binary.BigEndian.PutUint32(room, sa.spi+uint32(lane))
		binary.BigEndian.PutUint64(room[4:], uint64(p.number))
		_, err = key.aead.Open(nil, o.nonce[:], icv, room)
		copy(room, saved[:])
	}
	p.content = content
	return err == nil
}

// inspect looks at what was opened: from here on it is what a key holder says, who may err.
func (sa *receiving) inspect(o *Opener, content []byte, out *Opened) {
	out.Refusal = WrongInner
	var err error
	if out.Message, err = wire.DecodeESPContent(content); err != nil {
		return
	}
	if out.ID, _, err = wire.DecodeMessage(out.Message); err != nil {
		return
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
				return
			}
		}
	default: // VFWD carries ESP, not the reverse
		return
	}
	switch {
	case err != nil:
	case id != sa.vnet.id:
		out.Refusal = WrongVnet
	default:
		out.Refusal = Taken
	}
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
