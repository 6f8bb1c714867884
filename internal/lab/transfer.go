package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Stream is a TCP connection between two nodes whose bytes are checked at the receiving end.
type Stream struct {
	what     string
	sender   net.Conn
	receiver net.Conn

	done sync.WaitGroup
	once sync.Once

	mu       sync.Mutex
	received int64
	err      error
	ended    bool
	more     chan struct{} // closed at progress
}

const streamBlock = 64 << 10

// pattern is what a stream carries, over and over; random, so that a byte out of place is seen.
var pattern = sync.OnceValue(func() []byte {
	b := make([]byte, streamBlock)
	r := rand.NewChaCha8([32]byte{'l', 'a', 'b'})
	_, _ = r.Read(b)
	return b
})

// Connect opens a connection from one node to an address of another. Nothing is sent yet.
func Connect(ctx context.Context, from, to *Node, addr netip.Addr) (*Stream, error) {
	s := &Stream{what: fmt.Sprintf("lab: connection from %s to %s (%s)", from.Name, to.Name, addr), more: make(chan struct{})}
	var l net.Listener
	err := to.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.what, err)
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err = from.Do(func() (err error) {
		s.sender, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.what, err)
	}
	if s.receiver, err = l.Accept(); err != nil {
		s.sender.Close()
		return nil, fmt.Errorf("%s: %w", s.what, err)
	}
	from.lab.atClose(s.Close)
	return s, nil
}

// Start begins to send, total bytes or, with 0, until Close, and to check what comes.
func (s *Stream) Start(total int64) {
	s.done.Go(func() {
		err := s.send(total)
		if err != nil {
			s.end(err)
		}
	})
	s.done.Go(func() { s.end(s.receive()) })
}

func (s *Stream) send(total int64) error {
	for sent := int64(0); total == 0 || sent < total; {
		b := pattern()
		if total != 0 {
			b = b[:min(int64(len(b)), total-sent)]
		}
		n, err := s.sender.Write(b)
		if err != nil {
			return err
		}
		sent += int64(n)
	}
	return s.sender.(*net.TCPConn).CloseWrite()
}

func (s *Stream) receive() error {
	buf, want := make([]byte, streamBlock), pattern()
	for at := 0; ; {
		n, err := s.receiver.Read(buf[:streamBlock-at])
		if !bytes.Equal(buf[:n], want[at:at+n]) {
			return errors.New("bytes differ from what was sent")
		}
		at = (at + n) % streamBlock
		s.mu.Lock()
		s.received += int64(n)
		close(s.more)
		s.more = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// end notes the first end: io.EOF is the good one.
func (s *Stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	close(s.more)
	s.more = make(chan struct{})
}

// Received is how many bytes have arrived.
func (s *Stream) Received() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

// WaitMore waits until so many further bytes have arrived.
func (s *Stream) WaitMore(ctx context.Context, n int64) error {
	goal := s.Received() + n
	return s.wait(ctx, func() bool { return s.received >= goal })
}

// Wait waits until all that Start was told to send has arrived.
func (s *Stream) Wait(ctx context.Context) error {
	return s.wait(ctx, func() bool { return s.ended && errors.Is(s.err, io.EOF) })
}

func (s *Stream) wait(ctx context.Context, enough func() bool) error {
	for {
		s.mu.Lock()
		ok, ended, err, more, received := enough(), s.ended, s.err, s.more, s.received
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case ended:
			return fmt.Errorf("%s ended after %d bytes: %w", s.what, received, err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%s stands after %d bytes: %w", s.what, received, ctx.Err())
		}
	}
}

// Close ends the connection. Idempotent.
func (s *Stream) Close() {
	s.once.Do(func() {
		s.sender.Close()
		s.receiver.Close()
	})
	s.done.Wait()
}

// Transfer sends so many bytes over TCP from one node to an address of another, checks them, and returns how long
// that took.
func Transfer(ctx context.Context, from, to *Node, addr netip.Addr, size int64) (time.Duration, error) {
	s, err := Connect(ctx, from, to, addr)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	start := time.Now()
	s.Start(size)
	if err := s.Wait(ctx); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
