package hostnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// MaxName is the longest name of a device, in bytes: IFNAMSIZ less the terminating zero.
const MaxName = unix.IFNAMSIZ - 1

// Link is a network device as it was when asked for.
type Link struct {
	Index int              // interface index; never 0
	Name  string           //
	Kind  string           // "veth", "bridge", "vlan", … as `ip -d link` shows; "" for a device of a driver
	Alias string           // free text, `ip link set … alias`; "" for none
	MAC   net.HardwareAddr // nil for a device without addresses
	MTU   int              // bytes, without the Ethernet header
	Flags net.Flags        // FlagRunning means that it has carrier and is ready to send
	NoARP bool             // IFF_NOARP
	// Master is the index of the bridge or bond that the device is a port of; 0 for none.
	Master int
	// Partner is the index of a veth's other end, or of the device below a VLAN; 0 for none, or if
	// PartnerAway.
	Partner     int
	PartnerAway bool   // the partner is in another network namespace
	Group       uint32 // link group, `ip link set … group`
	// Bus is what a device of a driver is on: "pci", "virtio", "xen-backend" for a domain's vif; "" for what has no
	// hardware, and before Linux 5.14.
	Bus string
}

// Up says whether the device is administratively up.
func (l Link) Up() bool { return l.Flags&net.FlagUp != 0 }

// Running says whether the device is up and has carrier, so that what is sent goes out.
func (l Link) Running() bool { return l.Up() && l.Flags&net.FlagRunning != 0 }

// Stacked says whether the device gets what its Partner receives: a VLAN's, a macvlan, and the like.
func (l Link) Stacked() bool {
	switch l.Kind {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec":
		return l.Partner != 0
	}
	return false
}

// String describes the device for a person: "vnif97 (veth, index 7, MAC aa:ff:…, alias …)".
func (l Link) String() string {
	var b strings.Builder
	kind := l.Kind
	if kind == "" {
		kind = "device"
	}
	fmt.Fprintf(&b, "%s (%s, index %d", l.Name, kind, l.Index)
	if len(l.MAC) > 0 {
		fmt.Fprintf(&b, ", MAC %s", l.MAC)
	}
	if l.Alias != "" {
		fmt.Fprintf(&b, ", alias %q", l.Alias)
	}
	b.WriteByte(')')
	return b.String()
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message; rtnetlink(7).
func parseLink(b []byte) (Link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, errMalformed
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	l := Link{Index: int(int32(binary.NativeEndian.Uint32(b[4:]))), NoARP: flags&unix.IFF_NOARP != 0}
	for _, f := range [...]struct {
		bit  uint32
		flag net.Flags
	}{
		{unix.IFF_UP, net.FlagUp}, {unix.IFF_BROADCAST, net.FlagBroadcast}, {unix.IFF_LOOPBACK, net.FlagLoopback},
		{unix.IFF_POINTOPOINT, net.FlagPointToPoint}, {unix.IFF_MULTICAST, net.FlagMulticast},
		{unix.IFF_RUNNING, net.FlagRunning},
	} {
		if flags&f.bit != 0 {
			l.Flags |= f.flag
		}
	}
	eachAttribute(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = text(v)
		case unix.IFLA_IFALIAS:
			l.Alias = text(v)
		case unix.IFLA_ADDRESS:
			l.MAC = bytes.Clone(v)
		case unix.IFLA_MTU:
			l.MTU = int(number(v))
		case unix.IFLA_MASTER:
			l.Master = int(number(v))
		case unix.IFLA_LINK:
			l.Partner = int(number(v))
		case unix.IFLA_LINK_NETNSID:
			l.PartnerAway = true
		case unix.IFLA_GROUP:
			l.Group = number(v)
		case unix.IFLA_PARENT_DEV_BUS_NAME:
			l.Bus = text(v)
		case unix.IFLA_LINKINFO:
			eachAttribute(v, func(kind uint16, v []byte) {
				if kind == unix.IFLA_INFO_KIND {
					l.Kind = text(v)
				}
			})
		}
	})
	if l.PartnerAway || l.Partner == l.Index {
		l.Partner = 0
	}
	return l, nil
}

// noStatistics keeps counters out of answers: RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
var noStatistics = numberAttribute(unix.IFLA_EXT_MASK, 1<<3)

// Links lists all devices.
func (h *Host) Links() ([]Link, error) {
	return h.links("list devices", "", nl.NewIfInfomsg(unix.AF_UNSPEC), noStatistics)
}

// VLANs lists the VLAN devices, of which there may be few among many devices.
func (h *Host) VLANs() ([]Link, error) {
	err := h.Do(func() error {
		if _, err := os.Stat("/proc/thread-self/net"); err != nil {
			return nil // it can't tell
		}
		_, err := os.Stat("/proc/thread-self/net/vlan")
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel has no VLANs, or not yet, and would not know what to filter by
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("vlan"))
	all, err := h.links("list VLAN devices", "", nl.NewIfInfomsg(unix.AF_UNSPEC), noStatistics, info)
	list := all[:0]
	for _, l := range all { // a kernel that ignores the filter sends all
		if l.Kind == "vlan" {
			list = append(list, l)
		}
	}
	return list, err
}

func (h *Host) links(op, object string, parts ...nl.NetlinkRequestData) ([]Link, error) {
	msgs, err := h.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, parts...)
	if err != nil {
		return nil, wrap(op, object, err)
	}
	list := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		l, err := parseLink(m)
		if err != nil {
			return nil, wrap(op, object, err)
		}
		list = append(list, l)
	}
	return list, nil
}

// LinkByName finds a device by its name; ErrNotFound if there is none. Alternative names do not count.
func (h *Host) LinkByName(name string) (Link, error) {
	if name == "" || len(name) > MaxName {
		return Link{}, wrap("find", strconv.Quote(name), unix.ENODEV)
	}
	b, err := h.get(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), noStatistics, textAttribute(unix.IFLA_IFNAME, name))
	if err != nil {
		return Link{}, wrap("find", name, err)
	}
	l, err := parseLink(b)
	if err == nil && l.Name != name {
		err = unix.ENODEV // IFLA_IFNAME matches alternative names, too
	}
	return l, wrap("find", name, err)
}

// LinkByIndex finds a device by its interface index; ErrNotFound if there is none.
func (h *Host) LinkByIndex(index int) (Link, error) {
	b, err := h.get(unix.RTM_GETLINK, ifinfo(index), noStatistics)
	if err != nil {
		return Link{}, wrap("find", number10(index), err)
	}
	l, err := parseLink(b)
	return l, wrap("find", number10(index), err)
}

// Ports lists the ports of a bridge or the slaves of a bond, in order of their indices.
func (h *Host) Ports(master int) ([]Link, error) {
	// With statistics: to leave them out the kernel goes over all devices once more (rtnl_calcit), and few are listed.
	list, err := h.links("list ports of", number10(master), nl.NewIfInfomsg(unix.AF_UNSPEC),
		numberAttribute(unix.IFLA_MASTER, uint32(master)))
	ports := list[:0]
	for _, l := range list { // a kernel that ignores the filter sends all
		if l.Master == master {
			ports = append(ports, l)
		}
	}
	return ports, err
}

// wrapDevice is wrap for an operation on a device, which an error names, or numbers if it is gone.
func (h *Host) wrapDevice(op string, index int, err error) error {
	if err == nil {
		return nil
	}
	object := number10(index)
	if l, errFind := h.LinkByIndex(index); errFind == nil {
		object = l.Name
	}
	return wrap(op, object, err)
}

func number10(index int) string { return "device " + strconv.Itoa(index) }

func ifinfo(index int) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	return m
}
