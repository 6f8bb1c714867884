// Package esp protects vnets with security auth or conf: it derives keys, seals and opens ESP packets, and
// learns by ASK and KEY messages what other hosts seal with. It does no I/O and has no clock of its own: packets, the time and
// randomness come in, packets and verdicts go out.
//
//	Table ── demultiplexes what comes: SPI → receiving SA → Vnet, kid → key → Vnet; read without locks
//	Vnet ─── one vnet's state: its keys, the sending SA, the senders that it knows, timers
//	Lane ─── what one thread seals with, alone and without a lock
//
// A receiving SA comes only from a KEY message that proves to be younger than everything that this host may have
// taken before (the echo of a challenge, or a higher epoch of a sender that is known), so that no recording is ever taken:
//
//	unknown ──KEY, no echo──> unknown (we ask) ──KEY, echo──> confirmed ──KEY, next epoch──> confirmed
//	confirmed ──120 s without echo, 900 s old, key gone, suspicion──> unknown; our challenges are void then
//
// Where keys come from is behind vnetKey alone: verify opens a KEY message, lane makes the cipher of an SA and sign
// makes KEY messages. Certificates would replace these three.
package esp

import (
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/xenvnet/xend/vnet"
)

// SenderTTL is for how long a host is known as a sender without an echo, which proves that it lives.
const SenderTTL = 120 * time.Second

// Times of the protocol, in nanoseconds on the caller's clock.
const (
	challengeAge  = int64(20 * time.Second) // when a challenge is replaced
	helloEvery    = int64(20 * time.Second) // KEY to everybody, and keepalives
	markAge       = int64(10 * time.Second) // when marks become floors
	reconfirm     = int64(60 * time.Second) // after the last echo: ask again
	reask         = int64(10 * time.Second)
	senderTTL     = int64(SenderTTL)
	saTTL         = int64(120 * time.Second) // without a newer KEY about it
	saLife        = int64(900 * time.Second) // a receiving SA's
	sealLife      = int64(800 * time.Second) // a sending SA's
	epochLength   = int64(600 * time.Second)
	lead          = int64(10 * time.Second) // from the first announce of an epoch to its use
	answerSpread  = int64(50 * time.Millisecond)
	openLatest    = int64(300 * time.Millisecond)
	openEarliest  = answerSpread + int64(10*time.Millisecond)
	suspicionRest = int64(60 * time.Second)
	second        = int64(time.Second)
)

// startSteps are when ASK and KEY go to everybody after the start, and leadSteps how long before an epoch begins it
// is announced.
var (
	startSteps = [...]int64{0, 100e6, 200e6, 1e9, 3e9}
	leadSteps  = [...]int64{10e9, 7e9, 4e9, 1e9}
)

// Bounds.
const (
	windowSize     = 4096
	maxCandidates  = 4    // SAs of one SPI
	maxSAs         = 4096 // per vnet
	maxDelayed     = 64   // answers that wait
	volumePackets  = 1 << 32
	volumeBytes    = 1 << 40
	hardPackets    = 1 << 48
	answersASecond = 1000 // per vnet
	answersAsker   = 64   // per asker
	asksASecond    = 1000 // per vnet
	asksSPI        = 20   // per vnet, because of unknown SPIs
	relaysSender   = 10   // KEY messages forwarded a second, per instance
	// MaxKeys bounds the keys of a vnet.
	MaxKeys = 16
)

// Headroom is what must be in front of a packet in its buffer, in bytes: what auth authenticates is four bytes
// longer than the packet, and is made in place. Nothing there is changed in the end.
const Headroom = 4

// Refusal says why a packet was not taken. Its name is that of the counter.
type Refusal uint8

// The refusals; Taken is none.
const (
	Taken Refusal = iota
	Malformed
	UnknownSPI
	Replay
	WrongICV
	WrongInner
	WrongVnet
	KeyMalformed
	KeyUnknown
	KeyMAC
	KeyLevel
	KeyUnconfirmed
	KeyOld
	SendersFull
	KeyRate
	Own
	Refusals // their number
)

var refusalNames = [Refusals]string{
	Taken: "taken", Malformed: "esp_malformed", UnknownSPI: "esp_unknown_spi", Replay: "esp_replay", WrongICV: "esp_auth",
	WrongInner: "esp_inner", WrongVnet: "esp_vnet", KeyMalformed: "key_malformed", KeyUnknown: "key_unknown",
	KeyMAC: "key_mac", KeyLevel: "key_level", KeyUnconfirmed: "key_unconfirmed", KeyOld: "key_old",
	SendersFull: "senders_full", KeyRate: "key_rate", Own: "own_packet",
}

// String is the counter's name.
func (r Refusal) String() string {
	if r >= Refusals {
		return "unknown"
	}
	return refusalNames[r]
}

// Why nothing is sealed.
var (
	// ErrNoSA: there is no sending SA, or it is too old: the timers did not run.
	ErrNoSA = errors.New("no key to seal with")
	// ErrExhausted: a lane has used up its sequence numbers.
	ErrExhausted = errors.New("the sequence numbers of the key are used up")
)

// Arrival is how a message came.
type Arrival struct {
	// From is the outer source.
	From netip.AddrPort
	// Unicast is true if it came straight to this host alone: not by the group, a replica or a peer.
	Unicast bool
}

// Message is what is to be sent from the security port.
type Message struct {
	// To is the destination; port 0 means the security port that all hosts have in common. The zero AddrPort means
	// everybody: wherever a flooded frame goes.
	To netip.AddrPort
	// Data is the UDP payload.
	Data []byte
}

// Addresses are those of a host, from inside of its KEY message.
type Addresses struct {
	Addr4, Addr6 netip.Addr
	// NAT is the outer source of its last KEY with a valid echo, where it has told no addresses: everything goes
	// there.
	NAT netip.AddrPort
	// host is what NAT is known by.
	host netip.Addr
}

// Hidden is a host behind NAT.
type Hidden struct {
	// Host is what the host is known by: its public address is not enough, since others may be behind the same.
	Host netip.Addr
	// At is where all that is for it goes.
	At netip.AddrPort
}

// hiddenHost is an address that stands for a place behind NAT: the public address as an IPv6 one, with the port as its zone.
func hiddenHost(at netip.AddrPort) netip.Addr {
	return netip.AddrFrom16(at.Addr().As16()).WithZone(strconv.Itoa(int(at.Port())))
}

// Host is the address that the MACs of a host are behind, of one family or else of the other; of a host behind NAT one that no
// packet can be sent to, but Vnet.Hidden tells where.
func (a *Addresses) Host(four bool) netip.Addr {
	if a.NAT.IsValid() {
		return a.host
	}
	return a.Of(four).Addr()
}

// Of returns the address of one family, or else of the other. Port 0 is the port that all have in common.
func (a *Addresses) Of(four bool) netip.AddrPort {
	switch {
	case a.NAT.IsValid():
		return a.NAT
	case four && a.Addr4.IsValid(), !a.Addr6.IsValid():
		return netip.AddrPortFrom(a.Addr4, 0)
	}
	return netip.AddrPortFrom(a.Addr6, 0)
}

// Has reports whether addr is one of a host's addresses.
func (a *Addresses) Has(addr netip.Addr) bool {
	return addr.IsValid() && (addr == a.Addr4 || addr == a.Addr6 || addr == a.NAT.Addr())
}

// levelOf is a level on the wire: 1 auth, 2 conf.
func levelOf(s vnet.Security) uint8 { return uint8(s) }

// usable reports whether a can be the address of another host.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !(a.Is6() && a.IsLinkLocalUnicast())
}
