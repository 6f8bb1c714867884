package topology

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// sample is what host A knows.
func sample() Topology {
	return Topology{Group: "224.10.0.1:1798", Hosts: []Host{
		{Name: "A", Addresses: []netip.Addr{addr("10.9.0.1")}, State: Self, Device: "eth0", MTU: 1500,
			Vnets: []Vnet{
				{ID: "97", Bridge: "vnet97", Vnetif: "vnif97", Security: "none", Up: true, MACs: 2,
					Ports: []Port{{"vif1.0", "vm1"}, {"tap2.0", ""}}},
				{ID: "98", Bridge: "lan", Security: "conf", Problem: "no key"},
			},
			Links: []Link{
				{To: addr("10.9.0.2"), Way: ByUnicast, Heard: 400 * time.Millisecond, TxPackets: 9, TxBytes: 1200, RxPackets: 3, RxBytes: 14_200_000, Note: "14.2 Gbit/s"},
				{To: addr("10.9.0.3"), Way: ByGroup, Heard: 5 * time.Minute, Secured: true},
				{To: addr("10.9.0.4"), Way: ByNone, Heard: -1},
			}},
		{Addresses: []netip.Addr{addr("10.9.0.2"), addr("fd00::2")}, State: Live, Vnets: []Vnet{{ID: "97", Up: true, MACs: 1}}},
		{Addresses: []netip.Addr{addr("10.9.0.3")}, State: Stale},
		{Addresses: []netip.Addr{addr("10.9.0.4")}, State: Gone},
	}}
}

// TestOnly: of some vnets, what is of them and no more; what it is made from stays as it was.
func TestOnly(t *testing.T) {
	whole := sample()
	one := whole.Only(func(v Vnet) bool { return v.ID == "97" })
	require.Len(t, one.Hosts, 2)
	require.Equal(t, whole.Hosts[0].Vnets[:1], one.Hosts[0].Vnets)
	require.Equal(t, whole.Hosts[0].Links[:1], one.Hosts[0].Links)
	require.Equal(t, whole.Hosts[1], one.Hosts[1])
	none := whole.Only(func(Vnet) bool { return false })
	require.Len(t, none.Hosts, 1, "this host")
	require.Empty(t, none.Hosts[0].Vnets)
	require.Equal(t, sample(), whole)
}

func TestText(t *testing.T) {
	require.Equal(t, `A  10.9.0.1 on eth0, MTU 1500, group 224.10.0.1:1798
├ vnet 97: 2 MACs
│ ├ vif1.0  vm1
│ └ tap2.0
├ vnet 98 on lan, conf: 0 MACs, DOWN: no key
├ unicast ── 10.9.0.2  live, heard 0.4 s ago, 1.2 KiB out, 13.5 MiB in, 14.2 Gbit/s
│ └ vnet 97: 1 MAC
├ group, secured ── 10.9.0.3  stale, heard 5 min ago
└ none ── 10.9.0.4  gone
`, sample().Text())
	require.Equal(t, "no host was asked\n", Topology{}.Text())
	require.Contains(t, Topology{Hosts: []Host{{Name: "A", State: Self}}}.Text(), "no vnets, no other hosts")
}

// Two hosts' views become one: each is told of by itself, and a third one once.
func TestJoin(t *testing.T) {
	a := sample()
	b := Topology{Hosts: []Host{
		{Name: "B", Addresses: []netip.Addr{addr("10.9.0.2")}, State: Self, Vnets: []Vnet{{ID: "97", Up: true, Ports: []Port{{"vif3.0", "vm2"}}}},
			Links: []Link{{To: addr("10.9.0.1"), Way: ByUnicast}}},
		{Addresses: []netip.Addr{addr("10.9.0.1")}, State: Live},
		{Addresses: []netip.Addr{addr("10.9.0.3")}, State: Live},
	}}
	all := Join(a, b)
	require.Len(t, all.Hosts, 4)
	require.Equal(t, "vm2", all.Find(addr("10.9.0.2")).Vnets[0].Ports[0].Domain)
	require.Equal(t, Stale, all.Find(addr("10.9.0.3")).State)
	require.Nil(t, all.Find(addr("10.9.0.9")))
	require.Len(t, all.edges(), 3, "each pair once")
	require.Contains(t, all.Text(), "unicast ── B  10.9.0.2  live")
	require.Contains(t, all.Text(), "\nB  10.9.0.2, group")
}

func TestGraphs(t *testing.T) {
	dot := sample().DOT()
	require.Contains(t, dot, `h0 [label="A\n10.9.0.1", style="rounded"]`)
	require.Contains(t, dot, `h0v0 [label="vnet 97\nvm1\ntap2.0", shape=ellipse]`)
	require.Contains(t, dot, `h0 -- h1 [style=solid, penwidth=4.0, label="1.2 KiB out, 13.5 MiB in\n14.2 Gbit/s"]`)
	require.Contains(t, dot, `h0 -- h2 [style=dotted, penwidth=1.0, label="secured"]`)
	mermaid := sample().Mermaid()
	require.True(t, strings.HasPrefix(mermaid, "flowchart LR\n  h0[\"A<br/>10.9.0.1\"]\n"), mermaid)
	require.Contains(t, mermaid, `h0 ===|"1.2 KiB out, 13.5 MiB in<br/>14.2 Gbit/s"| h1`)
	require.Contains(t, mermaid, "h0 ~~~ h3\n")
}

