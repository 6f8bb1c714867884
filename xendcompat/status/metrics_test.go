package status_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/hosts"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/status/statustest"
)

// newStatus is the status of a scene after ten minutes.
func newStatus(t testing.TB, scene *statustest.Scene) *status.Status {
	t.Helper()
	s := status.New(scene, status.Options{StateDir: "/", Log: slog.New(slog.DiscardHandler), Now: scene.Now, Host: "xen-a", Check: scene.Check})
	for range 60 {
		scene.Pass(10 * time.Second)
		s.Sample()
	}
	return s
}

// scrape asks for the metrics; accept may be empty.
func scrape(s *status.Status, accept string) *httpx.Reply {
	r := &httpx.Request{Method: http.MethodGet, Path: []string{"metrics"}, Header: http.Header{}}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	return s.Handler(status.Everybody(), nil).Handle(context.Background(), r)
}

// text scrapes in the text format.
func text(t testing.TB, s *status.Status) string {
	t.Helper()
	r := scrape(s, "")
	require.Equal(t, http.StatusOK, r.Status)
	return string(r.Body)
}

// TestMetricsText checks what is told of a host that is known.
func TestMetricsText(t *testing.T) {
	scene := statustest.Ill()
	s := newStatus(t, scene)
	got := text(t, s)
	for _, line := range []string{
		`xend_vnet_up{vnet="97"} 1`,
		`xend_vnet_up{vnet="1a0"} 0`,
		`xend_vnet_info{bridge="vnet98",security="conf",vnet="98",vnetif="vnif98"} 1`,
		`xend_macs{vnet="97",where="here"} 3`,
		`xend_macs{vnet="97",where="elsewhere"} 6`,
		`xend_underlay_up{device="eth0",family="ipv4",reason="the route to the group"} 1`,
		`xend_group_silent{family="ipv4",group="224.10.0.1"} 1`,
		`xend_group_silent_seconds{family="ipv4",group="224.10.0.1"} 660`,
		`xend_hosts 3`, `xend_hosts_heard 2`,
		`xend_host_last_heard_seconds{host="192.0.2.2",way="unicast"} 3`,
		`xend_sender_epoch{vnet="98"} 3`,
		`xend_esp_refused_total{reason="esp_replay",vnet="98"} 4`,
		`xend_troubles{severity="broken"} 1`, `xend_troubles{severity="degraded"} 3`,
		`xend_reconcile_total{result="restored"} 2`, `xend_reconcile_total{result="failed"} 1`,
		`xend_vnets{lifetime="persistent"} 3`,
		`xend_fast_path{mode="auto",problem=""} 1`,
		`xend_vnet_fast_path{reason="",vnet="97"} 1`,
		`xend_vnet_frames_total{direction="in",path="kernel",vnet="98"} 0`,
		`xend_vnet_drops_total{reason="flapping",vnet="97"} 4410`,
		`xend_host_drops_total{host="192.0.2.2",reason="flapping"} 4400`,
	} {
		require.Contains(t, got, "\n"+line+"\n")
	}
	// Both paths together are what the vnet has, and not more.
	var sum float64
	for _, path := range []string{"user", "kernel"} {
		m := regexp.MustCompile(`\nxend_vnet_bytes_total\{direction="out",path="` + path + `",vnet="97"\} (\S+)`).FindStringSubmatch(got)
		require.NotNil(t, m)
		n, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		require.Positive(t, n)
		sum += n
	}
	for _, v := range scene.Dataplane().Counters().Vnets {
		if v.ID.Short() == "97" {
			require.InDelta(t, float64(v.Tx.Bytes), sum, 1)
		}
	}
	require.Regexp(t, `\nxend_drops_total\{reason="flapping"\} [45][0-9]{3}\n`, got)
	require.Equal(t, 2, strings.Count(got, "\nxend_vnet_drops_total{"), "only what was dropped")
	require.NotContains(t, got, `host="192.0.2.9",way="unicast"`, "never heard so")
}

// TestConventions: names and help texts are as Prometheus wants them, by its own library and by promtool.
func TestConventions(t *testing.T) {
	s := newStatus(t, statustest.Well())
	got := text(t, s)
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
	promtool(t, strings.NewReader(got), "check", "metrics")
}

// promtool runs Debian's.
func promtool(t *testing.T, stdin *strings.Reader, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian's package prometheus)")
	}
	cmd := exec.Command(path, args...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "promtool %s\n%s", strings.Join(args, " "), out)
	return string(out)
}

// TestFormats: whoever asks for protocol buffers gets them, everybody else text.
func TestFormats(t *testing.T) {
	s := newStatus(t, statustest.Well())
	for accept, want := range map[string]string{
		"": "text/plain; version=0.0.4", "text/html": "text/plain; version=0.0.4",
		"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5":                  "text/plain; version=0.0.4",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "application/vnd.google.protobuf",
	} {
		r := scrape(s, accept)
		require.Equal(t, http.StatusOK, r.Status)
		require.True(t, strings.HasPrefix(r.Type, want), r.Type)
		require.NotEmpty(t, r.Body)
	}
}

