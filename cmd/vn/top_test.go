package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
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

Host                           Sent/s        bit/s   Received/s        bit/s  MACs; last heard by unicast, by the group
192.0.2.2                           0            0            0            0  0; 1.0 s, never

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
	b.Reset()
	writeTop(&b, traffic.Snapshot{Sampled: 64, MACs: []traffic.MAC{
		{Vnet: "97", MAC: "00:16:3e:00:00:01", Port: "vif1.0", Tx: traffic.Counts{Packets: 64, Bytes: 6400}},
		{Vnet: "97", MAC: "00:16:3e:00:00:02", Port: "vif2.0", Rx: traffic.Counts{Packets: 128, Bytes: 12800}},
	}}, 2, "bytes")
	require.Contains(t, b.String(), `
MAC here                       Sent/s        bit/s   Received/s        bit/s  vnet, port; estimated from one frame in 64
00:16:3e:00:00:02                   0            0           64        51.2k  vnet 97, vif2.0
00:16:3e:00:00:01                  32        25.6k            0            0  vnet 97, vif1.0
`)
	s = traffic.Snapshot{}
	for range 20 {
		s.Vnets = append(s.Vnets, traffic.Vnet{})
	}
	b.Reset()
	writeTop(&b, s, 1, "bytes")
	require.Contains(t, b.String(), "and 5 more\n")
	require.Contains(t, b.String(), "nothing was dropped")
}

// At the port of a bridge the MAC behind it is counted, both ways, once; what is for many is counted for its sender only; of a sample
// the whole is estimated; ports that come and go are followed.
func TestSampler(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	h, err := lab.New(t).Host("A")
	require.NoError(t, err)
	_, err = h.Run(t.Context(), "sh", "-c", "ip link add vnet97 type bridge mcast_snooping 0 && ip link set vnet97 up")
	require.NoError(t, err)
	var domains []*lab.Domain
	for i := range 2 {
		d, err := h.Domain(lab.DomainSpec{
			Name: fmt.Sprint("dom", i), Vif: fmt.Sprintf("vif%d.0", i+1), Bridge: "vnet97", MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, byte(i + 1)},
		})
		require.NoError(t, err)
		domains = append(domains, d)
	}
	require.NoError(t, h.AwaitForwarding(nettest.Soon(t), "vnet97"))
	vnets := []traffic.Vnet{{ID: "97", Bridge: "vnet97"}}
	look := func(s *sampler) {
		t.Helper()
		require.NoError(t, h.Do(func() error {
			list, err := devices()
			require.NoError(t, err)
			return s.look(list, vnets, map[string]bool{"vnif97": true})
		}))
	}
	whole, part := newSampler(t.Context(), 1), newSampler(t.Context(), 4)
	defer whole.close()
	defer part.close()
	for _, s := range []*sampler{whole, part} {
		look(s)
		look(s) // once more changes nothing
		require.Len(t, s.ports, 2)
		s.take()
	}
	frame := func(to ...byte) []byte {
		return append(append(to, 0, 0x16, 0x3e, 0, 0, 1, 0x88, 0xb5), make([]byte, 86)...)
	}
	const count = 200
	for i := range count {
		require.NoError(t, domains[0].Send("eth0", frame(0, 0x16, 0x3e, 0, 0, 2)))
		if i < 10 {
			require.NoError(t, domains[0].Send("eth0", frame(0xff, 0xff, 0xff, 0xff, 0xff, 0xff)))
		}
	}
	sum := map[string]traffic.MAC{}
	take := func(s *sampler) {
		for _, m := range s.take() {
			x := sum[m.MAC+m.Port]
			x.Tx.Packets, x.Tx.Bytes = x.Tx.Packets+m.Tx.Packets, x.Tx.Bytes+m.Tx.Bytes
			x.Rx.Packets, x.Rx.Bytes = x.Rx.Packets+m.Rx.Packets, x.Rx.Bytes+m.Rx.Bytes
			sum[m.MAC+m.Port] = x
		}
	}
	const first, second = "00:16:3e:00:00:01vif1.0", "00:16:3e:00:00:02vif2.0"
	nettest.Eventually(t, "all are seen", func() bool {
		take(whole)
		return sum[first].Tx.Packets >= count+10 && sum[second].Rx.Packets >= count
	})
	require.Equal(t, traffic.Counts{Packets: count, Bytes: count * 100}, sum[second].Rx, "what is for many is nobody's")
	require.Zero(t, sum[first].Rx)
	sum = map[string]traffic.MAC{}
	nettest.Eventually(t, "a sample is seen", func() bool {
		take(part)
		return sum[second].Rx.Packets > count/4 // else it is six standard deviations off
	})
	require.Less(t, sum[second].Rx.Packets, uint64(count*2)) // or eight
	require.Zero(t, sum[second].Rx.Packets%4)
	_, err = h.Run(t.Context(), "ip", "link", "del", "vif2.0")
	require.NoError(t, err)
	nettest.Eventually(t, "the port is forgotten", func() bool {
		whole.mu.Lock()
		defer whole.mu.Unlock()
		return len(whole.ports) == 1
	})
}
