package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/registry"
)

// refused requires an answer of that kind and text.
func refused(t *testing.T, err error, k Kind, text string) {
	t.Helper()
	require.EqualError(t, err, text)
	require.Equal(t, k, KindOf(err))
}

func TestCreateAndDelete(t *testing.T) { onGrounds(t, testCreateAndDelete) }

func testCreateAndDelete(t *testing.T, h ground) {
	state := t.TempDir()
	d := startDaemon(t, h, state, options{enabled: true})
	ctx := t.Context()
	defaults := "vnif0002 vnif0003 vnif0004"
	require.Equal(t, defaults, layout(t, h))

	require.NoError(t, d.CreateVnet(ctx, config(t, "(vnet (id 97) (brigde x))")))
	require.NoError(t, d.CreateVnet(ctx, config(t, "(vnet (id 0:0:0:0:0:0:1:2) (bridge b2) (vnetif if2))")))
	require.Equal(t, "97 0:0:0:0:0:0:1:2", vnets(d.Service))
	require.Equal(t, "b2 if2@b2 vnet97 "+defaults+" vnif97@vnet97", layout(t, h))
	require.Contains(t, d.log.String(), "brigde")
	l, err := h.LinkByName("vnif97")
	require.NoError(t, err)
	require.True(t, l.Up())
	require.Equal(t, port.Alias(simple(t, "97").ID), l.Alias)

	for _, spelling := range []string{"97", "0097", "0000:0000:0000:0000:0000:0000:0000:0097"} {
		c, err := d.FindVnet(spelling)
		require.NoError(t, err)
		require.Equal(t, "(vnet (id 97) (brigde x))", c.Form.String())
	}
	for _, spelling := range []string{"404", "x", "", "2"} {
		_, err := d.FindVnet(spelling)
		refused(t, err, NotFound, "No such vnet "+spelling)
	}

	require.NoError(t, d.DeleteVnet(ctx, simple(t, "97").ID))
	require.Equal(t, "b2 if2@b2 "+defaults, layout(t, h))
	refused(t, d.DeleteVnet(ctx, simple(t, "97").ID), NotFound, "No such vnet 0000:0000:0000:0000:0000:0000:0000:0097")

	// Devices stay when the daemon ends, and the next one takes them over.
	require.NoError(t, d.stop())
	require.Equal(t, "b2 if2@b2 "+defaults, layout(t, h))
	before, err := h.LinkByName("if2")
	require.NoError(t, err)
	d = startDaemon(t, h, state, options{enabled: true})
	require.Equal(t, "0:0:0:0:0:0:1:2", vnets(d.Service))
	after, err := h.LinkByName("if2")
	require.NoError(t, err)
	require.Equal(t, before.Index, after.Index)
}

func TestRefusals(t *testing.T) { onGrounds(t, testRefusals) }

