// Package check finds out what is wrong with vnets, for `vn check`: it asks all hosts by the protocol itself
// (dataplane.Inquire), looks at this host, and judges both. Judging is pure, and tested without a kernel.
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/service"
)

// Engine is what a check needs of the data plane.
type Engine interface {
	service.Dataplane
	// Inquire asks all hosts, or one.
	Inquire(ctx context.Context, only netip.Addr) (*dataplane.Inquiry, error)
	// Members asks the hosts of a vnet with security, inside its ESP.
	Members(ctx context.Context, id vnet.ID) ([]dataplane.Member, error)
	// Locate asks all hosts of a vnet who has a MAC.
	Locate(ctx context.Context, id vnet.ID, mac wire.MAC) ([]dataplane.Claim, error)
}

var _ Engine = (*dataplane.Engine)(nil)

// Service is what a check needs of the operations.
type Service interface {
	Health(ctx context.Context) service.Health
	Events(seq uint64, limit int) events.Log
}

// Options say what to check.
type Options struct {
	Engine  Engine // nil: the data plane is off
	Service Service
	Host    *hostnet.Host
	// Querier may be nil.
	Querier *Querier
	// Domains knows domains by their names; nil: nobody does.
	Domains *domain.Manager
	// Names finds the names of an address; nil: the resolver's.
	Names func(ctx context.Context, addr string) ([]string, error)
	// Lately reports whether something was dropped for a reason in about the last minute, by how much has been; nil: it was.
	Lately func(r dataplane.Reason, count uint64) bool
	// StateDir is the state directory.
	StateDir string
}

// Checker checks. Use New.
type Checker struct{ o Options }

// New returns a Checker. It does nothing until Run.
func New(o Options) *Checker { return &Checker{o} }

const (
	// membersWait bounds the questions inside of ESP, maxSecured is of how many vnets they are asked.
	membersWait = 2 * time.Second
	maxSecured  = 16
	// maxPinged bounds the hosts that are pinged since they answer nothing.
	maxPinged = 16
	// recent is how old an event may be that is a finding.
	recent = 10 * time.Minute
	// clockDiffers is by how much clocks may differ.
	clockDiffers = 5 * time.Second
)

var errNotWatched = errors.New("nobody listens for IGMP queries")

// Run finds out all; it takes some seconds.
func (c *Checker) Run(ctx context.Context) (finding.Report, error) {
	start := time.Now()
	in := input{
		o: c.o, events: c.o.Service.Events(0, 0).Events, now: start,
		members: map[vnet.ID][]dataplane.Member{}, notAsked: map[vnet.ID]string{},
	}
	in.name, _ = os.Hostname()
	if c.o.Engine != nil {
		if in.inquiry, in.inquiryErr = c.o.Engine.Inquire(ctx, netip.Addr{}); ctx.Err() != nil {
			return finding.Report{}, ctx.Err()
		}
		in.status = c.o.Engine.Status()
		in.vifs, in.doubled = c.o.Engine.Vifs(dataplane.Filter{}), c.o.Engine.Entries(dataplane.Filter{Doubled: true})
		c.askMembers(ctx, &in)
	}
	in.health = c.o.Service.Health(ctx) // which knows by now who answered
	var hosts []netip.Addr
	if in.inquiry != nil {
		for _, h := range in.inquiry.Hosts {
			hosts = append(hosts, h.Addr)
		}
	}
	in.facts = c.look(in.status, hosts)
	named := make(chan struct{})
	go func() {
		defer close(named)
		in.names = c.names(ctx, in.status, hosts)
	}()
	in.facts.pings = c.pings(ctx, in.inquiry)
	<-named
	for _, u := range in.status.Underlays {
		if u.Up && u.Family == underlay.IPv4.String() {
			in.query, in.querySince, in.queryErr = c.o.Querier.last(u.Index)
		}
	}
	r := in.judge()
	r.Took = time.Since(start).Seconds()
	return r, nil
}

// askMembers asks about vnets with security.
func (c *Checker) askMembers(ctx context.Context, in *input) {
	ctx, cancel := context.WithTimeout(ctx, membersWait)
	defer cancel()
	for i, k := range in.status.Keys {
		if i == maxSecured || ctx.Err() != nil {
			in.notAsked[k.ID] = "there are too many vnets with security to ask about all"
			continue
		}
		members, err := c.o.Engine.Members(ctx, k.ID)
		if err != nil {
			in.notAsked[k.ID] = err.Error()
			continue
		}
		in.members[k.ID] = members
	}
}

