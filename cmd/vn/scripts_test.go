package main

import (
	"testing"

	"github.com/xenvnet/xend/internal/cli/clitest"
)

// TestScripts runs the programs as users do, with a live daemon.
func TestScripts(t *testing.T) { clitest.Scripts(t, "testdata/script") }
