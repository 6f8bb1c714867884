package hostnet

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protected reports whether an IPsec policy (ip xfrm policy) concerns UDP packets that are sent from an address to a port
// of any host: it protects or blocks them.
func (h *Host) Protected(from netip.Addr, port uint16) (bool, error) {
	family := unix.AF_INET
	if from.Is6() {
		family = unix.AF_INET6
	}
	protected := false
	err := h.Do(func() error {
		list, err := netlink.XfrmPolicyList(family)
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) {
			return nil // a kernel without IPsec
		}
		for _, p := range list {
			protected = protected || concerns(&p, from, port)
		}
		return err
	})
	return protected, wrap("list", "IPsec policies", err)
}

// concerns reports whether a policy is for packets that are sent from an address to a port.
func concerns(p *netlink.XfrmPolicy, from netip.Addr, port uint16) bool {
	if p.Dir != netlink.XFRM_DIR_OUT || p.Action == netlink.XFRM_POLICY_ALLOW && len(p.Tmpls) == 0 {
		return false
	}
	if p.Src != nil && !p.Src.Contains(from.AsSlice()) {
		return false
	}
	return (p.Proto == 0 || p.Proto == unix.IPPROTO_UDP) && (p.DstPort == 0 || p.DstPort == int(port))
}
