package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// How cost grows: the same two domains, while there are more and more hosts, vnets or MACs around them.

// growthStep is what one size cost.
type growthStep struct {
	Size int `json:"size"`
	// SetUp is from the first command to the moment at which the domains reach each other, in seconds: of hosts and
	// vnets, their daemons and commands; of MACs, until the other host knows all.
	SetUp float64 `json:"set_up_s"`
	// Memory is the resident size of the first host's daemon, in MiB.
	Memory float64 `json:"memory_mib"`
	// Auto is what the domains get as xend comes, User without the fast path.
	Auto pathCost `json:"auto"`
	User pathCost `json:"user"`
	// Scrape is how long the first host's metrics take by the clock, in ms, and ScrapedP99 what becomes of User.P99 while
	// they are asked for every second.
	Scrape     float64 `json:"scrape_ms"`
	ScrapedP99 float64 `json:"scraped_p99_us"`
	// Check is how long vn check takes on the first host, in seconds.
	Check float64 `json:"check_s"`
}

// pathCost is what a way of frames gives, and what it takes of the machine's processors, those of the domains included.
type pathCost struct {
	// Gbits is one process of TCP between the two domains, in Gbit/s, and CPU processor seconds per Gbit of it.
	Gbits float64 `json:"tcp_gbits"`
	CPU   float64 `json:"cpu_s_per_gbit"`
	// Packet is processor time per datagram of 64 bytes that arrives of a flood of them, in µs.
	Packet float64 `json:"cpu_us_per_packet"`
	// Requests are per second, one at a time, over UDP; P99 is the 99th percentile of their times, in µs.
	Requests float64 `json:"udp_rr"`
	P99      float64 `json:"udp_p99_us"`
}

// growthFigures are the columns of the table.
var growthFigures = []struct {
	label, format string
	of            func(*growthStep) float64
}{
	{"set-up s", "%.2f", func(s *growthStep) float64 { return s.SetUp }},
	{"daemon MiB", "%.1f", func(s *growthStep) float64 { return s.Memory }},
	{"tcp Gbit/s", "%.2f", func(s *growthStep) float64 { return s.Auto.Gbits }},
	{"user", "%.2f", func(s *growthStep) float64 { return s.User.Gbits }},
	{"cpu s/Gbit", "%.3f", func(s *growthStep) float64 { return s.Auto.CPU }},
	{"user", "%.3f", func(s *growthStep) float64 { return s.User.CPU }},
	{"cpu us/packet", "%.2f", func(s *growthStep) float64 { return s.Auto.Packet }},
	{"user", "%.2f", func(s *growthStep) float64 { return s.User.Packet }},
	{"udp rr/s", "%.0f", func(s *growthStep) float64 { return s.Auto.Requests }},
	{"user", "%.0f", func(s *growthStep) float64 { return s.User.Requests }},
	{"user p99 us", "%.0f", func(s *growthStep) float64 { return s.User.P99 }},
	{"scraped", "%.0f", func(s *growthStep) float64 { return s.ScrapedP99 }},
	{"scrape ms", "%.1f", func(s *growthStep) float64 { return s.Scrape }},
	{"check s", "%.1f", func(s *growthStep) float64 { return s.Check }},
}

// growthReport is the JSON file of a run with -growth.
type growthReport struct {
	Machine string                  `json:"machine"`
	Cores   int                     `json:"cores"`
	Seconds int                     `json:"seconds"`
	Growth  map[string][]growthStep `json:"growth"` // by what grows
}

// growths are what can grow, and how.
var growths = []growth{
	{"hosts", "hosts", []int{2, 4, 8, 16, 32, 64}, growHosts},
	{"vnets", "vnets", []int{1, 10, 100, 1000}, growVnets},
	{"macs", "MACs", []int{10, 100, 1000, 10000, 100000}, growMACs},
	{"both", "MACs with a hundredth as many vnets", []int{100, 1000, 10000, 100000}, growBoth},
}

type growth struct {
	label, unit string
	sizes       []int
	measure     func(ctx context.Context, l *lab.Lab, o *options, size int) (growthStep, error)
}

func (g growth) name() string { return g.label }

