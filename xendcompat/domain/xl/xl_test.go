package xl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/domain"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "xl" {
		os.Exit(standIn(filepath.Dir(os.Args[0]), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// standIn is xl for these tests: it records how it was called, and answers with the file that is called after the command
// ("list -l" is list-l); FILE.err is an error, on standard error, with the exit status 1, or 0 if there is FILE.ok.
func standIn(dir string, args []string) int {
	log, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 99
	}
	fmt.Fprintf(log, "%q\n", args)
	log.Close()
	name := args[0]
	if len(args) > 1 && (args[1] == "-l" || args[1] == "-v") {
		name += args[1]
	}
	switch name {
	case "console":
		_, _ = io.Copy(os.Stdout, os.Stdin)
		return 0
	case "create", "restore":
		b, _ := os.ReadFile(args[len(args)-1])
		if name == "restore" {
			b, _ = os.ReadFile(args[len(args)-2])
		}
		_ = os.WriteFile(filepath.Join(dir, "config"), b, 0o600)
	case "save":
		if os.WriteFile(args[2], []byte("memory"), 0o600) != nil {
			return 1
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, name+".err")); err == nil {
		_, _ = os.Stderr.Write(b)
		if _, err := os.Stat(filepath.Join(dir, name+".ok")); err == nil {
			return 0
		}
		return 1
	}
	b, _ := os.ReadFile(filepath.Join(dir, name))
	_, _ = os.Stdout.Write(b)
	return 0
}

type fixture struct {
	*Toolstack
	t   *testing.T
	dir string
}

// newFixture is a host with Domain-0 and vm1, as they were recorded from Xen 4.17.
func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, dir: t.TempDir()}
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(exe, filepath.Join(f.dir, "xl")))
	for _, name := range []string{"info", "list-l", "vcpu-list", "dmesg"} {
		b, err := os.ReadFile(filepath.Join("..", "testdata", "xl-4.17", name))
		require.NoError(t, err)
		f.answer(name, string(b))
	}
	f.answer("list-v", `Name                                        ID   Mem VCPUs	State	Time(s)   UUID                            Reason-Code	Security Label
Domain-0                                     0   900     1     r-----      18.0 00000000-0000-0000-0000-000000000000        -                -
vm1                                          1   192     1     ------       0.4 3de3ed7c-157a-4950-b4dc-ca9d787b25d4        -                -
`)
	f.Toolstack, err = Open(Options{Command: filepath.Join(f.dir, "xl"), Dir: f.dir, Poll: 10 * time.Millisecond})
	require.NoError(t, err)
	return f
}

func (f *fixture) answer(name, text string) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(filepath.Join(f.dir, name+".new"), []byte(text), 0o600))
	require.NoError(f.t, os.Rename(filepath.Join(f.dir, name+".new"), filepath.Join(f.dir, name)))
}

// calls returns how xl was called since the last time, but for what only tells.
func (f *fixture) calls() []string {
	f.t.Helper()
	name := filepath.Join(f.dir, "calls")
	b, _ := os.ReadFile(name)
	_ = os.Remove(name)
	var calls []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, `["list"`) && !strings.HasPrefix(line, `["info"`) && !strings.HasPrefix(line, `["vcpu-list"`) &&
			!strings.HasPrefix(line, `["uptime"`) {
			calls = append(calls, strings.ReplaceAll(line, f.dir, "DIR"))
		}
	}
	return calls
}

var vm1 = domain.Config{
	Name: "vm1", UUID: "3de3ed7c-157a-4950-b4dc-ca9d787b25d4", Memory: 192, Kernel: "/boot/vmlinuz; reboot", Extra: "console=hvc0",
	Vifs: []domain.Vif{{MAC: "00:16:3e:00:00:01", Bridge: "vnet97"}},
}

func TestList(t *testing.T) {
	f := newFixture(t)
	list, err := f.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "Domain-0", list[0].Name)
	require.Equal(t, dom0UUID, list[0].UUID)
	s := list[1]
	require.Equal(t, []any{1, "vm1", vm1.UUID, 192, domain.Flags("------"), domain.Reason("")}, []any{s.ID, s.Name, s.UUID, s.Memory, s.Flags, s.Reason})
	require.Equal(t, "/boot/vmlinux-6.1.0-56-amd64", s.Config.Kernel)
	require.NotEmpty(t, s.Devices)
	require.Equal(t, "vif", s.Devices[0].Kind)
	require.Equal(t, "/local/domain/0/backend/vif/1/0", s.Devices[0].Param("backend"))
	require.Len(t, s.VCPUs, 1)
	require.Zero(t, s.Started)

	// When they started is asked for as long as it is not known, and then no more.
	f.answer("uptime", "Name                                ID Uptime\nDomain-0                             0 3 days,  1:02:03\nvm1                                  1  0:05:25\n")
	list, err = f.List(t.Context())
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(-(73*time.Hour + 2*time.Minute + 3*time.Second)), list[0].Started, time.Minute)
	require.WithinDuration(t, time.Now().Add(-(5*time.Minute + 25*time.Second)), list[1].Started, time.Minute)
	f.answer("uptime", "Name                                ID Uptime\nvm1                                  1  9:99:99\n")
	again, err := f.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, list[1].Started, again[1].Started)
}

