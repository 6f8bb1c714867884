package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Classifier is an eBPF program at TC: a direct-action filter of a device's clsact queueing discipline. It
// stays when the process ends. Filters of others on the same device run before it, by their lower
// priority, and after it if it says TC_ACT_UNSPEC.
type Classifier struct {
	Index    int    // of the device
	Egress   bool   // at its egress, else at its ingress
	Priority uint16 // 1 runs first
	Name     string // told by `tc filter show`; two of one name, place and priority are one
}

func (c Classifier) attrs() netlink.FilterAttrs {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if c.Egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return netlink.FilterAttrs{LinkIndex: c.Index, Parent: parent, Priority: c.Priority, Protocol: unix.ETH_P_ALL, Handle: 1}
}

// AttachClassifier puts a program in a classifier's place. A program that is there already is replaced
// without a packet going past both. A filter of another kind or name in its place is a NotOursError; a
// kernel that lacks what it takes is an UnsupportedError.
func (h *Host) AttachClassifier(c Classifier, prog *ebpf.Program) error {
	err := retry(func() error { return h.attachClassifier(c, prog) })
	var unsupported *UnsupportedError
	if err == nil || errors.As(err, &unsupported) {
		return err
	}
	return h.wrapDevice("attach "+c.Name+" to", c.Index, err)
}

func (h *Host) attachClassifier(c Classifier, prog *ebpf.Program) error {
	if h.handle == nil {
		return errClosed
	}
	if err := h.ensureClsact(c.Index); err != nil {
		return err
	}
	there, err := h.classifierAt(c)
	if err != nil {
		return err
	}
	if there != nil && there.Name != c.Name {
		return fmt.Errorf("%w: a filter %q has priority %d", ErrExists, there.Name, c.Priority)
	}
	err = h.handle.FilterReplace(&netlink.BpfFilter{FilterAttrs: c.attrs(), Fd: prog.FD(), Name: c.Name, DirectAction: true})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return unsupported("an eBPF program at TC", "CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF (modprobe cls_bpf)", err)
	}
	return err
}

// DetachClassifier takes a classifier off its device, if it is there. The device may be gone.
func (h *Host) DetachClassifier(c Classifier) error {
	err := retry(func() error {
		if h.handle == nil {
			return errClosed
		}
		there, err := h.classifierAt(c)
		if err != nil || there == nil || there.Name != c.Name {
			return err
		}
		return h.handle.FilterDel(there)
	})
	if err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return h.wrapDevice("detach "+c.Name+" from", c.Index, err)
}

// classifierAt is the eBPF filter in a classifier's place; nil if there is none.
func (h *Host) classifierAt(c Classifier) (*netlink.BpfFilter, error) {
	at := c.attrs()
	filters, err := h.filters(c.Index, at.Parent)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == at.Priority {
			return b, nil
		}
	}
	return nil, nil
}

// Filter is a filter of a device's clsact, of whoever.
type Filter struct {
	Priority uint16
	// Name is an eBPF program's, as `tc filter show` tells it; "" for filters of other kinds.
	Name string
	// Program is the id of an eBPF program, 0 for filters of other kinds.
	Program ebpf.ProgramID
}

// filters are those at a device's ingress or egress, HANDLE_MIN_INGRESS or HANDLE_MIN_EGRESS; none without a clsact.
func (h *Host) filters(index int, parent uint32) ([]netlink.Filter, error) {
	if h.handle == nil {
		return nil, errClosed
	}
	list, err := h.handle.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, parent)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return list, err
}

// Filters lists what is at a device's ingress or egress, first the one that runs first; none without a clsact.
func (h *Host) Filters(index int, egress bool) ([]Filter, error) {
	var out []Filter
	err := retry(func() error {
		out = nil
		filters, err := h.filters(index, Classifier{Index: index, Egress: egress}.attrs().Parent)
		if err != nil {
			return err
		}
		for _, f := range filters {
			x := Filter{Priority: f.Attrs().Priority}
			if b, ok := f.(*netlink.BpfFilter); ok {
				x.Name, x.Program = b.Name, ebpf.ProgramID(b.Id)
			}
			out = append(out, x)
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b Filter) int { return cmp.Compare(a.Priority, b.Priority) })
	return out, h.wrapDevice("list filters of", index, err)
}
