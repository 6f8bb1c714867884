package dataplane

import (
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/internal/bpftest"
	"github.com/xenvnet/xend/internal/lab"
)

// TestVerifierRefuses: where the kernel's verifier refuses a program user space carries all, which one line of the log tells with
// the verifier's words.
func TestVerifierRefuses(t *testing.T) {
	_, hosts := startPair(t, func(_ int, h *lab.Host) *testHost {
		return startEngineWith(t, h, fastConfig(), func(e *Engine) {
			e.programs.verifyEvery = 10 * time.Millisecond
			e.programs.load = func(fastpath.Times, []ebpf.ProgramID) (kernelTables, [2]*ebpf.Program, error) {
				_, err := ebpf.NewProgram(&ebpf.ProgramSpec{
					Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{asm.Return()}, // what is undefined
				})
				return nil, [2]*ebpf.Program{}, &fastpath.UnsupportedError{Needs: "eBPF programs at TC", Err: err}
			}
		})
	})
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	for range 20 {
		ping(t, one, two.Addr())
		hosts[0].mirror.look()
	}
	require.Equal(t, 1, hosts[0].log.Count("no kernel fast path"))
	require.Equal(t, 1, hosts[0].log.Count("R0 !read_ok"))
	for line := range strings.Lines(hosts[0].log.String()) {
		if strings.Contains(line, "R0 !read_ok") {
			require.Contains(t, line, "no kernel fast path")
		}
	}
	require.Contains(t, hosts[0].Status().FastPath.Problem, "R0 !read_ok")
	require.False(t, hosts[0].Status().FastPath.On)
}

// TestAnotherXDPLater: somebody puts an XDP program in the place of ours, by force. Ours steps aside: TC takes over, theirs sees every
// packet, of an established flow nothing is lost or doubled, and the log says why. When theirs is gone, ours comes back.
func TestAnotherXDPLater(t *testing.T) {
	hosts, one, two := startPlain(t)
	there, back := startStream(t, one, two, time.Millisecond), startStream(t, two, one, time.Millisecond)
	there.arrives()
	back.arrives()
	b := hosts[1]
	card := deviceOf(t, b.Host, "eth0").Index
	ours := b.xdp()
	prog, count := bpftest.Counter(t, ebpf.XDP, bpftest.XDPPass)
	require.NoError(t, b.Net.AttachXDP(card, prog, ours))
	theirs := b.xdp()
	require.NotEqual(t, ours, theirs)
	eventually(t, "TC", func() bool {
		u := b.Counters().FastPath.Underlays[0]
		return u.Way == hookClsact && strings.Contains(u.Why, "another XDP program")
	})
	require.Equal(t, theirs, b.xdp(), "theirs stays")
	seen := count()
	first, _ := there.numbers()
	there.more(200)
	there.arrives()
	_, last := there.numbers()
	require.GreaterOrEqual(t, count()-seen, last-first, "packets that theirs saw, of those that came")
	b.carrying()
	eventually(t, "it is said", func() bool { return b.log.Count("another XDP program") > 0 })
	require.Zero(t, b.log.Count("stays where it should not be"))
	require.NoError(t, b.Net.DetachXDP(card, theirs))
	b.mirror.lookAtNetwork()
	b.awaitXDP()
	there.more(100)
	back.more(100)
	there.complete(t)
	back.complete(t)
}

// TestOrderAsTheKernelTakesOver: of a flow that goes over from user space to the kernel none is overtaken once the kernel carries it.
func TestOrderAsTheKernelTakesOver(t *testing.T) {
	_, _, hosts := newLab(t, 2, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	s := startStream(t, one, two, 100*time.Microsecond) // nobody knows a MAC
	eventually(t, "the kernels carry it", func() bool {
		tx, _ := hosts[0].carried()
		_, rx := hosts[1].carried()
		return tx.Packets > 0 && rx.Packets > 0
	})
	s.arrives()
	over, _ := s.numbers()
	s.more(1000)
	s.arrives()
	sent, lost, doubled := s.end()
	require.Zero(t, doubled, "of %d", sent)
	t.Logf("%d of %d were lost while nobody knew the MAC, %d overtaken", lost, sent, len(s.overtaken))
	for _, n := range s.overtaken {
		require.Less(t, n, over, "it was overtaken")
	}
}
