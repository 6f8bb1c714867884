package underlay

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
)

const (
	icmpEchoReply   = 0
	icmpEchoRequest = 8
	icmpLen         = 8
	icmpFilter      = 1 // ICMP_FILTER of linux/icmp.h
	// echoRate bounds the answers per second.
	echoRate = 1000
)

// ignoreBroadcasts is 1 (the default) where the kernel leaves echo requests to groups unanswered.
const ignoreBroadcasts = "/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts"

// Echo answers ICMP echo requests that are sent to the group, which tell an administrator which hosts
// run vnets: from the host's own address, never its own requests, and only where the kernel does not
// answer them itself. IPv4 only: kernels answer ICMPv6 echo to groups.
type Echo struct {
	file   *os.File
	kernel *os.File
	path   atomic.Pointer[Path]
	group  atomic.Pointer[netip.Addr]
	own    atomic.Pointer[map[netip.Addr]struct{}]
	takes  func(index int, from netip.Addr) bool
}

func openEcho(o Options) (*Echo, error) {
	fd, err := openSocket(IPv4, unix.SOCK_RAW, unix.IPPROTO_ICMP, o.TTL)
	if err != nil {
		return nil, err
	}
	// A set bit keeps the type out.
	filter := ^(uint32(1) << icmpEchoRequest)
	if err := setOptions(fd, []option{{unix.SOL_RAW, icmpFilter, int(int32(filter)), "ICMP_FILTER", false}}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	e := &Echo{file: os.NewFile(uintptr(fd), "icmp")}
	// The file is of the namespace of the thread that opens it. Without it: better two answers than none.
	e.kernel, _ = os.Open(ignoreBroadcasts)
	return e, nil
}

func (e *Echo) close() {
	e.file.Close()
	if e.kernel != nil {
		e.kernel.Close()
	}
}

func (e *Echo) membership(index int, group netip.Addr, join bool) error {
	conn, err := e.file.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = membership(int(fd), index, group, join) }); cerr != nil {
		return cerr
	}
	return err
}

// kernelAnswers reports whether the kernel answers echo requests to groups.
func (e *Echo) kernelAnswers() bool {
	if e.kernel == nil {
		return false
	}
	var b [1]byte
	n, _ := e.kernel.ReadAt(b[:], 0)
	return n == 1 && b[0] == '0'
}

// SetPath says from which address to answer, and requests to which group; nil stops answering.
func (e *Echo) SetPath(p *Path, group netip.Addr) {
	e.group.Store(&group)
	e.path.Store(p)
}

// SetOwn says which addresses are this host's, whose requests are not answered. own must not change any
// more.
func (e *Echo) SetOwn(own map[netip.Addr]struct{}) { e.own.Store(&own) }

// SetTakes says by which devices requests may come; without it, by any. Before Run.
func (e *Echo) SetTakes(admits func(index int, from netip.Addr) bool) { e.takes = admits }

// Run answers until ctx ends.
func (e *Echo) Run(ctx context.Context) error {
	conn, err := e.file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = e.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b, ancillary := make([]byte, bufferLen), make([]byte, ancillaryLen)
	var second int64
	answers := 0
	for {
		var n, anc int
		var from unix.Sockaddr
		err := conn.Read(func(fd uintptr) bool {
			var e error
			n, anc, _, from, e = unix.Recvmsg(int(fd), b, ancillary, unix.MSG_DONTWAIT)
			return !errors.Is(e, unix.EAGAIN)
		})
		if ctx.Err() != nil || err != nil {
			return ctx.Err()
		}
		sender, ok := from.(*unix.SockaddrInet4)
		if !ok || n <= 0 {
			continue
		}
		if now := time.Now().Unix(); now != second {
			second, answers = now, 0
		}
		if answers >= echoRate {
			continue
		}
		path, group := e.path.Load(), e.group.Load()
		if path == nil {
			continue
		}
		answer, ok := echoReply(b[:n], *group)
		if !ok || e.isOwn(netip.AddrFrom4(sender.Addr), path) || e.kernelAnswers() {
			continue
		}
		var packet Packet
		readAncillary(ancillary[:anc], &packet)
		if e.takes != nil && !e.takes(packet.Index, netip.AddrFrom4(sender.Addr)) {
			continue
		}
		answers++
		info := &unix.Inet4Pktinfo{Spec_dst: path.Source.As4()}
		_ = conn.Write(func(fd uintptr) bool {
			_ = unix.Sendmsg(int(fd), answer, unix.PktInfo4(info), sender, unix.MSG_DONTWAIT)
			return true
		})
	}
}

// isOwn reports whether a request is this host's own, sent from any of its addresses.
func (e *Echo) isOwn(from netip.Addr, p *Path) bool {
	if from == p.Source {
		return true
	}
	own := e.own.Load()
	if own == nil {
		return false
	}
	_, ok := (*own)[from]
	return ok
}

// echoReply turns a received IPv4 packet with an echo request into the answer's ICMP message, in place.
// It is false if there is nothing to answer.
func echoReply(packet []byte, group netip.Addr) ([]byte, bool) {
	h, icmp, err := wire.DecodeIPv4(packet)
	if err != nil || h.Destination != group || h.Protocol != unix.IPPROTO_ICMP {
		return nil, false
	}
	if len(icmp) < icmpLen || icmp[0] != icmpEchoRequest || icmp[1] != 0 || wire.Fold(wire.Sum(icmp, 0)) != 0xffff {
		return nil, false
	}
	icmp[0] = icmpEchoReply
	wire.PutSum(icmp[2:], 0)
	wire.PutSum(icmp[2:], ^wire.Fold(wire.Sum(icmp, 0)))
	return icmp, true
}
