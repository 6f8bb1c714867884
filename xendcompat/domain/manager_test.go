package domain_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/domain/domaintest"
)

// host is a machine with a toolstack, and vnet 97, whose bridge has an MTU of 1450.
type host struct {
	*domain.Manager
	tool *domaintest.Toolstack
	net  *networks
	dir  string
}

type networks struct {
	bridges []domain.Network
	demand  string // the bridge that is made when it is asked for
}

func (n *networks) FindBridge(name string) (domain.Network, bool) {
	for _, b := range n.bridges {
		if b.Bridge == name {
			return b, true
		}
	}
	return domain.Network{}, false
}

func (n *networks) VnetBridges() []domain.Network {
	var list []domain.Network
	for _, b := range n.bridges {
		if b.Vnet != "" {
			list = append(list, b)
		}
	}
	return list
}

func (n *networks) DemandBridge(_ context.Context, name string) (bool, error) {
	if name != n.demand {
		return false, nil
	}
	n.bridges = append(n.bridges, domain.Network{Bridge: name, Vnet: "98", MTU: 1400})
	return true, nil
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{tool: &domaintest.Toolstack{}, dir: t.TempDir(), net: &networks{bridges: []domain.Network{
		{Bridge: "vnet97", Vnet: "97", MTU: 1450}, {Bridge: "br0", MTU: 1500},
	}}}
	h.open(t)
	return h
}

// open makes a manager of what is on the disk, as a daemon does at its start.
func (h *host) open(t *testing.T) {
	t.Helper()
	if h.Manager != nil {
		require.NoError(t, h.Close())
	}
	m, err := domain.Open(domain.Options{Toolstack: h.tool, Dir: h.dir, DumpDir: filepath.Join(h.dir, "dump"), Networks: h.net})
	require.NoError(t, err)
	h.Manager = m
	t.Cleanup(func() { m.Close() }) //nolint:errcheck // some are closed already
}

