package hostnet

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What an error of this package may be, for errors.Is.
var (
	// ErrNotFound means that the device, address, route or entry does not exist (any more).
	ErrNotFound = errors.New("no such device")
	// ErrExists means that something of that name or kind is there already.
	ErrExists = errors.New("exists already")
	// ErrBusy means that the kernel refused for the moment, also after retries.
	ErrBusy = errors.New("device is busy")
)

// OpError says which operation failed on which object.
type OpError struct {
	Op     string // what was tried: "set MTU"
	Object string // on what: a device's name, an address; may be empty
	Err    error  // the cause
}

func (e *OpError) Error() string {
	if e.Object == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Object + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Is matches the kernel's error numbers with this package's errors.
func (e *OpError) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return errors.Is(e.Err, unix.ENODEV) || errors.Is(e.Err, unix.ENXIO) ||
			errors.Is(e.Err, unix.ESRCH) || errors.Is(e.Err, unix.ENOENT) || errors.Is(e.Err, unix.EADDRNOTAVAIL)
	case ErrExists:
		return errors.Is(e.Err, unix.EEXIST)
	case ErrBusy:
		return errors.Is(e.Err, unix.EBUSY)
	}
	return false
}

func wrap(op, object string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Object: object, Err: err}
}

// NotOursError means that a device is in the way that somebody else made.
type NotOursError struct {
	Device Link   // the device that is in the way
	Want   string // what the name is wanted for, with an article: "a bridge"
}

func (e *NotOursError) Error() string {
	return fmt.Sprintf("%s is in the way: a device that xend did not make, where %s is wanted", e.Device, e.Want)
}

// UnsupportedError means that the kernel lacks something.
type UnsupportedError struct {
	What  string // what could not be done
	Needs string // what the kernel or the machine must offer
	Err   error  // the kernel's answer
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s is not possible here: needs %s: %v", e.What, e.Needs, e.Err)
}

// Unwrap returns the kernel's answer.
func (e *UnsupportedError) Unwrap() error { return e.Err }

const (
	busyTries = 6                    // EBUSY is waited out for 1+2+4+8+16 ms
	dumpTries = 50                   // a dump may be interrupted as often as links come and go meanwhile
	busyFirst = 1 * time.Millisecond // doubled at each try
)

// retry repeats fn while the kernel is busy or was interrupted. What an interrupted dump returned must
// be thrown away, so fn starts afresh each time.
func retry(fn func() error) error {
	wait := busyFirst
	for busy, dump := 1, 1; ; {
		err := fn()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, nl.ErrDumpInterrupted), errors.Is(err, netlink.ErrDumpInterrupted):
			// NLM_F_DUMP_INTR: the list changed while it was read.
			if dump++; dump > dumpTries {
				return err
			}
		case errors.Is(err, unix.EBUSY):
			if busy++; busy > busyTries {
				return err
			}
			time.Sleep(wait)
			wait *= 2
		default:
			return err
		}
	}
}
