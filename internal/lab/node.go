package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Node is a network namespace of a lab: what hosts, domains and routers have in common.
type Node struct {
	Name string        // as given; unique in the lab
	Net  *hostnet.Host // its network

	lab   *Lab
	mount string   // below /run/netns; "": unnamed
	env   []string // added to the environment of commands
}

// node makes a namespace without devices, with settings that suit all of them.
func (l *Lab) node(name string) (*Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("lab: closed")
	}
	for _, n := range l.nodes {
		if n.Name == name {
			return nil, fmt.Errorf("lab: %s exists already", name)
		}
	}
	net, err := hostnet.Unshare()
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", name, err)
	}
	n := &Node{Name: name, Net: net, lab: l, env: []string{makerVariable + "=" + maker(), labVariable + "=" + l.prefix}}
	l.nodes = append(l.nodes, n) // from here on Close removes it
	if l.named {
		if err := n.giveName(l.prefix + "-" + name); err != nil {
			return nil, fmt.Errorf("lab: %s: %w", name, err)
		}
	}
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("lab: %s: %w", name, err)
	}
	return n, nil
}

// prepare makes bridges bridge, and addresses usable at once; everything else is as Linux has it by default, whatever the
// machine has: a lab that is kinder than the world proves nothing.
func (n *Node) prepare() error {
	for _, s := range [][]string{
		{"0", "net", "bridge", "bridge-nf-call-iptables"},
		{"0", "net", "bridge", "bridge-nf-call-ip6tables"},
		{"0", "net", "bridge", "bridge-nf-call-arptables"},
		{"0", "net", "ipv6", "conf", "all", "accept_dad"},
		{"0", "net", "ipv6", "conf", "default", "accept_dad"},
		// A namespace inherits these from the machine.
		{"0", "net", "ipv4", "conf", "all", "rp_filter"},
		{"0", "net", "ipv4", "conf", "default", "rp_filter"},
		{"0", "net", "ipv4", "conf", "all", "arp_ignore"},
		{"0", "net", "ipv4", "conf", "default", "arp_ignore"},
		{"0", "net", "ipv4", "ip_forward"},
		{"1", "net", "ipv6", "conf", "default", "accept_ra"},
		{"0", "net", "ipv6", "conf", "all", "disable_ipv6"},
		{"0", "net", "ipv6", "conf", "default", "disable_ipv6"},
	} {
		err := n.Net.SetSysctl(s[0], s[1:]...)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without br_netfilter or IPv6
			return err
		}
	}
	return nil
}

// Enter adds a namespace that exists already, of a domain that xend runs on a host of the lab, by its file.
func (l *Lab) Enter(name, path string) (*Node, error) {
	net, err := hostnet.At(path)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", name, err)
	}
	n := &Node{Name: name, Net: net, lab: l, env: []string{makerVariable + "=" + maker(), labVariable + "=" + l.prefix}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = append(l.nodes, n)
	return n, nil
}

const netnsDir = "/run/netns" // ip-netns(8)

func (n *Node) giveName(name string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	n.mount = path
	if err := unix.Mount(n.Net.Path(), path, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind mount", Path: path, Err: err}
	}
	return nil
}

func (n *Node) close() error {
	var err error
	if n.mount != "" {
		err = removeName(n.mount)
	}
	n.Net.Close()
	return err
}

func removeName(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // not mounted
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return os.Remove(path)
}

// NetnsName is the node's name for `ip netns exec`; "" if the lab is not Named.
func (n *Node) NetnsName() string {
	if n.mount == "" {
		return ""
	}
	return filepath.Base(n.mount)
}

// Do runs fn in the namespace: sockets that it opens belong there. See hostnet.Host.Do.
func (n *Node) Do(fn func() error) error { return n.Net.Do(fn) }

// Command prepares a command that Start will start in the namespace; mounts are the machine's.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), n.env...)
	return cmd
}

// Start starts a command of Command in the namespace. The process is killed when this one ends, however it
// does; what the process itself starts, when the lab closes.
func (n *Node) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 1)
	go func() {
		// The signal is sent when the thread ends that started the process: prctl(2), PR_SET_PDEATHSIG. So
		// that thread, which Do locks, stays until the process has ended.
		err := n.Do(func() error {
			err := cmd.Start()
			started <- err
			if err == nil {
				awaitExit(cmd.Process.Pid)
			}
			return nil
		})
		if err != nil { // the namespace could not be entered
			started <- err
		}
	}()
	return <-started
}

// awaitExit blocks the thread until a process has ended.
func awaitExit(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // ended already
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Run runs a command in the namespace and returns what it printed, on either output. The error of a command
// that failed shows that, too.
func (n *Node) Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := n.Command(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %s: %w\n%s", n.Name, strings.Join(append([]string{name}, args...), " "), err, out.String())
	}
	return out.String(), err
}
