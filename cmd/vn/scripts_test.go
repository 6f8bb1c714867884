package main

import (
	"os"
	"testing"

	"github.com/xenvnet/xend/internal/cli/clitest"
	"github.com/xenvnet/xend/internal/nettest"
)

func TestMain(m *testing.M) {
	nettest.SideBySide()
	os.Exit(m.Run())
}

// TestScripts runs the programs as users do, with a live daemon.
func TestScripts(t *testing.T) { clitest.Scripts(t, "testdata/script") }
