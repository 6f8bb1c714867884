package hostnet

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// portMessage is what a bridge, index 3, tells of its port 7.
func portMessage(vlans ...nl.BridgeVlanInfo) []byte {
	m := nl.NewIfInfomsg(unix.AF_BRIDGE)
	m.Index = 7
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(unix.IFLA_BRPORT_LEARNING, []byte{0})
	info.AddRtAttr(unix.IFLA_BRPORT_ISOLATED, []byte{1})
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	for _, v := range vlans {
		spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, v.Serialize())
	}
	return slices.Concat(m.Serialize(), numberAttribute(unix.IFLA_MASTER, 3).Serialize(), info.Serialize(), spec.Serialize())
}

func TestPortEvents(t *testing.T) {
	const begin, end = nl.BRIDGE_VLAN_INFO_RANGE_BEGIN, nl.BRIDGE_VLAN_INFO_RANGE_END
	const pvid, untagged = nl.BRIDGE_VLAN_INFO_PVID, nl.BRIDGE_VLAN_INFO_UNTAGGED
	b := portMessage(nl.BridgeVlanInfo{Flags: pvid | untagged, Vid: 5},
		nl.BridgeVlanInfo{Flags: begin, Vid: 10}, nl.BridgeVlanInfo{Flags: end, Vid: 20},
		nl.BridgeVlanInfo{Flags: untagged, Vid: 30},
		nl.BridgeVlanInfo{Flags: end, Vid: 4095}, nl.BridgeVlanInfo{Vid: 0})
	want := BridgePort{Index: 7, Bridge: 3, PortSettings: PortSettings{
		VLANs: []VLANRange{{5, 5, true, true}, {10, 20, false, false}, {30, 30, false, true}},
		Flags: PortIsolated, Known: PortIsolated | PortLearning,
	}}
	require.Equal(t, PortEvent{Port: want}, parseEvent(unix.RTM_NEWLINK, b))
	require.Equal(t, PortEvent{Port: want, Gone: true}, parseEvent(unix.RTM_DELLINK, b))
	for n := range len(b) {
		_, _ = parseBridgePort(b[:n])
	}
	binary.NativeEndian.PutUint32(b[4:], 3)
	require.Nil(t, parseEvent(unix.RTM_NEWLINK, b), "the bridge's own")
	b[0] = unix.AF_INET6
	require.Nil(t, parseEvent(unix.RTM_NEWLINK, b))
}

func TestChangedVLANs(t *testing.T) {
	one := VLANRange{1, 1, true, true}
	for name, c := range map[string]struct{ have, want, remove, add []VLANRange }{
		"the same":     {have: []VLANRange{one, {7, 9, false, false}}, want: []VLANRange{one, {7, 7, false, false}, {8, 9, false, false}}},
		"access port":  {have: []VLANRange{one}, want: []VLANRange{{10, 10, true, true}}, remove: []VLANRange{one}, add: []VLANRange{{10, 10, true, true}}},
		"trunk":        {have: []VLANRange{one}, want: []VLANRange{one, {10, 4094, false, false}}, add: []VLANRange{{10, 4094, false, false}}},
		"none":         {have: []VLANRange{one}, remove: []VLANRange{one}},
		"other flags":  {have: []VLANRange{one}, want: []VLANRange{{1, 1, false, true}}, add: []VLANRange{{1, 1, false, true}}},
		"out of order": {want: []VLANRange{{2, 3, false, false}, one}, add: []VLANRange{one, {2, 3, false, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			remove, add := changedVLANs(c.have, c.want)
			require.Equal(t, c.remove, remove)
			require.Equal(t, c.add, add)
		})
	}
}

// settings are those of a port that is there.
func settings(t *testing.T, h *Host, index int) PortSettings {
	t.Helper()
	list, err := h.BridgePorts()
	require.NoError(t, err)
	for _, p := range list {
		if p.Index == index {
			return p.PortSettings
		}
	}
	require.FailNow(t, "no port")
	return PortSettings{}
}

func TestSetPort(t *testing.T) {
	h := newHost(t)
	br, _, err := h.EnsureBridge("br")
	require.NoError(t, err)
	a, b := pair(t, h, "a", "b")
	require.ErrorIs(t, h.SetPort(a.Index, PortSettings{}), ErrNotFound)
	events, err := h.Watch(t.Context())
	require.NoError(t, err)
	for _, l := range []Link{a, b} {
		require.NoError(t, h.SetMaster(l.Index, br.Index))
	}
	want := settings(t, h, a.Index)
	require.NotZero(t, want.Flags&PortLearning)
	want.Flags ^= PortLearning | PortIsolated
	vlans := len(want.VLANs) > 0 // the default one: the kernel has them
	if vlans {
		want.VLANs = []VLANRange{{5, 5, true, true}, {10, 20, false, false}, {22, 22, false, true}}
	}
	for range 2 {
		require.NoError(t, h.SetPort(a.Index, want))
		require.Equal(t, want, settings(t, h, a.Index))
	}
	await(t, events, "the settings", func(e PortEvent) bool {
		return !e.Gone && e.Port.Index == a.Index && e.Port.Bridge == br.Index && e.Port.Flags == want.Flags &&
			slices.Equal(e.Port.VLANs, want.VLANs)
	})
	require.NotEqual(t, want, settings(t, h, b.Index), "the other port's stay")
	if vlans {
		want.VLANs = []VLANRange{{5, 5, false, false}}
		require.NoError(t, h.SetPort(a.Index, want))
		require.Equal(t, want, settings(t, h, a.Index))
	}
	require.NoError(t, h.Delete(a.Index))
	await(t, events, "the end", func(e PortEvent) bool { return e.Gone && e.Port.Index == a.Index })
	if !vlans {
		t.Log("this kernel has no VLANs in bridges: make test-vm runs this on one that has")
	}
}
