package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
	xlab "github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/netscripts"
	"github.com/xenvnet/xend/xendcompat/domain"
)

func TestMain(m *testing.M) {
	if status, ok := Main(os.Args); ok {
		os.Exit(status)
	}
	if netscripts.Is(filepath.Base(os.Args[0])) {
		os.Exit(netscripts.Run(context.Background(), netscripts.Env{Stdout: os.Stdout, Stderr: os.Stderr}, os.Args))
	}
	if dir := os.Getenv(crashEnv); dir != "" {
		os.Exit(crash(dir))
	}
	nettest.SideBySide()
	os.Exit(m.Run())
}

// machine is a host of a laboratory, with a bridge br0 and a toolstack.
type machine struct {
	*Toolstack
	t      testing.TB
	host   *xlab.Host
	bridge hostnet.Link
	dir    string
	// mgr keeps its domains between manage and unmanage.
	mgr      *domain.Manager
	unmanage func()
}

func newMachine(t testing.TB, l *xlab.Lab, name string) *machine {
	t.Helper()
	h, err := l.Host(name)
	require.NoError(t, err)
	// With an address of its own, as a bridge with a network card has.
	br, err := h.Net.CreateBridge(hostnet.Bridge{Name: "br0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	require.NoError(t, err)
	require.NoError(t, h.Net.SetUp(br.Index))
	m := &machine{t: t, host: h, bridge: br, dir: h.Dir, unmanage: func() {}}
	scripts := filepath.Join(h.Dir, "etc", "xen", "scripts")
	require.NoError(t, os.MkdirAll(scripts, 0o755))
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(exe, filepath.Join(scripts, "vif-bridge")))
	m.open(nil)
	t.Cleanup(m.end)
	return m
}

func optionsOf(dir string, host *hostnet.Host) Options {
	return Options{
		Dir: filepath.Join(dir, "run", "xend", "domains"), ScriptDirs: []string{filepath.Join(dir, "etc", "xen", "scripts")},
		VifScript: "vif-bridge", Prefix: dir, Host: host,
	}
}

func (m *machine) open(change func(o *Options)) {
	m.t.Helper()
	o := optionsOf(m.dir, m.host.Net)
	if change != nil {
		change(&o)
	}
	var err error
	m.Toolstack, err = Open(o)
	require.NoError(m.t, err)
}

// end destroys what a test left.
func (m *machine) end() {
	m.unmanage()
	m.o.Before = func(string) error { return nil }
	list, _ := m.List(context.Background())
	for _, s := range list {
		require.NoError(m.t, m.Destroy(context.Background(), s.ID))
	}
	require.NoError(m.t, m.Close())
	m.empty()
}

// empty wants nothing to be left of any domain.
func (m *machine) empty() {
	m.t.Helper()
	entries, err := os.ReadDir(m.o.Dir)
	require.NoError(m.t, err)
	for _, e := range entries {
		_, err := strconv.Atoi(e.Name())
		require.Error(m.t, err, "domain %s has a directory", e.Name())
	}
	require.Empty(m.t, m.cgroups.ours())
	nodes, _ := m.xenstore().list(home + "/backend/vif")
	require.Empty(m.t, nodes)
	// A namespace goes a moment after its last process.
	require.Eventually(m.t, func() bool { return len(m.vifs()) == 0 }, 20*time.Second, 10*time.Millisecond)
}

func (m *machine) vifs() []string {
	links, err := m.host.Net.Links()
	require.NoError(m.t, err)
	var names []string
	for _, l := range links {
		if l.Kind == "veth" && l.Name != "cable" {
			names = append(names, l.Name)
		}
	}
	return names
}

func config(name, mac, ip string) domain.Config {
	c := domain.Config{Name: name, UUID: domain.NewUUID(), Memory: 64, Vifs: []domain.Vif{{MAC: mac, Bridge: "br0", IP: []string{ip}}}}
	c.Complete()
	return c
}

func (m *machine) create(c domain.Config) int {
	m.t.Helper()
	id, err := m.Create(m.t.Context(), c, domain.CreateOptions{})
	require.NoError(m.t, err)
	return id
}

func (m *machine) status(id int) domain.Status {
	m.t.Helper()
	list, err := m.List(m.t.Context())
	require.NoError(m.t, err)
	for _, s := range list {
		if s.ID == id {
			return s
		}
	}
	m.t.Fatalf("no domain %d", id)
	return domain.Status{}
}

// pingable has the host ask a domain, which answers or doesn't.
func (m *machine) answers(addr string, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(m.t.Context(), wait)
	defer cancel()
	_, err := m.host.Ping(ctx, netip.MustParseAddr(addr), xlab.PingOptions{})
	return err == nil
}

func (m *machine) address(addr string) {
	m.t.Helper()
	require.NoError(m.t, m.host.Net.EnsureAddress(hostnet.Address{Index: m.bridge.Index, Prefix: netip.MustParsePrefix(addr)}))
}

// patience is for what takes milliseconds, on a machine that is not emulated.
var patience = func() time.Duration {
	if os.Getenv("XEND_TEST_VM") != "" {
		return 5 * time.Minute
	}
	return 30 * time.Second
}()

func TestCreate(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	m.address("10.1.0.254/24")
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.Vifs = append(c.Vifs, domain.Vif{MAC: "00:16:3e:00:00:02", Bridge: "br0", Name: "second", MTU: 1400})
	id := m.create(c)
	s := m.status(id)
	require.Equal(t, "vm1", s.Name)
	require.Equal(t, c.UUID, s.UUID)
	require.Equal(t, domain.Flags("-b----"), s.Flags)
	require.Equal(t, 64, s.Memory)
	require.Len(t, s.Devices, 2)
	require.Equal(t, "br0", s.Devices[0].Param("bridge"))
	require.Equal(t, "00:16:3e:00:00:01", s.Devices[0].Param("mac"))
	require.Equal(t, "connected", must(m.xenstore().read(backendPath(id, 0)+"/hotplug-status")))
	require.True(t, m.answers("10.1.0.1", patience))

	vif, err := m.host.Net.LinkByName(vifName(id, 0))
	require.NoError(t, err)
	require.Equal(t, m.bridge.Index, vif.Master)
	second, err := m.host.Net.LinkByName("second")
	require.NoError(t, err)
	require.Equal(t, 1400, second.MTU)

	require.NoError(t, m.Pause(t.Context(), id))
	require.Equal(t, domain.Flags("--p---"), m.status(id).Flags)
	require.False(t, m.answers("10.1.0.1", time.Second))
	require.NoError(t, m.Unpause(t.Context(), id))
	require.True(t, m.answers("10.1.0.1", patience))

	require.NoError(t, m.Destroy(t.Context(), id))
	m.empty()
	var gone *domain.NotFoundError
	require.ErrorAs(t, m.Destroy(t.Context(), id), &gone)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What fails leaves nothing, whichever step it is.
func TestFailures(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	var steps []string
	m.o.Before = func(step string) error { steps = append(steps, step); return nil }
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	require.NoError(t, m.Destroy(t.Context(), m.create(c)))
	i := len(steps)
	for n, step := range steps {
		if step == "doom" {
			i = n
		}
	}
	require.Greater(t, i, 6, steps)
	for n := range i {
		at := 0
		m.o.Before = func(string) error {
			if at++; at == n+1 {
				return errors.New("this step fails")
			}
			return nil
		}
		_, err := m.Create(t.Context(), c, domain.CreateOptions{})
		require.ErrorContains(t, err, "this step fails", steps[n])
		m.empty()
	}
}

func TestRefusals(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	bad := func(want string, change func(c *domain.Config)) {
		t.Helper()
		c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
		change(&c)
		_, err := m.Create(t.Context(), c, domain.CreateOptions{})
		require.ErrorContains(t, err, want)
		m.empty()
	}
	bad("there is no bridge vnet98", func(c *domain.Config) { c.Vifs[0].Bridge = "vnet98" })
	bad("not in", func(c *domain.Config) { c.Vifs[0].Script = "vif-nosuch" })
	bad("neither a name", func(c *domain.Config) { c.Vifs[0].Script = "../vif-bridge" })
	bad("vifname", func(c *domain.Config) { c.Vifs[0].Name = "../x" })
	bad("is not an address", func(c *domain.Config) { c.Vifs[0].IP = []string{"x"} })
	bad("not an absolute path", func(c *domain.Config) { c.Kernel = "sleep; reboot" })
	bad("no such file", func(c *domain.Config) { c.Kernel = "/bin/sleep; reboot" })
	bad("only settings below net", func(c *domain.Config) { c.Extra = "sysctl.kernel.panic=1" })
	bad("only settings below net", func(c *domain.Config) { c.Extra = "sysctl.net.ipv4.../../../kernel/panic=1" })

	m.o.Guarded = true
	bad("while a server on TCP", func(c *domain.Config) { c.Kernel = "/bin/sleep" })
	bad("while a server on TCP", func(c *domain.Config) { c.Vifs[0].Script = "/bin/sh -c reboot" })
	bad("while a server on TCP", func(c *domain.Config) { c.Vifs[0].Script = "vif-bridge x" })
	m.o.Guarded = false
	file := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755))
	require.NoError(t, os.Chmod(file, 0o777))
	bad("others than root can write", func(c *domain.Config) { c.Kernel = file })
	require.NoError(t, os.Chmod(file, 0o755))
	require.NoError(t, os.Chown(file, 65534, 65534))
	bad("belongs to user 65534", func(c *domain.Config) { c.Kernel = file })
	require.NoError(t, os.Chown(file, 0, 0))
	require.NoError(t, os.Chmod(filepath.Dir(file), 0o777))
	bad("others than root can write", func(c *domain.Config) { c.Kernel = file })
}

