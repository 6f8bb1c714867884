// Package fastpath is the kernel's part of the data plane: eBPF programs at TC that encapsulate and
// decapsulate known unicast of open vnets (security none), so that it passes user space by.
//
// Nothing is decided in the kernel. The programs take a packet if the tables that user space keeps here
// say that all of it is in order, and leave every other one to the packet sockets of the vnif and the UDP
// sockets of the underlay:
//
//	bridge ──> vnif egress ── vnet_out ──> underlay device      left: flooding, unknown MACs, tags, what does not fit
//	bridge <── vnif ingress <── underlay_in ── underlay device  left: the group, VARP, fragments, MACs that moved, hosts not heard lately
//
// The host's firewall, which sits behind TC, still decides: a host is heard by the kernel only for
// HostTTL after a socket took a packet from it, and a packet now and then is left to the socket to renew
// that. MACs age by themselves: an entry that nothing confirms for MACTTL is left to user space, also when
// the daemon is dead.
package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Bounds of the tables; what is above them stays in user space.
const (
	MaxVnets = 4096
	MaxHosts = 1024
	MaxMACs  = 262144
)

// Where a MAC is: enum place of bpf/tables.h.
const placeLocal, placeRemote = 1, 2

// ErrFull tells that a table of the fast path is full. What does not fit is carried by user space.
var ErrFull = errors.New("table of the fast path is full")

// UnsupportedError says why this kernel runs no fast path.
type UnsupportedError struct {
	// Needs is what the kernel would have to have.
	Needs string
	Err   error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("kernel fast path: needs %s: %v", e.Needs, e.Err)
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

// Times are what the kernel judges ages by. Zero fields are those of DefaultTimes.
type Times struct {
	// MACTTL is how long a MAC is good without a frame from it.
	MACTTL time.Duration
	// HostTTL is how long a host is heard after a socket took a packet from it.
	HostTTL time.Duration
	// Renew is the age of that after which a packet is left to the socket every RenewEvery.
	Renew, RenewEvery time.Duration
}

// DefaultTimes are those of the wire protocol, and a minute for a firewall's decision.
func DefaultTimes() Times {
	return Times{MACTTL: 60 * time.Second, HostTTL: 60 * time.Second, Renew: 20 * time.Second, RenewEvery: 100 * time.Millisecond}
}

func (t Times) withDefaults() Times {
	d := DefaultTimes()
	for _, p := range []struct{ v, def *time.Duration }{
		{&t.MACTTL, &d.MACTTL}, {&t.HostTTL, &d.HostTTL}, {&t.Renew, &d.Renew}, {&t.RenewEvery, &d.RenewEvery},
	} {
		if *p.v == 0 {
			*p.v = *p.def
		}
	}
	return t
}

// Underlay is how packets of one address family leave and arrive. The zero value turns a family off.
type Underlay struct {
	// Addr is this host's care-of address.
	Addr netip.Addr
	// Index and MTU are of the device that packets leave by, and MAC is the one that packets for Addr are sent to.
	Index, MTU int
	MAC        wire.MAC
	// Port is the UDP port of vnets.
	Port uint16
	// TTL is that of unicast packets.
	TTL uint8
	// FlowPort makes the source port a hash of the inner flow, which lets receivers use several cores.
	FlowPort bool
	// Send and Receive say which ways the kernel may take.
	Send, Receive bool
}

// Tables are the programs and what they know. Methods may be called from any goroutine.
type Tables struct {
	bpf     bpfObjects
	adopted bool

	mu    sync.Mutex
	times Times
	alive uint64
	// changes is what the programs compare with what they remember of the tables; it never is what another daemon wrote before.
	changes uint64
	vnets   map[vnet.ID]carried
	macs    map[uint32]map[wire.MAC]struct{} // those that the kernel has, by the slot of their vnet
	slots   slots                            // of vnets
	hosts   map[netip.Addr]uint32            // slots
	free    slots                            // of hosts
}

type carried struct {
	slot uint32
	vnif int
	mtu  int
}

// What the kernel calls our programs: who finds them at a device knows whose they are.
const (
	NameIn  = "xend_in"  // at the ingress of the underlay's cards
	NameOut = "xend_out" // at the egress of vnifs
	NameXDP = "xend_xdp"
	nameVif = "xend_vif" // at the ingress of vifs

	nameJoin = "xend_join" // at the ingress of the pair that joins segments
)

var programNames = map[string]string{
	bpfProgUnderlayIn: NameIn, bpfProgVnetOut: NameOut, bpfProgVifIn: nameVif, bpfProgJoinedIn: nameJoin,
}

// Load loads the programs; they do nothing until they are attached and told of an underlay. An
// UnsupportedError says what the kernel lacks.
//
// attached are programs of an earlier run that are attached still. The new ones take over their tables, if these mean
// the same: what the kernel carries goes on, and programs can be replaced one by one.
func Load(t Times, attached ...ebpf.ProgramID) (*Tables, error) {
	p := &Tables{
		times: t.withDefaults(), changes: Now(),
		vnets: map[vnet.ID]carried{},
		macs:  map[uint32]map[wire.MAC]struct{}{},
		hosts: map[netip.Addr]uint32{},
		slots: slots{bound: MaxVnets}, free: slots{bound: MaxHosts},
	}
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("kernel fast path: %w", err)
	}
	for name, to := range programNames {
		spec.Programs[name].Name = to
	}
	old := adopt(spec, attached)
	defer func() {
		for _, m := range old {
			_ = m.Close() // the collection has its own
		}
	}()
	if err := spec.LoadAndAssign(&p.bpf, &ebpf.CollectionOptions{MapReplacements: old}); err != nil {
		return nil, &UnsupportedError{Needs: "eBPF programs at TC (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF; Linux 5.13 or later)", Err: err}
	}
	if err := p.SetTimes(t); err != nil {
		p.Close()
		return nil, err
	}
	if len(old) > 0 {
		p.adopted = true
		p.restore()
	}
	return p, nil
}

