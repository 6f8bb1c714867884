package netscripts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"
)

// daemonTimeout bounds what the daemon may take to answer.
const daemonTimeout = 3 * time.Second

// tellDaemon tells the daemon that a MAC is, or is not, behind this host, so that other hosts know at
// once. Without a daemon there is nobody to tell, and it learns from traffic in any case.
func (s *script) tellDaemon(ctx context.Context, command, vnet string, mac net.HardwareAddr) {
	text := fmt.Sprintf("(%s (vnet %s) (vmac %s))", command, vnet, mac)
	answer, err := s.control(ctx, text)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
	case err != nil:
		s.warn("%s: %v", text, err)
	case strings.Contains(answer, "(error"):
		s.warn("%s: xend answers %s", text, answer)
	}
}

// control sends one command to the daemon's control socket and returns the answer.
func (s *script) control(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.conf.Paths.ControlSocket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	if c, ok := conn.(*net.UnixConn); ok {
		_ = c.CloseWrite() // the daemon also answers without
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 1<<16))
	return strings.TrimSpace(string(answer)), err
}
