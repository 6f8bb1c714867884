package dataplane

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Where the kernel's programs are, and why they are not: one at the egress of each vnif, after its bridge with all its
// policy, and one at the ingress of the underlay's network cards.

// kernelHost is what the programs need of a host; devices in earnest.
type kernelHost interface {
	Links() ([]hostnet.Link, error)
	LinkByIndex(index int) (hostnet.Link, error)
	Ports(master int) ([]hostnet.Link, error)
	Detail(index int) (hostnet.Detail, error)
	RouteTo(to netip.Addr) (hostnet.Route, error)
	// NextHop is the neighbour of a device by which the kernel sends from an address to a host.
	NextHop(from, to netip.Addr, index int) (netip.Addr, error)
	Sysctl(path ...string) (string, error)
	Filters(index int, egress bool) ([]hostnet.Filter, error)
	RootQdisc(index int) (string, error)
	AttachClassifier(hostnet.Classifier, *ebpf.Program) error
	DetachClassifier(hostnet.Classifier) error
	TCX(index int, egress bool) ([]hostnet.TCXProgram, error)
	TCXPrograms(index int, egress bool) ([]ebpf.ProgramID, error)
	TCXStates(devices []int) (map[int][2]hostnet.TCXState, error)
	AttachTCXProgram(index int, egress bool, prog *ebpf.Program, replaced ebpf.ProgramID) error
	DetachTCXProgram(index int, egress bool, id ebpf.ProgramID) error
	XDPPrograms() (map[int]ebpf.ProgramID, error)
	// Unstrip takes an XDP program of ours off a device.
	Unstrip(index int) error
}

// programs are the fast path's at the devices of a host.
type programs struct {
	engine *Engine
	mirror *mirror
	host   kernelHost
	// load makes tables, those of attached programs where it can, and the programs for the egress of vnifs and the ingress of
	// underlays.
	load func(t fastpath.Times, attached []ebpf.ProgramID) (kernelTables, [2]*ebpf.Program, error)
	// base are the times of the kernel's tables, but for those of the configuration, and verifyEvery is how often it is
	// looked whether the programs are where they should be, and in nobody's way.
	base        fastpath.Times
	verifyEvery time.Duration
	// forbids says why packets to other hosts must pass the host's own output; "": they need not.
	forbids func(l hostnet.Link, from netip.Addr, port uint16) string
	// shortcuts are nil for a host that is none.
	shortcuts *shortcuts

	// What follows is the mirror's goroutine's own.
	loaded   [2]*ebpf.Program // at ingress, at egress
	ids      [2]ebpf.ProgramID
	attached map[hook]struct{} // also what an earlier run left
	searched bool              // for that, while the kernel's path is off
	placed   map[hook]string   // the programs of this run, and the kinds of their hooks
	// states are those of hooks at TCX when our program was found in its place, and turn the vnets whose vnif's hook is still to be
	// looked at in this round, whatever was told of it.
	states map[hook]hostnet.TCXState
	turn   []vnet.ID
	times  fastpath.Times
	set    [2]fastpath.Underlay
	looked [2]lookedAt
	routes map[netip.Addr]routed

	mu sync.Mutex
	// failed is why there are no tables; it is tried again after a reload.
	failed string
	// vnets and underlays are why the kernel does not carry something; "": it does. hooks are the kinds of the vnifs' hooks.
	vnets     map[vnet.ID]string
	hooks     map[vnet.ID]string
	underlays [2]FastUnderlay
}

// lookedAt is what came of a look at an underlay.
type lookedAt struct {
	uplink *uplink
	// cards are where programs are to be, hooks those where they are.
	cards, hooks []hook
	u            fastpath.Underlay
	state        FastUnderlay
}

// verifyEvery is programs.verifyEvery in earnest.
const verifyEvery = 10 * time.Second

// verifyAtOnce is at how many vnifs it is looked in one go: of more each has its turn within verifyRounds.
const verifyAtOnce, verifyRounds = 64, 6

func newPrograms(e *Engine, h *hostnet.Host) *programs {
	k := &programs{
		engine: e, mirror: e.mirror, attached: map[hook]struct{}{}, placed: map[hook]string{}, states: map[hook]hostnet.TCXState{}, routes: map[netip.Addr]routed{}, vnets: map[vnet.ID]string{}, hooks: map[vnet.ID]string{},
		load: loadFastPath, base: fastpath.DefaultTimes(), verifyEvery: verifyEvery,
	}
	if h != nil {
		k.host, k.shortcuts = devices{h}, newShortcuts(e, h)
		k.forbids = func(l hostnet.Link, from netip.Addr, port uint16) string { return forbids(h, l, from, port) }
	}
	return k
}

