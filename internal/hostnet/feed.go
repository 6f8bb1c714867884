package hostnet

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Feed is a subscription for one who reads it when he wants to know: what the kernel did before a Read is told by that Read at the
// latest, which a Watch, with its goroutine and its channel, cannot promise. It is not for several goroutines, but for Wait.
type Feed struct {
	w   *watcher
	raw syscall.RawConn
	buf []byte
}

// FeedOfLinks tells of devices, of ports of bridges, and of traffic control: LinkEvent, PortEvent, TCEvent.
func (h *Host) FeedOfLinks() (*Feed, error) {
	return h.feed(&watcher{groups: []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_TC}})
}

// FeedOfFDB tells of the forwarding databases of bridges: FDBEvent.
func (h *Host) FeedOfFDB() (*Feed, error) {
	return h.feed(&watcher{groups: []uint32{unix.RTNLGRP_NEIGH}, filter: onlyBridges})
}

func (h *Host) feed(w *watcher) (*Feed, error) {
	w.host, w.buffer = h, watchBuffer
	if err := w.open(); err != nil {
		return nil, wrap("watch", "network", err)
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.file.Close()
		return nil, wrap("watch", "network", err)
	}
	return &Feed{w: w, raw: raw, buf: make([]byte, 64<<10)}, nil
}

// Close ends the subscription, and a Wait.
func (f *Feed) Close() { f.w.file.Close() }

// Wait waits until there is something to Read. It may run beside Read; its error is that of a Feed that was closed.
func (f *Feed) Wait() error {
	return f.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
}

// Read tells of all that has happened up to now, without waiting, but of not more than most messages. lost means that there was more
// than that, or than the kernel could remember: what is known must be listed anew, after this Read.
func (f *Feed) Read(most int, tell func(Event)) (lost bool, err error) {
	done := f.raw.Control(func(fd uintptr) {
		for ; ; most-- {
			if most == 0 {
				lost = true
				return
			}
			n, _, errno := unix.Recvfrom(int(fd), f.buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(errno, unix.EAGAIN):
				return
			case errors.Is(errno, unix.EINTR):
				continue
			case errors.Is(errno, unix.ENOBUFS): // netlink(7); it tells again once it is empty
				lost = true
				continue
			case errno != nil:
				err = os.NewSyscallError("recvfrom", errno)
				return
			}
			msgs, errParse := syscall.ParseNetlinkMessage(f.buf[:n])
			if errParse != nil {
				lost = true
				continue
			}
			for i := range msgs {
				if ev := parseEvent(msgs[i].Header.Type, msgs[i].Data); ev != nil {
					tell(ev)
				}
			}
		}
	})
	return lost, errors.Join(err, done)
}
