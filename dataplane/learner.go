package dataplane

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// learner follows the tables of vnets' bridges: a port that another program attached becomes known so, also when its
// domain speaks to its neighbours only. What domains send decides how much there is to follow, so nobody waits for
// it: it has sockets of its own, takes so many events at a time and leaves the rest to the kernel, which tells
// when some were lost; then the tables are listed, now and again. No lock is held meanwhile.
type learner struct {
	engine *Engine
	// list is what a bridge knows.
	list func(bridge int) ([]hostnet.FDBEntry, error)
	own  *hostnet.Host // nil before open
	wake chan struct{}

	mu    sync.Mutex
	dirty map[vnet.ID]struct{} // vnets whose bridges are to be listed
}

const (
	// fdbEvents is how many events of bridges' tables are taken per second.
	fdbEvents = 2000
	// listPause is the shortest time between two looks at everything that is to be listed.
	listPause = time.Second
	// claimChunk is how many MACs are claimed while the engine's lock is held.
	claimChunk = 256
)

func newLearner(e *Engine) *learner {
	return &learner{engine: e, wake: make(chan struct{}, 1), dirty: map[vnet.ID]struct{}{}}
}

// look has the bridges of vnets listed soon.
func (l *learner) look(ids ...vnet.ID) {
	l.mu.Lock()
	for _, id := range ids {
		l.dirty[id] = struct{}{}
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// open opens the sockets. What happens from now on is learned once run runs.
func (l *learner) open(ctx context.Context) (<-chan hostnet.Event, error) {
	events, err := l.engine.host.WatchFDB(ctx)
	if err != nil || l.list != nil {
		return events, err
	}
	var own *hostnet.Host
	err = l.engine.host.Do(func() (err error) {
		own, err = hostnet.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sockets for tables of bridges: %w", err)
	}
	l.own, l.list = own, own.FDB
	return events, nil
}

// close closes the sockets, when run has ended.
func (l *learner) close() {
	if l.own != nil {
		l.own.Close()
	}
}

// run learns until ctx ends.
func (l *learner) run(ctx context.Context, events <-chan hostnet.Event) error {
	var group errgroup.Group
	group.Go(func() error { return l.follow(ctx, events) })
	group.Go(func() error { return l.listAll(ctx) })
	return group.Wait()
}

// follow takes events, as many as may be.
func (l *learner) follow(ctx context.Context, events <-chan hostnet.Event) error {
	limit := newBucket(fdbEvents, 2*fdbEvents)
	for ev := range events {
		switch ev := ev.(type) {
		case hostnet.ResyncEvent:
			l.look(l.engine.attached()...)
		case hostnet.FDBEvent:
			for !limit.take(l.engine.now(), 1) {
				if !sleep(ctx, 10*time.Millisecond) {
					return nil
				}
			}
			l.engine.fdbEvent(ev)
		}
	}
	return nil
}

// listAll lists what is to be listed.
func (l *learner) listAll(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		}
		start := time.Now()
		l.mu.Lock()
		dirty := l.dirty
		l.dirty = map[vnet.ID]struct{}{}
		l.mu.Unlock()
		for id := range maps.Keys(dirty) {
			if ctx.Err() != nil {
				return nil
			}
			l.listOne(id)
		}
		if took := time.Since(start); took > listPause/10 { // a table that large will be so again
			if !sleep(ctx, max(listPause, 10*took)) {
				return nil
			}
		}
	}
}

// sleep is false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// listOne takes over what a vnet's bridge knows already. It is not announced: others may know better where a MAC went
// meanwhile, and where they don't, they still have the announces of before.
func (l *learner) listOne(id vnet.ID) {
	e := l.engine
	bridgeOf := func() (*attachment, int) {
		a := e.networks[id]
		if a == nil || e.state != stateRunning {
			return nil, 0
		}
		return a, a.bridge
	}
	e.mu.Lock()
	_, bridge := bridgeOf()
	e.mu.Unlock()
	if bridge == 0 {
		return
	}
	list, err := l.list(bridge)
	if err != nil {
		e.log.Debug("forwarding database cannot be listed", "vnet", id, "err", err)
		return
	}
	for len(list) > 0 {
		some := list[:min(len(list), claimChunk)]
		list = list[len(some):]
		e.mu.Lock()
		a, now := bridgeOf()
		if a == nil || now != bridge {
			e.mu.Unlock()
			return // it went elsewhere meanwhile
		}
		full := !e.claimLocked(a, some)
		e.mu.Unlock()
		if full {
			return
		}
	}
}

// claimLocked claims what is behind ports of a vnet's bridge, and is false when there is no more room.
func (e *Engine) claimLocked(a *attachment, list []hostnet.FDBEntry) bool {
	at := e.now()
	for _, f := range list {
		key := varp.Key{Vnet: a.config.ID, MAC: f.MAC}
		if f.Local || f.Port == a.devices.VnifIndex {
			continue
		}
		if _, known := e.table.Entry(key, at); !known && e.table.Claim(key, at).Kind == varp.Full {
			return false
		}
	}
	return true
}

// attached are the vnets whose frames are carried.
func (e *Engine) attached() []vnet.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []vnet.ID
	for id, a := range e.networks {
		if len(a.ports) > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
