package fastpath

import (
	"fmt"
	"maps"
	"slices"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// memory is what a Bypass knows of the bridges of vnets, and which of them are to be looked at anew: those of which an event told,
// those that are not as they were, and each when its turn has come.
type memory struct {
	// links are all devices; nil: they are to be listed. looks counts those since they were.
	links *hostnet.LinkTable
	looks int
	vnets map[vnet.ID]*knownVnet
	// of finds vnets by the indices of their bridges, vnifs and ports.
	of    map[int]vnet.ID
	stale map[vnet.ID]struct{}
	// turn are those whose turn is still to come in this round.
	turn []vnet.ID
}

// knownVnet is what was found of a vnet's bridge.
type knownVnet struct {
	BypassVnet
	slot   uint32
	bridge BridgeState // without the firewall
	ports  []PortState // but for the vnif
	// tcx is what is at TCX, by device.
	tcx map[int][2]hostnet.TCXState
	fdb []hostnet.FDBEntry
	// polled: a way past the bridge was chosen for one of the ports, or would have been but for a program at TCX.
	polled bool
	// fresh: it was asked about, or polled, in this look.
	fresh bool
}

func newMemory() memory {
	return memory{vnets: map[vnet.ID]*knownVnet{}, of: map[int]vnet.ID{}, stale: map[vnet.ID]struct{}{}}
}

// follow reads what the kernel has told.
func (k *memory) follow(links, fdb *hostnet.Feed) error {
	lost, err := links.Read(maxBypassEvents, k.event)
	if err != nil {
		return err
	}
	lostFDB, err := fdb.Read(maxBypassEvents, k.event)
	if lost || lostFDB {
		k.links = nil
		k.touchAll()
	}
	return err
}

// event marks the vnet that an event is about.
func (k *memory) event(ev hostnet.Event) {
	switch ev := ev.(type) {
	case hostnet.LinkEvent:
		if k.links != nil {
			k.touch(k.links.Apply(ev).Master)
		}
		k.touch(ev.Link.Index)
		k.touch(ev.Link.Master)
	case hostnet.PortEvent:
		k.touch(ev.Port.Index)
		k.touch(ev.Port.Bridge)
	case hostnet.FDBEvent:
		k.touch(ev.Entry.Bridge)
	case hostnet.TCEvent:
		if ev.Index == 0 {
			k.touchAll()
		}
		k.touch(ev.Index)
	}
}

// touch has the vnet of a device be looked at anew, if it is one's.
func (k *memory) touch(index int) {
	if id, ok := k.of[index]; ok {
		k.stale[id] = struct{}{}
	}
}

func (k *memory) touchAll() {
	for id := range k.vnets {
		k.stale[id] = struct{}{}
	}
}

// want takes over which vnets are carried, and forgets others. slot is that of a carried vnet.
func (k *memory) want(vnets map[vnet.ID]BypassVnet, slot func(vnet.ID) (uint32, bool)) {
	for id, v := range k.vnets {
		if w, ok := vnets[id]; !ok || w != v.BypassVnet {
			k.forget(id)
		}
	}
	for id, v := range vnets {
		n, carried := slot(id)
		switch before := k.vnets[id]; {
		case !carried:
			k.forget(id)
		case before == nil:
			k.put(id, &knownVnet{BypassVnet: v, slot: n})
			k.stale[id] = struct{}{}
		default:
			before.slot = n
		}
	}
}

func (k *memory) put(id vnet.ID, v *knownVnet) {
	k.vnets[id] = v
	for _, index := range v.devices() {
		k.of[index] = id
	}
}

func (k *memory) forget(id vnet.ID) {
	if v := k.vnets[id]; v != nil {
		for _, index := range v.devices() {
			if k.of[index] == id {
				delete(k.of, index)
			}
		}
	}
	delete(k.vnets, id)
	delete(k.stale, id)
}

// devices are the indices of a vnet's devices.
func (v *knownVnet) devices() []int {
	list := []int{v.Bridge, v.Vnif}
	for _, p := range v.ports {
		list = append(list, p.Index)
	}
	return list
}

// due are the vnets that are to be looked at anew in this look. What is told from now on counts for the next.
func (k *memory) due() []vnet.ID {
	if k.looks++; k.looks == relistLooks {
		k.links, k.looks = nil, 0
	}
	if len(k.turn) == 0 {
		k.turn = slices.Collect(maps.Keys(k.vnets))
	}
	if len(k.turn) > 0 {
		if id := k.turn[0]; k.vnets[id] != nil {
			k.stale[id] = struct{}{}
		}
		k.turn = k.turn[1:]
	}
	// In an order, so that it is the same ones that find no room.
	return slices.SortedFunc(maps.Keys(k.stale), vnet.ID.Compare)
}

// learn takes over what was found of a vnet's bridge.
func (k *memory) learn(id vnet.ID, v *knownVnet) {
	before := k.vnets[id]
	if before == nil {
		return
	}
	v.slot, v.fresh = before.slot, true
	k.forget(id)
	k.put(id, v)
}

// toPoll are the devices whose programs at TCX are to be looked at, and what netkit devices were found to decide.
func (k *memory) toPoll() (devices []int, netkit map[int]bool) {
	netkit = map[int]bool{}
	for id, v := range k.vnets {
		if _, stale := k.stale[id]; stale || !v.polled {
			continue
		}
		v.fresh = true
		for index := range v.tcx {
			devices = append(devices, index)
		}
		for _, p := range v.ports {
			if p.Kind == "netkit" {
				netkit[p.Index] = p.Decides
			}
		}
	}
	return devices, netkit
}

// compare has a vnet be looked at anew if what is at TCX of a device of its is not what was found.
func (k *memory) compare(index int, tcx [2]hostnet.TCXState) {
	if v := k.vnets[k.of[index]]; v != nil && v.tcx[index] != tcx {
		k.touch(index)
	}
}

// look is what one look found.
type look struct {
	ports map[int]BypassedPort
	vifs  map[int]bool // those of the ports that may be domains'
	macs  map[bpfMacKey]bpfVif
}

// choose chooses a way for each port. firewall says what of the host's firewall sees the frames of bridges, by whether they hand
// them to it by themselves.
func (k *memory) choose(firewall map[bool]string) look {
	l := look{ports: map[int]BypassedPort{}, vifs: map[int]bool{}, macs: map[bpfMacKey]bpfVif{}}
	bypassed := 0
	for _, id := range slices.SortedFunc(maps.Keys(k.vnets), vnet.ID.Compare) {
		v := k.vnets[id]
		s := v.bridge
		s.Firewall = firewall[s.CallsFirewall]
		v.polled = hasTCX(s.VnifPrograms)
		for _, p := range v.ports {
			v.polled = v.polled || hasTCX(p.Programs)
			way, why := ChooseWay(s, p)
			if way != WayBridge && bypassed == maxBypassed {
				way, why = WayBridge, fmt.Sprintf("%d others pass their bridges by, and no more can be watched", maxBypassed)
			}
			if way != WayBridge && !v.fresh { // what kept its frames on the bridge has gone, and nobody has looked at the rest since
				way, why = WayBridge, "its bridge is looked at once more"
				k.stale[id] = struct{}{}
			}
			l.ports[p.Index] = BypassedPort{Vnet: id, Name: p.Name, Index: p.Index, Way: way, Reason: why}
			l.vifs[p.Index] = isVif(p.Link)
			if way == WayBridge {
				continue
			}
			bypassed++
			v.polled = true
			room := maxVifMACs
			for _, e := range v.fdb {
				if e.Port == p.Index && !e.Local && e.VLAN == 0 && room > 0 {
					l.macs[bpfMacKey{Slot: v.slot, Mac: e.MAC}] = bpfVif{Ifindex: uint32(p.Index), Way: uint16(way), Mtu: uint16(min(p.MTU, 65535))}
					room--
				}
			}
		}
		v.fresh = false
	}
	return l
}

func hasTCX(programs []hostnet.DeviceProgram) bool {
	return slices.ContainsFunc(programs, func(p hostnet.DeviceProgram) bool { return p.Kind == "tcx" })
}
