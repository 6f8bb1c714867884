// Package mmsg receives and sends many messages by one system call: recvmmsg(2) and sendmmsg(2). The calls are raw: the
// scheduler is not told of them, since they do not block, and a worker that lost its processor meanwhile would have to
// wait for another one.
package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Hdr is struct mmsghdr.
type Hdr struct {
	Hdr unix.Msghdr
	Len uint32 // bytes received or sent
}

// Recv receives messages that are there, at most len(msgs), which must not be 0. The error is 0 for none; EAGAIN means
// that nothing is there.
func Recv(fd int, msgs []Hdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// Send sends messages, which must not be none, and returns how many went. The error is 0 for none, and else that of the
// first; EAGAIN means that there is no room.
func Send(fd int, msgs []Hdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}
