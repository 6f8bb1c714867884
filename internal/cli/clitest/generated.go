// Package clitest has what the tests of xm and vn share.
package clitest

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write generated files instead of comparing them")

// Generated compares a committed file with what it should be, or, with -update, writes it.
func Generated(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
		return
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, want, string(have), "%s is out of date: go generate ./cmd/...", file)
}

// Part compares the part of a committed file between <!-- name --> and <!-- end of name -->, or, with -update, writes it.
func Part(t *testing.T, file, name, want string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(b), "<!-- "+name+" -->\n")
	require.True(t, ok, "%s has no part %s", file, name)
	have, after, ok := strings.Cut(rest, "<!-- end of "+name+" -->\n")
	require.True(t, ok, "%s: the part %s has no end", file, name)
	if *update {
		whole := before + "<!-- " + name + " -->\n" + want + "<!-- end of " + name + " -->\n" + after
		require.NoError(t, os.WriteFile(file, []byte(whole), 0o644))
		return
	}
	require.Equal(t, want, have, "%s is out of date: go test ./cmd/vn -run Manual -update", file)
}
