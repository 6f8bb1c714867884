package check

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/firewall"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
	"github.com/xenvnet/xend/xendcompat/service"
)

var (
	addr      = netip.MustParseAddr
	id97      = vnet.ID{15: 0x97}
	id98      = vnet.ID{15: 0x98}
	mac       = wire.MAC{0, 0x16, 0x3e, 0, 0, 1}
	now       = time.Unix(1e9, 0)
	host2     = addr("192.0.2.2")
	elsewhere = addr("192.0.2.3")
)

// inquired is a host that answers and where all is well.
func inquired(change func(*dataplane.Inquired)) *dataplane.Inquired {
	h := &dataplane.Inquired{
		Info: hosts.Info{Addr: host2, Answered: 0, Probed: -1}, Device: "eth0", DeviceMTU: 1500, ByGroup: true, ByUnicast: true, RTT: time.Millisecond, Tries: 1,
		HeardByGroup: true, MTUTo: 1500, MTUFrom: 1500, Fragments: true, FragmentsAsked: true, ClockKnown: true,
		Answer: wire.Probe{Version: "xend 1", Vnets: []vnet.ID{id97}, VnetCount: 1},
	}
	change(h)
	return h
}

// silent is one that sends and answers no probe.
func silent(change func(*dataplane.Inquired)) *dataplane.Inquired {
	h := &dataplane.Inquired{Info: hosts.Info{Addr: elsewhere, Group: time.Second, Unicast: time.Second, Answered: -1, Probed: -1}, Device: "eth0", DeviceMTU: 1500, Tries: 3}
	change(h)
	return h
}

// well is a host where nothing is wrong.
func well(hosts ...*dataplane.Inquired) *input {
	in := &input{
		o: Options{Engine: (*dataplane.Engine)(nil)}, name: "host1", now: now, querySince: now.Add(-time.Hour),
		status: dataplane.Status{
			Underlays: []dataplane.Underlay{{Family: "ipv4", Up: true, Device: "eth0", Address: addr("192.0.2.1"), Group: addr("224.10.0.1"), Port: 1798, MTU: 1500}},
			Vnets:     []dataplane.Vnet{{ID: id97, Up: true, Bridge: "vnet97"}, {ID: vnet.ID{15: 2}, Up: true}},
			MTUMode:   dataplane.MTUFragment,
		},
		inquiry: &dataplane.Inquiry{}, members: map[vnet.ID][]dataplane.Member{}, notAsked: map[vnet.ID]string{},
		facts: facts{
			joined: map[string]bool{"eth0 224.10.0.1": true}, strict: map[string]bool{}, routed: map[netip.Addr][]string{host2: {"eth0"}},
			coalesces: map[string]bool{"eth0": true}, files: 10, fileLimit: 1000, freeBytes: 50, freeInodes: 50, clockKept: true, pings: map[netip.Addr]bool{},
		},
	}
	for _, h := range hosts {
		in.inquiry.Hosts = append(in.inquiry.Hosts, *h)
	}
	return in
}

