package daemon

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// task is a long-lived part of the daemon.
type task interface {
	// Run works until ctx ends, and returns nil then. Its error says whose it is.
	Run(ctx context.Context) error
	// Ready is closed when the task does what it is there for.
	Ready() <-chan struct{}
	// String is the task's name.
	String() string
}

// runStages runs stages of tasks. Each begins when all tasks of the one before are ready; when the last
// one's are, ready is called. When ctx ends or a task fails, the stages end in reverse order, each when
// all later ones have ended: what others build on ends last.
func runStages(ctx context.Context, ready func(), stages ...[]task) error {
	if len(stages) == 0 {
		ready()
		<-ctx.Done()
		return nil
	}
	// Not derived from ctx: this stage ends after the later ones.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, own := errgroup.WithContext(own)
	for _, t := range stages[0] {
		group.Go(func() error {
			err := t.Run(own)
			switch {
			case err == nil && own.Err() == nil:
				return fmt.Errorf("%s: ended by itself", t)
			case errors.Is(err, context.Canceled):
				return nil
			}
			return err
		})
	}
	later, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(own, stop)() // a failure here ends the later stages

	var err error
	if allReady(later, stages[0]) {
		err = runStages(later, ready, stages[1:]...)
	}
	cancel()
	return errors.Join(group.Wait(), err)
}

// allReady waits for tasks to be ready; false if ctx ends before.
func allReady(ctx context.Context, tasks []task) bool {
	for _, t := range tasks {
		select {
		case <-t.Ready():
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}