// forbids says why packets to other hosts must pass the host's own output, which the kernel's programs would not; "": they
// need not.
func forbids(h *hostnet.Host, l hostnet.Link, from netip.Addr, port uint16) (why string) {
	err := h.Do(func() error {
		why = new(firewall.Firewall).Changes(firewall.Output{Source: from, Device: l.Name, Index: l.Index, Port: port})
		return nil
	})
	if err != nil {
		return err.Error()
	}
	if why != "" {
		return why
	}
	protected, err := h.Protected(from, port)
	switch {
	case err != nil:
		return err.Error()
	case protected:
		return "an IPsec policy protects what is sent"
	}
	return ""
}

func loadFastPath(t fastpath.Times, attached []ebpf.ProgramID) (kernelTables, [2]*ebpf.Program, error) {
	p, err := fastpath.Load(t, attached...)
	if err != nil {
		return nil, [2]*ebpf.Program{}, err
	}
	return p, [2]*ebpf.Program{p.In(), p.Out()}, nil
}

// retry has the next look try again what failed.
func (k *programs) retry() {
	k.mu.Lock()
	k.failed = ""
	k.mu.Unlock()
}

// sync makes the programs be where they should, and the tables hold the vnets and underlays of the view. network looks
// again at the underlays and the routes, verify at everything; touched are devices of which something else may have changed
// what is at their hooks.
func (k *programs) sync(network, verify bool, touched map[int]struct{}) {
	v := k.engine.view.Load()
	k.mirror.forgetBars(v)
	if k.host == nil {
		return
	}
	if v.config.FastPath == FastPathOff {
		k.close()
		return
	}
	if !k.mirror.open.Load() && !k.open(v) {
		return
	}
	if t := k.timesOf(v); t != k.times && k.mirror.tables.SetTimes(t) == nil {
		k.times = t
	}
	network = network || verify || k.concerns(touched)
	if network {
		clear(k.routes)
	}
	wanted := map[hook]struct{}{}
	for fam := range v.uplinks {
		k.syncUnderlay(v, underlay.Family(fam), wanted, network)
	}
	k.syncVnets(v, wanted, verify, touched)
	if k.shortcuts != nil {
		k.syncShortcuts(v, wanted, network)
	}
	adopting := k.engine.now() < k.mirror.adopting
	for h := range k.attached {
		if _, ok := wanted[h]; !ok && !adopting {
			k.detach(h)
		}
	}
	k.mirror.judgeAll()
}

// concerns reports whether a card of the underlays is among devices.
func (k *programs) concerns(devices map[int]struct{}) bool {
	for _, at := range k.looked {
		for _, h := range at.cards {
			if _, ok := devices[h.index]; ok {
				return true
			}
		}
	}
	return false
}

// syncShortcuts has the shortcuts fit the programs that are attached, before those go that are wanted no more.
func (k *programs) syncShortcuts(v *view, wanted map[hook]struct{}, verify bool) {
	cards := map[int]struct{}{}
	for h := range wanted {
		if _, placed := k.placed[h]; placed && !h.egress {
			cards[h.index] = struct{}{}
		}
	}
	k.shortcuts.ingress(k.mirror.tables, v.config.XDP, cards, verify)
	k.shortcuts.pass(k.mirror.tables, v, k.mirror.vnetsNow())
	for fam := range k.looked {
		way, why := k.wayOf(k.looked[fam].hooks)
		k.mu.Lock()
		u := &k.underlays[fam]
		changed := way != "" && (u.Way != way || u.Why != why)
		if changed {
			u.Way, u.Why = way, why
		}
		state := *u
		k.mu.Unlock()
		k.looked[fam].state.Way, k.looked[fam].state.Why = state.Way, state.Why
		if changed {
			k.engine.log.Info("way in of the kernel fast path", "family", underlay.Family(fam), "device", state.Device, "way", way, "why", why)
		}
	}
}

// wayOf names the ways in by devices, the first one that is not TC, or the kind of the first one's hook; and says why.
func (k *programs) wayOf(hooks []hook) (way, why string) {
	if k.shortcuts != nil {
		way, why = k.shortcuts.wayOf(hooks)
	}
	if way != fastpath.IngressXDP.String() && len(hooks) > 0 {
		way = k.placed[hooks[0]]
	}
	return way, why
}

