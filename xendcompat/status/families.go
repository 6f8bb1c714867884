package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// A metric is a name, what it means, and its labels.
type metric struct {
	// Name, Type, Labels and Help are for the manual.
	Name, Type, Labels, Help string

	index  int // among metrics
	labels []string
	order  []int // labels in the order of their names
}

var metrics []*metric

// describe makes a metric. Names follow https://prometheus.io/docs/practices/naming/.
func describe(kind, name, help string, labels ...string) *metric {
	m := &metric{Name: "xend_" + name, Type: kind, Labels: strings.Join(labels, ", "), Help: help, index: len(metrics), labels: labels}
	if len(labels) > maxLabels {
		panic(m.Name + " has too many labels")
	}
	for i := range labels {
		m.order = append(m.order, i)
	}
	slices.SortFunc(m.order, func(a, b int) int { return cmp.Compare(labels[a], labels[b]) })
	metrics = append(metrics, m)
	return m
}

func gauge(name, help string, labels ...string) *metric {
	return describe("gauge", name, help, labels...)
}

func counter(name, help string, labels ...string) *metric {
	return describe("counter", name, help, labels...)
}

const maxLabels = 4 // of one metric

// families are the series of one scrape. They are made here and not by a registry of client_golang, which sorts and checks all of
// them each time: with 1,000 vnets that took longer than finding out what is counted. What it checks is fixed here and
// tested: names, labels, and that no series comes twice. Series lie side by side in pieces of memory, and labels that are alike
// are one.
type families struct {
	of    []*dto.MetricFamily // by metric.index
	pairs map[label]*dto.LabelPair
	piece []series // what is left of the last one
}

type label struct{ name, value string }

// series is a metric with its value and its labels.
type series struct {
	metric  dto.Metric
	gauge   dto.Gauge
	counter dto.Counter
	value   float64
	labels  [maxLabels]*dto.LabelPair
}

const seriesInPiece = 256

func newFamilies() *families {
	return &families{of: make([]*dto.MetricFamily, len(metrics)), pairs: map[label]*dto.LabelPair{}}
}

func (f *families) gauge(m *metric, v float64, labels ...string) { f.put(m, v, labels) }

func (f *families) count(m *metric, n uint64, labels ...string) { f.put(m, float64(n), labels) }

// put adds a series; labels are in the order of the metric's.
func (f *families) put(m *metric, v float64, labels []string) {
	if len(labels) != len(m.labels) {
		panic(fmt.Sprintf("%s has the labels %s, and got %d", m.Name, m.Labels, len(labels)))
	}
	if len(f.piece) == 0 {
		f.piece = make([]series, seriesInPiece)
	}
	s := &f.piece[0]
	f.piece = f.piece[1:]
	s.value = v
	for i, from := range m.order {
		s.labels[i] = f.pair(m.labels[from], labels[from])
	}
	s.metric.Label = s.labels[:len(labels):len(labels)]
	kind := dto.MetricType_GAUGE
	if m.Type == "counter" {
		kind = dto.MetricType_COUNTER
		s.counter.Value = &s.value
		s.metric.Counter = &s.counter
	} else {
		s.gauge.Value = &s.value
		s.metric.Gauge = &s.gauge
	}
	family := f.of[m.index]
	if family == nil {
		family = &dto.MetricFamily{Name: &m.Name, Help: &m.Help, Type: kind.Enum()}
		f.of[m.index] = family
	}
	family.Metric = append(family.Metric, &s.metric)
}

func (f *families) pair(name, value string) *dto.LabelPair {
	p := f.pairs[label{name, value}]
	if p == nil {
		n, v := name, strings.ToValidUTF8(value, "\uFFFD") // one bad name would spoil all metrics
		p = &dto.LabelPair{Name: &n, Value: &v}
		f.pairs[label{name, value}] = p
	}
	return p
}

// with returns the families that have series, and others, in order of their names.
func (f *families) with(others []*dto.MetricFamily) []*dto.MetricFamily {
	all := slices.Clone(others)
	for _, family := range f.of {
		if family != nil {
			all = append(all, family)
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all
}
