package fastpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Way is how frames get to a domain.
type Way uint8

// WayBridge is the ordinary way, by the vnif and the bridge. WayPeer puts frames straight into the other end of a veth or
// netkit pair, in another network namespace; WayEgress sends them by the vif, as the bridge would.
const (
	WayBridge Way = iota
	WayPeer
	WayEgress
)

func (w Way) String() string { return [...]string{"bridge", "peer", "egress"}[w] }

const (
	// bypassTTL is how long the kernel believes that bridges have no policy: as long as it takes at most to take the bypass
	// back when one appears, also if the daemon is dead.
	bypassTTL = time.Second
	// bypassLook is how often policies are looked for; netlink tells of most of them sooner.
	bypassLook = 400 * time.Millisecond
	// relistLooks is how many looks there are between two lists of all devices, whatever was told of them: a minute.
	relistLooks = 150
	// maxBypassEvents bounds what is read of events in one look.
	maxBypassEvents = 1 << 16
	// minAgeing is the shortest time after which a bridge that is passed by may forget a MAC, in hundredths of a second:
	// frames of each MAC go by the bridge once a minute (BRIDGE_EVERY of tables.h).
	minAgeing = 18000
	// maxBypassed bounds the vifs, since all are looked at within bypassTTL; maxVifMACs the MACs behind one of them.
	maxBypassed, maxVifMACs = 256, 64
	// bypassName is that of the filter, bypassPriority its place: after those of others, if there were any.
	bypassName, bypassPriority = nameVif, 0xff00
	// ownPrefix is that of all filters of ours.
	ownPrefix = "xend_"
)

// BridgeState is what ChooseWay judges a vnet's bridge by.
type BridgeState struct {
	hostnet.BridgeTraits
	// Firewall is what of the host's firewall sees its frames; "" for nothing.
	Firewall string
	// Vnif is the port that is the vnet's; VnifPrograms what others have at TC there.
	Vnif         hostnet.PortTraits
	VnifPrograms []hostnet.DeviceProgram
}

// PortState is what ChooseWay judges a port by.
type PortState struct {
	hostnet.PortTraits
	// Programs are those that others have at TC.
	Programs []hostnet.DeviceProgram
	// Qdisc is the kind of its queueing discipline.
	Qdisc string
	// Decides: it is a netkit device with programs or a policy for what it sends (hostnet.NetkitDecides).
	Decides bool
}

// ChooseWay says how frames may get to a port of a vnet's bridge, and why not past the bridge. They may if it changes
// nothing but speed: if the bridge would do nothing with them but forward them.
func ChooseWay(b BridgeState, p PortState) (Way, string) {
	if why := b.policy(); why != "" {
		return WayBridge, why
	}
	switch {
	case !isVif(p.Link):
		return WayBridge, "it is no domain's vif"
	case !p.Up():
		return WayBridge, "it is down"
	}
	if why := portPolicy(p.PortTraits, p.Programs); why != "" {
		return WayBridge, why
	}
	if (p.Kind == "veth" || p.Kind == "netkit") && p.PartnerAway && p.Qdisc == "noqueue" && !p.Decides {
		return WayPeer, ""
	}
	return WayEgress, ""
}

// policy says what on the bridge, or at its vnif, would not be the same if frames passed it by; "" for nothing.
func (b BridgeState) policy() string {
	switch {
	case !b.Up():
		return fmt.Sprintf("bridge %s is down", b.Name)
	case b.STP:
		return fmt.Sprintf("bridge %s speaks the spanning tree protocol", b.Name)
	case b.VLANFiltering:
		return fmt.Sprintf("bridge %s filters VLANs", b.Name)
	case b.Ageing < minAgeing:
		return fmt.Sprintf("bridge %s forgets MACs after %d s, and %d are needed", b.Name, b.Ageing/100, minAgeing/100)
	case b.Promiscuous:
		return fmt.Sprintf("somebody captures on bridge %s", b.Name)
	case b.Firewall != "":
		return "the host's firewall may have a word: " + b.Firewall
	case b.Vnif.Index == 0:
		return fmt.Sprintf("the vnif is no port of bridge %s", b.Name)
	}
	return portPolicy(b.Vnif, b.VnifPrograms)
}

