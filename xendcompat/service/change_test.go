package service

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// A changeCase is a change of vnet 97, which has the port vif1.0 before, if its bridge is xend's, and after.
type changeCase struct {
	name, from, to string
	foreign        string // a bridge that is somebody else's, with somebody's port on it if it is not from's
	// The layouts, without the other end of vif1.0.
	before, after string
}

var changeCases = []changeCase{
	{"bridge", "(vnet (id 97))", "(vnet (id 97) (bridge lan))", "", "vif1.0@vnet97 vnet97 vnif97@vnet97", "lan vif1.0@lan vnif97@lan"},
	{"interface", "(vnet (id 97))", "(vnet (id 97) (vnetif up97))", "", "vif1.0@vnet97 vnet97 vnif97@vnet97", "up97@vnet97 vif1.0@vnet97 vnet97"},
	{"both", "(vnet (id 97))", "(vnet (id 97) (bridge lan) (vnetif up97))", "", "vif1.0@vnet97 vnet97 vnif97@vnet97", "lan up97@lan vif1.0@lan"},
	{"bridge that is there", "(vnet (id 97))", "(vnet (id 97) (bridge br0))", "br0", "br0 eth7@br0 vif1.0@vnet97 vnet97 vnif97@vnet97", "br0 eth7@br0 vif1.0@br0 vnif97@br0"},
	{"away from somebody's bridge", "(vnet (id 97) (bridge br0))", "(vnet (id 97))", "br0", "br0 vif1.0 vnif97@br0", "br0 vif1.0 vnet97 vnif97@vnet97"},
	{"what means nothing", "(vnet (id 97) (color red))", "(vnet (id 97) (color blue))", "", "vif1.0@vnet97 vnet97 vnif97@vnet97", "vif1.0@vnet97 vnet97 vnif97@vnet97"},
}

// prepare makes vnet 97 as it is before, with what is on bridges.
func (c *changeCase) prepare(t *testing.T, d *daemon) {
	t.Helper()
	h := d.host
	on := func(device, bridge string) {
		l, err := h.LinkByName(device)
		require.NoError(t, err)
		b, err := h.LinkByName(bridge)
		require.NoError(t, err)
		require.NoError(t, h.SetMaster(l.Index, b.Index))
	}
	from := config(t, c.from)
	if c.foreign != "" {
		_, err := h.CreateBridge(hostnet.Bridge{Name: c.foreign})
		require.NoError(t, err)
	}
	require.NoError(t, d.CreateVnet(t.Context(), from))
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "vif1.0", Partner: "domain"}))
	if c.foreign != from.Bridge {
		on("vif1.0", from.Bridge)
		if c.foreign != "" {
			require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "eth7", Partner: "wire"}))
			on("eth7", c.foreign)
		}
	}
	require.Equal(t, c.before, withoutEnds(t, h))
}

// clean takes away what prepare made, and the vnet.
func (c *changeCase) clean(t *testing.T, d *daemon) {
	t.Helper()
	for _, v := range d.Vnets() {
		require.NoError(t, d.DeleteVnet(t.Context(), v.ID))
	}
	links, err := d.host.Links()
	require.NoError(t, err)
	for _, l := range links {
		if l.Name != "lo" {
			require.NoError(t, d.host.Delete(l.Index))
		}
	}
}

// withoutEnds is layout without the other ends of the test's own pairs.
func withoutEnds(t *testing.T, h ground) string {
	t.Helper()
	var list []string
	for name := range strings.FieldsSeq(layout(t, h)) {
		if name != "domain" && name != "wire" {
			list = append(list, name)
		}
	}
	return strings.Join(list, " ")
}

// forms are the configurations of all vnets.
func forms(s *Service) string {
	var all []string
	for _, c := range s.Vnets() {
		all = append(all, c.Form.String())
	}
	return strings.Join(all, " ")
}

// TestChange: a change is durable, and what was on the bridge is on it afterwards.
func TestChange(t *testing.T) { onGrounds(t, testChange) }

