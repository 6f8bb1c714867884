package hostnet

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WatchCopies calls sign when this machine may be a copy of another, or was set back, until ctx ends: a generation id of the virtual
// machine that changed (which the kernel tells in all network namespaces), a clock that was set. What cannot be watched is told to
// failed, and is done without.
func (h *Host) WatchCopies(ctx context.Context, sign func(what string), failed func(what string, err error)) {
	var group sync.WaitGroup
	for _, w := range []struct {
		what string
		open func() (*os.File, error)
		// next waits for a sign; it is false if what came is none.
		next func(*os.File) (bool, error)
	}{
		{"the generation id of the virtual machine changed", openUevents, nextGeneration},
		{"the clock was set", openClock, nextClockSet},
	} {
		var f *os.File
		err := h.Do(func() (err error) {
			f, err = w.open()
			return err
		})
		if err != nil {
			failed(w.what, err)
			continue
		}
		group.Go(func() {
			defer f.Close()
			defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
			for {
				is, err := w.next(f)
				if ctx.Err() != nil || err != nil {
					return
				}
				if is {
					sign(w.what)
				}
			}
		})
	}
	group.Wait()
}

// openUevents listens to what the kernel's devices tell: netlink(7), NETLINK_KOBJECT_UEVENT, group 1.
func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// nextGeneration waits for an event, and reports whether it is that of a new generation id (drivers/virt/vmgenid.c).
func nextGeneration(f *os.File) (bool, error) {
	b := make([]byte, 8192)
	n, err := f.Read(b)
	if errors.Is(err, unix.ENOBUFS) {
		return false, nil // some events were lost
	}
	return err == nil && isNewGeneration(b[:n]), err
}

func isNewGeneration(event []byte) bool {
	for field := range bytes.SplitSeq(event, []byte{0}) {
		if string(field) == "NEW_VMGENID=1" {
			return true
		}
	}
	return false
}

// openClock makes a timer that ends only when the clock is set; timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.
func openClock() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32 * 8}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("timerfd_settime", err)
	}
	return os.NewFile(uintptr(fd), "clock"), nil
}

// nextClockSet waits until the clock is set.
func nextClockSet(f *os.File) (bool, error) {
	var b [8]byte
	_, err := f.Read(b[:])
	if errors.Is(err, unix.ECANCELED) {
		return true, nil // the timer stays as it is
	}
	return false, err
}
