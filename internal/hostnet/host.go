// Package hostnet has idempotent verbs over netlink: ensure a bridge, a pair, an address, a route,
// and watch them. A Host is bound to the network namespace in which New was called, whatever
// goroutine or thread uses it afterwards. Devices are named by interface index wherever that is
// possible, since names move. It is the only package that deals with what netlink does under load: interrupted
// dumps, busy devices, overflowing subscriptions.
package hostnet

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// requestTimeout bounds the wait for the kernel's answer, which normally takes microseconds; rtnl
// may be held for seconds while many devices go away.
const requestTimeout = 30 * time.Second

// Host is the network of one namespace. Its methods may be called from any goroutine.
type Host struct {
	ns      *namespace
	sockets map[int]*nl.SocketHandle // our own requests; serialised by the socket's lock
	handle  *netlink.Handle          // the library's, for qdiscs and filters
}

// New binds a Host to the network namespace of the calling thread. A caller that has entered
// another namespace must have locked its thread.
func New() (*Host, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	ns, err := currentNamespace()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	h := &Host{ns: ns}
	if err := h.open(); err != nil {
		h.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return h, nil
}

func (h *Host) open() error {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	h.sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	tv := unix.NsecToTimeval(requestTimeout.Nanoseconds())
	if err := s.SetSendTimeout(&tv); err != nil {
		return err
	}
	if err := s.SetReceiveTimeout(&tv); err != nil {
		return err
	}
	// The kernel's own sentence in error texts; kernels before 4.12 have none.
	_ = s.SetExtAck(true)
	// A dump of a few thousand links must not overflow (netlink(7): ENOBUFS).
	_ = s.SetReceiveBufferSize(1<<20, true)

	h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	return h.handle.SetSocketTimeout(requestTimeout)
}

// Close releases the sockets. Watches end by their own contexts.
func (h *Host) Close() {
	for _, s := range h.sockets {
		s.Close()
	}
	h.sockets = nil
	if h.handle != nil {
		h.handle.Close()
		h.handle = nil
	}
	h.ns.close()
}

// Do runs fn in the host's network namespace: in the calling goroutine where that is there already,
// else on a thread of its own that ends afterwards. Sockets opened by fn belong to the namespace;
// goroutines started by fn do not. A panic or runtime.Goexit of fn is passed on to the caller.
func (h *Host) Do(fn func() error) error { return h.ns.do(fn) }

// Path is a file name of the namespace for nsenter(1) or a bind mount, valid while the Host is open.
func (h *Host) Path() string {
	h.ns.mu.RLock()
	defer h.ns.mu.RUnlock()
	if h.ns.file == nil {
		return ""
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.file.Fd())
}

// Inode tells the namespace apart from others: the number in the link /proc/PID/ns/net.
func (h *Host) Inode() uint64 { return h.ns.id.ino }
