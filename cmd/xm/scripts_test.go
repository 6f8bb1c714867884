package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/cli/clitest"
)

// TestScripts runs the programs as users do, with a live daemon.
func TestScripts(t *testing.T) { clitest.Scripts(t, "testdata/script") }

// TestLibvirt plays libvirt's driver against domains of the lab, in both ways that it wrote requests.
func TestLibvirt(t *testing.T) {
	script, err := os.ReadFile("testdata/libvirt.txtar")
	require.NoError(t, err)
	dir := t.TempDir()
	for _, form := range []string{"raw", "encoded"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, form+".txtar"), append([]byte("env VIRSH="+form+"\n"), script...), 0o600))
	}
	clitest.Scripts(t, dir)
}
