// Package recipes tests the recipes: their console blocks are run, each recipe on two hosts of a lab that have vnet 97,
// and print what stands there.
package recipes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/transcript"
)

// patience bounds a command. An emulated machine boots in one.
const patience = 3 * time.Minute

// machine is a host whose /etc, /run, /var, /dev and /sys are its own, as far as processes of the recipe see them.
type machine struct {
	*lab.Host
	t     *testing.T
	mount string // the process that holds the mounts
	// plain says that xend's paths are those of a machine of its own, without a prefix.
	plain bool
	tools string // a directory in front of PATH
	// group is the control group of what runs in one.
	group string
	// booted is what a host's first process ends with, and init that process; nil and "" for a host without one.
	booted *exec.Cmd
	init   string
}

// isolate makes the directories a host's own. What is written there is gone with the host.
//
// What lies below /sys and /dev is taken away first, since libvirt believes /proc/mounts, also of mounts that others cover.
// There is no /dev/kvm: guests are emulated, on every machine. Containers have no cgroups, limits that root of a machine of
// CI may set, too, and no overlay file system on top of ours.
const isolate = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns
umount -R -l /sys
mount -t sysfs sysfs /sys
mount -o remount,bind,ro /sys
[ ! -d /sys/fs/cgroup ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup || true
awk '$2 ~ "^/dev/" { print $2 }' /proc/mounts | xargs -r umount -l
for d in etc var root dev; do
	mkdir -p /run/over/$d/upper /run/over/$d/work
	[ $d != dev ] || mknod /run/over/dev/upper/kvm c 0 0 # how overlayfs says that it is not there
	mount -t overlay overlay -o lowerdir=/$d,upperdir=/run/over/$d/upper,workdir=/run/over/$d/work /$d
done
rm -f /etc/network/if-*.d/* # hooks of what else is installed on the tests' machine
mkdir -p /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mkdir -p /etc/containers
printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' >/etc/containers/storage.conf
mkdir -p /etc/docker
printf '{"storage-driver": "vfs", "bridge": "none", "iptables": false, "ip6tables": false, "cgroup-parent": "recipe.%s"}' $$ >/etc/docker/daemon.json
printf '[containers]\ncgroups = "disabled"\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n' >/etc/containers/containers.conf
echo $$
exec sleep infinity`

func newMachine(t *testing.T, s *lab.Switch, name string) *machine {
	t.Helper()
	h, err := s.Host(name)
	require.NoError(t, err)
	m := &machine{Host: h, t: t}
	_, m.mount = m.first("unshare", "--mount", "--propagation", "private", "sh", "-c", isolate)
	m.group = "recipe." + m.mount
	groups, err := os.OpenRoot("/proc/" + m.mount + "/root/sys/fs/cgroup")
	if err != nil {
		return m // a kernel without any
	}
	t.Cleanup(func() {
		defer groups.Close()
		_ = groups.WriteFile(m.group+"/cgroup.kill", []byte("1"), 0)
		assert.Eventually(t, func() bool { return removeGroups(groups, m.group) }, patience, 10*time.Millisecond, "control group %s is in use", m.group)
		for _, left := range []string{"machine", "lxc.pivot", "libpod_parent", "payload", "supervisor"} {
			_ = removeGroups(groups, left) // of libvirt, LXC, Podman and systemd-nspawn; what is in use stays
		}
	})
	return m
}

// first starts a command that runs as long as the host, and that first prints a process id.
func (m *machine) first(name string, args ...string) (*exec.Cmd, string) {
	m.t.Helper()
	cmd := m.Command(m.t.Context(), name, args...)
	out, err := cmd.StdoutPipe()
	require.NoError(m.t, err)
	var said strings.Builder
	cmd.Stderr = &said
	require.NoError(m.t, m.Start(cmd))
	m.t.Cleanup(func() { _ = cmd.Wait() })
	m.t.Cleanup(func() { _ = cmd.Process.Kill() })
	b := make([]byte, 32)
	n, err := out.Read(b)
	require.NoError(m.t, err, "%s", &said)
	return cmd, strings.TrimSpace(string(b[:n]))
}

// run runs a command as root of the host would.
func (m *machine) run(command string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	bin, err := filepath.Abs("../../bin")
	require.NoError(m.t, err)
	enter := []string{"--mount=/proc/" + m.mount + "/ns/mnt"}
	if m.init != "" {
		enter = []string{"--target=" + m.init, "--mount", "--pid", "--cgroup", "--uts", "--ipc"}
	}
	cmd := m.Command(ctx, "nsenter", append(enter, "--wd="+m.Dir, "sh", "-c", command)...)
	if m.tools != "" {
		bin = m.tools + ":" + bin
	}
	if docker := os.Getenv("DOCKER"); docker != "" {
		bin += ":" + docker + "/usr/bin:" + docker + "/usr/sbin"
	}
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C", "HOME=/root")
	if m.plain {
		cmd.Env = slices.DeleteFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "XEND_PREFIX=") })
	}
	cmd.WaitDelay = time.Second // what a command leaves running keeps its output
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err = m.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), err
}

// needs are what recipes need of a kernel, as commands that try it in a namespace of their own. Debian's kernel has it
// all: what is skipped here runs in make test-vm.
var needs = map[string]string{
	"trunk.md": "ip link add eth0 type dummy && ip link add link eth0 name eth0.10 type vlan id 10 && ip link add br0 type bridge vlan_filtering 1",
}

// programs are what recipes need besides what all tests do. make recipes installs them, and has none skipped for want
// of them.
var programs = map[string][]string{
	"cni.md":                {"/usr/lib/cni/bridge"},
	"ifupdown.md":           {"/sbin/ifup", "/lib/systemd/systemd", "/bin/udevadm"},
	"libvirt.md":            {"/usr/sbin/libvirtd", "/usr/sbin/virtlogd", "/usr/bin/virsh", "/usr/bin/qemu-system-x86_64", "/bin/busybox", "/usr/bin/cpio", "$KERNEL"},
	"lxc.md":                {"/usr/bin/lxc-execute", "/bin/busybox"},
	"macvlan.md":            {"/usr/bin/podman", "/usr/lib/podman/netavark", "/bin/busybox", "$DOCKER/usr/sbin/dockerd"},
	"networkd.md":           {"/lib/systemd/systemd-networkd", "/bin/udevadm"},
	"nspawn.md":             {"/usr/bin/systemd-nspawn", "/bin/busybox"},
	"../monitoring.md":      {"/usr/bin/curl", "/usr/bin/openssl"},
	"../protocol.md":        {"/usr/bin/curl"},
	"qemu.md":               {"/usr/bin/qemu-system-x86_64", "/bin/busybox", "/usr/bin/cpio", "$KERNEL"},
	"../troubleshooting.md": {"/usr/bin/tcpdump", "/usr/bin/tshark"},
}

// suits skips a recipe that can't be tried here.
func suits(t *testing.T, page string) {
	t.Helper()
	for _, file := range programs[page] {
		if file = os.ExpandEnv(file); file != "" {
			if _, err := os.Stat(file); err == nil {
				continue
			}
		}
		require.NotEqual(t, "all", os.Getenv("XEND_RECIPES"), "%s is missing", file)
		t.Skipf("%s is missing; make recipes installs it", file)
	}
	if need := needs[page]; need != "" {
		if out, err := exec.Command("unshare", "--net", "sh", "-c", need).CombinedOutput(); err != nil {
			require.Empty(t, os.Getenv("XEND_TEST_VM"), "this kernel can do all: %s", out)
			t.Skipf("this kernel cannot do %q (make test-vm has one that can): %s", need, out)
		}
	}
}

func TestRecipes(t *testing.T) {
	_, err := os.Stat("../../bin/xend")
	require.NoError(t, err, "make build comes first")
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	for _, page := range pages {
		steps, err := transcript.Read(page)
		require.NoError(t, err)
		if len(steps) == 0 {
			continue
		}
		t.Run(strings.TrimSuffix(page, ".md"), func(t *testing.T) {
			suits(t, page)
			if boots[page] || slices.Contains(programs[page], "$KERNEL") {
				t.Parallel() // these mostly wait; an emulated machine keeps one core busy
			}
			s, err := lab.New(t).Switch("lan", 0)
			require.NoError(t, err)
			hosts, names := map[string]*machine{}, ""
			for _, name := range []string{"A", "B"} {
				hosts[name] = newMachine(t, s, name)
				names += fmt.Sprintf("%s host%s\n", hosts[name].Addr(), name)
			}
			for _, name := range []string{"A", "B"} {
				m := hosts[name]
				if boots[page] {
					m.plain = true
					m.boot()
				}
				for _, command := range []string{"printf '" + names + "' >>/etc/hosts", "xend start", "echo '(vnet (id 97))' >vnet97.sxp && xm vnet-create vnet97.sxp"} {
					out, err := m.run(command)
					require.NoError(t, err, out)
				}
			}
			for _, s := range steps {
				require.NotEmpty(t, s.Prompt, "%s:%d: on which host?", page, s.Line)
				for _, name := range strings.Split(s.Prompt, "") { // AB: on both
					m := hosts[name]
					require.NotNil(t, m, "%s:%d: there is no host %q", page, s.Line, name)
					if boots[page] && s.Command == "reboot" {
						m.reboot()
						continue
					}
					out, err := m.run(s.Command)
					require.NoError(t, err, "%s:%d: %s\n%s", page, s.Line, s.Command, out)
					require.Regexp(t, transcript.Pattern(s.Output), out, "%s:%d: %s", page, s.Line, s.Command)
				}
			}
		})
	}
}