// Members asks the hosts of a vnet with security which keys they have for it.
func (c *Checker) Members(ctx context.Context, id vnet.ID) ([]dataplane.Member, error) {
	if c.o.Engine == nil {
		return nil, errors.New("the data plane is turned off")
	}
	return c.o.Engine.Members(ctx, id)
}

// pings asks those that answer nothing, or nothing by unicast, by ICMP.
func (c *Checker) pings(ctx context.Context, q *dataplane.Inquiry) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	if q == nil {
		return out
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	asked := 0
	for _, h := range q.Hosts {
		if h.ByUnicast || h.NotAsked != "" || asked == maxPinged {
			continue
		}
		asked++
		wg.Go(func() {
			answers := c.ping(ctx, h.Addr)
			mu.Lock()
			defer mu.Unlock()
			out[h.Addr] = answers
		})
	}
	wg.Wait()
	return out
}

// input is what is judged.
type input struct {
	o          Options
	name       string
	health     service.Health
	status     dataplane.Status
	vifs       []dataplane.Vif
	doubled    []dataplane.Entry
	inquiry    *dataplane.Inquiry
	inquiryErr error
	members    map[vnet.ID][]dataplane.Member
	notAsked   map[vnet.ID]string
	events     []events.Event
	names      map[netip.Addr]string
	facts      facts
	query      query
	querySince time.Time
	queryErr   error
	now        time.Time
}

// judge says what is right and what is not.
func (in *input) judge() finding.Report {
	r := finding.Report{Name: in.name, Version: "xend " + version.Version, Time: in.now, Hosts: []finding.Host{}}
	r.Summary = in.summary()
	j := &judge{input: in, report: &r}
	j.troubles()
	j.hosts()
	j.vnets()
	j.macs()
	j.secured()
	j.told()
	j.local()
	j.name()
	r.Sort()
	return r
}

func (in *input) summary() string {
	var parts []string
	for _, u := range in.status.Underlays {
		if u.Up {
			parts = append(parts, fmt.Sprintf("%s on %s, MTU %d, group %s", u.Address, u.Device, u.MTU, u.Group))
		}
	}
	if in.o.Engine == nil {
		parts = append(parts, "the data plane is turned off")
	}
	h := &in.health
	return strings.Join(append(parts, service.VnetCount(h.Vnets, "", h.Transient, h.Default)), " · ")
}

type judge struct {
	*input
	report *finding.Report
}

func (j *judge) add(name string, l finding.Level, of, cure, format string, args ...any) {
	j.report.Add(finding.Finding{Name: name, Level: l, Of: of, Text: fmt.Sprintf(format, args...), Cure: cure, Detail: l == finding.OK || l == finding.Skip})
}

// shown adds what is shown also where all is well.
func (j *judge) shown(name string, l finding.Level, of, format string, args ...any) {
	j.report.Add(finding.Finding{Name: name, Level: l, Of: of, Text: fmt.Sprintf(format, args...)})
}

// troubles are those that xend status has, too.
func (j *judge) troubles() {
	found := map[string]bool{}
	for _, t := range j.health.Troubles {
		l := finding.Warn
		if t.Severity == service.Broken {
			l = finding.Fail
		}
		found[t.Name] = true
		j.add(t.Name, l, t.Of, t.Cure, "%s", t.Text)
	}
	for _, k := range [][2]string{
		{"no-underlay", "this host reaches others"}, {"vnet-down", "devices of all vnets are there, up, and on their bridges"},
		{"bridge-filtered", "no firewall drops what vnets' bridges forward (br_netfilter)"}, {"file-set-aside", "all files of the state directory can be read"},
	} {
		if !found[k[0]] {
			j.add(k[0], finding.OK, "local", "", "%s", k[1])
		}
	}
}

