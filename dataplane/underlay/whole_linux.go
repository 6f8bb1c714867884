package underlay

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// SendWhole sends one UDP packet that nobody may fragment, whatever is known of the path's MTU (IP_PMTUDISC_PROBE of
// ip(7)), from a port that the kernel chooses, in the network namespace of the calling thread. An error that is
// unix.EMSGSIZE says that it is longer than the device takes.
func SendWhole(from netip.Addr, to netip.AddrPort, payload []byte) error {
	domain, options := unix.AF_INET, []option{{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER", false}}
	var source, target unix.Sockaddr
	if Of(from) == IPv6 {
		domain, options = unix.AF_INET6, []option{{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, "IPV6_MTU_DISCOVER", false}}
		source = &unix.SockaddrInet6{Addr: from.As16()}
		target = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		source = &unix.SockaddrInet4{Addr: from.Unmap().As4()}
		target = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := setOptions(fd, options); err != nil {
		return err
	}
	if err := unix.Bind(fd, source); err != nil {
		return os.NewSyscallError("bind", err)
	}
	return os.NewSyscallError("sendto", unix.Sendto(fd, payload, 0, target))
}