// A device that can't be found once it was attached is taken away again: it is told that it was not attached.
func TestAttachedUnseen(t *testing.T) {
	f := newFixture(t)
	_, err := f.DeviceAttach(t.Context(), 1, domain.DeviceConfig{Kind: "vif", Params: []domain.Param{{Name: "mac", Value: "00:16:3e:00:00:99"}}})
	require.ErrorContains(t, err, "domain 1 has no such vif")
	_, err = f.DeviceAttach(t.Context(), 1, domain.DeviceConfig{Kind: "vbd", Params: []domain.Param{{Name: "uname", Value: "phy:/dev/x"}, {Name: "dev", Value: "xvdz"}, {Name: "mode", Value: "w"}}})
	require.ErrorContains(t, err, "domain 1 has no such vbd")
	calls := strings.Join(f.calls(), "\n")
	require.Contains(t, calls, `["network-detach" "1" "00:16:3e:00:00:99"]`)
	require.Contains(t, calls, `["block-detach" "1" "xvdz"]`)
}

// As recorded from Xen 4.17, of guests that ended by themselves.
func TestRecordedEnds(t *testing.T) {
	b, err := os.ReadFile("../testdata/xl-4.17/list-v")
	require.NoError(t, err)
	var got []string
	for _, s := range parseShort(b) {
		got = append(got, fmt.Sprint(s.ID, " ", s.Name, " ", s.Flags, " ", s.Reason))
	}
	require.Equal(t, []string{"0 Domain-0 r----- ", "1 vm-reboot ---s-- reboot", "2 vm-crash ---sc- crash", "3 vm1 -b---- "}, got)
}

func TestShort(t *testing.T) {
	list := parseShort([]byte(`Name                                        ID   Mem VCPUs	State	Time(s)   UUID                            Reason-Code	Security Label
a b 7                                        3   900     1     ---s--      18.0 00000000-0000-0000-0000-000000000001        1
old                                          2   192     1     -b----       0.4
dead                                         4   192     1     ---sc-       0.4 00000000-0000-0000-0000-000000000002        3
off                                          5   192     1     ---s--       0.4 00000000-0000-0000-0000-000000000003        0
`))
	require.Len(t, list, 4)
	require.Equal(t, []any{"a b 7", 3, domain.Reboot}, []any{list[1].Name, list[1].ID, list[1].Reason})
	require.Equal(t, domain.Reason(""), list[0].Reason)
	require.Equal(t, domain.Crash, list[2].Reason)
	require.Equal(t, domain.Poweroff, list[3].Reason)
}

func TestCreate(t *testing.T) {
	f := newFixture(t)
	id, err := f.Create(t.Context(), vm1, domain.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, id)
	calls := f.calls()
	require.Len(t, calls, 2)
	// -e: nobody of xl's stays. The configuration goes by a file, never by a shell.
	require.Regexp(t, `^\["create" "-e" "-p" "DIR/domain-\d+\.cfg"\]$`, calls[0])
	require.Equal(t, `["unpause" "1"]`, calls[1])
	b, err := os.ReadFile(filepath.Join(f.dir, "config"))
	require.NoError(t, err)
	require.Contains(t, string(b), `kernel = "/boot/vmlinuz; reboot"`)
	require.Contains(t, string(b), `vif = ["mac=00:16:3e:00:00:01,bridge=vnet97"]`)
	left, err := filepath.Glob(filepath.Join(f.dir, "domain-*"))
	require.NoError(t, err)
	require.Empty(t, left)

	_, err = f.Create(t.Context(), vm1, domain.CreateOptions{Paused: true})
	require.NoError(t, err)
	require.Len(t, f.calls(), 1)

	f.answer("create.err", "libxl: error: libxl_create.c:1: no memory\n")
	_, err = f.Create(t.Context(), vm1, domain.CreateOptions{})
	require.ErrorContains(t, err, "no memory")

	f = newFixture(t)
	f.answer("unpause.err", "no\n")
	_, err = f.Create(t.Context(), vm1, domain.CreateOptions{})
	require.Error(t, err)
	require.Equal(t, `["destroy" "1"]`, f.calls()[2], "nothing is left")
}

