package port

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

// requireWhole checks everything that the devices of vnet 97 must be.
func requireWhole(t *testing.T, h *hostnet.Host, d Devices) {
	t.Helper()
	alias := "xend vnet 0000:0000:0000:0000:0000:0000:0000:0097"
	br, vnif, partner := link(t, h, "vnet97"), link(t, h, "vnif97"), link(t, h, "vnp97")
	require.Equal(t, Devices{
		VnifIndex: vnif.Index, PartnerIndex: partner.Index, BridgeIndex: br.Index,
		VnifName: "vnif97", PartnerName: "vnp97", Bridge: "vnet97",
		MAC: vnif.MAC, MTU: 1500, Created: d.Created, host: h,
	}, d)

	require.Equal(t, "veth", vnif.Kind)
	require.Equal(t, alias, vnif.Alias)
	require.Equal(t, []byte{0xaa, 0xff}, []byte(vnif.MAC[:2]))
	require.Equal(t, 1500, vnif.MTU)
	require.True(t, vnif.Up())
	require.Equal(t, br.Index, vnif.Master)
	require.EqualValues(t, Group, vnif.Group)

	require.Equal(t, vnif.Index, partner.Partner)
	require.Equal(t, alias, partner.Alias)
	require.True(t, partner.Up())
	require.True(t, partner.NoARP)
	require.EqualValues(t, Group, partner.Group)
	require.Equal(t, 1504, partner.MTU, "room for an 802.1ad tag")
	require.Zero(t, partner.Master)
	for _, name := range []string{"vnif97", "vnp97"} {
		v, err := h.Sysctl("net", "ipv6", "conf", name, "disable_ipv6")
		require.NoError(t, err)
		require.Equal(t, "1", v)
	}
	f, err := h.Features(vnif.Index)
	require.NoError(t, err)
	require.False(t, f["tx-sctp-segmentation"])
	require.False(t, f["tx-checksum-sctp"])
	require.True(t, f["tx-tcp-segmentation"])
	require.Equal(t, UDPGSO(), f["tx-udp-segmentation"])

	require.True(t, br.Up())
	require.Equal(t, 1500, br.MTU)
	requireNone(t, h, "vnn97", "vnb97")
}

func TestEnsureAndRemove(t *testing.T) {
	h := newHost(t)
	d, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	require.True(t, d.Created)
	requireWhole(t, h, d)
	require.Equal(t, Alias(id(t, "97")), link(t, h, "vnet97").Alias)

	again, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	require.False(t, again.Created)
	requireWhole(t, h, again)
	require.Equal(t, d.MAC, again.MAC)
	require.Equal(t, d.PartnerIndex, again.PartnerIndex)

	require.EqualValues(t, Group, link(t, h, "vnet97").Group)
	left := leftovers(t, h)
	require.Len(t, left, 1)
	require.Equal(t, id(t, "97"), left[0].ID)
	require.Len(t, left[0].Devices, 3)
	require.Empty(t, leftovers(t, h, spec97(t)))

	for range 2 {
		require.NoError(t, Remove(h, spec97(t)))
		require.Equal(t, []string{"lo"}, deviceNames(t, h))
	}
	require.Empty(t, leftovers(t, h))
}

// leftovers are those of a look at everything.
func leftovers(t *testing.T, h *hostnet.Host, wanted ...Spec) []Leftover {
	t.Helper()
	s, err := Look(h)
	require.NoError(t, err)
	return s.Leftovers(wanted)
}

// ensure is Ensure with a word after each step.
func ensure(h *hostnet.Host, s Spec, after func(step string) error) (Devices, error) {
	return (&Maker{Host: h, Step: after}).Ensure(s)
}

// A second Ensure changes nothing, so that the reconciler, which watches, does not run after itself.
func TestEnsureTwiceIsSilent(t *testing.T) {
	h := newHost(t)
	_, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	events, err := h.Watch(t.Context())
	require.NoError(t, err)
	// The kernel reports some changes of the first one late, carrier for example.
	for round := range 50 {
		_, err = Ensure(h, spec97(t))
		require.NoError(t, err)
		marker := fmt.Sprint("marker", round)
		_, _, err = h.EnsureBridge(marker)
		require.NoError(t, err)
		if !heardOf97(t, events, marker) {
			return
		}
	}
	require.Fail(t, "Ensure changes something each time")
}

