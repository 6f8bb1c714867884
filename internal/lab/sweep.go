package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// namePrefix begins the names of namespaces and directories; the maker's process id follows.
	namePrefix = "lab"
	// makerVariable marks the processes of a lab with the process that made it.
	makerVariable = "XEND_LAB_MAKER"
	// labVariable marks them with the lab, wherever they go.
	labVariable = "XEND_LAB"
	// endWait is how long a process may take to end on SIGTERM.
	endWait = 3 * time.Second
	// killWait is how long the kernel may take to clear up after it: a daemon with a thousand vnets has thousands of packet sockets.
	killWait = time.Minute
)

// maker names this process: its id, when it started, since ids are used again, and its process id
// namespace, since those of other containers mean nothing here.
var maker = sync.OnceValue(func() string {
	pid := os.Getpid()
	return strings.Join([]string{strconv.Itoa(pid), startTime(pid), pidNamespace()}, ".")
})

func pidNamespace() string {
	target, _ := os.Readlink("/proc/self/ns/pid")
	return target
}

// orphan says whether a process of a lab has outlived the lab's maker.
func orphan(maker string) bool {
	f := strings.SplitN(maker, ".", 3)
	if len(f) != 3 || f[2] != pidNamespace() {
		return false
	}
	pid, err := strconv.Atoi(f[0])
	return err == nil && startTime(pid) != f[1]
}

// startTime is the 22nd field of /proc/PID/stat, in ticks since boot; "" if there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before it may contain blanks
	f := strings.Fields(rest)
	const fromThird = 22 - 3
	if len(f) <= fromThird {
		return ""
	}
	return f[fromThird]
}

// sweep removes what labs left whose makers were killed. What can't be removed is left for the next time.
func sweep() {
	_ = endProcesses(func(pid int) bool { return orphan(makerOf(pid)) })
	for _, dir := range []string{netnsDir, os.TempDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !stale(e.Name()) {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if dir == netnsDir {
				_ = removeName(path)
			} else {
				_ = os.RemoveAll(path)
			}
		}
	}
}

// stale says whether a name is one of a lab whose maker is gone: "lab4711.1-A".
func stale(name string) bool {
	rest, ours := strings.CutPrefix(name, namePrefix)
	pid, rest, dot := strings.Cut(rest, ".")
	lab, _, hyphen := strings.Cut(rest, "-")
	n, errPid := strconv.Atoi(pid)
	_, errLab := strconv.Atoi(lab)
	if !ours || !dot || !hyphen || errPid != nil || errLab != nil || n <= 0 {
		return false
	}
	return errors.Is(syscall.Kill(n, 0), syscall.ESRCH)
}

// makerOf is what the environment of a process says; "" for one that has nothing to do with labs.
func makerOf(pid int) string { return variableOf(pid, makerVariable) }

func variableOf(pid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for v := range strings.SplitSeq(string(b), "\x00") {
		if m, found := strings.CutPrefix(v, name+"="); found {
			return m
		}
	}
	return ""
}

// namespaceOf is the inode of a process's network namespace, 0 if unknown.
func namespaceOf(pid int) uint64 {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(target, "net:["), "]"), 10, 64)
	return n
}

// endProcesses ends the processes that belong to somebody who is gone, or goes: first asks, then kills.
func endProcesses(doomed func(pid int) bool) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var fds []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !doomed(pid) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		defer unix.Close(fd)
		if doomed(pid) && unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) == nil { // the same process still
			fds = append(fds, fd)
		}
	}
	deadline := time.Now().Add(endWait)
	for _, fd := range fds {
		if exited(fd, time.Until(deadline)) {
			continue
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		if !exited(fd, killWait) {
			err = errors.Join(err, errors.New("a process could not be killed"))
		}
	}
	return err
}

// exited waits for a process to end.
func exited(pidfd int, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		ms := max(0, time.Until(deadline).Milliseconds())
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(ms))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}
