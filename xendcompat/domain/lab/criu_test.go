package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"net/netip"
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

// fakeCRIU does what criu is asked to as far as a shell can: it leaves the program stopped and writes a file; it restores by
// starting something else on the terminal that it is given. FILE in its directory makes the step of that name fail.
const fakeCRIU = `#!/bin/sh
here=$(dirname "$0"); step=$1; echo "$*" >>"$here/calls"
while [ $# -gt 0 ]; do
	case $1 in
	--images-dir) dir=$2 ;; --tree) tree=$2 ;; --pidfile) pidfile=$2 ;;
	esac
	shift
done
if [ -e "$here/$step" ]; then
	[ -z "$dir" ] || printf '(00.1) Warn\n(00.2) Error (criu/sk-inet.c:191): a %s that fails\n(00.3) Error (criu/x.c:1): Dumping FAILED.\n' $step >"$dir/$step.log"
	exit 1
fi
case $step in
dump) kill -STOP $tree; echo memory >"$dir/pages-1.img" ;;
restore)
	grep -q memory "$dir/pages-1.img" || exit 1
	setsid sh -c 'echo it goes on; read line' <&3 >&3 2>&3 &
	echo $! >"$dir/$pidfile" ;;
esac
`

func TestSaveProcesses(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	m.address("10.1.0.254/24")
	bin := t.TempDir()
	file := func(name string) string { return filepath.Join(bin, name) }
	require.NoError(t, os.WriteFile(file("criu"), []byte(fakeCRIU), 0o755))
	require.NoError(t, os.WriteFile(file("program"), []byte("#!/bin/sh\necho it begins\nexec sleep 1000\n"), 0o755))
	reopen := func(criu string) {
		require.NoError(t, m.Close())
		m.open(func(o *Options) { o.CRIU = criu })
	}
	reopen(file("criu"))
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.Kernel = file("program")
	id := m.create(c)
	con := must(m.Console(t.Context(), id))
	expect(t, con, "it begins")
	con.Close()
	admit := func(domain.Config) error { return nil }
	goesOn := func() {
		t.Helper()
		require.Equal(t, domain.Flags("r-----"), m.status(id).Flags)
		require.True(t, m.answers("10.1.0.1", patience))
		require.Eventually(t, func() bool { return programState(t, must(m.get(id))) == "S" }, patience, 10*time.Millisecond, "it is stopped")
		require.NoDirExists(t, filepath.Join(must(m.get(id)).dir, processesDir))
	}

	// What can't be dumped goes on, and the first error of criu's is told; so does what can't be written.
	require.NoError(t, os.WriteFile(file("dump"), nil, 0o600))
	err := m.Save(t.Context(), id, c, file("saved"))
	require.ErrorContains(t, err, "domain vm1 goes on, its processes can't be saved: criu dump: exit status 1: (criu/sk-inet.c:191): a dump that fails")
	require.NoError(t, os.Remove(file("dump")))
	require.NoFileExists(t, file("saved"))
	goesOn()
	require.ErrorIs(t, m.Save(t.Context(), id, c, file("nosuch/saved")), os.ErrNotExist)
	goesOn()

	require.NoError(t, m.Save(t.Context(), id, c, file("saved")))
	m.empty()
	calls := string(must(os.ReadFile(file("calls"))))
	require.Regexp(t, `(?m)^dump --tree \d+ --leave-stopped --external tty\[[0-9a-f]+:[0-9a-f]+\] --images-dir processes .*--tcp-close`, calls)

	// It goes on where it was, on its console, and ends as others do.
	id, again, err := m.Restore(t.Context(), file("saved"), domain.CreateOptions{}, admit)
	require.NoError(t, err)
	require.Equal(t, c.SXP().String(), again.SXP().String())
	con = must(m.Console(t.Context(), id))
	expect(t, con, "it goes on")
	require.NoDirExists(t, filepath.Join(must(m.get(id)).dir, processesDir))
	require.Regexp(t, `(?m)^restore --restore-detached --restore-sibling --pidfile pid --inherit-fd fd\[3\]:tty\[[0-9a-f]+:[0-9a-f]+\] `, string(must(os.ReadFile(file("calls")))))
	_, err = con.Write([]byte("\n"))
	require.NoError(t, err)
	e := m.await(m.Watch(t.Context()), func(e domain.Event) bool { return e.ID == id && e.Reason != "" })
	require.Equal(t, domain.Poweroff, e.Reason)
	con.Close()
	require.NoError(t, m.Destroy(t.Context(), id))

	// One that can't be restored leaves nothing, and the file.
	require.NoError(t, os.WriteFile(file("restore"), nil, 0o600))
	_, _, err = m.Restore(t.Context(), file("saved"), domain.CreateOptions{}, admit)
	require.ErrorContains(t, err, "criu restore: exit status 1: (criu/sk-inet.c:191): a restore that fails")
	m.empty()
	require.NoError(t, os.Remove(file("restore")))

	// Nor does one that others may have written: its processes would be root's.
	require.NoError(t, os.Chmod(file("saved"), 0o666))
	_, _, err = m.Restore(t.Context(), file("saved"), domain.CreateOptions{}, admit)
	require.ErrorContains(t, err, "others than root can write it")
	require.NoError(t, os.Chmod(file("saved"), 0o600))
	require.NoError(t, os.Chown(file("saved"), 65534, 0))
	_, _, err = m.Restore(t.Context(), file("saved"), domain.CreateOptions{}, admit)
	require.ErrorContains(t, err, "belongs to user 65534")
	require.NoError(t, os.Chown(file("saved"), 0, 0))
	m.empty()

	// One that was paused is paused then, and goes on when it is told to.
	id, _, err = m.Restore(t.Context(), file("saved"), domain.CreateOptions{Paused: true}, admit)
	require.NoError(t, err)
	require.Equal(t, domain.Flags("--p---"), m.status(id).Flags)
	require.NoError(t, m.Unpause(t.Context(), id))
	con = must(m.Console(t.Context(), id))
	expect(t, con, "it goes on")
	con.Close()
	require.NoError(t, m.Destroy(t.Context(), id))

	// Without criu, or where the kernel lacks what it needs, that is said, and a program starts anew.
	require.NoError(t, os.WriteFile(file("check"), nil, 0o600))
	reopen(file("criu"))
	_, _, err = m.Restore(t.Context(), file("saved"), domain.CreateOptions{}, admit)
	require.ErrorContains(t, err, "saved holds the processes of domain vm1, and they can't be restored here: criu can't be used on this kernel: criu check: exit status 1")
	reopen(file("nosuch"))
	_, _, err = m.Restore(t.Context(), file("saved"), domain.CreateOptions{}, admit)
	require.ErrorContains(t, err, "criu is not installed; 'xm create' starts it anew")
	m.empty()
	id = m.create(c)
	require.NoError(t, m.Save(t.Context(), id, c, file("anew")))
	id, _, err = m.Restore(t.Context(), file("anew"), domain.CreateOptions{}, admit)
	require.NoError(t, err)
	con = must(m.Console(t.Context(), id))
	expect(t, con, "it begins")
	con.Close()
}