// heardOf97 reads events up to the marker's, and tells whether one was about vnet 97's devices.
func heardOf97(t *testing.T, events <-chan hostnet.Event, marker string) (heard bool) {
	t.Helper()
	for ev := range events {
		if e, ok := ev.(hostnet.LinkEvent); ok {
			switch e.Link.Name {
			case marker:
				return heard
			case "vnet97", "vnif97", "vnp97":
				heard = true
			}
		}
	}
	require.Fail(t, "watch ended")
	return false
}

func TestEnsureWithoutBridge(t *testing.T) {
	h := newHost(t)
	s := Spec{ID: id(t, "4"), Vnetif: "vnif0004", MTU: 1400}
	d, err := Ensure(h, s)
	require.NoError(t, err)
	require.Zero(t, d.BridgeIndex)
	require.Equal(t, 1400, d.MTU)
	require.Equal(t, 1400, link(t, h, "vnif0004").MTU)

	// What its user does with it stays.
	br, _, err := h.EnsureBridge("mine")
	require.NoError(t, err)
	require.NoError(t, h.SetMaster(d.VnifIndex, br.Index))
	_, err = Ensure(h, s)
	require.NoError(t, err)
	require.Equal(t, br.Index, link(t, h, "vnif0004").Master)
	require.NoError(t, Remove(h, s))
	require.Equal(t, []string{"lo", "mine"}, deviceNames(t, h))
}

func TestEnsureReusesBridge(t *testing.T) {
	h := newHost(t)
	br, _, err := h.EnsureBridge("vnet97")
	require.NoError(t, err)
	require.NoError(t, h.SetMTU(br.Index, 1400))
	require.NoError(t, h.SetDown(br.Index))
	_, err = Ensure(h, spec97(t))
	require.NoError(t, err)
	got := link(t, h, "vnet97")
	require.Equal(t, br.Index, got.Index)
	require.Empty(t, got.Alias)
	require.Equal(t, 1400, got.MTU, "its owner's business")
	require.True(t, got.Up())
	require.NoError(t, Remove(h, spec97(t)))
	require.Equal(t, []string{"lo", "vnet97"}, deviceNames(t, h))
}

func TestRemoveLeavesBridgeWithPorts(t *testing.T) {
	h := newHost(t)
	_, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	_, err = h.EnsureVeth(hostnet.Veth{Name: "vif1.0", Partner: "eth0"})
	require.NoError(t, err)
	require.NoError(t, h.SetMaster(link(t, h, "vif1.0").Index, link(t, h, "vnet97").Index))
	require.NoError(t, Remove(h, spec97(t)))
	require.Equal(t, link(t, h, "vnet97").Index, link(t, h, "vif1.0").Master)
	requireNone(t, h, "vnif97", "vnp97")

	// The bridge of a vnet that is gone serves another one, and goes with it.
	s := Spec{ID: id(t, "98"), Bridge: "vnet97", Vnetif: "vnif98"}
	_, err = Ensure(h, s)
	require.NoError(t, err)
	require.NoError(t, h.Delete(link(t, h, "vif1.0").Index))
	require.NoError(t, Remove(h, s))
	require.Equal(t, []string{"lo"}, deviceNames(t, h))
}

