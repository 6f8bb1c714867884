package hostnet

import (
	"encoding/binary"
	"errors"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FDBEntry says behind which port of a bridge a MAC is.
type FDBEntry struct {
	MAC    [6]byte
	Port   int    // index of the port
	Bridge int    // index of the bridge; 0 in entries of devices that are no ports
	VLAN   uint16 // 0: none
	// Local is an address of the bridge's or the port's own: nothing was learned.
	Local bool
	// Static entries were made by hand, and stay.
	Static bool
}

// HardwareAddr returns the MAC in the form of package net.
func (e FDBEntry) HardwareAddr() net.HardwareAddr { return e.MAC[:] }

// sizeofNdMsg is the size of struct ndmsg.
const sizeofNdMsg = 12

// parseFDB reads an RTM_NEWNEIGH or RTM_DELNEIGH message of family AF_BRIDGE.
func parseFDB(b []byte) (FDBEntry, error) {
	if len(b) < sizeofNdMsg || b[0] != unix.AF_BRIDGE {
		return FDBEntry{}, errMalformed
	}
	state := binary.NativeEndian.Uint16(b[8:])
	e := FDBEntry{
		Port:   int(int32(binary.NativeEndian.Uint32(b[4:]))),
		Local:  state&unix.NUD_PERMANENT != 0,
		Static: state&unix.NUD_NOARP != 0,
	}
	mac := false
	eachAttribute(b[sizeofNdMsg:], func(kind uint16, v []byte) {
		switch {
		case kind == unix.NDA_LLADDR && len(v) == len(e.MAC):
			e.MAC, mac = [6]byte(v), true
		case kind == unix.NDA_MASTER:
			e.Bridge = int(number(v))
		case kind == unix.NDA_VLAN && len(v) >= 2:
			e.VLAN = binary.NativeEndian.Uint16(v)
		}
	})
	if !mac {
		return FDBEntry{}, errMalformed
	}
	return e, nil
}

// FDB lists what a bridge knows, its own addresses included.
func (h *Host) FDB(bridge int) ([]FDBEntry, error) {
	// NTF_MASTER entries of ports; a kernel with strict checking filters by NDA_MASTER, others send
	// the entries of all bridges and of devices that are no ports.
	m := &nl.IfInfomsg{}
	m.Family = unix.AF_BRIDGE
	msgs, err := h.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, m, numberAttribute(unix.IFLA_MASTER, uint32(bridge)))
	if err != nil {
		return nil, h.wrapDevice("list forwarding database of", bridge, err)
	}
	var list []FDBEntry
	for _, b := range msgs {
		e, err := parseFDB(b)
		if err != nil || e.Bridge != bridge {
			continue
		}
		list = append(list, e)
	}
	return list, nil
}

// DeleteFDB makes a bridge forget where a MAC is. Succeeds if it does not know.
func (h *Host) DeleteFDB(e FDBEntry) error {
	err := wrap("delete forwarding entry", e.HardwareAddr().String(), h.change(unix.RTM_DELNEIGH, 0, fdbParts(e)...))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func fdbParts(e FDBEntry) []nl.NetlinkRequestData {
	m := make(raw, sizeofNdMsg)
	m[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(m[4:], uint32(e.Port))
	m[10] = unix.NTF_MASTER
	parts := []nl.NetlinkRequestData{m, attribute(unix.NDA_LLADDR, e.MAC[:])}
	if e.VLAN != 0 {
		parts = append(parts, attribute(unix.NDA_VLAN, nl.Uint16Attr(e.VLAN)))
	}
	return parts
}