func portPolicy(p hostnet.PortTraits, programs []hostnet.DeviceProgram) string {
	switch {
	case !p.Forwarding:
		return fmt.Sprintf("port %s does not forward", p.Name)
	case !p.Learning:
		return fmt.Sprintf("port %s does not learn", p.Name)
	case len(p.Special) > 0:
		return fmt.Sprintf("port %s is set to %s", p.Name, strings.Join(p.Special, ", "))
	case p.Promiscuity > 1:
		return fmt.Sprintf("somebody captures on port %s", p.Name)
	case len(programs) > 0:
		return fmt.Sprintf("port %s has a filter of others at TC (%s)", p.Name, programs[0].Kind)
	}
	return ""
}

// isVif tells a domain's device: netback's vifD.N, a tap device, or one end of a pair.
func isVif(l hostnet.Link) bool {
	switch l.Kind {
	case "veth", "netkit", "tun":
		return true
	case "":
		return strings.HasPrefix(l.Name, "vif")
	}
	return false
}

// others are the programs that are not ours: neither filters with a name of ours nor the program own.
func others(list []hostnet.DeviceProgram, own ebpf.ProgramID) []hostnet.DeviceProgram {
	return slices.DeleteFunc(list, func(p hostnet.DeviceProgram) bool {
		return strings.HasPrefix(p.Name, ownPrefix) || own != 0 && p.ID == own
	})
}

// BypassVnet is a vnet whose domains' frames may pass the bridge by.
type BypassVnet struct {
	Bridge, Vnif int // indices
}

// BypassedPort is a port of a vnet's bridge and what was chosen for it.
type BypassedPort struct {
	Vnet   vnet.ID
	Name   string
	Index  int
	Way    Way
	Reason string // why Way is WayBridge
}

// Bypass lets frames of domains pass bridges by that have no policy of their own. It looks for policies whenever netlink
// tells of a change, and every 400 ms for those of which it does not; the kernel's programs pass bridges by for a second
// after such a look at most.
//
//	look ── no policy ──> vif_in at the vif, its MACs in vifs, bypass_until = now + 1 s
//	     └─ policy ─────> out of vifs, filter away
//
// What is known of a bridge stays while nothing is told of it, so that a look costs little however many vnets there are: a look
// begins with reading all that the kernel has told up to then, and asks only for what it does not tell (programs at TCX, the host's
// firewall). One bridge is looked at anew in each, whatever was told of it.
type Bypass struct {
	tables *Tables
	host   *hostnet.Host
	// Changed is told of each port whose way has changed; nil: nobody. No lock is held.
	Changed func(BypassedPort)
	kick    chan struct{}

	mu    sync.Mutex
	vnets map[vnet.ID]BypassVnet
	ports map[int]BypassedPort

	// What follows is Run's own.
	macs  map[bpfMacKey]bpfVif
	own   ebpf.ProgramID       // vif_in
	links map[int]bpflink.Link // of TCX, by port
	// swept: filters that an earlier run left are away.
	swept bool
	known memory
}

// NewBypass makes one for the vnets that the tables carry. host is used by it alone.
func NewBypass(p *Tables, host *hostnet.Host) *Bypass {
	p.forgetVifs()
	b := &Bypass{
		tables: p, host: host, kick: make(chan struct{}, 1),
		vnets: map[vnet.ID]BypassVnet{}, ports: map[int]BypassedPort{}, macs: map[bpfMacKey]bpfVif{}, links: map[int]bpflink.Link{}, known: newMemory(),
	}
	b.own = hostnet.ProgramID(p.bpf.VifIn)
	return b
}

