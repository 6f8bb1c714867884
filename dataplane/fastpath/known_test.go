package fastpath

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// manyKnown are vnets that were looked at just now, each with a domain's device: of number i the bridge has the index 1000+i, the
// vnif 2000+i and the vif 3000+i.
func manyKnown(t *testing.T, size int) (k memory, ids []vnet.ID) {
	t.Helper()
	k = newMemory()
	set := map[vnet.ID]BypassVnet{}
	for i := range size {
		id, err := vnet.ParseID(fmt.Sprintf("%x", 0x2000+i))
		require.NoError(t, err)
		ids = append(ids, id)
		set[id] = BypassVnet{Bridge: 1000 + i, Vnif: 2000 + i}
	}
	k.want(set, func(id vnet.ID) (uint32, bool) { return uint32(slices.Index(ids, id)), true })
	require.ElementsMatch(t, ids, k.due(), "what is new")
	up := net.FlagUp | net.FlagRunning
	for i, id := range ids {
		port := func(index int) hostnet.PortTraits {
			return hostnet.PortTraits{
				Link:       hostnet.Link{Index: index, Name: fmt.Sprint("d", index), Kind: "veth", PartnerAway: true, Flags: up, MTU: 1500},
				Forwarding: true, Learning: true, Promiscuity: 1,
			}
		}
		v := &knownVnet{BypassVnet: set[id], tcx: map[int][2]hostnet.TCXState{2000 + i: {1: {Revision: 7, Programs: 1}}, 3000 + i: {}}}
		v.bridge = BridgeState{BridgeTraits: hostnet.BridgeTraits{Link: hostnet.Link{Index: 1000 + i, Kind: "bridge", Flags: up}, Ageing: 30000}}
		v.bridge.Vnif = port(2000 + i)
		v.ports = []PortState{{PortTraits: port(3000 + i), Qdisc: "noqueue"}}
		v.fdb = []hostnet.FDBEntry{{MAC: [6]byte{2, byte(i)}, Port: 3000 + i, Bridge: 1000 + i}}
		k.learn(id, v)
	}
	require.Empty(t, k.stale)
	k.turn = slices.Clone(ids)
	return k, ids
}

// TestKnownDue: a look at many vnets asks anew about those that something was told of, and about one other in turn.
func TestKnownDue(t *testing.T) {
	const size = 100
	for name, c := range map[string]struct {
		tell func(k *memory)
		want []int
	}{
		"nothing":                     {func(*memory) {}, nil},
		"the bridge":                  {func(k *memory) { k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 1050}}) }, []int{50}},
		"a port":                      {func(k *memory) { k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 3050, Master: 1050}}) }, []int{50}},
		"a new port":                  {func(k *memory) { k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 9, Master: 1050}}) }, []int{50}},
		"a port that went":            {func(k *memory) { k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 3050}, Gone: true}) }, []int{50}},
		"a port that changes bridges": {func(k *memory) { k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 3050, Master: 1060}}) }, []int{50, 60}},
		"a port's settings": {func(k *memory) {
			k.event(hostnet.PortEvent{Port: hostnet.BridgePort{Index: 2050, Bridge: 1050}})
		}, []int{50}},
		"a MAC":             {func(k *memory) { k.event(hostnet.FDBEvent{Entry: hostnet.FDBEntry{Bridge: 1050, Port: 3050}}) }, []int{50}},
		"a filter":          {func(k *memory) { k.event(hostnet.TCEvent{Index: 3050}) }, []int{50}},
		"somebody's device": {func(k *memory) { k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 9, Master: 8}}) }, nil},
		"programs as before": {func(k *memory) {
			k.compare(2050, [2]hostnet.TCXState{1: {Revision: 7, Programs: 1}})
			k.compare(3050, [2]hostnet.TCXState{})
		}, nil},
		"another program": {func(k *memory) { k.compare(2050, [2]hostnet.TCXState{1: {Revision: 9, Programs: 1}}) }, []int{50}},
		"a program more":  {func(k *memory) { k.compare(3050, [2]hostnet.TCXState{{Revision: 1, Programs: 1}}) }, []int{50}},
	} {
		t.Run(name, func(t *testing.T) {
			k, ids := manyKnown(t, size)
			c.tell(&k)
			var want []vnet.ID
			for _, i := range append([]int{0}, c.want...) { // whose turn it is
				want = append(want, ids[i])
			}
			require.ElementsMatch(t, want, k.due())
		})
	}
	k, ids := manyKnown(t, size)
	k.event(hostnet.TCEvent{}) // a block of filters that devices share
	require.ElementsMatch(t, ids, k.due())

	k, ids = manyKnown(t, size)
	seen := map[vnet.ID]bool{}
	for range size {
		for _, id := range k.due() {
			seen[id] = true
			k.learn(id, k.vnets[id])
		}
	}
	require.Len(t, seen, size, "everybody's turn comes")
	require.NotEmpty(t, ids)
}