// Adopted reports whether the tables are those of an earlier run.
func (p *Tables) Adopted() bool { return p.adopted }

// SetTimes changes what ages are judged by.
func (p *Tables) SetTimes(t Times) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times = t.withDefaults()
	return p.putTimesLocked()
}

// Alive says that the sockets are read for certain until a time on the clock of Now: packets may be left to them to
// renew that a host is heard.
func (p *Tables) Alive(until uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive = until
	return p.putTimesLocked()
}

func (p *Tables) putTimesLocked() error {
	t := p.times
	v := bpfTiming{
		MacTtl: uint64(t.MACTTL), HostTtl: uint64(t.HostTTL), Renew: uint64(t.Renew), RenewEvery: uint64(t.RenewEvery),
		Alive: p.alive, Version: version, Changes: p.changes,
	}
	if err := p.bpf.Times.Put(uint32(0), &v); err != nil {
		return fmt.Errorf("kernel fast path: times: %w", err)
	}
	return nil
}

// changedLocked voids what the programs remember: something in a table has changed, or is gone. Without it they notice some ms later.
func (p *Tables) changedLocked() {
	p.changes++
	_ = p.putTimesLocked()
}

func (p *Tables) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changedLocked()
}

// Close gives the tables and programs back. Programs that are attached go on with what they know.
func (p *Tables) Close() { _ = p.bpf.Close() }

// Out is the program for the egress of vnifs, In that for the ingress of underlay devices.
func (p *Tables) Out() *ebpf.Program { return p.bpf.VnetOut }

// In is the program for the ingress of the underlay's devices, and of no other.
func (p *Tables) In() *ebpf.Program { return p.bpf.UnderlayIn }

// family is the index of an address family's underlay.
func family(addr netip.Addr) uint32 {
	if addr.Unmap().Is4() {
		return 0
	}
	return 1
}