// grow measures growths and prints a table of each. The sizes are from smallest to largest; 0: all.
func (o *options) grow(w io.Writer, list []growth, smallest, largest int) error {
	r := growthReport{Machine: machine(), Cores: o.cores, Seconds: o.seconds, Growth: map[string][]growthStep{}}
	fmt.Fprintln(w, r.Machine)
	for _, g := range list {
		fmt.Fprintf(w, "\nmore and more %s; %d processors\n", g.unit, o.cores)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprint(tw, g.unit, "\t")
		for _, f := range growthFigures {
			fmt.Fprint(tw, f.label, "\t")
		}
		fmt.Fprintln(tw)
		for _, size := range g.sizes {
			if size < smallest || largest > 0 && size > largest {
				continue
			}
			err := lab.Run(lab.Options{}, func(ctx context.Context, l *lab.Lab) error {
				s, err := g.measure(ctx, l, o, size)
				if err != nil {
					return err
				}
				s.Size = size
				r.Growth[g.label] = append(r.Growth[g.label], s)
				fmt.Fprint(tw, size, "\t")
				for _, f := range growthFigures {
					fmt.Fprintf(tw, f.format+"\t", f.of(&s))
				}
				fmt.Fprintln(tw)
				return nil
			})
			if err != nil { // what was measured is not lost
				_ = tw.Flush()
				return errors.Join(fmt.Errorf("%d %s: %w", size, g.unit, err), writeJSON(w, o.json, r))
			}
		}
		_ = tw.Flush()
	}
	return writeJSON(w, o.json, r)
}

func writeJSON(w io.Writer, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nall figures: %s\n", name)
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// growScenario is that of all growths.
var growScenario = scenario{"growth", "", 1500, 1500, false, false}

// hostsWith makes n hosts on a switch with a daemon and vnet 97 on each, and a domain on the first and the last.
func hostsWith(ctx context.Context, l *lab.Lab, o *options, n int, settings string) (*setup, []*lab.Host, error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return nil, nil, err
	}
	sw, err := l.Switch("growth", growScenario.underlay)
	if err != nil {
		return nil, nil, err
	}
	list := make([]*lab.Host, n)
	for i := range list {
		if list[i], err = sw.Host(fmt.Sprintf("h%d", i+1)); err != nil {
			return nil, nil, err
		}
	}
	s := &setup{sc: growScenario, sys: system{label: "growth"}, bin: bin, hosts: [2]*lab.Host{list[0], list[n-1]}}
	for _, h := range list {
		if err := startDaemon(ctx, h, bin, vnet.None, settings, 1500); err != nil {
			return nil, nil, err
		}
	}
	return s, list, nil
}

// cost measures what the two domains of a setup get, and what the first host's daemon takes. It leaves the daemons without their fast
// path; settings are those that they had.
func (s *setup) cost(ctx context.Context, o *options, settings string, step growthStep) (growthStep, error) {
	var err error
	if step.Memory, err = daemonMemory(s.hosts[0]); err != nil {
		return step, err
	}
	if err := s.serve(ctx, 1); err != nil {
		return step, err
	}
	if step.Auto, err = s.pathCost(ctx, o); err != nil {
		return step, err
	}
	for _, h := range s.hosts {
		if err := configure(h, 1500, settings+"fastpath = \"off\"\n"); err != nil {
			return step, err
		}
		if _, err := h.Run(ctx, filepath.Join(s.bin, "xend"), "reload"); err != nil {
			return step, err
		}
	}
	if step.User, err = s.pathCost(ctx, o); err != nil {
		return step, err
	}
	if step.Scrape, step.ScrapedP99, err = s.scraped(ctx, o); err != nil {
		return step, err
	}
	start := time.Now()
	out, err := s.hosts[0].Run(ctx, filepath.Join(s.bin, "vn"), "check", "--json")
	step.Check = time.Since(start).Seconds()
	if !json.Valid([]byte(out)) { // its exit status says whether all is well
		return step, fmt.Errorf("vn check: %w: %s", err, out)
	}
	return step, nil
}

// pathCost measures the way that frames take now.
func (s *setup) pathCost(ctx context.Context, o *options) (c pathCost, err error) {
	got, err := tcp("tcp", "cpu", 1)(ctx, s, o.seconds)
	if err != nil {
		return c, err
	}
	c.Gbits, c.CPU = got["tcp"], got["cpu"]
	before := busy()
	if got, err = pps(ctx, s, o.seconds); err != nil {
		return c, err
	}
	c.Packet = (busy() - before).Seconds() * 1e6 / got["packets"]
	if got, err = rr("udp")(ctx, s, o.seconds); err != nil {
		return c, err
	}
	c.Requests, c.P99 = got["udp rr/s"], got["udp p99 us"]
	return c, nil
}

