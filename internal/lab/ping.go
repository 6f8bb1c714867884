package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// PingOptions say how to ping.
type PingOptions struct {
	Interval time.Duration // between two requests; 0: 100 ms
	Size     int           // payload bytes after the ICMP header; less than 16: 56
	// DontFragment sends with DF, and so that the kernel fragments nothing: 1472 bytes fill 1500.
	DontFragment bool
	Device       string     // to send out of, needed for groups without a route; "": by the route
	Source       netip.Addr // invalid: by the kernel's choice
}

// Reply is an answer to a ping.
type Reply struct {
	From netip.Addr
	Seq  int // of the request
	RTT  time.Duration
}

// PingStats is how a Pinger fared.
type PingStats struct {
	Sent, Received int           // a request that several hosts answered counts once
	LongestGap     time.Duration // between two replies, or since the last one
}

// Pinger sends echo requests until it is closed.
type Pinger struct {
	to   netip.Addr
	opts PingOptions
	conn net.PacketConn
	id   uint16

	stop chan struct{}
	done sync.WaitGroup
	once sync.Once

	mu      sync.Mutex
	sent    map[int]time.Time // when, by sequence number; those answered are zero
	stats   PingStats
	last    time.Time // of the last reply, or the beginning
	replies []Reply   // that nobody has asked for yet
	more    chan struct{}
	err     error // of the last request that could not be sent
}

// StartPing begins to ping an address or a group.
func (n *Node) StartPing(to netip.Addr, o PingOptions) (*Pinger, error) {
	if o.Interval == 0 {
		o.Interval = 100 * time.Millisecond
	}
	if o.Size < 16 {
		o.Size = 56
	}
	p := &Pinger{
		to: to, opts: o, id: uint16(rand.Uint32()), stop: make(chan struct{}), more: make(chan struct{}),
		sent: map[int]time.Time{}, last: time.Now(),
	}
	if err := n.Do(p.open); err != nil {
		return nil, fmt.Errorf("lab: %s: ping %s: %w", n.Name, to, err)
	}
	p.done.Go(p.send)
	p.done.Go(p.receive)
	n.lab.atClose(p.Close)
	return p, nil
}

// Ping pings until there is an answer, and returns how long that took from its request. It fails when ctx ends.
func (n *Node) Ping(ctx context.Context, to netip.Addr, o PingOptions) (time.Duration, error) {
	p, err := n.StartPing(to, o)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	r, err := p.Next(ctx)
	if err != nil {
		return 0, fmt.Errorf("lab: %s: ping %s: %w", n.Name, to, err)
	}
	return r.RTT, nil
}

func (p *Pinger) open() error {
	network := "ip4:icmp"
	if p.to.Is6() {
		network = "ip6:ipv6-icmp"
	}
	source := ""
	if p.opts.Source.IsValid() {
		source = p.opts.Source.String()
	}
	conn, err := net.ListenPacket(network, source)
	if err != nil {
		return err
	}
	p.conn = conn
	if err := p.configure(); err != nil {
		conn.Close()
		return err
	}
	return nil
}

func (p *Pinger) configure() error {
	raw, err := p.conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	errCtl := raw.Control(func(fd uintptr) {
		s := int(fd)
		if err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			return
		}
		if p.opts.Device != "" {
			if err = unix.SetsockoptString(s, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, p.opts.Device); err != nil {
				return
			}
		}
		if p.to.Is6() {
			if p.opts.DontFragment {
				err = errors.Join(unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_DONTFRAG, 1),
					unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE))
			}
			return
		}
		discover := unix.IP_PMTUDISC_DONT
		if p.opts.DontFragment {
			discover = unix.IP_PMTUDISC_PROBE // DF, whatever path MTU the kernel remembers
		}
		err = unix.SetsockoptInt(s, unix.SOL_IP, unix.IP_MTU_DISCOVER, discover)
	})
	return os.NewSyscallError("setsockopt", errors.Join(errCtl, err))
}

func (p *Pinger) request(seq int) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.id), Seq: seq, Data: make([]byte, p.opts.Size)}}
	if p.to.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest // its checksum is the kernel's work
	}
	return m.Marshal(nil)
}

func (p *Pinger) send() {
	tick := time.NewTicker(p.opts.Interval)
	defer tick.Stop()
	to := &net.IPAddr{IP: p.to.AsSlice(), Zone: p.to.Zone()}
	for seq := 1; ; seq++ {
		b, err := p.request(seq & 0xffff)
		if err == nil {
			p.mu.Lock()
			p.stats.Sent++
			p.sent[seq&0xffff] = time.Now()
			p.mu.Unlock()
			_, err = p.conn.WriteTo(b, to)
		}
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		select {
		case <-tick.C:
		case <-p.stop:
			return
		}
	}
}

func (p *Pinger) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP error that came back
			continue
		}
		now := time.Now()
		addr, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		addr = addr.Unmap()
		b := buf[:n]
		reply := byte(ipv4.ICMPTypeEchoReply)
		if p.to.Is6() {
			reply = byte(ipv6.ICMPTypeEchoReply)
		}
		if len(b) < 8+p.opts.Size || b[0] != reply || binary.BigEndian.Uint16(b[4:]) != p.id {
			continue
		}
		if !p.to.IsMulticast() && addr != p.to.WithZone("") {
			continue
		}
		p.add(addr, int(binary.BigEndian.Uint16(b[6:])), now)
	}
}

func (p *Pinger) add(from netip.Addr, seq int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, asked := p.sent[seq]
	if !asked {
		return
	}
	p.stats.LongestGap = max(p.stats.LongestGap, now.Sub(p.last))
	p.last = now
	if !p.to.IsMulticast() { // of a group others may answer, too
		delete(p.sent, seq)
		p.stats.Received++
	}
	p.replies = append(p.replies, Reply{From: from, Seq: seq, RTT: now.Sub(at)})
	close(p.more)
	p.more = make(chan struct{})
}

// Next returns the next reply, and waits for it.
func (p *Pinger) Next(ctx context.Context) (Reply, error) {
	for {
		p.mu.Lock()
		more := p.more
		if len(p.replies) > 0 {
			r := p.replies[0]
			p.replies = p.replies[1:]
			p.mu.Unlock()
			return r, nil
		}
		p.mu.Unlock()
		select {
		case <-more:
		case <-p.stop:
			return Reply{}, net.ErrClosed
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			return Reply{}, errors.Join(errors.New("no reply"), p.err, ctx.Err())
		}
	}
}

// Fresh forgets the replies that have come and waits for one to a request that was sent after the call.
func (p *Pinger) Fresh(ctx context.Context) (Reply, error) {
	p.mu.Lock()
	p.replies = nil
	after := p.stats.Sent
	p.mu.Unlock()
	for {
		r, err := p.Next(ctx)
		if err != nil || int16(r.Seq-after) > 0 { // numbers begin anew after 65,535
			return r, err
		}
	}
}

// Stats tells how it went until now.
func (p *Pinger) Stats() PingStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.LongestGap = max(s.LongestGap, time.Since(p.last))
	return s
}

// Close ends it. Idempotent.
func (p *Pinger) Close() {
	p.once.Do(func() {
		close(p.stop)
		p.conn.Close()
	})
	p.done.Wait()
}
