package dataplane

import (
	"net/netip"

	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/wire"
)

// fitPath is mtu_mode pmtu: it makes a frame fit the link, or tells its sender to. It is false if the
// frame was dropped and the sender told.
func (w *worker) fitPath(n *network, l *link, etherip bool, frame []byte, h wire.VnetHdr) bool {
	limit := l.maxFrame(etherip)
	offload.ClampMSS(frame, h, limit)
	longest := len(frame)
	switch h.GSOType &^ wire.GSOECN {
	case wire.GSONone:
	case wire.GSOUDPL4:
		longest = offload.LongestUDP(frame, h)
	default:
		return true // TCP is cut to fit
	}
	if longest <= limit {
		return true
	}
	// What is not IP, or lets itself be fragmented, goes in fragments of the outer packet.
	inner := l.overhead(etherip).InnerMTU(l.path.MTU) - tags(frame)*tagLen
	answer, ok := offload.AppendTooBig(w.tooBig[:0], frame, inner, netip.Addr{})
	if !ok {
		return true
	}
	w.tooBig = answer
	w.answer[0] = answer
	w.answers[0] = wire.Frame{Bufs: w.answer[:]}
	if _, err := n.sender(w.number).Send(w.answers[:]); err != nil {
		w.drop(DropPort)
	}
	w.drop(DropTooBig)
	return false
}

// tags counts the VLAN tags of a frame.
func tags(frame []byte) int {
	n := 0
	for at := 12; at+tagLen+2 <= len(frame) && n < 2 && isTag(frame[at:]); at += tagLen {
		n++
	}
	return n
}