// scraped asks the first host's daemon for its metrics every second, for as long as requests and responses are measured and five times
// at least: the median of what that took in ms, and the requests' 99th percentile in µs.
func (s *setup) scraped(ctx context.Context, o *options) (ms, p99 float64, err error) {
	socket := filepath.Join(s.hosts[0].Dir, "var", "lib", "xend", "xend-socket")
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	var took []float64
	scrape := func() error {
		start := time.Now()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://xend/metrics", nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		n, err := io.Copy(io.Discard, answer.Body)
		took = append(took, time.Since(start).Seconds()*1e3)
		if err == nil && (n == 0 || answer.StatusCode != http.StatusOK) {
			err = fmt.Errorf("the metrics are %d bytes, with status %s", n, answer.Status)
		}
		return err
	}
	const scrapes = 5
	done := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		var err error
		for measuring := true; err == nil && (measuring || len(took) < scrapes); {
			err = scrape()
			select {
			case <-done:
				measuring = false
			case <-time.After(time.Second):
			}
		}
		ended <- err
	}()
	got, err := rr("udp")(ctx, s, max(o.seconds, scrapes))
	close(done)
	if err := errors.Join(err, <-ended); err != nil {
		return 0, 0, err
	}
	return median(took), got["udp p99 us"], nil
}

// daemonMemory is the resident size of a host's daemon, in MiB.
func daemonMemory(h *lab.Host) (float64, error) {
	pid, err := daemonPID(h)
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

func growHosts(ctx context.Context, l *lab.Lab, o *options, size int) (growthStep, error) {
	start := time.Now()
	s, _, err := hostsWith(ctx, l, o, size, "")
	if err != nil {
		return growthStep{}, err
	}
	if err := s.meet(ctx); err != nil {
		return growthStep{}, err
	}
	return s.cost(ctx, o, "", growthStep{SetUp: time.Since(start).Seconds()})
}

func growVnets(ctx context.Context, l *lab.Lab, o *options, size int) (growthStep, error) {
	s, list, err := hostsWith(ctx, l, o, 2, "")
	if err != nil {
		return growthStep{}, err
	}
	start := time.Now()
	if err := s.addVnets(ctx, list, size-1); err != nil {
		return growthStep{}, err
	}
	if err := s.meet(ctx); err != nil {
		return growthStep{}, err
	}
	return s.cost(ctx, o, "", growthStep{SetUp: time.Since(start).Seconds()})
}

// addVnets adds n vnets on each host.
func (s *setup) addVnets(ctx context.Context, list []*lab.Host, n int) error {
	for _, h := range list {
		for i := range n {
			file := filepath.Join(h.Dir, "more.sxp")
			text := fmt.Sprintf("(vnet (id %x) (bridge more%d) (vnetif mv%d))\n", 0x1000+i, i, i)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				return err
			}
			if _, err := h.Run(ctx, filepath.Join(s.bin, "xm"), "vnet-create", file); err != nil {
				return err
			}
		}
	}
	return nil
}

// growMACs has the second domain speak with so many MACs; the first host's daemon is to know all of them.
func growMACs(ctx context.Context, l *lab.Lab, o *options, size int) (growthStep, error) {
	return growMACsIn(ctx, l, o, size, 1)
}

// growBoth does so where there are a hundredth as many vnets.
func growBoth(ctx context.Context, l *lab.Lab, o *options, size int) (growthStep, error) {
	return growMACsIn(ctx, l, o, size, size/100)
}

