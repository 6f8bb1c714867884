package dataplane

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// BenchmarkAskedWorker is a worker's batch on an engine with 1,000 vnets and 100,000 MACs, alone and while another goroutine asks all
// the time for what a scrape of metrics asks for: p50 and p99 of a batch of 32 frames, how long
// it takes to ask, and how much of a processor. With fewer idle
// processors than two the processor is shared, which p99 shows.
func BenchmarkAskedWorker(b *testing.B) {
	for _, asked := range []bool{false, true} {
		b.Run(fmt.Sprintf("asked=%v", asked), func(b *testing.B) {
			m, w, n := handDriven(b, testConfig())
			h := m.hosts[0]
			w.carrier = packetSink{}
			ids := []vnet.ID{n.config.ID}
			for i := range 999 {
				ids = append(ids, h.attach(configOf(b, fmt.Sprintf("%x", 0x1000+i))).config.ID)
			}
			other := h.addr.Next()
			for i := range 100_000 {
				mac := wire.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
				h.table.LearnRemote(varp.Key{Vnet: ids[i%len(ids)], MAC: mac}, other, varp.Frame, w.now)
			}
			w.view = h.view.Load()
			frame := make([]byte, 1400)
			copy(frame, []byte{2, 0, 0, 0, 0, 0, 0, 0x16, 0x3e, 0, 0, 1, 8, 0, 0x45}) // to MAC 0, which is in vnet 97
			stop, done := make(chan struct{}), make(chan struct{})
			times, asking := 0, time.Duration(0)
			go func() {
				defer close(done)
				for asked {
					select {
					case <-stop:
						return
					default:
					}
					began := time.Now()
					_, _ = h.Status(), h.Engine.MACs()
					asking += time.Since(began)
					times++
				}
			}()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				w.now = h.now()
				for range 32 {
					w.outward(n, frame, wire.VnetHdr{})
				}
				w.transmit(n)
				took = append(took, time.Since(began))
			}
			close(stop)
			<-done
			require.Zero(b, h.drop(DropFrame))
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
			if asked {
				const alone = 5
				began := processorTime(b)
				for range alone {
					_, _ = h.Status(), h.Engine.MACs()
				}
				b.ReportMetric((processorTime(b)-began).Seconds()*1e3/alone, "cpu-ms/ask")
			}
			if times > 0 {
				b.ReportMetric(asking.Seconds()*1e3/float64(times), "ms/ask")
			}
		})
	}
}

// processorTime is what this process has used of the processors.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
