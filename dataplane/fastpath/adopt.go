package fastpath

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/xenvnet/xend/vnet"
)

// version is that of what the tables mean. Whoever changes that in bpf/tables.h, without changing the size of an
// element, counts it up: tables of another version are not taken over.
const version = 1

// adopt finds the tables of programs of an earlier run: all that the programs of the spec have, or none. They need no
// names in a file system: who finds a program on a device has found its tables, whichever daemon, prefix or network
// namespace it belongs to.
func adopt(spec *ebpf.CollectionSpec, attached []ebpf.ProgramID) map[string]*ebpf.Map {
	found := map[string]*ebpf.Map{}
	ids := map[string]ebpf.MapID{}
	mixed := false
	for _, id := range attached {
		for _, m := range mapsOf(id) {
			info, err := m.Info()
			if err != nil {
				_ = m.Close()
				continue
			}
			mapID, _ := info.ID()
			before, known := ids[info.Name]
			s := spec.Maps[info.Name]
			if known || s == nil || s.Compatible(m) != nil {
				mixed = mixed || known && before != mapID // two generations
				_ = m.Close()
				continue
			}
			found[info.Name], ids[info.Name] = m, mapID
		}
	}
	complete := !mixed && found["times"] != nil
	if complete {
		var t bpfTiming
		complete = found["times"].Lookup(uint32(0), &t) == nil && t.Version == version
	}
	for name := range spec.Maps {
		complete = complete && found[name] != nil
	}
	if complete {
		return found
	}
	for _, m := range found {
		_ = m.Close()
	}
	return nil
}

// mapsOf are the tables of a program; none if it is gone.
func mapsOf(id ebpf.ProgramID) (out []*ebpf.Map) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return nil
	}
	list, _ := info.MapIDs()
	for _, id := range list {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			out = append(out, m)
		}
	}
	return out
}

// restore takes over what tables of an earlier run hold.
func (p *Tables) restore() {
	used := map[uint32]bool{}
	_ = each(p.bpf.VnetOfId, func(k *bpfId, v *bpfVnet) {
		p.vnets[vnet.ID(k.Id)] = carried{slot: v.Slot, vnif: int(v.Vnif), mtu: int(v.Mtu)}
		used[v.Slot] = true
		_ = p.bpf.VnifOfSlot.Put(v.Slot, v.Vnif) // it is written last
	})
	p.slots.without(used)
	// A daemon that was killed while it took a vnet out has left MACs that a later vnet in its slot must not have.
	deleteIf(p.bpf.Macs, func(k *bpfMacKey, _ *bpfMac) bool {
		if used[k.Slot] {
			p.hasLocked(k.Slot, k.Mac)
		}
		return !used[k.Slot]
	})
	used = map[uint32]bool{}
	_ = each(p.bpf.Hosts, func(k *bpfId, v *bpfHost) {
		p.hosts[netip.AddrFrom16(k.Id).Unmap()] = v.Slot
		used[v.Slot] = true
	})
	p.free.without(used)
}

// Vnets are the vnets that the kernel carries.
func (p *Tables) Vnets() []vnet.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.vnets))
}

// Hosts are the hosts that are set.
func (p *Tables) Hosts() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.hosts))
}

// without makes slots be in use.
func (s *slots) without(used map[uint32]bool) {
	for n := range used {
		s.next = max(s.next, n+1)
	}
	for n := range s.next {
		if !used[n] {
			s.back = append(s.back, n)
		}
	}
}