// events collects what Watch tells.
func (m *machine) await(ch <-chan domain.Event, fits func(domain.Event) bool) domain.Event {
	m.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-ch:
			if fits(e) {
				return e
			}
		case <-timeout:
			m.t.Fatal("the event does not come")
		}
	}
}

// TestShutdownAsItBegins: what is asked for while the program begins is not forgotten.
func TestShutdownAsItBegins(t *testing.T) {
	for _, reason := range []string{Poweroff, Reboot, Crash} {
		k := &keeper{con: newConsole(), ended: make(chan Exit, 1), run: make(chan struct{}), begun: make(chan struct{}), helpers: map[int]bool{}}
		k.order.Kernel = []string{"/bin/sleep", "1000"}
		k.start()
		k.shutdown(reason) // as a program asks its pid 1, before that knows it
		go k.live()
		select {
		case e := <-k.ended:
			require.Equal(t, reason, e.Reason)
		case <-time.After(patience):
			<-k.begun
			_ = k.program.Kill()
			t.Fatal("it goes on")
		}
	}
}

func TestEnds(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := m.Watch(ctx)
	program := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(program, []byte(`#!/bin/sh
case $1 in
off) exit 0 ;;
crash) exit 3 ;;
reboot) kill -HUP 1; exec sleep 1000 ;;
hello) echo hello; read line; echo "you said $line"; exec sleep 1000 ;;
esac
`), 0o755))
	for _, test := range []struct {
		arg    string
		reason domain.Reason
		flags  domain.Flags
	}{{"off", domain.Poweroff, "---s--"}, {"crash", domain.Crash, "----c-"}, {"reboot", domain.Reboot, "---s--"}} {
		c := config("vm-"+test.arg, "00:16:3e:00:00:01", "10.1.0.1")
		c.Kernel, c.Extra = program, "ro -- "+test.arg
		id := m.create(c)
		e := m.await(events, func(e domain.Event) bool { return e.ID == id && e.Reason != "" })
		require.Equal(t, domain.Event{ID: id, UUID: c.UUID, Reason: test.reason}, e)
		require.Equal(t, test.flags, m.status(id).Flags)
		require.NoError(t, m.Destroy(t.Context(), id))
	}

	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.Kernel, c.Extra = program, "-- hello"
	id := m.create(c)
	con, err := m.Console(t.Context(), id)
	require.NoError(t, err)
	defer con.Close()
	expect(t, con, "hello")
	_, err = con.Write([]byte("something\n"))
	require.NoError(t, err)
	expect(t, con, "you said something")
	require.NoError(t, m.Sysrq(t.Context(), id, 'h'))
	expect(t, con, "SysRq : h")
	require.NoError(t, m.Shutdown(t.Context(), id, domain.Reboot))
	e := m.await(events, func(e domain.Event) bool { return e.ID == id && e.Reason != "" })
	require.Equal(t, domain.Reboot, e.Reason)
	// Who watches later is told of it, too.
	e = m.await(m.Watch(ctx), func(e domain.Event) bool { return e.ID == id })
	require.Equal(t, domain.Reboot, e.Reason)
	require.Error(t, m.Pause(t.Context(), id))
	require.NoError(t, m.Destroy(t.Context(), id))
	m.await(events, func(e domain.Event) bool { return e.ID == id && e.Reason == "" })
}

