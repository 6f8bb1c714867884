package esp

import "math"

// window is the replay window of a lane. Sequence numbers are the extended ones.
type window struct {
	// floor is the smallest number that is taken: what was sealed before is too old.
	floor int64
	// top is the highest number that was taken, base the highest that is known to be used; 64 bits of a
	// number are inferred from 32 next to the greater of both.
	top, base int64
	// marks becomes the floor when it is old enough.
	marks int64
	// seen has a bit for each of the last windowSize numbers up to top; nil until a packet was taken.
	seen *[windowSize / 64]uint64
}

// newWindow returns the window of a lane whose next number is next.
func newWindow(next uint64) window {
	n := sequence(next)
	return window{floor: n, marks: n, top: n - 1, base: n - 1}
}

// sequence bounds what a sender says.
func sequence(next uint64) int64 { return int64(max(1, min(next, math.MaxInt64))) }

// infer completes a number of which the low half was sent, to the one that is nearest to what is in use. It is
// negative for one from before the first.
func (w *window) infer(low uint32) int64 {
	around := max(w.top, w.base)
	return around + int64(int32(low-uint32(around)))
}

// fresh reports whether a number may be taken.
func (w *window) fresh(q int64) bool {
	if q < w.floor || q <= w.top-windowSize {
		return false
	}
	return q > w.top || w.seen == nil || w.seen[q/64%int64(len(w.seen))]>>(q%64)&1 == 0
}

// take notes that a fresh number was taken.
func (w *window) take(q int64) {
	if w.seen == nil {
		w.seen = new([windowSize / 64]uint64)
	}
	if q > w.top {
		if q-w.top >= windowSize {
			clear(w.seen[:])
		} else {
			for n := w.top + 1; n <= q; n++ {
				w.seen[n/64%int64(len(w.seen))] &^= 1 << (n % 64)
			}
		}
		w.top = q
	}
	w.seen[q/64%int64(len(w.seen))] |= 1 << (q % 64)
}

// hear takes over what a newer KEY says. With due, what was marked before becomes the floor: what was sealed before the
// mark has had its time to arrive. Nothing is ever lowered.
func (w *window) hear(next uint64, due bool) {
	n := sequence(next)
	if due {
		w.floor = max(w.floor, w.marks)
		w.marks = max(w.marks, n)
	}
	w.base = max(w.base, n-1)
}
