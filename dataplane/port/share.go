package port

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// OpenShared opens n ports that share the frames which reach the vnif: those of one flow all come to one
// of them. Where the kernel cannot do that (before Linux 5.11) it opens one port, which gets every frame.
// Each port may send.
func OpenShared(d Devices, o Options, n int) ([]*Port, error) {
	if n <= 1 {
		p, err := Open(d, o)
		return []*Port{p}, err
	}
	group := 0
	o.join = func(fd int) error {
		// packet(7), PACKET_FANOUT: the kernel chooses a number for the first, which the others give.
		mode := unix.PACKET_FANOUT_HASH | unix.PACKET_FANOUT_FLAG_IGNORE_OUTGOING
		if group == 0 {
			mode |= unix.PACKET_FANOUT_FLAG_UNIQUEID
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, group|mode<<16); err != nil {
			return &shareError{os.NewSyscallError("set PACKET_FANOUT", err)}
		}
		if group != 0 {
			return nil
		}
		v, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
		group = v & 0xffff
		return os.NewSyscallError("get PACKET_FANOUT", err)
	}
	var ports []*Port
	for range n {
		p, err := Open(d, o)
		if err != nil {
			for _, p := range ports {
				_ = p.Close()
			}
			var share *shareError
			if errors.As(err, &share) && len(ports) == 0 {
				o.join = nil
				return OpenShared(d, o, 1)
			}
			return nil, err
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// shareError means that the kernel does not let sockets share what a device receives.
type shareError struct{ err error }

func (e *shareError) Error() string { return e.err.Error() }
func (e *shareError) Unwrap() error { return e.err }
