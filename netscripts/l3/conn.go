package l3

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// requestTimeoutSeconds bounds the wait for the kernel's answer; the routing lock may be held for seconds
// while many devices go away.
const requestTimeoutSeconds = 30

// dumpTries bounds how often a list is read again that changed while it was read.
const dumpTries = 50

// Conn is a route netlink socket; rtnetlink(7). It is not for concurrent use.
type Conn struct {
	sockets map[int]*nl.SocketHandle

	// Before, if set, is called before each change with a description of it; an error of it is
	// returned instead of making the change. Tests fail or kill the program there.
	Before func(what string) error
}

// Open opens a connection in the network namespace of the calling thread.
func Open() (*Conn, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	c := &Conn{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}
	tv := unix.Timeval{Sec: requestTimeoutSeconds}
	if err := errors.Join(s.SetSendTimeout(&tv), s.SetReceiveTimeout(&tv)); err != nil {
		c.Close()
		return nil, fmt.Errorf("set up a netlink socket: %w", err)
	}
	// The kernel's own sentence in error texts; kernels before 4.12 have none.
	_ = s.SetExtAck(true)
	// A full routing table must not overflow the socket (netlink(7): ENOBUFS).
	_ = s.SetReceiveBufferSize(4<<20, true)
	return c, nil
}

// Close releases the socket.
func (c *Conn) Close() {
	for _, s := range c.sockets {
		s.Close()
	}
	c.sockets = nil
}

// change sends a request and waits for the acknowledgement. Errors name what was tried.
func (c *Conn) change(what string, kind, flags int, body []byte) error {
	if c.Before != nil {
		if err := c.Before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	err := c.request(kind, flags|unix.NLM_F_ACK, body, func([]byte) {})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// dump calls keep for every message of a list and returns those it returns true for. The list is
// whole: a dump that was interrupted by a change is repeated.
func (c *Conn) dump(kind int, body []byte, keep func(b []byte) bool) ([][]byte, error) {
	for try := 1; ; try++ {
		var list [][]byte
		err := c.request(kind, unix.NLM_F_DUMP, body, func(b []byte) {
			if keep(b) {
				list = append(list, append([]byte(nil), b...))
			}
		})
		if err == nil {
			return list, nil
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) || try == dumpTries {
			return nil, err
		}
	}
}

func (c *Conn) request(kind, flags int, body []byte, each func([]byte)) error {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = c.sockets
	req.RawData = body
	return req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(b []byte) bool {
		each(b)
		return true
	})
}
