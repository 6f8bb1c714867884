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
	group := &fanout{set: setFanout, get: getFanout}
	o.join = group.join
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

// fanout is a group of sockets that share what a device receives; packet(7), PACKET_FANOUT.
type fanout struct {
	// set and get are setsockopt(2) and getsockopt(2).
	set func(fd, value int) error
	get func(fd int) (value int, err error)

	made   bool
	number int // 0 is the one that the kernel chooses first after it started
}

// join puts a socket into the group: the kernel chooses a number for the first, which the others give.
func (g *fanout) join(fd int) error {
	mode := unix.PACKET_FANOUT_HASH | unix.PACKET_FANOUT_FLAG_IGNORE_OUTGOING
	if !g.made {
		mode |= unix.PACKET_FANOUT_FLAG_UNIQUEID
	}
	if err := g.set(fd, g.number|mode<<16); err != nil {
		return &shareError{os.NewSyscallError("set PACKET_FANOUT", err)}
	}
	if g.made {
		return nil
	}
	v, err := g.get(fd)
	if err != nil {
		return os.NewSyscallError("get PACKET_FANOUT", err)
	}
	g.made, g.number = true, v&0xffff
	return nil
}

func setFanout(fd, value int) error {
	return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, value)
}

func getFanout(fd int) (int, error) {
	return unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
}