// SetUnderlay says how packets of a family travel. While it is changed the family is off, so that no
// packet leaves by half of the old way and half of the new. What is so already is not touched: a daemon that is killed
// while it takes over must not leave the family off.
func (p *Tables) SetUnderlay(u Underlay) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := family(u.Addr)
	v := bpfUnderlay{Addr: u.Addr.As16(), Ifindex: uint32(u.Index), Mtu: uint32(u.MTU), Port: swap(u.Port), Ttl: u.TTL, Mac: u.MAC}
	if u.FlowPort {
		v.FlowPort = 1
	}
	on := v
	if u.Send {
		on.Flags |= 1
	}
	if u.Receive {
		on.Flags |= 2
	}
	var before bpfUnderlay
	if err := p.bpf.Underlays.Lookup(k, &before); err == nil && before == on {
		return nil
	}
	for _, step := range []bpfUnderlay{{}, v, on} {
		if err := p.bpf.Underlays.Put(k, &step); err != nil {
			return fmt.Errorf("kernel fast path: underlay: %w", err)
		}
	}
	return nil
}

// ClearUnderlay turns a family off; addr is any address of it.
func (p *Tables) ClearUnderlay(addr netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.bpf.Underlays.Put(family(addr), &bpfUnderlay{}); err != nil {
		return fmt.Errorf("kernel fast path: underlay: %w", err)
	}
	return nil
}

// swap gives a number the byte order of the wire.
func swap(n uint16) uint16 { return n<<8 | n>>8 }

// AddVnet lets the kernel carry a vnet whose vnif has that index and MTU. Only vnets of security none may be
// given. ErrFull above MaxVnets. Adding it again with another vnif moves it there.
func (p *Tables) AddVnet(id vnet.ID, vnif, mtu int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, had := p.vnets[id]
	if had && c.vnif == vnif && c.mtu == mtu {
		return nil
	}
	if had && c.vnif != vnif {
		_ = p.bpf.VnetOfVnif.Delete(uint32(c.vnif))
	} else if !had {
		slot, ok := p.slots.take()
		if !ok {
			return fmt.Errorf("%w: more than %d vnets", ErrFull, MaxVnets)
		}
		c.slot = slot
		if err := zero[bpfCounters](p.bpf.VnetCounters, slot); err != nil {
			p.slots.give(slot)
			return fmt.Errorf("kernel fast path: counters of vnet %s: %w", id, err)
		}
	}
	c.vnif, c.mtu = vnif, mtu
	v := bpfVnet{Id: id, Slot: c.slot, Vnif: uint32(vnif), Mtu: uint32(mtu)}
	err := p.bpf.VnetOfId.Put(&bpfId{Id: id}, &v)
	if err == nil {
		err = p.bpf.VnetOfVnif.Put(uint32(vnif), &v)
	}
	if err == nil {
		err = p.bpf.VnifOfSlot.Put(c.slot, uint32(vnif))
	}
	if err != nil {
		p.removeLocked(id, c)
		return fmt.Errorf("kernel fast path: vnet %s: %w", id, err)
	}
	p.vnets[id] = c
	if had {
		p.changedLocked()
	}
	return nil
}

// RemoveVnet takes a vnet and its MACs out of the kernel.
func (p *Tables) RemoveVnet(id vnet.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.vnets[id]; ok {
		p.removeLocked(id, c)
	}
}

func (p *Tables) removeLocked(id vnet.ID, c carried) {
	delete(p.vnets, id)
	p.haltLocked(id, c)
	p.changedLocked()
	// A slot that is used again must not bring the MACs of its last user.
	for mac := range p.macs[c.slot] {
		_ = p.bpf.Macs.Delete(&bpfMacKey{Slot: c.slot, Mac: mac})
	}
	delete(p.macs, c.slot)
	p.slots.give(c.slot)
}

// haltLocked has the kernel carry a vnet no more.
func (p *Tables) haltLocked(id vnet.ID, c carried) {
	_ = p.bpf.VnetOfId.Delete(&bpfId{Id: id})
	_ = p.bpf.VnetOfVnif.Delete(uint32(c.vnif))
	_ = p.bpf.VnifOfSlot.Put(c.slot, uint32(0))
}