func testChange(t *testing.T, h ground) {
	for _, c := range changeCases {
		t.Run(c.name, func(t *testing.T) {
			state := t.TempDir()
			d := startDaemon(t, h, state, options{})
			c.prepare(t, d)
			defer func() { c.clean(t, d) }()
			before, err := h.LinkByName(config(t, c.from).Vnetif)
			require.NoError(t, err)
			require.NoError(t, d.ChangeVnet(t.Context(), config(t, c.to)))
			require.Equal(t, c.to, forms(d.Service))
			require.Equal(t, c.after, withoutEnds(t, h))
			after, err := h.LinkByName(config(t, c.to).Vnetif)
			require.NoError(t, err)
			require.Equal(t, before.Index, after.Index, "it is the interface that it was")
			require.Contains(t, d.log.String(), "vnet changed")

			require.NoError(t, d.stop())
			d = startDaemon(t, h, state, options{})
			require.Equal(t, c.to, forms(d.Service))
			require.Equal(t, c.after, withoutEnds(t, h))
		})
	}
}

// TestChangeKeepsBridge: a bridge that gets another name keeps its MAC and its addresses, and a port its settings, also
// where it comes to another bridge.
func TestChangeKeepsBridge(t *testing.T) {
	h := newHost(t)
	d := startDaemon(t, h, t.TempDir(), options{enabled: true})
	c := changeCase{from: "(vnet (id 97))", foreign: "br0", before: "br0 eth7@br0 vif1.0@vnet97 vnet97 vnif0002 vnif0003 vnif0004 vnif97@vnet97"}
	c.prepare(t, d)
	before, err := h.LinkByName("vnet97")
	require.NoError(t, err)
	require.NoError(t, h.EnsureAddress(hostnet.Address{Index: before.Index, Prefix: netip.MustParsePrefix("10.97.0.1/24")}))
	vif, err := h.LinkByName("vif1.0")
	require.NoError(t, err)
	require.NoError(t, h.SetUp(vif.Index))
	settings := func() hostnet.PortSettings {
		list, err := h.BridgePorts()
		require.NoError(t, err)
		for _, p := range list {
			if p.Index == vif.Index {
				return p.PortSettings
			}
		}
		return hostnet.PortSettings{}
	}
	isolated := settings()
	isolated.Flags |= hostnet.PortIsolated
	require.NoError(t, h.SetPort(vif.Index, isolated))

	require.NoError(t, d.ChangeVnet(t.Context(), config(t, "(vnet (id 97) (bridge lan))")))
	after, err := h.LinkByName("lan")
	require.NoError(t, err)
	require.Equal(t, before.Index, after.Index)
	require.Equal(t, before.MAC, after.MAC)
	require.True(t, after.Up())
	addrs, err := h.Addresses(after.Index)
	require.NoError(t, err)
	require.Len(t, addrs, 1)
	require.Equal(t, isolated, settings())

	require.NoError(t, d.ChangeVnet(t.Context(), config(t, "(vnet (id 97) (bridge br0))")))
	require.Equal(t, isolated, settings())
	moved, err := h.LinkByName("vif1.0")
	require.NoError(t, err)
	require.True(t, moved.Up())
	status := d.Dataplane().Status().Vnets
	require.Equal(t, "br0", status[len(status)-1].Bridge)
	require.True(t, status[len(status)-1].Up, "%+v", status)
}

func TestChangeRefusals(t *testing.T) { onGrounds(t, testChangeRefusals) }

