package dataplane

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
)

// TestGuardsFollow: what follows from events, device by device, is what follows from a list of all devices, and of many vnets those
// are left alone that an event does not concern.
func TestGuardsFollow(t *testing.T) {
	const vnets = 20
	rng := rand.New(rand.NewPCG(1, 2))
	var devices []hostnet.Link
	for i := range vnets {
		alias := port.Alias(idOf(t, fmt.Sprintf("%x", 0x2000+i)))
		devices = append(devices,
			hostnet.Link{Index: 100 + 10*i, Name: fmt.Sprint("b", i), Kind: "bridge", Group: port.Group, Alias: alias},
			hostnet.Link{Index: 101 + 10*i, Name: fmt.Sprint("v", i), Kind: "veth", Group: port.Group, Alias: alias, Master: 100 + 10*i},
			hostnet.Link{Index: 102 + 10*i, Name: fmt.Sprint("p", i), Kind: "veth", Group: port.Group, Alias: alias},
			hostnet.Link{Index: 103 + 10*i, Name: fmt.Sprint("b", i, ".5"), Kind: "vlan", Partner: 100 + 10*i},
			hostnet.Link{Index: 104 + 10*i, Name: fmt.Sprint("b", i, ".6"), Kind: "vlan", Partner: 100 + 10*i, Master: 105 + 10*i},
			hostnet.Link{Index: 105 + 10*i, Name: fmt.Sprint("other", i), Kind: "bridge"},
			hostnet.Link{Index: 106 + 10*i, Name: fmt.Sprint("mac", i), Kind: "macvlan", Partner: 105 + 10*i},
			hostnet.Link{Index: 107 + 10*i, Name: fmt.Sprint("eth0.", i), Kind: "vlan", Partner: 1, Master: 105 + 10*i},
		)
	}
	underlays := map[int]struct{}{1: {}}
	g := newGuards(nil, slog.New(slog.DiscardHandler), 1798, new(deviceNames), func() map[int]struct{} { return underlays })
	g.names.set(nil)
	there := map[int]hostnet.Link{1: {Index: 1, Name: "eth0"}}
	addressed := map[int]map[address]struct{}{}
	g.seen, g.addresses, g.led = hostnet.NewLinkTable(slices.Collect(maps.Values(there))), map[int]map[address]struct{}{}, underlays
	applied := map[int]*hostnet.Guard{}
	for range 3000 {
		switch l := devices[rng.IntN(len(devices))]; rng.IntN(4) {
		case 0:
			delete(there, l.Index)
			delete(addressed, l.Index)
			g.event(hostnet.LinkEvent{Link: l, Gone: true})
		case 1:
			l.Master = 0
			there[l.Index] = l
			g.event(hostnet.LinkEvent{Link: l})
		case 2:
			there[l.Index] = l
			g.event(hostnet.LinkEvent{Link: l})
		case 3:
			if _, ok := there[l.Index]; !ok {
				continue
			}
			a := hostnet.Address{Index: l.Index, Prefix: netip.MustParsePrefix("10.0.0.1/24")}
			_, gone := addressed[l.Index]
			g.event(hostnet.AddressEvent{Address: a, Gone: gone})
			if delete(addressed, l.Index); !gone {
				addressed[l.Index] = map[address]struct{}{{a.Prefix, a.Remote}: {}}
			}
		}
		if rng.IntN(3) > 0 {
			continue // events come together
		}
		changed, err := g.changed()
		require.NoError(t, err)
		concerned, below := g.concerned(changed)
		require.Less(t, len(below), 8*(len(changed)+1), "of what changed, and no others")
		want := guardsOf(below, g.addresses, g.led, g.ports)
		for index := range concerned {
			if delete(applied, index); want[index] != nil {
				applied[index] = want[index]
			}
		}
		all := guardsOf(slices.Collect(maps.Values(there)), addressed, underlays, g.ports)
		require.Equal(t, all, applied)
	}
}
