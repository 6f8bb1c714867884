package accept

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Client is who is at the other end of a connection.
type Client struct {
	// Unix is true of a unix socket's client, who is on this machine and whose process and user the
	// kernel tells.
	Unix bool
	// PID is the process that connected, in this process's namespace; 0 if unknown.
	PID int
	// UID is its effective user; -1 if unknown.
	UID int
	// Address is that of a TCP client.
	Address string
}

// LogValue shows what is known.
func (c Client) LogValue() slog.Value {
	if !c.Unix {
		return slog.StringValue(c.Address)
	}
	return slog.GroupValue(slog.Int("pid", c.PID), slog.Int("uid", c.UID))
}

// Trusted tells whether the client may have files opened by the daemon: it is a process of root, or of
// the daemon's own user, on this machine.
func (c Client) Trusted() bool { return c.Unix && (c.UID == 0 || c.UID == os.Geteuid()) }

// mayConnect tells why a client may not. Over TCP there is no saying who somebody is.
func (c Client) mayConnect(uids []int) error {
	if !c.Unix || c.Trusted() || slices.Contains(uids, c.UID) {
		return nil
	}
	return fmt.Errorf("permission denied for user %d", c.UID)
}

// clientOf returns the client of a connection.
func clientOf(c net.Conn) (Client, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return Client{UID: -1, Address: c.RemoteAddr().String()}, nil
	}
	p := Client{Unix: true, UID: -1}
	raw, err := uc.SyscallConn()
	if err != nil {
		return p, fmt.Errorf("credentials of the client: %w", err)
	}
	var cred *unix.Ucred
	// unix(7), SO_PEERCRED: as they were when the client called connect.
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return p, fmt.Errorf("credentials of the client: %w", err)
	}
	p.PID, p.UID = int(cred.Pid), int(cred.Uid)
	return p, nil
}
