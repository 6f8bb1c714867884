package l3

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/netscripts/internal/nstest"
)

// twoDevices is a host with eth0 and eth1, up, and a connection to it.
func twoDevices(t *testing.T) (*nstest.Host, *Conn) {
	h := nstest.New(t)
	h.IP(`link add eth0 type veth peer name far0
link add eth1 type veth peer name far1
link set far0 up
link set far1 up
link set eth0 addrgenmode none
link set eth0 up
link set eth1 addrgenmode none
link set eth1 up`)
	return h, New(h.Host)
}

const rich = `addr add 192.0.2.1/24 dev eth0
addr add 192.0.2.9/24 dev eth0 label eth0:9
addr add 198.51.100.1/25 brd + dev eth0 label eth0:web metric 77
addr add 203.0.113.1 peer 203.0.113.2/32 dev eth0
addr add 10.1.0.1/16 dev eth0 valid_lft 900 preferred_lft 300 noprefixroute
addr add 2001:db8::1/64 dev eth0 nodad
addr add 2001:db8::2/64 dev eth0 nodad valid_lft 900 preferred_lft 300
addr add 2001:db8:1::1/64 dev eth0 nodad noprefixroute home
addr add fe80::5/64 dev eth0 nodad
route add default via 192.0.2.254 dev eth0 src 192.0.2.1 metric 5
route add 10.2.0.0/16 via 172.16.0.1 dev eth0 onlink mtu lock 1400 advmss 1300
route add 10.3.0.0/16 dev eth0 scope link table 100
route add 10.4.0.0/16 via 192.0.2.253 dev eth0 table 100 proto 77 tos 8
route add local 10.5.0.0/16 dev eth0
route add 10.6.0.0/16 nexthop via 192.0.2.253 weight 3 nexthop via 192.0.2.252 onlink dev eth0
route add 10.7.0.0/16 via inet6 fe80::99 dev eth0
nexthop add id 7 via 192.0.2.250 dev eth0
nexthop add id 8 via fe80::77 dev eth0
nexthop add id 6 group 7
route add 10.8.0.0/16 nhid 7
route add 10.9.0.0/16 nhid 6
route add 2001:db8:8::/48 nhid 8
route add default via fe80::99 dev eth0 pref high expires 1000
route add 2001:db8:9::/48 via 2001:db8::99 dev eth0 metric 7 mtu 1400 from 2001:db8::/64
route add 2001:db8:a::/48 dev eth0 table 100
route add 2001:db8:b::/48 nexthop via fe80::97 dev eth0 nexthop via fe80::96 dev eth0 weight 3
neigh add 192.0.2.200 lladdr 02:00:00:00:02:00 dev eth0
neigh add 2001:db8::200 lladdr 02:00:00:00:02:00 dev eth0
neigh add proxy 192.0.2.201 dev eth0
neigh add 192.0.2.202 lladdr 02:00:00:00:02:02 nud reachable dev eth0`

func TestMoveThereAndBack(t *testing.T) {
	h, c := twoDevices(t)
	h.IP(rich)
	eth0, eth1 := h.Index("eth0"), h.Index("eth1")
	// A route over both devices: a gateway of eth1's must be reachable first.
	h.IP(`addr add 192.168.1.1/24 dev eth1
route add 10.10.0.0/16 nexthop via 192.0.2.253 dev eth0 nexthop via 192.168.1.2 dev eth1 weight 2
route add 2001:db8:c::/48 nexthop via fe80::97 dev eth0 nexthop via fe80::97 dev eth1`)
	before, err := c.Capture(eth0)
	require.NoError(t, err)
	other, err := c.Capture(eth1)
	require.NoError(t, err)
	shared := func() string {
		return h.Show("route", "show", "10.10.0.0/16") + h.Show("-6", "route", "show", "2001:db8:c::/48")
	}
	text := shared()
	require.Contains(t, text, "dev eth1 weight 2")

	// Through JSON, as the journal keeps it.
	b, err := json.Marshal(before)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &before))

	// What lies on both devices meanwhile is not a problem.
	h.IP("link add eth2 type veth peer name far2\nlink set far2 up\nlink set eth2 addrgenmode none\nlink set eth2 up")
	eth2 := h.Index("eth2")
	moved := before.Moved(eth0, eth2)
	require.NoError(t, c.Restore(moved, eth2))
	require.NoError(t, c.Clear(eth0))
	now, err := c.Capture(eth2)
	require.NoError(t, err)
	require.Empty(t, Difference(moved, now))
	empty, err := c.Capture(eth0)
	require.NoError(t, err)
	require.True(t, empty.Empty(), "%s", empty.Lines(func(i int) string { return fmt.Sprint(i) }))
	require.Contains(t, h.Show("neigh", "show", "dev", "eth2"), "192.0.2.202 lladdr 02:00:00:00:02:02 STALE")

	require.NoError(t, c.Restore(now.Moved(eth2, eth0), eth0))
	require.NoError(t, c.Clear(eth2))
	after, err := c.Capture(eth0)
	require.NoError(t, err)
	require.Empty(t, Difference(before, after))
	h.IP("link del eth2")
	require.Len(t, shared(), len(text), text) // the order of IPv6 next hops is chance
	still, err := c.Capture(eth1)
	require.NoError(t, err)
	require.Empty(t, Difference(other.Moved(eth2, eth0), still))
}