// TestSeries: each metric has the type and the labels that the manual says, in order of their names, and no series comes twice, which
// nothing checks when they are made.
func TestSeries(t *testing.T) {
	described := map[string]status.Metric{}
	for _, m := range status.Metrics {
		described[m.Name] = *m
	}
	told := map[string]bool{}
	for _, scene := range []*statustest.Scene{statustest.Well(), statustest.Ill(), statustest.Large(30, 300)} {
		got := text(t, newStatus(t, scene))
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(got))
		require.NoError(t, err)
		for name, family := range families {
			m, ours := described[name]
			require.Equal(t, ours, strings.HasPrefix(name, "xend_"), name)
			if !ours || m.Type == "histogram" {
				continue
			}
			told[name] = true
			require.Equal(t, m.Help, family.GetHelp(), name)
			require.Equal(t, m.Type, strings.ToLower(family.GetType().String()), name)
			for _, series := range family.Metric {
				var labels []string
				for _, l := range series.Label {
					labels = append(labels, l.GetName())
				}
				require.True(t, slices.IsSorted(labels), "%s %v", name, labels)
				require.ElementsMatch(t, strings.FieldsFunc(m.Labels, func(r rune) bool { return r == ',' || r == ' ' }), labels, name)
			}
		}
		seen := map[string]bool{}
		var last string
		for line := range strings.Lines(got) {
			if family, ok := strings.CutPrefix(line, "# HELP "); ok {
				require.Less(t, last, family, "the families are in order")
				last = family
				continue
			}
			series := line[:strings.LastIndexByte(line, ' ')]
			require.False(t, seen[series] && series[0] != '#', series)
			seen[series] = true
		}
	}
	for name, m := range described {
		require.True(t, told[name] || m.Type == "histogram", "%s is in no scene", name)
	}
}

// TestHostileLabels: a name that is no text spoils no other metric.
func TestHostileLabels(t *testing.T) {
	scene := statustest.Well()
	s := newStatus(t, scene)
	scene.State.Vnets[0].Bridge = "br\xff\"\n"
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text(t, s)))
	require.NoError(t, err)
	require.Len(t, families["xend_vnet_info"].GetMetric(), 3)
}

// TestCardinality: anybody on the segment can invent hosts, and makes no more series than are bearable.
func TestCardinality(t *testing.T) {
	scene := statustest.Well()
	s := newStatus(t, scene)
	for i := range 4096 {
		scene.State.Hosts = append(scene.State.Hosts, dataplane.Host{Info: hosts.Info{
			Addr: netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), Group: time.Second, Unicast: -1, RxBytes: 1e12,
		}})
	}
	got := text(t, s)
	require.Equal(t, status.MaxHosts, strings.Count(got, "\nxend_host_macs{"))
	require.Contains(t, got, `xend_host_macs{host="192.0.2.3"} 11`, "one that the configuration names")
	require.Contains(t, got, `xend_host_macs{host="192.0.2.2"} 5`, "one behind which MACs are")
	require.Contains(t, got, "\nxend_hosts 4099\n")
}

var update = flag.Bool("update", false, "write the table of docs/monitoring.md anew")

// TestManual holds docs/monitoring.md to the metrics.
func TestManual(t *testing.T) {
	b, err := os.ReadFile("../../docs/monitoring.md")
	require.NoError(t, err)
	var want, got []string
	for _, m := range status.Metrics {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", m.Name, m.Type, m.Labels, m.Help))
	}
	got = append(got, regexp.MustCompile("(?m)^\\| `xend_[a-z_]+` \\|.*$").FindAllString(string(b), -1)...)
	if *update {
		text := strings.Replace(string(b), strings.Join(got, "\n"), strings.Join(want, "\n"), 1)
		require.NoError(t, os.WriteFile("../../docs/monitoring.md", []byte(text), 0o644))
		return
	}
	require.Equal(t, want, got, "go test ./xendcompat/status -run TestManual -update")
	// And the dashboard and the rules ask for no others.
	names := map[string]bool{}
	for _, m := range status.Metrics {
		names[m.Name] = true
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			names[m.Name+suffix] = m.Type == "histogram"
		}
	}
	for _, file := range []string{rulesFile, dashboardFile} {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		used := regexp.MustCompile(`xend_[a-z_]+`).FindAllString(string(b), -1)
		require.NotEmpty(t, used)
		for _, name := range used {
			require.True(t, names[name], "%s asks for %s", file, name)
		}
	}
}

const (
	rulesFile     = "../../packaging/prometheus/xend.rules.yml"
	dashboardFile = "../../packaging/grafana/xend.json"
)

// TestScrapeIsCheap bounds what a scrape of 1,000 vnets and 100,000 MACs allocates: neither MACs nor hosts are listed for it, and
// series are made and written without garbage for each.
func TestScrapeIsCheap(t *testing.T) {
	s := newStatus(t, statustest.Large(1000, 100_000))
	allocs := testing.AllocsPerRun(3, func() { scrape(s, "") })
	series := strings.Count(text(t, s), "\n") // with their help
	require.Less(t, series, 22_000)
	require.Less(t, allocs, float64(series)) // the race detector adds some
}

// BenchmarkScrape makes and writes the metrics of a host with 1,000 vnets and 100,000 MACs; what the engine takes to tell its numbers,
// and whether a worker notices, is BenchmarkAskedWorker of package dataplane.
func BenchmarkScrape(b *testing.B) {
	s := newStatus(b, statustest.Large(1000, 100_000))
	used := func() time.Duration {
		var u syscall.Rusage
		require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began := used()
	for b.Loop() {
		scrape(s, "")
	}
	b.ReportMetric((used()-began).Seconds()*1e3/float64(b.N), "cpu-ms/op")
}
