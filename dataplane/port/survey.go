package port

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// A device is ours if it is in our link group and bears a vnet's alias, or a name that only we give. The group
// comes with the message that creates a device, the alias with a later one: between the two, the name tells whose
// it is. A pair is ours if one of its ends is.
//
// Releases up to 0.1 put only the partner into the group. Their pairs are known by it; their bridges, by the alias
// and the vnif on them.

// Survey is what there was of devices at one moment, and what events have told since.
type Survey struct {
	links *hostnet.LinkTable
}

// Look lists all devices of a namespace: one look answers for any number of vnets.
func Look(h *hostnet.Host) (*Survey, error) {
	links, err := h.Links()
	if err != nil {
		return nil, fmt.Errorf("look for devices of vnets: %w", err)
	}
	return NewSurvey(links), nil
}

// LookFor lists those that matter to one vnet, which is less work where there are thousands.
func LookFor(h *hostnet.Host, s Spec) (*Survey, error) {
	var links []hostnet.Link
	seen := map[int]bool{}
	add := func(l hostnet.Link, err error) error {
		if err == nil && l.Index != 0 && !seen[l.Index] {
			seen[l.Index] = true
			links = append(links, l)
		}
		return err
	}
	for _, name := range []string{s.Vnetif, s.Bridge, PartnerName(s.ID), newVnifName(s.ID), newBridgeName(s.ID)} {
		if name == "" {
			continue
		}
		if err := add(find(h, name)); err != nil {
			return nil, err
		}
	}
	for range 2 { // the other ends, and what they are on
		for _, l := range slices.Clone(links) {
			for _, index := range []int{l.Partner, l.Master} {
				if index == 0 || seen[index] {
					continue
				}
				if err := add(findIndex(h, index)); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, l := range slices.Clone(links) {
		if l.Kind != "bridge" {
			continue
		}
		ports, err := h.Ports(l.Index)
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			_ = add(p, nil)
		}
	}
	return NewSurvey(links), nil
}

// NewSurvey is a survey of devices that are listed already.
func NewSurvey(links []hostnet.Link) *Survey { return &Survey{hostnet.NewLinkTable(links)} }

// Apply takes over what an event tells, and returns the device as it was before; the zero Link if it was not there.
func (s *Survey) Apply(ev hostnet.LinkEvent) (before hostnet.Link) { return s.links.Apply(ev) }

// Link returns the device of that name, if the survey has it.
func (s *Survey) Link(name string) (hostnet.Link, bool) {
	l := s.links.ByName(name)
	return l, l.Index != 0
}

// ByMaster lists the devices that are on something, by the index of what they are on.
func (s *Survey) ByMaster() map[int][]hostnet.Link {
	out := map[int][]hostnet.Link{}
	for _, l := range s.links.All() {
		if l.Master != 0 {
			out[l.Master] = append(out[l.Master], l)
		}
	}
	return out
}

// Owner tells which vnet a device was made for; ok is false for a device that xend did not make. Of one that was
// not finished and whose name has only a hash of the id, the id is zero.
func Owner(l hostnet.Link) (id vnet.ID, ok bool) {
	if l.Group != Group || l.Kind != "veth" && l.Kind != "bridge" {
		return vnet.ID{}, false
	}
	if l.Alias != "" {
		return parseAlias(l.Alias)
	}
	prefix, suffix, ok := cutName(l.Name)
	if !ok || (prefix == bridgePrefix) != (l.Kind == "bridge") {
		return vnet.ID{}, false
	}
	return parseSuffix(suffix), true
}

// ours says whether a device was made for that vnet.
func ours(l hostnet.Link, id vnet.ID) bool {
	if _, made := Owner(l); !made {
		return false
	}
	if l.Alias != "" {
		return l.Alias == Alias(id)
	}
	return l.Name == newVnifName(id) || l.Name == PartnerName(id) || l.Name == newBridgeName(id)
}

// Role is what a vnet wants a device for.
type Role uint8

// The roles.
const (
	RoleVnif Role = iota
	RolePartner
	RoleBridge
	// RoleTemporary is a name that a device bears while it is made.
	RoleTemporary
)

// Conflict means that a device is in the way of one that a vnet wants.
type Conflict struct {
	Role Role
	// Err is a *hostnet.NotOursError or a *ConflictError.
	Err error
}

func (e *Conflict) Error() string { return e.Err.Error() }

// Unwrap returns what is in the way.
func (e *Conflict) Unwrap() error { return e.Err }

// Finding is what a survey says of one vnet's devices.
type Finding struct {
	// Vnif, Partner and Bridge are the vnet's, under whatever names; Index 0: there is none, or not a usable one.
	// The bridge may be somebody else's.
	Vnif, Partner, Bridge hostnet.Link
	// Aside is a bridge of the vnet's that was set aside while another one has its name; Index 0: there is none.
	Aside hostnet.Link
	// Conflict says why the devices can't be made; nil: they can.
	Conflict *Conflict
	// Missing says what is not there, or not where it should be, for a person; "": all is.
	Missing string

	bridgeOurs bool
	broken     []hostnet.Link   // halves of ours that are of no use
	unfinished hostnet.Link     // a bridge of ours that nobody uses
	mac        net.HardwareAddr // of a vnif that must be made anew; nil: random
}

// Find compares what there is with what should be.
func (s *Survey) Find(spec Spec) Finding {
	f := finder{Survey: s, spec: spec}
	f.pair()
	f.bridge()
	f.Missing = f.missing()
	return f.Finding
}

type finder struct {
	*Survey
	Finding
	spec Spec
}

// inTheWay notes the first device that is in the way.
func (f *finder) inTheWay(role Role, l hostnet.Link, want string) {
	if f.Conflict != nil {
		return
	}
	if id, ok := parseAlias(l.Alias); ok && id != f.spec.ID {
		f.Conflict = &Conflict{role, &ConflictError{Device: l, By: id}}
		return
	}
	f.Conflict = &Conflict{role, &hostnet.NotOursError{Device: l, Want: want + " of vnet " + f.spec.ID.String()}}
}

// partner is the other end of a pair; none for what is no pair or has its end elsewhere.
func (s *Survey) partner(l hostnet.Link) hostnet.Link {
	if l.Kind != "veth" || l.Partner == 0 {
		return hostnet.Link{}
	}
	return s.links.ByIndex(l.Partner)
}

// pair finds the pair by its names and its marks. Two ends are one pair if one is the other's partner. What is
// ours but has no other end here is of no use, and made anew.
func (f *finder) pair() {
	id := f.spec.ID
	vnif, partner := f.links.ByName(f.spec.Vnetif), f.links.ByName(PartnerName(id))
	if partner.Index == 0 {
		// Renamed, by udev for example, or never made.
		partner = f.partner(vnif)
	}
	other := f.partner(partner) // the vnif, under whatever name
	switch {
	case partner.Index != 0 && !ours(partner, id) && !ours(other, id):
		if partner.Name != PartnerName(id) { // reached from the vnif, which is the one in the way
			f.inTheWay(RoleVnif, vnif, "a vnif")
			return
		}
		f.inTheWay(RolePartner, partner, "the partner of a vnif")
		return
	case vnif.Index != 0 && vnif.Index != other.Index && (vnif.Kind != "veth" || !ours(vnif, id)):
		f.inTheWay(RoleVnif, vnif, "a vnif")
		return
	case other.Index != 0 && (vnif.Index == 0 || vnif.Index == other.Index):
		f.Vnif, f.Partner = other, partner
		return
	}
	for _, half := range []hostnet.Link{vnif, partner} {
		if half.Index != 0 {
			f.broken = append(f.broken, half)
		}
	}
	f.mac = vnif.MAC
	switch temporary := f.links.ByName(newVnifName(id)); {
	case temporary.Index == 0:
	case temporary.Kind == "veth" && ours(temporary, id):
		f.broken = append(f.broken, temporary)
	default:
		f.inTheWay(RoleTemporary, temporary, "the vnif, before it has its name,")
	}
}

// bridge finds the bridge, which anybody may have made, and makes sure that it carries no other vnet: that would
// join the two.
func (f *finder) bridge() {
	if f.spec.Bridge == "" {
		return
	}
	id := f.spec.ID
	b, temporary := f.links.ByName(f.spec.Bridge), f.links.ByName(newBridgeName(id))
	if b.Index == 0 {
		switch {
		case temporary.Index == 0:
		case !ours(temporary, id):
			f.inTheWay(RoleTemporary, temporary, "the bridge, before it has its name,")
		case f.whole(temporary):
			f.Bridge, f.bridgeOurs = temporary, true
		default:
			f.unfinished = temporary // of a daemon that was killed here
		}
		return
	}
	if b.Kind != "bridge" {
		f.inTheWay(RoleBridge, b, "a bridge")
		return
	}
	for _, l := range f.links.Ports(b.Index) {
		if other, ok := parseAlias(l.Alias); ok && other != id && f.Conflict == nil {
			f.Conflict = &Conflict{RoleBridge, &ConflictError{Device: b, By: other}}
		}
	}
	// Ours also if it was made for a vnet that is no more.
	_, made := Owner(b)
	f.Bridge, f.bridgeOurs = b, made || f.Vnif.Master == b.Index && b.Alias == Alias(id)
	switch {
	case !ours(temporary, id) || temporary.Index == b.Index:
	case f.whole(temporary):
		f.Aside = temporary
	default:
		f.unfinished = temporary
	}
}

// whole tells a bridge that was set aside, or that somebody uses, from one that was never finished: that is not up.
func (s *Survey) whole(bridge hostnet.Link) bool { return bridge.Up() || s.hasPorts(bridge) }

func (s *Survey) hasPorts(bridge hostnet.Link) bool { return len(s.links.Ports(bridge.Index)) > 0 }

func (f *finder) missing() string {
	id, vnif := f.spec.ID, f.Vnif
	for _, half := range f.broken {
		if half.Name == f.spec.Vnetif {
			return "the other end of " + half.Name + " is gone"
		}
	}
	switch {
	case vnif.Index == 0 || vnif.Name != f.spec.Vnetif:
		return "interface " + f.spec.Vnetif + " is gone"
	case f.Partner.Name != PartnerName(id):
		return "the other end of " + vnif.Name + " is called " + f.Partner.Name
	case !ours(vnif, id) || !ours(f.Partner, id):
		return vnif.Name + " has lost its mark"
	case f.spec.Bridge == "":
		return ""
	case f.Bridge.Index == 0 || f.Bridge.Name != f.spec.Bridge:
		return "bridge " + f.spec.Bridge + " is gone"
	case vnif.Master == 0:
		return vnif.Name + " left its bridge " + f.spec.Bridge
	case vnif.Master != f.Bridge.Index:
		return vnif.Name + " is on " + f.links.ByIndex(vnif.Master).Name + " instead of " + f.spec.Bridge
	case f.Aside.Index != 0:
		return f.Aside.Name + " is left of a change, beside " + f.spec.Bridge
	}
	return ""
}

// Leftover is what there is of devices that xend made and that nobody wants.
type Leftover struct {
	ID      vnet.ID // zero if it can't be told
	Devices []hostnet.Link
}

func (l Leftover) String() string {
	names := make([]string, len(l.Devices))
	for i, d := range l.Devices {
		names[i] = d.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Leftovers lists the devices that xend made and that are none of the wanted vnets', in the order of their vnets'
// ids: what was being made or deleted when a daemon was killed, and what was renamed and replaced since. A bridge
// that something else is on is in use.
func (s *Survey) Leftovers(wanted []Spec) []Leftover {
	used, hashed := map[int]bool{}, map[string]vnet.ID{}
	for _, spec := range wanted {
		hashed[suffix(spec.ID)] = spec.ID
		f := s.Find(spec)
		for _, l := range append(f.broken, f.unfinished, f.Vnif, f.Partner, f.Bridge, f.Aside) { // Ensure and Gather see to them
			used[l.Index] = true
		}
	}
	left := map[int]vnet.ID{}
	for _, l := range s.links.All() {
		id, ok := Owner(l)
		if !ok {
			id, ok = Owner(s.partner(l)) // somebody took the mark of this end away
		}
		if !ok || used[l.Index] {
			continue
		}
		if id == (vnet.ID{}) {
			_, text, _ := cutName(l.Name)
			id = hashed[text]
		}
		left[l.Index] = id
	}
	found := map[vnet.ID]*Leftover{}
	for _, l := range s.links.All() {
		id, ok := left[l.Index]
		if !ok || l.Kind == "bridge" && slices.ContainsFunc(s.links.Ports(l.Index), func(p hostnet.Link) bool {
			_, goes := left[p.Index]
			return !goes
		}) {
			continue
		}
		if found[id] == nil {
			found[id] = &Leftover{ID: id}
		}
		found[id].Devices = append(found[id].Devices, l)
	}
	list := make([]Leftover, 0, len(found))
	for _, v := range found {
		list = append(list, *v)
	}
	slices.SortFunc(list, func(a, b Leftover) int { return a.ID.Compare(b.ID) })
	return list
}

// Ports are the devices on a bridge, in the order of their indices.
func (s *Survey) Ports(bridge string) []hostnet.Link {
	b, ok := s.Link(bridge)
	if !ok {
		return nil
	}
	return s.links.Ports(b.Index)
}
