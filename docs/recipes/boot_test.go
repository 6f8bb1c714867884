package recipes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
)

// boots are the recipes whose hosts are booted: systemd is their first process, with udev, and xend is a unit. The step
// "reboot" boots them again.
var boots = map[string]bool{"ifupdown.md": true, "networkd.md": true}

// install leaves in /etc what a fresh installation of Debian and of xend's package has there: %[1]s is the repository,
// %[2]s the host's name. Units that would look for real devices, or would tidy up /tmp, are masked.
const install = `set -e
rm -rf /etc/systemd/system /etc/systemd/network /etc/rc?.d /etc/init.d /etc/modules-load.d /etc/modules /etc/xen /var/lib/xend /var/log/journal
: >/etc/fstab
echo host%[2]s >/etc/hostname
echo %[2]s | md5sum | cut -c-32 >/etc/machine-id # udev makes MACs of it
mkdir -p /etc/systemd/system/systemd-udev-trigger.service.d /etc/systemd/network /etc/udev/rules.d
printf '[Service]\nExecStart=\nExecStart=udevadm trigger --action=add --subsystem-match=net\n' >/etc/systemd/system/systemd-udev-trigger.service.d/net.conf
cd /etc/systemd/system
for unit in systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer \
	systemd-modules-load.service systemd-logind.service systemd-journald-audit.socket dev-hugepages.mount \
	dev-mqueue.mount proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
	ln -s /dev/null $unit
done
ln -s /lib/systemd/system/multi-user.target default.target
sed 's,@SBINDIR@,%[1]s/bin,' %[1]s/packaging/systemd/xend.service.in >xend.service
cp %[1]s/packaging/network/*.rules /etc/udev/rules.d/
cp %[1]s/packaging/network/*.link %[1]s/packaging/network/*.network /etc/systemd/network/`

// boot starts the first process, in namespaces of its own but for the network's, and prints its process id outside. It can
// write only to what is the host's own, and change settings of the network only.
const boot = `set -e
mkdir -p /sys/fs/cgroup/$GROUP
echo $$ >/sys/fs/cgroup/$GROUP/cgroup.procs
exec unshare --mount --pid --cgroup --uts --ipc --fork --kill-child sh -ec '
read -r pid rest </proc/self/stat
mount --bind . .
mount -o remount,bind,ro /
mount -t proc proc /proc
mount --bind /proc/sys/net /proc/sys/net
mount --rbind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount -R -l /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/udev
: >/run/udev/control # else the first process, which sees that /dev is no devtmpfs, listens to no udev
mount -t tmpfs -o mode=755 tmpfs /dev
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
	set -- $node
	mknod -m 666 /dev/$1 c $2 $3
done
echo $pid
container=recipe exec /lib/systemd/systemd --log-target=journal >boot.log 2>&1'`

// boot boots the host, and waits until it is up.
func (m *machine) boot() {
	top, err := filepath.Abs("../..")
	require.NoError(m.t, err)
	if m.booted == nil {
		out, err := m.run(fmt.Sprintf(install, top, m.Name))
		require.NoError(m.t, err, out)
	}
	m.booted, m.init = m.first("nsenter", "--mount=/proc/"+m.mount+"/ns/mnt", "--wd="+m.Dir, "env", "GROUP="+m.group, "sh", "-c", boot)
	out, err := m.run(`until s=$(systemctl is-system-running --wait 2>/dev/null) || [ "$s" = degraded ]; do sleep 0.1; done
		[ "$s" = running ] || { systemctl --no-pager --full status $(systemctl --failed --plain --no-legend | cut -d' ' -f1); cat boot.log; exit 1; }`)
	require.NoError(m.t, err, out)
}

// removeGroups removes a control group and those in it, once no process is there.
func removeGroups(groups *os.Root, top string) bool {
	var all []string
	_ = fs.WalkDir(groups.FS(), top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(all) {
		_ = groups.Remove(dir)
	}
	_, err := groups.Stat(top)
	return errors.Is(err, fs.ErrNotExist)
}

// reboot ends what runs on the host as systemd does it, takes away what is in the memory of the kernel, and boots.
func (m *machine) reboot() {
	_, _ = m.run("systemctl exit") // which may end before it says that all went well
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.booted.Wait() // always an error: the command is killed
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		require.Fail(m.t, "the host does not go down")
	}
	m.init = ""
	out, err := m.run(`for d in /sys/class/net/*; do
		d=${d##*/}
		case $d in lo | eth0) ;; *) [ ! -e /sys/class/net/$d ] || ip link del $d ;; esac
	done`)
	require.NoError(m.t, err, out)
	m.boot()
}
