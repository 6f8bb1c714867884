package main

import (
	"testing"

	"github.com/xenvnet/xend/internal/cli/clitest"
)

// TestScripts runs xend as users do.
func TestScripts(t *testing.T) { clitest.Scripts(t, "testdata/script") }