func TestEnsureRepairs(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, h *hostnet.Host, d Devices){
		"off the bridge": func(t *testing.T, h *hostnet.Host, d Devices) { require.NoError(t, h.SetMaster(d.VnifIndex, 0)) },
		"wrong bridge": func(t *testing.T, h *hostnet.Host, d Devices) {
			br, _, err := h.EnsureBridge("other")
			require.NoError(t, err)
			require.NoError(t, h.SetMaster(d.VnifIndex, br.Index))
		},
		"bridge gone":    func(t *testing.T, h *hostnet.Host, d Devices) { require.NoError(t, h.Delete(d.BridgeIndex)) },
		"bridge down":    func(t *testing.T, h *hostnet.Host, d Devices) { require.NoError(t, h.SetDown(d.BridgeIndex)) },
		"bridge renamed": func(t *testing.T, h *hostnet.Host, d Devices) { rename(t, h, d.BridgeIndex, "br0") },
		"vnif down":      func(t *testing.T, h *hostnet.Host, d Devices) { require.NoError(t, h.SetDown(d.VnifIndex)) },
		"partner down":   func(t *testing.T, h *hostnet.Host, d Devices) { require.NoError(t, h.SetDown(d.PartnerIndex)) },
		"mtu": func(t *testing.T, h *hostnet.Host, d Devices) {
			require.NoError(t, h.SetMTU(d.VnifIndex, 1400))
			require.NoError(t, h.SetMTU(d.PartnerIndex, 9000))
		},
		"vnif renamed":    func(t *testing.T, h *hostnet.Host, d Devices) { rename(t, h, d.VnifIndex, "eth7") },
		"partner renamed": func(t *testing.T, h *hostnet.Host, d Devices) { rename(t, h, d.PartnerIndex, "eth7") },
		"vnif's alias gone": func(t *testing.T, h *hostnet.Host, d Devices) {
			require.NoError(t, h.SetAlias(d.VnifIndex, ""))
		},
		"partner's alias gone": func(t *testing.T, h *hostnet.Host, d Devices) {
			require.NoError(t, h.SetAlias(d.PartnerIndex, ""))
		},
		"partner's settings": func(t *testing.T, h *hostnet.Host, d Devices) {
			require.NoError(t, h.SetNoARP(d.PartnerIndex, false))
			require.NoError(t, h.SetGroup(d.PartnerIndex, 0))
			require.NoError(t, h.SetMaster(d.PartnerIndex, d.BridgeIndex))
			require.NoError(t, h.SetSysctl("0", "net", "ipv6", "conf", d.PartnerName, "disable_ipv6"))
		},
		"offloads": func(t *testing.T, h *hostnet.Host, d Devices) {
			require.NoError(t, h.SetFeatures(d.VnifIndex, map[string]bool{"tx-sctp-segmentation": true, "tx-checksum-sctp": true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			spoil(t, h, d)
			again, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			requireWhole(t, h, again)
			require.False(t, again.Created)
			require.Equal(t, d.MAC, again.MAC)
		})
	}
}

func rename(t *testing.T, h *hostnet.Host, index int, name string) {
	t.Helper()
	require.NoError(t, h.SetDown(index))
	require.NoError(t, h.Rename(index, name))
	require.NoError(t, h.SetUp(index))
}

// An end that was moved to another namespace makes the other useless: the pair is made anew.
func TestEnsureMakesHalfPairAnew(t *testing.T) {
	for _, lost := range []string{"vnif97", "vnp97"} {
		t.Run(lost, func(t *testing.T) {
			h, away := newHost(t), newHost(t)
			d, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			require.NoError(t, h.Move(link(t, h, lost).Index, away))
			again, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			require.True(t, again.Created)
			requireWhole(t, h, again)
			if lost == "vnp97" {
				require.Equal(t, d.MAC, again.MAC)
			}
			require.Equal(t, []string{"lo"}, deviceNames(t, away))
		})
	}
}

func TestEnsureRefusesOthersDevices(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, h *hostnet.Host)
		text string
	}{
		"vnif is a bridge": {func(t *testing.T, h *hostnet.Host) {
			_, _, err := h.EnsureBridge("vnif97")
			require.NoError(t, err)
		}, "vnif97 (bridge, index"},
		"vnif is somebody's veth": {func(t *testing.T, h *hostnet.Host) {
			_, err := h.EnsureVeth(hostnet.Veth{Name: "vnif97", Partner: "x"})
			require.NoError(t, err)
		}, "vnif97 (veth, index"},
		"partner is somebody's veth": {func(t *testing.T, h *hostnet.Host) {
			_, err := h.EnsureVeth(hostnet.Veth{Name: "vnp97", Partner: "x"})
			require.NoError(t, err)
		}, "vnp97 (veth, index"},
		"bridge is none": {func(t *testing.T, h *hostnet.Host) {
			_, err := h.EnsureVeth(hostnet.Veth{Name: "vnet97", Partner: "x"})
			require.NoError(t, err)
		}, "vnet97 (veth, index"},
		"a bridge that calls itself ours": {func(t *testing.T, h *hostnet.Host) {
			l, _, err := h.EnsureBridge("vnif97")
			require.NoError(t, err)
			require.NoError(t, h.SetAlias(l.Index, Alias(id(t, "97"))))
		}, "vnif97 (bridge, index"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			c.make(t, h)
			before := deviceNames(t, h)
			_, err := Ensure(h, spec97(t))
			var notOurs *hostnet.NotOursError
			require.ErrorAs(t, err, &notOurs)
			require.ErrorContains(t, err, c.text)
			require.NoError(t, Remove(h, spec97(t)))
			if name != "a bridge that calls itself ours" {
				require.Equal(t, before, deviceNames(t, h))
			}
		})
	}
}

