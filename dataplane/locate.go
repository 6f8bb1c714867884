package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Claim is a host that says of itself that it has a MAC.
type Claim struct {
	Addr netip.Addr
	// Took is the time from the first question to its answer.
	Took time.Duration
}

const (
	// locateTries is how often it is asked who has a MAC, and locateEvery the time between. Once a host has said so, others
	// are waited for as long as locateOthers: two may have it.
	locateTries  = 3
	locateEvery  = 300 * time.Millisecond
	locateOthers = 100 * time.Millisecond
	// maxClaims bounds the answers to one question, and maxLocated the questions that are under way.
	maxClaims, maxLocated = 16, 256
)

// ErrBusy means that as much is being asked as may be.
var ErrBusy = errors.New("too many MACs are being asked for at the same time: try again in a second")

// locating are the questions for MACs that are under way. Workers read it.
type locating struct {
	n  atomic.Int32 // of them, so that a worker takes no lock where there are none
	mu sync.Mutex
	of map[varp.Key][]*located
}

// located is one.
type located struct {
	asked  time.Time
	claims []Claim
	// replied are the hosts that it came from by unicast: what is told everybody may be no answer.
	replied []netip.Addr
	came    chan struct{} // told of each
}

// begin notes a question.
func (l *locating) begin(key varp.Key) (*located, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n.Load() >= maxLocated {
		return nil, ErrBusy
	}
	if l.of == nil {
		l.of = map[varp.Key][]*located{}
	}
	q := &located{asked: time.Now(), came: make(chan struct{}, 1)}
	l.of[key] = append(l.of[key], q)
	l.n.Add(1)
	return q, nil
}

// end forgets a question and returns who answered.
func (l *locating) end(key varp.Key, q *located) []Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n.Add(-1)
	if l.of[key] = slices.DeleteFunc(l.of[key], func(o *located) bool { return o == q }); len(l.of[key]) == 0 {
		delete(l.of, key)
	}
	return q.claims
}

// waits reports whether it is being asked who has a MAC.
func (l *locating) waits(key varp.Key) bool {
	if l.n.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.of[key]) > 0
}

// claim notes who says that it has a MAC.
func (l *locating) claim(key varp.Key, addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.of[key] {
		if len(q.claims) >= maxClaims || slices.ContainsFunc(q.claims, func(c Claim) bool { return c.Addr == addr }) {
			continue
		}
		q.claims = append(q.claims, Claim{Addr: addr, Took: time.Since(q.asked)})
		select {
		case q.came <- struct{}{}:
		default:
		}
	}
}

// reply notes a host from which an announce came by unicast.
func (l *locating) reply(key varp.Key, from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.of[key] {
		if len(q.replied) >= maxClaims || slices.Contains(q.replied, from) {
			continue
		}
		q.replied = append(q.replied, from)
		select {
		case q.came <- struct{}{}:
		default:
		}
	}
}

// repliedTo reports whether a host did.
func (l *locating) repliedTo(q *located, from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(q.replied, from)
}

// Locate asks all other hosts of a vnet which of them has a MAC: by VARP, the protocol's own question, which original hosts
// answer, too, and inside of ESP where the vnet has security. The host that it is held to be behind is asked by unicast as
// well. It returns who said so, the first first, as soon as somebody did and others had a moment to; within a second nobody has, or
// when ctx ends, which is no error. What they say is learned as ever.
func (e *Engine) Locate(ctx context.Context, id vnet.ID, mac wire.MAC) (claims []Claim, err error) {
	key := varp.Key{Vnet: id, MAC: mac}
	q, err := e.locating.begin(key)
	if err != nil {
		return nil, err
	}
	defer func() { claims = e.locating.end(key, q) }()
	again := time.NewTicker(locateEvery)
	defer again.Stop()
	var enough <-chan time.Time
	for tries := 0; tries < locateTries; {
		if err := e.requestAll(key); err != nil {
			return nil, err
		}
		tries++
		for waiting := true; waiting; {
			select {
			case <-q.came:
				if enough == nil {
					enough = time.After(locateOthers)
					again.Stop()
				}
			case <-enough:
				return nil, nil
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				return nil, nil
			}
		}
	}
	return nil, nil
}

// requestAll asks everybody who has a MAC, and once more the host that should.
func (e *Engine) requestAll(key varp.Key) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, err := e.networkLocked(key.Vnet)
	switch {
	case err != nil:
		return err
	case e.state != stateRunning:
		return ErrNotRunning
	case n.secured() && n.seal == nil:
		return fmt.Errorf("vnet %s: %w", n.config.IDText, ErrNoKey)
	}
	at, known := e.table.Lookup(key)
	e.sayLocked(func(s *speaker) {
		s.request(n, key.MAC)
		if l := s.view.uplinks[underlay.Of(at)]; known && l != nil {
			s.ask(n, key.MAC, l, at)
		}
	})
	return nil
}
