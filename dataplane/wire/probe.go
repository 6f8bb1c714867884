package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"unicode/utf8"

	"github.com/xenvnet/xend/vnet"
)

// Probe is a question to hosts of our kind, and the answer. It is a VARP request for a MAC that nobody has, with an
// extension behind it, so that original hosts stay silent. From byte 43 on:
//
//	43  4   XVP1
//	47  1   1: question, 2: answer
//	48  1   flags of a question: 1 say something by the group, 2 no answer is wanted, 4 answer as long as the question and
//	        not to be fragmented
//	49  2   0
//	51  16  nonce; an answer has that of its question
//	question: zeros up to the wanted size
//	answer:
//	67  2   length of the question as received
//	69  1   how it came: 1 group, 2 unicast
//	70  1   0
//	71      fields: type (1 byte), length of the value (2 bytes), value
//
// No answer is longer than its question.
//
// In the clear it names vnet 1, which is no vnet, and tells nothing of vnets with security. Inside of ESP it names the vnet whose
// seal is on it, and the answer tells of that vnet alone.
type Probe struct {
	// Vnet is that of a question or answer inside of ESP; zero in the clear.
	Vnet   vnet.ID
	Answer bool
	Nonce  [16]byte
	// CareOf is the sender's address.
	CareOf netip.Addr
	// Size is the length of a question in bytes, zeros included.
	Size int

	// WantsGroup asks who gets a question by the group to say something there, too, NoAnswer not to answer.
	WantsGroup, NoAnswer bool
	// Whole asks for an answer as long as the question, which nobody on the way may fragment; of an answer, it is as long
	// as its question, to within 2 bytes.
	Whole bool

	// The rest is of answers.

	// Received is the length of the question, and Group says that it came by the group.
	Received int
	Group    bool
	// Version names the program, and Addrs are its host's addresses, at most one of each family.
	Version string
	Addrs   []netip.Addr
	// Vnets are the vnets of level none that the host has, as many as fit, and VnetCount how many there are.
	Vnets     []vnet.ID
	VnetCount int
	// HearsGroup: something came from the group lately. Replicates: the host sends by unicast what is for everybody.
	HearsGroup, Replicates bool
	// Clock is the answering host's, in nanoseconds since 1970; 0: it does not tell.
	Clock int64
	// Unsummed: the host takes UDP over IPv6 without a checksum (RFC 6935).
	Unsummed bool

	// The rest is of answers inside of ESP.

	// Level is the level that the host has the vnet at: 1 auth, 2 conf. Keys are the public names of its keys; it seals with the first.
	Level uint8
	Keys  []KID
	// MACs are those that live on the host in the vnet, as many as fit, and MACCount how many there are.
	MACs     []MAC
	MACCount int
}

// The vnet and the MAC that probes ask for.
var (
	probeVnet = vnet.ID{15: 1}
	probeMAC  = MAC{0x02, 0x78, 0x65, 0x6e, 0x64, 0x01}
)

const (
	probeMagic = "XVP1"
	probeBase  = VARPLen + 24 // up to and with the nonce
	// MinProbe is the shortest question that leaves room for an answer which tells anything: 200 bytes.
	MinProbe = 200

	fieldVersion = 1
	fieldIPv4    = 2
	fieldIPv6    = 3
	fieldVnets   = 4
	fieldCount   = 5
	fieldFlags   = 6
	fieldMACs    = 7
	fieldMACs32  = 8 // their number
	fieldLevel   = 9
	fieldKeys    = 10
	fieldClock   = 11
	fieldPadding = 12

	flagWants, flagNoAnswer, flagWhole = 1, 2, 4 // of questions
	flagHears, flagReplicates          = 1, 2    // of answers
	flagUnsummed                       = 4
)

// IsProbe reports whether a VARP message is a probe.
func (m VARP) IsProbe(b []byte) bool {
	return m.Vnet == probeVnet && m.IsSealedProbe(b)
}

