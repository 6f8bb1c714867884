package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/service"
)

// ErrOff means that the data plane is turned off.
var ErrOff = errors.New("the data plane is turned off: vnets are bridges of this host alone")

const (
	// maxTraced bounds the places that are told of, and maxTraceEvents the events of each.
	maxTraced, maxTraceEvents = 16, 10
	// maxAsked bounds the vnets in which something is asked for.
	maxAsked = 64
)

// wanted is a MAC that is traced, in one vnet or in all.
type wanted struct {
	mac    wire.MAC
	vnet   vnet.ID // zero: any
	how    string
	domain string
}

// Trace finds where a MAC, an address or a domain is, and which way frames to it go: what this host has learned, what the
// others say when they are asked, and what a probe of the host says.
func (c *Checker) Trace(ctx context.Context, target string) (*finding.Trace, error) {
	if c.o.Engine == nil {
		return nil, ErrOff
	}
	t := &finding.Trace{Target: target, Places: []finding.Place{}}
	status := c.o.Engine.Status()
	list, text, err := c.resolve(ctx, target, status)
	if err != nil {
		return nil, err
	}
	t.Text = text
	names := c.o.Domains.RunningNames(ctx)
	for _, w := range list {
		if len(t.Places) >= maxTraced {
			break
		}
		t.Places = append(t.Places, c.places(ctx, w, status, names)...)
	}
	c.locate(ctx, t, list, status)
	if len(t.Places) == 0 && t.Text == "" {
		t.Text = "no vnet of this host has seen a frame from it lately, here or behind another host, and no host says that it has it: " +
			"frames to it are flooded. Is its vnet here (xm vnet-list), and does it send anything (there: vn vif-list)?"
	}
	named := make(chan map[netip.Addr]string, 1)
	behind := hostsOf(t)
	go func() { named <- c.names(ctx, status, behind) }()
	c.probe(ctx, t, status)
	hosts := <-named
	for i := range t.Places {
		if addr, err := netip.ParseAddr(t.Places[i].Host); err == nil {
			t.Places[i].HostName = hosts[addr]
		}
	}
	return t, nil
}

// hostsOf are the hosts that things are behind.
func hostsOf(t *finding.Trace) (list []netip.Addr) {
	for _, p := range t.Places {
		if addr, err := netip.ParseAddr(p.Host); err == nil && !slices.Contains(list, addr) {
			list = append(list, addr)
		}
	}
	return list
}

// resolve says which MACs are meant.
func (c *Checker) resolve(ctx context.Context, target string, s dataplane.Status) (list []wanted, text string, err error) {
	if hw, err := net.ParseMAC(target); err == nil && len(hw) == len(wire.MAC{}) {
		return []wanted{{mac: wire.MAC(hw)}}, "", nil
	}
	if addr, err := netip.ParseAddr(target); err == nil {
		addr = addr.Unmap()
		switch {
		case addr.Zone() != "":
			return nil, "", fmt.Errorf("%s: an address is looked for in each vnet; name it without %%%s", target, addr.Zone())
		case addr.IsMulticast() || addr.IsUnspecified() || addr.IsLoopback() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return nil, "", fmt.Errorf("%s is no single machine's address; name that of a domain (there: ip addr)", target)
		}
		return c.askNeighbours(ctx, addr, s)
	}
	list, err = c.ofDomain(ctx, target)
	return list, "", err
}