// serve runs the manager until the test ends, or stop is called.
func (h *host) serve(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := h.Manager
	go func() { done <- m.Run(ctx) }()
	select {
	case <-m.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

func config(t *testing.T, text string) domain.Config {
	t.Helper()
	forms, err := sxp.Parse([]byte(text), sxp.Xend)
	require.NoError(t, err)
	c, err := domain.ParseForm(forms[0])
	require.NoError(t, err)
	return c
}

func (h *host) create(t *testing.T, text string) domain.Domain {
	t.Helper()
	d, err := h.Create(t.Context(), config(t, text), domain.CreateOptions{})
	require.NoError(t, err)
	return d
}

func (h *host) op(t *testing.T, key, op string, params ...string) error {
	t.Helper()
	p := domain.Params{}
	for i := 0; i < len(params); i += 2 {
		p[params[i]] = params[i+1]
	}
	_, err := h.Op(t.Context(), key, op, p)
	return err
}

// names are the domains but Domain-0: those that run, then after a bar the managed ones that don't.
func (h *host) names(t *testing.T) string {
	t.Helper()
	var words []string
	for _, s := range []domain.State{domain.Running, domain.Halted} {
		list, err := h.List(t.Context(), s)
		require.NoError(t, err)
		for _, d := range list {
			if d.ID != 0 {
				words = append(words, d.Name)
			}
		}
		if s == domain.Running {
			words = append(words, "|")
		}
	}
	return strings.Join(words, " ")
}

// files are the records on the disk.
func (h *host) files(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(h.dir, "*.sxp"))
	require.NoError(t, err)
	return len(files)
}

const vm1 = `(vm (name vm1) (memory 64) (image (linux (kernel /boot/vmlinuz))) (device (vif (bridge vnet97))) (device (vbd (uname phy:sda1) (dev xvda1:disk) (mode w))))`

func TestCreateAndDestroy(t *testing.T) {
	h := newHost(t)
	d := h.create(t, vm1)
	require.Equal(t, 1, d.ID)
	require.Equal(t, "vm1 |", h.names(t))
	require.Equal(t, 1, h.files(t))
	require.Equal(t, "r-----", d.Form.ChildValue("state", ""))
	require.Equal(t, "64", d.Form.ChildValue("memory", ""))
	vifs := sxp.List(d.Devices("vif")...).String()
	require.Regexp(t, `^\(\(0 \(\(backend-id 0\) \(mac 00:16:3e:.*\) \(bridge vnet97\) \(mtu 1450\) \(handle 0\) \(state 4\) .*\(vnet 97\)\)\)\)$`, vifs,
		"it has the MTU of its vnet, and tells its id")
	require.Contains(t, d.Form.String(), "(device (vif (mac 00:16:3e:")
	require.Contains(t, d.Form.String(), "(bridge vnet97) (vnet 97)))")
	require.Len(t, d.Devices("vbd"), 1)

	require.NoError(t, h.op(t, "vm1", "pause"))
	require.NoError(t, h.op(t, "1", "unpause"))
	require.NoError(t, h.op(t, d.UUID, "destroy"))
	require.Equal(t, "|", h.names(t))
	require.Zero(t, h.files(t))
	require.Equal(t, []string{"create vm1", "pause 1", "unpause 1", "destroy 1"}, h.tool.Calls())
	var missing *domain.NotFoundError
	require.ErrorAs(t, h.op(t, "vm1", "destroy"), &missing)
}

func TestCreateIsRefused(t *testing.T) {
	h := newHost(t)
	h.create(t, vm1)
	h.tool.Add(config(t, "(vm (name foreign) (uuid 00000000000000000000000000000007))"), false)
	h.tool.Calls()
	for text, want := range map[string]string{
		vm1:                   "the name vm1 is that of domain ",
		"(vm (name foreign))": "the name foreign is that of domain 00000000-0000-0000-0000-000000000007 already",
		"(vm (name other) (uuid 00000000000000000000000000000007))": "the uuid 00000000-0000-0000-0000-000000000007 is that of domain foreign already",
		"(vm (name Domain-0))":                         "the name Domain-0 is that of domain 00000000-0000-0000-0000-000000000000 already",
		"(vm (memory 64))":                             "the domain has no name: write name = 'vm1', or (name vm1)",
		"(vm (name a) (device (vif (bridge vnet98))))": "bridge vnet98: no such bridge; vnets known here: 97 (vnet97); a file with (vnet (id 98)) and 'xm vnet-create FILE' make it",
		"(vm (name a) (device (vif (bridge br7))))":    "bridge br7: no such bridge; vnets known here: 97 (vnet97); 'ip link add br7 type bridge' makes a bridge of this host alone, 'xm vnet-create' a vnet",
	} {
		_, err := h.Create(t.Context(), config(t, text), domain.CreateOptions{})
		require.ErrorContains(t, err, want)
	}
	require.Empty(t, h.tool.Calls())
	require.Equal(t, 1, h.files(t))

	h.net.demand = "vnet98"
	d := h.create(t, "(vm (name a) (device (vif (bridge vnet98))))")
	require.Contains(t, d.Form.String(), "(vnet 98)")
	h.create(t, "(vm (name b) (device (vif (bridge xenbr0))) (device (vif)))") // the vif-script's to choose
}

// TestCreateFails has the toolstack fail.
func TestCreateFails(t *testing.T) {
	h := newHost(t)
	broken := errors.New("broken")
	h.tool.Fail = func(string) error { return broken }
	_, err := h.Create(t.Context(), config(t, vm1), domain.CreateOptions{})
	require.ErrorIs(t, err, broken)
	require.Equal(t, "|", h.names(t))
	require.Zero(t, h.files(t))

	h.tool.Fail = nil
	h.create(t, vm1)
	h.tool.Fail = func(string) error { return broken }
	for _, op := range [][]string{{"destroy"}, {"save", "file", filepath.Join(h.dir, "x")}, {"rename", "name", "vm2"}, {"migrate", "destination", "b"}} {
		require.ErrorIs(t, h.op(t, "vm1", op[0], op[1:]...), broken, op)
		require.Equal(t, "vm1 |", h.names(t))
		require.Equal(t, 1, h.files(t))
	}
	_, err = h.New(t.Context(), config(t, "(vm (name m))"))
	require.NoError(t, err)
	require.ErrorIs(t, h.op(t, "m", "start"), broken)
	require.Equal(t, "vm1 | m", h.names(t))
}

// TestCreateUnseen has a toolstack that makes a domain, and then does not answer: who is told of an error has no domain.
func TestCreateUnseen(t *testing.T) {
	h := newHost(t)
	hung := errors.New("no answer")
	h.tool.After = func(op string) {
		if op == "add vm1" {
			h.tool.Blind = hung
		}
	}
	_, err := h.Create(t.Context(), config(t, vm1), domain.CreateOptions{})
	require.ErrorIs(t, err, hung)
	h.tool.After, h.tool.Blind = nil, nil
	require.Equal(t, []string{"create vm1", "destroy 1"}, h.tool.Calls())
	require.Zero(t, h.files(t))
	require.Eventually(t, func() bool {
		list, err := h.List(t.Context(), domain.All)
		return err == nil && len(list) <= 1
	}, 10*time.Second, time.Millisecond)
}

func TestManaged(t *testing.T) {
	h := newHost(t)
	d, err := h.New(t.Context(), config(t, vm1))
	require.NoError(t, err)
	require.Equal(t, -1, d.ID)
	_, running := d.Form.Child("domid")
	require.False(t, running, "%s", d.Form)
	require.Equal(t, "| vm1", h.names(t))
	h.open(t)
	require.Equal(t, "| vm1", h.names(t), "it survives the daemon")

	// It can be defined anew, by its name or its uuid.
	again, err := h.New(t.Context(), config(t, "(vm (name vm1) (memory 96))"))
	require.NoError(t, err)
	require.Equal(t, d.UUID, again.UUID)
	require.Equal(t, 1, h.files(t))
	_, err = h.New(t.Context(), config(t, "(domain (domid 7) (name vm1) (uuid "+d.UUID+") (memory 97) (state -b----) (device (vif (bridge vnet97) (state 4))))"))
	require.NoError(t, err)

	require.NoError(t, h.op(t, "vm1", "start"))
	require.Equal(t, "vm1 |", h.names(t))
	require.ErrorContains(t, h.op(t, "vm1", "start"), "Domain vm1 runs already, with id 1")
	require.ErrorContains(t, h.op(t, "vm1", "delete"), "Domain vm1 runs, with id 1: shut it down or destroy it first")
	require.NoError(t, h.op(t, "vm1", "destroy"))
	require.Equal(t, "| vm1", h.names(t))
	require.ErrorContains(t, h.op(t, "vm1", "pause"), "Domain vm1 is not running")

	require.NoError(t, h.op(t, "vm1", "start", "paused", "1"))
	require.NoError(t, h.op(t, "vm1", "suspend"))
	require.Equal(t, "| vm1", h.names(t))
	require.NoError(t, h.op(t, "vm1", "resume"))
	require.Equal(t, "vm1 |", h.names(t))
	require.NoError(t, h.op(t, "vm1", "destroy"))
	require.ErrorContains(t, h.op(t, "vm1", "resume"), "Domain vm1 is not suspended")

	// One that is suspended can be forgotten, too.
	_, err = h.New(t.Context(), config(t, "(vm (name s))"))
	require.NoError(t, err)
	require.NoError(t, h.op(t, "s", "start"))
	require.NoError(t, h.op(t, "s", "suspend"))
	require.NoError(t, h.op(t, "s", "delete"))
	left, err := filepath.Glob(filepath.Join(h.dir, "*.checkpoint"))
	require.NoError(t, err)
	require.Empty(t, left)

	require.NoError(t, h.op(t, "vm1", "rename", "name", "vm2"))
	require.NoError(t, h.op(t, "vm2", "set_vcpus", "vcpus", "3"))
	require.NoError(t, h.op(t, "vm2", "mem_target_set", "target", "200"))
	require.NoError(t, h.op(t, "vm2", "device_create", "config", "(vif (bridge br0))"))
	d, err = h.Get(t.Context(), "vm2")
	require.NoError(t, err)
	require.Equal(t, "3", d.Form.ChildValue("vcpus", ""))
	require.Equal(t, "200", d.Form.ChildValue("memory", ""))
	require.Len(t, d.Devices("vif"), 2)
	require.NoError(t, h.op(t, "vm2", "device_destroy", "type", "vif", "dev", "0"))
	require.NoError(t, h.op(t, "vm2", "delete"))
	require.Equal(t, "|", h.names(t))
	require.Zero(t, h.files(t))
}

func TestAutostart(t *testing.T) {
	h := newHost(t)
	for _, text := range []string{"(vm (name a) (on_xend_start start))", "(vm (name b))", "(vm (name c) (on_xend_start start) (device (vif (bridge gone))))"} {
		_, err := h.New(t.Context(), config(t, text))
		require.NoError(t, err)
	}
	h.open(t)
	h.serve(t)
	require.Equal(t, "a | b c", h.names(t))
}

// TestSaveRestore ends and starts a domain by a file.
func TestSaveRestore(t *testing.T) {
	h := newHost(t)
	d := h.create(t, vm1)
	file := filepath.Join(t.TempDir(), "vm1.save")
	require.ErrorContains(t, h.op(t, "vm1", "save", "file", "vm1.save"), "absolute")
	require.NoError(t, h.op(t, "vm1", "save", "file", file))
	require.Equal(t, "|", h.names(t))
	require.Zero(t, h.files(t))
	_, err := h.Restore(t.Context(), file+"x", domain.CreateOptions{})
	require.ErrorIs(t, err, os.ErrNotExist)
	back, err := h.Restore(t.Context(), file, domain.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, d.UUID, back.UUID)
	require.Equal(t, 1, h.files(t))
	_, err = h.Restore(t.Context(), file, domain.CreateOptions{})
	require.ErrorContains(t, err, "Domain vm1 runs already")
	require.Equal(t, "vm1 |", h.names(t))
}

func TestMigrateAndReceive(t *testing.T) {
	h := newHost(t)
	h.create(t, vm1)
	require.ErrorContains(t, h.op(t, "vm1", "migrate", "destination", "-oProxyCommand=x"), "destination must be")
	require.NoError(t, h.op(t, "vm1", "migrate", "destination", "hostb", "live", "1", "port", "0"))
	require.Contains(t, h.tool.Calls(), "migrate 1 hostb:0 live=true")
	require.Zero(t, h.files(t))

	c := config(t, vm1)
	c.Managed = true
	broken := errors.New("broken")
	err := h.Receive(t.Context(), c, func(context.Context) (int, error) { return 0, broken })
	require.ErrorIs(t, err, broken)
	require.Equal(t, "|", h.names(t))
	c.Complete()
	require.NoError(t, h.Receive(t.Context(), c, func(context.Context) (int, error) { return h.tool.Add(c, false), nil }))
	require.Equal(t, "vm1 |", h.names(t))
	require.NoError(t, h.op(t, "vm1", "destroy"))
	require.Equal(t, "| vm1", h.names(t), "it is managed here, as it was there")
}

func TestTuning(t *testing.T) {
	h := newHost(t)
	d := h.create(t, `(vm (name vm1) (memory 64) (vcpus 2))`)
	h.tool.Calls()
	for _, tt := range []struct{ op, params, want string }{
		{"mem_target_set", "target 32", "mem-set 1 32"},
		{"maxmem_set", "memory 128", "mem-max 1 128"},
		{"maxmem_set", "memory 16", "the maximum (16 MiB) is less than"},
		{"mem_target_set", "target many", `target must be a number from 1 to 1073741824, not "many"`},
		{"set_vcpus", "vcpus 1", "vcpu-set 1 1"},
		{"set_vcpus", "vcpus 3", "domain vm1 has 2 virtual processors, which is less than 3"},
		{"pincpu", "vcpu 0 cpumap 0", "vcpu-pin 1 0 [0]"},
		{"pincpu", "vcpu all cpumap (0)", "vcpu-pin 1 -1 [0]"},
		{"pincpu", "vcpu 7 cpumap 0", "domain vm1 has no virtual processor 7"},
		{"pincpu", "vcpu 0 cpumap 4096", "cpumap must be processors of this machine"},
		{"domain_sched_credit_set", "weight 512", "sched-credit 1 512 0"},
		{"domain_sched_credit_set", "weight 0 cap 50", "sched-credit 1 512 50"},
		{"domain_sched_credit_set", "weight 70000", "weight must be a number from 1 to 65535"},
		{"sysrq", "key h", "sysrq 1 h"},
		{"sysrq", "key help", "key must be one letter"},
		{"send_trigger", "trigger nmi", "trigger 1 nmi 0"},
		{"send_trigger", "trigger power", "the toolstack fake can't do trigger power; use trigger nmi"},
		{"send_trigger", "trigger dance", "trigger must be one of"},
		{"shutdown", "reason dance", "reason must be poweroff, reboot or halt"},
		{"device_create", "config (vif(bridge(br0)(x)))", "must be one value"},
		{"device_create", "config (vif(brigde~br0))", "Invalid vif option: brigde"},
		{"device_destroy", "type vif dev 7", "Device 7 (vif) not connected"},
	} {
		err := h.op(t, "vm1", tt.op, words(tt.params)...)
		if calls := h.tool.Calls(); err == nil {
			require.Equal(t, []string{tt.want}, calls)
		} else {
			require.ErrorContains(t, err, tt.want)
			require.Empty(t, calls)
		}
	}
	require.NoError(t, h.op(t, "vm1", "device_create", "config", "(vif (bridge vnet97) (mac 00:16:3e:11:22:33))"))
	require.NoError(t, h.op(t, "vm1", "device_create", "config", "(vbd (uname phy:b) (dev xvdb) (mode w))"))
	require.ErrorContains(t, h.op(t, "vm1", "device_create", "config", "(vif (mac 00:16:3e:11:22:33))"), "two vifs have the MAC")
	require.NoError(t, h.op(t, "vm1", "device_destroy", "type", "vbd", "dev", "xvdb"))
	credit, err := h.Op(t.Context(), "vm1", "domain_sched_credit_get", nil)
	require.NoError(t, err)
	require.Equal(t, "(credit (weight 512) (cap 50))", credit.String())

	// What was changed is so after a restart of the domain, too.
	h.serve(t)
	h.tool.End(d.ID, domain.Reboot)
	h.await(t, "vm1 |", 2)
	d, err = h.Get(t.Context(), "vm1")
	require.NoError(t, err)
	require.Equal(t, "32", d.Form.ChildValue("memory", ""))
	require.Contains(t, d.Form.String(), "00:16:3e:11:22:33")
	require.NotContains(t, d.Form.String(), "xvdb")
	require.Equal(t, "0", h.domain0(t))
}

// words cuts parameters at blanks; ~ stands for one within.
func words(s string) []string {
	list := strings.Fields(s)
	for i := range list {
		list[i] = strings.ReplaceAll(list[i], "~", " ")
	}
	return list
}

func (h *host) domain0(t *testing.T) string {
	t.Helper()
	require.ErrorContains(t, h.op(t, "0", "destroy"), "Domain-0 is this host itself: destroy is not for it")
	d, err := h.Get(t.Context(), "Domain-0")
	require.NoError(t, err)
	return d.Form.ChildValue("domid", "")
}

// await waits for the domains to be these, the last with that id; 0: whichever runs. One that has ended keeps its name until xend has
// taken it away.
func (h *host) await(t *testing.T, names string, id int) {
	t.Helper()
	require.Eventually(t, func() bool {
		list, err := h.List(t.Context(), domain.Running)
		require.NoError(t, err)
		last := list[len(list)-1]
		return h.names(t) == names && (last.ID == id || id == 0 && last.Form.ChildValue("state", "") == "r-----")
	}, 10*time.Second, time.Millisecond)
}

func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		config string
		reason domain.Reason
		names  string
		id     int // of the domain afterwards
		calls  string
	}{
		{"", domain.Poweroff, "|", 0, "destroy 1"},
		{"", domain.Reboot, "a |", 2, "destroy 1,create a"},
		{"", domain.Crash, "a |", 2, "destroy 1,create a"},
		{"(on_poweroff restart)", domain.Poweroff, "a |", 2, "destroy 1,create a"},
		{"(on_reboot destroy)", domain.Reboot, "|", 0, "destroy 1"},
		{"(on_crash coredump-restart)", domain.Crash, "a |", 2, "dump-core 1 live=false crash=false,destroy 1,create a"},
		{"(on_crash coredump-destroy)", domain.Crash, "|", 0, "dump-core 1 live=false crash=false,destroy 1"},
		{"(on_crash rename-restart) (device (vif (mac 00:16:3e:00:00:01))) (device (vbd (uname phy:b) (dev xvda) (mode w)))", domain.Crash, "a-1 a |", 2,
			"rename 1 a-1,detach 1 vif 0 force=true,detach 1 vbd 0 force=true,create a"},
	} {
		t.Run(tt.config+string(tt.reason), func(t *testing.T) {
			h := newHost(t)
			h.create(t, "(vm (name a) "+tt.config+")")
			h.tool.Calls()
			stop := h.serve(t)
			h.tool.End(1, tt.reason)
			h.await(t, tt.names, tt.id)
			stop()
			require.Equal(t, tt.calls, strings.Join(h.tool.Calls(), ","))
			require.Equal(t, strings.Count(tt.names, "a"), h.files(t))
		})
	}
}

