// Package uevent has the kernel tell events of devices that did not happen.
package uevent

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Tell has the kernel tell an event in the network namespace of the calling thread, as it does itself: root may have it do that
// (lib/kobject_uevent.c: uevent_net_rcv). The fields are "ACTION@DEVPATH" and then NAME=VALUE.
func Tell(fields ...string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	body := strings.Join(fields, "\x00") + "\x00"
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_MIN_TYPE)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(append(b, make([]byte, 8)...), body...) // sequence number, port: netlink(7)
	return os.NewSyscallError("sendto", unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}
