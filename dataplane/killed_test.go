package dataplane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// asDaemon makes this program run an engine with vnet 97, as a daemon does, in the namespace that it is started in; its value
// says whether domains may pass their bridges by.
const asDaemon = "XEND_TEST_DAEMON"

// daemonIn says how packets come in to it, as inBy names it.
const daemonIn = "XEND_TEST_DAEMON_IN"

// daemon runs until its standard input ends. It says on standard output when the kernel carries vnet 97 and how many MACs are
// known then.
func daemon() int {
	err := func() error {
		h, err := hostnet.New()
		if err != nil {
			return err
		}
		cfg := inBy(fastConfig(), os.Getenv(daemonIn))
		cfg.Bypass = Bypass(os.Getenv(asDaemon))
		e, err := New(cfg, h, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err != nil {
			return err
		}
		c, err := vnet.ConfigFromSXP(sxp.List(sxp.Atom("vnet"), sxp.Pair("id", "97")))
		if err != nil {
			return err
		}
		d, err := port.Ensure(h, port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif})
		if err != nil {
			return err
		}
		if err := e.Attach(c, d); err != nil { // before it runs, as those that are files
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		go func() {
			for ctx.Err() == nil {
				f := e.Counters().FastPath
				why, known := f.Vnets[c.ID]
				passed := cfg.Bypass == BypassOff
				for _, p := range f.Ports {
					passed = passed || pastBridge(p.Way)
				}
				if n := len(e.Entries(Filter{})); known && why == "" && n > 0 && passed {
					fmt.Println("ready", n)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		return e.Run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is such a daemon.
type process struct {
	cmd *exec.Cmd
	out *bufio.Reader
	in  io.Closer
	t   testing.TB
	// took says that ready has returned.
	took bool
}

// startProcess starts a daemon on a host, where packets come in as inBy names it.
func startProcess(t testing.TB, h *lab.Host, bypass Bypass, in string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := h.Command(context.Background(), self)
	cmd.Env = append(cmd.Env, asDaemon+"="+string(bypass), daemonIn+"="+in)
	cmd.Stderr = &testLog{T: t, Name: h.Name}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, h.Start(cmd))
	return &process{cmd: cmd, out: bufio.NewReader(out), in: stdin, t: t}
}

// ready waits until the kernel carries the vnet, and the daemon knows of MACs.
func (p *process) ready() {
	p.t.Helper()
	if p.took {
		return
	}
	defer time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() }).Stop() // then nothing is read
	line, err := p.out.ReadString('\n')
	require.NoError(p.t, err)
	require.True(p.t, strings.HasPrefix(line, "ready "), line)
	p.took = true
}

// kill kills it, and waits until it is gone with all that it had open.
func (p *process) kill() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(p.t, p.cmd.Wait(), &exit)
	require.Equal(p.t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
}

// end ends it in order.
func (p *process) end() {
	p.t.Helper()
	p.in.Close()
	require.NoError(p.t, p.cmd.Wait())
}

// TestDaemonsKilled: the daemons of both hosts are processes, and killed (SIGKILL) in turn, again and again, each time as soon as
// it has taken over from the one before, or while it was about to: an established flow loses nothing and gets nothing twice.
func TestDaemonsKilled(t *testing.T) {
	for name, c := range map[string]struct {
		bypass Bypass
		in     string
		rounds int
	}{
		"TC": {BypassOff, "tc", 6}, "past the bridge": {BypassAuto, "tc", 4},
		"XDP": {BypassOff, "xdp", 6}, "XDP, past the bridge": {BypassAuto, "xdp", 4},
		"joined, past the bridge": {BypassAuto, "joined", 4},
	} {
		t.Run(name, func(t *testing.T) {
			bypass, rounds, plain := c.bypass, c.rounds, c.in != "tc"
			s, err := lab.New(t).Switch("lan", 0)
			require.NoError(t, err)
			v := configOf(t, "97")
			var hosts [2]*lab.Host
			var daemons [2]*process
			var domains [2]*lab.Domain
			for i := range hosts {
				hosts[i] = addHost(t, s, s.Name+string(rune('A'+i)))
				if plain {
					makePlain(t, hosts[i])
				}
				_, err := port.Ensure(hosts[i].Net, port.Spec{ID: v.ID, Bridge: v.Bridge, Vnetif: v.Vnetif})
				require.NoError(t, err)
				daemons[i] = startProcess(t, hosts[i], bypass, c.in)
				domains[i] = (&testHost{Host: hosts[i], t: t}).domain(i+1, "97")
			}
			ping(t, domains[0], domains[1].Addr())
			for _, d := range daemons {
				d.ready()
			}
			// Past its beginning: what user space sent comes before what the kernel sends.
			pings, err := domains[0].StartPing(domains[1].Addr(), lab.PingOptions{Interval: time.Millisecond})
			require.NoError(t, err)
			for range 100 {
				_, err = pings.Fresh(soon(t))
				require.NoError(t, err)
			}
			pings.Close()
			there := startStream(t, domains[0], domains[1], time.Millisecond)
			back := startStream(t, domains[1], domains[0], time.Millisecond)
			var bulk *segments
			var passed *lab.Capture
			if plain {
				// What the card's packet sockets see of it has passed XDP.
				device, segment := "eth0", isSegment
				if c.in == "joined" {
					device, segment = fastpath.JoinDevice, isJoined
				}
				passed, err = hosts[1].Capture(device, segment)
				require.NoError(t, err)
				bulk = startSegments(t, domains[0], domains[1], time.Millisecond)
				_, err = passed.Next(soon(t))
				require.NoError(t, err)
				passed.Take()
			}
			for round := range rounds {
				i := round % 2
				daemons[i].kill()
				there.more(20) // nobody is there
				back.more(20)
				daemons[i] = startProcess(t, hosts[i], bypass, c.in)
				if round/2%2 == 0 { // else the next kill comes while the next one takes over
					daemons[i].ready()
				} else {
					there.more(round * 10)
				}
			}
			for _, d := range daemons {
				d.ready()
			}
			for _, s := range []*stream{there, back} {
				t.Logf("%d datagrams", s.complete(t))
			}
			if plain {
				n := bulk.end()
				require.Greater(t, len(passed.Take()), int(n)*9/10, "of %d by XDP, or by the pair", n)
				t.Logf("%d segments", n)
			}
			for i, d := range daemons {
				d.end()
				require.NoError(t, RemoveFastPath(hosts[i].Net))
			}
		})
	}
}

// more waits until that many more datagrams were sent.
func (s *stream) more(n int) {
	s.t.Helper()
	now, _ := s.numbers()
	eventually(s.t, "the stream goes on", func() bool {
		next, _ := s.numbers()
		return next >= now+uint64(n)
	})
}

// numbers are that of the next datagram and the highest one that came.
func (s *stream) numbers() (next, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(s.sent), s.last
}

// arrives waits until a datagram has arrived that is sent from now on.
func (s *stream) arrives() {
	s.t.Helper()
	s.more(1)
	n, _ := s.numbers()
	eventually(s.t, "the stream arrives", func() bool {
		_, last := s.numbers()
		return last >= n
	})
}

// missing counts those from a number on, below the highest one that came, that did not come.
func (s *stream) missing(from uint64) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := from; at < s.last; at++ {
		if s.got[at] == 0 {
			n++
		}
	}
	return n
}
