package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FirstAtIngress tells which eBPF program sees first what a device receives, after packet sockets: the first one at
// TCX, else the filter of clsact with the lowest priority. 0: there is none, or what is first is no eBPF program.
func (h *Host) FirstAtIngress(index int) (ebpf.ProgramID, error) {
	var first ebpf.ProgramID
	err := h.Do(func() error {
		q, err := queryPrograms(index, ebpf.AttachTCXIngress)
		if err == nil && len(q.Programs) > 0 {
			first = q.Programs[0].ID
		}
		return nil // before Linux 6.6 there is no TCX
	})
	if err != nil || first != 0 {
		return first, err
	}
	filters, err := h.Filters(index, false) // first the one that runs first
	if err != nil || len(filters) == 0 {
		return 0, err
	}
	return filters[0].Program, nil
}

// XDPProgram tells which program is at a device's XDP hook, in whatever mode; 0: none.
func (h *Host) XDPProgram(index int) (ebpf.ProgramID, error) {
	var id ebpf.ProgramID
	err := retry(func() error {
		if h.handle == nil {
			return errClosed
		}
		l, err := h.handle.LinkByIndex(index)
		if err == nil && l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached {
			id = ebpf.ProgramID(l.Attrs().Xdp.ProgId)
		}
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return unix.ENODEV
		}
		return err
	})
	return id, h.wrapDevice("find the XDP program of", index, err)
}

// XDPPrograms tells which programs are at the XDP hooks of all devices, by index.
func (h *Host) XDPPrograms() (map[int]ebpf.ProgramID, error) {
	msgs, err := h.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), noStatistics)
	if err != nil {
		return nil, wrap("list devices", "", err)
	}
	found := map[int]ebpf.ProgramID{}
	for _, b := range msgs {
		if len(b) < unix.SizeofIfInfomsg {
			continue
		}
		index := int(int32(binary.NativeEndian.Uint32(b[4:])))
		eachAttribute(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
			if kind != unix.IFLA_XDP {
				return
			}
			eachAttribute(v, func(kind uint16, v []byte) {
				if id := number(v); kind == unix.IFLA_XDP_PROG_ID && id != 0 {
					found[index] = ebpf.ProgramID(id)
				}
			})
		})
	}
	return found, nil
}

// AttachXDP puts a program at a device's native XDP hook (in the driver), if there is none, or in the place of the one that
// replaced names, without a packet meeting neither. It stays when the process ends, until DetachXDP. A device that has
// another XDP program gives ErrBusy; a driver that can't run it as the device is set up, an UnsupportedError.
func (h *Host) AttachXDP(index int, prog *ebpf.Program, replaced ebpf.ProgramID) error {
	err := h.setXDP(index, prog.FD(), replaced)
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		err = unsupported("a native XDP program", xdpNeeds(err), err)
	}
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: another XDP program is attached", unix.EBUSY)
	}
	return h.wrapDevice("attach an XDP program to", index, err)
}

// DetachXDP takes a program off a device's native XDP hook. It and the device may be gone.
func (h *Host) DetachXDP(index int, id ebpf.ProgramID) error {
	err := h.setXDP(index, -1, id)
	if err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil // it is another's now, or nobody's
	}
	return h.wrapDevice("detach the XDP program of", index, err)
}

// setXDP sets what is at the native XDP hook if expected is there, 0 for nothing; IFLA_XDP of linux/if_link.h.
func (h *Host) setXDP(index, fd int, expected ebpf.ProgramID) error {
	flags := uint32(unix.XDP_FLAGS_DRV_MODE)
	there := -1
	if expected == 0 {
		flags |= unix.XDP_FLAGS_UPDATE_IF_NOEXIST
	} else {
		old, err := ebpf.NewProgramFromID(expected)
		if err != nil {
			return err
		}
		defer old.Close()
		flags |= unix.XDP_FLAGS_REPLACE
		there = old.FD()
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	xdp := attribute(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(unix.IFLA_XDP_FD, nl.Uint32Attr(uint32(int32(fd))))
	xdp.AddRtAttr(unix.IFLA_XDP_FLAGS, nl.Uint32Attr(flags))
	if expected != 0 {
		xdp.AddRtAttr(unix.IFLA_XDP_EXPECTED_FD, nl.Uint32Attr(uint32(int32(there))))
	}
	return h.change(unix.RTM_SETLINK, 0, msg, xdp)
}

// xdpNeeds tells what the kernel's answer asks for.
func xdpNeeds(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "as many receive queues as the other end has transmit queues (ethtool -L)"
	case errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG), errors.Is(err, unix.EINVAL):
		return "an MTU that leaves a packet in one buffer, no LRO, and a driver that runs XDP"
	default:
		return "a driver that runs XDP"
	}
}

// AttachTCX puts a program at a device's ingress, behind the programs that are there, and before the filters of clsact. It
// stays as long as the link is open. Unlike making a clsact, it loses no frame. Before Linux 6.6 there is no TCX, and the
// error is an UnsupportedError.
func (h *Host) AttachTCX(index int, prog *ebpf.Program) (bpflink.Link, error) {
	var l bpflink.Link
	err := h.Do(func() error {
		var err error
		l, err = bpflink.AttachTCX(bpflink.TCXOptions{Program: prog, Interface: index, Attach: ebpf.AttachTCXIngress, Anchor: bpflink.Tail()})
		return err
	})
	return l, h.wrapDevice("attach a TCX program to", index, tcxUnsupported(err))
}
