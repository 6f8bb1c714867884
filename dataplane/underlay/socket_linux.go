package underlay

import (
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket is a socket that packets are received from in batches and sent through by Senders. Any
// number of Senders may use a Socket at once, and one receiver.
type Socket struct {
	fd     int
	family Family
	// raw is true of EtherIP: the kernel gives IPv4 headers with what is received, knows no trains and
	// no ports.
	raw bool
}

// FD is the non-blocking file descriptor, for epoll.
func (s *Socket) FD() int { return s.fd }

// Family is that of the packets' addresses.
func (s *Socket) Family() Family { return s.family }

// EtherIP reports whether packets are EtherIP without UDP.
func (s *Socket) EtherIP() bool { return s.raw }

// Close closes the socket, which nobody must be using. Idempotent.
func (s *Socket) Close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// option is a socket option with an int value.
type option struct {
	level, name, value int
	what               string
	optional           bool // older kernels do without
}

func setOptions(fd int, options []option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil && !o.optional {
			return os.NewSyscallError("set "+o.what, err)
		}
	}
	return nil
}

// openSocket opens a socket with the options that all of ours have.
func openSocket(f Family, kind, protocol, ttl int) (int, error) {
	domain := unix.AF_INET
	if f == IPv6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	options := []option{
		// Beyond net.core.rmem_max with CAP_NET_ADMIN, which a daemon that makes devices has.
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferBytes, "SO_RCVBUFFORCE", true},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferBytes, "SO_SNDBUFFORCE", true},
	}
	if f == IPv4 {
		options = append(options,
			option{unix.SOL_IP, unix.IP_PKTINFO, 1, "IP_PKTINFO", false},
			// ip(7): only groups joined by this very socket.
			option{unix.SOL_IP, unix.IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL", false},
			// No DF, and deaf to what the path says about its MTU.
			option{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, "IP_MTU_DISCOVER", false},
		)
	} else {
		options = append(options,
			option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY", kind == unix.SOCK_RAW}, // which never is anything else
			option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO", false},
			option{unix.SOL_IPV6, unix.IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL", false},
			option{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT, "IPV6_MTU_DISCOVER", false},
		)
	}
	if err := setOptions(fd, options); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := setMulticastTTL(fd, f, ttl); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set multicast TTL: %w", err)
	}
	if err := silenceLoopback(fd, f); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("turn the loop of multicast off: %w", err)
	}
	return fd, nil
}

// openUDP opens a UDP socket, bound to an IPv4 group or, with the zero Addr, to every address. The first
// takes the port for itself, so that a second daemon is noticed, and then lets the others share it;
// socket(7), SO_REUSEPORT.
func openUDP(o Options, group netip.Addr, share bool) (*Socket, error) {
	fd, err := openSocket(o.Family, unix.SOCK_DGRAM, unix.IPPROTO_UDP, o.TTL)
	if err != nil {
		return nil, err
	}
	reuse := []option{{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT", false}}
	err = setOptions(fd, []option{{unix.SOL_UDP, unix.UDP_GRO, 1, "UDP_GRO", true}})
	if err == nil && o.Family == IPv6 {
		// The fast path of other hosts sends so; probes tell that this one takes it.
		err = setOptions(fd, []option{{unix.SOL_UDP, unix.UDP_NO_CHECK6_RX, 1, "UDP_NO_CHECK6_RX", false}})
	}
	if err == nil && share {
		err = setOptions(fd, reuse)
	}
	if err == nil {
		var to unix.Sockaddr = &unix.SockaddrInet4{Port: int(o.Port)}
		if group.IsValid() {
			to = &unix.SockaddrInet4{Port: int(o.Port), Addr: group.As4()}
		}
		if o.Family == IPv6 {
			to = &unix.SockaddrInet6{Port: int(o.Port)}
		}
		err = os.NewSyscallError("bind", unix.Bind(fd, to))
	}
	if err == nil && !share {
		err = setOptions(fd, reuse)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Socket{fd: fd, family: o.Family}, nil
}

// openSending opens a UDP socket with a port that the kernel chooses, which receives nothing.
func openSending(o Options) (*Socket, error) {
	o.Port = 0
	s, err := openUDP(o, netip.Addr{}, false)
	if err != nil {
		return nil, err
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]}); err != nil {
		s.Close()
		return nil, os.NewSyscallError("set SO_ATTACH_FILTER", err)
	}
	return s, nil
}

// openRaw opens a raw socket for a protocol. IPv4 ones give the IP header with what is received, IPv6 ones don't;
// raw(7), RFC 3542, section 3.
func openRaw(o Options, protocol int) (*Socket, error) {
	fd, err := openSocket(o.Family, unix.SOCK_RAW, protocol, o.TTL)
	if err != nil {
		return nil, err
	}
	return &Socket{fd: fd, family: o.Family, raw: o.Family == IPv4}, nil
}

// openRelay opens the socket that multicasts with another host's source address; raw(7): IPPROTO_RAW
// implies IP_HDRINCL. It receives nothing.
func openRelay(o Options) (int, error) {
	return openSocket(IPv4, unix.SOCK_RAW, unix.IPPROTO_RAW, o.TTL)
}

// drops is how many packets the kernel dropped because the receive buffer was full: SK_MEMINFO_DROPS of
// linux/sock_diag.h.
func (s *Socket) drops() uint32 {
	const index, count = 8, 9
	var info [count]uint32
	length := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return 0
	}
	return info[index]
}
