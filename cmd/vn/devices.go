package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// vn asks the kernel by the netlink library itself: package hostnet also loads eBPF programs, and a client has no
// use for the machinery of that.

// device is a network device as it was when asked for.
type device struct {
	netlink.Link
	*netlink.LinkAttrs
}

func newDevice(l netlink.Link) device { return device{l, l.Attrs()} }

// isBridge tells whether devices can be its ports.
func (d device) isBridge() bool { return d.Type() == "bridge" }

// devices lists all.
func devices() ([]device, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	list := make([]device, len(links))
	for i, l := range links {
		list[i] = newDevice(l)
	}
	return list, nil
}

// deviceByName finds a device; ok is false if there is none of that name.
func deviceByName(name string) (d device, ok bool, err error) {
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return device{}, false, nil
	case err != nil:
		return device{}, false, fmt.Errorf("find %s: %w", name, err)
	}
	return newDevice(l), true, nil
}

// theDevice is deviceByName where there must be one.
func theDevice(name string) (device, error) {
	d, ok, err := deviceByName(name)
	if err == nil && !ok {
		err = fmt.Errorf("find %s: no such device", name)
	}
	return d, err
}

// ports are the devices on a bridge.
func ports(list []device, bridge device) []string {
	var names []string
	for _, d := range list {
		if d.MasterIndex == bridge.Index {
			names = append(names, d.Name)
		}
	}
	return names
}

// ensureBridge returns a bridge that is up, and whether it was made for that.
func ensureBridge(name string) (bridge device, created bool, err error) {
	bridge, ok, err := deviceByName(name)
	if err != nil {
		return device{}, false, err
	}
	if !ok {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			return device{}, false, fmt.Errorf("create bridge %s: %w", name, err)
		}
		// Without STP, which is off, the delay means nothing; some look at it nevertheless.
		_ = os.WriteFile("/sys/class/net/"+name+"/bridge/forward_delay", []byte("0"), 0)
		if bridge, err = theDevice(name); err != nil {
			return device{}, true, err
		}
	}
	if !bridge.isBridge() {
		return device{}, false, fmt.Errorf("%s (%s) is no bridge", name, bridge.Type())
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return device{}, !ok, fmt.Errorf("bring %s up: %w", name, err)
	}
	return bridge, !ok, nil
}

// bridgeSetting reads a setting of a bridge from sysfs, "" where that is of another network namespace.
func bridgeSetting(bridge, setting string) string {
	b, err := os.ReadFile("/sys/class/net/" + bridge + "/bridge/" + setting)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
