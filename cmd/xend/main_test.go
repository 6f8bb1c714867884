package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/cli/clitest"
)

// TestScripts runs xend as users do.
func TestScripts(t *testing.T) { clitest.Scripts(t, "testdata/script") }

// All programs of a build tell the same version: the one that the linker was given.
func TestVersion(t *testing.T) {
	bin, programs := t.TempDir(), []string{"xend", "xm", "vn", "sxp"}
	args := []string{"build", "-ldflags", "-X github.com/xenvnet/xend/internal/version.Version=1.2.3~test", "-o", bin}
	for _, name := range programs {
		args = append(args, "../"+name)
	}
	build := exec.CommandContext(t.Context(), "go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range programs {
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, name), "--version").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, name+" 1.2.3~test\n", string(out))
	}
}
