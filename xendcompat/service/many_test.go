package service

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

// TestManyVnets: to make a vnet, and to delete it, the kernel lists no more where there are many already.
func TestManyVnets(t *testing.T) {
	h := newHost(t)
	d := startDaemon(t, h, t.TempDir(), options{enabled: true})
	made := 0
	each := func(n int, do func(i int)) (listed int) {
		before := hostnet.Listed()
		for i := range n {
			do(i)
		}
		return int(hostnet.Listed() - before)
	}
	make := func(int) {
		require.NoError(t, d.CreateVnet(t.Context(), simple(t, fmt.Sprintf("%x", 0x2000+made))))
		made++
	}
	remove := func(int) {
		made--
		require.NoError(t, d.DeleteVnet(t.Context(), simple(t, fmt.Sprintf("%x", 0x2000+made)).ID))
	}
	const few, many = 10, 100
	make(0)
	first := each(few, make)
	firstDeleted := each(few, remove)
	each(many, make)
	last := each(few, make)
	lastDeleted := each(few, remove)
	// All devices may be listed now and again: a few times in each.
	const most = 20*few + 3*3*(many+few)
	for what, n := range map[string]int{
		"made first": first, "deleted first": firstDeleted, "made last": last, "deleted last": lastDeleted,
	} {
		require.Less(t, n, most, "entries that were listed while %d vnets were %s", few, what)
	}
}
