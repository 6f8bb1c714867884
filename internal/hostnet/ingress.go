package hostnet

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dropPriority is below every priority that a program which wants to see frames first would take.
const (
	dropPriority = 0xfff0
	dropName     = "xend_drop"
	actionShot   = 2 // TC_ACT_SHOT of linux/pkt_cls.h
)

// DropIngress makes the kernel drop whatever arrives at a device, after packet sockets have seen it:
// the host's own stack sees nothing. It stays when the process ends. Idempotent. It is a TC program
// of two instructions, or, where the kernel lacks those, a matchall filter with a drop action; where it
// lacks these too, an UnsupportedError.
func (h *Host) DropIngress(index int) error {
	err := retry(func() error { return h.dropIngress(index) })
	var unsupported *UnsupportedError
	if err == nil || errors.As(err, &unsupported) {
		return err
	}
	return h.wrapDevice("drop ingress of", index, err)
}

func (h *Host) dropIngress(index int) error {
	if h.handle == nil {
		return errClosed
	}
	if has, err := h.dropsIngress(index); err != nil || has {
		return err
	}
	if err := h.ensureClsact(index); err != nil {
		return err
	}
	at := netlink.FilterAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: dropPriority, Protocol: unix.ETH_P_ALL, Handle: 1,
	}
	errBPF := h.dropByProgram(at)
	if errBPF == nil {
		return nil
	}
	at.Handle = 0
	action := &netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_SHOT}}
	errMatch := h.handle.FilterAdd(&netlink.MatchAll{FilterAttrs: at, Actions: []netlink.Action{action}})
	if errMatch == nil || errors.Is(errMatch, unix.EEXIST) {
		return nil
	}
	return unsupported("dropping what arrives at a device",
		"eBPF programs at TC (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF), or CONFIG_NET_CLS_MATCHALL with CONFIG_NET_ACT_GACT",
		errors.Join(errBPF, errMatch))
}

// PrepareFilters makes the place for filters at a device's ingress and egress, if the kernel has such. On a device that is up
// this loses the frames that it is about to send, so it is done before.
func (h *Host) PrepareFilters(index int) error {
	err := retry(func() error {
		if h.handle == nil {
			return errClosed
		}
		return h.ensureClsact(index)
	})
	var unsupported *UnsupportedError
	if errors.As(err, &unsupported) {
		return nil
	}
	return h.wrapDevice("prepare filters of", index, err)
}

// ensureClsact makes the place for filters at a device's ingress and egress.
func (h *Host) ensureClsact(index int) error {
	err := h.handle.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0),
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) { // an earlier run's, or another program's
		return unsupported("filters at a device's ingress and egress",
			"the clsact queueing discipline (CONFIG_NET_SCH_INGRESS)", err)
	}
	return nil
}

func (h *Host) dropByProgram(at netlink.FilterAttrs) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: dropName,
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, actionShot),
			asm.Return(),
		},
		License: "Apache-2.0",
	})
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer func() { _ = prog.Close() }() // the filter keeps it
	return h.handle.FilterReplace(&netlink.BpfFilter{FilterAttrs: at, Fd: prog.FD(), Name: dropName, DirectAction: true})
}

// dropsIngress looks for the filter of an earlier call.
func (h *Host) dropsIngress(index int) (bool, error) {
	filters, err := h.filters(index, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return false, err
	}
	for _, f := range filters {
		if f.Attrs().Priority != dropPriority {
			continue
		}
		switch f := f.(type) {
		case *netlink.BpfFilter:
			if f.Name == dropName && f.DirectAction {
				return true, nil
			}
		case *netlink.MatchAll:
			return true, nil
		}
	}
	return false, nil
}

// unsupported tells a kernel that lacks something from a device that is gone.
func unsupported(what, needs string, err error) error {
	if errors.Is(err, unix.ENODEV) {
		return err
	}
	return &UnsupportedError{What: what, Needs: needs, Err: err}
}