func testChangeRefusals(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{enabled: true})
	ctx := t.Context()
	c := changeCase{from: "(vnet (id 97) (bridge br0))", foreign: "br0", before: "br0 vif1.0 vnif0002 vnif0003 vnif0004 vnif97@br0"}
	c.prepare(t, d)
	require.NoError(t, d.CreateVnet(ctx, simple(t, "98")))
	transient := simple(t, "50")
	transient.Bridge = ""
	require.NoError(t, d.AddTransient(ctx, transient))
	l, err := h.LinkByName("vif1.0")
	require.NoError(t, err)
	b, err := h.LinkByName("br0")
	require.NoError(t, err)
	require.NoError(t, h.SetMaster(l.Index, b.Index))
	l, err = h.LinkByName("vif1.0")
	require.NoError(t, err)
	before, vnets := layout(t, h), forms(d.Service)
	for _, x := range []struct {
		text  string
		kind  Kind
		error string
	}{
		{"(vnet (id 404))", NotFound, "No such vnet 404"},
		{"(vnet (id 2))", Conflict, "vnet 2 is a default vnet: 'default_vnets = false' in the table [dataplane] of vnet.toml turns the default vnets off"},
		{"(vnet (id 50))", Conflict, "vnet 50 was made with 'vn vnet-create' and goes when xend restarts: delete it with 'vn vnet-delete 50'"},
		{"(vnet (id 97) (bridge br0) (security conf))", Unavailable, "invalid vnet config: security: conf needs a key, and none is configured on this host"},
		{"(vnet (id 97) (bridge vnet98))", Conflict, "invalid vnet config: bridge: vnet98 belongs to vnet 98"},
		{"(vnet (id 97) (bridge br0) (vnetif vnif98))", Conflict, "invalid vnet config: vnetif: vnif98 belongs to vnet 98"},
		{"(vnet (id 97) (bridge vnb97))", Invalid, "invalid vnet config: bridge: vnb97 is a name that xend gives to devices of its own (vnn, vnb or vnp and an id)"},
		{"(vnet (id 97) (bridge br0) (vnetif vif1.0))", Conflict, "invalid vnet config: vnetif: " + l.String() + " is the name of a device that xend did not make for this vnet"},
		{"(vnet (id 97) (bridge vif1.0))", Conflict, "invalid vnet config: bridge: " + l.String() + " is no bridge"},
		{"(vnet (id 97))", Conflict, "invalid vnet config: bridge: br0, where the vnet is now, was not made by xend, and vif1.0 is on it: which of them belong to the vnet, " +
			"xend can't know; delete the vnet, create it with the bridge vnet97, and move them ('ip link set DEVICE master vnet97')"},
	} {
		refused(t, d.ChangeVnet(ctx, config(t, x.text)), x.kind, x.error)
	}
	// What is there already, however it is spelled, is no change.
	require.NoError(t, d.ChangeVnet(ctx, config(t, "(vnet (security none) (bridge br0) (id 0097))")))
	require.Equal(t, vnets, forms(d.Service))
	require.Equal(t, before, layout(t, h))
	require.NotContains(t, d.log.String(), "vnet changed")
	// Old clients get the answer that they always got.
	refused(t, d.CreateVnet(ctx, config(t, "(vnet (id 98) (bridge lan))")), Exists,
		"invalid vnet config: id: vnet 98 exists already, with bridge vnet98 instead of lan")
}

// TestChangeFails fails a change after each step, and in the engine: the old vnet is there, with its ports.
func TestChangeFails(t *testing.T) { onGrounds(t, testChangeFails) }

