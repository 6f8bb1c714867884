package esp

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Vnet is a vnet with security on this host: what it seals with, and who it can open the packets of. Its methods may be
// called from any goroutine; none does I/O. Times are nanoseconds on one clock of the caller's; one that goes back is
// taken to stand still.
type Vnet struct {
	table   *Table
	id      vnet.ID
	level   vnet.Security
	refused [Refusals]atomic.Uint64
	sending atomic.Pointer[Sending]
	open    atomic.Bool
	// hidden are the senders behind NAT; the list is replaced, never changed.
	hidden atomic.Pointer[[]Hidden]

	mu      sync.Mutex // guards what follows
	now     int64
	keys    []*vnetKey
	send    int
	threads int
	flows   int
	pace    Pace
	nat     bool
	own     Addresses
	removed bool

	instance [16]byte
	number   uint64 // of the last KEY
	epoch    uint32
	started  int64
	step     int // of startSteps
	helloAt  int64

	// prepared is the sending SA of the next epoch, from preparing to switching.
	prepared *Sending
	prepare  int64 // when to prepare
	switchAt int64
	leads    int // of leadSteps
	lookAt   int64

	challenges [2]challenge // the current one, and the one before
	senders    map[senderID]*sender
	sas        map[[16]byte]*receiving
	delayed    []delayed
	// confirmed are the hosts that asked us, until the vnif is read.
	confirmed map[netip.AddrPort]struct{}

	suspicion bool // the machine may have been cloned
	suspected int64

	askedNonce, askedHost, answered, askers, relayed *rates
	asks, spiAsks, answers                           rate
}

type challenge struct {
	value [16]byte
	drawn int64
	valid bool
}

// senderID is a life of a host, under a key.
type senderID struct {
	kid      wire.KID
	instance [16]byte
}

// sender is a host that has proved to live. There is one as long as it has an SA.
type sender struct {
	id        senderID
	key       *vnetKey
	addresses atomic.Pointer[Addresses]
	epoch     uint32 // the highest
	number    uint64 // of the newest KEY
	echoed    int64  // when the last valid echo came
	askAt     int64
	sas       []*receiving
}

// delayed is an answer that waits.
type delayed struct {
	at        int64
	to        netip.AddrPort
	challenge [16]byte
}

func newVnet(t *Table, c Config, now int64) *Vnet {
	v := &Vnet{
		table: t, id: c.ID, level: c.Level, now: now, send: c.Send, threads: c.Threads, flows: c.Flows, pace: c.Pace.withDefaults(), nat: c.NAT, own: c.Addresses,
		senders: map[senderID]*sender{}, sas: map[[16]byte]*receiving{}, confirmed: map[netip.AddrPort]struct{}{},
		askedNonce: newRates(), askedHost: newRates(), answered: newRates(), askers: newRates(), relayed: newRates(),
		suspected: math.MinInt64 / 2,
	}
	for _, s := range c.Keys {
		v.keys = append(v.keys, newVnetKey(s, c.ID))
	}
	return v
}

// ID returns the vnet's id.
func (v *Vnet) ID() vnet.ID { return v.id }

// Level returns its level.
func (v *Vnet) Level() vnet.Security { return v.level }

// Flows is how many lanes for unicast each thread has that is not the last.
func (v *Vnet) Flows() int { return max(1, v.flows) }

// Open reports whether the vnif may be read: everybody who is there can open what is sealed, or has had the time to.
func (v *Vnet) Open() bool { return v.open.Load() }

// Sending returns the SA to seal with now, for one batch of packets; nil if there is none.
func (v *Vnet) Sending(now int64) *Sending {
	s := v.sending.Load()
	if s == nil || now-s.created >= sealLife {
		return nil
	}
	return s
}

// Hidden returns where the hosts behind NAT are reached, which no group reaches: everything for them goes there, from
// the security port. The list must not be changed.
func (v *Vnet) Hidden() []Hidden {
	if l := v.hidden.Load(); l != nil {
		return *l
	}
	return nil
}

// hideLocked lists them anew.
func (v *Vnet) hideLocked() {
	var list []Hidden
	for _, s := range v.senders {
		if a := s.addresses.Load(); a.NAT.IsValid() && !slices.Contains(list, Hidden{a.host, a.NAT}) {
			list = append(list, Hidden{a.host, a.NAT})
		}
	}
	v.hidden.Store(&list)
}

