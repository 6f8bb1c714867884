package dataplane

import (
	"net/netip"
	"sync/atomic"

	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// view is what workers see of the world. It never changes: a cold operation publishes another one.
type view struct {
	// vnets are those that are carried.
	vnets map[vnet.ID]*network
	// uplinks are the usable underlays by family, nil where there is none.
	uplinks [2]*uplink
	// own are this host's addresses.
	own map[netip.Addr]struct{}
	// devices are the indices of those by which other hosts' packets may come.
	devices map[int]struct{}
	// peers get VFWD; peer finds one by its address.
	peers []hosts.Peer
	peer  map[netip.Addr]*hosts.Peer
	// replicas get a unicast copy of every flooded frame.
	replicas []netip.AddrPort
	// floodOpen and floodSealed are who gets what is flooded, in vnets without security and with.
	floodOpen, floodSealed *audience
	// old are the hosts that speak only EtherIP.
	old map[netip.Addr]struct{}
	// sources are what workers wait for, by the token that epoll gives back.
	sources map[int32]source

	port    uint16
	secure  uint16 // the UDP port of vnets with security
	ttl     uint8
	etherip bool // frames are sent as EtherIP without UDP
	// deaf: EtherIP without UDP is not received.
	deaf  bool
	pmtu  bool
	flows bool // the source port of unicast tells flows apart
	clamp bool // the MSS of SYNs is lowered to what fits
	esp   bool // frames of vnets with security are sent as ESP without UDP
	nat   bool // this host is behind NAT, as vnets with security see it
	// workers count what they drop, and config is what lists tell.
	workers []*worker
	config  *Config
	// groupSilence is Config.GroupSilence in nanoseconds.
	groupSilence int64
}

// source is a descriptor with packets for a worker: a vnif or a socket of an underlay.
type source struct {
	network *network
	port    vnif
	uplink  *uplink
	socket  *underlay.Socket
	// secured is true of the sockets of vnets with security.
	secured bool
}

// uplink is a usable underlay.
type uplink struct {
	*underlay.Underlay
	// secure has the sockets of vnets with security; nil without such a vnet. With home, all is sent from the
	// security port.
	secure *underlay.Underlay
	home   bool
	path   *underlay.Path
	group  netip.AddrPort
	heard  *heard
}

// heard tells when something last came from the group; 0: never.
type heard struct{ group, unicast atomic.Int64 }

// heardStep is how stale, in nanoseconds, a heard may be: a store per packet would be wasted.
const heardStep = int64(1e8)

func note(at *atomic.Int64, now int64) {
	if now-at.Load() > heardStep {
		at.Store(now)
	}
}

// network is a vnet as workers see it. It never changes, but for what meter counts: a cold operation puts
// another one in its place.
type network struct {
	config  vnet.Config
	devices port.Devices
	// ports share what reaches the vnif; none while the vnet is not carried. Each may send.
	ports []attached
	// header is what stands in front of frames in UDP; its tail in front of them in EtherIP.
	header []byte
	// seal protects the packets of a vnet with security; nil without security, and while there is no key.
	seal Seal
	// salt makes equal frames of two vnets differ in tables.
	salt uint64
	// limit bounds what is flooded; nil: nothing does.
	limit *bucket
	*meter
}

// meter is what workers note of a vnet. It outlives the networks that follow each other.
type meter struct {
	// suspect is until when there may be a loop.
	suspect atomic.Int64
	// shares are one element per worker.
	shares []share
}

// share is what one worker has of a network.
type share struct {
	txPackets, txFrames, txBytes atomic.Uint64
	txFlooded                    atomic.Uint64 // of txPackets
	rxPackets, rxFrames, rxBytes atomic.Uint64
	// slot is one more than the index in the worker's targets, 0 for none; only used by the worker.
	slot int
	// drops counts what was not passed on, by reason.
	drops hosts.Tally
	_     [56]byte // two cache lines
}

// newNetwork is the only way to a network: what was given, and what follows from it. What differs from another
// network is changed in a copy of that, so that nothing is forgotten. rate is Config.BUMRate.
func newNetwork(n network, rate int) *network {
	n.header = wire.AppendVUDP(nil, n.config.ID)
	if n.limit = nil; rate > 0 {
		n.limit = newBucket(rate, rate)
	}
	return &n
}

// sender is the port by which a worker sends to the vnif: its own, where it has one.
func (n *network) sender(worker int) vnif { return n.ports[worker%len(n.ports)].vnif }

// dropped counts what a worker does not pass on of the vnet's.
func (n *network) dropped(worker int, r Reason, packets uint64) {
	n.shares[worker].drops.Add(uint8(r), packets)
}

// longest is the length of the longest frame that the vnif takes: its MTU, and room for the tags that
// the frame has.
func (n *network) longest(frame []byte) int {
	header, _ := offload.NetworkHeader(frame)
	return n.devices.MTU + header
}

// bucket is a token bucket, which any goroutine may use.
type bucket struct {
	interval int64 // nanoseconds per token
	depth    int64 // nanoseconds that tokens can be taken ahead of time
	// next is when the tokens that were taken will all have come in: the theoretical arrival time of the
	// generic cell rate algorithm.
	next atomic.Int64
}

// newBucket returns a bucket that rate tokens per second come into, and that holds burst.
func newBucket(rate, burst int) *bucket {
	const second = int64(1e9)
	return &bucket{interval: second / int64(rate), depth: second / int64(rate) * int64(burst)}
}

// take takes tokens if there is one; the others are owed, up to what comes in in the time of ten bursts.
func (b *bucket) take(now int64, tokens int) bool {
	for {
		old := b.next.Load()
		next := max(old, now) + b.interval
		if next-now > b.depth {
			return false
		}
		if b.next.CompareAndSwap(old, min(next+int64(tokens-1)*b.interval, max(next, now+10*b.depth))) {
			return true
		}
	}
}
