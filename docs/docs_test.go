// Package docs tests what the manual says: the console blocks of README.md and of the pages here are
// run, in order, and print what stands there.
package docs

import (
	"bytes"
	"context"
	"flag"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/transcript"
)

var installed = flag.Bool("installed", false, "test the installed programs of this machine instead of ../bin below a prefix")

func TestTour(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	dir := t.TempDir()
	env := os.Environ()
	if !*installed {
		bin, err := filepath.Abs("../bin")
		require.NoError(t, err)
		_, err = os.Stat(filepath.Join(bin, "xend"))
		require.NoError(t, err, "make build comes first")
		env = append(env, "XEND_PREFIX="+filepath.Join(dir, "host"), "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	}
	example, err := os.ReadFile("../examples/vnet97.sxp")
	require.NoError(t, err)
	// The comment in the example is for the reader of the example.
	_, form, _ := strings.Cut(string(example), "\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "vnet97.sxp"), []byte(form), 0o644))

	// Everything that the commands do to the network stays in a namespace of this thread, which
	// ends with the goroutine.
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))

	run := func(command string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Dir, cmd.Env = dir, env
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	_, err = run("ip link set lo up; ip link add eth0 type veth peer name wire0; ip addr add 192.0.2.1/24 dev eth0; ip link set wire0 up; ip link set eth0 up; ip route add default via 192.0.2.254")
	require.NoError(t, err)
	defer run("xend stop") //nolint:errcheck // a failed tour may have left none running

	steps, err := transcript.Read("../README.md")
	require.NoError(t, err)
	for _, s := range steps {
		out, err := run(s.Command)
		require.Regexp(t, transcript.Pattern(s.Output), out, "README.md:%d: %s", s.Line, s.Command)
		if !strings.HasPrefix(out, "Error: ") {
			require.NoError(t, err, "README.md:%d: %s\n%s", s.Line, s.Command, out)
		}
	}
}

// The two empty hosts of labs.md are made as it stands there, see each other, and leave nothing behind.
func TestEmptyHosts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	bin, err := filepath.Abs("../bin")
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(bin, "xend"))
	require.NoError(t, err, "make build comes first")
	page, err := os.ReadFile("labs.md")
	require.NoError(t, err)
	_, text, found := strings.Cut(string(page), "\n## Two empty hosts\n")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	require.Len(t, blocks, 2)
	shell := regexp.MustCompile(`(?m)^    (ip netns exec A .*) bash$`).FindStringSubmatch(text)
	require.NotNil(t, shell)

	dir := filepath.Join(t.TempDir(), "hosts")
	onA, onB := shell[1], strings.NewReplacer("exec A", "exec B", "hosts/A", "hosts/B").Replace(shell[1])
	require.Contains(t, text, "    "+onB+" bash\n")
	script := "set -e\ntrap '" + onA + " xend stop; " + onB + " xend stop' EXIT\nmount -t tmpfs tmpfs /run\n" + strings.TrimPrefix(blocks[0][1], "make build\nexport PATH=$PWD/bin:$PATH\n")
	vnet := filepath.Join("..", "examples", "vnet97.sxp")
	for _, on := range []string{onA, onB} {
		script += on + " xend start\n" + on + " xm vnet-create " + vnet + "\n"
	}
	script += onA + " vn check -v || true\n"
	for _, on := range []string{onA, onB} {
		script += on + " xm vnet-delete 97\n" + on + " xend stop\n"
	}
	script += "trap - EXIT\n" + blocks[1][1]
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", strings.ReplaceAll(script, "/tmp/hosts", dir))
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?m)^192\.0\.2\.2 +xend .* yes .*\b97\b`, string(out))
	require.NoFileExists(t, dir)
}

// Commands of installation.md that no test runs as they stand there, and what is tried instead.
var notRun = map[string]string{
	"make deb": "make test-install", "make rpm": "make test-dist", "ls build/dist": "make test-dist", "make build": "make test",
	"make install": "packaging's TestInstall; the machine of the tests is not ours to install into",
	"curl -fL https://go.dev/dl/go1.26.8.linux-amd64.tar.gz | tar -C /usr/local -xz": "TestGoIsNewEnough", "export PATH=/usr/local/go/bin:$PATH": "TestGoIsNewEnough",
	"apt-get install xen-system-amd64": "make test-xen, whose hosts have it",
}

// What installation.md tells to type is run by make test-install and make test-dist, word by word.
func TestInstallationIsRun(t *testing.T) {
	page, err := os.ReadFile("installation.md")
	require.NoError(t, err)
	var scripts strings.Builder
	for _, name := range []string{"plain", "unit", "upgrade"} {
		b, err := os.ReadFile("../scripts/test-install-" + name)
		require.NoError(t, err)
		scripts.Write(b)
	}
	dist, err := os.ReadFile("../scripts/test-dist")
	require.NoError(t, err)
	require.Contains(t, string(dist), "sed -n '/^tar -xzf/,/^```/p' docs/installation.md")
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for command := range strings.Lines(regexp.MustCompile(`(?m) +#.*$`).ReplaceAllString(block[1], "")) {
			command = strings.TrimSpace(command)
			if strings.HasPrefix(block[1], "tar -xzf") || notRun[command] != "" {
				continue
			}
			require.Contains(t, scripts.String(), "doc '"+command+"'", "nobody runs it; if it can't be, notRun says why")
		}
	}
	for command := range notRun {
		require.Contains(t, string(page), command)
	}
}

