package port

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
)

func TestMemory(t *testing.T) {
	spec := spec97(t)
	port := func(index, bridge int, vlan uint16) hostnet.BridgePort {
		return hostnet.BridgePort{Index: index, Bridge: bridge, PortSettings: hostnet.PortSettings{
			VLANs: []hostnet.VLANRange{{First: vlan, Last: vlan, PVID: true}},
		}}
	}
	tell := func(m *memory, p hostnet.BridgePort) { m.tell(hostnet.PortEvent{Port: p}) }
	recalls := func(t *testing.T, m *memory, vlan uint16) {
		t.Helper()
		s, ok := m.recall(spec, 3, nil)
		require.Equal(t, vlan != 0, ok)
		if ok {
			require.Equal(t, port(0, 0, vlan).PortSettings, s)
		}
	}
	attached := func() *memory {
		m := &memory{}
		tell(m, port(7, 3, 10))
		m.attach(spec, 7, 3)
		return m
	}

	t.Run("nothing is known", func(t *testing.T) { recalls(t, &memory{}, 0) })
	t.Run("told before", func(t *testing.T) { recalls(t, attached(), 10) })
	t.Run("told later", func(t *testing.T) {
		m := &memory{}
		m.attach(spec, 7, 3)
		recalls(t, m, 0)
		tell(m, port(7, 3, 10))
		recalls(t, m, 10)
	})
	t.Run("gone", func(t *testing.T) {
		m := attached()
		m.tell(hostnet.PortEvent{Port: port(7, 3, 1), Gone: true})
		recalls(t, m, 10)
		require.Empty(t, m.ports)
	})
	t.Run("on another bridge", func(t *testing.T) {
		m := attached()
		tell(m, port(7, 4, 1))
		recalls(t, m, 10)
	})
	t.Run("other ports", func(t *testing.T) {
		m := attached()
		tell(m, port(8, 3, 1))
		recalls(t, m, 10)
	})
	t.Run("made anew", func(t *testing.T) {
		m := attached()
		tell(m, port(9, 5, 1)) // as it joined
		m.attach(spec, 9, 5)
		recalls(t, m, 10)
		tell(m, port(7, 3, 11)) // a late word of the old one
		recalls(t, m, 10)
		tell(m, port(9, 5, 12))
		recalls(t, m, 12)
		require.Len(t, m.ids, 1)
	})
	t.Run("events were lost", func(t *testing.T) {
		m := attached()
		m.replace([]hostnet.BridgePort{port(7, 3, 11), port(8, 3, 1)})
		recalls(t, m, 11)
		m.replace(nil)
		recalls(t, m, 11)
	})
	t.Run("half is left", func(t *testing.T) { // since before the daemon's start
		m := &memory{}
		tell(m, port(7, 3, 10))
		half := []hostnet.Link{{Index: 7, Name: spec.Vnetif, Master: 3}}
		s, ok := m.recall(spec, 3, half)
		require.True(t, ok)
		require.Equal(t, port(7, 3, 10).PortSettings, s)
		_, ok = m.recall(spec, 4, half)
		require.False(t, ok, "on another bridge")
	})
	t.Run("another bridge is wanted", func(t *testing.T) {
		m := attached()
		other := spec
		other.Bridge = "br1"
		_, ok := m.recall(other, 3, nil)
		require.False(t, ok)
		m.attach(other, 7, 4)
		_, ok = m.recall(other, 4, nil)
		require.False(t, ok)
	})
	t.Run("deleted", func(t *testing.T) {
		m := attached()
		m.forget(spec.ID)
		recalls(t, m, 0)
		require.Empty(t, m.vnifs)
		require.Empty(t, m.ids)
	})
}

// What somebody set of a vnif on its bridge is so again after the vnif was lost, in whatever way.
func TestPortSettingsAreRestored(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, h *hostnet.Host){
		"vnif deleted": func(t *testing.T, h *hostnet.Host) {
			require.NoError(t, h.Delete(link(t, h, "vnif97").Index))
		},
		"pair broken": func(t *testing.T, h *hostnet.Host) {
			other := newHost(t)
			require.NoError(t, h.Move(link(t, h, "vnp97").Index, other))
		},
		"off its bridge": func(t *testing.T, h *hostnet.Host) {
			require.NoError(t, h.SetMaster(link(t, h, "vnif97").Index, 0))
		},
		"bridge deleted": func(t *testing.T, h *hostnet.Host) {
			require.NoError(t, h.Delete(link(t, h, "vnet97").Index))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := &Maker{Host: h}
			var want hostnet.PortSettings
			restored := false
			var fail error
			m.Step = func(step string) error {
				if step == "vnif bridge" && want.Known != 0 {
					require.False(t, link(t, h, "vnif97").Up(), "nothing passes before")
					require.Equal(t, want, portOf(t, h, "vnif97").PortSettings)
					restored = true
					return fail
				}
				return nil
			}
			events, err := m.Watch(t.Context())
			require.NoError(t, err)
			// until reads events up to the one of a new device: those before it have been heard.
			until := func(marker string) {
				_, _, err := h.EnsureBridge(marker)
				require.NoError(t, err)
				for ev := range events {
					if l, ok := ev.(hostnet.LinkEvent); ok && l.Link.Name == marker {
						return
					}
				}
			}
			_, err = m.Ensure(spec97(t))
			require.NoError(t, err)
			want = portOf(t, h, "vnif97").PortSettings
			want.Flags ^= hostnet.PortLearning | hostnet.PortIsolated
			if len(want.VLANs) > 0 { // else the kernel has no VLANs in bridges; make test-vm has one that does
				want.VLANs = []hostnet.VLANRange{{First: 10, Last: 10, PVID: true, Untagged: true}, {First: 20, Last: 29}}
			}
			require.NoError(t, h.SetPort(link(t, h, "vnif97").Index, want))
			until("marker")
			for _, again := range []string{"first", "second"} {
				lose(t, h)
				until(again)
				fail = errors.New("not now")
				_, err = m.Ensure(spec97(t))
				require.ErrorIs(t, err, fail)
				if l, err := h.LinkByName("vnif97"); err == nil {
					require.Zero(t, l.Master, "half done, on its bridge it would be taken for whole")
				}
				until(again + "1")
				restored, fail = false, nil
				_, err = m.Ensure(spec97(t))
				require.NoError(t, err)
				require.True(t, restored, "also after a failure")
				require.Equal(t, want, portOf(t, h, "vnif97").PortSettings)
				require.True(t, link(t, h, "vnif97").Up())
				until(again + "2")
			}
		})
	}
}

// portOf is what the bridge knows of a device on it.
func portOf(t *testing.T, h *hostnet.Host, name string) hostnet.BridgePort {
	t.Helper()
	list, err := h.BridgePorts()
	require.NoError(t, err)
	index := link(t, h, name).Index
	for _, p := range list {
		if p.Index == index {
			return p
		}
	}
	require.FailNow(t, "no port", name)
	return hostnet.BridgePort{}
}
