package domain

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestQuestionIsAskedOnce has many clients at a time.
func TestQuestionIsAskedOnce(t *testing.T) {
	broken := errors.New("broken")
	var mu sync.Mutex
	asked := 0
	q := newQuestion(func(context.Context) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return asked, broken
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if n, err := q.ask(t.Context()); n != 1 || !errors.Is(err, broken) {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	all.Wait()
	q.forget()
	n, err := q.ask(t.Context())
	require.Equal(t, 2, n)
	require.ErrorIs(t, err, broken)

	// Who goes while it is asked says nothing about the toolstack.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.forget()
	_, err = q.ask(ctx)
	require.ErrorIs(t, err, context.Canceled)
	n, _ = q.ask(t.Context())
	require.Contains(t, []int{3, 4}, n)
}
