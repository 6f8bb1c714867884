package accept

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Pending tells whether there is something to be read, the end included, without reading it. It waits for it
// for at most that long, and then leaves a read deadline behind.
func (c *Conn) Pending(wait time.Duration) bool {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return true // a read will tell
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	if wait > 0 && c.SetReadDeadline(time.Now().Add(wait)) != nil {
		return true
	}
	var peek error
	err = raw.Read(func(fd uintptr) bool {
		_, _, peek = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return wait == 0 || !errors.Is(peek, unix.EAGAIN)
	})
	return !errors.Is(peek, unix.EAGAIN) && !errors.Is(err, os.ErrDeadlineExceeded)
}
