// Package packaging tests that everything is installed where it belongs, and taken away again.
package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/vnet"
)

// run runs a command in the project's directory.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// files are the paths of all files and links below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, strings.TrimPrefix(path, dir))
		}
		return err
	}))
	return all
}

// Who has installed it is told what to do next; who makes a package of it is not.
func TestInstallSaysWhatIsNext(t *testing.T) {
	for dest, said := range map[string]bool{"": true, "/tree": false} {
		line := regexp.MustCompile(`(?m)^.*not started\..*$`).FindString(run(t, "make", "-n", "--no-print-directory", "-o", "build", "install", "DESTDIR="+dest, "PREFIX=/opt/x"))
		cmd := exec.Command("sh", "-c", line+"; true")
		out, err := cmd.Output()
		require.NoError(t, err)
		if !said {
			require.Empty(t, out)
			continue
		}
		require.Contains(t, string(out), "systemctl daemon-reload && systemctl enable --now xend (without systemd: xend start)")
		require.Contains(t, string(out), "/opt/x/share/doc/xend/README.md")
	}
}

// makeInstall runs a target of the Makefile with the programs that are built already.
func makeInstall(t *testing.T, target, dest, prefix string) string {
	t.Helper()
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	if _, err := os.Stat("../bin/xend"); err != nil {
		t.Skip("make build comes first")
	}
	return run(t, "make", "--no-print-directory", "-o", "build", target, "DESTDIR="+dest, "PREFIX="+prefix)
}

// The upgrade is tested from the release before this one, and not from an older one.
func TestLastRelease(t *testing.T) {
	b, err := os.ReadFile("last-release")
	require.NoError(t, err)
	last := regexp.MustCompile(`(?m)^([0-9.]+) ([0-9a-f]{40})$`).FindStringSubmatch(string(b))
	require.NotNil(t, last)
	changes, err := os.ReadFile("../CHANGELOG.md")
	require.NoError(t, err)
	versions := regexp.MustCompile(`(?m)^## ([0-9.]+)$`).FindAllStringSubmatch(string(changes), -1)
	require.Greater(t, len(versions), 1)
	require.Equal(t, versions[1][1], last[1], "packaging/last-release is not the release before %s", versions[0][1])
	if out, err := exec.Command("git", "show", last[2]+":CHANGELOG.md").Output(); err == nil { // a clone may lack it
		require.Equal(t, last[1], regexp.MustCompile(`(?m)^## ([0-9.]+)$`).FindStringSubmatch(string(out))[1])
	}
}

func TestInstall(t *testing.T) {
	dest := t.TempDir()
	makeInstall(t, "install", dest, "/usr")
	require.Subset(t, files(t, dest), []string{
		"/usr/sbin/xend", "/usr/sbin/xm", "/usr/sbin/vn", "/usr/bin/sxp",
		"/etc/xen/xend-config.sxp", "/etc/xen/vnet.toml", "/etc/logrotate.d/xend",
		"/etc/xen/scripts/network-vnet", "/etc/xen/scripts/vif-bridge",
		"/usr/lib/xend/scripts/network-bridge", "/usr/lib/xend/scripts/vif-setup",
		"/usr/lib/systemd/system/xend.service", "/usr/lib/systemd/network/10-xend.network", "/usr/lib/systemd/network/10-xend.link",
		"/usr/lib/udev/rules.d/79-xend.rules", "/usr/lib/NetworkManager/conf.d/90-xend.conf",
		"/usr/share/man/man1/xm.1", "/usr/share/man/man1/sxp.1", "/usr/share/man/man8/vn.8", "/usr/share/man/man8/xend.8",
		"/usr/share/man/man5/vnet.toml.5", "/usr/share/man/man5/vnet.sxp.5",
		"/usr/share/bash-completion/completions/xm", "/usr/share/bash-completion/completions/vn",
		"/usr/share/bash-completion/completions/xend", "/usr/share/bash-completion/completions/sxp",
		"/usr/share/zsh/vendor-completions/_xm", "/usr/share/zsh/vendor-completions/_xend",
		"/usr/share/fish/vendor_completions.d/vn.fish", "/usr/share/fish/vendor_completions.d/sxp.fish",
		"/usr/share/doc/xend/examples/vnet97.sxp", "/usr/share/doc/xend/troubleshooting.md",
		"/usr/share/xend/wireshark/xend.lua",
		"/usr/share/xend/prometheus/xend.rules.yml", "/usr/share/xend/grafana/xend.json",
		"/usr/share/doc/xend/monitoring.md", "/usr/share/doc/xend/images/status-well.png",
	})
	for _, f := range files(t, dest) {
		info, err := os.Lstat(dest + f)
		require.NoError(t, err)
		if info.Mode().IsRegular() {
			require.Zero(t, info.Mode()&0o022, "%s may be written by others", f)
		}
	}
	// The links of the scripts lead to the program, also below a prefix.
	target, err := filepath.EvalSymlinks(dest + "/usr/lib/xend/scripts/vif-bridge")
	require.NoError(t, err)
	require.Equal(t, dest+"/usr/lib/xend/netscript", target)
	target, err = os.Readlink(dest + "/etc/xen/scripts/vif-bridge")
	require.NoError(t, err)
	require.Equal(t, "/usr/lib/xend/scripts/vif-bridge", target)

	makeInstall(t, "uninstall", dest, "/usr")
	require.ElementsMatch(t, []string{"/etc/xen/xend-config.sxp", "/etc/xen/vnet.toml", "/etc/logrotate.d/xend"}, files(t, dest), "configuration stays, nothing else")
}

