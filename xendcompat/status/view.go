package status

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// Bounds of what one page shows; the rest is found by searching.
const (
	maxRows   = 200
	maxMACs   = 200
	maxEvents = 20
)

// page answers a browser's request if it is for one of the pages, or else returns nil. who is what forms are sealed with.
func (h *handler) page(ctx context.Context, r *httpx.Request, who string) *httpx.Reply {
	if len(r.Path) == 0 && reads(r) {
		return seeOther("/xend/")
	}
	if len(r.Path) == 0 || r.Path[0] != "xend" {
		return nil
	}
	switch rest := r.Path[1:]; {
	case len(rest) == 1 && rest[0] == "form":
		return h.form(ctx, r, who)
	case len(rest) == 1 && rest[0] == "check" && h.checks():
		return h.check(ctx, r, who)
	case !reads(r):
		return nil
	case len(rest) == 0:
		return h.front(ctx, r, who)
	case len(rest) == 1 && rest[0] == "events":
		return h.eventsPage(ctx, r, who)
	case len(rest) == 2 && rest[0] == "vnet":
		return h.vnetPageWith(ctx, r, who, rest[1], http.StatusOK, nil, "")
	case len(rest) == 2 && rest[0] == "host":
		return h.hostPage(ctx, r, who, rest[1])
	}
	return nil
}

// frame is what all pages have.
type frame struct {
	Title string
	// Host is this host's name.
	Host, Version string
	// State is well, degraded or broken.
	State    string
	Troubles []service.Trouble
	Now      time.Time
	// Changes: there are forms. Seal goes with them.
	Changes bool
	Seal    string
	// Checks: /xend/check can check.
	Checks bool
	// Old: the pages of old clients are there, too. Session: somebody has signed in.
	Old, Session bool
	// Problem is why something was not done; "" if nothing was wanted.
	Problem string
	// Live is the path from which the page is redrawn.
	Live string
	// Picture is the topology, drawn; "" on pages that have none. Events are the newest.
	Picture template.HTML
	Events  []events.Event
	Body    any
}

// frame makes a page of a body.
func (h *handler) frame(ctx context.Context, who, title string, body any) frame {
	health := h.troubles(ctx, pageAge)
	return frame{
		Title: title, Host: h.o.Host, Version: version.Version, State: health.Severity().String(), Troubles: health.Troubles,
		Now: h.o.Now(), Changes: !h.access.files.ReadOnly, Seal: h.access.seal("form", who),
		Old: h.next != nil, Checks: h.checks(), Session: strings.HasPrefix(who, "session "), Body: body,
	}
}

// front is the page of this host.
func (h *handler) front(ctx context.Context, r *httpx.Request, who string) *httpx.Reply {
	return h.frontWith(ctx, r, who, http.StatusOK, vnetForm{}, "")
}

// frontPage is the body of the page of this host.
type frontPage struct {
	Search    string
	Underlays []underlayRow
	Vnets     []vnetRow
	More      int // vnets that are not shown
	Hosts     []hostRow
	MoreHosts int
	Drops     []dropRow
	Form      vnetForm
}

func (h *handler) frontWith(ctx context.Context, r *httpx.Request, who string, status int, form vnetForm, problem string) *httpx.Reply {
	search := strings.TrimSpace(parseForm(r).Get("q"))
	v := h.look(ctx)
	p := frontPage{Search: search, Underlays: underlayRows(v.status), Drops: h.dropRows(v.status), Form: form}
	for _, row := range h.vnetRows(v) {
		if search == "" || row.matches(search) {
			p.Vnets = append(p.Vnets, row)
		}
	}
	if len(p.Vnets) > maxRows {
		p.More = len(p.Vnets) - maxRows
		// What is down must not be among what is not shown.
		slices.SortStableFunc(p.Vnets, func(a, b vnetRow) int { return int(truth(a.Up) - truth(b.Up)) })
		p.Vnets = p.Vnets[:maxRows]
	}
	for i := range p.Vnets {
		h.move(&p.Vnets[i])
	}
	hosts := foremost(v.status.Hosts, maxRows)
	p.MoreHosts = len(v.status.Hosts) - len(hosts)
	for _, x := range hosts {
		p.Hosts = append(p.Hosts, newHostRow(x))
	}
	f := h.frame(ctx, who, "", p)
	f.Events = h.ops.Events(0, maxEvents).Events
	slices.Reverse(f.Events)
	f.Picture = h.draw(ctx)
	f.Title, f.Problem, f.Live = f.Host, problem, "/xend/?q="+url.QueryEscape(search)
	return reply(status, draw("front", f))
}

