package checktest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

// place is where a device is on the way of a frame.
type place int

const (
	cards   place = iota // the domains' own
	vifs                 // their ends in the hosts
	vnifs                //
	peers                // what the engines read and write
	uplinks              // the hosts' own cards
)

var everywhere = []place{cards, vifs, vnifs, peers, uplinks}

// Groups of features, as ethtool(8) has them, by the kernel's names.
var (
	tso = []string{"tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation"}
	gso = []string{"tx-generic-segmentation"}
	uso = []string{"tx-udp-segmentation"}
	sum = []string{"tx-checksum-ip-generic", "tx-checksum-sctp"}
	sg  = []string{"tx-scatter-gather", "tx-scatter-gather-fraglist"}
	tx  = join(tso, gso, uso, sum, sg)
	gro = []string{"rx-gro", "rx-udp-gro-forwarding"}
	vln = []string{"tx-vlan-hw-insert", "tx-vlan-stag-hw-insert", "rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"}
)

func join(lists ...[]string) (out []string) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// turn says what to do with features of devices.
type turn struct {
	places   []place
	features []string
	on       bool
}

// setting is a set of offload settings.
type setting struct {
	name  string
	turns []turn
	// early says that the kernel cuts super-frames before the engine sees them.
	early bool
	// recut says that the kernel cuts again what the engine has joined.
	recut bool
	// elsewhere says that the engine may cut TCP elsewhere than the test foresees: the kernel joins segments
	// before, or hands over single ones without checksums.
	elsewhere bool
	// again says that segments may be sent again, by kernels that are kept waiting, and be cut elsewhere then.
	again bool
	// late says that a TCP connection that has been compared may still end: its last acknowledgements are nobody's business any more.
	late bool
	// whole says that the engine gets frames of TCP that are too large and complete, which stay whole.
	whole bool
	// shuffled says that the kernel may change the order within a flow: GRO of a veth runs on the processor that
	// last gave it a frame, and the next device takes frames from two processors at once.
	shuffled bool
	// often settings are tried in many worlds, always ones in every world.
	often, always bool
}

var settings = []setting{
	{name: "as they are", always: true},
	{name: "cards off", turns: []turn{{[]place{cards}, tx, false}}, early: true, often: true, whole: true},
	{name: "cards without tso", turns: []turn{{[]place{cards}, join(tso, uso), false}}, early: true, elsewhere: true},
	{name: "vifs off", turns: []turn{{[]place{vifs}, tx, false}}, recut: true},
	{name: "vnifs off", turns: []turn{{[]place{vnifs}, tx, false}}, early: true, whole: true},
	{name: "vnifs without checksums", turns: []turn{{[]place{vnifs}, sum, false}}, early: true, whole: true},
	{name: "vnifs without tso", turns: []turn{{[]place{vnifs}, join(tso, uso), false}}, early: true, elsewhere: true},
	{name: "peers off", turns: []turn{{[]place{peers}, tx, false}}, recut: true},
	{name: "peers without tso", turns: []turn{{[]place{peers}, join(tso, uso), false}}, recut: true},
	{name: "plain network card", turns: []turn{{[]place{uplinks}, tx, false}}, always: true},
	{name: "uplinks without udp segmentation", turns: []turn{{[]place{uplinks}, uso, false}}},
	{name: "uplinks with gro", turns: []turn{{[]place{uplinks}, gro, true}}},
	{name: "gro everywhere", turns: []turn{{everywhere, gro, true}}, elsewhere: true, shuffled: true, often: true},
	{name: "plain network card with gro", turns: []turn{{[]place{uplinks}, tx, false}, {everywhere, gro, true}}, elsewhere: true, shuffled: true},
	{name: "vlan offloads off", turns: []turn{{everywhere, vln, false}}, often: true},
	{name: "all off", turns: []turn{{everywhere, join(tx, vln), false}}, early: true, recut: true, often: true, whole: true},
}

// device is a device of one of the hosts or domains.
type device struct {
	net   *hostnet.Host
	index int
}

// devices finds the devices of a place, on both sides.
func (w *world) devices(t testing.TB, p place) (out []device) {
	t.Helper()
	add := func(n *hostnet.Host, name string) {
		l, err := n.LinkByName(name)
		require.NoError(t, err)
		out = append(out, device{n, l.Index})
	}
	for _, x := range w.sides {
		switch p {
		case cards:
			add(x.domain.Net, "eth0")
			add(x.guest.Net, "eth0")
		case vifs:
			add(x.host.Net, x.domain.Spec.Vif)
			add(x.host.Net, x.guest.Spec.Vif)
		case vnifs:
			add(x.host.Net, "vnif97")
		case peers:
			add(x.host.Net, peerName(t))
		case uplinks:
			add(x.host.Net, x.card)
		}
	}
	return out
}

// set makes a setting until undo is called.
func (w *world) set(t testing.TB, s *setting) (undo func()) {
	t.Helper()
	type change struct {
		device
		before map[string]bool
	}
	var changes []change
	for _, turn := range s.turns {
		for _, p := range turn.places {
			for _, d := range w.devices(t, p) {
				before, err := d.net.Features(d.index)
				require.NoError(t, err)
				want := map[string]bool{}
				for _, f := range turn.features {
					require.Contains(t, before, f, "the kernel does not know the feature")
					want[f] = turn.on
				}
				require.NoError(t, d.net.SetFeatures(d.index, want))
				after, err := d.net.Features(d.index)
				require.NoError(t, err)
				for _, f := range turn.features {
					require.Equal(t, turn.on, after[f], "%s, %s at %d", s.name, f, p)
				}
				changes = append(changes, change{d, before})
			}
		}
	}
	return func() {
		for i := len(changes) - 1; i >= 0; i-- {
			require.NoError(t, changes[i].net.SetFeatures(changes[i].index, changes[i].before))
		}
	}
}
