package l3

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Restore makes the layer-3 state of devices what s says: adds what is missing and removes what is
// there and not in s. What is right already is not touched, so traffic over it is not disturbed.
// IPv6 addresses are not tested for uniqueness again unless that was going on or had failed.
func (c *Conn) Restore(s State, devices ...int) error {
	return c.restore(s, true, devices)
}

// Add is Restore that removes nothing.
func (c *Conn) Add(s State, devices ...int) error {
	return c.restore(s, false, devices)
}

// Clear removes the layer-3 state of devices.
func (c *Conn) Clear(devices ...int) error {
	return c.restore(State{Taken: sinceBoot()}, true, devices)
}

func (c *Conn) restore(want State, remove bool, devices []int) error {
	elapsed := max(0, sinceBoot()-want.Taken)
	have, err := c.Capture(devices...)
	if err != nil {
		return err
	}
	if err := c.restoreAddresses(want, have, elapsed, remove); err != nil {
		return err
	}
	// Addresses brought and took routes.
	if have, err = c.Capture(devices...); err != nil {
		return err
	}
	if err := c.addPaths(want, have, elapsed); err != nil {
		return err
	}
	if remove {
		if err := c.removeRoutes(want, have, devices); err != nil {
			return err
		}
	}
	if err := c.restoreNeighbours(want, have, remove); err != nil {
		return err
	}
	if remove {
		return c.removeNexthops(want, have)
	}
	return nil
}

// keys are the comparison forms of a list.
func keys(list [][]byte, key func(b []byte) string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, b := range list {
		set[key(b)] = true
	}
	return set
}

// itself compares messages without anything volatile in them.
func itself(head int) func(b []byte) string {
	return func(b []byte) string {
		m, err := parse(b, head)
		if err != nil {
			return string(b)
		}
		return m.key()
	}
}

var nexthopKey, neighbourKey = itself(nexthopHead), itself(neighbourHead)

