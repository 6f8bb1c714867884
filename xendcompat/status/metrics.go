package status

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/topology"
)

// maxHosts bounds the hosts that have metrics of their own. Anybody on the segment can invent hosts; those count
// most that the configuration names, then those behind which most MACs are.
const maxHosts = 256

// A metric is a name, what it means, and its labels.
type metric struct {
	*prometheus.Desc
	// Name, Type, Labels and Help are for the manual.
	Name, Type, Labels, Help string
}

var metrics []metric

// describe makes a metric. Names follow https://prometheus.io/docs/practices/naming/.
func describe(kind, name, help string, labels ...string) *metric {
	name = "xend_" + name
	metrics = append(metrics, metric{prometheus.NewDesc(name, help, labels, nil), name, kind, strings.Join(labels, ", "), help})
	return &metrics[len(metrics)-1]
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return describe("gauge", name, help, labels...).Desc
}

func counter(name, help string, labels ...string) *prometheus.Desc {
	return describe("counter", name, help, labels...).Desc
}

var (
	buildInfo = gauge("build_info", "Always 1; the version of the daemon.", "version")

	vnetUp      = gauge("vnet_up", "1 if the frames of the vnet are carried.", "vnet")
	vnetInfo    = gauge("vnet_info", "Always 1; how the vnet is configured.", "vnet", "bridge", "vnetif", "security")
	vnetMTU     = gauge("vnet_mtu_bytes", "MTU of the vnif.", "vnet")
	vnetPackets = counter("vnet_packets_total", "Packets between hosts: out is from this host to others.", "vnet", "direction", "path")
	vnetFrames  = counter("vnet_frames_total", "Frames at the vnif, a super-frame as one: out is from this host to others.", "vnet", "direction", "path")
	vnetBytes   = counter("vnet_bytes_total", "Bytes of these frames, without the headers between hosts.", "vnet", "direction", "path")
	vnetFlooded = counter("vnet_flooded_packets_total", "Packets out to the groups, the replicas and hosts that speak only EtherIP, which all hosts get.", "vnet")
	vnetFast    = gauge("vnet_fast_path", "1 if the kernel carries known unicast of the vnet; reason says why it does not.", "vnet", "reason")
	vnetMACs    = gauge("macs", "MACs of the vnet on this host (here) and behind others (elsewhere).", "vnet", "where")

	fastPath = gauge("fast_path", "1 if the kernel carries known unicast of open vnets past user space; problem says why it does not.", "mode", "problem")
	fastLeft = counter("fast_path_left_total", "Packets that the kernel left to user space, by reason; vn stats says what the reasons mean.", "direction", "reason")

	macsLimit  = gauge("macs_limit", "How many MACs of either kind are remembered ([dataplane] max_macs).")
	macMoves   = counter("mac_moves_total", "MACs that changed their place.")
	macDamped  = counter("mac_damped_total", "How often a MAC that moved to and fro was held where it was.")
	macEvicted = counter("mac_evicted_total", "MACs that were forgotten because a table was full.")
	macHeld    = counter("mac_claims_held_total", "Claims of MACs that were refused because another host had taken them a moment ago.")

	drops     = counter("drops_total", "What was not passed on, by reason; vn stats says what the reasons mean.", "reason")
	vnetDrops = counter("vnet_drops_total", "What of it was known to be of the vnet; reasons for which nothing was dropped are left out.", "vnet", "reason")
	hostDrops = counter("host_drops_total", "What of it came from the host; reasons for which nothing was dropped are left out.", "host", "reason")

	underlayUp     = gauge("underlay_up", "1 if there is a way to other hosts over the address family.", "family", "device", "reason")
	underlayMTU    = gauge("underlay_mtu_bytes", "MTU of the underlay device.", "family", "device")
	groupHeard     = gauge("group_silent_seconds", "Time since a packet last came from the group; none if none ever did.", "family", "group")
	groupSilent    = gauge("group_silent", "1 if nothing comes from the group although other hosts are there.", "family", "group")
	hostsKnown     = gauge("hosts", "Other hosts that are known.")
	hostsHeard     = gauge("hosts_heard", "Other hosts that were heard in the last minute.")
	peersKnown     = gauge("peers", "Hosts to which group packets are forwarded.")
	replicasBroken = gauge("replicas_unresolved", "Hosts of replicate whose names can't be resolved.")
	hostHeard      = gauge("host_last_heard_seconds", "Time since the host was last heard by the group or by unicast.", "host", "way")
	hostPackets    = counter("host_packets_total", "Packets to (out) and from (in) the host by unicast.", "host", "direction")
	hostBytes      = counter("host_bytes_total", "Bytes of these packets, without IP and UDP headers.", "host", "direction")
	hostMACs       = gauge("host_macs", "MACs behind the host.", "host")

	senderEpoch = gauge("sender_epoch", "How many keys this host has sealed the vnet's frames with since it started.", "vnet")
	espKeyAge   = gauge("esp_key_age_seconds", "For how long the key has been in use that seals the vnet's frames.", "vnet")
	espSenders  = gauge("esp_senders", "Other hosts that have proved to live in the vnet.", "vnet")
	espRefused  = counter("esp_refused_total", "What was not taken of the vnet's sealed packets and key messages.", "vnet", "reason")

	vnetsKnown = gauge("vnets", "Vnets by lifetime: persistent, transient, default.", "lifetime")
	troubles   = gauge("troubles", "What an operator should look at, as xend status lists it; at most 15 s old.", "severity")
	reconciled = counter("reconcile_total", "Vnets whose devices were missing: restored, or failed and to be tried again.", "result")
	stateFree  = gauge("state_directory_free_bytes", "Room on the file system of the state directory.")
	stateSize  = gauge("state_directory_size_bytes", "Size of that file system.")
)

