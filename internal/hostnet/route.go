package hostnet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Route is an entry of a routing table.
type Route struct {
	To       netip.Prefix // destination; 0.0.0.0/0 or ::/0 is the default route
	Via      netip.Addr   // gateway; invalid: on the link
	Index    int          // device; 0: several, or none
	Source   netip.Addr   // preferred source address; invalid: by the kernel's choice
	Table    uint32       // 0: main
	Metric   uint32       //
	Protocol uint8        // RTPROT_, who made it: 2 kernel, 3 boot, 4 static
	Scope    uint8        // RT_SCOPE_: 0 global, 253 link
	Type     uint8        // RTN_: 0 or 1 unicast, 2 local, 3 broadcast, 7 unreachable
}

// Default says whether it is a default route.
func (r Route) Default() bool { return r.To.Bits() == 0 }

// parseRoute reads an RTM_NEWROUTE or RTM_DELROUTE message; rtnetlink(7).
func parseRoute(b []byte) (Route, error) {
	if len(b) < unix.SizeofRtMsg {
		return Route{}, errMalformed
	}
	bits := int(b[1])
	r := Route{Table: uint32(b[4]), Protocol: b[5], Scope: b[6], Type: b[7]}
	var to netip.Addr
	switch b[0] {
	case unix.AF_INET:
		to = netip.IPv4Unspecified()
	case unix.AF_INET6:
		to = netip.IPv6Unspecified()
	default:
		return Route{}, errMalformed
	}
	eachAttribute(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_DST:
			to, _ = netip.AddrFromSlice(v)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(v)
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			r.Index = int(number(v))
		case unix.RTA_TABLE:
			r.Table = number(v)
		case unix.RTA_PRIORITY:
			r.Metric = number(v)
		}
	})
	if !to.IsValid() || bits > to.BitLen() {
		return Route{}, errMalformed
	}
	r.To = netip.PrefixFrom(to, bits)
	return r, nil
}

// Routes lists the main table's routes through a device; through any if index is 0.
func (h *Host) Routes(index int) ([]Route, error) {
	var list []Route
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := h.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, routeMessage(fam))
		if err != nil {
			return nil, wrap("list routes", "", err)
		}
		for _, b := range msgs {
			r, err := parseRoute(b)
			if err != nil {
				continue // other families than asked for: multicast routing
			}
			const cloned = unix.RTM_F_CLONED
			if r.Table != unix.RT_TABLE_MAIN || binary.NativeEndian.Uint32(b[8:])&cloned != 0 {
				continue
			}
			if index == 0 || r.Index == index {
				list = append(list, r)
			}
		}
	}
	return list, nil
}

// RouteTo asks the kernel how it would send to an address, a multicast group too: the device, the
// gateway if any, and the source address. ErrNotFound if there is no route.
func (h *Host) RouteTo(to netip.Addr) (Route, error) {
	m := routeMessage(family(to))
	m.Dst_len = uint8(to.BitLen())
	b, err := h.get(unix.RTM_GETROUTE, m, attribute(unix.RTA_DST, to.AsSlice()))
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return Route{}, &OpError{Op: "find route to", Object: to.String(), Err: noRouteError{err}}
	case err != nil:
		return Route{}, wrap("find route to", to.String(), err)
	}
	r, err := parseRoute(b)
	if err == nil && (r.Type == unix.RTN_UNREACHABLE || r.Type == unix.RTN_BLACKHOLE || r.Type == unix.RTN_PROHIBIT) {
		err = noRouteError{unix.ENETUNREACH}
	}
	return r, wrap("find route to", to.String(), err)
}

// RouteDevices lists the devices by which the kernel may send to an address: several where the route has several
// next hops. None without a route, and for this host's own addresses.
func (h *Host) RouteDevices(to netip.Addr) ([]int, error) {
	b, err := h.tableRoute(to, routeMessage(family(to)))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, wrap("find route to", to.String(), err)
	case len(b) < unix.SizeofRtMsg:
		return nil, wrap("find route to", to.String(), errMalformed)
	}
	if kind := b[7]; kind != unix.RTN_UNICAST && kind != unix.RTN_UNSPEC {
		return nil, nil
	}
	var devices []int
	add := func(index int) {
		if index != 0 && !slices.Contains(devices, index) {
			devices = append(devices, index)
		}
	}
	eachAttribute(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_OIF:
			add(int(number(v)))
		case unix.RTA_MULTIPATH:
			for len(v) >= unix.SizeofRtNexthop {
				n := int(binary.NativeEndian.Uint16(v))
				if n < unix.SizeofRtNexthop || n > len(v) {
					return
				}
				add(int(number(v[4:])))
				v = v[min(len(v), (n+3)&^3):]
			}
		}
	})
	return devices, nil
}

