package traffic

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What was counted since is told, also of what is new, and of what counts from zero again.
func TestSub(t *testing.T) {
	before := Snapshot{
		Vnets: []Vnet{{ID: "97", Tx: Counts{10, 1000}, Flooded: 3, Drops: Drops{"loop": 3, "old": 1}}, {ID: "98", Rx: Counts{50, 5000}}},
		Hosts: []Host{{Address: "a", Tx: Counts{1, 2}}},
		Drops: []Drop{{Reason: "loop", Packets: 7}}, Forwarded: 2,
	}
	now := Snapshot{
		Vnets: []Vnet{{ID: "97", Tx: Counts{15, 1600}, Flooded: 4, Drops: Drops{"loop": 5, "old": 1, "new": 9}}, {ID: "98", Rx: Counts{4, 400}}, {ID: "99", Tx: Counts{1, 1}}},
		Hosts: []Host{{Address: "a", Tx: Counts{3, 6}, Drops: Drops{"loop": 4}}, {Address: "b", Rx: Counts{1, 1}}},
		Drops: []Drop{{Reason: "loop", Packets: 9}, {Reason: "x", Packets: 1}}, Forwarded: 2,
	}
	require.Equal(t, Snapshot{
		Vnets: []Vnet{{ID: "97", Tx: Counts{5, 600}, Flooded: 1, Drops: Drops{"loop": 2, "new": 9}}, {ID: "98", Rx: Counts{4, 400}}, {ID: "99", Tx: Counts{1, 1}}},
		Hosts: []Host{{Address: "a", Tx: Counts{2, 4}, Drops: Drops{"loop": 4}}, {Address: "b", Rx: Counts{1, 1}}},
		Drops: []Drop{{Reason: "loop", Packets: 2}, {Reason: "x", Packets: 1}},
	}, now.Sub(before))
	require.EqualValues(t, 15, now.Vnets[0].Tx.Packets, "the snapshot stays")
	require.Equal(t, "new 9, loop 5, old 1", now.Vnets[0].Drops.String())
}