// Targets of make and options of the benchmark that pages name exist.
func TestTargets(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	bench, err := os.ReadFile("../cmd/bench/main.go")
	require.NoError(t, err)
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	recipes, err := filepath.Glob("recipes/*.md")
	require.NoError(t, err)
	targets, flags := 0, 0
	for _, page := range append(append(pages, recipes...), "../README.md", "../CONTRIBUTING.md") {
		b, err := os.ReadFile(page)
		require.NoError(t, err)
		code := regexp.MustCompile("(?s)```[a-z]*\n.*?```|`[^`\n]+`").FindAllString(string(b), -1)
		for _, m := range regexp.MustCompile("(?m)(?:`|^|; |&& |# )make ([a-z-]+)(?:`| *$| [^a-z])").FindAllStringSubmatch(strings.Join(code, "\n"), -1) { // and no message that begins so
			targets++
			require.Regexp(t, `(?m)^`+m[1]+`:`, string(makefile), "%s: there is no make %s", page, m[1])
		}
		for _, m := range regexp.MustCompile(`BENCHFLAGS='([^']*)'`).FindAllStringSubmatch(string(b), -1) {
			for _, f := range regexp.MustCompile(`(?:^| )-([a-z]+)`).FindAllStringSubmatch(m[1], -1) {
				flags++
				require.Regexp(t, `flag\.\w+\((&[\w.]+, )?"`+f[1]+`"`, string(bench), "%s: make bench has no -%s", page, f[1])
			}
		}
	}
	require.Greater(t, targets, 20)
	require.Greater(t, flags, 5)
}

// The Go that installation.md fetches builds this.
func TestGoIsNewEnough(t *testing.T) {
	page, err := os.ReadFile("installation.md")
	require.NoError(t, err)
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	fetched := regexp.MustCompile(`dl/(go[0-9.]+)\.linux`).FindSubmatch(page)
	require.NotNil(t, fetched)
	needed := regexp.MustCompile(`(?m)^go ([0-9.]+)$`).FindSubmatch(mod)
	require.NotNil(t, needed)
	require.GreaterOrEqual(t, version.Compare(string(fetched[1]), "go"+string(needed[1])), 0)
}

// The book has every page, each once.
func TestBook(t *testing.T) {
	b, err := os.ReadFile("book.txt")
	require.NoError(t, err)
	var listed []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			listed = append(listed, line)
		}
	}
	want := []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
	for _, pattern := range []string{"*.md", "recipes/*.md"} {
		pages, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, page := range pages {
			want = append(want, "docs/"+page)
		}
	}
	require.ElementsMatch(t, want, listed, "docs/book.txt is not what there is")
}

// TestLinks checks that the pages that pages point to exist.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	recipes, err := filepath.Glob("recipes/*.md")
	require.NoError(t, err)
	pages = append(pages, recipes...)
	link := regexp.MustCompile(`\]\(([^)#:]+\.md)(#[^)]*)?\)`)
	for _, page := range append(pages, "../README.md") {
		b, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(page), m[1]))
			require.NoError(t, err, "%s points to %s", page, m[1])
		}
	}
}
