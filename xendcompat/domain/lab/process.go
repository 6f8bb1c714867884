package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process tells a process from a later one of the same id.
type process struct {
	pid    int
	start  string // the 22nd field of /proc/PID/stat, in ticks since boot
	parent int
	dead   bool // a zombie
}

var errNoProcess = errors.New("no such process")

// identify reads proc_pid_stat(5).
func identify(pid string) (process, error) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return process{}, errNoProcess
	}
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return process{}, errNoProcess
	}
	text := string(b)
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name before it may contain anything
	if len(f) < 20 {
		return process{}, errNoProcess
	}
	p := process{pid: n, start: f[19], dead: f[0] == "Z" || f[0] == "X"}
	p.parent, _ = strconv.Atoi(f[1])
	return p, nil
}

// findProcess returns a descriptor of the process that had this id and start, unless it is gone.
func findProcess(pid int, start string) (fd int, err error) {
	fd, err = unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, errNoProcess
	}
	// Read after the descriptor was had: it is of the process that is read here, or of none.
	if p, err := identify(strconv.Itoa(pid)); err != nil || p.start != start || p.dead {
		unix.Close(fd)
		return -1, errNoProcess
	}
	return fd, nil
}

// awaitEnd blocks until the process behind a descriptor has ended, or for so many milliseconds; -1 is for ever.
func awaitEnd(pidfd, ms int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, ms)
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}

// checkProgram tells why a domain may not run a file: only root's own, which nobody else can change or replace.
func checkProgram(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("kernel %q: not an absolute path; in a lab it names a program of root's", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("kernel %s: %w; in a lab it names a program of root's, or is left out", path, errors.Unwrap(err))
	}
	for at := real; ; at = filepath.Dir(at) {
		var st unix.Stat_t
		if err := unix.Stat(at, &st); err != nil {
			return fmt.Errorf("kernel %s: %s: %w", path, at, err)
		}
		switch {
		case st.Uid != 0:
			return fmt.Errorf("kernel %s: %s belongs to user %d; a domain runs only what root owns (chown root)", path, at, st.Uid)
		case st.Mode&0o022 != 0 && (at == real || st.Mode&unix.S_ISVTX == 0):
			return fmt.Errorf("kernel %s: others than root can write %s; a domain runs only what root alone can change (chmod go-w)", path, at)
		case at == real && st.Mode&unix.S_IFMT != unix.S_IFREG:
			return fmt.Errorf("kernel %s: not a regular file", path)
		case at == real && st.Mode&0o111 == 0:
			return fmt.Errorf("kernel %s: not a program (chmod +x)", path)
		}
		if at == "/" {
			return nil
		}
	}
}

// kernelImages begin the names of what Xen boots and Linux does not run.
var kernelImages = []string{"vmlinu", "bzImage", "Image", "hvmloader", "pv-grub", "pvgrub", "grub-", "xen"}

// program is what a domain with this kernel line runs: none for the kernel of a real domain.
func program(kernel, args string) ([]string, error) {
	if kernel == "" {
		return nil, nil
	}
	for _, p := range kernelImages {
		if strings.HasPrefix(filepath.Base(kernel), p) {
			return nil, nil
		}
	}
	if strings.ContainsRune(kernel, 0) || strings.ContainsRune(args, 0) {
		return nil, fmt.Errorf("kernel %q: a zero byte in its command line", kernel)
	}
	if err := checkProgram(kernel); err != nil {
		return nil, err
	}
	return append([]string{kernel}, strings.Fields(args)...), nil
}
