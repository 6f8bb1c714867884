// Package porttest has fakes of package port, a vnif and devices, for tests that need no kernel.
package porttest

import (
	"slices"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/wire"
)

// Port is a vnif in memory. It belongs to one goroutine. The zero value is ready.
type Port struct {
	// Err is what Recv and Send return, if not nil.
	Err    error
	queue  []wire.Frame
	out    [][]byte
	Closed bool
}

// Put lets the worker read a frame: what the bridge sends.
func (p *Port) Put(frame []byte, h wire.VnetHdr) {
	p.queue = append(p.queue, wire.Frame{Hdr: h, Bufs: [][]byte{slices.Clone(frame)}})
}

// Waiting is how many frames were not read yet.
func (p *Port) Waiting() int { return len(p.queue) }

// Take returns what was sent since the last Take: what the bridge gets.
func (p *Port) Take() [][]byte {
	out := p.out
	p.out = nil
	return out
}

// Recv gives what was Put, at most a batch.
func (p *Port) Recv(b *port.Batch) (int, error) {
	if p.Err != nil {
		return 0, p.Err
	}
	n := b.Load(p.queue)
	p.queue = p.queue[n:]
	return n, nil
}

// Send keeps copies of frames.
func (p *Port) Send(frames []wire.Frame) (int, error) {
	if p.Err != nil {
		return 0, p.Err
	}
	for _, f := range frames {
		p.out = append(p.out, slices.Concat(f.Bufs...))
	}
	return len(frames), nil
}

// FD is no descriptor.
func (p *Port) FD() int { return -1 }

// Drops is 0: nothing is dropped.
func (p *Port) Drops() (uint32, error) { return 0, nil }

// Close notes that the port was closed.
func (p *Port) Close() error {
	p.Closed = true
	return nil
}
