package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FloodMACs has domains send broadcasts, in turn, each from another MAC, as fast as one thread can, until ctx ends. sent
// counts them.
func FloodMACs(ctx context.Context, domains []*Domain, sent *atomic.Uint64) error {
	var fds, devices []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, d := range domains {
		eth, err := d.Net.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = d.Do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				fds, devices = append(fds, fd), append(devices, eth.Index)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	// An experimental EtherType; IEEE Std 802, section 9.2.4.
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0x88, 0xb5})
	for n := uint32(0); ctx.Err() == nil; n++ {
		binary.BigEndian.PutUint32(frame[8:], n)
		i := int(n) % len(fds)
		if err := unix.Sendto(fds[i], frame, 0, &unix.SockaddrLinklayer{Ifindex: devices[i]}); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		sent.Add(1)
	}
	return nil
}
