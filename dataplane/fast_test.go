package dataplane

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
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

// awaitFast pings until the kernels carry a whole ping to and fro.
func awaitFast(t testing.TB, d, to *lab.Domain, hosts ...*testHost) {
	t.Helper()
	awaitCarried(t, d, to, hosts, hosts)
}

// awaitCarried pings until the kernels of some hosts send, and of some receive, what a ping consists of.
func awaitCarried(t testing.TB, d, to *lab.Domain, sending, receiving []*testHost) {
	t.Helper()
	eventually(t, "the kernel carries pings", func() bool {
		before := map[*testHost][2]uint64{}
		for _, h := range slices.Concat(sending, receiving) {
			tx, rx := h.carried()
			before[h] = [2]uint64{tx.Packets, rx.Packets}
		}
		ping(t, d, to.Addr())
		for _, h := range sending {
			if tx, _ := h.carried(); tx.Packets == before[h][0] {
				return false
			}
		}
		for _, h := range receiving {
			if _, rx := h.carried(); rx.Packets == before[h][1] {
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

// newMixed makes two hosts, of which the first or both have the fast path.
func newMixed(t testing.TB, first, second FastPath) (*lab.Switch, []*testHost) {
	t.Helper()
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	var hosts []*testHost
	for i, f := range []FastPath{first, second} {
		h, err := s.Host("lan" + string(rune('A'+i)))
		require.NoError(t, err)
		c := fastConfig()
		c.FastPath = f
		hosts = append(hosts, startEngine(t, h, c))
	}
	add(t, "97", hosts...)
	return s, hosts
}

// TestMixed: a host with the fast path and one without understand each other, super-frames and checksums that nobody has
// completed included.
func TestMixed(t *testing.T) {
	_, hosts := newMixed(t, FastPathOn, FastPathOff)
	one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
	// What user space sends has an outer checksum that nobody has completed or verified here: it goes to the socket.
	awaitCarried(t, one, two, hosts[:1], nil)
	const size = 32 << 20
	for i := range one.Spec.Addrs {
		tx0, _ := hosts[0].carried()
		for _, way := range [][2]*lab.Domain{{one, two}, {two, one}} {
			_, err := lab.Transfer(soon(t), way[0].Node, way[1].Node, way[1].Spec.Addrs[i].Addr(), size)
			require.NoError(t, err)
		}
		tx, _ := hosts[0].carried()
		require.Greater(t, tx.Bytes-tx0.Bytes, uint64(size))
	}
	require.Zero(t, hosts[1].drops(DropTooLong))
	require.Zero(t, hosts[1].drops(DropPort))
	tx, rx := hosts[1].carried()
	require.Zero(t, tx.Packets+rx.Packets)
}

// inKernel are the MACs of a vnet that the kernel of a host knows.
func (h *testHost) inKernel(id vnet.ID) (macs []wire.MAC) {
	h.t.Helper()
	h.mirror.writing.Lock()
	defer h.mirror.writing.Unlock()
	require.NoError(h.t, h.mirror.tables.MACs(func(m fastpath.MAC) {
		if m.Vnet == id {
			macs = append(macs, m.MAC)
		}
	}))
	return macs
}

// TestSecuredStaysOutOfTheKernel: nothing of a vnet with security gets into the kernel's tables, though another vnet's traffic is
// carried there; and what was carried is taken out before a vnet is secured, so that no frame of it leaves in the clear after.
func TestSecuredStaysOutOfTheKernel(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			_, s, hosts := newLab(t, 2, fastConfig())
			id97, id98 := idOf(t, "97"), idOf(t, "98")
			add(t, "97", hosts...)
			for _, h := range hosts {
				h.SetKeySource(shared(testKey))
				require.NoError(t, attach(h.Engine, securedOf(t, "98", level)))
			}
			one, two := hosts[0].domain(1, "97"), hosts[1].domain(2, "97")
			three, four := hosts[0].domain(3, "98"), hosts[1].domain(4, "98")
			awaitFast(t, one, two, hosts...)
			clear, err := s.Capture(func(f lab.Frame) bool {
				d, ok := datagramIn(f.Data)
				id, _, err := wire.DecodeVUDP(d.payload)
				return ok && err == nil && (id == id97 || id == id98)
			})
			require.NoError(t, err)
			ping(t, three, four.Addr())
			_, err = lab.Transfer(soon(t), three.Node, four.Node, four.Addr(), 8<<20)
			require.NoError(t, err)
			ping(t, one, two.Addr())
			for _, h := range hosts {
				require.NotEmpty(t, h.inKernel(id97), "what has no security is there: the test can fail")
				require.Empty(t, h.inKernel(id98))
				require.NotContains(t, h.mirror.tables.Vnets(), id98)
				require.NotEmpty(t, h.Entries(Filter{Vnet: id98}))
			}
			for _, f := range clear.Take() {
				d, _ := datagramIn(f.Data)
				id, _, _ := wire.DecodeVUDP(d.payload)
				require.Equal(t, id97, id)
			}

			for _, h := range hosts {
				require.NoError(t, attach(h.Engine, securedOf(t, "97", level)))
				require.Empty(t, h.inKernel(id97))
			}
			clear.Take()
			ping(t, one, two.Addr())
			_, err = lab.Transfer(soon(t), one.Node, two.Node, two.Addr(), 8<<20)
			require.NoError(t, err)
			require.Empty(t, clear.Take())
			for _, h := range hosts {
				require.Empty(t, h.inKernel(id97))
				require.NotEmpty(t, h.Entries(Filter{Vnet: id97}))
			}
		})
	}
}
