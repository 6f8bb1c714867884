package fastpath

import (
	"encoding/binary"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/vnet"
)

// untilAt is where the fields until and changes begin in what programs remember, by the name of the map.
var untilAt = map[string]int{"recent_outs": 16, "recent_ins": 16, "recents": 72}

// remember has a program remember for ever, on all processors, what it remembers on the one that just ran it.
func remember(t *testing.T, prog *ebpf.Program) {
	t.Helper()
	info, err := prog.Info()
	require.NoError(t, err)
	id, ok := info.ID()
	require.True(t, ok)
	n := 0
	for _, m := range mapsOf(id) {
		info, err := m.Info()
		require.NoError(t, err)
		at, ok := untilAt[info.Name]
		if !ok {
			require.NoError(t, m.Close())
			continue
		}
		for k := range m.MaxEntries() {
			var all [][]byte
			require.NoError(t, m.Lookup(k, &all))
			for _, v := range all {
				if binary.NativeEndian.Uint64(v[at:]) == 0 {
					continue
				}
				binary.NativeEndian.PutUint64(v[at:], math.MaxUint64)
				for i := range all {
					all[i] = v
				}
				require.NoError(t, m.Put(k, all))
				n++
				break
			}
		}
		require.NoError(t, m.Close())
	}
	require.Positive(t, n, "the program remembers nothing")
}

// TestChangesAreNoticed: what the programs remember of the tables is void as soon as user space has changed them, not only when it is
// some ms old.
func TestChangesAreNoticed(t *testing.T) {
	in := outer(t, there4, here4, vnet97, ethernet(local, remote, 0x0800, tcp4(100)))
	out := ethernet(remote, local, 0x0800, udp4(t, 100))
	other := netip.MustParseAddr("192.0.2.3")
	for _, c := range []struct {
		name    string
		change  func(*testing.T, *Tables)
		in, out bool // what stops
	}{
		{"a MAC is forgotten", func(_ *testing.T, p *Tables) { p.Delete(vnet97, remote) }, true, true},
		{"a MAC here is forgotten", func(_ *testing.T, p *Tables) { p.Delete(vnet97, local) }, false, true},
		{"a MAC moved here", func(t *testing.T, p *Tables) { require.NoError(t, p.PutLocal(vnet97, remote, Now())) }, true, true},
		{"a MAC moved to another host", func(t *testing.T, p *Tables) { require.NoError(t, p.PutRemote(vnet97, remote, other, Now())) }, true, true},
		{"a host is gone", func(_ *testing.T, p *Tables) { p.RemoveHost(there4) }, true, true},
		{"a host may not be sent to", func(t *testing.T, p *Tables) { require.NoError(t, p.SetHost(there4, Host{Receive: true})) }, false, true},
		{"a host is not heard", func(t *testing.T, p *Tables) { require.NoError(t, p.SetHost(there4, Host{Send: true})) }, true, false},
		{"the vnet is gone", func(_ *testing.T, p *Tables) { p.RemoveVnet(vnet97) }, true, true},
		{"all end", func(_ *testing.T, p *Tables) { p.Stop(func(vnet.ID, Counters) {}) }, true, true},
		{"the vnet has another vnif", func(t *testing.T, p *Tables) { require.NoError(t, p.AddVnet(vnet97, loopback+1, 1500)) }, false, true},
		{"the vnif is narrower", func(t *testing.T, p *Tables) { require.NoError(t, p.AddVnet(vnet97, loopback, 100)) }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, s := stripping(t, there4)
			require.EqualValues(t, redirect, run(t, p.In(), in, 0).action)
			require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)
			require.Len(t, runXDP(t, s.prog, in).packet, markSize+len(in)-64)
			for _, prog := range []*ebpf.Program{p.In(), p.Out(), s.prog} {
				remember(t, prog)
			}
			c.change(t, p)
			require.Equal(t, c.in, run(t, p.In(), in, 0).action == pass, "in")
			require.Equal(t, c.in, len(runXDP(t, s.prog, in).packet) == len(in), "in at XDP")
			require.Equal(t, c.out, run(t, p.Out(), out, 0).action == pass, "out")
		})
	}
	t.Run("nothing is to be stripped at a device", func(t *testing.T) {
		p, s := stripping(t, there4)
		require.Len(t, runXDP(t, s.prog, in).packet, markSize+len(in)-64)
		remember(t, s.prog)
		require.NoError(t, p.bpf.Ingresses.Delete(uint32(loopback))) // behind its back
		require.Len(t, runXDP(t, s.prog, in).packet, markSize+len(in)-64, "it does remember")
		s.Forget(loopback)
		require.Equal(t, in, runXDP(t, s.prog, in).packet)
	})
	t.Run("nothing", func(t *testing.T) {
		p := known(t, there4)
		require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action)
		remember(t, p.Out())
		require.NoError(t, p.bpf.Macs.Delete(&bpfMacKey{Mac: remote})) // behind its back
		require.EqualValues(t, redirect, run(t, p.Out(), out, 0).action, "it does remember")
	})
	t.Run("a vif passes the bridge no more", func(t *testing.T) {
		p := onVif(t)
		p.bridged(t, local)
		require.EqualValues(t, redirect, run(t, p.bpf.VifIn, out, 0).action)
		remember(t, p.bpf.VifIn)
		p.forgetVifs()
		p.until(t, time.Hour)
		require.EqualValues(t, pass, run(t, p.bpf.VifIn, out, 0).action)
	})
}