func TestEnsureRefusesOtherVnets(t *testing.T) {
	h := newHost(t)
	_, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	before := deviceNames(t, h)
	var conflict *ConflictError
	_, err = Ensure(h, Spec{ID: id(t, "98"), Bridge: "vnet97", Vnetif: "vnif98"})
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, id(t, "97"), conflict.By)
	_, err = Ensure(h, Spec{ID: id(t, "98"), Bridge: "vnet98", Vnetif: "vnif97"})
	require.ErrorAs(t, err, &conflict)
	require.ErrorContains(t, err, "belongs to vnet 0000:0000:0000:0000:0000:0000:0000:0097")
	require.NoError(t, Remove(h, Spec{ID: id(t, "98"), Bridge: "vnet97", Vnetif: "vnif97"}))
	require.Equal(t, before, deviceNames(t, h))
}

var errInjected = errors.New("injected")

// steps lists the steps that ensure takes.
func steps(t *testing.T) (names []string) {
	t.Helper()
	h := newHost(t)
	_, err := ensure(h, spec97(t), func(step string) error { names = append(names, step); return nil })
	require.NoError(t, err)
	return names
}

// After a failure at any step nothing is left behind, and nothing that was there before is gone.
func TestEnsureRollsBack(t *testing.T) {
	for _, failing := range steps(t) {
		t.Run(failing, func(t *testing.T) {
			fail := func(step string) error {
				if step == failing {
					return fmt.Errorf("%s: %w", step, errInjected)
				}
				return nil
			}
			h := newHost(t)
			_, err := ensure(h, spec97(t), fail)
			require.ErrorIs(t, err, errInjected)
			require.Equal(t, []string{"lo"}, deviceNames(t, h))

			d, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			_, err = ensure(h, spec97(t), fail)
			require.ErrorIs(t, err, errInjected)
			again, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			require.Equal(t, d.PartnerIndex, again.PartnerIndex, "what was adopted stays")
		})
	}
}

// A daemon that is killed after any step leaves what the next one completes, or removes, whether it is told of the vnet or
// not.
func TestEnsureAfterDeathAtAnyStep(t *testing.T) {
	type death struct{}
	die := func(h *hostnet.Host, s Spec, last string) {
		defer func() { _ = recover().(death) }()
		_, _ = ensure(h, s, func(step string) error {
			if step == last {
				panic(death{}) // nothing is rolled back
			}
			return nil
		})
	}
	for _, last := range steps(t) {
		t.Run(last, func(t *testing.T) {
			h := newHost(t)
			die(h, spec97(t), last)
			require.Empty(t, leftovers(t, h, spec97(t)))
			d, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			requireWhole(t, h, d)
			require.NoError(t, Remove(h, spec97(t)))
			require.Equal(t, []string{"lo"}, deviceNames(t, h))

			die(h, spec97(t), last)
			require.NoError(t, Remove(h, spec97(t)))
			require.Equal(t, []string{"lo"}, deviceNames(t, h))

			die(h, spec97(t), last)
			for _, l := range leftovers(t, h) {
				require.Equal(t, id(t, "97"), l.ID)
				require.NoError(t, (&Maker{Host: h}).RemoveLeftover(l))
			}
			require.Equal(t, []string{"lo"}, deviceNames(t, h))
		})
	}
}

