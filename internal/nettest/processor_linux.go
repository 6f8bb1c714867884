package nettest

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"
)

// OneProcessor has the calling goroutine run on one processor until it calls undo, or ends. A flow is in order as long as one
// processor takes all of it from the card: cards see to that, but for veth, where it is the one that sends.
func OneProcessor(t testing.TB) (undo func()) {
	t.Helper()
	runtime.LockOSThread()
	var allowed, one unix.CPUSet
	assert.NoError(t, unix.SchedGetaffinity(0, &allowed))
	for cpu := 0; cpu < 1024 && one.Count() == 0; cpu++ {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	assert.NoError(t, unix.SchedSetaffinity(0, &one))
	return func() {
		assert.NoError(t, unix.SchedSetaffinity(0, &allowed))
		runtime.UnlockOSThread()
	}
}
