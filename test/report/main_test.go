package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	const in = `go build -o bin/
{"Action":"run","Package":"a","Test":"TestA"}
{"Action":"output","Package":"a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"a","Test":"TestA","Elapsed":2.5}
{"Action":"pass","Package":"a","Test":"TestB","Elapsed":3}
{"Action":"pass","Package":"a","Test":"TestB/sub","Elapsed":3}
{"Action":"output","Package":"a","Output":"ok  \ta\t5.5s\n"}
{"Action":"pass","Package":"a","Elapsed":5.5}
`
	var out strings.Builder
	failed, err := report(strings.NewReader(in), &out)
	require.NoError(t, err)
	require.Empty(t, failed)
	require.Equal(t, "go build -o bin/\nok  \ta\t5.5s\n\nThe slowest tests:\n     3.0 s  a TestB\n     2.5 s  a TestA\n", out.String())

	out.Reset()
	failed, err = report(strings.NewReader(`{"Action":"output","Package":"b","Test":"TestC","Output":"c_test.go:1: no\n"}
{"Action":"fail","Package":"b","Test":"TestC","Elapsed":0.1}
{"Action":"output","Package":"b","Output":"FAIL\tb\t0.1s\n"}
{"Action":"fail","Package":"b","Elapsed":0.1}
{"Action":"fail","Package":"c","Elapsed":0}`), &out)
	require.NoError(t, err)
	require.Equal(t, []string{"b", "c"}, failed)
	require.Contains(t, out.String(), "c_test.go:1: no\nFAIL\tb\t0.1s\n")
}

// A package that failed is tested once more. What fails again has failed, and so has what names no package, or too many.
func TestRun(t *testing.T) {
	fails := func(pkgs ...string) string {
		var b strings.Builder
		for _, p := range pkgs {
			fmt.Fprintf(&b, `{"Action":"fail","Package":%q}`+"\n", p)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		printed string
		code    int
		second  string
		ran     string // what was run once more
		err     string
	}{
		"all passed":          {code: 0, second: "true"},
		"passed then":         {fails("a", "b"), 2, "true", "-x -count=1 a\n-x -count=1 b\n", ""},
		"failed again":        {fails("a", "b"), 2, "false", "-x -count=1 a\n", "a failed twice: exit status 1"},
		"no second try asked": {fails("a"), 2, "", "", "exit status 2"},
		"too many":            {fails("a", "b", "c"), 2, "true", "", "exit status 2"},
		"nothing was tested":  {"", 2, "true", "", "exit status 2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ran, second := filepath.Join(dir, "ran"), []string(nil)
			if c.second != "" {
				script := filepath.Join(dir, "again")
				require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >>"+ran+"\n"+c.second+"\n"), 0o700))
				second = []string{script, "-x"}
			}
			var out strings.Builder
			err := run(exec.Command("sh", "-c", fmt.Sprintf("printf %%s '%s'; exit %d", c.printed, c.code)), second, &out)
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.err)
			}
			got, _ := os.ReadFile(ran)
			require.Equal(t, c.ran, string(got))
			require.Equal(t, c.err == "" && c.ran != "", strings.Contains(out.String(), "UNSTEADY: a, b failed, then passed"))
		})
	}
	require.ErrorContains(t, run(exec.Command("/no/such/command"), nil, io.Discard), "/no/such/command")
}
