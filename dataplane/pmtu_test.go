package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// What is forwarded is not made to fit: that is for who gets it.
func TestForwardedUnclamped(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	cfg.Peers = []NamedHost{{Addr: "10.9.1.200"}}
	_, w, n := handDriven(t, cfg)
	syn := append(append(append([]byte{}, broadcastMAC...), domainMAC(9)...), 8, 0)
	mss := []byte{2, 4, 5, 0xb4}
	syn, err := wire.AppendIPv4(syn, wire.IPv4{
		Source: netip.MustParseAddr("10.97.0.9"), Destination: netip.MustParseAddr("10.97.0.1"), Protocol: 6, TTL: 64}, 20+len(mss))
	require.NoError(t, err)
	tcp := make([]byte, 20)
	tcp[12], tcp[13] = 6<<4, 2
	syn = append(append(syn, tcp...), mss...)
	b := vudp(n.config.ID, syn)
	came := string(b)
	other := netip.MustParseAddr("10.9.1.2")
	w.fromHost(b, arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, to: wire.Group, by: dedup.Group})
	require.Len(t, w.queue, 1)
	require.Equal(t, came, string(w.queue[0].parts[1]))
	w.flush()
	w.deliver()
	require.Equal(t, []byte{2, 4, 0x05, 0x74}, b[len(b)-4:]) // 1396
}

// mtu_mode pmtu: senders are told what fits, and nothing is fragmented.
func TestPathMTU(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	_, s, hosts := newLab(t, 2, cfg)
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	ping(t, d1, d2.Addr())
	ping(t, d1, d2.Spec.Addrs[1].Addr())
	fragments, err := s.Capture(func(f lab.Frame) bool {
		return f.EtherType() == 0x0800 && binary.BigEndian.Uint16(f.Data[20:])&0x3fff != 0
	})
	require.NoError(t, err)
	for _, to := range d2.Spec.Addrs {
		_, err = lab.Transfer(soon(t), d1.Node, d2.Node, to.Addr(), 8<<20)
		require.NoError(t, err)
	}
	// A large DF ping draws an ICMP error; after it the kernel knows.
	told, err := d1.Capture("eth0", func(f lab.Frame) bool {
		return !f.Outgoing && f.EtherType() == 0x0800 && f.Data[23] == 1 && f.Data[34] == 3 && f.Data[35] == 4
	})
	require.NoError(t, err)
	p, err := d1.StartPing(d2.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	require.NoError(t, err)
	f, err := told.Next(soon(t))
	require.NoError(t, err)
	p.Close()
	require.EqualValues(t, 1436, binary.BigEndian.Uint16(f.Data[40:]))
	_, err = d1.Ping(soon(t), d2.Addr(), lab.PingOptions{Size: 1408, DontFragment: true})
	require.NoError(t, err)
	require.NotZero(t, hosts[0].drops(DropTooBig))
	require.Empty(t, fragments.Take())
}

// What IPv6 must carry passes however little fits, in fragments of outer packets.
func TestPathMTUOfSmallUnderlay(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	l := lab.New(t)
	s, err := l.Switch("lan", 1300)
	require.NoError(t, err)
	hosts := addHosts(t, s, 2, cfg)
	add(t, "97", hosts...)
	d1, d2 := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	to := d2.Spec.Addrs[1].Addr()
	ping(t, d1, to)
	told, err := d1.Capture("eth0", func(f lab.Frame) bool {
		return !f.Outgoing && f.EtherType() == 0x86dd && f.Data[20] == 58 && f.Data[54] == 2
	})
	require.NoError(t, err)
	_, err = d1.Ping(soon(t), to, lab.PingOptions{Size: 1280 - 48})
	require.NoError(t, err)
	require.Empty(t, told.Take())
	p, err := d1.StartPing(to, lab.PingOptions{Size: 1281 - 48})
	require.NoError(t, err)
	f, err := told.Next(soon(t))
	require.NoError(t, err)
	p.Close()
	require.EqualValues(t, 1280, binary.BigEndian.Uint32(f.Data[58:]))
}

// Answers to frames that do not fit have a limit.
func TestTooBigRate(t *testing.T) {
	cfg := testConfig()
	cfg.MTUMode = MTUPath
	m, w, n := handDriven(t, cfg)
	m.hosts[0].table.LearnRemote(varp.Key{Vnet: n.config.ID, MAC: wire.MAC(domainMAC(1))}, netip.MustParseAddr("10.9.1.2"), varp.Announce, w.now)
	large := udpFrame(t, domainMAC(1), 0, make([]byte, 1472))
	large[20] |= 0x40 // DF
	const frames = 5 * tooBigRate
	for range frames {
		w.outward(n, large, wire.VnetHdr{})
	}
	require.Empty(t, w.unicast.Trains())
	require.EqualValues(t, frames, w.drops[DropTooBig].Load())
	told := m.got(0)
	require.Len(t, told, tooBigRate)
	for _, f := range told {
		require.EqualValues(t, 1436, binary.BigEndian.Uint16(f[40:]))
	}
	require.Zero(t, w.drops[DropPort].Load())
	require.False(t, w.tooBigs.take(w.now, 1))
}
