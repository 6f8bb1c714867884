package hostnet

import (
	"encoding/binary"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// BridgePort is what a bridge knows of one of its ports.
type BridgePort struct {
	Index  int // of the port
	Bridge int // index of the bridge
	PortSettings
}

// PortSettings are what can be set of a bridge's port, by bridge(8) for example.
type PortSettings struct {
	// VLANs are ranges in ascending order. A kernel without VLANs in bridges has none.
	VLANs []VLANRange
	// Flags are those of PortFlags that are on, bit by bit; Known are those that the kernel has.
	Flags, Known uint16
}

// VLANRange is the VLANs First to Last of a port that are treated alike; a single one has its id twice.
type VLANRange struct {
	First, Last uint16 // 1 to 4094
	PVID        bool   // untagged frames that come in are of this VLAN
	Untagged    bool   // frames go out without a tag
}

// portFlags are the attributes of the flags, IFLA_BRPORT_ of linux/if_link.h, in the order of their bits.
var portFlags = [...]uint16{
	unix.IFLA_BRPORT_MODE /* hairpin */, unix.IFLA_BRPORT_GUARD, unix.IFLA_BRPORT_PROTECT, unix.IFLA_BRPORT_FAST_LEAVE,
	unix.IFLA_BRPORT_LEARNING, unix.IFLA_BRPORT_UNICAST_FLOOD, unix.IFLA_BRPORT_MCAST_FLOOD,
	unix.IFLA_BRPORT_MCAST_TO_UCAST, unix.IFLA_BRPORT_BCAST_FLOOD, unix.IFLA_BRPORT_NEIGH_SUPPRESS,
	unix.IFLA_BRPORT_ISOLATED, unix.IFLA_BRPORT_LOCKED,
}

// Two of PortSettings.Flags.
const (
	PortLearning uint16 = 1 << 4  // MACs behind the port are learned
	PortIsolated uint16 = 1 << 10 // the port talks to ports that are not isolated only
)

// PortEvent is a port that a bridge got, whose settings changed, or that left.
type PortEvent struct {
	Port BridgePort // as it is now; as it was, if Gone
	Gone bool
}

func (PortEvent) event() {}

// parseBridgePort reads an RTM_NEWLINK or RTM_DELLINK message of family AF_BRIDGE. The bridge's own is refused.
func parseBridgePort(b []byte) (BridgePort, error) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_BRIDGE {
		return BridgePort{}, errMalformed
	}
	p := BridgePort{Index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
	eachAttribute(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_MASTER:
			p.Bridge = int(number(v))
		case unix.IFLA_PROTINFO:
			eachAttribute(v, func(kind uint16, v []byte) {
				if bit := slices.Index(portFlags[:], kind); bit >= 0 && len(v) == 1 {
					p.Known |= 1 << bit
					p.Flags |= uint16(min(v[0], 1)) << bit
				}
			})
		case unix.IFLA_AF_SPEC:
			p.VLANs = parseVLANs(v)
		}
	})
	if p.Bridge == 0 || p.Bridge == p.Index {
		return BridgePort{}, errMalformed
	}
	return p, nil
}

const maxVLAN = 4094

// parseVLANs reads IFLA_BRIDGE_VLAN_INFO attributes: single VLANs, and pairs that begin and end a range.
func parseVLANs(b []byte) []VLANRange {
	var list []VLANRange
	first := uint16(0) // of a range that has begun
	eachAttribute(b, func(kind uint16, v []byte) {
		if kind != nl.IFLA_BRIDGE_VLAN_INFO || len(v) < nl.SizeofBridgeVlanInfo {
			return
		}
		flags, id := binary.NativeEndian.Uint16(v), binary.NativeEndian.Uint16(v[2:])
		if flags&nl.BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
			first = id
			return
		}
		r := VLANRange{
			First: id, Last: id, PVID: flags&nl.BRIDGE_VLAN_INFO_PVID != 0, Untagged: flags&nl.BRIDGE_VLAN_INFO_UNTAGGED != 0,
		}
		if flags&nl.BRIDGE_VLAN_INFO_RANGE_END != 0 {
			r.First = first
		}
		if 0 < r.First && r.First <= r.Last && r.Last <= maxVLAN && len(list) < maxVLAN {
			list = append(list, r)
		}
	})
	return list
}