// operationSeconds is not constant as the others are: it is kept here.
var operationSeconds = describe("histogram", "operations_seconds", "How long operations that change vnets took.", "front", "op", "result")

func (s *Status) newMetrics() {
	s.metrics = prometheus.NewRegistry()
	s.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: operationSeconds.Name, Help: operationSeconds.Help,
		Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30},
	}, []string{"front", "op", "result"})
	s.metrics.MustRegister(s, s.seconds, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// Describe implements [prometheus.Collector].
func (s *Status) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		if m.Type != "histogram" {
			ch <- m.Desc
		}
	}
}

// sink takes metrics.
type sink chan<- prometheus.Metric

func (ch sink) put(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels []string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "\uFFFD") // one bad name would spoil all metrics
	}
	m, err := prometheus.NewConstMetric(d, kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	ch <- m
}

func (ch sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	ch.put(d, prometheus.GaugeValue, v, labels)
}

func (ch sink) count(d *prometheus.Desc, n uint64, labels ...string) {
	ch.put(d, prometheus.CounterValue, float64(n), labels)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Collect implements [prometheus.Collector]. It reads counters, which takes no lock, and the status of the engine, for
// which no frame waits; MACs are counted and not listed.
func (s *Status) Collect(out chan<- prometheus.Metric) {
	ch := sink(out)
	d := s.ops.Dataplane()
	st, counters, macs := d.Status(), d.Counters(), d.MACs()

	ch.gauge(buildInfo, 1, version.Version)
	ids := make(map[vnet.ID]string, len(st.Vnets))
	for _, v := range st.Vnets {
		ids[v.ID] = v.IDText
		ch.gauge(vnetUp, truth(v.Up), v.IDText)
		ch.gauge(vnetInfo, 1, v.IDText, v.Bridge, v.Vnetif, v.Security.String())
		ch.gauge(vnetMTU, float64(v.MTU), v.IDText)
		if reason, known := st.FastPath.Vnets[v.ID]; known && st.FastPath.On {
			ch.gauge(vnetFast, truth(reason == ""), v.IDText, reason)
		}
		ch.gauge(vnetMACs, float64(macs[v.ID].Here), v.IDText, "here")
		ch.gauge(vnetMACs, float64(macs[v.ID].Elsewhere), v.IDText, "elsewhere")
	}
	for _, v := range counters.Vnets {
		if id, ok := ids[v.ID]; ok { // it may have come or gone between the two
			traffic(ch, id, "out", "user", less(v.Tx, v.KernelTx))
			traffic(ch, id, "in", "user", less(v.Rx, v.KernelRx))
			ch.count(vnetFlooded, v.Flooded, id)
			for _, x := range v.Drops {
				ch.count(vnetDrops, x.Count, id, x.Reason.String())
			}
			if _, may := counters.FastPath.Vnets[v.ID]; may || v.KernelTx.Frames+v.KernelRx.Frames > 0 {
				traffic(ch, id, "out", "kernel", v.KernelTx)
				traffic(ch, id, "in", "kernel", v.KernelRx)
			}
		}
	}
	if f := &st.FastPath; f.Mode != "" { // else there is no data plane
		ch.gauge(fastPath, truth(f.On), string(f.Mode), f.Problem)
		for r := range f.Left.Out {
			ch.count(fastLeft, f.Left.Out[r], "out", fastpath.Reason(r).String())
			ch.count(fastLeft, f.Left.In[r], "in", fastpath.Reason(r).String())
		}
	}
	t := &counters.Tables
	ch.gauge(macsLimit, float64(t.MaxMACs))
	ch.count(macMoves, t.Moves)
	ch.count(macDamped, t.Damped)
	ch.count(macEvicted, t.Evicted)
	ch.count(macHeld, t.Held)
	for _, x := range counters.Drops {
		ch.count(drops, x.Count, x.Reason.String())
	}
	collectUnderlays(ch, &st)
	collectHosts(ch, &st)
	collectKeys(ch, &st, ids)
	s.collectHost(ch)
}

// less is what of t is not part. The two are not read at one moment.
func less(t, part dataplane.Traffic) dataplane.Traffic {
	minus := func(a, b uint64) uint64 { return a - min(a, b) }
	return dataplane.Traffic{Packets: minus(t.Packets, part.Packets), Frames: minus(t.Frames, part.Frames), Bytes: minus(t.Bytes, part.Bytes)}
}

func traffic(ch sink, id, direction, path string, t dataplane.Traffic) {
	ch.count(vnetPackets, t.Packets, id, direction, path)
	ch.count(vnetFrames, t.Frames, id, direction, path)
	ch.count(vnetBytes, t.Bytes, id, direction, path)
}

func collectUnderlays(ch sink, st *dataplane.Status) {
	for _, u := range st.Underlays {
		reason := u.Reason
		if !u.Up {
			reason = u.Problem
		}
		ch.gauge(underlayUp, truth(u.Up), u.Family, u.Device, reason)
		if u.Up {
			ch.gauge(underlayMTU, float64(u.MTU), u.Family, u.Device)
		}
		if u.Heard >= 0 {
			ch.gauge(groupHeard, u.Heard.Seconds(), u.Family, u.Group.String())
		}
		ch.gauge(groupSilent, truth(u.Silent), u.Family, u.Group.String())
	}
	ch.gauge(peersKnown, float64(len(st.Peers)))
	broken := 0
	for _, r := range st.Replicate {
		if r.Problem != "" {
			broken++
		}
	}
	ch.gauge(replicasBroken, float64(broken))
}

func collectHosts(ch sink, st *dataplane.Status) {
	heard := 0
	for _, h := range st.Hosts {
		if topology.StateOf(h.Heard()) == topology.Live {
			heard++
		}
	}
	ch.gauge(hostsKnown, float64(len(st.Hosts)))
	ch.gauge(hostsHeard, float64(heard))
	for _, h := range foremost(st.Hosts, maxHosts) {
		name := h.Addr.String()
		if h.Group >= 0 {
			ch.gauge(hostHeard, h.Group.Seconds(), name, "group")
		}
		if h.Unicast >= 0 {
			ch.gauge(hostHeard, h.Unicast.Seconds(), name, "unicast")
		}
		ch.count(hostPackets, h.TxPackets, name, "out")
		ch.count(hostPackets, h.RxPackets, name, "in")
		ch.count(hostBytes, h.TxBytes, name, "out")
		ch.count(hostBytes, h.RxBytes, name, "in")
		ch.gauge(hostMACs, float64(h.MACs), name)
		for _, x := range h.Dropped {
			ch.count(hostDrops, x.Count, name, x.Reason.String())
		}
	}
}

// foremost are at most n of the hosts, in order of their addresses: those that somebody named, then those with most MACs,
// then those with most traffic.
func foremost(list []dataplane.Host, n int) []dataplane.Host {
	if len(list) <= n {
		return list
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b dataplane.Host) int {
		return cmp.Or(
			cmp.Compare(truth(len(b.Sources) > 0), truth(len(a.Sources) > 0)),
			cmp.Compare(b.MACs, a.MACs),
			cmp.Compare(b.RxBytes+b.TxBytes, a.RxBytes+a.TxBytes),
		)
	})
	list = list[:n]
	slices.SortFunc(list, func(a, b dataplane.Host) int { return a.Addr.Compare(b.Addr) })
	return list
}

