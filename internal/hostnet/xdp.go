package hostnet

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// FirstAtIngress tells which eBPF program sees first what a device receives, after packet sockets: the first one at
// TCX, else the filter of clsact with the lowest priority. 0: there is none, or what is first is no eBPF program.
func (h *Host) FirstAtIngress(index int) (ebpf.ProgramID, error) {
	var first ebpf.ProgramID
	err := h.Do(func() error {
		q, err := bpflink.QueryPrograms(bpflink.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
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
		return err
	})
	return id, h.wrapDevice("find the XDP program of", index, err)
}

// AttachXDP puts a program at a device's native XDP hook (in the driver). It stays as long as the link is open, or
// pinned, and nobody else can take its place. A device that has an XDP program already gives ErrBusy; a driver
// that can't run it as the device is set up, an UnsupportedError.
func (h *Host) AttachXDP(index int, prog *ebpf.Program) (bpflink.Link, error) {
	var l bpflink.Link
	err := h.Do(func() error {
		var err error
		l, err = bpflink.AttachXDP(bpflink.XDPOptions{Program: prog, Interface: index, Flags: bpflink.XDPDriverMode})
		return err
	})
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		err = unsupported("a native XDP program", xdpNeeds(err), err)
	}
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: another XDP program is attached", unix.EBUSY)
	}
	return l, h.wrapDevice("attach an XDP program to", index, err)
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
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		err = unsupported("an eBPF program at TCX", "Linux 6.6", err)
	}
	return l, h.wrapDevice("attach a TCX program to", index, err)
}
