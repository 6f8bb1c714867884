package daemon

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/xendcompat/client"
)

// BenchmarkManyVnets has a daemon, in a process of its own, with many vnets, each on a bridge of its own and with a domain's device on
// that: what it takes to make them, to have them, to start again with them (adopted, after a kill), to delete some, and to stop.
//
//	go test ./xendcompat/daemon -run - -bench ManyVnets -benchtime 1x -v
//
// PROFILE_DIR, if set, gets profiles of each daemon's processor time and memory.
func BenchmarkManyVnets(b *testing.B) {
	for _, size := range []int{10, 100, 500, 1000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			for range b.N {
				manyVnets(b, size)
			}
		})
	}
}

const (
	// aHundred is how many vnets are made, or deleted, between two looks at the clock.
	aHundred = 100
	// idleFor is how long a daemon is watched that has nothing to do.
	idleFor = 10 * time.Second
	// runEnv has the test binary be a daemon with that prefix, until SIGTERM.
	runEnv = "DAEMON_TEST_RUN"
)

func runMain(prefix string) int {
	p, err := paths.New(prefix)
	if dir := os.Getenv("PROFILE_DIR"); err == nil && dir != "" {
		f, errCreate := os.Create(filepath.Join(dir, fmt.Sprintf("daemon%d.prof", os.Getpid())))
		if errCreate == nil {
			errCreate = pprof.StartCPUProfile(f)
		}
		if errCreate != nil {
			fmt.Println(errCreate)
			return 1
		}
		defer pprof.StopCPUProfile()
		defer func() {
			if f, err := os.Create(filepath.Join(dir, fmt.Sprintf("heap%d.prof", os.Getpid()))); err == nil {
				_ = pprof.WriteHeapProfile(f)
				_ = f.Close()
			}
		}()
	}
	if err == nil {
		err = Run(context.Background(), Options{Paths: p, Ready: func() error { fmt.Println("ready"); return nil }})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// running is a daemon in a process of its own, in the network namespace of who started it.
type running struct {
	b   *testing.B
	cmd *exec.Cmd
}

func start(b *testing.B, p paths.Paths) *running {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), runEnv+"="+p.Prefix)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	require.Equal(b, "ready\n", line)
	return &running{b, cmd}
}

func (d *running) end(signal os.Signal) {
	d.b.Helper()
	require.NoError(d.b, d.cmd.Process.Signal(signal))
	err := d.cmd.Wait()
	if signal != unix.SIGKILL {
		require.NoError(d.b, err)
	}
}

func manyVnets(b *testing.B, size int) {
	p, h := newHost(b)
	domains, err := hostnet.Unshare()
	require.NoError(b, err)
	defer domains.Close()
	underlay(b, h)

	d := start(b, p)
	xend := client.NewHTTP("unix", p.Socket())
	each(b, "make", size, func(i int) {
		require.NoError(b, xend.CreateVnet(b.Context(), "", []byte(vnetText(i))))
	})
	b.ReportMetric(d.idle(), "%idle-empty")
	each(b, "join", size, func(i int) { join(b, h, domains, i) })
	b.ReportMetric(d.idle(), "%idle")
	b.ReportMetric(d.memory(), "MiB")
	if os.Getenv("PROFILE_DIR") == "" {
		d.end(unix.SIGKILL)
	} else {
		d.end(unix.SIGTERM) // it writes its profile
	}

	began := time.Now()
	d = start(b, p)
	b.ReportMetric(time.Since(began).Seconds(), "s/restart")
	each(b, "delete", min(size, aHundred), func(i int) {
		require.NoError(b, xend.DeleteVnet(b.Context(), vnetID(i)))
	})
	began = time.Now()
	d.end(unix.SIGTERM)
	b.ReportMetric(time.Since(began).Seconds(), "s/stop")
}

func vnetID(i int) string { return strconv.FormatInt(int64(0x2000+i), 16) }

func vnetText(i int) string {
	return fmt.Sprintf("(vnet (id %s) (bridge b%s) (vnetif v%s))\n", vnetID(i), vnetID(i), vnetID(i))
}

// underlay gives the host a network card by which other hosts could be reached.
func underlay(b *testing.B, h *hostnet.Host) {
	b.Helper()
	require.NoError(b, h.CreateVeth(hostnet.Veth{Name: "eth0", Partner: "wire"}))
	for _, name := range []string{"lo", "eth0", "wire"} {
		l, err := h.LinkByName(name)
		require.NoError(b, err)
		require.NoError(b, h.SetUp(l.Index))
		if name == "eth0" {
			require.NoError(b, h.EnsureAddress(hostnet.Address{Index: l.Index, Prefix: netip.MustParsePrefix("10.0.0.1/24")}))
			require.NoError(b, h.EnsureRoute(hostnet.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.2"), Index: l.Index}))
		}
	}
}

// each does something size times, and reports what that takes in the first and the last hundred; all hundreds go to the log.
func each(b *testing.B, what string, size int, do func(i int)) {
	b.Helper()
	var list []string
	for from := 0; from < size; from += aHundred {
		to := min(from+aHundred, size)
		start := time.Now()
		for i := from; i < to; i++ {
			do(i)
		}
		ms := time.Since(start).Seconds() * 1e3 / float64(to-from)
		list = append(list, fmt.Sprintf("%.1f", ms))
		if from == 0 {
			b.ReportMetric(ms, "ms/"+what+"-first")
		}
		b.ReportMetric(ms, "ms/"+what+"-last")
	}
	b.Logf("%s, ms for each, by hundreds: %s", what, strings.Join(list, " "))
}

// join puts a domain's device on a vnet's bridge.
func join(b *testing.B, h, domains *hostnet.Host, i int) {
	b.Helper()
	name := "vif" + vnetID(i)
	require.NoError(b, h.CreateVeth(hostnet.Veth{Name: name, Partner: "e" + vnetID(i), PartnerHost: domains}))
	l, err := h.LinkByName(name)
	require.NoError(b, err)
	bridge, err := h.LinkByName("b" + vnetID(i))
	require.NoError(b, err)
	require.NoError(b, h.SetMaster(l.Index, bridge.Index))
	require.NoError(b, h.SetUp(l.Index))
	e, err := domains.LinkByName("e" + vnetID(i))
	require.NoError(b, err)
	require.NoError(b, domains.SetUp(e.Index))
}

// idle is how much of a processor the daemon takes when nothing happens, in percent.
func (d *running) idle() float64 {
	time.Sleep(5 * time.Second) // whatever follows from what was done
	before, began := d.processorTime(), time.Now()
	time.Sleep(idleFor)
	return 100 * (d.processorTime() - before).Seconds() / time.Since(began).Seconds()
}

// processorTime is what the daemon has taken; proc_pid_stat(5).
func (d *running) processorTime() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	require.NoError(d.b, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	const tick = 10 * time.Millisecond // USER_HZ
	var sum time.Duration
	for _, field := range fields[12:14] { // utime, stime
		n, err := strconv.Atoi(field)
		require.NoError(d.b, err)
		sum += time.Duration(n) * tick
	}
	return sum
}

// memory is the resident size of the daemon, in MiB.
func (d *running) memory() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.cmd.Process.Pid))
	require.NoError(d.b, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	require.NoError(d.b, err)
	return float64(pages*int64(os.Getpagesize())) / (1 << 20)
}