// IsSealedProbe reports whether a VARP message that was inside of ESP is a probe.
func (m VARP) IsSealedProbe(b []byte) bool {
	return m.Opcode == Request && m.MAC == probeMAC && len(b) >= probeBase && string(b[VARPLen:VARPLen+4]) == probeMagic
}

// IsAnswer reports whether a probe (VARP.IsProbe, IsSealedProbe) is an answer.
func IsAnswer(probe []byte) bool { return probe[47] == 2 }

// ProbeNonce is the nonce of a probe (VARP.IsProbe).
func ProbeNonce(probe []byte) (n [16]byte) { return [16]byte(probe[51:67]) }

// Append appends the message: a question of Size bytes, at least its headers; an answer of at most Received bytes,
// without the fields that do not fit.
func (p Probe) Append(dst []byte) []byte {
	at := len(dst)
	if p.Answer {
		p.WantsGroup, p.NoAnswer = false, false
	}
	id := p.Vnet
	if id == (vnet.ID{}) {
		id = probeVnet
	}
	dst = VARP{Opcode: Request, Vnet: id, MAC: probeMAC, CareOf: p.CareOf}.Append(dst)
	dst = append(dst, probeMagic...)
	kind, flags := byte(1), byte(0)
	if p.Answer {
		kind = 2
	}
	if p.WantsGroup {
		flags |= flagWants
	}
	if p.NoAnswer {
		flags |= flagNoAnswer
	}
	if p.Whole && !p.Answer {
		flags |= flagWhole
	}
	dst = append(dst, kind, flags, 0, 0)
	dst = append(dst, p.Nonce[:]...)
	if !p.Answer {
		return append(dst, make([]byte, max(0, p.Size-probeBase))...)
	}
	how := byte(2)
	if p.Group {
		how = 1
	}
	limit := at + p.Received
	if len(dst)+4 > limit {
		return dst[:min(len(dst), limit)]
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(min(p.Received, 65535)))
	dst = append(dst, how, 0)
	field := func(kind byte, value []byte) {
		if len(value) > 0 && len(dst)+3+len(value) <= limit {
			dst = append(dst, kind)
			dst = binary.BigEndian.AppendUint16(dst, uint16(len(value)))
			dst = append(dst, value...)
		}
	}
	flags = 0
	if p.HearsGroup {
		flags |= flagHears
	}
	if p.Replicates {
		flags |= flagReplicates
	}
	if p.Unsummed {
		flags |= flagUnsummed
	}
	field(fieldFlags, []byte{flags})
	if p.Vnet == (vnet.ID{}) {
		field(fieldCount, binary.BigEndian.AppendUint32(nil, uint32(p.VnetCount)))
	} else {
		field(fieldLevel, []byte{p.Level})
		field(fieldMACs32, binary.BigEndian.AppendUint32(nil, uint32(p.MACCount)))
		var kids []byte
		for _, k := range p.Keys {
			kids = append(kids, k[:]...)
		}
		field(fieldKeys, kids)
	}
	for _, a := range p.Addrs {
		if a.Is4() {
			field(fieldIPv4, a.AsSlice())
		} else if a.Is6() {
			field(fieldIPv6, a.AsSlice())
		}
	}
	if p.Clock != 0 {
		field(fieldClock, binary.BigEndian.AppendUint64(nil, uint64(p.Clock)))
	}
	field(fieldVersion, []byte(p.Version[:min(len(p.Version), 64)]))
	var ids, macs []byte
	for _, id := range p.Vnets {
		if len(dst)+3+len(ids)+len(id) > limit || len(ids)+len(id) > 65535 {
			break
		}
		ids = append(ids, id[:]...)
	}
	field(fieldVnets, ids)
	for _, mac := range p.MACs {
		if len(dst)+3+len(macs)+len(mac) > limit || len(macs)+len(mac) > 65535 {
			break
		}
		macs = append(macs, mac[:]...)
	}
	field(fieldMACs, macs)
	if p.Whole {
		field(fieldPadding, make([]byte, max(0, limit-len(dst)-3)))
	}
	return dst
}