// TestRenameRestartFails: whichever step of rename-restart fails, as on a full disk, the next daemon brings it to its end: the
// successor is never forgotten.
func TestRenameRestartFails(t *testing.T) {
	for n := int64(1); ; n++ {
		h := newHost(t)
		var left atomic.Int64
		failed := make(chan struct{})
		require.NoError(t, h.Close())
		m, err := domain.Open(domain.Options{Toolstack: h.tool, Dir: h.dir, Networks: h.net, Step: func(string) error {
			if left.Add(-1) == 0 {
				close(failed)
				return errors.New("no space left on device")
			}
			return nil
		}})
		require.NoError(t, err)
		h.Manager = m
		h.create(t, "(vm (name a) (on_crash rename-restart))")
		stop := h.serve(t)
		left.Store(n)
		h.tool.End(1, domain.Crash)
		reached := true
		require.Eventually(t, func() bool {
			select {
			case <-failed:
				return true
			default:
				reached = h.names(t) != "a-1 a |"
				return !reached
			}
		}, 10*time.Second, time.Millisecond)
		stop()
		h.open(t)
		stop = h.serve(t)
		names := ""
		require.Eventually(t, func() bool {
			names = h.names(t) // a successor that could not be started is there, and can be started by hand
			return names == "a-1 a |" || names == "a-1 | a"
		}, 10*time.Second, time.Millisecond, "step %d", n)
		stop()
		require.NoError(t, h.Close())
		if !reached {
			require.Greater(t, n, int64(3))
			return
		}
	}
}