func expect(t *testing.T, r interface{ Read([]byte) (int, error) }, want string) {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(seen.String(), want) {
		n, err := r.Read(buf)
		require.NoError(t, err, "%q does not come: %q", want, seen.String())
		seen.Write(buf[:n])
	}
}

// The domain lives on without xend, and the next one knows everything of it.
func TestRestart(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	m.address("10.1.0.254/24")
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	id := m.create(c)
	paused, err := m.Create(t.Context(), config("vm2", "00:16:3e:00:00:02", "10.1.0.2"), domain.CreateOptions{Paused: true})
	require.NoError(t, err)
	require.NoError(t, m.Rename(t.Context(), id, "renamed"))
	require.NoError(t, m.VcpuPin(t.Context(), id, 0, []int{0}))
	before := m.status(id)
	require.NoError(t, m.Close())
	require.True(t, m.answers("10.1.0.1", patience))
	m.open(nil)
	after := m.status(id)
	before.CPUTime, after.CPUTime = 0, 0
	for i := range after.VCPUs {
		before.VCPUs[i].CPUTime, after.VCPUs[i].CPUTime = 0, 0
	}
	require.True(t, before.Started.Equal(after.Started))
	before.Started = after.Started
	require.Equal(t, before, after)
	require.Equal(t, domain.Flags("--p---"), m.status(paused).Flags)
	require.False(t, m.answers("10.1.0.2", time.Second))
	require.NoError(t, m.Unpause(t.Context(), paused))
	require.True(t, m.answers("10.1.0.2", patience))
	require.NoError(t, m.Shutdown(t.Context(), id, domain.Poweroff))
	m.await(m.Watch(t.Context()), func(e domain.Event) bool { return e.ID == id && e.Reason == domain.Poweroff })
}

