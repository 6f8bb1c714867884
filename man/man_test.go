// Package man checks the manual pages.
package man

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed")
	}
	pages, err := filepath.Glob("*.[158]")
	require.NoError(t, err)
	require.Len(t, pages, 6)
	for _, page := range pages {
		out, _ := exec.Command(mandoc, "-T", "lint", page).CombinedOutput()
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			// Pages that refer to each other are not installed here.
			if line != "" && !strings.Contains(line, "referenced manual not found") {
				t.Error(line)
			}
		}
	}
}

// TestReferences checks that what pages of ours refer to is there, in the section that they say.
func TestReferences(t *testing.T) {
	pages, err := filepath.Glob("*.[158]")
	require.NoError(t, err)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^\.(?:Pq )?Xr (\S+) (\d)`).FindAllStringSubmatch(string(text), -1) {
			require.FileExists(t, m[1]+"."+m[2], page)
		}
	}
}

// TestKeys checks that vnet.toml(5) has the keys that the daemon reads, no more and no fewer.
func TestKeys(t *testing.T) {
	source, err := os.ReadFile("../internal/conffile/vnet.go")
	require.NoError(t, err)
	text, err := os.ReadFile("vnet.toml.5")
	require.NoError(t, err)
	first := func(re, s string) []string {
		var found []string
		for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(s, -1) {
			found = append(found, m[1])
		}
		return found
	}
	page := append(first(`(?m)^\.Ss Table (\S+)$`, string(text)), first(`(?m)^\.It Li (\S+)$`, string(text))...)
	require.ElementsMatch(t, first("toml:\"([^\"]+)\"", string(source)), page)
}
