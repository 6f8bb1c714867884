package port

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// ground is a list of devices that tests put together.
type ground []hostnet.Link

func (g *ground) add(l hostnet.Link) int {
	l.Index = len(*g) + 1
	*g = append(*g, l)
	return l.Index
}

// veth adds a pair; marked ends are in our group.
func (g *ground) veth(a, b hostnet.Link) {
	a.Kind, b.Kind = "veth", "veth"
	i := g.add(a)
	j := g.add(b)
	(*g)[i-1].Partner, (*g)[j-1].Partner = j, i
}

func (g *ground) bridge(l hostnet.Link) int {
	l.Kind = "bridge"
	return g.add(l)
}

// on makes a device a port.
func (g ground) on(name string, bridge int) {
	for i := range g {
		if g[i].Name == name {
			g[i].Master = bridge
		}
	}
}

func idBy(t *testing.T, text string) vnet.ID {
	t.Helper()
	v, err := vnet.ParseID(text)
	require.NoError(t, err)
	return v
}

func TestSurvey(t *testing.T) {
	id97, id98 := idBy(t, "97"), idBy(t, "98")
	mine, other := Alias(id97), Alias(id98)
	spec := Spec{ID: id97, Bridge: "vnet97", Vnetif: "vnif97"}
	pair := func(g *ground) {
		g.veth(hostnet.Link{Name: "vnif97", Group: Group, Alias: mine}, hostnet.Link{Name: "vnp97", Group: Group, Alias: mine})
	}
	for name, c := range map[string]struct {
		make     func(g *ground)
		missing  string
		role     Role
		conflict string
		left     int // of all, if nobody wants the vnet
	}{
		"nothing": {make: func(*ground) {}, missing: "interface vnif97 is gone"},
		"all": {make: func(g *ground) {
			pair(g)
			g.on("vnif97", g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: mine}))
		}, left: 3},
		"somebody's bridge": {make: func(g *ground) {
			pair(g)
			g.on("vnif97", g.bridge(hostnet.Link{Name: "vnet97"}))
		}, left: 2},
		"a bridge in use": {make: func(g *ground) {
			pair(g)
			b := g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: mine})
			g.on("vnif97", b)
			g.add(hostnet.Link{Name: "tap0", Kind: "tun", Master: b})
		}, left: 2},
		"killed before a mark": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnn97", Group: Group}, hostnet.Link{Name: "vnp97", Group: Group})
			g.bridge(hostnet.Link{Name: "vnb97", Group: Group})
		}, missing: "interface vnif97 is gone", left: 3},
		"marks taken away": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnif97"}, hostnet.Link{Name: "vnp97", Group: Group})
			g.on("vnif97", g.bridge(hostnet.Link{Name: "vnet97"}))
		}, missing: "vnif97 has lost its mark", left: 2},
		"off the bridge": {make: func(g *ground) {
			pair(g)
			g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: mine})
		}, missing: "vnif97 left its bridge vnet97", left: 3},
		"on another bridge": {make: func(g *ground) {
			pair(g)
			g.bridge(hostnet.Link{Name: "vnet97"})
			g.on("vnif97", g.bridge(hostnet.Link{Name: "aside"}))
		}, missing: "vnif97 is on aside instead of vnet97", left: 2},
		"no bridge": {make: pair, missing: "bridge vnet97 is gone", left: 2},
		"the partner away": {make: func(g *ground) {
			g.add(hostnet.Link{Name: "vnif97", Kind: "veth", Group: Group, Alias: mine})
		}, missing: "the other end of vnif97 is gone", left: 1},
		"somebody's vnif97": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnif97"}, hostnet.Link{Name: "x"})
		}, missing: "interface vnif97 is gone", role: RoleVnif, conflict: "vnif97 (veth"},
		"an alias alone": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnif97", Alias: mine}, hostnet.Link{Name: "x", Alias: mine})
		}, missing: "interface vnif97 is gone", role: RoleVnif, conflict: "vnif97 (veth"},
		"a group alone": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnif97", Group: Group}, hostnet.Link{Name: "x", Group: Group})
		}, missing: "interface vnif97 is gone", role: RoleVnif, conflict: "vnif97 (veth"},
		"a bridge where the vnif is wanted": {make: func(g *ground) {
			g.bridge(hostnet.Link{Name: "vnif97", Group: Group, Alias: mine})
		}, missing: "interface vnif97 is gone", role: RoleVnif, conflict: "vnif97 (bridge", left: 1},
		"somebody's vnp97": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnp97"}, hostnet.Link{Name: "x"})
		}, missing: "interface vnif97 is gone", role: RolePartner, conflict: "vnp97 (veth"},
		"somebody's vnn97": {make: func(g *ground) { g.add(hostnet.Link{Name: "vnn97"}) },
			missing: "interface vnif97 is gone", role: RoleTemporary, conflict: "vnn97 (device"},
		"somebody's vnb97": {make: func(g *ground) { g.bridge(hostnet.Link{Name: "vnb97", Alias: mine}) },
			missing: "interface vnif97 is gone", role: RoleTemporary, conflict: "vnb97 (bridge"},
		"no bridge of that name": {make: func(g *ground) { g.add(hostnet.Link{Name: "vnet97"}) },
			missing: "interface vnif97 is gone", role: RoleBridge, conflict: "vnet97 (device"},
		"the bridge of another vnet": {make: func(g *ground) {
			g.veth(hostnet.Link{Name: "vnif98", Group: Group, Alias: other}, hostnet.Link{Name: "vnp98", Group: Group, Alias: other})
			g.on("vnif98", g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: other}))
		}, missing: "interface vnif97 is gone", role: RoleBridge, conflict: "belongs to vnet 0000:0000:0000:0000:0000:0000:0000:0098", left: 3},
		"a bridge of a vnet that is no more": {make: func(g *ground) {
			pair(g)
			g.on("vnif97", g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: other}))
		}, left: 3},
		"made anew under the name": {make: func(g *ground) {
			pair(g)
			g.on("vnif97", g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: mine}))
			g.bridge(hostnet.Link{Name: "br0", Group: Group, Alias: mine})
		}, left: 4},
	} {
		t.Run(name, func(t *testing.T) {
			var g ground
			c.make(&g)
			s := NewSurvey(g)
			f := s.Find(spec)
			require.Equal(t, c.missing, f.Missing)
			if c.conflict == "" {
				require.Nil(t, f.Conflict)
			} else {
				require.ErrorContains(t, f.Conflict, c.conflict)
				require.Equal(t, c.role, f.Conflict.Role)
			}
			n := 0
			for _, l := range s.Leftovers(nil) {
				n += len(l.Devices)
			}
			require.Equal(t, c.left, n)
		})
	}
}

