package lab

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// processesDir, in a domain's directory, holds what criu wrote of its processes.
const processesDir = "processes"

// terminalFile, among them, names the terminal as criu does.
const terminalFile = "xend-terminal"

// criu saves and restores processes; criu(8). Nothing here depends on it: without it a program starts anew.
type criu struct {
	command string // "" means that it is looked for
	once    sync.Once
	path    string
	why     error
}

// criuTimeout bounds what it takes to write or read the memory of a domain's processes.
const criuTimeout = 5 * time.Minute

// find returns the command, or why it can't be used; it is asked once whether the kernel has what it needs.
func (c *criu) find(ctx context.Context) (string, error) {
	c.once.Do(func() {
		name := c.command
		if name == "" {
			name = "criu"
		}
		if c.path, c.why = exec.LookPath(name); c.why != nil {
			c.why = errors.New("criu is not installed")
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), criuTimeout)
		defer cancel()
		if out, err := exec.CommandContext(ctx, c.path, "check").CombinedOutput(); err != nil {
			c.why = fmt.Errorf("criu can't be used on this kernel: criu check: %w: %s", err, lastLine(string(out)))
		}
	})
	return c.path, c.why
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// pidBase is below the process ids of a domain's programs: those of criu, when it restores them into a new namespace, must not
// be taken. Ids that have wrapped around begin at 300, too (the kernel's RESERVED_PIDS).
const pidBase = 299

// reservePIDs lets the program have an id above those of its helpers; kernels without CONFIG_CHECKPOINT_RESTORE don't care.
func reservePIDs() {
	_ = os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pidBase)), 0)
}

// terminalName is what criu calls a terminal that is not its own business.
func terminalName(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("tty[%x:%x]", st.Rdev, st.Dev), nil
}

// noProgram is what a keeper says that has no processes to dump, or can't see them: in a chroot, whose /proc is the machine's.
const noProgram = "no program runs that can be saved"

// dump has criu write the program's processes, and leaves them stopped.
func (k *keeper) dump(command string) error {
	k.mu.Lock()
	p, terminal := k.program, k.terminal
	k.mu.Unlock()
	if p == nil || !k.ownProc { // or criu would see the machine's processes
		return errors.New(noProgram)
	}
	if err := os.RemoveAll(processesDir); err != nil {
		return err
	}
	if err := os.Mkdir(processesDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(processesDir, terminalFile), []byte(terminal), 0o600); err != nil {
		return err
	}
	return k.helper(command, nil, "dump", "--tree", strconv.Itoa(p.Pid), "--leave-stopped", "--external", terminal)
}

// helper runs criu, which is no program of the domain's.
func (k *keeper) helper(command string, files []*os.File, args ...string) error {
	log := args[0] + ".log"
	args = append(args, "--images-dir", processesDir, "--log-file", log, "-v2", "--manage-cgroups=ignore", "--tcp-close", "--file-locks", "--link-remap")
	ctx, cancel := context.WithTimeout(context.Background(), criuTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.ExtraFiles = files
	k.mu.Lock()
	err := cmd.Start()
	if err == nil {
		k.helpers[cmd.Process.Pid] = true
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	err = cmd.Wait()
	k.mu.Lock()
	delete(k.helpers, cmd.Process.Pid)
	k.mu.Unlock()
	if err != nil {
		return fmt.Errorf("criu %s: %w: %s", args[0], err, criuReason(filepath.Join(processesDir, log)))
	}
	return nil
}

// criuReason is the first error in a log of criu's, which says more than those that follow from it.
func criuReason(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return "it left no log"
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if _, text, ok := strings.Cut(sc.Text(), "Error "); ok {
			return text
		}
	}
	return "its log names no error"
}

// thaw lets processes go on that dump left stopped.
func (k *keeper) thaw() error {
	if !k.ownProc {
		return nil
	}
	return unix.Kill(-1, unix.SIGCONT) // of this namespace, but for its first process
}

// revive restores the program, as a child of this process, on a terminal.
func (k *keeper) revive(command string, slave *os.File) (*os.Process, error) {
	terminal, err := os.ReadFile(filepath.Join(processesDir, terminalFile))
	if err != nil {
		return nil, err
	}
	const pidFile = "pid"
	_ = os.Remove(filepath.Join(processesDir, pidFile))
	const first = 3 // the number of the first of ExtraFiles
	if err := k.helper(command, []*os.File{slave}, "restore", "--restore-detached", "--restore-sibling", "--pidfile", pidFile,
		"--inherit-fd", fmt.Sprintf("fd[%d]:%s", first, terminal)); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(processesDir, pidFile))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, err
	}
	return os.FindProcess(pid)
}

// maxProcesses bounds what is read of processes in a file, in bytes.
const maxProcesses = 16 << 30

// packProcesses writes what criu wrote as a tar archive.
func packProcesses(w io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, e := range entries {
		if err := packFile(out, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return out.Close()
}

func packFile(out *tar.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: info.Name(), Mode: 0o600, Size: info.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}

// unpackProcesses reads such an archive into a new directory.
func unpackProcesses(r io.Reader, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	in := tar.NewReader(io.LimitReader(r, maxProcesses))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || h.Name != filepath.Base(h.Name) || !fs.ValidPath(h.Name) || h.Name == "." {
			return fmt.Errorf("%q is no file of criu's", h.Name)
		}
		f, err := os.OpenFile(filepath.Join(dir, h.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
