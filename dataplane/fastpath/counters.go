package fastpath

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/xenvnet/xend/vnet"
)

// Counters are what the kernel carried: inner frames and their bytes, without FCS. A super-frame counts
// as the frames that it stands for.
type Counters struct {
	TxFrames, TxBytes, RxFrames, RxBytes uint64
}

// Reason says why a packet was left to user space.
type Reason uint8

// The reasons, in the order of enum reason in bpf/tables.h.
const (
	LeftFlood Reason = iota
	LeftMiss
	LeftSource
	LeftSize
	LeftGSO
	LeftTag
	LeftHost
	LeftRenew
	LeftForm
	LeftChecksum
	LeftVnet
	LeftOff
	LeftSYN
	LeftRoom
	LeftError
	LeftOrder
	LeftQueue
	reasons
)

var reasonNames = [reasons]string{
	LeftFlood: "flood", LeftMiss: "miss", LeftSource: "source", LeftSize: "size", LeftGSO: "gso", LeftTag: "tag",
	LeftHost: "host", LeftRenew: "renew", LeftForm: "form", LeftChecksum: "checksum", LeftVnet: "vnet", LeftOff: "off",
	LeftSYN: "syn", LeftRoom: "room", LeftError: "error", LeftOrder: "order",
	LeftQueue: "queue",
}

// String is the name of the reason in lists.
func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

var reasonHelp = [reasons]string{
	LeftFlood:    "for everybody, or to a group",
	LeftMiss:     "to MACs of which it is not known, or not lately, behind which host they are",
	LeftSource:   "from MACs that are not known to be where the frame came from",
	LeftSize:     "larger than the path or the vnif takes",
	LeftGSO:      "large sends that are not plain TCP, and trains of several packets",
	LeftTag:      "VLAN tags on their way out",
	LeftHost:     "hosts from which no socket took a packet lately, or that are reached otherwise",
	LeftRenew:    "now and then, to see whether the host's firewall still lets them through",
	LeftForm:     "our other messages, fragments, and headers that contradict each other",
	LeftChecksum: "checksums that somebody else must verify or complete",
	LeftVnet:     "vnets that user space carries, or that this host does not have",
	LeftOff:      "while the kernel may not send or receive by the underlay",
	LeftSYN:      "packets that open TCP connections, whose MSS user space clamps",
	LeftRoom:     "not IP, or without room for our headers",
	LeftError:    "half done, and dropped",
	LeftOrder:    "of flows of which user space carried others a moment ago, which they must not overtake",
	LeftQueue:    "segments of TCP for which " + joinSend + " had no room, or whose vnet or MAC was gone when they came out; dropped",
}

// Help says what packets were left for the reason.
func (r Reason) Help() string {
	if r < reasons {
		return reasonHelp[r]
	}
	return ""
}

// Left are the packets that were left to user space, by reason, on their way out and in. LeftError and LeftQueue
// alone count packets that were dropped; to the latter Joiner.Lost is to be added.
type Left struct{ Out, In [reasons]uint64 }

// Left reads why packets were left.
func (p *Tables) Left() (Left, error) {
	var l Left
	for r := range reasons {
		for way, to := range []*[reasons]uint64{&l.Out, &l.In} {
			var per []uint64
			if err := p.bpf.Left.Lookup(uint32(way)*uint32(reasons)+uint32(r), &per); err != nil {
				return l, fmt.Errorf("kernel fast path: reasons: %w", err)
			}
			for _, n := range per {
				to[r] += n
			}
		}
	}
	return l, nil
}

// VnetCounters are what the kernel carried of a vnet; false: it carries none of it.
func (p *Tables) VnetCounters(id vnet.ID) (Counters, bool) {
	p.mu.Lock()
	c, ok := p.vnets[id]
	p.mu.Unlock()
	if !ok {
		return Counters{}, false
	}
	return sum(p.bpf.VnetCounters, c.slot)
}

// HostCounters are what the kernel carried to and from a host.
func (p *Tables) HostCounters(addr netip.Addr) (Counters, bool) {
	p.mu.Lock()
	slot, ok := p.hosts[addr]
	p.mu.Unlock()
	if !ok {
		return Counters{}, false
	}
	return sum(p.bpf.HostCounters, slot)
}

func sum(m *ebpf.Map, slot uint32) (Counters, bool) {
	var per []bpfCounters
	if err := m.Lookup(slot, &per); err != nil {
		return Counters{}, false
	}
	var c Counters
	for i := range per {
		c.TxFrames += per[i].TxFrames
		c.TxBytes += per[i].TxBytes
		c.RxFrames += per[i].RxFrames
		c.RxBytes += per[i].RxBytes
	}
	return c, true
}

// zero clears an element of a per-CPU array.
func zero[T any](m *ebpf.Map, slot uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	return m.Put(slot, make([]T, cpus))
}