// Set says which vnets' domains may pass their bridge by, if nothing is in the way.
func (b *Bypass) Set(vnets map[vnet.ID]BypassVnet) {
	b.mu.Lock()
	same := maps.Equal(b.vnets, vnets)
	b.vnets = maps.Clone(vnets)
	b.mu.Unlock()
	if !same {
		b.wake()
	}
}

func (b *Bypass) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// Ports tells what was chosen for each port of the vnets' bridges, in order of their names.
func (b *Bypass) Ports() []BypassedPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.ports), func(x, y BypassedPort) int { return strings.Compare(x.Name, y.Name) })
}

// Run works until ctx ends; then all frames go by their bridges.
func (b *Bypass) Run(ctx context.Context) error {
	defer b.stop()
	links, err := b.host.FeedOfLinks()
	if err != nil {
		return err
	}
	defer links.Close()
	fdb, err := b.host.FeedOfFDB()
	if err != nil {
		return err
	}
	defer fdb.Close()
	told := make(chan struct{})
	for _, f := range []*hostnet.Feed{links, fdb} {
		go func() {
			for f.Wait() == nil {
				select {
				case told <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	_, _ = b.host.BridgeFirewall(false) // the first time takes long
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-told:
		case <-b.kick:
		case <-timer.C:
		}
		start := time.Now()
		if err := b.look(links, fdb); err != nil && ctx.Err() == nil {
			b.withdraw()
		}
		// Domains decide how much there is to be told of: at most a tenth of the time is spent looking.
		timer.Reset(time.Until(start.Add(bypassLook)))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(10*time.Since(start), bypassLook)):
		}
	}
}

// look chooses a way for each port, and lets the kernel know.
func (b *Bypass) look(links, fdb *hostnet.Feed) error {
	b.mu.Lock()
	vnets := maps.Clone(b.vnets)
	idle := len(vnets) == 0 && len(b.ports) == 0
	b.mu.Unlock()
	now := Now() // what happened before this is told, or seen, below
	if err := b.known.follow(links, fdb); err != nil {
		return err
	}
	if idle {
		return nil
	}
	b.known.want(vnets, b.tables.slot)
	if err := b.poll(); err != nil {
		return err
	}
	due := b.known.due()
	if len(due) > 0 && b.known.links == nil {
		list, err := b.host.Links()
		if err != nil {
			return err
		}
		b.known.links = hostnet.NewLinkTable(list)
	}
	for _, id := range due {
		k, err := b.ask(vnets[id])
		if err != nil { // it is going away, or was replaced
			k = &knownVnet{BypassVnet: vnets[id]}
		}
		b.known.learn(id, k)
		if err != nil {
			b.known.touch(k.Bridge) // the next look will find what there is then
		}
	}
	firewall := map[bool]string{} // by whether a bridge hands frames to it by itself
	for _, k := range b.known.vnets {
		if _, asked := firewall[k.bridge.CallsFirewall]; asked {
			continue
		}
		reason, err := b.host.BridgeFirewall(k.bridge.CallsFirewall)
		if err != nil {
			return err
		}
		firewall[k.bridge.CallsFirewall] = reason
	}
	l := b.known.choose(firewall)
	if !b.swept {
		for index, p := range l.ports {
			if p.Way == WayBridge && l.vifs[index] {
				_ = b.host.DetachClassifier(bypassClassifier(index))
			}
		}
	}
	b.swept = b.swept || len(vnets) > 0
	return b.apply(l, now)
}

// poll looks for changes of which the kernel tells nobody: of programs at TCX, and at netkit devices.
func (b *Bypass) poll() error {
	devices, netkit := b.known.toPoll()
	states, err := b.tcx(devices)
	if err != nil {
		return err
	}
	for index, now := range states {
		b.known.compare(index, now)
	}
	for index, before := range netkit {
		if decides, err := b.host.NetkitDecides(index); err != nil || decides != before {
			b.known.touch(index)
		}
	}
	return nil
}

