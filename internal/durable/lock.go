package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LockFile is the name of the file that is locked.
const LockFile = "lock"

// LockedError says that another process has the directory open.
type LockedError struct {
	Dir string
	PID int // 0 if that process is not visible from here
}

func (e *LockedError) Error() string {
	if e.PID <= 0 {
		return fmt.Sprintf("another xend uses %s", e.Dir)
	}
	return fmt.Sprintf("another xend uses %s, pid %d", e.Dir, e.PID)
}

// lockDir locks the directory until the file is closed or the process ends. It is a POSIX record
// lock because of that kind the kernel tells the owner (fcntl(2), F_GETLK): the pid in the file is
// for people and is never believed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, LockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &whole)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAGAIN) {
		locked := &LockedError{Dir: dir}
		if unix.FcntlFlock(f.Fd(), unix.F_GETLK, &whole) == nil && whole.Type != unix.F_UNLCK {
			locked.PID = int(whole.Pid)
		}
		f.Close()
		return nil, locked
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	// On a full disk vnets must come up all the same.
	if f.Truncate(0) == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}