// DecodeProbe reads a UDP payload that is a probe (VARP.IsProbe). Fields of unknown types are passed over; what does not
// fit its length is an error.
func DecodeProbe(b []byte) (Probe, error) {
	m, err := DecodeVARP(b)
	if err != nil {
		return Probe{}, err
	}
	if !m.IsProbe(b) {
		return Probe{}, ErrShort
	}
	return decodeProbe(b, Probe{CareOf: m.CareOf})
}

// DecodeSealedProbe is DecodeProbe for a message that was inside of ESP (VARP.IsSealedProbe).
func DecodeSealedProbe(b []byte) (Probe, error) {
	m, err := DecodeVARP(b)
	if err != nil {
		return Probe{}, err
	}
	if !m.IsSealedProbe(b) {
		return Probe{}, ErrShort
	}
	return decodeProbe(b, Probe{CareOf: m.CareOf, Vnet: m.Vnet})
}

func decodeProbe(b []byte, p Probe) (Probe, error) {
	p.Nonce = [16]byte(b[51:67])
	switch b[47] {
	case 1:
		p.Size, p.WantsGroup, p.NoAnswer = len(b), b[48]&flagWants != 0, b[48]&flagNoAnswer != 0
		p.Whole = b[48]&flagWhole != 0
		return p, nil
	case 2:
		p.Answer = true
	default:
		return Probe{}, ErrMessage
	}
	if len(b) < probeBase+4 {
		return Probe{}, ErrShort
	}
	p.Received, p.Group = int(binary.BigEndian.Uint16(b[67:])), b[69] == 1
	for rest := b[probeBase+4:]; len(rest) > 0; {
		if len(rest) < 3 {
			return Probe{}, ErrShort
		}
		kind, n := rest[0], int(binary.BigEndian.Uint16(rest[1:]))
		if rest = rest[3:]; n > len(rest) {
			return Probe{}, ErrShort
		}
		value := rest[:n]
		rest = rest[n:]
		switch {
		case kind == fieldVersion && utf8.Valid(value) && bytes.IndexFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0:
			p.Version = string(value)
		case kind == fieldIPv4 && n == 4, kind == fieldIPv6 && n == 16:
			if a, _ := netip.AddrFromSlice(value); len(p.Addrs) < 2 {
				p.Addrs = append(p.Addrs, a)
			}
		case kind == fieldVnets && n%16 == 0:
			for ; len(value) > 0; value = value[16:] {
				p.Vnets = append(p.Vnets, vnet.ID(value[:16]))
			}
		case kind == fieldCount && n == 4:
			p.VnetCount = int(binary.BigEndian.Uint32(value))
		case kind == fieldClock && n == 8:
			p.Clock = int64(binary.BigEndian.Uint64(value))
		case kind == fieldPadding:
			p.Whole = true
		case kind == fieldFlags && n >= 1:
			p.HearsGroup, p.Replicates = value[0]&flagHears != 0, value[0]&flagReplicates != 0
			p.Unsummed = value[0]&flagUnsummed != 0
		case p.Vnet == (vnet.ID{}):
			// The rest is told inside of ESP only.
		case kind == fieldLevel && n == 1:
			p.Level = value[0]
		case kind == fieldMACs32 && n == 4:
			p.MACCount = int(binary.BigEndian.Uint32(value))
		case kind == fieldKeys && n%len(KID{}) == 0:
			for ; len(value) > 0; value = value[len(KID{}):] {
				p.Keys = append(p.Keys, KID(value))
			}
		case kind == fieldMACs && n%len(MAC{}) == 0:
			for ; len(value) > 0; value = value[len(MAC{}):] {
				p.MACs = append(p.MACs, MAC(value))
			}
		}
	}
	return p, nil
}
