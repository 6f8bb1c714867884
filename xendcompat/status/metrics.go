package status

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"slices"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
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

// operationSeconds is kept by client_golang, and not read from the engine as the others are.
var operationSeconds = describe("histogram", "operations_seconds", "How long operations that change vnets took.", "front", "op", "result")

func (s *Status) newMetrics() {
	s.kept = prometheus.NewRegistry()
	s.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: operationSeconds.Name, Help: operationSeconds.Help,
		Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30},
	}, []string{"front", "op", "result"})
	s.kept.MustRegister(s.seconds, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collect finds what is to be told. It asks the engine once, for which no frame waits; MACs are counted and not visited.
func (s *Status) collect() *families {
	f := newFamilies()
	d := s.ops.Dataplane()
	st, macs := d.Status(), d.MACs()

	f.gauge(buildInfo, 1, version.Version)
	ids := make(map[vnet.ID]string, len(st.Vnets))
	for i := range st.Vnets {
		v := &st.Vnets[i]
		ids[v.ID] = v.IDText
		f.gauge(vnetUp, truth(v.Up), v.IDText)
		f.gauge(vnetInfo, 1, v.IDText, v.Bridge, v.Vnetif, v.Security.String())
		f.gauge(vnetMTU, float64(v.MTU), v.IDText)
		reason, fast := st.FastPath.Vnets[v.ID]
		if fast && st.FastPath.On {
			f.gauge(vnetFast, truth(reason == ""), v.IDText, reason)
		}
		f.gauge(vnetMACs, float64(macs[v.ID].Here), v.IDText, "here")
		f.gauge(vnetMACs, float64(macs[v.ID].Elsewhere), v.IDText, "elsewhere")
		traffic(f, v.IDText, "out", "user", less(v.Tx, v.KernelTx))
		traffic(f, v.IDText, "in", "user", less(v.Rx, v.KernelRx))
		if fast || v.KernelTx.Frames+v.KernelRx.Frames > 0 {
			traffic(f, v.IDText, "out", "kernel", v.KernelTx)
			traffic(f, v.IDText, "in", "kernel", v.KernelRx)
		}
		f.count(vnetFlooded, v.Flooded, v.IDText)
		for _, x := range v.Drops {
			f.count(vnetDrops, x.Count, v.IDText, x.Reason.String())
		}
	}
	if p := &st.FastPath; p.Mode != "" { // else there is no data plane
		f.gauge(fastPath, truth(p.On), string(p.Mode), p.Problem)
		for r := range p.Left.Out {
			f.count(fastLeft, p.Left.Out[r], "out", fastpath.Reason(r).String())
			f.count(fastLeft, p.Left.In[r], "in", fastpath.Reason(r).String())
		}
	}
	t := &st.Tables
	f.gauge(macsLimit, float64(t.MaxMACs))
	f.count(macMoves, t.Moves)
	f.count(macDamped, t.Damped)
	f.count(macEvicted, t.Evicted)
	f.count(macHeld, t.Held)
	for _, x := range st.Drops {
		f.count(drops, x.Count, x.Reason.String())
	}
	collectUnderlays(f, &st)
	collectHosts(f, &st)
	collectKeys(f, &st, ids)
	s.collectHost(f)
	return f
}

// less is what of t is not part. The two are not read at one moment.
func less(t, part dataplane.Traffic) dataplane.Traffic {
	minus := func(a, b uint64) uint64 { return a - min(a, b) }
	return dataplane.Traffic{Packets: minus(t.Packets, part.Packets), Frames: minus(t.Frames, part.Frames), Bytes: minus(t.Bytes, part.Bytes)}
}

func traffic(f *families, id, direction, path string, t dataplane.Traffic) {
	f.count(vnetPackets, t.Packets, id, direction, path)
	f.count(vnetFrames, t.Frames, id, direction, path)
	f.count(vnetBytes, t.Bytes, id, direction, path)
}

func collectUnderlays(f *families, st *dataplane.Status) {
	for _, u := range st.Underlays {
		reason := u.Reason
		if !u.Up {
			reason = u.Problem
		}
		f.gauge(underlayUp, truth(u.Up), u.Family, u.Device, reason)
		if u.Up {
			f.gauge(underlayMTU, float64(u.MTU), u.Family, u.Device)
		}
		if u.Heard >= 0 {
			f.gauge(groupHeard, u.Heard.Seconds(), u.Family, u.Group.String())
		}
		f.gauge(groupSilent, truth(u.Silent), u.Family, u.Group.String())
	}
	f.gauge(peersKnown, float64(len(st.Peers)))
	broken := 0
	for _, r := range st.Replicate {
		if r.Problem != "" {
			broken++
		}
	}
	f.gauge(replicasBroken, float64(broken))
}

func collectHosts(f *families, st *dataplane.Status) {
	heard := 0
	for _, h := range st.Hosts {
		if topology.StateOf(h.Heard()) == topology.Live {
			heard++
		}
	}
	f.gauge(hostsKnown, float64(len(st.Hosts)))
	f.gauge(hostsHeard, float64(heard))
	for _, h := range foremost(st.Hosts, maxHosts) {
		name := h.Addr.String()
		if h.Group >= 0 {
			f.gauge(hostHeard, h.Group.Seconds(), name, "group")
		}
		if h.Unicast >= 0 {
			f.gauge(hostHeard, h.Unicast.Seconds(), name, "unicast")
		}
		f.count(hostPackets, h.TxPackets, name, "out")
		f.count(hostPackets, h.RxPackets, name, "in")
		f.count(hostBytes, h.TxBytes, name, "out")
		f.count(hostBytes, h.RxBytes, name, "in")
		f.gauge(hostMACs, float64(h.MACs), name)
		for _, x := range h.Dropped {
			f.count(hostDrops, x.Count, name, x.Reason.String())
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

func collectKeys(f *families, st *dataplane.Status, ids map[vnet.ID]string) {
	for _, k := range st.Keys {
		id, ok := ids[k.ID]
		if !ok {
			continue
		}
		f.gauge(senderEpoch, float64(k.Epoch), id)
		f.gauge(espKeyAge, k.Age.Seconds(), id)
		f.gauge(espSenders, float64(len(k.Senders)), id)
		for r, n := range k.Refused {
			if esp.Refusal(r) == esp.Taken {
				continue
			}
			f.count(espRefused, n, id, esp.Refusal(r).String())
		}
	}
}

// collectHost is about what is not the engine's.
func (s *Status) collectHost(f *families) {
	var by [3]int
	for _, v := range s.ops.All() {
		by[v.Lifetime]++
	}
	f.gauge(vnetsKnown, float64(by[service.Persistent]), "persistent")
	f.gauge(vnetsKnown, float64(by[service.Transient]), "transient")
	f.gauge(vnetsKnown, float64(by[service.Default]), "default")
	health := s.troubles(context.Background(), metricsAge)
	n := map[service.Severity]int{}
	for _, t := range health.Troubles {
		n[t.Severity]++
	}
	for _, severity := range []service.Severity{service.Degraded, service.Broken} {
		f.gauge(troubles, float64(n[severity]), severity.String())
	}
	restored, failed := s.ops.Reconciled()
	f.count(reconciled, restored, "restored")
	f.count(reconciled, failed, "failed")
	var fs syscall.Statfs_t
	if s.o.StateDir != "" && syscall.Statfs(s.o.StateDir, &fs) == nil {
		f.gauge(stateFree, float64(fs.Bavail)*float64(fs.Bsize))
		f.gauge(stateSize, float64(fs.Blocks)*float64(fs.Bsize))
	}
}

// scrape answers a GET of /metrics in the format that the client asks for. There is one at a time: many who scrape take one processor.
func (s *Status) scrape(r *httpx.Request) *httpx.Reply {
	s.scraping.Lock()
	defer s.scraping.Unlock()
	kept, err := s.kept.Gather()
	if err != nil {
		s.o.Log.Error("some metrics can't be told", "error", err)
	}
	b := bytes.NewBuffer(make([]byte, 0, s.scraped+s.scraped/16))
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	encode := expfmt.NewEncoder(b, format).Encode
	if format.FormatType() == expfmt.TypeTextPlain {
		// As the encoder does, but for looking through all names for what must be escaped: none must.
		encode = func(f *dto.MetricFamily) error {
			_, err := expfmt.MetricFamilyToText(b, f)
			return err
		}
	}
	for _, f := range s.collect().with(kept) {
		if err := encode(f); err != nil {
			return httpx.Text(http.StatusInternalServerError, "Internal server error", err.Error())
		}
	}
	s.scraped = b.Len()
	return httpx.OK(string(format), b.Bytes())
}
