package esp

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Table has the vnets with security of a host. Its methods may be called from any goroutine.
type Table struct {
	// random fills b with random bytes.
	random func(b []byte)
	mu     sync.Mutex // serialises changes; taken after a vnet's lock
	view   atomic.Pointer[tableView]
	// refused counts what could not be told to be of a vnet.
	refused [Refusals]atomic.Uint64
}

// tableView is what threads read; it is replaced, never changed.
type tableView struct {
	vnets map[vnet.ID]*Vnet
	kids  map[wire.KID]keyOf
	// byTag are the keys by the first byte of their kids, which is the first of SPIs.
	byTag map[uint8][]keyOf
	sas   map[uint32][]*receiving // by SPI without the lane
}

type keyOf struct {
	vnet *Vnet
	key  *vnetKey
}

// NewTable returns a Table. random fills its argument with random bytes; nil means the system's source.
func NewTable(random func(b []byte)) *Table {
	if random == nil {
		random = func(b []byte) { _, _ = rand.Read(b) } // it never fails
	}
	t := &Table{random: random}
	t.view.Store(&tableView{})
	return t
}

// Config says what a vnet is protected with.
type Config struct {
	ID    vnet.ID
	Level vnet.Security
	// Keys all open; Keys[Send] seals.
	Keys []Secret
	Send int
	// Threads is the number of threads that send: each gets a lane for what is flooded, and one for unicast.
	Threads int
	// Flows is how many lanes for unicast each thread but the last, which says little, has: receivers and cards
	// spread them. 0 means 1.
	Flows int
	// NAT is true of a host that others cannot reach at its own address.
	NAT bool
	// Addresses are this host's; of NAT nothing is told.
	Addresses Addresses
	// Pace is the protocol's where it is zero.
	Pace Pace
}

// Pace is how often a vnet takes another sending SA. Zero fields mean the protocol's defaults; tests have no ten minutes.
type Pace struct {
	// Epoch is how long an SA is used, give or take 10 %; default 600 s.
	Epoch time.Duration
	// Lead is the time from its first announce to its use; default 10 s.
	Lead time.Duration
	// Packets is how many a lane carries until another SA is due; default 2³². It is looked at once a second.
	Packets uint64
}

// withDefaults fills in what is zero.
func (p Pace) withDefaults() Pace {
	if p.Epoch == 0 {
		p.Epoch = time.Duration(epochLength)
	}
	if p.Lead == 0 {
		p.Lead = time.Duration(lead)
	}
	if p.Packets == 0 {
		p.Packets = volumePackets
	}
	return p
}

// leadStep is how long before an SA is used its i-th announce goes out.
func (p Pace) leadStep(i int) int64 { return leadSteps[i] / 1e6 * int64(p.Lead) / (lead / 1e6) }

// lanes is the number of lanes.
func (c Config) lanes() int { return 2*c.Threads + (c.Threads-1)*(max(1, c.Flows)-1) }

// MaxFlows is the most flows that so many threads may have.
func MaxFlows(threads int) int {
	if threads < 2 {
		return 1
	}
	return max(1, 1+(wire.MaxLanes-2*threads)/(threads-1))
}

func (c Config) validate() error {
	switch {
	case c.Level != vnet.Auth && c.Level != vnet.Conf:
		return fmt.Errorf("security level %s has no keys", c.Level)
	case len(c.Keys) == 0:
		return errors.New("there is no key")
	case len(c.Keys) > MaxKeys:
		return fmt.Errorf("%d keys are more than %d", len(c.Keys), MaxKeys)
	case c.Send < 0 || c.Send >= len(c.Keys):
		return errors.New("no key is marked to send with")
	case c.Threads < 1 || 2*c.Threads > wire.MaxLanes:
		return fmt.Errorf("%d threads are not between 1 and %d", c.Threads, wire.MaxLanes/2)
	case c.Flows < 0 || c.Flows > MaxFlows(c.Threads):
		return fmt.Errorf("%d flows of a thread are not between 0 and %d", c.Flows, MaxFlows(c.Threads))
	}
	for i, k := range c.Keys {
		if k == (Secret{}) {
			return fmt.Errorf("key %d is zero", i+1)
		}
		if slices.Contains(c.Keys[:i], k) {
			return fmt.Errorf("key %d is there twice", i+1)
		}
	}
	return nil
}