func testChangeFails(t *testing.T, h ground) {
	broken := errors.New("broken")
	for _, c := range changeCases {
		t.Run(c.name, func(t *testing.T) {
			var left atomic.Int64
			left.Store(1 << 30)
			f := &flaky{}
			d := startDaemon(t, h, t.TempDir(), options{
				wrap: func(e Engine) Engine { f.Engine = e; return f },
				step: func(string) error {
					if left.Add(-1) == 0 {
						return broken
					}
					return nil
				},
			})
			c.prepare(t, d)
			defer func() { c.clean(t, d) }()
			bridge, err := h.LinkByName(config(t, c.from).Bridge)
			require.NoError(t, err)
			isAsBefore := func(where string) {
				t.Helper()
				require.Equal(t, c.from, forms(d.Service), where)
				require.Equal(t, c.before, withoutEnds(t, h), where)
				now, err := h.LinkByName(bridge.Name)
				require.NoError(t, err)
				require.Equal(t, bridge.Index, now.Index, "%s: it is the bridge that it was", where)
				v := d.Dataplane().Status().Vnets[0]
				require.Equal(t, bridge.Name, v.Bridge, where)
			}
			if c.name != "what means nothing" {
				f.detach = unix.EBUSY
				// What can't be detached can't be attached anew either, but it was not lost.
				require.ErrorIs(t, d.ChangeVnet(t.Context(), config(t, c.to)), unix.EBUSY)
				isAsBefore("detach")
				f.detach = nil
			}
			failures := 0
			for n := int64(1); ; n++ {
				left.Store(n)
				err := d.ChangeVnet(t.Context(), config(t, c.to))
				unused := left.Swap(1<<30) > 0
				if err != nil {
					failures++
					require.ErrorIs(t, err, broken)
					isAsBefore(fmt.Sprint("step ", n))
					continue
				}
				require.Equal(t, c.to, forms(d.Service))
				require.True(t, unused || n > 5, "a step that failed was after the point of no return")
				break
			}
			require.Greater(t, failures, 5)
		})
	}
}

// choosy is an engine that does not take one configuration.
type choosy struct {
	Engine
	wrong vnet.Config
}

func (e *choosy) Attach(c vnet.Config, d port.Devices) error {
	if c.Form.Equal(e.wrong.Form) {
		return errors.New("no file descriptor is left")
	}
	return e.Engine.Attach(c, d)
}

// TestChangeIsTakenBack: what the engine does not take is not there afterwards.
func TestChangeIsTakenBack(t *testing.T) { onGrounds(t, testChangeIsTakenBack) }

func testChangeIsTakenBack(t *testing.T, h ground) {
	for _, c := range changeCases[:5] {
		t.Run(c.name, func(t *testing.T) {
			e := &choosy{wrong: config(t, c.to)}
			d := startDaemon(t, h, t.TempDir(), options{wrap: func(in Engine) Engine { e.Engine = in; return e }})
			c.prepare(t, d)
			defer func() { c.clean(t, d) }()
			refused(t, d.ChangeVnet(t.Context(), e.wrong), Internal, "can't change vnet 97: no file descriptor is left")
			require.Equal(t, c.from, forms(d.Service))
			require.Equal(t, c.before, withoutEnds(t, h))
			require.Equal(t, config(t, c.from).Vnetif, d.Dataplane().Status().Vnets[0].Vnetif)
		})
	}
}

// TestKillDuringChange kills the daemon after each step. The next one finds one of the two configurations, brings it up,
// and the port of the domain is on the vnet's bridge.
func TestKillDuringChange(t *testing.T) {
	for i, c := range changeCases {
		if i < 2 || i > 4 { // each of the others does less than one of these
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			for step := 1; ; step++ {
				state := t.TempDir()
				d := startDaemon(t, h, state, options{})
				c.prepare(t, d)
				require.NoError(t, d.stop())

				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), childTask+"=change "+strconv.Itoa(i), childState+"="+state, childStep+"="+strconv.Itoa(step))
				child.Stderr = os.Stderr
				out, err := child.Output() // this thread's namespace is the child's
				acknowledged := strings.Contains(string(out), "acknowledged")
				if !acknowledged {
					require.ErrorContains(t, err, "killed")
				}

				d = startDaemon(t, h, state, options{})
				if forms(d.Service) == c.from && !acknowledged {
					require.Equal(t, c.before, withoutEnds(t, h), "step %d", step)
				} else {
					require.Equal(t, c.to, forms(d.Service), "step %d", step)
					require.Equal(t, c.after, withoutEnds(t, h), "step %d", step)
				}
				c.clean(t, d)
				require.NoError(t, d.stop())
				if acknowledged && err == nil {
					require.Greater(t, step, 20)
					return
				}
			}
		})
	}
}