// draw draws who is there.
func (s *Status) draw(ctx context.Context) template.HTML {
	return s.picture.get(s.o.Now, pageAge, func() template.HTML {
		t := s.ops.Topology(ctx)
		return template.HTML(t.Inline(func(h topology.Host) string { //nolint:gosec // what is not its own is escaped
			if h.State == topology.Self {
				return "#vnets"
			}
			if a := h.Address(); a != "" {
				return "/xend/host/" + url.PathEscape(a)
			}
			return ""
		}))
	})
}

// seen is what a page is made of.
type seen struct {
	status dataplane.Status
	macs   map[vnet.ID]dataplane.MACs
	ports  map[string][]service.Port
	all    []service.Vnet
}

// look looks at everything but the MACs. Pages that are redrawn by many browsers share what was seen.
func (s *Status) look(ctx context.Context) seen {
	return s.seen.get(s.o.Now, pageAge, func() seen {
		d := s.ops.Dataplane()
		v := seen{status: d.Status(), macs: d.MACs(), all: s.ops.All()}
		v.ports, _ = s.ops.Ports(ctx) // Health tells that devices can't be listed
		return v
	})
}

type underlayRow struct {
	dataplane.Underlay
	// Group says how it is with the group.
	State string
}

func underlayRows(st dataplane.Status) []underlayRow {
	var rows []underlayRow
	for _, u := range st.Underlays {
		row := underlayRow{u, "nothing heard yet"}
		switch {
		case u.Silent:
			row.State = "silent, although other hosts are there"
		case u.Heard >= 0:
			row.State = "heard " + ago(u.Heard)
		}
		rows = append(rows, row)
	}
	return rows
}

type vnetRow struct {
	ID, FullID, Bridge, Vnetif, Security string
	Lifetime                             string
	Up                                   bool
	Problem                              string
	// Kernel: its known unicast is carried by the kernel. User says why not, where others' is.
	Kernel          bool
	User            string
	MTU             int
	Ports           int
	Domains         []string
	Here, Elsewhere int
	Dropped         []reasonRow
	In, Out         float64 // bytes per second, of the last sample
	Curve           template.HTML
}

func (r *vnetRow) matches(search string) bool {
	for _, s := range append([]string{r.ID, r.Bridge, r.Vnetif, r.Security}, r.Domains...) {
		if strings.Contains(strings.ToLower(s), strings.ToLower(search)) {
			return true
		}
	}
	return false
}

// move fills in the traffic of the last ten minutes, and returns it.
func (s *Status) move(row *vnetRow) (out, in []float32) {
	id, err := vnet.ParseID(row.FullID)
	if err != nil {
		return nil, nil // its own ids are ids
	}
	out, in = s.history.rates(id)
	row.In, row.Out, row.Curve = last(in), last(out), trafficCurve(curveWidth, curveHeight, in, out)
	return out, in
}

var lifetimes = map[service.Lifetime]string{service.Transient: "until xend restarts", service.Default: "default"}

