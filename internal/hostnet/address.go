package hostnet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Address is an IP address of a device.
type Address struct {
	Index  int          // the device
	Prefix netip.Prefix // address and length of its network
	Remote netip.Addr   // the other end of a point-to-point link; invalid: none
	Label  string       // IPv4: "eth0:1"; "" or the device's name: none
	Scope  uint8        // RT_SCOPE_: 0 global, 253 link, 254 host
	Flags  uint32       // IFA_F_: permanent, tentative, nodad, …
	// Valid and Preferred are the remaining lifetimes; 0: forever.
	Valid, Preferred time.Duration
}

// Usable says whether a socket can be bound to the address now: not while duplicate address
// detection runs or after it failed.
func (a Address) Usable() bool {
	return a.Flags&unix.IFA_F_DADFAILED == 0 && (a.Flags&unix.IFA_F_TENTATIVE == 0 || a.Flags&unix.IFA_F_OPTIMISTIC != 0)
}

// forever is INFINITY_LIFE_TIME.
const forever = 0xffffffff

// parseAddress reads an RTM_NEWADDR or RTM_DELADDR message; rtnetlink(7).
func parseAddress(b []byte) (Address, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Address{}, errMalformed
	}
	bits := int(b[1])
	a := Address{Flags: uint32(b[2]), Scope: b[3], Index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
	var local, remote netip.Addr
	eachAttribute(b[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			remote, _ = netip.AddrFromSlice(v)
		case unix.IFA_LABEL:
			a.Label = text(v)
		case unix.IFA_FLAGS:
			a.Flags = number(v)
		case unix.IFA_CACHEINFO: // struct ifa_cacheinfo: preferred and valid seconds first
			if len(v) >= 8 {
				a.Preferred, a.Valid = lifetime(v), lifetime(v[4:])
			}
		}
	})
	switch {
	case !local.IsValid(): // IPv6 without a remote end
		local = remote
	case remote.IsValid() && remote != local:
		a.Remote = remote
	}
	if !local.IsValid() || bits > local.BitLen() {
		return Address{}, errMalformed
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, nil
}

func lifetime(v []byte) time.Duration {
	if n := number(v); n != forever {
		return time.Duration(n) * time.Second
	}
	return 0
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Addresses lists the addresses of a device in the kernel's order; of all devices if index is 0.
func (h *Host) Addresses(index int) ([]Address, error) {
	m := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msgs, err := h.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, m)
	if err != nil {
		return nil, wrap("list addresses", "", err)
	}
	var list []Address
	for _, b := range msgs {
		a, err := parseAddress(b)
		if err != nil {
			return nil, wrap("list addresses", "", err)
		}
		if index == 0 || a.Index == index {
			list = append(list, a)
		}
	}
	return list, nil
}

// EnsureAddress puts an address on a device, or updates its attributes; of those, a.Flags may ask
// for IFA_F_NODAD and IFA_F_NOPREFIXROUTE.
func (h *Host) EnsureAddress(a Address) error {
	return h.wrapDevice("add address "+a.Prefix.String()+" to", a.Index,
		h.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, addressParts(a)...))
}

// DeleteAddress takes an address off a device. Succeeds if it is not there.
func (h *Host) DeleteAddress(a Address) error {
	err := wrap("delete address", a.Prefix.String(), h.change(unix.RTM_DELADDR, 0, addressParts(a)...))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func addressParts(a Address) []nl.NetlinkRequestData {
	addr := a.Prefix.Addr()
	m := nl.NewIfAddrmsg(int(family(addr)))
	m.Index = uint32(a.Index)
	m.Prefixlen = uint8(a.Prefix.Bits())
	m.Scope = a.Scope
	m.IfAddrmsg.Flags = uint8(a.Flags)
	remote := a.Remote
	if !remote.IsValid() {
		remote = addr
	}
	parts := []nl.NetlinkRequestData{m, attribute(unix.IFA_LOCAL, addr.AsSlice()), attribute(unix.IFA_ADDRESS, remote.AsSlice())}
	if addr.Is4() && !a.Remote.IsValid() && a.Prefix.Bits() < 31 {
		parts = append(parts, attribute(unix.IFA_BROADCAST, broadcast(a.Prefix)))
	}
	if a.Label != "" {
		parts = append(parts, textAttribute(unix.IFA_LABEL, a.Label))
	}
	if a.Flags > 0xff {
		parts = append(parts, numberAttribute(unix.IFA_FLAGS, a.Flags))
	}
	if a.Valid != 0 {
		info := make([]byte, 16) // struct ifa_cacheinfo
		preferred := uint32(forever)
		if a.Preferred != 0 {
			preferred = uint32(a.Preferred / time.Second)
		}
		binary.NativeEndian.PutUint32(info, preferred)
		binary.NativeEndian.PutUint32(info[4:], uint32(a.Valid/time.Second))
		parts = append(parts, attribute(unix.IFA_CACHEINFO, info))
	}
	return parts
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	host := uint32(1)<<(32-p.Bits()) - 1
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)|host)
	return b
}