// timesOf are the ages of the configuration.
func (k *programs) timesOf(v *view) fastpath.Times {
	t := k.base
	t.MACTTL = v.config.EntryTTL
	return t
}

// open loads the programs. It is false if the kernel has no fast path.
func (k *programs) open(v *view) bool {
	k.mu.Lock()
	failed := k.failed
	k.mu.Unlock()
	if failed != "" {
		return false
	}
	attached, ids, _ := k.find() // without them it begins anew
	times := k.timesOf(v)
	t, programs, err := k.load(times, ids)
	if err != nil {
		k.mu.Lock()
		k.failed = err.Error()
		k.mu.Unlock()
		level := k.engine.log.Info
		if v.config.FastPath == FastPathOn {
			level = k.engine.log.Warn
		}
		level("no kernel fast path: user space carries all", "err", err)
		return false
	}
	if a, ok := t.(interface{ Adopted() bool }); ok && !a.Adopted() {
		// What XDP strips the new programs at TC would not know.
		for h := range attached {
			if err := k.unstrip(h); err != nil {
				k.engine.log.Warn("a program of the fast path stays where it should not be", "device", k.engine.deviceNames.name(h.index), "err", err)
			}
		}
	}
	k.loaded, k.times, k.attached = programs, times, attached
	for i, p := range programs {
		k.ids[i] = hostnet.ProgramID(p)
	}
	k.set, k.looked, k.placed = [2]fastpath.Underlay{}, [2]lookedAt{}, map[hook]string{}
	clear(k.routes)
	k.mirror.start(t)
	return true
}

// close takes the programs away: user space carries all.
func (k *programs) close() {
	k.shortcuts.close()
	k.retry()
	if !k.mirror.open.Load() {
		if !k.searched { // once, for those of an earlier run, which was configured otherwise
			var err error
			k.attached, _, err = k.find()
			k.searched = err == nil
		}
	} else {
		k.mirror.end()
		k.engine.log.Info("the kernel fast path is off")
	}
	for h := range k.attached {
		k.detach(h)
	}
	k.shortcuts.endJoin(nil)
	k.mu.Lock()
	clear(k.vnets)
	clear(k.hooks)
	k.underlays = [2]FastUnderlay{}
	k.mu.Unlock()
}

// syncUnderlay lets packets of a family go by the kernel.
func (k *programs) syncUnderlay(v *view, fam underlay.Family, wanted map[hook]struct{}, again bool) {
	e := k.engine
	up, at := v.uplinks[fam], &k.looked[fam]
	if up != at.uplink || again {
		before := at.u.Index
		*at = lookedAt{uplink: up}
		if up != nil {
			k.lookAt(v, up, at)
		}
		if at.u.Index != before {
			clear(k.routes)
		}
	}
	for _, h := range at.hooks {
		wanted[h] = struct{}{}
	}
	u, state := at.u, at.state
	u.Port, u.FlowPort = v.port, v.flows
	if v.etherip {
		state.Send, u.Send = "frames are sent as EtherIP without UDP", false
	}
	var err error
	switch {
	case u == k.set[fam]:
	case up == nil:
		err = k.mirror.tables.ClearUnderlay(anyOf[fam])
	default:
		err = k.mirror.tables.SetUnderlay(u)
	}
	if err != nil {
		state.Send, state.Receive = err.Error(), err.Error()
	} else {
		k.set[fam] = u
	}
	k.mu.Lock()
	before := k.underlays[fam]
	k.underlays[fam] = state
	k.mu.Unlock()
	if before == state || up == nil {
		return
	}
	level := e.log.Info
	if v.config.FastPath == FastPathOn && (state.Send != "" || state.Receive != "") {
		level = e.log.Warn
	}
	level("kernel fast path", "family", fam, "device", state.Device, "way", state.Way, "hook", state.Hook,
		"send", carriedOr(state.Send), "receive", carriedOr(state.Receive))
}

// anyOf are addresses of the families.
var anyOf = [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}

func carriedOr(reason string) string {
	if reason == "" {
		return "kernel"
	}
	return "user space: " + reason
}