// ofDomain are the MACs of a domain's interfaces.
func (c *Checker) ofDomain(ctx context.Context, name string) ([]wanted, error) {
	if c.o.Domains == nil {
		return nil, fmt.Errorf("%s is neither a MAC nor an address, and this host manages no domains: name its MAC or address", name)
	}
	d, err := c.o.Domains.Get(ctx, name)
	var none *domain.NotFoundError
	const advice = "other hosts do not tell the names of theirs: name its MAC or address, or ask on its host"
	switch {
	case errors.As(err, &none):
		return nil, fmt.Errorf("%s is neither a MAC nor an address, nor a domain of this host, and %s", name, advice)
	case err != nil:
		return nil, fmt.Errorf("%s is neither a MAC nor an address, and this host's domains cannot be asked (%w); %s", name, err, advice)
	}
	var list []wanted
	for _, v := range d.Devices("vif") {
		if mac, err := net.ParseMAC(find(v, "mac")); err == nil && len(mac) == len(wire.MAC{}) {
			list = append(list, wanted{mac: wire.MAC(mac), domain: d.Name, how: "an interface of it"})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("domain %s has no network interface", name)
	}
	return list, nil
}

// find returns the value of a pair, wherever it is in a form.
func find(v sxp.Value, name string) string {
	if v.Name() == name {
		if rest := v.Children(); len(rest) == 1 && rest[0].IsAtom() {
			return rest[0].Text()
		}
	}
	for _, x := range v.Items() {
		if !x.IsAtom() {
			if s := find(x, name); s != "" {
				return s
			}
		}
	}
	return ""
}

// askNeighbours asks in each vnet who has an address: the question reaches all hosts from the vnet's bridge.
func (c *Checker) askNeighbours(ctx context.Context, addr netip.Addr, s dataplane.Status) (list []wanted, text string, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	asked := 0
	var problem error
	q := newNeighbourQuestion(addr)
	for _, v := range s.Vnets {
		if v.Bridge == "" || !v.Up || asked == maxAsked {
			continue
		}
		asked++
		wg.Go(func() {
			mac, took, err := c.neighbour(ctx, v.Bridge, q)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				problem = err
			case mac != nil:
				list = append(list, wanted{mac: wire.MAC(mac), vnet: v.ID, how: fmt.Sprintf("answered %s within %.1f ms", q.name, took.Seconds()*1000)})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b wanted) int { return a.vnet.Compare(b.vnet) })
	where := fmt.Sprintf("any of the %d vnets that are", asked)
	if asked == 1 {
		where = "the one vnet that is"
	}
	text = fmt.Sprintf("nobody answered %s for it in %s up here and on a bridge; is it the domain's address (there: ip addr), "+
		"is the vnet here, too (xm vnet-list), and is its host reached (vn check)?", q.name, where)
	if problem != nil && len(list) == 0 {
		text += "; " + problem.Error()
	}
	return list, text, nil
}

// places are where a MAC is.
func (c *Checker) places(ctx context.Context, w wanted, s dataplane.Status, names map[int]string) (out []finding.Place) {
	place := func(id vnet.ID) finding.Place {
		p := finding.Place{MAC: w.mac.String(), Vnet: id.Short(), How: w.how, Domain: w.domain, Events: c.told(w.mac, id)}
		for _, v := range s.Vnets {
			if v.ID == id {
				p.Bridge = v.Bridge
			}
		}
		return p
	}
	for _, v := range c.o.Engine.Vifs(dataplane.Filter{Vnet: w.vnet}) {
		if v.MAC != w.mac || ctx.Err() != nil {
			continue
		}
		p := place(v.Vnet)
		since(&p, "this host")
		p.Here, p.Source, p.Age = true, "frame", v.Age.Seconds()
		if v.ByHand {
			p.Source = "hand"
		}
		p.Port = c.port(p.Bridge, w.mac)
		if id, ok := service.DomainOf(p.Port); ok && p.Domain == "" {
			p.Domain = names[id]
		}
		out = append(out, p)
	}
	for _, e := range c.o.Engine.Entries(dataplane.Filter{Vnet: w.vnet}) {
		if e.MAC != w.mac || !e.Addr.IsValid() {
			continue
		}
		p := place(e.Vnet)
		since(&p, e.Addr.String())
		p.Host, p.Source, p.Age, p.Damped = e.Addr.String(), e.Source, e.Age.Seconds(), e.Damped.Seconds()
		out = append(out, p)
	}
	if len(out) == 0 && w.vnet != (vnet.ID{}) { // it answered, and was forgotten since
		out = append(out, place(w.vnet))
	}
	return out
}

// since says since when a place has the MAC, and who had it before, where the log still tells.
func since(p *finding.Place, at string) {
	for _, e := range slices.Backward(p.Events) {
		if e.Text == "MAC moved" {
			if e.Attr("to") == at {
				p.Since, p.Before = e.Time, e.Attr("from")
			}
			return
		}
	}
}

// locate asks all hosts who has the MACs: those that were found, and those that were not, wherever they may be.
func (c *Checker) locate(ctx context.Context, t *finding.Trace, list []wanted, s dataplane.Status) {
	found := len(t.Places)
	if found == 0 {
		for _, w := range list {
			for _, v := range s.Vnets {
				if v.Up && (w.vnet == vnet.ID{} || w.vnet == v.ID) && len(t.Places) < maxAsked {
					t.Places = append(t.Places, finding.Place{MAC: w.mac.String(), Vnet: v.ID.Short(), Bridge: v.Bridge, How: w.how, Domain: w.domain, Events: c.told(w.mac, v.ID)})
				}
			}
		}
	}
	var wg sync.WaitGroup
	for i := range t.Places {
		p := &t.Places[i]
		wg.Go(func() { c.claims(ctx, p) })
	}
	wg.Wait()
	if found == 0 {
		t.Places = slices.DeleteFunc(t.Places, func(p finding.Place) bool { return p.Host == "" })
		t.Places = t.Places[:min(len(t.Places), maxTraced)]
	}
}

// claims asks all hosts who has the MAC of a place.
func (c *Checker) claims(ctx context.Context, p *finding.Place) {
	id, err := vnet.ParseID(p.Vnet)
	if err != nil {
		return // its own ids are ids
	}
	mac, err := net.ParseMAC(p.MAC)
	if err != nil {
		return
	}
	claims, err := c.o.Engine.Locate(ctx, id, wire.MAC(mac))
	if err != nil {
		p.Asked = "not asked who has it: " + err.Error()
		return
	}
	if p.Host == "" && !p.Here && len(claims) > 0 { // nobody was known to have it
		p.Host, p.Source = claims[0].Addr.String(), "announce"
	}
	p.Asked = said(p, claims)
	for _, x := range claims {
		p.Claims = append(p.Claims, x.Addr.String())
	}
}

// said tells who says that it has a MAC.
func said(p *finding.Place, claims []dataplane.Claim) string {
	var others []string
	own := ""
	for _, x := range claims {
		if x.Addr.String() == p.Host {
			own = fmt.Sprintf("%s says that it has it (VARP, within %.1f ms)", p.Host, x.Took.Seconds()*1000)
		} else {
			others = append(others, x.Addr.String())
		}
	}
	switch {
	case len(others) > 0 && (own != "" || p.Here):
		if own == "" {
			own = "it is here"
		}
		return own + "; so does " + strings.Join(others, ", ") + ": two domains have one MAC, or one of them moves just now (vn check)"
	case len(others) > 0:
		return strings.Join(others, ", ") + " says that it has it, and " + p.Host + " does not: it moves just now, or frames are answered by who does not have it (vn check)"
	case own != "":
		return own
	case p.Here:
		return "no other host says that it has it"
	}
	return "no host says that it has it: it was stopped, is behind a bridge of that host that lost it, or questions do not arrive there (vn check)"
}

// port is the device behind which a bridge has a MAC, "" if it does not know.
func (c *Checker) port(bridge string, mac wire.MAC) string {
	l, err := c.o.Host.LinkByName(bridge)
	if bridge == "" || err != nil {
		return ""
	}
	list, err := c.o.Host.FDB(l.Index)
	if err != nil {
		return ""
	}
	for _, e := range list {
		if e.MAC == mac {
			if e.Local {
				return bridge
			}
			if p, err := c.o.Host.LinkByIndex(e.Port); err == nil {
				return p.Name
			}
		}
	}
	return ""
}

// told are the events about a MAC.
func (c *Checker) told(mac wire.MAC, id vnet.ID) (list []events.Event) {
	for _, e := range c.o.Service.Events(0, 0).Events {
		if of := e.Attr("vnet"); e.Attr("mac") == mac.String() && (of == "" || same(of, id)) {
			list = append(list, e)
		}
	}
	return list[max(0, len(list)-maxTraceEvents):]
}

// same tells whether an id as the log has it is that one.
func same(text string, id vnet.ID) bool {
	parsed, err := vnet.ParseID(text)
	return err == nil && parsed == id
}

// probe asks the hosts that things are behind, each once, and says which way frames to them take.
func (c *Checker) probe(ctx context.Context, t *finding.Trace, s dataplane.Status) {
	asked := map[string]*dataplane.Inquired{}
	for i := range t.Places {
		p := &t.Places[i]
		if p.Host == "" {
			continue
		}
		addr, err := netip.ParseAddr(p.Host)
		if err != nil {
			continue
		}
		p.Path = way(p, addr, s)
		h, known := asked[p.Host]
		if !known {
			if q, err := c.o.Engine.Inquire(ctx, addr); err == nil && len(q.Hosts) == 1 {
				h = &q.Hosts[0]
			}
			asked[p.Host] = h
		}
		if h == nil {
			p.Probe = "not asked: it could not be"
			continue
		}
		p.Probe = answer(h)
		if h.NotAsked == "" {
			reached := h.ByUnicast || slices.Contains(p.Claims, p.Host) // an original host answers VARP, and no probe
			p.Reached = &reached
		}
	}
}

// way is the way of frames to a place behind another host.
func way(p *finding.Place, addr netip.Addr, s dataplane.Status) string {
	carrier := "user space"
	for id, why := range s.FastPath.Vnets {
		if id.Short() == p.Vnet && s.FastPath.On && why == "" {
			carrier = "the kernel's fast path"
		}
	}
	security := ""
	for _, v := range s.Vnets {
		if v.ID.Short() == p.Vnet && v.Security != vnet.None {
			security = ", ESP (" + v.Security.String() + ")"
		}
	}
	for _, x := range s.Paths {
		if x.Addr != addr {
			continue
		}
		form := "VUDP"
		if x.UDP == 0 {
			form = "EtherIP"
		}
		inner := x.MTU - x.IP - x.UDP - x.Header - 14
		text := fmt.Sprintf("%s → %s → %s, %s%s", carrier, x.Device, addr, form, security)
		if security == "" {
			text += fmt.Sprintf("; packets of up to %d bytes cross in one piece (MTU %d)", inner, x.MTU)
		}
		return text
	}
	return carrier + " → " + addr.String() + security
}

// answer is what a probe of a host said.
func answer(h *dataplane.Inquired) string {
	switch {
	case h.NotAsked != "":
		return "not asked: " + h.NotAsked
	case h.ByUnicast:
		text := fmt.Sprintf("reached by unicast in %.2f ms", h.RTT.Seconds()*1000)
		if h.MTUTo > 0 && h.MTUFrom > 0 {
			text += fmt.Sprintf("; path MTU %d there, %d back", h.MTUTo, h.MTUFrom)
		}
		return text + "; " + h.Answer.Version
	case h.ByGroup:
		return fmt.Sprintf("answers by the group, and not by unicast (%d tries): vn check", h.Tries)
	}
	return strings.TrimSpace(fmt.Sprintf("no answer (%d tries): vn check; original hosts answer none", h.Tries))
}
