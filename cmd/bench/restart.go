package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/lab"
)

// The figures of a restart.
const (
	restartIn  = "restart in ms"
	restartOut = "restart out ms"
)

// restart kills the daemon of the first host with SIGKILL and starts it again while both domains send a datagram each
// millisecond. What it yields is the time from the start of the new daemon until a domain on that host gets the first
// one, and until a domain on the other host does. Systems that are not ours have no such figures.
func restart(ctx context.Context, s *setup, _ int) (map[string]float64, error) {
	if !strings.HasPrefix(s.sys.label, "xend") {
		return nil, nil
	}
	ctx, cancel := limit(ctx, 10)
	defer cancel()
	pid, err := daemonPID(s.hosts[0])
	if err != nil {
		return nil, err
	}
	inwards, err := newTrickle(s.two, s.one)
	if err != nil {
		return nil, err
	}
	defer inwards.close()
	outwards, err := newTrickle(s.one, s.two)
	if err != nil {
		return nil, err
	}
	defer outwards.close()
	for _, t := range []*trickle{inwards, outwards} {
		if _, err := t.first(ctx, time.Now()); err != nil {
			return nil, err
		}
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return nil, fmt.Errorf("kill the daemon: %w", err)
	}
	for syscall.Kill(pid, 0) == nil { // until it is gone
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	// What was under way to it is delivered, or lost, before the new one is there.
	if _, err := s.hosts[0].Run(ctx, filepath.Join(s.bin, "xend"), "start"); err != nil {
		return nil, err
	}
	in, err := inwards.first(ctx, start)
	if err != nil {
		return nil, err
	}
	out, err := outwards.first(ctx, start)
	if err != nil {
		return nil, err
	}
	return map[string]float64{restartIn: in.Seconds() * 1e3, restartOut: out.Seconds() * 1e3}, nil
}

// daemonPID is the process id of a host's daemon.
func daemonPID(h *lab.Host) (int, error) {
	b, err := os.ReadFile(filepath.Join(h.Dir, "run", "xend.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// trickle is a datagram each millisecond from one domain to another, which carries when it was sent.
type trickle struct {
	from, to *net.UDPConn
	stop     chan struct{}
	done     sync.WaitGroup

	mu   sync.Mutex
	came map[int64]time.Time // by when it was sent
	more chan struct{}
}

const tricklePort = 7778

func newTrickle(from, to *lab.Domain) (*trickle, error) {
	t := &trickle{stop: make(chan struct{}), came: map[int64]time.Time{}, more: make(chan struct{}, 1)}
	err := to.Do(func() (err error) {
		t.to, err = net.ListenUDP("udp4", &net.UDPAddr{IP: to.Addr().AsSlice(), Port: tricklePort})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = from.Do(func() (err error) {
		t.from, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: to.Addr().AsSlice(), Port: tricklePort})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, t.to.Close())
	}
	t.done.Go(t.send)
	t.done.Go(t.receive)
	return t, nil
}

func (t *trickle) send() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case now := <-tick.C:
			_, _ = t.from.Write(binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano())))
		}
	}
}

func (t *trickle) receive() {
	b := make([]byte, 64)
	for {
		n, err := t.to.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 8 {
			continue
		}
		t.mu.Lock()
		t.came[int64(binary.BigEndian.Uint64(b))] = time.Now()
		t.mu.Unlock()
		select {
		case t.more <- struct{}{}:
		default:
		}
	}
}

// first waits for a datagram that was sent after a moment, and returns how long after it the first of them came.
func (t *trickle) first(ctx context.Context, after time.Time) (time.Duration, error) {
	for {
		t.mu.Lock()
		best := time.Duration(-1)
		for sent, came := range t.came {
			if d := came.Sub(after); sent > after.UnixNano() && (best < 0 || d < best) {
				best = d
			}
		}
		t.mu.Unlock()
		if best >= 0 {
			return best, nil
		}
		select {
		case <-t.more:
		case <-ctx.Done():
			return 0, fmt.Errorf("no datagram came: %w", ctx.Err())
		}
	}
}

func (t *trickle) close() {
	close(t.stop)
	_, _ = t.from.Close(), t.to.Close()
	t.done.Wait()
}