func TestInstallElsewhere(t *testing.T) {
	dest := t.TempDir()
	makeInstall(t, "install", dest, "/usr/local")
	for _, f := range files(t, dest) {
		require.True(t, strings.HasPrefix(f, "/usr/local/") || strings.HasPrefix(f, "/etc/xen/") ||
			f == "/etc/NetworkManager/conf.d/90-xend.conf" || f == "/etc/logrotate.d/xend", f)
	}
	unit, err := os.ReadFile(dest + "/usr/local/lib/systemd/system/xend.service")
	require.NoError(t, err)
	require.Contains(t, string(unit), "\nExecStart=/usr/local/sbin/xend --foreground\n")
	require.NotContains(t, string(unit), "@SBINDIR@")
	target, err := os.Readlink(dest + "/etc/xen/scripts/network-vnet")
	require.NoError(t, err)
	require.Equal(t, "/usr/local/lib/xend/scripts/network-vnet", target)
}

// TestOthersFiles: what somebody else put there, or edited, stays, in both directions.
func TestOthersFiles(t *testing.T) {
	dest := t.TempDir()
	mine := map[string]string{
		"/etc/xen/scripts/vif-bridge": "Xen's", "/etc/xen/xend-config.sxp": "edited", "/etc/xen/vnet.toml": "edited",
	}
	for f, text := range mine {
		require.NoError(t, os.MkdirAll(filepath.Dir(dest+f), 0o755))
		require.NoError(t, os.WriteFile(dest+f, []byte(text), 0o644))
	}
	require.NoError(t, os.Symlink("/opt/my-script", dest+"/etc/xen/scripts/network-bridge"))
	unchanged := func() {
		for f, text := range mine {
			b, err := os.ReadFile(dest + f)
			require.NoError(t, err)
			require.Equal(t, text, string(b), f)
		}
		target, err := os.Readlink(dest + "/etc/xen/scripts/network-bridge")
		require.NoError(t, err)
		require.Equal(t, "/opt/my-script", target)
	}
	out := makeInstall(t, "install", dest, "/usr")
	require.Contains(t, out, "/etc/xen/scripts/vif-bridge exists and is left alone; ours is /usr/lib/xend/scripts/vif-bridge")
	unchanged()
	makeInstall(t, "install", dest, "/usr") // again
	unchanged()
	makeInstall(t, "uninstall", dest, "/usr")
	unchanged()
	require.Len(t, files(t, dest), len(mine)+2)
}

// TestNames holds the rules for udev to the names under which devices are made.
func TestNames(t *testing.T) {
	rules, err := os.ReadFile("network/79-xend.rules")
	require.NoError(t, err)
	source, err := os.ReadFile("../dataplane/port/names.go")
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^KERNEL=="([^"]+)"`).FindStringSubmatch(string(rules))
	require.NotNil(t, m)
	var want []string
	for _, name := range regexp.MustCompile(`Prefix += "(vn\w)"`).FindAllStringSubmatch(string(source), -1) {
		want = append(want, name[1]+"*")
	}
	require.NotEmpty(t, want)
	require.ElementsMatch(t, want, strings.Split(m[1], "|"))
	require.Contains(t, string(rules), `ATTR{ifalias}=="`+vnet.AliasPrefix+`*"`)

	manager, err := os.ReadFile("network/90-xend-networkmanager.conf")
	require.NoError(t, err)
	for _, name := range append(want, "vnif*") {
		require.Contains(t, string(manager), "interface-name:"+name)
	}
}

func TestUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	source, err := os.ReadFile("systemd/xend.service.in")
	require.NoError(t, err)
	// verify wants programs that exist; man pages have a test of their own.
	text := strings.ReplaceAll(string(source), "@SBINDIR@/xend", "/bin/true")
	text = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAllString(text, "")
	unit := filepath.Join(t.TempDir(), "xend.service")
	require.NoError(t, os.WriteFile(unit, []byte(text), 0o644))
	require.Empty(t, run(t, "systemd-analyze", "verify", unit))
	// Where no domains are run.
	strict, err := os.ReadFile("systemd/strict.conf")
	require.NoError(t, err)
	text = strings.Replace(text, "[Install]", string(strict)+"\n[Install]", 1)
	require.NoError(t, os.WriteFile(unit, []byte(text), 0o644))
	require.Empty(t, run(t, "systemd-analyze", "verify", unit))
	run(t, "systemd-analyze", "security", "--offline=true", "--threshold=50", unit)
}
