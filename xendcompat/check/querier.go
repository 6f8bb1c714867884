package check

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Querier listens for IGMP queries: without somebody who asks, switches that snoop forget who is in a group, and it dies.
// It is a task of the daemon's, which needs none of it to work. Use NewQuerier.
type Querier struct {
	host  *hostnet.Host
	log   *slog.Logger
	ready chan struct{}

	mu    sync.Mutex
	err   error
	since time.Time
	heard map[int]query // by the device's index
}

// query is the last one that came by a device.
type query struct {
	from netip.Addr
	at   time.Time
}

// maxQueried bounds the devices that queries are remembered of.
const maxQueried = 256

// NewQuerier returns one for the network namespace of h.
func NewQuerier(h *hostnet.Host, log *slog.Logger) *Querier {
	return &Querier{host: h, log: log, ready: make(chan struct{}), heard: map[int]query{}}
}

// String names the task.
func (q *Querier) String() string { return "IGMP querier watch" }

// Ready tells at once: nobody waits for it.
func (q *Querier) Ready() <-chan struct{} { return q.ready }

// Run listens until ctx ends. That it can't is no error of the daemon's.
func (q *Querier) Run(ctx context.Context) error {
	close(q.ready)
	var conn net.PacketConn
	err := q.host.Do(func() (err error) {
		conn, err = net.ListenPacket("ip4:igmp", "0.0.0.0")
		return err
	})
	q.mu.Lock()
	q.err, q.since = err, time.Now()
	q.mu.Unlock()
	if err != nil {
		q.log.Debug("IGMP queries can't be listened for", "error", err)
		<-ctx.Done()
		return nil
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	p := ipv4.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv4.FlagInterface, true); err != nil {
		q.log.Debug("IGMP queries can't be listened for", "error", err)
	}
	b := make([]byte, 1500)
	for {
		n, cm, from, err := p.ReadFrom(b)
		if err != nil {
			<-ctx.Done()
			return nil
		}
		const membershipQuery = 0x11 // RFC 2236, section 2.1
		if n < 8 || b[0] != membershipQuery || cm == nil {
			continue
		}
		if addr, err := netip.ParseAddr(from.String()); err == nil {
			q.note(cm.IfIndex, addr, time.Now())
		}
	}
}

func (q *Querier) note(index int, from netip.Addr, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.heard[index]; ok || len(q.heard) < maxQueried {
		q.heard[index] = query{from, at}
	}
}

// last is the last query that came by a device, and since when queries are listened for; an error says that they are not.
func (q *Querier) last(index int) (query, time.Time, error) {
	if q == nil {
		return query{}, time.Time{}, errNotWatched
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.heard[index], q.since, q.err
}