// TestKnownChoose: what was found stays in force, and goes with its vnet.
func TestKnownChoose(t *testing.T) {
	k, ids := manyKnown(t, 3)
	l := k.choose(map[bool]string{})
	require.Len(t, l.macs, 3)
	require.Equal(t, BypassedPort{Vnet: ids[1], Name: "d3001", Index: 3001, Way: WayPeer}, l.ports[3001])
	require.Equal(t, bpfVif{Ifindex: 3001, Way: uint16(WayPeer), Mtu: 1500}, l.macs[bpfMacKey{Slot: 1, Mac: [6]byte{2, 1}}])

	k.toPoll()
	l = k.choose(map[bool]string{false: "ebtables"})
	require.Empty(t, l.macs)
	require.Equal(t, "the host's firewall may have a word: ebtables", l.ports[3001].Reason)

	// They were not polled meanwhile: somebody may have put a program there.
	devices, _ := k.toPoll()
	require.Empty(t, devices)
	l = k.choose(map[bool]string{})
	require.Equal(t, WayBridge, l.ports[3001].Way)
	require.Empty(t, l.macs)
	for _, id := range k.due() {
		k.learn(id, k.vnets[id])
	}
	require.Len(t, k.choose(map[bool]string{}).macs, 3)

	devices, _ = k.toPoll()
	require.Len(t, devices, 6)
	k.want(map[vnet.ID]BypassVnet{ids[1]: k.vnets[ids[1]].BypassVnet}, func(vnet.ID) (uint32, bool) { return 9, true })
	l = k.choose(map[bool]string{})
	require.Len(t, l.ports, 1)
	require.Contains(t, l.macs, bpfMacKey{Slot: 9, Mac: [6]byte{2, 1}})
	k.event(hostnet.LinkEvent{Link: hostnet.Link{Index: 1000}})
	require.NotContains(t, k.due(), ids[0], "those that went are asked about no more")

	k.want(map[vnet.ID]BypassVnet{ids[1]: {Bridge: 1001, Vnif: 2001}}, func(vnet.ID) (uint32, bool) { return 0, false })
	require.Empty(t, k.choose(map[bool]string{}).ports)
	require.Empty(t, k.of)
}

// TestBypassRoom: of more ports than can be watched the first ones pass.
func TestBypassRoom(t *testing.T) {
	k, _ := manyKnown(t, maxBypassed+2)
	l := k.choose(map[bool]string{})
	require.Len(t, l.macs, maxBypassed)
	require.Contains(t, l.ports[3000+maxBypassed].Reason, "no more can be watched")
	devices, _ := k.toPoll()
	require.Len(t, devices, 2*maxBypassed, "and only they are polled")
	require.Len(t, k.choose(map[bool]string{}).macs, maxBypassed)
	require.Len(t, k.due(), 1, "nor are the others asked about but in turn")
}
