package hostnet

import (
	"context"
	"encoding/binary"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Event is something that happened to the network: LinkEvent, PortEvent, AddressEvent, RouteEvent or ResyncEvent from
// Watch, FDBEvent or ResyncEvent from WatchFDB, TCEvent or ResyncEvent from WatchTC.
type Event interface{ event() }

// LinkEvent is a device that appeared, changed or vanished.
type LinkEvent struct {
	Link Link // as it is now; as it was, if Gone
	Gone bool
}

// AddressEvent is an address that came, changed or went.
type AddressEvent struct {
	Address Address
	Gone    bool
}

// RouteEvent is a route that came, changed or went.
type RouteEvent struct {
	Route Route
	Gone  bool
}

// FDBEvent is a MAC that a bridge learned behind a port, moved to it, or forgot.
type FDBEvent struct {
	Entry FDBEntry
	Gone  bool
}

// TCEvent is a filter or queueing discipline of a device that came, changed or went. Programs at TCX make none.
type TCEvent struct {
	Index int // of the device; 0: of several, which share a block of filters
}

// ResyncEvent means that events were lost: what is known must be listed anew.
type ResyncEvent struct{}

func (LinkEvent) event()    {}
func (AddressEvent) event() {}
func (RouteEvent) event()   {}
func (FDBEvent) event()     {}
func (TCEvent) event()      {}
func (ResyncEvent) event()  {}

const (
	watchBuffer = 4 << 20 // bytes in the kernel: about a thousand links that come at once
	watchQueue  = 64      // events between the watcher and a reader that is busy
	reopenWait  = time.Second
)

// Watch reports events until ctx ends; then the channel is closed. What happens after Watch has
// returned is reported, so that a caller who lists first after that misses nothing. A reader that is too
// slow loses events, and is told by a ResyncEvent.
func (h *Host) Watch(ctx context.Context) (<-chan Event, error) { return h.watch(ctx, watchBuffer) }

// WatchFDB is Watch for the forwarding databases of bridges. Whoever sends frames to a bridge makes such events, as
// many as they like: these do not get in the way of others.
func (h *Host) WatchFDB(ctx context.Context) (<-chan Event, error) {
	return h.subscribe(ctx, &watcher{buffer: watchBuffer, groups: []uint32{unix.RTNLGRP_NEIGH}, filter: onlyBridges})
}

// WatchTC is Watch for traffic control, tc(8).
func (h *Host) WatchTC(ctx context.Context) (<-chan Event, error) {
	return h.subscribe(ctx, &watcher{buffer: watchBuffer, groups: []uint32{unix.RTNLGRP_TC}})
}

func (h *Host) watch(ctx context.Context, buffer int) (<-chan Event, error) {
	return h.subscribe(ctx, &watcher{buffer: buffer, groups: []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	}})
}

// onlyBridges keeps the neighbours of IPv4 and IPv6 out of a subscription: ndm_family is not AF_BRIDGE.
var onlyBridges = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: unix.SizeofNlMsghdr},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_BRIDGE, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

func (h *Host) subscribe(ctx context.Context, w *watcher) (<-chan Event, error) {
	w.host, w.events = h, make(chan Event, watchQueue)
	if err := w.open(); err != nil {
		return nil, wrap("watch", "network", err)
	}
	go w.run(ctx)
	return w.events, nil
}

// AwaitRunning waits until a device is Running: after it was brought up, the kernel takes a moment to notice the
// carrier, and drops what is sent meanwhile.
func (h *Host) AwaitRunning(ctx context.Context, index int) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	events, err := h.Watch(ctx)
	if err != nil {
		return err
	}
	for {
		l, err := h.LinkByIndex(index)
		if err != nil || l.Running() {
			return err
		}
		for about := false; !about; {
			ev, open := <-events
			if !open {
				return wrap("wait for the link of", l.Name, ctx.Err())
			}
			switch ev := ev.(type) {
			case LinkEvent:
				about = ev.Link.Index == index
			case ResyncEvent:
				about = true
			}
		}
	}
}

