package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// A metric is one measurement, which yields one or more figures.
type metric struct {
	label   string
	figures []string
	// measure yields all of them, or an error.
	measure func(ctx context.Context, s *setup, seconds int) (map[string]float64, error)
}

func (m metric) name() string { return m.label }

// processes is how many senders tcp8 has, each a process of its own: before 3.16 iperf3 runs the streams of one process
// in one thread, which says nothing about processors.
const processes = 8

var metrics = []metric{
	{"tcp", []string{"tcp Gbit/s", "cpu s/Gbit"}, tcp("tcp Gbit/s", "cpu s/Gbit", 1)},
	{"tcp-r", []string{"tcp reverse"}, tcp("tcp reverse", "", 1, "-R")},
	{"tcp8", []string{"tcp x8", "cpu x8 s/Gbit"}, tcp("tcp x8", "cpu x8 s/Gbit", processes)},
	{"tcp8-r", []string{"tcp x8 reverse"}, tcp("tcp x8 reverse", "", processes, "-R")},
	{"pps", []string{"64-byte pps"}, pps},
	{"tcp-rr", []string{"tcp rr/s", "tcp p50 us", "tcp p90 us", "tcp p99 us"}, rr("tcp")},
	{"udp-rr", []string{"udp rr/s", "udp p50 us", "udp p90 us", "udp p99 us"}, rr("udp")},
	{"restart", []string{restartIn, restartOut}, restart},
}

// grace is what a measurement may take beyond its time.
const grace = 20 * time.Second

func limit(ctx context.Context, seconds int) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(seconds)*time.Second+grace)
}

// iperfPort is that of the first server; each process has one. iperf3(1)
const iperfPort = 5201

// tcp runs so many processes of iperf3 at once and takes what their receivers counted.
func tcp(figure, cpu string, n int, args ...string) func(context.Context, *setup, int) (map[string]float64, error) {
	return func(ctx context.Context, s *setup, seconds int) (map[string]float64, error) {
		ctx, cancel := limit(ctx, seconds)
		defer cancel()
		var group errgroup.Group
		got := make([]transfer, n)
		before := busy()
		for i := range got {
			group.Go(func() error {
				args := append([]string{
					"-c", s.two.Addr().String(), "-p", strconv.Itoa(iperfPort + i), "-t", strconv.Itoa(seconds), "-J",
				}, args...)
				out, err := s.one.Run(ctx, "iperf3", args...)
				got[i], err = readTransfer(out, err)
				return err
			})
		}
		err := group.Wait()
		after := busy()
		if err != nil {
			return nil, err
		}
		rate, all := 0.0, 0.0
		for _, t := range got {
			rate += t.gbits / t.seconds
			all += t.gbits
		}
		figures := map[string]float64{figure: rate}
		if cpu != "" {
			figures[cpu] = (after - before).Seconds() / all
		}
		return figures, nil
	}
}

// transfer is what the receiver of a run of iperf3 counted; both are positive.
type transfer struct{ gbits, seconds float64 }

// readTransfer reads what iperf3 -J printed before it ended with err.
func readTransfer(out string, err error) (transfer, error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Bytes   float64 `json:"bytes"`
				Seconds float64 `json:"seconds"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	jsonErr := json.Unmarshal([]byte(out), &r)
	switch got := r.End.Received; {
	case jsonErr == nil && r.Error != "":
		return transfer{}, errors.New(r.Error)
	case err != nil || jsonErr != nil:
		return transfer{}, cmp.Or(err, jsonErr)
	case got.Bytes <= 0 || got.Seconds <= 0:
		return transfer{}, errNothing
	default:
		return transfer{got.Bytes * 8 / 1e9, got.Seconds}, nil
	}
}

// errNothing means that a run went well but brought no figure.
var errNothing = errors.New("nothing arrived")

// busy is the processor time that the machine has spent on anything but idling.
func busy() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		n, _ := strconv.ParseInt(f, 10, 64)
		if i >= 1 && i != 4 && i != 5 && i <= 7 { // user nice system, not idle iowait, irq softirq: proc_stat(5)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// runner runs a program in a domain and returns what it prints.
type runner func(ctx context.Context, name string, args ...string) (string, error)

// role runs one of our roles in a domain and reads what it printed.
func role(ctx context.Context, run runner, result any, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := run(ctx, self, append([]string{"role"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), result)
}

// pps counts at the receiver what arrives of a flood of small packets, per second and in all.
func pps(ctx context.Context, s *setup, seconds int) (map[string]float64, error) {
	ctx, cancel := limit(ctx, seconds)
	defer cancel()
	release, err := keepAwake()
	if err != nil {
		return nil, err
	}
	defer release()
	type counted struct {
		r   countResult
		err error
	}
	// Where the two share a processor by chance, a flood takes twice as long.
	receiver, sender := s.two.Run, s.one.Run
	if first, last := ends(allowed()); first != last {
		receiver, sender = alone(first, receiver), alone(last, sender)
	}
	done := make(chan counted, 1)
	go func() {
		var c counted
		c.err = role(ctx, receiver, &c.r, "count", fmt.Sprint(float64(seconds)+0.5))
		done <- c
	}()
	var sent countResult
	sendErr := role(ctx, sender, &sent, "send", s.two.Addr().String(), fmt.Sprint(float64(seconds)+0.3))
	c := <-done
	if err := errors.Join(sendErr, c.err); err != nil {
		return nil, err
	}
	if c.r.PerSecond == 0 {
		return nil, errNothing
	}
	return map[string]float64{"64-byte pps": c.r.PerSecond, "packets": float64(c.r.Packets)}, nil
}

// alone has programs run on one processor.
func alone(cpu string, run runner) runner {
	return func(ctx context.Context, name string, args ...string) (string, error) {
		return run(ctx, "taskset", append([]string{"-c", cpu, name}, args...)...)
	}
}

// allowed lists the processors that this process may use: 0-3,8; proc_pid_status(5).
func allowed() string {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "\nCpus_allowed_list:")
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}

// ends returns the first and the last processor of a list.
func ends(list string) (first, last string) {
	numbers := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '-' })
	if len(numbers) == 0 {
		return "", ""
	}
	return numbers[0], numbers[len(numbers)-1]
}

// rr counts requests and responses, one at a time.
func rr(network string) func(context.Context, *setup, int) (map[string]float64, error) {
	return func(ctx context.Context, s *setup, seconds int) (map[string]float64, error) {
		ctx, cancel := limit(ctx, seconds)
		defer cancel()
		release, err := keepAwake()
		if err != nil {
			return nil, err
		}
		defer release()
		var r rrResult
		if err := role(ctx, s.one.Run, &r, "rr", network, s.two.Addr().String(), fmt.Sprint(seconds)); err != nil {
			return nil, err
		}
		if r.PerSecond == 0 {
			return nil, errNothing
		}
		return map[string]float64{network + " rr/s": r.PerSecond, network + " p50 us": r.P50, network + " p90 us": r.P90, network + " p99 us": r.P99}, nil
	}
}

// keepAwake keeps idle processors from sleeping, since on a virtual machine waking one costs more than
// everything that is compared here: PM QoS of the kernel, which machines without idle states need not have.
// A busy loop of low priority would not do: a daemon is in a session of its own, and between sessions the
// kernel shares the processors equally, whatever their priorities are; sched(7), autogroup.
func keepAwake() (release func(), err error) {
	f, err := os.OpenFile("/dev/cpu_dma_latency", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, 4)); err != nil { // 0 µs, as long as the file is open
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}