// Each fact that is wrong is told by its name, with words that say what is so, and nothing else is.
func TestJudge(t *testing.T) {
	same := func(*dataplane.Inquired) {}
	for _, tt := range []struct {
		name string // of the finding; "": all is well
		text string
		in   func() *input
	}{
		{"", "", func() *input { return well(inquired(same)) }},
		{"", "", func() *input { return well() }},
		{"blocked-unicast", "3 tries); ping is answered", func() *input {
			in := well(inquired(func(h *dataplane.Inquired) {
				h.ByUnicast, h.Tries, h.MTUTo, h.MTUFrom, h.Fragments = false, 3, 0, 0, false
			}))
			in.facts.pings[host2] = true
			return in
		}},
		{"dead-group", "does not hear this host by the group", func() *input { return well(inquired(func(h *dataplane.Inquired) { h.ByGroup = false })) }},
		{"dead-group", "IGMP querier 192.0.2.254, 5s ago", func() *input {
			in := well(inquired(func(h *dataplane.Inquired) { h.HeardByGroup = false }))
			in.query = query{addr("192.0.2.254"), now.Add(-5 * time.Second)}
			return in
		}},
		{"dead-group", "as no host does", func() *input {
			return well(inquired(func(h *dataplane.Inquired) { h.ByGroup, h.HeardByGroup = false, false }))
		}},
		{"", "", func() *input { // replication needs no group
			in := well(inquired(func(h *dataplane.Inquired) { h.ByGroup, h.HeardByGroup = false, false }))
			in.status.Replicate = []dataplane.ReplicaState{{Name: "x", Addr: host2}}
			return in
		}},
		{"path-mtu", "path MTU 1400 there (this device: 1500)", func() *input { return well(inquired(func(h *dataplane.Inquired) { h.MTUTo = 1400 })) }},
		{"path-mtu", "path MTU at least 1300 there (this device: 1500)", func() *input {
			return well(inquired(func(h *dataplane.Inquired) { h.MTUTo, h.MTUUnsure = 1300, true }))
		}},
		{"path-mtu", "path MTU 1400 there and back (this device: 1500): longer ones are lost", func() *input {
			return well(inquired(func(h *dataplane.Inquired) { h.MTUTo, h.MTUFrom, h.Fragments = 1400, 1400, false }))
		}},
		{"no-fragments", "none that comes in fragments", func() *input { return well(inquired(func(h *dataplane.Inquired) { h.Fragments = false })) }},
		{"", "", func() *input { // nothing is fragmented
			in := well(inquired(func(h *dataplane.Inquired) { h.Fragments = false }))
			in.status.MTUMode = dataplane.MTUPath
			return in
		}},
		{"host-gone", "was never heard; it does not answer ping", func() *input {
			return well(inquired(same), &dataplane.Inquired{Info: hosts.Info{Addr: elsewhere, Group: -1, Unicast: -1, Answered: -1, Probed: -1, Sources: []string{"replicate"}}, Tries: 3})
		}},
		{"host-silent", "was last heard 5m0s ago", func() *input {
			return well(inquired(same), &dataplane.Inquired{Info: hosts.Info{Addr: elsewhere, Group: 5 * time.Minute, Unicast: -1, Answered: -1, Probed: -1}, Tries: 3})
		}},
		{"", "", func() *input { // an original host answers no probe
			return well(inquired(same), silent(func(h *dataplane.Inquired) { h.VARP = dataplane.AskedByVARP{MACs: 1, Sure: 1, Answered: true} }),
				&dataplane.Inquired{Info: hosts.Info{Addr: addr("192.0.2.4")}, NotAsked: "it speaks only EtherIP"})
		}},
		{"", "", func() *input { // of a host that may be an original one nothing is known
			return well(inquired(same), silent(func(h *dataplane.Inquired) { h.VARP.MACs = 1 }))
		}},
		{"", "", func() *input { // only UDP 4500 is open there
			in := well(inquired(same), silent(func(*dataplane.Inquired) {}))
			in.status.Keys, in.members[id98] = []esp.Status{{ID: id98, Level: vnet.Conf}}, []dataplane.Member{{Addr: elsewhere}}
			return in
		}},
		{"blocked-unicast", "does not answer probes (3 tries; it did until 3m0s ago); it does not answer ping", func() *input {
			in := well(inquired(same), silent(func(h *dataplane.Inquired) { h.Answered = 3 * time.Minute }))
			in.inquiry.Took = 2 * time.Second
			return in
		}},
		{"blocked-unicast", "it sent some itself, 9s ago); it answers ping", func() *input {
			in := well(inquired(same), silent(func(h *dataplane.Inquired) { h.Probed = 9 * time.Second }))
			in.facts.pings[elsewhere] = true
			return in
		}},
		{"blocked-unicast", "nor VARP requests for 3 MACs that are behind it; it answers ping", func() *input {
			in := well(inquired(same), silent(func(h *dataplane.Inquired) { h.VARP = dataplane.AskedByVARP{MACs: 3, Sure: 1} }))
			in.facts.pings[elsewhere] = true
			return in
		}},
		{"host-silent", "does not answer probes (3 tries; it did until 3m0s ago), and was last heard 1s ago", func() *input { // down, perhaps
			return well(inquired(same), silent(func(h *dataplane.Inquired) { h.Answered = 3 * time.Minute }))
		}},
		{"clock", "its clock is 1m0s behind", func() *input { return well(inquired(func(h *dataplane.Inquired) { h.Clock = -time.Minute })) }},
		{"one-sided", "is on none of the hosts that answered (1)", func() *input {
			return well(inquired(func(h *dataplane.Inquired) { h.Answer.Vnets, h.Answer.VnetCount = nil, 0 }))
		}},
		{"wrong-id", "alone has vnet 79: one vnet under two ids?", func() *input {
			return well(inquired(func(h *dataplane.Inquired) { h.Answer.Vnets = []vnet.ID{{15: 0x79}} }))
		}},
		{"wrong-id", "61 is 97 in decimal", func() *input {
			return well(inquired(func(h *dataplane.Inquired) { h.Answer.Vnets = []vnet.ID{{15: 0x61}} }))
		}},
		{"", "", func() *input { // it has more than it could say
			return well(inquired(func(h *dataplane.Inquired) { h.Answer.Vnets, h.Answer.VnetCount = []vnet.ID{{15: 9}}, 100 }))
		}},
		{"level-mismatch", "without security, and this host has it with conf", func() *input {
			in := well(inquired(func(h *dataplane.Inquired) { h.Answer.Vnets, h.Answer.VnetCount = []vnet.ID{id97, id98}, 2 }))
			in.status.Vnets = append(in.status.Vnets, dataplane.Vnet{ID: id98, Security: vnet.Conf})
			in.status.Keys = []esp.Status{{ID: id98, Level: vnet.Conf}}
			in.members[id98] = []dataplane.Member{{Addr: elsewhere}}
			return in
		}},
		{"level-mismatch", "has vnet 98 at another security level", func() *input {
			in := well(inquired(same))
			e := events.Event{Time: now.Add(-time.Minute), Text: levelText, Attrs: []events.Attr{{Key: "vnet", Value: id98.String()}, {Key: "host", Value: "192.0.2.2"}}}
			old := e
			old.Time, old.Attrs = now.Add(-time.Hour), nil
			in.events = []events.Event{old, e, e}
			return in
		}},
		{"doubled-mac", "192.0.2.2 has it in vnet 97, too", func() *input {
			in := well(inquired(same))
			in.doubled = []dataplane.Entry{{Vnet: id97, MAC: mac, Addr: host2, Source: "frame"}}
			return in
		}},
		{"doubled-mac", "moved 3 times within 10m0s", func() *input {
			in := well(inquired(same))
			for range 3 {
				in.events = append(in.events, events.Event{Time: now, Text: "MAC moved", Attrs: []events.Attr{{Key: "mac", Value: mac.String()}, {Key: "vnet", Value: "97"}}})
			}
			return in
		}},
		{"doubled-mac", "lives here and, as it says, on 192.0.2.3", func() *input {
			in := well(inquired(same))
			in.vifs = []dataplane.Vif{{Vnet: id98, MAC: mac}}
			in.members[id98] = []dataplane.Member{{Addr: elsewhere, MACs: []wire.MAC{mac}}}
			return in
		}},
		{"key-missing", "has security auth and no key", func() *input {
			in := well(inquired(same))
			in.status.Vnets = append(in.status.Vnets, dataplane.Vnet{ID: id98, Security: vnet.Auth})
			return in
		}},
		{"key-mismatch", "key messages come under keys that this host does not have (7 so far, from 192.0.2.3 and 192.0.2.4)", func() *input {
			in := well(inquired(same))
			in.status.Keys = []esp.Status{{ID: id98, Level: vnet.Auth}}
			in.status.Drops = []dataplane.Drop{{Reason: dataplane.DropKeyUnknown, Count: 7}}
			in.status.Sources = []dataplane.Sender{
				{Reason: dataplane.DropESPReplay, From: addr("192.0.2.9"), Packets: 9},
				{Reason: dataplane.DropKeyUnknown, From: elsewhere, Packets: 4}, {Reason: dataplane.DropKeyUnknown, From: addr("192.0.2.4"), Packets: 3},
			}
			return in
		}},
		{"one-sided", "no host answers inside of its ESP", func() *input { // the keys are the same by now
			in := well(inquired(same))
			in.status.Keys = []esp.Status{{ID: id98, Level: vnet.Auth}}
			in.status.Drops = []dataplane.Drop{{Reason: dataplane.DropKeyUnknown, Count: 7}}
			in.o.Lately = func(r dataplane.Reason, count uint64) bool { return r != dataplane.DropKeyUnknown || count != 7 }
			return in
		}},
		{"one-sided", "no host answers inside of its ESP", func() *input {
			in := well(inquired(same))
			in.status.Keys = []esp.Status{{ID: id98, Level: vnet.Auth}}
			return in
		}},
		{"stranger", "3 packets for vnets came by it from 192.0.2.9", func() *input {
			in := well(inquired(same))
			in.status.Strangers = []dataplane.Stranger{{Device: "eth1", From: addr("192.0.2.9"), Packets: 3}, {Device: "eth2", From: addr("192.0.2.9"), Packets: 2}}
			return in
		}},
		{"port-filtered", "UDP port 1798 that comes in is dropped by x", func() *input { // which is not the others' fault
			in := well(inquired(same), silent(func(h *dataplane.Inquired) { h.Answered = time.Minute }))
			in.facts.pings[elsewhere] = true
			in.health.Dropped = []firewall.Dropped{{Packet: firewall.Packet{Protocol: 17, Port: 1798, To: addr("192.0.2.1")}, Chain: "x", Cure: "y"}}
			in.health.Troubles = []service.Trouble{{Name: "port-filtered", Severity: service.Broken, Of: "firewall", Text: "UDP port 1798 that comes in is dropped by x", Cure: "y"}}
			return in
		}},
		{"group-not-joined", "no member of group 224.10.0.1", func() *input {
			in := well(inquired(same))
			in.facts.joined = map[string]bool{"eth1 224.10.0.1": true}
			return in
		}},
		{"rp-filter", "routes 192.0.2.2 by eth1", func() *input {
			in := well(inquired(same))
			in.facts.strict["eth0"], in.facts.routed[host2] = true, []string{"eth1"}
			return in
		}},
		{"gro-off", "offload is off", func() *input {
			in := well(inquired(same))
			in.facts.coalesces["eth0"] = false
			return in
		}},
		{"file-limit", "has 950 files open, and may have 1000", func() *input {
			in := well(inquired(same))
			in.facts.files = 950
			return in
		}},
		{"state-full", "1% of its files free", func() *input {
			in := well(inquired(same))
			in.facts.freeInodes = 1
			return in
		}},
		{"state-full", "the state directory", func() *input {
			in := well(inquired(same))
			in.facts.stateErr = fs.ErrNotExist
			return in
		}},
		{"vnet-down", "why", func() *input {
			in := well(inquired(same))
			in.health.Troubles = []service.Trouble{{Name: "vnet-down", Severity: service.Broken, Of: "vnet 97", Text: "why"}}
			return in
		}},
		{"", "", func() *input { // what can't be known is said, and not called ill
			in := well()
			in.inquiry, in.inquiryErr = nil, errors.New("no")
			in.facts = facts{joinedErr: errors.New("no"), coalescesErr: errors.New("no"), filesErr: errors.New("no"), clockErr: errors.New("no"), freeBytes: 9, freeInodes: 9}
			return in
		}},
	} {
		r := tt.in().judge()
		var ill []finding.Finding
		for _, f := range r.Findings {
			_, known := finding.Of(f.Name)
			require.True(t, known, f.Name)
			if f.Level == finding.Fail || f.Level == finding.Warn {
				ill = append(ill, f)
			}
		}
		if tt.name == "" {
			require.Empty(t, ill)
			continue
		}
		require.Len(t, ill, 1, "%+v", ill)
		require.Equal(t, tt.name, ill[0].Name)
		require.Contains(t, ill[0].Text, tt.text)
	}
}

