package hostnet

import (
	"cmp"
	"maps"
	"slices"
)

// LinkTable are the devices of a namespace as they were listed once, and as events have told of them since: whoever has thousands
// of devices asks it instead of listing them again and again. It is always a bit behind the kernel; what follows from it is to
// be looked at once more by index or name before it is acted upon, where that matters. It is not for several goroutines.
type LinkTable struct {
	byIndex map[int]Link
	byName  map[string]int
	ports   map[int]map[int]struct{} // what is on a bridge or bond, by its index
	above   map[int]map[int]struct{} // what is stacked on a device
}

// NewLinkTable is a table of devices that were listed after a Watch began.
func NewLinkTable(links []Link) *LinkTable {
	t := &LinkTable{
		byIndex: make(map[int]Link, len(links)), byName: make(map[string]int, len(links)),
		ports: map[int]map[int]struct{}{}, above: map[int]map[int]struct{}{},
	}
	for _, l := range links {
		t.put(l)
	}
	return t
}

// ByIndex returns a device; the zero Link if there is none.
func (t *LinkTable) ByIndex(index int) Link { return t.byIndex[index] }

// ByName is ByIndex by the name.
func (t *LinkTable) ByName(name string) Link { return t.byIndex[t.byName[name]] }

// All lists all devices in the order of their indices.
func (t *LinkTable) All() []Link {
	return slices.SortedFunc(maps.Values(t.byIndex), func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
}

// Ports lists what is on a bridge or bond, in the order of the indices.
func (t *LinkTable) Ports(master int) []Link { return t.links(t.ports[master]) }

// Above lists what is stacked on a device, in the order of the indices.
func (t *LinkTable) Above(index int) []Link { return t.links(t.above[index]) }

func (t *LinkTable) links(set map[int]struct{}) []Link {
	if len(set) == 0 {
		return nil
	}
	list := make([]Link, 0, len(set))
	for _, index := range slices.Sorted(maps.Keys(set)) {
		list = append(list, t.byIndex[index])
	}
	return list
}

// Apply takes over what an event tells, and returns the device as it was before; the zero Link if it was not known.
func (t *LinkTable) Apply(ev LinkEvent) (before Link) {
	before = t.byIndex[ev.Link.Index]
	t.drop(before)
	if !ev.Gone {
		t.put(ev.Link)
	}
	// A pair knows its other end once both are there, and nothing tells of that, nor that the other end has gone.
	if p, ok := t.byIndex[before.Partner]; ok && before.Kind == "veth" && p.Partner == before.Index && (ev.Gone || ev.Link.Partner != p.Index) {
		p.Partner = 0
		t.byIndex[p.Index] = p
	}
	if p, ok := t.byIndex[ev.Link.Partner]; ok && !ev.Gone && ev.Link.Kind == "veth" && p.Partner == 0 && !p.PartnerAway {
		p.Partner = ev.Link.Index
		t.byIndex[p.Index] = p
	}
	return before
}

func (t *LinkTable) put(l Link) {
	t.byIndex[l.Index] = l
	t.byName[l.Name] = l.Index
	add(t.ports, l.Master, l.Index)
	if l.Stacked() {
		add(t.above, l.Partner, l.Index)
	}
}

func (t *LinkTable) drop(l Link) {
	if l.Index == 0 {
		return
	}
	delete(t.byIndex, l.Index)
	if t.byName[l.Name] == l.Index { // another may have it by now
		delete(t.byName, l.Name)
	}
	remove(t.ports, l.Master, l.Index)
	remove(t.above, l.Partner, l.Index)
}

func add(sets map[int]map[int]struct{}, of, index int) {
	if of == 0 {
		return
	}
	if sets[of] == nil {
		sets[of] = map[int]struct{}{}
	}
	sets[of][index] = struct{}{}
}

func remove(sets map[int]map[int]struct{}, of, index int) {
	if delete(sets[of], index); len(sets[of]) == 0 {
		delete(sets, of)
	}
}
