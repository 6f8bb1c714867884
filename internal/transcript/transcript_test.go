package transcript

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPattern(t *testing.T) {
	require.True(t, Pattern([]string{"a … c", "…", "z"}).MatchString("a b c\nd\ne\nz\n"))
	require.True(t, Pattern([]string{"…"}).MatchString(""))
	require.True(t, Pattern(nil).MatchString(""))
	require.False(t, Pattern(nil).MatchString("x\n"))
	require.False(t, Pattern([]string{"a"}).MatchString("b\n"))
}

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write("# Heading\n```sh\n# no\n```\ntext\n```console\n# one\nout\n\nA# cat >f <<'END'\n> [x]\n>\n> END\n> late\nB# two\n```\n")
	steps, err := Read(file)
	require.NoError(t, err)
	require.Equal(t, []Step{
		{Line: 7, Command: "one", Output: []string{"out", ""}},
		{Line: 10, Prompt: "A", Command: "cat >f <<'END'\n[x]\n\nEND\nlate"},
		{Line: 15, Prompt: "B", Command: "two"},
	}, steps)
	write("```console\nout\n```\n")
	_, err = Read(file)
	require.ErrorContains(t, err, "page.md:2: output before a command")
}