func collectKeys(ch sink, st *dataplane.Status, ids map[vnet.ID]string) {
	for _, k := range st.Keys {
		id, ok := ids[k.ID]
		if !ok {
			continue
		}
		ch.gauge(senderEpoch, float64(k.Epoch), id)
		ch.gauge(espKeyAge, k.Age.Seconds(), id)
		ch.gauge(espSenders, float64(len(k.Senders)), id)
		for r, n := range k.Refused {
			if esp.Refusal(r) == esp.Taken {
				continue
			}
			ch.count(espRefused, n, id, esp.Refusal(r).String())
		}
	}
}

// collectHost is about what is not the engine's.
func (s *Status) collectHost(ch sink) {
	var by [3]int
	for _, v := range s.ops.All() {
		by[v.Lifetime]++
	}
	ch.gauge(vnetsKnown, float64(by[service.Persistent]), "persistent")
	ch.gauge(vnetsKnown, float64(by[service.Transient]), "transient")
	ch.gauge(vnetsKnown, float64(by[service.Default]), "default")
	health := s.troubles(context.Background(), metricsAge)
	n := map[service.Severity]int{}
	for _, t := range health.Troubles {
		n[t.Severity]++
	}
	for _, severity := range []service.Severity{service.Degraded, service.Broken} {
		ch.gauge(troubles, float64(n[severity]), severity.String())
	}
	restored, failed := s.ops.Reconciled()
	ch.count(reconciled, restored, "restored")
	ch.count(reconciled, failed, "failed")
	var fs syscall.Statfs_t
	if s.o.StateDir != "" && syscall.Statfs(s.o.StateDir, &fs) == nil {
		ch.gauge(stateFree, float64(fs.Bavail)*float64(fs.Bsize))
		ch.gauge(stateSize, float64(fs.Blocks)*float64(fs.Bsize))
	}
}

// scrape answers a GET of /metrics in the format that the client asks for.
func (s *Status) scrape(r *httpx.Request) *httpx.Reply {
	families, err := s.metrics.Gather()
	if err != nil && len(families) == 0 {
		return httpx.Text(http.StatusInternalServerError, "Internal server error", err.Error())
	}
	if err != nil {
		s.o.Log.Error("some metrics can't be told", "error", err)
	}
	var b bytes.Buffer
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	e := expfmt.NewEncoder(&b, format)
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			return httpx.Text(http.StatusInternalServerError, "Internal server error", err.Error())
		}
	}
	return httpx.OK(string(format), b.Bytes())
}