// Stop has the kernel carry no vnet any more, and then tells what it has carried of each. Only Close may follow: MACs stay in the
// tables until these are gone, or whoever takes them over deletes them.
func (p *Tables) Stop(counted func(vnet.ID, Counters)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, c := range p.vnets {
		p.haltLocked(id, c)
	}
	p.changedLocked()
	for id, c := range p.vnets {
		if n, ok := sum(p.bpf.VnetCounters, c.slot); ok {
			counted(id, n)
		}
	}
	clear(p.vnets)
	clear(p.macs)
}

// Host is what the kernel may do with a host: send to it, receive from it. Via is the neighbour by which the routes reach it, while
// the time of Alive has not passed; the zero Addr: the kernel looks the route up for each packet.
type Host struct {
	Send, Receive bool
	Via           netip.Addr
}

// SetHost says what the kernel may do with a host. ErrFull above MaxHosts.
func (p *Tables) SetHost(addr netip.Addr, h Host) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot, had := p.hosts[addr]
	if !had {
		var ok bool
		if slot, ok = p.free.take(); !ok {
			return fmt.Errorf("%w: more than %d hosts", ErrFull, MaxHosts)
		}
		if err := zero[bpfCounters](p.bpf.HostCounters, slot); err != nil {
			p.free.give(slot)
			return fmt.Errorf("kernel fast path: counters of host %s: %w", addr, err)
		}
	}
	k := bpfId{Id: addr.As16()}
	var v bpfHost
	err := p.bpf.Hosts.Lookup(&k, &v)
	before := v
	if err == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		v.Slot, v.Flags, v.Via = slot, 0, [16]byte{}
		if h.Send {
			v.Flags |= 1
		}
		if h.Receive {
			v.Flags |= 2
		}
		if h.Via.IsValid() {
			v.Flags |= 4
			v.Via = h.Via.As16()
		}
		err = p.bpf.Hosts.Put(&k, &v)
	}
	if err != nil {
		if !had {
			p.free.give(slot)
		}
		return fmt.Errorf("kernel fast path: host %s: %w", addr, err)
	}
	p.hosts[addr] = slot
	if had && v != before {
		p.changedLocked()
	}
	return nil
}

// Heard tells that a socket took a packet from a host at a time on the clock of Now. Hosts that are not set are ignored.
func (p *Tables) Heard(addr netip.Addr, at uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.hosts[addr]; !ok {
		return nil
	}
	k := bpfId{Id: addr.As16()}
	var v bpfHost
	if err := p.bpf.Hosts.Lookup(&k, &v); err != nil {
		return fmt.Errorf("kernel fast path: host %s: %w", addr, err)
	}
	if v.Heard >= at {
		return nil
	}
	v.Heard = at
	if err := p.bpf.Hosts.Put(&k, &v); err != nil {
		return fmt.Errorf("kernel fast path: host %s: %w", addr, err)
	}
	return nil
}

// RemoveHost takes a host out of the kernel: packets to and from it go by the sockets.
func (p *Tables) RemoveHost(addr netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slot, ok := p.hosts[addr]; ok {
		delete(p.hosts, addr)
		_ = p.bpf.Hosts.Delete(&bpfId{Id: addr.As16()})
		p.changedLocked()
		p.free.give(slot)
	}
}

// PutRemote says that a MAC is behind a host; seen is on the clock of Now. A vnet that is not carried, and
// a host that is not set, are ignored. ErrFull above MaxMACs.
func (p *Tables) PutRemote(id vnet.ID, mac wire.MAC, at netip.Addr, seen uint64) error {
	return p.put(id, mac, bpfMac{Host: at.As16(), Seen: seen, Place: placeRemote})
}

// PutLocal says that a MAC is on this host.
func (p *Tables) PutLocal(id vnet.ID, mac wire.MAC, seen uint64) error {
	return p.put(id, mac, bpfMac{Seen: seen, Place: placeLocal})
}

