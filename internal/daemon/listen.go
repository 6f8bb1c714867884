package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// shared are directories that others use, too, and whose mode is none of our business.
var shared = []string{"/", "/run", "/var", "/var/lib", "/var/run", "/etc", "/home", "/root", "/srv", "/usr"}

// listenUnix listens on a socket for root alone. Its directory is made, or set, mode 0700. A socket
// that nobody listens on is replaced.
func listenUnix(path string, log *slog.Logger) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		err = restrict(dir, log)
	}
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	ln, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return ln, nil
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

// bind makes the socket.
func bind(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, bare(err)
	}
	// Until here somebody could connect, but no stranger is served: the kernel tells who it is.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
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
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return errors.New("another process listens there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return bare(err)
	}
	return os.Remove(path)
}

// listenTCP listens on a TCP port.
func listenTCP(address string, port int) (net.Listener, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("TCP %s port %d: %w", address, port, bare(err))
	}
	return ln, nil
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