// What going down takes away is there again afterwards, without a test for duplicates.
func TestRestoreAfterDown(t *testing.T) {
	h, c := twoDevices(t)
	h.IP(rich)
	eth0 := h.Index("eth0")
	before, err := c.Capture(eth0)
	require.NoError(t, err)
	h.IP("link set eth0 down\nlink set eth0 up")
	now, err := c.Capture(eth0)
	require.NoError(t, err)
	require.NotEmpty(t, Difference(before, now))

	require.NoError(t, c.Restore(before, eth0))
	now, err = c.Capture(eth0)
	require.NoError(t, err)
	require.Empty(t, Difference(before, now))
	require.NotContains(t, h.Show("-6", "addr", "show", "dev", "eth0"), "tentative")

	// Once more changes nothing.
	c.Before = func(what string) error { return errors.New(what) }
	before.Resolved = nil
	require.NoError(t, c.Restore(before, eth0))
}

func TestRestoreRepairsLabelsAndOrder(t *testing.T) {
	h, c := twoDevices(t)
	h.IP(`addr add 192.0.2.1/24 dev eth0 label eth0:first
addr add 192.0.2.2/24 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
addr add 2001:db8::2/64 dev eth0 nodad
route add default via 192.0.2.254`)
	eth0 := h.Index("eth0")
	before, err := c.Capture(eth0)
	require.NoError(t, err)
	list := h.Show("-o", "addr", "show", "dev", "eth0")
	h.IP(`addr del 192.0.2.1/24 dev eth0
addr add 192.0.2.1/24 dev eth0
addr del 2001:db8::1/64 dev eth0
addr add 2001:db8::1/64 dev eth0`)
	require.NotEqual(t, list, h.Show("-o", "addr", "show", "dev", "eth0"))
	require.NoError(t, c.Restore(before, eth0))
	require.Equal(t, list, h.Show("-o", "addr", "show", "dev", "eth0"))
	after, err := c.Capture(eth0)
	require.NoError(t, err)
	require.Empty(t, Difference(before, after))
}

func TestLifetimesGoOn(t *testing.T) {
	h, c := twoDevices(t)
	h.IP(`addr add 192.0.2.1/24 dev eth0 valid_lft 1000 preferred_lft 500
addr add 192.0.2.2/24 dev eth0 valid_lft 100 preferred_lft 50
addr add 2001:db8::1/64 dev eth0 nodad valid_lft 1000 preferred_lft 500
route add default via fe80::9 dev eth0 expires 1000
route add 2001:db8:9::/48 dev eth0 expires 100`)
	eth0, eth1 := h.Index("eth0"), h.Index("eth1")
	s, err := c.Capture(eth0)
	require.NoError(t, err)
	s = s.Moved(eth0, eth1)
	s.Taken -= 300e9 // as if read five minutes ago
	require.NoError(t, c.Clear(eth0))
	require.NoError(t, c.Add(s, eth1))
	now, err := c.Capture(eth1)
	require.NoError(t, err)
	left := func(v []byte) int { return int(number(v)) }
	addresses := 0
	for _, b := range now.Addresses {
		m, err := parse(b, addressHead)
		require.NoError(t, err)
		v, _ := m.get(unix.IFA_CACHEINFO)
		require.InDelta(t, 200, left(v), 10)
		require.InDelta(t, 700, left(v[4:]), 10)
		addresses++
	}
	require.Equal(t, 2, addresses, "the one with 100 s to live is gone")
	routes := 0
	for _, b := range now.Routes {
		m, err := parse(b, routeHead)
		require.NoError(t, err)
		if v, ok := m.get(unix.RTA_EXPIRES); ok && m.head[1] == 0 {
			require.InDelta(t, 700, left(v), 10)
			routes++
		}
		require.NotEqual(t, byte(48), m.head[1])
	}
	require.Equal(t, 1, routes)
}

