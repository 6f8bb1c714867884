package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

const (
	childTask  = "SERVICE_TEST_CHILD"
	childState = "SERVICE_TEST_STATE"
	childStep  = "SERVICE_TEST_STEP"
)

// childMain runs a daemon in the namespace that the parent is in, and kills it after a step of a change.
func childMain() int {
	if err := childRun(os.Getenv(childTask), os.Getenv(childState)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("acknowledged")
	return 0
}

func childRun(task, state string) error {
	last, err := strconv.ParseInt(os.Getenv(childStep), 10, 64)
	if err != nil {
		return err
	}
	var n atomic.Int64
	var armed atomic.Bool
	h, err := hostnet.New()
	if err != nil {
		return err
	}
	d, err := runDaemon(h, state, options{step: func(string) error {
		if armed.Load() && n.Add(1) == last {
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		return nil
	}})
	if err != nil {
		return err
	}
	armed.Store(true)
	ctx := context.Background()
	if task == "create" {
		c, err := vnet.ParseConfig([]byte("(vnet (id 98))"))
		if err != nil {
			return err
		}
		return errors.Join(d.CreateVnet(ctx, c), d.stop())
	}
	if n, ok := strings.CutPrefix(task, "change "); ok {
		i, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		c, err := vnet.ParseConfig([]byte(changeCases[i].to))
		if err != nil {
			return err
		}
		return errors.Join(d.ChangeVnet(ctx, c), d.stop())
	}
	id, err := vnet.ParseID("97")
	if err != nil {
		return err
	}
	return errors.Join(d.DeleteVnet(ctx, id), d.stop())
}

// TestKill kills the daemon after each step of create and delete. The next one finds the vnet as a whole or
// nothing of it, in the registry and in the kernel alike.
func TestKill(t *testing.T) {
	for task, states := range map[string]struct {
		before, after string
		steps         int // at least; every one of those that make devices is among them
	}{
		"create": {"97", "97 98", 24},
		"delete": {"97", "", 7},
	} {
		t.Run(task, func(t *testing.T) {
			h := newHost(t)
			for step := 1; ; step++ {
				state := t.TempDir()
				d := startDaemon(t, h, state, options{})
				require.NoError(t, d.CreateVnet(t.Context(), simple(t, "97")))
				require.NoError(t, d.stop())

				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), childTask+"="+task, childState+"="+state, childStep+"="+strconv.Itoa(step))
				child.Stderr = os.Stderr
				out, err := child.Output() // this thread's namespace is the child's
				acknowledged := strings.Contains(string(out), "acknowledged")
				if !acknowledged {
					require.ErrorContains(t, err, "killed")
				}

				d = startDaemon(t, h, state, options{})
				if acknowledged {
					require.Equal(t, states.after, vnets(d.Service), "step %d", step)
				} else {
					require.Contains(t, []string{states.before, states.after}, vnets(d.Service), "step %d", step)
				}
				var want []string
				for _, c := range d.Vnets() {
					want = append(want, c.Bridge)
				}
				for _, c := range d.Vnets() {
					want = append(want, c.Vnetif+"@"+c.Bridge)
				}
				require.Equal(t, strings.Join(want, " "), layout(t, h), "step %d", step)
				for _, c := range d.Vnets() {
					require.NoError(t, d.DeleteVnet(t.Context(), c.ID))
				}
				require.NoError(t, d.stop())
				require.Equal(t, "", layout(t, h))
				if acknowledged && err == nil {
					require.Greater(t, step, states.steps)
					return
				}
			}
		})
	}
}
