package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/packet"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/service"
)

// ErrOff means that the data plane is turned off.
var ErrOff = errors.New("the data plane is turned off: vnets are bridges of this host alone")

const (
	// maxTraced bounds the places that are told of, and maxTraceEvents the events of each.
	maxTraced, maxTraceEvents = 16, 10
	// maxAsked bounds the vnets in which an address is asked for, arpTries how often, and arpWait is for how long each time.
	maxAsked, arpTries = 64, 2
	arpWait            = 300 * time.Millisecond
)

// wanted is a MAC that is traced, in one vnet or in all.
type wanted struct {
	mac    wire.MAC
	vnet   vnet.ID // zero: any
	how    string
	domain string
}

// Trace finds where a MAC, an IPv4 address or a domain is, and which way frames to it go.
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
	if len(t.Places) == 0 && t.Text == "" {
		t.Text = "no vnet of this host has seen a frame from it lately, here or behind another host; frames to it are flooded"
	}
	c.probe(ctx, t, status)
	return t, nil
}

// resolve says which MACs are meant.
func (c *Checker) resolve(ctx context.Context, target string, s dataplane.Status) (list []wanted, text string, err error) {
	if hw, err := net.ParseMAC(target); err == nil && len(hw) == len(wire.MAC{}) {
		return []wanted{{mac: wire.MAC(hw)}}, "", nil
	}
	if addr, err := netip.ParseAddr(target); err == nil {
		if !addr.Unmap().Is4() {
			return nil, "", errors.New("only IPv4 addresses can be asked for; name the MAC: ip -6 neigh in a domain of the vnet shows it")
		}
		return c.askARP(ctx, addr.Unmap(), s)
	}
	list, err = c.ofDomain(ctx, target)
	return list, "", err
}

// ofDomain are the MACs of a domain's interfaces.
func (c *Checker) ofDomain(ctx context.Context, name string) ([]wanted, error) {
	if c.o.Domains == nil {
		return nil, fmt.Errorf("%s is neither a MAC nor an address", name)
	}
	d, err := c.o.Domains.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a MAC nor an address, nor a domain of this host: %w", name, err)
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

// askARP asks in each vnet who has an address: an ARP probe (RFC 5227) from the vnet's bridge reaches all hosts.
func (c *Checker) askARP(ctx context.Context, addr netip.Addr, s dataplane.Status) (list []wanted, text string, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	asked := 0
	var problem error
	for _, v := range s.Vnets {
		if v.Bridge == "" || !v.Up || asked == maxAsked {
			continue
		}
		asked++
		wg.Go(func() {
			mac, took, err := c.arp(ctx, v.Bridge, addr)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				problem = err
			case mac != nil:
				list = append(list, wanted{mac: wire.MAC(mac), vnet: v.ID, how: fmt.Sprintf("answered ARP within %.1f ms", took.Seconds()*1000)})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b wanted) int { return a.vnet.Compare(b.vnet) })
	text = fmt.Sprintf("nobody answered ARP for it in the %d vnets that are up here and on a bridge", asked)
	if problem != nil && len(list) == 0 {
		text += "; " + problem.Error()
	}
	return list, text, nil
}

// arp asks by a device; nil if nobody answers.
func (c *Checker) arp(ctx context.Context, device string, addr netip.Addr) (net.HardwareAddr, time.Duration, error) {
	const ethARP = 0x0806
	var conn *packet.Conn
	var dev *net.Interface
	if err := c.o.Host.Do(func() (err error) {
		if dev, err = net.InterfaceByName(device); err != nil {
			return err
		}
		conn, err = packet.Listen(dev, packet.Raw, ethARP, nil)
		return err
	}); err != nil {
		return nil, 0, fmt.Errorf("ask by %s: %w", device, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	question := slices.Concat([]byte(broadcast), dev.HardwareAddr, []byte{8, 6}, arpProbe(dev.HardwareAddr, addr))
	start := time.Now()
	b := make([]byte, 1514)
	for range arpTries {
		if _, err := conn.WriteTo(question, &packet.Addr{HardwareAddr: broadcast}); err != nil {
			return nil, 0, fmt.Errorf("ask by %s: %w", device, err)
		}
		if ctx.Err() != nil || conn.SetReadDeadline(time.Now().Add(arpWait)) != nil {
			return nil, 0, ctx.Err()
		}
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				break
			}
			if mac, ok := arpAnswer(b[:n], addr); ok {
				return mac, time.Since(start), nil
			}
		}
	}
	return nil, 0, nil
}

// arpProbe asks who has an address, without saying that the asker has one: RFC 826, and RFC 5227, section 2.1.1.
func arpProbe(from net.HardwareAddr, addr netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, from...), 0, 0, 0, 0)
	return append(append(b, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
}

// arpAnswer reads a frame with a reply from who has an address.
func arpAnswer(frame []byte, addr netip.Addr) (net.HardwareAddr, bool) {
	if len(frame) < 14+28 || binary.BigEndian.Uint16(frame[12:]) != 0x0806 {
		return nil, false
	}
	b := frame[14:]
	if !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) || binary.BigEndian.Uint16(b[6:]) != 2 || !bytes.Equal(b[14:18], addr.AsSlice()) {
		return nil, false
	}
	mac := net.HardwareAddr(bytes.Clone(b[8:14]))
	return mac, mac[0]&1 == 0
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
		p.Host, p.Source, p.Age, p.Damped = e.Addr.String(), e.Source, e.Age.Seconds(), e.Damped.Seconds()
		out = append(out, p)
	}
	if len(out) == 0 && w.vnet != (vnet.ID{}) { // it answered, and was forgotten since
		out = append(out, place(w.vnet))
	}
	return out
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
			reached := h.ByUnicast
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