func testRefusals(t *testing.T, h ground) {
	state := t.TempDir()
	reg, err := registry.Open(registry.Options{Dir: state})
	require.NoError(t, err)
	require.NoError(t, reg.Put(config(t, "(vnet (id 60) (bridge vnb63))")), "of a time when that was not refused")
	require.NoError(t, reg.Close())
	d := startDaemon(t, h, state, options{enabled: true})
	require.Contains(t, d.log.String(), "a vnet's device has a name that xend gives to devices of its own")
	ctx := t.Context()
	require.NoError(t, d.CreateVnet(ctx, simple(t, "97")))
	transient := simple(t, "50")
	transient.Bridge = ""
	require.NoError(t, d.AddTransient(ctx, transient))
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "eth7", Partner: "vnp62"}))
	vnp62, err := h.LinkByName("vnp62")
	require.NoError(t, err)
	_, err = h.CreateBridge(hostnet.Bridge{Name: "br7"})
	require.NoError(t, err)
	eth7, err := h.LinkByName("eth7")
	require.NoError(t, err)
	br7, err := h.LinkByName("br7")
	require.NoError(t, err)
	before := layout(t, h)

	for _, c := range []struct {
		text  string
		kind  Kind
		error string
	}{
		{"(vnet (id 0097))", Exists, "invalid vnet config: id: vnet 0097 exists already"},
		{"(vnet (id 2))", Exists, "invalid vnet config: id: vnet 2 is a default vnet and exists already; 'default_vnets = false' in the table [dataplane] of vnet.toml turns the default vnets off"},
		{"(vnet (id 50))", Exists, "invalid vnet config: id: vnet 50 exists already, until xend restarts or 'vn vnet-delete 50'"},
		{"(vnet (id 98) (bridge vnet97))", Conflict, "invalid vnet config: bridge: vnet97 belongs to vnet 97"},
		{"(vnet (id 98) (vnetif vnif97))", Conflict, "invalid vnet config: vnetif: vnif97 belongs to vnet 97"},
		{"(vnet (id 98) (bridge vnif97))", Conflict, "invalid vnet config: bridge: vnif97 belongs to vnet 97"},
		{"(vnet (id 98) (vnetif vnet97))", Conflict, "invalid vnet config: vnetif: vnet97 belongs to vnet 97"},
		{"(vnet (id 98) (vnetif vnif0003))", Conflict, "invalid vnet config: vnetif: vnif0003 belongs to vnet 0003"},
		{"(vnet (id 98) (bridge vnif50))", Conflict, "invalid vnet config: bridge: vnif50 belongs to vnet 50"},
		{"(vnet (id 98) (bridge vnp97))", Invalid, "invalid vnet config: bridge: vnp97 is a name that xend gives to devices of its own (vnn, vnb or vnp and an id)"},
		{"(vnet (id 98) (vnetif vnn2))", Invalid, "invalid vnet config: vnetif: vnn2 is a name that xend gives to devices of its own (vnn, vnb or vnp and an id)"},
		{"(vnet (id 98) (bridge vnb98))", Invalid, "invalid vnet config: bridge: vnb98 is a name that xend gives to devices of its own (vnn, vnb or vnp and an id)"},
		{"(vnet (id 63))", Conflict, "invalid vnet config: id: vnet 63 needs vnb63 for a device of its own, and that belongs to vnet 60"},
		{"(vnet (id 62))", Conflict, "invalid vnet config: id: " + vnp62.String() + " is the name of a device that xend did not make for this vnet"},
		{"(vnet (id 98) (vnetif eth7))", Conflict, "invalid vnet config: vnetif: " + eth7.String() + " is the name of a device that xend did not make for this vnet"},
		{"(vnet (id 98) (vnetif br7))", Conflict, "invalid vnet config: vnetif: " + br7.String() + " is the name of a device that xend did not make for this vnet"},
		{"(vnet (id 98) (bridge eth7))", Conflict, "invalid vnet config: bridge: " + eth7.String() + " is no bridge"},
		{"(vnet (id 98) (security auth))", Unavailable, "invalid vnet config: security: auth needs a key, and none is configured on this host"},
		{"(vnet (id 98) (security conf))", Unavailable, "invalid vnet config: security: conf needs a key, and none is configured on this host"},
	} {
		if c.text != "(vnet (id 0097))" { // to be had once more
			refused(t, d.CreateVnet(ctx, config(t, c.text)), c.kind, c.error)
		}
		refused(t, d.AddTransient(ctx, config(t, c.text)), c.kind, c.error)
	}
	require.Equal(t, "60 97", vnets(d.Service))
	require.Equal(t, before, layout(t, h))

	gone, cancel := context.WithCancel(ctx)
	cancel()
	end, err := d.begin(ctx)
	require.NoError(t, err)
	refused(t, d.CreateVnet(gone, simple(t, "98")), Unavailable, "xend is busy")
	end()
}

// TestCreateAgain checks that what is there already can be created again, and nothing else under its id.
func TestCreateAgain(t *testing.T) { onGrounds(t, testCreateAgain) }

