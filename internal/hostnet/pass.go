package hostnet

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PassIngress takes back DropIngress. Succeeds where nothing is dropped.
func (h *Host) PassIngress(index int) error {
	return h.wrapDevice("pass ingress of", index, retry(func() error { return h.passIngress(index) }))
}

func (h *Host) passIngress(index int) error {
	if h.handle == nil {
		return errClosed
	}
	has, err := h.dropsIngress(index)
	if err != nil || !has {
		return err
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	filters, err := h.handle.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if f.Attrs().Priority != dropPriority {
			continue
		}
		if err := h.handle.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
