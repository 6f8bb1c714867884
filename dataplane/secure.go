package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Vnets with security auth or conf: their keys, the sockets that only they have, and the way of their packets. What
// protects them is in package esp.

// KeySet are the keys of a vnet: all open, Secrets[Send] seals.
type KeySet struct {
	Secrets []esp.Secret
	Send    int
}

// ErrNoKey is what a KeySource returns if a vnet has no key.
var ErrNoKey = errors.New("no key")

// KeySource finds the keys of a vnet; it may read files.
type KeySource func(id vnet.ID) (KeySet, error)

// SecurityEncapsulation is how the packets of vnets with security travel.
type SecurityEncapsulation string

// The encapsulations. Both are always received.
const (
	// ESPInUDP is UDP to the security port.
	ESPInUDP SecurityEncapsulation = "esp_in_udp"
	// ESP is IP protocol 50.
	ESP SecurityEncapsulation = "esp"
)

// Security is what can be said about vnets with security.
type Security struct {
	// Port is the UDP port of ESP in UDP and of key messages, of all hosts.
	Port uint16
	// Encapsulation is how packets are sent.
	Encapsulation SecurityEncapsulation
	// NAT is true of a host whose address others do not see.
	NAT bool
}

// seal seals the packets of one vnet.
type seal struct {
	engine *Engine
	vnet   *esp.Vnet
	port   uint16
	flows  int
}

var _ Seal = (*seal)(nil)

func (s *seal) Seal(dst []byte, lane Lane, payload [][]byte) ([]byte, bool) {
	sa := s.vnet.Sending(lane.Now)
	if sa == nil {
		return dst, false
	}
	l := sa.Unicast(lane.Sender, lane.Flow)
	if lane.Flooded {
		l = sa.Flooded(lane.Sender)
	}
	out, err := l.Append(dst, payload...)
	return out, err == nil
}

// espGrowth is what ESP and the UDP header inside add, without padding.
const espGrowth = wire.ESPHeaderLen + wire.UDPLen + wire.ESPTrailerLen + wire.ICVLen

// Growth counts the most padding that there may be.
func (s *seal) Growth() int { return espGrowth + 3 }

func (s *seal) Fit(room int) int {
	n := room - espGrowth
	for n > 0 && wire.ESPLen(n) > room {
		n--
	}
	return n
}

func (s *seal) Port() uint16 { return s.port }

func (s *seal) Flows() int { return s.flows }

func (s *seal) Hidden() []esp.Hidden { return s.vnet.Hidden() }

// refusals are the reasons of package esp here.
var refusals = [esp.Refusals]Reason{
	esp.Malformed: DropESPMalformed, esp.UnknownSPI: DropESPUnknownSPI, esp.Replay: DropESPReplay, esp.WrongICV: DropESPAuth,
	esp.WrongInner: DropESPInner, esp.WrongVnet: DropESPVnet, esp.KeyMalformed: DropKeyMalformed, esp.KeyUnknown: DropKeyUnknown,
	esp.KeyMAC: DropKeyMAC, esp.KeyLevel: DropKeyLevel, esp.KeyUnconfirmed: DropKeyUnconfirmed, esp.KeyOld: DropKeyOld,
	esp.SendersFull: DropSendersFull, esp.KeyRate: DropKeyRate, esp.Own: DropOwn,
}

// SetKeySource says where the keys of vnets come from. It must be called before Run and Attach; without one, vnets with
// security are refused.
func (e *Engine) SetKeySource(source KeySource) { e.keySource = source }

