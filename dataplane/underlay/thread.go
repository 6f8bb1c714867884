package underlay

import "net/netip"

// Thread is what one thread needs to move packets by any socket. It belongs to one goroutine.
type Thread struct {
	sender Sender
	relay  *Relay
}

// NewThread allocates a Thread.
func NewThread() *Thread { return &Thread{relay: NewRelay()} }

// Recv is Socket.Recv.
func (t *Thread) Recv(s *Socket, b *Batch) (int, error) { return s.Recv(b) }

// Send is Sender.Send.
func (t *Thread) Send(s *Socket, p *Path, msgs []Msg) (failed int, err error) {
	return t.sender.Send(s, p, msgs)
}

// Relay is Relay.Send.
func (t *Thread) Relay(u *Underlay, p *Path, from, group netip.AddrPort, ttl uint8, payload []byte) error {
	return t.relay.Send(u, p, from, group, ttl, payload)
}