func TestCommands(t *testing.T) {
	f := newFixture(t)
	f.answer("sched-credit2", "Cpupool Pool-0: ratelimit=1000us\nName                                ID Weight  Cap\nvm1                                  1    256   50\n")
	ctx := t.Context()
	for _, test := range []struct {
		want string
		do   func() error
	}{
		{`["destroy" "1"]`, func() error { return f.Destroy(ctx, 1) }},
		{`["pause" "1"]`, func() error { return f.Pause(ctx, 1) }},
		{`["unpause" "1"]`, func() error { return f.Unpause(ctx, 1) }},
		{`["shutdown" "-F" "1"]`, func() error { return f.Shutdown(ctx, 1, domain.Poweroff) }},
		{`["reboot" "-F" "1"]`, func() error { return f.Shutdown(ctx, 1, domain.Reboot) }},
		{`["rename" "1" "vm 2"]`, func() error { return f.Rename(ctx, 1, "vm 2") }},
		{`["vcpu-set" "1" "2"]`, func() error { return f.VcpuSet(ctx, 1, 2) }},
		{`["vcpu-pin" "1" "0" "0,2"]`, func() error { return f.VcpuPin(ctx, 1, 0, []int{0, 2}) }},
		{`["vcpu-pin" "1" "all" "all"]`, func() error { return f.VcpuPin(ctx, 1, -1, nil) }},
		{`["mem-set" "1" "128m"]`, func() error { return f.MemSet(ctx, 1, 128) }},
		{`["mem-max" "1" "256m"]`, func() error { return f.MemMax(ctx, 1, 256) }},
		{`["sched-credit2" "-d" "1"]`, func() error {
			w, c, err := f.SchedCredit(ctx, 1)
			require.Equal(t, []int{256, 50}, []int{w, c})
			return err
		}},
		{`["sched-credit2" "-d" "1" "-w" "512" "-c" "0"]`, func() error { return f.SetSchedCredit(ctx, 1, 512, 0) }},
		{`["network-detach" "1" "0"]`, func() error { return f.DeviceDetach(ctx, 1, "vif", 0, false) }},
		{`["block-detach" "1" "51712" "--force"]`, func() error { return f.DeviceDetach(ctx, 1, "vbd", 51712, true) }},
		{`["sysrq" "1" "s"]`, func() error { return f.Sysrq(ctx, 1, 's') }},
		{`["trigger" "1" "nmi" "0"]`, func() error { return f.Trigger(ctx, 1, "nmi", 0) }},
		{`["dump-core" "1" "/x/core"]`, func() error { return f.DumpCore(ctx, 1, "/x/core", false, false) }},
		{`["migrate" "-e" "1" "hostB"]`, func() error { return f.Migrate(ctx, 1, vm1, domain.MigrateOptions{Host: "hostB"}) }},
	} {
		require.NoError(t, test.do(), test.want)
		require.Equal(t, []string{test.want}, f.calls())
	}
	list, err := f.List(ctx)
	require.NoError(t, err)
	mac := list[1].Devices[0].Param("mac")
	dev, err := f.DeviceAttach(ctx, 1, domain.DeviceConfig{Kind: "vif", Params: []domain.Param{{Name: "mac", Value: mac}, {Name: "bridge", Value: "vnet97"}}})
	require.NoError(t, err)
	require.Equal(t, 0, dev)
	require.Equal(t, []string{fmt.Sprintf(`["network-attach" "1" "mac=%s" "bridge=vnet97"]`, mac)}, f.calls())

	// What could be taken for something else goes nowhere.
	for _, host := range []string{"", "-oProxyCommand=x", "a;b", "$(x)", "a b"} {
		require.Error(t, f.Migrate(ctx, 1, vm1, domain.MigrateOptions{Host: host}), host)
	}
	require.Error(t, f.Rename(ctx, 1, "-x"))
	require.Error(t, f.Sysrq(ctx, 1, '-'))
	require.Error(t, f.DumpCore(ctx, 1, "core", false, false))
	var unsupported *domain.UnsupportedError
	require.ErrorAs(t, f.Trigger(ctx, 1, "frob", 0), &unsupported)
	require.ErrorAs(t, f.Shutdown(ctx, 1, domain.Crash), &unsupported)
	_, err = f.DeviceAttach(ctx, 1, domain.DeviceConfig{Kind: "vtpm"})
	require.ErrorAs(t, err, &unsupported)
	require.Empty(t, f.calls())

	var none *domain.NotFoundError
	f.answer("destroy.err", "7 is an invalid domain identifier (rc=-6)\n")
	require.ErrorAs(t, f.Destroy(ctx, 7), &none)
	// As Xen 4.17's xl was heard to say, with the exit status 0.
	f.answer("pause.err", "libxl: error: libxl_domain.c:587:libxl_domain_pause: Domain 77:Pausing domain: No such process\n")
	f.answer("pause.ok", "")
	require.ErrorAs(t, f.Pause(ctx, 77), &none)
}

