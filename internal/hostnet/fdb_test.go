package hostnet

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// addFDB makes an entry, or replaces it.
func addFDB(t *testing.T, h *Host, e FDBEntry) {
	t.Helper()
	parts := fdbParts(e)
	state := uint16(unix.NUD_REACHABLE)
	if e.Static {
		state = unix.NUD_NOARP
	}
	binary.NativeEndian.PutUint16(parts[0].(raw)[8:], state)
	require.NoError(t, h.change(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...))
}

func TestFDB(t *testing.T) {
	h := newHost(t)
	br, _, err := h.EnsureBridge("br")
	require.NoError(t, err)
	other, _, err := h.EnsureBridge("other")
	require.NoError(t, err)
	a, _ := pair(t, h, "a", "b")
	c, _ := pair(t, h, "c", "d")
	require.NoError(t, h.SetMaster(a.Index, br.Index))
	require.NoError(t, h.SetMaster(c.Index, other.Index))

	e := FDBEntry{MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 1}, Port: a.Index}
	for range 2 {
		addFDB(t, h, e)
	}
	static := FDBEntry{MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 2}, Port: a.Index, Static: true}
	addFDB(t, h, static)
	addFDB(t, h, FDBEntry{MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 3}, Port: c.Index})

	e.Bridge, static.Bridge = br.Index, br.Index
	// A kernel with VLANs in bridges makes one more entry, of the port's VLAN; and the other end's own IPv6 is learned.
	untagged := func(list []FDBEntry) []FDBEntry {
		return slices.DeleteFunc(list, func(e FDBEntry) bool { return e.Local || e.VLAN != 0 || e.MAC[0] != 0 || e.MAC[1] != 0x16 })
	}
	list, err := h.FDB(br.Index)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(list, func(e FDBEntry) bool { return e.Local }), "with the port's own address")
	for _, e := range list {
		require.Equal(t, br.Index, e.Bridge)
	}
	require.ElementsMatch(t, []FDBEntry{e, static}, untagged(list))

	for range 2 {
		require.NoError(t, h.DeleteFDB(e))
	}
	list, err = h.FDB(br.Index)
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(list, func(f FDBEntry) bool { return f.MAC == e.MAC }), "of no VLAN")
	require.Equal(t, []FDBEntry{static}, untagged(list))
}
