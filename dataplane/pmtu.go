package dataplane

import (
	"net/netip"

	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/wire"
)

// fitPath is mtu_mode pmtu: it makes a frame fit where frames of limit bytes do, or tells its sender to. It is
// false if the frame was dropped and the sender told.
func (w *worker) fitPath(n *network, limit int, frame []byte, h wire.VnetHdr) bool {
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
	answer, ok := offload.AppendTooBig(w.tooBig[:0], frame, longest, limit, netip.Addr{})
	if !ok {
		return true // it goes in fragments of the outer packet
	}
	w.dropOf(n, DropTooBig)
	w.tooBig = answer
	if !w.tooBigs.take(w.now, 1) {
		return false
	}
	w.answer[0] = answer
	w.answers[0] = wire.Frame{Bufs: w.answer[:]}
	if _, err := n.sender(w.number).Send(w.answers[:]); err != nil {
		w.dropOf(n, DropPort)
	}
	return false
}