type watcher struct {
	host     *Host
	buffer   int      // of the socket, in bytes
	protocol int      // NETLINK_, by default NETLINK_ROUTE
	groups   []uint32 // RTNLGRP_ or NFNLGRP_
	filter   []unix.SockFilter
	file     *os.File // the subscription
	events   chan Event
}

func (w *watcher) open() error {
	return w.host.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, w.protocol)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, w.buffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, w.buffer) // not root: as much as may be
		}
		if len(w.filter) > 0 {
			program := unix.SockFprog{Len: uint16(len(w.filter)), Filter: &w.filter[0]}
			if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
				unix.Close(fd)
				return os.NewSyscallError("attach filter", err)
			}
		}
		var groups uint32
		for _, g := range w.groups {
			groups |= 1 << (g - 1)
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			unix.Close(fd)
			return os.NewSyscallError("bind", err)
		}
		w.file = os.NewFile(uintptr(fd), "netlink")
		return nil
	})
}

// run reads until ctx ends. After an overflow the kernel drops events silently until the socket's
// queue has been empty once, so the old subscription is thrown away with what is in it: only what is
// listed after the new one began is right.
func (w *watcher) run(ctx context.Context) {
	defer close(w.events)
	for {
		w.read(ctx)
		w.file.Close()
		if ctx.Err() != nil {
			return
		}
		for w.open() != nil { // out of file descriptors, say
			select {
			case <-ctx.Done():
				return
			case <-time.After(reopenWait):
			}
		}
		if !w.send(ctx, ResyncEvent{}) {
			w.file.Close()
			return
		}
	}
}

// read sends events until ctx ends or the subscription breaks: ENOBUFS; netlink(7).
func (w *watcher) read(ctx context.Context) {
	file := w.file
	stop := context.AfterFunc(ctx, func() { file.Close() })
	defer stop()
	b := make([]byte, 64<<10) // the kernel sends at most 32 KiB at once
	for {
		n, err := file.Read(b)
		if err != nil {
			return
		}
		// Each message is parsed from b at once, and what is kept of it is copied.
		msgs, err := syscall.ParseNetlinkMessage(b[:n])
		if err != nil {
			return
		}
		for i := range msgs {
			if ev := parseEvent(msgs[i].Header.Type, msgs[i].Data); ev != nil && !w.send(ctx, ev) {
				return
			}
		}
	}
}

func (w *watcher) send(ctx context.Context, ev Event) bool {
	select {
	case w.events <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// parseEvent reads a message of a subscription; nil for one that is of no interest here.
func parseEvent(kind uint16, b []byte) Event {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A bridge tells of its ports in messages of family AF_BRIDGE, among them an RTM_DELLINK of a
		// port that leaves; that it left comes as an ordinary RTM_NEWLINK, too.
		if p, err := parseBridgePort(b); err == nil {
			return PortEvent{Port: p, Gone: kind == unix.RTM_DELLINK}
		}
		if len(b) == 0 || b[0] != unix.AF_UNSPEC {
			return nil
		}
		if l, err := parseLink(b); err == nil {
			return LinkEvent{Link: l, Gone: kind == unix.RTM_DELLINK}
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, err := parseAddress(b); err == nil {
			return AddressEvent{Address: a, Gone: kind == unix.RTM_DELADDR}
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if r, err := parseRoute(b); err == nil && binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED == 0 {
			return RouteEvent{Route: r, Gone: kind == unix.RTM_DELROUTE}
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if e, err := parseFDB(b); err == nil && e.Bridge != 0 {
			return FDBEvent{Entry: e, Gone: kind == unix.RTM_DELNEIGH}
		}
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER, unix.RTM_NEWCHAIN, unix.RTM_DELCHAIN, unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		if len(b) >= nl.SizeofTcMsg { // struct tcmsg of linux/rtnetlink.h, with the index behind the family
			index := int32(binary.NativeEndian.Uint32(b[4:]))
			return TCEvent{Index: int(max(0, index))} // TCM_IFINDEX_MAGIC_BLOCK is -1
		}
	}
	return nil
}
