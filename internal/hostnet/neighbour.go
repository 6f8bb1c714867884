package hostnet

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Neighbour is an address on the link of a device, and the MAC that ARP or neighbour discovery found for it.
type Neighbour struct {
	Index int // the device
	Addr  netip.Addr
	MAC   net.HardwareAddr
	// Permanent ones were set by hand, and are not asked for again.
	Permanent bool
}

// Neighbours lists what the kernel knows of the links of a device, or of all with index 0: entries that can be used, and not those
// that wait for an answer or got none, nor groups.
func (h *Host) Neighbours(index int) ([]Neighbour, error) {
	msgs, err := h.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, make(raw, sizeofNdMsg))
	if err != nil {
		return nil, wrap("list neighbours", "", err)
	}
	var list []Neighbour
	for _, b := range msgs {
		if n, ok := parseNeighbour(b); ok && (index == 0 || n.Index == index) {
			list = append(list, n)
		}
	}
	return list, nil
}

// parseNeighbour reads an RTM_NEWNEIGH message of IPv4 or IPv6; rtnetlink(7).
func parseNeighbour(b []byte) (n Neighbour, ok bool) {
	if len(b) < sizeofNdMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return n, false
	}
	const usable = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
	state := binary.NativeEndian.Uint16(b[8:])
	if state&usable == 0 {
		return n, false
	}
	n.Index, n.Permanent = int(int32(binary.NativeEndian.Uint32(b[4:]))), state&unix.NUD_PERMANENT != 0
	eachAttribute(b[sizeofNdMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.NDA_DST:
			n.Addr, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			n.MAC = append(net.HardwareAddr(nil), v...)
		}
	})
	return n, n.Addr.IsValid() && len(n.MAC) == 6
}

// EnsureNeighbour tells the kernel of a neighbour. One that is not permanent is used at once, and asked whether it is still there
// when it is.
func (h *Host) EnsureNeighbour(n Neighbour) error {
	m := make(raw, sizeofNdMsg)
	m[0] = family(n.Addr)
	binary.NativeEndian.PutUint32(m[4:], uint32(n.Index))
	state := uint16(unix.NUD_STALE)
	if n.Permanent {
		state = unix.NUD_PERMANENT
	}
	binary.NativeEndian.PutUint16(m[8:], state)
	parts := []nl.NetlinkRequestData{m, attribute(unix.NDA_DST, n.Addr.AsSlice()), attribute(unix.NDA_LLADDR, n.MAC)}
	return h.wrapDevice("add neighbour "+n.Addr.String()+" to", n.Index,
		h.change(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...))
}
