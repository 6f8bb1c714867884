package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/traffic"
)

// The busiest comes first, by what is asked for; what is dropped is told with who sends it.
func TestWriteTop(t *testing.T) {
	s := traffic.Snapshot{
		Time: time.Unix(0, 0),
		Vnets: []traffic.Vnet{
			{ID: "97", Up: true, Tx: traffic.Counts{Packets: 4, Bytes: 100}, Here: 1},
			{ID: "98", Rx: traffic.Counts{Packets: 2, Bytes: 250_000_000}, KernelRx: traffic.Counts{Packets: 1}, Elsewhere: 3, Drops: traffic.Drops{"loop": 4, "malformed": 2}},
		},
		Hosts: []traffic.Host{{Address: "192.0.2.2", Unicast: 1, Group: -1}},
		Drops: []traffic.Drop{{Reason: "loop"}, {Reason: "malformed", Packets: 10, Sources: []traffic.Source{{From: "192.0.2.9"}}}},
	}
	var b strings.Builder
	writeTop(&b, s, 2, "bytes")
	_, text, _ := strings.Cut(b.String(), "\n")
	require.Equal(t, `
Vnet                           Sent/s        bit/s   Received/s        bit/s  MACs
98                                  0            0            1         1.0G  0 here, 3 elsewhere; 50 % by the kernel; DOWN; 3 dropped/s
97                                  2          400            0            0  1 here, 0 elsewhere

Host                           Sent/s        bit/s   Received/s        bit/s  MACs, last heard by unicast, by the group
192.0.2.2                           0            0            0            0  0 MACs, heard 1.0 s, never

   Dropped/s  Reason
           5  malformed  (most ever from 192.0.2.9)
`, text)
	order := func(by string) bool {
		var b strings.Builder
		writeTop(&b, s, 1, by)
		return strings.Index(b.String(), "\n97 ") < strings.Index(b.String(), "\n98 ")
	}
	require.True(t, order("packets"))
	require.True(t, order("name"))
	require.Equal(t, []string{"0", "999", "1.0k", "12.5M"}, []string{bits(0, 1), bits(999, 8), bits(125, 1), bits(1_562_500, 1)})
	s = traffic.Snapshot{}
	for range 20 {
		s.Vnets = append(s.Vnets, traffic.Vnet{})
	}
	b.Reset()
	writeTop(&b, s, 1, "bytes")
	require.Contains(t, b.String(), "and 5 more\n")
	require.Contains(t, b.String(), "nothing was dropped")
}
