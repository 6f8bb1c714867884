package netscripts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// transfer is a TCP connection over which random bytes flow from one host to another, and are checked.
type transfer struct {
	t        testing.TB
	received atomic.Int64
	arrived  chan struct{} // something arrived
	longest  atomic.Int64  // pause between two arrivals, ns
	conn     net.Conn
	done     chan error
}

// stream is the same sequence for both ends.
func stream() io.Reader { return rand.NewChaCha8([32]byte{1}) }

func startTransfer(t testing.TB, from, to *host, address string) *transfer {
	x := &transfer{t: t, arrived: make(chan struct{}, 1), done: make(chan error, 2)}
	var l net.Listener
	require.NoError(t, to.far.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	go func() {
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			x.done <- err
			return
		}
		defer c.Close()
		x.done <- x.check(c)
	}()
	require.NoError(t, from.Do(func() (err error) {
		x.conn, err = net.Dial("tcp", address)
		return err
	}))
	go func() {
		_, err := io.Copy(x.conn, stream())
		x.done <- err
	}()
	return x
}

func (x *transfer) check(c net.Conn) error {
	have, want := make([]byte, 64<<10), make([]byte, 64<<10)
	source := stream()
	last := time.Now()
	for {
		n, err := c.Read(have)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		now := time.Now()
		x.longest.Store(max(x.longest.Load(), int64(now.Sub(last))))
		last = now
		if _, err := io.ReadFull(source, want[:n]); err != nil {
			return err
		}
		if string(have[:n]) != string(want[:n]) {
			return fmt.Errorf("wrong bytes near %d", x.received.Load())
		}
		x.received.Add(int64(n))
		select {
		case x.arrived <- struct{}{}:
		default:
		}
	}
}

// more waits until n more bytes have arrived.
func (x *transfer) more(n int64) {
	x.t.Helper()
	want := x.received.Load() + n
	deadline := time.After(2 * time.Minute)
	for x.received.Load() < want {
		select {
		case <-x.arrived:
		case err := <-x.done:
			x.t.Fatalf("the transfer ended: %v", err)
		case <-deadline:
			x.t.Fatalf("the transfer hangs at %d bytes", x.received.Load())
		}
	}
}

func (x *transfer) close() {
	x.conn.Close()
	// The sender was in the middle of a write; the receiver read all that was sent.
	_, _ = <-x.done, <-x.done
}

// A connection through the device goes on while a bridge is put under it and taken away again.
func TestTransferSurvives(t *testing.T) {
	for _, address := range []string{"192.0.2.254:5001", "[2001:db8::254]:5001"} {
		t.Run(address, func(t *testing.T) {
			kernels(t, func(t *testing.T, h *host, before func(string) error) {
				x := startTransfer(t, h, h, address)
				const much = 4 << 20
				x.more(much)
				for _, command := range []string{"start", "stop", "start", "stop"} {
					began := time.Now()
					r := h.runWith(context.Background(), Env{Before: before}, "network-bridge", command)
					require.Equal(t, 0, r.status, r.stderr)
					took := time.Since(began)
					x.more(much)
					t.Logf("%s took %s; longest pause so far %s", command, took, time.Duration(x.longest.Load()))
				}
				x.close()
			})
		})
	}
}