func TestPreserve(t *testing.T) {
	h := newHost(t)
	h.create(t, "(vm (name a) (on_crash preserve))")
	h.create(t, "(vm (name b))")
	h.tool.Calls()
	stop := h.serve(t)
	h.tool.End(1, domain.Crash)
	h.tool.End(2, domain.Poweroff) // what is told later is handled later, at the earliest
	h.await(t, "a |", 1)
	stop()
	require.Equal(t, []string{"destroy 2"}, h.tool.Calls())
	d, err := h.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "crash", d.Form.ChildValue("shutdown_reason", ""))
	require.NoError(t, h.op(t, "a", "destroy"))
}

// TestForeignDomains are let alone, whatever becomes of them.
func TestForeignDomains(t *testing.T) {
	h := newHost(t)
	id := h.tool.Add(config(t, "(vm (name foreign) (uuid 00000000000000000000000000000007) (on_reboot restart))"), false)
	h.create(t, "(vm (name b))")
	h.tool.Calls()
	stop := h.serve(t)
	h.tool.End(id, domain.Reboot)
	h.tool.End(2, domain.Poweroff)
	h.await(t, "foreign |", id)
	stop()
	require.Equal(t, []string{"destroy 2"}, h.tool.Calls())
	require.NoError(t, h.op(t, "foreign", "destroy"), "but by request")
}

