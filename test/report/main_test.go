package main

import (
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
	require.False(t, failed)
	require.Equal(t, "go build -o bin/\nok  \ta\t5.5s\n\nThe slowest tests:\n     3.0 s  a TestB\n     2.5 s  a TestA\n", out.String())

	out.Reset()
	failed, err = report(strings.NewReader(`{"Action":"output","Package":"b","Test":"TestC","Output":"c_test.go:1: no\n"}
{"Action":"fail","Package":"b","Test":"TestC","Elapsed":0.1}
{"Action":"output","Package":"b","Output":"FAIL\tb\t0.1s\n"}
{"Action":"fail","Package":"b","Elapsed":0.1}`), &out)
	require.NoError(t, err)
	require.True(t, failed)
	require.Contains(t, out.String(), "c_test.go:1: no\nFAIL\tb\t0.1s\n")
}
