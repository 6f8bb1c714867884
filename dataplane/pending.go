package dataplane

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
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

// pending are the MACs that were asked for by VARP requests: where there are hosts that do not take
// flooded frames, nothing else finds what is behind them. It may be used by any goroutine.
type pending struct {
	count atomic.Int32 // of both: no lock while there are none
	mu    sync.Mutex
	asked map[varp.Key]*inquiry
	// answered are those that are known by now, and when they were asked for: more answers may come.
	answered map[varp.Key]int64
}

type inquiry struct {
	tries int
	last  int64 // request
	used  int64 // frame
}

func newPending() *pending {
	return &pending{asked: map[varp.Key]*inquiry{}, answered: map[varp.Key]int64{}}
}

func (p *pending) countLocked() { p.count.Store(int32(len(p.asked) + len(p.answered))) }

// ask notes a frame for a MAC that nobody knows and reports whether to send a request now.
func (p *pending) ask(k varp.Key, now int64) bool {
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

// waits reports whether a MAC was asked for, so that answers may come.
func (p *pending) waits(k varp.Key) bool {
	if p.count.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, answered := p.answered[k]
	return answered || p.asked[k] != nil
}

// done forgets an inquiry, which was answered.
func (p *pending) done(k varp.Key) {
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

// sweep forgets what no frame asks for any more, so that it may be asked for anew.
func (p *pending) sweep(now int64) {
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
	maps.DeleteFunc(p.answered, func(_ varp.Key, asked int64) bool { return now-asked > probeForget })
	p.countLocked()
}

// list returns the inquiries as VARP cache entries.
func (p *pending) list(now int64) []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Entry
	for k, q := range p.asked {
		e := Entry{Vnet: k.Vnet, MAC: k.MAC, State: Incomplete, Age: time.Duration(max(0, now-q.last)), Source: "request"}
		if q.tries == probeTries && now-q.last >= probeInterval {
			e.State = Failed
		}
		out = append(out, e)
	}
	return out
}

// resolve asks who has a MAC, where there may be hosts that flooded frames do not reach.
func (w *worker) resolve(n *network, mac wire.MAC) {
	if !w.view.etherip && len(w.view.old) == 0 {
		return
	}
	if w.engine.pending.ask(varp.Key{Vnet: n.config.ID, MAC: mac}, w.now) {
		w.request(n, mac)
	}
}