// hosts judges the ways to others.
func (j *judge) hosts() {
	switch {
	case j.o.Engine == nil:
		j.add("blocked-unicast", finding.Skip, "hosts", "", "not asked: the data plane is turned off")
		return
	case j.inquiryErr != nil:
		j.add("blocked-unicast", finding.Skip, "hosts", "", "not asked: %v", j.inquiryErr)
		return
	}
	answered, byGroup, heard := 0, 0, 0
	for _, h := range j.inquiry.Hosts {
		if h.Answers() {
			answered++
		}
		if h.ByGroup {
			byGroup++
		}
		if h.HeardByGroup {
			heard++
		}
	}
	var rtts []string
	for i := range j.inquiry.Hosts {
		h := &j.inquiry.Hosts[i]
		j.report.Hosts = append(j.report.Hosts, reported(h))
		switch {
		case h.NotAsked != "":
			j.add("blocked-unicast", finding.Skip, h.Addr.String(), "", "not asked: %s", h.NotAsked)
			continue
		case !h.Answers():
			j.silent(h)
			continue
		}
		rtts = append(rtts, fmt.Sprintf("%.1f ms", h.RTT.Seconds()*1000))
		j.reached(h, answered > 0 && byGroup == 0, heard == 0)
		j.mtu(h)
		if h.ClockKnown && h.Clock.Abs() > clockDiffers {
			j.add("clock", finding.Warn, h.Addr.String(), "there and here: timedatectl; chronyc tracking", "its clock is %s %s this one's", h.Clock.Abs().Round(time.Second),
				map[bool]string{true: "ahead of", false: "behind"}[h.Clock > 0])
		}
	}
	if j.inquiry.More > 0 {
		j.add("blocked-unicast", finding.Skip, "hosts", "", "not asked: %d more hosts are known than are asked at once", j.inquiry.More)
	}
	if n := len(j.inquiry.Hosts); n == 0 {
		j.shown("host-silent", finding.OK, "hosts", "no other host is known, and none answers")
	} else if answered > 0 {
		j.shown("dead-group", finding.OK, "hosts", "%d of %d answered (%s), %d by the group%s", answered, n, strings.Join(rtts[:min(len(rtts), 5)], ", "), byGroup, j.querier())
	}
}

// querier says who asks for members of groups.
func (j *judge) querier() string {
	switch {
	case j.queryErr != nil:
		return ""
	case j.query.from.IsValid():
		return fmt.Sprintf("; IGMP querier %s, %s ago", j.query.from, j.now.Sub(j.query.at).Round(time.Second))
	}
	return fmt.Sprintf("; no IGMP querier was heard for %s", j.now.Sub(j.querySince).Round(time.Second))
}

func reported(h *dataplane.Inquired) finding.Host {
	out := finding.Host{
		Address: h.Addr.String(), Version: h.Answer.Version, Unicast: h.ByUnicast, Group: h.ByGroup, HeardByGroup: h.HeardByGroup,
		RTT: float64(h.RTT.Microseconds()) / 1000, MTUTo: h.MTUTo, MTUFrom: h.MTUFrom, NotAsked: h.NotAsked,
	}
	for _, a := range h.Answer.Addrs {
		out.Addresses = append(out.Addresses, a.String())
	}
	for _, id := range slices.SortedFunc(slices.Values(h.Answer.Vnets), vnet.ID.Compare) {
		out.Vnets = append(out.Vnets, id.Short())
	}
	if h.ClockKnown {
		s := h.Clock.Seconds()
		out.Clock = &s
	}
	return out
}

// reached judges the ways of a host that answers.
func (j *judge) reached(h *dataplane.Inquired, groupDead, deaf bool) {
	of := h.Addr.String()
	if !h.ByUnicast {
		ping := "; ping is not answered either"
		if j.facts.pings[h.Addr] {
			ping = "; ping is answered"
		}
		j.add("blocked-unicast", finding.Fail, of, "there: vn check, which names the rule, or the policy, and the command that lets it through",
			"hears this host by the group, not by unicast UDP %d (%d tries)%s: likely a firewall there or on the way", j.port(), h.Tries, ping)
	}
	cure := "IGMP snooping without a querier? bridge mdb show, the switch; a firewall there? else replicate = [...] in vnet.toml"
	if len(j.status.Replicate) > 0 {
		return // nothing needs the group
	}
	switch {
	case !h.ByGroup && !h.HeardByGroup:
		all := ""
		if groupDead && deaf {
			all = ", as no host does"
		}
		j.add("dead-group", finding.Fail, of, cure, "answers by unicast, and neither hears this host by the group nor is heard by it%s: broadcasts and new MACs are lost%s", all, j.querier())
	case !h.ByGroup:
		j.add("dead-group", finding.Fail, of, cure, "answers by unicast, and does not hear this host by the group: broadcasts and new MACs do not get there%s", j.querier())
	case !h.HeardByGroup:
		j.add("dead-group", finding.Fail, of, cure, "hears this host by the group, and is not heard by it: its broadcasts and new MACs do not get here%s", j.querier())
	}
}

