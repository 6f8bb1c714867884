package hostnet

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Detail is what people are shown of a device besides what a Link has.
type Detail struct {
	Link
	TxQueue  int // length of the send queue, packets
	Counters Counters
	// STP and Priority are a bridge's: whether it speaks the spanning tree protocol, and the first two bytes of
	// its bridge id.
	STP      bool
	Priority uint16
	// VLANFiltering is a bridge's: its ports take and give only what their VLANs allow.
	VLANFiltering bool
	BridgeSettings
	BoundsLearned bool // the kernel knows MaxLearned
}

// Counters count since the device was made: struct rtnl_link_stats64.
type Counters struct {
	RxPackets, TxPackets, RxBytes, TxBytes, RxErrors, TxErrors, RxDropped, TxDropped, Multicast, Collisions uint64

	RxFrameErrors, RxOverruns, TxCarrierErrors, TxOverruns uint64
}

// Detail asks for the device with that index; ErrNotFound if there is none.
func (h *Host) Detail(index int) (Detail, error) {
	b, err := h.get(unix.RTM_GETLINK, ifinfo(index))
	if err != nil {
		return Detail{}, wrap("find", number10(index), err)
	}
	d := Detail{}
	if d.Link, err = parseLink(b); err != nil {
		return d, wrap("find", number10(index), err)
	}
	eachAttribute(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_TXQLEN:
			d.TxQueue = int(number(v))
		case unix.IFLA_STATS64:
			d.Counters = parseCounters(v)
		case unix.IFLA_LINKINFO:
			eachAttribute(v, func(kind uint16, v []byte) {
				if kind != unix.IFLA_INFO_DATA || d.Kind != "bridge" {
					return
				}
				eachAttribute(v, func(kind uint16, v []byte) {
					switch {
					case kind == unix.IFLA_BR_STP_STATE:
						d.STP = number(v) != 0
					case kind == unix.IFLA_BR_VLAN_FILTERING && len(v) >= 1:
						d.VLANFiltering = v[0] != 0
					case kind == unix.IFLA_BR_PRIORITY && len(v) >= 2:
						d.Priority = binary.NativeEndian.Uint16(v)
					case kind == unix.IFLA_BR_GROUP_FWD_MASK && len(v) >= 2:
						d.ForwardMask = binary.NativeEndian.Uint16(v)
					case kind == unix.IFLA_BR_FDB_MAX_LEARNED:
						d.MaxLearned, d.BoundsLearned = number(v), true
					}
				})
			})
		}
	})
	return d, nil
}

// parseCounters reads what it has of a struct rtnl_link_stats64.
func parseCounters(v []byte) Counters {
	at := func(i int) uint64 {
		if len(v) < 8*(i+1) {
			return 0
		}
		return binary.NativeEndian.Uint64(v[8*i:])
	}
	return Counters{
		RxPackets: at(0), TxPackets: at(1), RxBytes: at(2), TxBytes: at(3), RxErrors: at(4), TxErrors: at(5),
		RxDropped: at(6), TxDropped: at(7), Multicast: at(8), Collisions: at(9),
		RxOverruns: at(11), RxFrameErrors: at(13), TxCarrierErrors: at(17), TxOverruns: at(18),
	}
}
