package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A pidFile is held by a running daemon: it has the decimal pid for scripts and people, and a record
// lock on it for us. Of such a lock the kernel tells the owner (fcntl(2), F_GETLK) and forgets it with
// its process, so a pid that somebody else has now is never taken for the daemon's. (gofrs/flock has the
// other kind of lock, flock(2), whose owner nobody can ask for.)
type pidFile struct {
	f *os.File
	// unwritten is why the pid is not in it: the disk is full. The lock holds all the same.
	unwritten error
}

// noRoom tells whether an error is that of a full disk.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// RunningError says that a daemon runs already.
type RunningError struct{ PID int }

func (e *RunningError) Error() string { return fmt.Sprintf("xend is running already, pid %d", e.PID) }

// writePIDFile makes the file and holds it; a *RunningError if another process does, and not only because
// it was killed a moment ago.
func writePIDFile(path string) (*pidFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	for {
		p, err := openPIDFile(path)
		if err != nil {
			return nil, err
		}
		// The daemon that was waited for has removed its file, which may be the one that this process opened:
		// nobody would find that any more.
		current, err := isFile(path, p.f)
		if err == nil && current {
			return p, nil
		}
		p.f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// isFile tells whether f is what the path names.
func isFile(path string, f *os.File) (bool, error) {
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, there), err
}

// openPIDFile makes the file that the path names now, and holds it.
func openPIDFile(path string) (*pidFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := awaitPredecessor(f); err != nil {
		f.Close()
		return nil, err
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAGAIN) {
		defer f.Close()
		pid, err := owner(f)
		return nil, errors.Join(&RunningError{PID: pid}, err)
	}
	var unwritten error
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		}
		if noRoom(err) {
			err, unwritten = nil, err
		}
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return &pidFile{f, unwritten}, nil
}

// awaitPredecessor waits until the process has ended that holds the file, if it was killed, or that held it
// until the kernel, which ends it, took its lock away: it may still have its sockets.
func awaitPredecessor(f *os.File) error {
	pid, err := owner(f)
	if err != nil {
		return err
	}
	if pid == 0 {
		b := make([]byte, 20)
		n, err := f.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(b[:n]))); err != nil || pid <= 0 {
			return nil //nolint:nilerr // nobody has written there what we write
		}
		if p := (process{pid: pid}); !p.ending() { // another that has the pid of one that ended long ago
			return nil
		}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil //nolint:nilerr // it has ended, or is not visible here
	}
	p := process{pid: pid, fd: fd}
	defer p.close()
	for began := time.Now(); ; {
		ended, err := p.wait(20)
		if ended || err != nil {
			return err
		}
		// The kernel closes the sockets of a daemon with many vnets one after the other.
		if waited := time.Since(began); waited > closing || waited > dying && !p.ending() {
			return nil
		}
	}
}

// closing is how long the kernel may take to end a process that was killed: with 1,000 vnets and two workers
// it took 14 s.
const closing = time.Minute

// remove gives the file up.
func (p *pidFile) remove() {
	os.Remove(p.f.Name())
	p.f.Close()
}

// owner is the process that holds a pid file; 0 for none.
func owner(f *os.File) (int, error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, &fs.PathError{Op: "query lock of", Path: f.Name(), Err: err}
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// runningPID is the pid of the daemon that holds the pid file at path; 0 if none runs.
func runningPID(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // a lock for writing wants that
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return owner(f)
}

// process is a running daemon. Its descriptor names that very process, whatever becomes of the pid.
type process struct {
	pid int
	fd  int
}

// findProcess returns the daemon that holds the pid file at path; nil if none runs.
func findProcess(path string) (*process, error) {
	pid, err := runningPID(path)
	if err != nil || pid == 0 {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	// The daemon may have ended, and its pid may be another's, between the two calls.
	if again, err := runningPID(path); err != nil || again != pid {
		unix.Close(fd)
		return nil, err
	}
	return &process{pid: pid, fd: fd}, nil
}

// ending tells whether a process has no memory any more, and so no program: the kernel is about to end it.
func (p *process) ending() bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	return errors.Is(err, fs.ErrNotExist)
}

func (p *process) close() { unix.Close(p.fd) }

// signal sends a signal; a process that has ended is no error.
func (p *process) signal(s syscall.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// wait returns true when the process has ended, false after so many milliseconds.
func (p *process) wait(ms int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, err
	}
}