// BridgePorts lists the ports of all bridges.
func (h *Host) BridgePorts() ([]BridgePort, error) {
	msgs, err := h.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_BRIDGE),
		numberAttribute(unix.IFLA_EXT_MASK, uint32(nl.RTEXT_FILTER_BRVLAN_COMPRESSED)))
	if err != nil {
		return nil, wrap("list ports of bridges", "", err)
	}
	var list []BridgePort
	for _, b := range msgs {
		if p, err := parseBridgePort(b); err == nil {
			list = append(list, p)
		}
	}
	return list, nil
}

// SetPort makes a bridge's port have such settings: no other VLANs, and all flags that are known. What is so already is
// not touched. ErrNotFound if the device is no port.
func (h *Host) SetPort(index int, want PortSettings) error {
	list, err := h.BridgePorts()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(list, func(p BridgePort) bool { return p.Index == index })
	if at < 0 {
		return h.wrapDevice("find bridge of", index, unix.ENODEV)
	}
	have := list[at].PortSettings
	if flags := (have.Flags ^ want.Flags) & have.Known & want.Known; flags != 0 {
		if err := h.setPortFlags(index, flags, want.Flags); err != nil {
			return h.wrapDevice("set flags of port", index, err)
		}
	}
	remove, add := changedVLANs(have.VLANs, want.VLANs)
	port := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}} // the library asks for the index only
	for _, r := range remove {
		err := retry(func() error { return h.handle.BridgeVlanDelRange(port, r.First, r.end(), false, false, false, true) })
		if err != nil {
			return h.wrapDevice("remove VLANs of port", index, err)
		}
	}
	for _, r := range add {
		err := retry(func() error {
			return h.handle.BridgeVlanAddRange(port, r.First, r.end(), r.PVID, r.Untagged, false, true)
		})
		if err != nil {
			return h.wrapDevice("add VLANs to port", index, err)
		}
	}
	return nil
}

// end is what the library wants as the end of a range: 0 for a single VLAN, since the kernel refuses a range of one.
func (r VLANRange) end() uint16 {
	if r.First == r.Last {
		return 0
	}
	return r.Last
}

func (h *Host) setPortFlags(index int, which, values uint16) error {
	m := nl.NewIfInfomsg(unix.AF_BRIDGE)
	m.Index = int32(index)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for bit, kind := range portFlags {
		if which&(1<<bit) != 0 {
			info.AddRtAttr(int(kind), nl.Uint8Attr(uint8(values>>bit&1)))
		}
	}
	return h.change(unix.RTM_SETLINK, 0, m, info)
}

// changedVLANs says what is to be removed, and then added, to get from one to the other.
func changedVLANs(have, want []VLANRange) (remove, add []VLANRange) {
	a, b := eachVLAN(have), eachVLAN(want)
	for id := uint16(1); id <= maxVLAN; id++ {
		switch {
		case a[id] == b[id]:
		case b[id].First == 0:
			remove = extend(remove, a[id])
		default:
			add = extend(add, b[id])
		}
	}
	return remove, add
}

// eachVLAN has each VLAN by its id; First is 0 where there is none.
func eachVLAN(list []VLANRange) *[maxVLAN + 1]VLANRange {
	var all [maxVLAN + 1]VLANRange
	for _, r := range list {
		for id := int(r.First); id <= int(min(r.Last, maxVLAN)); id++ {
			all[id] = VLANRange{uint16(id), uint16(id), r.PVID, r.Untagged}
		}
	}
	return &all
}

// extend appends a VLAN to ranges; the PVID stays alone.
func extend(list []VLANRange, v VLANRange) []VLANRange {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.Last+1 == v.First && !last.PVID && !v.PVID && last.Untagged == v.Untagged {
			last.Last = v.Last
			return list
		}
	}
	return append(list, v)
}
