// Package underlay has the sockets towards other vnet hosts, over one address family: UDP with its
// multicast group, plain EtherIP, multicast with another host's source address kept, and the answerer
// of multicast echo. Packets move in batches; nothing here takes a lock or allocates per packet, and
// nothing blocks but for the 5 ms that a full send buffer is waited for.
//
// Sockets are bound to no device and no address: the device may come late, vanish and return with
// another index, and addresses change. What depends on them is the group membership, which Join
// renews, and the Path, which is given to every Send.
package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Family is an address family.
type Family uint8

// The families.
const (
	IPv4 Family = iota
	IPv6
)

// String gives "ipv4" or "ipv6".
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// Of returns the family of an address.
func Of(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// HeaderLen is the length in bytes of the IP and UDP headers in front of a payload.
func (f Family) HeaderLen() int { return f.IPLen() + 8 }

// IPLen is the length in bytes of the IP header.
func (f Family) IPLen() int {
	if f == IPv6 {
		return 40
	}
	return 20
}

// Options say what to open.
type Options struct {
	Family Family
	// Port is the UDP port, 1–65535.
	Port uint16
	// TTL is that of multicast, 1–255.
	TTL int
	// Sockets is the number of UDP sockets that share the port for unicast, at least 1. The kernel chooses
	// one by the addresses, so that what one host sends stays in order.
	Sockets int
	// Spread is the number of sockets beside each of these that packets are only sent by, each from a port of its
	// own: receivers and cards tell flows apart by it.
	Spread int
	// Secured makes the sockets those of vnets with security: the raw one takes ESP instead of EtherIP and is there
	// over IPv6, too, and nobody answers echo.
	Secured bool
}

// Underlay is the set of sockets of one address family.
type Underlay struct {
	options Options
	udp     []*Socket
	spread  [][]*Socket // by the number of the UDP socket
	// listener is the socket that gets what is sent to the group; nil before Listen. The kernel dropped lost
	// packets for those before it.
	listener *Socket
	lost     uint64
	// IPv4 only, else nil.
	etherip *Socket
	echo    *Echo
	relay   int // fd for packets with our own IP header; -1 for none

	// joining serialises Listen and Join, and guards index and group: where the group is joined; 0: nowhere.
	joining sync.Mutex
	index   int
	group   netip.Addr
	// mu guards listener and lost, and is not held while the kernel is asked.
	mu sync.Mutex
}

// bufferBytes is asked for as receive and send buffer of data sockets: some tens of milliseconds at
// 10 Gbit/s. The kernel takes memory only as packets queue.
const bufferBytes = 8 << 20

// Open opens the sockets, in the network namespace of the calling thread. The port must be free.
func Open(o Options) (_ *Underlay, err error) {
	u := &Underlay{options: o, relay: -1}
	defer func() {
		if err != nil {
			u.Close()
		}
	}()
	for i := range max(1, o.Sockets) {
		s, err := openUDP(o, netip.Addr{}, i > 0)
		if err != nil {
			return nil, fmt.Errorf("%s UDP port %d: %w", o.Family, o.Port, err)
		}
		u.udp = append(u.udp, s)
	}
	for range u.udp {
		var sockets []*Socket
		for range o.Spread {
			s, err := openSending(o)
			if err != nil {
				return nil, fmt.Errorf("%s socket to send by: %w", o.Family, err)
			}
			sockets = append(sockets, s)
		}
		u.spread = append(u.spread, sockets)
	}
	if o.Secured {
		return u, u.openSecured()
	}
	if o.Family == IPv6 {
		return u, nil
	}
	if u.etherip, err = openRaw(o, wire.ProtocolEtherIP); err != nil {
		return nil, fmt.Errorf("raw socket for EtherIP: %w", err)
	}
	if u.echo, err = openEcho(o); err != nil {
		return nil, fmt.Errorf("raw socket for multicast echo: %w", err)
	}
	if u.relay, err = openRelay(o); err != nil {
		return nil, fmt.Errorf("raw socket for forwarded multicast: %w", err)
	}
	return u, nil
}

// openSecured opens what only vnets with security have.
func (u *Underlay) openSecured() (err error) {
	o := u.options
	if u.etherip, err = openRaw(o, wire.ProtocolESP); err != nil {
		return fmt.Errorf("raw socket for ESP: %w", err)
	}
	return nil
}

// Close closes all sockets. It must not be called while others use them.
func (u *Underlay) Close() {
	if u.listener != nil && u.listener != u.udp[0] {
		u.listener.Close()
	}
	for _, s := range u.udp {
		s.Close()
	}
	for _, sockets := range u.spread {
		for _, s := range sockets {
			s.Close()
		}
	}
	u.udp, u.spread, u.listener = nil, nil, nil
	if u.etherip != nil {
		u.etherip.Close()
		u.etherip = nil
	}
	if u.echo != nil {
		u.echo.close()
		u.echo = nil
	}
	if u.relay >= 0 {
		unix.Close(u.relay)
		u.relay = -1
	}
}

// Family returns the address family.
func (u *Underlay) Family() Family { return u.options.Family }

// Listen opens the socket for what is sent to a group, in the network namespace of the calling thread,
// and returns it and the one before, which the caller closes when nobody uses it any more; nil if that
// stays. Over IPv4 it is bound to the group: of the sockets that share the port, the kernel would give
// whole packets to one and reassembled ones to another (early demultiplexing and inet_steal_sock of Linux
// 6.6 and later), and they would overtake each other.
func (u *Underlay) Listen(group netip.Addr) (now, before *Socket, err error) {
	u.joining.Lock()
	defer u.joining.Unlock()
	if u.options.Family == IPv6 {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.listener = u.udp[0]
		return u.listener, nil, nil
	}
	if now, err = openUDP(u.options, group, true); err != nil {
		return nil, nil, fmt.Errorf("UDP port %d of group %s: %w", u.options.Port, group, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if before = u.listener; before != nil {
		u.lost += uint64(before.drops())
	}
	u.listener = now
	return now, before, nil
}

// UDP returns the sockets that share the port.
func (u *Underlay) UDP() []*Socket { return u.udp }

// Spread returns the sockets beside a UDP socket, of that number, that packets are only sent by. What others send
// to them is dropped.
func (u *Underlay) Spread(number int) []*Socket {
	if number >= len(u.spread) {
		return nil
	}
	return u.spread[number]
}

// EtherIP returns the socket for EtherIP without UDP, nil over IPv6. Its packets carry the payload of
// the IP packet; they have no ports.
func (u *Underlay) EtherIP() *Socket { return u.etherip }

// ESP returns the socket for ESP without UDP of a secured underlay, as EtherIP does.
func (u *Underlay) ESP() *Socket { return u.etherip }

// Echo returns the answerer of multicast echo, nil over IPv6.
func (u *Underlay) Echo() *Echo { return u.echo }

// Join makes the sockets members of the group on the device of that index, and of no other. Joining
// again renews a membership that the kernel may have lost with the device. Index 0 leaves.
func (u *Underlay) Join(index int, group netip.Addr) error {
	u.joining.Lock()
	defer u.joining.Unlock()
	if u.index != 0 {
		// The device may be gone; the sockets' lists must shrink all the same.
		_ = u.membership(u.index, u.group, false)
		u.index = 0
	}
	if index == 0 {
		return nil
	}
	if err := u.membership(index, group, true); err != nil {
		_ = u.membership(index, group, false)
		return fmt.Errorf("join group %s on device %d: %w", group, index, err)
	}
	u.index, u.group = index, group
	return nil
}

// membership joins or leaves with all sockets that need it.
func (u *Underlay) membership(index int, group netip.Addr, join bool) error {
	var err error
	if u.listener != nil {
		err = membership(u.listener.fd, index, group, join)
	}
	if u.etherip != nil {
		err = errors.Join(err, membership(u.etherip.fd, index, group, join))
	}
	if u.echo != nil {
		err = errors.Join(err, u.echo.membership(index, group, join))
	}
	return err
}

// SetTTL sets the TTL of multicast packets.
func (u *Underlay) SetTTL(ttl int) error {
	for _, s := range slices.Concat(append([][]*Socket{u.udp}, u.spread...)...) {
		if err := setMulticastTTL(s.fd, u.options.Family, ttl); err != nil {
			return fmt.Errorf("set multicast TTL: %w", err)
		}
	}
	if u.etherip != nil {
		return setMulticastTTL(u.etherip.fd, u.options.Family, ttl)
	}
	return nil
}

// Drops returns how many packets the kernel dropped since Open because a receive buffer was full.
func (u *Underlay) Drops() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	sum := u.lost
	for _, s := range u.udp {
		sum += uint64(s.drops())
	}
	if u.listener != nil && u.listener != u.udp[0] {
		sum += uint64(u.listener.drops())
	}
	if u.etherip != nil {
		sum += uint64(u.etherip.drops())
	}
	return sum
}

// Path is how packets leave this host. Take another Path when the device changes.
type Path struct {
	// Source is this host's address.
	Source netip.Addr
	// Index is the underlay device, by which multicast is sent.
	Index int
	// MTU is the device's, in bytes.
	MTU int

	// refusing: the kernel takes no trains for this device.
	refusing atomic.Bool
}

// Msg is a packet to send, or a train of packets of one size to one host.
type Msg struct {
	To netip.AddrPort
	// Bufs are gathered; their sum is the payload of all packets together.
	Bufs [][]byte
	// SegSize is the payload of each packet but the last, which may be shorter; 0 means one packet. UDP
	// only; a train is at most 64 packets and 65,000 bytes, and its packets fit the path's MTU.
	SegSize int
}

// Packet is a received packet, or several of one size from one host.
type Packet struct {
	// Data is a view into the batch, valid until the next Recv.
	Data []byte
	// Buf ends with Data; what is in front of it, 64 bytes or more, is anybody's to write on.
	Buf []byte
	// SegSize is the payload of each packet but the last, which may be shorter; never 0.
	SegSize int
	From    netip.AddrPort
	// To is the address it was sent to; Multicast says that it is a group.
	To        netip.Addr
	Multicast bool
	// Index is the device that it arrived by: the bridge of a port, the VLAN's device of a tagged frame. 0
	// if the kernel did not say.
	Index int
	// Misdirected is true of packets to an address that is neither this host's own nor a group:
	// a broadcast.
	Misdirected bool
	// Truncated packets were larger than the buffer.
	Truncated bool
}

// ErrClosed is returned by operations on a closed socket.
var ErrClosed = errors.New("socket is closed")

// Detached is an underlay whose sockets are not open, for those who move packets by other means: tests.
func Detached(f Family, sockets int) *Underlay {
	u := &Underlay{options: Options{Family: f}, relay: -1}
	for range sockets {
		u.udp = append(u.udp, &Socket{fd: -1, family: f})
		u.spread = append(u.spread, []*Socket{{fd: -1, family: f}})
	}
	if f == IPv4 {
		u.etherip = &Socket{fd: -1, family: f, raw: true}
	}
	return u
}