// clockLocked is the time, which never goes back.
func (v *Vnet) clockLocked(now int64) int64 {
	v.now = max(v.now, now)
	return v.now
}

// beginLocked begins a life as a sender.
func (v *Vnet) beginLocked(now int64) {
	v.table.random(v.instance[:])
	v.number, v.epoch, v.prepared = 0, 0, nil
	v.started, v.step = now, 0
	v.helloAt = now + v.jitterLocked(helloEvery)
	v.sending.Store(v.newSendingLocked(now))
	v.prepare = now + v.jitterLocked(int64(v.pace.Epoch)) - int64(v.pace.Lead)
	v.lookAt = now + second
}

// newSendingLocked makes the SA of the next epoch.
func (v *Vnet) newSendingLocked(now int64) *Sending {
	k := v.keys[v.send]
	var nonce [16]byte
	v.table.random(nonce[:])
	v.epoch++
	var spi uint32
	for {
		var b [2]byte
		v.table.random(b[:])
		block := uint32(binary.BigEndian.Uint16(b[:]))
		spi = uint32(k.kid[0])<<24 | block<<8
		current := v.sending.Load()
		if block != 0 && spi >= wire.MinSPI && len(v.table.view.Load().sas[spi>>8]) == 0 && (current == nil || current.spi != spi) {
			break
		}
	}
	s := newSending(k, v.level, nonce, v.epoch, spi, Config{Threads: v.threads, Flows: v.flows}.lanes(), now)
	s.threads = v.threads
	return s
}

// jitterLocked is d, give or take 10 %.
func (v *Vnet) jitterLocked(d int64) int64 { return d - d/10 + v.randomLocked(d/5) }

// randomLocked is a random number below n.
func (v *Vnet) randomLocked(n int64) int64 {
	var b [8]byte
	v.table.random(b[:])
	return int64(binary.BigEndian.Uint64(b[:])>>1) % n
}

// challengeLocked returns the challenge to ask with.
func (v *Vnet) challengeLocked(now int64) [16]byte {
	if c := &v.challenges[0]; !c.valid || now-c.drawn >= challengeAge {
		v.challenges[1] = v.challenges[0]
		*c = challenge{drawn: now, valid: true}
		v.table.random(c.value[:])
	}
	return v.challenges[0].value
}

// echoesLocked reports whether a KEY answers one of our challenges.
func (v *Vnet) echoesLocked(echo [16]byte, now int64) bool {
	for _, c := range v.challenges {
		if c.valid && now-c.drawn < 2*challengeAge && c.value == echo {
			return true
		}
	}
	return false
}

// askMessage makes an ASK under a key.
func (v *Vnet) askMessageLocked(k *vnetKey, spi uint32, now int64) []byte {
	m := wire.Ask{KID: k.kid, Challenge: v.challengeLocked(now), SPI: spi}
	if !v.nat {
		m.Addr4, m.Addr6 = v.own.Addr4, v.own.Addr6
	}
	b := m.Append(make([]byte, wire.MarkerLen, wire.MarkerLen+wire.AskLen))
	return k.sign(b, wire.MarkerLen)
}

// keyMessageLocked makes a KEY about a sending SA.
func (v *Vnet) keyMessageLocked(s *Sending, echo [16]byte) []byte {
	v.number++
	m := wire.Key{
		KID: s.key.kid, Level: levelOf(v.level), Instance: v.instance, Nonce: s.nonce, Epoch: s.epoch, SPI: s.spi,
		Number: v.number, Echo: echo, Lanes: len(s.lanes),
	}
	if !v.nat {
		m.Addr4, m.Addr6 = v.own.Addr4, v.own.Addr6
	}
	for i := range s.lanes {
		m.Next[i] = s.lanes[i].next.Load()
	}
	return s.key.sign(m.Append(make([]byte, wire.MarkerLen, wire.MarkerLen+wire.MinKeyLen+8*len(s.lanes))), wire.MarkerLen)
}

// helloLocked is a KEY to everybody.
func (v *Vnet) helloLocked(s *Sending, out []Message) []Message {
	return append(out, Message{Data: v.keyMessageLocked(s, [16]byte{})})
}