// An address that failed its test is not made usable by being carried over.
func TestUnprovenAddressesAreTested(t *testing.T) {
	h, c := twoDevices(t)
	h.IP("addr add 2001:db8::1/64 dev eth0")
	eth0, eth1 := h.Index("eth0"), h.Index("eth1")
	s, err := c.Capture(eth0)
	require.NoError(t, err)
	require.NoError(t, c.Add(s.Moved(eth0, eth1), eth1))
	require.Contains(t, h.Show("-6", "addr", "show", "dev", "eth1"), "tentative")
}

func TestTemporaryAddresses(t *testing.T) {
	h, c := twoDevices(t)
	h.Sysctl("ipv6/conf/eth0/use_tempaddr", "2")
	h.IP("addr add 2001:db8::1/64 dev eth0 nodad mngtmpaddr valid_lft 1000 preferred_lft 500")
	require.Contains(t, h.Show("-6", "addr", "show", "dev", "eth0"), "temporary")
	eth0, eth1 := h.Index("eth0"), h.Index("eth1")
	s, err := c.Capture(eth0)
	require.NoError(t, err)
	require.Len(t, s.Addresses, 2)
	require.NoError(t, h.Do(func() error {
		settings, err := ReadSettings("eth0")
		require.NoError(t, err)
		require.NoError(t, settings.Apply("eth1"))
		require.NoError(t, c.Restore(s.Moved(eth0, eth1), eth1))
		require.NoError(t, settings.Resume("eth1"))
		now, err := ReadSettings("eth1")
		require.Equal(t, settings, now)
		return err
	}))
	now, err := c.Capture(eth1)
	require.NoError(t, err)
	require.Empty(t, Difference(s.Moved(eth0, eth1), now))
}

func TestGenMode(t *testing.T) {
	h, c := twoDevices(t)
	eth0 := h.Index("eth0")
	mode, err := c.GenMode(eth0)
	require.NoError(t, err)
	require.Equal(t, GenNone, mode)
	require.NoError(t, c.SetGenMode(eth0, 0))
	require.NotContains(t, h.Show("-d", "link", "show", "eth0"), "addrgenmode none")
	require.NoError(t, c.SetGenMode(eth0, GenNone))
	require.Contains(t, h.Show("-d", "link", "show", "eth0"), "addrgenmode none")
	h.IP("link set eth0 mtu 1000") // too small for IPv6
	mode, err = c.GenMode(eth0)
	require.NoError(t, err)
	require.Equal(t, GenAbsent, mode)
	require.NoError(t, c.SetGenMode(eth0, GenNone))
}

// Errors name what could not be done, and Before can prevent every change.
func TestErrors(t *testing.T) {
	h, c := twoDevices(t)
	h.IP("addr add 192.0.2.1/24 dev eth0\nroute add default via 192.0.2.9")
	eth0 := h.Index("eth0")
	s, err := c.Capture(eth0)
	require.NoError(t, err)
	h.IP("link set eth0 down")
	err = c.Restore(s, eth0)
	require.ErrorContains(t, err, fmt.Sprintf("on device %d", eth0))
	require.ErrorContains(t, err, "down")
	c.Before = func(string) error { return errors.New("no") }
	require.EqualError(t, c.Clear(eth0), fmt.Sprintf("remove address 192.0.2.1/24 on device %d: no", eth0))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x02\x18\x80\x00\x01\x00\x00\x00\x08\x00\x01\x00\xc0\x00\x02\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, head := range []int{addressHead, routeHead} {
			if m, err := parse(b, head); err == nil {
				again, err := parse(m.bytes(), head)
				require.NoError(t, err)
				require.Equal(t, m.key(), again.key())
			}
		}
		for _, text := range []func([]byte) string{describeAddress, describeRoute, describeNexthop, describeNeighbour} {
			require.NotEmpty(t, text(b))
		}
		if m, err := parse(b, routeHead); err == nil {
			_, _ = routeRequests(m, func(uint32) bool { return true })
		}
		list := [][]byte{b}
		if len(b) >= routeHead {
			State{Addresses: list, Routes: list, Nexthops: list, Neighbours: list}.Moved(1, 2)
		}
	})
}
