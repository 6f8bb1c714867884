package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadTransfer(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		out  string
		err  error
		want transfer
		fail string
	}{
		// iperf3 3.12 -t 1 -O 0.3: an interval of a second, and nothing left out.
		"good": {out: `{"start": {"test_start": {"omit": 0, "duration": 1}}, "end": {
			"sum_sent": {"start": 0, "end": 1.000105, "seconds": 1.000105, "bytes": 1916272640, "bits_per_second": 15328571619.9799},
			"sum_received": {"start": 0, "end": 1.25, "seconds": 1.25, "bytes": 1250000000, "bits_per_second": 8000000000}}}`,
			want: transfer{gbits: 10, seconds: 1.25}},
		"error":       {out: `{"start": {}, "end": {}, "error": "unable to connect"}`, err: broken, fail: "unable to connect"},
		"killed":      {out: `{"start": {`, err: broken, fail: "broken"},
		"no JSON":     {out: "", fail: "unexpected end of JSON input"},
		"no transfer": {out: `{"end": {"sum_received": {"seconds": 1, "bytes": 0}}}`, fail: "nothing arrived"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readTransfer(c.out, c.err)
			if c.fail != "" {
				require.EqualError(t, err, c.fail)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}