func (p *Tables) put(id vnet.ID, mac wire.MAC, m bpfMac) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.vnets[id]
	if !ok {
		return nil
	}
	err := p.bpf.Macs.Put(&bpfMacKey{Slot: c.slot, Mac: mac}, &m)
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%w: more than %d MACs", ErrFull, MaxMACs)
	case err != nil:
		return fmt.Errorf("kernel fast path: MAC %s of vnet %s: %w", mac, id, err)
	}
	if _, had := p.macs[c.slot][mac]; had {
		p.changedLocked()
	}
	p.hasLocked(c.slot, mac)
	return nil
}

// hasLocked remembers that the kernel has a MAC.
func (p *Tables) hasLocked(slot uint32, mac wire.MAC) {
	if p.macs[slot] == nil {
		p.macs[slot] = map[wire.MAC]struct{}{}
	}
	p.macs[slot][mac] = struct{}{}
}

// Delete forgets a MAC: its frames are user space's.
func (p *Tables) Delete(id vnet.ID, mac wire.MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.vnets[id]; ok {
		_ = p.bpf.Macs.Delete(&bpfMacKey{Slot: c.slot, Mac: mac})
		delete(p.macs[c.slot], mac)
		p.changedLocked()
	}
}

// MAC is a MAC that the kernel knows.
type MAC struct {
	Vnet vnet.ID
	MAC  wire.MAC
	// Addr is the host that it is behind; the zero Addr: it is on this host.
	Addr netip.Addr
	// Seen is when the kernel last carried a frame from it, or what it was put with, on the clock of Now.
	Seen uint64
}

// MACs calls f for every MAC that the kernel knows. The lock is not held while f runs, and what changes meanwhile may be
// missed or met twice.
func (p *Tables) MACs(f func(MAC)) error {
	p.mu.Lock()
	ids := make(map[uint32]vnet.ID, len(p.vnets))
	for id, c := range p.vnets {
		ids[c.slot] = id
	}
	p.mu.Unlock()
	err := each(p.bpf.Macs, func(k *bpfMacKey, v *bpfMac) {
		id, ok := ids[k.Slot]
		if !ok {
			return
		}
		m := MAC{Vnet: id, MAC: k.Mac, Seen: v.Seen}
		if v.Place == placeRemote {
			m.Addr = netip.AddrFrom16(v.Host).Unmap()
		}
		f(m)
	})
	if err != nil {
		return fmt.Errorf("kernel fast path: read the MACs: %w", err)
	}
	return nil
}

// each calls f for every element of a hash, which it reads in batches. What changes meanwhile may be missed or met twice.
func each[K, V any](m *ebpf.Map, f func(*K, *V)) error {
	keys, values := make([]K, 1024), make([]V, 1024)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(&keys[i], &values[i])
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist): // the end
			return nil
		case err != nil:
			return err
		}
	}
}

// deleteIf deletes the elements of a hash that f names.
func deleteIf[K, V any](m *ebpf.Map, f func(*K, *V) bool) {
	var gone []K
	_ = each(m, func(k *K, v *V) {
		if f(k, v) {
			gone = append(gone, *k)
		}
	})
	for i := range gone {
		_ = m.Delete(&gone[i])
	}
}

// Now is the clock of the tables: nanoseconds since boot without suspend (CLOCK_MONOTONIC), as
// bpf_ktime_get_ns tells it.
func Now() uint64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // never fails
	return uint64(t.Nano())
}

// slots gives out small numbers, and the one that was given back longest ago last.
type slots struct {
	bound uint32
	next  uint32
	back  []uint32
}

func (s *slots) take() (uint32, bool) {
	if s.next < s.bound {
		s.next++
		return s.next - 1, true
	}
	if len(s.back) == 0 {
		return 0, false
	}
	n := s.back[0]
	s.back = s.back[1:]
	return n, true
}

func (s *slots) give(n uint32) { s.back = append(s.back, n) }