// NextHop asks the kernel by which neighbour of a device it sends from one of its addresses to another host: the gateway, or the host
// itself if that is on the link. The zero Addr: that is not one neighbour of the same family for all packets, since there are several
// next hops, or an encapsulation. ErrNotFound if there is no route by that device.
func (h *Host) NextHop(from, to netip.Addr, index int) (netip.Addr, error) {
	m := routeMessage(family(to))
	m.Src_len = uint8(from.BitLen())
	b, err := h.tableRoute(to, m, attribute(unix.RTA_SRC, from.AsSlice()), numberAttribute(unix.RTA_OIF, uint32(index)))
	if err != nil {
		return netip.Addr{}, wrap("find next hop to", to.String(), err)
	}
	via, err := parseNextHop(b, to, index)
	return via, wrap("find next hop to", to.String(), err)
}

func parseNextHop(b []byte, to netip.Addr, index int) (netip.Addr, error) {
	r, err := parseRoute(b)
	if err != nil {
		return netip.Addr{}, err
	}
	if r.Type != unix.RTN_UNICAST {
		return netip.Addr{}, noRouteError{unix.ENETUNREACH}
	}
	several := false
	eachAttribute(b[unix.SizeofRtMsg:], func(kind uint16, _ []byte) {
		switch kind {
		case unix.RTA_MULTIPATH, unix.RTA_VIA, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
			several = true
		}
	})
	switch {
	case several:
		return netip.Addr{}, nil
	case r.Index != index:
		return netip.Addr{}, noRouteError{unix.ENETUNREACH}
	case r.Via.IsValid():
		return r.Via, nil
	}
	return to, nil
}

// tableRoute asks for the route to an address as it stands in the table, and not for one next hop of it (Linux 4.13), as an
// RTM_NEWROUTE message; noRouteError if there is none.
func (h *Host) tableRoute(to netip.Addr, m *nl.RtMsg, parts ...nl.NetlinkRequestData) ([]byte, error) {
	m.Dst_len, m.Flags = uint8(to.BitLen()), unix.RTM_F_FIB_MATCH
	b, err := h.get(unix.RTM_GETROUTE, append([]nl.NetlinkRequestData{m, attribute(unix.RTA_DST, to.AsSlice())}, parts...)...)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) {
		err = noRouteError{err}
	}
	return b, err
}

// noRouteError is the kernel's answer that there is no route, which matches ErrNotFound.
type noRouteError struct{ error }

func (e noRouteError) Unwrap() error        { return e.error }
func (e noRouteError) Is(target error) bool { return target == ErrNotFound }

// EnsureRoute adds a route, or replaces the one with the same destination and metric.
func (h *Host) EnsureRoute(r Route) error {
	return wrap("add route to", r.To.String(),
		h.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, routeParts(r)...))
}

func routeMessage(fam uint8) *nl.RtMsg {
	m := &nl.RtMsg{}
	m.Family = fam
	return m
}

func routeParts(r Route) []nl.NetlinkRequestData {
	m := routeMessage(family(r.To.Addr()))
	m.Dst_len = uint8(r.To.Bits())
	m.Protocol, m.Scope, m.Type = r.Protocol, r.Scope, r.Type
	if m.Protocol == 0 {
		m.Protocol = unix.RTPROT_BOOT
	}
	if m.Type == 0 {
		m.Type = unix.RTN_UNICAST
	}
	table := r.Table
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	parts := []nl.NetlinkRequestData{m, attribute(unix.RTA_DST, r.To.Masked().Addr().AsSlice()), numberAttribute(unix.RTA_TABLE, table)}
	if r.Via.IsValid() {
		parts = append(parts, attribute(unix.RTA_GATEWAY, r.Via.AsSlice()))
	} else if r.Scope == 0 && r.To.Addr().Is4() && m.Type == unix.RTN_UNICAST {
		m.Scope = unix.RT_SCOPE_LINK
	}
	if r.Index != 0 {
		parts = append(parts, numberAttribute(unix.RTA_OIF, uint32(r.Index)))
	}
	if r.Source.IsValid() {
		parts = append(parts, attribute(unix.RTA_PREFSRC, r.Source.AsSlice()))
	}
	if r.Metric != 0 {
		parts = append(parts, numberAttribute(unix.RTA_PRIORITY, r.Metric))
	}
	return parts
}
