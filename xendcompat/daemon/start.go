package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/xenvnet/xend/xendcompat/config"
)

// readyEnv tells a process in the background by its value, a file descriptor, where to say that it is
// ready.
const readyEnv = "XEND_READY_FD"

// readyText is said there.
const readyText = "ready"

// Start starts a daemon in the background, as this program with these arguments, and returns when its
// sockets accept. One that runs already is left alone. A daemon that fails says why on standard error.
// Where systemd has a unit for it, that is started instead.
func Start(o Options, args []string) error {
	cfg, mistake := config.Load(o.Paths, o.Config)
	control := o.Paths.ControlSocket()
	if mistake == nil {
		control = cfg.ControlSocket
	}
	// A mistake is found before anything is changed, locks included.
	running, err := serving(o.Paths.PidFile(), control)
	if err != nil || running {
		return err
	}
	if mistake != nil {
		return mistake
	}
	if done, err := machineUnit(o).handOver("start", 0); done {
		return err
	}
	// Of two that are started at the same time one waits for the other.
	unlock, err := lockStart(filepath.Join(o.Paths.Run(), "start.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	running, err = serving(o.Paths.PidFile(), control)
	if err != nil || running {
		return err
	}
	return spawn(args)
}

// transition is how long a daemon is waited for that runs and does not answer: it may be about to begin,
// with a network script that takes its time, or to end.
const transition = 90 * time.Second

// settled is after how long, in milliseconds, a daemon that answered has to answer again.
const settled = 100

// SilentError says that a daemon runs and does not answer.
type SilentError struct {
	PID    int
	Socket string
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("xend runs, pid %d, and does not answer on %s: 'xend restart' ends it and starts another", e.PID, e.Socket)
}

// serving tells whether a daemon holds the pid file, and goes on to do so: one that was killed or stopped
// a moment ago does not.
func serving(pidFile, control string) (bool, error) {
	for deadline := time.Now().Add(transition); ; {
		p, err := findProcess(pidFile)
		if err != nil || p == nil {
			return false, err
		}
		if answers(control) {
			// One that got its signal a moment ago may answer once more.
			ended, err := p.wait(settled)
			if err != nil || !ended && answers(control) {
				p.close()
				return err == nil, err
			}
		}
		if time.Now().After(deadline) {
			p.close()
			return false, &SilentError{PID: p.pid, Socket: control}
		}
		_, err = p.wait(20)
		p.close()
		if err != nil {
			return false, err
		}
	}
}

// answers tells whether a daemon ends a conversation on its control socket in order. The kernel resets
// those with one that was killed.
func answers(control string) bool {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: control, Net: "unix"})
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(time.Second)) != nil || conn.CloseWrite() != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// lockStart waits for its turn.
func lockStart(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(path, flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { lock.Close() }, nil //nolint:errcheck // it ends with the process at the latest
}

// ErrNotReady means that a daemon ended before it was ready, and has said why.
var ErrNotReady = errors.New("xend did not start")

// spawn runs this program in a session of its own and waits until it is ready or has ended.
func spawn(args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(exe, args...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr // until it is ready
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), readyEnv+"=3") // after standard error
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	keepFiles()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	// Who gives up waiting does not want the daemon.
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(interrupt)
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		said <- string(b)
	}()
	for {
		select {
		case sig := <-interrupt:
			_ = cmd.Process.Signal(sig) // it may have ended
		case text := <-said:
			if text == readyText {
				return cmd.Process.Release()
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); err != nil && !(errors.As(err, &exit) && exit.Exited()) {
				return fmt.Errorf("%w: %w", ErrNotReady, err) // killed: it could not say why
			}
			return ErrNotReady
		}
	}
}

// keepFiles keeps what a caller left open, such as the pipe that somebody reads to its end, from the daemon.
func keepFiles() {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // no harm but to a caller who waits
	}
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// Background tells whether Start runs this process, and returns how to say that it is ready.
func Background() (ready func() error, ok bool) {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil {
		return nil, false
	}
	os.Unsetenv(readyEnv) //nolint:errcheck // the name is valid
	syscall.CloseOnExec(fd)
	w := os.NewFile(uintptr(fd), "ready")
	return func() error {
		_, err := io.WriteString(w, readyText)
		return errors.Join(err, w.Close())
	}, true
}