// Names of findings are in the catalogue, and the catalogue has none that nobody finds.
func TestNames(t *testing.T) {
	used := map[string]bool{}
	for _, dir := range []string{".", "../service", "../daemon", "../../cmd/vn"} {
		files, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			require.NoError(t, err)
			ast.Inspect(tree, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					if s, err := strconv.Unquote(l.Value); err == nil {
						used[s] = true
					}
				}
				return true
			})
		}
	}
	for _, k := range finding.Catalogue {
		require.True(t, used[k.Name], "nobody finds %s", k.Name)
	}
}

func TestMemberships(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "igmp"), []byte("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"+
		"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"+
		"2\teth0      :     2      V3\n\t\t\t\t01000AE0     2 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "igmp6"), []byte("2    eth0            ff050000000000000000000000000706     1 00000004 0\n"), 0o600))
	m, err := memberships(dir)
	require.NoError(t, err)
	require.True(t, m["eth0 224.10.0.1"])
	require.True(t, m["lo 224.0.0.1"])
	require.False(t, m["lo 224.10.0.1"])
	require.True(t, m["eth0 ff05::706"])
	_, err = memberships(t.TempDir())
	require.Error(t, err)
}

// A querier is heard, by whatever device its question comes.
func TestQuerier(t *testing.T) {
	q := NewQuerier(nil, nettest.Logger(t, ""))
	_, _, err := (*Querier)(nil).last(1)
	require.ErrorIs(t, err, errNotWatched)
	for i := range 2 * maxQueried {
		q.note(i, host2, now)
	}
	require.Len(t, q.heard, maxQueried)
	q.note(7, elsewhere, now)
	last, _, err := q.last(7)
	require.NoError(t, err)
	require.Equal(t, elsewhere, last.from)
}

