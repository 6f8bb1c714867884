package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// keeperName is what xend is called as to be a keeper.
const keeperName = "xend-domain"

// Files in a domain's directory.
const (
	recordFile  = "record"  // what xend knows of it
	startedFile = "started" // made by the keeper: from now on the domain exists
	exitFile    = "exit"    // made by the keeper: how the domain ended
	ctlSocket   = "ctl"     // the keeper takes orders here
	consoleName = "console" // and here is the console
)

// Descriptors that a keeper is started with.
const (
	orderFD = 3 // xend writes the order, then "go"; when it ends before, so does the keeper
	readyFD = 4 // the keeper says that it can be given devices
)

// order is what a keeper is told to be.
type order struct {
	Name   string   // of the domain: the host name
	Kernel []string // program and arguments; none: a sleeper
	Paused bool     // do not start the program until told to
	// Revive is the criu that restores the program from processesDir; "": it starts anew.
	Revive string `json:",omitempty"`
}

// Exit is how a domain ended.
type Exit struct {
	Reason string // "poweroff", "reboot" or "crash"
	Text   string // for a person: "exit status 1"
}

// Reasons why a domain ends.
const (
	Poweroff = "poweroff"
	Reboot   = "reboot"
	Crash    = "crash"
)

// Main is the program of a domain's first process, and of the xenstore tools, if argv[0] says that this process is one
// of them; ok is false otherwise. Every program that is a xend, a test too, calls it first.
func Main(argv []string) (status int, ok bool) {
	switch name := filepath.Base(argv[0]); {
	case name == keeperName:
		if err := keep(); err != nil {
			fmt.Fprintln(os.Stderr, keeperName+":", err)
			return 1, true
		}
		return 0, true
	case isXenstoreTool(name):
		return xenstoreTool(os.Getenv(xenstoreEnv), name, argv[1:], os.Stdout, os.Stderr), true
	}
	return 0, false
}

// keeper is the state of a domain's first process. Its working directory is the domain's.
//
//	start → (ready) → devices come → (go) → started → [paused] → running → ended
type keeper struct {
	order order
	con   *console
	// ownProc says that /proc shows the domain's processes.
	ownProc bool
	ended   chan Exit // the program has ended
	run     chan struct{}
	once    sync.Once // closes run

	begun    chan struct{} // closed when the program runs, or can't
	begunErr error         // set before

	mu       sync.Mutex
	program  *os.Process  // nil: not started, or a sleeper
	terminal string       // that it is on, as criu calls it
	helpers  map[int]bool // processes of this one's own that are waited for elsewhere
	wanted   string       // the reason of the shutdown that was asked for

	answering sync.RWMutex // is read-locked from when an order was heard until it is answered
}

func keep() error {
	syscall.CloseOnExec(orderFD)
	syscall.CloseOnExec(readyFD)
	orders, ready := os.NewFile(orderFD, "order"), os.NewFile(readyFD, "ready")
	k := &keeper{con: newConsole(), ended: make(chan Exit, 1), run: make(chan struct{}), begun: make(chan struct{}), helpers: map[int]bool{}}
	in := bufio.NewReader(orders)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("order: %w", err)
	}
	if err := json.Unmarshal(line, &k.order); err != nil {
		return fmt.Errorf("order: %w", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR, unix.SIGHUP)
	if err := k.isolate(); err != nil {
		return err
	}
	ctl, err := listen(ctlSocket)
	if err != nil {
		return err
	}
	con, err := listen(consoleName)
	if err != nil {
		return err
	}
	if _, err := ready.WriteString("ready"); err != nil {
		return err
	}
	ready.Close()
	// The end of the file instead of the word: xend is gone, or has given the domain up.
	if line, err := in.ReadString('\n'); err != nil || line != "go\n" {
		return errors.New("not to be")
	}
	orders.Close()
	if err := os.WriteFile(startedFile, nil, 0o600); err != nil {
		return err
	}
	go k.serve(ctl)
	go k.con.serve(con)
	if !k.order.Paused {
		k.start()
	}
	go k.live()
	return k.wait(signals)
}

