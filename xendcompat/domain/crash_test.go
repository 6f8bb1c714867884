package domain_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/domain/domaintest"
)

// What a child process of the tests does: the test binary runs itself for it.
const (
	childTask = "DOMAIN_TEST_CHILD"
	childDir  = "DOMAIN_TEST_DIR"
	childStep = "DOMAIN_TEST_STEP"
)

func TestMain(m *testing.M) {
	task := os.Getenv(childTask)
	if task == "" {
		os.Exit(m.Run())
	}
	if err := child(task, os.Getenv(childDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// world is a host whose domains survive the process.
func world(dir string) (*domain.Manager, *domaintest.Toolstack, error) {
	tool := &domaintest.Toolstack{File: filepath.Join(dir, "toolstack")}
	if err := tool.Load(); err != nil {
		return nil, nil, err
	}
	m, err := domain.Open(domain.Options{Toolstack: tool, Dir: filepath.Join(dir, "domains"), Step: dying})
	return m, tool, err
}

// dying kills the process, as kill -9 does, at the step that the test asks for. It counts from when the change begins.
var (
	dyingAt    int
	dyingSteps atomic.Int64 // of parallel tests that kill nobody, too
)

func dying(string) error {
	if n := dyingSteps.Add(1); dyingAt > 0 && n == int64(dyingAt) {
		if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
			return err
		}
		select {}
	}
	return nil
}

func parsed(text string) domain.Config {
	forms, err := sxp.Parse([]byte(text), sxp.Xend)
	if err != nil {
		panic(err)
	}
	c, err := domain.ParseForm(forms[0])
	if err != nil {
		panic(err)
	}
	return c
}

// change is what is interrupted: before prepares the host, do does it, after which the host is as after says. Names are
// those of domains that run, then after a bar of managed ones that don't.
type change struct {
	before   func(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, dir string) error
	do       func(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, dir string) error
	old, new string
	always   bool // it must be as new, acknowledged or not
}

func op(name string, params ...string) func(context.Context, *domain.Manager, *domaintest.Toolstack, string) error {
	return func(ctx context.Context, m *domain.Manager, _ *domaintest.Toolstack, dir string) error {
		p := domain.Params{}
		for i := 0; i < len(params); i += 2 {
			p[params[i]] = strings.ReplaceAll(params[i+1], "DIR", dir)
		}
		_, err := m.Op(ctx, "a", name, p)
		return err
	}
}

func createA(ctx context.Context, m *domain.Manager, _ *domaintest.Toolstack, _ string) error {
	_, err := m.Create(ctx, parsed("(vm (name a))"), domain.CreateOptions{})
	return err
}

func newA(ctx context.Context, m *domain.Manager, _ *domaintest.Toolstack, _ string) error {
	_, err := m.New(ctx, parsed("(vm (name a))"))
	return err
}

var changes = map[string]change{
	"create":  {do: createA, old: "|", new: "a |"},
	"new":     {do: newA, old: "|", new: "| a"},
	"start":   {before: newA, do: op("start"), old: "| a", new: "a |"},
	"destroy": {before: createA, do: op("destroy"), old: "a |", new: "|"},
	"delete":  {before: newA, do: op("delete"), old: "| a", new: "|"},
	"rename":  {before: createA, do: op("rename", "name", "b"), old: "a |", new: "b |"},
	"save":    {before: createA, do: op("save", "file", "DIR/a.save"), old: "a |", new: "|"},
	"migrate": {before: createA, do: op("migrate", "destination", "hostb"), old: "a |", new: "|"},
	"restore": {
		before: func(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, dir string) error {
			if err := createA(ctx, m, t, dir); err != nil {
				return err
			}
			return op("save", "file", "DIR/a.save")(ctx, m, t, dir)
		},
		do: func(ctx context.Context, m *domain.Manager, _ *domaintest.Toolstack, dir string) error {
			_, err := m.Restore(ctx, filepath.Join(dir, "a.save"), domain.CreateOptions{})
			return err
		},
		old: "|", new: "a |",
	},
	"receive": {
		do: func(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, _ string) error {
			c := parsed("(vm (name a))")
			c.Complete()
			return m.Receive(ctx, c, func(context.Context) (int, error) { return t.Add(c, false), nil })
		},
		old: "|", new: "a |",
	},
	// A guest's reboot: whenever xend is killed, the guest runs in the end.
	"reboot": {
		before: createA,
		do: func(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, _ string) error {
			return untilAnew(ctx, m, t, domain.Reboot)
		},
		old: "a |", new: "a |", always: true,
	},
	// One that is kept for people to look at, while another takes its place.
	"rename-restart": {
		before: func(ctx context.Context, m *domain.Manager, _ *domaintest.Toolstack, _ string) error {
			_, err := m.Create(ctx, parsed("(vm (name a) (on_crash rename-restart) (device (vif (mac 00:16:3e:00:00:01))))"), domain.CreateOptions{})
			return err
		},
		do: func(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, _ string) error {
			return untilAnew(ctx, m, t, domain.Crash)
		},
		new: "a-1 a |", always: true,
	},
}

// untilAnew ends domain 1 and returns when domain 2 was made, and the daemon has ended.
func untilAnew(ctx context.Context, m *domain.Manager, t *domaintest.Toolstack, why domain.Reason) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	events := t.Watch(ctx)
	go func() { done <- m.Run(ctx) }()
	<-m.Ready()
	t.End(1, why)
	for e := range events {
		if e.ID == 2 {
			break
		}
	}
	cancel() // waits until what began is finished
	return <-done
}

func child(task, dir string) error {
	at, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		return err
	}
	m, tool, err := world(dir)
	if err != nil {
		return err
	}
	dyingAt = at
	tool.Fail = dying
	tool.After = func(op string) { _ = dying(op) }
	if err := changes[task].do(context.Background(), m, tool, dir); err != nil {
		return err
	}
	fmt.Println("acknowledged")
	return nil
}

