package dataplane

import (
	"net/netip"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Event is something that happened in the data plane which others may want to act on. All of them are
// logged, too.
type Event struct {
	Kind EventKind
	// Vnet, MAC and Addr are set where the kind speaks of them.
	Vnet vnet.ID
	MAC  wire.MAC
	Addr netip.Addr
	// Text says what happened, for a person.
	Text string
}

// EventKind is the kind of an Event.
type EventKind uint8

// The kinds of events.
const (
	// VnetLost: the devices of a vnet vanished; Add makes them again.
	VnetLost EventKind = iota
	// MACMoved: a MAC moved between hosts or came to this one.
	MACMoved
	// MACFlapping: a MAC moves to and fro; it stays where it is for a while.
	MACFlapping
	// LoopSeen: a frame that this host sent came back.
	LoopSeen
	// UnderlayUp and UnderlayDown: the underlay got usable, or is not any more.
	UnderlayUp
	UnderlayDown
	// GroupSilent: nothing comes from the multicast group any more; GroupHeard: it does again.
	GroupSilent
	GroupHeard
)

// eventQueue is how many events wait for a reader; more are dropped.
const eventQueue = 256
