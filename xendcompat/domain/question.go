package domain

import (
	"context"
	"time"
)

// question is one that is asked of the toolstack, which costs several processes and, when it hangs, a long
// time. Whoever waits while it is asked gets the same answer.
type question[T any] struct {
	put    func(context.Context) (T, error)
	asking chan struct{} // held while it is asked
	// With asking held:
	at     time.Time
	answer T
	err    error
}

// freshness is how long an answer of the toolstack counts.
const freshness = 500 * time.Millisecond

func newQuestion[T any](put func(context.Context) (T, error)) question[T] {
	return question[T]{put: put, asking: make(chan struct{}, 1)}
}

// ask returns an answer that nobody may change.
func (q *question[T]) ask(ctx context.Context) (answer T, err error) {
	select {
	case q.asking <- struct{}{}:
		defer func() { <-q.asking }()
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	if time.Since(q.at) > freshness {
		answer, err := q.put(ctx)
		if ctx.Err() != nil {
			return answer, ctx.Err() // says nothing about the toolstack
		}
		q.answer, q.err, q.at = answer, err, time.Now()
	}
	return q.answer, q.err
}

// forget makes the next answer a new one.
func (q *question[T]) forget() {
	q.asking <- struct{}{}
	q.at = time.Time{}
	<-q.asking
}