// answerLocked answers an ASK: for the SA in use, and the one that comes next.
func (v *Vnet) answerLocked(to netip.AddrPort, challenge [16]byte, out []Message) []Message {
	for _, s := range [...]*Sending{v.sending.Load(), v.prepared} {
		if s != nil {
			out = append(out, Message{To: to, Data: v.keyMessageLocked(s, challenge)})
		}
	}
	return out
}

// mayAskLocked reports whether an address is another host's, that may be asked.
func (v *Vnet) mayAskLocked(to netip.AddrPort) bool {
	return usable(to.Addr()) && !v.own.Has(to.Addr())
}

// askLocked asks one host for its KEYs.
func (v *Vnet) askLocked(k *vnetKey, spi uint32, to netip.AddrPort, now int64, out []Message) []Message {
	if !v.mayAskLocked(to) || !v.asks.take(now, asksASecond) {
		return out
	}
	return append(out, Message{To: to, Data: v.askMessageLocked(k, spi, now)})
}

// askSender asks who sent an ESP packet that nobody here can open.
func (v *Vnet) askSender(k *vnetKey, spi uint32, a Arrival, now int64, out []Message) []Message {
	v.mu.Lock()
	defer v.mu.Unlock()
	now = v.clockLocked(now)
	if v.removed || !v.mayAskLocked(a.From) || !takeFor(v.askedHost, a.From.Addr(), now, 1) || !v.spiAsks.take(now, asksSPI) {
		return out
	}
	// To the security port, whatever lane the packet came by: where it came from only if it is behind NAT, which its KEY tells.
	return v.askLocked(k, spi, netip.AddrPortFrom(a.From.Addr(), 0), now, out)
}

// place is where a host wants to be answered: at the addresses inside its message; the outer source counts only behind NAT.
func place(addr4, addr6 netip.Addr, a Arrival) netip.AddrPort {
	if !addr4.IsValid() && !addr6.IsValid() {
		return a.From
	}
	return (&Addresses{Addr4: addr4, Addr6: addr6}).Of(a.From.Addr().Is4())
}

