package status_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/status/statustest"
)

// TestRules: promtool finds no fault with the rules, and each alert fires for its trouble and not before.
func TestRules(t *testing.T) {
	promtool(t, nil, "check", "rules", rulesFile)
	promtool(t, nil, "test", "rules", filepath.Join(filepath.Dir(rulesFile), "xend.rules.test.yml"))
}

// TestManualsConfiguration: what monitoring.md has Prometheus do is a configuration of it.
func TestManualsConfiguration(t *testing.T) {
	page, err := os.ReadFile("../../docs/monitoring.md")
	require.NoError(t, err)
	block := regexp.MustCompile(`(?m)^    scrape_configs:\n(    .*\n)+`).FindString(string(page))
	require.Contains(t, block, "job_name: xend\n")
	rules, err := filepath.Abs(rulesFile)
	require.NoError(t, err)
	for named, file := range map[string]string{
		"/etc/prometheus/xend.token": write(t, "token", "secret"), "/etc/prometheus/xend-ca.pem": write(t, "ca.pem", ""), "/usr/share/xend/prometheus/xend.rules.yml": rules,
	} {
		require.Contains(t, block, named)
		block = strings.ReplaceAll(block, named, file)
	}
	promtool(t, nil, "check", "config", write(t, "prometheus.yml", strings.ReplaceAll(block, "\n    ", "\n")[4:]))
}

// TestDashboard: Prometheus understands every query of the dashboard.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var dashboard struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &dashboard))
	require.NotEmpty(t, dashboard.Title)
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, p := range dashboard.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$vnet", ".*").Replace(target.Expr)
			require.NotContains(t, expr, "$", p.Title)
			rules = append(rules, rule{fmt.Sprintf("panel:%d", len(rules)), expr})
		}
	}
	require.Greater(t, len(rules), 15)
	// JSON is YAML, too.
	file, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	require.NoError(t, err)
	promtool(t, nil, "check", "rules", write(t, "rules.yml", string(file)))
}

// serve serves a scene's handler on loopback until the test ends.
func serve(t *testing.T, h httpx.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- httpx.NewServer("status", h, httpx.Options{Log: nettest.Logger(t, "")}).Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return ln.Addr().String()
}

// TestPrometheus: Debian's Prometheus scrapes a host with a token, and its rules find what is wrong there.
func TestPrometheus(t *testing.T) {
	path, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("Prometheus is not installed (Debian's package prometheus)")
	}
	h := newStatus(t, statustest.Ill()).Handler(open(t, status.Files{Token: write(t, "token", token)}), nil)
	target := serve(t, h)
	rules, err := filepath.Abs(rulesFile)
	require.NoError(t, err)
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: xend
    authorization: {credentials: %s}
    static_configs: [{targets: [%q]}]
  - job_name: stranger
    static_configs: [{targets: [%q]}]
`, rules, token, target, target), 0o600))
	// A port that was free a moment ago.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	api := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+api, "--log.level=warn")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("%s", b)
		}
	}()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	value := func(query string) string {
		r, err := client.Get("http://" + api + "/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return "" // it begins
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if json.Unmarshal(b, &answer) != nil || len(answer.Data.Result) != 1 {
			return ""
		}
		s, _ := answer.Data.Result[0].Value[1].(string)
		return s
	}
	for query, want := range map[string]string{
		`up{job="xend"}`:                          "1",
		`up{job="stranger"}`:                      "0",
		`xend_vnet_up{vnet="1a0"}`:                "0",
		`xend_host_macs{host="192.0.2.3"}`:        "11",
		`ALERTS{alertname="XendVnetDown"}`:        "1", // pending at first, but found
		`ALERTS{alertname="XendGroupSilent"}`:     "1",
		`count(ALERTS{alertname="XendTroubles"})`: "1",
	} {
		nettest.Eventually(t, query, func() bool { return value(query) == want })
	}
}
