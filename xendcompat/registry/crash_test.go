package registry

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/vnet"
)

// What a child process of the tests does: the test binary runs itself for it.
const (
	childTask = "REGISTRY_TEST_CHILD"
	childDir  = "REGISTRY_TEST_DIR"
	childStep = "REGISTRY_TEST_STEP"
)

func TestMain(m *testing.M) {
	task := os.Getenv(childTask)
	if task == "" {
		os.Exit(m.Run())
	}
	if err := children[task](os.Getenv(childDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var children = map[string]func(dir string) error{
	"hold": func(dir string) error {
		if _, err := Open(Options{Dir: dir}); err != nil {
			return err
		}
		fmt.Println("held")
		select {}
	},
	"put": func(dir string) error {
		return dieAfter(dir, func(r *Registry) error { return r.Put(mustParse("98")) })
	},
	"delete":   func(dir string) error { return dieAfter(dir, deleteVnet) },
	"restore":  func(dir string) error { return dieAfter(dir, restoreVnet) },
	"replace":  func(dir string) error { return dieAfter(dir, func(r *Registry) error { return replaceVnet(r, false) }) },
	"put back": func(dir string) error { return dieAfter(dir, func(r *Registry) error { return replaceVnet(r, true) }) },
	"full":     fillDisk,
	"readonly": readOnly,
}

func child(t *testing.T, task, dir string, step int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childTask+"="+task, childDir+"="+dir, childStep+"="+strconv.Itoa(step))
	cmd.Stderr = os.Stderr
	return cmd
}

// dieAfter does a change in a registry and kills the process as kill -9 does after a number of steps.
func dieAfter(dir string, change func(*Registry) error) error {
	last, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		return err
	}
	n := 0
	r, err := Open(Options{Dir: dir, Step: func(string) error {
		if n++; n == last {
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
	if err := change(r); err != nil {
		return err
	}
	fmt.Println("acknowledged")
	return nil
}

func deleteVnet(r *Registry) error {
	d, err := r.Delete(mustParse("97").ID)
	if err == nil {
		d.Commit()
	}
	return err
}

func restoreVnet(r *Registry) error {
	d, err := r.Delete(mustParse("97").ID)
	if err != nil {
		return err
	}
	return d.Restore()
}

// replaceVnet spells the id of vnet 96 in another way, and perhaps takes that back.
func replaceVnet(r *Registry, back bool) error {
	p, err := r.Replace(mustParse("0096"))
	switch {
	case err != nil:
		return err
	case back:
		return p.Restore()
	}
	p.Commit()
	return nil
}

// TestKill kills a process after each step of each change. What the next one finds is what was before or
// what should be after, and the latter if the change was acknowledged.
func TestKill(t *testing.T) {
	for task, states := range map[string]struct{ before, after string }{
		"put":      {"96 97", "96 97 98"},
		"delete":   {"96 97", "96"},
		"restore":  {"96", "96 97"}, // in between; at its beginning it is as after
		"replace":  {"96 97", "0096 97"},
		"put back": {"0096 97", "96 97"}, // as with restore
	} {
		t.Run(task, func(t *testing.T) {
			for step := 1; ; step++ {
				dir := t.TempDir()
				r := open(t, dir)
				require.NoError(t, r.Put(simple(t, "96")))
				require.NoError(t, r.Put(simple(t, "97")))
				require.NoError(t, r.Close())

				out, err := child(t, task, dir, step).Output()
				acknowledged := strings.Contains(string(out), "acknowledged")
				if !acknowledged {
					require.ErrorContains(t, err, "killed")
				}
				r = open(t, dir)
				if acknowledged {
					require.Equal(t, states.after, ids(r), "step %d", step)
				} else {
					require.Contains(t, []string{states.before, states.after}, ids(r), "step %d", step)
				}
				require.Len(t, files(t, dir), r.Len(), "nothing is left over: %v", files(t, dir))
				require.Empty(t, r.Corrupt())
				require.NoError(t, r.Close())
				if acknowledged && err == nil {
					require.Greater(t, step, 2)
					return
				}
			}
		})
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "hold", dir, 0)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	_, err = Open(Options{Dir: dir})
	var locked *durable.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, cmd.Process.Pid, locked.PID)
	require.EqualError(t, err, fmt.Sprintf("another xend uses %s, pid %d", dir, cmd.Process.Pid))
	b, err := os.ReadFile(filepath.Join(dir, durable.LockFile))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintln(cmd.Process.Pid), string(b))

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Zero(t, open(t, dir).Len(), "a dead process holds no lock")
}

// TestDisks runs tests that mount something in a mount namespace of a child.
func TestDisks(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, task := range []string{"full", "readonly"} {
		t.Run(task, func(t *testing.T) {
			cmd := child(t, task, t.TempDir(), 0)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			require.NoError(t, cmd.Run())
		})
	}
}

// fillDisk puts vnets on a tiny disk until it is full.
func fillDisk(dir string) error {
	if err := unix.Mount("", dir, "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	r, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	want := ""
	for n := 16; ; n++ {
		c := mustParse(fmt.Sprintf("%x", n))
		err := r.Put(c)
		if err == nil {
			want = strings.TrimSpace(want + " " + c.IDText)
			continue
		}
		if !isErrno(err, unix.ENOSPC) {
			return err
		}
		break
	}
	if want == "" || ids(r) != want {
		return fmt.Errorf("in memory: %s instead of %s", ids(r), want)
	}
	// A delete, and taking it back, need no space.
	d, err := r.Delete(mustParse("10").ID)
	if err != nil {
		return err
	}
	if err := d.Restore(); err != nil {
		return err
	}
	// A replacement that does not fit leaves all as it was.
	large, err := vnet.ParseConfig([]byte("(vnet (id 10) (note " + strings.Repeat("x", 70<<10) + "))"))
	if err != nil {
		return err
	}
	if _, err := r.Replace(large); !isErrno(err, unix.ENOSPC) {
		return fmt.Errorf("replace: %w", err)
	}
	if c, _ := r.Get(large.ID); c.Form.String() != "(vnet (id 10))" {
		return fmt.Errorf("in memory after a replacement that failed: %s", c.Form)
	}
	if err := r.Close(); err != nil {
		return err
	}
	// Not even the pid in the lock file has room.
	if err := os.Truncate(filepath.Join(dir, durable.LockFile), 0); err != nil {
		return err
	}
	if err := fill(filepath.Join(dir, "fill")); err != nil {
		return err
	}
	if r, err = Open(Options{Dir: dir}); err != nil {
		return err
	}
	if ids(r) != want || len(r.Corrupt()) != 0 {
		return fmt.Errorf("on the disk: %s instead of %s; corrupt: %v", ids(r), want, r.Corrupt())
	}
	return nil
}

// fill makes a file of all the space that is left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	return errors.Join(f.Close(), ignore(err, unix.ENOSPC))
}

func ignore(err error, expected unix.Errno) error {
	if isErrno(err, expected) {
		return nil
	}
	return err
}

// readOnly makes the disk read-only under a registry, and then opens it so.
func readOnly(dir string) error {
	if err := unix.Mount("", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	r, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	if err := r.Put(mustParse("97")); err != nil {
		return err
	}
	// The lock file is open for writing, which keeps a file system from becoming read-only; the mount can.
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := r.Put(mustParse("98")); !isErrno(err, unix.EROFS) {
		return fmt.Errorf("put: %w", err)
	}
	if _, err := r.Delete(mustParse("97").ID); !isErrno(err, unix.EROFS) {
		return fmt.Errorf("delete: %w", err)
	}
	if _, err := r.Replace(mustParse("0097")); !isErrno(err, unix.EROFS) {
		return fmt.Errorf("replace: %w", err)
	}
	if ids(r) != "97" {
		return fmt.Errorf("in memory: %s", ids(r))
	}
	if err := r.Close(); err != nil {
		return err
	}
	if _, err := Open(Options{Dir: dir}); !isErrno(err, unix.EROFS) || !strings.Contains(err.Error(), dir) {
		return fmt.Errorf("open: %w", err)
	}
	return nil
}