// programState is the state of a domain's program, proc_pid_stat(5).
func programState(t *testing.T, g *guest) string {
	t.Helper()
	threads, err := filepath.Glob("/proc/" + strconv.Itoa(g.pid) + "/task/*/children")
	require.NoError(t, err)
	pid := ""
	for _, file := range threads {
		pid += strings.TrimSpace(string(must(os.ReadFile(file))))
	}
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	require.NoError(t, err)
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))[0]
}

// Files that others wrote lead nowhere else.
func TestUnpackProcesses(t *testing.T) {
	for _, name := range []string{"../x", "a/b", "/etc/x", ".", ".."} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Typeflag: tar.TypeReg}))
		require.NoError(t, w.Close())
		require.ErrorContains(t, unpackProcesses(&b, filepath.Join(t.TempDir(), "d")), "is no file of criu's", name)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "link", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}))
	require.NoError(t, w.Close())
	require.Error(t, unpackProcesses(&b, filepath.Join(t.TempDir(), "d")))
}

// A program goes on where it was, by the real criu. make test-vm has a kernel that it knows.
func TestRealCRIU(t *testing.T) {
	m := newMachine(t, xlab.New(t), "A")
	if _, why := m.criu.find(t.Context()); why != nil {
		t.Skip(why)
	}
	m.address("10.1.0.254/24")
	dir := t.TempDir()
	program, count := filepath.Join(dir, "program"), filepath.Join(dir, "count")
	require.NoError(t, os.WriteFile(program, []byte(`#!/bin/sh
echo begin >>$1.begins
i=0
while :; do i=$((i + 1)); echo $i >$1.new; mv $1.new $1; sleep 0.05; done
`), 0o755))
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.Kernel, c.Extra = program, "-- "+count
	counted := func() int {
		b, err := os.ReadFile(count)
		if errors.Is(err, os.ErrNotExist) {
			return 0
		}
		require.NoError(t, err)
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		return n
	}
	id := m.create(c)
	for round := range 2 { // what was restored can be saved again
		before := counted()
		require.Eventually(t, func() bool { return counted() > before+5 }, 2*patience, 10*time.Millisecond)
		file := filepath.Join(dir, "saved"+strconv.Itoa(round))
		require.NoError(t, m.Save(t.Context(), id, c, file))
		m.empty()
		saved := counted()
		var err error
		id, _, err = m.Restore(t.Context(), file, domain.CreateOptions{}, func(domain.Config) error { return nil })
		require.NoError(t, err)
		require.Eventually(t, func() bool { return counted() > saved }, 2*patience, 10*time.Millisecond)
		require.Equal(t, "begin\n", string(must(os.ReadFile(count+".begins"))), "it did not start anew")
		_, err = m.host.Ping(t.Context(), netip.MustParseAddr("10.1.0.1"), xlab.PingOptions{})
		require.NoError(t, err)
	}
	require.NoError(t, m.Shutdown(t.Context(), id, domain.Poweroff))
	m.await(m.Watch(t.Context()), func(e domain.Event) bool { return e.ID == id && e.Reason == domain.Poweroff })
}
