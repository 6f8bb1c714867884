package clitest

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
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/cli"
)

// Mentions checks that the commands and options of a program exist that the manual's pages (in code) and the messages of all
// programs name: a cure that can't be typed is none. It runs in the directory of the program.
func Mentions(t *testing.T, table *cli.Table) {
	t.Helper()
	const top = "../.."
	mention := regexp.MustCompile(`(?:^|[ (;"'>|$])` + table.Program + ` ([a-z][a-z0-9-]+)((?: +[^ ;|&)#\x60"']+)*)`)
	found := 0
	look := func(where, text string, sure bool) {
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			c := table.Find(m[1])
			if c == nil {
				if sure && !strings.HasSuffix(m[1], "-") { // "xm vnet-…"
					t.Errorf("%s: %s has no command %q: %s", where, table.Program, m[1], strings.TrimSpace(m[0]))
				}
				continue
			}
			found++
			for word := range strings.FieldsSeq(m[2]) {
				if word = strings.Trim(word, "[],.:"); len(word) < 2 || word[0] != '-' {
					continue
				}
				long, isLong := strings.CutPrefix(word, "--")
				long, _, _ = strings.Cut(long, "=")
				if !slices.ContainsFunc(c.Options, func(o cli.Option) bool {
					return isLong && o.Long == long || !isLong && o.Short != 0 && o.Short == word[1]
				}) && long != "help" && word != "-h" {
					t.Errorf("%s: %s %s has no option %q: %s", where, table.Program, c.Name, word, strings.TrimSpace(m[0]))
				}
			}
		}
	}
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/recipes/*.md"} {
		list, err := filepath.Glob(filepath.Join(top, pattern))
		require.NoError(t, err)
		pages = append(pages, list...)
	}
	span := regexp.MustCompile("`([^`\n]+)`")
	for _, page := range pages {
		b, err := os.ReadFile(page)
		require.NoError(t, err)
		block := false
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "```"):
				block = !block
			case block:
				look(page, line, strings.Contains(line, "# "+table.Program+" "))
			default:
				for _, m := range span.FindAllStringSubmatch(line, -1) {
					look(page, m[1], strings.HasPrefix(m[1], table.Program+" "))
				}
			}
		}
	}
	require.NoError(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if path != top && strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "build", "tools", "bench", "shared"}, d.Name()) {
				return filepath.SkipDir
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if text, err := strconv.Unquote(lit.Value); err == nil {
						look(path, text, false)
					}
				}
				return true
			})
		}
		return nil
	}))
	require.Greater(t, found, 20)
}
