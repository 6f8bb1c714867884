package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadTransfer(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		out  string
		err  error
		want transfer
		fail string
	}{
		// iperf3 3.12 -t 1 -O 0.3: an interval of a second, and nothing left out.
		"good": {out: `{"start": {"test_start": {"omit": 0, "duration": 1}}, "end": {
			"sum_sent": {"start": 0, "end": 1.000105, "seconds": 1.000105, "bytes": 1916272640, "bits_per_second": 15328571619.9799},
			"sum_received": {"start": 0, "end": 1.25, "seconds": 1.25, "bytes": 1250000000, "bits_per_second": 8000000000}}}`,
			want: transfer{gbits: 10, seconds: 1.25}},
		"error":       {out: `{"start": {}, "end": {}, "error": "unable to connect"}`, err: broken, fail: "unable to connect"},
		"killed":      {out: `{"start": {`, err: broken, fail: "broken"},
		"no JSON":     {out: "", fail: "unexpected end of JSON input"},
		"no transfer": {out: `{"end": {"sum_received": {"seconds": 1, "bytes": 0}}}`, fail: "nothing arrived"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readTransfer(c.out, c.err)
			if c.fail != "" {
				require.EqualError(t, err, c.fail)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// A round that failed is in no median and in no ratio, and the table says so.
func TestFailedRounds(t *testing.T) {
	const figure = "tcp reverse"
	rounds := func(v ...float64) series { // below 0: failed
		s := series{Samples: map[string][]*float64{}}
		for _, x := range v {
			got := map[string]float64{figure: x}
			if x < 0 {
				got = nil
			}
			s.add([]string{figure}, got)
		}
		return s
	}
	o := &options{rounds: 3, seconds: 1, cores: 2}
	require.NoError(t, o.choose("fits", "none,vxlan,xend,openvpn,tinc,vde", "tcp-r"))
	got := map[string]series{
		"none":    rounds(40, 40, 40),
		reference: rounds(20, -1, 10),
		"xend":    rounds(10, 6, -1),
		"openvpn": rounds(-1, 5, -1),
		"tinc":    rounds(-1, -1, -1),
		"vde":     {Failed: "not installed"},
	}
	var b strings.Builder
	table(&b, o.scenarios[0], o, got)
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	require.Equal(t, []string{
		"", "fits: domains at 1400 on an underlay of 1500; 2 processors", figure,
		"none 40 [3.00 (2/3) -]",
		"vxlan 15 (2/3) [- 0.38 (2/3)]",
		"xend 8 (2/3) [0.50 (1/3) 0.20 (2/3)]",
		"openvpn 5 (1/3) [- 0.12 (1/3)]",
		"tinc -",
		"vde -",
		"[ratio to vxlan, ratio to none]: medians of what they were round by round",
		"(n/3): median of n rounds; the others failed",
	}, lines)

	text, err := json.Marshal(got["xend"])
	require.NoError(t, err)
	require.JSONEq(t, `{"samples": {"tcp reverse": [10, 6, null]}}`, string(text))

	got = map[string]series{"none": rounds(3, 1, 2), reference: rounds(2, 2, 2)}
	b.Reset()
	table(&b, o.scenarios[0], o, got)
	require.NotContains(t, b.String(), "/3)")
}

func sample(v ...float64) (list []*float64) {
	for i := range v {
		list = append(list, &v[i])
	}
	return list
}

// TestPlot: the picture has the ratios, and is well-formed.
func TestPlot(t *testing.T) {
	r := report{Machine: "machine: <test>", Cores: 2, Rounds: 3, Scenarios: map[string]map[string]series{"fits": {
		reference: {Samples: map[string][]*float64{"tcp Gbit/s": sample(10, 10, 20)}},
		"xend":    {Samples: map[string][]*float64{"tcp Gbit/s": sample(11, 12, 50)}},
		"openvpn": {Failed: "not installed"},
	}}}
	picture, err := plot(r)
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal([]byte(picture), new(any)))
	require.Contains(t, picture, "xend, as it comes: 1.20")
	require.NotContains(t, picture, "OpenVPN")
	require.NotContains(t, picture, "untuned")
	_, err = plot(report{})
	require.Error(t, err)

	picture, err = plotGrowth(growthReport{Growth: map[string][]growthStep{"vnets": {
		{Size: 1, SetUp: 1, Memory: 20, Auto: pathCost{Gbits: 10, Requests: 1000}}, {Size: 100, SetUp: 10, Memory: 22, Auto: pathCost{Gbits: 10, Requests: 1000}},
	}}})
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal([]byte(picture), new(any)))
	require.Contains(t, picture, "1 to 100 vnets")
	require.NotContains(t, picture, "NaN", "what was not measured")
	require.Equal(t, 4, strings.Count(picture, "<polyline"))
}

// TestDraw: it draws what a run has written, of either kind.
func TestDraw(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "a.json"), filepath.Join(t.TempDir(), "a.svg")
	require.Error(t, draw(from, to))
	for want, v := range map[string]any{
		"Ratios": report{Scenarios: map[string]map[string]series{"fits": {
			reference: {Samples: map[string][]*float64{"tcp Gbit/s": sample(10)}}, "none": {Samples: map[string][]*float64{"tcp Gbit/s": sample(11)}},
		}}},
		"How cost grows": growthReport{Growth: map[string][]growthStep{"hosts": {{Size: 2, SetUp: 1}, {Size: 4, SetUp: 1}}}},
	} {
		require.NoError(t, writeJSON(io.Discard, from, v))
		require.NoError(t, draw(from, to))
		b, err := os.ReadFile(to)
		require.NoError(t, err)
		require.Contains(t, string(b), want)
	}
}

// TestEnds: a flood's sender and receiver are on processors that this process may use.
func TestEnds(t *testing.T) {
	for list, want := range map[string][2]string{
		"0-3": {"0", "3"}, "4-7,9": {"4", "9"}, "2": {"2", "2"}, "1,3": {"1", "3"}, "": {},
	} {
		first, last := ends(list)
		require.Equal(t, want, [2]string{first, last}, list)
	}
	first, _ := ends(allowed())
	require.NotEmpty(t, first)
}