// lookAt attaches the program to the network cards of an underlay device, and says how packets travel by it.
func (k *programs) lookAt(v *view, up *uplink, at *lookedAt) {
	at.state = FastUnderlay{Family: up.Family().String()}
	at.u = fastpath.Underlay{Addr: up.path.Source, Index: up.path.Index, MTU: up.path.MTU, TTL: 64}
	l, err := k.host.LinkByIndex(at.u.Index)
	at.state.Device = l.Name
	if err != nil || len(l.MAC) != len(at.u.MAC) {
		at.state.Send = "the device carries no Ethernet frames"
		if err != nil {
			at.state.Send = err.Error()
		}
		at.state.Receive = at.state.Send
		return
	}
	at.u.MAC = wire.MAC(l.MAC)
	if ttl := k.ttl(at.u.Addr, l.Name); ttl != 0 {
		at.u.TTL = ttl
	}
	cards, why := k.cards(l)
	at.cards = cards
	for _, h := range cards {
		if problem := k.attach(h, true); problem != "" {
			why = problem
			continue
		}
		at.hooks = append(at.hooks, h)
	}
	if len(at.hooks) > 0 {
		why, at.state.Hook = "", k.placed[at.hooks[0]]
	}
	at.state.Way, at.state.Why = k.wayOf(at.hooks)
	at.state.Receive, at.state.Send = why, k.forbids(l, at.u.Addr, v.port)
	at.u.Receive, at.u.Send = why == "", at.state.Send == ""
}

// ttl is that of unicast packets: the kernel's default, as the sockets have it.
func (k *programs) ttl(from netip.Addr, device string) uint8 {
	path := []string{"net", "ipv4", "ip_default_ttl"}
	if from.Is6() {
		path = []string{"net", "ipv6", "conf", device, "hop_limit"}
	}
	s, err := k.host.Sysctl(path...)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0
	}
	return uint8(n)
}

// cards are where packets of other hosts come in that have an underlay device for their goal, or why none is: of a bridge
// the ports that are network cards, not those of domains.
func (k *programs) cards(l hostnet.Link) ([]hook, string) {
	if below := k.bridgeBelow(l); below != "" {
		return nil, "it is stacked on bridge " + below + ", which domains may be on"
	}
	if l.Kind != "bridge" {
		return []hook{{index: l.Index}}, ""
	}
	d, err := k.host.Detail(l.Index)
	if err != nil {
		return nil, err.Error()
	}
	if d.VLANFiltering {
		return nil, "the bridge filters VLANs"
	}
	ports, err := k.host.Ports(l.Index)
	if err != nil {
		return nil, err.Error()
	}
	var hooks []hook
	for _, p := range ports {
		if k.isCard(p, l) {
			hooks = append(hooks, hook{index: p.Index})
		}
	}
	if len(hooks) == 0 {
		return nil, "none of the bridge's ports is a network card"
	}
	return hooks, ""
}

// isCard reports whether a bridge's port leads to other hosts and not to a domain: what network-bridge made of the
// card, a device on a bus, a bond, or a VLAN of one of these. A VLAN of a vif or of a bridge leads to domains.
func (k *programs) isCard(p, bridge hostnet.Link) bool {
	for range maxStack {
		if _, ours := port.Owner(p); ours {
			return false
		}
		switch {
		case p.Name == "p"+bridge.Name, p.Kind == "bond", p.Kind == "team":
			return true
		case p.Kind == "":
			return p.Bus != "" && p.Bus != "xen-backend"
		case p.Kind != "vlan" || p.Partner == 0:
			return false
		}
		below, err := k.host.LinkByIndex(p.Partner)
		if err != nil {
			return false
		}
		p = below
	}
	return false
}

// bridgeBelow is the bridge that a device is stacked on; "" for none.
func (k *programs) bridgeBelow(l hostnet.Link) string {
	for range maxStack {
		if !l.Stacked() {
			return ""
		}
		below, err := k.host.LinkByIndex(l.Partner)
		if err != nil {
			return ""
		}
		if below.Kind == "bridge" {
			return below.Name
		}
		l = below
	}
	return ""
}