// What others chose is text, wherever it is drawn.
func TestHostileNames(t *testing.T) {
	x := sample()
	evil := "x\"]</text><script>\x1b[2J\n\\&;|"
	x.Hosts[0].Name, x.Hosts[0].Vnets[0].Ports[0].Domain, x.Hosts[0].Vnets[0].Bridge = evil, evil, evil
	x.Hosts[0].Links[0].Note, x.Group = evil, evil
	for _, s := range []string{x.Text(), x.DOT(), x.Mermaid(), x.SVG(func(Host) string { return evil })} {
		require.NotContains(t, s, "\x1b")
	}
	require.NotContains(t, x.SVG(nil), "<script>")
	wellFormed(t, x.SVG(func(Host) string { return evil }))
	require.NotContains(t, x.Mermaid(), "<script>")
	require.Contains(t, x.DOT(), `x\"]</text><script>[2J\\&;|`)
}

func wellFormed(t *testing.T, s string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(s))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			require.NoError(t, err, s)
		}
	}
}

// Boxes cover each other in no picture, however many hosts there are, and no more are drawn than one can read.
func TestSVG(t *testing.T) {
	for n := range 80 {
		x := Topology{Hosts: []Host{}}
		for i := range n {
			h := Host{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, State: Live}
			if i == 0 {
				h.State = Self
			} else {
				x.Hosts[0].Links = append(x.Hosts[0].Links, Link{To: h.Addresses[0], Way: ByUnicast, Secured: true})
			}
			x.Hosts = append(x.Hosts, h)
		}
		s := x.SVG(nil)
		wellFormed(t, s)
		require.Equal(t, min(n, maxDrawn), strings.Count(s, `<rect class="box`))
		require.Equal(t, max(0, min(n, maxDrawn)-1), strings.Count(s, "<line"))
		require.Equal(t, n > maxDrawn, strings.Contains(s, fmt.Sprintf("%d more hosts", n-maxDrawn)))
		const tall = 50.0
		px, py, width, height := place(min(n, maxDrawn), tall)
		for i := range px {
			require.True(t, px[i]-boxWidth/2 >= 0 && px[i]+boxWidth/2 <= width && py[i]-tall/2 >= 0 && py[i]+tall/2 <= height, "%d of %d", i, n)
			for j := range i {
				dx, dy := px[i]-px[j], py[i]-py[j]
				require.True(t, max(dx, -dx) >= boxWidth || max(dy, -dy) >= tall, "hosts %d and %d of %d", i, j, n)
			}
		}
	}
	s := sample().SVG(func(h Host) string { return "host/" + h.Address() })
	require.Contains(t, s, `<a href="host/10.9.0.3">`)
	require.Contains(t, s, `class="link group"`)
	require.Contains(t, s, "vnet 98 on lan, conf: down")
}

// A host with very many vnets has a box that can be looked at, and in it those that are down.
func TestManyVnets(t *testing.T) {
	x := Topology{Hosts: []Host{{Name: "a", State: Self}}}
	for i := range 1000 {
		x.Hosts[0].Vnets = append(x.Hosts[0].Vnets, Vnet{ID: fmt.Sprintf("%x", 0x100+i), Up: i != 999})
	}
	s := x.SVG(nil)
	wellFormed(t, s)
	said, drawn, _ := strings.Cut(s, "</desc>")
	require.Contains(t, said, "and 988 more vnets")
	require.Contains(t, said, "vnet 4e7: 0 MACs, DOWN")
	require.Contains(t, x.Text(), "vnet 3e8", "who asks for a text gets all")
	require.Contains(t, drawn, "vnet 4e7: down")
	require.Contains(t, drawn, "and 988 more vnets")
	require.Less(t, strings.Count(drawn, "<text"), 20)
}

// TestPictureIsBounded: however many hosts, vnets and MACs there are, a picture is some hundred boxes and lines.
func TestPictureIsBounded(t *testing.T) {
	size := func(hosts, vnets, ports, macs int) int {
		x := Topology{Hosts: []Host{{Name: "a", State: Self, Addresses: []netip.Addr{addr("10.8.0.1")}}}}
		for i := range vnets {
			v := Vnet{ID: fmt.Sprintf("%x", 0x1000+i), Up: true, MACs: macs}
			for p := range ports {
				v.Ports = append(v.Ports, Port{Device: fmt.Sprintf("vif%d.0", p)})
			}
			x.Hosts[0].Vnets = append(x.Hosts[0].Vnets, v)
		}
		for i := range hosts {
			h := Host{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})}, State: Live}
			for j := range vnets {
				h.Vnets = append(h.Vnets, Vnet{ID: fmt.Sprintf("%x", 0x1000+j), Up: true, MACs: macs})
			}
			x.Hosts = append(x.Hosts, h)
			x.Hosts[0].Links = append(x.Hosts[0].Links, Link{To: h.Addresses[0], Way: ByUnicast, TxPackets: 1, RxPackets: 1})
		}
		s := x.Inline(func(Host) string { return "#" })
		wellFormed(t, s)
		return len(s)
	}
	small := size(maxDrawn, maxVnets+1, maxListed+1, 1000)
	require.Less(t, size(1000, 200, 200, 100_000), small+small/4)
}

func TestJSON(t *testing.T) {
	b, err := json.Marshal(sample())
	require.NoError(t, err)
	var again Topology
	require.NoError(t, json.Unmarshal(b, &again))
	require.Equal(t, sample(), again)
}

func TestWords(t *testing.T) {
	require.Equal(t, []string{"0 B", "1023 B", "1.0 KiB", "13.2 GiB"}, []string{Bytes(0), Bytes(1023), Bytes(1024), Bytes(14_200_000_000)})
	require.Equal(t, []string{"never", "0.0 s ago", "11 s ago", "3 min ago", "5 h ago"},
		[]string{Ago(-1), Ago(0), Ago(11 * time.Second), Ago(3 * time.Minute), Ago(5 * time.Hour)})
}
