package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/fastpath"
)

// code is what the programs can say.
type code struct {
	texts []string // literals, cut at the verbs of their formats
	log   []string // what is logged as a warning or an error
}

// readCode reads the Go files of the module without its tests, the scripts and the Makefile.
func readCode(t *testing.T) code {
	t.Helper()
	var c code
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if name := d.Name(); path != ".." && strings.HasPrefix(name, ".") || name == "testdata" || name == "build" || name == "tools" {
				return filepath.SkipDir
			}
		case strings.HasSuffix(path, "_test.go"):
		case strings.HasSuffix(path, ".go"):
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			c.readGo(file)
		case filepath.Dir(path) == "../scripts", path == "../Makefile":
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			c.texts = append(c.texts, string(b))
		}
		return nil
	}))
	for n := range syscall.Errno(200) {
		c.texts = append(c.texts, n.Error())
	}
	return c
}

var verb = regexp.MustCompile(`%[-+# 0-9.*]*[a-zA-Z]`)

func (c *code) readGo(file *ast.File) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit, *ast.BinaryExpr:
			if s, ok := constant(n); ok {
				c.texts = append(c.texts, verb.Split(s, -1)...)
				return false // the parts of a sum are no texts of their own
			}
		case *ast.CallExpr:
			method, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || len(n.Args) == 0 || method.Sel.Name != "Warn" && method.Sel.Name != "Error" {
				break
			}
			if s, ok := constant(n.Args[0]); ok {
				c.log = append(c.log, s)
			}
		}
		return true
	})
}

// constant is the value of a string literal, or of a sum of them.
func constant(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(n.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		a, okA := constant(n.X)
		b, okB := constant(n.Y)
		return a + b, okA && okB && n.Op == token.ADD
	}
	return "", false
}

// marks are what may stand at the ends of a text without changing what it says.
const marks = " ,;:.\"'()[]-"

// says tells whether the programs say a text: as a part of a literal, or put together of such parts.
func (c *code) says(text string) bool {
	bare := strings.Trim(text, marks)
	if bare == "" {
		return true
	}
	for _, s := range c.texts {
		// A short word is only believed where it is a text of its own.
		if len(bare) > 3 && strings.Contains(s, bare) || strings.Trim(s, marks) == bare {
			return true
		}
	}
	for _, s := range c.texts {
		for _, t := range []string{text, bare} {
			if rest, ok := strings.CutPrefix(t, s); ok && len(s) > 3 && c.says(rest) {
				return true
			}
		}
	}
	for _, separator := range []string{": ", "; ", " (", " '"} {
		for at := 0; ; at += len(separator) {
			i := strings.Index(bare[at:], separator)
			if i < 0 {
				break
			}
			if at += i; c.says(bare[:at]) && c.says(bare[at+len(separator):]) {
				return true
			}
		}
	}
	return false
}

// quoted are the messages that a page explains: the list lines of code alone, with "…" for what differs.
func quoted(t *testing.T, page string) []string {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	var all []string
	for _, m := range regexp.MustCompile("(?m)^\\* `(.+)`$").FindAllStringSubmatch(string(b), -1) {
		all = append(all, m[1])
	}
	return all
}

// TestMessages checks that every message that is explained exists, so that who looks for it finds it.
func TestMessages(t *testing.T) {
	c := readCode(t)
	messages := quoted(t, "troubleshooting.md")
	require.NotEmpty(t, messages)
	for _, m := range messages {
		for _, part := range strings.Split(m, "…") {
			if !c.says(part) {
				t.Errorf("nothing says %q of %q", part, m)
			}
		}
	}
	require.False(t, c.says("the daemon is out of tea"))
	require.False(t, c.says("no such vnet: the daemon is out of tea"))
}

// TestLogMessages checks the reverse for the log: whatever is a warning or an error there is explained.
func TestLogMessages(t *testing.T) {
	messages := quoted(t, "troubleshooting.md")
	for _, s := range readCode(t).log {
		if !slices.Contains(messages, s) {
			t.Errorf("docs/troubleshooting.md does not explain the log's %q", s)
		}
	}
}

// TestDrops checks that every reason for which packets are dropped is explained, and nothing else.
func TestDrops(t *testing.T) {
	b, err := os.ReadFile("troubleshooting.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(b), "\n## What was dropped")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	var explained []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(section, -1) {
		explained = append(explained, m[1])
	}
	var want []string
	for r := dataplane.Reason(0); r.Help() != ""; r++ {
		want = append(want, r.String())
	}
	require.Equal(t, want, explained, "in the order of vn stats")
}

// TestLeft checks the same of the reasons for which the kernel leaves packets to user space.
func TestLeft(t *testing.T) {
	b, err := os.ReadFile("troubleshooting.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(b), "\n## What the kernel carries")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	var explained, want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(section, -1) {
		explained = append(explained, m[1])
	}
	for r := fastpath.Reason(0); r.Help() != ""; r++ {
		want = append(want, r.String())
	}
	require.Equal(t, want, explained)
}
