package underlay

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// The cold side of sockets, by golang.org/x/net. What it does not do, or not in batches and without allocating, stays
// with system calls: IP_PKTINFO's ipi_spec_dst, which tells broadcasts, UDP_GRO's segment size, IP_MULTICAST_ALL and
// IPV6_MULTICAST_ALL, recvmmsg with UDP_GRO and sendmmsg with UDP_SEGMENT into memory that is used again, and the
// headers of packets that are multicast again (ipv4.Header.Marshal allocates).

// multicast are the options of a socket that concern multicast, of either family.
type multicast interface {
	JoinGroup(*net.Interface, net.Addr) error
	LeaveGroup(*net.Interface, net.Addr) error
	SetMulticastLoopback(bool) error
}

// withMulticast calls f with a socket's multicast options.
func withMulticast(fd int, f Family, do func(multicast) error) error {
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(other), "underlay")
	defer file.Close()
	conn, err := net.FilePacketConn(file) // of the same socket
	if err != nil {
		return err
	}
	defer conn.Close()
	if f == IPv6 {
		return do(ipv6.NewPacketConn(conn))
	}
	return do(ipv4.NewPacketConn(conn))
}

// setMulticastTTL sets the TTL, or the hop limit, of multicast.
func setMulticastTTL(fd int, f Family, ttl int) error {
	return withMulticast(fd, f, func(m multicast) error {
		if p, ok := m.(*ipv6.PacketConn); ok {
			return p.SetMulticastHopLimit(ttl)
		}
		return m.(*ipv4.PacketConn).SetMulticastTTL(ttl)
	})
}

// silenceLoopback keeps own multicast from coming back to this host.
func silenceLoopback(fd int, f Family) error {
	return withMulticast(fd, f, func(m multicast) error { return m.SetMulticastLoopback(false) })
}

// membership joins or leaves a group on a device.
func membership(fd, index int, group netip.Addr, join bool) error {
	return withMulticast(fd, Of(group), func(m multicast) error {
		device, to := &net.Interface{Index: index}, &net.UDPAddr{IP: group.AsSlice()}
		if !join {
			return m.LeaveGroup(device, to)
		}
		err := m.JoinGroup(device, to)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil // a member already
		}
		return err
	})
}