// vn check counts vnets as xend status does, and in the same words.
func TestSummaryCountsVnets(t *testing.T) {
	in := well()
	in.health = service.Health{Vnets: 1, Up: 1, Transient: 1, Default: 3}
	require.Contains(t, in.summary(), "1 vnet, 1 transient vnet and 3 default vnets")
	in.health = service.Health{Default: 3}
	require.Contains(t, in.summary(), "0 vnets and 3 default vnets")
}

// What waits for other hosts ends within ten seconds, with some left for looking at this one; dataplane's TestInquiryIsBounded holds it
// to its part.
func TestBounded(t *testing.T) {
	require.Less(t, dataplane.MaxInquiry+membersWait+max(pingWait, namesWait), 9*time.Second)
}

// Whether a host that answers nothing is an original one or cut off is said for all to see, with where to look, where it is not known.
func TestNotKnownIsShown(t *testing.T) {
	r := well(silent(func(*dataplane.Inquired) {})).judge()
	var text strings.Builder
	r.WriteText(&text, false)
	require.Contains(t, text.String(), "skip  192.0.2.3          not known: it sends (heard 1s ago) and does not answer probes (3 tries), be it an original host or cut off from UDP 1798")
	require.Contains(t, text.String(), "      → tcpdump -ni eth0 host 192.0.2.3 and udp port 1798\n")
	require.Contains(t, text.String(), "Nothing was found to be wrong, but not all could be looked at.")
	require.Zero(t, r.ExitStatus())
}

