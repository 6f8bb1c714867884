package control

import (
	"context"
	"slices"
	"sync"
	"time"
)

// patience is for how long, in all, a connection keeps its place while its commands are not complete.
const patience = 100 * time.Millisecond

// An order has commands take effect in the order in which their connections were made: clients write a command,
// close without waiting for an answer, and expect the next connection to see what it did.
//
//	         join            enter              turn
//	accept ───────> waiting ───────> complete ───────> working
//	                  │ ↑                                │
//	         patience │ └────────────────────────────────┤ await: for the next command
//	                  ↓                                  │
//	                absent ─ enter: at the end           └─ leave
type order struct {
	mu     sync.Mutex
	places []*place // first come, first served; without the absent
}

// place is that of a connection. What it has is under order.mu.
type place struct {
	o        *order
	complete bool          // a command is, and waits for its turn or is being done
	turn     chan struct{} // closed when it is this connection's; nil until somebody waits for it
	left     time.Duration // of its patience
	since    time.Time     // when it began to wait
	timer    *time.Timer   // makes it absent
}

// join gives a connection that was made just now its place.
func (o *order) join() *place {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := &place{o: o, left: patience}
	o.places = append(o.places, p)
	p.waitLocked()
	return p
}

// waitLocked begins to wait for a command.
func (p *place) waitLocked() {
	p.since = time.Now()
	p.timer = time.AfterFunc(p.left, func() {
		p.o.mu.Lock()
		defer p.o.mu.Unlock()
		if !p.complete {
			p.removeLocked()
		}
	})
}

// enter is called when a command is complete, and waits for its turn; false if ctx ends before. await or leave
// follows when it is done.
func (p *place) enter(ctx context.Context) bool {
	p.o.mu.Lock()
	p.timer.Stop()
	p.left = max(0, p.left-time.Since(p.since))
	p.complete, p.turn = true, make(chan struct{})
	turn := p.turn
	if !slices.Contains(p.o.places, p) {
		p.o.places = append(p.o.places, p)
	}
	p.o.advanceLocked()
	p.o.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
		return false
	}
}

// await keeps the place, for as long as the patience lasts, while the connection's next command is waited for.
func (p *place) await() {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.complete = false
	if p.left <= 0 {
		p.removeLocked()
		p.timer = time.NewTimer(0) // nothing to make absent
		p.since = time.Now()
		return
	}
	p.waitLocked()
}

// leave gives the place up. It may be called at any time, and again.
func (p *place) leave() {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.timer.Stop()
	p.removeLocked()
}

func (p *place) removeLocked() {
	p.o.places = slices.DeleteFunc(p.o.places, func(o *place) bool { return o == p })
	p.complete = false
	p.o.advanceLocked()
}

// advanceLocked tells the first connection that it is its turn, if its command is complete.
func (o *order) advanceLocked() {
	if len(o.places) == 0 || !o.places[0].complete {
		return
	}
	if first := o.places[0]; first.turn != nil {
		close(first.turn)
		first.turn = nil
	}
}
