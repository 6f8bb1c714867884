package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
)

// worker moves frames: a goroutine, in effect a thread, that waits for the vnifs and sockets that it has been
// given, and does everything with what it reads itself, since waking another thread costs more than the
// work. All but what is marked otherwise belongs to its goroutine.
type worker struct {
	speaker
	epoll int // may be changed by others
	wake  int // eventfd, written by others

	// round is odd while the worker uses a view; read by others.
	round atomic.Uint64
	_     [64]byte

	// Receiving.
	received *underlay.Batch
	frames   *port.Batch
	coalesce offload.Coalescer
	inbound  []inbound // frames for vnifs, chained by vnif
	targets  []target  // the vnifs that they are for

	// Sending.
	unicast offload.Segmenter
	flood   offload.Segmenter
	// forwardOwn is forwardOwnTo, which takes forwardPort for the UDP port of what it forwards.
	forwardOwn  func(payload [][]byte)
	forwardPort uint16
	// loaded are the messages that trains became, and what follows is for sealing them: sealOne is sealDatagram, which
	// seals in a lane into sealedArena.
	loaded      []underlay.Msg
	sealOne     func(payload [][]byte)
	sealing     Seal
	sealingLane Lane
	sealedArena []byte
	sealedBufs  [][]byte

	// tooBig, answer and answers hold the frame that tells a sender what fits.
	tooBig  []byte
	answer  [1][]byte
	answers [1]wire.Frame

	strangers strangers // used by others, too
	unknown   frequent[unknownVnet]
	// from is who sent the packet that is being handled; the zero Addr: it is the vnif's. sources are who sent what
	// was dropped, by reason, and are used by others, too.
	from        netip.Addr
	sources     [reasons]frequent[netip.Addr]
	strangeTold int64 // until when the cold side was told of strangers
	// opener, asks and relayed are for packets of vnets with security: to open them, to ask and answer, and a copy
	// of one that is to be passed on.
	opener  esp.Opener
	asks    []esp.Message
	relayed []byte

	// lastHost is who sent the packet before; the next is often the same's.
	lastHost    *hosts.Host
	localCache  learned
	remoteCache learned
}

// learned is what a worker learned last: the next frame is often the same's.
type learned struct {
	key   varp.Key
	from  netip.Addr // the zero Addr on this host
	until int64
}

// cacheFor is how long a cached lesson spares the table, in nanoseconds: much less than it takes to
// notice a move, and the table keeps times exact to 10 ms only.
const cacheFor = int64(5 * time.Millisecond)

func newWorker(e *Engine, number int) (*worker, error) {
	w := &worker{
		speaker: newSpeaker(e, number, number), epoll: -1, wake: -1,
		received: underlay.NewBatch(),
		frames:   port.NewBatch(),
	}
	w.forwardOwn, w.sealOne = w.forwardOwnTo, w.sealDatagram
	w.coalesce.NoUDP = !port.UDPGSO()
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		w.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err := w.watch(w.wake, wakeToken); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *worker) close() {
	for _, fd := range []*int{&w.epoll, &w.wake} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// wakeToken is the token of the eventfd that ends the worker; those of sources are positive.
const wakeToken = 0

// watch makes the worker wait for a descriptor. Anybody may call it.
func (w *worker) watch(fd int, token int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: token}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev))
}

// unwatch undoes watch.
func (w *worker) unwatch(fd int) {
	_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil)
}

// stop ends run. Anybody may call it.
func (w *worker) stop() {
	one := [8]byte{1}
	_, _ = unix.Write(w.wake, one[:])
}

// quiesce waits until the worker no longer uses a view that is not the current one. Anybody may call it.
func (w *worker) quiesce() {
	round := w.round.Load()
	for round&1 != 0 && w.round.Load() == round {
		// A batch takes microseconds.
		time.Sleep(50 * time.Microsecond)
	}
}

// yieldAfter is how long a worker moves frames, in nanoseconds, until it passes by the scheduler. From a
// goroutine that does not for 10 ms, the runtime's monitor takes the processor away in each system call, every
// 20 µs, and it signals its thread, as long as there is something to do.
const yieldAfter = int64(5 * time.Millisecond)

// run moves frames until stop. The thread is not locked, since a locked one can't yield without another's help.
func (w *worker) run() error {
	var ready [32]unix.EpollEvent
	var yielded int64
	for {
		n, err := unix.EpollWait(w.epoll, ready[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("worker %d: %w", w.number, os.NewSyscallError("epoll_wait", err))
		}
		w.round.Add(1)
		w.view = w.engine.view.Load()
		w.now = w.engine.now()
		stop := false
		for i := range ready[:n] {
			if ready[i].Fd == wakeToken {
				stop = true
				continue
			}
			// Not there: taken away since.
			if s, ok := w.view.sources[ready[i].Fd]; ok {
				w.serve(s)
			}
		}
		w.view = nil
		w.round.Add(1)
		if stop {
			return nil
		}
		if w.now-yielded > yieldAfter {
			yielded = w.now
			runtime.Gosched()
		}
	}
}

// serve moves one batch from a source.
func (w *worker) serve(s source) {
	switch {
	case s.network != nil:
		w.fromVnif(s.network, s.port)
	case s.secured:
		w.fromSecured(s.uplink, s.socket)
	case s.socket == s.uplink.EtherIP():
		w.fromEtherIP(s.uplink, s.socket)
	default:
		w.fromUDP(s.uplink, s.socket)
	}
}