// Hosts are called what vnet.toml calls them, else what the resolver says; one that does not answer delays nothing for long.
func TestHostNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Names: func(ctx context.Context, addr string) ([]string, error) {
			switch addr {
			case "192.0.2.2":
				return []string{"host2.example.", "other.example."}, nil
			case "192.0.2.3":
				return nil, errors.New("NXDOMAIN")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		in := well(inquired(func(h *dataplane.Inquired) { h.MTUTo = 1400 }), silent(func(h *dataplane.Inquired) { h.Addr = addr("192.0.2.5") }))
		in.status.Peers = []dataplane.PeerState{{Name: "five", Addr: addr("192.0.2.5")}, {Name: "192.0.2.4", Addr: addr("192.0.2.4")}}
		start := time.Now()
		in.names = c.names(t.Context(), in.status, []netip.Addr{host2, elsewhere, addr("192.0.2.4"), addr("192.0.2.5")})
		require.Equal(t, namesWait, time.Since(start))
		require.Equal(t, map[netip.Addr]string{host2: "host2.example", addr("192.0.2.5"): "five"}, in.names)
		r := in.judge()
		require.Equal(t, "host2.example", r.Hosts[0].Name)
		var text strings.Builder
		r.WriteText(&text, true)
		require.Contains(t, text.String(), "WARN  192.0.2.2 (host2.example) path MTU 1400 there")
		require.Contains(t, text.String(), "skip  192.0.2.5 (five)   not known: it sends")
		require.Contains(t, text.String(), "192.0.2.2 host2.example  xend 1 ")
	})
}

// The querier's socket hears a real question, by the device that it comes by, and nothing else of IGMP.
func TestQuerierHears(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	s, err := lab.New(t).Switch("lan", 1500)
	require.NoError(t, err)
	a, err := s.Host("A")
	require.NoError(t, err)
	b, err := s.Host("B")
	require.NoError(t, err)
	q := NewQuerier(a.Net, nettest.Logger(t, ""))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	defer func() {
		stop()
		require.NoError(t, <-ended)
	}()
	<-q.Ready()
	dev, err := a.Uplink().Link()
	require.NoError(t, err)
	from, err := b.Uplink().Link()
	require.NoError(t, err)
	var raw net.PacketConn
	require.NoError(t, b.Do(func() (err error) {
		raw, err = net.ListenPacket("ip4:igmp", "0.0.0.0")
		return err
	}))
	defer raw.Close()
	p := ipv4.NewPacketConn(raw)
	require.NoError(t, p.SetMulticastInterface(&net.Interface{Index: from.Index}))
	send := func(message ...byte) {
		_, err := raw.WriteTo(message, &net.IPAddr{IP: net.IPv4(224, 0, 0, 1)})
		require.NoError(t, err)
	}
	nettest.Eventually(t, "the question is heard", func() bool {
		send(0x16, 0, 0, 0, 224, 10, 0, 1)      // a report, RFC 2236, section 2.1
		send(0x11, 0)                           // too short
		send(0x11, 100, 0xee, 0x9b, 0, 0, 0, 0) // a general query
		last, since, err := q.last(dev.Index)
		require.NoError(t, err)
		if !last.from.IsValid() {
			return false
		}
		require.Equal(t, b.Addr(), last.from)
		require.False(t, last.at.Before(since))
		return true
	})
	last, _, _ := q.last(dev.Index + 1000)
	require.False(t, last.from.IsValid())
}