func (c *Conn) removeNexthops(want, have State) error {
	wanted := want.nexthopIDs()
	for _, b := range slices.Backward(have.Nexthops) { // groups first
		m, err := parse(b, nexthopHead)
		if err != nil {
			return err
		}
		if wanted[m.number(unix.NHA_ID)] {
			continue
		}
		m = message{make([]byte, nexthopHead), []attribute{{unix.NHA_ID, putNumber(m.number(unix.NHA_ID))}}}
		if err := c.change("remove "+describeNexthop(b), unix.RTM_DELNEXTHOP, 0, m.bytes()); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

const forever = 0xFFFFFFFF // INFINITY_LIFE_TIME of struct ifa_cacheinfo

// addressKey is what makes an address the same: all but the rest of its life, and whether that is limited.
func addressKey(b []byte) string {
	m, err := parse(b, addressHead)
	if err != nil {
		return string(b)
	}
	m = m.clone()
	limited := "forever"
	if v, ok := m.get(unix.IFA_CACHEINFO); ok && number(v[min(len(v), 4):]) != forever {
		limited = "limited"
	}
	m.without(unix.IFA_CACHEINFO)
	m.with(unix.IFA_FLAGS, putNumber(m.flags()&^unproven))
	return m.key() + limited
}

func isUnproven(b []byte) bool {
	m, err := parse(b, addressHead)
	return err == nil && m.head[0] == unix.AF_INET6 && m.flags()&unproven != 0
}

// restoreAddresses keeps the longest common beginning of both lists for each device and family, takes
// away what follows and adds the rest in order: which address is the primary one, and the preferred
// source, depends on the order. A label cannot be changed otherwise, either.
func (c *Conn) restoreAddresses(want, have State, elapsed time.Duration, remove bool) error {
	wanted, present := byDevice(want.Addresses), byDevice(have.Addresses)
	for group, list := range present {
		n := len(list)
		if remove {
			n = commonAddresses(wanted[group], list)
		}
		for _, b := range slices.Backward(list[n:]) { // secondary addresses before their primary one
			if err := c.change("remove "+describeAddress(b), unix.RTM_DELADDR, 0, b); err != nil && !isGone(err) {
				return err
			}
		}
		present[group] = list[:n]
	}
	there := map[string]bool{}
	for _, list := range present {
		for _, b := range list {
			there[addressKey(b)] = true
		}
	}
	for _, b := range want.Addresses {
		if there[addressKey(b)] {
			continue
		}
		if err := c.addAddress(b, elapsed); err != nil {
			return err
		}
	}
	return nil
}

type deviceFamily struct {
	index  uint32
	family byte
}

func byDevice(list [][]byte) map[deviceFamily][][]byte {
	m := map[deviceFamily][][]byte{}
	for _, b := range list {
		g := deviceFamily{addressIndex(b), b[0]}
		m[g] = append(m[g], b)
	}
	return m
}

// set leaves out the addresses that the kernel made by itself, from router advertisements or as link-local ones. They
// come at any moment, and their order means nothing.
func set(list [][]byte) [][]byte {
	return slices.DeleteFunc(slices.Clone(list), func(b []byte) bool {
		m, err := parse(b, addressHead)
		if err != nil || m.head[0] != unix.AF_INET6 {
			return false
		}
		proto, _ := m.get(ifaProto)
		made := len(proto) == 1 && proto[0] != 0 && proto[0] <= kernelMade
		// Kernels before 5.18 do not tell, but only of those from advertisements temporary ones are made.
		return made || m.flags()&unix.IFA_F_MANAGETEMPADDR != 0
	})
}

// Who made an address: linux/if_addr.h.
const (
	ifaProto   = 11 // IFA_PROTO
	kernelMade = 3  // IFAPROT_KERNEL_LL, the highest of the kernel's own
)

// commonAddresses is how many addresses at the beginning are the same, and as good.
func commonAddresses(want, have [][]byte) int {
	n := 0
	for n < len(want) && n < len(have) && addressKey(want[n]) == addressKey(have[n]) &&
		(isUnproven(want[n]) || !isUnproven(have[n])) {
		n++
	}
	return n
}

func (c *Conn) addAddress(b []byte, elapsed time.Duration) error {
	m, err := parse(b, addressHead)
	if err != nil {
		return err
	}
	m = m.clone()
	if !m.ageAddress(elapsed) {
		return nil // its life ended meanwhile
	}
	what := "add " + describeAddress(b)
	flags := m.flags() &^ unproven
	if m.head[0] == unix.AF_INET || isUnproven(b) || flags&unix.IFA_F_NODAD != 0 {
		m.with(unix.IFA_FLAGS, putNumber(flags))
		return ignoreExisting(c.change(what, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m.bytes()))
	}
	// Added as one not to be tested, which takes effect at once; then the mark is removed again,
	// which does not start a test.
	m.with(unix.IFA_FLAGS, putNumber(flags|unix.IFA_F_NODAD))
	if err := ignoreExisting(c.change(what, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m.bytes())); err != nil {
		return err
	}
	m.with(unix.IFA_FLAGS, putNumber(flags))
	return c.change("set flags of "+describeAddress(b), unix.RTM_NEWADDR, unix.NLM_F_REPLACE, m.bytes())
}

// ageAddress takes elapsed time from the address's lifetimes; false if none is left.
func (m *message) ageAddress(elapsed time.Duration) bool {
	v, ok := m.get(unix.IFA_CACHEINFO)
	if !ok || len(v) < 8 {
		return true
	}
	v = append([]byte(nil), v...)
	preferred, valid := v[0:], v[4:]
	for _, life := range [...][]byte{preferred, valid} {
		if left := number(life); left != forever {
			binary.NativeEndian.PutUint32(life, uint32(max(0, int64(left)-int64(elapsed/time.Second))))
		}
	}
	m.with(unix.IFA_CACHEINFO, v)
	return number(valid) != 0
}

// routeKey is what makes a route the same: all but the rest of its life.
func routeKey(b []byte) string {
	m, err := parse(b, routeHead)
	if err != nil {
		return string(b)
	}
	m = m.clone()
	m.without(unix.RTA_EXPIRES)
	return m.key()
}

// addPaths adds missing routes and next-hop objects. A gateway must be reachable when something is
// added that goes over it: routes without one come first, and what fails is tried again as long as
// something else succeeds.
func (c *Conn) addPaths(want, have State, elapsed time.Duration) error {
	var direct, objects, indirect []func() error
	routes := keys(have.Routes, routeKey)
	for _, b := range want.Routes {
		switch add := func() error { return c.addRoute(want.apart(b), elapsed) }; {
		case routes[routeKey(b)]:
		case isIndirect(b):
			indirect = append(indirect, add)
		default:
			direct = append(direct, add)
		}
	}
	nexthops := keys(have.Nexthops, nexthopKey)
	for _, b := range want.Nexthops {
		if nexthops[nexthopKey(b)] {
			continue
		}
		// Replacing an object moves every route that uses it at once.
		objects = append(objects, func() error {
			return c.change("set "+describeNexthop(b), unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
		})
	}
	missing := slices.Concat(direct, objects, indirect)
	for {
		var failed []func() error
		var errs []error
		for _, add := range missing {
			switch err := add(); {
			case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL):
				failed, errs = append(failed, add), append(errs, err)
			case err != nil:
				return err
			}
		}
		if len(failed) == 0 {
			return nil
		}
		if len(failed) == len(missing) {
			return errors.Join(errs...)
		}
		missing = failed
	}
}

// advertised tells that a router advertisement brought the route.
func (m message) advertised() bool {
	return m.head[0] == unix.AF_INET6 && m.head[routeProtocol] == unix.RTPROT_RA
}

// advertisedKey is routeKey, but of a route that an advertisement brought only where it leads: the next one may
// change the rest at any moment.
func advertisedKey(b []byte) string {
	m, err := parse(b, routeHead)
	if err != nil || !m.advertised() {
		return routeKey(b)
	}
	m = m.clone()
	m.only(unix.RTA_DST, unix.RTA_GATEWAY, unix.RTA_OIF, unix.RTA_TABLE)
	return m.key()
}

// apart returns b as it is to be added. The kernel keeps a route that an advertisement brought apart from others of
// the same metric, and made one route with two ways of them if a program added it; so it gets a metric that is
// higher by one. The next advertisement brings the one that was, and the other expires.
func (s State) apart(b []byte) []byte {
	m, err := parse(b, routeHead)
	if err != nil || !m.advertised() {
		return b
	}
	dst, _ := m.get(unix.RTA_DST)
	for _, other := range s.Routes {
		o, err := parse(other, routeHead)
		if err != nil || o.advertised() || o.head[0] != m.head[0] || o.head[1] != m.head[1] {
			continue
		}
		to, _ := o.get(unix.RTA_DST)
		if bytes.Equal(dst, to) && o.number(unix.RTA_TABLE) == m.number(unix.RTA_TABLE) && o.number(unix.RTA_PRIORITY) == m.number(unix.RTA_PRIORITY) {
			m = m.clone()
			m.with(unix.RTA_PRIORITY, putNumber(m.number(unix.RTA_PRIORITY)+1))
			return m.bytes()
		}
	}
	return b
}

func isIndirect(b []byte) bool {
	m, err := parse(b, routeHead)
	return err == nil && slices.ContainsFunc(m.attrs, func(a attribute) bool {
		return a.is(unix.RTA_GATEWAY) || a.is(unix.RTA_VIA) || a.is(unix.RTA_MULTIPATH) || a.is(rtaNHID)
	})
}

func (c *Conn) addRoute(b []byte, elapsed time.Duration) error {
	m, err := parse(b, routeHead)
	if err != nil {
		return err
	}
	m = m.clone()
	if v, ok := m.get(unix.RTA_EXPIRES); ok {
		left := int64(number(v)) - int64(elapsed/time.Second)
		if left <= 0 {
			return nil
		}
		m.with(unix.RTA_EXPIRES, putNumber(uint32(left)))
	}
	// Beside a route with the same destination over the device that it moves from, so that at no
	// moment there is none. Only a route of IPv4 with several next hops is one thing, and replaced.
	flags := unix.NLM_F_CREATE | unix.NLM_F_APPEND
	if _, several := m.get(unix.RTA_MULTIPATH); several && m.head[0] == unix.AF_INET {
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	return ignoreExisting(c.change("add "+describeRoute(b), unix.RTM_NEWROUTE, flags, m.bytes()))
}

// removeRoutes removes the routes that are not wanted, until there are none: the kernel's list leaves a route out that
// lies between those which are one route with several ways, here over the device that has it and the one that had it.
func (c *Conn) removeRoutes(want, have State, devices []int) error {
	wanted := keys(want.Routes, routeKey)
	tried := map[string]bool{}
	for {
		left := slices.DeleteFunc(have.Routes, func(b []byte) bool { return wanted[routeKey(b)] || tried[routeKey(b)] })
		if len(left) == 0 {
			return nil
		}
		if err := c.deleteRoutes(left); err != nil {
			return err
		}
		for _, b := range left {
			tried[routeKey(b)] = true
		}
		var err error
		if have, err = c.Capture(devices...); err != nil {
			return err
		}
	}
}

func (c *Conn) deleteRoutes(list [][]byte) error {
	for _, b := range list {
		m, err := parse(b, routeHead)
		if err != nil {
			return err
		}
		m = m.clone()
		m.without(unix.RTA_EXPIRES)
		if err := c.change("remove "+describeRoute(b), unix.RTM_DELROUTE, 0, m.bytes()); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

func (c *Conn) restoreNeighbours(want, have State, remove bool) error {
	there := keys(have.Neighbours, neighbourKey)
	for _, b := range want.Neighbours {
		if there[neighbourKey(b)] {
			continue
		}
		if err := c.change("add "+describeNeighbour(b), unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b); err != nil {
			return err
		}
	}
	for _, b := range want.Resolved {
		// Only a help: without it the address is resolved again, which takes a second where the first
		// question is lost. Replacing also answers a question that is under way.
		_ = c.change("add "+describeNeighbour(b), unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
	}
	if !remove {
		return nil
	}
	wanted := keys(want.Neighbours, neighbourKey)
	for _, b := range have.Neighbours {
		if wanted[neighbourKey(b)] {
			continue
		}
		if err := c.change("remove "+describeNeighbour(b), unix.RTM_DELNEIGH, 0, b); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

const unexpected = "unexpected: "

// Difference tells, a line each, what Restore would have to change on devices whose state is have.
func Difference(want, have State) []string {
	var lines []string
	compare := func(want, have [][]byte, key, describe func(b []byte) string) {
		wanted, there := keys(want, key), keys(have, key)
		for _, b := range want {
			if !there[key(b)] {
				lines = append(lines, "missing: "+describe(b))
			}
		}
		for _, b := range have {
			if !wanted[key(b)] {
				lines = append(lines, unexpected+describe(b))
			}
		}
	}
	compare(want.Addresses, have.Addresses, addressKey, describeAddress)
	for group, list := range byDevice(set(want.Addresses)) {
		other := byDevice(set(have.Addresses))[group]
		if len(lines) == 0 && commonAddresses(list, other) != len(list) {
			lines = append(lines, fmt.Sprintf("addresses of device %d are in another order or not usable yet", group.index))
		}
	}
	compare(want.Nexthops, have.Nexthops, nexthopKey, describeNexthop)
	compare(want.Routes, have.Routes, advertisedKey, describeRoute)
	compare(want.Neighbours, have.Neighbours, neighbourKey, describeNeighbour)
	return lines
}

func ignoreExisting(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// isGone recognises that what was to be removed had gone already, perhaps with something else.
func isGone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL) ||
		errors.Is(err, unix.ENODEV)
}

func isUnsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// Missing is the part of Difference that Add would change.
func Missing(want, have State) []string {
	return slices.DeleteFunc(Difference(want, have), func(line string) bool {
		return strings.HasPrefix(line, unexpected)
	})
}
