package daemon

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// diary notes what happens, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, s)
}

// worker is a task that notes its beginning and its end.
type worker struct {
	name  string
	diary *diary
	ready chan struct{}
	never bool // to be ready
	fail  chan error
}

func (d *diary) worker(name string) *worker {
	return &worker{name: name, diary: d, ready: make(chan struct{}), fail: make(chan error, 1)}
}

func (w *worker) Run(ctx context.Context) error {
	w.diary.note(w.name + " begins")
	if !w.never {
		close(w.ready)
	}
	select {
	case <-ctx.Done():
		w.diary.note(w.name + " ends")
		return nil
	case err := <-w.fail:
		w.diary.note(w.name + " fails")
		return err
	}
}

func (w *worker) Ready() <-chan struct{} { return w.ready }
func (w *worker) String() string         { return w.name }

func TestStagesEndInReverse(t *testing.T) {
	var d diary
	ctx, cancel := context.WithCancel(t.Context())
	ready := func() { d.note("ready"); cancel() }
	require.NoError(t, runStages(ctx, ready, []task{d.worker("a")}, []task{d.worker("b")}, []task{d.worker("c")}))
	require.Equal(t, []string{"a begins", "b begins", "c begins", "ready", "c ends", "b ends", "a ends"}, d.lines)
}

func TestStageFails(t *testing.T) {
	for name, why := range map[string]error{"broken": errors.New("broken"), "a: ended by itself": nil} {
		var d diary
		a, b := d.worker("a"), d.worker("b")
		err := runStages(t.Context(), func() { a.fail <- why }, []task{a}, []task{b})
		require.EqualError(t, err, name)
		require.Equal(t, []string{"a begins", "b begins", "a fails", "b ends"}, d.lines)
	}
}

func TestLastStageFails(t *testing.T) {
	var d diary
	a, b := d.worker("a"), d.worker("b")
	require.EqualError(t, runStages(t.Context(), func() { b.fail <- errors.New("broken") }, []task{a}, []task{b}), "broken")
	require.Equal(t, []string{"a begins", "b begins", "b fails", "a ends"}, d.lines)
}

func TestStageIsNeverReady(t *testing.T) {
	var d diary
	a, b := d.worker("a"), d.worker("b")
	a.never = true
	a.fail <- errors.New("broken")
	require.EqualError(t, runStages(t.Context(), func() { d.note("ready") }, []task{a}, []task{b}), "broken")
	require.Equal(t, []string{"a begins", "a fails"}, d.lines)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := d.worker("c")
	c.never = true
	require.NoError(t, runStages(ctx, func() { d.note("ready") }, []task{c}))
	require.NotContains(t, d.lines, "ready")
}
