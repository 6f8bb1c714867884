package dataplane

import (
	"runtime"
	"sync"
)

// processors guards the scheduler's number of processors, which several engines may raise.
var processors sync.Mutex

// reserveProcessors gives the scheduler n more processors, for workers that wait in the kernel. A
// thread that waits there keeps its processor as long as others are idle; where none is, the runtime's
// monitor takes it away every 20 µs, and the thread that comes back with a frame queues for another. The
// function that is returned takes them back.
func reserveProcessors(n int) (release func()) {
	add := func(n int) {
		processors.Lock()
		defer processors.Unlock()
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	}
	add(n)
	return func() { add(-n) }
}