// syncVnets lets the kernel carry the vnets that it may.
func (k *programs) syncVnets(v *view, wanted map[hook]struct{}, verify bool, touched map[int]struct{}) {
	e := k.engine
	reasons, hooks := make(map[vnet.ID]string, len(v.vnets)), make(map[vnet.ID]string, len(v.vnets))
	due := k.due(v, verify)
	for id, n := range v.vnets {
		if n.secured() {
			reasons[id] = "security " + n.config.Security.String()
			continue
		}
		h := hook{index: n.devices.VnifIndex, egress: true}
		_, again := touched[h.index]
		if !again {
			_, again = due[id]
		}
		why := k.attach(h, again)
		if why == "" {
			wanted[h] = struct{}{}
			if err := k.mirror.addVnet(id, h.index, n.devices.MTU); err != nil {
				why = err.Error()
			}
		}
		reasons[id] = why
		if why == "" {
			hooks[id] = k.placed[h]
			continue
		}
		k.mirror.removeVnet(id)
		delete(wanted, h)
	}
	adopting := e.now() < k.mirror.adopting
	for _, id := range k.mirror.vnetsNow() {
		if why, ok := reasons[id]; (!ok || why != "") && !(adopting && !ok) {
			k.mirror.removeVnet(id)
		}
	}
	k.mu.Lock()
	before, hooked := k.vnets, k.hooks
	k.vnets, k.hooks = reasons, hooks
	k.mu.Unlock()
	for id, why := range reasons {
		was, known := before[id]
		if v.vnets[id].secured() || known && was == why && hooked[id] == hooks[id] {
			continue
		}
		if why == "" {
			e.log.Info("the kernel carries a vnet", "vnet", id.Short(), "hook", hooks[id])
			continue
		}
		level := e.log.Info
		if v.config.FastPath == FastPathOn {
			level = e.log.Warn
		}
		level("user space carries a vnet", "vnet", id.Short(), "reason", why)
	}
}

// due are the vnets whose turn it is to be looked at.
func (k *programs) due(v *view, verify bool) map[vnet.ID]struct{} {
	due := map[vnet.ID]struct{}{}
	if !verify {
		return due
	}
	if len(k.turn) == 0 {
		k.turn = slices.Collect(maps.Keys(v.vnets))
	}
	n := min(len(k.turn), max(verifyAtOnce, (len(v.vnets)+verifyRounds-1)/verifyRounds))
	for _, id := range k.turn[:n] {
		due[id] = struct{}{}
	}
	k.turn = k.turn[n:]
	return due
}

// routed is whether packets to a host leave by the underlay's device, and by which neighbour; the zero Addr: by what the kernel looks up.
type routed struct {
	ok  bool
	via netip.Addr
}

// reaches says how packets to a host leave that come from the underlay's address. It is for the mirror's goroutine.
func (k *programs) reaches(addr netip.Addr) routed {
	if k.host == nil {
		return routed{ok: true}
	}
	if known, ok := k.routes[addr]; ok {
		return known
	}
	u := k.looked[underlay.Of(addr)].u
	r, err := k.host.RouteTo(addr)
	to := routed{ok: err == nil && r.Index != 0 && r.Index == u.Index}
	if to.ok {
		to.via, _ = k.host.NextHop(u.Addr, addr, u.Index) // else looked up
	}
	if len(k.routes) < 4*fastpath.MaxHosts {
		k.routes[addr] = to
	}
	return to
}

// FastUnderlay says how packets of one address family travel.
type FastUnderlay struct {
	// Family is "ipv4" or "ipv6", Device the underlay device.
	Family, Device string
	// Way is how packets come in: by a program at TC, "tcx" or "clsact"; "xdp", where the outer headers of TCP go before that;
	// "" where there is no program. Why says why, if that was a choice.
	Way, Why string
	// Hook is where the program at TC is: "tcx" or "clsact". Where Way is "xdp" it is behind that.
	Hook string
	// Send and Receive say why user space sends or receives; "": the kernel does what it can.
	Send, Receive string
}

// FastPathState says what the kernel carries, and why it does not carry the rest.
type FastPathState struct {
	Mode FastPath
	// On is false where user space carries all; Problem says why, if that was not the configuration's wish, or what did not
	// fit the kernel's tables lately.
	On      bool
	Problem string
	// Underlays are by family, IPv4 first; the zero value: there is none.
	Underlays [2]FastUnderlay
	// Vnets are those that are up, and why user space carries them; "": the kernel does.
	Vnets map[vnet.ID]string
	// Hooks are where the programs are at the vnifs of those that the kernel carries: "tcx" or "clsact".
	Hooks map[vnet.ID]string
	// Ports are those of the vnets' bridges, if they may be passed by, in order of their names.
	Ports []fastpath.BypassedPort
	// Left are the packets that the kernel left to user space.
	Left fastpath.Left
}

// state is what was chosen.
func (k *programs) state(mode FastPath) FastPathState {
	k.mu.Lock()
	defer k.mu.Unlock()
	problem := k.failed
	if problem == "" {
		problem = k.mirror.lacks()
	}
	return FastPathState{
		Mode: mode, On: k.mirror.open.Load(), Problem: problem, Underlays: k.underlays, Vnets: maps.Clone(k.vnets), Hooks: maps.Clone(k.hooks),
		Ports: k.shortcuts.ports(), Left: k.shortcuts.left(k.mirror.left()),
	}
}