func TestDevices(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	m.address("10.2.0.254/24")
	m.address("10.1.0.254/24")
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	id := m.create(c)
	n, err := m.DeviceAttach(t.Context(), id, domain.DeviceConfig{Kind: "vif", Params: []domain.Param{{Name: "bridge", Value: "br0"}, {Name: "ip", Value: "10.2.0.7"}}})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.True(t, m.answers("10.2.0.7", patience))
	_, err = m.DeviceAttach(t.Context(), id, domain.DeviceConfig{Kind: "vif", Params: []domain.Param{{Name: "bridge", Value: "nosuch"}}})
	require.ErrorContains(t, err, "there is no bridge nosuch")
	require.Len(t, m.status(id).Devices, 2)
	require.NoError(t, m.DeviceDetach(t.Context(), id, "vif", 1, false))
	require.Error(t, m.DeviceDetach(t.Context(), id, "vif", 1, false))
	require.Len(t, m.status(id).Devices, 1)
	require.Len(t, m.vifs(), 1)
	var unsupported *domain.UnsupportedError
	_, err = m.DeviceAttach(t.Context(), id, domain.DeviceConfig{Kind: "vbd"})
	require.ErrorAs(t, err, &unsupported)
}

func TestSaveRestore(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	m.address("10.1.0.254/24")
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.Vifs[0].IP = nil // which would restrict it to that one
	id := m.create(c)
	g := must(m.get(id))
	// Whatever was configured inside goes along.
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(g.pid), "-n", "ip", "-batch", writeFile(t, `addr add 10.1.0.9/24 dev eth0
addr add 10.1.0.8/24 dev eth0
addr add 2001:db8::9/64 dev eth0 nodad
route add 192.0.2.0/24 via 10.1.0.254
`)).CombinedOutput()
	require.NoError(t, err, string(out))
	file := filepath.Join(t.TempDir(), "saved")
	require.NoError(t, m.Save(t.Context(), id, c, file))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	m.empty()
	require.False(t, m.answers("10.1.0.9", time.Second))

	var admitted domain.Config
	_, _, err = m.Restore(t.Context(), file, domain.CreateOptions{}, func(domain.Config) error { return errors.New("no") })
	require.EqualError(t, err, "no")
	m.empty()
	id, again, err := m.Restore(t.Context(), file, domain.CreateOptions{}, func(c domain.Config) error { admitted = c; return nil })
	require.NoError(t, err)
	require.Equal(t, c.SXP().String(), again.SXP().String())
	require.Equal(t, c.SXP().String(), admitted.SXP().String())
	require.True(t, m.answers("10.1.0.9", patience))
	n, err := look(must(must(m.get(id)).network()), nil)
	require.NoError(t, err)
	require.Contains(t, n.Cards[0].Addresses, netip.MustParsePrefix("2001:db8::9/64"))
	require.Equal(t, netip.MustParsePrefix("192.0.2.0/24"), n.Routes[0].To)

	// A file that exists is not overwritten, and the domain goes on.
	require.ErrorIs(t, m.Save(t.Context(), id, c, file), os.ErrExist)
	require.True(t, m.answers("10.1.0.9", patience))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[len(b)-3] ^= 1
	require.NoError(t, os.WriteFile(file, b, 0o600))
	_, _, err = m.Restore(t.Context(), file, domain.CreateOptions{}, func(domain.Config) error { return nil })
	require.ErrorContains(t, err, "checksum")
}

