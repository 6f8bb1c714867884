package dataplane

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// A super-frame counts as the frames that it becomes.
func TestBUMRateOfSuperFrames(t *testing.T) {
	cfg := testConfig()
	cfg.BUMRate = 10
	_, w, n := handDriven(t, cfg)
	f := udpFrame(t, net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, 1, make([]byte, 42_000))
	gso := wire.VnetHdr{Flags: wire.FlagNeedsCsum, GSOType: wire.GSOUDPL4, HdrLen: 42, GSOSize: 1400, CsumStart: 34, CsumOffset: 6}
	second := func() (packets, drops uint64) {
		packets, drops = n.shares[0].txPackets.Load(), w.drops[DropRate].Load()
		for range 10 {
			w.outward(n, f, gso)
			w.transmit(n)
		}
		return n.shares[0].txPackets.Load() - packets, w.drops[DropRate].Load() - drops
	}
	packets, drops := second()
	require.EqualValues(t, 30, packets)
	require.EqualValues(t, 9*30, drops)
	for range 2 { // what was owed is paid
		w.now += int64(time.Second)
		packets, _ = second()
		require.Zero(t, packets)
	}
	w.now += int64(time.Second)
	packets, _ = second()
	require.EqualValues(t, 30, packets)

	// What cannot be sent is not paid for, and debts have a bound.
	w.now += int64(time.Minute)
	gso.GSOSize = 1
	packets, _ = second()
	require.Zero(t, packets)
	require.EqualValues(t, 10, w.drops[DropFrame].Load())
	gso.GSOSize = 42
	packets, _ = second()
	require.EqualValues(t, 1000, packets)
	w.now += int64(11 * time.Second)
	packets, _ = second()
	require.EqualValues(t, 1000, packets)
}

func TestExempt(t *testing.T) {
	eth := func(parts ...[]byte) []byte {
		f := append(append([]byte{}, broadcastMAC...), domainMAC(1)...)
		for _, p := range parts {
			f = append(f, p...)
		}
		return f
	}
	ipv4 := func(proto byte, payload ...byte) []byte {
		h := make([]byte, 20)
		h[0], h[9] = 0x45, proto
		return append(h, payload...)
	}
	ipv6 := func(next byte, payload ...byte) []byte {
		h := make([]byte, 40)
		h[0], h[6] = 0x60, next
		return append(h, payload...)
	}
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"ARP":               {eth([]byte{8, 6}, make([]byte, 28)), true},
		"tagged ARP":        {eth([]byte{0x81, 0, 0, 5, 8, 6}, make([]byte, 28)), true},
		"DHCP":              {eth([]byte{8, 0}, ipv4(17, 0, 68, 0, 67, 0, 8, 0, 0)), true},
		"other UDP":         {eth([]byte{8, 0}, ipv4(17, 0, 68, 0, 99, 0, 8, 0, 0)), false},
		"TCP":               {eth([]byte{8, 0}, ipv4(6, 0, 68, 0, 67, 0, 8, 0, 0)), false},
		"short IPv4":        {eth([]byte{8, 0}, []byte{0x45}), false},
		"IPv4, no header":   {eth([]byte{8, 0}, ipv4(17)), false},
		"neighbour":         {eth([]byte{0x86, 0xdd}, ipv6(58, 135, 0, 0, 0)), true},
		"router":            {eth([]byte{0x86, 0xdd}, ipv6(58, 134, 0, 0, 0)), true},
		"echo":              {eth([]byte{0x86, 0xdd}, ipv6(58, 128, 0, 0, 0)), false},
		"DHCPv6":            {eth([]byte{0x86, 0xdd}, ipv6(17, 2, 34, 2, 35, 0, 8, 0, 0)), true},
		"short IPv6":        {eth([]byte{0x86, 0xdd}, []byte{0x60}), false},
		"LLC":               {eth([]byte{0, 3}, []byte{1, 2, 3}), false},
		"tags to the end":   {eth([]byte{0x81, 0, 0, 5, 0x81, 0, 0, 5, 0x81, 0}), false},
		"nothing but MACs":  {eth(), false},
		"a tag's beginning": {eth([]byte{0x81, 0}), false},
	} {
		require.Equal(t, c.want, exempt(c.frame), name)
	}
}