func TestSaveRestore(t *testing.T) {
	f := newFixture(t)
	file := filepath.Join(f.dir, "saved")
	require.NoError(t, f.Save(t.Context(), 1, vm1, file))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(b, []byte("memory")), "what xl wrote comes first")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	f.calls()
	id, c, err := f.Restore(t.Context(), file, domain.CreateOptions{}, func(domain.Config) error { return nil })
	require.NoError(t, err)
	require.Equal(t, 1, id)
	require.Equal(t, vm1.SXP().String(), c.SXP().String())
	require.Regexp(t, `^\["restore" "-e" "-p" "DIR/domain-\d+\.cfg" "DIR/saved"\]$`, f.calls()[0])
	require.ErrorIs(t, f.Save(t.Context(), 1, vm1, file), os.ErrExist)
	_, _, err = f.Restore(t.Context(), file, domain.CreateOptions{}, func(domain.Config) error { return io.EOF })
	require.ErrorIs(t, err, io.EOF)
	require.Empty(t, f.calls())

	f.answer("save.err", "it does not suspend\n")
	require.ErrorContains(t, f.Save(t.Context(), 1, vm1, file+"2"), "it does not suspend")
	left, err := filepath.Glob(filepath.Join(f.dir, ".save-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, os.WriteFile(file, []byte("memory of somebody's"), 0o600))
	_, _, err = f.Restore(t.Context(), file, domain.CreateOptions{}, nil)
	require.ErrorContains(t, err, "xl restore")
}

func TestConsole(t *testing.T) {
	f := newFixture(t)
	c, err := f.Console(t.Context(), 1)
	require.NoError(t, err)
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	buf := make([]byte, 5)
	_, err = io.ReadFull(c, buf)
	require.NoError(t, err)
	require.Equal(t, "hello", string(buf))
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
}

func TestWatch(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := f.Watch(ctx)
	line := "vm1 1 192 1 %s 0.4 " + vm1.UUID + " %s\n"
	f.answer("list-v", fmt.Sprintf(line, "---sr-", "1"))
	require.Equal(t, domain.Event{ID: 1, UUID: vm1.UUID, Reason: domain.Reboot}, next(t, events, 1))
	f.answer("list-v", "")
	require.Equal(t, domain.Event{ID: 1, UUID: vm1.UUID}, next(t, events, 1))
	f.answer("list-v", strings.Replace(fmt.Sprintf(line, "-b----", "-"), "vm1 1", "vm1 2", 1))
	require.Equal(t, domain.Event{ID: 2, UUID: vm1.UUID}, next(t, events, 2))
	cancel()
	for range events { // until it is closed
	}
	// What happened before counts.
	require.Equal(t, []domain.Event{{ID: 1, Reason: domain.Crash}}, changes(nil, []domain.Status{{ID: 0}, {ID: 1, Reason: domain.Crash}}))
}

func next(t *testing.T, events <-chan domain.Event, id int) domain.Event {
	t.Helper()
	for e := range events {
		if e.ID == id {
			return e
		}
	}
	t.Fatal("closed")
	return domain.Event{}
}

func TestDiskNumber(t *testing.T) {
	for vdev, want := range map[string]int{"xvda": 51712, "xvda1": 51713, "xvdb": 51728, "xvdp15": 51967, "xvdq": 1<<28 | 16<<8, "xvdaa": 1<<28 | 26<<8} {
		n, ok := diskNumber(vdev)
		require.True(t, ok)
		require.Equal(t, want, n, vdev)
	}
	_, ok := diskNumber("hda")
	require.False(t, ok)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("vm1 1 192 1 ---s-- 0.4 x 1\n"), int64(3))
	f.Fuzz(func(_ *testing.T, b []byte, size int64) {
		parseShort(b)
		parseVCPUs(b, 4)
		parseUptimes(b)
		_, _ = readTrailer(bytes.NewReader(b), int64(len(b)))
		_, _ = readTrailer(bytes.NewReader(b), size)
	})
}