func TestRemoveAfterDeathAtAnyStep(t *testing.T) {
	for _, last := range []string{"delete veth", "delete bridge"} {
		h := newHost(t)
		_, err := Ensure(h, spec97(t))
		require.NoError(t, err)
		m := Maker{Host: h, Step: func(step string) error {
			if step == last {
				return errInjected
			}
			return nil
		}}
		require.ErrorIs(t, m.Remove(spec97(t)), errInjected)
		for _, l := range leftovers(t, h) { // all that the next daemon may know
			require.NoError(t, (&Maker{Host: h}).RemoveLeftover(l))
		}
		require.Equal(t, []string{"lo"}, deviceNames(t, h))
	}
}

// What somebody else made is never deleted, whatever it is called.
func TestForeignDevicesOfOurNames(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"vnb97", "vnn98"} {
		_, _, err := h.EnsureBridge(name)
		require.NoError(t, err)
	}
	require.NoError(t, h.SetAlias(link(t, h, "vnb97").Index, Alias(id(t, "97"))))
	require.Empty(t, leftovers(t, h))
	for _, text := range []string{"97", "98"} {
		s := Spec{ID: id(t, text), Bridge: "vnet" + text, Vnetif: "vnif" + text}
		_, err := Ensure(h, s)
		var notOurs *hostnet.NotOursError
		require.ErrorAs(t, err, &notOurs)
		require.NoError(t, Remove(h, s))
	}
	require.Equal(t, []string{"lo", "vnb97", "vnn98"}, deviceNames(t, h))
	// Where nothing need be made, they are in nobody's way.
	require.NoError(t, h.Delete(link(t, h, "vnb97").Index))
	_, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	_, _, err = h.EnsureBridge("vnb97")
	require.NoError(t, err)
	_, err = Ensure(h, spec97(t))
	require.NoError(t, err)
	require.NoError(t, Remove(h, spec97(t)))
	require.ElementsMatch(t, []string{"lo", "vnb97", "vnn98"}, deviceNames(t, h))
}

// What a release left that put only the partner into the group is adopted.
func TestEnsureAdoptsOlderReleases(t *testing.T) {
	h := newHost(t)
	d, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	require.NoError(t, h.SetGroup(d.VnifIndex, 0))
	require.NoError(t, h.SetGroup(d.BridgeIndex, 0))
	again, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	require.Equal(t, d.PartnerIndex, again.PartnerIndex)
	require.Equal(t, d.BridgeIndex, again.BridgeIndex)
	requireWhole(t, h, again)
	require.EqualValues(t, Group, link(t, h, "vnet97").Group)
	require.NoError(t, Remove(h, spec97(t)))
	require.Equal(t, []string{"lo"}, deviceNames(t, h))
}

func TestNames(t *testing.T) {
	long := id(t, "1:2:3:4:5:6:7:8")
	for _, name := range []string{PartnerName(long), newVnifName(long), newBridgeName(long)} {
		require.LessOrEqual(t, len(name), 14)
	}
	require.NotEqual(t, PartnerName(long), PartnerName(id(t, "1:2:3:4:5:6:7:9")))
	require.Equal(t, "vnp10002", PartnerName(id(t, "0:0:0:0:0:0:1:2")))
	got, ok := parseAlias(Alias(long))
	require.True(t, ok)
	require.Equal(t, long, got)
	for _, alias := range []string{"", "xend vnet", "xend vnet x", "my xend vnet 0000:0000:0000:0000:0000:0000:0000:0097"} {
		_, ok := parseAlias(alias)
		require.False(t, ok, alias)
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-18-amd64": false, "6.2.0": true, "6.18.44-fc-v657": true, "5.10": false, "7.0-rc1": true, "": false, "6": false,
	} {
		require.Equal(t, want, atLeast(release, 6, 2), release)
	}
}

// Hundreds of vnets come up in seconds.
func BenchmarkEnsure(b *testing.B) {
	h := newHost(b)
	for i := 0; b.Loop(); i++ {
		text := fmt.Sprintf("%x", 0x100+i)
		_, err := Ensure(h, Spec{ID: id(b, text), Bridge: "vnet" + text, Vnetif: "vnif" + text})
		require.NoError(b, err)
	}
}

