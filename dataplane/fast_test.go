package dataplane

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
)

// fastConfig has the kernel's fast path.
func fastConfig() Config {
	c := testConfig()
	c.FastPath = FastPathOn
	return c
}

// kernel is what the kernel carried of vnet 97 on a host.
func (h *testHost) carried() (tx, rx Traffic) {
	for _, v := range h.Counters().Vnets {
		if v.ID == idOf(h.t, "97") {
			return v.KernelTx, v.KernelRx
		}
	}
	return Traffic{}, Traffic{}
}

// awaitFast pings until the kernel carries a whole ping to and fro.
func awaitFast(t testing.TB, d *lab.Domain, to *lab.Domain, hosts ...*testHost) {
	t.Helper()
	before := map[*testHost][2]uint64{}
	for _, h := range hosts {
		tx, rx := h.carried()
		before[h] = [2]uint64{tx.Packets, rx.Packets}
	}
	eventually(t, "the kernel carries pings", func() bool {
		ping(t, d, to.Addr())
		for _, h := range hosts {
			tx, rx := h.carried()
			if tx.Packets == before[h][0] || rx.Packets == before[h][1] {
				return false
			}
		}
		return true
	})
}

// TestFastPath: between two hosts the kernel carries what is known.
func TestFastPath(t *testing.T) {
	_, _, hosts := newLab(t, 2, fastConfig())
	add(t, "97", hosts...)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	awaitFast(t, one, two, hosts...)
	for _, addr := range []int{0, 1} {
		tx0, _ := hosts[0].carried()
		_, rx0 := hosts[1].carried()
		const size = 64 << 20
		_, err := lab.Transfer(soon(t), one.Node, two.Node, two.Spec.Addrs[addr].Addr(), size)
		require.NoError(t, err)
		tx, _ := hosts[0].carried()
		_, rx := hosts[1].carried()
		require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
		require.Greater(t, rx.Bytes-rx0.Bytes, uint64(size))
	}
	t.Logf("%+v", hosts[1].Status().FastPath)
}