// Add begins to protect a vnet: a life of this host as a sender begins.
func (t *Table) Add(c Config, now int64) (*Vnet, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	v := newVnet(t, c, now)
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	t.change(func(w *tableView) {
		if w.vnets[c.ID] != nil {
			err = fmt.Errorf("vnet %s is protected already", c.ID)
			return
		}
		w.vnets[c.ID] = v
		w.setKeys(v)
	})
	if err != nil {
		return nil, err
	}
	v.beginLocked(now)
	return v, nil
}

// Remove ends a vnet: nothing more is sealed or opened for it.
func (t *Table) Remove(v *Vnet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dropSendersLocked(func(*sender) bool { return true })
	v.sending.Store(nil)
	v.prepared, v.removed, v.keys = nil, true, nil
	t.change(func(w *tableView) {
		if w.vnets[v.id] == v {
			delete(w.vnets, v.id)
		}
		w.setKeys(v)
	})
}

// Vnet returns the vnet of that id, nil if it is not protected here.
func (t *Table) Vnet(id vnet.ID) *Vnet { return t.view.Load().vnets[id] }

// Empty reports whether no vnet is protected.
func (t *Table) Empty() bool { return len(t.view.Load().vnets) == 0 }

// Vnets calls f for each vnet.
func (t *Table) Vnets(f func(*Vnet)) {
	for _, v := range t.view.Load().vnets {
		f(v)
	}
}

// change replaces the view.
func (t *Table) change(edit func(*tableView)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.view.Load()
	w := &tableView{vnets: maps.Clone(old.vnets), kids: maps.Clone(old.kids), byTag: maps.Clone(old.byTag), sas: maps.Clone(old.sas)}
	if w.vnets == nil {
		w = &tableView{vnets: map[vnet.ID]*Vnet{}, kids: map[wire.KID]keyOf{}, byTag: map[uint8][]keyOf{}, sas: map[uint32][]*receiving{}}
	}
	edit(w)
	t.view.Store(w)
}

// setKeys enters the keys that a vnet has now.
func (w *tableView) setKeys(v *Vnet) {
	maps.DeleteFunc(w.kids, func(_ wire.KID, k keyOf) bool { return k.vnet == v })
	for _, k := range v.keys {
		w.kids[k.kid] = keyOf{v, k}
	}
	w.byTag = map[uint8][]keyOf{}
	for kid, k := range w.kids {
		w.byTag[kid[0]] = append(w.byTag[kid[0]], k)
	}
}

// insert enters a receiving SA. It is false if too many share its SPI.
func (w *tableView) insert(sa *receiving) bool {
	block := sa.spi >> 8
	if len(w.sas[block]) >= maxCandidates {
		return false
	}
	w.sas[block] = append(slices.Clone(w.sas[block]), sa)
	return true
}

func (w *tableView) remove(gone map[*receiving]bool) {
	for sa := range gone {
		block := sa.spi >> 8
		rest := slices.DeleteFunc(slices.Clone(w.sas[block]), func(x *receiving) bool { return gone[x] })
		if w.sas[block] = rest; len(rest) == 0 {
			delete(w.sas, block)
		}
	}
}

// Open opens the ESP packet that begins at buf[at] and ends with buf. With at ≥ Headroom nothing is copied; only what is
// Taken has changed anything here. A packet of conf is decrypted in place, and destroyed even where it is refused. What
// was refused with UnknownSPI may be told to AskSender.
func (t *Table) Open(o *Opener, buf []byte, at int) (Opened, Refusal) {
	opened, _ := t.OpenTrain(o, buf, at, len(buf)-at)
	return opened[0], opened[0].Refusal
}

