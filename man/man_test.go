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

	"github.com/xenvnet/xend/netscripts"
)

func TestLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed")
	}
	pages, err := filepath.Glob("*.[158]")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
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

// TestScripts checks that each script has a page, which names it and says what it does.
func TestScripts(t *testing.T) {
	pages, err := filepath.Glob("*.8")
	require.NoError(t, err)
	var all string
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		name, rest, ok := strings.Cut(string(text), ".Sh SYNOPSIS")
		require.True(t, ok, page)
		_, description, ok := strings.Cut(rest, ".Sh DESCRIPTION")
		require.True(t, ok, page)
		for _, m := range regexp.MustCompile(`(?m)^\.Nm (\S+)`).FindAllStringSubmatch(name, -1) {
			if regexp.MustCompile(`(?m)^\.Nm ` + m[1] + `\b`).MatchString(description) {
				all += m[1] + "\n"
			}
		}
	}
	for _, name := range netscripts.Names {
		require.Contains(t, all, name+"\n")
	}
}

// TestOptions checks that xend-config.sxp(5) has the options of the reference, which another test holds to what
// the daemon reads, with the same defaults.
func TestOptions(t *testing.T) {
	reference, err := os.ReadFile("../etc/xend-config.sxp")
	require.NoError(t, err)
	text, err := os.ReadFile("xend-config.sxp.5")
	require.NoError(t, err)
	page := map[string]string{}
	for _, m := range regexp.MustCompile(`(?ms)^\.It Li (\S+)\n.*?^(?:The default is empty\.|The default is\n\.Li (\S+) \.)$`).FindAllStringSubmatch(string(text), -1) {
		page[m[1]] = m[2]
	}
	want := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^#\((\S+) (.+)\)$`).FindAllStringSubmatch(string(reference), -1) {
		want[m[1]] = strings.Trim(m[2], "'")
	}
	require.Equal(t, want, page)
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