// TestLeftoversOfWanted: of a vnet that is wanted only what it does not use is left over.
func TestLeftoversOfWanted(t *testing.T) {
	id97 := idBy(t, "97")
	spec, mine := Spec{ID: id97, Bridge: "vnet97", Vnetif: "vnif97"}, Alias(id97)
	var g ground
	g.veth(hostnet.Link{Name: "vnif97", Group: Group, Alias: mine}, hostnet.Link{Name: "vnp97", Group: Group, Alias: mine})
	g.on("vnif97", g.bridge(hostnet.Link{Name: "vnet97", Group: Group, Alias: mine}))
	g.bridge(hostnet.Link{Name: "br0", Group: Group, Alias: mine})
	g.bridge(hostnet.Link{Name: "vnb-0123456789", Group: Group})
	left := NewSurvey(g).Leftovers([]Spec{spec})
	require.Len(t, left, 2)
	require.Equal(t, vnet.ID{}, left[0].ID)
	require.Equal(t, "vnb-0123456789", left[0].String())
	require.Equal(t, id97, left[1].ID)
	require.Equal(t, "br0", left[1].String())
	require.Empty(t, NewSurvey(g[:3]).Leftovers([]Spec{spec}))
}

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"vnn50": true, "vnb5": true, "vnp0123456789": false, "vnpabcdef0123": true, "vnp-0123456789": true, "vnp-gro0": true, "vnp-gro1": true,
		"vnp-01": false, "vnp": false, "vnp0": false, "vnpG": false, "vnet97": false, "vnif97": false, "vnbridge": false, "vnb12345678901": false,
	} {
		require.Equal(t, want, Reserved(name), name)
	}
	for _, text := range []string{"97", "0:0:0:0:0:0:1:2", "1:2:3:4:5:6:7:8", "ff:ffff:ffff"} {
		v, err := vnet.ParseID(text)
		if err != nil {
			continue
		}
		for _, name := range OwnNames(v) {
			require.True(t, Reserved(name), name)
			_, suffix, _ := cutName(name)
			if got := parseSuffix(suffix); got != (vnet.ID{}) {
				require.Equal(t, v, got)
			}
		}
	}
}