func (j *judge) port() uint16 {
	for _, u := range j.status.Underlays {
		return u.Port
	}
	return 1798
}

// silent judges a host that answers nothing.
func (j *judge) silent(h *dataplane.Inquired) {
	of := h.Addr.String()
	ping := "it does not answer ping"
	if j.facts.pings[h.Addr] {
		ping = "it answers ping"
	}
	last := h.Heard()
	look := fmt.Sprintf("tcpdump -ni %s host %s and udp port %d", cmp.Or(h.Device, "any"), of, j.port())
	unanswered, answers := j.unanswered(h)
	switch {
	case j.droppedHere():
		j.add("host-silent", finding.Skip, of, "", "not known: this host's own firewall drops UDP %d (port-filtered)", j.port())
	case h.VARP.Answered:
		j.add("host-silent", finding.OK, of, "", "answers VARP requests by unicast, and no probe: an original host, or an older xend")
	case last >= 0 && last < time.Minute && answers && (j.facts.pings[h.Addr] || last <= j.inquiry.Took): // it is not down
		ended := ""
		if last > j.inquiry.Took {
			ended = "xend has ended there just now, or "
		}
		j.add("blocked-unicast", finding.Fail, of, fmt.Sprintf("there: xend status; vn check, which names the rule; on an original host iptables-save | grep -n %d", j.port()),
			"sends (heard %s ago), and does not answer %s; %s: likely %sa firewall there or on the way drops UDP %d to it", last.Round(time.Second), unanswered, ping, ended, j.port())
	case j.answersSealed(h.Addr):
		j.add("host-silent", finding.Skip, of, "", "answers inside of the ESP of vnets with security, and not by UDP %d, which vnets without security need", j.port())
	case last >= 0 && last < time.Minute && !answers:
		j.report.Add(finding.Finding{Name: "host-silent", Level: finding.Skip, Of: of, Cure: look, Text: fmt.Sprintf(
			"not known: it sends (heard %s ago) and does not answer %s, be it an original host or cut off from UDP %d; %s", last.Round(time.Second), unanswered, j.port(), ping)})
	case last >= 0:
		j.add("host-silent", finding.Warn, of, "ping "+of+"; "+look, "does not answer %s, and was last heard %s ago; %s", unanswered, last.Round(time.Second), ping)
	case len(h.Sources) > 0 || j.named(h.Addr):
		j.add("host-gone", finding.Warn, of, "ping "+of+"; does xend run there? else take it out of vnet.toml",
			"is configured (%s), answers nothing (%d tries) and was never heard; %s", cmp.Or(strings.Join(h.Sources, ", "), "peer or replica"), h.Tries, ping)
	default:
		j.add("host-silent", finding.Skip, of, "", "not asked: others have told of it, and it was never heard; %s", ping)
	}
}

// unanswered says what a host does not answer; known reports whether such a host can be asked that: one that answered a probe
// before, one that sends them, or one that must know a MAC it was asked for.
func (j *judge) unanswered(h *dataplane.Inquired) (what string, known bool) {
	what = fmt.Sprintf("probes (%d tries", h.Tries)
	switch {
	case h.Answered >= 0:
		what += fmt.Sprintf("; it did until %s ago", h.Answered.Round(time.Second))
	case h.Probed >= 0:
		what += fmt.Sprintf("; it sent some itself, %s ago", h.Probed.Round(time.Second))
	}
	what += ")"
	if h.VARP.MACs > 0 {
		what += ", nor VARP requests for the MAC that is behind it"
		if h.VARP.MACs > 1 {
			what = strings.Replace(what, "the MAC that is", fmt.Sprintf("%d MACs that are", h.VARP.MACs), 1)
		}
	}
	return what, h.Answered >= 0 || h.Probed >= 0 || h.VARP.Sure > 0
}

