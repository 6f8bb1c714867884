package l3

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// State is what one or several devices have of layer 3. Each entry is the body of the request that
// makes it anew. It is plain data: it can be kept on disk as JSON.
type State struct {
	// Taken is when the state was read, by the clock that counts since the machine booted;
	// lifetimes are what was left then.
	Taken time.Duration `json:"taken"`
	// Addresses are in the order in which they must be added to be listed as they were.
	Addresses [][]byte `json:"addresses,omitempty"` // RTM_NEWADDR
	// Nexthops are the next-hop objects that use the devices, singles before groups.
	Nexthops [][]byte `json:"nexthops,omitempty"` // RTM_NEWNEXTHOP
	// Routes are of all tables, but for those that the kernel derives from addresses so that it
	// receives packets for them. A route of IPv4 over several next hops is one entry, of IPv6 an
	// entry for each next hop.
	Routes [][]byte `json:"routes,omitempty"` // RTM_NEWROUTE
	// Neighbours are those that stay until deleted: permanent, proxied, learned by a routing daemon.
	Neighbours [][]byte `json:"neighbours,omitempty"` // RTM_NEWNEIGH
	// Resolved are neighbours that address resolution found. They are carried over so that traffic
	// goes on at once, are no part of comparisons, and are never needed.
	Resolved [][]byte `json:"resolved,omitempty"` // RTM_NEWNEIGH
}

// Empty says whether there is nothing that Restore would add.
func (s State) Empty() bool {
	return len(s.Addresses)+len(s.Nexthops)+len(s.Routes)+len(s.Neighbours) == 0
}

// sinceBoot reads CLOCK_BOOTTIME, which goes on while the machine sleeps and is no program's to set.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with this clock
	return time.Duration(ts.Nano())
}

// Capture reads the state of devices, given by interface index.
func (c *Conn) Capture(devices ...int) (State, error) {
	s := State{Taken: sinceBoot()}
	on := func(index uint32) bool { return slices.Contains(devices, int(index)) }
	for _, read := range []struct {
		what string
		into func() error
	}{
		{"addresses", func() (err error) { s.Addresses, err = c.addresses(on); return }},
		{"next hops", func() (err error) { s.Nexthops, err = c.nexthops(on); return }},
		{"routes", func() (err error) { s.Routes, err = c.routes(on, s.nexthopIDs()); return }},
		{"neighbours", func() (err error) { s.Neighbours, s.Resolved, err = c.neighbours(on); return }},
	} {
		if err := read.into(); err != nil {
			return State{}, fmt.Errorf("read %s: %w", read.what, err)
		}
	}
	return s, nil
}

// families are those that have addresses and routes on a device.
var families = [...]byte{unix.AF_INET, unix.AF_INET6}

// dumpFamilies lists messages of IPv4, then of IPv6. Where the kernel lacks a family it answers with
// all others, hence the look at each message's own.
func (c *Conn) dumpFamilies(kind, head int, keep func(m message) bool) ([]message, error) {
	var list []message
	for _, family := range families {
		body := make([]byte, head)
		body[0] = family
		var bad error
		raw, err := c.dump(kind, body, func(b []byte) bool {
			if len(b) == 0 || b[0] != family {
				return false
			}
			m, err := parse(b, head)
			if err != nil {
				bad = err
			}
			return err == nil && keep(m)
		})
		if err == nil {
			err = bad
		}
		if err != nil {
			return nil, err
		}
		for _, b := range raw {
			m, err := parse(b, head)
			if err != nil {
				return nil, err
			}
			list = append(list, m)
		}
	}
	return list, nil
}

// Flags of addresses that a program cannot set or that tell the state of the moment: linux/if_addr.h.
const (
	volatile4 = unix.IFA_F_SECONDARY | unix.IFA_F_PERMANENT | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE
	settable6 = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR |
		unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
	// unproven marks an IPv6 address whose uniqueness is not established, or is refuted.
	unproven = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
)

func addressIndex(head []byte) uint32 { return binary.NativeEndian.Uint32(head[4:]) }