func growMACsIn(ctx context.Context, l *lab.Lab, o *options, size, vnets int) (growthStep, error) {
	// Those that were heard first are to be there when the last are measured.
	settings := fmt.Sprintf("max_macs = %d\nentry_ttl = \"30m\"\n", size+1000)
	s, list, err := hostsWith(ctx, l, o, 2, settings)
	if err != nil {
		return growthStep{}, err
	}
	start := time.Now()
	if err := s.addVnets(ctx, list, vnets-1); err != nil {
		return growthStep{}, err
	}
	if err := s.meet(ctx); err != nil {
		return growthStep{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return growthStep{}, err
	}
	if _, err := s.two.Run(ctx, self, "role", "macs", strconv.Itoa(size)); err != nil {
		return growthStep{}, err
	}
	for {
		out, err := list[0].Run(ctx, filepath.Join(s.bin, "vn"), "varp")
		if err != nil {
			return growthStep{}, err
		}
		known := strings.Count(out, "(ventry")
		if known >= size {
			break
		}
		if time.Since(start) > 5*time.Minute {
			return growthStep{}, fmt.Errorf("after 5 minutes %d MACs are known", known)
		}
	}
	return s.cost(ctx, o, settings, growthStep{SetUp: time.Since(start).Seconds()})
}

// plotGrowth draws what each size cost, as a multiple of what the smallest cost, against the size; both logarithmic.
func plotGrowth(r growthReport) (string, error) {
	const left, top, width, height, gap = 60, 60, 260, 200, 60
	var list []growth
	for _, g := range growths {
		if len(r.Growth[g.label]) > 1 {
			list = append(list, g)
		}
	}
	if len(list) == 0 {
		return "", fmt.Errorf("nothing to draw: no growth has two sizes")
	}
	w, h := left+len(list)*(width+gap), top+height+70
	var b strings.Builder
	text := func(x, y float64, anchor, class, s string) {
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="%s" class="%s">%s</text>`+"\n", x, y, anchor, class, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, "<title>How cost grows, %d processors</title>\n", r.Cores)
	b.WriteString("<style>text{font-family:sans-serif;fill:#222}.s{font-size:10px}.m{font-size:12px}.t{font-size:14px;font-weight:bold}</style>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", w, h)
	text(8, 18, "start", "t", fmt.Sprintf("How cost grows: multiples of what the smallest size has, %d processors", r.Cores))
	text(8, 34, "start", "s", strings.TrimPrefix(r.Machine, "machine: "))
	lines := []struct {
		title, color string
		of           func(growthStep) float64
	}{
		{"set-up time", "#e6550d", func(s growthStep) float64 { return s.SetUp }},
		{"daemon's memory", "#31a354", func(s growthStep) float64 { return s.Memory }},
		{"TCP", "#1f6fb4", func(s growthStep) float64 { return s.Auto.Gbits }},
		{"TCP in user space", "#9ecae1", func(s growthStep) float64 { return s.User.Gbits }},
		{"requests/s", "#756bb1", func(s growthStep) float64 { return s.Auto.Requests }},
		{"requests/s in user space", "#bcbddc", func(s growthStep) float64 { return s.User.Requests }},
		{"processor per packet in user space", "#de2d26", func(s growthStep) float64 { return s.User.Packet }},
	}
	for i, g := range list {
		steps := r.Growth[g.label]
		x0, y0 := float64(left+i*(width+gap)), float64(top)
		most := math.Log10(float64(steps[len(steps)-1].Size) / float64(steps[0].Size)) // linear growth is the diagonal
		place := func(s growthStep, v float64) (x, y float64) {
			x = x0 + math.Log10(float64(s.Size)/float64(steps[0].Size))/most*width
			y = y0 + height*0.8 - math.Log10(max(v, 1e-9))/most*height*0.8
			return x, min(y0+height, max(y0, y))
		}
		fmt.Fprintf(&b, `<rect x="%.0f" y="%.0f" width="%d" height="%d" fill="#f7f7f7"/>`+"\n", x0, y0, width, height)
		fmt.Fprintf(&b, `<line x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" stroke="#999" stroke-dasharray="3 2"/>`+"\n", x0, y0+height*0.8, x0+width, y0)
		text(x0+width/2, y0-8, "middle", "m", fmt.Sprintf("%d to %d %s (dashed: linear)", steps[0].Size, steps[len(steps)-1].Size, g.unit))
		for _, s := range steps {
			x, _ := place(s, 1)
			text(x, y0+height+14, "middle", "s", strconv.Itoa(s.Size))
		}
		for _, line := range lines {
			var points []string
			first := line.of(steps[0])
			if first == 0 {
				continue // it was not measured
			}
			for _, s := range steps {
				x, y := place(s, line.of(s)/first)
				points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
			}
			fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), line.color)
		}
	}
	x := 8.0
	for _, line := range lines {
		fmt.Fprintf(&b, `<rect x="%.0f" y="%d" width="10" height="10" fill="%s"/>`+"\n", x, h-19, line.color)
		text(x+14, float64(h-10), "start", "s", line.title)
		x += 24 + 6*float64(len(line.title))
	}
	b.WriteString("</svg>\n")
	return b.String(), nil
}