// vnetRows are all vnets, the persistent ones first, without their traffic.
func (s *Status) vnetRows(v seen) []vnetRow {
	carried := make(map[vnet.ID]*dataplane.Vnet, len(v.status.Vnets))
	for i := range v.status.Vnets {
		carried[v.status.Vnets[i].ID] = &v.status.Vnets[i]
	}
	rows := make([]vnetRow, 0, len(v.all))
	for _, c := range v.all {
		row := vnetRow{
			ID: c.IDText, FullID: c.ID.String(), Bridge: c.Bridge, Vnetif: c.Vnetif, Security: c.Security.String(),
			Lifetime: lifetimes[c.Lifetime], Here: v.macs[c.ID].Here, Elsewhere: v.macs[c.ID].Elsewhere,
		}
		if x := carried[c.ID]; x != nil {
			row.Up, row.Problem, row.MTU, row.Dropped = x.Up, x.Problem, x.MTU, reasonRows(x.Drops)
			if reason, known := v.status.FastPath.Vnets[c.ID]; known && v.status.FastPath.On {
				row.Kernel, row.User = reason == "", reason
			}
		} else {
			row.Problem = "it could not be brought up; it is tried again"
		}
		for _, p := range v.ports[c.Bridge] {
			if p.Vnif {
				continue
			}
			row.Ports++
			if p.Domain != "" && !slices.Contains(row.Domains, p.Domain) {
				row.Domains = append(row.Domains, p.Domain)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

type hostRow struct {
	Addr, Aliases string
	State         string
	Group         time.Duration // negative: never
	Unicast       time.Duration
	Speaks        string
	Named         string
	MACs          int
	Tx, Rx        uint64 // bytes
	TxPackets     uint64
	RxPackets     uint64
	Dropped       []reasonRow // of what came from it
}

func newHostRow(h dataplane.Host) hostRow {
	row := hostRow{
		Addr: h.Addr.String(), State: string(topology.StateOf(h.Heard())), Group: h.Group, Unicast: h.Unicast, MACs: h.MACs,
		Named: strings.Join(h.Sources, ", "), Speaks: "EtherIP in UDP",
		Tx: h.TxBytes, Rx: h.RxBytes, TxPackets: h.TxPackets, RxPackets: h.RxPackets, Dropped: reasonRows(h.Dropped),
	}
	if h.EtherIPOnly {
		row.Speaks = "EtherIP only"
	}
	if h.Replicates {
		row.Speaks += ", replicates"
	}
	var others []string
	for _, a := range h.Aliases {
		others = append(others, a.String())
	}
	row.Aliases = strings.Join(others, ", ")
	return row
}

type dropRow struct {
	Reason, Help string
	Count        uint64
	Curve        template.HTML
}

// dropRows are the reasons for which something was dropped, most first.
func (s *Status) dropRows(st dataplane.Status) []dropRow {
	var rows []dropRow
	for _, d := range st.Drops {
		if d.Count == 0 {
			continue
		}
		points := s.history.dropped(d.Reason)
		label := fmt.Sprintf("%.1f a second now, at most %.1f in the last ten minutes", last(points), highest(points))
		rows = append(rows, dropRow{
			d.Reason.String(), d.Reason.Help(), d.Count,
			drawCurves(curveWidth, curveHeight, label, curveLine{"bad", true, points}),
		})
	}
	slices.SortStableFunc(rows, func(a, b dropRow) int { return cmp.Compare(b.Count, a.Count) })
	return rows
}

// vnetPage is the body of the page of a vnet.
type vnetPage struct {
	vnetRow
	Tx, Rx    dataplane.Traffic
	ByKernel  uint64 // frames of both
	Large     template.HTML
	On        []service.Port
	Hosts     []macsBehind
	Search    string
	MACs      []macRow
	More      int
	Paths     []pathRow
	Key       *keyRow
	Form      string // pretty-printed
	Deletable bool   // and what can be deleted can be changed
	Change    vnetForm
}

// macsBehind is a host, and how many MACs of the vnet are behind it.
type macsBehind struct {
	Addr string
	MACs int
}

type macRow struct {
	MAC, Where, Host string
	Age              time.Duration
	Source           string
	Held             bool // it moved to and fro
}

type pathRow struct {
	dataplane.Path
	Frame int // MTU of the vnif
	Outer int // bytes of a packet with a full frame
	Fits  bool
	Inner int // MTU with which it would fit
}

type keyRow struct {
	Keys    []string
	Epoch   uint32
	Age     time.Duration
	Packets uint64
	Senders []senderRow
	Refused []reasonRow
}

type senderRow struct {
	Addr, KID string
	Epoch     uint32
	Age, Echo time.Duration
	Packets   uint64
}

// reasonRow is how many packets were not passed on or not taken for a reason.
type reasonRow struct {
	Reason, Help string
	Count        uint64
}

// reasonRows are drops, most first.
func reasonRows(drops []dataplane.Drop) []reasonRow {
	var rows []reasonRow
	for _, d := range drops {
		rows = append(rows, reasonRow{d.Reason.String(), d.Reason.Help(), d.Count})
	}
	slices.SortStableFunc(rows, func(a, b reasonRow) int { return cmp.Compare(b.Count, a.Count) })
	return rows
}

// DroppedInAll is the sum of what was dropped.
func (r *vnetRow) DroppedInAll() (sum uint64) {
	for _, d := range r.Dropped {
		sum += d.Count
	}
	return sum
}

// find returns a vnet by its id as a person wrote it.
func find(all []service.Vnet, text string) (service.Vnet, bool) {
	id, err := vnet.ParseID(text)
	if err != nil {
		return service.Vnet{}, false
	}
	i := slices.IndexFunc(all, func(v service.Vnet) bool { return v.ID == id })
	if i < 0 {
		return service.Vnet{}, false
	}
	return all[i], true
}

// vnetPageWith answers for /xend/vnet/ID; form is what somebody is changing, and problem why something was not done.
func (h *handler) vnetPageWith(ctx context.Context, r *httpx.Request, who, id string, status int, form *vnetForm, problem string) *httpx.Reply {
	seen := h.look(ctx)
	c, ok := find(seen.all, id)
	if !ok {
		return failure(http.StatusNotFound, "No such vnet", service.NoSuchVnet(id).Error()+": it may have been deleted. All vnets are on the page of this host.")
	}
	seen.all = []service.Vnet{c}
	p := vnetPage{
		vnetRow: h.vnetRows(seen)[0], Search: strings.TrimSpace(parseForm(r).Get("mac")), On: seen.ports[c.Bridge],
		Form: string(sxp.AppendPretty(nil, c.Form, 80)), Deletable: c.Lifetime == service.Persistent,
	}
	if len(c.Form.Children()) == 0 {
		p.Form = ""
	}
	for _, v := range seen.status.Vnets {
		if v.ID == c.ID {
			p.Tx, p.Rx = v.Tx, v.Rx
			p.ByKernel = v.KernelTx.Frames + v.KernelRx.Frames
		}
	}
	out, in := h.move(&p.vnetRow)
	p.Large = trafficCurve(640, 120, in, out)
	h.fillMACs(&p, c.ID)
	p.Paths = pathRows(seen.status.Paths, p.MTU, c.Security != vnet.None)
	for _, k := range seen.status.Keys {
		if k.ID == c.ID {
			p.Key = newKeyRow(k)
		}
	}
	if p.Change = changeForm(c.Config); form != nil {
		p.Change = *form
	}
	f := h.frame(ctx, who, "vnet "+c.IDText, p)
	f.Problem, f.Live = problem, "/xend/vnet/"+url.PathEscape(c.IDText)+"?mac="+url.QueryEscape(p.Search)
	return reply(status, draw("vnet", f))
}

// fillMACs fills in the MACs of a vnet, and the hosts behind which they are.
func (h *handler) fillMACs(p *vnetPage, id vnet.ID) {
	d, filter := h.ops.Dataplane(), dataplane.Filter{Vnet: id}
	add := func(row macRow) {
		if p.Search != "" && !strings.Contains(row.MAC, strings.ToLower(p.Search)) && row.Host != p.Search {
			return
		}
		if len(p.MACs) == maxMACs {
			p.More++
			return
		}
		p.MACs = append(p.MACs, row)
	}
	for _, v := range d.Vifs(filter) {
		row := macRow{MAC: v.MAC.String(), Where: "here", Age: v.Age, Source: "heard"}
		if v.ByHand {
			row.Source = "by a script, or by hand"
		}
		add(row)
	}
	behind := map[netip.Addr]int{}
	for _, e := range d.Entries(filter) {
		row := macRow{MAC: e.MAC.String(), Where: "elsewhere", Age: e.Age, Source: e.Source, Held: e.Damped > 0}
		if e.Addr.IsValid() {
			behind[e.Addr]++
			row.Host = e.Addr.String()
		} else {
			row.Where = string(e.State)
		}
		add(row)
	}
	for addr, n := range behind {
		p.Hosts = append(p.Hosts, macsBehind{addr.String(), n})
	}
	slices.SortFunc(p.Hosts, func(a, b macsBehind) int { return cmp.Or(cmp.Compare(b.MACs, a.MACs), cmp.Compare(a.Addr, b.Addr)) })
}

// pathRows are the ways that frames take, of vnets with security or of those without, with what a full frame of that MTU
// becomes there.
func pathRows(paths []dataplane.Path, mtu int, secured bool) []pathRow {
	const ethernet = 14
	var rows []pathRow
	for _, p := range paths {
		if p.Secured != secured {
			continue
		}
		if len(rows) == maxRows {
			break
		}
		over := p.IP + p.UDP + p.Header + p.ESP + ethernet
		rows = append(rows, pathRow{p, mtu, mtu + over, mtu+over <= p.MTU, p.MTU - over})
	}
	return rows
}

// addressOf is where another host is, with the port where that is one of its own.
func addressOf(a esp.Addresses) string {
	at := a.Of(true)
	if at.Port() == 0 {
		return at.Addr().String()
	}
	return at.String()
}

func newKeyRow(k esp.Status) *keyRow {
	row := keyRow{Epoch: k.Epoch, Age: k.Age, Packets: k.Packets}
	for _, x := range k.Keys {
		name := fmt.Sprintf("%x", x.KID[:])
		if x.Sends {
			name += " (seals)"
		}
		row.Keys = append(row.Keys, name)
	}
	for _, s := range k.Senders {
		row.Senders = append(row.Senders, senderRow{
			addressOf(s.Addresses), fmt.Sprintf("%x", s.KID[:]), s.Epoch, s.Age, s.Echo, s.Packets,
		})
	}
	for r, n := range k.Refused {
		if n > 0 && esp.Refusal(r) != esp.Taken {
			row.Refused = append(row.Refused, reasonRow{Reason: esp.Refusal(r).String(), Count: n})
		}
	}
	return &row
}

// hostPage is the body of the page of another host.
type hostPage struct {
	hostRow
	Paths  []pathRow
	Vnets  []macsBehind // Addr is a vnet's id here
	MACs   []hostMAC
	More   int
	Search string
}

type hostMAC struct {
	Vnet string
	macRow
}

// hostPage answers for /xend/host/ADDRESS.
func (h *handler) hostPage(ctx context.Context, r *httpx.Request, who, address string) *httpx.Reply {
	addr, err := netip.ParseAddr(address)
	seen := h.look(ctx)
	i := slices.IndexFunc(seen.status.Hosts, func(x dataplane.Host) bool {
		return x.Addr == addr || slices.Contains(x.Aliases, addr)
	})
	if err != nil || i < 0 {
		return failure(http.StatusNotFound, "No such host", "No host "+address+" is known here. A host is forgotten ten minutes after it was last heard, unless the configuration names it.")
	}
	x := seen.status.Hosts[i]
	p := hostPage{hostRow: newHostRow(x), Search: strings.TrimSpace(parseForm(r).Get("mac"))}
	for _, path := range seen.status.Paths {
		if path.Addr == x.Addr && !path.Secured {
			p.Paths = pathRows([]dataplane.Path{path}, smallest(seen.status.Vnets), false)
		}
	}
	ids, count := map[vnet.ID]string{}, map[vnet.ID]int{}
	for _, v := range seen.all {
		ids[v.ID] = v.IDText
	}
	for _, e := range h.ops.Dataplane().Entries(dataplane.Filter{Addr: x.Addr}) {
		count[e.Vnet]++
		row := hostMAC{cmp.Or(ids[e.Vnet], e.Vnet.String()), macRow{MAC: e.MAC.String(), Age: e.Age, Source: e.Source, Held: e.Damped > 0}}
		switch {
		case p.Search != "" && !strings.Contains(row.MAC, strings.ToLower(p.Search)):
		case len(p.MACs) == maxMACs:
			p.More++
		default:
			p.MACs = append(p.MACs, row)
		}
	}
	for id, n := range count {
		p.Vnets = append(p.Vnets, macsBehind{cmp.Or(ids[id], id.String()), n})
	}
	slices.SortFunc(p.Vnets, func(a, b macsBehind) int { return cmp.Or(cmp.Compare(b.MACs, a.MACs), cmp.Compare(a.Addr, b.Addr)) })
	f := h.frame(ctx, who, "host "+p.Addr, p)
	f.Live = "/xend/host/" + url.PathEscape(p.Addr) + "?mac=" + url.QueryEscape(p.Search)
	return reply(http.StatusOK, draw("host", f))
}

// smallest is the smallest MTU of vnifs.
func smallest(vnets []dataplane.Vnet) int {
	mtu := 0
	for _, v := range vnets {
		if v.MTU > 0 && (mtu == 0 || v.MTU < mtu) {
			mtu = v.MTU
		}
	}
	return cmp.Or(mtu, 1500)
}
