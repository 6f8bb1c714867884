package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// Many vnets need no more threads than one.
func TestManyVnets(t *testing.T) {
	count := 24
	if os.Getenv("XEND_LONG_TESTS") != "" {
		count = 512
	}
	_, _, hosts := newLab(t, 2, testConfig())
	add(t, "1000", hosts...)
	threads := pprof.Lookup("threadcreate").Count()
	for i := range count {
		add(t, fmt.Sprintf("%x", 0x2000+i), hosts...)
	}
	require.LessOrEqual(t, pprof.Lookup("threadcreate").Count(), threads+16)
	// The last ones carry frames, each its own.
	var domains [2][2]*lab.Domain
	for i, n := range []int{count / 2, count - 1} {
		for j, h := range hosts {
			d, err := h.Domain(lab.DomainSpec{
				Name: fmt.Sprintf("d%d%d", i, j), Vif: fmt.Sprintf("vif%d.0", i+1), Bridge: fmt.Sprintf("vnet%x", 0x2000+n),
				Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.97.0.%d/24", j+1))},
			})
			require.NoError(t, err)
			domains[i][j] = d
		}
		ping(t, domains[i][0], domains[i][1].Addr())
	}
	for i := range count {
		for _, h := range hosts {
			require.NoError(t, detach(h.Engine, configOf(t, fmt.Sprintf("%x", 0x2000+i))))
		}
	}
	for _, h := range hosts {
		require.Len(t, h.Snapshot().Vnets, 1)
		links, err := h.Net.Links()
		require.NoError(t, err)
		for _, l := range links {
			require.False(t, strings.HasPrefix(l.Name, "vnif2"), l.Name)
		}
	}
}

// Tables hold what they are to hold, whatever a flood of MACs brings, and what is known stays usable.
func TestMACFlood(t *testing.T) {
	cfg := testConfig()
	cfg.MaxMACs = 10000
	m, w, n := handDriven(t, cfg)
	e, other := m.hosts[0].Engine, netip.MustParseAddr("10.9.1.2")
	a := arrival{uplink: w.view.uplinks[0], from: other, outer: other}
	mac := func(i int) wire.MAC { return wire.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)} }
	for i := range 5 * cfg.MaxMACs {
		m.net.Take()
		mac := mac(i)
		w.now = e.now()
		w.fromHost(vudp(n.config.ID, testFrame(domainMAC(1), mac[:], "flood")), a)
		mac[0] = 6
		w.outward(n, testFrame(domainMAC(9), mac[:], "flood"), wire.VnetHdr{})
		if i%32 == 0 {
			w.transmit(n)
			w.deliver()
			w.flush()
		}
	}
	st := e.Snapshot().Tables
	require.LessOrEqual(t, st.Entries, cfg.MaxMACs)
	require.LessOrEqual(t, st.Vifs, cfg.MaxMACs)
	require.NotZero(t, st.Evicted)
	require.NotZero(t, w.drops[DropAnnounce].Load(), "announces are not limited")
	addr, ok := e.table.Lookup(varp.Key{Vnet: n.config.ID, MAC: mac(5*cfg.MaxMACs - 1)})
	require.True(t, ok)
	require.Equal(t, other, addr)
}
