package netscripts

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What scripts left behind that were killed while they wrote goes with the next writing; what others have stays.
func TestJournalsOfTheKilled(t *testing.T) {
	dir := t.TempDir()
	j := &journal{path: filepath.Join(dir, "network-bridge-7.json")}
	mine := []string{".network-bridge-7.json123", ".network-bridge-7.json9"}
	others := []string{".network-bridge-70.json1", "network-bridge-70.json", ".network-bridge-7.jsonx"}
	for _, name := range append(mine, others...) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	require.NoError(t, j.write(entry{Started: records{{Device: "eth0"}}}))
	require.FileExists(t, j.path)
	for _, name := range mine {
		require.NoFileExists(t, filepath.Join(dir, name))
	}
	for _, name := range others {
		require.FileExists(t, filepath.Join(dir, name))
	}
}
