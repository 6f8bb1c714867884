package l3

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Descriptions for error texts, dry runs and status. They name devices by index, which stays when
// names change; Lines replaces the indices by names.

// Lines describes the state for a person, a line for each address, next hop, route and neighbour
// that somebody set; what the kernel derives by itself is left out. name tells a device's name.
func (s State) Lines(name func(index int) string) []string {
	var lines []string
	for _, b := range s.Addresses {
		lines = append(lines, describe(b, addressHead, name, addressText))
	}
	for _, b := range s.Nexthops {
		lines = append(lines, describe(b, nexthopHead, name, nexthopText))
	}
	for _, b := range s.Routes {
		if m, err := parse(b, routeHead); err == nil && m.head[routeProtocol] == unix.RTPROT_KERNEL {
			continue
		}
		lines = append(lines, describe(b, routeHead, name, routeText))
	}
	for _, b := range s.Neighbours {
		lines = append(lines, describe(b, neighbourHead, name, neighbourText))
	}
	return lines
}

func number10(index int) string { return fmt.Sprintf("device %d", index) }

func describeAddress(b []byte) string   { return describe(b, addressHead, number10, addressText) }
func describeNexthop(b []byte) string   { return describe(b, nexthopHead, number10, nexthopText) }
func describeRoute(b []byte) string     { return describe(b, routeHead, number10, routeText) }
func describeNeighbour(b []byte) string { return describe(b, neighbourHead, number10, neighbourText) }

func describe(b []byte, head int, name func(int) string, text func(m message, name func(int) string) string) string {
	m, err := parse(b, head)
	if err != nil {
		return fmt.Sprintf("%d bytes that are no message", len(b))
	}
	return text(m, name)
}

func ip(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return fmt.Sprintf("%x", b)
}

func addressText(m message, name func(int) string) string {
	a, ok := m.get(unix.IFA_LOCAL)
	if !ok {
		a, _ = m.get(unix.IFA_ADDRESS)
	}
	text := fmt.Sprintf("address %s/%d on %s", ip(a), m.head[1], name(int(addressIndex(m.head))))
	if v, ok := m.get(unix.IFA_CACHEINFO); ok && len(v) >= 8 && number(v[4:]) != forever {
		text += fmt.Sprintf(" for %d s", number(v[4:]))
	}
	return text
}

func nexthopText(m message, name func(int) string) string {
	text := fmt.Sprintf("next hop %d", m.number(unix.NHA_ID))
	if ids := groupMembers(m); ids != nil {
		return text + fmt.Sprintf(" (group of %v)", ids)
	}
	if v, ok := m.get(unix.NHA_GATEWAY); ok {
		text += " via " + ip(v)
	}
	return text + " on " + name(int(m.number(unix.NHA_OIF)))
}

func routeText(m message, name func(int) string) string {
	var b strings.Builder
	b.WriteString("route to ")
	if v, ok := m.get(unix.RTA_DST); ok {
		fmt.Fprintf(&b, "%s/%d", ip(v), m.head[1])
	} else if m.head[0] == unix.AF_INET {
		b.WriteString("0.0.0.0/0")
	} else {
		b.WriteString("::/0")
	}
	hop := func(get func(kind uint16) ([]byte, bool), index uint32) {
		if v, ok := get(unix.RTA_GATEWAY); ok {
			b.WriteString(" via " + ip(v))
		} else if v, ok := get(unix.RTA_VIA); ok && len(v) > 2 {
			b.WriteString(" via " + ip(v[2:]))
		}
		if index != 0 {
			b.WriteString(" on " + name(int(index)))
		}
	}
	hop(m.get, m.number(unix.RTA_OIF))
	if id := m.number(rtaNHID); id != 0 {
		fmt.Fprintf(&b, " over next hop %d", id)
	}
	if v, ok := m.get(unix.RTA_MULTIPATH); ok {
		hops, _ := parseHops(v) // parsed once already when it was read
		for _, h := range hops {
			hop(message{attrs: h.attrs}.get, h.index)
		}
	}
	if p := m.number(unix.RTA_PRIORITY); p != 0 {
		fmt.Fprintf(&b, " metric %d", p)
	}
	if t := m.number(unix.RTA_TABLE); t != unix.RT_TABLE_MAIN {
		fmt.Fprintf(&b, " table %d", t)
	}
	if v, ok := m.get(unix.RTA_EXPIRES); ok {
		fmt.Fprintf(&b, " for %d s", number(v))
	}
	return b.String()
}

func neighbourText(m message, name func(int) string) string {
	dst, _ := m.get(unix.NDA_DST)
	text := fmt.Sprintf("neighbour %s on %s", ip(dst), name(int(neighbourIndex(m.head))))
	if v, ok := m.get(unix.NDA_LLADDR); ok {
		text += " at " + net.HardwareAddr(v).String()
	}
	if m.head[neighbourFlags]&unix.NTF_PROXY != 0 {
		text += " (proxy)"
	}
	if binary.NativeEndian.Uint16(m.head[neighbourState:])&unix.NUD_PERMANENT != 0 {
		text += " (permanent)"
	}
	return text
}