// TestKill kills xend after each step of each change: of the files, of the toolstack, and in between. What the next xend
// finds is what was before or what should be after, and the latter if the change was acknowledged; no domain is lost,
// doubled, or half there.
func TestKill(t *testing.T) {
	for task, c := range changes {
		t.Run(task, func(t *testing.T) {
			t.Parallel()
			for step := 1; ; step++ {
				dir := t.TempDir()
				if c.before != nil {
					m, tool, err := world(dir)
					require.NoError(t, err)
					require.NoError(t, c.before(t.Context(), m, tool, dir))
					require.NoError(t, m.Close())
				}
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), childTask+"="+task, childDir+"="+dir, childStep+"="+strconv.Itoa(step))
				cmd.Stderr = os.Stderr
				out, err := cmd.Output()
				acknowledged := strings.Contains(string(out), "acknowledged")
				if !acknowledged {
					require.ErrorContains(t, err, "killed")
				}

				m, tool, err := world(dir)
				require.NoError(t, err)
				h := &host{Manager: m, tool: tool, dir: filepath.Join(dir, "domains")}
				stop := h.serve(t)
				if c.always {
					h.await(t, c.new, 0)
				}
				got := h.names(t)
				if acknowledged {
					require.Equal(t, c.new, got, "step %d", step)
				} else if !c.always {
					require.Contains(t, []string{c.old, c.new}, got, "step %d", step)
				}
				require.Equal(t, len(strings.Fields(got))-1, h.files(t), "step %d: a record for each, and no more", step)
				stop()
				require.NoError(t, m.Close())
				left, err := filepath.Glob(filepath.Join(dir, "domains", ".*"))
				require.NoError(t, err)
				require.Empty(t, left)
				// And the xend after that changes nothing.
				again, _, err := world(dir)
				require.NoError(t, err)
				h.Manager = again
				stop = h.serve(t)
				require.Equal(t, got, h.names(t))
				stop()
				require.NoError(t, again.Close())
				if acknowledged && err == nil {
					require.Greater(t, step, 3)
					return
				}
			}
		})
	}
}
