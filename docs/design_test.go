package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// section is the text of a page from one heading to the next.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	_, text, found := strings.Cut(string(b), "\n## "+heading+"\n")
	require.True(t, found, heading)
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// Each package has its floor in design.md; those of tests stand below none.
func TestFloors(t *testing.T) {
	_, floors, found := strings.Cut(section(t, "design.md", "Floors"), "```\n")
	require.True(t, found)
	floors, _, _ = strings.Cut(floors, "```")
	forTests := regexp.MustCompile(`test$|^internal/(lab|nettest|nettest/uevent|transcript)$|^netscripts/|^(test|tools|docs|man|packaging|wireshark|completions)\b|^cmd/(bench|demo)$`)
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, "../"))
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != ".." || d.Name() == "testdata" || d.Name() == "build" || d.Name() == "shared") {
			return filepath.SkipDir
		}
		if !d.IsDir() || path == ".." || forTests.MatchString(name) {
			return nil
		}
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err != nil || len(files) == 0 {
			return err
		}
		require.Regexp(t, `\b`+regexp.QuoteMeta(d.Name())+`\b`, floors, "%s has no floor in docs/design.md", name)
		return nil
	}))
}

// What design.md says where something is, is there: files, packages, and names in them.
func TestWhereIs(t *testing.T) {
	table := section(t, "design.md", "Floors")
	_, table, found := strings.Cut(table, "Where is …")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "The path of")
	count := 0
	for _, row := range regexp.MustCompile(`(?m)^\| (.+) \| (.+) \|$`).FindAllStringSubmatch(table, -1) {
		dir := "dataplane"
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			word := m[1]
			count++
			if strings.HasPrefix(word, "xend ") || strings.HasPrefix(word, "vn ") {
				continue
			}
			if pkg, name, is := strings.Cut(word, "."); is && name != "go" && !strings.Contains(word, "/") {
				require.True(t, declares(t, pkg, name), "%s of %q: no package %s declares %s", word, row[1], pkg, name)
				continue
			}
			if path := filepath.Join("..", word); exists(path) {
				if dir = strings.TrimPrefix(path, "../"); strings.HasSuffix(dir, ".go") {
					dir = filepath.Dir(dir)
				}
				continue
			}
			if !strings.Contains(word, "/") && strings.HasSuffix(word, ".go") {
				continue // found below
			}
			// Beside the one before.
			require.True(t, exists(filepath.Join("..", dir, word)), "%s of %q does not exist", word, row[1])
		}
		for _, m := range regexp.MustCompile(`\b[a-z_]+\.go\b`).FindAllString(row[2], -1) {
			files, err := filepath.Glob("../*/" + m)
			require.NoError(t, err)
			deeper, err := filepath.Glob("../*/*/" + m)
			require.NoError(t, err)
			require.NotEmpty(t, append(files, deeper...), m)
		}
	}
	require.Greater(t, count, 15)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// declares tells whether a package of that name declares something.
func declares(t *testing.T, pkg, name string) bool {
	t.Helper()
	found := false
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || d.Name() != pkg {
			return err
		}
		files, _ := filepath.Glob(filepath.Join(path, "*.go"))
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, d := range f.Decls {
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				decl := string(text[d.Pos()-1 : min(int(d.End()), int(d.Pos())+200)-1])
				found = found || regexp.MustCompile(`^(func|type|var|const) (\([^)]*\) )?`+name+`\b`).MatchString(decl)
			}
		}
		return nil
	}))
	return found
}