// tcx asks for what is at TCX of devices; before Linux 6.6 there is nothing.
func (b *Bypass) tcx(devices []int) (map[int][2]hostnet.TCXState, error) {
	states, err := b.host.TCXStates(devices)
	var unsupported *hostnet.UnsupportedError
	if errors.As(err, &unsupported) {
		return nil, nil
	}
	return states, err
}

// ask reads all that is to be known of a vnet's bridge.
func (b *Bypass) ask(v BypassVnet) (*knownVnet, error) {
	traits, err := b.host.BridgeOf(v.Bridge, b.known.links.Ports(v.Bridge))
	if err != nil {
		return nil, err
	}
	k := &knownVnet{BypassVnet: v, bridge: BridgeState{BridgeTraits: traits}}
	devices := []int{v.Vnif}
	for _, p := range traits.Ports {
		if p.Index != v.Vnif && isVif(p.Link) {
			devices = append(devices, p.Index)
		}
	}
	if len(devices) > 1 { // else there is nobody to let pass
		if k.tcx, err = b.tcx(devices); err != nil { // before what it tells of changes of
			return nil, err
		}
	}
	filters := func(index int) ([]hostnet.DeviceProgram, error) {
		list, err := b.host.DevicePrograms(index)
		return others(list, b.own), err
	}
	for _, p := range traits.Ports {
		if p.Index == v.Vnif {
			k.bridge.Vnif = p
			continue
		}
		state := PortState{PortTraits: p}
		if isVif(p.Link) {
			if state.Programs, err = filters(p.Index); err == nil {
				state.Qdisc, err = b.host.RootQdisc(p.Index)
			}
			if err == nil && p.Kind == "netkit" {
				state.Decides, err = b.host.NetkitDecides(p.Index)
			}
			if err != nil {
				return nil, err
			}
		}
		k.ports = append(k.ports, state)
	}
	if len(devices) == 1 {
		return k, nil
	}
	if k.bridge.VnifPrograms, err = filters(v.Vnif); err != nil {
		return nil, err
	}
	k.fdb, err = b.host.FDB(v.Bridge)
	return k, err
}

// apply makes the kernel do what was chosen. What is taken back comes first.
func (b *Bypass) apply(l look, now uint64) error {
	ports, macs := l.ports, l.macs
	b.mu.Lock()
	was := b.ports
	b.mu.Unlock()
	moved := false
	for k, v := range b.macs {
		if macs[k] != v {
			moved = true
			_ = b.tables.bpf.Vifs.Delete(&k)
			delete(b.macs, k)
		}
	}
	var changed []BypassedPort
	for index, old := range was {
		if n := ports[index]; old.Way != WayBridge && (n.Way == WayBridge || n.Vnet != old.Vnet) {
			b.detach(index)
		}
	}
	for index, n := range ports {
		old := was[index]
		if n.Way != WayBridge {
			if err := b.attach(n, old.Way == WayBridge || old.Vnet != n.Vnet); err != nil {
				n.Way, n.Reason = WayBridge, err.Error()
				ports[index] = n
				b.detach(index)
			}
		}
		if n != old {
			changed = append(changed, n)
		}
	}
	any := false
	for k, v := range macs {
		if ports[int(v.Ifindex)].Way == WayBridge {
			continue
		}
		any = true
		// The kernel removes what it sees to be wrong, so what is right is put again.
		if err := b.tables.bpf.Vifs.Update(&k, &v, ebpf.UpdateAny); err != nil {
			continue // full: by the bridge
		}
		b.macs[k] = v
	}
	until := uint64(0)
	if any {
		until = now + uint64(bypassTTL)
	}
	if len(changed) > 0 || moved {
		b.tables.changed()
	}
	err := b.tables.bpf.BypassUntil.Put(uint32(0), until)
	b.mu.Lock()
	b.ports = ports
	b.mu.Unlock()
	if b.Changed != nil {
		slices.SortFunc(changed, func(x, y BypassedPort) int { return strings.Compare(x.Name, y.Name) })
		for _, p := range changed {
			b.Changed(p)
		}
	}
	return err
}

