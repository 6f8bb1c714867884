package hostnet

import (
	"errors"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// set changes attributes of a device.
func (h *Host) set(op string, index int, parts ...nl.NetlinkRequestData) error {
	return h.wrapDevice(op, index, h.change(unix.RTM_SETLINK, 0, append([]nl.NetlinkRequestData{ifinfo(index)}, parts...)...))
}

// setFlag changes one IFF_ bit.
func (h *Host) setFlag(op string, index int, flag uint32, on bool) error {
	m := ifinfo(index)
	m.Change = flag
	if on {
		m.Flags = flag
	}
	return h.wrapDevice(op, index, h.change(unix.RTM_NEWLINK, 0, m))
}

// SetUp brings a device up.
func (h *Host) SetUp(index int) error { return h.setFlag("bring up", index, unix.IFF_UP, true) }

// SetDown takes a device down; the kernel flushes its routes and IPv6 addresses.
func (h *Host) SetDown(index int) error { return h.setFlag("take down", index, unix.IFF_UP, false) }

// SetNoARP switches address resolution on a device off (true) or on.
func (h *Host) SetNoARP(index int, off bool) error {
	return h.setFlag("set NOARP of", index, unix.IFF_NOARP, off)
}

// SetMTU sets the largest packet in bytes, without the Ethernet header.
func (h *Host) SetMTU(index, mtu int) error {
	return h.set("set MTU of", index, numberAttribute(unix.IFLA_MTU, uint32(mtu)))
}

// SetHardwareAddr sets the MAC. Some drivers want the device down.
func (h *Host) SetHardwareAddr(index int, mac net.HardwareAddr) error {
	return h.set("set MAC of", index, attribute(unix.IFLA_ADDRESS, mac))
}

// SetGroup sets the link group.
func (h *Host) SetGroup(index int, group uint32) error {
	return h.set("set group of", index, numberAttribute(unix.IFLA_GROUP, group))
}

// SetAlias sets the alias; "" removes it. At most 255 bytes.
func (h *Host) SetAlias(index int, alias string) error {
	return h.set("set alias of", index, attribute(unix.IFLA_IFALIAS, []byte(alias)))
}

// Alias returns a device's alias, "" for none.
func (h *Host) Alias(index int) (string, error) {
	l, err := h.LinkByIndex(index)
	return l.Alias, err
}

// SetMaster makes a device a port of the bridge master; 0 takes it off. A port of another bridge
// is moved.
func (h *Host) SetMaster(index, master int) error {
	err := h.set("set master of", index, numberAttribute(unix.IFLA_MASTER, uint32(master)))
	if errors.Is(err, unix.EINVAL) && master != 0 {
		if _, errMaster := h.LinkByIndex(master); errMaster != nil {
			return errMaster // the kernel says EINVAL if the bridge is gone
		}
	}
	return err
}

// Rename gives a device another name. Kernels before 6.2 rename only a device that is down: ErrBusy.
func (h *Host) Rename(index int, name string) error {
	return h.set("rename to "+name, index, textAttribute(unix.IFLA_IFNAME, name))
}

// Delete removes a device, and with it a veth's other end. Succeeds if it is gone already.
func (h *Host) Delete(index int) error {
	err := h.wrapDevice("delete", index, h.change(unix.RTM_DELLINK, 0, ifinfo(index)))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Move puts a device into another host's namespace; the kernel takes it down and off its bridge, and flushes its
// addresses.
func (h *Host) Move(index int, to *Host) error {
	to.ns.mu.RLock()
	defer to.ns.mu.RUnlock()
	if to.ns.file == nil {
		return h.wrapDevice("move", index, errClosed)
	}
	return h.set("move", index, numberAttribute(unix.IFLA_NET_NS_FD, uint32(to.ns.file.Fd())))
}