// isolate makes the namespaces the domain's own: its name, its processes, its devices in /sys.
func (k *keeper) isolate() error {
	if err := unix.Sethostname([]byte(k.order.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) {
		return nil // in a chroot, whose root is no mount: what is mounted here the whole machine would see
	}
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	k.ownProc = true
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Without it a program sees the machine's devices there, and not those of the namespace.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return nil
}

func listen(name string) (*net.UnixListener, error) {
	_ = os.Remove(name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(name, 0o600)
}

// start lets the domain begin.
func (k *keeper) start() { k.once.Do(func() { close(k.run) }) }

// live is the domain's life, once it may begin.
func (k *keeper) live() {
	<-k.run
	if len(k.order.Kernel) == 0 {
		fmt.Fprintf(k.con, "%s: a domain without a program; its network works\r\n", k.order.Name)
		close(k.begun)
		return // until it is told to end
	}
	wait, err := k.execute()
	k.begunErr = err
	close(k.begun)
	if err != nil {
		fmt.Fprintf(k.con, "%s: %v\r\n", k.order.Name, err)
		if k.order.Revive == "" { // else who asked for it is told first
			k.ended <- Exit{Reason: Crash, Text: err.Error()}
		}
		return
	}
	err = wait()
	k.mu.Lock()
	k.program = nil
	wanted := k.wanted
	k.mu.Unlock()
	k.con.drain()
	exit := Exit{Reason: Poweroff}
	switch {
	case wanted != "":
		exit.Reason = wanted
	case err != nil:
		exit = Exit{Reason: Crash, Text: err.Error()}
	}
	k.ended <- exit
}

// execute begins the program on the console, or goes on with a saved one; wait returns when it has ended.
func (k *keeper) execute() (wait func() error, err error) {
	if err := checkProgram(k.order.Kernel[0]); err != nil {
		return nil, err
	}
	master, slave, err := openPTY()
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	terminal, err := terminalName(slave)
	if err != nil {
		master.Close()
		return nil, err
	}
	var p *os.Process
	if k.order.Revive == "" {
		p, wait, err = k.startProgram(slave)
	} else {
		p, wait, err = k.reviveProgram(slave)
	}
	if err != nil {
		master.Close()
		return nil, err
	}
	k.mu.Lock()
	k.program, k.terminal = p, terminal
	if k.wanted != "" { // asked for while it began
		k.endProgramLocked()
	}
	k.mu.Unlock()
	k.con.attach(master)
	return wait, nil
}

// reviveProgram is startProgram for one that was saved.
func (k *keeper) reviveProgram(slave *os.File) (*os.Process, func() error, error) {
	p, err := k.revive(k.order.Revive, slave)
	if err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	k.helpers[p.Pid] = true
	k.mu.Unlock()
	return p, func() error {
		state, err := p.Wait()
		if err == nil && !state.Success() {
			err = errors.New(state.String())
		}
		return err
	}, os.RemoveAll(processesDir) // it is the program's memory
}

func (k *keeper) startProgram(slave *os.File) (*os.Process, func() error, error) {
	reservePIDs()
	cmd := exec.Command(k.order.Kernel[0], k.order.Kernel[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux", "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	k.mu.Lock() // so that reap does not take one that ends at once for an orphan
	defer k.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	k.helpers[cmd.Process.Pid] = true
	return cmd.Process, cmd.Wait, nil
}

// orphanCheck is how often a keeper looks whether anybody can know of it: a directory that was removed by hand, with a
// whole prefix for one, is of a domain that nobody could end.
const orphanCheck = 5 * time.Second

// wait ends the process, and with it the domain, when it has ended.
func (k *keeper) wait(signals <-chan os.Signal) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	orphaned := time.NewTicker(orphanCheck)
	defer orphaned.Stop()
	for {
		select {
		case <-orphaned.C:
			if _, err := os.Stat(startedFile); errors.Is(err, fs.ErrNotExist) {
				return errors.New("its directory was removed")
			}
		case s := <-signals:
			// What the program can ask its pid 1 for.
			reason := Poweroff
			if s == unix.SIGHUP {
				reason = Reboot
			}
			k.shutdown(reason)
		case <-children:
			k.reap()
		case exit := <-k.ended:
			k.answered()
			return k.end(exit)
		}
	}
}

// reap collects the orphans that every pid 1 inherits; the program itself is exec's.
func (k *keeper) reap() {
	if !k.ownProc {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		p, err := identify(e.Name())
		if err != nil || p.parent != 1 || k.helpers[p.pid] || !p.dead {
			continue
		}
		_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	}
}

// answered waits for the answers to orders that were heard: one of them may have been to end.
func (k *keeper) answered() {
	done := make(chan struct{})
	go func() {
		k.answering.Lock()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(orderTimeout):
	}
}

// end leaves word of how it ended.
func (k *keeper) end(e Exit) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return renameio.WriteFile(exitFile, b, 0o600)
}

// shutdown asks the program to end, and is the end of a sleeper.
func (k *keeper) shutdown(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = reason
	switch {
	case k.program != nil:
		k.endProgramLocked()
	case len(k.order.Kernel) == 0 || !k.started():
		select {
		case k.ended <- Exit{Reason: reason}:
		default: // it has ended already
		}
	}
}

// endProgramLocked asks the program to end as is wanted.
func (k *keeper) endProgramLocked() {
	s := unix.SIGTERM
	if k.wanted == Crash {
		s = unix.SIGABRT
	}
	_ = k.program.Signal(s)
}

func (k *keeper) started() bool {
	select {
	case <-k.run:
		return true
	default:
		return false
	}
}

// orderTimeout bounds a conversation on the control socket.
const orderTimeout = 10 * time.Second

// serve takes orders: one a connection, one line, answered by a line.
func (k *keeper) serve(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(orderTimeout))
			line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadString('\n')
			if err != nil {
				return
			}
			k.answering.RLock()
			defer k.answering.RUnlock()
			answer := "ok"
			err = k.obey(strings.Fields(line))
			if err != nil {
				answer = "error " + strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			_ = c.SetDeadline(time.Now().Add(orderTimeout))
			fmt.Fprintln(c, answer)
			var lost *notRevivedError
			if errors.As(err, &lost) { // now that it is told
				select {
				case k.ended <- Exit{Reason: Crash, Text: err.Error()}:
				default:
				}
			}
		}()
	}
}