func testCreateAgain(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{enabled: true})
	given := "(vnet (id 97) (bridge br1) (color 'light blue'))"
	require.NoError(t, d.CreateVnet(t.Context(), config(t, given)))
	before := layout(t, h)
	for _, again := range []string{given, "(vnet (color 'light blue') (security none) (bridge br1) (vnetif) (id 0:0:0:0:0:0:0:97))"} {
		require.NoError(t, d.CreateVnet(t.Context(), config(t, again)), again)
	}
	for text, difference := range map[string]string{
		"(vnet (id 97) (bridge br2) (color 'light blue'))":                 "bridge br1 instead of br2",
		"(vnet (id 97) (color 'light blue'))":                              "bridge br1 instead of vnet97",
		"(vnet (id 97) (bridge br1) (security auth) (color 'light blue'))": "security none instead of auth",
		"(vnet (id 97) (bridge br1))":                                      "(color 'light blue') more",
		"(vnet (id 97) (bridge br1) (color 'light blue') (x))":             "(x) less",
	} {
		refused(t, d.CreateVnet(t.Context(), config(t, text)), Exists, "invalid vnet config: id: vnet 97 exists already, with "+difference)
	}
	require.Equal(t, before, layout(t, h))
	c, err := d.FindVnet("97")
	require.NoError(t, err)
	require.Equal(t, given, c.Form.String())
}

func TestBridgeOfSomebodyElse(t *testing.T) { onGrounds(t, testBridgeOfSomebodyElse) }

func testBridgeOfSomebodyElse(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{})
	_, err := h.CreateBridge(hostnet.Bridge{Name: "vnet97"})
	require.NoError(t, err)
	require.NoError(t, h.CreateVeth(hostnet.Veth{Name: "vif1.0", Partner: "domain0"}))
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
	require.Equal(t, "domain0 vif1.0 vnet97 vnif97@vnet97", layout(t, h))
	require.NoError(t, d.DeleteVnet(t.Context(), simple(t, "97").ID))
	require.Equal(t, "domain0 vif1.0 vnet97", layout(t, h), "the bridge was there before")

	// A bridge of ours stays while something else is on it.
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "98")))
	bridge, err := h.LinkByName("vnet98")
	require.NoError(t, err)
	vif, err := h.LinkByName("vif1.0")
	require.NoError(t, err)
	require.NoError(t, h.SetMaster(vif.Index, bridge.Index))
	require.NoError(t, d.DeleteVnet(t.Context(), simple(t, "98").ID))
	require.Equal(t, "domain0 vif1.0@vnet98 vnet97 vnet98", layout(t, h))
}

func TestTransient(t *testing.T) { onGrounds(t, testTransient) }

func testTransient(t *testing.T, h ground) {
	state := t.TempDir()
	d := startDaemon(t, h, state, options{enabled: true})
	ctx := t.Context()
	c := simple(t, "50")
	c.Bridge = ""
	require.NoError(t, d.AddTransient(ctx, c))
	require.Equal(t, "", vnets(d.Service))
	require.Equal(t, "vnif0002 vnif0003 vnif0004 vnif50", layout(t, h))
	require.NoError(t, d.DeleteTransient(ctx, c.ID))
	require.Equal(t, "vnif0002 vnif0003 vnif0004", layout(t, h))
	refused(t, d.DeleteTransient(ctx, c.ID), NotFound, "No such vnet "+c.ID.String())

	require.NoError(t, d.CreateVnet(ctx, simple(t, "97")))
	refused(t, d.DeleteTransient(ctx, simple(t, "97").ID), Conflict, "vnet 97 is persistent: delete it with 'xm vnet-delete 97'")
	err := d.DeleteTransient(ctx, simple(t, "2").ID)
	require.Equal(t, Conflict, KindOf(err))
	require.ErrorContains(t, err, "is a default vnet: 'default_vnets = false'")

	require.NoError(t, d.AddTransient(ctx, c))
	require.NoError(t, d.stop())
	require.Contains(t, layout(t, h), "vnif50", "the end of a daemon interrupts nothing")
	d = startDaemon(t, h, state, options{enabled: true})
	require.Equal(t, "vnet97 vnif0002 vnif0003 vnif0004 vnif97@vnet97", layout(t, h))
	require.Contains(t, d.log.String(), "removed what was left of a vnet that is no more")
}

