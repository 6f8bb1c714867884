package varp

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// probeTries and probeInterval are the original's: VARP requests for one MAC, and the time between
	// them.
	probeTries    = 5
	probeInterval = int64(3 * time.Second)
	// probeForget is after how long without frames for it an inquiry is forgotten.
	probeForget = int64(60 * time.Second)
	// maxInquiries bounds what a flood of unknown MACs can make us ask for.
	maxInquiries = 1024
)

// Pending are the MACs that were asked for by VARP requests: where there are hosts that do not take
// flooded frames, nothing else finds what is behind them. Any goroutine may use it. Use NewPending.
type Pending struct {
	count atomic.Int32 // of both: no lock while there are none
	mu    sync.Mutex
	asked map[Key]*inquiry
	// answered are those that are known by now, and when they were asked for: more answers may come.
	answered map[Key]int64
}

type inquiry struct {
	tries int
	last  int64 // request
	used  int64 // frame
}

// NewPending returns one that waits for nothing.
func NewPending() *Pending {
	return &Pending{asked: map[Key]*inquiry{}, answered: map[Key]int64{}}
}

func (p *Pending) countLocked() { p.count.Store(int32(len(p.asked) + len(p.answered))) }

// Ask notes a frame for a MAC that nobody knows and reports whether to send a request now.
func (p *Pending) Ask(k Key, now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.asked[k]
	if q == nil {
		if len(p.asked) >= maxInquiries {
			return false
		}
		q = &inquiry{last: now - probeInterval}
		p.asked[k] = q
		p.countLocked()
	}
	q.used = now
	if q.tries == probeTries || now-q.last < probeInterval {
		return false
	}
	q.tries, q.last = q.tries+1, now
	return true
}

// Waits reports whether a MAC was asked for, so that answers may come.
func (p *Pending) Waits(k Key) bool {
	if p.count.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, answered := p.answered[k]
	return answered || p.asked[k] != nil
}

// Done forgets an inquiry, which was answered.
func (p *Pending) Done(k Key) {
	if p.count.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.asked[k]; q != nil && len(p.answered) < maxInquiries {
		p.answered[k] = q.last
	}
	delete(p.asked, k)
	p.countLocked()
}

// Sweep forgets what no frame asks for any more, so that it may be asked for anew.
func (p *Pending) Sweep(now int64) {
	if p.count.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, q := range p.asked {
		if now-q.used > probeForget || q.tries == probeTries && now-q.last > probeForget {
			delete(p.asked, k)
		}
	}
	maps.DeleteFunc(p.answered, func(_ Key, asked int64) bool { return now-asked > probeForget })
	p.countLocked()
}

// Inquiry is a MAC that was asked for.
type Inquiry struct {
	Key
	// Age is the time since the last request.
	Age time.Duration
	// Failed: it was asked for as often as is of use, and nobody answered.
	Failed bool
}

// List returns the inquiries, sorted by vnet and MAC.
func (p *Pending) List(now int64) []Inquiry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Inquiry
	for k, q := range p.asked {
		out = append(out, Inquiry{
			Key: k, Age: time.Duration(max(0, now-q.last)), Failed: q.tries == probeTries && now-q.last >= probeInterval,
		})
	}
	slices.SortFunc(out, func(a, b Inquiry) int { return compareKeys(&a.Key, &b.Key) })
	return out
}