// A bridge keeps its MAC and its MTU when ports come and go, also one that an earlier release made, where both were the
// kernel's choice; and it is bounded.
func TestBridgeIdentity(t *testing.T) {
	for _, earlier := range []bool{false, true} {
		t.Run(fmt.Sprintf("of an earlier release: %v", earlier), func(t *testing.T) {
			h := newHost(t)
			if earlier {
				b, err := h.CreateBridge(hostnet.Bridge{Name: "vnet97", Group: Group})
				require.NoError(t, err)
				require.NoError(t, h.SetAlias(b.Index, Alias(id(t, "97"))))
				addPort(t, h, "before", net.HardwareAddr{4, 0, 0, 0, 0, 9}, 1500, b.Index)
				_, err = Ensure(h, spec97(t))
				require.NoError(t, err)
			}
			d, err := Ensure(h, spec97(t))
			require.NoError(t, err)
			before := link(t, h, "vnet97")
			same := func() {
				t.Helper()
				now := link(t, h, "vnet97")
				require.Equal(t, before.MAC, now.MAC)
				require.Equal(t, 1500, now.MTU)
			}
			low := addPort(t, h, "low", net.HardwareAddr{2, 0, 0, 0, 0, 1}, 1300, d.BridgeIndex)
			same()
			require.NoError(t, h.Delete(low.Index))
			same()
			large := addPort(t, h, "large", net.HardwareAddr{2, 0, 0, 0, 0, 2}, 9000, d.BridgeIndex)
			require.NoError(t, h.SetMaster(d.VnifIndex, 0))
			same()
			require.NoError(t, h.Delete(large.Index))
			same()
			// What somebody changed is mended.
			require.NoError(t, h.SetMTU(d.BridgeIndex, 1400))
			s := spec97(t)
			s.ForwardMask = 0x4008
			_, err = Ensure(h, s)
			require.NoError(t, err)
			same()
			detail, err := h.Detail(d.BridgeIndex)
			require.NoError(t, err)
			require.EqualValues(t, 0x4008, detail.ForwardMask)
			require.True(t, !detail.BoundsLearned || detail.MaxLearned == maxLearned)
		})
	}
}

func addPort(t *testing.T, h *hostnet.Host, name string, mac net.HardwareAddr, mtu, bridge int) hostnet.Link {
	t.Helper()
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: name, Partner: name + "p", MAC: mac, MTU: mtu}))
	l := link(t, h, name)
	require.NoError(t, h.SetMaster(l.Index, bridge))
	require.NoError(t, h.SetUp(l.Index))
	return l
}

// A new bridge is quiet: no IPv6, no answers to ARP for other devices' addresses, no routers, nothing for the host; so
// is a vnif without a bridge. What an administrator changes of that stays.
func TestQuiet(t *testing.T) {
	h := newHost(t)
	_, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	other := Spec{ID: id(t, "2"), Vnetif: "vnif0002"}
	_, err = Ensure(h, other)
	require.NoError(t, err)
	for _, device := range []string{"vnet97", "vnif0002", "vnif97"} {
		for setting, want := range map[string]string{"ipv6 disable_ipv6": "1", "ipv6 accept_ra": "0", "ipv4 arp_ignore": "1"} {
			family, name, _ := strings.Cut(setting, " ")
			v, err := h.Sysctl("net", family, "conf", device, name)
			require.NoError(t, err)
			require.Equal(t, want, v, "%s %s", device, setting)
		}
		guard, err := h.GuardOf(link(t, h, device).Index)
		require.NoError(t, err)
		require.Equal(t, device != "vnif97", guard == "1_closed", device)
	}
	for _, device := range []string{"vnet97", "vnif0002"} {
		require.NoError(t, h.SetSysctl("0", "net", "ipv6", "conf", device, "disable_ipv6"))
	}
	for _, s := range []Spec{spec97(t), other} {
		_, err := Ensure(h, s)
		require.NoError(t, err)
	}
	for _, device := range []string{"vnet97", "vnif0002"} {
		v, err := h.Sysctl("net", "ipv6", "conf", device, "disable_ipv6")
		require.NoError(t, err)
		require.Equal(t, "0", v, device)
	}
}