// notRevivedError says that a saved program can't go on: its domain ends.
type notRevivedError struct{ error }

func (k *keeper) obey(words []string) error {
	switch {
	case len(words) == 1 && words[0] == "run":
		k.start()
		if k.order.Revive != "" {
			<-k.begun
			if k.begunErr != nil {
				return &notRevivedError{k.begunErr}
			}
		}
	case len(words) == 2 && words[0] == "dump":
		return k.dump(words[1])
	case len(words) == 1 && words[0] == "thaw":
		return k.thaw()
	case len(words) == 2 && words[0] == "shutdown" && (words[1] == Poweroff || words[1] == Reboot || words[1] == Crash):
		k.shutdown(words[1])
	case len(words) == 2 && words[0] == "sysrq":
		fmt.Fprintf(k.con, "%s: SysRq : %s\r\n", k.order.Name, words[1])
		switch words[1] {
		case "c":
			k.shutdown(Crash)
		case "b":
			k.shutdown(Reboot)
		case "o":
			k.shutdown(Poweroff)
		}
	default:
		return fmt.Errorf("unknown order %q", strings.Join(words, " "))
	}
	return nil
}

// scrollback is how much of a console is kept for who looks at it later, in bytes.
const scrollback = 64 << 10

// console is a terminal that any number of people look at, and that nobody needs to.
type console struct {
	mu     sync.Mutex
	kept   bytes.Buffer
	people map[chan []byte]bool
	master *os.File // nil: nothing reads what is typed
	done   chan struct{}
}

func newConsole() *console { return &console{people: map[chan []byte]bool{}} }

// Write shows something. Who does not read in time misses some.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Write(p)
	if extra := c.kept.Len() - scrollback; extra > 0 {
		c.kept.Next(extra)
	}
	for ch := range c.people {
		select {
		case ch <- bytes.Clone(p):
		default:
		}
	}
	return len(p), nil
}

// attach shows what a pseudo-terminal's other end writes, until that is closed.
func (c *console) attach(master *os.File) {
	c.mu.Lock()
	c.master, c.done = master, make(chan struct{})
	c.mu.Unlock()
	go func() {
		defer close(c.done)
		_, _ = io.Copy(c, master) // EIO at the end
	}()
}

// drain waits until all that was written is shown, but not for children that hold the terminal.
func (c *console) drain() {
	select {
	case <-c.done:
	case <-time.After(time.Second):
	}
}

func (c *console) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go c.talk(conn)
	}
}

// maxPeople bounds who looks at one console.
const maxPeople = 16

func (c *console) talk(conn *net.UnixConn) {
	defer conn.Close()
	ch := make(chan []byte, 64)
	c.mu.Lock()
	if len(c.people) >= maxPeople {
		c.mu.Unlock()
		return
	}
	ch <- bytes.Clone(c.kept.Bytes())
	c.people[ch] = true
	c.mu.Unlock()
	left := make(chan struct{})
	go func() {
		defer close(left)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			c.mu.Lock()
			master := c.master
			c.mu.Unlock()
			if master != nil {
				_, _ = master.Write(buf[:n])
			}
		}
	}()
	defer func() {
		c.mu.Lock()
		delete(c.people, ch)
		c.mu.Unlock()
	}()
	for {
		select {
		case b := <-ch:
			_ = conn.SetWriteDeadline(time.Now().Add(orderTimeout))
			if _, err := conn.Write(b); err != nil {
				return
			}
		case <-left:
			return
		}
	}
}

// openPTY makes a pseudo-terminal; pty(7).
func openPTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, os.NewSyscallError("unlock terminal", err)
	}
	// By descriptor, whatever is mounted at /dev/pts; ioctl_tty(2).
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		master.Close()
		return nil, nil, os.NewSyscallError("open terminal", errno)
	}
	return master, os.NewFile(peer, "terminal"), nil
}