// RemoveBypass takes the filters of a daemon that has ended off the vifs of a namespace. They do nothing any more.
func RemoveBypass(h *hostnet.Host) error {
	links, err := h.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if isVif(l) && l.Master != 0 {
			errs = append(errs, h.DetachClassifier(bypassClassifier(l.Index)))
		}
	}
	return errors.Join(errs...)
}

func bypassClassifier(index int) hostnet.Classifier {
	return hostnet.Classifier{Index: index, Priority: bypassPriority, Name: bypassName}
}

// attach lets a vif's frames pass; fresh: they could not before.
func (b *Bypass) attach(p BypassedPort, fresh bool) error {
	if err := b.tables.letVif(p.Vnet, p.Index); err != nil || !fresh {
		return err
	}
	if err := b.host.Do(func() error { return b.tables.hasVif(p.Index) }); err != nil {
		return err
	}
	l, err := b.host.AttachTCX(p.Index, b.tables.bpf.VifIn)
	var unsupported *hostnet.UnsupportedError
	if errors.As(err, &unsupported) {
		return b.host.AttachClassifier(bypassClassifier(p.Index), b.tables.bpf.VifIn)
	}
	if err == nil {
		b.links[p.Index] = l
	}
	return err
}

func (b *Bypass) detach(index int) {
	_ = b.tables.bpf.VnetOfVnif.Delete(uint32(index))
	_ = b.tables.bpf.VifDevices.Delete(uint32(index))
	if l := b.links[index]; l != nil {
		_ = l.Close()
		delete(b.links, index)
		return
	}
	_ = b.host.DetachClassifier(bypassClassifier(index)) // its device may be gone
}

// withdraw has all frames go by their bridges.
func (b *Bypass) withdraw() {
	_ = b.tables.bpf.BypassUntil.Put(uint32(0), uint64(0))
}

// stop undoes everything.
func (b *Bypass) stop() {
	b.withdraw()
	for k := range b.macs {
		_ = b.tables.bpf.Vifs.Delete(&k)
	}
	b.macs = map[bpfMacKey]bpfVif{}
	b.tables.changed()
	b.mu.Lock()
	ports := b.ports
	b.ports = map[int]BypassedPort{}
	b.mu.Unlock()
	for index, p := range ports {
		if p.Way != WayBridge {
			b.detach(index)
		}
	}
}

// slot is that of a vnet that is carried.
func (p *Tables) slot(id vnet.ID) (uint32, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.vnets[id]
	return c.slot, ok
}

// letVif makes a vif known as one of a vnet.
func (p *Tables) letVif(id vnet.ID, index int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.vnets[id]; !ok {
		return errors.New("the vnet is not carried by the kernel")
	}
	var v bpfVnet
	if err := p.bpf.VnetOfId.Lookup(&bpfId{Id: id}, &v); err != nil {
		return fmt.Errorf("kernel fast path: vnet %s: %w", id, err)
	}
	if err := p.bpf.VnetOfVnif.Put(uint32(index), &v); err != nil {
		return fmt.Errorf("kernel fast path: vif of vnet %s: %w", id, err)
	}
	return nil
}

// hasVif lets frames go to a vif of the calling thread's network namespace, for as long as it is there.
func (p *Tables) hasVif(index int) error {
	if err := p.bpf.VifDevices.Put(uint32(index), uint32(index)); err != nil {
		return fmt.Errorf("kernel fast path: vif: %w", err)
	}
	return nil
}

// forgetVifs forgets what an earlier run let pass bridges by.
func (p *Tables) forgetVifs() {
	_ = p.bpf.BypassUntil.Put(uint32(0), uint64(0))
	deleteIf(p.bpf.Vifs, func(*bpfMacKey, *bpfVif) bool { return true })
	deleteIf(p.bpf.VnetOfVnif, func(index *uint32, v *bpfVnet) bool { return v.Vnif != *index })
	var index uint32
	for p.bpf.VifDevices.NextKey(nil, &index) == nil && p.bpf.VifDevices.Delete(index) == nil {
	}
	p.changed()
}