// TestTooFast has a domain that reboots at once, for ever.
func TestTooFast(t *testing.T) {
	h := newHost(t)
	h.create(t, "(vm (name a))")
	h.serve(t)
	h.tool.End(1, domain.Reboot)
	h.await(t, "a |", 2)
	h.tool.End(2, domain.Reboot)
	h.await(t, "|", 0)
}

// TestRestartFails keeps the domain, so that somebody can mend what was wrong.
func TestRestartFails(t *testing.T) {
	h := newHost(t)
	h.create(t, vm1)
	h.serve(t)
	h.net.bridges = nil
	h.tool.End(1, domain.Reboot)
	h.await(t, "| vm1", 0)
}

// TestEndedMeanwhile ends domains while no daemon runs.
func TestEndedMeanwhile(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"a", "b", "c"} {
		h.create(t, "(vm (name "+name+"))")
	}
	h.tool.End(1, domain.Reboot)
	h.tool.End(2, domain.Poweroff)
	require.NoError(t, h.tool.Destroy(t.Context(), 3)) // by another tool
	h.open(t)
	h.serve(t)
	h.await(t, "a |", 4)
	require.Equal(t, 1, h.files(t))
}

func TestConsole(t *testing.T) {
	h := newHost(t)
	h.create(t, vm1)
	c, err := h.Console(t.Context(), "vm1")
	require.NoError(t, err)
	b := make([]byte, 7)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "login: ", string(b))
}

// Who has seen a domain end starts one of its name at once, whether or not what becomes of the old one was done by then; what is
// preserved keeps its name.
func TestNameOfTheEnded(t *testing.T) {
	h := newHost(t) // nobody watches
	h.create(t, vm1)
	h.tool.End(1, domain.Poweroff)
	h.create(t, vm1)
	require.Equal(t, "vm1 |", h.names(t))

	h.create(t, "(vm (name kept) (on_poweroff preserve))")
	list, err := h.List(t.Context(), domain.Running)
	require.NoError(t, err)
	h.tool.End(list[len(list)-1].ID, domain.Poweroff)
	_, err = h.Create(t.Context(), config(t, "(vm (name kept))"), domain.CreateOptions{})
	var taken *domain.TakenError
	require.ErrorAs(t, err, &taken)
}