// droppedHere reports whether a rule of this host's drops what hosts answer by unicast, or the questions.
func (j *judge) droppedHere() bool {
	return slices.ContainsFunc(j.health.Dropped, func(d firewall.Dropped) bool {
		return d.Protocol == 17 && d.Port == j.port() && !d.To.IsMulticast()
	})
}

// answersSealed reports whether a host answers inside of the ESP of a vnet.
func (j *judge) answersSealed(a netip.Addr) bool {
	for _, members := range j.members {
		if slices.ContainsFunc(members, func(m dataplane.Member) bool { return m.Addr == a }) {
			return true
		}
	}
	return false
}

func (j *judge) named(a netip.Addr) bool {
	return slices.ContainsFunc(j.status.Peers, func(p dataplane.PeerState) bool { return p.Addr == a }) ||
		slices.ContainsFunc(j.status.Replicate, func(p dataplane.ReplicaState) bool { return p.Addr == a })
}

// mtu judges what fits on the way to a host, and back.
func (j *judge) mtu(h *dataplane.Inquired) {
	if !h.ByUnicast {
		return
	}
	of := h.Addr.String()
	least, way := h.DeviceMTU, ""
	if h.MTUTo > 0 && h.MTUTo < least {
		least, way = h.MTUTo, "there"
	}
	if h.MTUFrom > 0 && h.MTUFrom < least {
		least, way = h.MTUFrom, "back"
	}
	if way != "" && h.MTUTo == h.MTUFrom {
		way = "there and back"
	}
	inner := least - underlay.Of(h.Addr).HeaderLen() - 22 - 14
	if way != "" {
		what, atLeast := "full frames travel in fragments", ""
		if h.MTUUnsure {
			atLeast = "at least "
		}
		switch {
		case h.FragmentsAsked && !h.Fragments:
			what = "longer ones are lost, and this host's fragments with them, being as long as the device allows"
		case j.status.MTUMode == dataplane.MTUPath:
			what = "senders are told what this host's device takes, which is too much"
		}
		j.add("path-mtu", finding.Warn, of, fmt.Sprintf("raise it on the way, or: ip link set %s mtu %d; or domains' MTU to %d", h.Device, least, inner),
			"path MTU %s%d %s (this device: %d): %s", atLeast, least, way, h.DeviceMTU, what)
		return
	}
	if h.MTUTo == 0 || h.MTUFrom == 0 {
		j.add("path-mtu", finding.Skip, of, "", "the path's MTU is not known: it answers no question of that kind, or loses too much")
	}
	if h.FragmentsAsked && !h.Fragments && j.status.MTUMode != dataplane.MTUPath {
		j.add("no-fragments", finding.Fail, of, "let fragments pass on the way; or MTU 1564 there and on both devices; or mtu_mode = \"pmtu\" in vnet.toml",
			"answers whole packets of %d bytes, and none that comes in fragments: full frames of domains are lost", h.DeviceMTU)
	}
}