func TestDefaultVnetsOff(t *testing.T) { onGrounds(t, testDefaultVnetsOff) }

func testDefaultVnetsOff(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{})
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "2")), "without the defaults the id is free")
	require.NoError(t, d.DeleteVnet(t.Context(), simple(t, "2").ID))
	nothing := func() error { return nil }
	on := Settings{Defaults: vnet.DefaultVnets()}
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "3")))
	require.NoError(t, d.Reconfigure(t.Context(), on, nothing))
	require.Equal(t, Exists, KindOf(d.CreateVnet(t.Context(), simple(t, "2"))))
	require.Equal(t, "vnet3 vnif0002 vnif0004 vnif3@vnet3", layout(t, h), "what was created stays what it is")
	c := simple(t, "50")
	c.Bridge = ""
	require.NoError(t, d.AddTransient(t.Context(), c))
	require.NoError(t, d.Reconfigure(t.Context(), Settings{MTU: 9000}, nothing))
	require.Equal(t, "vnet3 vnif3@vnet3 vnif50", layout(t, h))
	for _, name := range []string{"vnet3", "vnif3", "vnif50"} {
		l, err := h.LinkByName(name)
		require.NoError(t, err)
		require.Equal(t, 9000, l.MTU, name)
	}
	require.NoError(t, d.CreateVnet(t.Context(), simple(t, "2")))
}

// flaky fails on demand.
type flaky struct {
	Engine
	attach, detach error
}

func (f *flaky) Attach(c vnet.Config, d port.Devices) error {
	if f.attach != nil {
		return f.attach
	}
	return f.Engine.Attach(c, d)
}

func (f *flaky) Detach(id vnet.ID) error {
	if f.detach != nil {
		return f.detach
	}
	return f.Engine.Detach(id)
}

func TestEngineFails(t *testing.T) { onGrounds(t, testEngineFails) }

func testEngineFails(t *testing.T, h ground) {
	state := t.TempDir()
	f := &flaky{}
	d := startDaemon(t, h, state, options{wrap: func(e Engine) Engine { f.Engine = e; return f }})
	ctx := t.Context()
	require.NoError(t, d.CreateVnet(ctx, simple(t, "97")))
	before := layout(t, h)

	f.attach = fmt.Errorf("make it: %w", unix.ENOMEM)
	refused(t, d.CreateVnet(ctx, simple(t, "98")), Internal, "can't create vnet 98: make it: cannot allocate memory")
	require.ErrorIs(t, d.CreateVnet(ctx, simple(t, "98")), unix.ENOMEM)
	f.attach = &hostnet.NotOursError{Device: hostnet.Link{Name: "x"}, Want: "a bridge"}
	require.Equal(t, Conflict, KindOf(d.CreateVnet(ctx, simple(t, "98"))))
	require.Equal(t, Conflict, KindOf(d.AddTransient(ctx, simple(t, "98"))))
	require.Equal(t, "97", vnets(d.Service))

	f.attach, f.detach = nil, unix.EBUSY
	refused(t, d.DeleteVnet(ctx, simple(t, "97").ID), Internal, "can't delete vnet 97: device or resource busy")
	require.Equal(t, "97", vnets(d.Service))
	require.Equal(t, before, layout(t, h))

	// What the engine does not know can be deleted nevertheless.
	f.detach = dataplane.ErrUnknownVnet
	require.NoError(t, d.DeleteVnet(ctx, simple(t, "97").ID))
	require.Equal(t, "", layout(t, h))
	files, err := filepath.Glob(filepath.Join(state, "*.sxp"))
	require.NoError(t, err)
	require.Empty(t, files)
}

