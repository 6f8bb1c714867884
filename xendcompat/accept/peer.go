package accept

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a connection.
type Peer struct {
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
func (p Peer) LogValue() slog.Value {
	if !p.Unix {
		return slog.StringValue(p.Address)
	}
	return slog.GroupValue(slog.Int("pid", p.PID), slog.Int("uid", p.UID))
}

// Trusted tells whether the peer may have files opened by the daemon: it is a process of root, or of
// the daemon's own user, on this machine.
func (p Peer) Trusted() bool { return p.Unix && (p.UID == 0 || p.UID == os.Geteuid()) }

// mayConnect tells why a peer may not. Over TCP there is no saying who somebody is.
func (p Peer) mayConnect(uids []int) error {
	if !p.Unix || p.Trusted() || slices.Contains(uids, p.UID) {
		return nil
	}
	return fmt.Errorf("permission denied for user %d", p.UID)
}

// peerOf returns the peer of a connection.
func peerOf(c net.Conn) (Peer, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{UID: -1, Address: c.RemoteAddr().String()}, nil
	}
	p := Peer{Unix: true, UID: -1}
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
