package main

import (
	"bufio"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/traffic"
)

// What was dropped stands below the vnet and the host that it is of, most first.
func TestPrintTraffic(t *testing.T) {
	var b strings.Builder
	a := &app{stdout: bufio.NewWriter(&b)}
	a.printTraffic(traffic.Snapshot{
		Vnets: []traffic.Vnet{{ID: "97", Up: true, Tx: traffic.Counts{Packets: 4, Bytes: 400}, Here: 1, Drops: traffic.Drops{"loop": 2, "bum_rate": 30}}, {ID: "98", Up: true}},
		Hosts: []traffic.Host{{Address: "192.0.2.2", Unicast: 1, Group: -1, Drops: traffic.Drops{"duplicate": 7}}},
	}, false)
	require.NoError(t, a.stdout.Flush())
	require.Contains(t, b.String(), "  1, 0\n"+strings.Repeat(" ", 25)+"dropped: bum_rate 30, loop 2\n\nHost")
	require.Contains(t, b.String(), "  1.0 s, never; 0\n"+strings.Repeat(" ", 25)+"dropped: duplicate 7\n")
	require.NotContains(t, b.String(), "98 ")
}
