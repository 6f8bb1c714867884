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
	reasons
)

var reasonNames = [reasons]string{
	LeftFlood: "flood", LeftMiss: "miss", LeftSource: "source", LeftSize: "size", LeftGSO: "gso", LeftTag: "tag",
	LeftHost: "host", LeftRenew: "renew", LeftForm: "form", LeftChecksum: "checksum", LeftVnet: "vnet", LeftOff: "off",
	LeftSYN: "syn", LeftRoom: "room", LeftError: "error",
}

// String is the name of the reason in lists.
func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Left are the packets that were left to user space, by reason, on their way out and in. LeftError
// alone counts packets that were dropped.
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
