package l3

import (
	"math"

	"golang.org/x/sys/unix"
)

// DefaultDevice is the interface index of the device of the default route: in the main table, of
// IPv4 if there is one, the one with the lowest metric, its first next hop. 0 if there is none.
func (c *Conn) DefaultDevice() (int, error) {
	msgs, err := c.dumpFamilies(unix.RTM_GETROUTE, routeHead, func(m message) bool {
		return m.head[1] == 0 && m.head[routeType] == unix.RTN_UNICAST &&
			routeFlags(m.head)&unix.RTM_F_CLONED == 0 && m.number(unix.RTA_TABLE) == unix.RT_TABLE_MAIN
	})
	if err != nil {
		return 0, err
	}
	for _, family := range families {
		index, best := uint32(0), uint32(math.MaxUint32)
		for _, m := range msgs {
			out := firstDevice(m)
			if p := m.number(unix.RTA_PRIORITY); m.head[0] == family && out != 0 && (index == 0 || p < best) {
				index, best = out, p
			}
		}
		if index != 0 {
			return int(index), nil
		}
	}
	return 0, nil
}

func firstDevice(m message) uint32 {
	if index := m.number(unix.RTA_OIF); index != 0 {
		return index
	}
	v, _ := m.get(unix.RTA_MULTIPATH)
	if hops, err := parseHops(v); err == nil && len(hops) > 0 {
		return hops[0].index
	}
	return 0
}