func (c *Conn) addresses(on func(uint32) bool) ([][]byte, error) {
	msgs, err := c.dumpFamilies(unix.RTM_GETADDR, addressHead, func(m message) bool {
		return on(addressIndex(m.head))
	})
	if err != nil {
		return nil, err
	}
	list := make([][]byte, 0, len(msgs))
	for _, m := range msgs {
		m = m.clone()
		flags := m.flags()
		if m.head[0] == unix.AF_INET {
			flags &^= volatile4
		} else {
			flags &= settable6 | unproven
		}
		m.head[2] = 0
		m.with(unix.IFA_FLAGS, putNumber(flags))
		list = append(list, m.bytes())
	}
	// The kernel lists the IPv6 addresses of a scope with the newest first.
	six := slices.IndexFunc(list, func(b []byte) bool { return b[0] == unix.AF_INET6 })
	if six >= 0 {
		slices.Reverse(list[six:])
	}
	return list, nil
}

// flags are an address's flags: IFA_FLAGS, or the head's eight bits.
func (m message) flags() uint32 {
	if v, ok := m.get(unix.IFA_FLAGS); ok {
		return number(v)
	}
	return uint32(m.head[2])
}

const (
	nhaFDB            = 11 // linux/nexthop.h
	nhaResGroup       = 12
	nhaResLastSetting = 3 // of NHA_RES_GROUP; higher numbers are only reported

	groupEntry = 8 // struct nexthop_grp
)

