package lab

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// createNetkit makes the domain's pair of devices as netkit's: its primary end is the vif. Layer 2 is what a bridge
// needs; the kernel's default is layer 3.
func (d *Domain) createNetkit() error {
	ns, err := os.Open(d.Net.Path())
	if err != nil {
		return err
	}
	defer ns.Close()
	mtu := d.Spec.MTU
	if mtu == 0 {
		mtu = 1500
	}
	pair := &netlink.Netkit{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.NETKIT_MODE_L2, Scrub: netlink.NETKIT_SCRUB_DEFAULT, PeerScrub: netlink.NETKIT_SCRUB_DEFAULT}
	pair.Name, pair.HardwareAddr, pair.MTU = d.Spec.Vif, vifMAC, mtu
	guest := netlink.NewLinkAttrs()
	guest.Name, guest.HardwareAddr, guest.MTU, guest.Namespace = guestDevice, d.Spec.MAC, mtu, netlink.NsFd(ns.Fd())
	pair.SetPeerAttrs(&guest)
	if err := d.Host.Do(func() error { return netlink.LinkAdd(pair) }); err != nil {
		return fmt.Errorf("netkit: %w", err)
	}
	return nil
}

// NeedNetkit skips a test where the kernel has no netkit devices: they need Linux 6.7 with CONFIG_NETKIT, as Debian's 6.12
// has it (make test-vm).
func (h *Host) NeedNetkit(t TB) {
	t.Helper()
	pair := &netlink.Netkit{LinkAttrs: netlink.NewLinkAttrs()}
	pair.Name = "netkit-probe"
	err := h.Do(func() error {
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		return netlink.LinkDel(pair)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("this kernel has no netkit devices (Debian's 6.12 has, make test-vm)")
	}
	if err != nil {
		t.Fatalf("netkit: %v", err)
	}
}
