package xmlrpc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/xendcompat/accept"
)

// maxFile bounds a configuration that is read from a file, in bytes.
const maxFile = 1 << 20

// readClientFile reads a file that a client named, as that client would find it: relative to its working
// directory, below its root directory, in its mount namespace. Only regular files are read, and
// opening anything else has no effect on it.
func readClientFile(proc string, client accept.Client, name string) ([]byte, error) {
	switch {
	case !client.Unix:
		return nil, errors.New("a file name is only accepted over the unix socket: send the (vnet ...) form itself")
	case !client.Trusted():
		return nil, fmt.Errorf("user %d may not have files read: send the (vnet ...) form itself", client.UID)
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return nil, errors.New("the file name is empty or holds a NUL")
	}
	fd, err := openClientPath(filepath.Join(proc, strconv.Itoa(client.PID)), name)
	if err != nil {
		return nil, fmt.Errorf("File not found: %s (%w)", name, err)
	}
	defer unix.Close(fd)

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	// The descriptor only stands for the file; /proc opens the very same one for reading.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return b, nil
}

// openClientPath returns an O_PATH descriptor of what name means to the process with the given directory
// in /proc.
func openClientPath(process, name string) (int, error) {
	// proc(5): root and cwd are links that lead into the process's own mount namespace.
	root, err := unix.Open(process+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("the root directory of the client: %w", err)
	}
	defer unix.Close(root)
	if !filepath.IsAbs(name) {
		cwd, err := clientDirectory(process, root)
		if err != nil {
			return -1, fmt.Errorf("the working directory of the client: %w", err)
		}
		// Not filepath.Join: the kernel resolves "..", after the links before it.
		name = cwd + "/" + name
	}
	return openIn(root, name)
}

// openIn opens name with root as root directory, for the links on the way, too. Links of /proc to open files
// are refused: they would be this process's.
func openIn(root int, name string) (int, error) {
	// openat2(2): RESOLVE_IN_ROOT.
	return unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// clientDirectory returns the working directory of a process as a path below its root directory.
func clientDirectory(process string, root int) (string, error) {
	cwd, err := os.Readlink(process + "/cwd")
	if err != nil {
		return "", errors.Unwrap(err)
	}
	rootPath, err := os.Readlink(process + "/root")
	if err != nil {
		return "", errors.Unwrap(err)
	}
	path := "/" + strings.TrimPrefix(strings.TrimPrefix(cwd, strings.TrimSuffix(rootPath, "/")), "/")
	// The texts may lie: a directory that was deleted or is mounted over. What counts is where they lead.
	fd, err := openIn(root, path)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var want, got unix.Stat_t
	if err := unix.Stat(process+"/cwd", &want); err != nil {
		return "", err
	}
	if err := unix.Fstat(fd, &got); err != nil {
		return "", err
	}
	if got.Dev != want.Dev || got.Ino != want.Ino {
		return "", fmt.Errorf("it can't be reached as %s", cwd)
	}
	return path, nil
}
