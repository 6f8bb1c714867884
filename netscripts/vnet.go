package netscripts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
)

// networkVnet is the script network-vnet: what network-bridge does, once it is clear that vnets can
// work. There is no module to load.
func networkVnet(ctx context.Context, s *script) error {
	switch s.args.command {
	case "start":
		if err := inScratchNamespace(checkKernel); err != nil {
			return fmt.Errorf("vnets cannot work on this machine: %w", err)
		}
	case "stop", "status":
	default:
		return &commandError{s.args.command, networkCommands}
	}
	return networkBridge(ctx, s)
}

// vnetInsert loaded the kernel module once. The data plane is part of xend now.
func vnetInsert(context.Context, *script) error { return nil }

// inScratchNamespace runs fn in a network namespace that is gone afterwards: nobody sees what it
// tries, no udev rule and no network manager.
func inScratchNamespace(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace to try it out in: %w (needs root)", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// vnetGroup is the group that vnets use by default; any other would do for the check.
var vnetGroup = netip.MustParseAddr("224.10.0.1")

// vnetGroup6 is the same of IPv6.
var vnetGroup6 = netip.MustParseAddr("ff05::706")

// checkKernel tries everything that the data plane needs of the kernel; this also makes the kernel
// load the modules.
func checkKernel() error {
	host, err := hostnet.New()
	if err != nil {
		return err
	}
	defer host.Close()
	bridge, err := host.CreateBridge(hostnet.Bridge{Name: "check", Snooping: true})
	if err != nil {
		return fmt.Errorf("%w; try modprobe bridge", err)
	}
	if err := host.CreateVeth(hostnet.Veth{Name: "check0", Partner: "check1"}); err != nil {
		return fmt.Errorf("%w; try modprobe veth", err)
	}
	port, err := host.LinkByName("check0")
	if err != nil {
		return err
	}
	if err := errors.Join(host.SetMaster(port.Index, bridge.Index), host.SetUp(port.Index)); err != nil {
		return err
	}
	if err := checkPacketSocket(); err != nil {
		return fmt.Errorf("packet sockets: %w; try modprobe af_packet", err)
	}
	if err := checkMulticast(port.Index); err != nil {
		return fmt.Errorf("multicast: %w; the kernel needs CONFIG_IP_MULTICAST", err)
	}
	return nil
}

func checkPacketSocket() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
}

func checkMulticast(index int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
		&unix.IPMreqn{Multiaddr: vnetGroup.As4(), Ifindex: int32(index)})
}