// TestEveryStepMayFail fails create and delete after each step.
func TestEveryStepMayFail(t *testing.T) { onGrounds(t, testEveryStepMayFail) }

func testEveryStepMayFail(t *testing.T, h ground) {
	broken := errors.New("broken")
	var left atomic.Int64
	left.Store(1 << 30)
	d := startDaemon(t, h, t.TempDir(), options{step: func(string) error {
		if left.Add(-1) == 0 {
			return broken
		}
		return nil
	}})
	ctx := t.Context()
	require.NoError(t, d.CreateVnet(ctx, simple(t, "97")))
	for name, change := range map[string]struct {
		do, undo func() error
	}{
		"create": {
			func() error { return d.CreateVnet(ctx, simple(t, "98")) },
			func() error { return d.DeleteVnet(ctx, simple(t, "98").ID) },
		},
		"delete": {
			func() error { return d.DeleteVnet(ctx, simple(t, "97").ID) },
			func() error { return d.CreateVnet(ctx, simple(t, "97")) },
		},
	} {
		listBefore, devicesBefore := vnets(d.Service), layout(t, h)
		failures := 0
		for n := int64(1); ; n++ {
			left.Store(n)
			err := change.do()
			unused := left.Swap(1<<30) > 0
			if err != nil {
				failures++
				require.ErrorIs(t, err, broken)
				require.Equal(t, listBefore, vnets(d.Service), "%s, step %d", name, n)
				require.Equal(t, devicesBefore, layout(t, h), "%s, step %d", name, n)
				continue
			}
			require.NotEqual(t, devicesBefore, layout(t, h))
			require.NoError(t, change.undo())
			require.Equal(t, devicesBefore, layout(t, h))
			if unused {
				break
			}
		}
		require.Greater(t, failures, 3, name)
	}
}

func TestConcurrentRequests(t *testing.T) { onGrounds(t, testConcurrentRequests) }

func testConcurrentRequests(t *testing.T, h ground) {
	d := startDaemon(t, h, t.TempDir(), options{})
	ctx := t.Context()
	var all sync.WaitGroup
	var made, conflicts atomic.Int64
	for i := range 8 {
		for range 3 {
			all.Go(func() {
				// Three for the same, which one makes and two find; and every second one wants the bridge of its neighbour.
				c := simple(t, fmt.Sprintf("10%d", i))
				c.Bridge = fmt.Sprintf("b%d", i/2)
				switch err := d.CreateVnet(ctx, c); {
				case err == nil:
					made.Add(1)
				case KindOf(err) == Exists, KindOf(err) == Conflict:
					conflicts.Add(1)
				default:
					t.Error(err)
				}
			})
			all.Go(func() { d.Vnets() })
		}
	}
	all.Wait()
	require.Equal(t, int64(12), made.Load())
	require.Equal(t, int64(12), conflicts.Load())
	for _, c := range d.Vnets() {
		all.Go(func() {
			if err := d.DeleteVnet(ctx, c.ID); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, "", layout(t, h))
}

func TestNodeLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xend.log")
	s := New(Options{LogFile: func() string { return path }})
	b, err := s.NodeLog(t.Context())
	require.NoError(t, err)
	require.Empty(t, b)
	require.NoError(t, os.WriteFile(path, []byte("a\nb\n"), 0o600))
	b, err = s.NodeLog(t.Context())
	require.NoError(t, err)
	require.Equal(t, "a\nb\n", string(b))
	line := strings.Repeat("x", 99) + "\n"
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat(line, maxLog/100+10)), 0o600))
	b, err = s.NodeLog(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, len(b), maxLog)
	require.Zero(t, len(b)%100, "whole lines")

	b, err = New(Options{}).NodeLog(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(b), "journalctl")
}
