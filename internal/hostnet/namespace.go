package hostnet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// threadNetns is the calling thread's network namespace; proc(5).
const threadNetns = "/proc/thread-self/ns/net"

// namespace holds a network namespace open.
type namespace struct {
	id namespaceID

	mu   sync.RWMutex // held for reading while the file is in use
	file *os.File     // nil once closed
}

// namespaceID tells namespaces apart: device and inode of their nsfs file; namespaces(7).
type namespaceID struct{ dev, ino uint64 }

var errClosed = errors.New("network namespace was released")

// currentNamespace opens the calling thread's namespace; the thread must be locked.
func currentNamespace() (*namespace, error) {
	f, err := os.Open(threadNetns)
	if err != nil {
		return nil, err
	}
	id, err := identify()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &namespace{id: id, file: f}, nil
}

func identify() (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Stat(threadNetns, &st); err != nil {
		return namespaceID{}, &os.PathError{Op: "stat", Path: threadNetns, Err: err}
	}
	return namespaceID{dev: st.Dev, ino: st.Ino}, nil
}

func (ns *namespace) close() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.file != nil {
		ns.file.Close()
		ns.file = nil
	}
}

// enter moves the calling thread, which must be locked and never used for anything else again.
func (ns *namespace) enter() error {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	if ns.file == nil {
		return errClosed
	}
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

func (ns *namespace) do(fn func() error) error {
	if here, err := ns.doHere(fn); here {
		return err
	}
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Not unlocked: the thread is in another namespace and must end with the goroutine.
		runtime.LockOSThread()
		o.run(func() error {
			if err := ns.enter(); err != nil {
				return err
			}
			return fn()
		})
	}()
	<-done
	return o.deliver()
}

// doHere runs fn in the calling goroutine if its thread is in the namespace already.
func (ns *namespace) doHere(fn func() error) (bool, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if id, err := identify(); err != nil || id != ns.id {
		return false, nil
	}
	return true, fn()
}

// outcome is how a function ended on another goroutine.
type outcome struct {
	err      error
	returned bool
	panicked any
	stack    []byte
}

func (o *outcome) run(fn func() error) {
	defer func() {
		if o.returned {
			return
		}
		if o.panicked = recover(); o.panicked != nil {
			o.stack = debug.Stack()
		}
	}()
	o.err = fn()
	o.returned = true
}

// deliver ends the calling goroutine's part in the same way.
func (o *outcome) deliver() error {
	switch {
	case o.returned:
		return o.err
	case o.panicked != nil:
		panic(fmt.Sprintf("%v\n\nin a network namespace:\n%s", o.panicked, o.stack))
	default: // runtime.Goexit, as testing's FailNow does
		runtime.Goexit()
		return nil
	}
}

// Unshare makes a network namespace and returns the Host bound to it, with the loopback device up.
// It exists as long as the Host is open or a process or socket is in it.
func Unshare() (*Host, error) {
	var h *Host
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread belongs to the new namespace
		o.run(func() (err error) {
			if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make network namespace: %w", err)
			}
			h, err = New()
			return err
		})
	}()
	<-done
	if err := o.deliver(); err != nil {
		return nil, err
	}
	const loopback = 1 // the first device of every namespace
	if err := h.SetUp(loopback); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}
