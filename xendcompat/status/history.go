package status

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/vnet"
)

// The curves of the pages: a sample every sampleEvery, samples of them.
const (
	sampleEvery = 10 * time.Second
	samples     = 60
)

// history keeps what was counted in the last ten minutes, for as many vnets as there are: half a KiB for each, and half of
// that for every reason of drops.
type history struct {
	mu sync.Mutex
	// at counts the samples that were taken; the last is at index (at-1) mod samples.
	at    int
	taken time.Time // when the last was
	vnets map[vnet.ID]*trace
	drops map[dataplane.Reason]*curve
}

// trace is a vnet's traffic, in bytes per second.
type trace struct{ out, in curve }

// curve is the rates of one counter.
type curve struct {
	last  uint64
	rates [samples]float32
	// from is the sample with which it begins.
	from int
}

// add takes the counter's value at the n-th sample, passed after the one before.
func (c *curve) add(n int, value uint64, passed time.Duration) {
	rate := float32(0)
	if n > c.from && value >= c.last && passed > 0 {
		rate = float32(float64(value-c.last) / passed.Seconds())
	}
	c.last, c.rates[n%samples] = value, rate
}

// points are the rates, oldest first; n is the number of samples taken.
func (c *curve) points(n int) []float32 {
	first := max(n-samples, c.from+1)
	if first >= n {
		return nil
	}
	out := make([]float32, 0, n-first)
	for i := first; i < n; i++ {
		out = append(out, c.rates[i%samples])
	}
	return out
}

// sample takes one. Vnets that are no more are forgotten.
func (h *history) sample(c dataplane.Counters, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vnets == nil {
		h.vnets, h.drops = map[vnet.ID]*trace{}, map[dataplane.Reason]*curve{}
	}
	passed := now.Sub(h.taken)
	there := make(map[vnet.ID]bool, len(c.Vnets))
	for _, v := range c.Vnets {
		there[v.ID] = true
		t := h.vnets[v.ID]
		if t == nil {
			t = &trace{out: curve{from: h.at}, in: curve{from: h.at}}
			h.vnets[v.ID] = t
		}
		t.out.add(h.at, v.Tx.Bytes, passed)
		t.in.add(h.at, v.Rx.Bytes, passed)
	}
	for id := range h.vnets {
		if !there[id] {
			delete(h.vnets, id)
		}
	}
	for _, d := range c.Drops {
		x := h.drops[d.Reason]
		if x == nil {
			x = &curve{from: h.at}
			h.drops[d.Reason] = x
		}
		x.add(h.at, d.Count, passed)
	}
	h.at++
	h.taken = now
}

// rates are a vnet's curves: bytes per second, oldest first.
func (h *history) rates(id vnet.ID) (out, in []float32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.vnets[id]
	if t == nil {
		return nil, nil
	}
	return t.out.points(h.at), t.in.points(h.at)
}

// dropped is the curve of a reason: packets per second.
func (h *history) dropped(r dataplane.Reason) []float32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.drops[r]; c != nil {
		return c.points(h.at)
	}
	return nil
}

// DroppedLately reports whether something was dropped for a reason in about the last minute; count is how much has been by now.
func (s *Status) DroppedLately(r dataplane.Reason, count uint64) bool {
	return s.history.lately(r, count)
}

func (h *history) lately(r dataplane.Reason, count uint64) bool {
	const minute = int(time.Minute / sampleEvery)
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.drops[r]
	if c == nil || h.at-c.from <= minute || count > c.last {
		return count > 0
	}
	points := c.points(h.at)
	return slices.ContainsFunc(points[len(points)-minute:], func(rate float32) bool { return rate > 0 })
}

// Sample notes what is counted now, for the curves of the pages.
func (s *Status) Sample() { s.history.sample(s.ops.Dataplane().Counters(), s.o.Now()) }

// Run samples what is counted until ctx ends.
func (s *Status) Run(ctx context.Context) error {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	s.Sample()
	close(s.ready)
	for {
		select {
		case <-ticker.C:
			s.Sample()
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready is closed when Run samples.
func (s *Status) Ready() <-chan struct{} { return s.ready }

// String names the task.
func (s *Status) String() string { return "status" }