// OpenTrain is Open for the packets of a train, each of size bytes but the last, which may be shorter: it opens the first
// and those behind it that are of its lane, and returns what they became and where the next one begins. The list is valid
// until the next call.
func (t *Table) OpenTrain(o *Opener, buf []byte, at, size int) (opened []Opened, next int) {
	o.lot, o.opened = o.lot[:0], o.opened[:0]
	next = min(at+size, len(buf))
	spi, low, err := wire.DecodeESP(buf[at:next])
	if err != nil {
		t.refused[Malformed].Add(1)
		o.opened = append(o.opened, Opened{Refusal: Malformed})
		return o.opened, next
	}
	candidates := t.view.Load().sas[spi>>8]
	o.lot = append(o.lot, sealedPacket{at: at, end: next, low: low, refusal: UnknownSPI})
	for len(candidates) == 1 && next < len(buf) && len(o.lot) < maxLot {
		end := min(next+size, len(buf))
		other, low, err := wire.DecodeESP(buf[next:end])
		if err != nil || other != spi {
			break
		}
		o.lot = append(o.lot, sealedPacket{at: next, end: end, low: low, refusal: UnknownSPI})
		next = end
	}
	var of *receiving
	for _, sa := range candidates {
		if lane := uint8(spi); int(lane) < len(sa.lanes) {
			before := o.lot[0].refusal
			sa.open(o, lane, buf, len(candidates) > 1)
			r := o.lot[0].refusal
			if of == nil || r == Taken || r == Replay {
				of = sa // a replay fails the other candidates' ICV
			} else {
				o.lot[0].refusal = before
			}
			if r == Taken {
				break
			}
		}
	}
	for i := range o.lot {
		p := &o.lot[i]
		o.opened = append(o.opened, Opened{Refusal: p.refusal})
		if of == nil {
			t.refused[p.refusal].Add(1)
			continue
		}
		out := &o.opened[i]
		if out.Vnet = of.vnet; out.Refusal == Taken {
			of.inspect(o, p.content, out)
		}
		if out.Refusal != Taken {
			of.vnet.refused[out.Refusal].Add(1)
		}
	}
	return o.opened, next
}

// AskSender asks the sender of an ESP packet of unknown SPI for its key, if the SPI may be one of our vnets'. length is
// the packet's. Messages to send are appended to out.
func (t *Table) AskSender(spi uint32, length int, a Arrival, now int64, out []Message) []Message {
	keys := t.view.Load().byTag[uint8(spi>>24)]
	if len(keys) == 0 || length < wire.AskLen+wire.MarkerLen || !usable(a.From.Addr()) {
		return out
	}
	// One packet causes one question.
	var b [1]byte
	if len(keys) > 1 {
		t.random(b[:])
	}
	k := keys[int(b[0])%len(keys)]
	return k.vnet.askSender(k.key, spi, a, now, out)
}

// Verdict is what became of a KEY or ASK message.
type Verdict struct {
	Refusal Refusal
	// Vnet is nil where the key is not one of ours.
	Vnet *Vnet
	// Relay is true of what a forwarder may pass on.
	Relay bool
	// Changed is true if a sender is known now, or has other addresses.
	Changed bool
}

// Message handles a KEY or ASK message, from the magic on. Messages to send are appended to out.
func (t *Table) Message(b []byte, a Arrival, now int64, out []Message) (Verdict, []Message) {
	kind, kid, err := wire.DecodeSecuredHeader(b)
	if err != nil {
		t.refused[KeyMalformed].Add(1)
		return Verdict{Refusal: KeyMalformed}, out
	}
	k, ok := t.view.Load().kids[kid]
	if !ok {
		t.refused[KeyUnknown].Add(1)
		return Verdict{Refusal: KeyUnknown}, out
	}
	verdict := Verdict{Refusal: KeyMAC}
	if k.key.verify(b) {
		if kind == wire.TypeAsk {
			verdict, out = k.vnet.ask(k.key, b, a, now, out)
		} else {
			verdict, out = k.vnet.key(k.key, b, a, now, out)
		}
	}
	verdict.Vnet = k.vnet
	if verdict.Refusal != Taken {
		k.vnet.refused[verdict.Refusal].Add(1)
	}
	return verdict, out
}

// Refused returns how many packets were refused that could not be told to be of a vnet, by reason.
func (t *Table) Refused() [Refusals]uint64 {
	var out [Refusals]uint64
	for i := range out {
		out[i] = t.refused[i].Load()
	}
	return out
}
