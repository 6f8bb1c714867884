package esp

import (
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Reader opens what was captured of a vnet with security, for who has its key: without proof that senders live, and
// without care for replays. It is not for what is acted upon, and belongs to one goroutine. Use NewReader.
type Reader struct {
	keys []*vnetKey
	sas  []readable // newest last
}

// readable is an SA that a KEY message told of.
type readable struct {
	key   *vnetKey
	nonce [16]byte
	epoch uint32
	level uint8
	spi   uint32
	lanes []laneKey // derived with the first packet
}

// maxReadable bounds the SAs that a Reader remembers.
const maxReadable = 1024

// NewReader returns a Reader for a vnet's keys.
func NewReader(id vnet.ID, secrets ...Secret) *Reader {
	r := &Reader{}
	for _, s := range secrets {
		r.keys = append(r.keys, newVnetKey(s, id))
	}
	return r
}

// Learn reads a KEY or ASK message from its magic on, and reports whether it is of this vnet.
func (r *Reader) Learn(b []byte) bool {
	kind, kid, err := wire.DecodeSecuredHeader(b)
	if err != nil {
		return false
	}
	for _, k := range r.keys {
		if k.kid != kid || !k.verify(b) {
			continue
		}
		var m wire.Key
		if kind != wire.TypeKey || m.Decode(b) != nil {
			return true
		}
		for _, sa := range r.sas {
			if sa.nonce == m.Nonce && sa.epoch == m.Epoch {
				return true
			}
		}
		if len(r.sas) == maxReadable {
			r.sas = r.sas[1:]
		}
		r.sas = append(r.sas, readable{k, m.Nonce, m.Epoch, m.Level, m.SPI, make([]laneKey, m.Lanes)})
		return true
	}
	return false
}

// Open returns the VUDP or VARP message in an ESP packet; false if it is of no sender whose KEY message was learned, or
// was damaged. The packet stays as it is.
func (r *Reader) Open(packet []byte) (message []byte, ok bool) {
	spi, _, err := wire.DecodeESP(packet)
	if err != nil || len(packet) < wire.ESPHeaderLen+wire.ICVLen {
		return nil, false
	}
	for i := len(r.sas) - 1; i >= 0; i-- {
		sa := &r.sas[i]
		if spi < sa.spi || spi-sa.spi >= uint32(len(sa.lanes)) {
			continue
		}
		lane := spi - sa.spi
		if sa.lanes[lane].aead == nil {
			sa.lanes[lane] = sa.key.lane(sa.nonce, sa.epoch, sa.level, uint8(lane))
		}
		key := &sa.lanes[lane]
		sequence := packet[8:16] // the explicit IV is the extended sequence number
		nonce := append(append(make([]byte, 0, 12), key.salt[:]...), sequence...)
		aad := append(binary.BigEndian.AppendUint32(make([]byte, 0, 12), spi), sequence...)
		var content []byte
		if sa.level == levelOf(vnet.Conf) {
			content, err = key.aead.Open(nil, nonce, packet[wire.ESPHeaderLen:], aad)
		} else {
			end := len(packet) - wire.ICVLen
			content = packet[wire.ESPHeaderLen:end]
			_, err = key.aead.Open(nil, nonce, packet[end:], append(aad, packet[8:end]...))
		}
		if err != nil {
			continue
		}
		if message, err = wire.DecodeESPContent(content); err == nil {
			return message, true
		}
	}
	return nil, false
}
