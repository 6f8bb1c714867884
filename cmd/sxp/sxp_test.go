package main

import (
	"bufio"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sxp": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"misuse": misuse,
		},
	})
}

// misuse TEXT ARG... checks that sxp ARG... exits 2, says TEXT and shows how it is used.
func misuse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: misuse TEXT ARG...")
	}
	var stdout, stderr strings.Builder
	status := run(args[1:], strings.NewReader(""), &stdout, &stderr)
	if status != 2 || stdout.Len() > 0 || !strings.Contains(stderr.String(), args[0]) || !strings.Contains(stderr.String(), "Usage: sxp ") {
		ts.Fatalf("status %d, stdout %q, stderr %q", status, stdout.String(), stderr.String())
	}
}

// TestPrintsAtOnce checks that a value is printed before the next one is waited for.
func TestPrintsAtOnce(t *testing.T) {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run([]string{"-p"}, inR, outW, io.Discard)
		outW.CloseWithError(io.EOF)
	}()
	lines := bufio.NewReader(outR)
	for _, form := range []string{"(vnet.list)\n", "(vnet (id 97))\n"} {
		_, err := io.WriteString(inW, form)
		require.NoError(t, err)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, form, line)
	}
	inW.CloseWithError(io.EOF)
	require.Zero(t, <-done)
}

// TestTellsWriteErrors checks that a full disk is no success.
func TestTellsWriteErrors(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	defer full.Close()
	var stderr strings.Builder
	require.Equal(t, 1, run(nil, strings.NewReader("(a)"), full, &stderr))
	require.Contains(t, stderr.String(), "no space left on device")
}
