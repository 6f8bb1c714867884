// Package completions tests that the shells take what completes the programs' command lines.
package completions

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// programs have completions for every shell.
var programs = []string{"xend", "xm", "vn", "sxp"}

func TestSyntax(t *testing.T) {
	for _, program := range programs {
		for shell, file := range map[string]string{"bash": program + ".bash", "zsh": "_" + program, "fish": program + ".fish"} {
			require.FileExists(t, file)
			if _, err := exec.LookPath(shell); err != nil {
				t.Logf("%s is not installed: %s is not checked", shell, file)
				continue
			}
			out, err := exec.Command(shell, "-n", file).CombinedOutput()
			require.NoError(t, err, "%s: %s", file, out)
			require.Empty(t, string(out), file)
		}
	}
}

// TestFish asks fish what it would propose.
func TestFish(t *testing.T) {
	fish, err := exec.LookPath("fish")
	if err != nil {
		t.Skip("fish is not installed")
	}
	for line, want := range map[string]string{
		"xend sta":         "start",
		"xm vnet-l":        "vnet-list",
		"xm vnet-list --":  "--long",
		"vn --pre":         "--prefix",
		"vn vnet-create -": "--security",
		"vn insmod ":       "varp_mcaddr=",
		"sxp -dialect ":    "xend",
	} {
		program, _, _ := strings.Cut(line, " ")
		cmd := exec.Command(fish, "--no-config", "-c", "source "+program+".fish; complete -C '"+line+"'")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), want, line)
	}
}

// TestZsh checks that every function that an argument is completed with is there.
func TestZsh(t *testing.T) {
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		t.Skip("zsh is not installed")
	}
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	for _, program := range programs {
		script := "fpath=(" + dir + " $fpath); autoload -Uz compinit; compinit -u -D; print -r -- $_comps[" + program + "]"
		out, err := exec.Command(zsh, "-f", "-c", script).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, "_"+program+"\n", string(out))
	}
}