// readKeys reads the keys of a vnet that needs some. No lock is held.
func (e *Engine) readKeys(c vnet.Config) error {
	if c.Security == vnet.None {
		return nil
	}
	if e.keySource == nil {
		return fmt.Errorf("vnet %s: security %s: %w", c.IDText, c.Security, ErrNoKey)
	}
	set, err := e.keySource(c.ID)
	if err != nil {
		return fmt.Errorf("vnet %s: security %s: %w", c.IDText, c.Security, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys[c.ID] = set
	return nil
}

// ReloadKeys reads all keys again. Where that fails, what is in use stays; but where a vnet has no key any more, it
// is cut off.
func (e *Engine) ReloadKeys() error {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	e.mu.Lock()
	var list []*attachment
	for _, a := range e.networks {
		if a.secured() {
			list = append(list, a)
		}
	}
	e.mu.Unlock()
	var errs []error
	for _, a := range list {
		id := a.config.ID
		err := e.readKeys(a.config)
		v := e.secured.Vnet(id)
		switch {
		case err != nil && v != nil && errors.Is(err, ErrNoKey):
			e.unprotect(id, "it has no key any more")
		case err != nil:
		case v == nil:
			err = e.attach(a.config, a.devices)
		default:
			set := e.keySet(id)
			err = v.SetKeys(set.Secrets, set.Send, e.now())
			e.kickSecurity()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keySet returns the keys that were read last.
func (e *Engine) keySet(id vnet.ID) KeySet {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys[id]
}

// unprotect stops sealing and opening for a vnet; nothing of it is carried then. problem says why, if it stays.
// attaching is held.
func (e *Engine) unprotect(id vnet.ID, problem string) {
	v := e.secured.Vnet(id)
	if v == nil {
		return
	}
	e.secured.Remove(v)
	e.mu.Lock()
	delete(e.keys, id)
	if a := e.networks[id]; a != nil {
		n := *a.network
		n.seal = nil
		e.networks[id] = &attachment{network: newNetwork(n, e.config.BUMRate), bridge: a.bridge, problem: problem, waits: a.waits}
		e.publishLocked()
	}
	workers := e.workers
	e.mu.Unlock()
	quiesce(workers)
}

// protect returns the seal of a vnet with security, nil for others and as long as the engine does not run. Of a vnet that
// has one already, it goes on. attaching is held.
func (e *Engine) protect(c vnet.Config, state state) (*seal, error) {
	v := e.secured.Vnet(c.ID)
	if v != nil && v.Level() != c.Security {
		set := e.keySet(c.ID)
		e.unprotect(c.ID, "")
		e.mu.Lock()
		e.keys[c.ID] = set
		e.mu.Unlock()
		v = nil
	}
	if c.Security == vnet.None || state != stateRunning {
		return nil, nil
	}
	if v == nil {
		if err := e.openSecure(); err != nil {
			return nil, err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		set := e.keys[c.ID]
		var err error
		v, err = e.secured.Add(esp.Config{
			ID: c.ID, Level: c.Security, Keys: set.Secrets, Send: set.Send, Threads: len(e.workers) + 1, Flows: e.secureFlowsLocked(), Pace: e.pace,
			NAT: e.config.Security.NAT, Addresses: e.addressesLocked(),
		}, e.now())
		if err != nil {
			return nil, err
		}
	}
	return &seal{engine: e, vnet: v, port: e.view.Load().secure, flows: v.Flows()}, nil
}

// secureFlowsLocked is how many lanes for unicast a worker has in a vnet with security, and how many sockets to send them
// by.
func (e *Engine) secureFlowsLocked() int {
	return min(e.config.spread(), esp.MaxFlows(len(e.workers)+1))
}

// addressesLocked are the addresses under which other hosts reach this one.
func (e *Engine) addressesLocked() esp.Addresses {
	var a esp.Addresses
	for _, f := range e.underlays {
		switch {
		case f.uplink == nil:
		case f.family == underlay.IPv6:
			a.Addr6 = f.uplink.path.Source
		default:
			a.Addr4 = f.uplink.path.Source
		}
	}
	return a
}

// openSecure opens the sockets of vnets with security, of all families that there are, and listens. attaching is held.
func (e *Engine) openSecure() error {
	e.mu.Lock()
	families, port := slices.Clone(e.underlays), e.config.Security.Port
	o := underlay.Options{TTL: e.config.TTL, Sockets: len(e.workers), Spread: e.secureFlowsLocked()}
	e.mu.Unlock()
	for _, f := range families {
		if f.secure != nil {
			continue // only ever set here
		}
		o.Family, o.Port, o.Secured = f.family, port, true
		var u *underlay.Underlay
		err := e.host.Do(func() (err error) {
			u, err = underlay.Open(o)
			if errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("%w: %s holds it; stop that, or set another port in the table [security] of vnet.toml, on all hosts",
					err, underlay.Holder(port))
			}
			return err
		})
		if err == nil {
			err = e.useSecure(f, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// useSecure has the workers read the sockets of vnets with security of a family, and has these listen.
func (e *Engine) useSecure(f *family, u *underlay.Underlay) error {
	e.looking.Lock()
	defer e.looking.Unlock()
	e.mu.Lock()
	f.secure, f.secureGroups, f.secureTokens = u, &hostGroups{u, e.host}, map[int32]*underlay.Socket{}
	var errs []error
	for i, s := range u.UDP() {
		errs = append(errs, e.watchSecureLocked(f, s, i))
	}
	errs = append(errs, e.watchSecureLocked(f, u.ESP(), 0))
	e.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t := tuning{choice: f.choice}
	e.tuneSecure(f, &t)
	e.mu.Lock()
	retired := e.hearLocked(f, &t.secure, f.secureTokens)
	e.followLocked()
	e.publishLocked()
	e.mu.Unlock()
	e.closeSockets(retired)
	return nil
}

func (e *Engine) watchSecureLocked(f *family, s *underlay.Socket, worker int) error {
	token := e.tokenLocked()
	f.secureTokens[token] = s
	return e.workers[worker].watch(s.FD(), token)
}

// tuneSecure makes the sockets of vnets with security follow the choice of device and group. looking is held, and mu is
// not.
func (e *Engine) tuneSecure(f *family, t *tuning) {
	if f.secure == nil {
		return
	}
	if f.secureGroup != f.listening {
		var err error
		if t.secure.opened, t.secure.before, err = f.secureGroups.Listen(f.listening); err != nil {
			e.log.Error("the group of vnets with security cannot be listened to", "err", err)
			return
		}
		f.secureGroup, f.secureIndex = f.listening, 0
	}
	index := 0
	if t.choice.Problem == "" {
		index = t.choice.Index
	}
	if index != f.secureIndex {
		if err := f.secureGroups.Join(index, f.secureGroup); err != nil {
			e.log.Error("the group of vnets with security cannot be joined", "err", err)
			return
		}
		f.secureIndex = index
	}
}

// followLocked has packets of vnets with security leave by the chosen devices, and tells the vnets what this host's
// addresses are. It reports whether uplinks changed.
func (e *Engine) followLocked() (changed bool) {
	home := e.config.Security.NAT || e.config.SourcePort == SourceFixed
	for _, f := range e.underlays {
		if f.secure != nil && f.uplink != nil && (f.uplink.secure != f.secure || f.uplink.home != home) {
			u := *f.uplink
			u.secure, u.home = f.secure, home
			f.uplink, changed = &u, true
		}
	}
	own := e.addressesLocked()
	e.secured.Vnets(func(v *esp.Vnet) {
		e.spoken = v.SetAddresses(own, e.config.Security.NAT, e.now(), e.spoken[:0])
		e.sayMessagesLocked(v, e.spoken)
	})
	return changed
}

// sayMessagesLocked sends key messages from the cold side.
func (e *Engine) sayMessagesLocked(v *esp.Vnet, list []esp.Message) {
	if len(list) == 0 {
		return
	}
	if a := e.networks[v.ID()]; a != nil && a.seal != nil {
		e.sayLocked(func(s *speaker) { s.messages(a.network, list) })
	}
}

// kickSecurity makes the cold side look at the timers of vnets with security.
func (e *Engine) kickSecurity() {
	select {
	case e.securityKick <- struct{}{}:
	default:
	}
}

// securityLocked runs the timers of vnets with security, and returns the time to the next one.
func (e *Engine) securityLocked() time.Duration {
	next := e.now() + int64(time.Hour)
	e.secured.Vnets(func(v *esp.Vnet) {
		a := e.networks[v.ID()]
		if a == nil || a.seal == nil {
			return // not yet
		}
		e.spoken = v.Tick(e.now(), e.spoken[:0])
		e.sayMessagesLocked(v, e.spoken)
		next = min(next, v.Next())
		if a.waits && v.Open() {
			a.waits = false
			for _, p := range a.ports {
				if err := e.workers[p.worker].watch(p.FD(), p.token); err != nil {
					e.log.Error("a vnif cannot be read", "vnet", a.config.ID.Short(), "err", err)
				}
			}
		}
	})
	return time.Duration(max(next-e.now(), int64(time.Millisecond)))
}

// messages queues key messages of a vnet.
func (s *speaker) messages(n *network, list []esp.Message) {
	for _, m := range list {
		if !m.To.IsValid() {
			for _, l := range s.view.uplinks {
				if l != nil && l.secure != nil {
					s.flooded(n, l, sealedHome, m.Data)
				}
			}
			continue
		}
		l := s.view.uplinks[underlay.Of(m.To.Addr())]
		if l == nil || l.secure == nil {
			s.drop(DropNoUnderlay)
			continue
		}
		to := m.To
		if to.Port() == 0 {
			to = netip.AddrPortFrom(to.Addr(), n.seal.Port())
		}
		s.queue = append(s.queue, spoken{uplink: l, form: sealedHome, to: to, parts: [2][]byte{m.Data}})
	}
}

// fromSecured moves a batch of packets of vnets with security to vnifs.
func (w *worker) fromSecured(l *uplink, s *underlay.Socket) {
	count, err := w.carrier.Recv(s, w.received)
	if err != nil {
		return
	}
	raw := s == l.secure.ESP()
	for i := range count {
		p := w.received.Packet(i)
		if p.Misdirected && s != l.secure.UDP()[0] && !raw {
			continue // all sockets get a copy of a broadcast
		}
		a, ok := w.arrival(l, p)
		if !ok {
			continue
		}
		w.protected(p.Buf, len(p.Buf)-len(p.Data), p.SegSize, p.From, a, raw)
	}
	w.flush()
	w.deliver()
}

// protected handles a train of UDP payloads of the security port, or, raw, of payloads of ESP, each of size bytes but the last,
// that begins at buf[at] and ends with buf.
func (w *worker) protected(buf []byte, at, size int, from netip.AddrPort, a arrival, raw bool) {
	relays := len(w.view.peers) > 0 && a.by != dedup.Unicast && a.uplink.Family() == underlay.IPv4
	for at < len(buf) {
		first := buf[at:min(at+size, len(buf)):min(at+size, len(buf))]
		kind := wire.SecuredESP
		if !raw {
			kind = wire.DecodeSecured(first)
		}
		if kind != wire.SecuredESP {
			if kind == wire.SecuredMessage {
				w.keyMessage(first, from, a)
			}
			at += len(first)
			continue
		}
		train := buf
		if relays { // one by one: what is opened is not what came any more
			w.relayed = append(w.relayed[:0], first...)
			train = buf[:at+len(first)]
		}
		opened, next := w.engine.secured.OpenTrain(&w.opener, train, at, size)
		w.unsealed(opened, train[at:next], size, from, a, relays)
		at = next
	}
}

// unsealed handles what packets of one lane became, which came as b, each of size bytes but the last. What relays is one alone.
func (w *worker) unsealed(opened []esp.Opened, b []byte, size int, from netip.AddrPort, a arrival, relays bool) {
	var first *esp.Opened // that was taken
	packets, bytes := 0, 0
	for i := range opened {
		o, length := &opened[i], min(size, len(b)-i*size)
		if o.Refusal == esp.Taken {
			if first == nil {
				first = o
			}
			packets++
			bytes += length
			continue
		}
		w.drop(refusals[o.Refusal])
		if o.Refusal == esp.UnknownSPI && a.by != dedup.Forwarded {
			w.asks = w.engine.secured.AskSender(binary.BigEndian.Uint32(b[i*size:]), length, esp.Arrival{From: from}, w.now, w.asks[:0])
			w.sayMessages(w.asks)
		}
	}
	if first == nil {
		return
	}
	n := w.view.vnets[first.Vnet.ID()]
	host := first.From.Host(a.uplink.Family() == underlay.IPv4)
	switch {
	case n == nil, n.seal == nil:
		w.dropMany(DropUnknownVnet, uint64(packets))
		return
	case !host.IsValid():
		w.dropManyOf(n, DropESPInner, uint64(packets)) // a host without an address cannot be answered
		return
	}
	sender := a.from
	a.from, a.opened = host, n
	if a.by != dedup.Forwarded {
		w.heard(&a, packets, bytes)
	}
	for i := range opened {
		if o := &opened[i]; o.Refusal == esp.Taken && w.payload(o.ID, o.Message, a) && relays {
			w.relaySealed(sender, w.relayed, a)
		}
	}
}

// relaySealed passes on what this host has opened, as it came: from the group to the peers, from a peer to the group.
func (w *worker) relaySealed(sender netip.Addr, b []byte, a arrival) {
	from := netip.AddrPortFrom(sender, w.view.secure)
	if a.by == dedup.Group {
		at := len(w.arena)
		w.arena = append(w.arena, b...)
		w.forward(a.uplink, from, w.arena[at:])
		return
	}
	if !w.relays.take(w.now, 1) {
		w.drop(DropRelay)
		return
	}
	group := netip.AddrPortFrom(a.uplink.group.Addr(), w.view.secure)
	if err := w.carrier.Relay(a.uplink.Underlay, a.uplink.path, from, group, w.view.ttl, b); err != nil {
		w.sendFailed(1, err)
	}
}

// keyMessage handles a KEY or ASK message, with its marker.
func (w *worker) keyMessage(b []byte, from netip.AddrPort, a arrival) {
	verdict, out := w.engine.secured.Message(b[wire.MarkerLen:], esp.Arrival{From: from, Unicast: a.by == dedup.Unicast}, w.now, w.asks[:0])
	w.asks = out
	if verdict.Refusal != esp.Taken {
		w.drop(refusals[verdict.Refusal])
	}
	if verdict.Vnet == nil {
		return
	}
	if n := w.view.vnets[verdict.Vnet.ID()]; n != nil && n.seal != nil {
		w.speaker.messages(n, out)
	}
	if verdict.Refusal == esp.KeyLevel {
		w.engine.notify(notice{kind: noticeLevel, addr: a.from, vnet: verdict.Vnet.ID()})
	}
	w.engine.kickSecurity()
	if verdict.Relay && len(w.view.peers) > 0 && a.by != dedup.Unicast && a.uplink.Family() == underlay.IPv4 {
		w.relaySealed(a.from, b, a)
	}
}

// sayMessages queues questions to hosts, of whatever vnet.
func (w *worker) sayMessages(list []esp.Message) {
	for _, m := range list {
		if l := w.view.uplinks[underlay.Of(m.To.Addr())]; l != nil && l.secure != nil {
			w.queue = append(w.queue, spoken{
				uplink: l, form: sealedHome, to: netip.AddrPortFrom(m.To.Addr(), w.view.secure), parts: [2][]byte{m.Data},
			})
		}
	}
}

// protectedForward handles a VFWD message with a packet of a vnet with security.
func (w *worker) protectedForward(b []byte, f wire.Forward, a arrival) {
	if w.engine.secured.Empty() {
		w.drop(DropForwardSecured)
		return
	}
	if len(f.Payload) == 0 {
		w.drop(DropESPMalformed)
		return
	}
	w.protected(b, len(b)-len(f.Payload), len(f.Payload), netip.AddrPortFrom(a.from, 0), a, false)
}

// keyStatus is the state of the vnets with security.
func (e *Engine) keyStatus() []esp.Status {
	var list []esp.Status
	e.secured.Vnets(func(v *esp.Vnet) { list = append(list, v.Status(e.now())) })
	slices.SortFunc(list, func(a, b esp.Status) int { return a.ID.Compare(b.ID) })
	return list
}

// watchCopies has the vnets with security begin anew when this machine may be a copy of another, or was set back, until ctx
// ends: what they seal with may be in use elsewhere then.
func (e *Engine) watchCopies(ctx context.Context) error {
	e.host.WatchCopies(ctx, func(what string) {
		if !e.secured.Empty() {
			e.log.Info("this machine may be a copy, or was set back: vnets with security begin anew", "sign", what)
			e.secured.Vnets((*esp.Vnet).Suspect)
			e.kickSecurity()
		}
	}, func(what string, err error) {
		e.log.Debug("copies of this machine are noticed later", "sign", what, "err", err)
	})
	return nil
}