// ask handles an ASK whose MAC is right.
func (v *Vnet) ask(k *vnetKey, b []byte, a Arrival, now int64, out []Message) (Verdict, []Message) {
	var m wire.Ask
	if m.Decode(b) != nil {
		return Verdict{Refusal: KeyMalformed}, out
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now = v.clockLocked(now)
	if v.removed {
		return Verdict{Refusal: KeyUnknown}, out
	}
	to := place(m.Addr4, m.Addr6, a)
	if v.echoesLocked(m.Challenge, now) || v.own.Has(to.Addr()) {
		return Verdict{Refusal: Own}, out
	}
	verdict := Verdict{Relay: !a.Unicast}
	if !v.mayAskLocked(to) || !takeFor(v.answered, m.Challenge, now, 1) || !takeFor(v.askers, to, now, answersAsker) ||
		!v.answers.take(now, answersASecond) {
		return Verdict{Refusal: KeyRate}, out
	}
	if !v.open.Load() && len(v.confirmed) < maxSAs {
		v.confirmed[to] = struct{}{}
	}
	if a.Unicast {
		return verdict, v.answerLocked(to, m.Challenge, out)
	}
	if len(v.delayed) >= maxDelayed {
		return Verdict{Refusal: KeyRate, Relay: verdict.Relay}, out
	}
	v.delayed = append(v.delayed, delayed{at: now + v.randomLocked(answerSpread), to: to, challenge: m.Challenge})
	return verdict, out
}

// key handles a KEY whose MAC is right.
func (v *Vnet) key(k *vnetKey, b []byte, a Arrival, now int64, out []Message) (Verdict, []Message) {
	var m wire.Key
	if m.Decode(b) != nil || uint8(m.SPI>>24) != m.KID[0] || uint8(m.SPI) != 0 {
		return Verdict{Refusal: KeyMalformed}, out
	}
	if m.Level != levelOf(v.level) {
		return Verdict{Refusal: KeyLevel}, out
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now = v.clockLocked(now)
	if v.removed {
		return Verdict{Refusal: KeyUnknown}, out
	}
	if m.Instance == v.instance {
		// A copy of this machine speaks, if that is newer than what we said ourselves.
		v.suspicion = v.suspicion || m.Number > v.number
		return Verdict{Refusal: Own}, out
	}
	id := senderID{m.KID, m.Instance}
	s := v.senders[id]
	echo := v.echoesLocked(m.Echo, now)
	relay := (s == nil || m.Number > s.number) && takeFor(v.relayed, m.Instance, now, relaysSender)
	verdict := Verdict{Relay: relay}
	if sa := v.sas[m.Nonce]; sa != nil {
		verdict.Refusal, verdict.Changed = v.hearLocked(sa, &m, id, echo, a, now)
		return verdict, out
	}
	switch {
	case echo:
	case s != nil && m.Number > s.number && m.Epoch > s.epoch:
	default:
		verdict.Refusal = KeyUnconfirmed
		if takeFor(v.askedNonce, m.Nonce, now, 1) {
			out = v.askLocked(k, 0, place(m.Addr4, m.Addr6, a), now, out)
		}
		return verdict, out
	}
	verdict.Refusal = v.createLocked(k, s, &m, id, echo, a, now)
	verdict.Changed = verdict.Refusal == Taken
	return verdict, out
}

// addressesOf are a sender's, from its KEY; before are those that it had.
func addressesOf(m *wire.Key, echo bool, a Arrival, before *Addresses) *Addresses {
	n := &Addresses{}
	if usable(m.Addr4) {
		n.Addr4 = m.Addr4
	}
	if usable(m.Addr6) {
		n.Addr6 = m.Addr6
	}
	if n.Addr4.IsValid() || n.Addr6.IsValid() {
		return n
	}
	if !echo && before != nil {
		return before
	}
	if echo && usable(a.From.Addr()) {
		n.NAT, n.host = a.From, hiddenHost(a.From)
	}
	return n
}

// hearLocked handles a KEY about an SA that is there.
func (v *Vnet) hearLocked(sa *receiving, m *wire.Key, id senderID, echo bool, a Arrival, now int64) (Refusal, bool) {
	s := sa.sender
	if s.id != id || sa.epoch != m.Epoch || sa.spi != m.SPI || len(sa.lanes) != m.Lanes {
		return KeyOld, false
	}
	if echo {
		// Whatever its number: who delays everything evenly would never be noticed otherwise.
		s.echoed, s.askAt = now, now+v.jitterLocked(reconfirm)
	}
	if m.Number <= s.number {
		if echo {
			return Taken, false
		}
		return KeyOld, false
	}
	s.number, sa.heard = m.Number, now
	due := now-sa.marked >= markAge
	if due {
		sa.marked = now
	}
	for i := range sa.lanes {
		l := &sa.lanes[i]
		l.mu.Lock()
		l.hear(m.Next[i], due)
		l.mu.Unlock()
	}
	before := s.addresses.Load()
	after := addressesOf(m, echo, a, before)
	if *after == *before {
		return Taken, false
	}
	s.addresses.Store(after)
	v.hideLocked()
	return Taken, true
}

// createLocked makes a receiving SA, and the sender where it is new.
func (v *Vnet) createLocked(k *vnetKey, s *sender, m *wire.Key, id senderID, echo bool, a Arrival, now int64) Refusal {
	if s != nil && slices.ContainsFunc(s.sas, func(sa *receiving) bool { return sa.epoch == m.Epoch }) {
		return KeyOld
	}
	if len(v.sas) >= maxSAs {
		return SendersFull
	}
	known := s != nil
	if !known {
		s = &sender{id: id, key: k}
		s.addresses.Store(&Addresses{})
	}
	sa := &receiving{
		vnet: v, sender: s, nonce: m.Nonce, epoch: m.Epoch, spi: m.SPI, lanes: make([]receivingLane, m.Lanes),
		created: now, heard: now, marked: now,
	}
	for i := range sa.lanes {
		sa.lanes[i].window = newWindow(m.Next[i])
	}
	if !known || m.Number > s.number {
		s.addresses.Store(addressesOf(m, echo, a, s.addresses.Load()))
	}
	inserted := false
	v.table.change(func(w *tableView) { inserted = w.insert(sa) })
	if !inserted {
		return SendersFull
	}
	s.number, s.epoch = max(s.number, m.Number), max(s.epoch, m.Epoch)
	if echo {
		s.echoed, s.askAt = now, now+v.jitterLocked(reconfirm)
	}
	s.sas = append(s.sas, sa)
	v.sas[m.Nonce], v.senders[id] = sa, s
	v.hideLocked()
	return Taken
}

// dropLocked removes receiving SAs, and the senders that have none left. Our challenges are void then: what is to make an SA
// of a sender that is gone must be younger than its going.
func (v *Vnet) dropLocked(drop func(*receiving) bool) {
	gone := map[*receiving]bool{}
	for nonce, sa := range v.sas {
		if drop(sa) {
			gone[sa] = true
			sa.gone.Store(true)
			delete(v.sas, nonce)
		}
	}
	if len(gone) == 0 {
		return
	}
	v.challenges = [2]challenge{}
	for id, s := range v.senders {
		if s.sas = slices.DeleteFunc(s.sas, func(sa *receiving) bool { return gone[sa] }); len(s.sas) == 0 {
			delete(v.senders, id)
		}
	}
	v.table.change(func(w *tableView) { w.remove(gone) })
	v.hideLocked()
}

func (v *Vnet) dropSendersLocked(drop func(*sender) bool) {
	v.dropLocked(func(sa *receiving) bool { return drop(sa.sender) })
}

// Suspect says that this machine may be a copy of another, or have been set back: what it seals with may be in use elsewhere. The
// next Tick begins another life.
func (v *Vnet) Suspect() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.suspicion = true
}

// SetAddresses says under which addresses this host is reached now; nat is true if others do not reach it there.
func (v *Vnet) SetAddresses(own Addresses, nat bool, now int64, out []Message) []Message {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clockLocked(now)
	if v.removed || own == v.own && nat == v.nat {
		return out
	}
	v.own, v.nat = own, nat
	if s := v.sending.Load(); s != nil && v.step > 0 {
		out = v.helloLocked(s, out)
	}
	return out
}

// SetKeys replaces the keys: what was sealed under one that is missing now is not opened any more, and where another
// seals, it does after everybody was told. Keys are as in Config.
func (v *Vnet) SetKeys(keys []Secret, send int, now int64) error {
	if err := (Config{ID: v.id, Level: v.level, Keys: keys, Send: send, Threads: v.threads, Flows: v.flows}).validate(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.removed {
		return ErrNoSA
	}
	now = v.clockLocked(now)
	var list []*vnetKey
	for _, s := range keys {
		if i := slices.IndexFunc(v.keys, func(k *vnetKey) bool { return k.secret == s }); i >= 0 {
			list = append(list, v.keys[i])
		} else {
			list = append(list, newVnetKey(s, v.id))
		}
	}
	v.keys, v.send = list, send
	v.dropSendersLocked(func(s *sender) bool { return !slices.Contains(list, s.key) })
	v.table.change(func(w *tableView) { w.setKeys(v) })
	if v.prepared != nil && v.prepared.key != list[send] {
		v.prepared = nil
	}
	switch current := v.sending.Load(); {
	case current == nil, !slices.Contains(list, current.key):
		// It must not be used any longer.
		v.prepared = nil
		v.sending.Store(nil)
		v.sending.Store(v.newSendingLocked(now))
		v.prepare = now + v.jitterLocked(int64(v.pace.Epoch)) - int64(v.pace.Lead)
		v.step, v.started = 0, now
	case current.key != list[send] && v.prepared == nil:
		v.prepareLocked(now)
	}
	return nil
}

// prepareLocked makes the SA of the next epoch, to be used when everybody had the time to learn of it.
func (v *Vnet) prepareLocked(now int64) {
	v.prepared = v.newSendingLocked(now)
	v.switchAt, v.leads = now+int64(v.pace.Lead), 0
	if v.Sending(now) == nil {
		v.switchAt = now
	}
}

// Tick does what is due, and appends what is to be sent to out. It is called at Next, and may be called at any time.
func (v *Vnet) Tick(now int64, out []Message) []Message {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.removed {
		return out
	}
	now = v.clockLocked(now)
	if v.suspicion && now-v.suspected >= suspicionRest {
		v.suspicion, v.suspected = false, now
		v.dropLocked(func(*receiving) bool { return true })
		v.challenges = [2]challenge{}
		v.delayed = nil
		v.beginLocked(now)
	}
	v.dropLocked(func(sa *receiving) bool {
		return now-sa.sender.echoed >= senderTTL || now-sa.heard >= saTTL || now-sa.created >= saLife
	})
	out = v.epochLocked(now, out)
	s := v.sending.Load()
	for v.step < len(startSteps) && now-v.started >= startSteps[v.step] {
		due := v.step + 1
		for due < len(startSteps) && now-v.started >= startSteps[due] {
			due++ // what was missed is not made up for
		}
		v.step = due
		out = append(out, Message{Data: v.askMessageLocked(v.keys[v.send], 0, now)})
		out = v.helloLocked(s, out)
	}
	if now >= v.helloAt {
		v.helloAt = now + v.jitterLocked(helloEvery)
		out = v.helloLocked(s, out)
		if v.nat {
			for _, s := range v.senders {
				if to := s.addresses.Load().Of(true); usable(to.Addr()) {
					out = append(out, Message{To: to, Data: []byte{0xff}})
				}
			}
		}
	}
	waiting := v.delayed[:0]
	for _, d := range v.delayed {
		if now >= d.at {
			out = v.answerLocked(d.to, d.challenge, out)
		} else {
			waiting = append(waiting, d)
		}
	}
	v.delayed = waiting
	for _, s := range v.senders {
		if now >= s.askAt {
			s.askAt = now + reask
			out = v.askLocked(s.key, 0, s.addresses.Load().Of(true), now, out)
		}
	}
	if !v.open.Load() && v.mayOpenLocked(now) {
		v.open.Store(true)
		v.confirmed = nil
	}
	return out
}

// epochLocked prepares and begins epochs.
func (v *Vnet) epochLocked(now int64, out []Message) []Message {
	if now >= v.lookAt && v.prepared == nil {
		v.lookAt = now + second
		if v.sending.Load().spent(v.pace.Packets) {
			v.prepareLocked(now)
		}
	}
	if now >= v.prepare && v.prepared == nil {
		v.prepareLocked(now)
	}
	if v.prepared == nil {
		return out
	}
	told := false
	for v.leads < len(leadSteps) && now >= v.switchAt-v.pace.leadStep(v.leads) {
		v.leads++
		told = true
	}
	if told {
		out = v.helloLocked(v.prepared, out)
	}
	if now >= v.switchAt {
		v.sending.Store(v.prepared)
		v.prepared = nil
		v.prepare = now + v.jitterLocked(int64(v.pace.Epoch)) - int64(v.pace.Lead)
	}
	return out
}

// mayOpenLocked reports whether all who answered have asked us in turn: they have our KEY. Answers come up to answerSpread late.
func (v *Vnet) mayOpenLocked(now int64) bool {
	since := now - v.started
	if since >= openLatest {
		return true
	}
	if since < openEarliest || len(v.senders) == 0 {
		return false
	}
	for _, s := range v.senders {
		a := s.addresses.Load()
		_, four := v.confirmed[netip.AddrPortFrom(a.Addr4, 0)]
		_, six := v.confirmed[netip.AddrPortFrom(a.Addr6, 0)]
		_, nat := v.confirmed[a.NAT]
		if !four && !six && !nat {
			return false
		}
	}
	return true
}

// Next is when Tick has something to do, at the latest.
func (v *Vnet) Next() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.now + second
	at := func(t int64) { next = min(next, t) }
	if v.step < len(startSteps) {
		at(v.started + startSteps[v.step])
	}
	at(v.helloAt)
	at(v.prepare)
	if v.prepared != nil {
		at(v.switchAt)
		if v.leads < len(leadSteps) {
			at(v.switchAt - v.pace.leadStep(v.leads))
		}
	}
	for _, d := range v.delayed {
		at(d.at)
	}
	for _, s := range v.senders {
		at(s.askAt)
	}
	if v.suspicion {
		at(v.suspected + suspicionRest)
	}
	if !v.open.Load() {
		at(v.now + int64(10e6))
	}
	return max(next, v.now)
}