// vnets compares which vnets hosts have.
func (j *judge) vnets() {
	if j.inquiry == nil {
		return
	}
	mine := map[vnet.ID]dataplane.Vnet{}
	for _, v := range j.status.Vnets {
		if v.Security == vnet.None {
			mine[v.ID] = v
		}
	}
	secured := map[vnet.ID]vnet.Security{}
	for _, v := range j.status.Vnets {
		if v.Security != vnet.None {
			secured[v.ID] = v.Security
		}
	}
	elsewhere := map[vnet.ID]int{}
	complete := []*dataplane.Inquired{} // hosts that named all of theirs
	for i := range j.inquiry.Hosts {
		h := &j.inquiry.Hosts[i]
		if !h.Answers() {
			continue
		}
		for _, id := range h.Answer.Vnets {
			elsewhere[id]++
			if level, ok := secured[id]; ok {
				j.add("level-mismatch", finding.Fail, h.Addr.String(), sameLevel("both", id.Short()), "has vnet %s without security, and this host has it with %s: neither takes what the other sends", id.Short(), level)
			}
		}
		if len(h.Answer.Vnets) == h.Answer.VnetCount {
			complete = append(complete, h)
		} else {
			j.add("one-sided", finding.Skip, h.Addr.String(), "", "not compared: it has %d vnets, and its answer had room for %d", h.Answer.VnetCount, len(h.Answer.Vnets))
		}
	}
	if len(complete) == 0 {
		j.add("one-sided", finding.Skip, "vnets", "", "not compared: no host said which it has")
		return
	}
	lonely := []vnet.ID{}
	for id, v := range mine {
		if elsewhere[id] == 0 && !(id.Default() && v.Bridge == "") {
			lonely = append(lonely, id)
		}
	}
	slices.SortFunc(lonely, vnet.ID.Compare)
	for _, id := range lonely {
		name := "vnet " + id.Short()
		host, other := j.counterpart(complete, mine, elsewhere)
		if host == nil {
			j.add("one-sided", finding.Warn, name, "there: xm vnet-list; xm vnet-create", "is on none of the hosts that answered (%d)", len(complete))
			continue
		}
		j.add("wrong-id", finding.Warn, name, "there: xm vnet-list -l "+other.Short()+"; here: xm vnet-list -l "+id.Short(),
			"is not on %s, which alone has vnet %s: one vnet under two ids?%s", host.Addr, other.Short(), hexHint(id, other))
	}
	if len(lonely) == 0 {
		j.add("one-sided", finding.OK, "vnets", "", "each vnet without security is on another host that answered, too")
	}
}

// counterpart is a host with a vnet that is on no other host, here included.
func (j *judge) counterpart(hosts []*dataplane.Inquired, mine map[vnet.ID]dataplane.Vnet, count map[vnet.ID]int) (*dataplane.Inquired, vnet.ID) {
	for _, h := range hosts {
		for _, id := range h.Answer.Vnets {
			if _, here := mine[id]; !here && count[id] == 1 {
				return h, id
			}
		}
	}
	return nil, vnet.ID{}
}

// hexHint tells of an id that was taken for a decimal one.
func hexHint(a, b vnet.ID) string {
	for _, x := range [][2]vnet.ID{{a, b}, {b, a}} {
		text := x[0].Short()
		var decimal int
		if _, err := fmt.Sscanf(text, "%d", &decimal); err == nil && fmt.Sprint(decimal) == text && fmt.Sprintf("%x", decimal) == x[1].Short() {
			return fmt.Sprintf(" Ids are hexadecimal: %s is %s in decimal", x[1].Short(), text)
		}
	}
	return ""
}

// macs looks for MACs that two hosts have.
func (j *judge) macs() {
	const cure = "on both hosts: vn trace MAC; give one domain another MAC, or detach the vif that was left behind"
	found := j.report.Has("doubled-mac")
	for _, e := range j.doubled {
		found = true
		j.add("doubled-mac", finding.Fail, "MAC "+e.MAC.String(), strings.Replace(cure, "MAC;", e.MAC.String()+";", 1),
			"a domain here was given it, and %s has it in vnet %s, too (%s)", e.Addr, e.Vnet.Short(), e.Source)
	}
	// One that moved to and fro slowly.
	moves := map[string]int{}
	for _, e := range j.events {
		if e.Text == "MAC moved" && j.now.Sub(e.Time) < recent {
			moves[e.Attr("mac")+" "+e.Attr("vnet")]++
		}
	}
	keys := make([]string, 0, len(moves))
	for k := range moves {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if mac, id, _ := strings.Cut(k, " "); moves[k] >= 3 {
			found = true
			j.add("doubled-mac", finding.Warn, "MAC "+mac, strings.Replace(cure, "MAC;", mac+";", 1), "moved %d times within %s in vnet %s", moves[k], recent, id)
		}
	}
	here := map[string]bool{}
	for _, v := range j.vifs {
		here[v.Vnet.String()+v.MAC.String()] = true
	}
	for id, members := range j.members {
		for _, m := range members {
			for _, mac := range m.MACs {
				if here[id.String()+mac.String()] {
					found = true
					j.add("doubled-mac", finding.Fail, "MAC "+mac.String(), strings.Replace(cure, "MAC;", mac.String()+";", 1), "lives here and, as it says, on %s, in vnet %s", m.Addr, id.Short())
				}
			}
		}
	}
	if !found {
		j.add("doubled-mac", finding.OK, "MACs", "", "none is on two hosts, and none moved to and fro")
	}
}