func (c *Conn) nexthops(on func(uint32) bool) ([][]byte, error) {
	body := make([]byte, nexthopHead)
	raw, err := c.dump(unix.RTM_GETNEXTHOP, body, func([]byte) bool { return true })
	if isUnsupported(err) { // before Linux 5.3
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var singles, groups []message
	ids := map[uint32]bool{}
	for _, b := range raw {
		m, err := parse(b, nexthopHead)
		if err != nil {
			return nil, err
		}
		m = m.clone()
		m.head[1] = 0 // scope is not to be given
		binary.NativeEndian.PutUint32(m.head[4:], binary.NativeEndian.Uint32(m.head[4:])&unix.RTNH_F_ONLINK)
		switch _, group := m.get(unix.NHA_GROUP); {
		case group:
			if v, ok := m.get(nhaResGroup); ok {
				nested, err := parseAttributes(v)
				if err != nil {
					return nil, err
				}
				nested = slices.DeleteFunc(nested, func(a attribute) bool {
					return a.kind&typeMask > nhaResLastSetting
				})
				m.with(nhaResGroup, appendAttributes(nil, nested))
			}
			m.only(unix.NHA_ID, unix.NHA_GROUP, unix.NHA_GROUP_TYPE, nhaFDB, nhaResGroup)
			groups = append(groups, m)
		case on(m.number(unix.NHA_OIF)):
			ids[m.number(unix.NHA_ID)] = true
			singles = append(singles, m)
		}
	}
	var list [][]byte
	for _, m := range singles {
		list = append(list, m.bytes())
	}
	for _, m := range groups {
		if slices.ContainsFunc(groupMembers(m), func(id uint32) bool { return ids[id] }) {
			list = append(list, m.bytes())
		}
	}
	return list, nil
}

func groupMembers(m message) []uint32 {
	v, _ := m.get(unix.NHA_GROUP)
	var ids []uint32
	for ; len(v) >= groupEntry; v = v[groupEntry:] {
		ids = append(ids, number(v))
	}
	return ids
}

// nexthopIDs are the ids of the state's next-hop objects.
func (s State) nexthopIDs() map[uint32]bool {
	ids := map[uint32]bool{}
	for _, b := range s.Nexthops {
		if m, err := parse(b, nexthopHead); err == nil {
			ids[m.number(unix.NHA_ID)] = true
		}
	}
	return ids
}

// Layout of struct rtmsg and struct rta_cacheinfo: linux/rtnetlink.h.
const (
	routeProtocol = 5
	routeType     = 7
	routeFlagWord = 8

	cacheInfoExpires = 8
	ticksPerSecond   = 100 // USER_HZ

	rtaNHID = 30 // RTA_NH_ID
)

// lastingFlags are the flags of routes and next hops that somebody set; the rest is of the moment.
const lastingFlags = unix.RTNH_F_ONLINK

func routeFlags(head []byte) uint32 { return binary.NativeEndian.Uint32(head[routeFlagWord:]) }

func (c *Conn) routes(on func(uint32) bool, ids map[uint32]bool) ([][]byte, error) {
	msgs, err := c.dumpFamilies(unix.RTM_GETROUTE, routeHead, func(m message) bool {
		return routeUses(m, on, ids)
	})
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, m := range msgs {
		forms, err := routeRequests(m, on)
		if err != nil {
			return nil, err
		}
		list = append(list, forms...)
	}
	return list, nil
}

// routeUses tells whether a route goes out of one of the devices.
func routeUses(m message, on func(uint32) bool, ids map[uint32]bool) bool {
	if routeFlags(m.head)&unix.RTM_F_CLONED != 0 || receives(m) { // cloned: by path MTU discovery
		return false
	}
	if ids[m.number(rtaNHID)] || on(m.number(unix.RTA_OIF)) {
		return true
	}
	v, ok := m.get(unix.RTA_MULTIPATH)
	if !ok {
		return false
	}
	hops, err := parseHops(v)
	return err == nil && slices.ContainsFunc(hops, func(h hop) bool { return on(h.index) })
}

// receives recognises a route that comes and goes with an address. IPv6 makes it in the background.
func receives(m message) bool {
	if m.number(unix.RTA_TABLE) != unix.RT_TABLE_LOCAL || m.head[routeProtocol] != unix.RTPROT_KERNEL {
		return false
	}
	switch m.head[routeType] {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST:
		return true
	}
	return false
}

// routeRequests turns a reported route into the requests that make it.
func routeRequests(m message, on func(uint32) bool) ([][]byte, error) {
	m = m.clone()
	binary.NativeEndian.PutUint32(m.head[routeFlagWord:], routeFlags(m.head)&lastingFlags)
	// The remaining lifetime is reported in one attribute and set by another.
	if v, ok := m.get(unix.RTA_CACHEINFO); ok && len(v) >= cacheInfoExpires+4 {
		if ticks := int32(number(v[cacheInfoExpires:])); ticks != 0 {
			m.with(unix.RTA_EXPIRES, putNumber(uint32(max(1, ticks/ticksPerSecond))))
		}
	}
	m.without(unix.RTA_CACHEINFO)
	if _, ok := m.get(rtaNHID); ok {
		// What the object says is repeated for programs that do not know objects.
		m.without(unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE)
		return [][]byte{m.bytes()}, nil
	}
	v, ok := m.get(unix.RTA_MULTIPATH)
	if !ok {
		return [][]byte{m.bytes()}, nil
	}
	hops, err := parseHops(v)
	if err != nil {
		return nil, err
	}
	for i := range hops {
		hops[i].flags &= lastingFlags
	}
	if m.head[0] == unix.AF_INET {
		m.with(unix.RTA_MULTIPATH, appendHops(nil, hops))
		return [][]byte{m.bytes()}, nil
	}
	var list [][]byte
	for _, h := range hops {
		if on(h.index) {
			list = append(list, oneHop(m, h).bytes())
		}
	}
	return list, nil
}

// oneHop is the route of IPv6 over one of its next hops, as it would be reported if it were the only one.
func oneHop(m message, h hop) message {
	m = m.clone()
	if h.weight != 0 {
		m.with(unix.RTA_MULTIPATH, appendHops(nil, []hop{h}))
		return m
	}
	m.without(unix.RTA_MULTIPATH)
	binary.NativeEndian.PutUint32(m.head[routeFlagWord:], uint32(h.flags))
	m.with(unix.RTA_OIF, putNumber(h.index))
	for _, a := range h.attrs {
		m.with(a.kind, a.data)
	}
	return m
}

const (
	neighbourState = 8  // offset of ndm_state in struct ndmsg
	neighbourFlags = 10 // offset of ndm_flags

	ndaProtocol = 12 // linux/neighbour.h
	ndaFlagsExt = 15

	nudResolved = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
)

func neighbourIndex(head []byte) uint32 { return binary.NativeEndian.Uint32(head[4:]) }

func (c *Conn) neighbours(on func(uint32) bool) (lasting, resolved [][]byte, err error) {
	for _, family := range families {
		for _, flags := range [...]byte{0, unix.NTF_PROXY} {
			body := make([]byte, neighbourHead)
			body[0], body[neighbourFlags] = family, flags
			raw, err := c.dump(unix.RTM_GETNEIGH, body, func(b []byte) bool {
				return len(b) >= neighbourHead && b[0] == family && on(neighbourIndex(b))
			})
			if err != nil {
				return nil, nil, err
			}
			for _, b := range raw {
				m, err := parse(b, neighbourHead)
				if err != nil {
					return nil, nil, err
				}
				m = m.clone()
				m.only(unix.NDA_DST, unix.NDA_LLADDR, ndaProtocol, ndaFlagsExt)
				state := binary.NativeEndian.Uint16(m.head[neighbourState:])
				switch f := m.head[neighbourFlags]; {
				case f&unix.NTF_PROXY != 0, state&unix.NUD_PERMANENT != 0, f&unix.NTF_EXT_LEARNED != 0:
					lasting = append(lasting, m.bytes())
				case state&nudResolved != 0:
					binary.NativeEndian.PutUint16(m.head[neighbourState:], unix.NUD_STALE)
					resolved = append(resolved, m.bytes())
				}
			}
		}
	}
	return lasting, resolved, nil
}

// Moved is the state with one device in the place of another.
func (s State) Moved(from, to int) State {
	t := State{Taken: s.Taken}
	t.Addresses = mapBodies(s.Addresses, func(b []byte) { moveHead(b, from, to) })
	t.Neighbours = mapBodies(s.Neighbours, func(b []byte) { moveHead(b, from, to) })
	t.Resolved = mapBodies(s.Resolved, func(b []byte) { moveHead(b, from, to) })
	t.Nexthops = mapBodies(s.Nexthops, func(b []byte) { moveAttribute(b, nexthopHead, unix.NHA_OIF, from, to) })
	t.Routes = mapBodies(s.Routes, func(b []byte) {
		moveAttribute(b, routeHead, unix.RTA_OIF, from, to)
		moveHops(b, from, to)
	})
	return t
}

// With is the state of both together.
func (s State) With(o State) State {
	return State{
		Taken:      s.Taken,
		Addresses:  slices.Concat(s.Addresses, o.Addresses),
		Nexthops:   slices.Concat(s.Nexthops, o.Nexthops),
		Routes:     slices.Concat(s.Routes, o.Routes),
		Neighbours: slices.Concat(s.Neighbours, o.Neighbours),
		Resolved:   slices.Concat(s.Resolved, o.Resolved),
	}
}

func mapBodies(list [][]byte, change func(b []byte)) [][]byte {
	out := make([][]byte, len(list))
	for i, b := range list {
		out[i] = bytes.Clone(b)
		change(out[i])
	}
	return out
}

// moveHead replaces the index that ifaddrmsg and ndmsg hold at the same place.
func moveHead(b []byte, from, to int) { replaceIndex(b[4:8], from, to) }

func replaceIndex(b []byte, from, to int) {
	if binary.NativeEndian.Uint32(b) == uint32(from) {
		binary.NativeEndian.PutUint32(b, uint32(to))
	}
}

func moveAttribute(b []byte, head int, kind uint16, from, to int) {
	if m, err := parse(b, head); err == nil {
		if v, ok := m.get(kind); ok && len(v) == 4 {
			replaceIndex(v, from, to) // points into b
		}
	}
}

func moveHops(b []byte, from, to int) {
	m, err := parse(b, routeHead)
	if err != nil {
		return
	}
	v, _ := m.get(unix.RTA_MULTIPATH)
	for len(v) >= hopHead {
		replaceIndex(v[4:8], from, to)
		n := int(binary.NativeEndian.Uint16(v))
		if n < hopHead || n > len(v) {
			return
		}
		v = v[min(len(v), align(n)):]
	}
}
