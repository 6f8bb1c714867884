package dataplane

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// Three hosts of one segment that have each other as peers: what one of them floods ends, and the operator is told
// what to do.
func TestMutualPeersOnOneSegment(t *testing.T) {
	_, s, hosts := newLab(t, 3, testConfig())
	add(t, "97", hosts...)
	for _, a := range hosts {
		for _, b := range hosts {
			if a != b {
				require.NoError(t, a.AddPeer(soon(t), b.Addr(), 0))
			}
		}
	}
	var domains []*lab.Domain
	for i, h := range hosts {
		domains = append(domains, h.domain(i+1, "97"))
	}
	heard := capture(t, domains[2])
	ours := func(f lab.Frame) bool {
		_, frame, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):])
		return err == nil && len(frame) >= 14 && frame[12] == 0x88 && frame[13] == 0xb5
	}
	wireTap, err := s.Capture(ours)
	require.NoError(t, err)
	const frames = 200
	for i := range frames {
		f := testFrame(broadcastMAC, domainMAC(1), "storm "+strings.Repeat("x", i))
		require.NoError(t, domains[0].Send("eth0", f))
		expect(t, heard, f)
	}
	// All of it is there when nothing comes for a while.
	seen := 0
	for quiet := false; !quiet; {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := wireTap.Next(ctx)
		cancel()
		if quiet = err != nil; !quiet {
			seen++
		}
		require.Less(t, seen, 50*frames, "it does not end")
	}
	eventually(t, "an alarm", func() bool {
		return slices.ContainsFunc(hosts, func(h *testHost) bool {
			return h.log.Count("let one host of each segment have peers") > 0
		})
	})
}
