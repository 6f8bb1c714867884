package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// shared are directories that others use, too, and whose mode is none of our business.
var shared = []string{"/", "/run", "/var", "/var/lib", "/var/run", "/etc", "/home", "/root", "/srv", "/usr"}

// A socket is bound to its address, which nobody else can have then, and does not listen yet: who
// connects is refused, until listen.
type socket struct {
	file *os.File
	name string // for error texts
	path string // of a unix socket
}

// newSocket binds a new socket.
func newSocket(name string, family int, addr unix.Sockaddr) (*socket, error) {
	fail := func(err error) (*socket, error) { return nil, fmt.Errorf("%s: %w", name, err) }
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), name), name: name}
	if family != unix.AF_UNIX {
		// A daemon that ended a moment ago keeps nobody from the port.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		s.file.Close()
		return fail(err)
	}
	return s, nil
}

// listen makes the socket accept connections.
func (s *socket) listen() (net.Listener, error) {
	defer s.close() // FileListener has a descriptor of its own
	err := unix.Listen(int(s.file.Fd()), unix.SOMAXCONN)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	ln, err := net.FileListener(s.file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
		s.path = ""
	}
	return ln, nil
}

// close gives up what listen was not called for.
func (s *socket) close() {
	s.file.Close()
	if s.path != "" {
		os.Remove(s.path)
	}
}

// bindUnix makes a socket for root alone. Its directory is made, or set, mode 0700. A socket that nobody
// listens on is replaced.
func bindUnix(path string, log *slog.Logger) (*socket, error) {
	name := "socket " + path
	dir := filepath.Dir(path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		err = restrict(dir, log)
	}
	if err == nil {
		err = removeStale(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s, err := newSocket(name, unix.AF_UNIX, &unix.SockaddrUnix{Name: path})
	if err != nil {
		return nil, err
	}
	s.path = path
	if err := os.Chmod(path, 0o600); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// bindTCP makes a socket on a TCP port.
func bindTCP(ctx context.Context, address string, port int) (*socket, error) {
	name := fmt.Sprintf("TCP %s port %d", address, port)
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// IPv4 first: old clients know nothing else.
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return cmp.Compare(a.Unmap().BitLen(), b.Unmap().BitLen()) })
	ip := ips[0].Unmap()
	if ip.Is4() {
		return newSocket(name, unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: ip.As4()})
	}
	sa := &unix.SockaddrInet6{Port: port, Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		dev, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, bare(err))
		}
		sa.ZoneId = uint32(dev.Index)
	}
	return newSocket(name, unix.AF_INET6, sa)
}

// restrict takes a directory away from everybody but root.
func restrict(dir string, log *slog.Logger) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	switch {
	case info.Mode().Perm() == 0o700:
		return nil
	case info.Mode()&fs.ModeSticky != 0, slices.Contains(shared, dir):
		log.Warn("the directory of a socket is used by others, too: its mode is left as it is", "dir", dir, "mode", info.Mode().Perm())
		return nil
	}
	return os.Chmod(dir, 0o700)
}

// removeStale removes the socket of a daemon that was killed.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("a file that is no socket is in the way")
	}
	alive, err := listening(path)
	if err != nil {
		return err
	}
	if alive {
		return errors.New("another process listens there")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// dying is how long a process that was killed may take to end: to let go of its locks, and to close its
// sockets.
const dying = time.Second

// listening tells whether a process listens on a socket. One that is about to end may still accept
// connections, which the kernel resets a moment later.
func listening(path string) (bool, error) {
	deadline := time.Now().Add(dying)
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, bare(err)
		}
		err = conn.SetReadDeadline(deadline)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		conn.Close()
		if !errors.Is(err, unix.ECONNRESET) || time.Now().After(deadline) {
			return true, nil // it said something, or waits for us to say something
		}
	}
}

// bare takes away what package net says around an error and we say in our own words.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}
