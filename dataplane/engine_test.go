package dataplane

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

func TestTwoHosts(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")

	ping(t, d1, d2.Addr())
	ping(t, d1, d2.Spec.Addrs[1].Addr())

	_, err := d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)

	for _, to := range d2.Spec.Addrs {
		_, err = lab.Transfer(soon(t), d1.Node, d2.Node, to.Addr(), 64<<20)
		require.NoError(t, err)
	}

	s := a.Snapshot()
	require.Len(t, s.Vnets, 1)
	require.True(t, s.Vnets[0].Up)
	require.NotEmpty(t, s.Entries)
	require.Equal(t, b.Addr(), s.Entries[0].Addr)
	t.Logf("%+v", s)
}

// Unicast goes to the right host only, broadcast to all.
func TestThreeHosts(t *testing.T) {
	_, _, hosts := newLab(t, 3, testConfig())
	add(t, "97", hosts...)
	d1, d2, d3 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97"), hosts[2].domain(3, "97")
	c2, c3 := capture(t, d2), capture(t, d3)
	underlay3, err := hosts[2].Capture("eth0", nil)
	require.NoError(t, err)

	toAll := testFrame(broadcastMAC, domainMAC(1), "to all")
	require.NoError(t, d1.Send("eth0", toAll))
	expect(t, c2, toAll)
	expect(t, c3, toAll)

	// d2 speaks, so d1's host knows where it is.
	ping(t, d2, d1.Addr())
	toTwo := testFrame(domainMAC(2), domainMAC(1), "to two")
	require.NoError(t, d1.Send("eth0", toTwo))
	expect(t, c2, toTwo)
	// A later broadcast has overtaken nothing: nothing else came.
	require.NoError(t, d1.Send("eth0", toAll))
	f, err := c3.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, toAll, f.Data)
	for _, f := range underlay3.Take() {
		if _, inner, err := wire.DecodeVUDP(f.Data[min(42, len(f.Data)):]); err == nil {
			require.NotEqual(t, toTwo, inner)
		}
	}
}

func TestSixteenHosts(t *testing.T) {
	const count = 16
	cfg := testConfig()
	cfg.Workers = 1
	_, _, hosts := newLab(t, count, cfg)
	add(t, "97", hosts...)
	var domains []*lab.Domain
	var captures []*lab.Capture
	for i, h := range hosts {
		domains = append(domains, h.domain(i+1, "97"))
		captures = append(captures, capture(t, domains[i]))
	}
	for i, d := range domains {
		toAll := testFrame(broadcastMAC, domainMAC(i+1), fmt.Sprint("from ", i))
		require.NoError(t, d.Send("eth0", toAll))
		for j, c := range captures {
			if j != i {
				expect(t, c, toAll)
			}
		}
	}
	for i := range domains {
		ping(t, domains[i], domains[(i+5)%count].Addr())
	}
	for _, h := range hosts {
		require.Zero(t, h.drops(DropDuplicate))
		require.Zero(t, h.drops(DropLoop))
	}
}

// Vnets do not see each other, nor the physical network.
func TestIsolation(t *testing.T) {
	_, s, hosts := newLab(t, 2, testConfig())
	a, b := hosts[0], hosts[1]
	add(t, "97", a, b)
	add(t, "98", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	e1, e2 := a.domain(11, "98"), b.domain(12, "98")
	c2, ce1, ce2 := capture(t, d2), capture(t, e1), capture(t, e2)
	physical, err := s.Capture(data)
	require.NoError(t, err)
	for i := range 20 {
		f := testFrame(broadcastMAC, domainMAC(1), fmt.Sprint(i))
		require.NoError(t, d1.Send("eth0", f))
		expect(t, c2, f)
	}
	last := testFrame(broadcastMAC, domainMAC(11), "last")
	require.NoError(t, e1.Send("eth0", last))
	f, err := ce2.Next(soon(t))
	require.NoError(t, err)
	require.Equal(t, last, f.Data)
	require.Empty(t, ce1.Take())
	require.Empty(t, c2.Take())
	require.Empty(t, physical.Take())
	// Two vnets may have the same MACs.
	ping(t, d1, d2.Addr())
	ping(t, e1, e2.Addr())
}

func TestTagged(t *testing.T) {
	_, _, hosts := newLab(t, 2, testConfig())
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	c2 := capture(t, d2)
	for _, tags := range [][]byte{
		{0x81, 0, 0, 5},                   // 802.1Q
		{0x88, 0xa8, 0, 7},                // 802.1ad
		{0x88, 0xa8, 0, 7, 0x81, 0, 0, 5}, // both
		{0x81, 0, 0x60, 0},                // priority only
	} {
		for _, to := range [][]byte{broadcastMAC, domainMAC(2)} {
			for _, size := range []int{60, 1514} {
				f := testFrame(to, domainMAC(1), fmt.Sprintf("tagged %x %d", tags, size))
				f = append(f, make([]byte, size-len(f))...)
				f = append(f[:12:12], append(tags, f[12:]...)...)
				if tags[0] != 0x81 && size == 1514 {
					continue // the test's packet socket allows one 802.1Q tag beyond the MTU
				}
				require.NoError(t, d1.Send("eth0", f))
				expect(t, c2, f)
			}
		}
	}
}