func writeFile(t *testing.T, text string) string {
	name := filepath.Join(t.TempDir(), "batch")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

const crashEnv = "LAB_TEST_CRASH"

// crash is a process that does an operation and is killed before step number n.
func crash(dir string) int {
	n, _ := strconv.Atoi(os.Getenv("LAB_TEST_STEP"))
	host, err := hostnet.New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := optionsOf(dir, host)
	at := 0
	armed := false
	o.Before = func(string) error {
		if !armed {
			return nil
		}
		if at++; at == n {
			_ = os.Stdout.Sync()
			p, _ := os.FindProcess(os.Getpid())
			_ = p.Kill()
			select {}
		}
		return nil
	}
	arm := func() { armed = true }
	switch op := os.Getenv("LAB_TEST_OP"); {
	case op == "leave" || op == "serve":
		if err := crashMigrate(dir, op, o.Before, arm); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case os.Getenv(managedEnv) != "":
		if err := crashManaged(o, dir, op, arm); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println("survived")
		return 0
	}
	t, err := Open(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	destroy := os.Getenv("LAB_TEST_OP") == "destroy"
	attach := os.Getenv("LAB_TEST_OP") == "attach"
	armed = !destroy && !attach
	id, err := t.Create(context.Background(), c, domain.CreateOptions{})
	if err == nil && destroy {
		armed = true
		err = t.Destroy(context.Background(), id)
	}
	if err == nil && attach {
		armed = true
		_, err = t.DeviceAttach(context.Background(), id, domain.DeviceConfig{Kind: "vif", Params: []domain.Param{{Name: "bridge", Value: "br0"}}})
		if err == nil {
			err = t.DeviceDetach(context.Background(), id, "vif", 1, false)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("survived")
	return 0
}

// kill -9 at every step: the next xend finds a whole domain or none, and nothing else.
func TestKilled(t *testing.T) {
	for _, op := range []string{"create", "destroy", "attach"} {
		t.Run(op, func(t *testing.T) {
			m := newMachine(t, xlab.New(t), "A")
			require.NoError(t, m.Close())
			exe, err := os.Executable()
			require.NoError(t, err)
			for n := 1; ; n++ {
				cmd := m.host.Command(t.Context(), exe)
				cmd.Env = append(cmd.Env, crashEnv+"="+m.dir, "LAB_TEST_OP="+op, "LAB_TEST_STEP="+strconv.Itoa(n))
				var out, errs strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &errs
				require.NoError(t, m.host.Start(cmd))
				err := cmd.Wait()
				survived := out.String() != ""
				if !survived {
					require.ErrorContains(t, err, "killed", errs.String())
				}
				m.open(nil)
				list, err := m.List(t.Context())
				require.NoError(t, err)
				if survived {
					require.Greater(t, n, 4)
					m.end()
					m.open(nil)
					return
				}
				if len(list) > 0 {
					require.Len(t, list, 1)
					require.Empty(t, list[0].Reason)
					require.NoError(t, m.Pause(t.Context(), list[0].ID))
					require.NoError(t, m.Unpause(t.Context(), list[0].ID))
					require.NoError(t, m.Destroy(t.Context(), list[0].ID))
				}
				m.empty()
				require.NoError(t, m.Close())
			}
		})
	}
}

// A domain whose directory was removed by hand ends: nobody could end it.
func TestOrphan(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	id := m.create(config("vm1", "00:16:3e:00:00:01", "10.1.0.1"))
	require.NoError(t, os.RemoveAll(m.Toolstack.dir(id)))
	select {
	case <-must(m.get(id)).ended:
	case <-time.After(patience):
		t.Fatal("it lives on")
	}
	require.NoError(t, m.Destroy(t.Context(), id))
}

func TestXenstoreTools(t *testing.T) {
	root := t.TempDir()
	run := func(name string, args ...string) (int, string) {
		var out strings.Builder
		status := xenstoreTool(root, name, args, &out, &out)
		return status, out.String()
	}
	status, _ := run("xenstore-write", "backend/vif/1/0/bridge", "br0", "/local/domain/0/backend/vif/1/0/mac", "x")
	require.Zero(t, status)
	_, out := run("xenstore-read", "/local/domain/0/backend/vif/1/0/bridge", "backend/vif/1/0/mac")
	require.Equal(t, "br0\nx\n", out)
	_, out = run("xenstore-list", "backend/vif/1/0")
	require.Equal(t, "bridge\nmac\n", out)
	status, _ = run("xenstore-rm", "backend/vif/1")
	require.Zero(t, status)
	status, _ = run("xenstore-exists", "backend/vif/1/0/bridge")
	require.Equal(t, 1, status)
	for _, path := range []string{"../../etc/passwd", "/local/../../x", "backend/@value"} {
		status, out = run("xenstore-write", path, "x")
		require.Equal(t, 1, status)
		require.Contains(t, out, "bad path")
	}
	status, _ = run("xenstore-read", "backend/none")
	require.Equal(t, 1, status)
}

// Without the controllers, in a directory that is like a control group.
func TestLimits(t *testing.T) {
	mount := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(mount, groupDir), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(mount, groupDir, "cgroup.subtree_control"), []byte("memory cpu"), 0o644))
	require.Equal(t, "/sys/fs/cgroup/unified", findCgroups([]byte("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")))
	require.Equal(t, map[string]string{"memory.max": "67108864", "cpu.max": "150000 100000", "cpu.weight": "200", "cpuset.cpus": "0,2"},
		limits{Memory: 64, VCPUs: 2, Cap: 150, Weight: 512, CPUs: []int{0, 2}}.settings())
	require.Equal(t, map[string]string{"memory.max": "max", "cpu.max": "100000 100000", "cpu.weight": "100", "cpuset.cpus": ""}, limits{}.settings())
	c := cgroups{dir: filepath.Join(mount, groupDir), label: "x", missing: []string{"cpuset"}}
	require.NoError(t, c.create(3, os.Getpid()))
	require.NoError(t, c.limit(3, limits{Memory: 1, VCPUs: 1}))
	require.Equal(t, "1048576\n", string(must(os.ReadFile(filepath.Join(mount, groupDir, "x.3", "memory.max")))))
	require.NoFileExists(t, filepath.Join(mount, groupDir, "x.3", "cpuset.cpus"))
	require.Equal(t, []int{3}, c.ours())
}

func TestParameters(t *testing.T) {
	n, args, err := parameters("root=/dev/sda1 ro ip=10.0.0.2::10.0.0.1:255.255.0.0:vm:eth1:off sysctl.net.ipv4.ip_forward=1 -- -D --x=1")
	require.NoError(t, err)
	require.Equal(t, []string{"-D", "--x=1"}, args)
	require.Equal(t, network{
		Cards:   []card{{Number: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/16")}}},
		Routes:  []route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Card: 1}},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
	}, n)
	_, _, err = parameters("ip=10.0.0.2::::vm:wlan0:off")
	require.ErrorContains(t, err, "wlan0")
	cpus, err := parseCPUs("0-3,^1,7")
	require.NoError(t, err)
	require.Equal(t, []int{0, 2, 3, 7}, cpus)
	_, err = parseCPUs("0-99999999")
	require.Error(t, err)
}

func FuzzDecodeImage(f *testing.F) {
	m := image{Config: configText(config("vm1", "00:16:3e:00:00:01", "10.1.0.1")), Network: network{Cards: []card{{Number: 1}}}}
	f.Add(must(m.encode()))
	f.Add([]byte(saveMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeImage(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		require.NoError(t, err)
		_, err = decodeImage(again)
		require.NoError(t, err)
	})
}
