package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	xlab "github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// managedEnv asks a process that is killed to have a Manager, as the daemon has.
const managedEnv = "LAB_TEST_MANAGED"

// manager opens the Manager of a machine. step, if not nil, is called after each of its steps.
func manager(dir string, t *Toolstack, step func(string) error) (*domain.Manager, error) {
	return domain.Open(domain.Options{Toolstack: t, Dir: filepath.Join(dir, "domains"), DumpDir: filepath.Join(dir, "dump"), Step: step})
}

// manage runs a Manager until unmanage, and returns when it has finished what the last one began.
func (m *machine) manage() {
	m.t.Helper()
	mgr, err := manager(m.dir, m.Toolstack, nil)
	require.NoError(m.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Run(ctx) }()
	<-mgr.Ready()
	m.mgr = mgr
	m.unmanage = func() {
		cancel()
		require.NoError(m.t, <-done)
		require.NoError(m.t, mgr.Close())
		m.unmanage = func() {}
	}
}

// records is how many domains its Manager knows.
func (m *machine) records() string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.dir, "domains", "*.sxp"))
	require.NoError(m.t, err)
	return strconv.Itoa(len(files))
}

// names are the domains that run, and after a bar those that don't.
func (m *machine) names() string {
	m.t.Helper()
	var words []string
	for _, s := range []domain.State{domain.Running, domain.Halted} {
		for _, d := range must(m.mgr.List(m.t.Context(), s)) {
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

// alive is how many domains run and are neither paused nor on their way out.
func (m *machine) alive() int {
	n := 0
	for _, s := range must(m.List(m.t.Context())) {
		if s.Flags == "-b----" || s.Flags == "r-----" {
			n++
		}
	}
	return n
}

// managedOps are what is interrupted: before prepares, do does it, and after it the host is as it was (old) or as it should be (new).
var managedOps = map[string]struct {
	before, do func(ctx context.Context, m *domain.Manager, t *Toolstack, dir string) error
	old, new   string
	always     bool // it must be as new, acknowledged or not
}{
	"create":  {nil, managedCreate, "|", "vm1 |", false},
	"new":     {nil, managedNew, "|", "| vm1", false},
	"start":   {managedNew, managedOp("start"), "| vm1", "vm1 |", false},
	"destroy": {managedCreate, managedOp("destroy"), "vm1 |", "|", false},
	"delete":  {managedNew, managedOp("delete"), "| vm1", "|", false},
	"save":    {managedCreate, managedOp("save"), "vm1 |", "|", false},
	"restore": {func(ctx context.Context, m *domain.Manager, t *Toolstack, dir string) error {
		if err := managedCreate(ctx, m, t, dir); err != nil {
			return err
		}
		return managedOp("save")(ctx, m, t, dir)
	}, func(ctx context.Context, m *domain.Manager, _ *Toolstack, dir string) error {
		_, err := m.Restore(ctx, filepath.Join(dir, "saved"), domain.CreateOptions{})
		return err
	}, "|", "vm1 |", false},
	"reboot": {managedCreate, func(ctx context.Context, m *domain.Manager, t *Toolstack, _ string) error {
		return managedEnds(ctx, m, t, domain.Reboot)
	}, "vm1 |", "vm1 |", true},
	"rename-restart": {managedCreate, func(ctx context.Context, m *domain.Manager, t *Toolstack, _ string) error {
		return managedEnds(ctx, m, t, domain.Crash)
	}, "", "vm1-1 vm1 |", true},
}

func managedConfig() domain.Config {
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.OnCrash = domain.RenameRestart
	return c
}

func managedCreate(ctx context.Context, m *domain.Manager, _ *Toolstack, _ string) error {
	_, err := m.Create(ctx, managedConfig(), domain.CreateOptions{})
	return err
}

func managedNew(ctx context.Context, m *domain.Manager, _ *Toolstack, _ string) error {
	_, err := m.New(ctx, managedConfig())
	return err
}

func managedOp(op string) func(context.Context, *domain.Manager, *Toolstack, string) error {
	return func(ctx context.Context, m *domain.Manager, _ *Toolstack, dir string) error {
		_, err := m.Op(ctx, "vm1", op, domain.Params{"file": filepath.Join(dir, "saved")})
		return err
	}
}

// managedEnds has the domain end, and waits until another runs in its place.
func managedEnds(ctx context.Context, m *domain.Manager, t *Toolstack, why domain.Reason) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	events := t.Watch(ctx)
	go func() { done <- m.Run(ctx) }()
	<-m.Ready()
	list, err := t.List(ctx)
	if err != nil {
		return err
	}
	id := list[0].ID
	if err := t.Shutdown(ctx, id, why); err != nil {
		return err
	}
	for e := range events {
		if e.ID > id && e.Reason == "" {
			break
		}
	}
	cancel() // waits until what began is finished
	return <-done
}

// crashManaged is the process that is killed.
func crashManaged(o Options, dir, op string, arm func()) error {
	t, err := Open(o)
	if err != nil {
		return err
	}
	m, err := manager(dir, t, o.Before)
	if err != nil {
		return err
	}
	arm()
	return managedOps[op].do(context.Background(), m, t, dir)
}

// kill -9 at every step of the Manager and of the lab, with what they do together: no domain is lost, doubled or half there, and no
// device is left. A guest that was rebooting runs.
func TestManagedKilled(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	for op, o := range managedOps {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, xlab.New(t), "A")
			m.address("10.1.0.254/24")
			for n := 1; ; n++ {
				require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "saved")))
				if o.before != nil {
					m.manage()
					require.NoError(t, o.before(t.Context(), m.mgr, m.Toolstack, m.dir))
					m.unmanage()
				}
				require.NoError(t, m.Close())
				cmd := m.host.Command(t.Context(), exe)
				cmd.Env = append(cmd.Env, crashEnv+"="+m.dir, managedEnv+"=1", "LAB_TEST_OP="+op, "LAB_TEST_STEP="+strconv.Itoa(n))
				var out, errs strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &errs
				require.NoError(t, m.host.Start(cmd))
				err := cmd.Wait()
				survived := out.String() != ""
				if !survived {
					require.ErrorContains(t, err, "killed", errs.String())
				}

				m.open(nil)
				m.manage()
				if o.always {
					require.Eventually(t, func() bool { return m.names() == o.new && m.alive() == 1 }, patience, 10*time.Millisecond, "step %d: %s", n, m.names())
				}
				got := m.names()
				if survived {
					require.Equal(t, o.new, got, "step %d", n)
				} else if !o.always {
					require.Contains(t, []string{o.old, o.new}, got, "step %d", n)
				}
				require.Equal(t, strconv.Itoa(len(strings.Fields(got))-1), m.records(), "step %d: a record for each, and no more", n)
				alive := strings.Count(" "+got, " vm1 |")
				require.Equal(t, alive, m.alive(), "step %d", n)
				// A namespace goes a moment after its last process.
				require.Eventually(t, func() bool { return len(m.vifs()) == alive }, patience, 10*time.Millisecond, "step %d: %v", n, m.vifs())
				if alive > 0 {
					require.True(t, m.answers("10.1.0.1", patience), "step %d", n)
				}

				for _, d := range must(m.mgr.List(t.Context(), domain.All)) {
					if d.ID > 0 {
						_ = must(m.mgr.Op(t.Context(), fmt.Sprint(d.ID), "destroy", nil))
					}
				}
				for _, d := range must(m.mgr.List(t.Context(), domain.Halted)) {
					_ = must(m.mgr.Op(t.Context(), d.Name, "delete", nil))
				}
				m.empty()
				require.Equal(t, "0", m.records())
				m.unmanage()
				if survived {
					require.Greater(t, n, 3)
					return
				}
			}
		})
	}
}
