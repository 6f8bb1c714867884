package dataplane

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/vnet"
)

// What hosts tell each other of a vnet with security: asked and answered inside of its ESP, so that nobody learns anything who has
// no key.

// Member is what another host tells of a vnet with security that both have.
type Member struct {
	// Addr is the host: an address, or of a host behind NAT one that stands for it (as in Entry.Addr).
	Addr netip.Addr
	// Took is the time from the question to the answer.
	Took time.Duration
	// Version is that of its program, as in "xend 0.2.0".
	Version string
	// Level is the level that it has the vnet at: always this host's, since no other is heard.
	Level vnet.Security
	// Keys are the public names of the keys that it has for the vnet, of which it seals with the first.
	Keys []wire.KID
	// MACs are those that live on it in the vnet, as many as fit into a packet, and MACCount how many there are.
	MACs     []wire.MAC
	MACCount int
	// HearsGroup: it has heard something from the group lately. Replicates: it sends by unicast what is for everybody.
	HearsGroup, Replicates bool
}

const (
	// sealedProbeLen is the length of a question in bytes, and so of the longest answer: it fits a path of 1280.
	sealedProbeLen = 1100
	// memberAnswers bounds the answers of a host a second: each looks through the table.
	memberAnswers = 20
	// questionTimes is how often a question is put at most, and questionEvery is the time between.
	questionTimes = 3
	questionEvery = 200 * time.Millisecond
	// maxMembers bounds the answers to a question.
	maxMembers = 4096
)

// question is one that is under way.
type question struct {
	vnet  vnet.ID
	nonce [16]byte
	asked time.Time
	// came is told when an answer came.
	came chan struct{}

	mu      sync.Mutex
	members []Member
}

// add takes an answer.
func (q *question) add(m Member) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.members) < maxMembers && !slices.ContainsFunc(q.members, func(o Member) bool { return o.Addr == m.Addr }) {
		q.members = append(q.members, m)
	}
	select {
	case q.came <- struct{}{}:
	default:
	}
}

func (q *question) answers() []Member {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := slices.Clone(q.members)
	slices.SortFunc(out, func(a, b Member) int { return a.Addr.Compare(b.Addr) })
	return out
}

// Members asks the other hosts of a vnet with security what they have of it: inside of its ESP, so that only who has the key is
// asked, and only who has it answers. It returns, in order of their addresses, who answered, as soon as all have that are
// known to be there (Status.Keys), or when ctx ends, which is no error; within a second, three times asked, most have. It is what
// `vn check` needs of such vnets, of which the probe in the clear (wire.Probe) tells nothing. One question is under way at a time;
// others wait. The error is ErrUnknownVnet, or says that the vnet has no security or no key.
func (e *Engine) Members(ctx context.Context, id vnet.ID) ([]Member, error) {
	select {
	case e.asking <- struct{}{}:
		defer func() { <-e.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q := &question{vnet: id, asked: time.Now(), came: make(chan struct{}, 1)}
	_, _ = rand.Read(q.nonce[:]) // never fails
	e.question.Store(q)
	defer e.question.Store(nil)
	every := time.NewTicker(questionEvery)
	defer every.Stop()
	for times := 0; ; {
		if times < questionTimes {
			if err := e.askMembers(q); err != nil {
				return nil, err
			}
			times++
		}
		for again := false; !again; {
			if v := e.secured.Vnet(id); v == nil || len(q.answers()) >= v.Hosts() {
				return q.answers(), nil
			}
			select {
			case <-q.came:
			case <-every.C:
				again = times < questionTimes
			case <-ctx.Done():
				return q.answers(), nil
			}
		}
	}
}

// askMembers puts a question to everybody.
func (e *Engine) askMembers(q *question) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.networkLocked(q.vnet)
	switch {
	case err != nil:
		return err
	case !n.secured():
		return fmt.Errorf("vnet %s has no security", n.config.IDText)
	case n.seal == nil:
		return fmt.Errorf("vnet %s: %w", n.config.IDText, ErrNoKey)
	}
	p := wire.Probe{Vnet: q.vnet, Nonce: q.nonce, Size: sealedProbeLen}
	e.sayLocked(func(s *speaker) {
		for _, l := range s.view.uplinks {
			if l == nil {
				continue
			}
			if !s.view.nat {
				p.CareOf = l.path.Source
			}
			if payload, ok := s.protect(n, p.Append(nil), Lane{Sender: s.lane, Now: s.now, Flooded: true}); ok {
				s.flooded(n, l, s.view.usualForm(n), payload)
			}
		}
	})
	return nil
}

// sealedProbe handles a probe that the vnet's seal was on.
func (w *worker) sealedProbe(n *network, b []byte, a arrival) {
	q := w.engine.question.Load()
	if wire.IsAnswer(b) && (q == nil || q.nonce != wire.ProbeNonce(b)) {
		w.dropOf(n, DropAnswer)
		return
	}
	p, err := wire.DecodeSealedProbe(b)
	if err != nil {
		w.refuse(err)
		return
	}
	if p.Answer {
		if q.vnet == n.config.ID {
			q.add(Member{
				Addr: a.from, Took: time.Since(q.asked), Version: p.Version, Level: vnet.Security(p.Level), Keys: p.Keys, MACs: p.MACs,
				MACCount: p.MACCount, HearsGroup: p.HearsGroup, Replicates: p.Replicates,
			})
		}
		return
	}
	if !w.engine.answers.may(a.from, w.now) || !w.engine.memberAnswers.take(w.now, 1) {
		w.dropOf(n, DropReply)
		return
	}
	w.engine.notify(notice{kind: noticeMember, network: n, addr: a.from, nonce: p.Nonce, index: len(b)})
}

// tellMemberLocked answers what a host asked of a vnet with security, with at most size bytes.
func (e *Engine) tellMemberLocked(id vnet.ID, to netip.Addr, nonce [16]byte, size int) {
	a, v := e.networks[id], e.secured.Vnet(id)
	if a == nil || a.seal == nil || v == nil {
		return // it went meanwhile
	}
	e.sayLocked(func(s *speaker) {
		l := s.view.uplinks[underlay.Of(to)]
		if l == nil {
			return
		}
		p := wire.Probe{
			Vnet: id, Answer: true, Nonce: nonce, Received: size, Version: "xend " + version.Version, Level: uint8(v.Level()), Keys: v.Keys(),
			Replicates: len(s.view.replicas) > 0,
			HearsGroup: l.heard.group.Load() > 0 && s.now-l.heard.group.Load() <= s.view.groupSilence,
		}
		if !s.view.nat {
			p.CareOf = l.path.Source
		}
		vifs := e.table.VifsOf(id, s.now)
		p.MACCount = len(vifs)
		for _, x := range vifs[:min(len(vifs), size/len(wire.MAC{}))] {
			p.MACs = append(p.MACs, x.MAC)
		}
		if payload, ok := s.protect(a.network, p.Append(nil), Lane{Sender: s.lane, Now: s.now}); ok {
			s.single(a.network, payload, l, to)
		}
	})
}
